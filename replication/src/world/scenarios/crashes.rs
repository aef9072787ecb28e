//! Kills and power cuts: what was acknowledged, voted and promised is not forgotten.

use super::*;

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

/// The leader, node 1, wishes that both others campaign, in the same term.
fn ask_both_to_campaign(world: &mut World) -> Result<(), String> {
    let process = world.machines[1].process.as_mut().ok_or("no process")?;
    if let Some(group) = process.replication.groups.get_mut(&S) {
        group.raft.raft.send_timeout_now(member(0).replica.0);
        group.raft.raft.send_timeout_now(member(2).replica.0);
    }
    process.replication.mark(S);
    world.settle(1);
    Ok(())
}

fn node_0_leads(world: &World) -> bool {
    let process = world.machines[0].process.as_ref();
    let leadership = process.and_then(|process| process.replication.leadership(S));
    leadership.is_some_and(|leadership| leadership.role == Role::Leader)
}

/// A quiet world in which node 1 can be asked for its vote twice: its followers do not hear each other, and what it
/// tells the second is late.
fn with_two_candidates(seed: u64) -> Result<World, String> {
    let mut world = quiet_world(seed);
    write(&mut world, 1)?;
    world.run_ms(100);
    for (one, other) in [(0, 2), (2, 0)] {
        world.links[one][other].cut = true;
    }
    world.links[1][2].delay_us = (640_000, 640_001);
    Ok(world)
}

/// Catalogue 22 and 5: a voter restarts after it has voted, and is asked again, for the same term.
fn double_votes() -> Result<(), String> {
    for seed in 0..5 {
        // Both followers are asked to campaign, one of them later than a restart is held back.
        let mut world = with_two_candidates(seed)?;
        ask_both_to_campaign(&mut world)?;
        // To the very moment: nothing of the new term must reach the voter.
        for _ in 0..1_000 {
            if !node_0_leads(&world) {
                world.run(30);
            }
        }
        if !node_0_leads(&world) {
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

/// The voter's vote is on its way to the disk when the power fails, and it is asked again.
fn votes_before_they_are_synced() -> Result<(), String> {
    for seed in 0..5 {
        let mut world = with_two_candidates(seed)?;
        world.machines[1].disk_us = Some((400_000, 400_001));
        ask_both_to_campaign(&mut world)?;
        for _ in 0..5_000 {
            if !node_0_leads(&world) {
                world.run(20);
            }
        }
        world.isolate(0);
        world.power_loss_leaving(1, Survival::Nothing);
        world.machines[1].disk_us = None;
        world.start(1);
        world.run_ms(1_500);
        holds(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_vote_is_told_after_its_sync() {
    noticed(Bug::AcknowledgesBeforeSync, votes_before_they_are_synced);
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
