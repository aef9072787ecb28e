//! The store: what the loop talks to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::index::IndexFactory;
use crate::log::LogView;
use crate::memtable::Memtable;
use crate::{
    BatchSeq, ConfState, Direction, EntryId, Event, Fatal, HardState, Job, JobStep, KeyRange, Lane,
    LogBatch, Lookup, Micros, NewestVersion, OpenError, Options, ReadId, ReadResult, ReplicaId,
    Scan, ScanPage, ScanRequest, ScanRow, ScanWhat, ShardId, SnapshotChunk, SnapshotHeader, Space,
    TransferId, Version, Write, WriteOp,
};

/// What a store is opened with.
#[derive(Debug)]
pub struct OpenConfig {
    /// Where everything lies.
    pub disk: Arc<dyn Disk>,
    /// The index over it.
    pub index: Box<dyn IndexFactory>,
    /// Sizes and paces.
    pub options: Options,
    /// Names this boot of the machine: another value means that the page cache is gone.
    pub boot: u128,
    /// The name of the store, should the directory be empty: random.
    pub fresh_store: u128,
}

/// How far a slow opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenProgress {
    /// The log is read.
    Log {
        /// Bytes read.
        done_bytes: u64,
        /// Bytes there are.
        total_bytes: u64,
    },
    /// The index is rebuilt.
    Index {
        /// Value files read.
        done_files: u64,
        /// Value files there are.
        total_files: u64,
    },
}

/// An open store and what it found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The replicas that live here.
    pub replicas: Vec<RecoveredReplica>,
    /// What recovery had to do, for the operator.
    pub report: OpenReport,
}

/// A replica as recovery found it. Replication replays the committed entries above `applied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredReplica {
    /// The shard.
    pub shard: ShardId,
    /// The replica.
    pub replica: ReplicaId,
    /// The hard state; its commit lies within the log.
    pub hard_state: HardState,
    /// The configuration as of `applied`.
    pub conf: ConfState,
    /// The last entry whose effects the store has.
    pub applied: EntryId,
    /// The last entry of the log.
    pub last: EntryId,
    /// What of it is damaged.
    pub damage: Damage,
}

/// What a replica lost. As long as it is not [`Damage::is_none`], the replica neither votes, campaigns,
/// acknowledges nor serves.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct Damage {
    /// Entries whose bytes are bad, with their [`entry_checksum`](crate::entry_checksum): a peer that
    /// has exactly this entry can bring it back ([`LogBatch::repair`]).
    pub entries: Vec<(EntryId, u32)>,
    /// A record of unknown content was lost: entries, a vote, anything. The replica can only come
    /// back as a learner under a new id.
    pub unknown: bool,
    /// Rows of its range, or of its own, were lost: it needs a snapshot.
    pub rows: bool,
}

impl Damage {
    /// Whether the replica is whole.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.entries.is_empty() && !self.unknown && !self.rows
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The name of the store.
    pub store: u128,
    /// How many times it was opened, this one included.
    pub incarnation: u64,
    /// Whether it was stopped cleanly.
    pub clean: bool,
    /// Whether the index was rebuilt, and why.
    pub index_rebuilt: Option<String>,
    /// Batches of the log that were read.
    pub batches: u64,
    /// Where the log's torn tail was cut, if it had one.
    pub torn_tail: Option<String>,
    /// Damage that was found, each place named.
    pub damage: Vec<String>,
}

/// How hard the store is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Go on.
    Normal,
    /// Memory fills faster than the disk takes it: hold each proposal back by this much. Raft
    /// messages are never held back.
    Slow {
        /// How long.
        delay_us: u32,
    },
    /// The disk is nearly full: refuse commands that write, but for deletes. Lifts by itself.
    DiskFull {
        /// What is left.
        available_bytes: u64,
    },
}

/// Figures for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of rows that no value file has yet.
    pub memtable_bytes: u64,
    /// Of these, in the frozen memtable.
    pub frozen_bytes: u64,
    /// Bytes of the value cache.
    pub cache_bytes: u64,
    /// Bytes of cached log entries.
    pub entry_cache_bytes: u64,
    /// Segments of the log, spares not counted.
    pub segments: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Batches written and synced since the store was opened.
    pub syncs: u64,
    /// Value files.
    pub value_files: u64,
    /// Their bytes.
    pub value_bytes: u64,
    /// Of these, bytes that a key still needs.
    pub live_bytes: u64,
    /// Checkpoints finished since the store was opened.
    pub checkpoints: u64,
    /// Value files rewritten since the store was opened.
    pub reclaims: u64,
    /// Point reads answered from memory.
    pub memory_reads: u64,
    /// Point reads and scans that went to the reader.
    pub disk_reads: u64,
    /// Damaged records met and not yet repaired.
    pub damaged_rows: u64,
    /// Free space on the disk.
    pub available_bytes: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    Log(BatchSeq),
}

impl Work {
    pub(crate) fn step(&mut self) -> JobStep {
        match self {
            Self::Log(_) => JobStep::Done,
        }
    }
}

#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    conf: ConfState,
    applied: EntryId,
}

/// One node's store. Owned by the loop; nothing in it blocks.
#[derive(Debug)]
pub struct Store {
    now: Micros,
    view: LogView,
    replicas: BTreeMap<ShardId, Replica>,
    active: Memtable,
    thresholds: BTreeMap<ShardId, (KeyRange, Version)>,
    submitted: BatchSeq,
    synced: BatchSeq,
    in_flight: bool,
    reads: Vec<(ReadId, ReadResult)>,
    events: Vec<Event>,
    dropped: BTreeSet<ReplicaId>,
    next_transfer: u64,
    exports: BTreeMap<TransferId, Bytes>,
    queue: VecDeque<Job>,
}

impl Store {
    /// Opens a store, making it if the directory is empty. Blocks; used before the loop starts.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        config: OpenConfig,
        progress: &mut dyn FnMut(OpenProgress),
    ) -> Result<Opened, OpenError> {
        progress(OpenProgress::Log {
            done_bytes: 0,
            total_bytes: 0,
        });
        let view = LogView::default();
        view.lock()
            .set_cache_bytes_max(config.options.entry_cache_bytes);
        let store = Self {
            now: Micros(0),
            view,
            replicas: BTreeMap::new(),
            active: Memtable::default(),
            thresholds: BTreeMap::new(),
            submitted: BatchSeq(0),
            synced: BatchSeq(0),
            in_flight: false,
            reads: Vec::new(),
            events: Vec::new(),
            dropped: BTreeSet::new(),
            next_transfer: 0,
            exports: BTreeMap::new(),
            queue: VecDeque::new(),
        };
        let report = OpenReport {
            store: config.fresh_store,
            incarnation: 1,
            ..OpenReport::default()
        };
        Ok(Opened {
            store,
            replicas: Vec::new(),
            report,
        })
    }

    /// Tells the time: seals an idle log, starts checkpoints, scrubs. Every 10 to 100 ms.
    pub fn tick(&mut self, now: Micros) {
        self.now = self.now.max(now);
    }

    /// A handle on the logs of all groups, for raft.
    #[must_use]
    pub fn log(&self) -> LogView {
        self.view.clone()
    }

    /// Queues a batch for the log; one write and one sync are in flight at a time, queued batches
    /// merge into the next. The view has it at once. Returns what [`Store::synced`] must reach before
    /// anything that depends on it may be told to anyone.
    pub fn submit(&mut self, batch: LogBatch) -> BatchSeq {
        if batch.is_empty() {
            return self.submitted;
        }
        self.submitted.0 += 1;
        let mut groups = self.view.lock();
        for (ordinal, record) in batch.records.iter().enumerate() {
            groups.take(
                self.submitted,
                u32::try_from(ordinal).unwrap_or(u32::MAX),
                record,
            );
            if let crate::log::Record::Marker {
                shard,
                replica,
                id,
                conf,
            } = record
            {
                self.replicas.insert(
                    *shard,
                    Replica {
                        id: *replica,
                        conf: conf.clone(),
                        applied: *id,
                    },
                );
            }
        }
        self.submitted
    }

    /// The last batch that is durable, and all before it.
    #[must_use]
    pub fn synced(&self) -> BatchSeq {
        self.synced
    }

    /// Asks for entries that [`LogView::entries`] said are on disk only. [`Event::Fetched`] follows.
    pub fn fetch(&mut self, shard: ShardId, lo: u64, hi: u64) {
        let _ = (lo, hi);
        self.events.push(Event::Fetched { shard });
    }

    /// Puts the writes of an applied entry into the memtable; entries come in order, each once.
    ///
    /// # Panics
    /// If an entry is skipped or comes back: the caller would be diverging from its replicas.
    pub fn apply(&mut self, shard: ShardId, id: EntryId, writes: &[Write]) {
        let threshold = self.threshold(shard);
        for write in writes {
            match write.space {
                Space::User => self.active.put_user(
                    write.key.clone(),
                    write.version,
                    write.op.clone(),
                    threshold,
                ),
                Space::Local(local) => {
                    self.active.put_local(
                        local,
                        write.key.clone(),
                        write.version,
                        write.op.clone(),
                    );
                }
            }
        }
        self.advance(shard, id);
    }

    fn threshold(&self, shard: ShardId) -> Version {
        self.thresholds
            .get(&shard)
            .map_or(Version::ZERO, |(_, version)| *version)
    }

    fn advance(&mut self, shard: ShardId, id: EntryId) {
        if let Some(replica) = self.replicas.get_mut(&shard) {
            assert_eq!(
                replica.applied.index + 1,
                id.index,
                "apply out of order on shard {shard}"
            );
            replica.applied = id;
        }
    }

    /// Records the configuration that an applied entry leads to, and the entry as applied.
    ///
    /// # Panics
    /// As [`Store::apply`].
    pub fn set_conf(&mut self, shard: ShardId, id: EntryId, conf: ConfState) {
        self.advance(shard, id);
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.conf = conf;
        }
    }

    /// The last applied entry of a shard, durable or not.
    #[must_use]
    pub fn applied(&self, shard: ShardId) -> Option<EntryId> {
        self.replicas.get(&shard).map(|replica| replica.applied)
    }

    /// The configuration of a shard as of its last applied entry.
    #[must_use]
    pub fn conf(&self, shard: ShardId) -> Option<&ConfState> {
        self.replicas.get(&shard).map(|replica| &replica.conf)
    }

    /// Says that nobody will ask for versions of `range` below `threshold` that a newer version at or
    /// below it replaced. The shard's range may change from call to call; thresholds only rise.
    pub fn set_threshold(&mut self, shard: ShardId, range: KeyRange, threshold: Version) {
        let slot = self
            .thresholds
            .entry(shard)
            .or_insert((KeyRange::all(), Version::ZERO));
        *slot = (range, slot.1.max(threshold));
    }

    /// The newest value of a key at or below a version.
    pub fn get(&mut self, space: Space, key: &[u8], at: Version) -> Lookup {
        let row = match space {
            Space::User => self.active.user.get(key).and_then(|chain| chain.at(at)),
            Space::Local(shard) => self
                .active
                .local
                .get(&(shard, Bytes::copy_from_slice(key)))
                .map(|(version, op)| (*version, op)),
        };
        match row {
            Some((version, WriteOp::Put(value))) => Lookup::Found {
                version,
                value: value.clone(),
            },
            Some((version, WriteOp::Delete)) => Lookup::Absent {
                deleted_at: Some(version),
            },
            None => Lookup::Absent { deleted_at: None },
        }
    }

    /// When a key last changed.
    pub fn newest_version(&mut self, space: Space, key: &[u8]) -> NewestVersion {
        NewestVersion::Known(match self.get(space, key, Version::MAX) {
            Lookup::Found { version, .. } => Some(version),
            Lookup::Absent { deleted_at } => deleted_at,
            Lookup::Pending(_) => None,
        })
    }

    /// One page of a range. Of local rows the answer is always ready.
    pub fn scan(&mut self, request: ScanRequest) -> Scan {
        let mut page = ScanPage::default();
        let mut rows: Vec<(Bytes, Version, WriteOp)> = match request.space {
            Space::User => self
                .active
                .user_range(&request.range)
                .filter_map(|(key, chain)| {
                    chain
                        .at(request.at)
                        .map(|(version, op)| (key.clone(), version, op.clone()))
                })
                .collect(),
            Space::Local(shard) => self
                .active
                .local
                .iter()
                .filter(|((s, key), _)| *s == shard && request.range.contains(key))
                .map(|((_, key), (version, op))| (key.clone(), *version, op.clone()))
                .collect(),
        };
        match request.direction {
            Direction::Forward => {}
            Direction::Reverse => rows.reverse(),
        }
        for (key, version, op) in rows.into_iter().take(request.rows_max.max(1)) {
            let (value, deleted) = match (op, request.what) {
                (WriteOp::Put(value), ScanWhat::Values) => (Some(value), false),
                (WriteOp::Put(_), ScanWhat::Keys | ScanWhat::Changes) => (None, false),
                (WriteOp::Delete, ScanWhat::Changes) => (None, true),
                (WriteOp::Delete, ScanWhat::Keys | ScanWhat::Values) => continue,
            };
            page.rows.push(ScanRow {
                key,
                version,
                value,
                deleted,
            });
        }
        Scan::Ready(page)
    }

    /// Moves the results of finished reads out.
    pub fn take_reads(&mut self, reads: &mut Vec<(ReadId, ReadResult)>) {
        reads.append(&mut self.reads);
    }

    /// Moves the events of the background out.
    pub fn take_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    /// Puts back the record of a damaged row, as another replica has it. Ignored unless a record of
    /// exactly this version is damaged here.
    pub fn repair(&mut self, space: Space, key: &[u8], version: Version, op: WriteOp) {
        let _ = (space, key, version, op);
    }

    /// How hard the store is pressed.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure::Normal
    }

    /// Figures for the status page.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            memtable_bytes: self.active.bytes() as u64,
            ..Stats::default()
        }
    }

    /// Starts a checkpoint as soon as none is running. [`Event::Checkpointed`] follows.
    pub fn checkpoint(&mut self) {
        self.events.push(Event::Checkpointed);
    }

    /// Drops a replica: its log, its own rows, and the user rows of `range` (none when another shard
    /// of this node has taken over the keys). Durable first, then throttled. [`Event::Dropped`]
    /// follows when it is durable.
    pub fn drop_replica(&mut self, shard: ShardId, replica: ReplicaId, range: Option<KeyRange>) {
        self.view.lock().remove(shard, replica);
        self.replicas.remove(&shard);
        self.active.remove_local(shard);
        if let Some(range) = range {
            self.active.remove_user(&range);
        }
        self.dropped.insert(replica);
        self.events.push(Event::Dropped { shard, replica });
    }

    /// Whether the replica was dropped here.
    #[must_use]
    pub fn is_dropped(&self, replica: ReplicaId) -> bool {
        self.dropped.contains(&replica)
    }

    /// Starts to pin a shard's state, its own rows and the user rows of `range`, as of its applied
    /// entry. [`Event::ExportReady`] follows; the state is that of the entry it names.
    pub fn export(&mut self, shard: ShardId, range: KeyRange) -> TransferId {
        self.next_transfer += 1;
        let transfer = TransferId(self.next_transfer);
        let header = SnapshotHeader {
            applied: self.applied(shard).unwrap_or_default(),
            conf: self.conf(shard).cloned().unwrap_or_default(),
            range,
        };
        self.exports.insert(transfer, Bytes::new());
        self.events.push(Event::ExportReady { transfer, header });
        transfer
    }

    /// Asks for a chunk: the next one, or the one before it again. [`Event::ExportChunk`] follows.
    pub fn export_chunk(&mut self, transfer: TransferId, number: u32) {
        if let Some(payload) = self.exports.get(&transfer) {
            let chunk = SnapshotChunk::new(number, true, payload.clone());
            self.events.push(Event::ExportChunk { transfer, chunk });
        }
    }

    /// Lets the pinned state go.
    pub fn end_export(&mut self, transfer: TransferId) {
        self.exports.remove(&transfer);
    }

    /// Starts to take a snapshot in for a replica that exists here or is about to.
    /// [`Event::ImportReady`] asks for the first chunk.
    pub fn import(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        header: SnapshotHeader,
    ) -> TransferId {
        let _ = (shard, replica, header);
        self.next_transfer += 1;
        let transfer = TransferId(self.next_transfer);
        self.events.push(Event::ImportReady {
            transfer,
            next_chunk: 0,
        });
        transfer
    }

    /// Writes a chunk, in order. A chunk that is not the expected one, or not intact, is answered by
    /// [`Event::ImportReady`] with the number that is wanted. The last one installs the snapshot:
    /// everything validated and durable, then switched in by one record. [`Event::Installed`] follows.
    pub fn import_chunk(&mut self, transfer: TransferId, chunk: SnapshotChunk) {
        self.events.push(Event::ImportReady {
            transfer,
            next_chunk: chunk.number + 1,
        });
    }

    /// Gives an import up. Nothing of it stays. No effect once it is installing.
    pub fn abort_import(&mut self, transfer: TransferId) {
        let _ = transfer;
    }

    /// Starts a clean stop: checkpoint, seal, stamp. [`Event::Stopped`] follows. Apply nothing more.
    pub fn stop(&mut self) {
        self.events.push(Event::Stopped);
    }

    /// Moves the jobs that can run now out. Jobs of a lane run in order; give each back.
    pub fn take_jobs(&mut self, jobs: &mut Vec<Job>) {
        if !self.in_flight && self.synced < self.submitted {
            self.in_flight = true;
            jobs.push(Job {
                lane: Lane::Log,
                work: Work::Log(self.submitted),
            });
        }
        jobs.extend(self.queue.drain(..));
    }

    /// Takes a finished job back.
    ///
    /// # Errors
    /// The node must stop.
    pub fn complete(&mut self, job: Job) -> Result<(), Fatal> {
        match job.work {
            Work::Log(seq) => {
                self.in_flight = false;
                self.synced = seq;
                let mut groups = self.view.lock();
                groups.synced = seq;
                groups.evict();
            }
        }
        Ok(())
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
}
