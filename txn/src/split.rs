//! Commands over several shards: how they are split, and how the answers come together.
//!
//! [`ShardMap::split`] gives each shard its part of a command and a [`Merge`] that makes one reply
//! of theirs. Most commands have one part, and then nothing is copied.
//!
//! `SCAN` cursors are stateless numbers below 2⁶³: the shard in the upper 20 bits, and in the lower
//! 43 a place within it that only the shard's leader understands (0 is its beginning). The shard is
//! named, not counted: a split or merge elsewhere moves no cursor. A cursor of a shard that is gone
//! starts again from the first shard, which shows keys twice but skips none, as `SCAN` may.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{KeyRange, ShardId};

use crate::command::{Command, Order, Range, Scan};
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::{ShardDescriptor, ShardMap, clip};

/// Bits of a cursor that belong to the shard's leader.
pub const CURSOR_PLACE_BITS: u32 = 43;

/// The first shard number that a cursor cannot name.
const CURSOR_SHARDS_END: u64 = 1 << (63 - CURSOR_PLACE_BITS);

/// The most bytes that one answer put together from several shards may have.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A command for one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The shard.
    pub shard: ShardId,
    /// The epoch that it was routed by.
    pub epoch: u64,
    /// What to ask of it.
    pub command: Command,
}

/// A command, split over the shards that it concerns.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// At least one part, at most one for each shard.
    pub parts: Vec<Part>,
    /// How the parts' replies become one.
    pub merge: Merge,
}

/// How the replies of parts become one reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    /// The only part's reply is the reply.
    Whole,
    /// `OK`, if all are.
    AllOk,
    /// The sum of integers.
    Sum,
    /// The arrays, one after the other.
    Concatenate,
    /// `MGET`: for each key, which part answers it; each part answers its keys in order.
    Interleave {
        /// The part of each key.
        parts: Vec<usize>,
    },
    /// `RANGE`: flat arrays of keys and values, one after the other, cut at the limit.
    ConcatenateRange {
        /// The most keys.
        limit: Option<u64>,
    },
    /// Not at all: what one part does depends on the others (`MSETNX`), so the command has to be
    /// carried out by who has all the values.
    Together,
    /// `SCAN`: the leader's place becomes a cursor.
    Cursor {
        /// The shard that was asked.
        shard: ShardId,
        /// The shard to go on with behind it, if it is not the last.
        next: Option<ShardId>,
    },
}

impl ShardMap {
    /// Splits a command. Errors: a key has no known shard (`TRYAGAIN`; the map is to be refreshed),
    /// an invalid cursor, or a command that cannot be split.
    pub fn split(&self, command: Command) -> Result<Split, Reply> {
        if let Command::Transaction(_) | Command::Synod { .. } = command {
            return Err(Reply::err("this command does not concern a shard"));
        }
        match command {
            Command::MGet { keys } => self.split_mget(keys),
            Command::MSet { pairs } => {
                let parts = self.group(pairs, |pair| &pair.0, |pairs| Command::MSet { pairs })?;
                Ok(merged(parts, Merge::AllOk))
            }
            Command::MSetNx { pairs } => {
                let parts = self.group(pairs, |pair| &pair.0, |pairs| Command::MSetNx { pairs })?;
                Ok(merged(parts, Merge::Together))
            }
            Command::Del { keys } => {
                let parts = self.group(keys, |key| key, |keys| Command::Del { keys })?;
                Ok(merged(parts, Merge::Sum))
            }
            Command::Exists { keys } => {
                let parts = self.group(keys, |key| key, |keys| Command::Exists { keys })?;
                Ok(merged(parts, Merge::Sum))
            }
            Command::Touch { keys } => {
                let parts = self.group(keys, |key| key, |keys| Command::Touch { keys })?;
                Ok(merged(parts, Merge::Sum))
            }
            Command::Scan(scan) => self.split_scan(scan),
            Command::Range(range) => self.split_range(range),
            Command::DbSize => self.everywhere(Command::DbSize, Merge::Sum),
            Command::Keys { pattern } => {
                self.everywhere(Command::Keys { pattern }, Merge::Concatenate)
            }
            Command::FlushAll => self.everywhere(Command::FlushAll, Merge::AllOk),
            Command::Get { .. }
            | Command::Set(_)
            | Command::GetDel { .. }
            | Command::Advance(_)
            | Command::GetEx { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Append { .. }
            | Command::StrLen { .. }
            | Command::GetRange { .. }
            | Command::SetRange { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Ttl { .. }
            | Command::Type { .. } => {
                let mut descriptor = None;
                command.for_each_key(|key| descriptor = self.locate(key));
                let part = part_of(descriptor.ok_or_else(no_shard)?, command);
                Ok(merged(vec![part], Merge::Whole))
            }
            Command::Transaction(_) | Command::Synod { .. } => {
                Err(Reply::err("this command does not concern a shard"))
            }
        }
    }

    /// Groups items by the shard of their key, keeping the order within each.
    fn group<T>(
        &self,
        items: Vec<T>,
        key_of: impl Fn(&T) -> &Bytes,
        command_of: impl Fn(Vec<T>) -> Command,
    ) -> Result<Vec<Part>, Reply> {
        let mut groups: Vec<(&ShardDescriptor, Vec<T>)> = Vec::new();
        let mut places: BTreeMap<ShardId, usize> = BTreeMap::new();
        for item in items {
            let descriptor = self.locate(key_of(&item)).ok_or_else(no_shard)?;
            let place = *places.entry(descriptor.shard).or_insert_with(|| {
                groups.push((descriptor, Vec::new()));
                groups.len() - 1
            });
            groups[place].1.push(item);
        }
        Ok(groups
            .into_iter()
            .map(|(descriptor, items)| part_of(descriptor, command_of(items)))
            .collect())
    }

    fn split_mget(&self, keys: Vec<Bytes>) -> Result<Split, Reply> {
        // Parts are numbered in the order in which their shards first appear, as `group` does.
        let mut places: BTreeMap<ShardId, usize> = BTreeMap::new();
        let mut parts_of_keys = Vec::with_capacity(keys.len());
        for key in &keys {
            let shard = self.locate(key).ok_or_else(no_shard)?.shard;
            let new_place = places.len();
            parts_of_keys.push(*places.entry(shard).or_insert(new_place));
        }
        let parts = self.group(keys, |key| key, |keys| Command::MGet { keys })?;
        Ok(merged(
            parts,
            Merge::Interleave {
                parts: parts_of_keys,
            },
        ))
    }

    fn split_range(&self, range: Range) -> Result<Split, Reply> {
        let asked = KeyRange {
            start: range.start.to_vec(),
            end: range.end.as_ref().map(|end| end.to_vec()),
        };
        if asked.is_empty() {
            // Still a question that some leader must answer: an empty range of one shard.
            let descriptor = self.locate(&range.start).ok_or_else(no_shard)?;
            return Ok(merged(
                vec![part_of(descriptor, Command::Range(range))],
                Merge::Whole,
            ));
        }
        self.check_complete()?;
        let mut parts: Vec<Part> = self
            .overlapping(&asked)
            .map(|descriptor| {
                let (start, end) = clip(&range.start, range.end.as_ref(), &descriptor.range);
                part_of(
                    descriptor,
                    Command::Range(Range {
                        start,
                        end,
                        ..range.clone()
                    }),
                )
            })
            .collect();
        match range.order {
            Order::Forward => {}
            Order::Reverse => parts.reverse(),
        }
        Ok(merged(
            parts,
            Merge::ConcatenateRange { limit: range.limit },
        ))
    }

    fn split_scan(&self, scan: Scan) -> Result<Split, Reply> {
        let first = self.descriptors().next().ok_or_else(no_shard)?;
        let shard = ShardId(scan.cursor >> CURSOR_PLACE_BITS);
        let place = scan.cursor & ((1 << CURSOR_PLACE_BITS) - 1);
        if shard.0 >= CURSOR_SHARDS_END {
            return Err(Reply::err("invalid cursor"));
        }
        let (descriptor, place) = match self.descriptor(shard) {
            Some(descriptor) => (descriptor, place),
            None => (first, 0),
        };
        let next = self.next_after(descriptor).map(|next| next.shard);
        let part = part_of(
            descriptor,
            Command::Scan(Scan {
                cursor: place,
                ..scan
            }),
        );
        let merge = Merge::Cursor {
            shard: descriptor.shard,
            next,
        };
        Ok(Split {
            parts: vec![part],
            merge,
        })
    }

    fn everywhere(&self, command: Command, merge: Merge) -> Result<Split, Reply> {
        self.check_complete()?;
        let parts = self
            .descriptors()
            .map(|descriptor| part_of(descriptor, command.clone()))
            .collect();
        Ok(merged(parts, merge))
    }

    fn check_complete(&self) -> Result<(), Reply> {
        match self.is_complete() {
            true => Ok(()),
            false => Err(no_shard()),
        }
    }
}

fn part_of(descriptor: &ShardDescriptor, command: Command) -> Part {
    Part {
        shard: descriptor.shard,
        epoch: descriptor.epoch,
        command,
    }
}

fn merged(parts: Vec<Part>, merge: Merge) -> Split {
    let merge = if parts.len() == 1 {
        Merge::Whole
    } else {
        merge
    };
    Split { parts, merge }
}

fn no_shard() -> Reply {
    Reply::error(
        ErrorCode::TryAgain,
        "the shard of this key is not known yet",
    )
}

impl Merge {
    /// Makes one reply of the parts' replies, which stand in the order of the parts. If a part
    /// failed, the worst error is the reply: an unknown outcome before any other.
    pub fn finish(self, mut replies: Vec<Reply>) -> Reply {
        let is_unknown = |reply: &Reply| {
            matches!(
                reply,
                Reply::Error {
                    code: ErrorCode::Unknown,
                    ..
                }
            )
        };
        let worst = replies
            .iter()
            .position(is_unknown)
            .or_else(|| replies.iter().position(Reply::is_error));
        if let Some(worst) = worst {
            return replies.swap_remove(worst);
        }
        match self {
            Merge::Whole => replies.pop().unwrap_or_else(mismatch),
            Merge::AllOk => Reply::Ok,
            Merge::Sum => replies
                .iter()
                .try_fold(0i64, |sum, reply| match reply {
                    Reply::Integer(part) => sum.checked_add(*part),
                    _ => None,
                })
                .map_or_else(mismatch, Reply::Integer),
            Merge::Concatenate => concatenate(replies, None),
            Merge::ConcatenateRange { limit } => {
                let words = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
                concatenate(replies, words.map(|limit| limit.saturating_mul(2)))
            }
            Merge::Interleave { parts } => interleave(replies, &parts),
            Merge::Together => mismatch(),
            Merge::Cursor { shard, next } => cursor(replies.pop(), shard, next),
        }
    }
}

fn concatenate(replies: Vec<Reply>, items_max: Option<usize>) -> Reply {
    let mut all = Vec::new();
    let mut size_bytes = 0;
    for reply in replies {
        let Reply::Array(items) = reply else {
            return mismatch();
        };
        let left = items_max.map_or(usize::MAX, |max| max - all.len());
        for item in items.into_iter().take(left) {
            size_bytes += item.size_bytes();
            if size_bytes > REPLY_BYTES_MAX {
                return Reply::error(
                    ErrorCode::TooLarge,
                    "the answer exceeds 64 MiB; use LIMIT, or SCAN",
                );
            }
            all.push(item);
        }
    }
    Reply::Array(all)
}

fn interleave(replies: Vec<Reply>, parts: &[usize]) -> Reply {
    let mut columns = Vec::with_capacity(replies.len());
    for reply in replies {
        let Reply::Array(items) = reply else {
            return mismatch();
        };
        columns.push(items.into_iter());
    }
    let next = |part: &usize| columns.get_mut(*part).and_then(Iterator::next);
    match parts.iter().map(next).collect::<Option<Vec<Reply>>>() {
        Some(items) => Reply::Array(items),
        None => mismatch(),
    }
}

fn cursor(reply: Option<Reply>, shard: ShardId, next: Option<ShardId>) -> Reply {
    let Some(Reply::Array(mut items)) = reply else {
        return mismatch();
    };
    let Some(Reply::Integer(place)) = items.first() else {
        return mismatch();
    };
    let cursor = match (u64::try_from(*place).unwrap_or(0), next) {
        (0, None) => 0,
        (0, Some(next)) => next.0 << CURSOR_PLACE_BITS,
        (place, _) => shard.0 << CURSOR_PLACE_BITS | place,
    };
    items[0] = Reply::bulk(cursor.to_string());
    Reply::Array(items)
}

/// A part answered something that its command never answers: a defect, but no reason to stop.
fn mismatch() -> Reply {
    Reply::error(
        ErrorCode::Unknown,
        "a shard's answer did not fit the command",
    )
}
