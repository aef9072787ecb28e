//! Known bugs, by the rule that each breaks.

use std::cell::Cell;

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident,)+) => {
        /// The bugs that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug),+];

            /// What it does wrong.
            pub fn what(self) -> &'static str {
                match self {
                    $(Bug::$bug => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    /// A batch of the log counts as durable without a sync.
    SkipsSync,
    /// A value file counts as durable without a sync.
    SkipsValueSync,
    /// A lease counted from the moment the quorum's answer arrived.
    LeaseFromReceipt,
    /// A leader that transfers away keeps its lease.
    KeepsLeaseInTransfer,
    /// A restarted voter votes at once.
    ForgetsPromises,
    /// A voter counts ticks, not time, before it votes for another.
    VotesByTicks,
    /// A new leader answers reads before it has applied an entry of its term.
    ServesBeforeOwnTerm,
    /// Followers acknowledge and vote before the fsync.
    AcknowledgesBeforeSync,
    /// A vote is not written to the log.
    ForgetsVotes,
    /// A commit index is not written with the entries that follow it.
    LeavesCommitBehind,
    /// A read counts on a round that was sent before it arrived.
    JoinsEarlierRound,
    /// A quiet follower answers a vote without waking.
    SleepsThroughVotes,
    /// Nobody notices that the node of a quiet leader is gone.
    IgnoresSilence,
    /// Nobody compares which groups sleep under a node with what that node says.
    IgnoresDigests,
    /// A quorum of answers is any majority of members, learners too.
    CountsLearners,
    /// A lease is not looked at again after the state was read.
    NoSecondLook,
    /// A leader confirms reads without asking anybody.
    ConfirmsAnyone,
    /// A write whose answer was lost is sent again.
    SendsLostWritesAgain,
    /// A write whose answer was lost is said to have failed.
    LostIsFailed,
    /// Expired values are hidden when they are read, and not deleted.
    HidesExpired,
    /// An entry that was evaluated in an earlier term is applied.
    AppliesOldTerms,
    /// A prepare does not lock what it only reads: write skew.
    ReadsAreNotLocked,
    /// Single commands and one-shard transactions pass read locks.
    FastPathPassesReadLocks,
    /// A read returns the value under a write lock.
    ReadsUnderLocks,
    /// A validation passes while a foreign write lock stands.
    ValidationIgnoresLocks,
    /// A validation does not look at versions.
    ValidationIgnoresVersions,
    /// The anchor commits at a version of its own, not above those of all prepares.
    CommitsBelowPrepares,
    /// The coordinator does not wait until the others are prepared before the anchor decides.
    DecidesTooEarly,
    /// An abort of an attempt that was never seen leaves no tombstone.
    NoTombstones,
    /// An attempt that the floor has passed is prepared.
    FloorAdmits,
    /// An attempt that the anchor does not know is said to be committed.
    AbsentCommits,
    /// The coordinator aborts without the anchor, to which its question may still be on its way.
    AbortsByItself,
    /// A leader merges nobody's clock, not even a commit's before it lets go of the lock.
    IgnoresClocks,
    /// A read promises more than the clock has come to.
    PromisesAhead,
    /// A new leader's clock does not begin above the ceiling.
    StartsBelowCeiling,
    /// What a transaction writes is not locked while other shards are asked about its reads.
    AsksWithoutLocks,
    /// A transaction that writes in one shard asks no other shard about its reads.
    AsksNobody,
    /// Who validates for a writer elsewhere does not merge the version of its writes.
    ReadersIgnoreWriters,
    /// However often a transaction has lost, it locks nothing before its end.
    NeverHolds,
    /// Answers do not wait for the batch that they show.
    AnswersBeforeApply,
    /// A lock is let go by the clock, without asking the anchor.
    ReleasesByClock,
    /// The anchor's leader tells a commit that it has only proposed.
    TellsBeforeApply,
    /// The coordinator starts again when the outcome of the decision is unknown.
    RetriesUnknown,
    /// A snapshot is taken in over the keys of another replica of the node.
    OverwritesNeighbours,
    /// A snapshot's receiver takes another leader's chunks, if its transfer has the same number.
    MixesTransfers,
    /// Ranges that were read are not checked: phantoms.
    RangesAreNotChecked,
    /// An attempt that the floor has passed is answered "aborted" to its coordinator.
    ForgottenIsAborted,
    /// A token that was used is used again.
    TokensAreForgotten,
    /// A token that is not recorded is answered "aborted" without being fenced.
    AbsenceIsAnAnswer,
    /// A split leaves the new shard without tombstones and floor.
    SplitForgetsRows,
    /// A split does not wait for the attempts under way: each side is told of half of them.
    SplitsOverLocks,
    /// A merge forgets the tombstones, floors and ceiling of the right side.
    MergeForgetsRows,
    /// A shard is merged before all its replicas are frozen.
    MergesOverLaggards,
    /// A frozen shard is told that it was not merged while it still may be.
    ThawsTooEarly,
    /// A version is closed although an attempt is prepared below it.
    ClosesOverPrepared,
    /// A replica serves a read of the past at a version that is not closed there.
    ServesUnclosed,
    /// A read of the past below what is kept is answered from what is left.
    ReadsBelowKept,
    /// A start after a crash relies on the last batch of the log where it lies, and does not write it anew.
    LeavesLastBatchBehind,
    /// A new segment of the log does not say where the one before ends.
    ForgetsWhereItEnds,
    /// Damage in the log is cut off as a torn tail, without a look at what follows.
    TakesDamageForATail,
    /// A frame of the log counts by its sequence alone, whatever segment and chain it was written for.
    TakesStaleFrames,
    /// A segment of the log goes before the manifest says so.
    TrimsBeforeItIsNoted,
    /// The index is trusted after a power cut.
    TrustsTheIndex,
    /// A leader that meets a damaged entry of its log sends a snapshot instead.
    SnapshotsForDamage,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether a bug is planted in this thread.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug in this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_at_a_time_and_thread() {
        plant(Some(Bug::SkipsSync));
        assert!(crate::planted!(SkipsSync));
        assert!(!crate::planted!(ForgetsVotes));
        let elsewhere = std::thread::spawn(|| crate::planted!(SkipsSync));
        assert!(!elsewhere.join().expect("the thread ends"));
        plant(None);
        assert!(!crate::planted!(SkipsSync));
        assert_eq!(
            Bug::SkipsSync.what(),
            "A batch of the log counts as durable without a sync."
        );
    }
}
