//! Holds: how a transaction that has lost too often gets through.
//!
//! Optimism has no end of its own: a transaction that reads, and finds at its end that something has
//! changed, may find so for ever, however old it is, because those who change it are younger but
//! faster. So after some restarts it locks what it reads *before* it reads it. A hold is an attempt of
//! its own, with a number above all that can commit ([`AttemptId::is_hold`]): it is prepared in one shard,
//! has read locks on keys and ranges and nothing else, and is always aborted in the end. By wait-die the
//! oldest gets its holds before all others, nobody changes what it has read, and its commit finds
//! everything as it was.
//!
//! Nothing depends on a hold. What was read under one is checked at the end like any other read, so one
//! that its shard has given up (whoever took it may be gone) costs another restart, and no more. Each is its
//! own anchor: recovery asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{KeyRange, ShardId, Version};

use super::event::Call;
use super::reading::by_shard;
use super::{Owner, Turn};
use crate::command::{Command, Key};
use crate::shard_map::clip;
use crate::transaction::{AttemptId, TxnId, TxnRequest, Verdict};

/// What a transaction holds.
#[derive(Clone, Debug)]
pub(super) struct Holds {
    txn: TxnId,
    /// How many it has ever asked for.
    asked: u32,
    taken: Vec<Hold>,
}

#[derive(Clone, Debug)]
struct Hold {
    attempt: AttemptId,
    begun: Version,
    /// A key of the shard.
    key: Key,
}

impl Holds {
    pub(super) fn new(txn: TxnId) -> Holds {
        Holds {
            txn,
            asked: 0,
            taken: Vec::new(),
        }
    }

    /// Whose they are.
    pub(super) fn txn(&self) -> TxnId {
        self.txn
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Asks for locks on keys, and on the ranges that commands walk through; of each shard once. `None` if
    /// a shard is not known.
    pub(super) fn ask<'a>(
        &mut self,
        turn: &mut Turn,
        owner: Owner,
        keys: Vec<Key>,
        walks: impl IntoIterator<Item = &'a Command>,
    ) -> Option<BTreeSet<Call>> {
        let mut parts: BTreeMap<ShardId, (Vec<Key>, Vec<KeyRange>)> = BTreeMap::new();
        for (shard, keys) in by_shard(turn.map, keys, |key| key)? {
            parts.entry(shard).or_default().0 = keys;
        }
        for command in walks {
            let split = turn.map.split(command.clone()).ok()?;
            for piece in split.parts {
                let whole = &turn.map.descriptor(piece.shard)?.range;
                let range = match command {
                    Command::Range(range) => {
                        let (start, end) = clip(&range.start, range.end.as_ref(), whole);
                        KeyRange {
                            start: start.to_vec(),
                            end: end.map(|end| end.to_vec()),
                        }
                    }
                    _ => whole.clone(),
                };
                parts.entry(piece.shard).or_default().1.push(range);
            }
        }
        let mut calls = BTreeSet::new();
        for (shard, (keys, ranges)) in parts {
            let epoch = turn.map.descriptor(shard)?.epoch;
            let start = ranges.first().map(|range| Bytes::from(range.start.clone()));
            let key = keys.first().cloned().or(start)?;
            self.asked += 1;
            let attempt = AttemptId::hold(self.txn, self.asked);
            let begun = turn.tick();
            let request = TxnRequest::Hold {
                attempt,
                begun,
                keys,
                ranges,
            };
            self.taken.push(Hold {
                attempt,
                begun,
                key,
            });
            calls.insert(turn.call_shard(owner, (shard, epoch), request));
        }
        Some(calls)
    }

    /// Lets go of all. Nobody waits for the answers: what does not hear it is given up after a while.
    pub(super) fn release(&mut self, turn: &mut Turn, owner: Owner) {
        for hold in std::mem::take(&mut self.taken) {
            let request = TxnRequest::Resolve {
                attempt: hold.attempt,
                begun: hold.begun,
                verdict: Verdict::Aborted,
            };
            let _ = turn.call(owner, &hold.key, request);
        }
    }
}
