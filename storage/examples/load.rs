//! Loads a store on real files and measures it: `load DIR [PUTS] [KEYS] [KEPT]`, 1 KiB incompressible
//! values; versions are kept for KEPT puts.
//!
//! Prints CPU per put by thread, checkpoint debt, bytes written, memory, the times of a restart, of a
//! restart with the index rebuilt, and of point reads. Run it in release.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_storage::disk::RealDisk;
use synod_storage::driver::Driver;
use synod_storage::index::SledIndexFactory;
use synod_storage::{
    ConfState, Entry, EntryId, EntryKind, Event, HardState, Job, KeyRange, LogBatch, Lookup,
    Micros, OpenConfig, Opened, Options, Pressure, ReplicaId, ShardId, Space, Store, Version,
    Write, WriteOp,
};

const SHARD: ShardId = ShardId(1);
const REPLICA: ReplicaId = ReplicaId(1);

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

/// CPU seconds of each thread so far.
fn cpu_by_thread() -> Vec<(String, f64)> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let ticks: f64 = [11, 12]
            .iter()
            .filter_map(|at| fields[*at].parse::<f64>().ok())
            .sum();
        threads.push((name, ticks / 100.0));
    }
    threads
}

fn open(dir: &str, boot: u128) -> Opened {
    let config = OpenConfig {
        disk: Arc::new(RealDisk::open(dir).expect("a directory")),
        index: Box::new(SledIndexFactory::new(format!("{dir}/index"), 32 << 20)),
        options: Options::default(),
        boot,
        fresh_store: 1,
    };
    Store::open(config, &mut |_| ()).expect("the store opens")
}

struct Loop {
    store: Store,
    driver: Driver,
    jobs: Vec<Job>,
    wakes: std::sync::mpsc::Receiver<()>,
    begun: Instant,
}

impl Loop {
    fn new(store: Store) -> Self {
        let (sender, wakes) = std::sync::mpsc::channel();
        let driver = Driver::start(move || {
            let _ = sender.send(());
        })
        .expect("threads");
        Self {
            store,
            driver,
            jobs: Vec::new(),
            wakes,
            begun: Instant::now(),
        }
    }

    fn turn(&mut self, wait: Duration) {
        self.store.take_jobs(&mut self.jobs);
        self.driver.submit(&mut self.jobs);
        let _ = self.wakes.recv_timeout(wait);
        while self.wakes.try_recv().is_ok() {}
        self.driver.finished(&mut self.jobs);
        for job in self.jobs.drain(..) {
            self.store.complete(job).expect("not fatal");
        }
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.store.tick(Micros(now));
        self.store.take_jobs(&mut self.jobs);
        self.driver.submit(&mut self.jobs);
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("load DIR [PUTS] [KEYS] [KEPT]");
    let mut number = |or: u64| args.next().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (puts, keys, kept) = (number(1 << 20), number(1 << 20), number(1_000));
    let mut out = std::io::stdout();
    let mut rng = SmallRng::seed_from_u64(1);

    let mut node = Loop::new(open(&dir, 1).store);
    for _ in 0..20 {
        node.turn(Duration::from_millis(20));
    }
    let _ = writeln!(out, "fresh: {} MiB resident", resident_mib());
    if node.store.replica(SHARD).is_none() {
        let mut batch = LogBatch::new();
        batch.create_replica(SHARD, REPLICA, EntryId::ZERO, ConfState::default());
        node.store.submit(batch);
    }
    let begun = Instant::now();
    let mut version = 0;
    let mut apply_time = Duration::ZERO;
    let mut slowed = Duration::ZERO;
    let mut noise = vec![0u8; 1 << 20];
    rng.fill(&mut noise[..]);
    while version < puts {
        let mut batch = LogBatch::new();
        let mut entries = Vec::new();
        let index = node.store.applied(SHARD).map_or(0, |id| id.index);
        for n in 0..23u64 {
            version += 1;
            let key = if puts == keys {
                version
            } else {
                rng.random_range(0..keys)
            };
            let mut data = Vec::with_capacity(1_060);
            data.extend(format!("user{key:016}").into_bytes());
            let at = rng.random_range(0..noise.len() - 1024);
            data.extend_from_slice(&noise[at..at + 1024]);
            data[30..38].copy_from_slice(&rng.random::<u64>().to_le_bytes());
            entries.push(Entry {
                id: EntryId::new(1, index + 1 + n),
                kind: EntryKind::Normal,
                data: Bytes::from(data),
            });
        }
        batch.hard_state(
            SHARD,
            REPLICA,
            HardState {
                term: 1,
                vote: REPLICA,
                commit: index,
            },
        );
        batch.entries(SHARD, REPLICA, &entries);
        let sequence = node.store.submit(batch);
        while node.store.synced() < sequence {
            node.turn(Duration::from_millis(100));
        }
        let first = version - 22;
        let applying = Instant::now();
        for (n, entry) in (0..).zip(&entries) {
            let write = Write {
                space: Space::User,
                key: entry.data.slice(..20),
                version: Version(first + n),
                op: WriteOp::Put(entry.data.slice(20..)),
            };
            node.store
                .apply(SHARD, entry.id, std::slice::from_ref(&write));
        }
        apply_time += applying.elapsed();
        node.store.set_threshold(
            SHARD,
            KeyRange::all(),
            Version(version.saturating_sub(kept)),
        );
        while let Pressure::Slow { delay_us } = node.store.pressure() {
            let wait = Duration::from_micros(u64::from(delay_us));
            let slow = Instant::now();
            node.turn(wait);
            slowed += slow.elapsed();
            if delay_us < 1_000 {
                break;
            }
        }
    }
    let elapsed = begun.elapsed();
    let stats = node.store.stats();
    let per = |seconds: f64| seconds * 1e6 / version as f64;
    let _ = writeln!(
        out,
        "{version} puts in {elapsed:.1?}: {:.0}/s, apply {:.2} µs, slowed {slowed:.1?}, debt {} KiB",
        version as f64 / elapsed.as_secs_f64(),
        per(apply_time.as_secs_f64()),
        stats.memtable_bytes / 1024,
    );
    for (name, seconds) in cpu_by_thread() {
        if per(seconds) >= 0.05 {
            let _ = writeln!(out, "  {name}: {:.2} µs CPU per put", per(seconds));
        }
    }
    let _ = writeln!(out, "{stats:?}");
    let _ = writeln!(out, "loaded: {} MiB resident", resident_mib());

    let reads = 200_000.min(version);
    let begun = Instant::now();
    let mut pending = 0;
    let mut results = Vec::new();
    for _ in 0..reads {
        let key = format!("user{:016}", rng.random_range(1..=keys));
        if let Lookup::Pending(_) = node.store.get(Space::User, key.as_bytes(), Version::MAX) {
            pending += 1;
        }
        while pending >= 128 {
            node.turn(Duration::from_millis(100));
            node.store.take_reads(&mut results);
            pending -= results.drain(..).count();
        }
    }
    let _ = writeln!(
        out,
        "{reads} gets: {:.2} µs each; {} MiB resident",
        begun.elapsed().as_secs_f64() * 1e6 / reads as f64,
        resident_mib()
    );
    // As a kill leaves it: nothing is stopped.
    let Loop { store, driver, .. } = node;
    drop(driver);
    drop(store);
    for (boot, what) in [
        (1, "restart after a kill"),
        (2, "restart after a power cut"),
    ] {
        let begun = Instant::now();
        let opened = open(&dir, boot);
        let rebuilt = opened.report.index_rebuilt.clone();
        let _ = writeln!(out, "{what}: {:.2?}, rebuilt: {rebuilt:?}", begun.elapsed());
        let _ = writeln!(out, "  {} MiB resident", resident_mib());
    }
    let mut node = Loop::new(open(&dir, 2).store);
    let last = node.store.log().last_index(SHARD).expect("the replica");
    let _ = writeln!(
        out,
        "last index {last}, applied {:?}",
        node.store.applied(SHARD)
    );
    node.store.stop();
    let begun = Instant::now();
    let mut events = Vec::new();
    while !events.contains(&Event::Stopped) {
        node.turn(Duration::from_millis(10));
        node.store.take_events(&mut events);
    }
    let _ = writeln!(out, "stop: {:.2?}", begun.elapsed());
    drop(node);
    let begun = Instant::now();
    let opened = open(&dir, 3);
    let _ = writeln!(
        out,
        "restart after a stop: {:.2?}, clean {}, rebuilt {:?}",
        begun.elapsed(),
        opened.report.clean,
        opened.report.index_rebuilt
    );
}
