//! A script, cut over shards.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::ShardId;

use super::event::Script;
use crate::command::{Class, Command, Key};
use crate::reply::Reply;
use crate::shard_map::ShardMap;
use crate::split::Merge;
use crate::transaction::{Intent, KeyRead, KeyWrite};

/// What a transaction wants of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// A key of the shard: what the part is routed by.
    pub(super) key: Bytes,
    pub(super) intent: Intent,
    /// For each of its commands: which one of the script's it is a piece of, and which piece.
    commands: Vec<(usize, usize)>,
    /// Whether it may write.
    pub(super) writes: bool,
}

/// A transaction over shards.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// One part for each shard.
    pub(super) parts: Vec<Part>,
    /// How the replies of each command come together.
    merges: Vec<Merge>,
}

impl Plan {
    /// Cuts a script. An error is the answer to it: a key's shard is not known, or a command cannot
    /// be part of a transaction.
    pub(super) fn of_script(map: &ShardMap, script: &Script) -> Result<Plan, Reply> {
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        let mut merges = Vec::new();
        for read in &script.watched {
            part_of(map, &mut parts, &read.key)?
                .intent
                .reads
                .push(read.clone());
        }
        for (index, command) in script.commands.iter().enumerate() {
            let split = map.split(command.clone())?;
            for (place, piece) in split.parts.into_iter().enumerate() {
                let mut key = None;
                piece
                    .command
                    .for_each_key(|named| key = Some(named.clone()));
                let Some(key) = key else {
                    return Err(Reply::err(
                        "this command cannot be part of a transaction yet",
                    ));
                };
                let part = part_of(map, &mut parts, &key)?;
                part.writes |= piece.command.class() == Class::Write;
                part.intent.commands.push(piece.command);
                part.commands.push((index, place));
            }
            merges.push(split.merge);
        }
        Ok(Plan {
            parts: parts.into_values().collect(),
            merges,
        })
    }

    /// Cuts the reads and writes of a transaction whose commands were carried out already.
    pub(super) fn of_effects(
        map: &ShardMap,
        reads: &[KeyRead],
        writes: &[KeyWrite],
    ) -> Result<Plan, Reply> {
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        for read in reads {
            part_of(map, &mut parts, &read.key)?
                .intent
                .reads
                .push(read.clone());
        }
        for write in writes {
            let part = part_of(map, &mut parts, &write.key)?;
            part.writes = true;
            part.intent.writes.push(write.clone());
        }
        Ok(Plan {
            parts: parts.into_values().collect(),
            merges: Vec::new(),
        })
    }

    /// Whether any part may write.
    pub(super) fn writes(&self) -> bool {
        self.parts.iter().any(|part| part.writes)
    }

    /// Puts the deciding part first: one that writes, if any does.
    pub(super) fn put_anchor_first(&mut self) {
        if let Some(anchor) = self.parts.iter().position(|part| part.writes) {
            self.parts.swap(0, anchor);
        }
    }

    /// The replies of the script's commands, from those of the parts.
    pub(super) fn merge(&self, replies: Vec<Vec<Reply>>) -> Vec<Reply> {
        let mut pieces: Vec<Vec<(usize, Reply)>> = vec![Vec::new(); self.merges.len()];
        for (part, replies) in self.parts.iter().zip(replies) {
            for ((index, place), reply) in part.commands.iter().zip(replies) {
                pieces[*index].push((*place, reply));
            }
        }
        let merge = |(merge, mut pieces): (&Merge, Vec<(usize, Reply)>)| {
            pieces.sort_by_key(|(place, _)| *place);
            merge
                .clone()
                .finish(pieces.into_iter().map(|(_, reply)| reply).collect())
        };
        self.merges.iter().zip(pieces).map(merge).collect()
    }
}

fn part_of<'a>(
    map: &ShardMap,
    parts: &'a mut BTreeMap<ShardId, Part>,
    key: &Key,
) -> Result<&'a mut Part, Reply> {
    let Some(descriptor) = map.locate(key) else {
        let message = "the shard of this key is not known yet";
        return Err(Reply::error(crate::reply::ErrorCode::TryAgain, message));
    };
    let fresh = || Part {
        key: key.clone(),
        ..Part::default()
    };
    Ok(parts.entry(descriptor.shard).or_insert_with(fresh))
}

/// The keys that a script reads, each once.
pub(super) fn keys_of(commands: &[Command]) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for command in commands {
        command.for_each_key(|key| keys.push(key.clone()));
    }
    keys.sort();
    keys.dedup();
    keys
}
