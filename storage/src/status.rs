//! What opening needs and tells, and the figures of a running store.

use std::sync::Arc;

use crate::disk::Disk;
use crate::index::IndexFactory;
use crate::store::Store;
use crate::{ConfState, EntryId, HardState, Options, ReplicaId, ShardId};

/// What a store is opened with.
#[derive(Debug)]
pub struct OpenConfig {
    /// Where everything lies.
    pub disk: Arc<dyn Disk>,
    /// The index over it.
    pub index: Box<dyn IndexFactory>,
    /// Sizes and paces.
    pub options: Options,
    /// Names this boot of the machine: another value means that the page cache is gone.
    pub boot: u128,
    /// The name of the store, should the directory be empty: random.
    pub fresh_store: u128,
}

/// How far a slow opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenProgress {
    /// The log is read.
    Log {
        /// Bytes read.
        done_bytes: u64,
        /// Bytes there are.
        total_bytes: u64,
    },
    /// The index is rebuilt.
    Index {
        /// Records merged into it.
        done_records: u64,
        /// Records there are.
        total_records: u64,
    },
}

/// An open store and what it found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The replicas that live here.
    pub replicas: Vec<RecoveredReplica>,
    /// What recovery had to do, for the operator.
    pub report: OpenReport,
}

/// A replica as recovery found it. Replication replays the committed entries above `applied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredReplica {
    /// The shard.
    pub shard: ShardId,
    /// The replica.
    pub replica: ReplicaId,
    /// The hard state; its commit lies within the log.
    pub hard_state: HardState,
    /// The configuration as of `applied`.
    pub conf: ConfState,
    /// The last entry whose effects the store has.
    pub applied: EntryId,
    /// The last entry of the log.
    pub last: EntryId,
    /// What of it is damaged.
    pub damage: Damage,
}

/// What a replica lost. As long as it is not [`Damage::is_none`], the replica neither votes, campaigns,
/// acknowledges nor serves.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct Damage {
    /// Entries whose bytes are bad, with their [`entry_checksum`](crate::entry_checksum): a peer that
    /// has exactly this entry can bring it back ([`LogBatch::repair`]).
    pub entries: Vec<(EntryId, u32)>,
    /// A record of unknown content was lost: entries, a vote, anything. The replica can only come
    /// back as a learner under a new id.
    pub unknown: bool,
    /// Rows of its range, or of its own, were lost: it needs a snapshot.
    pub rows: bool,
}

impl Damage {
    /// Whether the replica is whole.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.entries.is_empty() && !self.unknown && !self.rows
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The name of the store.
    pub store: u128,
    /// How many times it was opened, this one included.
    pub incarnation: u64,
    /// Whether it was stopped cleanly.
    pub clean: bool,
    /// Whether the index was rebuilt, and why.
    pub index_rebuilt: Option<String>,
    /// Batches of the log that were read.
    pub batches: u64,
    /// Where the log's torn tail was cut, if it had one.
    pub torn_tail: Option<String>,
    /// What was bad in one place and taken from another, each place named. A power cut in the middle of
    /// a write may look like this.
    pub repaired: Vec<String>,
    /// Damage that was found, each place named.
    pub damage: Vec<String>,
}

/// How hard the store is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Go on.
    Normal,
    /// Memory fills faster than the disk takes it: hold each proposal back by this much. Raft
    /// messages are never held back.
    Slow {
        /// How long.
        delay_us: u32,
    },
    /// The disk is nearly full: refuse commands that write, but for deletes. Lifts by itself.
    DiskFull {
        /// What is left.
        available_bytes: u64,
    },
}

/// Figures for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of rows that no value file has yet.
    pub memtable_bytes: u64,
    /// Of these, in the frozen memtable.
    pub frozen_bytes: u64,
    /// Bytes of the value cache.
    pub cache_bytes: u64,
    /// Bytes of cached log entries.
    pub entry_cache_bytes: u64,
    /// Segments of the log, spares not counted.
    pub segments: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Batches written and synced since the store was opened.
    pub syncs: u64,
    /// Value files.
    pub value_files: u64,
    /// Files whose pointers are on their way into the index.
    pub unmerged_files: u64,
    /// Their bytes.
    pub value_bytes: u64,
    /// Of these, bytes that a key still needs.
    pub live_bytes: u64,
    /// Checkpoints finished since the store was opened.
    pub checkpoints: u64,
    /// Value files rewritten since the store was opened.
    pub reclaims: u64,
    /// Times that the scrubber has read everything since the store was opened.
    pub scrub_rounds: u64,
    /// Point reads answered from memory.
    pub memory_reads: u64,
    /// Point reads and scans that went to the reader.
    pub disk_reads: u64,
    /// Damaged records met and not yet repaired.
    pub damaged_rows: u64,
    /// Damaged records that peers have brought back since the store was opened.
    pub repaired_rows: u64,
    /// Free space on the disk.
    pub available_bytes: u64,
}
