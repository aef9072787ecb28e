//! Questions of a transaction to the shards: the values of keys, and what is in ranges.
//!
//! Values come from the leader of each key's shard; a range is walked by the leader of every shard
//! that has a part of it. Each answer says up to which version it holds. What was read in one go is
//! not yet known to have been true together: whoever reads has it validated.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{ShardId, Version};

use super::event::Call;
use super::{Owner, Turn};
use crate::command::{Command, Key};
use crate::reply::Reply;
use crate::shard_map::ShardMap;
use crate::transaction::{KeyRead, RangeRead, ReadValue, SnapshotRead, TxnAnswer, TxnRequest};
use crate::wire::Outcome;

/// What was found in a range.
#[derive(Clone, Debug, Default)]
pub(super) struct Walked {
    /// Keys and values, for `RANGE`.
    pub(super) rows: Vec<(Key, Bytes)>,
    /// Keys, for `KEYS` and `FLUSHALL`.
    pub(super) keys: Vec<Key>,
    /// How many there are, for `DBSIZE`.
    pub(super) count: i64,
    /// What has to hold of it.
    pub(super) reads: Vec<RangeRead>,
}

/// A command on a range, over the shards that have parts of it.
#[derive(Clone, Debug)]
struct Walk {
    command: Command,
    parts: Vec<Option<(Reply, RangeRead)>>,
}

#[derive(Clone, Debug)]
enum Asked {
    Keys(Vec<Key>),
    Part { walk: usize, part: usize },
}

/// Questions under way.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    waiting: BTreeMap<Call, Asked>,
    values: BTreeMap<Key, ReadValue>,
    /// By the place of their command.
    walks: BTreeMap<usize, Walk>,
    valid_through: Version,
    newest: Version,
}

/// Whether an answer was of use.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    /// It answers no question of this reading.
    NotAsked,
    /// Others are awaited.
    More,
    /// It was the last.
    Complete,
    /// There is no reading any more.
    Lost(Outcome),
}

/// All that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) values: BTreeMap<Key, ReadValue>,
    /// By the place of their command.
    pub(super) walked: BTreeMap<usize, Walked>,
    /// All of it holds up to this version at least.
    pub(super) valid_through: Version,
    /// None of it is newer than this.
    pub(super) newest: Version,
}

/// Whether a command is about a range of keys, in a way that a transaction can keep.
pub(super) fn is_walk(command: &Command) -> bool {
    matches!(
        command,
        Command::Range(_) | Command::Keys { .. } | Command::DbSize | Command::FlushAll
    )
}

/// What is asked of the shards for a command on a range, when as many as `written` of the keys that
/// they know may be written over.
fn question(command: &Command, written: usize) -> Command {
    match command {
        Command::FlushAll => Command::Keys {
            pattern: Bytes::from_static(b"*"),
        },
        Command::Range(range) => {
            let mut range = range.clone();
            range.limit = range
                .limit
                .map(|limit| limit.saturating_add(written as u64));
            Command::Range(range)
        }
        other => other.clone(),
    }
}

impl Reading {
    /// Asks for the values of `keys`, and walks through ranges: commands with their places.
    /// `written` bounds how many keys the transaction has written. Everything is read as it was at the
    /// version `at`, or as it is now. `None` if a shard is not known.
    pub(super) fn ask<'a>(
        turn: &mut Turn,
        owner: Owner,
        keys: Vec<Key>,
        walks: impl IntoIterator<Item = (usize, &'a Command)>,
        written: usize,
        at: Option<Version>,
    ) -> Option<Reading> {
        let mut waiting = BTreeMap::new();
        for keys in by_shard(turn.map, keys, |key| key)?.into_values() {
            let request = match at {
                None => TxnRequest::Read { keys: keys.clone() },
                Some(at) => {
                    let read = SnapshotRead::Keys(keys.clone());
                    TxnRequest::Snapshot { at, read }
                }
            };
            let call = turn.call(owner, &keys[0], request)?;
            waiting.insert(call, Asked::Keys(keys));
        }
        let mut under_way = BTreeMap::new();
        for (walk, command) in walks {
            let question = question(command, written);
            let split = turn.map.split(question.clone()).ok()?;
            let count = split.parts.len();
            for (part, piece) in split.parts.into_iter().enumerate() {
                let command = piece.command;
                let request = match at {
                    None => TxnRequest::Walk { command },
                    Some(at) => {
                        let read = SnapshotRead::Walk(command);
                        TxnRequest::Snapshot { at, read }
                    }
                };
                let call = turn.call_shard(owner, (piece.shard, piece.epoch), request);
                waiting.insert(call, Asked::Part { walk, part });
            }
            let parts = (0..count).map(|_| None).collect();
            let command = question;
            under_way.insert(walk, Walk { command, parts });
        }
        Some(Reading {
            waiting,
            values: BTreeMap::new(),
            walks: under_way,
            valid_through: Version::MAX,
            newest: Version::ZERO,
        })
    }

    /// Takes in the answer to a call.
    pub(super) fn answered(&mut self, call: Call, outcome: Outcome) -> Taken {
        let Some(asked) = self.waiting.remove(&call) else {
            return Taken::NotAsked;
        };
        match (asked, outcome) {
            (
                Asked::Keys(keys),
                Outcome::Txn(TxnAnswer::Values {
                    values,
                    valid_through,
                }),
            ) if values.len() == keys.len() => {
                self.valid_through = self.valid_through.min(valid_through);
                for (key, value) in keys.into_iter().zip(values) {
                    self.newest = self.newest.max(value.version);
                    self.values.insert(key, value);
                }
            }
            (Asked::Part { walk, part }, Outcome::Txn(TxnAnswer::Walked { reply, read })) => {
                self.valid_through = self.valid_through.min(read.at);
                // It may show less because of a deletion as new as this.
                self.newest = self.newest.max(read.at);
                if let Some(walk) = self.walks.get_mut(&walk) {
                    walk.parts[part] = Some((reply, read));
                }
            }
            (_, outcome) => return Taken::Lost(outcome),
        }
        match self.waiting.is_empty() {
            true => Taken::Complete,
            false => Taken::More,
        }
    }

    /// What was read, when all of it is there.
    pub(super) fn finish(self) -> Read {
        let walks = self.walks.into_iter();
        Read {
            values: self.values,
            walked: walks.map(|(at, walk)| (at, walk.finish())).collect(),
            valid_through: self.valid_through,
            newest: self.newest,
        }
    }
}

impl Walk {
    fn finish(self) -> Walked {
        let mut walked = Walked::default();
        let limit = match &self.command {
            Command::Range(range) => range.limit.unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        for (reply, read) in self.parts.into_iter().flatten() {
            // What lies behind the limit was not needed, and may change.
            if walked.rows.len() as u64 >= limit {
                break;
            }
            walked.reads.push(read);
            match (&self.command, reply) {
                (_, Reply::Integer(count)) => walked.count += count,
                (Command::Range(_), Reply::Array(words)) => {
                    let mut words = words.into_iter();
                    while let (Some(Reply::Bulk(key)), Some(Reply::Bulk(data))) =
                        (words.next(), words.next())
                    {
                        walked.rows.push((key, data));
                    }
                }
                (_, Reply::Array(words)) => {
                    let key = |word| match word {
                        Reply::Bulk(key) => Some(key),
                        _ => None,
                    };
                    walked.keys.extend(words.into_iter().filter_map(key));
                }
                (_, _) => {}
            }
        }
        walked
    }
}

/// Things with keys, by the shards that have them. `None` if a shard is not known.
pub(super) fn by_shard<T>(
    map: &ShardMap,
    things: Vec<T>,
    key_of: impl Fn(&T) -> &Key,
) -> Option<BTreeMap<ShardId, Vec<T>>> {
    let mut by_shard: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
    for thing in things {
        let shard = map.locate(key_of(&thing))?.shard;
        by_shard.entry(shard).or_default().push(thing);
    }
    Some(by_shard)
}

/// Asks whether what was read still is as it was, each shard once. `None` if a shard is not known, or
/// a range is not one shard's any more.
pub(super) fn validate(
    turn: &mut Turn,
    owner: Owner,
    reads: Vec<KeyRead>,
    ranges: Vec<RangeRead>,
) -> Option<Vec<Call>> {
    let mut asked: BTreeMap<ShardId, (Vec<KeyRead>, Vec<RangeRead>)> = BTreeMap::new();
    for (shard, reads) in by_shard(turn.map, reads, |read| &read.key)? {
        asked.entry(shard).or_default().0 = reads;
    }
    for read in ranges {
        let shard = turn.map.shard_of_range(&read.range)?.shard;
        asked.entry(shard).or_default().1.push(read);
    }
    let mut calls = Vec::new();
    for (shard, (reads, ranges)) in asked {
        let epoch = turn.map.descriptor(shard)?.epoch;
        let request = TxnRequest::Validate {
            reads,
            ranges,
            writer: None,
        };
        calls.push(turn.call_shard(owner, (shard, epoch), request));
    }
    Some(calls)
}
