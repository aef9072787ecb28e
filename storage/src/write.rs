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

    /// What of the range `other` does not cover: at most two pieces.
    #[must_use]
    pub fn without(&self, other: &Self) -> Vec<Self> {
        if !self.overlaps(other) {
            return Vec::from_iter((!self.is_empty()).then(|| self.clone()));
        }
        let before = Self {
            start: self.start.clone(),
            end: Some(other.start.clone()),
        };
        let after = other.end.as_ref().map(|end| Self {
            start: end.clone(),
            end: self.end.clone(),
        });
        let pieces = [Some(before), after].into_iter().flatten();
        pieces.filter(|piece| !piece.is_empty()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_is_what_the_other_does_not_cover() {
        let ranges: Vec<KeyRange> = (0..4u8)
            .flat_map(|start| {
                let ends = (0..5u8).map(|end| (end < 4).then(|| vec![end]));
                ends.map(move |end| KeyRange {
                    start: vec![start],
                    end,
                })
            })
            .collect();
        for (a, b) in ranges
            .iter()
            .flat_map(|a| ranges.iter().map(move |b| (a, b)))
        {
            let left = a.without(b);
            for key in (0..5u8).map(|key| vec![key]) {
                let pieces = left.iter().filter(|piece| piece.contains(&key)).count();
                let wanted = a.contains(&key) && !b.contains(&key);
                assert_eq!(pieces, usize::from(wanted), "{a:?} without {b:?}: {key:?}");
            }
        }
    }
}
