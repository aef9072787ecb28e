//! The names of things: small integers that must never be confused with each other.
//!
//! Each is a type of its own, because a shard's number in a replica's place is the kind of mistake
//! that no test finds and every operator remembers.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
        )]
        #[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// A range of the key space that is replicated as one group.
    ShardId
}
id! {
    /// One copy of one shard on one node: the raft id of that copy. Never used again after the copy
    /// was dropped, so a record that names a dropped replica is known to be stale.
    ReplicaId
}
id! {
    /// When a value was written: a hybrid logical clock value. Opaque here but for its order. Rows of
    /// [`Space::Local`](crate::Space::Local) carry their shard's raft index instead.
    Version
}
id! {
    /// The position of a batch in the log of a node: one write and one sync each, without gaps.
    BatchSeq
}
id! {
    /// A value file. Later files have higher numbers; numbers are never used twice.
    FileNumber
}
id! {
    /// A log segment. Later segments have higher numbers; numbers are never used twice.
    SegmentNumber
}
id! {
    /// A point read or a scan that had to go to the disk.
    ReadId
}
id! {
    /// A stream that sends a snapshot out of this node, or that takes one in.
    TransferId
}
id! {
    /// Monotonic time in microseconds since an origin of the node's own choosing.
    Micros
}

impl Version {
    /// Before every version that a leader gives.
    pub const ZERO: Self = Self(0);
    /// After every version: a read at `MAX` sees the newest value.
    pub const MAX: Self = Self(u64::MAX);
}

/// A position in a replica's raft log.
///
/// The order is that of raft: term first, then index.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct EntryId {
    /// The term in which the entry was proposed.
    pub term: u64,
    /// Its place in the log; the first entry has index 1, so 0 is "before the log".
    pub index: u64,
}

impl EntryId {
    /// Before the first entry of any log.
    pub const ZERO: Self = Self { term: 0, index: 0 };

    /// The entry at `index` of `term`.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
