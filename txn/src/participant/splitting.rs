//! Splits: one shard becomes two, at a key, in one entry of its log.
//!
//! # What happens
//!
//! ```text
//!   left's leader          left's log             each replica of left        right's log
//!   no new prepare;        Split ───────────────► range cut, epoch + 1
//!   attempts end  ───────►                        rows for right kept ─────►  (right's first leader)
//!                                                 right's replica begins      Birth: rows, descriptor
//!                          Weaned ◄────────────────────────────────────────── serves from here on
//! ```
//!
//! The keys and values of both sides lie in the node's one key space already: no data moves. What a
//! shard knows of itself, its local rows, is copied to the new shard whole: the floor, the finished
//! attempts and tombstones, the ceiling, whatever else there is. So nothing that the shard has promised
//! for any key is forgotten by whoever has the key now.
//!
//! # No lock is cut in two
//!
//! An attempt that is prepared here, or committed and not yet known to all, is named by a key of the
//! shard; after a split two shards would have to be told. Instead the leader takes no new prepare (they
//! are answered as overload, and tried again) until those it has are over, which the coordinator or
//! recovery sees to, and splits then. If that takes too long the split is given up. This is narrower
//! than rule 28 of the transactions' rules, which lets locks follow their keys; it needs no names of
//! key spans in any record, and costs prepares a pause of one round, at a split.
//!
//! # The new shard's beginning
//!
//! Its replicas begin empty, as those of any new group, when their node applies the split. Its first
//! leader puts the first rows into *its* log ([`Record::Birth`](super::entry::Record::Birth)), and
//! serves when they are applied. So replicas that are added later, that are slow, or that lost the
//! memory of the split with a crash, learn everything from the log or a snapshot, as always; only
//! leaders need the rows, and these are kept in a row of the old shard until the new one is known to
//! have them.

use bytes::{BufMut, Bytes, BytesMut};
use synod_storage::{KeyRange, Micros, ShardId, Space, Version};

use super::entry::{self, Birth, Freeze, Split};
use super::event::{Newborn, Now};
use super::leader::Leader;
use super::merging::FROZEN_ROW;
use super::shard::{AUTHORITY_ROW, CEILING_ROW, DESCRIPTOR_ROW, Own, Role, Shard};
use super::{Effect, Telling, Turn};
use crate::shard_map::{SYSTEM_SHARD, ShardDescriptor};
use crate::state::State;
use synod_testpoint::planted;

/// How long attempts under way may hold up a split, or a freeze.
pub(super) const PATIENCE_US: u64 = 5_000_000;

/// What stands before the number of a shard in the row that keeps its first rows.
const NEWBORN_PREFIX: &[u8] = b"newborn/";
const NEWBORN_END: &[u8] = b"newborn0";

/// The local row that keeps a new shard's first rows.
pub(super) fn newborn_row(shard: ShardId) -> Bytes {
    let mut row = BytesMut::with_capacity(NEWBORN_PREFIX.len() + 8);
    row.put_slice(NEWBORN_PREFIX);
    row.put_u64(shard.0);
    row.freeze()
}

/// Reads the ceiling's row.
pub(super) fn decode_ceiling(row: &[u8]) -> Result<Version, String> {
    <[u8; 8]>::try_from(row)
        .map(|bytes| Version(u64::from_le_bytes(bytes)))
        .map_err(|_| "the shard's ceiling cannot be read".to_owned())
}

/// A split, or the freeze before a merge, that waits for attempts to end.
#[derive(Clone, Debug)]
pub(super) struct Splitting {
    pub(super) cut: Cut,
    pub(super) until: Micros,
}

/// What may not happen in the middle of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    /// The shard becomes two.
    Split(Split),
    /// The shard ends, to become a part of its left neighbour.
    Freeze(Freeze),
}

impl Leader {
    /// Whether new attempts have to wait.
    pub(super) fn holds_prepares(&self) -> bool {
        self.splitting.is_some() && !planted!(SplitsOverLocks)
    }

    /// Whether a split waits and nothing is left that it would cut.
    pub(super) fn splits_now(&self) -> bool {
        self.splitting.is_some() && (self.view.is_at_rest() || planted!(SplitsOverLocks))
    }

    /// Puts a split into the log when it may be.
    pub(super) fn flush_split(&mut self, now: Now) {
        if self.splits_now()
            && let Some(Splitting { cut, .. }) = self.splitting.take()
        {
            self.propose_alone(now, |builder| match &cut {
                Cut::Split(split) => builder.split(split),
                Cut::Freeze(freeze) => builder.freeze(freeze),
            });
        }
    }

    /// Gives up a split that has waited too long.
    pub(super) fn tick_split<S>(&mut self, turn: &Turn<S>) {
        if let Some(splitting) = &self.splitting
            && turn.now.monotonic >= splitting.until
        {
            self.splitting = None;
        }
    }
}

impl Own {
    /// Whether this is a replica of a shard that was split off and does not know how it begins.
    pub(super) fn is_unborn(&self) -> bool {
        self.descriptor.epoch == 0
    }

    /// Whether these are the two sides of this shard.
    fn fits(&self, left: &ShardDescriptor, right: &ShardDescriptor) -> Result<(), &'static str> {
        let before = &self.descriptor;
        if before.shard == SYSTEM_SHARD || left.shard != before.shard || right.shard == left.shard {
            return Err("the sides of a split are two user shards, one of them this one");
        }
        if left.epoch != before.epoch + 1 {
            return Err("a split raises the epoch by one");
        }
        let at = &right.range.start;
        let meet = left.range.end.as_ref() == Some(at);
        let whole = left.range.start == before.range.start && right.range.end == before.range.end;
        let inside = before.range.contains(at) && *at != before.range.start;
        match meet && whole && inside {
            true => Ok(()),
            false => Err("the sides of a split do not make up the shard"),
        }
    }
}

impl Shard {
    /// Begins a split, if this replica leads and the sides fit.
    pub(super) fn split<S>(
        &mut self,
        turn: &Turn<S>,
        left: ShardDescriptor,
        right: ShardDescriptor,
    ) {
        if self.own.fits(&left, &right).is_ok()
            && let Role::Leading(leader) = &mut self.role
            && leader.splitting.is_none()
        {
            leader.splitting = Some(Splitting {
                cut: Cut::Split(Split { left, right }),
                until: Micros(turn.now.monotonic.0 + PATIENCE_US),
            });
        }
    }

    pub(super) fn is_splitting(&self) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.splitting.is_some(),
            Role::Following { .. } => false,
        }
    }

    /// A split is being applied: what the new shard begins with.
    pub(super) fn newborn<S: State>(
        &self,
        turn: &mut Turn<S>,
        split: &Split,
        ceiling: Version,
    ) -> Result<Newborn, String> {
        self.own.fits(&split.left, &split.right)?;
        let transactions = &self.own.transactions;
        if !transactions.is_at_rest() && !planted!(SplitsOverLocks) {
            return Err("a split would cut the locks of an attempt".to_owned());
        }
        let mut rows = self.inheritance(turn);
        if planted!(SplitForgetsRows) {
            rows.clear();
        }
        let ceiling = Bytes::copy_from_slice(&ceiling.0.to_le_bytes());
        rows.push((Bytes::from_static(CEILING_ROW), ceiling));
        let descriptor = split.right.clone();
        Ok(Newborn {
            birth: Birth { descriptor, rows },
        })
    }

    /// The rows of the shard's own that go with its keys: all but those about this shard alone.
    pub(super) fn inheritance<S: State>(&self, turn: &mut Turn<S>) -> Vec<(Bytes, Bytes)> {
        let mut rows = Vec::new();
        let all = KeyRange::all();
        self.for_each_local(turn, Space::Local(self.id), all, |key, value| {
            let alone = [DESCRIPTOR_ROW, CEILING_ROW, AUTHORITY_ROW, FROZEN_ROW];
            if !alone.contains(&&key[..]) && !key.starts_with(NEWBORN_PREFIX) {
                rows.push((key, value));
            }
        });
        rows
    }

    /// What this replica's shard begins with, if its log does not say so yet.
    pub(super) fn born<S: State>(&mut self, turn: &mut Turn<S>, birth: Birth) {
        if self.own.described {
            return;
        }
        for (key, value) in &birth.rows {
            if key == CEILING_ROW
                && let Ok(ceiling) = decode_ceiling(value)
            {
                turn.hlc.merge(ceiling);
            }
        }
        if let Role::Leading(leader) = &mut self.role {
            leader.give_birth(birth.clone());
        }
        self.birth = Some(birth);
    }

    /// The first rows are applied.
    pub(super) fn begin_life<S: State>(&mut self, turn: &mut Turn<S>) {
        self.birth = None;
        self.load(turn);
        if let Role::Leading(leader) = &mut self.role {
            leader.reborn(&self.own);
        }
    }

    /// A shard that was split off has its rows.
    pub(super) fn wean(&mut self, child: ShardId) {
        if self.own.newborns.contains(&child)
            && let Role::Leading(leader) = &mut self.role
        {
            leader.wean(child);
        }
    }

    /// Finds the first rows that are kept for shards that were split off.
    pub(super) fn load_newborns<S: State>(&mut self, turn: &mut Turn<S>) {
        let range = KeyRange::new(NEWBORN_PREFIX, NEWBORN_END);
        let mut kept = Vec::new();
        self.for_each_local(turn, Space::Local(self.id), range, |_, value| {
            kept.push(entry::decode_birth(&value));
        });
        self.own.newborns.clear();
        for birth in kept {
            let Ok(birth) = birth else {
                let reason = "the first rows of a shard that was split off cannot be read";
                self.fatal(turn, reason.to_owned());
                continue;
            };
            self.own.newborns.insert(birth.descriptor.shard);
            turn.effects.push(Effect::Split {
                telling: Telling::Again,
                newborn: Newborn { birth },
            });
        }
    }
}
