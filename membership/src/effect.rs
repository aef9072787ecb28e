//! Everything that a node wants done.

use std::sync::Arc;

use crate::durable::Record;
use crate::id::{ClusterId, Destination, Identity, NodeId, Token};
use crate::message::{Message, Position};
use crate::view::ViewChange;

/// The effects of a step, in the order in which they are to be carried out.
pub type Effects = Vec<Effect>;

/// An output of [`crate::node::Node::step`].
#[derive(Clone, Debug)]
pub enum Effect {
    /// Introduce this node so from now on. Connections that were shaken with another identity must be dropped. Comes
    /// before the first message, when a node learns its cluster, and with each new boot.
    Identity(Identity),
    /// Send, without a promise of delivery.
    Send {
        /// To whom.
        to: Destination,
        /// What.
        message: Message,
    },
    /// Send one message to many.
    SendMany {
        /// To whom. The list may be shared and may name this node itself, which is to be skipped.
        to: Arc<[Destination]>,
        /// What.
        message: Message,
    },
    /// Write, sync, then confirm with [`crate::event::Event::Persisted`]. Writes are carried out in order.
    Persist {
        /// Names the write.
        token: Token,
        /// What to write.
        record: Record,
    },
    /// A configuration is in force: each one once, in order.
    Install(ViewChange),
    /// Stop serving clients: this node may have been left behind. It keeps its duties to its peers.
    Suspend(Suspended),
    /// Serve clients again.
    Resume,
    /// This node is no longer a member, though it is alive, and its sequence of configurations ends here. It asks to
    /// come back by itself, when its links are clean; a new sequence begins when it is back.
    Removed(Position),
    /// The node has left as it was asked to, and owes nothing to anybody. Terminal.
    Left(Position),
    /// Tell the operator.
    Alarm(Alarm),
    /// The node must not go on. Terminal.
    Halt(Halt),
}

/// Why a member does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspended {
    /// No exchange with a majority of the voters for too long.
    NoMajority,
    /// The configuration lists an older boot of this node.
    BootNotListed,
    /// The next view does not list this node. It is proven, and on its way to the disk, which may hang.
    LeftOut,
}

/// Something that should not be, which the node can live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A peer has another configuration of the same sequence number. It is not listened to any more.
    ConflictingHash {
        /// Who.
        peer: NodeId,
        /// The number.
        seq: u64,
    },
    /// A node of another cluster talks to this one. If it is not a mistake in an address, this node may be a new
    /// cluster that was formed in place of an old member.
    ForeignCluster {
        /// Whose.
        cluster: ClusterId,
        /// Who; the node that was expected there, if it did not say.
        node: NodeId,
    },
    /// A voter's bit is set for two values: two processes act for one directory, or somebody lies.
    TwoVotes {
        /// Its place among the voters.
        voter: u32,
    },
    /// A directory was copied or rolled back; its process is refused.
    Impostor(NodeId),
}

/// Why a node must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A write failed: what the medium holds is unknown.
    PersistFailed,
    /// A newer boot, or another of the same counter, is at work: this directory was copied or rolled back.
    Superseded,
    /// Another decision than ours is certified for a configuration that we hold: two quorums decided.
    ConflictingCertificate(u64),
    /// The directory's own chain does not verify.
    BrokenChain(u64),
    /// The addresses to join belong to a cluster other than the directory's.
    ForeignCluster(ClusterId),
    /// The node was told to join and its directory holds a cluster's state of which it is not a part.
    NotApplicable,
}
