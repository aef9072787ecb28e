//! Below which version history may be forgotten, by key.

use std::collections::BTreeMap;

use crate::index::IndexKey;
use crate::manifest::ThresholdState;
use crate::{ShardId, Version};

/// The collection thresholds of all shards, frozen for one piece of work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thresholds {
    /// By start; ranges of live shards do not overlap, those of a split in the making may: then the
    /// lower threshold counts.
    ranges: Vec<ThresholdState>,
}

impl Thresholds {
    pub fn new(by_shard: &BTreeMap<ShardId, ThresholdState>) -> Self {
        let mut ranges: Vec<ThresholdState> = by_shard.values().cloned().collect();
        ranges.sort_by(|a, b| a.range.cmp(&b.range));
        Self { ranges }
    }

    /// The threshold of a key in its index form. Of local rows only the newest ever counts.
    pub fn of(&self, index_key: &[u8]) -> Version {
        let Some(IndexKey::User { key }) = IndexKey::decode(index_key) else {
            return Version::MAX;
        };
        self.of_user(key)
    }

    /// The threshold of a user key: that of the shard whose range it is in; nothing is forgotten of a
    /// key that no shard has spoken for.
    pub fn of_user(&self, key: &[u8]) -> Version {
        let end = self
            .ranges
            .partition_point(|known| known.range.start.as_slice() <= key);
        let covering = self.ranges[..end].iter().rev().take(4);
        covering
            .filter(|known| known.range.contains(key))
            .map(|known| known.version)
            .min()
            .unwrap_or(Version::ZERO)
    }
}
