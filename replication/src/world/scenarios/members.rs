//! Changes of the members, through joint configurations.

use super::*;

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
