//! Which piece of background work comes next.
//!
//! One at a time: first what is small and frees something, then what frees memory (a checkpoint), then
//! what a checkpoint has left to do (its pointers go into the index), what somebody waits for
//! (snapshots), what keeps the disk in order (reclaim), and when nothing else is to be done, the
//! scrubber. With the disk full, only what needs no space runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Store;
use super::reclaiming::Reclaims;
use super::transfers::{Export, ImportSlot};
use crate::background::{
    BackgroundWork, Checkpoint, Count, Desk, Drop, Forget, Merge, Scrub, Space, Stop, Task,
    Trouble, rebuild::Forgetting,
};
use crate::index::{IndexKey, no_index};
use crate::log::segment::{Fill, spare_path};
use crate::manifest::ReplicaState;
use crate::memtable::Memtable;
use crate::threshold::Thresholds;
use crate::{BatchSeq, EntryId, Event, Fatal, FileNumber, KeyRange, Micros, ShardId, TransferId};

/// A memtable that takes no more rows, and what it brings the replicas to: captured together.
#[derive(Debug)]
pub(super) struct Frozen {
    pub memtable: Arc<Memtable>,
    pub replicas: Vec<(ShardId, ReplicaState)>,
    /// The last durable batch at that moment.
    pub durable: BatchSeq,
}

/// A clean stop, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stopping {
    #[default]
    No,
    Wanted,
    Closing,
    Done,
}

/// What is to be done in the background, and why not now.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// A checkpoint was asked for.
    pub checkpoint_wanted: bool,
    /// Files on their way into the index.
    merge: Option<Merge>,
    /// Since when each file waits for it.
    unmerged: BTreeMap<FileNumber, Micros>,
    /// Memtables to be freed.
    discards: Vec<Arc<Memtable>>,
    pub drops: VecDeque<(Drop, Option<KeyRange>)>,
    pub exports: BTreeMap<TransferId, Export>,
    pub imports: BTreeMap<TransferId, ImportSlot>,
    pub next_transfer: u64,
    forget: Option<Forget>,
    forget_due: bool,
    count: Option<Count>,
    pub reclaims: Reclaims,
    scrub: Scrub,
    scrub_at: Micros,
    space_at: Micros,
    stopping: Stopping,
    /// Hard states and rests that make the next trim possible are durable behind this batch.
    pub trim_after: BatchSeq,
    pub trim_due: bool,
    /// Segments up to this batch are being taken off the log.
    pub trimming: Option<BatchSeq>,
    /// The disk was full: nothing that needs space before this moment.
    full_until: Option<Micros>,
    /// Whether a stalled batch may be tried again.
    pub retry_log: bool,
    pub available_bytes: u64,
    /// User keys in these ranges may be missing.
    pub lost_ranges: Vec<KeyRange>,
}

/// The index must never meet a full disk: sled takes no more calls after an error, and the node would have to
/// stop. So nothing that writes into it begins with less space than this part of the mark below which writes are
/// refused.
const INDEX_ROOM_DIVISOR: u64 = 8;

impl Store {
    /// Whether the disk is too full for work that needs space.
    pub(super) fn is_full(&self) -> bool {
        let room = self.options.disk_low_bytes / INDEX_ROOM_DIVISOR;
        self.schedule.full_until.is_some() || self.schedule.available_bytes < room
    }
}

impl Store {
    /// Starts a checkpoint as soon as none is running. [`Event::Checkpointed`] follows.
    pub fn checkpoint(&mut self) {
        self.schedule.checkpoint_wanted = true;
    }

    /// Starts a clean stop: checkpoint, seal, stamp. [`Event::Stopped`] follows. Apply nothing more.
    pub fn stop(&mut self) {
        if self.schedule.stopping == Stopping::No {
            self.schedule.stopping = Stopping::Wanted;
            self.schedule.checkpoint_wanted = true;
        }
    }

    /// Takes the desk, and what it knows.
    pub(super) fn begin_background(&mut self, desk: Desk) {
        for lost in &desk.manifest.state.lost {
            let user = |key: &[u8]| match IndexKey::decode(key) {
                Some(IndexKey::User { key }) => key.to_vec(),
                Some(IndexKey::Local { .. }) | None => Vec::new(),
            };
            let range = KeyRange {
                start: user(&lost.start),
                end: lost.end.as_deref().map(user),
            };
            if !range.is_empty() {
                self.schedule.lost_ranges.push(range);
            }
        }
        self.schedule.available_bytes = self.disk.available_bytes().unwrap_or(u64::MAX);
        self.schedule.count = (!desk.live_complete).then(Count::new);
        self.schedule.forget_due = Forgetting::is_needed(&desk);
        self.schedule.reclaims.due = true;
        self.schedule.trim_due = true;
        self.note_figures(&desk);
        self.desk = Some(desk);
    }

    pub(super) fn schedule_timed(&mut self) {
        if self
            .schedule
            .full_until
            .is_some_and(|until| until <= self.now)
        {
            self.schedule.full_until = None;
        }
        let waited_us = self.now.0.saturating_sub(self.active_since.0);
        // Deletes give space back only once they are in files: with the disk full, soon.
        let nearly_full = self.schedule.available_bytes < self.options.disk_low_bytes;
        let patience_ms = match nearly_full {
            true => self.options.disk_check_ms,
            false => self.options.checkpoint_after_ms,
        };
        if !self.active.is_empty() && waited_us >= patience_ms * 1_000 {
            self.schedule.checkpoint_wanted = true;
        }
    }

    /// The next piece of work, if none is under way.
    pub(super) fn next_background(&mut self) -> Option<Box<BackgroundWork>> {
        self.desk.as_ref()?;
        let task = self.next_task()?;
        let desk = self.desk.take()?;
        Some(Box::new(BackgroundWork {
            desk,
            task,
            trouble: None,
        }))
    }

    fn next_task(&mut self) -> Option<Task> {
        match self.schedule.stopping {
            Stopping::No | Stopping::Wanted => {}
            Stopping::Closing | Stopping::Done => return None,
        }
        if let Some(memtable) = self.schedule.discards.pop() {
            return Some(Task::Discard(Some(memtable)));
        }
        if let Some(pin) = self.next_pin() {
            return Some(Task::Pin(pin));
        }
        if let Some((drop, range)) = self.schedule.drops.pop_front() {
            self.forget_frozen(&drop, range.as_ref());
            return Some(Task::Drop(drop));
        }
        if let Some(import) = self.next_abort() {
            return Some(Task::Abort(Box::new(import)));
        }
        if self.now >= self.schedule.space_at {
            self.schedule.space_at = Micros(self.now.0 + self.options.disk_check_ms * 1_000);
            let wants_room = !self.active.is_empty() || self.frozen.is_some();
            let room = self.options.disk_low_bytes / INDEX_ROOM_DIVISOR;
            return Some(Task::Space(Space::new(wants_room.then_some(room))));
        }
        if let Some(trim) = self.next_trim() {
            return Some(Task::Trim(trim));
        }
        if !self.is_full() {
            if self.schedule.unmerged.len() >= self.options.unmerged_files_max
                && let Some(merge) = self.next_merge()
            {
                return Some(Task::Merge(merge));
            }
            if let Some(checkpoint) = self.next_checkpoint() {
                return Some(Task::Checkpoint(checkpoint));
            }
        }
        if self.schedule.stopping == Stopping::Wanted {
            let merge = (!self.is_full()).then(|| self.next_merge()).flatten();
            return merge.map(Task::Merge).or_else(|| self.next_stop());
        }
        if self.is_full() {
            return None;
        }
        if let Some(merge) = self.next_merge() {
            return Some(Task::Merge(merge));
        }
        if self.spares.len() + self.spares_out < self.options.spare_segments {
            let path = spare_path(self.next_spare);
            self.next_spare += 1;
            let fill = Fill::new(Arc::clone(&self.disk), path, self.options.segment_bytes);
            return Some(Task::Fill(Some(fill)));
        }
        if let Some(import) = self.next_import() {
            return Some(Task::ImportChunk(Box::new(import)));
        }
        if let Some(forget) = self.next_forget() {
            return Some(Task::Forget(forget));
        }
        if let Some(count) = self.schedule.count.take() {
            return Some(Task::Count(count));
        }
        if let Some(collect) = self.next_collect() {
            return Some(Task::Collect(collect));
        }
        if let Some(reclaim) = self.next_reclaim() {
            return Some(Task::Reclaim(reclaim));
        }
        self.next_scrub().map(Task::Scrub)
    }

    /// Files that are to go into the index now: all, if what comes next changes ranges of it as a whole.
    /// Else those that have waited long enough, once the oldest has waited twice as long: so there are some.
    fn next_merge(&mut self) -> Option<Merge> {
        if let Some(merge) = self.schedule.merge.take() {
            return Some(merge);
        }
        let waiting = self.desk.as_ref()?.index.unmerged();
        let oldest = self.schedule.unmerged.values().min()?;
        let forgets = self.schedule.forget_due || self.schedule.forget.is_some();
        let imports = self.schedule.imports.values().any(ImportSlot::is_ready);
        let stops = self.schedule.stopping == Stopping::Wanted;
        let after_us = self.options.merge_after_ms * 1_000;
        let waited_us = |since: &Micros| self.now.0.saturating_sub(since.0);
        let whole = forgets || imports || stops || self.is_reclaiming_deeply();
        let files = if whole || self.space_is_short() {
            waiting.to_vec()
        } else if waited_us(oldest) >= 2 * after_us
            || waiting.len() >= self.options.unmerged_files_max
        {
            let ripe = |number| {
                let since = self.schedule.unmerged.get(number);
                since.is_none_or(|since| waited_us(since) >= after_us)
            };
            let ripe = waiting.iter().filter(|file| ripe(&file.number)).count();
            // With no room for more, the older half has to do.
            waiting[..ripe.max(waiting.len().div_ceil(2))].to_vec()
        } else {
            return None;
        };
        Some(Merge::new(files, Thresholds::new(&self.thresholds)))
    }

    /// Keeps account of the files that wait for the index.
    fn note_unmerged(&mut self, desk: &Desk) {
        let waiting = desk.index.unmerged();
        let known = std::mem::take(&mut self.schedule.unmerged);
        let since = |number| known.get(&number).copied().unwrap_or(self.now);
        self.schedule.unmerged = waiting
            .iter()
            .map(|file| (file.number, since(file.number)))
            .collect();
        self.stats.unmerged_files = waiting.len() as u64;
    }

    /// A dropped range must not come back with a memtable that waits for space.
    fn forget_frozen(&mut self, drop: &Drop, range: Option<&KeyRange>) {
        let Some(memtable) = self
            .frozen
            .as_mut()
            .and_then(|f| Arc::get_mut(&mut f.memtable))
        else {
            return;
        };
        memtable.remove_local(drop.shard);
        if let Some(range) = range {
            memtable.remove_user(range);
        }
    }

    fn next_checkpoint(&mut self) -> Option<Checkpoint> {
        if self.frozen.is_none() {
            let full = self.active.bytes() >= self.options.memtable_bytes;
            if !full && !self.schedule.checkpoint_wanted {
                return None;
            }
            // What was applied may tell of replicas that began with it, on the right side of a split:
            // a checkpoint must not outlive the record of their creation.
            let synced = self.synced;
            let mut replicas = self.replicas.values();
            if replicas.any(|replica| !replica.in_manifest && replica.created > synced) {
                return None;
            }
            self.schedule.checkpoint_wanted = false;
            self.frozen = Some(self.freeze());
            self.attach_exports();
        }
        let repaired = self.damage.to_write();
        let frozen = self.frozen.as_ref()?;
        Some(Checkpoint::new(
            Arc::clone(&frozen.memtable),
            frozen.replicas.clone(),
            self.thresholds.clone(),
            repaired,
            frozen.durable,
        ))
    }

    fn freeze(&mut self) -> Frozen {
        let groups = self.view.lock();
        let replicas = self.replicas.iter().map(|(shard, replica)| {
            let start = groups
                .groups
                .get(shard)
                .map_or(EntryId::ZERO, |group| group.start);
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
        Frozen {
            replicas: replicas.collect(),
            memtable: Arc::new(std::mem::take(&mut self.active)),
            durable: self.synced,
        }
    }

    fn next_stop(&mut self) -> Option<Task> {
        let idle = self.queue.is_empty() && self.writer.is_some();
        if !idle || self.reads_in_flight || !self.queries.is_empty() {
            return None;
        }
        if !self.sealed {
            self.seal();
            return None;
        }
        // The index must have no other handle when it is closed.
        self.index = no_index();
        self.schedule.stopping = Stopping::Closing;
        Some(Task::Stop(Stop))
    }

    fn next_forget(&mut self) -> Option<Forget> {
        if let Some(forget) = self.schedule.forget.take() {
            return Some(forget);
        }
        if !std::mem::take(&mut self.schedule.forget_due) {
            return None;
        }
        let forgetting = Forgetting::new(self.desk.as_ref()?);
        Some(Forget {
            forgetting,
            finished: false,
        })
    }

    fn next_scrub(&mut self) -> Option<Scrub> {
        let every = self.options.scrub_every_ms;
        let is_empty = self.desk.as_ref()?.manifest.state.files.is_empty();
        if every == 0 || is_empty || self.now < self.schedule.scrub_at {
            return None;
        }
        self.schedule.scrub_at = Micros(self.now.0 + every * 1_000);
        Some(std::mem::take(&mut self.schedule.scrub))
    }

    fn note_figures(&mut self, desk: &Desk) {
        let files = &desk.manifest.state.files;
        self.stats.value_files = files.len() as u64;
        self.stats.value_bytes = files.values().map(|file| file.bytes).sum();
        self.stats.live_bytes = desk.live.total_bytes();
    }

    pub(super) fn background_done(&mut self, work: BackgroundWork) -> Result<(), Fatal> {
        let BackgroundWork {
            desk,
            task,
            trouble,
        } = work;
        self.note_figures(&desk);
        self.note_unmerged(&desk);
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
                self.given_up(task);
                return Ok(());
            }
            None => {}
        }
        match task {
            Task::Checkpoint(checkpoint) => self.checkpoint_done(checkpoint),
            Task::Merge(merge) if merge.finished => self.schedule.reclaims.due = true,
            Task::Merge(merge) => self.schedule.merge = Some(merge),
            Task::Fill(fill) => self.spares.extend(fill.map(Fill::into_path)),
            Task::Trim(trim) => self.trim_done(trim),
            Task::Space(space) => {
                self.schedule.available_bytes = space.available_bytes;
                self.schedule.retry_log = true;
            }
            Task::Pin(pin) => self.pin_done(pin),
            Task::ImportChunk(import) => self.import_done(*import),
            Task::Drop(drop) => {
                self.schedule.forget_due = true;
                self.rows_moved();
                self.event(Event::Dropped {
                    shard: drop.shard,
                    replica: drop.replica,
                });
            }
            Task::Forget(forget) if forget.finished => {
                self.schedule.reclaims.due = true;
                self.schedule.forget_due |= self.desk.as_ref().is_some_and(Forgetting::is_needed);
            }
            Task::Forget(forget) => self.schedule.forget = Some(forget),
            Task::Collect(collect) => self.collect_done(&collect),
            Task::Reclaim(reclaim) => self.reclaim_done(&reclaim),
            Task::Count(count) if count.finished => self.schedule.reclaims.due = true,
            Task::Count(count) => self.schedule.count = Some(count),
            Task::Scrub(scrub) => self.scrub_done(scrub),
            Task::Stop(_) => {
                self.schedule.stopping = Stopping::Done;
                self.event(Event::Stopped);
            }
            Task::Abort(_) | Task::Discard(_) => {}
        }
        Ok(())
    }

    /// Puts back what is tried again when there is space.
    fn given_up(&mut self, task: Task) {
        match task {
            Task::Drop(drop) => self.schedule.drops.push_front((drop, None)),
            Task::Forget(_) => self.schedule.forget_due = true,
            Task::Count(count) => self.schedule.count = Some(count),
            Task::Merge(merge) => self.schedule.merge = Some(merge),
            Task::Scrub(scrub) => self.schedule.scrub = scrub,
            Task::Trim(_) => {
                self.schedule.trim_due = true;
                self.trim_over();
            }
            Task::Stop(_) => self.schedule.stopping = Stopping::Done,
            // The frozen memtable is still there; a reclaim is chosen anew; a pin needs no space.
            Task::Checkpoint(_)
            | Task::Collect(_)
            | Task::Reclaim(_)
            | Task::Pin(_)
            | Task::ImportChunk(_)
            | Task::Abort(_)
            | Task::Fill(_)
            | Task::Space(_)
            | Task::Discard(_) => {}
        }
    }

    fn checkpoint_done(&mut self, checkpoint: Checkpoint) {
        for (shard, state) in &checkpoint.replicas {
            if let Some(replica) = self
                .replicas
                .get_mut(shard)
                .filter(|r| r.id == state.replica)
            {
                replica.checkpointed = replica.checkpointed.max(state.applied);
                replica.in_manifest = true;
            }
        }
        self.damage.written(&checkpoint.repaired);
        self.exports_checkpointed(&checkpoint.replicas);
        // The job's own reference goes with the discard, so that the rows are freed off the loop.
        drop(checkpoint);
        self.schedule
            .discards
            .extend(self.frozen.take().map(|frozen| frozen.memtable));
        self.schedule.reclaims.due = true;
        self.schedule.trim_due = true;
        self.schedule.reclaims.impossible.clear();
        self.schedule.reclaims.checkpointed_at = self.now;
        self.rows_moved();
        self.stats.checkpoints += 1;
        self.event(Event::Checkpointed);
    }

    fn scrub_done(&mut self, mut scrub: Scrub) {
        for (key, pointer) in std::mem::take(&mut scrub.damaged) {
            self.report_damage(&key, &pointer);
        }
        for number in std::mem::take(&mut scrub.bad_footers) {
            self.schedule.reclaims.bad_footers.insert(number);
            self.schedule.reclaims.due = true;
        }
        self.stats.scrub_rounds = scrub.rounds;
        self.schedule.scrub = scrub;
    }
}
