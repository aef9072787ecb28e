//! What the background does over time: reclaim, trimming, history, deletes, stops, full disks.

mod rig;

use bytes::Bytes;
use rand::Rng;
use rig::{Rig, SHARD, delete, put, rng};
use synod_storage::disk::{Disk, Fault, Survival};
use synod_storage::index::Rot;
use synod_storage::{
    Entry, Event, KeyRange, Lane, LogBatch, LogError, Micros, Options, Pressure, ReadResult,
    ReplicaId, ShardId, Space, Version,
};

#[test]
fn overwritten_data_is_reclaimed_and_the_log_trimmed() {
    let mut rig = Rig::sim(1);
    rig.churn(1, 2_000);
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
    rig.check_with_power_loss();
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
    rig.pass(1_500).unwrap();
    let stats = rig.store.stats();
    assert!(stats.value_bytes < 30_000, "{stats:?}");
    rig.check_with_power_loss();
}

#[test]
fn what_was_deleted_within_reach_of_readers_gives_its_space_back_later() {
    let mut rig = Rig::sim(4);
    for key in 0..200 {
        rig.write(vec![put(format!("key-{key:04}"), vec![1; 400])])
            .unwrap();
    }
    rig.store.checkpoint();
    rig.pass(100).unwrap();
    let before = rig.version;
    for key in 0..200 {
        rig.write(vec![delete(format!("key-{key:04}"))]).unwrap();
    }
    // The deletes are checkpointed while a reader may still ask for what they hide.
    rig.store
        .set_threshold(SHARD, KeyRange::all(), Version(before));
    rig.store.checkpoint();
    rig.pass(100).unwrap();
    let read = rig.get_at(Space::User, b"key-0007", Version(before));
    assert!(matches!(read, ReadResult::Found { .. }), "{read:?}");
    let threshold = Version(rig.version);
    rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
    for _ in 0..50 {
        rig.pass(20).unwrap();
    }
    let stats = rig.store.stats();
    assert!(stats.value_bytes < 30_000, "{stats:?}");
    rig.check_with_power_loss();
}

#[test]
fn a_delete_stays_while_a_reader_may_ask_for_what_it_hides() {
    let mut rig = Rig::sim(5);
    let key = |n: u32| format!("key-{n:04}");
    let mut written = Vec::new();
    for n in 0..200 {
        rig.write(vec![put(key(n), vec![1; 50])]).unwrap();
        written.push(rig.version);
        rig.write(vec![delete(key(n))]).unwrap();
    }
    rig.store.checkpoint();
    for _ in 0..50 {
        rig.pass(20).unwrap();
    }
    rig.check();
    for (n, version) in (0..).zip(&written) {
        let read = rig.get_at(Space::User, key(n).as_bytes(), Version(*version));
        assert!(matches!(read, ReadResult::Found { .. }), "{n}: {read:?}");
    }
    rig.power_loss(Survival::Nothing, Rot::Gone);
    rig.check();
}

#[test]
fn what_waits_for_the_index_is_found_and_comes_into_it() {
    let mut rig = Rig::sim(6);
    for round in 0..2u8 {
        for key in 0..40 {
            rig.write(vec![put(format!("key-{key:02}"), vec![round; 20])])
                .unwrap();
        }
        rig.store.checkpoint();
        rig.run().unwrap();
    }
    assert_eq!(rig.store.stats().unmerged_files, 2);
    rig.check();
    rig.pass(1_000).unwrap();
    assert_eq!(rig.store.stats().unmerged_files, 0);
    rig.check();
    rig.check_with_power_loss();
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
    rig.pass(1_000).unwrap();
    assert_eq!(rig.store.stats().unmerged_files, 0);
    let at = rig.get_at(Space::User, b"k", Version(versions[20]));
    assert!(matches!(at, ReadResult::Found { .. }));
    let gone = rig.get_at(Space::User, b"k", Version(versions[10]));
    assert_eq!(gone, ReadResult::Absent { deleted_at: None });
}

/// A checkpoint begins and does not end: proposals are held back, more and more, and the log never is.
#[test]
fn memory_that_fills_faster_than_it_is_written_slows_proposals() {
    let mut rig = Rig::sim(13);
    rig.write(vec![put("first", "1")]).unwrap();
    rig.store.checkpoint();
    let mut held = Vec::new();
    rig.store.take_jobs(&mut held);
    assert!(held.iter().all(|job| job.lane() == Lane::Background));
    assert_eq!(held.len(), 1);
    assert_eq!(rig.store.pressure(), Pressure::Normal);
    let mut delays = Vec::new();
    for n in 0..60u32 {
        let entry = rig.submit(SHARD, vec![put(format!("key-{n:03}"), vec![1; 500])]);
        rig.run().unwrap();
        rig.apply_entry(SHARD, &entry);
        if let Pressure::Slow { delay_us } = rig.store.pressure() {
            delays.push(delay_us);
        }
    }
    assert!(delays.len() > 10, "{delays:?}");
    assert!(delays.is_sorted() && delays[0] < delays[9], "{delays:?}");
    for mut job in held {
        rig::run_job(&mut job);
        rig.store.complete(job).unwrap();
    }
    rig.run().unwrap();
    assert_eq!(rig.store.pressure(), Pressure::Normal);
    rig.check_with_power_loss();
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
    rig.churn(8, 2_000);
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

/// Lets all jobs but the log's make progress, asks for entries, and then lets the log go on. Whether
/// the entries have to wait for it; they must not be answered before.
fn has_to_wait(rig: &mut Rig, shard: ShardId, (lo, hi): (u64, u64)) -> bool {
    let mut late = Vec::new();
    let mut jobs = Vec::new();
    loop {
        rig.store.take_jobs(&mut jobs);
        if jobs.is_empty() {
            break;
        }
        for mut job in jobs.drain(..) {
            if job.lane() == Lane::Log {
                late.push(job);
            } else {
                rig::run_job(&mut job);
                rig.store.complete(job).unwrap();
            }
        }
    }
    // What a trim has fetched for itself can be read once.
    let first = rig.store.log().entries(shard, lo, hi, 1 << 20);
    let entries = first.and_then(|_| rig.store.log().entries(shard, lo, hi, 1 << 20));
    let on_disk = matches!(entries, Err(LogError::Temporarily));
    if on_disk {
        let mut events = Vec::new();
        rig.store.take_events(&mut events);
        events.clear();
        rig.store.fetch(shard, lo, hi);
        rig.store.take_events(&mut events);
        assert!(events.is_empty(), "nothing was read: {events:?}");
        rig.store.take_jobs(&mut jobs);
    }
    let waits = on_disk && jobs.is_empty();
    for mut job in late.into_iter().chain(jobs) {
        rig::run_job(&mut job);
        rig.store.complete(job).unwrap();
    }
    waits
}

/// A store that has entries only on the disk.
fn without_cache(seed: u64) -> Rig {
    let no_cache = Options {
        entry_cache_bytes: 0,
        ..Options::tiny()
    };
    Rig::sim_with(seed, no_cache)
}

/// One change more, a millisecond later; it waits for the log.
fn submit_round(rig: &mut Rig, round: u32) -> Entry {
    let change = put(format!("key-{:03}", round % 50), vec![7; 500]);
    let entry = rig.submit(SHARD, vec![change]);
    rig.now += 1_000;
    rig.store.tick(Micros(rig.now));
    entry
}

/// It takes effect, and what it replaced can be let go.
fn apply_round(rig: &mut Rig, entry: &Entry) {
    rig.apply_entry(SHARD, entry);
    let threshold = Version(rig.version);
    rig.store.set_threshold(SHARD, KeyRange::all(), threshold);
}

/// Entries that a trim writes anew are in no cache while their batch is on its way to the disk. Who asks
/// for them is answered when it is there: an answer at once would be asked again for ever.
#[test]
fn a_fetch_waits_for_a_batch_on_its_way() {
    let mut rig = without_cache(8);
    let slow = ShardId(2);
    rig.create(slow, ReplicaId(22)).unwrap();
    let stuck: Vec<_> = (0..3)
        .map(|n| rig.submit(slow, vec![put(format!("z-{n}"), vec![n; 200])]))
        .collect();
    rig.run().unwrap();
    let (lo, hi) = (stuck[0].id.index, stuck[2].id.index + 1);
    let mut waited = 0;
    for round in 0..2_000u32 {
        let entry = submit_round(&mut rig, round);
        // Whatever the log's first job leads to, and what that does.
        for _ in 0..3 {
            waited += u32::from(has_to_wait(&mut rig, slow, (lo, hi)));
        }
        apply_round(&mut rig, &entry);
    }
    assert!(waited > 0, "nothing was ever written anew");
    assert_eq!(rig.entries(slow, lo, hi), stuck);
}

/// Entries whose segment is being taken off the log cannot be read any more, and are not gone yet. Who asks
/// for them is answered when they are: an answer at once would be asked again for ever.
#[test]
fn a_fetch_waits_for_a_trim_on_its_way() {
    let mut rig = without_cache(9);
    let mut seen = 0;
    for round in 0..2_000u32 {
        let entry = submit_round(&mut rig, round);
        let mut jobs = Vec::new();
        loop {
            rig.store.take_jobs(&mut jobs);
            if jobs.is_empty() {
                break;
            }
            for mut job in jobs.drain(..) {
                let before = segments(&mut rig);
                rig::run_job(&mut job);
                let is_trim = segments(&mut rig) < before;
                if is_trim {
                    let first = rig.store.log().first_index(SHARD).unwrap();
                    assert!(answers(&mut rig, first).is_empty(), "round {round}");
                    seen += 1;
                }
                rig.store.complete(job).unwrap();
                if is_trim {
                    let mut events = Vec::new();
                    rig.store.take_events(&mut events);
                    let answer = |event: &Event| matches!(event, Event::Fetched { shard: SHARD });
                    assert!(events.iter().any(answer), "round {round}: {events:?}");
                }
            }
        }
        apply_round(&mut rig, &entry);
    }
    assert!(seen > 0, "nothing was trimmed");
}

/// How many segments the log has on the disk.
fn segments(rig: &mut Rig) -> usize {
    let names = rig.disk().list("log").unwrap();
    let segments = names.iter().filter(|name| name.contains("segment-"));
    segments.count()
}

/// What asking for an entry that is on the disk leads to, as far as the reader alone can bring it.
fn answers(rig: &mut Rig, index: u64) -> Vec<Event> {
    let log = rig.store.log();
    let entry = log.entries(SHARD, index, index + 1, 1 << 20);
    assert_eq!(entry.unwrap_err(), LogError::Temporarily);
    let mut events = Vec::new();
    rig.store.take_events(&mut events);
    events.clear();
    rig.store.fetch(SHARD, index, index + 1);
    let mut jobs = Vec::new();
    rig.store.take_jobs(&mut jobs);
    for mut job in jobs {
        assert_eq!(job.lane(), Lane::Read, "the others are busy");
        rig::run_job(&mut job);
        rig.store.complete(job).unwrap();
    }
    rig.store.take_events(&mut events);
    events
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
    rig.churn(9, 100);
    rig.store.stop();
    rig.wait_for(|event| *event == Event::Stopped);
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
        rig.churn(10, 300);
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
    rig.churn(11, 100);
    let files: Vec<_> = rig
        .disk()
        .paths()
        .into_iter()
        .map(|p| (p.clone(), rig.disk().content(&p)))
        .collect();
    let model = rig.model.clone();
    rig.churn(12, 300);
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
        rig.check_with_power_loss();
    }
}

/// With not a byte left it starts all the same, out of the reserve, and shows what it holds.
#[test]
fn a_full_disk_does_not_keep_a_node_from_starting() {
    const ROOM: u64 = 1 << 40;
    let mut options = Options::tiny();
    options.disk_reserve_bytes = 2 << 20;
    let mut rig = Rig::sim_with(7, options);
    rig.disk().inject(Fault::Capacity(ROOM));
    for n in 0..100 {
        rig.write(vec![put(format!("key-{n:03}"), vec![5; 500])])
            .unwrap();
    }
    rig.pass(500).unwrap();
    rig.cut_power(Survival::Random, Rot::Behind);
    rig.disk().inject(Fault::Capacity(ROOM));
    let used = ROOM - rig.disk().available_bytes().unwrap();
    rig.disk().inject(Fault::Capacity(used));
    rig.reopen().unwrap();
    rig.check_user();
    rig.disk().inject(Fault::Capacity(ROOM));
    rig.pass(500).unwrap();
    rig.write(vec![put("after", "space")]).unwrap();
    rig.check_with_power_loss();
}
