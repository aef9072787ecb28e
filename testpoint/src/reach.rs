//! Points that runs come by, counted.

use std::cell::RefCell;
use std::collections::BTreeMap;

macro_rules! points {
    ($($(#[doc = $what:literal])+ $point:ident,)+) => {
        /// The points that are counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($(#[doc = $what])+ $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$point),+];
        }
    };
}

points! {
    /// Recovery cut a torn tail.
    TornTailCut,
    /// The index was rebuilt at a start.
    IndexRebuilt,
    /// Recovery found damage.
    DamageFound,
    /// A checkpoint was completed.
    CheckpointDone,
    /// A replica was repaired from its peers.
    ReplicaRepaired,
    /// A snapshot was installed.
    SnapshotInstalled,
    /// A replica was removed from its shard.
    ReplicaRemoved,
    /// The members of a shard changed.
    ConfigurationChanged,
    /// A read waited for a round of the quorum.
    ReadWaitedForQuorum,
    /// A lease was over when the state had been read.
    GrantJudgedTooLate,
    /// A proposal was refused because the node no longer led.
    ProposalRefused,
    /// An entry of an earlier term was dropped at apply.
    OldTermDropped,
    /// An entry of an earlier epoch was dropped at apply.
    OldEpochDropped,
    /// A value was found past its deadline, and deleted.
    ExpiredDeleted,
    /// A replica served a read at a version that was closed there.
    SnapshotRead,
    /// A shard was split.
    ShardSplit,
    /// A shard was merged into its left neighbour.
    ShardMerged,
    /// A shard that was frozen for a merge serves again.
    ShardThawed,
    /// A request was lost with its connection.
    RequestLost,
    /// A client was gone before its request was answered.
    RequestWithdrawn,
    /// The outcome of a write was said to be unknown.
    SaidUnknown,
}

thread_local! {
    static REACHED: RefCell<BTreeMap<Point, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts a point of this thread.
pub fn note(point: Point) {
    REACHED.with_borrow_mut(|reached| *reached.entry(point).or_default() += 1);
}

/// Takes what this thread has counted so far.
pub fn take_reached() -> BTreeMap<Point, u64> {
    REACHED.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_counted_once_taken() {
        crate::reached!(TornTailCut);
        crate::reached!(TornTailCut);
        assert_eq!(take_reached(), [(Point::TornTailCut, 2)].into());
        assert_eq!(take_reached(), [].into());
    }
}
