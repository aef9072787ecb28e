//! Histories with names: how a store could lose, revive or invent something.
//!
//! Each has a twin wherever one line makes the difference: the same history with a known bug put back
//! in, which has to be noticed. The rig is that of the crate's other tests, which know no such bugs.

mod files;
mod index;
mod log;

use std::panic::catch_unwind;

use synod_testpoint::{Bug, plant};

use crate::rig::{Rig, SHARD};
use crate::{ReplicaId, ShardId};

/// A second shard, so that damage has somebody to spare.
const OTHER: ShardId = ShardId(2);
const OTHER_REPLICA: ReplicaId = ReplicaId(22);

/// The history passes as it is, and does not with the bug planted.
fn noticed(bug: Bug, history: fn()) {
    plant(None);
    history();
    plant(Some(bug));
    let outcome = catch_unwind(history);
    plant(None);
    assert!(outcome.is_err(), "{bug:?} went unnoticed");
}

/// A store with two shards.
fn two_shards(seed: u64) -> Rig {
    let mut rig = Rig::sim(seed);
    rig.create(OTHER, OTHER_REPLICA).unwrap();
    rig
}

/// The segment that the log ends with.
fn newest_segment(rig: &Rig) -> String {
    let paths = rig.disk().paths().into_iter();
    let mut segments = paths.filter(|path| path.contains("segment-"));
    segments.next_back().expect("a log has a segment")
}

/// What the replica of a shard lost, as the start has found it.
fn damage_of(rig: &Rig, shard: ShardId) -> &crate::Damage {
    let mut replicas = rig.replicas.iter();
    let found = replicas.find(|replica| replica.shard == shard);
    &found.expect("the replica is there").damage
}

/// Where the log of a shard ends.
fn end_of(rig: &Rig, shard: ShardId) -> u64 {
    rig.store.log().last_index(shard).unwrap()
}
