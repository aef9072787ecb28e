//! What every group's log looks like right now, the unsynced suffix included.
//!
//! Raft asks for terms and entries at any moment, also for those that the log thread has not written
//! yet, so the view is updated when a batch is *submitted*. It keeps runs of entries, not entries:
//! a run is what one batch holds of one group in one term, 40 bytes for any number of entries. The
//! entries themselves are in one cache for the whole node; what fell out of it is read from the
//! segments by a job.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::batch::Record;
use super::frame::{DecodedRecord, RecordHead};
use crate::manifest::State;
use crate::{
    BatchSeq, ConfState, Damage, Entry, EntryId, HardState, ReplicaId, ShardId, entry_checksum,
};

/// Why the log cannot answer right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The entries are behind the checkpoint and their segments are gone: send a snapshot.
    #[error("entries up to index {first_index} excluded are compacted")]
    Compacted {
        /// The first index that the log still has.
        first_index: u64,
    },
    /// The entries are beyond the end of the log.
    #[error("the log ends at index {last_index}")]
    Unavailable {
        /// The last index of the log.
        last_index: u64,
    },
    /// The entries are on disk only. Ask [`Store::fetch`](crate::Store::fetch) for them and try again
    /// when [`Event::Fetched`](crate::Event::Fetched) says so.
    #[error("the entries have to be read from disk")]
    Temporarily,
    /// The entry was damaged on disk. Neither vote nor acknowledge nor serve with this replica until
    /// a peer has brought back exactly this entry. Never send a snapshot instead, never truncate.
    #[error("entry {id} is damaged")]
    Damaged {
        /// Which entry.
        id: EntryId,
        /// Its [`entry_checksum`](crate::entry_checksum).
        checksum: u32,
    },
    /// This node has no replica of the shard.
    #[error("no replica of this shard")]
    NoReplica,
}

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
    /// During recovery: an entry was met that does not follow, so the ones before it must come as
    /// rewritten copies, which cover all that was live then. Its index.
    pub gap: Option<u64>,
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
            gap: None,
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
        self.gap = None;
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
}

/// Everything the view knows.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub groups: BTreeMap<ShardId, GroupLog>,
    cached_bytes: usize,
    cached_bytes_max: usize,
    /// Cached entries in the order they came, oldest first; stale items are skipped.
    order: VecDeque<(ShardId, u64)>,
    /// The last batch that is durable: entries of later ones are only here.
    pub synced: BatchSeq,
}

impl Groups {
    pub fn set_cache_bytes_max(&mut self, bytes_max: usize) {
        self.cached_bytes_max = bytes_max;
    }

    /// Bytes that left the cache by way of a group.
    pub fn forget_cached(&mut self, bytes: usize) {
        self.cached_bytes -= bytes;
    }

    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Takes in a record of the batch `seq`, as its `ordinal`th.
    pub fn take(&mut self, seq: BatchSeq, ordinal: u32, record: &Record) {
        match record {
            Record::Entries {
                shard,
                replica,
                entries,
            } => {
                let Some(group) = self.groups.get_mut(shard).filter(|g| g.replica == *replica)
                else {
                    return;
                };
                let mut freed = 0;
                for entry in entries {
                    freed += group.push_run(Run {
                        first: entry.id.index,
                        count: 1,
                        term: entry.id.term,
                        batch: seq,
                        ordinal,
                    });
                    self.cached_bytes += entry.data.len();
                    group.cached.push_back(entry.clone());
                    self.order.push_back((*shard, entry.id.index));
                }
                self.cached_bytes -= freed;
            }
            Record::HardState {
                shard,
                replica,
                state,
            } => {
                if let Some(group) = self.groups.get_mut(shard).filter(|g| g.replica == *replica) {
                    group.hard_state = *state;
                    group.hard_state_batch = seq;
                }
            }
            Record::Marker {
                shard,
                replica,
                id,
                conf,
            } => {
                let group = self
                    .groups
                    .entry(*shard)
                    .or_insert_with(|| GroupLog::new(*replica, *id));
                assert_eq!(
                    group.replica, *replica,
                    "two replicas of shard {shard} on one node"
                );
                self.cached_bytes -= group.reset_to(*id);
                group.marker_batch = Some(seq);
                group.marker = *id;
                group.conf.clone_from(conf);
            }
            Record::Repair {
                shard,
                replica,
                entry,
            } => {
                let Some(group) = self.groups.get_mut(shard).filter(|g| g.replica == *replica)
                else {
                    return;
                };
                let proof = (entry.id, entry_checksum(entry));
                if group.damage.entries.contains(&proof) {
                    group.damage.entries.retain(|damaged| *damaged != proof);
                    group.replace(entry.id.index, seq, ordinal);
                }
            }
            Record::Rewritten {
                shard,
                replica,
                entries,
                from,
            } => {
                let heads = entries.iter().map(|entry| entry.id.index).zip(from);
                self.rewrite(*shard, *replica, seq, ordinal, heads);
            }
        }
        self.evict();
    }

    /// Points entries to their rewritten copies, where the live copy is still the one that was copied.
    fn rewrite<'a>(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        seq: BatchSeq,
        ordinal: u32,
        entries: impl Iterator<Item = (u64, &'a BatchSeq)>,
    ) {
        let Some(group) = self.groups.get_mut(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        for (index, from) in entries {
            if group.run_at(index).is_some_and(|run| run.batch == *from) {
                group.damage.entries.retain(|(id, _)| id.index != index);
                group.replace(index, seq, ordinal);
            }
        }
    }

    /// Takes in a record that recovery has read. In contrast to [`Groups::take`], nothing here is
    /// trusted: bodies may be bad, batches may be missing in between, replicas may be gone.
    pub fn replay(&mut self, seq: BatchSeq, ordinal: u32, record: DecodedRecord, state: &State) {
        let DecodedRecord { head, entries } = record;
        match head {
            RecordHead::Entries { shard, replica, .. } => {
                let known = state
                    .replicas
                    .get(&shard)
                    .filter(|known| known.replica == replica);
                if known.is_some_and(|known| seq <= known.floor) {
                    return; // An installed snapshot took the place of these.
                }
                for entry in entries {
                    self.replay_entry((shard, replica), seq, ordinal, entry);
                }
            }
            RecordHead::HardState {
                shard,
                replica,
                state,
            } => {
                self.take(
                    seq,
                    ordinal,
                    &Record::HardState {
                        shard,
                        replica,
                        state,
                    },
                );
            }
            RecordHead::Marker {
                shard,
                replica,
                id,
                conf,
            } => {
                if state.dropped.contains(&replica) {
                    return;
                }
                match self.groups.get(&shard) {
                    // Its state is already beyond: this marker is history.
                    Some(group) if group.replica == replica && id.index < group.start.index => {}
                    Some(group) if group.replica != replica => {}
                    Some(_) | None => {
                        self.take(
                            seq,
                            ordinal,
                            &Record::Marker {
                                shard,
                                replica,
                                id,
                                conf,
                            },
                        );
                    }
                }
            }
            RecordHead::Repair { shard, replica, .. } => {
                if let Some(Ok(entry)) = entries.into_iter().next() {
                    self.take(
                        seq,
                        ordinal,
                        &Record::Repair {
                            shard,
                            replica,
                            entry,
                        },
                    );
                }
            }
            RecordHead::Rewritten {
                shard,
                replica,
                first,
                from,
                ..
            } => {
                for ((index, from), entry) in (first..).zip(&from).zip(entries) {
                    let group = self.groups.get(&shard).filter(|g| g.replica == replica);
                    if group.is_some_and(|group| group.last_index() + 1 == index) {
                        // The segment of the original is gone, as it was meant to be. A copy is only
                        // ever made of what is live, so this is the live entry; and the copies of a
                        // group go on to the end that its log had then.
                        self.close_gap(shard);
                        self.replay_entry((shard, replica), seq, ordinal, entry);
                    } else if entry.is_ok() {
                        self.rewrite(shard, replica, seq, ordinal, std::iter::once((index, from)));
                    }
                }
            }
        }
        self.evict();
    }

    fn close_gap(&mut self, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            group.gap = None;
        }
    }

    /// Takes in one entry that recovery has read, or the place of one that is damaged.
    fn replay_entry(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        seq: BatchSeq,
        ordinal: u32,
        entry: Result<Entry, (EntryId, u32)>,
    ) {
        let Some(group) = self.groups.get_mut(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        let id = match &entry {
            Ok(entry) => entry.id,
            Err((id, _)) => *id,
        };
        if id.index <= group.start.index {
            return;
        }
        if id.index > group.last_index() + 1 {
            group.gap.get_or_insert(id.index);
            return;
        }
        let mut freed = group.push_run(Run {
            first: id.index,
            count: 1,
            term: id.term,
            batch: seq,
            ordinal,
        });
        match entry {
            Ok(entry) => {
                self.cached_bytes += entry.data.len();
                self.order.push_back((shard, id.index));
                group.cached.push_back(entry);
            }
            Err(damaged) => {
                // The cache is a suffix without holes: it starts anew behind this one.
                freed += group.clear_cache();
                group.damage.entries.push(damaged);
            }
        }
        self.cached_bytes -= freed;
    }

    /// Lets the oldest durable entries go until the cache is within its bound.
    pub fn evict(&mut self) {
        while self.cached_bytes > self.cached_bytes_max {
            let Some((shard, index)) = self.order.front().copied() else {
                break;
            };
            if let Some(group) = self.groups.get_mut(&shard)
                && group
                    .cached
                    .front()
                    .is_some_and(|entry| entry.id.index == index)
            {
                if group
                    .run_at(index)
                    .is_some_and(|run| run.batch > self.synced)
                {
                    break;
                }
                self.cached_bytes -= group.cached.pop_front().map_or(0, |entry| entry.data.len());
            }
            self.order.pop_front();
        }
        // Stale items (truncated, compacted) must not pile up in front of a cache that is within its bound.
        if self.order.len() > 64 + 4 * self.groups.values().map(|g| g.cached.len()).sum::<usize>() {
            let groups = &self.groups;
            self.order.retain(|(shard, index)| {
                groups.get(shard).is_some_and(|group| {
                    group
                        .cached
                        .front()
                        .is_some_and(|entry| entry.id.index <= *index)
                        && group
                            .cached
                            .back()
                            .is_some_and(|entry| entry.id.index >= *index)
                })
            });
        }
    }

    pub fn compact(&mut self, shard: ShardId, id: EntryId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            self.cached_bytes -= group.compact_to(id);
        }
    }

    pub fn remove(&mut self, shard: ShardId, replica: ReplicaId) {
        if self
            .groups
            .get(&shard)
            .is_some_and(|group| group.replica == replica)
            && let Some(mut group) = self.groups.remove(&shard)
        {
            self.cached_bytes -= group.reset_to(EntryId::ZERO);
        }
    }
}

impl GroupLog {
    /// All entries from `lo` to the end, if they are at hand; otherwise the first that is not. What
    /// was fetched stays.
    pub fn peek_from(&self, lo: u64) -> Result<Vec<Entry>, u64> {
        let mut entries: Vec<Entry> = Vec::new();
        let cached_first = self.cached.front().map_or(u64::MAX, |entry| entry.id.index);
        let fetched = self
            .fetched
            .iter()
            .filter(|entry| entry.id.index < cached_first);
        for entry in fetched
            .chain(&self.cached)
            .filter(|entry| entry.id.index >= lo)
        {
            if entry.id.index != lo + entries.len() as u64 {
                break;
            }
            entries.push(entry.clone());
        }
        let next = lo + entries.len() as u64;
        if next > self.last_index() {
            Ok(entries)
        } else {
            Err(next)
        }
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

/// A handle on the logs of all groups of the node, the unsynced suffix included. Cheap to clone.
///
/// The lock inside is only ever taken by the loop; it is there so that the handle is `Send`.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    inner: Arc<Mutex<Groups>>,
}

impl LogView {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first index whose entry the log has; one past the last if it is empty.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn first_index(&self, shard: ShardId) -> Result<u64, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(GroupLog::first_index)
            .ok_or(LogError::NoReplica)
    }

    /// The last index of the log, durable or not.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn last_index(&self, shard: ShardId) -> Result<u64, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(GroupLog::last_index)
            .ok_or(LogError::NoReplica)
    }

    /// The term of the entry at `index`, also of the one just before the first. Never from disk.
    ///
    /// # Errors
    /// `Compacted`, `Unavailable` or `NoReplica`.
    pub fn term(&self, shard: ShardId, index: u64) -> Result<u64, LogError> {
        let groups = self.lock();
        let group = groups.groups.get(&shard).ok_or(LogError::NoReplica)?;
        if index < group.start.index {
            return Err(LogError::Compacted {
                first_index: group.first_index(),
            });
        }
        group.term(index).ok_or(LogError::Unavailable {
            last_index: group.last_index(),
        })
    }

    /// The newest submitted hard state.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn hard_state(&self, shard: ShardId) -> Result<HardState, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(|group| group.hard_state)
            .ok_or(LogError::NoReplica)
    }

    /// What of the replica's log is damaged and not yet repaired.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn damage(&self, shard: ShardId) -> Result<Damage, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(|group| group.damage.clone())
            .ok_or(LogError::NoReplica)
    }

    /// Entries from `lo` on, below `hi`: at least one, at most as many as have `bytes_max` bytes.
    ///
    /// # Errors
    /// Any [`LogError`]; `Damaged` if the first of them is.
    pub fn entries(
        &self,
        shard: ShardId,
        lo: u64,
        hi: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let mut groups = self.lock();
        let group = groups.groups.get_mut(&shard).ok_or(LogError::NoReplica)?;
        if lo < group.first_index() {
            return Err(LogError::Compacted {
                first_index: group.first_index(),
            });
        }
        if lo >= hi || hi > group.last_index() + 1 {
            return Err(LogError::Unavailable {
                last_index: group.last_index(),
            });
        }
        let mut hi = hi;
        if let Some((id, checksum)) = group
            .damage
            .entries
            .iter()
            .find(|(id, _)| (lo..hi).contains(&id.index))
            .copied()
        {
            if id.index == lo {
                return Err(LogError::Damaged { id, checksum });
            }
            hi = id.index;
        }
        let cached_first = group
            .cached
            .front()
            .map_or(u64::MAX, |entry| entry.id.index);
        let source: Box<dyn Iterator<Item = &Entry>> = if lo >= cached_first {
            let skip = usize::try_from(lo - cached_first).unwrap_or(usize::MAX);
            Box::new(group.cached.iter().skip(skip))
        } else {
            let at = group.fetched.partition_point(|entry| entry.id.index < lo);
            if group
                .fetched
                .get(at)
                .is_none_or(|entry| entry.id.index != lo)
            {
                return Err(LogError::Temporarily);
            }
            let from_disk = group.fetched[at..]
                .iter()
                .filter(move |e| e.id.index < cached_first);
            Box::new(from_disk.chain(group.cached.iter()))
        };
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let mut next = lo;
        for entry in source.take_while(|entry| entry.id.index < hi) {
            bytes += entry.data.len() as u64;
            if entry.id.index != next || (!entries.is_empty() && bytes > bytes_max) {
                break;
            }
            next += 1;
            entries.push(entry.clone());
        }
        // What was fetched is read once, by the replay or by a slow follower: let it go behind the reader.
        group.fetched.retain(|entry| entry.id.index >= next);
        Ok(entries)
    }
}
