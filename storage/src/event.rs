//! What the store has to say that nobody asked for at that moment: the closed set of its events.

use bytes::Bytes;

use crate::{
    ConfState, DamagedRow, EntryId, KeyRange, ReplicaId, RowState, ShardId, TransferId, Version,
};

/// Something that happened in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Log entries asked for by `fetch` are in memory: ask the view again.
    Fetched {
        /// Whose.
        shard: ShardId,
    },
    /// A checkpoint holds everything up to here; the log before it may go.
    Checkpointed,
    /// An export is pinned: chunks can be asked for.
    ExportReady {
        /// Which export.
        transfer: TransferId,
        /// What it is a snapshot of.
        header: SnapshotHeader,
    },
    /// A chunk that was asked for.
    ExportChunk {
        /// Which export.
        transfer: TransferId,
        /// The chunk.
        chunk: SnapshotChunk,
    },
    /// The export cannot go on: the disk failed, or a record of it is damaged here.
    ExportFailed {
        /// Which export.
        transfer: TransferId,
        /// Why, for the log.
        reason: String,
    },
    /// A chunk was written (not yet durable); the next one may come.
    ImportReady {
        /// Which import.
        transfer: TransferId,
        /// The number of the chunk to come next.
        next_chunk: u32,
    },
    /// The snapshot is durable and switched in: the shard's state is that of `header.applied`. Submit
    /// the snapshot marker, then acknowledge after its sync.
    Installed {
        /// Which import.
        transfer: TransferId,
        /// The shard.
        shard: ShardId,
        /// Its replica here.
        replica: ReplicaId,
        /// What was installed.
        header: SnapshotHeader,
    },
    /// The import was given up, and left no trace.
    ImportFailed {
        /// Which import.
        transfer: TransferId,
        /// Why, for the log.
        reason: String,
    },
    /// The replica's state is gone for good.
    Dropped {
        /// The shard.
        shard: ShardId,
        /// The dropped replica.
        replica: ReplicaId,
    },
    /// Somebody met a damaged record: bring it back with [`Store::repair`](crate::Store::repair). Said
    /// once.
    Damaged {
        /// Which row.
        row: DamagedRow,
        /// Where it lies, for people.
        place: String,
    },
    /// The answer to [`Store::recall`](crate::Store::recall).
    Recalled {
        /// The key.
        key: Bytes,
        /// The version asked for.
        version: Version,
        /// What is here of it.
        state: RowState,
    },
    /// A clean stop has finished: nothing is left to do but to exit.
    Stopped,
}

/// What a snapshot is a snapshot of.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct SnapshotHeader {
    /// The last entry whose effects are in it, and none after.
    pub applied: EntryId,
    /// The configuration as of that entry.
    pub conf: ConfState,
    /// The user keys it covers.
    pub range: KeyRange,
}

/// A piece of a snapshot, about 1 MiB.
///
/// The bytes are opaque; each record in them carries its own checksum, and the chunk one over all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// From 0 on.
    pub number: u32,
    /// Whether the snapshot ends with it.
    pub last: bool,
    /// crc32 over number, last and payload.
    pub checksum: u32,
    /// Records in key order.
    pub payload: Bytes,
}

impl SnapshotChunk {
    /// Makes a chunk with its checksum.
    #[must_use]
    pub fn new(number: u32, last: bool, payload: Bytes) -> Self {
        let checksum = Self::checksum_of(number, last, &payload);
        Self {
            number,
            last,
            checksum,
            payload,
        }
    }

    /// Whether the chunk arrived as it was sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == Self::checksum_of(self.number, self.last, &self.payload)
    }

    fn checksum_of(number: u32, last: bool, payload: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&number.to_le_bytes());
        crc.update(&[u8::from(last)]);
        crc.update(payload);
        crc.finalize()
    }
}
