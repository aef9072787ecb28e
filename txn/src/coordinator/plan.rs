//! A script, cut over shards.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::ShardId;

use super::event::Script;
use super::reading::is_walk;
use super::view::{Effects, View};
use crate::command::{Class, Command, Key};
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::ShardMap;
use crate::split::Merge;
use crate::token;
use crate::transaction::{AttemptId, Elsewhere, Intent, ReadElsewhere};

/// Why a transaction is not cut over shards.
#[derive(Clone, Debug)]
pub(super) enum Uncut {
    /// A shard is not known at present.
    Unknown,
    /// A range that was read lies in several shards by now.
    Torn,
    /// A command depends on several shards, or on a range: it is carried out by who has read it all.
    Together,
    /// A command that cannot be part of a transaction; this is the answer.
    Refused(Reply),
}

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
    /// Cuts a script whose commands the shards can carry out.
    pub(super) fn of_script(map: &ShardMap, script: &Script) -> Result<Plan, Uncut> {
        if script.commands.iter().any(is_walk) {
            return Err(Uncut::Together);
        }
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        let mut merges = Vec::new();
        for read in &script.watched {
            let part = part_of(map, &mut parts, &read.key)?;
            part.intent.reads.push(read.clone());
        }
        for (index, command) in script.commands.iter().enumerate() {
            let split = map.split(command.clone()).map_err(|reply| match reply {
                Reply::Error {
                    code: ErrorCode::TryAgain,
                    ..
                } => Uncut::Unknown,
                reply => Uncut::Refused(reply),
            })?;
            if split.merge == Merge::Together {
                return Err(Uncut::Together);
            }
            for (place, piece) in split.parts.into_iter().enumerate() {
                let mut key = None;
                piece
                    .command
                    .for_each_key(|named| key = Some(named.clone()));
                let Some(key) = key else {
                    let message = "this command cannot be part of a transaction";
                    return Err(Uncut::Refused(Reply::err(message)));
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
    pub(super) fn of_effects(map: &ShardMap, effects: &Effects) -> Result<Plan, Uncut> {
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        for read in &effects.reads {
            let part = part_of(map, &mut parts, &read.key)?;
            part.intent.reads.push(read.clone());
        }
        for read in &effects.ranges {
            let key = Bytes::copy_from_slice(&read.range.start);
            let part = part_of(map, &mut parts, &key)?;
            if map.shard_of_range(&read.range).is_none() {
                return Err(Uncut::Torn);
            }
            part.intent.ranges.push(read.clone());
        }
        for write in &effects.writes {
            let part = part_of(map, &mut parts, &write.key)?;
            part.writes = true;
            part.intent.writes.push(write.clone());
        }
        if let Some(token) = &effects.token {
            // Its home decides: it is an effect there, whatever else there is.
            let part = part_of(map, &mut parts, &token::home(token))?;
            part.writes = true;
            part.intent.token = Some(token.clone());
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

    /// Whether it has nothing but reads, which were made already.
    pub(super) fn is_read(&self) -> bool {
        let reads = |part: &Part| part.intent.commands.is_empty() && part.intent.writes.is_empty();
        self.parts.iter().all(reads)
    }

    /// Whether one of its shards writes and others only read. The anchor is first already.
    pub(super) fn has_one_writer(&self) -> bool {
        let writes = |part: &&Part| part.writes;
        self.parts.len() > 1 && self.parts.iter().filter(writes).count() == 1
    }

    /// The keys that have to be read before a plan with one writer can be carried out: those of the
    /// commands of its other shards, and, where there are such, those that were watched.
    pub(super) fn unread(&self) -> Vec<Key> {
        let others = self.parts.iter().skip(1);
        let mut keys = Vec::new();
        for part in others {
            keys.extend(keys_of(&part.intent.commands));
        }
        if !keys.is_empty() {
            let watched = self.parts.iter().flat_map(|part| &part.intent.reads);
            keys.extend(watched.map(|read| read.key.clone()));
            keys.sort();
            keys.dedup();
        }
        keys
    }

    /// Carries out what other shards than the anchor have to read, on what was found there: then they only
    /// have to find it so. The replies, by part.
    pub(super) fn settle_reads(
        &mut self,
        view: &mut View,
        now_ms: u64,
    ) -> BTreeMap<usize, Vec<Reply>> {
        let mut replies = BTreeMap::new();
        let found = view.reads();
        for (index, part) in self.parts.iter_mut().enumerate().skip(1) {
            let mut keys = keys_of(&part.intent.commands);
            keys.extend(part.intent.reads.iter().map(|read| read.key.clone()));
            let of_part = found.iter().filter(|read| keys.contains(&read.key));
            part.intent.reads = of_part.cloned().collect();
            let commands = std::mem::take(&mut part.intent.commands).into_iter();
            let answer = |command| view.carry_out(&command, None, now_ms);
            replies.insert(index, commands.map(answer).collect());
        }
        replies
    }

    /// What the anchor has to ask the other shards, if it alone writes.
    pub(super) fn elsewhere(&self, attempt: AttemptId) -> Option<Elsewhere> {
        let parts: Vec<ReadElsewhere> = self
            .parts
            .iter()
            .skip(1)
            .map(|part| ReadElsewhere {
                key: part.key.clone(),
                reads: part.intent.reads.clone(),
                ranges: part.intent.ranges.clone(),
            })
            .collect();
        (!parts.is_empty()).then_some(Elsewhere { attempt, parts })
    }

    /// Whether its shards have no commands to answer.
    pub(super) fn is_silent(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| part.intent.commands.is_empty())
    }

    /// Puts the deciding part first: the token's home, or one that writes, if there is one.
    pub(super) fn put_anchor_first(&mut self) {
        let is_home = |part: &Part| part.intent.token.is_some();
        let mut parts = self.parts.iter();
        let anchor = parts.position(is_home);
        if let Some(anchor) = anchor.or(self.parts.iter().position(|part| part.writes)) {
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
) -> Result<&'a mut Part, Uncut> {
    let descriptor = map.locate(key).ok_or(Uncut::Unknown)?;
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
