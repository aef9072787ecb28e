//! What the background does over time: reclaim, trimming, history, deletes, drops, snapshots, stops,
//! full disks, rot.

mod rig;

use bytes::Bytes;
use rand::Rng;
use rig::{Change, REPLICA, Rig, SHARD, delete, put, put_local, rng};
use synod_storage::disk::{Disk, Fault, Survival};
use synod_storage::index::Rot;
use synod_storage::{
    Event, KeyRange, LogBatch, Lookup, Options, Pressure, ReadResult, ReplicaId, ShardId,
    SnapshotHeader, Space, TransferId, Version, WriteOp, entry_checksum,
};

/// Overwrites few keys many times, with the threshold close behind.
fn churn(rig: &mut Rig, seed: u64, rounds: usize) {
    let mut rng = rng(seed);
    for _ in 0..rounds {
        let key = format!("key-{:03}", rng.random_range(0..50));
        let value: Vec<u8> = (0..rng.random_range(100..900))
            .map(|_| rng.random())
            .collect();
        rig.write(vec![put(key, value)]).unwrap();
        let threshold = Version(rig.version);
        rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
    }
}

fn wait_for(rig: &mut Rig, what: impl Fn(&Event) -> bool) -> Event {
    for _ in 0..300 {
        if let Some(at) = rig.events.iter().position(&what) {
            return rig.events.remove(at);
        }
        rig.pass(10).unwrap();
    }
    panic!("the event never comes");
}

#[test]
fn overwritten_data_is_reclaimed_and_the_log_trimmed() {
    let mut rig = Rig::sim(1);
    churn(&mut rig, 1, 2_000);
    rig.store.checkpoint();
    rig.pass(200).unwrap();
    let stats = rig.store.stats();
    assert!(stats.reclaims > 0);
    assert!(stats.checkpoints > 5);
    // Fifty keys of half a kilobyte, twice over at most, and a footer for each.
    assert!(stats.value_bytes < 120_000, "{stats:?}");
    assert!(
        stats.log_bytes <= 4 * rig.options.segment_bytes,
        "{stats:?}"
    );
    rig.check();
    rig.kill();
    rig.check();
    rig.power_loss(Survival::Nothing, Rot::Gone);
    rig.check();
}

#[test]
fn deletes_go_when_nothing_is_left_to_hide() {
    let mut rig = Rig::sim(2);
    for key in 0..600 {
        rig.write(vec![put(format!("key-{key:04}"), vec![1; 100])])
            .unwrap();
    }
    for key in 0..600 {
        rig.write(vec![delete(format!("key-{key:04}"))]).unwrap();
        let threshold = Version(rig.version);
        rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
    }
    rig.store.checkpoint();
    rig.pass(500).unwrap();
    let stats = rig.store.stats();
    assert!(stats.value_bytes < 30_000, "{stats:?}");
    rig.check();
    rig.power_loss(Survival::Nothing, Rot::Gone);
    rig.check();
}

#[test]
fn history_is_kept_above_the_threshold_and_goes_below_it() {
    let mut rig = Rig::sim(3);
    let mut versions = Vec::new();
    for round in 0..30u8 {
        rig.write(vec![put("k", vec![round; 50])]).unwrap();
        versions.push(rig.version);
        if round % 4 == 0 {
            rig.store.checkpoint();
            rig.run().unwrap();
        }
    }
    let check = |rig: &mut Rig| {
        for (round, version) in (0u8..).zip(&versions) {
            let read = rig.get_at(Space::User, b"k", Version(*version));
            let expected = Bytes::from(vec![round; 50]);
            assert_eq!(
                read,
                ReadResult::Found {
                    version: Version(*version),
                    value: expected
                }
            );
        }
        let before = rig.get_at(Space::User, b"k", Version(versions[0] - 1));
        assert_eq!(before, ReadResult::Absent { deleted_at: None });
    };
    check(&mut rig);
    rig.kill();
    check(&mut rig);
    rig.power_loss(Survival::Nothing, Rot::Torn);
    check(&mut rig);
    rig.store
        .set_threshold(SHARD, KeyRange::all(), Version(versions[20]));
    rig.write(vec![put("k", "new")]).unwrap();
    rig.store.checkpoint();
    rig.run().unwrap();
    let at = rig.get_at(Space::User, b"k", Version(versions[20]));
    assert!(matches!(at, ReadResult::Found { .. }));
    let gone = rig.get_at(Space::User, b"k", Version(versions[10]));
    assert_eq!(gone, ReadResult::Absent { deleted_at: None });
}

#[test]
fn crash_between_each_two_steps_of_a_reclaim_and_a_trim() {
    for step in 0.. {
        let mut rig = Rig::sim(step);
        churn(&mut rig, 5, 120);
        rig.disk().inject(Fault::CrashAfter(step * 3));
        let mut rng = rng(7);
        let mut crashed = false;
        for _ in 0..40 {
            let key = format!("key-{:03}", rng.random_range(0..50));
            if rig.write(vec![put(key, vec![9; 700])]).is_err() {
                crashed = true;
                break;
            }
            let threshold = Version(rig.version);
            rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
        }
        if step % 3 == 0 && crashed {
            rig.kill();
        } else {
            let rot = if step % 2 == 0 { Rot::Old } else { Rot::Gone };
            rig.power_loss(Survival::Random, rot);
        }
        rig.disk().heal();
        rig.check();
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check();
        if !crashed {
            assert!(step > 10);
            break;
        }
    }
}

#[test]
fn a_slow_group_does_not_pin_the_log() {
    let mut rig = Rig::sim(8);
    let slow = ShardId(2);
    rig.create(slow, ReplicaId(22)).unwrap();
    rig.write_to(slow, vec![put("z-applied", "1")]).unwrap();
    // Entries that never commit.
    let stuck: Vec<_> = (0..3)
        .map(|n| rig.submit(slow, vec![put(format!("z-{n}"), vec![n; 200])]))
        .collect();
    rig.run().unwrap();
    churn(&mut rig, 8, 2_000);
    rig.pass(500).unwrap();
    let stats = rig.store.stats();
    assert!(
        stats.log_bytes <= 6 * rig.options.segment_bytes,
        "{stats:?}"
    );
    for entry in &stuck {
        let read = rig.entries(slow, entry.id.index, entry.id.index + 1);
        assert_eq!(read[0], *entry);
    }
    rig.power_loss(Survival::Nothing, Rot::Gone);
    let read = rig.entries(slow, stuck[0].id.index, stuck[2].id.index + 1);
    assert_eq!(read, stuck);
}

/// Two shards share segments; one of them applies late, so that its entries are spread over segments
/// of which the first ones are trimmed at any moment, with copies behind later originals.
#[test]
fn entries_rewritten_behind_later_ones_come_back_whole() {
    for seed in 0..30 {
        let mut rng = rng(seed);
        let mut rig = Rig::sim(seed);
        let slow = ShardId(2);
        rig.create(slow, ReplicaId(22)).unwrap();
        let mut waiting = std::collections::VecDeque::new();
        for round in 0..700u32 {
            if rng.random_range(0..6) == 0 {
                let change = put(format!("z-{:03}", round % 90), vec![round as u8; 300]);
                waiting.push_back(rig.submit(slow, vec![change]));
            }
            let key = format!("key-{:03}", rng.random_range(0..50));
            rig.write(vec![put(key, vec![round as u8; 700])]).unwrap();
            let threshold = Version(rig.version);
            rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
            // A new leader overwrites the end of what the slow shard has not applied.
            if waiting.len() > 6 && rng.random_range(0..40) == 0 {
                let keep = rng.random_range(1..waiting.len());
                waiting.truncate(keep);
                let from = waiting.back().unwrap();
                let (term, index) = (rig.term + 1, from.id.index + 1);
                rig.term = term;
                rig.unacknowledged
                    .retain(|(shard, at, _)| *shard != slow || *at < index);
                rig.version += 1;
                let changes = vec![put("z-overwritten", vec![round as u8; 10])];
                let entry = synod_storage::Entry {
                    id: synod_storage::EntryId::new(term, index),
                    kind: synod_storage::EntryKind::Normal,
                    data: rig::encode(rig.version, &changes),
                };
                let mut batch = LogBatch::new();
                batch.entries(slow, ReplicaId(22), std::slice::from_ref(&entry));
                rig.store.submit(batch);
                rig.run().unwrap();
                rig.unacknowledged.push((slow, index, changes));
                waiting.push_back(entry);
            }
            while waiting.len() > 40 || (!waiting.is_empty() && rng.random_range(0..9) == 0) {
                let entry = waiting.pop_front().unwrap();
                rig.apply_entry(slow, &entry);
            }
            if rng.random_range(0..150) == 0 {
                let expected: Vec<_> = waiting.iter().cloned().collect();
                if rng.random() {
                    rig.kill();
                } else {
                    rig.power_loss(Survival::Nothing, Rot::Gone);
                }
                assert!(
                    rig.report.damage.is_empty(),
                    "seed {seed}: {:?}",
                    rig.report.damage
                );
                for replica in &rig.replicas {
                    assert!(replica.damage.is_none(), "seed {seed}: {replica:?}");
                }
                if let (Some(first), Some(last)) = (expected.first(), expected.last()) {
                    let mut read = Vec::new();
                    let mut next = first.id.index;
                    while next <= last.id.index {
                        read.extend(rig.entries(slow, next, last.id.index + 1));
                        next = read.last().unwrap().id.index + 1;
                    }
                    assert_eq!(read, expected, "seed {seed}");
                }
                // The replay has applied them.
                waiting.clear();
            }
        }
        rig.check();
    }
}

#[test]
fn a_clean_stop_keeps_the_index_and_replays_nothing() {
    let mut rig = Rig::sim(9);
    churn(&mut rig, 9, 100);
    rig.store.stop();
    wait_for(&mut rig, |event| *event == Event::Stopped);
    rig.boot += 1;
    let survived = rig.disk().power_loss(Survival::Nothing);
    rig.index().rot(Rot::Old);
    if let rig::Ground::Sim { disk, .. } = &mut rig.ground {
        *disk = survived;
    }
    rig.reopen().unwrap();
    assert!(rig.report.clean);
    assert_eq!(rig.report.index_rebuilt, None);
    assert!(
        rig.replicas
            .iter()
            .all(|replica| replica.applied == replica.last)
    );
    rig.check();
    rig.kill();
    assert!(!rig.report.clean);
    rig.check();
}

#[test]
fn an_index_that_is_torn_empty_behind_or_ahead_is_rebuilt() {
    for rot in [Rot::Torn, Rot::Gone, Rot::Old] {
        let mut rig = Rig::sim(10);
        churn(&mut rig, 10, 300);
        // The process only: nothing but the index itself tells.
        let killed = rig.disk().kill();
        rig.index().rot(rot);
        if let rig::Ground::Sim { disk, .. } = &mut rig.ground {
            *disk = killed;
        }
        rig.reopen().unwrap();
        assert!(rig.report.index_rebuilt.is_some(), "{rot:?}");
        rig.check();
    }
    // An index of later: half of the directory was put back from a copy.
    let mut rig = Rig::sim(11);
    churn(&mut rig, 11, 100);
    let files: Vec<_> = rig
        .disk()
        .paths()
        .into_iter()
        .map(|p| (p.clone(), rig.disk().content(&p)))
        .collect();
    let model = rig.model.clone();
    churn(&mut rig, 12, 300);
    let killed = rig.disk().kill();
    for path in killed.paths() {
        killed.lose(&path);
    }
    for (path, content) in files {
        killed.put(&path, content.unwrap());
    }
    if let rig::Ground::Sim { disk, .. } = &mut rig.ground {
        *disk = killed;
    }
    rig.model = model;
    rig.reopen().unwrap();
    assert!(rig.report.index_rebuilt.is_some());
    rig.check();
}

/// Takes a snapshot out of one rig and into another.
fn transfer(from: &mut Rig, to: &mut Rig, shard: ShardId, replica: ReplicaId, range: KeyRange) {
    let export = from.store.export(shard, range);
    let ready = wait_for(
        from,
        |e| matches!(e, Event::ExportReady { transfer, .. } if *transfer == export),
    );
    let Event::ExportReady { header, .. } = ready else {
        unreachable!("just matched")
    };
    // What is written from now on is not part of the snapshot.
    from.write_to(shard, vec![put("later", "x")]).unwrap();
    churn(from, 77, 100);
    let import = to.store.import(shard, replica, header.clone());
    receive(from, to, export, import);
    wait_for(to, |event| matches!(event, Event::Installed { .. }));
    let mut batch = LogBatch::new();
    batch.snapshot_marker(shard, replica, header.applied, header.conf);
    to.store.submit(batch);
    to.run().unwrap();
    from.store.end_export(export);
}

fn receive(from: &mut Rig, to: &mut Rig, export: TransferId, import: TransferId) {
    loop {
        let ready = wait_for(to, |e| matches!(e, Event::ImportReady { .. }));
        let Event::ImportReady { next_chunk, .. } = ready else {
            unreachable!("just matched")
        };
        from.store.export_chunk(export, next_chunk);
        let sent = wait_for(from, |event| matches!(event, Event::ExportChunk { .. }));
        let Event::ExportChunk { chunk, .. } = sent else {
            unreachable!("just matched")
        };
        // A chunk that was damaged on its way is asked for again.
        let mut damaged = chunk.clone();
        damaged.checksum ^= 1;
        to.store.import_chunk(import, damaged);
        wait_for(
            to,
            |e| matches!(e, Event::ImportReady { next_chunk, .. } if *next_chunk == chunk.number),
        );
        let last = chunk.last;
        to.store.import_chunk(import, chunk);
        if last {
            return;
        }
    }
}

fn fill(rig: &mut Rig) {
    for n in 0..400u32 {
        rig.write(vec![put(format!("a-{n:04}"), vec![3; 3_000])])
            .unwrap();
    }
    rig.write(vec![
        put_local(SHARD.0, "lock", "held"),
        put("a-0001", "new"),
        delete("a-0002"),
    ])
    .unwrap();
}

#[test]
fn a_snapshot_is_exactly_the_state_of_its_entry() {
    let mut from = Rig::sim(20);
    fill(&mut from);
    let model = from.model.clone();
    let applied = from.store.applied(SHARD).unwrap();
    let mut to = Rig::sim(21);
    // The receiver has an old state, and rows of another shard that must stay.
    to.write(vec![
        put("a-9999", "old"),
        put_local(SHARD.0, "gone", "old"),
        put("z", "other"),
    ])
    .unwrap();
    to.store.checkpoint();
    to.run().unwrap();
    to.write(vec![put("a-8888", "old")]).unwrap();
    transfer(&mut from, &mut to, SHARD, REPLICA, KeyRange::new("a", "m"));
    assert_eq!(to.store.applied(SHARD), Some(applied));
    to.model = model;
    to.model
        .insert((Space::User, b"z".to_vec()), Some(b"other".to_vec()));
    to.model.insert((Space::User, b"a-9999".to_vec()), None);
    to.model.insert((Space::User, b"a-8888".to_vec()), None);
    to.model
        .insert((Space::Local(SHARD), b"gone".to_vec()), None);
    to.check();
    to.kill();
    to.check();
    assert_eq!(to.store.applied(SHARD), Some(applied));
    to.power_loss(Survival::Nothing, Rot::Gone);
    to.check();
    to.write(vec![put("a-1", "goes on")]).unwrap();
    to.check();
}

#[test]
fn crash_between_each_two_steps_of_a_snapshot_switch() {
    let mut from = Rig::sim(22);
    for n in 0..40u32 {
        from.write(vec![put(format!("a-{n:04}"), vec![3; 300])])
            .unwrap();
    }
    let new = from.model.clone();
    let export = from.store.export(SHARD, KeyRange::all());
    let ready = wait_for(&mut from, |e| matches!(e, Event::ExportReady { .. }));
    let Event::ExportReady { header, .. } = ready else {
        unreachable!("just matched")
    };
    from.store.export_chunk(export, 0);
    let sent = wait_for(&mut from, |event| {
        matches!(event, Event::ExportChunk { .. })
    });
    let Event::ExportChunk { chunk, .. } = sent else {
        unreachable!("just matched")
    };
    assert!(chunk.last);
    for step in 0.. {
        let mut to = Rig::sim(step);
        for n in 0..30u32 {
            to.write(vec![
                put(format!("a-{:04}", n * 2), "old"),
                put(format!("b-{n}"), "old"),
            ])
            .unwrap();
            if n == 15 {
                to.store.checkpoint();
            }
        }
        let import = to.store.import(SHARD, REPLICA, header.clone());
        to.disk().inject(Fault::CrashAfter(step));
        to.store.import_chunk(import, chunk.clone());
        let mut crashed = to.run().is_err();
        if !crashed {
            let mut batch = LogBatch::new();
            batch.snapshot_marker(SHARD, REPLICA, header.applied, header.conf.clone());
            to.store.submit(batch);
            crashed = to.run().is_err();
        }
        to.cut_power(Survival::Random, Rot::Gone);
        to.disk().heal();
        to.reopen().unwrap();
        // Either the old state, whole, or the new one, whole.
        let applied = to.store.applied(SHARD).unwrap();
        if applied == header.applied {
            let mut model = new.clone();
            for key in to.model.keys() {
                model.entry(key.clone()).or_insert(None);
            }
            to.model = model;
        }
        to.check();
        if !crashed {
            assert_eq!(applied, header.applied);
            assert!(step > 8);
            break;
        }
    }
}

#[test]
fn a_dropped_replica_is_gone_for_good_and_a_new_one_starts_empty() {
    for step in 0..60 {
        let mut rig = Rig::sim(30 + step);
        let other = ShardId(2);
        rig.create(other, ReplicaId(22)).unwrap();
        for n in 0..60u32 {
            rig.write_to(other, vec![put(format!("m-{n:03}"), vec![1; 200])])
                .unwrap();
            rig.write(vec![put(format!("a-{n:03}"), vec![2; 100])])
                .unwrap();
        }
        rig.write_to(other, vec![put_local(2, "row", "x")]).unwrap();
        rig.disk().inject(Fault::CrashAfter(step));
        rig.store
            .drop_replica(other, ReplicaId(22), Some(KeyRange::new("m", "n")));
        let dropped = rig.run().is_ok()
            && rig
                .events
                .iter()
                .any(|event| matches!(event, Event::Dropped { .. }));
        rig.cut_power(Survival::Random, Rot::Old);
        rig.disk().heal();
        rig.reopen().unwrap();
        let still_there = rig.store.replica(other).is_some();
        assert!(
            !(dropped && still_there),
            "step {step}: a drop that was announced must hold"
        );
        if !still_there {
            assert!(rig.store.is_dropped(ReplicaId(22)));
            let gone: Vec<_> = rig.model.keys().cloned().collect();
            for (space, key) in gone {
                if key.starts_with(b"m-") || space == Space::Local(other) {
                    rig.model.insert((space, key), None);
                }
            }
            rig.check();
            rig.create(other, ReplicaId(23)).unwrap();
            rig.write_to(other, vec![put("m-001", "again")]).unwrap();
            rig.pass(50).unwrap();
            rig.power_loss(Survival::Nothing, Rot::Gone);
        }
        rig.check();
    }
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_recovers_by_itself() {
    for tight in (150..900).step_by(50) {
        let mut options = Options::tiny();
        options.disk_low_bytes = 64 << 10;
        let mut rig = Rig::sim_with(tight, options);
        rig.disk().inject(Fault::Capacity(tight << 10));
        let mut refused = false;
        for n in 0..2_000u32 {
            let change = put(format!("key-{n:05}"), vec![5; 500]);
            rig.submit(SHARD, vec![change]);
            rig.pass(10).unwrap();
            if matches!(rig.store.pressure(), Pressure::DiskFull { .. }) {
                refused = true;
                break;
            }
            let synced = rig.unacknowledged[0].1;
            let entry = rig.entries(SHARD, synced, synced + 1).remove(0);
            rig.apply_entry(SHARD, &entry);
        }
        assert!(refused, "the disk of {tight} KiB never fills up");
        rig.check_user();
        rig.disk().inject(Fault::Capacity(u64::MAX));
        rig.pass(500).unwrap();
        assert_eq!(rig.store.pressure(), Pressure::Normal);
        // What was on its way when the disk was full got through.
        while let Some((shard, index, _)) = rig.unacknowledged.first().cloned() {
            let entry = rig.entries(shard, index, index + 1).remove(0);
            rig.apply_entry(shard, &entry);
        }
        rig.write(vec![put("after", "space")]).unwrap();
        rig.check();
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check();
    }
}

#[test]
fn a_rotten_record_is_never_absent_and_can_be_repaired() {
    let mut rig = Rig::sim(40);
    for n in 0..50u32 {
        rig.write(vec![put(format!("k-{n:02}"), vec![n as u8; 200])])
            .unwrap();
    }
    rig.store.checkpoint();
    rig.run().unwrap();
    let values: Vec<String> = rig
        .disk()
        .paths()
        .into_iter()
        .filter(|path| path.starts_with("values/"))
        .collect();
    // Somewhere in the middle of the records of the first file.
    rig.disk().flip_bit(&values[0], 3_000, 3);
    rig.kill();
    let mut damaged = Vec::new();
    for n in 0..50u32 {
        let key = format!("k-{n:02}");
        match rig.get(Space::User, key.as_bytes()) {
            ReadResult::Found { value, .. } => assert_eq!(value, vec![n as u8; 200]),
            ReadResult::Damaged(row) => damaged.push((n, row)),
            other => panic!("{key}: {other:?}"),
        }
    }
    assert_eq!(damaged.len(), 1);
    let (n, row) = damaged.remove(0);
    let version = row.version.unwrap();
    let value = WriteOp::Put(Bytes::from(vec![n as u8; 200]));
    // Another version repairs nothing.
    rig.store
        .repair(&row.key, Version(version.0 + 1), value.clone());
    assert!(matches!(
        rig.get(Space::User, &row.key),
        ReadResult::Damaged(_)
    ));
    rig.store.repair(&row.key, version, value);
    assert!(matches!(
        rig.get(Space::User, &row.key),
        ReadResult::Found { .. }
    ));
    rig.run().unwrap();
    rig.check();
    rig.power_loss(Survival::Nothing, Rot::Gone);
    rig.check();
}

#[test]
fn the_scrubber_finds_what_nobody_reads() {
    let mut rig = Rig::sim(41);
    for n in 0..50u32 {
        rig.write(vec![put(format!("k-{n:02}"), vec![n as u8; 200])])
            .unwrap();
    }
    rig.store.checkpoint();
    rig.run().unwrap();
    let values: Vec<String> = rig
        .disk()
        .paths()
        .into_iter()
        .filter(|path| path.starts_with("values/"))
        .collect();
    rig.disk().flip_bit(&values[0], 2_000, 1);
    let event = wait_for(&mut rig, |event| matches!(event, Event::Damaged { .. }));
    let Event::Damaged { row, place } = event else {
        unreachable!("just matched")
    };
    assert!(row.key.starts_with(b"k-"));
    assert!(place.starts_with(&values[0]), "{place}");
}

#[test]
fn a_damaged_entry_waits_for_exactly_this_entry() {
    let mut rig = Rig::sim(42);
    let mut entries = Vec::new();
    for n in 0..10u32 {
        let changes: Vec<Change> = vec![put(format!("k-{n:02}"), vec![n as u8; 300])];
        entries.push(rig.submit(SHARD, changes));
        rig.run().unwrap();
    }
    // Each batch is one block: the body of the fifth.
    let path = rig
        .disk()
        .paths()
        .into_iter()
        .find(|path| path.contains("segment-"))
        .unwrap();
    let content = rig.disk().content(&path).unwrap();
    let at = content
        .windows(300)
        .position(|window| window == [4; 300])
        .unwrap();
    rig.disk().flip_bit(&path, at as u64 + 100, 0);
    rig.unacknowledged.clear();
    rig.kill();
    let damaged = entries[4].clone();
    let damage = &rig.replicas[0].damage;
    assert_eq!(damage.entries, vec![(damaged.id, entry_checksum(&damaged))]);
    assert!(
        rig.report.damage[0].contains(&path),
        "{:?}",
        rig.report.damage
    );
    // Another entry in its place is not taken.
    let mut other = damaged.clone();
    other.data = Bytes::from_static(b"something else");
    let mut batch = LogBatch::new();
    batch.repair(SHARD, REPLICA, other);
    rig.store.submit(batch);
    rig.run().unwrap();
    assert!(!rig.store.log().damage(SHARD).unwrap().is_none());
    let mut batch = LogBatch::new();
    batch.repair(SHARD, REPLICA, damaged);
    rig.store.submit(batch);
    rig.run().unwrap();
    assert!(rig.store.log().damage(SHARD).unwrap().is_none());
    assert_eq!(rig.entries(SHARD, 5, 6)[0], entries[4]);
    rig.power_loss(Survival::Nothing, Rot::Gone);
    assert!(rig.replicas[0].damage.is_none());
    let mut read = Vec::new();
    while read.len() < 10 {
        read.extend(rig.entries(SHARD, read.len() as u64 + 1, 11));
    }
    assert_eq!(read, entries);
}

#[test]
fn every_flipped_bit_and_cut_is_noticed_or_harmless() {
    let count: u64 = std::env::var("SYNOD_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(300);
    let mut image = Rig::sim(43);
    for n in 0..120u32 {
        image
            .write(vec![put(format!("k-{:02}", n % 40), vec![n as u8; 400])])
            .unwrap();
        if n == 60 {
            image.write(vec![put_local(SHARD.0, "row", "x")]).unwrap();
            image.store.checkpoint();
            image.run().unwrap();
        }
    }
    image.pass(100).unwrap();
    let files: Vec<(String, Vec<u8>)> = image
        .disk()
        .paths()
        .into_iter()
        .map(|path| (path.clone(), image.disk().content(&path).unwrap()))
        .filter(|(path, _)| !path.contains("spare") && path != "reserve")
        .collect();
    for seed in 0..count {
        let mut rng = rng(seed);
        let disk = synod_storage::disk::SimDisk::new(seed);
        disk.create_dir("log").unwrap();
        disk.create_dir("values").unwrap();
        for (path, content) in &files {
            disk.put(path, content.clone());
        }
        let (path, content) = &files[rng.random_range(0..files.len())];
        // Zeros ahead of the end are nobody's; what was written is what can be damaged.
        let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let cut = rng.random_range(0..4) == 0;
        if cut {
            disk.truncate(path, rng.random_range(0..written));
        } else {
            disk.flip_bit(path, rng.random_range(0..written), rng.random_range(0..8));
        }
        let index = synod_storage::index::MemoryIndexFactory::new();
        let ground = rig::Ground::Sim { disk, index };
        let Ok(opened) = rig::open_on(&ground, &image.options, 1) else {
            continue; // It refused, naming what is wrong.
        };
        let whole = opened
            .replicas
            .iter()
            .all(|replica| replica.damage.is_none());
        let report = opened.report.clone();
        let mut store = opened.store;
        if !whole {
            assert!(!report.damage.is_empty());
            continue;
        }
        // It says that it is whole: then nothing it serves may be wrong, and nothing may be missing.
        for replica in &opened.replicas {
            let mut next = replica.applied.index + 1;
            while next <= replica.last.index {
                match store
                    .log()
                    .entries(replica.shard, next, replica.last.index + 1, 1 << 20)
                {
                    Ok(entries) => {
                        for entry in entries {
                            store.apply(replica.shard, entry.id, &rig::decode(&entry));
                            next = entry.id.index + 1;
                        }
                    }
                    Err(_) => {
                        store.fetch(replica.shard, next, replica.last.index + 1);
                        store.run_jobs().unwrap();
                    }
                }
            }
        }
        let torn = report.torn_tail.is_some();
        for ((space, key), expected) in &image.model {
            let read = match store.get(*space, key, Version::MAX) {
                Lookup::Found { value, .. } => Some(value.to_vec()),
                Lookup::Absent { .. } => None,
                Lookup::Pending(read) => {
                    store.run_jobs().unwrap();
                    let mut reads = Vec::new();
                    store.take_reads(&mut reads);
                    match reads.into_iter().find(|(id, _)| *id == read).unwrap().1 {
                        ReadResult::Damaged(_) => continue,
                        result => rig::value_in(&result),
                    }
                }
            };
            // The sealed log has only an empty batch that may pass for a torn tail.
            assert_eq!(
                read, *expected,
                "seed {seed}: {path}, cut {cut}, torn {torn}: {report:?}"
            );
        }
    }
}

#[test]
fn a_directory_that_is_not_whole_is_refused_and_named() {
    let build = || {
        let mut rig = Rig::sim(44);
        churn(&mut rig, 44, 400);
        rig.pass(100).unwrap();
        rig
    };
    let rig = build();
    for path in rig.disk().paths() {
        let rig = build();
        if path.contains("spare") || path == "reserve" {
            continue;
        }
        rig.disk().lose(&path);
        let ground = rig::Ground::Sim {
            disk: rig.disk().kill(),
            index: rig.index().clone(),
        };
        match rig::open_on(&ground, &rig.options, 1) {
            Err(error) => {
                let named = error.to_string();
                assert!(
                    named.contains(path.as_str()) || path.contains("manifest"),
                    "{path}: {named}"
                );
            }
            // One copy of the manifest is enough; the last segment may be missing without a trace only
            // if the log's durable end says so.
            Ok(opened) => assert!(
                path.contains("manifest") || !opened.report.damage.is_empty(),
                "{path} is missing and nobody notices"
            ),
        }
    }
    // A value file of another store.
    let header = SnapshotHeader::default();
    assert_eq!(header.applied.index, 0);
}

/// Paths of value files, oldest first.
fn value_files(rig: &Rig) -> Vec<String> {
    let paths = rig.disk().paths().into_iter();
    paths.filter(|path| path.starts_with("values/")).collect()
}

#[test]
fn a_damaged_row_of_a_shards_own_is_written_again_from_memory() {
    let mut rig = Rig::sim(43);
    let changes = (0..50u32).map(|n| put_local(SHARD.0, format!("l-{n:02}"), vec![n as u8; 200]));
    rig.write(changes.collect()).unwrap();
    rig.store.checkpoint();
    rig.run().unwrap();
    let values = value_files(&rig);
    rig.disk().flip_bit(&values[0], 2_000, 1);
    let event = wait_for(&mut rig, |event| matches!(event, Event::Damaged { .. }));
    assert!(matches!(
        event,
        Event::Damaged { row, .. } if row.space == Space::Local(SHARD)
    ));
    rig.run().unwrap();
    // The rows are resident again from the files alone.
    rig.power_loss(Survival::Nothing, Rot::Gone);
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
    rig.check();
}

/// A store with one value file of fifty rows, whose footer has a damaged bit, and the file.
fn damaged_footer(seed: u64) -> (Rig, String) {
    let mut rig = Rig::sim(seed);
    for n in 0..50u32 {
        rig.write(vec![put(format!("k-{n:02}"), vec![n as u8; 200])])
            .unwrap();
    }
    rig.store.checkpoint();
    rig.run().unwrap();
    let file = value_files(&rig).remove(0);
    let bytes = rig.disk().content(&file).unwrap().len() as u64;
    rig.disk().flip_bit(&file, bytes - 100, 1);
    (rig, file)
}

#[test]
fn a_file_with_a_damaged_footer_is_written_anew() {
    let (mut rig, file) = damaged_footer(44);
    for _ in 0..200 {
        rig.pass(20).unwrap();
    }
    assert!(!value_files(&rig).contains(&file), "the file is still used");
    rig.power_loss(Survival::Nothing, Rot::Gone);
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
    rig.check();
}

#[test]
fn a_file_that_no_longer_lists_its_records_is_not_reclaimed() {
    let (mut rig, file) = damaged_footer(45);
    rig.disk().flip_bit(&file, 1_000, 1);
    for _ in 0..200 {
        rig.pass(20).unwrap();
    }
    let mut damaged = 0;
    for n in 0..50u32 {
        let key = format!("k-{n:02}");
        match rig.get(Space::User, key.as_bytes()) {
            ReadResult::Found { value, .. } => assert_eq!(value, vec![n as u8; 200]),
            ReadResult::Damaged(_) => damaged += 1,
            other => panic!("{key}: {other:?}"),
        }
    }
    assert_eq!(damaged, 1);
}
