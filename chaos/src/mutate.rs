//! Mutations: known bugs, planted one at a time, and how many seeds it takes until one is caught.
//!
//! A harness that finds nothing has found nothing only if it would have found something. Each bug has a
//! ground where it is looked for: the workloads and faults that can show it. What no run of the ground
//! can show is told as such, never left out.

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

/// Runs up to `seeds_max` seeds with a bug planted, until one fails.
pub fn hunt(bug: Bug, seeds_max: u64) -> Hunt {
    let menu = ground(bug);
    for seed in 0..seeds_max {
        plant(Some(bug));
        let report = run(&menu.plan(seed));
        plant(None);
        // A run that shows nothing catches nothing.
        let caught = report
            .failure
            .filter(|failure| !matches!(failure, Failure::Idle { .. }));
        if let Some(failure) = caught {
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

/// Where a bug is looked for.
pub fn ground(bug: Bug) -> Menu {
    let (workloads, faults) = place(bug);
    Menu {
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
            | Bug::VotesByTicks
            | Bug::ServesBeforeOwnTerm
            | Bug::CountsLearners
            | Bug::NoSecondLook => Some(Reads::Lease),
            _ => None,
        },
        // What a deposed leader says shows to those who ask just it.
        watched: Some(true),
        // What sleeps shows when somebody is missed.
        bereaved: match bug {
            Bug::SleepsThroughVotes | Bug::IgnoresSilence => Some(true),
            _ => Some(false),
        },
    }
}

/// The workloads that would show a bug, and the faults that would bring it out.
fn place(bug: Bug) -> (Vec<Workload>, Vec<Fault>) {
    use Fault::*;
    use Workload::{Append, Bank, Causal, Counter, ListAppend, LongFork, Register, WriteSkew};
    let (singles, register) = ([Register, Append, Counter], [Register]);
    let transactions = [ListAppend, Bank, WriteSkew, LongFork, Causal];
    let (workloads, faults): (&[Workload], &[Fault]) = match bug {
        Bug::SkipsSync | Bug::AcknowledgesBeforeSync => (&singles, &[PowerAll, DiskSlow]),
        Bug::SkipsValueSync => (&singles, &[PowerAll, PowerOne]),
        Bug::ForgetsVotes => (&singles, &[ElectionStorm]),
        Bug::LeavesCommitBehind => (&singles, &[Move, PowerAll, Halves, Learner]),
        Bug::NoSecondLook | Bug::ConfirmsAnyone | Bug::JoinsEarlierRound => {
            (&register, &[FreezeLeader])
        }
        Bug::LeaseFromReceipt => (&register, &[SlowAnswers]),
        Bug::ForgetsPromises => (&register, &[RestartVoters]),
        Bug::VotesByTicks => (&register, &[FreezeLeader, SlowAnswers, ClockDrift, Pause]),
        Bug::KeepsLeaseInTransfer => (&register, &[DeafTransfer]),
        Bug::ServesBeforeOwnTerm => (&register, &[SlowSuccession]),
        Bug::CountsLearners => (&register, &[LeftWithLearners]),
        Bug::SleepsThroughVotes | Bug::IgnoresSilence => (&register, &[]),
        Bug::AppliesOldTerms => (
            &singles,
            &[ElectionStorm, SlowSuccession, FlipFlop, IsolateLeader],
        ),
        Bug::SendsLostWritesAgain | Bug::LostIsFailed => {
            (&[Append, Counter], &[KillLeader, KillOne])
        }
        Bug::HidesExpired => (&[Workload::Expiry], &[ClockJump, Transfer, KillLeader]),
        Bug::AnswersBeforeApply => (&singles, &[IsolateLeader, SlowSuccession, SlowAnswers]),
        Bug::OverwritesNeighbours => (&transactions, &[Split, Move, Merge, KillLeader]),
        Bug::SplitForgetsRows | Bug::SplitsOverLocks => (
            &[ListAppend, Bank],
            &[Split, Delay, KillLeader, FreezeLeader],
        ),
        Bug::MergeForgetsRows | Bug::MergesOverLaggards | Bug::ThawsTooEarly => (
            &[ListAppend, Bank],
            &[Merge, Split, Delay, KillLeader, FreezeLeader],
        ),
        // No workload reads snapshots, or counts restarts: caught in the world of transactions only.
        Bug::ClosesOverPrepared | Bug::ServesUnclosed | Bug::ReadsBelowKept | Bug::NeverHolds => {
            (&transactions, &[])
        }
        Bug::ReadsAreNotLocked
        | Bug::FastPathPassesReadLocks
        | Bug::ReadsUnderLocks
        | Bug::ValidationIgnoresLocks
        | Bug::ValidationIgnoresVersions
        | Bug::RangesAreNotChecked
        | Bug::CommitsBelowPrepares
        | Bug::PromisesAhead
        | Bug::IgnoresClocks
        | Bug::StartsBelowCeiling => (&transactions, &[Delay, Transfer]),
        Bug::DecidesTooEarly
        | Bug::NoTombstones
        | Bug::FloorAdmits
        | Bug::AbsentCommits
        | Bug::AbortsByItself
        | Bug::ReleasesByClock => (
            &[ListAppend, Bank],
            &[FreezeLeader, KillLeader, Delay, SlowAnswers],
        ),
        Bug::TellsBeforeApply | Bug::RetriesUnknown => (
            &[ListAppend, Bank],
            &[KillLeader, IsolateLeader, FreezeLeader, SlowSuccession],
        ),
        Bug::ForgottenIsAborted => (
            &[ListAppend, Bank],
            &[ClockJump, FreezeLeader, KillLeader, Delay],
        ),
        Bug::TokensAreForgotten | Bug::AbsenceIsAnAnswer => (
            &[Workload::Tokens],
            &[KillLeader, FreezeLeader, IsolateLeader, Delay],
        ),
    };
    (workloads.to_vec(), faults.to_vec())
}
