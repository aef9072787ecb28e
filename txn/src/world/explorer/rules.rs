//! The rules that are explored exhaustively, one model each: it is safe, and without the rule it is not.
//!
//! The numbers are those of `txn/RULES.md`. Small models fit into every test run; `SYNOD_DEEP` allows
//! more faults in each.

use synod_testpoint::Bug;

use super::super::transactions::Op;
use super::{Budget, Job, Plan, Verdict, explore};

/// Keys of the left shard, and one of the right one.
const A: usize = 0;
const B: usize = 2;

fn append(key: usize, word: u64) -> Op {
    Op::Append { key, word }
}

fn read(key: usize) -> Op {
    Op::Read { key, seen: None }
}

/// Writes both shards; the left one is its anchor. The words are numbers below ten, and one more digit.
fn both(word: u64) -> Job {
    Job::Script(vec![append(A, word), append(B, word + 10)])
}

/// Reads one shard and writes the other: write skew, if two of them pass each other.
fn skew(read_key: usize, written: usize, word: u64) -> Job {
    Job::Script(vec![read(read_key), append(written, word)])
}

fn is_deep() -> bool {
    std::env::var_os("SYNOD_DEEP").is_some()
}

/// Explores a model without and with bugs; `deeper` is what is added to its budget on demand.
fn check(name: &str, mut plan: Plan, bugs: &[Bug], deeper: Budget) {
    plan.states_max = 400_000;
    let started = std::time::Instant::now();
    for bug in bugs {
        match explore(&plan, Some(*bug)) {
            Verdict::Violated { what, steps } => {
                println!(
                    "{name}: {bug:?} is caught after {} steps ({:?}): {what}",
                    steps.len(),
                    started.elapsed()
                );
            }
            verdict => panic!("{name}: {bug:?} is not caught: {verdict:?}"),
        }
    }
    if is_deep() {
        plan.budget = plan.budget.plus(deeper);
        plan.states_max = 20_000_000;
    }
    match explore(&plan, None) {
        Verdict::Safe { states, ends } => {
            println!(
                "{name}: {states} states, {ends} ends, {:?}",
                started.elapsed()
            );
            assert!(ends > 1, "{name}: nothing was explored");
        }
        Verdict::Violated { what, steps } => panic!("{name}: {what}\n{}", steps.join("\n")),
        Verdict::Unfinished => panic!("{name}: more than {} states", plan.states_max),
    }
}

/// Rules 1 and 6: a read looks at locks and versions together, and does not return what is under a lock.
#[test]
fn a_read_waits_for_what_is_pending() {
    let plan = Plan {
        clients: vec![
            vec![both(1)],
            vec![Job::Single(read(A)), Job::Single(read(B))],
        ],
        budget: Budget {
            losses: 1,
            recoveries: 1,
            impatience: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        recoveries: 1,
        deaths: 1,
        ..Budget::default()
    };
    check("rule 1", plan, &[Bug::ReadsUnderLocks], deeper);
}

/// Rule 1, for those who read one thing after the other: what a read promises binds the clock.
#[test]
fn a_read_promises_no_more_than_the_clock_has_come_to() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Session(vec![read(A), read(B)])]],
        budget: Budget {
            elections: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        impatience: 1,
        ..Budget::default()
    };
    check("rule 1, promises", plan, &[Bug::PromisesAhead], deeper);
}

/// Rule 4: one round of validation is enough if foreign locks make it wait, decided ones too.
#[test]
fn a_validation_meets_decided_and_unresolved_locks() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Script(vec![read(A), read(B)])]],
        budget: Budget {
            recoveries: 1,
            impatience: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        losses: 1,
        impatience: 1,
        ..Budget::default()
    };
    check("rule 4", plan, &[Bug::ValidationIgnoresLocks], deeper);
}

/// Rule 9, and why reads are locked: two that each read what the other writes.
#[test]
fn reads_are_locked_and_nobody_passes_them() {
    let plan = Plan {
        clients: vec![vec![skew(A, B, 1)], vec![skew(B, A, 2)]],
        budget: Budget {
            impatience: 1,
            ..Budget::default()
        },
        locks_at_once: true,
        ..Plan::default()
    };
    let deeper = Budget {
        recoveries: 1,
        ..Budget::default()
    };
    check("write skew", plan, &[Bug::ReadsAreNotLocked], deeper);
    let plan = Plan {
        clients: vec![
            vec![skew(B, A, 1)],
            vec![Job::Single(append(B, 2)), Job::Single(read(A))],
        ],
        locks_at_once: true,
        ..Plan::default()
    };
    check("rule 9", plan, &[Bug::FastPathPassesReadLocks], deeper);
}

/// Rule 10: the commit is above all prepares, and nobody writes below it afterwards.
#[test]
fn a_commit_is_above_all_prepares_and_below_all_that_follows() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Single(append(B, 2))]],
        skew_ms: [0, 5_000],
        slow_log: true,
        laggards: true,
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        ..Budget::default()
    };
    check(
        "rule 10",
        plan.clone(),
        &[Bug::CommitsBelowPrepares],
        deeper,
    );
    let plan = Plan {
        skew_ms: [5_000, 0],
        ..plan
    };
    check("rule 10, what follows", plan, &[Bug::IgnoresClocks], deeper);
}

/// Rule 13: with one shard that writes, its leader locks the writes, and asks the others before it logs them.
#[test]
fn whoever_writes_one_shard_asks_the_others_under_locks() {
    let plan = Plan {
        clients: vec![vec![skew(A, B, 1)], vec![skew(B, A, 2)]],
        budget: Budget {
            losses: 1,
            recoveries: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        impatience: 1,
        elections: 1,
        ..Budget::default()
    };
    let bugs = [Bug::AsksWithoutLocks, Bug::AsksNobody];
    check("rule 13", plan, &bugs, deeper);
    // One who reads both, whose answers are to be one state with what he saw.
    let plan = Plan {
        clients: vec![
            vec![skew(B, A, 1)],
            vec![Job::Single(append(B, 2)), Job::Single(read(A))],
            vec![Job::Script(vec![read(A), read(B)])],
        ],
        slow_log: true,
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        ..Budget::default()
    };
    check("rule 13, readers", plan, &[], deeper);
}

/// Rule 13, and 5: what replaces something that was read is newer than what the reader writes, so that no
/// snapshot has the one without the other.
#[test]
fn what_replaces_a_read_is_newer_than_what_its_reader_writes() {
    let plan = Plan {
        clients: vec![
            vec![skew(B, A, 1)],
            vec![
                Job::Single(append(B, 2)),
                Job::Snapshot(vec![read(A), read(B)]),
            ],
        ],
        // The clock of the shard that is written is ahead; that of who reads the past is between it and the
        // other shard's, which begins at a ceiling of three seconds.
        skew_ms: [5_000, 0],
        clients_ahead_ms: 4_000,
        ..Plan::default()
    };
    let deeper = Budget {
        losses: 1,
        elections: 1,
        ..Budget::default()
    };
    let bugs = [Bug::ReadersIgnoreWriters];
    check("rule 13, versions", plan, &bugs, deeper);
}

/// Rule 18: an anchor that does not know an attempt never permits its commit.
#[test]
fn absence_is_never_a_commit() {
    let plan = Plan {
        clients: vec![vec![both(1)]],
        budget: Budget {
            losses: 1,
            doubles: 1,
            impatience: 2,
            recoveries: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        doubles: 1,
        losses: 1,
        ..Budget::default()
    };
    let bugs = [Bug::AbsentCommits, Bug::DecidesTooEarly];
    check("rule 18", plan, &bugs, deeper);
}

/// Rule 18, from the other side: once the anchor was asked to conclude, nobody but it may abort.
#[test]
fn only_the_anchor_aborts_what_it_may_conclude() {
    // The second one's anchor is on the right, and its read lock on the left.
    let reader = Job::Script(vec![read(A), append(B, 2)]);
    let plan = Plan {
        clients: vec![vec![both(1)], vec![reader]],
        budget: Budget {
            doubles: 1,
            impatience: 1,
            ..Budget::default()
        },
        locks_at_once: true,
        ..Plan::default()
    };
    let deeper = Budget {
        recoveries: 1,
        ..Budget::default()
    };
    check("rule 18, aborts", plan, &[Bug::AbortsByItself], deeper);
}

/// Rule 19: a tombstone, and when that is forgotten the floor, block what comes too late.
#[test]
fn what_comes_too_late_is_refused() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Single(append(A, 2))]],
        budget: Budget {
            recoveries: 2,
            doubles: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        recoveries: 1,
        impatience: 1,
        ..Budget::default()
    };
    check(
        "rule 19, tombstones",
        plan.clone(),
        &[Bug::NoTombstones, Bug::ReleasesByClock],
        deeper,
    );
    let plan = Plan {
        clients: vec![vec![both(1)]],
        budget: Budget {
            recoveries: 3,
            doubles: 1,
            ..Budget::default()
        },
        forgets: true,
        ..plan
    };
    check("rule 19, the floor", plan, &[Bug::FloorAdmits], deeper);
}

/// Rule 20: whoever is gone in the middle leaves nothing half done; its participants find out.
#[test]
fn a_dead_coordinator_leaves_nothing_half_done() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Single(read(B))]],
        budget: Budget {
            deaths: 1,
            recoveries: 2,
            elections: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        ..Budget::default()
    };
    check("rule 20", plan, &[Bug::ReleasesByClock], deeper);
}

/// Rules 8 and 18 over a change of leader: what was only proposed may be lost, and is not told.
#[test]
fn what_is_not_committed_is_not_told() {
    let plan = Plan {
        clients: vec![
            vec![both(1)],
            vec![Job::Single(read(A)), Job::Single(read(A))],
        ],
        budget: Budget {
            elections: 1,
            ..Budget::default()
        },
        slow_log: true,
        ..Plan::default()
    };
    let deeper = Budget {
        impatience: 1,
        ..Budget::default()
    };
    check("rule 8", plan, &[Bug::AnswersBeforeApply], deeper);
}

/// Rule 23: a leader promises nothing above the ceiling, and the next one begins above it.
#[test]
fn the_next_leader_begins_above_all_promises() {
    let plan = Plan {
        clients: vec![vec![both(1)], vec![Job::Session(vec![read(A), read(B)])]],
        // The left shard's leader is fast; whoever follows it is not.
        skew_ms: [5_000, 0],
        budget: Budget {
            elections: 1,
            ..Budget::default()
        },
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        ..Budget::default()
    };
    check("rule 23", plan, &[Bug::StartsBelowCeiling], deeper);
}

/// Rule 29: a merge takes place when all are frozen, and only the left side says that it does not.
#[test]
fn a_merge_is_decided_by_the_left_side_alone() {
    let plan = Plan {
        clients: vec![vec![Job::Single(append(B, 1)), Job::Single(read(B))]],
        budget: Budget {
            freezes: 1,
            recoveries: 2,
            elections: 1,
            ..Budget::default()
        },
        slow_log: true,
        laggards: true,
        // A frozen shard asks after three seconds what has become of it.
        patience_ms: 3_100,
        ..Plan::default()
    };
    let deeper = Budget {
        recoveries: 1,
        ..Budget::default()
    };
    let bugs = [Bug::MergesOverLaggards, Bug::ThawsTooEarly];
    check("rule 29", plan, &bugs, deeper);
}

/// Rule 33: what is read of the past is one state, whatever is pending when it is closed.
#[test]
fn the_past_is_one_state() {
    let plan = Plan {
        // The reader's clock is ahead: the version that it asks for is above what is written.
        clients: vec![vec![both(1)], vec![Job::Snapshot(vec![read(A), read(B)])]],
        clients_ahead_ms: 10_000,
        slow_log: true,
        ..Plan::default()
    };
    let deeper = Budget {
        elections: 1,
        ..Budget::default()
    };
    let bugs = [Bug::ClosesOverPrepared, Bug::ServesUnclosed];
    check("rule 33", plan, &bugs, deeper);
}
