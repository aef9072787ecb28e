//! Known bugs, to be put back in by tests that must catch them.

/// One broken safety rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sabotage {
    /// A fast vote is cast though a classic round was promised.
    FastVoteAfterPromise,
    /// Each arrival of a vote or promise counts, not each voter.
    CountsTwice,
    /// Votes of nodes that have none count.
    NonMemberVotes,
    /// A restart forgets what was promised (applied by the explorer, to what it restores).
    ForgetsPromise,
    /// Replies do not wait for the writes that they speak of.
    RepliesEarly,
    /// All coordinators use the same ranks.
    SharedRanks,
    /// A fast value is forced only if the whole quorum voted for it.
    UnanimousCoordinatorRule,
}
