//! Who a node is: cluster, directory, boot.
//!
//! A [`NodeId`] belongs to a data directory and lives as long as it does. A [`Boot`] is one run of a process on that
//! directory. Votes are cast by the directory (its acceptor state is what a promise is written in), while a
//! configuration lists the boot, because a restarted process has lost its connections and its unwritten state and its
//! peers must notice. The previous boot's nonce chains boots together, so that a copied or rolled-back directory is
//! found out when it continues a chain that has moved on.

use std::fmt;
use std::net::SocketAddr;

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};

/// A cluster's identity: random, made once when the cluster is formed, and again when a lineage is forced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// A data directory's identity: random, made at its first start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

/// A configuration's identity: the hash chained over its predecessor, the cut between them and its members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigHash(pub u128);

/// The hash of a cut, in the context of the configuration that it is proposed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutHash(pub u128);

macro_rules! show_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            /// The first digits: enough to tell a few nodes apart in a trace.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:08x})", stringify!($name), (self.0 >> 96) as u32)
            }
        }

        impl Encode for $name {
            fn encode<S: Sink>(&self, out: &mut S) {
                out.u128(self.0);
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.u128(stringify!($name)).map($name)
            }
        }
    )*};
}

show_as_hex!(ClusterId, NodeId, ConfigHash, CutHash);

impl ConfigHash {
    /// The four bytes that probes carry in place of the whole hash: enough to notice that two chains differ.
    pub fn tag(self) -> u32 {
        self.0 as u32
    }
}

/// One run of a process on a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot {
    /// Raised by one, and synced, before the run sends its first frame.
    pub counter: u64,
    /// Random: two runs that share a counter, on copies of one directory, differ here.
    pub nonce: u64,
    /// The nonce of the run before this one; zero for the first.
    pub previous: u64,
}

impl Boot {
    /// The boot that follows this one on the same directory.
    pub fn next(self, nonce: u64) -> Boot {
        Boot {
            counter: self.counter + 1,
            nonce,
            previous: self.nonce,
        }
    }

    /// The first boot of a directory.
    pub fn first(nonce: u64) -> Boot {
        Boot {
            counter: 1,
            nonce,
            previous: 0,
        }
    }
}

impl Encode for Boot {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(self.counter);
        out.u64(self.nonce);
        out.u64(self.previous);
    }
}

impl Decode for Boot {
    fn decode(input: &mut Reader<'_>) -> Result<Boot, DecodeError> {
        Ok(Boot {
            counter: input.varint("a boot's counter")?,
            nonce: input.u64("a boot's nonce")?,
            previous: input.u64("a boot's nonce")?,
        })
    }
}

/// What a process says of itself in the transport's handshake, once per connection. The transport attaches it to each
/// message that it delivers, so that frames need not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; `None` while the directory belongs to none.
    pub cluster: Option<ClusterId>,
    /// The directory.
    pub node: NodeId,
    /// The run.
    pub boot: Boot,
    /// Where it can be reached, as it advertises itself.
    pub address: SocketAddr,
}

impl Encode for Identity {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.cluster.encode(out);
        self.node.encode(out);
        self.boot.encode(out);
        self.address.encode(out);
    }
}

impl Decode for Identity {
    fn decode(input: &mut Reader<'_>) -> Result<Identity, DecodeError> {
        Ok(Identity {
            cluster: Option::decode(input)?,
            node: NodeId::decode(input)?,
            boot: Boot::decode(input)?,
            address: SocketAddr::decode(input)?,
        })
    }
}

/// Where a message goes. A transport that finds another node, or another cluster, at the address must not deliver it,
/// and reports [`crate::event::Event::ContactFailed`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The node that must answer there; `None` when only the address is known, as with a seed.
    pub node: Option<NodeId>,
    /// The address to connect to.
    pub address: SocketAddr,
}

/// A place in a transport's order of durable writes. Tokens rise; a confirmation covers all lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);
