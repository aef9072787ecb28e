//! Elections and proposals, and what the core is as an object.

use super::*;

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

/// Whoever sees that the leader's process is gone need not draw lots: all shards lead again soon after the
/// promises have ended.
#[test]
fn a_leader_whose_connection_broke_is_replaced_within_a_second() {
    for seed in 0..50 {
        let mut world = quiet_world(seed);
        write(&mut world, 1).expect("the leader serves");
        let gone = world.machines[1].id;
        world.kill(1);
        for node in [0, 2] {
            world.event(node, Event::PeerUnreachable { node: gone });
        }
        assert!(
            world.run_until(1_000, |world| world
                .leader(S)
                .is_some_and(|leader| leader != 1)),
            "seed {seed}"
        );
        write(&mut world, 0).expect("the majority serves");
        world.finish().map(drop).expect("the history holds");
    }
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

/// raft-rs would forward it, and nobody would know whether it was answered.
#[test]
fn only_the_leader_proposes() {
    let mut world = quiet_world(12);
    write(&mut world, 1).expect("the leader serves");
    world.run_ms(100);
    let (before, now) = (world.committed.clone(), world.machines[0].now(world.now));
    let process = world.machines[0].process.as_mut().expect("it runs");
    let refused = process
        .replication
        .propose(now, S, Bytes::from_static(b"x"));
    let Err(crate::ProposeError::NotLeader(Some(leader))) = refused else {
        panic!("a follower took a proposal: {refused:?}");
    };
    assert_eq!(leader, member(1));
    world.settle(0);
    world.run_ms(500);
    assert_eq!(world.committed, before);
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
