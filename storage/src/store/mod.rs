//! The store: what the loop talks to.
//!
//! It owns the memtables, the view of the log, the caches, and the desk of the background work while
//! none is under way. It never blocks: what needs a disk comes out as jobs and goes back in as
//! completed ones. Its parts: `logging` (batches, sealing), `trimming`, `applying` (writes),
//! `reading`, `damage`, `transfers` (snapshots, drops), `scheduling` (which background work comes next), `opening`
//! (recovery).

mod applying;
mod damage;
mod logging;
mod opening;
mod reading;
mod reclaiming;
mod scheduling;
mod transfers;
mod trimming;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::background::{BackgroundWork, Desk};
use crate::cache::ValueCache;
use crate::disk::Disk;
use crate::index::Index;
use crate::log::{FetchPlan, FetchQuery, LogWork, LogWriter, Placement, Record, Segment};
use crate::manifest::ThresholdState;
use crate::memtable::Memtable;
use crate::reader::{Query, ReadWork};
use crate::value::FileTable;
use crate::{
    BatchSeq, ConfState, EntryId, Event, Fatal, Job, JobStep, Lane, LogView, Micros, Options,
    Pressure, ReadId, ReadResult, ReplicaId, SegmentNumber, ShardId, Stats, Version,
};

/// What a job does. Boxed where it is large: jobs are moved around.
#[derive(Debug)]
pub(crate) enum Work {
    Log(Box<LogWork>),
    Background(Box<BackgroundWork>),
    Read(ReadWork),
}

impl Work {
    pub(crate) fn step(&mut self) -> JobStep {
        match self {
            Self::Log(work) => work.step(),
            Self::Background(work) => work.step(),
            Self::Read(work) => work.step(),
        }
    }
}

/// A replica as the loop has it.
#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    conf: ConfState,
    applied: EntryId,
    /// As of the last checkpoint or snapshot.
    checkpointed: EntryId,
    created: BatchSeq,
    /// Whether the manifest knows the replica.
    in_manifest: bool,
}

/// Records on their way into the log.
#[derive(Debug)]
struct QueuedBatch {
    sequence: BatchSeq,
    records: Vec<Record>,
    bytes: usize,
    /// No more records join it.
    is_closed: bool,
}

/// A shard's own rows, all of them.
type LocalRows = BTreeMap<Bytes, (Version, Bytes)>;

/// One node's store. Owned by the loop; nothing in it blocks.
///
/// Invariants: at most one job per lane is out, except that reads may be many; what `submitted` has
/// given away is queued, in flight or synced; a row is in a memtable until its pointer is in the index.
#[derive(Debug)]
pub struct Store {
    options: Arc<Options>,
    disk: Arc<dyn Disk>,
    now: Micros,

    // The log.
    view: LogView,
    writer: Option<LogWriter>,
    /// A batch that found no space for a new segment.
    stalled: Option<Box<LogWork>>,
    queue: VecDeque<QueuedBatch>,
    submitted: BatchSeq,
    synced: BatchSeq,
    last_batch_at: Micros,
    sealed: bool,
    segments: BTreeMap<SegmentNumber, Segment>,
    placements: BTreeMap<BatchSeq, Placement>,
    /// Shards and ranges of entries that are asked for again when the next batch is placed, or a trim is over.
    waiting_fetches: Vec<(ShardId, u64, u64)>,
    spares: Vec<String>,
    /// Spares that a write in flight may take.
    spares_out: usize,
    next_spare: u64,
    syncs: u64,

    // The state.
    replicas: BTreeMap<ShardId, Replica>,
    thresholds: BTreeMap<ShardId, ThresholdState>,
    active: Memtable,
    active_since: Micros,
    frozen: Option<scheduling::Frozen>,
    dropped: BTreeSet<ReplicaId>,
    locals: BTreeMap<ShardId, LocalRows>,
    cache: ValueCache,
    damage: damage::DamagedRows,

    // Reads.
    index: Arc<dyn Index>,
    files: FileTable,
    queries: VecDeque<Query>,
    reads_in_flight: bool,
    /// Raised whenever rows move from memory to disk, or vanish: answers from before are asked again.
    generation: u64,
    next_read: u64,
    finished_reads: Vec<(ReadId, ReadResult)>,
    memory_reads: u64,
    disk_reads: u64,

    // The background.
    desk: Option<Desk>,
    /// Whether memory fills faster than the background empties it: then it makes no pauses.
    urgent: Arc<AtomicBool>,
    schedule: scheduling::Schedule,
    events: Vec<Event>,
    stats: Stats,
}

impl Store {
    /// Tells the time: seals an idle log, starts checkpoints, scrubs. To be called every 10 to 100 ms.
    pub fn tick(&mut self, now: Micros) {
        self.now = self.now.max(now);
        self.seal_if_idle();
        self.schedule_timed();
    }

    /// A handle on the logs of all groups, for raft.
    #[must_use]
    pub fn log(&self) -> LogView {
        self.view.clone()
    }

    /// Moves the results of finished reads out.
    pub fn take_reads(&mut self, reads: &mut Vec<(ReadId, ReadResult)>) {
        reads.append(&mut self.finished_reads);
    }

    /// Moves the events of the background out.
    pub fn take_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    /// How hard the store is pressed.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        if self.schedule.available_bytes < self.options.disk_low_bytes || self.stalled.is_some() {
            return Pressure::DiskFull {
                available_bytes: self.schedule.available_bytes,
            };
        }
        // The active memtable may fill while the frozen one is written: hold proposals back in time,
        // more and more, so that it does not overflow.
        let bound = self.options.memtable_bytes.max(1);
        let behind = self.frozen.is_some() || self.is_full();
        let used = self.active.bytes();
        if !behind || used < bound / 2 {
            return Pressure::Normal;
        }
        let over = (used - bound / 2).saturating_mul(2_000) / bound;
        Pressure::Slow {
            delay_us: u32::try_from(over.min(50_000)).unwrap_or(50_000).max(1),
        }
    }

    /// Figures for the status page.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let frozen = self
            .frozen
            .as_ref()
            .map_or(0, |frozen| frozen.memtable.bytes()) as u64;
        Stats {
            memtable_bytes: self.active.bytes() as u64 + frozen,
            frozen_bytes: frozen,
            cache_bytes: self.cache.bytes() as u64,
            entry_cache_bytes: self.view.lock().cached_bytes() as u64,
            segments: self.segments.len() as u64,
            log_bytes: self.segments.values().map(|segment| segment.bytes).sum(),
            syncs: self.syncs,
            memory_reads: self.memory_reads,
            disk_reads: self.disk_reads,
            damaged_rows: self.damage.count(),
            repaired_rows: self.damage.repairs,
            available_bytes: self.schedule.available_bytes,
            ..self.stats
        }
    }

    /// Moves the jobs that can run now out. Jobs of a lane run in order; give each back.
    pub fn take_jobs(&mut self, jobs: &mut Vec<Job>) {
        let urgent =
            self.frozen.is_some() && self.active.bytes() >= self.options.memtable_bytes / 2;
        self.urgent.store(urgent, Ordering::Relaxed);
        let works = [
            // The background first: it may have something for the log.
            self.next_background()
                .map(|work| (Lane::Background, Work::Background(work))),
            self.next_batch().map(|work| (Lane::Log, Work::Log(work))),
            self.next_reads().map(|work| (Lane::Read, Work::Read(work))),
        ];
        for (lane, work) in works.into_iter().flatten() {
            jobs.push(Job {
                lane,
                work,
                urgent: Arc::clone(&self.urgent),
            });
        }
    }

    /// Takes a finished job back.
    ///
    /// # Errors
    /// The node must stop: send nothing that waits for storage.
    pub fn complete(&mut self, job: Job) -> Result<(), Fatal> {
        match job.work {
            Work::Log(work) => self.batch_done(work),
            Work::Background(work) => self.background_done(*work),
            Work::Read(work) => self.reads_done(work),
        }
    }

    /// Steps all jobs to their end on the spot: for tests and tools that have no loop.
    ///
    /// # Errors
    /// As [`Store::complete`].
    pub fn run_jobs(&mut self) -> Result<(), Fatal> {
        let mut jobs = Vec::new();
        loop {
            self.take_jobs(&mut jobs);
            if jobs.is_empty() {
                return Ok(());
            }
            for mut job in jobs.drain(..) {
                while job.step() == JobStep::Again {}
                self.complete(job)?;
            }
        }
    }

    /// Asks for entries that [`LogView::entries`] said are on disk only. [`Event::Fetched`] follows.
    pub fn fetch(&mut self, shard: ShardId, lo: u64, hi: u64) {
        let wanted = (shard, lo, hi);
        match FetchQuery::plan(&self.disk, &self.view, |batch| self.place(batch), wanted) {
            FetchPlan::Read(query) => self.queries.push_back(Query::Fetch(query)),
            FetchPlan::Waits => self.waiting_fetches.push(wanted),
            FetchPlan::Nothing => self.events.push(Event::Fetched { shard }),
        }
    }
}
