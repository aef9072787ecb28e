//! Histories with names: the ways in which replication has failed before, here or elsewhere.
//!
//! Most have a twin: the same history with a known bug put back in, which has to be noticed. A
//! history without such a twin proves less.

mod basics;
mod crashes;
mod damage;
mod members;
mod quiet;
mod reads;
mod snapshots;

use super::*;
use synod_testpoint::{Bug, plant};

const S: ShardId = ShardId(1);
const KEY: Key = (S, 0);

/// The history passes as it is, and does not with the bug planted.
fn noticed(bug: Bug, history: fn() -> Result<(), String>) {
    plant(None);
    assert_eq!(history(), Ok(()));
    plant(Some(bug));
    let outcome = history();
    plant(None);
    assert!(outcome.is_err(), "{bug:?} went unnoticed");
}

/// Three nodes, one shard, no clients of their own; node 1 leads.
fn quiet_world(seed: u64) -> World {
    let mut plan = Plan::new(seed);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 1_000_000;
    with_leader(plan)
}

fn with_leader(plan: Plan) -> World {
    let mut world = World::new(plan);
    assert!(
        world.run_until(2_000, |world| world.leader(S).is_some()),
        "no first leader"
    );
    world.run_ms(300);
    assert_eq!(world.leader(S), Some(1), "the member that bootstraps leads");
    world
}

/// Writes through a node, and waits until it is acknowledged.
fn write(world: &mut World, node: usize) -> Result<(), String> {
    world.begin_op_at(node, 99, KEY, true);
    if world.run_until(2_900, |world| world.ops.is_empty()) {
        Ok(())
    } else {
        lost("write")
    }
}

/// Reads at a node first; waits for the answer, whoever gives it.
fn read(world: &mut World, node: usize) -> Result<(), String> {
    world.begin_op_at(node, 99, KEY, false);
    if world.run_until(2_900, |world| world.ops.is_empty()) {
        Ok(())
    } else {
        lost("read")
    }
}

fn lost(what: &str) -> Result<(), String> {
    Err(format!("a {what} was not answered"))
}

/// The history so far holds.
fn holds(world: &mut World) -> Result<(), String> {
    match world.failure.take() {
        Some(failure) => Err(failure),
        None => world.history.check(),
    }
}

/// Five nodes that all carry the shard; node 1 leads.
fn five(seed: u64) -> World {
    let mut plan = Plan::new(seed);
    plan.nodes = 5;
    plan.replicas = 5;
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 1_000_000;
    with_leader(plan)
}

fn member(node: usize) -> Member {
    Member {
        replica: ReplicaId(S.0 * 10 + node as u64),
        node: NodeId((node as u128 + 1) << 96),
    }
}

fn change(world: &mut World, leader: usize, changes: &[crate::Change]) -> Result<u64, String> {
    let now = world.machines[leader].now(world.now);
    let process = world.machines[leader]
        .process
        .as_mut()
        .ok_or("no process")?;
    let id = process
        .replication
        .change_replicas(now, S, changes)
        .map_err(|e| e.to_string())?;
    world.settle(leader);
    Ok(id.index)
}

fn configuration(world: &World, node: usize) -> Configuration {
    let process = world.machines[node].process.as_ref();
    let configuration = process.and_then(|process| process.replication.configuration(S));
    configuration.cloned().unwrap_or_default()
}

/// All nodes have left the joint configuration, for one with so many voters.
fn settled_on(world: &World, voters: usize) -> bool {
    (0..5).all(|node| {
        let configuration = configuration(world, node);
        !configuration.is_joint() && configuration.voters.len() == voters
    })
}

/// Two voters become learners, in one step through a joint configuration.
fn three_voters_and_two_learners(seed: u64) -> Result<World, String> {
    use crate::Change::Learner;
    let mut world = five(seed);
    write(&mut world, 1)?;
    change(&mut world, 1, &[Learner(member(3)), Learner(member(4))])?;
    if !world.run_until(2_000, |world| settled_on(world, 3)) {
        return Err(format!(
            "the change stands at {:?}",
            configuration(&world, 1)
        ));
    }
    Ok(world)
}

fn everybody_sleeps(world: &World) -> bool {
    (0..3).all(|node| {
        let process = world.machines[node].process.as_ref();
        process.is_some_and(|process| process.replication.status(S).is_some_and(|s| s.quiet))
    })
}
