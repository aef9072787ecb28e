//! The logs of all groups of the node, and the one cache of entries for all of them.

use std::collections::{BTreeMap, VecDeque};

use super::batch::Record;
use super::group::{GroupLog, Run};
use super::replay::Ahead;
use crate::{BatchSeq, Entry, EntryId, ReplicaId, ShardId, entry_checksum};

/// Everything the view knows.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub groups: BTreeMap<ShardId, GroupLog>,
    pub(super) cached_bytes: usize,
    cached_bytes_max: usize,
    /// Cached entries in the order they came, oldest first; stale items are skipped.
    pub(super) order: VecDeque<(ShardId, u64)>,
    /// The last batch that is durable: entries of later ones are only here.
    pub synced: BatchSeq,
    /// During recovery: entries whose predecessors were not read yet.
    pub(super) ahead: BTreeMap<ShardId, BTreeMap<u64, Ahead>>,
}

impl Groups {
    pub fn set_cache_bytes_max(&mut self, bytes_max: usize) {
        self.cached_bytes_max = bytes_max;
    }

    /// Bytes that left the cache by way of a group.
    pub fn forget_cached(&mut self, bytes: usize) {
        self.cached_bytes -= bytes;
    }

    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Takes in a record of the batch `seq`, as its `ordinal`th.
    pub fn take(&mut self, seq: BatchSeq, ordinal: u32, record: &Record) {
        match record {
            Record::Entries {
                shard,
                replica,
                entries,
            } => self.extend((*shard, *replica), seq, ordinal, entries),
            Record::HardState {
                shard,
                replica,
                state,
            } => {
                if let Some(group) = self.groups.get_mut(shard).filter(|g| g.replica == *replica) {
                    group.hard_state = *state;
                    group.hard_state_batch = seq;
                }
            }
            Record::Marker {
                shard,
                replica,
                id,
                conf,
            } => {
                let group = self
                    .groups
                    .entry(*shard)
                    .or_insert_with(|| GroupLog::new(*replica, *id));
                assert_eq!(
                    group.replica, *replica,
                    "two replicas of shard {shard} on one node"
                );
                self.cached_bytes -= group.reset_to(*id);
                self.ahead.remove(shard);
                group.marker_batch = Some(seq);
                group.marker = *id;
                group.conf.clone_from(conf);
            }
            Record::Repair {
                shard,
                replica,
                entry,
            } => {
                let Some(group) = self.groups.get_mut(shard).filter(|g| g.replica == *replica)
                else {
                    return;
                };
                let proof = (entry.id, entry_checksum(entry));
                if group.damage.entries.contains(&proof) {
                    group.damage.entries.retain(|damaged| *damaged != proof);
                    group.replace(entry.id.index, seq, ordinal);
                }
            }
            Record::Rewritten {
                shard,
                replica,
                entries,
                from,
            } => {
                let heads = entries.iter().map(|entry| entry.id.index).zip(from);
                self.rewrite(*shard, *replica, seq, ordinal, heads);
            }
        }
        self.evict();
    }

    /// Takes in new entries, which replace what the log has from the first of them on.
    fn extend(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        seq: BatchSeq,
        ordinal: u32,
        entries: &[Entry],
    ) {
        let Some(group) = self.groups.get_mut(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        let mut freed = 0;
        for entry in entries {
            freed += group.push_run(Run {
                first: entry.id.index,
                count: 1,
                term: entry.id.term,
                batch: seq,
                ordinal,
            });
            self.cached_bytes += entry.data.len();
            group.cached.push_back(entry.clone());
            self.order.push_back((shard, entry.id.index));
        }
        self.cached_bytes -= freed;
    }

    /// Points entries to their rewritten copies, where the live copy is still the one that was copied.
    pub(super) fn rewrite<'a>(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        seq: BatchSeq,
        ordinal: u32,
        entries: impl Iterator<Item = (u64, &'a BatchSeq)>,
    ) {
        let Some(group) = self.groups.get_mut(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        for (index, from) in entries {
            if group.run_at(index).is_some_and(|run| run.batch == *from) {
                group.damage.entries.retain(|(id, _)| id.index != index);
                group.replace(index, seq, ordinal);
            }
        }
    }

    /// Lets the oldest durable entries go until the cache is within its bound.
    pub fn evict(&mut self) {
        while self.cached_bytes > self.cached_bytes_max {
            let Some((shard, index)) = self.order.front().copied() else {
                break;
            };
            if let Some(group) = self.groups.get_mut(&shard)
                && group
                    .cached
                    .front()
                    .is_some_and(|entry| entry.id.index == index)
            {
                if group
                    .run_at(index)
                    .is_some_and(|run| run.batch > self.synced)
                {
                    break;
                }
                self.cached_bytes -= group.cached.pop_front().map_or(0, |entry| entry.data.len());
            }
            self.order.pop_front();
        }
        // Stale items (truncated, compacted) must not pile up in front of a cache that is within its bound.
        if self.order.len() > 64 + 4 * self.groups.values().map(|g| g.cached.len()).sum::<usize>() {
            let groups = &self.groups;
            self.order.retain(|(shard, index)| {
                groups.get(shard).is_some_and(|group| {
                    group
                        .cached
                        .front()
                        .is_some_and(|entry| entry.id.index <= *index)
                        && group
                            .cached
                            .back()
                            .is_some_and(|entry| entry.id.index >= *index)
                })
            });
        }
    }

    pub fn compact(&mut self, shard: ShardId, id: EntryId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            self.cached_bytes -= group.compact_to(id);
        }
    }

    pub fn remove(&mut self, shard: ShardId, replica: ReplicaId) {
        if self
            .groups
            .get(&shard)
            .is_some_and(|group| group.replica == replica)
            && let Some(mut group) = self.groups.remove(&shard)
        {
            self.cached_bytes -= group.reset_to(EntryId::ZERO);
        }
    }
}
