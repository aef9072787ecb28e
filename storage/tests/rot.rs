//! Damage of every kind: noticed, named, never served, never taken for an absence.

mod rig;

use bytes::Bytes;
use rand::Rng;
use rig::{Change, REPLICA, Rig, SHARD, put, put_local, rng};
use synod_storage::disk::{Disk, Survival};
use synod_storage::index::Rot;
use synod_storage::{Event, LogBatch, Lookup, ReadResult, Space, Version, WriteOp, entry_checksum};

/// Fifty values of 200 bytes in a checkpoint, and the paths of its value files.
fn fifty_values(seed: u64) -> (Rig, Vec<String>) {
    let mut rig = Rig::sim(seed);
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
    (rig, values)
}

#[test]
fn a_rotten_record_is_never_absent_and_can_be_repaired() {
    let (mut rig, values) = fifty_values(40);
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
    rig.check_with_power_loss();
}

#[test]
fn the_scrubber_finds_what_nobody_reads() {
    let (mut rig, values) = fifty_values(41);
    rig.disk().flip_bit(&values[0], 2_000, 1);
    let event = rig.wait_for(|event| matches!(event, Event::Damaged { .. }));
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
        rig.churn(44, 400);
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
}

/// Log and manifest carry the store's name, the index too: pieces of two directories never make one.
#[test]
fn what_belongs_to_another_store_is_refused_and_named() {
    let build = |store| {
        let mut rig = Rig::sim_named(46, store);
        rig.churn(46, 60);
        rig.store.checkpoint();
        rig.run().unwrap();
        rig
    };
    let mut rig = build(7);
    let other = build(8);
    let own: Vec<(String, Vec<u8>)> = contents(&rig, |_| true);
    for foreign in ["segment-", "manifest-"] {
        let killed = rig.disk().kill();
        let newest = killed
            .paths()
            .into_iter()
            .filter(|path| path.contains("manifest-"));
        for path in newest.collect::<Vec<_>>() {
            if foreign == "manifest-" {
                killed.lose(&path);
            }
        }
        for (path, content) in contents(&other, |path| path.contains(foreign)) {
            killed.put(&path, content);
        }
        let ground = rig::Ground::Sim {
            disk: killed.clone(),
            index: rig.index().clone(),
        };
        let refused = rig::open_on(&ground, &rig.options, 1).expect_err("a mixture");
        let said = refused.to_string();
        assert!(said.contains("log/segment-"), "{foreign}: {said}");
        assert!(said.contains(&format!("{:032x}", 7)), "{foreign}: {said}");
        assert!(said.contains(&format!("{:032x}", 8)), "{foreign}: {said}");
        // It was left as it was: with its own pieces it opens again.
        for path in killed.paths() {
            killed.lose(&path);
        }
        for (path, content) in &own {
            killed.put(path, content.clone());
        }
        if let rig::Ground::Sim { disk, .. } = &mut rig.ground {
            *disk = killed;
        }
    }
    rig.index().restore(other.index().copy());
    rig.reopen().unwrap();
    assert!(rig.report.index_rebuilt.is_some());
    rig.check();
}

/// Some files of a rig, as a reader sees them.
fn contents(rig: &Rig, wanted: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let paths = rig.disk().paths().into_iter().filter(|path| wanted(path));
    paths
        .map(|path| (path.clone(), rig.disk().content(&path).unwrap()))
        .collect()
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
    let event = rig.wait_for(|event| matches!(event, Event::Damaged { .. }));
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
