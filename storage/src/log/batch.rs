//! What one pass of the loop wants written: records of any number of groups, for one write and one
//! sync.

use crate::{BatchSeq, ConfState, Entry, EntryId, HardState, ReplicaId, ShardId};

/// Records to be made durable together, in this order.
///
/// Filled by one pass of the loop over all groups that have something, then handed to
/// [`Store::submit`](crate::Store::submit). Nothing of it counts before
/// [`Store::synced`](crate::Store::synced) has reached the number that `submit` gave.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    pub(crate) records: Vec<Record>,
}

/// A record as the loop hands it in.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// Entries with consecutive indexes. Drops all the group has from the first of them on.
    Entries {
        shard: ShardId,
        replica: ReplicaId,
        entries: Vec<Entry>,
    },
    /// The group's hard state from here on.
    HardState {
        shard: ShardId,
        replica: ReplicaId,
        state: HardState,
    },
    /// The group's log is empty at `id`; its applied state is that of `id`, with `conf`.
    Marker {
        shard: ShardId,
        replica: ReplicaId,
        id: EntryId,
        conf: ConfState,
    },
    /// The very entry that was damaged, brought back by a peer. Takes its place, truncates nothing.
    Repair {
        shard: ShardId,
        replica: ReplicaId,
        entry: Entry,
    },
    /// Copies of entries whose segment is about to go, each with the batch that has the live copy.
    Rewritten {
        shard: ShardId,
        replica: ReplicaId,
        entries: Vec<Entry>,
        from: Vec<BatchSeq>,
    },
}

/// What a record, or an entry of one, costs in a frame besides its data, at most.
const HEAD_BYTES: usize = 256;

impl Record {
    /// Bytes of the record in a frame, at most.
    pub fn bytes(&self) -> usize {
        let entries = |entries: &[Entry]| -> usize {
            entries.iter().map(|entry| entry.data.len() + 64).sum()
        };
        HEAD_BYTES
            + match self {
                Self::Entries { entries: list, .. } | Self::Rewritten { entries: list, .. } => {
                    entries(list)
                }
                Self::Repair { entry, .. } => entries(std::slice::from_ref(entry)),
                Self::HardState { .. } => 0,
                Self::Marker { conf, .. } => {
                    let replicas = conf.voters.len()
                        + conf.learners.len()
                        + conf.voters_outgoing.len()
                        + conf.learners_next.len();
                    replicas * 8 + conf.members.len()
                }
            }
    }
}

impl LogBatch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            records: Vec::new(),
        }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends entries with consecutive indexes. Whatever the group has from the first of them on is
    /// dropped. The data is shared, not copied.
    pub fn entries(&mut self, shard: ShardId, replica: ReplicaId, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        for pair in entries.windows(2) {
            assert_eq!(
                pair[0].id.index + 1,
                pair[1].id.index,
                "entries leave a gap"
            );
            assert!(pair[0].id.term <= pair[1].id.term, "terms go back");
        }
        self.records.push(Record::Entries {
            shard,
            replica,
            entries: entries.to_vec(),
        });
    }

    /// Replaces the group's hard state.
    pub fn hard_state(&mut self, shard: ShardId, replica: ReplicaId, state: HardState) {
        self.records.push(Record::HardState {
            shard,
            replica,
            state,
        });
    }

    /// Creates a replica whose log is empty at `id` (`EntryId::ZERO` for a shard's first replicas)
    /// and whose configuration is `conf`. It exists for good when the batch is durable.
    pub fn create_replica(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        id: EntryId,
        conf: ConfState,
    ) {
        self.records.push(Record::Marker {
            shard,
            replica,
            id,
            conf,
        });
    }

    /// Says that the installed snapshot at `id` replaces the group's log. To be submitted after
    /// [`Event::Installed`](crate::Event::Installed), and acknowledged after its sync.
    pub fn snapshot_marker(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        id: EntryId,
        conf: ConfState,
    ) {
        self.records.push(Record::Marker {
            shard,
            replica,
            id,
            conf,
        });
    }

    /// Puts back an entry that recovery found damaged. It is taken only where term, index and
    /// [`entry_checksum`](crate::entry_checksum) are those of the damaged one; it truncates nothing.
    pub fn repair(&mut self, shard: ShardId, replica: ReplicaId, entry: Entry) {
        self.records.push(Record::Repair {
            shard,
            replica,
            entry,
        });
    }
}
