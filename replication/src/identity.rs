//! Who takes part: nodes and the replicas they carry.
//!
//! A *node* is a process with a data directory; a *replica* is one copy of one shard. Raft counts
//! replicas, the network knows nodes. A replica id is never used twice, so a late message for a
//! destroyed replica can never be taken for one to its successor on the same node.

use std::fmt;

use synod_storage::ReplicaId;

/// A node: 128 random bits, made at a data directory's first start.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first eight digits tell nodes apart in any log that a person reads.
        write!(f, "n{:08x}", self.0 >> 96)
    }
}

/// The start counter of a node's data directory: raised and fsynced at each start.
///
/// Heartbeat rounds are numbered within one incarnation; an acknowledgement of a round that an
/// earlier incarnation began must not extend a lease of this one.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Incarnation(pub u64);

/// A replica of a shard and the node that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The replica; unique for ever.
    pub replica: ReplicaId,
    /// Where it lives, for as long as it lives.
    pub node: NodeId,
}
