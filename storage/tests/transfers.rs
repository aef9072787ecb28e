//! Replicas that come and go: snapshots from one store to another, and drops.

mod rig;

use rig::{Change, REPLICA, Rig, SHARD, delete, put, put_local, run_job, value_in};
use synod_storage::disk::{Fault, Survival};
use synod_storage::index::Rot;
use synod_storage::{
    Event, JobStep, KeyRange, Lane, LogBatch, Lookup, ReplicaId, ShardId, SnapshotChunk,
    SnapshotHeader, Space, TransferId, Version,
};

fn transfer(from: &mut Rig, to: &mut Rig, shard: ShardId, replica: ReplicaId, range: KeyRange) {
    let export = from.store.export(shard, range);
    let ready =
        from.wait_for(|e| matches!(e, Event::ExportReady { transfer, .. } if *transfer == export));
    let Event::ExportReady { header, .. } = ready else {
        unreachable!("just matched")
    };
    // What is written from now on is not part of the snapshot.
    from.write_to(shard, vec![put("later", "x")]).unwrap();
    from.churn(77, 100);
    let import = to.store.import(shard, replica, header.clone());
    receive(from, to, export, import);
    to.wait_for(|event| matches!(event, Event::Installed { .. }));
    mark(to, (shard, replica), header);
    to.run().unwrap();
    from.store.end_export(export);
}

/// The log of the replica begins with the snapshot.
fn mark(to: &mut Rig, (shard, replica): (ShardId, ReplicaId), header: SnapshotHeader) {
    let mut batch = LogBatch::new();
    batch.snapshot_marker(shard, replica, header.applied, header.conf);
    to.store.submit(batch);
}

/// Switches in a snapshot of one chunk.
fn switch_in(to: &mut Rig, header: SnapshotHeader, chunk: SnapshotChunk) {
    let import = to.store.import(SHARD, REPLICA, header.clone());
    to.store.import_chunk(import, chunk);
    to.run().unwrap();
    mark(to, (SHARD, REPLICA), header);
}

fn receive(from: &mut Rig, to: &mut Rig, export: TransferId, import: TransferId) {
    loop {
        let ready = to.wait_for(|e| matches!(e, Event::ImportReady { .. }));
        let Event::ImportReady { next_chunk, .. } = ready else {
            unreachable!("just matched")
        };
        from.store.export_chunk(export, next_chunk);
        let sent = from.wait_for(|event| matches!(event, Event::ExportChunk { .. }));
        let Event::ExportChunk { chunk, .. } = sent else {
            unreachable!("just matched")
        };
        // A chunk that was damaged on its way is asked for again.
        let mut damaged = chunk.clone();
        damaged.checksum ^= 1;
        to.store.import_chunk(import, damaged);
        to.wait_for(
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
    // Rows of the shard's own have no versions to look back at, wherever their older states still are.
    for state in ["free", "asked for"] {
        rig.write(vec![put_local(SHARD.0, "lock", state)]).unwrap();
        rig.store.checkpoint();
        rig.run().unwrap();
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

/// Put, checkpointed, deleted, checkpointed: both records are there while they wait for the index, and only
/// the newer one is the state.
#[test]
fn a_deleted_row_of_a_shards_own_stays_deleted_in_a_snapshot() {
    let mut from = Rig::sim(23);
    from.write(vec![
        put_local(SHARD.0, "lock", "held"),
        put_local(SHARD.0, "row", "old"),
    ])
    .unwrap();
    from.store.checkpoint();
    from.run().unwrap();
    let gone = Change {
        space: Space::Local(SHARD),
        key: b"lock".to_vec(),
        value: None,
    };
    from.write(vec![gone, put_local(SHARD.0, "row", "new")])
        .unwrap();
    let (header, chunk) = from.exported(SHARD);
    let mut to = Rig::sim(24);
    switch_in(&mut to, header, chunk);
    to.run().unwrap();
    to.model = from.model.clone();
    to.check();
    to.check_with_power_loss();
}

/// Batches that wait for the disk grow. One that waits while a snapshot is switched in must not take in
/// what comes behind the snapshot: replay passes over everything up to that batch.
#[test]
fn entries_behind_a_snapshot_count_though_a_batch_was_waiting_before_it() {
    let mut from = Rig::sim(25);
    from.write(vec![put("a", "1")]).unwrap();
    let (header, chunk) = from.exported(SHARD);
    let mut to = Rig::sim(26);
    to.submit(SHARD, vec![put("b", "replaced")]);
    let mut on_their_way = Vec::new();
    to.store.take_jobs(&mut on_their_way);
    on_their_way.retain(|job| job.lane() == Lane::Log);
    assert_eq!(on_their_way.len(), 1);
    to.submit(SHARD, vec![put("b", "replaced, too")]);
    let applied = header.applied.index;
    switch_in(&mut to, header, chunk);
    to.unacknowledged.clear();
    let entry = to.submit(SHARD, vec![put("b", "2")]);
    for mut job in on_their_way {
        while job.step() == JobStep::Again {}
        to.store.complete(job).unwrap();
    }
    to.run().unwrap();
    assert_eq!(entry.id.index, applied + 1);
    to.kill();
    assert_eq!(to.store.log().last_index(SHARD).unwrap(), entry.id.index);
}

const OTHER: ShardId = ShardId(2);
const FIRST: ReplicaId = ReplicaId(22);

/// A store whose first replica of another shard has been handed a snapshot of one row, in one chunk.
fn handed() -> (Rig, SnapshotHeader) {
    let mut from = Rig::sim(27);
    from.write(vec![put("a", "1")]).unwrap();
    let (header, chunk) = from.exported(SHARD);
    let mut to = Rig::sim(28);
    to.create(OTHER, FIRST).unwrap();
    let import = to.store.import(OTHER, FIRST, header.clone());
    to.store.import_chunk(import, chunk);
    (to, header)
}

/// The first replica goes, with its rows; another one can begin, and is there at the next start.
fn assert_gone(mut to: Rig) {
    let second = ReplicaId(23);
    to.wait_for(|event| matches!(event, Event::Dropped { .. }));
    assert_eq!(to.store.replica(OTHER), None);
    assert_eq!(to.value(b"a"), None);
    to.create(OTHER, second).unwrap();
    to.kill();
    assert_eq!(to.store.replica(OTHER), Some(second));
    assert_eq!(to.value(b"a"), None);
}

/// A shard was moved on before its snapshot was in: the replica is removed while the last chunk is written.
#[test]
fn a_replica_dropped_while_its_snapshot_is_switched_in_does_not_come_back() {
    let (mut to, _) = handed();
    let mut under_way = Vec::new();
    to.store.take_jobs(&mut under_way);
    assert_eq!(under_way.len(), 1, "the chunk is being written");
    to.store.drop_replica(OTHER, FIRST, Some(KeyRange::all()));
    for mut job in under_way {
        while job.step() == JobStep::Again {}
        to.store.complete(job).unwrap();
    }
    assert_gone(to);
}

/// What the index has forgotten of a dropped range is durable before the manifest says that it is forgotten.
#[test]
fn a_dropped_range_stays_forgotten_when_the_process_dies() {
    let (mut to, header) = handed();
    to.run().unwrap();
    mark(&mut to, (OTHER, FIRST), header);
    to.run().unwrap();
    to.store.drop_replica(OTHER, FIRST, Some(KeyRange::all()));
    assert_gone(to);
}

/// While a snapshot takes the place of rows, the index has neither the old ones nor the new ones: who reads them
/// meanwhile, or began to before, waits until the new ones are there.
#[test]
fn rows_that_a_snapshot_replaces_are_read_before_it_or_after_it() {
    let mut from = Rig::sim(23);
    // Of the lowest version: it is found wherever it is looked for.
    from.write(vec![put("a", "new")]).unwrap();
    let (header, chunk) = from.exported(SHARD);
    let mut to = Rig::sim(24);
    for value in ["older", "old"] {
        to.write(vec![put("a", value)]).unwrap();
        to.store.checkpoint();
        // Their pointers, too, are in the index.
        to.pass(10_000).unwrap();
    }
    // Of the cache nothing is asked that is not the newest.
    let at = Version(to.version - 1);
    let ask = |to: &mut Rig| match to.store.get(Space::User, b"a", at) {
        Lookup::Pending(read) => read,
        known => panic!("{known:?} needs no disk"),
    };
    let jobs_of = |to: &mut Rig, lane: Lane| {
        let mut jobs = Vec::new();
        to.store.take_jobs(&mut jobs);
        assert!(jobs.iter().all(|job| job.lane() == lane));
        jobs
    };
    let before = ask(&mut to);
    let begun = jobs_of(&mut to, Lane::Read);
    let import = to.store.import(SHARD, REPLICA, header.clone());
    to.store.import_chunk(import, chunk);
    let mut switch = jobs_of(&mut to, Lane::Background);
    let mut asked = vec![before];
    let mut early = Vec::new();
    for mut read in begun {
        read.step();
        to.store.complete(read).unwrap();
    }
    while switch[0].step() == JobStep::Again {
        asked.push(ask(&mut to));
        for mut read in jobs_of(&mut to, Lane::Read) {
            run_job(&mut read);
            to.store.complete(read).unwrap();
        }
        to.store.take_reads(&mut early);
    }
    assert!(asked.len() > 4, "the switch has some steps");
    assert_eq!(early, []);
    to.store.complete(switch.remove(0)).unwrap();
    to.run().unwrap();
    let mut answers = Vec::new();
    to.store.take_reads(&mut answers);
    assert_eq!(answers.len(), asked.len());
    for (_, answer) in answers {
        assert_eq!(value_in(&answer), Some(b"new".to_vec()));
    }
    mark(&mut to, (SHARD, REPLICA), header);
    assert_eq!(to.value(b"a"), Some(b"new".to_vec()));
}

#[test]
fn crash_between_each_two_steps_of_a_snapshot_switch() {
    let mut from = Rig::sim(22);
    for n in 0..40u32 {
        from.write(vec![put(format!("a-{n:04}"), vec![3; 300])])
            .unwrap();
    }
    let new = from.model.clone();
    let (header, chunk) = from.exported(SHARD);
    let deaths: [fn(&mut Rig); 2] = [Rig::die, |rig| rig.cut_power(Survival::Random, Rot::Gone)];
    let mut whole = 0;
    for (step, death) in (0..).flat_map(|step| deaths.map(|death| (step, death))) {
        let mut to = Rig::sim(step);
        for n in 0..30u32 {
            to.write(vec![
                put(format!("a-{:04}", n * 2), "old"),
                put(format!("b-{n}"), "old"),
            ])
            .unwrap();
            if n == 15 {
                to.store.checkpoint();
                // Their pointers, too, are in the index.
                to.pass(10_000).unwrap();
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
        death(&mut to);
        to.disk().heal();
        to.reopen().unwrap();
        // Either the old state, whole, or the new one, whole.
        let applied = to.store.applied(SHARD).unwrap();
        if applied == header.applied {
            // Its marker may be missing: the log is empty there, or begins there.
            assert!(to.store.log().last_index(SHARD).unwrap() >= applied.index);
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
            whole += 1;
            if whole == deaths.len() {
                break;
            }
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
