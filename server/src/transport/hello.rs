//! The handshake: who is calling, and whether the two may talk at all.
//!
//! The dialling side sends [`Hello`] first, the accepting side [`Answer`]; each checks the other.
//! Identity travels here, once a connection, so that later frames need none of it. A peer of
//! another cluster, an older boot of a node that is already known in a newer one, or a wrong node
//! behind a known address is refused with a reason that both sides log.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;

use super::frame::{self, Frame, FrameError, Kind};
use crate::identity::{Boot, ClusterId};

/// What a connection is for. Each has sockets of its own, so that bulk never delays a vote.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum Class {
    /// Raft and membership messages.
    Control,
    /// Requests forwarded to leaders, and their answers.
    Forward,
    /// Snapshot chunks and repairs.
    Bulk,
}

/// Every class, in the order of their numbers.
pub const CLASSES: [Class; 3] = [Class::Control, Class::Forward, Class::Bulk];

/// The dialling side introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// None: not a member of any cluster yet (formation and joining only).
    pub cluster: Option<ClusterId>,
    /// Who is calling.
    pub node: NodeId,
    /// Which life of it.
    pub boot: Boot,
    /// Where it can be called back.
    pub address: SocketAddr,
    /// Whom it means to reach; None where it knows the address only.
    pub expected: Option<NodeId>,
    /// What the connection is for.
    pub class: Class,
}

/// The accepting side's answer.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Answer {
    /// Welcome.
    Accepted {
        /// The cluster of the accepting side.
        cluster: Option<ClusterId>,
        /// Who it is.
        node: NodeId,
        /// Which life of it.
        boot: Boot,
    },
    /// The connection is closed after this.
    Refused(Refusal),
}

/// Why a peer may not talk to this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Archive, Serialize, Deserialize)]
pub enum Refusal {
    /// Two clusters must never mix.
    #[error("it belongs to cluster {theirs}, the caller to {ours}; check the addresses")]
    OtherCluster {
        /// The refusing side's cluster.
        theirs: ClusterId,
        /// The caller's.
        ours: ClusterId,
    },
    /// Another node lives at the address now.
    #[error("node {found} lives there, the caller wanted {wanted}")]
    OtherNode {
        /// Who answers at the address.
        found: NodeId,
        /// Whom the caller wanted.
        wanted: NodeId,
    },
    /// A later life of the caller is known: this one is a ghost, or a copied directory.
    #[error("a later boot ({known}) of the calling node is known than the caller's {offered}")]
    StaleBoot {
        /// The newest known counter.
        known: u64,
        /// The caller's counter.
        offered: u64,
    },
    /// Two boots with one counter and different nonces: a copied or rolled back directory.
    #[error("boot {counter} of the calling node is known with another nonce: its data directory was copied or rolled back; start the copy as a new node")]
    ClonedDirectory {
        /// The counter in question.
        counter: u64,
    },
}

/// The newest boot that was seen of each node: fences older lives and copied directories.
#[derive(Debug, Default)]
pub struct KnownBoots {
    newest: BTreeMap<NodeId, Boot>,
}

impl KnownBoots {
    /// Remembers `boot` of `node` as alive, or says why it cannot be.
    pub fn admit(&mut self, node: NodeId, boot: Boot) -> Result<(), Refusal> {
        let Some(known) = self.newest.get(&node).copied() else {
            self.newest.insert(node, boot);
            return Ok(());
        };
        if boot.counter < known.counter {
            return Err(Refusal::StaleBoot { known: known.counter, offered: boot.counter });
        }
        if boot.counter == known.counter && boot.nonce != known.nonce {
            return Err(Refusal::ClonedDirectory { counter: boot.counter });
        }
        self.newest.insert(node, boot);
        Ok(())
    }
}

/// Encodes the dialling side's frame.
pub fn encode_hello(hello: &Hello) -> Result<Frame, FrameError> {
    frame::encode(Kind::Hello, hello)
}

/// Judges a caller. `cluster` is the local one, `node` the local node.
pub fn judge(
    hello: &Hello,
    cluster: Option<ClusterId>,
    node: NodeId,
    boots: &mut KnownBoots,
) -> Result<(), Refusal> {
    if let (Some(theirs), Some(ours)) = (cluster, hello.cluster)
        && theirs != ours
    {
        return Err(Refusal::OtherCluster { theirs, ours });
    }
    if let Some(wanted) = hello.expected
        && wanted != node
    {
        return Err(Refusal::OtherNode { found: node, wanted });
    }
    boots.admit(hello.node, hello.boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(cluster: Option<u128>, boot: Boot) -> Hello {
        Hello {
            cluster: cluster.map(ClusterId),
            node: NodeId(1),
            boot,
            address: "127.0.0.1:7701".parse().unwrap(),
            expected: Some(NodeId(2)),
            class: Class::Control,
        }
    }

    fn boot(counter: u64, nonce: u64) -> Boot {
        Boot { counter, nonce, previous_nonce: 0 }
    }

    #[test]
    fn another_cluster_is_refused() {
        let verdict = judge(
            &hello(Some(7), boot(1, 1)),
            Some(ClusterId(8)),
            NodeId(2),
            &mut KnownBoots::default(),
        );
        assert!(matches!(verdict, Err(Refusal::OtherCluster { .. })));
    }

    #[test]
    fn another_node_behind_the_address_is_refused() {
        let verdict =
            judge(&hello(None, boot(1, 1)), None, NodeId(3), &mut KnownBoots::default());
        assert_eq!(
            verdict,
            Err(Refusal::OtherNode { found: NodeId(3), wanted: NodeId(2) })
        );
    }

    #[test]
    fn an_older_boot_and_a_clone_are_refused() {
        let mut boots = KnownBoots::default();
        assert_eq!(judge(&hello(None, boot(2, 5)), None, NodeId(2), &mut boots), Ok(()));
        assert_eq!(judge(&hello(None, boot(2, 5)), None, NodeId(2), &mut boots), Ok(()));
        assert!(matches!(
            judge(&hello(None, boot(1, 4)), None, NodeId(2), &mut boots),
            Err(Refusal::StaleBoot { known: 2, offered: 1 })
        ));
        assert!(matches!(
            judge(&hello(None, boot(2, 6)), None, NodeId(2), &mut boots),
            Err(Refusal::ClonedDirectory { counter: 2 })
        ));
        assert_eq!(judge(&hello(None, boot(3, 6)), None, NodeId(2), &mut boots), Ok(()));
    }
}
