//! The same promises on real files, with sled and with threads.

mod directory;
mod rig;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::Directory;
use rand::Rng;
use rig::{Ground, Rig, SHARD, put, put_local, random_changes, rng};
use synod_storage::disk::RealDisk;
use synod_storage::driver::Driver;
use synod_storage::index::{Index, IndexFactory, MemoryIndexFactory, SledIndexFactory, Tree};
use synod_storage::{Direction, Event, KeyRange, Options, ReadResult, Space, Version};

fn ground(path: &Path) -> Ground {
    let index = path.join("index");
    Ground::Real {
        disk: Arc::new(RealDisk::open(path).unwrap()),
        index: Box::new(move || Box::new(SledIndexFactory::new(&index, 4 << 20))),
    }
}

/// Lets the store go, as a process does that ends, and opens it again.
fn reopen(rig: Rig, path: &Path) -> Rig {
    let Rig {
        options,
        boot,
        model,
        version,
        now,
        term,
        store,
        ..
    } = rig;
    drop(store);
    let opened = rig::open_on(&ground(path), &options, boot).unwrap();
    let mut rig = Rig {
        ground: ground(path),
        options,
        boot,
        store: opened.store,
        replicas: opened.replicas,
        report: opened.report,
        version,
        now,
        model,
        unacknowledged: Vec::new(),
        events: Vec::new(),
        term,
    };
    rig.replay();
    rig
}

#[test]
fn the_store_keeps_its_promises_on_real_files() {
    let directory = Directory::new("promises");
    let mut rig = Rig::on(ground(&directory.0), Options::tiny());
    let mut rng = rng(1);
    for round in 0..6 {
        for _ in 0..60 {
            rig.write(random_changes(&mut rng)).unwrap();
            let threshold = Version(rig.version.saturating_sub(20));
            rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
        }
        rig.check();
        if round % 2 == 0 {
            rig.store.stop();
            rig.run().unwrap();
            assert!(rig.events.contains(&Event::Stopped));
            rig.boot += 1;
        }
        rig = reopen(rig, &directory.0);
        assert_eq!(rig.report.clean, round % 2 == 0);
        assert_eq!(rig.report.index_rebuilt, None, "round {round}");
        assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
        rig.check();
    }
    assert!(rig.store.stats().value_files > 0);
}

#[test]
fn a_damaged_or_emptied_sled_directory_is_rebuilt_and_nothing_lost() {
    for damage in 0..4 {
        let directory = Directory::new(&format!("sled-{damage}"));
        let mut rig = Rig::on(ground(&directory.0), Options::tiny());
        let mut rng = rng(damage);
        for _ in 0..80 {
            rig.write(random_changes(&mut rng)).unwrap();
        }
        rig.write(vec![put_local(SHARD.0, "own", "row")]).unwrap();
        rig.store.checkpoint();
        rig.run().unwrap();
        let Rig {
            options,
            boot,
            model,
            version,
            now,
            term,
            store,
            ..
        } = rig;
        drop(store);
        let index = directory.0.join("index");
        let db = index.join("db");
        match damage {
            0 => std::fs::remove_dir_all(&index).unwrap(),
            1 => {
                let bytes = std::fs::read(&db).unwrap();
                std::fs::write(&db, &bytes[..bytes.len() / 3]).unwrap();
            }
            2 => {
                let mut bytes = std::fs::read(&db).unwrap();
                for _ in 0..2_000 {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 0x55;
                }
                std::fs::write(&db, bytes).unwrap();
            }
            _ => std::fs::write(&db, vec![0; 10_000]).unwrap(),
        }
        let opened = rig::open_on(&ground(&directory.0), &options, boot).unwrap();
        let mut rig = Rig {
            ground: ground(&directory.0),
            options,
            boot,
            store: opened.store,
            replicas: opened.replicas,
            report: opened.report,
            version,
            now,
            model,
            unacknowledged: Vec::new(),
            events: Vec::new(),
            term,
        };
        rig.replay();
        assert!(rig.report.index_rebuilt.is_some(), "damage {damage}");
        rig.check();
    }
}

#[test]
fn jobs_run_on_threads_and_wake_the_loop() {
    let directory = Directory::new("driver");
    let mut rig = Rig::on(ground(&directory.0), Options::tiny());
    let (sender, wakes) = std::sync::mpsc::channel();
    let driver = Driver::start(move || {
        let _ = sender.send(());
    })
    .unwrap();
    let mut jobs = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    for n in 0..120u32 {
        let entry = rig.submit(
            SHARD,
            vec![put(format!("k-{:03}", n % 70), vec![n as u8; 800])],
        );
        let target = n as u64;
        loop {
            rig.store.take_jobs(&mut jobs);
            driver.submit(&mut jobs);
            let synced = rig.store.synced();
            if synced.0 > target {
                break;
            }
            assert!(Instant::now() < deadline, "the log thread never finishes");
            let _ = wakes.recv_timeout(Duration::from_millis(100));
            driver.finished(&mut jobs);
            for job in jobs.drain(..) {
                rig.store.complete(job).unwrap();
            }
        }
        rig.apply_entry(SHARD, &entry);
    }
    // Give back what is still out, then look at everything.
    while let Some(job) = driver.wait(Duration::from_millis(500)) {
        rig.store.complete(job).unwrap();
        rig.store.take_jobs(&mut jobs);
        driver.submit(&mut jobs);
    }
    rig.run().unwrap();
    rig.check();
    drop(driver);
}

#[test]
fn an_unwritable_directory_is_named() {
    let file = Directory::new("not-a-directory");
    std::fs::write(&file.0, b"x").unwrap();
    let error = RealDisk::open(&file.0).unwrap_err().to_string();
    assert!(error.contains("not-a-directory"), "{error}");
    std::fs::remove_file(&file.0).unwrap();
}

/// Two indexes, the same calls, the same answers.
#[test]
fn sled_and_memory_are_the_same_map() {
    for seed in 0..5 {
        let directory = Directory::new(&format!("twins-{seed}"));
        let mut sled = SledIndexFactory::new(directory.0.join("index"), 4 << 20);
        let mut memory = MemoryIndexFactory::new();
        let mut indexes: Vec<Arc<dyn Index>> = vec![sled.open().unwrap(), memory.open().unwrap()];
        let mut rng = rng(seed);
        for _ in 0..700 {
            let tree = [Tree::Newest, Tree::History, Tree::Stamp][rng.random_range(0..3)];
            let mut key = || -> Vec<u8> {
                let length = rng.random_range(0..4);
                (0..length)
                    .map(|_| [0, 1, b'a', 255][rng.random_range(0..4)])
                    .collect()
            };
            let (key, other) = (key(), key());
            match rng.random_range(0..20) {
                0..10 => {
                    let value: Vec<u8> =
                        (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
                    for index in &indexes {
                        index.insert(tree, &key, &value).unwrap();
                    }
                }
                10..12 => {
                    for index in &indexes {
                        index.remove(tree, &key).unwrap();
                    }
                }
                12..15 => {
                    let gets = indexes.iter().map(|index| index.get(tree, &key).unwrap());
                    let gets: Vec<_> = gets.collect();
                    assert_eq!(gets[0], gets[1]);
                }
                15..20 if rng.random_bool(0.96) => {
                    let end = rng.random_bool(0.8).then_some(other.as_slice());
                    let direction = if rng.random() {
                        Direction::Forward
                    } else {
                        Direction::Reverse
                    };
                    let limit = rng.random_range(1..20);
                    let walks = indexes.iter().map(|index| {
                        let mut rows = Vec::new();
                        let mut visit = |key: &[u8], value: &[u8]| {
                            rows.push((key.to_vec(), value.to_vec()));
                            if rows.len() == limit {
                                std::ops::ControlFlow::Break(())
                            } else {
                                std::ops::ControlFlow::Continue(())
                            }
                        };
                        index.range(tree, &key, end, direction, &mut visit).unwrap();
                        rows
                    });
                    let walks: Vec<_> = walks.collect();
                    assert_eq!(walks[0], walks[1], "seed {seed}");
                }
                _ => {
                    for index in &indexes {
                        index.sync().unwrap();
                    }
                    indexes.clear();
                    indexes.extend([sled.open().unwrap(), memory.open().unwrap()]);
                }
            }
        }
    }
}

#[test]
fn a_cut_and_flipped_real_value_file_is_noticed() {
    let directory = Directory::new("rot");
    let mut rig = Rig::on(ground(&directory.0), Options::tiny());
    for n in 0..50u8 {
        rig.write(vec![put(format!("k-{n:02}"), vec![n; 200])])
            .unwrap();
    }
    rig.store.checkpoint();
    rig.run().unwrap();
    let file = std::fs::read_dir(directory.0.join("values"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[2_500] ^= 1;
    std::fs::write(file.path(), bytes).unwrap();
    rig = reopen(rig, &directory.0);
    let damaged = (0..50u8)
        .filter(|n| {
            let read = rig.get(Space::User, format!("k-{n:02}").as_bytes());
            matches!(read, ReadResult::Damaged(_))
        })
        .count();
    assert_eq!(damaged, 1);
}
