//! Mutations: known bugs, planted one at a time, and how many seeds it takes until one is caught.
//!
//! A harness that finds nothing has found nothing only if it would have found something. Each bug has a
//! ground where it is looked for: the workloads and faults that can show it. What no run of the ground
//! can show is told as such, never left out.

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
fn ground(bug: Bug) -> Menu {
    let nodes = if bug == Bug::OverwritesNeighbours {
        5
    } else {
        3
    };
    let (workloads, faults) = place(bug);
    Menu {
        workloads,
        faults,
        // A snapshot can only meet a neighbour where shards move to fewer nodes than there are.
        nodes: Some(nodes),
    }
}

/// Workloads of transactions.
const TRANSACTIONS: [Workload; 5] = [
    Workload::ListAppend,
    Workload::Bank,
    Workload::WriteSkew,
    Workload::LongFork,
    Workload::Causal,
];

/// The workloads that would show a bug, and the faults that would bring it out.
fn place(bug: Bug) -> (Vec<Workload>, Vec<Fault>) {
    use Fault::{
        ClockDrift, ClockJump, Delay, DiskSlow, FlipFlop, Halves, Isolate, IsolateLeader, KillAll,
        KillMajority, KillOne, Loss, Move, OneWay, Pause, PowerAll, PowerOne, Split, Transfer,
    };
    let singles = [Workload::Register, Workload::Append, Workload::Counter];
    let (workloads, faults): (&[Workload], &[Fault]) = match bug {
        Bug::SkipsSync | Bug::AcknowledgesBeforeSync => (&singles, &[PowerAll, DiskSlow]),
        Bug::SkipsValueSync => (&singles, &[PowerAll, PowerOne]),
        Bug::ForgetsVotes | Bug::LeavesCommitBehind => {
            (&singles, &[KillOne, KillAll, PowerAll, Isolate, Delay])
        }
        Bug::NoSecondLook => (&singles, &[Pause]),
        Bug::LeaseFromReceipt | Bug::ForgetsPromises | Bug::VotesByTicks => (
            &singles,
            &[Pause, IsolateLeader, OneWay, Delay, KillOne, ClockDrift],
        ),
        Bug::KeepsLeaseInTransfer => (&singles, &[Transfer, IsolateLeader, Delay]),
        Bug::ServesBeforeOwnTerm
        | Bug::JoinsEarlierRound
        | Bug::ConfirmsAnyone
        | Bug::SleepsThroughVotes
        | Bug::IgnoresSilence
        | Bug::CountsLearners
        | Bug::AppliesOldTerms => (
            &singles,
            &[IsolateLeader, Halves, OneWay, FlipFlop, KillMajority, Pause],
        ),
        Bug::SendsLostWritesAgain | Bug::LostIsFailed => {
            (&singles, &[KillOne, KillAll, Isolate, FlipFlop])
        }
        Bug::HidesExpired => (&[Workload::Expiry], &[ClockJump, IsolateLeader, KillOne]),
        Bug::AnswersBeforeApply => (&singles, &[IsolateLeader, KillMajority, Delay]),
        Bug::OverwritesNeighbours
        | Bug::SplitForgetsRows
        | Bug::SplitsOverLocks
        | Bug::MergeForgetsRows
        | Bug::MergesOverLaggards
        | Bug::ThawsTooEarly
        | Bug::ClosesOverPrepared
        | Bug::ServesUnclosed
        | Bug::ReadsBelowKept => (
            &TRANSACTIONS,
            &[Split, Move, Transfer, KillOne, IsolateLeader, Pause],
        ),
        Bug::ReadsAreNotLocked
        | Bug::FastPathPassesReadLocks
        | Bug::ReadsUnderLocks
        | Bug::ValidationIgnoresLocks
        | Bug::ValidationIgnoresVersions
        | Bug::CommitsAtFirstPrepare
        | Bug::DecidesTooEarly
        | Bug::NoTombstones
        | Bug::ReleasesByClock
        | Bug::TellsBeforeApply
        | Bug::RangesAreNotChecked
        | Bug::ForgottenIsAborted
        | Bug::TokensAreForgotten
        | Bug::AbsenceIsAnAnswer
        | Bug::RetriesUnknown => (
            &TRANSACTIONS,
            &[KillOne, IsolateLeader, FlipFlop, Pause, Delay, Loss],
        ),
    };
    (workloads.to_vec(), faults.to_vec())
}
