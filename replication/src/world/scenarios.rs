//! Histories with names: the ways in which replication has failed before, here or elsewhere.
//!
//! Most have a twin: the same history with a known bug put back in, which has to be noticed. A
//! history without such a twin proves less.

use super::*;
use crate::planted::{Bug, plant};

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

#[test]
fn a_shard_elects_a_leader_and_serves() {
    let mut world = World::new(Plan::new(1));
    assert!(world.run_until(1_000, |world| world.leader(ShardId(1)).is_some()));
    world.run_ms(2_000);
    assert!(world.history.writes > 50, "{:?}", world.history.writes);
    world.finish().map(drop).expect("the history holds");
}

#[test]
fn one_seed_gives_one_history() {
    let run = |seed| {
        let mut world = World::new(Plan::new(seed));
        world.trouble(random::Severity::Network, 3_000_000);
        world.run_ms(4_000);
        (
            world.order,
            world.now,
            world.committed,
            world.leaders,
            world.counts,
        )
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).2, run(8).2);
}

#[test]
fn a_cut_off_leader_is_replaced_within_three_seconds() {
    for seed in 0..20 {
        let mut world = quiet_world(seed);
        world.isolate(1);
        assert!(
            world.run_until(3_000, |world| world
                .leader(S)
                .is_some_and(|leader| leader != 1)),
            "seed {seed}"
        );
        write(&mut world, 0).expect("the majority serves");
        world.finish().map(drop).expect("the history holds");
    }
}

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
    read(&mut world, 1)?;
    holds(&mut world)
}

#[test]
fn a_quorum_read_counts_on_a_later_round() {
    noticed(Bug::JoinsEarlierRound, read_that_joins_an_earlier_round);
}

/// Scenario 7: a proposal of an old term, after the leader lost its leadership.
#[test]
fn a_proposal_of_a_deposed_leader_is_reported_lost() {
    let mut world = quiet_world(10);
    write(&mut world, 1).expect("the leader serves");
    world.isolate(1);
    let op = world.begin_op_at(1, 99, KEY, true);
    world.run_ms(50);
    let process = world.machines[1].process.as_ref().expect("it runs");
    assert_eq!(
        process.writes.len(),
        1,
        "it was proposed, and cannot be committed"
    );
    assert!(world.run_until(3_000, |world| world.leader(S).is_some_and(|l| l != 1)));
    write(&mut world, 0).ok();
    world.fault(random::Fault::Mend);
    // Overwritten, so certainly not done: the client may try again, and does.
    world.run_ms(1_500);
    assert!(!world.ops.contains_key(&op));
    let process = world.machines[1].process.as_ref().expect("it runs");
    assert!(process.writes.is_empty());
    world.finish().map(drop).expect("the history holds");
}

/// Scenario 26: everybody sleeps, and the leader's node is gone.
fn death_of_a_quiet_leader() -> Result<(), String> {
    let mut plan = Plan::new(11);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 200;
    let mut world = with_leader(plan);
    if !world.run_until(3_000, |world| everybody_sleeps(world)) {
        return Err("the group does not go quiet".to_string());
    }
    world.run_ms(5_000);
    world.isolate(1);
    if !world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }) {
        return Err("nobody noticed".to_string());
    }
    write(&mut world, 0)?;
    holds(&mut world)
}

fn everybody_sleeps(world: &World) -> bool {
    (0..3).all(|node| {
        let process = world.machines[node].process.as_ref();
        process.is_some_and(|process| process.replication.status(S).is_some_and(|s| s.quiet))
    })
}

#[test]
fn silence_of_a_quiet_leaders_node_wakes_its_followers() {
    noticed(Bug::IgnoresSilence, death_of_a_quiet_leader);
}

/// Rule 44: frozen ticks would refuse votes for ever.
fn one_of_the_sleepers_needs_a_vote() -> Result<(), String> {
    let mut plan = Plan::new(12);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 200;
    let mut world = with_leader(plan);
    if !world.run_until(3_000, |world| everybody_sleeps(world)) {
        return Err("the group does not go quiet".to_string());
    }
    world.run_ms(2_000);
    // The leader is gone for node 0 only: node 2 hears its node, and sleeps on.
    world.links[0][1].cut = true;
    world.links[1][0].cut = true;
    if !world.run_until(4_000, |world| world.leader(S) == Some(0)) {
        return Err("node 0 could not be elected".to_string());
    }
    holds(&mut world)
}

#[test]
fn a_quiet_follower_wakes_for_a_vote() {
    noticed(Bug::SleepsThroughVotes, one_of_the_sleepers_needs_a_vote);
}

#[test]
fn a_quiet_group_sends_nothing_of_its_own_and_wakes_for_a_command() {
    let mut plan = Plan::new(13);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 200;
    let mut world = with_leader(plan);
    assert!(world.run_until(3_000, |world| everybody_sleeps(world)));
    let before = world.counts["messages"];
    world.run_ms(10_000);
    assert!(everybody_sleeps(&world));
    // Six one-way pairs, ten signs of life a second, and nothing else.
    let sent = world.counts["messages"] - before;
    assert!(sent <= 6 * 10 * 10 + 6, "{sent} messages");
    write(&mut world, 1).expect("a command wakes it");
    assert!(!everybody_sleeps(&world));
    read(&mut world, 1).expect("and so does a read");
    assert!(
        world.run_until(3_000, |world| everybody_sleeps(world)),
        "it sleeps again"
    );
    let status = world.machines[1]
        .process
        .as_ref()
        .and_then(|p| p.replication.status(S));
    world.run_ms(600);
    let now = world.machines[1].now(world.now);
    let lease_end = status.and_then(|status| status.lease_end).expect("it led");
    assert!(lease_end < now, "a quiet group holds no lease");
    world.finish().map(drop).expect("the history holds");
}

/// Rule 46: the leader's replica dies on a node that lives.
#[test]
fn the_digest_shows_that_a_quiet_leaders_replica_is_gone() {
    let mut plan = Plan::new(14);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 200;
    let mut world = with_leader(plan);
    assert!(world.run_until(3_000, |world| everybody_sleeps(world)));
    let replica = world.replica(1, S).expect("it has one");
    world.placed.remove(&(1, S));
    world.event(
        1,
        Event::Destroy {
            shard: S,
            replica,
            range: Some(KeyRange::all()),
        },
    );
    assert!(world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }));
    write(&mut world, 0).expect("the rest serves");
}

#[test]
fn late_and_repeated_messages_change_nothing() {
    for seed in 0..10 {
        let mut plan = Plan::new(seed);
        plan.shards = 1;
        let mut world = World::new(plan);
        for from in 0..3 {
            for to in 0..3 {
                world.links[from][to].repeat_permille = 500;
                world.links[from][to].delay_us = (100, 200_000);
            }
        }
        world.run_ms(6_000);
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

// --- changes of the members ---------------------------------------------------------------------

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

#[test]
fn voters_become_learners_in_one_step() {
    let mut world = three_voters_and_two_learners(20).expect("the change is made");
    assert_eq!(
        configuration(&world, 1).learners,
        vec![member(3).replica, member(4).replica]
    );
    // Learners have no vote: without two of three, nobody leads, however many learn.
    world.isolate(0);
    world.isolate(1);
    world.links[0][1] = FAIR;
    world.links[1][0] = FAIR;
    write(&mut world, 1).expect("two of three voters serve");
    world.links[0][1].cut = true;
    world.links[1][0].cut = true;
    world.run_ms(2_000);
    assert_eq!(world.leader(S), None, "one voter and two learners");
}

#[test]
fn a_single_change_needs_no_joint_configuration() {
    let mut world = five(21);
    change(&mut world, 1, &[crate::Change::Remove(member(4).replica)]).expect("accepted");
    world.placed.remove(&(4, S));
    let removed = |world: &mut World| configuration(world, 0).voters.len() == 4;
    assert!(world.run_until(1_000, removed));
    assert_eq!(
        world.counts["configurations"], 5,
        "one change at each replica"
    );
    world.finish().map(drop).expect("the history holds");
}

#[test]
fn a_change_that_does_not_fit_is_refused_before_it_is_proposed() {
    use crate::{Change, ChangeError};
    let mut world = quiet_world(22);
    let now = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_mut().expect("it runs");
    let mut ask = |changes: &[Change]| process.replication.change_replicas(now, S, changes);
    let all: Vec<Change> = (0..3)
        .map(|node| Change::Remove(member(node).replica))
        .collect();
    assert_eq!(ask(&all), Err(ChangeError::Invalid), "nobody would be left");
    assert_eq!(ask(&[]), Err(ChangeError::Invalid));
    assert_eq!(
        ask(&[Change::Remove(ReplicaId(77))]),
        Err(ChangeError::Invalid),
        "unknown"
    );
    let second = Member {
        replica: ReplicaId(78),
        node: member(0).node,
    };
    assert_eq!(
        ask(&[Change::Learner(second)]),
        Err(ChangeError::Invalid),
        "two on one node"
    );
    assert!(ask(&[Change::Remove(member(0).replica)]).is_ok());
    assert_eq!(
        ask(&[Change::Remove(member(2).replica)]),
        Err(ChangeError::Busy)
    );
}

/// raft-rs' automatic leave is lost when the leader steps down first; ours is every leader's.
#[test]
fn a_later_leader_leaves_the_joint_configuration() {
    use crate::Change::Learner;
    for seed in 23..28 {
        let mut world = five(seed);
        change(&mut world, 1, &[Learner(member(3)), Learner(member(4))]).expect("accepted");
        assert!(world.run_until(100, |world| {
            (0..5).any(|n| configuration(world, n).is_joint())
        }));
        world.isolate(1);
        assert!(
            world.run_until(4_000, |world| {
                [0, 2, 3, 4].iter().all(|&node| {
                    let configuration = configuration(world, node);
                    !configuration.is_joint() && configuration.voters.len() == 3
                })
            }),
            "seed {seed}: {:?}",
            configuration(&world, 0)
        );
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

#[test]
fn a_leader_that_removes_itself_steps_down() {
    let mut world = quiet_world(29);
    change(&mut world, 1, &[crate::Change::Remove(member(1).replica)]).expect("accepted");
    world.placed.remove(&(1, S));
    assert!(world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }));
    assert!(
        world.run_until(1_000, |world| world.replica(1, S).is_none()),
        "it is destroyed"
    );
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

/// Catalogue 13: the votes of those who are not voters do not count.
#[test]
fn a_removed_voter_elects_nobody() {
    use crate::Change::Remove;
    let mut world = five(50);
    let changes = [Remove(member(3).replica), Remove(member(4).replica)];
    // Nodes 3 and 4 never learn that they were removed.
    for gone in [3, 4] {
        world.isolate(gone);
        world.placed.remove(&(gone, S));
    }
    change(&mut world, 1, &changes).expect("accepted");
    assert!(world.run_until(1_000, |world| {
        (0..3).all(|node| {
            let configuration = configuration(world, node);
            !configuration.is_joint() && configuration.voters.len() == 3
        })
    }));
    // One of three voters, and the two that were removed, are among themselves.
    for one in [0, 3, 4] {
        for other in [0, 3, 4] {
            world.links[one][other] = FAIR;
        }
        for other in [1, 2] {
            world.links[one][other].cut = true;
            world.links[other][one].cut = true;
        }
    }
    world.run_ms(5_000);
    for node in [0, 3, 4] {
        let process = world.machines[node].process.as_ref().expect("it runs");
        let leads = process
            .replication
            .leadership(S)
            .is_some_and(|l| l.role == Role::Leader);
        assert!(
            !leads,
            "node {node} was elected by replicas that have no vote"
        );
    }
    write(&mut world, 1).expect("the majority serves");
    holds(&mut world).expect("the history holds");
}

// --- restarts -----------------------------------------------------------------------------------

/// Scenario 15: a voter that acknowledged a lease restarts while another peer campaigns.
fn voter_of_a_lease_restarts() -> Result<(), String> {
    for seed in 0..12 {
        let mut world = quiet_world(60 + seed);
        write(&mut world, 1)?;
        world.links[1][2].cut = true;
        world.links[2][1].cut = true;
        // Node 2 hears nothing and campaigns; node 0 refuses it, on the leader's behalf.
        world.run_ms(3_000 + 70 * seed);
        if world.leader(S) != Some(1) {
            return Err("the promise was not kept".to_string());
        }
        world.isolate(1);
        world.kill(0);
        world.start(0);
        for _ in 0..40 {
            world.begin_op_at(2, 1, KEY, true);
            world.run_ms(10);
            world.begin_op_at(1, 2, KEY, false);
            world.run_ms(5);
        }
        world.run_ms(3_000);
        holds(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_restarted_voter_keeps_a_promise_that_it_forgot() {
    noticed(Bug::ForgetsPromises, voter_of_a_lease_restarts);
}

/// Catalogue 18: acknowledged, and then the power fails.
fn power_fails_at_those_who_acknowledged() -> Result<(), String> {
    let mut world = quiet_world(61);
    write(&mut world, 1)?;
    world.run_ms(200);
    for follower in [0, 2] {
        world.machines[follower].disk_us = Some((700_000, 700_001));
    }
    write(&mut world, 1)?;
    for follower in [0, 2] {
        world.power_loss_leaving(follower, Survival::Nothing);
        world.machines[follower].disk_us = None;
    }
    world.isolate(1);
    world.start(0);
    world.start(2);
    if !world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }) {
        return Err("the majority does not serve".to_string());
    }
    read(&mut world, 0)?;
    holds(&mut world)
}

#[test]
fn an_acknowledged_write_survives_a_power_cut_of_the_majority() {
    noticed(
        Bug::AcknowledgesBeforeSync,
        power_fails_at_those_who_acknowledged,
    );
}

/// Catalogue 18 for a shard of one.
#[test]
fn a_single_node_acknowledges_after_its_fsync() {
    for seed in 0..20 {
        let mut plan = Plan::new(seed);
        plan.nodes = 1;
        plan.replicas = 1;
        plan.disk_us = (100, 5_000);
        let mut world = World::new(plan);
        world.run_ms(500 + 37 * seed);
        assert!(world.history.writes > 5, "it serves at once");
        world.power_loss_leaving(0, Survival::Nothing);
        world.start(0);
        // Nobody else can have been elected: it need not wait out any promise.
        assert!(
            world.run_until(400, |world| world.leader(S).is_some()),
            "seed {seed}"
        );
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Catalogue 22 and 5: a voter restarts after it has voted, and is asked again, for the same term.
fn double_votes() -> Result<(), String> {
    for seed in 0..5 {
        let mut world = quiet_world(seed);
        write(&mut world, 1)?;
        world.run_ms(100);
        for (one, other) in [(0, 2), (2, 0)] {
            world.links[one][other].cut = true;
        }
        // Both followers are asked to campaign, one of them later than a restart is held back.
        world.links[1][2].delay_us = (640_000, 640_001);
        let process = world.machines[1].process.as_mut().ok_or("no process")?;
        if let Some(group) = process.replication.groups.get_mut(&S) {
            group.raft.raft.send_timeout_now(member(0).replica.0);
            group.raft.raft.send_timeout_now(member(2).replica.0);
        }
        process.replication.mark(S);
        world.settle(1);
        // To the very moment: nothing of the new term must reach the voter.
        let leads = |world: &World| {
            let process = world.machines[0].process.as_ref();
            let leadership = process.and_then(|process| process.replication.leadership(S));
            leadership.is_some_and(|leadership| leadership.role == Role::Leader)
        };
        for _ in 0..1_000 {
            if !leads(&world) {
                world.run(30);
            }
        }
        if !leads(&world) {
            return Err("node 0 was not elected".to_string());
        }
        world.isolate(0);
        world.kill(1);
        world.start(1);
        world.run_ms(1_500);
        holds(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_lost_vote_is_noticed() {
    noticed(Bug::ForgetsVotes, double_votes);
}

/// Scenario 17: of three voters two are replaced; they restart with a state from before the change,
/// in which they are a majority.
fn old_majority_restarts() -> Result<(), String> {
    use crate::Change::{Learner, Voter};
    for seed in 70..74 {
        let mut world = three_voters_and_two_learners(seed)?;
        // The first change is in a checkpoint, the second will not be.
        world.run_ms(2_500);
        let changes = [
            Voter(member(3)),
            Voter(member(4)),
            Learner(member(0)),
            Learner(member(2)),
        ];
        change(&mut world, 1, &changes)?;
        // The old half acknowledges the end of the joint configuration, and never hears of it.
        let left = |world: &mut World| {
            let configuration = configuration(world, 1);
            !configuration.is_joint() && configuration.voters.contains(&member(3).replica)
        };
        if !world.run_until(500, left) {
            return Err("the change was not made".to_string());
        }
        for old in [0, 2] {
            for new in [1, 3, 4] {
                world.links[old][new].cut = true;
                world.links[new][old].cut = true;
            }
            world.power_loss_leaving(old, Survival::Nothing);
            world.start(old);
        }
        for _ in 0..40 {
            world.begin_op_at(1, 1, KEY, true);
            world.begin_op_at(0, 2, KEY, true);
            world.begin_op_at(2, 3, KEY, false);
            world.run_ms(100);
        }
        world.run_ms(3_000);
        holds(&mut world)?;
    }
    Ok(())
}

#[test]
fn an_old_majority_cannot_elect_after_a_restart() {
    noticed(Bug::LeavesCommitBehind, old_majority_restarts);
}

/// Everybody dies at once, also with the power, also twice in a row.
#[test]
fn all_nodes_die_and_everything_acknowledged_is_there() {
    for seed in 0..20 {
        let mut world = World::new(Plan::new(seed));
        world.run_ms(1_500);
        for round in 0..3 {
            for node in 0..3 {
                match (seed + round) % 3 {
                    0 => world.kill(node),
                    1 => world.power_loss(node),
                    _ => world.power_loss_leaving(node, Survival::Nothing),
                }
            }
            for node in 0..3 {
                world.start(node);
            }
            world.run_ms(10 + 900 * (round + seed % 2));
        }
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Rule 20: the bytes of an entry rot. The replica stands aside until exactly this entry is back.
#[test]
fn a_damaged_entry_comes_back_from_a_peer() {
    let mut world = quiet_world(80);
    for _ in 0..5 {
        write(&mut world, 1).expect("the leader serves");
    }
    world.run_ms(300);
    world.kill(0);
    let value = 3u64.to_le_bytes();
    assert!(rot(&world, 0, &value), "the third write is in the log");
    world.start(0);
    assert_eq!(world.counts.get("damaged"), Some(&1));
    // It takes no part: with the leader gone, there is no majority.
    world.isolate(1);
    world.run_ms(1_000);
    assert_eq!(world.counts.get("repaired"), Some(&1), "node 2 has it");
    assert!(world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }));
    world.finish().map(drop).expect("the history holds");
}

#[test]
fn a_replica_with_a_damaged_entry_neither_votes_nor_serves() {
    let mut world = quiet_world(81);
    for _ in 0..5 {
        write(&mut world, 1).expect("the leader serves");
    }
    world.run_ms(300);
    world.kill(0);
    assert!(
        rot(&world, 0, &3u64.to_le_bytes()),
        "the third write is in the log"
    );
    world.isolate(0);
    world.start(0);
    assert!(world.replica(0, S).is_none(), "it stands aside");
    world.kill(1);
    world.links[0][2] = FAIR;
    world.links[2][0].cut = true;
    world.run_ms(4_000);
    assert_eq!(
        world.leader(S),
        None,
        "a vote of a damaged replica was counted"
    );
    world.start(1);
    world.finish().map(drop).expect("the history holds");
}

/// Rows of a shard's own are bad in the files of a node that starts: it stands aside, and the leader
/// sends it its state, under the replica id that it has.
#[test]
fn lost_rows_come_back_with_a_snapshot() {
    for seed in 82..86 {
        let mut world = quiet_world(seed);
        for _ in 0..5 {
            write(&mut world, 1).expect("the leader serves");
        }
        world.run_ms(300);
        if let Some(process) = &mut world.machines[0].process {
            process.store.checkpoint();
        }
        world.run_ms(300);
        world.kill(0);
        let disk = world.machines[0].disk.clone();
        let file = disk
            .paths()
            .into_iter()
            .find(|path| path.starts_with("values/"))
            .expect("a checkpoint");
        disk.flip_bit(&file, 50, 3);
        world.start(0);
        assert_eq!(world.counts.get("damaged"), Some(&1), "seed {seed}");
        if seed % 2 == 0 {
            // Also when its log ends before the snapshot.
            write(&mut world, 1).expect("the others are a majority");
        }
        let whole = world.run_until(5_000, |world| world.replica(0, S).is_some());
        assert!(whole, "seed {seed}: it still stands aside");
        assert_eq!(world.counts.get("repaired"), Some(&1));
        // It takes part, under the id it had, after another crash as well.
        world.kill(0);
        world.start(0);
        assert_eq!(world.counts.get("damaged"), Some(&1), "seed {seed}");
        world.kill(2);
        write(&mut world, 1).expect("with it there is a majority");
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Turns a bit of the entry with this value, wherever its node's log has it.
fn rot(world: &World, node: usize, value: &[u8]) -> bool {
    let disk = &world.machines[node].disk;
    let mut pattern = vec![KEY.1];
    pattern.extend_from_slice(value);
    pattern.extend_from_slice(&[b'x'; 20]);
    for path in disk.paths() {
        let content = disk.content(&path).unwrap_or_default();
        if let Some(at) = content
            .windows(pattern.len())
            .position(|window| window == pattern)
        {
            disk.flip_bit(&path, at as u64 + 15, 3);
            return true;
        }
    }
    false
}

/// Scenario 26: a quiet leader restarts, faster than silence is noticed.
#[test]
fn a_quiet_leader_restarts_and_its_group_serves_again() {
    for seed in 90..95 {
        let mut plan = Plan::new(seed);
        plan.shards = 1;
        plan.clients = 0;
        plan.quiet_after_ms = 200;
        let mut world = with_leader(plan);
        write(&mut world, 1).expect("the leader serves");
        assert!(world.run_until(3_000, |world| everybody_sleeps(world)));
        world.run_ms(1_000);
        world.kill(1);
        world.start(1);
        assert!(
            world.run_until(3_000, |world| world.leader(S).is_some()),
            "seed {seed}"
        );
        read(&mut world, 0).expect("it serves");
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// A directory that was put back from a copy has forgotten what it acknowledged. Best effort: the
/// leader that counts on it says so.
#[test]
fn a_disk_that_went_back_in_time_is_told_by_its_leader() {
    let mut world = quiet_world(96);
    write(&mut world, 1).expect("the leader serves");
    world.run_ms(200);
    let disk = world.machines[0].disk.clone();
    let copy: Vec<(String, Vec<u8>)> = disk
        .paths()
        .into_iter()
        .map(|p| (p.clone(), disk.content(&p).unwrap_or_default()))
        .collect();
    for _ in 0..3 {
        write(&mut world, 1).expect("the leader serves");
    }
    world.run_ms(200);
    world.kill(0);
    let disk = world.machines[0].disk.clone();
    for path in disk.paths() {
        disk.lose(&path);
    }
    for (path, content) in copy {
        disk.put(&path, content);
    }
    world.start(0);
    world.run_ms(500);
    assert!(world.replica(0, S).is_none(), "it stands aside");
    assert_eq!(world.counts.get("damaged"), Some(&1));
    write(&mut world, 1).expect("the others serve");
}

#[test]
fn proposals_are_throttled_before_memory_is() {
    let mut world = quiet_world(97);
    world.isolate(1);
    let now = world.machines[1].now(world.now);
    let process = world.machines[1].process.as_mut().expect("it runs");
    let data = Bytes::from(vec![1u8; 1 << 20]);
    let accepted = (0..100)
        .take_while(|_| process.replication.propose(now, S, data.clone()).is_ok())
        .count();
    assert_eq!(accepted, 16, "16 MiB of uncommitted entries in one group");
    let refused = process.replication.propose(now, S, data);
    assert_eq!(refused, Err(crate::ProposeError::Throttled));
    let huge = Bytes::from(vec![1u8; 18 << 20]);
    assert_eq!(
        process.replication.propose(now, S, huge),
        Err(crate::ProposeError::TooLarge)
    );
}

#[test]
fn the_core_can_move_between_threads() {
    fn send<T: Send>() {}
    send::<Replication>();
    send::<Effects>();
    send::<Event>();
}

// --- snapshots ----------------------------------------------------------------------------------

/// Four nodes, a shard on three of them with more rows than fit into one chunk; node 1 leads.
fn with_rows(seed: u64) -> World {
    let mut plan = Plan::new(seed);
    plan.nodes = 4;
    plan.shards = 1;
    plan.clients = 0;
    plan.keys = 60;
    plan.padding = 40_000;
    plan.quiet_after_ms = 1_000_000;
    let options = Options {
        log_keep_bytes: 256 << 10,
        ..Options::default()
    };
    let mut world = World::with_options(plan, options);
    assert!(
        world.run_until(2_000, |world| world.leader(S).is_some()),
        "no first leader"
    );
    world.run_ms(300);
    for key in 0..60 {
        world.begin_op_at(1, 99, (S, key), true);
        world.run(300);
    }
    assert!(
        world.run_until(2_900, |world| world.ops.is_empty()),
        "the rows are written"
    );
    world
}

/// Node 3 gets a replica, as a learner.
fn add_learner(world: &mut World, replica: u64) {
    let learner = Member {
        replica: ReplicaId(replica),
        node: world.machines[3].id,
    };
    world.placed.insert((3, S), learner.replica);
    change(world, 1, &[crate::Change::Learner(learner)]).expect("accepted");
}

fn has_caught_up(world: &mut World, node: usize) -> bool {
    let applied = |world: &World, node: usize| {
        let process = world.machines[node].process.as_ref();
        process
            .and_then(|p| p.replication.status(S))
            .map_or(0, |status| status.applied)
    };
    applied(world, node) > 0 && applied(world, node) == applied(world, 1)
}

#[test]
fn a_new_replica_gets_the_state_in_chunks() {
    let mut world = with_rows(100);
    add_learner(&mut world, 500);
    assert!(world.run_until(3_000, |world| has_caught_up(world, 3)));
    assert_eq!(world.counts.get("snapshots"), Some(&1));
    assert!(world.counts["chunks"] >= 3, "{:?}", world.counts);
    let voter = Member {
        replica: ReplicaId(500),
        node: world.machines[3].id,
    };
    let gone = member(0).replica;
    change(
        &mut world,
        1,
        &[crate::Change::Voter(voter), crate::Change::Remove(gone)],
    )
    .expect("accepted");
    world.placed.remove(&(0, S));
    assert!(world.run_until(2_000, |world| {
        let configuration = configuration(world, 3);
        !configuration.is_joint() && configuration.voters.contains(&ReplicaId(500))
    }));
    assert!(
        world.run_until(2_000, |world| world.replica(0, S).is_none()),
        "it is destroyed"
    );
    world.finish().map(drop).expect("the history holds");
}

/// Catalogue 4: nothing is replaced before everything was validated.
#[test]
fn a_spoiled_chunk_is_asked_for_again() {
    let mut world = with_rows(101);
    world.spoiled_chunks = 3;
    add_learner(&mut world, 500);
    assert!(world.run_until(5_000, |world| has_caught_up(world, 3)));
    assert_eq!(world.spoiled_chunks, 0, "the scenario is void");
    world.finish().map(drop).expect("the history holds");
}

#[test]
fn a_snapshot_goes_on_where_the_connection_was_lost() {
    let mut world = with_rows(102);
    add_learner(&mut world, 500);
    let half = |world: &mut World| {
        world
            .counts
            .get("chunks")
            .is_some_and(|&chunks| chunks >= 3)
    };
    assert!(world.run_until(2_000, half));
    world.links[1][3].cut = true;
    world.links[3][1].cut = true;
    world.run_ms(700);
    let before = world.counts["chunks"];
    world.fault(random::Fault::Mend);
    assert!(world.run_until(3_000, |world| has_caught_up(world, 3)));
    let total = {
        let mut fresh = with_rows(102);
        add_learner(&mut fresh, 500);
        assert!(fresh.run_until(3_000, |world| has_caught_up(world, 3)));
        fresh.counts["chunks"]
    };
    let after = world.counts["chunks"] - before;
    assert!(
        after < total,
        "{after} chunks after the loss of a connection, {total} in all"
    );
    world.finish().map(drop).expect("the history holds");
}

/// Catalogue 2, 3, 5 and 12: the receiver dies at every moment of a transfer.
#[test]
fn a_receiver_that_dies_within_a_snapshot_starts_whole() {
    for at in 0..4 {
        let mut world = with_rows(103);
        add_learner(&mut world, 500);
        world.run_ms(1 + at * 6);
        if at % 2 == 0 {
            world.kill(3);
        } else {
            world.power_loss(3);
        }
        world.start(3);
        assert!(
            world.run_until(8_000, |world| has_caught_up(world, 3)),
            "at {at}"
        );
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("at {at}: {failure}"));
    }
}

/// A follower that was away for longer than the log reaches back.
#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let mut plan = Plan::new(104);
    plan.shards = 1;
    plan.clients = 0;
    plan.keys = 100;
    plan.quiet_after_ms = 1_000_000;
    let mut world = with_leader(plan);
    write(&mut world, 1).expect("the leader serves");
    world.isolate(0);
    // Many of its small segments, and checkpoints of them.
    for round in 0..1_500u64 {
        world.begin_op_at(1, 99, (S, (round % 100) as u8), true);
        world.run(700);
    }
    world.run_ms(3_000);
    let before = world.counts.get("snapshots").copied().unwrap_or(0);
    world.fault(random::Fault::Mend);
    assert!(world.run_until(8_000, |world| has_caught_up(world, 0)));
    assert!(
        world.counts.get("snapshots").copied().unwrap_or(0) > before,
        "by its log alone"
    );
    world.finish().map(drop).expect("the history holds");
}

/// Rule 45 of the membership: ids are never used twice, and the destroyed are not revived.
#[test]
fn late_messages_do_not_revive_a_destroyed_replica() {
    let mut world = with_rows(105);
    add_learner(&mut world, 500);
    assert!(world.run_until(3_000, |world| has_caught_up(world, 3)));
    // Messages of this moment arrive much later.
    world.links[1][3].delay_us = (1_500_000, 1_600_000);
    write(&mut world, 1).expect("the leader serves");
    world.run_ms(300);
    world.links[1][3] = FAIR;
    change(&mut world, 1, &[crate::Change::Remove(ReplicaId(500))]).expect("accepted");
    world.placed.remove(&(3, S));
    world.run_ms(300);
    let destroy = Event::Destroy {
        shard: S,
        replica: ReplicaId(500),
        range: Some(KeyRange::all()),
    };
    world.event(3, destroy);
    world.run_ms(3_000);
    assert_eq!(world.replica(3, S), None);
    world.kill(3);
    world.start(3);
    assert_eq!(world.replica(3, S), None, "nor after a restart");
    let origin = Origin::Leader;
    world.event(
        3,
        Event::Create {
            shard: S,
            replica: ReplicaId(500),
            origin,
        },
    );
    assert_eq!(world.replica(3, S), None, "its id is used up");
    add_learner(&mut world, 501);
    assert!(world.run_until(4_000, |world| has_caught_up(world, 3)));
    assert_eq!(world.replica(3, S), Some(ReplicaId(501)));
    world.finish().map(drop).expect("the history holds");
}
