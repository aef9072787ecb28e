//! The log of one replica, as runs of entries.
//!
//! A run is what one record of one batch holds of one group in one term, 40 bytes for any number of
//! entries: most groups of a node are long and quiet, and their logs must cost next to nothing. The
//! entries themselves are in the node's cache, or on disk.

use std::collections::VecDeque;

use crate::{BatchSeq, ConfState, Damage, Entry, EntryId, HardState, ReplicaId};

/// Consecutive entries of one group, in one term, that one record of one batch holds.
///
/// Invariant: `count > 0`; `skip` entries of the record come before `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub first: u64,
    pub count: u32,
    pub term: u64,
    pub batch: BatchSeq,
    /// Which record of the batch.
    pub ordinal: u32,
}

impl Run {
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }
}

/// The log of one replica.
///
/// Invariants: runs are consecutive from `start.index + 1`, their terms never go back; `cached` holds
/// the entries of a suffix of the runs; `batch` never goes back along the runs, repaired and
/// rewritten ones excepted.
#[derive(Debug)]
pub(crate) struct GroupLog {
    pub replica: ReplicaId,
    /// The entry before the first one.
    pub start: EntryId,
    pub runs: VecDeque<Run>,
    /// A suffix of the log.
    pub cached: VecDeque<Entry>,
    /// What a job brought back from disk; kept until it was read once.
    pub fetched: Vec<Entry>,
    pub hard_state: HardState,
    /// The batch that has the newest hard state.
    pub hard_state_batch: BatchSeq,
    /// The batch that has the newest marker, if its state is not in a checkpoint yet.
    pub marker_batch: Option<BatchSeq>,
    pub damage: Damage,
    /// The batch that created the replica.
    pub created: BatchSeq,
    /// What the newest marker said: the state that the log begins with, if no checkpoint knows better.
    pub marker: EntryId,
    pub conf: ConfState,
}

impl GroupLog {
    pub fn new(replica: ReplicaId, start: EntryId) -> Self {
        Self {
            replica,
            start,
            runs: VecDeque::new(),
            cached: VecDeque::new(),
            fetched: Vec::new(),
            hard_state: HardState::default(),
            hard_state_batch: BatchSeq(0),
            marker_batch: None,
            damage: Damage::default(),
            created: BatchSeq(0),
            marker: start,
            conf: ConfState::default(),
        }
    }

    pub fn first_index(&self) -> u64 {
        self.start.index + 1
    }

    pub fn last_index(&self) -> u64 {
        self.runs.back().map_or(self.start.index, Run::last)
    }

    pub fn run_at(&self, index: u64) -> Option<&Run> {
        let at = self.runs.partition_point(|run| run.last() < index);
        self.runs.get(at).filter(|run| run.first <= index)
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.run_at(index).map(|run| run.term)
    }

    /// Drops all entries from `index` on. Returns the bytes that left the cache.
    pub fn truncate_from(&mut self, index: u64) -> usize {
        while let Some(run) = self.runs.back_mut() {
            if run.first >= index {
                self.runs.pop_back();
            } else if run.last() >= index {
                run.count = u32::try_from(index - run.first).unwrap_or(u32::MAX);
                break;
            } else {
                break;
            }
        }
        let mut freed = 0;
        while self
            .cached
            .back()
            .is_some_and(|entry| entry.id.index >= index)
        {
            freed += self.cached.pop_back().map_or(0, |entry| entry.data.len());
        }
        self.fetched.retain(|entry| entry.id.index < index);
        self.damage.entries.retain(|(id, _)| id.index < index);
        freed
    }

    /// Forgets the entries up to and including `id`. Returns the bytes that left the cache.
    pub fn compact_to(&mut self, id: EntryId) -> usize {
        if id.index <= self.start.index {
            return 0;
        }
        while let Some(run) = self.runs.front_mut() {
            if run.last() <= id.index {
                self.runs.pop_front();
            } else {
                if run.first <= id.index {
                    run.count = u32::try_from(run.last() - id.index).unwrap_or(u32::MAX);
                    run.first = id.index + 1;
                }
                break;
            }
        }
        let mut freed = 0;
        while self
            .cached
            .front()
            .is_some_and(|entry| entry.id.index <= id.index)
        {
            freed += self.cached.pop_front().map_or(0, |entry| entry.data.len());
        }
        self.fetched.retain(|entry| entry.id.index > id.index);
        self.damage
            .entries
            .retain(|(damaged, _)| damaged.index > id.index);
        self.start = id;
        freed
    }

    /// Empties the log at `id`. Returns the bytes that left the cache.
    pub fn reset_to(&mut self, id: EntryId) -> usize {
        let freed = self.cached.iter().map(|entry| entry.data.len()).sum();
        self.runs.clear();
        self.cached.clear();
        self.fetched.clear();
        self.damage.entries.clear();
        self.start = id;
        freed
    }

    /// Lets all cached entries go. Returns the bytes that left the cache.
    pub fn clear_cache(&mut self) -> usize {
        let freed = self.cached.iter().map(|entry| entry.data.len()).sum();
        self.cached.clear();
        freed
    }

    /// Takes a run into the log, dropping what it replaces.
    pub fn push_run(&mut self, run: Run) -> usize {
        let freed = self.truncate_from(run.first);
        assert_eq!(
            self.last_index() + 1,
            run.first,
            "entries leave a gap in the log"
        );
        match self.runs.back_mut() {
            Some(last)
                if last.batch == run.batch
                    && last.ordinal == run.ordinal
                    && last.term == run.term =>
            {
                last.count += run.count;
            }
            Some(_) | None => self.runs.push_back(run),
        }
        freed
    }

    /// Points the entry at `index` to another record.
    pub fn replace(&mut self, index: u64, batch: BatchSeq, ordinal: u32) {
        let at = self.runs.partition_point(|run| run.last() < index);
        let Some(run) = self.runs.get(at).copied().filter(|run| run.first <= index) else {
            return;
        };
        self.runs.remove(at);
        let before = u32::try_from(index - run.first).unwrap_or(u32::MAX);
        let after = run.count - before - 1;
        let mut place = at;
        if before > 0 {
            self.runs.insert(
                place,
                Run {
                    count: before,
                    ..run
                },
            );
            place += 1;
        }
        self.runs.insert(
            place,
            Run {
                first: index,
                count: 1,
                term: run.term,
                batch,
                ordinal,
            },
        );
        if after > 0 {
            self.runs.insert(
                place + 1,
                Run {
                    first: index + 1,
                    count: after,
                    ..run
                },
            );
        }
    }
}
