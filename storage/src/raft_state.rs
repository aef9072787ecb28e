//! What raft asks to be kept: entries, hard state, configuration. Opaque data as far as possible:
//! this crate knows no quorum.

use bytes::Bytes;

use crate::{EntryId, ReplicaId};

/// What an entry is for. Storage keeps it and gives it back.
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
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
#[repr(u8)]
pub enum EntryKind {
    /// A command of the state machine, or the empty entry of a new leader.
    Normal = 0,
    /// A change of the group's configuration.
    Configuration = 1,
}

/// One entry of a replica's raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term and index.
    pub id: EntryId,
    /// What it is for.
    pub kind: EntryKind,
    /// Opaque; shared, never copied on its way from the wire to the log and to the memtable.
    pub data: Bytes,
}

/// The checksum by which a replica proves that it holds exactly this entry: crc32 over term, index,
/// kind and data. It is stored beside the entry, so a damaged entry still tells which one it was.
#[must_use]
pub fn entry_checksum(entry: &Entry) -> u32 {
    let mut head = [0u8; 17];
    head[..8].copy_from_slice(&entry.id.term.to_le_bytes());
    head[8..16].copy_from_slice(&entry.id.index.to_le_bytes());
    head[16] = entry.kind as u8;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&entry.data);
    crc.finalize()
}

/// What raft must remember besides its entries.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: u64,
    /// The candidate that got this replica's vote in `term`; `ReplicaId(0)` for none.
    pub vote: ReplicaId,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// The configuration of a group as of an applied entry.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct ConfState {
    /// Replicas that vote (the incoming half of a joint configuration).
    pub voters: Vec<ReplicaId>,
    /// Replicas that only receive.
    pub learners: Vec<ReplicaId>,
    /// The outgoing half of a joint configuration; empty outside of one.
    pub voters_outgoing: Vec<ReplicaId>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<ReplicaId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
    /// Opaque to storage: replication keeps here which node each replica lives on.
    pub members: Vec<u8>,
}
