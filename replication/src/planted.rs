//! Known bugs, put back in: the tests turn one on at a time and show that they would notice.
//!
//! Outside of this crate's own tests [`planted!`] is the constant `false`.

/// The bugs that can be planted.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
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
    /// A quorum of answers is any majority of members, learners too.
    CountsLearners,
    /// A snapshot is taken in over the keys of another replica of the node.
    OverwritesNeighbours,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether a bug is planted in this test's thread.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug, or none.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a known bug is planted; `false` outside of tests.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(test)]
        let planted = crate::planted::is_planted(crate::planted::Bug::$bug);
        #[cfg(not(test))]
        let planted = false;
        planted
    }};
}
pub(crate) use planted;
