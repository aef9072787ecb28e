//! The handshake: who is calling, and whether the two may talk at all.
//!
//! The dialling side sends [`Hello`] first, the accepting side [`Answer`]; each checks the other.
//! Identity travels here, once a connection, so that later frames need none of it. A peer of
//! another cluster, an older boot of a node that is already known in a newer one, or a wrong node
//! behind a known address is refused with a reason that both sides log.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};
use synod_membership::id::{Boot, ClusterId, Identity, NodeId};

use super::frame::{self, Frame, FrameError, Kind};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who is calling; no cluster: not a member of any yet (formation and joining only).
    pub caller: Identity,
    /// Whom it means to reach; None where it knows the address only.
    pub expected: Option<NodeId>,
    /// What the connection is for.
    pub class: Class,
}

/// The accepting side's answer: who it is, or why not. The connection is closed after a refusal.
pub type Answer = Result<Identity, Refusal>;

/// [`Identity`] in its wire form.
#[derive(Archive, Serialize, Deserialize)]
struct WireIdentity {
    cluster: Option<u128>,
    node: u128,
    boot: (u64, u64, u64),
    address: SocketAddr,
}

impl From<Identity> for WireIdentity {
    fn from(identity: Identity) -> Self {
        let Identity {
            cluster,
            node,
            boot,
            address,
        } = identity;
        let boot = (boot.counter, boot.nonce, boot.previous);
        Self {
            cluster: cluster.map(|c| c.0),
            node: node.0,
            boot,
            address,
        }
    }
}

impl From<WireIdentity> for Identity {
    fn from(wire: WireIdentity) -> Self {
        let (counter, nonce, previous) = wire.boot;
        Self {
            cluster: wire.cluster.map(ClusterId),
            node: NodeId(wire.node),
            boot: Boot {
                counter,
                nonce,
                previous,
            },
            address: wire.address,
        }
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct WireHello {
    caller: WireIdentity,
    expected: Option<u128>,
    class: Class,
}

#[derive(Archive, Serialize, Deserialize)]
enum WireAnswer {
    Accepted(WireIdentity),
    Refused(WireRefusal),
}

#[derive(Archive, Serialize, Deserialize)]
enum WireRefusal {
    OtherCluster { caller: u128, called: u128 },
    OtherVersion { caller: u16, called: u16 },
    OtherNode { found: u128, wanted: u128 },
    StaleBoot { known: u64, offered: u64 },
    ClonedDirectory { counter: u64 },
}

/// Why a peer may not talk to this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two clusters must never mix.
    #[error(
        "the calling node belongs to cluster {caller}, the one that it called to {called}: check the \
         addresses"
    )]
    OtherCluster {
        /// The cluster of the side that dialled.
        caller: ClusterId,
        /// The cluster of the other side.
        called: ClusterId,
    },
    /// Releases that do not understand each other.
    #[error(
        "the calling node speaks version {caller} of the peer protocol, the one that it called \
         version {called}: run one release on all nodes"
    )]
    OtherVersion {
        /// What the side that dialled speaks.
        caller: u16,
        /// What the other side speaks.
        called: u16,
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
    #[error(
        "boot {counter} of the calling node is known with another nonce: its data directory was copied or rolled back; start the copy as a new node"
    )]
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
            return Err(Refusal::StaleBoot {
                known: known.counter,
                offered: boot.counter,
            });
        }
        if boot.counter == known.counter && boot.nonce != known.nonce {
            return Err(Refusal::ClonedDirectory {
                counter: boot.counter,
            });
        }
        self.newest.insert(node, boot);
        Ok(())
    }
}

/// Encodes the dialling side's frame.
pub fn encode_hello(hello: &Hello) -> Result<Frame, FrameError> {
    let Hello {
        caller,
        expected,
        class,
    } = hello;
    let wire = WireHello {
        caller: (*caller).into(),
        expected: expected.map(|node| node.0),
        class: *class,
    };
    frame::encode(Kind::Hello, &wire)
}

/// Decodes the dialling side's frame.
pub fn decode_hello(kind: Kind, body: &[u8]) -> Result<Hello, FrameError> {
    expect(kind, Kind::Hello)?;
    let WireHello {
        caller,
        expected,
        class,
    } = frame::decode(kind, body)?;
    Ok(Hello {
        caller: caller.into(),
        expected: expected.map(NodeId),
        class,
    })
}

/// Encodes the accepting side's frame.
pub fn encode_answer(answer: &Answer) -> Result<Frame, FrameError> {
    let wire = match answer {
        Ok(identity) => WireAnswer::Accepted((*identity).into()),
        Err(refusal) => WireAnswer::Refused(match refusal {
            Refusal::OtherCluster { caller, called } => WireRefusal::OtherCluster {
                caller: caller.0,
                called: called.0,
            },
            Refusal::OtherVersion { caller, called } => WireRefusal::OtherVersion {
                caller: *caller,
                called: *called,
            },
            Refusal::OtherNode { found, wanted } => WireRefusal::OtherNode {
                found: found.0,
                wanted: wanted.0,
            },
            Refusal::StaleBoot { known, offered } => WireRefusal::StaleBoot {
                known: *known,
                offered: *offered,
            },
            Refusal::ClonedDirectory { counter } => {
                WireRefusal::ClonedDirectory { counter: *counter }
            }
        }),
    };
    frame::encode(Kind::HelloAnswer, &wire)
}

/// Decodes the accepting side's frame.
pub fn decode_answer(kind: Kind, body: &[u8]) -> Result<Answer, FrameError> {
    expect(kind, Kind::HelloAnswer)?;
    Ok(match frame::decode(kind, body)? {
        WireAnswer::Accepted(identity) => Ok(identity.into()),
        WireAnswer::Refused(refusal) => Err(match refusal {
            WireRefusal::OtherCluster { caller, called } => Refusal::OtherCluster {
                caller: ClusterId(caller),
                called: ClusterId(called),
            },
            WireRefusal::OtherVersion { caller, called } => {
                Refusal::OtherVersion { caller, called }
            }
            WireRefusal::OtherNode { found, wanted } => Refusal::OtherNode {
                found: NodeId(found),
                wanted: NodeId(wanted),
            },
            WireRefusal::StaleBoot { known, offered } => Refusal::StaleBoot { known, offered },
            WireRefusal::ClonedDirectory { counter } => Refusal::ClonedDirectory { counter },
        }),
    })
}

fn expect(got: Kind, wanted: Kind) -> Result<(), FrameError> {
    if got == wanted {
        Ok(())
    } else {
        Err(FrameError::OutOfPlace { got, wanted })
    }
}

/// Judges whoever calls this node.
pub fn judge_caller(
    caller: &Identity,
    local: &Identity,
    boots: &mut KnownBoots,
) -> Result<(), Refusal> {
    judge_clusters(caller, local)?;
    boots.admit(caller.node, caller.boot)
}

/// Judges whoever answers this node's call.
pub fn judge_called(
    called: &Identity,
    local: &Identity,
    boots: &mut KnownBoots,
) -> Result<(), Refusal> {
    judge_clusters(local, called)?;
    boots.admit(called.node, called.boot)
}

fn judge_clusters(caller: &Identity, called: &Identity) -> Result<(), Refusal> {
    match (caller.cluster, called.cluster) {
        (Some(caller), Some(called)) if caller != called => {
            Err(Refusal::OtherCluster { caller, called })
        }
        _ => Ok(()),
    }
}

/// Whether the node that was wanted is the one that answers.
pub fn judge_place(wanted: Option<NodeId>, found: NodeId) -> Result<(), Refusal> {
    match wanted {
        Some(wanted) if wanted != found => Err(Refusal::OtherNode { found, wanted }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(cluster: Option<u128>, counter: u64, nonce: u64) -> Identity {
        Identity {
            cluster: cluster.map(ClusterId),
            node: NodeId(1),
            boot: Boot {
                counter,
                nonce,
                previous: 0,
            },
            address: "127.0.0.1:7701".parse().unwrap(),
        }
    }

    #[test]
    fn another_cluster_is_refused() {
        let (seven, eight) = (caller(Some(7), 1, 1), caller(Some(8), 1, 1));
        let refused = Err(Refusal::OtherCluster {
            caller: ClusterId(7),
            called: ClusterId(8),
        });
        let boots = &mut KnownBoots::default();
        assert_eq!(judge_caller(&seven, &eight, boots), refused);
        assert_eq!(judge_called(&eight, &seven, boots), refused, "in one voice");
    }

    #[test]
    fn another_node_behind_the_address_is_refused() {
        assert_eq!(
            judge_place(Some(NodeId(2)), NodeId(3)),
            Err(Refusal::OtherNode {
                found: NodeId(3),
                wanted: NodeId(2)
            })
        );
        assert_eq!(judge_place(None, NodeId(3)), Ok(()));
    }

    #[test]
    fn an_older_boot_and_a_clone_are_refused() {
        let mut boots = KnownBoots::default();
        let local = caller(None, 1, 1);
        let mut judge =
            |counter, nonce| judge_caller(&caller(None, counter, nonce), &local, &mut boots);
        assert_eq!(judge(2, 5), Ok(()));
        assert_eq!(judge(2, 5), Ok(()));
        assert!(matches!(
            judge(1, 4),
            Err(Refusal::StaleBoot {
                known: 2,
                offered: 1
            })
        ));
        assert!(matches!(
            judge(2, 6),
            Err(Refusal::ClonedDirectory { counter: 2 })
        ));
        assert_eq!(judge(3, 6), Ok(()));
    }

    #[test]
    fn hello_and_answers_survive_the_wire() {
        let hello = Hello {
            caller: caller(Some(9), 3, 4),
            expected: Some(NodeId(5)),
            class: Class::Bulk,
        };
        let frame = encode_hello(&hello).unwrap();
        assert_eq!(decode_hello(Kind::Hello, &frame[16..]).unwrap(), hello);
        let refusals = [
            Refusal::OtherNode {
                found: NodeId(3),
                wanted: NodeId(2),
            },
            Refusal::OtherCluster {
                caller: ClusterId(7),
                called: ClusterId(8),
            },
            Refusal::OtherVersion {
                caller: 2,
                called: 1,
            },
        ];
        let answers = refusals.map(Err).into_iter();
        for answer in answers.chain([Ok(caller(None, 1, 2))]) {
            let frame = encode_answer(&answer).unwrap();
            assert_eq!(
                decode_answer(Kind::HelloAnswer, &frame[16..]).unwrap(),
                answer
            );
        }
        assert!(decode_hello(Kind::HelloAnswer, &frame[16..]).is_err());
    }
}
