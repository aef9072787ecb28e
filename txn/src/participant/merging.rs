//! Merges: a shard becomes a part of its left neighbour.
//!
//! # What happens
//!
//! ```text
//!   right's leader        right's log      every node                left's leader   left's log
//!   no new prepare;       Freeze ────────► frozen, epoch + 1;
//!   attempts end ───────►                  applied, and durable ───► has heard all
//!                                                                    proposes ─────► Merge: range grows,
//!                                          replica of right ends ◄────────────────── epoch + 1
//!                         Thaw ◄─── "not merged" ◄──────────────────────────────────  any other epoch
//! ```
//!
//! Both shards have their replicas on the same nodes, so the keys of both lie in the same key spaces
//! already, and no data moves. What the right shard knows of itself (floors, finished attempts,
//! tombstones, tokens, what was merged into it before) goes into the left one's log with the merge; the
//! ceiling and the floors become the larger of the two. So nothing that either has promised is forgotten.
//!
//! # Frozen
//!
//! Between the freeze and its end the right shard serves nothing, takes no entry in, and changes no
//! member. Its epoch has risen, so what its leader had evaluated before is void. The left shard may only
//! merge when *every* replica of the right one has applied the freeze, and cannot lose that in a crash:
//! after the merge nobody is left who could send the last entries to a replica that lacks them.
//!
//! # The left shard's epoch decides
//!
//! A freeze names the left shard and its epoch, and the merge has an effect in that epoch only. Whatever
//! raises the epoch first, the merge or anything else, decides; there is no other state to keep, and who
//! coordinates it may die at any point. A frozen shard that is left alone asks whichever shard has the
//! first key of its neighbour (which may by now be a part of another shard itself). If there was no merge,
//! the answer is given only when there can be none: the asked leader raises its epoch first. Only then
//! does the right shard thaw. What was merged is remembered for good, sixteen bytes each, because the
//! question may come late.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use rkyv::{Archive, Deserialize, Serialize};
use synod_storage::{KeyRange, Lookup, Micros, ShardId, Space, Version};
use synod_testpoint::planted;

use super::entry::{self, Birth, Freeze, Merge};
use super::event::{Batch, Call};
use super::leader::Leader;
use super::shard::{CEILING_ROW, Own, Role, Shard};
use super::snapshots::{CLOSED_ROW, Closed};
use super::splitting::{Cut, PATIENCE_US, Splitting, decode_ceiling};
use super::transactions::{Changes, Transactions};
use super::work::Asker;
use super::{Effect, Turn};
use crate::shard_map::{SYSTEM_SHARD, ShardDescriptor};
use crate::state::State;
use crate::transaction::{TxnAnswer, TxnRequest};
use crate::wire::{Body, Outcome};

/// The local row that says what the shard is frozen for.
pub(super) const FROZEN_ROW: &[u8] = b"frozen";

/// What stands before the number of a shard in the row that remembers its merge.
const MERGED_PREFIX: &[u8] = b"merged/";
const MERGED_END: &[u8] = b"merged0";

/// How long a shard stays frozen before its leader asks what has become of the merge.
const DOUBT_US: u64 = 3_000_000;

/// A left neighbour, as it was when its right one was frozen for it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LeftSide {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch: in no other one does the merge take place.
    pub epoch: u64,
    /// The first key of its range, which no split takes from it.
    pub start: Bytes,
}

/// What the leader of a frozen shard does to learn whether it is to thaw.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// When this leader first saw it frozen, or asked last.
    since: Option<Micros>,
    asked: Option<Call>,
}

/// The local row that remembers a merge.
fn merged_row(shard: ShardId) -> Bytes {
    let mut row = BytesMut::with_capacity(MERGED_PREFIX.len() + 8);
    row.put_slice(MERGED_PREFIX);
    row.put_u64(shard.0);
    row.freeze()
}

fn decode_merged(row: &[u8], value: &[u8]) -> Option<(ShardId, u64)> {
    let shard: [u8; 8] = row.strip_prefix(MERGED_PREFIX)?.try_into().ok()?;
    let epoch: [u8; 8] = value.try_into().ok()?;
    let shard = ShardId(u64::from_be_bytes(shard));
    Some((shard, u64::from_le_bytes(epoch)))
}

/// The epoch of a frozen shard's end: above its own.
pub(super) fn end_of(right: &ShardDescriptor) -> u64 {
    right.epoch + 1
}

/// What is answered for a shard that is not here: who has its keys, if that is.
pub(super) fn heir(shards: &BTreeMap<ShardId, Shard>, gone: ShardId) -> Outcome {
    let mut all = shards.values();
    match all.find(|shard| shard.own.merged.contains_key(&gone)) {
        Some(heir) => Outcome::StaleEpoch {
            descriptor: heir.own.descriptor.clone(),
        },
        None => Outcome::NotLeader { hint: None },
    }
}

/// Puts a merge into the left shard's log, if it is led here and the right one is frozen for it.
pub(super) fn merge<S: State>(
    shards: &mut BTreeMap<ShardId, Shard>,
    turn: &mut Turn<S>,
    left: ShardId,
    right: ShardId,
) {
    let (Some(of_left), Some(of_right)) = (shards.get(&left), shards.get(&right)) else {
        return;
    };
    let mut rows = of_right.inheritance(turn);
    let ceiling = of_right.own.ceiling;
    rows.push((
        Bytes::from_static(CEILING_ROW),
        Bytes::copy_from_slice(&ceiling.0.to_le_bytes()),
    ));
    let right = Birth {
        descriptor: of_right.own.descriptor.clone(),
        rows,
    };
    let before = &of_left.own.descriptor;
    let descriptor = ShardDescriptor {
        epoch: before.epoch + 1,
        range: KeyRange {
            start: before.range.start.clone(),
            end: right.descriptor.range.end.clone(),
        },
        ..before.clone()
    };
    let merge = Merge {
        left: descriptor,
        right,
    };
    let is_frozen = of_right.own.is_frozen_for(&of_left.own.descriptor);
    if !is_frozen || of_left.own.joins(&merge).is_err() {
        return;
    }
    if let Some(Shard { own, role, .. }) = shards.get_mut(&left)
        && own.frozen.is_none()
        && let Role::Leading(leader) = role
    {
        leader.propose_alone(turn.now, |builder| builder.merge(&merge));
    }
}

/// A merge was applied: the replica of the right shard, if it is still here, must have been frozen for
/// it. If it was not, this replica of the left one lacks writes that were acknowledged.
pub(super) fn check<S>(shards: &BTreeMap<ShardId, Shard>, turn: &mut Turn<S>, from: usize) {
    let mut broken = Vec::new();
    for effect in &turn.effects[from..] {
        let Effect::Merged { left, right, epoch } = effect else {
            continue;
        };
        let Some(of_right) = shards.get(right) else {
            continue;
        };
        let into = of_right.own.frozen.as_ref();
        let frozen = into.is_some_and(|into| into.shard == *left);
        if !frozen || end_of(&of_right.own.descriptor) != *epoch {
            broken.push(Effect::Fatal {
                shard: *left,
                reason: format!("shard {right} was merged before its replica here was frozen"),
            });
        }
    }
    turn.effects.extend(broken);
}

impl Own {
    /// Whether the shard is frozen for a neighbour as it is.
    fn is_frozen_for(&self, left: &ShardDescriptor) -> bool {
        let into = self.frozen.as_ref();
        into.is_some_and(|into| into.shard == left.shard && into.epoch == left.epoch)
    }

    /// Whether this shard, which is the left one, would become the left side of a merge.
    fn joins(&self, merge: &Merge) -> Result<(), &'static str> {
        let (before, left, right) = (&self.descriptor, &merge.left, &merge.right.descriptor);
        if before.shard == SYSTEM_SHARD || left.shard != before.shard || right.shard == left.shard {
            return Err("the sides of a merge are two user shards, one of them this one");
        }
        if left.epoch != before.epoch + 1 {
            return Err("a merge raises the epoch by one");
        }
        if left.replicas != before.replicas {
            return Err("a merge moves no replica");
        }
        let meet = before.range.end.as_ref() == Some(&right.range.start);
        let whole = left.range.start == before.range.start && left.range.end == right.range.end;
        match meet && whole {
            true => Ok(()),
            false => Err("the sides of a merge do not make up the shard"),
        }
    }
}

impl Shard {
    /// Begins to freeze, if this replica leads and nothing stands against it.
    pub(super) fn freeze<S>(&mut self, turn: &Turn<S>, into: LeftSide) {
        let before = &self.own.descriptor;
        let free = self.own.frozen.is_none() && self.own.newborns.is_empty();
        if before.shard != SYSTEM_SHARD
            && free
            && self.own.described
            && let Role::Leading(leader) = &mut self.role
            && leader.splitting.is_none()
        {
            let descriptor = ShardDescriptor {
                epoch: before.epoch + 1,
                ..before.clone()
            };
            leader.splitting = Some(Splitting {
                cut: Cut::Freeze(Freeze { descriptor, into }),
                until: Micros(turn.now.monotonic.0 + PATIENCE_US),
            });
        }
    }

    /// A freeze is being applied.
    pub(super) fn freeze_applied(&mut self, freeze: &Freeze) -> Result<(), String> {
        let (before, after) = (&self.own.descriptor, &freeze.descriptor);
        let same = after.shard == before.shard
            && after.range == before.range
            && after.replicas == before.replicas;
        if before.shard == SYSTEM_SHARD || !same || after.epoch != before.epoch + 1 {
            return Err("a freeze raises the epoch of a user shard, and nothing else".to_owned());
        }
        if !self.own.transactions.is_at_rest() && !planted!(SplitsOverLocks) {
            return Err("a freeze would stop an attempt half way".to_owned());
        }
        if !self.own.newborns.is_empty() {
            return Err("a frozen shard would keep rows for one that was split off".to_owned());
        }
        self.own.frozen = Some(freeze.into.clone());
        Ok(())
    }

    /// A merge is being applied: the rows that change, and the right side's ceiling and closed version.
    pub(super) fn merge_applied(
        &mut self,
        merge: &Merge,
    ) -> Result<(Changes, Version, Closed), String> {
        self.own.joins(merge)?;
        let Birth { descriptor, rows } = &merge.right;
        let theirs = match planted!(MergeForgetsRows) {
            true => Transactions::default(),
            false => Transactions::of_rows(rows)?,
        };
        let mut ceiling = Version::ZERO;
        let mut closed = Closed::default();
        let mut merged = vec![(descriptor.shard, end_of(descriptor))];
        for (key, value) in rows {
            if key == CEILING_ROW && !planted!(MergeForgetsRows) {
                ceiling = decode_ceiling(value)?;
            }
            if key == CLOSED_ROW {
                let of_row = Closed::decode(value);
                closed = of_row.ok_or("what the right side has closed cannot be read")?;
            }
            if key.starts_with(MERGED_PREFIX) {
                let of_row = decode_merged(key, value);
                merged.push(of_row.ok_or("a merge of before cannot be read")?);
            }
        }
        let mut changes = self.own.transactions.absorb(theirs)?;
        for (shard, epoch) in merged {
            self.own.merged.insert(shard, epoch);
            let value = Bytes::copy_from_slice(&epoch.to_le_bytes());
            changes.rows.push((merged_row(shard), Some(value)));
        }
        Ok((changes, ceiling, closed))
    }

    /// Finds what is remembered of merges.
    pub(super) fn load_merges<S: State>(&mut self, turn: &mut Turn<S>) {
        let space = Space::Local(self.id);
        self.own.frozen = None;
        if let Lookup::Found { value, .. } = turn.state.get(space, FROZEN_ROW, Version::MAX) {
            match entry::decode_side(&value) {
                Ok(into) => self.own.frozen = Some(into),
                Err(_) => self.fatal(turn, "what the shard is frozen for cannot be read".into()),
            }
        }
        let mut merged = Vec::new();
        let range = KeyRange::new(MERGED_PREFIX, MERGED_END);
        self.for_each_local(turn, space, range, |key, value| {
            merged.push(decode_merged(&key, &value));
        });
        self.own.merged.clear();
        for row in merged {
            let Some((right, epoch)) = row else {
                self.fatal(turn, "a merge of before cannot be read".into());
                continue;
            };
            self.own.merged.insert(right, epoch);
            let left = self.id;
            turn.effects.push(Effect::Merged { left, right, epoch });
        }
    }
}

impl Leader {
    /// Whether a shard that is frozen was merged: answered when it is certain for ever.
    pub(super) fn merge_status<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        right: ShardId,
        left: &LeftSide,
    ) {
        let here = own.descriptor.shard == left.shard;
        let answer = if own.merged.contains_key(&right) {
            Outcome::Txn(TxnAnswer::Merged)
        } else if !here || own.descriptor.epoch > left.epoch || planted!(ThawsTooEarly) {
            // If this is another shard, the one that was meant is a part of it, with all it knew.
            Outcome::Txn(TxnAnswer::NotMerged)
        } else {
            // Undecided: the next epoch decides. If the merge is before it in the log, this has no
            // effect, and the next question finds the merge.
            self.describe(ShardDescriptor {
                epoch: own.descriptor.epoch + 1,
                ..own.descriptor.clone()
            });
            Outcome::Overloaded
        };
        self.answer(turn, own, asker, answer, Batch(0));
    }

    /// Asks what has become of the merge that the shard is frozen for, after a while.
    pub(super) fn tick_frozen<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        let Some(into) = &own.frozen else {
            return;
        };
        let now = turn.now.monotonic;
        let since = *self.doubt.since.get_or_insert(now);
        let patience_us = match self.doubt.asked {
            Some(_) => turn.settings.ask_again_us,
            None => DOUBT_US,
        };
        if now.0.saturating_sub(since.0) < patience_us {
            return;
        }
        let call = Call(turn.new_work().0);
        self.doubt = Doubt {
            since: Some(now),
            asked: Some(call),
        };
        let body = Body::Txn(TxnRequest::MergeStatus {
            right: self.shard,
            left: into.clone(),
        });
        turn.effects.push(Effect::Call {
            shard: self.shard,
            call,
            key: into.start.clone(),
            body,
        });
    }

    /// The answer to it: whether it was to that question.
    pub(super) fn doubt_ended<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        call: Call,
        outcome: &Outcome,
    ) -> bool {
        if self.doubt.asked != Some(call) {
            return false;
        }
        if *outcome == Outcome::Txn(TxnAnswer::NotMerged) && own.frozen.is_some() {
            let descriptor = ShardDescriptor {
                epoch: own.descriptor.epoch + 1,
                ..own.descriptor.clone()
            };
            self.propose_alone(turn.now, |builder| builder.thaw(&descriptor));
        }
        true
    }
}
