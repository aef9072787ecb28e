//! Known bugs, put back in: the tests turn one on at a time and show that they would notice.
//!
//! Outside of this crate's own tests [`planted!`] is the constant `false`.

/// The bugs that can be planted.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
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
    /// An attempt that the floor has passed is answered "aborted" to its coordinator.
    ForgottenIsAborted,
    /// A token that was used is used again.
    TokensAreForgotten,
    /// A token that is not recorded is answered "aborted" without being fenced.
    AbsenceIsAnAnswer,
    /// Ranges that were read are not checked: phantoms.
    RangesAreNotChecked,
    /// The coordinator commits at the version of the first prepare instead of the largest.
    CommitsAtFirstPrepare,
    /// The coordinator decides when the first participant is prepared.
    DecidesTooEarly,
    /// An abort of an attempt that was never seen leaves no tombstone.
    NoTombstones,
    /// Answers do not wait for the batch that they show.
    AnswersBeforeApply,
    /// A lock is let go by the clock, without asking the anchor.
    ReleasesByClock,
    /// The anchor's leader tells a commit that it has only proposed.
    TellsBeforeApply,
    /// The coordinator starts again when the outcome of the decision is unknown.
    RetriesUnknown,
    /// A split does not wait for the attempts under way: each side is told of half of them.
    SplitsOverLocks,
    /// A split leaves the new shard without tombstones and floor.
    SplitForgetsRows,
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
