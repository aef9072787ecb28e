//! Groups that sleep, and what wakes them.

use super::*;

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
    // Five signs of life a second from the leader's node to the two others, and nothing else.
    let sent = world.counts["messages"] - before;
    assert!((90..=102).contains(&sent), "{sent} messages");
    // Ten heartbeats a second at each node are enough; half of the other ticks were left out.
    let left_out = world.counts["ticks left out"];
    assert!((400..=650).contains(&left_out), "{left_out} ticks left out");
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

/// Rule 46: the leader's replica dies on a node that lives. Nothing sleeps under that node any more, so it is silent.
#[test]
fn a_node_under_which_nothing_sleeps_is_silent() {
    noticed(Bug::IgnoresSilence, || a_quiet_leaders_replica_is_gone(3));
}

/// The same where another group goes on sleeping under that node.
#[test]
fn the_digest_shows_that_a_quiet_leaders_replica_is_gone() {
    noticed(Bug::IgnoresDigests, || a_quiet_leaders_replica_is_gone(4));
}

/// Node 1 leads the first of so many shards, and the fourth.
fn a_quiet_leaders_replica_is_gone(shards: u64) -> Result<(), String> {
    let mut plan = Plan::new(14);
    plan.shards = shards;
    plan.clients = 0;
    plan.quiet_after_ms = 200;
    let mut world = with_leader(plan);
    if !world.run_until(3_000, |world| everybody_sleeps(world)) {
        return Err("the group does not go quiet".to_string());
    }
    // The others as well.
    world.run_ms(1_000);
    let replica = world.replica(1, S).expect("it has one");
    world.placed.remove(&(1, S));
    world.event(
        1,
        Event::Destroy {
            shard: S,
            replica,
            range: Some(keys_of(S)),
        },
    );
    if !world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }) {
        return Err("nobody noticed".to_string());
    }
    write(&mut world, 0)
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
