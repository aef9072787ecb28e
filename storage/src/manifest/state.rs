//! What the manifest says is true, and the edits that change it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    BatchSeq, ConfState, EntryId, FileNumber, KeyRange, ReplicaId, SegmentNumber, ShardId, Version,
};

/// A replica as of the last checkpoint or snapshot.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct ReplicaState {
    pub replica: ReplicaId,
    /// The last entry whose effects are in the value files.
    pub applied: EntryId,
    pub conf: ConfState,
    /// The entry before the first one that the log still has to have.
    pub start: EntryId,
    /// The batch that created the replica: damage before it does not concern it.
    pub created: BatchSeq,
    /// Entries in batches up to this one are history: an installed snapshot took their place.
    pub floor: BatchSeq,
    /// Records of unknown content were lost.
    pub lost_records: bool,
}

/// A value file.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct FileState {
    /// Its whole length.
    pub bytes: u64,
    /// Of this, records.
    pub record_bytes: u64,
    /// Records in it.
    pub records: u32,
    /// Of these, deletes.
    pub deletes: u32,
    /// The checksum of its footer: which file this is.
    pub footer_crc: u32,
    /// The oldest file that any record of it was first written to.
    pub oldest: FileNumber,
    /// Its first and last key, as the index has them.
    pub first_key: Vec<u8>,
    pub last_key: Vec<u8>,
}

/// Records of files before `before`, with index keys in the range, are dead, whatever the files say.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct RangeDrop {
    /// Index keys, not user keys.
    pub range: KeyRange,
    pub before: FileNumber,
    /// Whether the index has forgotten them.
    pub indexed: bool,
}

/// What is known of the index.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct IndexState {
    /// Raised with each rebuild.
    pub generation: u64,
    /// The index has the pointers of all files up to this one.
    pub complete_to: FileNumber,
    /// Whether it was synced and sealed by a clean stop, and not touched since.
    pub clean: bool,
    /// The boot of the machine under which it was last opened.
    pub boot: u128,
}

/// The last range and threshold that a shard asked for.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct ThresholdState {
    pub range: KeyRange,
    pub version: Version,
}

/// Everything the manifest knows.
///
/// Invariants: file numbers are below `next_file`; a dropped replica is in no shard; a shard's
/// applied entry never goes back within one replica.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct State {
    pub store: u128,
    pub incarnation: u64,
    pub replicas: BTreeMap<ShardId, ReplicaState>,
    pub dropped: BTreeSet<ReplicaId>,
    pub files: BTreeMap<FileNumber, FileState>,
    pub next_file: FileNumber,
    pub drops: Vec<RangeDrop>,
    /// Index keys in these ranges may be missing: reads there are answered as damaged.
    pub lost: Vec<KeyRange>,
    pub thresholds: BTreeMap<ShardId, ThresholdState>,
    /// The first segment that the log still has to have.
    pub log_start: SegmentNumber,
    /// A batch that was durable when the manifest was last written: the log must reach it.
    pub log_durable: BatchSeq,
    pub index: IndexState,
}

/// One change. Those of a record hold together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Edit {
    /// Everything anew: the first record of each generation.
    Reset(State),
    /// New files, and what they bring the replicas to.
    Checkpoint {
        files: Vec<(FileNumber, FileState)>,
        replicas: Vec<(ShardId, ReplicaState)>,
        thresholds: Vec<(ShardId, ThresholdState)>,
    },
    /// The live records of some files are in another one now.
    Reclaimed {
        removed: Vec<FileNumber>,
        added: Vec<(FileNumber, FileState)>,
    },
    /// A snapshot took the place of a shard's state.
    Installed {
        shard: ShardId,
        replica: ReplicaState,
        files: Vec<(FileNumber, FileState)>,
        drops: Vec<RangeDrop>,
    },
    /// A replica is no more.
    Dropped {
        shard: ShardId,
        replica: ReplicaId,
        drops: Vec<RangeDrop>,
    },
    /// The index has the pointers of all files up to this one.
    IndexComplete(FileNumber),
    /// The index was opened, rebuilt or closed.
    Index(IndexState),
    /// The index has forgotten the ranges dropped before this file.
    DropsIndexed(FileNumber),
    /// The log begins here; what each replica's begins with.
    Trimmed {
        log_start: SegmentNumber,
        starts: Vec<(ShardId, ReplicaId, EntryId)>,
    },
    /// The log was durable up to here.
    LogDurable(BatchSeq),
    /// Records of unknown content were lost from the log of this shard's replica.
    LostRecords(ShardId),
    /// Rows with index keys in this range may be lost.
    LostRows(KeyRange),
}

impl State {
    fn add_files(&mut self, files: &[(FileNumber, FileState)]) {
        for (number, file) in files {
            assert!(*number >= self.next_file, "file number {number} used twice");
            self.next_file = FileNumber(number.0 + 1);
            self.files.insert(*number, file.clone());
        }
    }

    /// Each drop draws a line of its own: no file is ever given the number it is drawn at, or below.
    fn add_drops(&mut self, drops: &[RangeDrop]) {
        for drop in drops {
            self.next_file = self.next_file.max(drop.before);
            self.drops.push(drop.clone());
        }
    }

    /// Applies one edit.
    pub fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Reset(state) => *self = state.clone(),
            Edit::Checkpoint {
                files,
                replicas,
                thresholds,
            } => {
                self.add_files(files);
                for (shard, new) in replicas {
                    // The memtable was frozen before a drop or an install that got here first.
                    if self.dropped.contains(&new.replica) {
                        continue;
                    }
                    let old = self.replicas.entry(*shard).or_insert_with(|| new.clone());
                    if old.replica != new.replica {
                        *old = new.clone();
                    } else if old.applied.index <= new.applied.index {
                        old.applied = new.applied;
                        old.conf.clone_from(&new.conf);
                    }
                }
                self.thresholds.extend(thresholds.iter().cloned());
            }
            Edit::Reclaimed { removed, added } => {
                self.add_files(added);
                for number in removed {
                    self.files.remove(number);
                }
                self.forget_drops();
            }
            Edit::Installed {
                shard,
                replica,
                files,
                drops,
            } => {
                self.add_drops(drops);
                self.forget_lost(drops);
                self.add_files(files);
                self.replicas.insert(*shard, replica.clone());
                self.forget_drops();
            }
            Edit::Dropped {
                shard,
                replica,
                drops,
            } => {
                self.add_drops(drops);
                self.forget_lost(drops);
                self.dropped.insert(*replica);
                if self
                    .replicas
                    .get(shard)
                    .is_some_and(|state| state.replica == *replica)
                {
                    self.replicas.remove(shard);
                    self.thresholds.remove(shard);
                }
                self.forget_drops();
            }
            Edit::IndexComplete(file) => self.index.complete_to = *file,
            Edit::Index(index) => self.index = index.clone(),
            Edit::DropsIndexed(before) => {
                for drop in self.drops.iter_mut().filter(|drop| drop.before <= *before) {
                    drop.indexed = true;
                }
                self.forget_drops();
            }
            Edit::Trimmed { log_start, starts } => {
                self.log_start = (*log_start).max(self.log_start);
                for (shard, replica, start) in starts {
                    if let Some(state) = self.replicas.get_mut(shard)
                        && state.replica == *replica
                    {
                        state.start = *start;
                    }
                }
            }
            Edit::LogDurable(sequence) => self.log_durable = self.log_durable.max(*sequence),
            Edit::LostRecords(shard) => {
                if let Some(state) = self.replicas.get_mut(shard) {
                    state.lost_records = true;
                }
            }
            Edit::LostRows(range) => self.lose_rows(range),
        }
    }

    fn lose_rows(&mut self, range: &KeyRange) {
        if !self.lost.contains(range) {
            self.lost.push(range.clone());
        }
    }

    /// What was lost in a range is of no interest any more once the range has been replaced or dropped.
    fn forget_lost(&mut self, drops: &[RangeDrop]) {
        for drop in drops {
            let lost = std::mem::take(&mut self.lost);
            self.lost = lost
                .iter()
                .flat_map(|lost| lost.without(&drop.range))
                .collect();
        }
    }

    /// A range drop is history when no file is left that it speaks of, and the index has forgotten it.
    fn forget_drops(&mut self) {
        let first = self.files.keys().next().copied().unwrap_or(self.next_file);
        self.drops
            .retain(|drop| drop.before > first || !drop.indexed);
    }

    /// Whether a record of `file` with this index key was dropped with its range.
    pub fn is_dropped(&self, file: FileNumber, key: &[u8]) -> bool {
        self.drops
            .iter()
            .any(|drop| file < drop.before && drop.range.contains(key))
    }
}
