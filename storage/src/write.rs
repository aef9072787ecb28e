//! What apply puts into the store, and the ranges that it is asked about.

use std::ops::Bound;

use bytes::Bytes;

use crate::{ShardId, Version};

/// Which of the two key spaces of a node a row is in.
#[derive(
    Clone,
    Copy,
    Debug,
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
pub enum Space {
    /// The users' rows: one space for all shards of the node, so that a split moves no data.
    /// Every version above the collection threshold is kept.
    User,
    /// Rows of one shard's own (locks, transaction records, floors). Only the newest is kept; its
    /// version is the raft index that wrote it. These rows are always resident: a read of them never
    /// waits, and their number is the shard's to bound.
    Local(ShardId),
}

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// The key has this value (opaque, at most 1 MiB and what txn puts around it).
    Put(Bytes),
    /// The key has no value.
    Delete,
}

/// One row change of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where the row lives.
    pub space: Space,
    /// Its key, 1 byte to [`KEY_BYTES_MAX`].
    pub key: Bytes,
    /// When it changes: an HLC value for user rows, the raft index for local ones.
    pub version: Version,
    /// How it changes.
    pub op: WriteOp,
}

/// The longest key, in bytes: the published 8 KiB and room for what txn puts in front of local keys.
pub const KEY_BYTES_MAX: usize = 8 * 1024 + 256;

/// A half-open range of keys: `start` is in, `end` is not; no `end` means to the last key.
#[derive(
    Clone,
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
#[rkyv(derive(Debug))]
pub struct KeyRange {
    /// The first key of the range; empty for the first key of all.
    pub start: Vec<u8>,
    /// The first key after the range, if the range ends.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
        }
    }

    /// From `start`, included, to `end`, excluded.
    #[must_use]
    pub fn new(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }

    /// Whether no key can be in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end
            .as_ref()
            .is_some_and(|end| end.as_slice() <= self.start.as_slice())
    }

    /// Whether the two ranges have a key in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.end.as_ref().is_some_and(|end| *end <= b.start);
        !self.is_empty() && !other.is_empty() && !before(self, other) && !before(other, self)
    }

    /// The bounds, as the ordered maps of the standard library take them.
    #[must_use]
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self
            .end
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.start.as_slice()), end)
    }
}
