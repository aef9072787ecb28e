//! Mutations: known bugs, planted one at a time, and how many seeds it takes until one is caught.
//!
//! A harness that finds nothing has found nothing only if it would have found something. Each bug has a
//! ground where it is looked for: the workloads and faults that can show it. What no run of whole nodes
//! shows, or none of the first sixty, stands apart, with the directed test that does and the reason, and is
//! never left out.

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
            Bug::CountsLearners => 5,
            _ => 3,
        }),
        reads: match bug {
            Bug::JoinsEarlierRound => Some(Reads::Quorum),
            Bug::LeaseFromReceipt | Bug::KeepsLeaseInTransfer | Bug::CountsLearners => {
                Some(Reads::Lease)
            }
            _ => None,
        },
        // What a deposed leader says shows to those who ask just it. What transactions do to each other
        // needs clients that wait for their end.
        watched: Some(!is_of_transactions(bug)),
        bereaved: Some(false),
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
            | Bug::PromisesAhead
            | Bug::StartsBelowCeiling
            | Bug::AbsentCommits
            | Bug::AsksWithoutLocks
            | Bug::AsksNobody
            | Bug::DecidesTooEarly
            | Bug::NoTombstones
            | Bug::ReleasesByClock
            | Bug::TellsBeforeApply
            | Bug::RetriesUnknown
            | Bug::ClosesOverPrepared
            | Bug::ServesUnclosed
            | Bug::ReadsBelowKept
    )
}

/// What no run of whole nodes shows, or so rarely that it was not met in sixty.
fn apart(bug: Bug) -> Option<Apart> {
    let (test, why) = hidden(bug)
        .or_else(|| rare_in_one_shard(bug))
        .or_else(|| rare_over_shards(bug))?;
    Some(Apart { test, why })
}

/// What no run of whole nodes shows.
fn hidden(bug: Bug) -> Option<(&'static str, &'static str)> {
    Some(match bug {
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
        Bug::SleepsThroughVotes => (
            "replication: a_quiet_follower_wakes_for_a_vote",
            "others hide it: a command wakes its shard, and the view without the node wakes them all",
        ),
        Bug::TrustsTheIndex => (
            "storage: an_index_that_saw_a_power_cut_is_not_trusted",
            "a simulated process begins with an empty index, which is rebuilt",
        ),
        Bug::IgnoresClocks => (
            "txn: a_commit_is_above_all_prepares_and_below_all_that_follows",
            "a second guard hides it: the gateway's clock goes with every question, and is mostly as far",
        ),
        Bug::ReadersIgnoreWriters => (
            "txn: what_replaces_a_read_is_newer_than_what_its_reader_writes",
            "a second guard hides it: the gateway's clock goes with every question, and is mostly as far",
        ),
        Bug::FloorAdmits | Bug::ForgottenIsAborted => (
            "txn: what_comes_too_late_is_refused, a_commit_that_was_forgotten_is_unknown_to_its_coordinator_and_never_aborted",
            "a second guard hides it: an attempt is given up seconds before the floor, ten behind, passes it",
        ),
        _ => return None,
    })
}

/// What was not met within sixty seeds: bugs of storage, of replication and of its readers.
fn rare_in_one_shard(bug: Bug) -> Option<(&'static str, &'static str)> {
    Some(match bug {
        Bug::NoSecondLook => (
            "chaos: a_leader_that_was_stopped_between_two_looks_answers_nothing_old",
            "not within 500 seeds: who asks must do so while the leader is stopped between two looks at its clock, for \
             something that others have written meanwhile",
        ),
        Bug::ForgetsPromises => (
            "replication: a_restarted_voter_keeps_a_promise_that_it_forgot",
            "not within 60 seeds: a restart, the vote after it, a write of the new leader and a read at the old \
             one must fall within what is left of one lease",
        ),
        Bug::ForgetsVotes => (
            "replication: a_lost_vote_is_noticed",
            "not within 60 seeds: a voter must die between its vote and the next write of its log, and be asked \
             by another candidate of the same term",
        ),
        Bug::LeavesCommitBehind => (
            "replication: an_old_majority_cannot_elect_after_a_restart",
            "not within 60 seeds: a majority of members that have just left must restart before it hears again of the \
             change that it had applied",
        ),
        Bug::TakesDamageForATail => (
            "storage: damage_is_told_from_a_torn_tail",
            "not within 60 seeds: a bit must turn over in the last segment, before what was acknowledged last, and \
             be read before a checkpoint has it elsewhere",
        ),
        Bug::LeavesLastBatchBehind => (
            "storage: the_last_batch_is_written_anew_before_it_is_relied_on",
            "not within 60 seeds: a failed sync, a restart that reads the page cache, and a power cut must follow \
             each other within one batch",
        ),
        _ => return None,
    })
}

/// What was not met within sixty seeds: bugs of transactions, and of shards that change.
fn rare_over_shards(bug: Bug) -> Option<(&'static str, &'static str)> {
    Some(match bug {
        Bug::OverwritesNeighbours => (
            "replication: a_right_hand_snapshot_waits_for_the_local_split",
            "not within 60 seeds: the right side's snapshot must overtake the split on a replica that is moved at the \
             same time",
        ),
        Bug::MixesTransfers => (
            "replication: the_next_leaders_snapshot_is_not_taken_for_the_last_ones",
            "not looked for: two leaders must send snapshots of one shard to one replica, one right after the \
             other, as often started and after as many transfers",
        ),
        Bug::AbortsByItself => (
            "txn: only_the_anchor_aborts_what_it_may_conclude",
            "not within 60 seeds: the question to the anchor must arrive after the coordinator has given up, and the \
             others have been told of an abort before",
        ),
        Bug::SplitForgetsRows => (
            "txn: tombstones_are_on_both_sides",
            "not within 60 seeds: a prepare must be on its way while its attempt is aborted and its shard split",
        ),
        Bug::SplitsOverLocks => (
            "txn: planted_bugs_are_caught",
            "not within 60 seeds: a split must fall between the prepares and the decision of one attempt",
        ),
        Bug::MergeForgetsRows => (
            "txn: the_tombstones_of_the_right_side_stay",
            "not within 60 seeds: a prepare must be on its way while its attempt is aborted and its shard merged",
        ),
        Bug::ThawsTooEarly => (
            "txn: a_merge_is_decided_by_the_left_side_alone",
            "not within 60 seeds: the left side must merge after the right one has asked it and been thawed",
        ),
        _ => return None,
    })
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
        Bug::SkipsValueSync => (&singles, &[PowerAll, PowerOne]),
        Bug::TrimsBeforeItIsNoted => (&singles, &[PowerAll, PowerOne, KillOne]),
        Bug::ConfirmsAnyone | Bug::JoinsEarlierRound => (&register, &[FreezeLeader]),
        Bug::LeaseFromReceipt => (&register, &[SlowAnswers]),
        Bug::KeepsLeaseInTransfer => (&register, &[DeafTransfer]),
        Bug::CountsLearners => (&register, &[LeftWithLearners]),
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
        Bug::NoTombstones | Bug::AbsentCommits | Bug::ReleasesByClock | Bug::TellsBeforeApply => {
            (&transactions, &[SlowRequests])
        }
        Bug::AsksWithoutLocks | Bug::AsksNobody => (
            &[Workload::WriteSkew, ListAppend, Workload::LongFork],
            &[Delay, SlowRequests],
        ),
        Bug::PromisesAhead => (&transactions, &[Delay, ClockJump]),
        Bug::RetriesUnknown => (&[ListAppend], &[KillLeader, IsolateLeader, SlowRequests]),
        // A commit below a version that was closed stops whoever applies it.
        Bug::CommitsBelowPrepares => (&snapshots, &[Delay, ClockJump]),
        Bug::StartsBelowCeiling => (&snapshots, &[ClockJump, Transfer, KillLeader]),
        Bug::ClosesOverPrepared => (&snapshots, &[Delay, SlowRequests]),
        Bug::ServesUnclosed => (&snapshots, &[Delay, DiskSlow]),
        Bug::ReadsBelowKept => (&snapshots, &[]),
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
