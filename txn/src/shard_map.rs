//! Which shard has a key, as far as this node knows.
//!
//! The map is a cache of the system shard's truth. It may be old: a request carries the epoch that
//! it was routed by, and the shard's leader answers a stale one with its own descriptor, which
//! [`ShardMap::install`] puts in place of whatever it contradicts. So a wrong map costs a round
//! trip, never a wrong answer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{KeyRange, ReplicaId, ShardId};

use crate::command::Command;

/// The shard that holds the cluster's own tables. Its rows are reached with the same commands, sent
/// to this shard explicitly; no user key is ever routed to it.
pub const SYSTEM_SHARD: ShardId = ShardId(0);

/// How a shard's range and membership were last known.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ShardDescriptor {
    /// The shard.
    pub shard: ShardId,
    /// Raised by every split, merge and replica change.
    pub epoch: u64,
    /// The user keys that are this shard's.
    pub range: KeyRange,
    /// Its replicas, voters first.
    pub replicas: Vec<Replica>,
}

/// One replica of a shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The raft id of the copy.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// Whether it votes.
    pub role: ReplicaRole,
}

/// Whether a replica votes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    /// Counts for the majority.
    Voter,
    /// Only follows.
    Learner,
}

/// On whose behalf a shard is changed: the placement controller of a term, carrying out a plan.
///
/// The order is the order of controllers, and of the plans of one. A shard's log holds the highest
/// that it has followed, and the shard follows none below it: of two controllers that both believe
/// to be the one, the older can do nothing any more from the moment the newer has spoken.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct Authority {
    /// The controller's term.
    pub term: u64,
    /// The version of its plan.
    pub plan: u64,
}

/// What a node knows of the shards.
///
/// Invariant: the ranges of the descriptors do not overlap. They may leave gaps while the map is
/// being learned. No descriptor is of a shard that is known to be gone.
#[derive(Clone, Debug, Default)]
pub struct ShardMap {
    by_start: BTreeMap<Vec<u8>, ShardDescriptor>,
    /// Shards that were merged into others: what was said of them may still be on its way.
    gone: BTreeSet<ShardId>,
}

impl ShardMap {
    /// A map of these descriptors; among contradicting ones the higher epoch wins.
    pub fn new(descriptors: impl IntoIterator<Item = ShardDescriptor>) -> ShardMap {
        let mut map = ShardMap::default();
        for descriptor in descriptors {
            map.install(descriptor);
        }
        map
    }

    /// Takes in a descriptor, unless a newer one of the same shard is known. What it overlaps, and
    /// older knowledge of the same shard, is forgotten: the shard's own word is the best there is.
    /// The system shard has no range and is not kept here. Whether anything changed.
    pub fn install(&mut self, descriptor: ShardDescriptor) -> bool {
        let gone = self.gone.contains(&descriptor.shard);
        if descriptor.shard == SYSTEM_SHARD || descriptor.range.is_empty() || gone {
            return false;
        }
        if let Some(known) = self.descriptor(descriptor.shard)
            && known.epoch >= descriptor.epoch
        {
            return false;
        }
        self.by_start.retain(|_, known| {
            known.shard != descriptor.shard && !known.range.overlaps(&descriptor.range)
        });
        self.by_start
            .insert(descriptor.range.start.clone(), descriptor);
        true
    }

    /// A shard was merged into another one: its id is never used again.
    pub fn forget(&mut self, shard: ShardId) {
        self.gone.insert(shard);
        self.by_start.retain(|_, known| known.shard != shard);
    }

    /// The shard of a key, if it is known.
    pub fn locate(&self, key: &[u8]) -> Option<&ShardDescriptor> {
        let below = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        let (_, descriptor) = self.by_start.range::<[u8], _>(below).next_back()?;
        descriptor.range.contains(key).then_some(descriptor)
    }

    /// The shard that has all keys of a command; `None` if there is none such, or no key.
    pub fn home(&self, command: &Command) -> Option<&ShardDescriptor> {
        let mut home: Option<&ShardDescriptor> = None;
        let mut is_one = true;
        command.for_each_key(|key| match home {
            None => {
                home = self.locate(key);
                is_one &= home.is_some();
            }
            Some(known) => is_one &= known.range.contains(key),
        });
        home.filter(|_| is_one)
    }

    /// The shard that has a whole range, if one has.
    pub fn shard_of_range(&self, range: &KeyRange) -> Option<&ShardDescriptor> {
        self.locate(&range.start)
            .filter(|descriptor| contains_range(&descriptor.range, range))
    }

    /// What is known of a shard.
    pub fn descriptor(&self, shard: ShardId) -> Option<&ShardDescriptor> {
        self.by_start
            .values()
            .find(|descriptor| descriptor.shard == shard)
    }

    /// All descriptors, in key order.
    pub fn descriptors(&self) -> impl DoubleEndedIterator<Item = &ShardDescriptor> {
        self.by_start.values()
    }

    /// The descriptors of the shards that have keys of `range`, in key order.
    pub fn overlapping(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = &ShardDescriptor> {
        self.by_start
            .values()
            .filter(move |descriptor| descriptor.range.overlaps(range))
    }

    /// The first shard behind `descriptor`, in key order.
    pub fn next_after(&self, descriptor: &ShardDescriptor) -> Option<&ShardDescriptor> {
        let end = descriptor.range.end.as_ref()?;
        self.by_start
            .range(end.clone()..)
            .next()
            .map(|(_, next)| next)
    }

    /// Whether every key has a shard.
    pub fn is_complete(&self) -> bool {
        let mut expected = Some(Vec::new());
        for descriptor in self.by_start.values() {
            if expected.as_ref() != Some(&descriptor.range.start) {
                return false;
            }
            expected.clone_from(&descriptor.range.end);
        }
        expected.is_none()
    }
}

/// The ranges of `count` shards that share the key space by their keys' first two bytes, evenly:
/// what a new cluster starts with. `count` is at least 1 and at most 65,536.
pub fn even_ranges(count: u32) -> Vec<KeyRange> {
    let count = count.clamp(1, 1 << 16);
    let bound = |i: u32| -> Vec<u8> {
        let point = u64::from(i) * (1 << 16) / u64::from(count);
        u16::try_from(point)
            .unwrap_or(u16::MAX)
            .to_be_bytes()
            .to_vec()
    };
    (0..count)
        .map(|i| KeyRange {
            start: if i == 0 { Vec::new() } else { bound(i) },
            end: if i + 1 == count {
                None
            } else {
                Some(bound(i + 1))
            },
        })
        .collect()
}

/// Whether a range lies within another one.
pub(crate) fn contains_range(outer: &KeyRange, inner: &KeyRange) -> bool {
    inner.start >= outer.start
        && match (&outer.end, &inner.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => inner <= outer,
        }
}

/// The intersection of a half-open range of keys with a shard's range.
pub(crate) fn clip(start: &Bytes, end: Option<&Bytes>, range: &KeyRange) -> (Bytes, Option<Bytes>) {
    let start = match start.as_ref() < range.start.as_slice() {
        true => Bytes::copy_from_slice(&range.start),
        false => start.clone(),
    };
    let end = match (end, &range.end) {
        (Some(end), Some(of_range)) if end.as_ref() <= of_range.as_slice() => Some(end.clone()),
        (Some(end), None) => Some(end.clone()),
        (_, Some(of_range)) => Some(Bytes::copy_from_slice(of_range)),
        (None, None) => None,
    };
    (start, end)
}

/// Where a shard's rows lie in the store.
///
/// User rows lie under their own keys. The rows of the system shard lie among its local rows, behind
/// a prefix: they are few, they are always resident, and no user key can ever name one.
pub(crate) mod keyspace {
    use bytes::{BufMut, Bytes, BytesMut};
    use synod_storage::{KeyRange, ShardId, Space};

    use super::SYSTEM_SHARD;

    const PREFIX: u8 = b'=';

    /// The space and the row of a key.
    pub(crate) fn row(shard: ShardId, key: &Bytes) -> (Space, Bytes) {
        match shard == SYSTEM_SHARD {
            false => (Space::User, key.clone()),
            true => {
                let mut row = BytesMut::with_capacity(key.len() + 1);
                row.put_u8(PREFIX);
                row.put_slice(key);
                (Space::Local(shard), row.freeze())
            }
        }
    }

    /// The space and the rows of a range of keys.
    pub(crate) fn rows(shard: ShardId, range: &KeyRange) -> (Space, KeyRange) {
        match shard == SYSTEM_SHARD {
            false => (Space::User, range.clone()),
            true => {
                let prefixed = |key: &[u8]| [&[PREFIX], key].concat();
                let start = prefixed(&range.start);
                let end = range.end.as_deref().map_or(vec![PREFIX + 1], prefixed);
                (
                    Space::Local(shard),
                    KeyRange {
                        start,
                        end: Some(end),
                    },
                )
            }
        }
    }

    /// Whether a local row of the system shard is one of its tables', not one of its own.
    pub(crate) fn is_row(row: &[u8]) -> bool {
        row.first() == Some(&PREFIX)
    }

    /// The key of a row.
    pub(crate) fn key(shard: ShardId, row: Bytes) -> Bytes {
        match shard == SYSTEM_SHARD {
            false => row,
            true => row.slice(1..),
        }
    }
}
