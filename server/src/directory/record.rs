//! The contents of the directory's rows, and their keys.

// The archived twins that the derives make have no documentation of their own.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::ShardDescriptor;

const SHARDS: &str = "shard/";
const NODES: &str = "node/";
const STATES: &str = "state/";
const DAMAGED: &str = "damaged/";

/// A row that the directory itself understands, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// A shard's descriptor.
    Shard(ShardId),
    /// A node's record.
    Node(NodeId),
    /// What a node is meant to do.
    State(NodeId),
    /// A replica that only a new one can replace.
    Damaged(ReplicaId),
}

impl Table {
    /// The key.
    pub fn key(self) -> Bytes {
        Bytes::from(match self {
            Table::Shard(shard) => format!("{SHARDS}{:016x}", shard.0),
            Table::Node(node) => format!("{NODES}{:032x}", node.0),
            Table::State(node) => format!("{STATES}{:032x}", node.0),
            Table::Damaged(replica) => format!("{DAMAGED}{:016x}", replica.0),
        })
    }

    /// What a key is about.
    pub fn of(key: &[u8]) -> Option<Table> {
        let key = std::str::from_utf8(key).ok()?;
        let short = |digits| u64::from_str_radix(digits, 16).ok();
        let long = |digits| u128::from_str_radix(digits, 16).ok().map(NodeId);
        if let Some(digits) = key.strip_prefix(SHARDS) {
            short(digits).map(|id| Table::Shard(ShardId(id)))
        } else if let Some(digits) = key.strip_prefix(DAMAGED) {
            short(digits).map(|id| Table::Damaged(ReplicaId(id)))
        } else if let Some(digits) = key.strip_prefix(NODES) {
            long(digits).map(Table::Node)
        } else if let Some(digits) = key.strip_prefix(STATES) {
            long(digits).map(Table::State)
        } else {
            None
        }
    }
}

/// A registered node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Orders the records of one node: the highest counts.
    pub generation: u64,
    /// Where peers reach it.
    pub peer: SocketAddr,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// What placement knows it by.
    pub labels: BTreeMap<String, String>,
}

/// What a node is meant to do. Not part of its record, which the node writes itself at each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// Carry replicas.
    #[default]
    Up,
    /// Be emptied.
    Draining,
    /// Never carry anything again.
    Decommissioned,
}

/// A replica whose disk lost what no peer can name: it takes no part, and is to be replaced.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedReplica {
    /// Its shard.
    pub shard: ShardId,
    /// The replica.
    pub replica: ReplicaId,
    /// Where it lies.
    pub node: NodeId,
}

macro_rules! archived {
    ($($type:ty: $encode:ident, $decode:ident);* $(;)?) => {$(
        pub(crate) fn $encode(value: &$type) -> Bytes {
            let bytes = rkyv::to_bytes::<ArchiveError>(value)
                .expect("plain data: serialising it into memory cannot fail");
            Bytes::from_owner(bytes)
        }

        pub(crate) fn $decode(bytes: &[u8]) -> Option<$type> {
            let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
            aligned.extend_from_slice(bytes);
            rkyv::from_bytes::<$type, ArchiveError>(&aligned).ok()
        }
    )*};
}

archived! {
    ShardDescriptor: encode_descriptor, decode_descriptor;
    NodeRecord: encode_node, decode_node;
    DamagedReplica: encode_damaged, decode_damaged;
}

impl NodeState {
    /// The row's content: one byte.
    pub fn encode(self) -> Bytes {
        Bytes::from_static(match self {
            NodeState::Up => b"u",
            NodeState::Draining => b"d",
            NodeState::Decommissioned => b"x",
        })
    }

    /// Reads a row's content.
    pub fn decode(bytes: &[u8]) -> Option<NodeState> {
        match bytes {
            b"u" => Some(NodeState::Up),
            b"d" => Some(NodeState::Draining),
            b"x" => Some(NodeState::Decommissioned),
            _ => None,
        }
    }
}

impl NodeRecord {
    /// The row's content.
    pub fn encode(&self) -> Bytes {
        encode_node(self)
    }

    /// Reads a row's content.
    pub fn decode(bytes: &[u8]) -> Option<NodeRecord> {
        decode_node(bytes)
    }
}

impl DamagedReplica {
    /// The row's content.
    pub fn encode(&self) -> Bytes {
        encode_damaged(self)
    }

    /// Reads a row's content.
    pub fn decode(bytes: &[u8]) -> Option<DamagedReplica> {
        decode_damaged(bytes)
    }
}
