//! A member, whole: everything that a node needs in order to install it without ever having heard of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};
use crate::id::{Boot, Destination, NodeId};

/// A member's metadata, fixed for the boot: it changes only with a restart. What changes while a node runs belongs in
/// a registry, not in the membership.
pub type Labels = BTreeMap<String, String>;

/// A node as configurations and cuts carry it. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The directory.
    pub node: NodeId,
    /// The run that was admitted.
    pub boot: Boot,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its metadata.
    pub labels: Arc<Labels>,
}

impl Member {
    /// Where to send to this member.
    pub fn destination(&self) -> Destination {
        Destination {
            node: Some(self.node),
            address: self.address,
        }
    }
}

impl Encode for Member {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.node.encode(out);
        self.boot.encode(out);
        self.address.encode(out);
        self.labels.encode(out);
    }
}

impl Decode for Member {
    fn decode(input: &mut Reader<'_>) -> Result<Member, DecodeError> {
        Ok(Member {
            node: NodeId::decode(input)?,
            boot: Boot::decode(input)?,
            address: SocketAddr::decode(input)?,
            labels: Arc::decode(input)?,
        })
    }
}
