//! Which piece of background work comes next.
//!
//! One at a time, in this order: what frees memory (a checkpoint), what the log needs (spares, less of
//! it), what somebody waits for (snapshots, drops), what keeps the disk in order (reclaim), and when
//! nothing else is to be done, the scrubber.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use crate::background::{BackgroundWork, Checkpoint, Desk, Task, Trouble};
use crate::index::IndexKey;
use crate::manifest::ReplicaState;
use crate::memtable::Memtable;
use crate::{DamagedRow, EntryId, Event, Fatal, KeyRange, Micros, Space, Version};

/// What is to be done in the background, and why not now.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// A checkpoint was asked for.
    pub checkpoint_wanted: bool,
    /// Memtables to be freed.
    pub discards: Vec<Arc<Memtable>>,
    /// The disk was full: nothing that needs space before this moment.
    full_until: Option<Micros>,
    /// Whether a stalled batch may be tried again.
    pub retry_log: bool,
    pub available_bytes: u64,
    /// Damaged rows that wait for a peer.
    damage: BTreeSet<(Space, Bytes, Option<Version>)>,
    /// Reports of damage that the loop has not seen.
    pub lost_ranges: Vec<KeyRange>,
    pub index_broken: bool,
}

impl Schedule {
    pub fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    pub fn note_damage(&mut self, row: DamagedRow) {
        self.damage.insert((row.space, row.key, row.version));
    }

    pub fn damaged_rows(&self) -> usize {
        self.damage.len()
    }

    /// Whether this very record was damaged; it no longer is.
    pub fn forget_damage(&mut self, space: Space, key: &Bytes, version: Version) -> bool {
        self.damage.remove(&(space, key.clone(), Some(version)))
    }
}

impl Store {
    /// Starts a checkpoint as soon as none is running. [`Event::Checkpointed`] follows.
    pub fn checkpoint(&mut self) {
        self.schedule.checkpoint_wanted = true;
    }

    /// Takes the desk, and what it knows.
    pub(super) fn begin_background(&mut self, desk: Desk) {
        for lost in &desk.manifest.state.lost {
            let user = |key: &[u8]| match IndexKey::decode(key) {
                Some(IndexKey::User { key }) => key.to_vec(),
                Some(IndexKey::Local { .. }) | None => Vec::new(),
            };
            let range = KeyRange { start: user(&lost.start), end: lost.end.as_deref().map(user) };
            if !range.is_empty() {
                self.schedule.lost_ranges.push(range);
            }
        }
        self.schedule.available_bytes = self.disk.available_bytes().unwrap_or(u64::MAX);
        self.desk = Some(desk);
    }

    pub(super) fn schedule_timed(&mut self) {
        if self.schedule.full_until.is_some_and(|until| until <= self.now) {
            self.schedule.full_until = None;
            self.schedule.retry_log = true;
        }
        let waited_us = self.now.0.saturating_sub(self.active_since.0);
        if !self.active.is_empty() && waited_us >= self.options.checkpoint_after_ms * 1_000 {
            self.schedule.checkpoint_wanted = true;
        }
    }

    /// The next piece of work, if none is under way.
    pub(super) fn next_background(&mut self) -> Option<Box<BackgroundWork>> {
        self.desk.as_ref()?;
        let task = self.next_task()?;
        let desk = self.desk.take()?;
        Some(Box::new(BackgroundWork { desk, task, trouble: None }))
    }

    fn next_task(&mut self) -> Option<Task> {
        if let Some(memtable) = self.schedule.discards.pop() {
            return Some(Task::Discard(Some(memtable)));
        }
        if self.schedule.is_full() {
            return None;
        }
        self.next_checkpoint()
    }

    fn next_checkpoint(&mut self) -> Option<Task> {
        if self.frozen.is_none() {
            let full = self.active.bytes() >= self.options.memtable_bytes;
            if !full && !self.schedule.checkpoint_wanted {
                return None;
            }
            self.schedule.checkpoint_wanted = false;
            self.frozen = Some(Arc::new(std::mem::take(&mut self.active)));
        }
        let frozen = Arc::clone(self.frozen.as_ref()?);
        let replicas = self.replicas.iter().map(|(shard, replica)| {
            let start = self.view.lock().groups.get(shard).map_or(EntryId::ZERO, |g| g.start);
            let state = ReplicaState {
                replica: replica.id,
                applied: replica.applied,
                conf: replica.conf.clone(),
                start,
                created: replica.created,
                ..ReplicaState::default()
            };
            (*shard, state)
        });
        let replicas = replicas.collect();
        let repaired = self.take_repaired();
        let thresholds = self.thresholds.clone();
        Some(Task::Checkpoint(Checkpoint::new(frozen, replicas, thresholds, repaired, self.synced)))
    }

    pub(super) fn background_done(&mut self, work: BackgroundWork) -> Result<(), Fatal> {
        let BackgroundWork { desk, task, trouble } = work;
        self.stats.value_files = desk.manifest.state.files.len() as u64;
        self.stats.value_bytes = desk.manifest.state.files.values().map(|file| file.bytes).sum();
        self.stats.live_bytes = desk.live.total_bytes();
        self.stats.damaged_rows = self.schedule.damaged_rows() as u64;
        self.desk = Some(desk);
        match trouble {
            Some(Trouble::Fatal(fatal)) => return Err(fatal),
            Some(Trouble::Index(error)) => {
                return Err(Fatal::new(format!("{error}; the next start rebuilds it")));
            }
            Some(Trouble::Full) => {
                tracing::warn!("the disk is full: background work waits for space");
                let wait_us = self.options.disk_check_ms * 1_000;
                self.schedule.full_until = Some(Micros(self.now.0 + wait_us));
                return Ok(());
            }
            None => {}
        }
        match task {
            Task::Checkpoint(checkpoint) => self.checkpoint_done(checkpoint),
            Task::Discard(_) => {}
        }
        Ok(())
    }

    fn checkpoint_done(&mut self, checkpoint: Checkpoint) {
        for (shard, state) in &checkpoint.replicas {
            if let Some(replica) = self.replicas.get_mut(shard).filter(|r| r.id == state.replica) {
                replica.checkpointed = replica.checkpointed.max(state.applied);
                replica.in_manifest = true;
            }
        }
        for (key, version, _) in &checkpoint.repaired {
            let key = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
            self.repairs.remove(&(key, *version));
        }
        // The job's own reference goes with the discard, so that the rows are freed off the loop.
        drop(checkpoint);
        self.schedule.discards.extend(self.frozen.take());
        self.rows_moved();
        self.stats.checkpoints += 1;
        self.event(Event::Checkpointed);
    }
}
