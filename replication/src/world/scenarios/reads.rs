//! Reads: leases by the clock, quorum rounds, and leaders that do not know yet that they were deposed.

use super::*;
use crate::message::{Batch, GroupReply, HeartbeatReply, Rest};

/// The old leader may read by its lease until no other can be elected; not a moment longer.
fn lease_of_a_leader_whose_answers_were_slow() -> Result<(), String> {
    let mut world = quiet_world(3);
    for follower in [0, 2] {
        world.links[follower][1].delay_us = (450_000, 450_001);
    }
    world.run_ms(1_000);
    world.isolate(1);
    // Answers to rounds that were sent long ago still arrive.
    for _ in 0..12 {
        world.run_ms(100);
        world.begin_op_at(0, 1, KEY, true);
        world.begin_op_at(2, 1, KEY, true);
        world.begin_op_at(1, 2, KEY, false);
    }
    world.run_ms(3_000);
    holds(&mut world)
}

#[test]
fn a_lease_runs_from_the_send_time() {
    noticed(
        Bug::LeaseFromReceipt,
        lease_of_a_leader_whose_answers_were_slow,
    );
}

/// Scenario 16, first half: the target leads at once, and the old leader does not hear of it.
fn transfer_behind_the_leaders_back() -> Result<(), String> {
    let mut world = quiet_world(4);
    write(&mut world, 1)?;
    let to = world.replica(2, S).ok_or("no replica")?;
    let now = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_mut().ok_or("no process")?;
    process
        .replication
        .transfer(now, S, to)
        .map_err(|error| error.to_string())?;
    world.settle(1);
    for other in [0, 2] {
        world.links[other][1].cut = true;
    }
    if !world.run_until(300, |world| world.leader(S) == Some(2)) {
        return Err("the transfer failed".to_string());
    }
    write(&mut world, 2)?;
    read(&mut world, 1)?;
    holds(&mut world)
}

#[test]
fn a_leader_that_transfers_holds_no_lease() {
    noticed(Bug::KeepsLeaseInTransfer, transfer_behind_the_leaders_back);
}

/// Scenario 16: the message to campaign arrives after the transfer was given up.
fn late_timeout_now() -> Result<(), String> {
    let mut world = quiet_world(5);
    write(&mut world, 1)?;
    // Both followers have acknowledged everything: the message leaves at once.
    world.run_ms(100);
    let to = world.replica(2, S).ok_or("no replica")?;
    world.links[1][2].delay_us = (2_000_000, 2_000_001);
    let now = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_mut().ok_or("no process")?;
    process
        .replication
        .transfer(now, S, to)
        .map_err(|error| error.to_string())?;
    world.settle(1);
    world.links[1][2] = FAIR;
    // The transfer is given up after an election time-out, and the leader goes on leading: its
    // rounds are answered, and would renew a lease.
    world.run_ms(1_400);
    if world.leader(S) != Some(1) {
        return Err("the leader did not go on".to_string());
    }
    write(&mut world, 1)?;
    world.run_ms(500);
    for other in [0, 2] {
        world.links[other][1].cut = true;
    }
    if !world.run_until(500, |world| world.leader(S) == Some(2)) {
        return Err("the late message had no effect: the scenario is void".to_string());
    }
    write(&mut world, 2)?;
    read(&mut world, 1)?;
    holds(&mut world)
}

#[test]
fn timeout_now_that_arrives_after_the_abort_meets_no_lease() {
    noticed(Bug::KeepsLeaseInTransfer, late_timeout_now);
}

/// Scenario 14: ticks come in a burst at both voters, as after a stall of the whole machine.
fn burst_of_ticks_at_the_voters() -> Result<(), String> {
    let mut world = quiet_world(6);
    write(&mut world, 1)?;
    world.isolate(1);
    for _ in 0..70 {
        for voter in [0, 2] {
            world.event(voter, Event::Tick);
        }
        world.run(100);
    }
    world.run_ms(30);
    // The new leader, if there is one already, serves at once; so does the old one.
    for _ in 0..10 {
        world.begin_op_at(0, 1, KEY, true);
        world.begin_op_at(2, 1, KEY, true);
        world.run_ms(30);
        world.begin_op_at(1, 2, KEY, false);
        world.run_ms(10);
    }
    world.run_ms(3_000);
    holds(&mut world)
}

#[test]
fn voters_keep_their_promise_by_the_clock() {
    noticed(Bug::VotesByTicks, burst_of_ticks_at_the_voters);
}

/// Scenario 14: the leader is stopped between its look at the lease and its answer.
#[test]
fn a_leader_stopped_around_its_lease_check_does_not_answer() {
    let mut world = quiet_world(7);
    write(&mut world, 1).expect("the leader serves");
    let now = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_mut().expect("it runs");
    let Read::Ready(grant) = process.replication.read(now, S, ReadToken(1)) else {
        panic!("a leader with a lease reads at once");
    };
    assert!(process.replication.confirm(now, S, &grant));
    world.machines[1].paused_until = world.now + 3_000_000;
    assert!(world.run_until(2_500, |world| world.leader(S).is_some_and(|l| l != 1)));
    world.run_ms(600);
    let later = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_ref().expect("it runs");
    assert!(
        !process.replication.confirm(later, S, &grant),
        "the lease is long over"
    );
}

/// Scenario 14: clocks whose rates differ as far as is allowed, for and against the leader.
#[test]
fn leases_survive_the_drift_they_are_made_for() {
    for seed in 0..10 {
        let mut plan = Plan::new(seed);
        plan.write_permille = 300;
        let mut world = World::new(plan);
        world.run_ms(500);
        for node in 0..3 {
            let ppm = if node as u64 == seed % 3 {
                955_000
            } else {
                1_045_000
            };
            world.fault(random::Fault::Rate(node, ppm));
        }
        for round in 0..4 {
            world.run_ms(700);
            if let Some(leader) = world.leader(S) {
                world.isolate(leader);
            }
            world.run_ms(1_500 + 100 * round);
            world.fault(random::Fault::Mend);
        }
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Catalogue 1: a new leader answers before it knows what its predecessor had committed.
fn read_at_a_leader_that_has_not_committed() -> Result<(), String> {
    let mut world = quiet_world(8);
    write(&mut world, 1)?;
    // The second write is acknowledged; followers have it, and do not know that it is committed.
    world.run_ms(100);
    let last = |world: &World, node: usize| {
        let process = world.machines[node].process.as_ref();
        process
            .and_then(|p| p.replication.status(S))
            .map_or(0, |status| status.last.index)
    };
    let before = last(&world, 0);
    world.begin_op_at(1, 99, KEY, true);
    for _ in 0..1_000 {
        if last(&world, 0).min(last(&world, 2)) == before {
            world.run(20);
        }
    }
    world.links[1][0].cut = true;
    world.links[1][2].cut = true;
    if !world.run_until(100, |world| world.ops.is_empty()) {
        return lost("write");
    }
    world.isolate(1);
    let elected = |world: &World| {
        [0, 2].iter().any(|&node| {
            let process = world.machines[node].process.as_ref();
            let leadership = process.and_then(|process| process.replication.leadership(S));
            leadership.is_some_and(|leadership| leadership.role == Role::Leader)
        })
    };
    for _ in 0..150_000 {
        if !elected(&world) {
            world.run(20);
        }
    }
    if !elected(&world) {
        return Err("no new leader".to_string());
    }
    // From here on every fsync takes longer than many rounds of heartbeats.
    world.plan.disk_us = (700_000, 700_001);
    for _ in 0..40 {
        for node in [0, 2] {
            world.begin_op_at(node, 1, KEY, false);
        }
        world.run_ms(10);
    }
    world.run_ms(3_000);
    holds(&mut world)
}

#[test]
fn a_new_leader_reads_after_an_entry_of_its_own_term() {
    noticed(
        Bug::ServesBeforeOwnTerm,
        read_at_a_leader_that_has_not_committed,
    );
}

/// A quorum read whose round was confirmed before it arrived: the leader was stopped in between,
/// and does not know yet that it is deposed.
fn read_that_joins_an_earlier_round() -> Result<(), String> {
    let mut plan = Plan::new(9);
    plan.shards = 1;
    plan.clients = 0;
    plan.reads = Reads::Quorum;
    plan.quiet_after_ms = 1_000_000;
    let mut world = with_leader(plan);
    write(&mut world, 1)?;
    world.run_ms(50);
    world.machines[1].paused_until = world.now + 2_000_000;
    world.links[0][1].cut = true;
    world.links[2][1].cut = true;
    if !world.run_until(1_900, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }) {
        return Err("no new leader".to_string());
    }
    write(&mut world, 0)?;
    // It goes on, and the read arrives before the tick that would begin another round.
    world.machines[1].paused_until = world.now;
    read(&mut world, 1)?;
    holds(&mut world)
}

#[test]
fn a_quorum_read_counts_on_a_later_round() {
    noticed(Bug::JoinsEarlierRound, read_that_joins_an_earlier_round);
}

/// Rounds begin anew with each life of a process: answers to those of an earlier one may still arrive.
#[test]
fn an_answer_to_an_earlier_life_confirms_nothing() {
    let mut plan = Plan::new(13);
    plan.shards = 1;
    plan.clients = 0;
    plan.reads = Reads::Quorum;
    plan.quiet_after_ms = 1_000_000;
    let mut world = with_leader(plan);
    write(&mut world, 1).expect("the leader serves");
    world.isolate(1);
    world.begin_op_at(1, 99, KEY, false);
    world.run_ms(2);
    let process = world.machines[1].process.as_ref().expect("it runs");
    let group = process.replication.groups.get(&S).expect("its replica");
    let leading = group.leading.as_ref().expect("it leads");
    let (round, _) = leading.read_round.expect("the read waits for a round");
    let (term, commit) = (group.term(), group.committed());
    let answer = |world: &mut World, life| {
        for follower in [0, 2] {
            let reply = GroupReply {
                shard: S,
                from: member(follower).replica,
                to: member(1).replica,
                term,
                commit,
                rest: Rest::Awake,
            };
            let reply = HeartbeatReply {
                incarnation: Incarnation(life),
                round: round.0,
                groups: vec![reply],
            };
            let batch = Batch {
                replies: vec![reply],
                ..Batch::default()
            };
            let from = world.machines[follower].id;
            let message = Message::Batch(batch);
            world.event(1, Event::Receive { from, message });
        }
        world.run_ms(2);
    };
    let life = world.machines[1].life;
    answer(&mut world, life - 1);
    assert_eq!(world.ops.len(), 1, "it still waits");
    answer(&mut world, life);
    assert!(world.ops.is_empty(), "it is answered");
    world.finish().map(drop).expect("the history holds");
}

/// The leader keeps the learners, the other voters elect another leader.
fn lease_among_learners() -> Result<(), String> {
    for seed in 30..38 {
        let mut world = three_voters_and_two_learners(seed)?;
        for one in [1, 3, 4] {
            for other in [0, 2] {
                world.links[one][other].cut = true;
                world.links[other][one].cut = true;
            }
        }
        read_old_and_write_new(&mut world)?;
    }
    Ok(())
}

/// For as long as two leaders might be thought of: writes through the others, reads at node 1.
fn read_old_and_write_new(world: &mut World) -> Result<(), String> {
    for _ in 0..60 {
        world.begin_op_at(0, 1, KEY, true);
        world.begin_op_at(2, 1, KEY, true);
        world.run_ms(15);
        world.begin_op_at(1, 2, KEY, false);
        world.run_ms(10);
    }
    world.run_ms(3_000);
    holds(world)
}

#[test]
fn learners_renew_no_lease() {
    noticed(Bug::CountsLearners, lease_among_learners);
}
