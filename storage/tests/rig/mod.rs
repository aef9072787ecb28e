//! A node of one store, driven by hand: proposes, acknowledges after the sync, applies, crashes, and
//! compares everything with a model.
//!
//! Every shard has one replica, so that whatever the log has after a crash counts as committed: then
//! each acknowledged write must be there, and each other one must be there as a whole or not at all.

#![allow(dead_code, reason = "each test uses a part of the rig")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_storage::disk::{Disk, SimDisk, Survival};
use synod_storage::index::{IndexFactory, MemoryIndexFactory, Rot};
use synod_storage::{
    ConfState, Direction, Entry, EntryId, EntryKind, Event, Fatal, HardState, Job, JobStep,
    KeyRange, LogBatch, Lookup, Micros, NewestVersion, OpenConfig, OpenError, OpenReport, Options,
    ReadId, ReadResult, RecoveredReplica, ReplicaId, Scan, ScanPage, ScanRequest, ScanWhat,
    ShardId, SnapshotChunk, SnapshotHeader, Space, Store, Version, Write, WriteOp,
};

pub type Model = BTreeMap<(Space, Vec<u8>), Option<Vec<u8>>>;

/// A write of the rig: a row and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub space: Space,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    Change {
        space: Space::User,
        key: key.into(),
        value: Some(value.into()),
    }
}

pub fn delete(key: impl Into<Vec<u8>>) -> Change {
    Change {
        space: Space::User,
        key: key.into(),
        value: None,
    }
}

pub fn put_local(shard: u64, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    Change {
        space: Space::Local(ShardId(shard)),
        key: key.into(),
        value: Some(value.into()),
    }
}

/// Entry data: a version, then for each change space, lengths and bytes.
pub fn encode(version: u64, changes: &[Change]) -> Bytes {
    let mut out = version.to_le_bytes().to_vec();
    for change in changes {
        match change.space {
            Space::User => out.extend([0; 9]),
            Space::Local(shard) => {
                out.push(1);
                out.extend(shard.0.to_le_bytes());
            }
        }
        out.extend(u32::try_from(change.key.len()).unwrap().to_le_bytes());
        let value = change.value.as_deref();
        out.extend(
            value
                .map_or(u32::MAX, |v| u32::try_from(v.len()).unwrap())
                .to_le_bytes(),
        );
        out.extend(&change.key);
        out.extend(value.unwrap_or_default());
    }
    Bytes::from(out)
}

pub fn decode(entry: &Entry) -> Vec<Write> {
    let data = &entry.data;
    if data.is_empty() {
        return Vec::new();
    }
    let version = u64::from_le_bytes(data[..8].try_into().unwrap());
    let mut at = 8;
    let mut writes = Vec::new();
    while at < data.len() {
        let space = match data[at] {
            0 => Space::User,
            _ => Space::Local(ShardId(u64::from_le_bytes(
                data[at + 1..at + 9].try_into().unwrap(),
            ))),
        };
        let key_len = u32::from_le_bytes(data[at + 9..at + 13].try_into().unwrap()) as usize;
        let value_len = u32::from_le_bytes(data[at + 13..at + 17].try_into().unwrap());
        at += 17;
        let key = data.slice(at..at + key_len);
        at += key_len;
        let op = if value_len == u32::MAX {
            WriteOp::Delete
        } else {
            let value = data.slice(at..at + value_len as usize);
            at += value_len as usize;
            WriteOp::Put(value)
        };
        let version = match space {
            Space::User => Version(version),
            Space::Local(_) => Version(entry.id.index),
        };
        writes.push(Write {
            space,
            key,
            version,
            op,
        });
    }
    writes
}

/// What the rig opens stores on.
pub enum Ground {
    Sim {
        disk: SimDisk,
        index: MemoryIndexFactory,
    },
    Real {
        disk: Arc<dyn Disk>,
        index: Box<dyn Fn() -> Box<dyn IndexFactory>>,
    },
}

pub struct Rig {
    pub ground: Ground,
    pub options: Options,
    pub boot: u128,
    pub store: Store,
    pub replicas: Vec<RecoveredReplica>,
    pub report: OpenReport,
    pub version: u64,
    pub now: u64,
    /// What readers must see.
    pub model: Model,
    /// Changes that were submitted and not acknowledged: they may turn up after a crash.
    pub unacknowledged: Vec<(ShardId, u64, Vec<Change>)>,
    pub events: Vec<Event>,
    pub term: u64,
}

pub const SHARD: ShardId = ShardId(1);
pub const REPLICA: ReplicaId = ReplicaId(11);

pub fn conf() -> ConfState {
    ConfState {
        voters: vec![REPLICA],
        ..ConfState::default()
    }
}

pub fn open_on(
    ground: &Ground,
    options: &Options,
    boot: u128,
) -> Result<synod_storage::Opened, OpenError> {
    open_named(ground, options, boot, 7)
}

/// Opens a store; should it be a fresh one, under this name.
pub fn open_named(
    ground: &Ground,
    options: &Options,
    boot: u128,
    fresh_store: u128,
) -> Result<synod_storage::Opened, OpenError> {
    let (disk, index): (Arc<dyn Disk>, Box<dyn IndexFactory>) = match ground {
        Ground::Sim { disk, index } => (Arc::new(disk.clone()), Box::new(index.clone())),
        Ground::Real { disk, index } => (Arc::clone(disk), index()),
    };
    let config = OpenConfig {
        disk,
        index,
        options: options.clone(),
        boot,
        fresh_store,
    };
    Store::open(config, &mut |_| ())
}

impl Rig {
    pub fn sim(seed: u64) -> Self {
        Self::sim_with(seed, Options::tiny())
    }

    pub fn sim_with(seed: u64, options: Options) -> Self {
        let ground = Ground::Sim {
            disk: SimDisk::new(seed),
            index: MemoryIndexFactory::new(),
        };
        Self::on(ground, options)
    }

    pub fn sim_named(seed: u64, name: u128) -> Self {
        let ground = Ground::Sim {
            disk: SimDisk::new(seed),
            index: MemoryIndexFactory::new(),
        };
        Self::on_named(ground, Options::tiny(), name)
    }

    pub fn on(ground: Ground, options: Options) -> Self {
        Self::on_named(ground, options, 7)
    }

    pub fn on_named(ground: Ground, options: Options, name: u128) -> Self {
        let opened = open_named(&ground, &options, 1, name).expect("a fresh store opens");
        let mut rig = Self {
            ground,
            options,
            boot: 1,
            store: opened.store,
            replicas: opened.replicas,
            report: opened.report,
            version: 0,
            now: 0,
            model: Model::new(),
            unacknowledged: Vec::new(),
            events: Vec::new(),
            term: 1,
        };
        rig.create(SHARD, REPLICA)
            .expect("a replica can be created");
        rig
    }

    pub fn disk(&self) -> &SimDisk {
        match &self.ground {
            Ground::Sim { disk, .. } => disk,
            Ground::Real { .. } => panic!("a real disk has no faults to inject"),
        }
    }

    pub fn index(&self) -> &MemoryIndexFactory {
        match &self.ground {
            Ground::Sim { index, .. } => index,
            Ground::Real { .. } => panic!("a real index has no faults to inject"),
        }
    }

    pub fn create(&mut self, shard: ShardId, replica: ReplicaId) -> Result<(), Fatal> {
        let mut batch = LogBatch::new();
        let conf = ConfState {
            voters: vec![replica],
            ..ConfState::default()
        };
        batch.create_replica(shard, replica, EntryId::ZERO, conf);
        let sequence = self.store.submit(batch);
        self.run()?;
        assert!(self.store.synced() >= sequence);
        Ok(())
    }

    /// Runs all jobs and collects events.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let outcome = self.store.run_jobs();
        self.store.take_events(&mut self.events);
        outcome
    }

    /// Overwrites few keys many times, with the threshold close behind.
    pub fn churn(&mut self, seed: u64, rounds: usize) {
        let mut rng = rng(seed);
        for _ in 0..rounds {
            let key = format!("key-{:03}", rng.random_range(0..50));
            let value: Vec<u8> = (0..rng.random_range(100..900))
                .map(|_| rng.random())
                .collect();
            self.write(vec![put(key, value)]).unwrap();
            let threshold = Version(self.version);
            self.store.set_threshold(SHARD, KeyRange::all(), threshold);
        }
    }

    /// Lets time pass until there is such an event, and takes it.
    pub fn wait_for(&mut self, what: impl Fn(&Event) -> bool) -> Event {
        for _ in 0..300 {
            if let Some(at) = self.events.iter().position(&what) {
                return self.events.remove(at);
            }
            self.pass(10).unwrap();
        }
        panic!("the event never comes");
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) -> Result<(), Fatal> {
        for _ in 0..ms.div_ceil(10) {
            self.now += 10_000;
            self.store.tick(Micros(self.now));
            self.run()?;
        }
        Ok(())
    }

    pub fn next_entry(&mut self, shard: ShardId, changes: &[Change]) -> Entry {
        self.version += 1;
        let index = self.store.log().last_index(shard).unwrap() + 1;
        Entry {
            id: EntryId::new(self.term, index),
            kind: EntryKind::Normal,
            data: encode(self.version, changes),
        }
    }

    /// Submits an entry; it is neither synced nor applied.
    pub fn submit(&mut self, shard: ShardId, changes: Vec<Change>) -> Entry {
        let entry = self.next_entry(shard, &changes);
        let replica = self.store.replica(shard).unwrap();
        let mut batch = LogBatch::new();
        let state = HardState {
            term: self.term,
            vote: replica,
            commit: entry.id.index - 1,
        };
        batch.hard_state(shard, replica, state);
        batch.entries(shard, replica, std::slice::from_ref(&entry));
        self.store.submit(batch);
        self.unacknowledged.push((shard, entry.id.index, changes));
        entry
    }

    /// Writes, syncs, acknowledges, applies.
    pub fn write(&mut self, changes: Vec<Change>) -> Result<(), Fatal> {
        self.write_to(SHARD, changes)
    }

    pub fn write_to(&mut self, shard: ShardId, changes: Vec<Change>) -> Result<(), Fatal> {
        let entry = self.submit(shard, changes);
        self.run()?;
        self.apply_entry(shard, &entry);
        self.run()
    }

    pub fn apply_entry(&mut self, shard: ShardId, entry: &Entry) {
        self.store.apply(shard, entry.id, &decode(entry));
        let at = self
            .unacknowledged
            .iter()
            .position(|(s, index, _)| *s == shard && *index == entry.id.index);
        if let Some(at) = at {
            let (_, _, changes) = self.unacknowledged.remove(at);
            for change in changes {
                self.model.insert((change.space, change.key), change.value);
            }
        }
    }

    /// A snapshot of a shard whose rows fit into one chunk.
    pub fn exported(&mut self, shard: ShardId) -> (SnapshotHeader, SnapshotChunk) {
        let export = self.store.export(shard, KeyRange::all());
        let ready = self.wait_for(|event| matches!(event, Event::ExportReady { .. }));
        let Event::ExportReady { header, .. } = ready else {
            unreachable!("just matched")
        };
        self.store.export_chunk(export, 0);
        let sent = self.wait_for(|event| matches!(event, Event::ExportChunk { .. }));
        let Event::ExportChunk { chunk, .. } = sent else {
            unreachable!("just matched")
        };
        assert!(chunk.last, "the shard is small");
        (header, chunk)
    }

    /// Opens again after the process died.
    pub fn kill(&mut self) {
        self.die();
        self.reopen().expect("a killed node opens");
    }

    /// The process dies, its index somewhere between two of its changes.
    pub fn die(&mut self) {
        if let Ground::Sim { disk, index } = &mut self.ground {
            *disk = disk.kill();
            index.rot(Rot::Cut(
                self.version.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
            ));
        }
    }

    /// Opens again after the machine lost its power.
    pub fn power_loss(&mut self, survival: Survival, rot: Rot) {
        self.cut_power(survival, rot);
        self.reopen().expect("a node opens after a power cut");
    }

    pub fn cut_power(&mut self, survival: Survival, rot: Rot) {
        self.boot += 1;
        if let Ground::Sim { disk, index } = &mut self.ground {
            *disk = disk.power_loss(survival);
            index.rot(rot);
        }
    }

    /// Opens the store again and replays the log. Unacknowledged entries that are in the log count.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        // The old store goes first, as its process did.
        let opened = open_on(&self.ground, &self.options, self.boot)?;
        self.store = opened.store;
        self.replicas = opened.replicas;
        self.report = opened.report;
        self.replay();
        Ok(())
    }

    pub fn replay(&mut self) {
        self.term += 1;
        for replica in self.replicas.clone() {
            if !replica.damage.is_none() {
                continue;
            }
            let mut next = replica.applied.index + 1;
            while next <= replica.last.index {
                for entry in self.entries(replica.shard, next, replica.last.index + 1) {
                    self.apply_entry(replica.shard, &entry);
                    self.version = self.version.max(version_of(&entry));
                    next = entry.id.index + 1;
                }
            }
            // What the checkpoint had already: its entries are applied, too.
            let applied = replica.last.index;
            let (done, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unacknowledged)
                .into_iter()
                .partition(|(shard, index, _)| *shard == replica.shard && *index <= applied);
            assert!(
                done.is_empty(),
                "an entry was applied that was never submitted to apply"
            );
            self.unacknowledged = lost
                .into_iter()
                .filter(|(shard, _, _)| *shard != replica.shard)
                .collect();
        }
        self.unacknowledged.clear();
    }

    /// Reads entries of the log, fetching them from disk if need be.
    pub fn entries(&mut self, shard: ShardId, lo: u64, hi: u64) -> Vec<Entry> {
        for _ in 0..100 {
            match self.store.log().entries(shard, lo, hi, 1 << 20) {
                Ok(entries) => return entries,
                Err(synod_storage::LogError::Temporarily) => {
                    self.store.fetch(shard, lo, hi);
                    self.run().expect("a fetch is not fatal");
                }
                Err(error) => panic!("entries {lo}..{hi} of shard {shard}: {error}"),
            }
        }
        panic!("entries {lo}..{hi} of shard {shard} never come")
    }

    pub fn finish(&mut self, read: ReadId) -> ReadResult {
        let mut reads = Vec::new();
        for _ in 0..100 {
            self.run().expect("reads are not fatal");
            self.store.take_reads(&mut reads);
            if let Some(at) = reads.iter().position(|(id, _)| *id == read) {
                return reads.swap_remove(at).1;
            }
        }
        panic!("read {read} never comes back")
    }

    pub fn get(&mut self, space: Space, key: &[u8]) -> ReadResult {
        self.get_at(space, key, Version::MAX)
    }

    pub fn get_at(&mut self, space: Space, key: &[u8], at: Version) -> ReadResult {
        match self.store.get(space, key, at) {
            Lookup::Found { version, value } => ReadResult::Found { version, value },
            Lookup::Absent { deleted_at } => ReadResult::Absent { deleted_at },
            Lookup::Pending(read) => self.finish(read),
        }
    }

    pub fn value(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        value_in(&self.get(Space::User, key))
    }

    pub fn newest(&mut self, key: &[u8]) -> Option<Version> {
        match self.store.newest_version(Space::User, key) {
            NewestVersion::Known(version) => version,
            NewestVersion::Pending(read) => match self.finish(read) {
                ReadResult::Newest(version) => version,
                other => panic!("unexpected {other:?}"),
            },
        }
    }

    pub fn scan(&mut self, request: ScanRequest) -> ScanPage {
        match self.store.scan(request) {
            Scan::Ready(page) => page,
            Scan::Pending(read) => match self.finish(read) {
                ReadResult::Page(page) => page,
                other => panic!("unexpected {other:?}"),
            },
        }
    }

    /// All rows of a range, page by page.
    pub fn scan_all(
        &mut self,
        space: Space,
        rows_max: usize,
        direction: Direction,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut range = Some(KeyRange::all());
        while let Some(next) = range {
            let page = self.scan(ScanRequest {
                space,
                range: next,
                at: Version::MAX,
                direction,
                what: ScanWhat::Values,
                rows_max,
                bytes_max: 1 << 20,
            });
            assert!(page.rows.len() <= rows_max);
            rows.extend(page.rows.into_iter().map(|row| {
                (
                    row.key.to_vec(),
                    row.value.expect("values were asked for").to_vec(),
                )
            }));
            range = page.rest;
        }
        rows
    }

    /// Everything is as the model says, by point reads and by scans both ways.
    pub fn check(&mut self) {
        let model = self.model.clone();
        for ((space, key), expected) in &model {
            let read = self.get(*space, key);
            assert_eq!(
                value_in(&read),
                *expected,
                "{space:?} {:?}",
                String::from_utf8_lossy(key)
            );
        }
        let expected: Vec<(Vec<u8>, Vec<u8>)> = model
            .iter()
            .filter(|((space, _), _)| *space == Space::User)
            .filter_map(|((_, key), value)| Some((key.clone(), value.clone()?)))
            .collect();
        let forward = self.scan_all(Space::User, 7, Direction::Forward);
        assert_eq!(forward, expected);
        let mut reverse = self.scan_all(Space::User, 5, Direction::Reverse);
        reverse.reverse();
        assert_eq!(reverse, expected);
    }

    /// What is there stays there when the power fails, and with the index gone.
    pub fn check_with_power_loss(&mut self) {
        self.check();
        self.power_loss(Survival::Nothing, Rot::Gone);
        self.check();
    }

    /// As [`Rig::check`], point reads only.
    pub fn check_user(&mut self) {
        let model = self.model.clone();
        for ((space, key), expected) in &model {
            let read = self.get(*space, key);
            assert_eq!(
                value_in(&read),
                *expected,
                "{space:?} {:?}",
                String::from_utf8_lossy(key)
            );
        }
    }

    pub fn dismantle(self) -> (Ground, u128) {
        (self.ground, self.boot)
    }
}

pub fn version_of(entry: &Entry) -> u64 {
    entry
        .data
        .get(..8)
        .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

pub fn value_in(read: &ReadResult) -> Option<Vec<u8>> {
    match read {
        ReadResult::Found { value, .. } => Some(value.to_vec()),
        ReadResult::Absent { .. } => None,
        other => panic!("unexpected {other:?}"),
    }
}

/// Random changes over few keys, so that they meet.
pub fn random_changes(rng: &mut SmallRng) -> Vec<Change> {
    let count = rng.random_range(1..5);
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..count {
        let key = format!("key-{:03}", rng.random_range(0..60));
        let change = match rng.random_range(0..10) {
            0..7 => {
                let length = rng.random_range(0..600);
                put(key, (0..length).map(|_| rng.random()).collect::<Vec<u8>>())
            }
            7..9 => delete(key),
            _ => put_local(SHARD.0, key, vec![rng.random(); 20]),
        };
        if !changes
            .iter()
            .any(|known| known.space == change.space && known.key == change.key)
        {
            changes.push(change);
        }
    }
    changes
}

pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// Steps a job to its end.
pub fn run_job(job: &mut Job) {
    while job.step() == JobStep::Again {}
}
