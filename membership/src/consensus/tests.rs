//! Safety, by exhaustive exploration, and the proof that the exploration can fail: each safety rule is broken once, and
//! each time two decisions are found.

use super::agreement::FastRound::{Skip, Vote};
use super::explorer::{Plan, Verdict, explore};
use super::sabotage::Sabotage;

const COMING: usize = 0;
const GOING: usize = 1;

/// Two coordinators with different wishes, one round each.
fn two_coordinators(voters: usize) -> Plan {
    let mut proposals = vec![Vec::new(); voters];
    proposals[0] = vec![(COMING, Skip)];
    proposals[voters - 1] = vec![(GOING, Skip)];
    let mut rounds = vec![0; voters];
    (rounds[0], rounds[voters - 1]) = (1, 1);
    Plan {
        voters,
        proposals,
        rounds,
        states_max: 3_000_000,
        ..Plan::default()
    }
}

/// A coordinator that would have it otherwise, while everybody votes for the same.
fn fast_against_classic() -> Plan {
    let vote = (COMING, Vote);
    Plan {
        voters: 3,
        proposals: vec![vec![(GOING, Skip), vote], vec![vote], vec![vote]],
        rounds: vec![1, 0, 0],
        listener: Some(0),
        states_max: 3_000_000,
        ..Plan::default()
    }
}

/// Four of five vote alike, which decides, and the fifth coordinates with another wish. These voted before.
fn four_of_five(early: &[usize]) -> Plan {
    let vote = vec![(COMING, Vote)];
    Plan {
        voters: 5,
        proposals: vec![
            vote.clone(),
            vote.clone(),
            vote.clone(),
            vote,
            vec![(GOING, Vote)],
        ],
        rounds: vec![0, 0, 0, 0, 1],
        early: early.to_vec(),
        listener: Some(0),
        states_max: 3_000_000,
        ..Plan::default()
    }
}

fn assert_safe(name: &str, plan: Plan, decisions_expected: usize) {
    match explore(plan) {
        Verdict::Safe { states, decisions } => {
            println!("{name}: {states} states, {decisions} different outcomes");
            assert_eq!(
                decisions, decisions_expected,
                "{name} shows what it is about"
            );
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_caught(plan: Plan, sabotage: Sabotage) {
    match explore(Plan {
        sabotage: Some(sabotage),
        ..plan
    }) {
        Verdict::Violated { steps } => {
            println!("{sabotage:?}: two decisions in {} steps", steps.len())
        }
        other => panic!("{sabotage:?} is not caught: {other:?}"),
    }
}

#[test]
fn two_coordinators_of_three_never_decide_differently() {
    assert_safe("two coordinators", two_coordinators(3), 2);
}

#[test]
fn a_restart_in_between_changes_nothing() {
    let plan = Plan {
        restarts: 1,
        ..two_coordinators(3)
    };
    assert_safe("two coordinators, one restart", plan, 2);
}

/// The voter on whom both coordinators depend may restart while its promise or its vote is on the way to the disk.
fn swing_voter() -> Plan {
    Plan {
        restarts: 1,
        restartable: Some(1),
        slow_disk: true,
        swing: Some(1),
        ..two_coordinators(3)
    }
}

#[test]
fn a_restart_that_loses_unsynced_writes_changes_nothing() {
    let plan = swing_voter();
    assert_safe("two coordinators, one restart on a slow disk", plan, 2);
}

#[test]
fn a_restart_amid_the_fast_round_changes_nothing() {
    let plan = Plan {
        restarts: 1,
        restartable: Some(1),
        slow_disk: true,
        ..fast_against_classic()
    };
    assert_safe("fast against classic, one restart on a slow disk", plan, 2);
}

#[test]
fn the_fast_round_and_a_classic_one_never_decide_differently() {
    assert_safe("fast against classic", fast_against_classic(), 2);
}

#[test]
fn a_coordinator_finds_what_four_of_five_decided() {
    assert_safe("four of five", four_of_five(&[0, 1, 2, 3, 4]), 1);
}

#[test]
fn an_intruder_counts_for_nothing() {
    assert_safe(
        "an intruder",
        Plan {
            intruder: true,
            ..two_coordinators(3)
        },
        2,
    );
}

#[test]
fn a_fast_vote_after_a_promise_is_caught() {
    assert_caught(four_of_five(&[2, 3, 4]), Sabotage::FastVoteAfterPromise);
}

#[test]
fn counting_a_vote_twice_is_caught() {
    assert_caught(two_coordinators(4), Sabotage::CountsTwice);
}

#[test]
fn counting_the_votes_of_non_members_is_caught() {
    assert_caught(
        Plan {
            intruder: true,
            ..two_coordinators(3)
        },
        Sabotage::NonMemberVotes,
    );
}

#[test]
fn forgetting_a_promise_in_a_restart_is_caught() {
    assert_caught(
        Plan {
            restarts: 1,
            ..two_coordinators(3)
        },
        Sabotage::ForgetsPromise,
    );
}

#[test]
fn a_reply_before_its_write_is_durable_is_caught() {
    assert_caught(swing_voter(), Sabotage::RepliesEarly);
}

#[test]
fn ranks_that_are_not_unique_are_caught() {
    assert_caught(two_coordinators(3), Sabotage::SharedRanks);
}

#[test]
fn a_wrong_coordinators_rule_is_caught() {
    assert_caught(
        four_of_five(&[0, 1, 2, 3, 4]),
        Sabotage::UnanimousCoordinatorRule,
    );
}
