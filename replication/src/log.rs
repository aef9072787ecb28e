//! The node's shared log, as one group's raft-rs sees it.
//!
//! raft-rs reads through [`raft::Storage`], and treats most errors as the end of the world or, when
//! it wants to send entries, as a reason to send a snapshot instead. Three things are therefore
//! different here from a plain translation:
//!
//! - **entries that are on disk only** are never waited for. For a follower's append raft-rs can be
//!   told to come back ([`LogTemporarilyUnavailable`]); what is missing is noted in [`Wanted`] and
//!   fetched by the group.
//! - **entries to apply** are not read through raft-rs at all. It hands them out with every
//!   `Ready`, cannot wait for the disk there, and would make two more copies of the list; the group
//!   reads them from the log itself, so raft-rs is told that there is nothing yet.
//! - **the guard before an election**, which looks for unapplied configuration changes, cannot wait
//!   either. When the entries are not at hand it is told that there is one: it then does not
//!   campaign, which is always safe.
//!
//! A damaged entry is an error like no other: taken for a missing one it would make the leader
//! send a snapshot, and nobody would learn of the damage. It is noted, and raft-rs is told to wait.
//!
//! [`LogTemporarilyUnavailable`]: raft::StorageError::LogTemporarilyUnavailable

use std::cell::RefCell;

use raft::eraftpb::{Entry as RaftEntry, EntryType, HardState as RaftHardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use synod_storage::{EntryId, EntryKind, LogError, LogView, ReplicaId, ShardId};
use synod_testpoint::planted;

use crate::configuration::Configuration;
use crate::eraft;

/// What raft-rs asked for and could not have at once.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The first index and the one after the last, and the call to make when they are there.
    pub(crate) entries: Option<(u64, u64, GetEntriesContext)>,
    /// A member that needs a snapshot, and the least index it has to reach.
    pub(crate) snapshot: Option<(ReplicaId, u64)>,
    /// An entry of this log that the disk lost.
    pub(crate) damaged: Option<EntryId>,
}

/// What raft-rs is doing when it reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It handles an event.
    Step,
    /// It makes a `Ready`.
    Ready,
}

#[derive(Debug)]
struct Inner {
    caller: Caller,
    wanted: Wanted,
    /// A snapshot that is ready to be offered: to whom, and of what.
    offer: Option<(ReplicaId, EntryId, Configuration)>,
}

/// One group's log, for raft-rs.
pub(crate) struct GroupLog {
    shard: ShardId,
    view: LogView,
    /// What a restart found; raft-rs reads it once.
    initial: (RaftHardState, raft::eraftpb::ConfState),
    inner: RefCell<Inner>,
}

impl GroupLog {
    pub(crate) fn new(
        shard: ShardId,
        view: LogView,
        hard_state: RaftHardState,
        configuration: &Configuration,
    ) -> GroupLog {
        GroupLog {
            shard,
            view,
            initial: (hard_state, configuration.to_raft()),
            inner: RefCell::new(Inner {
                caller: Caller::Step,
                wanted: Wanted::default(),
                offer: None,
            }),
        }
    }

    pub(crate) fn view(&self) -> &LogView {
        &self.view
    }

    /// Says what raft-rs is about to do.
    pub(crate) fn set_caller(&self, caller: Caller) {
        self.inner.borrow_mut().caller = caller;
    }

    /// Takes what raft-rs asked for in vain.
    pub(crate) fn take_wanted(&self) -> Wanted {
        std::mem::take(&mut self.inner.borrow_mut().wanted)
    }

    /// Lets raft-rs offer this snapshot to this member, once.
    pub(crate) fn offer(&self, to: ReplicaId, id: EntryId, configuration: Configuration) {
        self.inner.borrow_mut().offer = Some((to, id, configuration));
    }

    /// Withdraws what was not taken.
    pub(crate) fn withdraw_offer(&self) {
        self.inner.borrow_mut().offer = None;
    }

    /// Stands for entries that are not at hand: a change that keeps raft-rs from campaigning.
    fn unknown_change(index: u64) -> RaftEntry {
        let mut entry = RaftEntry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.index = index;
        entry
    }

    /// The kinds of the entries that an election has to look at.
    fn unapplied(&self, low: u64, high: u64) -> Vec<RaftEntry> {
        let mut found = Vec::new();
        let mut next = low;
        while next < high {
            match self.view.entries(self.shard, next, high, 1 << 20) {
                Ok(entries) => {
                    next += entries.len() as u64;
                    let changes = entries.iter().find(|e| e.kind == EntryKind::Configuration);
                    found.extend(changes.map(|e| Self::unknown_change(e.id.index)));
                }
                Err(_) => return vec![Self::unknown_change(next)],
            }
        }
        found
    }
}

impl raft::Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.initial.0.clone(),
            self.initial.1.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<RaftEntry>> {
        let mut inner = self.inner.borrow_mut();
        if !context.can_async() {
            return Ok(match inner.caller {
                Caller::Ready => Vec::new(),
                Caller::Step => self.unapplied(low, high),
            });
        }
        let bytes_max = bytes_max.into().unwrap_or(u64::MAX);
        match self.view.entries(self.shard, low, high, bytes_max) {
            Ok(entries) => Ok(entries.into_iter().map(eraft::from_stored).collect()),
            Err(LogError::Compacted { .. }) => Err(StorageError::Compacted.into()),
            Err(LogError::Temporarily) => {
                inner.wanted.entries = Some((low, high, context));
                Err(StorageError::LogTemporarilyUnavailable.into())
            }
            Err(LogError::Damaged { .. }) if planted!(SnapshotsForDamage) => {
                Err(StorageError::Compacted.into())
            }
            Err(LogError::Damaged { id, checksum: _ }) => {
                inner.wanted.damaged = Some(id);
                Err(StorageError::LogTemporarilyUnavailable.into())
            }
            // Only a bug of ours asks beyond the log or for a dropped replica; waiting for ever is
            // the mildest answer that cannot corrupt anything.
            Err(LogError::Unavailable { .. } | LogError::NoReplica) => {
                tracing::error!(shard = %self.shard, low, high, "raft asked beyond the log");
                Err(StorageError::LogTemporarilyUnavailable.into())
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.view
            .term(self.shard, index)
            .map_err(|error| match error {
                LogError::Compacted { .. } => StorageError::Compacted.into(),
                LogError::Unavailable { .. }
                | LogError::Temporarily
                | LogError::Damaged { .. }
                | LogError::NoReplica => StorageError::Unavailable.into(),
            })
    }

    fn first_index(&self) -> raft::Result<u64> {
        self.view
            .first_index(self.shard)
            .map_err(|_| StorageError::Unavailable.into())
    }

    fn last_index(&self) -> raft::Result<u64> {
        self.view
            .last_index(self.shard)
            .map_err(|_| StorageError::Unavailable.into())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mut inner = self.inner.borrow_mut();
        let to = ReplicaId(to);
        let ready = inner
            .offer
            .as_ref()
            .is_some_and(|(member, id, _)| *member == to && id.index >= request_index);
        match inner.offer.take() {
            Some((_, id, configuration)) if ready => {
                Ok(eraft::snapshot_of(id, configuration.to_raft()))
            }
            other => {
                inner.offer = other;
                inner.wanted.snapshot = Some((to, request_index));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
