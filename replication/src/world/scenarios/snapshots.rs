//! State that travels from a leader to a member.

use synod_storage::SnapshotHeader;

use super::*;
use crate::message::{Outcome, SnapshotBody, SnapshotMessage};

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
    has_caught_up_with(world, node, 1)
}

fn has_caught_up_with(world: &World, node: usize, leader: usize) -> bool {
    let applied = |node: usize| {
        let process = world.machines[node].process.as_ref();
        process
            .and_then(|p| p.replication.status(S))
            .map_or(0, |status| status.applied)
    };
    applied(node) > 0 && applied(node) == applied(leader)
}

/// Whether so many chunks were sent.
fn are_sent(world: &World, chunks: u64) -> bool {
    let sent = world.counts.get("chunks");
    sent.is_some_and(|&sent| sent >= chunks)
}

#[test]
fn a_new_replica_gets_the_state_in_chunks() {
    let mut world = with_rows(100);
    add_learner(&mut world, 500);
    // Far fewer entries than would count as a lag: but what it waits for is a snapshot.
    let lacks = |world: &World| {
        let leader = world.machines[1].process.as_ref()?;
        let status = leader.replication.status(S)?;
        status.lacks.get(&ReplicaId(500)).copied()
    };
    assert!(world.run_until(1_000, |world| lacks(world) == Some(u64::MAX)));
    assert!(world.run_until(3_000, |world| has_caught_up(world, 3)));
    assert!(world.run_until(1_000, |world| lacks(world) == Some(0)));
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
    assert!(world.run_until(2_000, |world| are_sent(world, 3)));
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

/// Catalogue 2, 3, 5 and 12: the receiver dies at every moment of a transfer. It starts anew, and so
/// does the transfer, at once: nobody waits until it is given up.
#[test]
fn a_receiver_that_dies_within_a_snapshot_starts_whole() {
    for at in 0..12 {
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
            world.run_until(1_500, |world| has_caught_up(world, 3)),
            "at {at}"
        );
        world
            .finish()
            .map(drop)
            .unwrap_or_else(|failure| panic!("at {at}: {failure}"));
    }
}

/// Each node counts its starts and its transfers by itself, so the next leader's may have the name of
/// the last one's. With the bug the receiver asks the dead leader for the rest, or would take the rest
/// of another state.
#[test]
fn the_next_leaders_snapshot_is_not_taken_for_the_last_ones() {
    for (bug, caught_up) in [(None, true), (Some(Bug::MixesTransfers), false)] {
        plant(bug);
        let mut world = with_rows(108);
        add_learner(&mut world, 500);
        assert!(world.run_until(2_000, |world| are_sent(world, 1)));
        world.kill(1);
        let next_leads = |world: &mut World| world.leader(S).is_some_and(|leader| leader != 1);
        assert!(world.run_until(3_000, next_leads));
        let leader = world.leader(S).expect("just seen");
        let arrived = world.run_until(3_000, |world| has_caught_up_with(world, 3, leader));
        assert_eq!(arrived, caught_up, "{bug:?}");
        if bug.is_none() {
            world.start(1);
            world.finish().map(drop).expect("the history holds");
        }
    }
    plant(None);
}

/// Few transfers run at one time. Those to a node that is down make room for the others.
#[test]
fn transfers_to_a_silent_node_end() {
    let mut world = with_rows(109);
    add_learner(&mut world, 500);
    assert!(world.run_until(2_000, |world| are_sent(world, 2)));
    world.kill(3);
    let sends = |world: &World| {
        let process = world.machines[1].process.as_ref().expect("it runs");
        process.replication.transfers.sends_to(world.machines[3].id)
    };
    assert!(sends(&world), "the scenario is void");
    world.run_ms(600);
    assert!(sends(&world), "it may be back in a moment");
    world.run_ms(900);
    assert!(!sends(&world), "others wait for its place");
    world.start(3);
    assert!(world.run_until(2_000, |world| has_caught_up(world, 3)));
    world.finish().map(drop).expect("the history holds");
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

/// It does not know yet that the entry is committed, so it takes no snapshot of it; but it needs none. Its leader must
/// not offer the same one for ever.
#[test]
fn who_has_the_entry_of_a_snapshot_goes_on_from_there() {
    let mut world = with_rows(107);
    let status = |world: &World| {
        let process = world.machines[0].process.as_ref();
        process
            .and_then(|process| process.replication.status(S))
            .expect("a replica")
    };
    world.begin_op_at(1, 99, (S, 0), true);
    assert!(world.run_until(1_000, |world| status(world).last.index
        > status(world).commit));
    let follower = status(&world);
    let leader = follower.leadership.leader.expect("it follows");
    let transfer = (Incarnation(1), 1_000);
    let offer = SnapshotMessage {
        shard: S,
        from: leader.replica,
        to: follower.replica,
        term: follower.leadership.term,
        transfer,
        body: SnapshotBody::Offer {
            header: SnapshotHeader {
                applied: follower.last,
                conf: follower.configuration.to_stored(),
                range: keys_of(S),
            },
        },
    };
    let now = world.machines[0].now(world.now);
    let process = world.machines[0].process.as_mut().expect("it runs");
    let mut fx = Effects::new();
    let store = &mut process.store;
    process
        .replication
        .receive_snapshot(now, leader.node, offer, store, &mut fx);
    let outcomes = fx.drain().filter_map(|effect| match effect {
        Effect::Send {
            message: Message::Snapshot(answer),
            ..
        } => Some(answer.body),
        _ => None,
    });
    let done = SnapshotBody::Done {
        outcome: Outcome::Installed,
    };
    assert_eq!(outcomes.collect::<Vec<_>>(), [done]);
    world.finish().map(drop).expect("the history holds");
}

/// Scenario 19 of the transactions' rules: the snapshot of the right side of a split arrives where the
/// left side's replica has not applied the split yet. It waits; afterwards it is taken.
#[test]
fn a_right_hand_snapshot_waits_for_the_local_split() {
    for (bug, waits) in [(None, true), (Some(Bug::OverwritesNeighbours), false)] {
        plant(bug);
        let mut world = with_rows(106);
        let left = ShardId(77);
        let create = Event::Create {
            shard: left,
            replica: ReplicaId(700),
            origin: Origin::Leader,
        };
        world.event(3, create);
        let range = keys_of(S);
        world.event(3, Event::Range { shard: left, range });
        add_learner(&mut world, 500);
        let early = world.run_until(3_000, |world| has_caught_up(world, 3));
        assert_eq!(early, !waits, "{bug:?}");
        let range = keys_of(left);
        world.event(3, Event::Range { shard: left, range });
        assert!(world.run_until(5_000, |world| has_caught_up(world, 3)));
        world.finish().map(drop).expect("the history holds");
        plant(None);
    }
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
