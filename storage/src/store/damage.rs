//! Damaged rows: found, named, never served, and brought back.
//!
//! A record of a value file whose checksum is wrong was durable once, so it is never taken for
//! absent. Whoever meets it (a read, the scrubber, a reclaim, an export) names it here, and the loop
//! is told once. Three things can become of it:
//!
//! - another replica has exactly this version of this key: [`Store::repair`] takes it, reads see it
//!   at once, and the next checkpoint writes it to a file again;
//! - it is a row of a shard's own: these are resident, so memory has it, and it is written again;
//! - nobody can ask for it any more, because a later version took its place: [`Store::recall`] finds
//!   that out, and it is forgotten.
//!
//! Rows that nobody can name (footer and records of a file are bad) are ranges instead, and are the
//! replica's damage: it needs a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Store;
use crate::background::Repaired;
use crate::index::{IndexKey, Pointer};
use crate::reader::{OnDisk, Query};
use crate::{DamagedRow, Event, KeyRange, RowState, ShardId, Space, Version, WriteOp};

/// Bytes of repaired rows that may wait for a checkpoint; more are refused until it is done.
const REPAIRED_BYTES_MAX: usize = 16 << 20;

/// The rows that are damaged here, and those that came back and are in no file yet.
#[derive(Debug, Default)]
pub(super) struct DamagedRows {
    found: BTreeSet<(Space, Bytes, Option<Version>)>,
    repaired: BTreeMap<(Bytes, Version), WriteOp>,
    repaired_bytes: usize,
    /// Rows repaired since the store was opened.
    pub repairs: u64,
}

fn op_bytes(op: &WriteOp) -> usize {
    match op {
        WriteOp::Put(value) => value.len(),
        WriteOp::Delete => 0,
    }
}

impl DamagedRows {
    /// Whether the row was not known yet.
    fn note(&mut self, row: DamagedRow) -> bool {
        self.found.insert((row.space, row.key, row.version))
    }

    /// Damaged rows that are not repaired yet.
    pub fn count(&self) -> u64 {
        self.found.len() as u64
    }

    /// The record of a damaged row, if it came back.
    pub fn repaired(&self, key: &Bytes, version: Version) -> Option<&WriteOp> {
        if self.repaired.is_empty() {
            return None;
        }
        self.repaired.get(&(key.clone(), version))
    }

    /// What the next checkpoint is to write, sorted.
    pub fn to_write(&self) -> Vec<Repaired> {
        let rows = self.repaired.iter();
        rows.map(|((key, version), op)| (IndexKey::User { key }.encode(), *version, op.clone()))
            .collect()
    }

    /// A checkpoint has written these.
    pub fn written(&mut self, rows: &[Repaired]) {
        for (key, version, _) in rows {
            let key = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
            if let Some(op) = self.repaired.remove(&(key, *version)) {
                self.repaired_bytes -= op_bytes(&op);
            }
        }
        // Rows of shards' own were in the memtable again.
        self.found
            .retain(|(space, _, _)| matches!(space, Space::User));
    }

    /// The rows of a shard and its range are replaced, or gone.
    pub fn forget_rows(&mut self, shard: ShardId, range: &KeyRange) {
        self.found.retain(|(space, key, _)| match space {
            Space::User => !range.contains(key),
            Space::Local(owner) => *owner != shard,
        });
        let bytes = &mut self.repaired_bytes;
        self.repaired.retain(|(key, _), op| {
            let stays = !range.contains(key);
            if !stays {
                *bytes -= op_bytes(op);
            }
            stays
        });
    }
}

impl Store {
    /// Up to `rows_max` damaged user rows that a peer could bring back, after this one.
    pub fn damaged_rows(
        &self,
        after: Option<(Bytes, Version)>,
        rows_max: usize,
    ) -> Vec<(Bytes, Version)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = match after {
            Some((key, version)) => Excluded((Space::User, key, Some(version))),
            None => Unbounded,
        };
        let rows = self.damage.found.range((start, Unbounded));
        rows.filter_map(|(space, key, version)| match (space, version) {
            (Space::User, Some(version)) => Some((key.clone(), *version)),
            (Space::User, None) | (Space::Local(_), _) => None,
        })
        .take(rows_max)
        .collect()
    }

    /// Asks for exactly this version of a user row, for a peer that lost it, or to look whether it is
    /// still damaged here. [`Event::Recalled`] follows.
    pub fn recall(&mut self, key: Bytes, version: Version) {
        self.queries.push_back(Query::Recall { key, version });
    }

    pub(super) fn recalled(&mut self, key: Bytes, version: Version, row: OnDisk) {
        let in_memory = self.in_memtables(&key, version);
        let repaired = self.damage.repaired(&key, version);
        let exact = in_memory
            .or_else(|| Some((version, repaired?.clone())))
            .filter(|(found, _)| *found == version);
        let state = match (exact, row) {
            (Some((_, op)), _) => RowState::Here(op),
            (None, OnDisk::Value(found, value)) if found == version => {
                RowState::Here(WriteOp::Put(value))
            }
            (None, OnDisk::Deleted(found)) if found == version => RowState::Here(WriteOp::Delete),
            (None, OnDisk::Damaged(Some(pointer))) if pointer.version == version => {
                RowState::Damaged
            }
            (None, OnDisk::Failed | OnDisk::Damaged(None)) => RowState::Unreadable,
            (
                None,
                OnDisk::Value(..)
                | OnDisk::Deleted(_)
                | OnDisk::Key(..)
                | OnDisk::Nothing
                | OnDisk::Damaged(Some(_)),
            ) => RowState::Gone,
        };
        if matches!(state, RowState::Here(_) | RowState::Gone) {
            self.damage
                .found
                .remove(&(Space::User, key.clone(), Some(version)));
        }
        self.event(Event::Recalled {
            key,
            version,
            state,
        });
    }

    /// Puts back the record of a damaged row, as another replica has it: reads see it at once, the
    /// next checkpoint writes it. Ignored unless a record of exactly this version was found damaged,
    /// and while too much waits for a checkpoint.
    pub fn repair(&mut self, key: &Bytes, version: Version, op: WriteOp) {
        self.schedule.checkpoint_wanted = true;
        let bytes = op_bytes(&op);
        if self.damage.repaired_bytes + bytes > REPAIRED_BYTES_MAX {
            return;
        }
        let row = (Space::User, key.clone(), Some(version));
        if self.damage.found.remove(&row) {
            tracing::info!(key = %key.escape_ascii(), %version, "a damaged record is repaired");
            self.damage.repaired_bytes += bytes;
            self.damage.repairs += 1;
            self.damage.repaired.insert((key.clone(), version), op);
        }
    }

    /// Tells the loop about a damaged record, once.
    pub(super) fn report_damage(&mut self, key: &[u8], pointer: &Pointer) {
        let (space, key) = match IndexKey::decode(key) {
            Some(IndexKey::User { key }) => (Space::User, Bytes::copy_from_slice(key)),
            Some(IndexKey::Local {
                shard,
                replica,
                key,
            }) if self.replica(shard) == Some(replica) => {
                (Space::Local(shard), Bytes::copy_from_slice(key))
            }
            Some(IndexKey::Local { .. }) | None => return,
        };
        if self.damage.repaired(&key, pointer.version).is_some() {
            return;
        }
        let row = DamagedRow {
            space,
            key,
            version: Some(pointer.version),
        };
        if self.damage.note(row.clone()) {
            let path = crate::value::value_path(pointer.file);
            let place = format!("{path}, byte {}", pointer.offset);
            if let Space::Local(shard) = space {
                self.write_again(shard, &row.key, pointer.version);
            }
            self.event(Event::Damaged { row, place });
        }
    }

    /// A shard's own rows are resident: the damaged one is written anew from memory.
    fn write_again(&mut self, shard: ShardId, key: &Bytes, version: Version) {
        let row = self.locals.get(&shard).and_then(|rows| rows.get(key));
        if let Some((found, value)) = row
            && *found == version
        {
            let op = WriteOp::Put(value.clone());
            self.active.put_local(shard, key.clone(), version, op);
            self.schedule.checkpoint_wanted = true;
        }
    }

    /// The answer to a read that met a damaged record, or a range that may lack rows.
    pub(super) fn damaged(&mut self, key: &Bytes, pointer: Option<Pointer>) -> DamagedRow {
        if let Some(pointer) = &pointer {
            self.report_damage(&IndexKey::User { key }.encode(), pointer);
        }
        DamagedRow {
            space: Space::User,
            key: key.clone(),
            version: pointer.map(|pointer| pointer.version),
        }
    }
}
