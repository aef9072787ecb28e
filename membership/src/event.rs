//! Everything that can happen to a node.

use std::net::SocketAddr;

use crate::configuration::Mode;
use crate::durable::Recovered;
use crate::id::{ClusterId, Destination, Identity, NodeId, Token};
use crate::message::Message;

/// An input of [`crate::node::Node::step`].
#[derive(Clone, Debug)]
pub enum Event {
    /// The first event, once.
    Start(Box<Start>),
    /// A message arrived. The transport has checked its frame and learnt the sender in its handshake.
    Message {
        /// The sender, as it introduced itself on this connection.
        from: Identity,
        /// What it says.
        message: Message,
    },
    /// The deadline that [`crate::node::Node::next_deadline`] named has come. Early and needless ticks do no harm.
    Tick,
    /// This write, and all before it, survive a power cut.
    Persisted(Token),
    /// A write or its sync failed. What the medium holds is unknown, so the node halts.
    PersistFailed(Token),
    /// A message to this destination could not be delivered.
    ContactFailed {
        /// Where it was to go.
        to: Destination,
        /// What was found.
        contact: Contact,
    },
    /// The oldest unconfirmed write has been outstanding for long, or no longer is.
    DiskStalled(bool),
    /// The operator wants this node out.
    Leave,
    /// The operator wants another mode, or another size of ensemble.
    SetMode(Mode),
    /// The seeds' names resolve to other addresses now.
    Seeds(Vec<SocketAddr>),
}

/// What a node starts from.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// What its directory holds.
    pub recovered: Recovered,
    /// The addresses to join, if its directory is empty; none of them means: form a cluster.
    pub join: Vec<SocketAddr>,
    /// Which boot this run is.
    pub boot: BootChoice,
}

/// Which boot a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootChoice {
    /// The one after the registered one. The node makes it durable before it speaks.
    #[default]
    Next,
    /// The registered one itself. Only for a directory whose registered boot never ran, as after
    /// [`crate::durable::found`]: a boot that runs twice is two processes of one name.
    Registered,
}

/// What a failed contact found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// The host answered that nobody listens, or dropped the connection: the process is gone.
    Refused,
    /// No answer in time, or no route. Counts for nothing by itself: the probe's own time-out will tell.
    Unreachable,
    /// Somebody else lives at the address now.
    Stranger {
        /// Who, if that was said.
        node: Option<NodeId>,
        /// Of which cluster, if that was said.
        cluster: Option<ClusterId>,
    },
}
