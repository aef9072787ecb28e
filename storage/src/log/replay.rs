//! Taking in what recovery reads.
//!
//! In contrast to what the node itself submits, nothing here is trusted: bodies may be bad, batches may
//! be missing in between, replicas may be gone. And a segment that was trimmed leaves copies of what is
//! still needed *behind* later entries, so a gap in a group's log may close again: what has no
//! predecessor yet waits, and only a gap that is open in the end is a loss.

use super::batch::Record;
use super::frame::{DecodedRecord, RecordHead};
use super::group::Run;
use super::groups::Groups;
use crate::manifest::State;
use crate::{BatchSeq, Entry, EntryId, ReplicaId, ShardId};

/// An entry that recovery has read before its predecessor.
#[derive(Debug)]
pub(super) struct Ahead {
    seq: BatchSeq,
    ordinal: u32,
    entry: Result<Entry, (EntryId, u32)>,
}

impl Groups {
    /// Takes in a record that recovery has read.
    pub fn replay(&mut self, seq: BatchSeq, ordinal: u32, record: DecodedRecord, state: &State) {
        let DecodedRecord { head, entries } = record;
        match head {
            RecordHead::Entries { shard, replica, .. } => {
                // An installed snapshot may have taken the place of these.
                let known = state.replicas.get(&shard);
                if known.is_some_and(|known| known.replica == replica && seq <= known.floor) {
                    return;
                }
                for entry in entries {
                    self.replay_entry((shard, replica), seq, ordinal, entry);
                }
            }
            RecordHead::HardState {
                shard,
                replica,
                state,
            } => {
                let record = Record::HardState {
                    shard,
                    replica,
                    state,
                };
                self.take(seq, ordinal, &record);
            }
            RecordHead::Marker {
                shard,
                replica,
                id,
                conf,
            } if !state.dropped.contains(&replica) => {
                let record = Record::Marker {
                    shard,
                    replica,
                    id,
                    conf,
                };
                self.replay_marker((shard, replica), id, (seq, ordinal), &record);
            }
            RecordHead::Marker { .. } => {}
            RecordHead::Repair { shard, replica, .. } => {
                if let Some(Ok(entry)) = entries.into_iter().next() {
                    let record = Record::Repair {
                        shard,
                        replica,
                        entry,
                    };
                    self.take(seq, ordinal, &record);
                }
            }
            RecordHead::Rewritten {
                shard,
                replica,
                first,
                from,
                ..
            } => {
                for ((index, from), entry) in (first..).zip(&from).zip(entries) {
                    let copy = Ahead {
                        seq,
                        ordinal,
                        entry,
                    };
                    self.replay_copy((shard, replica), index, *from, copy);
                }
            }
        }
        self.evict();
    }

    /// Takes in a marker, unless the replica's state is already beyond it, or it is another one's.
    fn replay_marker(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        id: EntryId,
        (seq, ordinal): (BatchSeq, u32),
        record: &Record,
    ) {
        let is_history = self
            .groups
            .get(&shard)
            .is_some_and(|group| group.replica != replica || id.index < group.start.index);
        if !is_history {
            self.take(seq, ordinal, record);
        }
    }

    /// Takes in one entry that recovery has read, or the place of one that is damaged.
    fn replay_entry(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        seq: BatchSeq,
        ordinal: u32,
        entry: Result<Entry, (EntryId, u32)>,
    ) {
        let Some(group) = self.groups.get(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        let id = id_of(&entry);
        if id.index <= group.start.index {
            return;
        }
        let next = group.last_index() + 1;
        // An entry takes the place of all from its index on, also of those that wait.
        let ahead = self.ahead.entry(shard).or_default();
        ahead.split_off(&id.index);
        let waiting = Ahead {
            seq,
            ordinal,
            entry,
        };
        if id.index > next {
            ahead.insert(id.index, waiting);
        } else {
            self.append(shard, waiting);
            self.close_gap(shard);
        }
    }

    /// Takes in the copy of an entry that was made when its segment was trimmed. A copy is only
    /// ever made of what is live, and takes the place of nothing else.
    fn replay_copy(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        index: u64,
        from: BatchSeq,
        copy: Ahead,
    ) {
        let Some(group) = self.groups.get(&shard).filter(|g| g.replica == replica) else {
            return;
        };
        let (start, next) = (group.start.index, group.last_index() + 1);
        let ahead = self.ahead.entry(shard).or_default();
        if index <= start {
            // The checkpoint has it.
        } else if index == next {
            self.append(shard, copy);
            self.close_gap(shard);
        } else if index > next {
            match ahead.get_mut(&index) {
                Some(original) if original.seq == from && copy.entry.is_ok() => *original = copy,
                Some(_) => {}
                None => {
                    ahead.insert(index, copy);
                }
            }
        } else if copy.entry.is_ok() {
            let moved = std::iter::once((index, &from));
            self.rewrite(shard, replica, copy.seq, copy.ordinal, moved);
        }
    }

    /// Appends what waited for the entry that has just come.
    fn close_gap(&mut self, shard: ShardId) {
        loop {
            let Some(next) = self.groups.get(&shard).map(|group| group.last_index() + 1) else {
                return;
            };
            let ahead = self.ahead.get_mut(&shard);
            let Some(waiting) = ahead.and_then(|ahead| ahead.remove(&next)) else {
                return;
            };
            self.append(shard, waiting);
        }
    }

    /// All was read: a gap that is still open is a loss.
    pub fn finish_replay(&mut self) {
        for (shard, ahead) in std::mem::take(&mut self.ahead) {
            for (index, waiting) in ahead {
                let Some(group) = self.groups.get_mut(&shard) else {
                    break;
                };
                if index > group.last_index() + 1 {
                    let first = group.last_index() + 1;
                    tracing::error!(%shard, first, last = index - 1, "entries are missing in the log");
                    group.damage.unknown = true;
                    let before = EntryId::new(id_of(&waiting.entry).term, index - 1);
                    self.cached_bytes -= group.reset_to(before);
                }
                self.append(shard, waiting);
            }
        }
        self.evict();
    }

    /// Puts an entry at its place in the log, dropping all from there on.
    fn append(&mut self, shard: ShardId, waiting: Ahead) {
        let Ahead {
            seq,
            ordinal,
            entry,
        } = waiting;
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let id = id_of(&entry);
        let mut freed = group.push_run(Run {
            first: id.index,
            count: 1,
            term: id.term,
            batch: seq,
            ordinal,
        });
        match entry {
            Ok(entry) => {
                self.cached_bytes += entry.data.len();
                self.order.push_back((shard, id.index));
                group.cached.push_back(entry);
            }
            Err(damaged) => {
                // The cache is a suffix without holes: it starts anew behind this one.
                freed += group.clear_cache();
                group.damage.entries.push(damaged);
            }
        }
        self.cached_bytes -= freed;
    }
}

/// The place of an entry, whole or damaged.
fn id_of(entry: &Result<Entry, (EntryId, u32)>) -> EntryId {
    match entry {
        Ok(entry) => entry.id,
        Err((id, _)) => *id,
    }
}
