//! What is relied on is durable: batches, value files, snapshots, and the segments that go.

use super::*;
use crate::disk::{Fault, Survival};
use crate::index::Rot;
use crate::rig::{put, rng};
use crate::{KeyRange, LogBatch, Version};
use rand::Rng;

fn power_cut_behind_an_acknowledgement() {
    let mut rig = Rig::sim(70);
    for n in 0..5 {
        rig.write(vec![put(format!("k{n}"), "1")]).unwrap();
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check();
    }
}

#[test]
fn a_write_is_durable_when_it_is_acknowledged() {
    noticed(Bug::SkipsSync, power_cut_behind_an_acknowledgement);
}

fn power_cut_behind_a_checkpoint() {
    let mut rig = Rig::sim(71);
    for n in 0..40 {
        let change = put(format!("k{n:02}"), vec![n; 300]);
        rig.write(vec![change]).unwrap();
    }
    rig.store.checkpoint();
    rig.run().unwrap();
    rig.check_with_power_loss();
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
}

#[test]
fn a_checkpoint_is_durable_when_the_manifest_says_so() {
    noticed(Bug::SkipsValueSync, power_cut_behind_a_checkpoint);
}

fn power_cut_behind_a_snapshot() {
    let mut from = Rig::sim(72);
    for n in 0..40 {
        let change = put(format!("k{n:02}"), vec![n; 300]);
        from.write(vec![change]).unwrap();
    }
    let (header, chunk) = from.exported(SHARD);
    let mut to = Rig::sim(73);
    let replica = crate::rig::REPLICA;
    let import = to.store.import(SHARD, replica, header.clone());
    to.store.import_chunk(import, chunk);
    to.run().unwrap();
    // Switched in, and the crash comes before its marker: the log is empty there.
    to.power_loss(Survival::Nothing, Rot::Gone);
    assert_eq!(to.store.applied(SHARD), Some(header.applied));
    assert_eq!(end_of(&to, SHARD), header.applied.index);
    let term = to.store.log().term(SHARD, header.applied.index);
    assert_eq!(term, Ok(header.applied.term));
    to.model = from.model.clone();
    to.check();
    let mut batch = LogBatch::new();
    batch.snapshot_marker(SHARD, replica, header.applied, header.conf);
    to.store.submit(batch);
    to.run().unwrap();
    to.write(vec![put("k01", "goes on")]).unwrap();
    to.check_with_power_loss();
}

#[test]
fn a_snapshot_is_durable_before_its_marker() {
    noticed(Bug::SkipsValueSync, power_cut_behind_a_snapshot);
}

fn crashes_while_files_and_segments_go() {
    for step in 0.. {
        let mut rig = Rig::sim(step);
        rig.churn(5, 120);
        rig.disk().inject(Fault::CrashAfter(step));
        let mut rng = rng(7);
        let mut crashed = false;
        for _ in 0..40 {
            let key = format!("key-{:03}", rng.random_range(0..50));
            let written = rig.write(vec![put(key, vec![9; 700])]);
            // With time for the pointers to go into the index, and for a reclaim.
            if written.and_then(|()| rig.pass(20)).is_err() {
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
        rig.check_with_power_loss();
        if !crashed {
            assert!(step > 10);
            break;
        }
    }
}

#[test]
fn crash_between_each_two_steps_of_a_reclaim_and_a_trim() {
    noticed(
        Bug::TrimsBeforeItIsNoted,
        crashes_while_files_and_segments_go,
    );
}
