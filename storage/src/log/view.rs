//! What every group's log looks like right now, the unsynced suffix included.
//!
//! Raft asks for terms and entries at any moment, also for those that the log thread has not written
//! yet, so the view is updated when a batch is *submitted*. What fell out of the cache of entries is
//! read from the segments by a job.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::GroupLog;
use super::groups::Groups;
use crate::{Damage, Entry, EntryId, HardState, ShardId};

/// Why the log cannot answer right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The entries are behind the checkpoint and their segments are gone: send a snapshot.
    #[error("entries up to index {first_index} excluded are compacted")]
    Compacted {
        /// The first index that the log still has.
        first_index: u64,
    },
    /// The entries are beyond the end of the log.
    #[error("the log ends at index {last_index}")]
    Unavailable {
        /// The last index of the log.
        last_index: u64,
    },
    /// The entries are on disk only. Ask [`Store::fetch`](crate::Store::fetch) for them and try again
    /// when [`Event::Fetched`](crate::Event::Fetched) says so.
    #[error("the entries have to be read from disk")]
    Temporarily,
    /// The entry was damaged on disk. Neither vote nor acknowledge nor serve with this replica until
    /// a peer has brought back exactly this entry. Never send a snapshot instead, never truncate.
    #[error("entry {id} is damaged")]
    Damaged {
        /// Which entry.
        id: EntryId,
        /// Its [`entry_checksum`](crate::entry_checksum).
        checksum: u32,
    },
    /// This node has no replica of the shard.
    #[error("no replica of this shard")]
    NoReplica,
}

/// A handle on the logs of all groups of the node, the unsynced suffix included. Cheap to clone.
///
/// The lock inside is only ever taken by the loop; it is there so that the handle is `Send`.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    inner: Arc<Mutex<Groups>>,
}

impl LogView {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first index whose entry the log has; one past the last if it is empty.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn first_index(&self, shard: ShardId) -> Result<u64, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(GroupLog::first_index)
            .ok_or(LogError::NoReplica)
    }

    /// The last index of the log, durable or not.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn last_index(&self, shard: ShardId) -> Result<u64, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(GroupLog::last_index)
            .ok_or(LogError::NoReplica)
    }

    /// The term of the entry at `index`, also of the one just before the first. Never from disk.
    ///
    /// # Errors
    /// `Compacted`, `Unavailable` or `NoReplica`.
    pub fn term(&self, shard: ShardId, index: u64) -> Result<u64, LogError> {
        let groups = self.lock();
        let group = groups.groups.get(&shard).ok_or(LogError::NoReplica)?;
        if index < group.start.index {
            return Err(LogError::Compacted {
                first_index: group.first_index(),
            });
        }
        group.term(index).ok_or(LogError::Unavailable {
            last_index: group.last_index(),
        })
    }

    /// The newest submitted hard state.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn hard_state(&self, shard: ShardId) -> Result<HardState, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(|group| group.hard_state)
            .ok_or(LogError::NoReplica)
    }

    /// What of the replica's log is damaged and not yet repaired.
    ///
    /// # Errors
    /// [`LogError::NoReplica`].
    pub fn damage(&self, shard: ShardId) -> Result<Damage, LogError> {
        self.lock()
            .groups
            .get(&shard)
            .map(|group| group.damage.clone())
            .ok_or(LogError::NoReplica)
    }

    /// Entries from `lo` on, below `hi`: at least one, at most as many as have `bytes_max` bytes.
    ///
    /// # Errors
    /// Any [`LogError`]; `Damaged` if the first of them is.
    pub fn entries(
        &self,
        shard: ShardId,
        lo: u64,
        hi: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let mut groups = self.lock();
        let group = groups.groups.get_mut(&shard).ok_or(LogError::NoReplica)?;
        if lo < group.first_index() {
            return Err(LogError::Compacted {
                first_index: group.first_index(),
            });
        }
        if lo >= hi || hi > group.last_index() + 1 {
            return Err(LogError::Unavailable {
                last_index: group.last_index(),
            });
        }
        let mut hi = hi;
        if let Some((id, checksum)) = group
            .damage
            .entries
            .iter()
            .find(|(id, _)| (lo..hi).contains(&id.index))
            .copied()
        {
            if id.index == lo {
                return Err(LogError::Damaged { id, checksum });
            }
            hi = id.index;
        }
        let cached_first = group
            .cached
            .front()
            .map_or(u64::MAX, |entry| entry.id.index);
        let source: Box<dyn Iterator<Item = &Entry>> = if lo >= cached_first {
            let skip = usize::try_from(lo - cached_first).unwrap_or(usize::MAX);
            Box::new(group.cached.iter().skip(skip))
        } else {
            let at = group.fetched.partition_point(|entry| entry.id.index < lo);
            if group
                .fetched
                .get(at)
                .is_none_or(|entry| entry.id.index != lo)
            {
                return Err(LogError::Temporarily);
            }
            let from_disk = group.fetched[at..]
                .iter()
                .filter(move |e| e.id.index < cached_first);
            Box::new(from_disk.chain(group.cached.iter()))
        };
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let mut next = lo;
        for entry in source.take_while(|entry| entry.id.index < hi) {
            bytes += entry.data.len() as u64;
            if entry.id.index != next || (!entries.is_empty() && bytes > bytes_max) {
                break;
            }
            next += 1;
            entries.push(entry.clone());
        }
        // What was fetched is read once, by the replay or by a slow follower: let it go behind the reader.
        group.fetched.retain(|entry| entry.id.index >= next);
        Ok(entries)
    }
}
