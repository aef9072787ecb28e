//! Mutations: known bugs, planted one at a time, and how many seeds it takes until one is caught.
//!
//! A harness that finds nothing has found nothing only if it would have found something. Each bug has a
//! ground where it is looked for: the workloads and faults that can show it. What no run of whole nodes
//! shows stands apart, with the directed test that does and the reason, and is never left out.

use synod::config::Reads;
use synod_testpoint::{Bug, plant};

use crate::fault::Fault;
use crate::plan::Menu;
use crate::report::Failure;
use crate::run::run;
use crate::workload::Workload;

/// What came of the hunt for one bug.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The bug.
    pub bug: Bug,
    /// How many seeds it took, if it was caught.
    pub seeds: Option<u64>,
    /// What caught it, in a line.
    pub by: String,
}

/// How a bug shows.
#[derive(Clone, Debug)]
pub enum Shown {
    /// In runs of whole nodes, drawn from this menu.
    ByNodes(Box<Menu>),
    /// In a directed test of one part only.
    ByTest(Apart),
}

/// What only a directed test shows.
#[derive(Clone, Copy, Debug)]
pub struct Apart {
    /// The package and the test.
    pub test: &'static str,
    /// Why runs of whole nodes do not.
    pub why: &'static str,
}

/// Runs up to `seeds_max` seeds of a menu with a bug planted, until one fails that does not without it.
pub fn hunt(bug: Bug, menu: &Menu, seeds_max: u64) -> Hunt {
    for seed in 0..seeds_max {
        let plan = menu.plan(seed);
        plant(Some(bug));
        let failure = run(&plan).failure;
        plant(None);
        // A run that shows nothing catches nothing.
        let caught = failure.filter(|failure| !matches!(failure, Failure::Idle { .. }));
        if let Some(failure) = caught
            && run(&plan).failure.is_none()
        {
            let words = failure.to_string();
            let by = words.lines().next().unwrap_or_default();
            let by = by.chars().take(90).collect();
            let seeds = Some(seed + 1);
            return Hunt { bug, seeds, by };
        }
    }
    Hunt {
        bug,
        seeds: None,
        by: String::new(),
    }
}

/// Workloads, and the faults that strike them.
type Ground = (Vec<Workload>, Vec<Fault>);

/// Where a bug is looked for.
pub fn shown(bug: Bug) -> Shown {
    if let Some(apart) = apart(bug) {
        return Shown::ByTest(apart);
    }
    let (workloads, faults) = place(bug).unwrap_or_default();
    Shown::ByNodes(Box::new(Menu {
        placed: Some(false),
        workloads,
        faults,
        // Learners, and replicas that move, need nodes that have none.
        nodes: Some(match bug {
            Bug::OverwritesNeighbours | Bug::CountsLearners | Bug::LeavesCommitBehind => 5,
            _ => 3,
        }),
        reads: match bug {
            Bug::JoinsEarlierRound => Some(Reads::Quorum),
            Bug::LeaseFromReceipt
            | Bug::KeepsLeaseInTransfer
            | Bug::ForgetsPromises
            | Bug::CountsLearners
            | Bug::NoSecondLook => Some(Reads::Lease),
            _ => None,
        },
        // What a deposed leader says shows to those who ask just it. What transactions do to each other
        // needs clients that wait for their end.
        watched: Some(!is_of_transactions(bug)),
        // What sleeps shows when somebody is missed.
        bereaved: Some(bug == Bug::SleepsThroughVotes),
        ..Menu::default()
    }))
}

fn is_of_transactions(bug: Bug) -> bool {
    matches!(
        bug,
        Bug::FastPathPassesReadLocks
            | Bug::ReadsUnderLocks
            | Bug::ValidationIgnoresLocks
            | Bug::ValidationIgnoresVersions
            | Bug::CommitsBelowPrepares
            | Bug::IgnoresClocks
            | Bug::PromisesAhead
            | Bug::StartsBelowCeiling
            | Bug::FloorAdmits
            | Bug::AbsentCommits
            | Bug::AbortsByItself
            | Bug::AsksWithoutLocks
            | Bug::AsksNobody
            | Bug::ReadersIgnoreWriters
            | Bug::DecidesTooEarly
            | Bug::NoTombstones
            | Bug::ReleasesByClock
            | Bug::TellsBeforeApply
            | Bug::RetriesUnknown
            | Bug::ForgottenIsAborted
            | Bug::SplitForgetsRows
            | Bug::SplitsOverLocks
            | Bug::ClosesOverPrepared
            | Bug::ServesUnclosed
            | Bug::ReadsBelowKept
    )
}

/// What no run of whole nodes shows.
fn apart(bug: Bug) -> Option<Apart> {
    let (test, why) = match bug {
        Bug::VotesByTicks => (
            "replication: voters_keep_their_promise_by_the_clock",
            "it needs ticks in a burst; a node's loop delays missed ticks and never makes up for them",
        ),
        Bug::ServesBeforeOwnTerm => (
            "replication: a_new_leader_reads_after_an_entry_of_its_own_term",
            "a second guard hides it: a node tells its shards that they lead only when an entry of the \
             term is applied",
        ),
        Bug::AppliesOldTerms => (
            "txn: an_entry_that_was_evaluated_in_an_earlier_term_is_void",
            "a second guard hides it: a node proposes nothing that was evaluated in another term than \
             the one it leads in",
        ),
        Bug::IgnoresSilence => (
            "replication: silence_of_a_quiet_leaders_node_wakes_its_followers",
            "others hide it: a command wakes its shard, and the view without the node wakes them all",
        ),
        Bug::IgnoresDigests => (
            "replication: the_digest_shows_that_a_quiet_leaders_replica_is_gone",
            "others hide it: a command wakes its shard, and its leader's node says that it does not lead",
        ),
        Bug::NeverHolds => (
            "txn: the_oldest_commits_however_busy_the_young_are",
            "it costs time, and breaks no promise: no workload counts how often one is run again",
        ),
        Bug::MergesOverLaggards => (
            "txn: planted_bugs_are_caught",
            "it is planted in the order of a merge that the world of transactions gives itself",
        ),
        Bug::ForgetsWhereItEnds => (
            "storage: what_was_cut_off_stays_cut_off",
            "no simulated disk shows again what a power cut took",
        ),
        Bug::TakesStaleFrames => (
            "storage: frames_of_other_segments_never_chain",
            "a second guard hides it: what lies behind the end of the log has been counted already",
        ),
        Bug::SnapshotsForDamage => (
            "replication: a_damaged_entry_is_not_answered_with_a_snapshot",
            "it breaks no promise: a leader that never learns of the damage goes on",
        ),
        _ => return None,
    };
    Some(Apart { test, why })
}

/// The workloads that would show a bug, and the faults that would bring it out.
fn place(bug: Bug) -> Option<Ground> {
    of_single_commands(bug).or_else(|| of_transactions(bug))
}

/// Bugs of the store, of replication and of the gateway.
fn of_single_commands(bug: Bug) -> Option<Ground> {
    use Fault::*;
    use Workload::{Append, Counter, Register};
    let (singles, register) = ([Register, Append, Counter], [Register]);
    let (workloads, faults): (&[Workload], &[Fault]) = match bug {
        Bug::SkipsSync | Bug::AcknowledgesBeforeSync => (&singles, &[PowerAll, DiskSlow]),
        Bug::SkipsValueSync | Bug::TrustsTheIndex => (&singles, &[PowerAll, PowerOne]),
        Bug::TrimsBeforeItIsNoted => (&singles, &[PowerAll, PowerOne, KillOne]),
        Bug::LeavesLastBatchBehind => (&singles, &[SyncError, KillAll, PowerAll]),
        Bug::TakesDamageForATail => (&singles, &[LogRot]),
        Bug::ForgetsVotes => (&singles, &[ElectionStorm]),
        Bug::LeavesCommitBehind => (&singles, &[Move, PowerAll, Halves, Learner]),
        Bug::NoSecondLook | Bug::ConfirmsAnyone | Bug::JoinsEarlierRound => {
            (&register, &[FreezeLeader])
        }
        Bug::LeaseFromReceipt => (&register, &[SlowAnswers]),
        Bug::ForgetsPromises => (&register, &[RestartVoters]),
        Bug::KeepsLeaseInTransfer => (&register, &[DeafTransfer]),
        Bug::CountsLearners => (&register, &[LeftWithLearners]),
        Bug::SleepsThroughVotes => (&register, &[]),
        Bug::SendsLostWritesAgain | Bug::LostIsFailed => {
            (&[Append, Counter], &[KillLeader, KillOne])
        }
        Bug::HidesExpired => (&[Workload::Expiry], &[ClockJump, Transfer, KillLeader]),
        Bug::AnswersBeforeApply => (&singles, &[IsolateLeader, SlowSuccession, SlowAnswers]),
        _ => return None,
    };
    Some((workloads.to_vec(), faults.to_vec()))
}

/// Bugs of transactions, snapshots and shards that change.
fn of_transactions(bug: Bug) -> Option<Ground> {
    use Fault::*;
    use Workload::{Bank, ListAppend, Snapshot};
    let (transactions, snapshots) = ([ListAppend, Bank], [Snapshot]);
    let (workloads, faults): (&[Workload], &[Fault]) = match bug {
        Bug::ReadsAreNotLocked | Bug::RangesAreNotChecked => (
            &[ListAppend, Bank, Workload::WriteSkew, Workload::LongFork],
            &[Delay, Transfer],
        ),
        Bug::ValidationIgnoresVersions | Bug::DecidesTooEarly => (&transactions, &[Delay]),
        Bug::FastPathPassesReadLocks | Bug::ReadsUnderLocks | Bug::ValidationIgnoresLocks => {
            (&transactions, &[SlowRequests])
        }
        Bug::NoTombstones
        | Bug::FloorAdmits
        | Bug::AbsentCommits
        | Bug::AbortsByItself
        | Bug::ReleasesByClock
        | Bug::TellsBeforeApply => (&transactions, &[SlowRequests]),
        Bug::AsksWithoutLocks | Bug::AsksNobody => (
            &[Workload::WriteSkew, ListAppend, Workload::LongFork],
            &[Delay, SlowRequests],
        ),
        Bug::ReadersIgnoreWriters => (&snapshots, &[ClockJump, Delay]),
        Bug::PromisesAhead => (&transactions, &[Delay, ClockJump]),
        Bug::RetriesUnknown => (&[ListAppend], &[KillLeader, IsolateLeader, SlowRequests]),
        Bug::ForgottenIsAborted => (
            &[ListAppend],
            &[ClockJump, KillLeader, FreezeLeader, SlowRequests],
        ),
        // A commit below a version that was closed stops whoever applies it.
        Bug::CommitsBelowPrepares => (&snapshots, &[Delay, ClockJump]),
        Bug::IgnoresClocks | Bug::StartsBelowCeiling => {
            (&snapshots, &[ClockJump, Transfer, KillLeader])
        }
        Bug::ClosesOverPrepared => (&snapshots, &[Delay, SlowRequests]),
        Bug::ServesUnclosed => (&snapshots, &[Delay, DiskSlow]),
        Bug::ReadsBelowKept => (&snapshots, &[]),
        Bug::OverwritesNeighbours => (&transactions, &[Split, Move, Merge, KillLeader]),
        Bug::SplitForgetsRows | Bug::SplitsOverLocks => (&transactions, &[Split, SlowRequests]),
        Bug::MergeForgetsRows | Bug::ThawsTooEarly => (
            &transactions,
            &[Merge, Split, SlowRequests, KillLeader, FreezeLeader],
        ),
        Bug::TokensAreForgotten | Bug::AbsenceIsAnAnswer => (
            &[Workload::Tokens],
            &[KillLeader, FreezeLeader, IsolateLeader, Delay],
        ),
        _ => return None,
    };
    Some((workloads.to_vec(), faults.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_looked_for_in_one_place() {
        for &bug in Bug::ALL {
            let places = [
                apart(bug).is_some(),
                of_single_commands(bug).is_some(),
                of_transactions(bug).is_some(),
            ];
            let places = places.iter().filter(|there| **there).count();
            assert_eq!(places, 1, "{bug:?}");
        }
    }
}
