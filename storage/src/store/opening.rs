//! Opening: what is true after a stop, a kill or a power cut.
//!
//! In this order: the manifest says what is true; the log is read into the view and begins anew; value
//! files are opened; the index is opened and brought up to date, or rebuilt. What the log has beyond
//! the last checkpoint is applied again by replication, through the same path as ever.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Replica, Store};
use crate::background::{Desk, rebuild};
use crate::cache::ValueCache;
use crate::disk::{Disk, OpenMode};
use crate::index::IndexKey;
use crate::log::segment::{LOG_DIR, RESERVE};
use crate::log::{GroupLog, Groups, LogContext, LogView, recover};
use crate::manifest::{self, Edit, IndexState, Manifest, ManifestError, State};
use crate::memtable::Memtable;
use crate::value::{FileTable, VALUES_DIR, parse_name, value_path};
use crate::{
    EntryId, HardState, KeyRange, Micros, OpenConfig, OpenError, OpenProgress, OpenReport, Opened,
    RecoveredReplica, ReplicaId, Stats,
};

fn manifest_error(error: ManifestError) -> OpenError {
    let (what, source) = match error {
        ManifestError::Full => (
            "no space for the manifest".to_owned(),
            io::Error::from(io::ErrorKind::StorageFull),
        ),
        ManifestError::Fatal(fatal) => (
            fatal.what,
            fatal.source.unwrap_or_else(|| io::Error::other("unknown")),
        ),
    };
    OpenError::Disk { what, source }
}

/// A new generation, with the space of the reserve if the disk is full: what it holds can then be read at
/// least.
fn create_manifest(
    disk: &Arc<dyn Disk>,
    read: &manifest::ReadManifest,
    state: State,
    bytes: u64,
) -> Result<Manifest, ManifestError> {
    let create = |state| Manifest::create(Arc::clone(disk), read, state, bytes);
    match create(state.clone()) {
        Err(ManifestError::Full) if disk.remove(RESERVE).is_ok() => {
            tracing::warn!("the disk is full: using the reserve for the manifest");
            create(state)
        }
        created => created,
    }
}

impl Store {
    /// Opens a store, making it if the directory is empty. Blocks; used before the loop starts.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing that was durable is lost by trying.
    pub fn open(
        config: OpenConfig,
        progress: &mut (dyn FnMut(OpenProgress) + Send),
    ) -> Result<Opened, OpenError> {
        let OpenConfig {
            disk,
            index,
            options,
            boot,
            fresh_store,
        } = config;
        let options = Arc::new(options);
        for dir in [LOG_DIR, VALUES_DIR] {
            disk.create_dir(dir)
                .map_err(OpenError::disk(format!("cannot make {dir}/")))?;
        }
        let read = manifest::read(&*disk)?;
        let mut report = OpenReport::default();
        for what in &read.repaired {
            tracing::warn!("{what}: repaired from the other copy");
            report.repaired.push(what.clone());
        }
        let mut state = match read.state.clone() {
            Some(state) => state,
            None => fresh_state(&*disk, fresh_store)?,
        };
        state.incarnation += 1;
        report.store = state.store;
        report.incarnation = state.incarnation;
        report.clean = state.index.clean;
        let mut manifest =
            create_manifest(&disk, &read, state, options.manifest_bytes).map_err(manifest_error)?;

        let view = LogView::default();
        let log = {
            let mut groups = view.lock();
            groups.set_cache_bytes_max(options.entry_cache_bytes);
            groups_of(&manifest.state, &mut groups);
            let log = recover(LogContext {
                disk: &disk,
                options: &options,
                state: &manifest.state,
                groups: &mut groups,
                report: &mut report,
                progress,
            })?;
            settle(&manifest.state, &mut groups);
            log
        };
        let edits = lost_records(&manifest.state, &view);
        if !edits.is_empty() {
            manifest.append(edits).map_err(manifest_error)?;
        }

        let files = open_files(&*disk, &manifest.state, &mut report)?;
        let mut desk = Desk::new(&disk, &options, index, manifest, files.clone());
        // sled may panic on what it finds: then it is damaged, and is rebuilt.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            rebuild::open_index(&mut desk, boot, &mut report)
        }));
        let outcome = match opened {
            Ok(outcome) => outcome?,
            Err(_) => Err("opening it panicked".to_owned()),
        };
        if let Err(why) = outcome {
            rebuild::rebuild_index(&mut desk, boot, &why, &mut report, progress)?;
        }
        let locals = rebuild::load_locals(&mut desk, &mut report)?;

        let (replicas, recovered) = recovered_replicas(&desk.manifest.state, &view);
        let thresholds = desk.manifest.state.thresholds.clone();
        let submitted = crate::BatchSeq(log.writer.next.0 - 1);
        let mut store = Self {
            disk,
            now: Micros(0),
            view,
            writer: Some(log.writer),
            stalled: None,
            queue: VecDeque::new(),
            submitted,
            synced: submitted,
            last_batch_at: Micros(0),
            // The last batch was copied and synced; there is nothing to prove.
            sealed: true,
            segments: log.segments,
            placements: log.placements,
            waiting_fetches: Vec::new(),
            spares: log.spares,
            spares_out: 0,
            next_spare: log.next_spare,
            syncs: 0,
            replicas,
            thresholds,
            active: Memtable::default(),
            active_since: Micros(0),
            frozen: None,
            dropped: desk.manifest.state.dropped.clone(),
            locals,
            cache: ValueCache::new(options.value_cache_bytes),
            damage: super::damage::DamagedRows::default(),
            index: desk.index.clone(),
            files,
            queries: VecDeque::new(),
            reads_in_flight: false,
            generation: 0,
            next_read: 0,
            finished_reads: Vec::new(),
            memory_reads: 0,
            disk_reads: 0,
            desk: None,
            urgent: Arc::default(),
            schedule: super::scheduling::Schedule::default(),
            events: Vec::new(),
            stats: Stats::default(),
            options,
        };
        store.begin_background(desk);
        Ok(Opened {
            store,
            replicas: recovered,
            report,
        })
    }
}

/// The state of a directory that has no manifest: it must have nothing else either.
fn fresh_state(disk: &dyn Disk, store: u128) -> Result<State, OpenError> {
    for dir in [LOG_DIR, VALUES_DIR] {
        let names = disk
            .list(dir)
            .map_err(OpenError::disk(format!("cannot list {dir}/")))?;
        let data = names
            .iter()
            .any(|name| name.starts_with("segment-") || dir == VALUES_DIR);
        if data {
            return Err(OpenError::Missing("the manifest".to_owned()));
        }
    }
    Ok(State {
        store,
        next_file: crate::FileNumber(1),
        log_start: crate::SegmentNumber(0),
        index: IndexState::default(),
        ..State::default()
    })
}

/// The logs as the manifest knows them, before the log itself is read.
fn groups_of(state: &State, groups: &mut Groups) {
    for (shard, replica) in &state.replicas {
        let mut group = GroupLog::new(replica.replica, replica.start);
        group.created = replica.created;
        group.damage.unknown = replica.lost_records;
        groups.groups.insert(*shard, group);
    }
}

/// Brings logs and applied entries together.
fn settle(state: &State, groups: &mut Groups) {
    let shards: Vec<_> = groups.groups.keys().copied().collect();
    for shard in shards {
        let Some(group) = groups.groups.get_mut(&shard) else {
            continue;
        };
        let known = state
            .replicas
            .get(&shard)
            .filter(|known| known.replica == group.replica);
        let applied = known.map_or(group.marker, |known| known.applied);
        let mut freed = 0;
        // A snapshot was installed, and the crash came before its marker: the log is empty there.
        let in_log = group.term(applied.index) == Some(applied.term);
        if applied.index >= group.start.index && !in_log {
            freed += group.reset_to(applied);
        }
        // What is damaged but applied is not needed here; slow followers get a snapshot.
        let done = group.damage.entries.iter().map(|(id, _)| *id);
        let done = done
            .filter(|id| id.index <= applied.index)
            .max_by_key(|id| id.index);
        if let Some(id) = done {
            freed += group.compact_to(id);
        }
        let last = group.last_index();
        let last_term = group.term(last).unwrap_or(0);
        let state = &mut group.hard_state;
        // Raft counts on commit ≥ applied, and on every committed entry being there.
        state.commit = state.commit.max(applied.index).min(last);
        if state.term < last_term {
            // Its hard state is lost, and the replica suspect; but raft must be able to load it.
            *state = HardState {
                term: last_term,
                vote: ReplicaId(0),
                commit: state.commit,
            };
        }
        groups.forget_cached(freed);
    }
}

/// Makes new damage of unknown extent durable: its place in the log will be gone one day.
fn lost_records(state: &State, view: &LogView) -> Vec<Edit> {
    let groups = view.lock();
    let damaged = groups.groups.iter().filter(|(shard, group)| {
        group.damage.unknown
            && state
                .replicas
                .get(shard)
                .is_some_and(|known| !known.lost_records)
    });
    damaged
        .map(|(shard, _)| Edit::LostRecords(*shard))
        .collect()
}

/// Opens what the manifest names, and removes what it does not.
fn open_files(
    disk: &dyn Disk,
    state: &State,
    report: &mut OpenReport,
) -> Result<FileTable, OpenError> {
    let names = disk
        .list(VALUES_DIR)
        .map_err(OpenError::disk("cannot list value files"))?;
    for name in names {
        let known = parse_name(&name).is_some_and(|number| state.files.contains_key(&number));
        if !known {
            // A checkpoint or a snapshot that never was.
            let path = format!("{VALUES_DIR}/{name}");
            disk.remove(&path)
                .map_err(OpenError::disk(format!("cannot remove {path}")))?;
        }
    }
    let files = FileTable::default();
    for (number, known) in &state.files {
        let path = value_path(*number);
        let file = match disk.open(&path, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Missing(path));
            }
            Err(source) => {
                return Err(OpenError::Disk {
                    what: format!("cannot open {path}"),
                    source,
                });
            }
        };
        let bytes = file
            .len()
            .map_err(OpenError::disk(format!("cannot open {path}")))?;
        if bytes != known.bytes {
            let what = format!("{path} has {bytes} bytes, it had {}", known.bytes);
            tracing::error!("{what}");
            report.damage.push(what);
        }
        files.insert(*number, file);
    }
    Ok(files)
}

/// Whether rows of a replica may be lost. Which user keys are its own is known from the threshold that
/// its shard has set; without one, all may be.
fn lost_rows(state: &State, shard: crate::ShardId, replica: ReplicaId) -> bool {
    let own = IndexKey::local_range(shard, replica);
    let all = KeyRange::all();
    let user = state
        .thresholds
        .get(&shard)
        .map_or(&all, |known| &known.range);
    let user = IndexKey::user_range(user);
    state
        .lost
        .iter()
        .any(|lost| lost.overlaps(&own) || lost.overlaps(&user))
}

type Replicas = BTreeMap<crate::ShardId, Replica>;

fn recovered_replicas(state: &State, view: &LogView) -> (Replicas, Vec<RecoveredReplica>) {
    let groups = view.lock();
    let mut replicas = BTreeMap::new();
    let mut recovered = Vec::new();
    for (shard, group) in &groups.groups {
        let known = state
            .replicas
            .get(shard)
            .filter(|known| known.replica == group.replica);
        let conf = match known {
            Some(known) => known.conf.clone(),
            None => group.conf.clone(),
        };
        let applied = known.map_or(group.marker, |known| known.applied);
        let last = group.last_index();
        replicas.insert(
            *shard,
            Replica {
                id: group.replica,
                conf: conf.clone(),
                applied,
                checkpointed: known.map_or(EntryId::ZERO, |known| known.applied),
                created: group.created,
                in_manifest: known.is_some(),
            },
        );
        let mut damage = group.damage.clone();
        damage.rows |= lost_rows(state, *shard, group.replica);
        recovered.push(RecoveredReplica {
            shard: *shard,
            replica: group.replica,
            hard_state: group.hard_state,
            conf,
            applied,
            last: EntryId::new(group.term(last).unwrap_or(0), last),
            damage,
        });
    }
    (replicas, recovered)
}
