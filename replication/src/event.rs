//! Everything that can happen to a node's replication.

use synod_storage::{KeyRange, ReplicaId, ShardId};

use crate::configuration::Configuration;
use crate::identity::{Incarnation, NodeId};
use crate::message::Message;

/// An input of [`crate::Replication::step`].
#[derive(Debug)]
pub enum Event {
    /// [`crate::Config::tick_ms`] have passed. Ticks may come late or in bursts: safety never
    /// counts them, it looks at `now`. At rest ([`crate::Replication::is_at_rest`]) none is missed
    /// before the next heartbeat.
    Tick,
    /// A frame of a peer, decoded and validated. The transport vouches for `from`.
    Receive {
        /// The sender.
        from: NodeId,
        /// What it sent.
        message: Message,
    },
    /// Begin a replica on this node. Ignored if the shard already has one, or if this replica id
    /// was ever destroyed here.
    Create {
        /// The shard.
        shard: ShardId,
        /// The new replica's id, never used before.
        replica: ReplicaId,
        /// Where its state comes from.
        origin: Origin,
    },
    /// Destroy a replica: durably first, its data after. Ignored if it is not this replica.
    Destroy {
        /// The shard.
        shard: ShardId,
        /// The replica that must go; another one of the same shard stays.
        replica: ReplicaId,
        /// The keys whose rows go with it; none if another shard of this node has taken them over.
        range: Option<KeyRange>,
    },
    /// The keys of a shard, for its snapshots. Told after each start and each change; without it no
    /// snapshot is sent.
    Range {
        /// The shard.
        shard: ShardId,
        /// Its keys.
        range: KeyRange,
    },
    /// The store has news. The node hands all of it on; what does not concern replication is
    /// ignored.
    Store(synod_storage::Event),
    /// Wake a quiet group: a failed forward, a demand for a closed timestamp, a plan step.
    Wake {
        /// The shard.
        shard: ShardId,
    },
    /// Whether the layer above keeps this group awake (locks are held, a change is under way).
    Hold {
        /// The shard.
        shard: ShardId,
        /// Kept awake or released.
        hold: Hold,
    },
    /// A peer's process started (or was met for the first time): the handshake named it.
    PeerStarted {
        /// The peer.
        node: NodeId,
        /// Its present incarnation.
        incarnation: Incarnation,
    },
    /// The connection to a peer failed, or messages to it were dropped.
    PeerUnreachable {
        /// The peer.
        node: NodeId,
    },
    /// A peer left the membership view. A hint only: it changes no vote and no quorum, it wakes
    /// the quiet groups that counted on that node.
    PeerRemoved {
        /// The peer.
        node: NodeId,
    },
}

/// Whether a group may go quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Stay awake.
    Awake,
    /// Quiet is allowed.
    Released,
}

/// Where a new replica's state comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A shard that begins to exist: every member creates it with the same configuration, empty.
    Bootstrap {
        /// The first members.
        configuration: Configuration,
        /// Whether this member asks for votes at once.
        campaign: Campaign,
    },
    /// The leader: this replica was (or will be) added to a shard that exists, and waits, without
    /// a vote and without data, for a snapshot.
    Leader,
}

/// When a bootstrapped replica campaigns for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Campaign {
    /// At once. One member of a new shard should.
    Now,
    /// After an election time-out, as ever.
    OnTimeout,
}
