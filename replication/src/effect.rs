//! Everything that a node's replication wants done.

use synod_storage::{Entry, EntryId, ReplicaId, ShardId};

use crate::configuration::Configuration;
use crate::identity::{Member, NodeId};
use crate::message::Message;
use crate::read::{Grant, ReadFailure, ReadToken};

/// An output of [`crate::Replication`]. Effects are carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Send a message. May be lost, delayed, repeated, reordered.
    Send {
        /// The destination.
        to: NodeId,
        /// The message; [`Message::class`] says on which connection.
        message: Message,
    },
    /// Entries of a shard are committed and persisted here: apply them *now*, in order, and then
    /// call [`crate::Replication::applied`]. Indexes are contiguous from one call to the next but
    /// for configuration changes, which never appear here. An entry without data is the first of
    /// a leader's term: apply it with no writes, so that the applied index moves.
    Committed {
        /// The shard.
        shard: ShardId,
        /// The entries, never empty.
        entries: Vec<Entry>,
    },
    /// What this replica knows of the shard's leadership changed.
    Leadership {
        /// The shard.
        shard: ShardId,
        /// The news, also at [`crate::Replication::leadership`].
        leadership: Leadership,
    },
    /// A read that was [`crate::Read::Pending`] may go on: the state applied now is recent enough.
    ReadReady {
        /// The shard.
        shard: ShardId,
        /// As given to [`crate::Replication::read`].
        token: ReadToken,
        /// To be confirmed after the state was read, [`crate::Replication::confirm`].
        grant: Grant,
    },
    /// A read that was pending cannot be served here. Nothing happened; ask again elsewhere.
    ReadFailed {
        /// The shard.
        shard: ShardId,
        /// As given to [`crate::Replication::read`].
        token: ReadToken,
        /// Why.
        failure: ReadFailure,
    },
    /// A proposal that [`crate::Replication::propose`] numbered will never be applied under that
    /// number. (A proposal that was applied is reported by being in `Committed`.)
    ProposalLost {
        /// The shard.
        shard: ShardId,
        /// The number it had.
        id: EntryId,
        /// What is known about it.
        loss: Loss,
    },
    /// A change of the members was applied.
    ConfigurationChanged {
        /// The shard.
        shard: ShardId,
        /// The entry that changed it.
        id: EntryId,
        /// The members from here on.
        configuration: Configuration,
    },
    /// The shard's state was replaced by a snapshot at `id`; all that was kept in memory about it
    /// is void.
    SnapshotInstalled {
        /// The shard.
        shard: ShardId,
        /// The entry whose state it holds.
        id: EntryId,
        /// The members at that entry.
        configuration: Configuration,
    },
    /// This replica is no longer a member: it applied its own removal, and applies nothing more. The
    /// node sends [`crate::Event::Destroy`]. (A replica that never hears of its removal cannot say
    /// so: the node compares what it carries with the shard map.)
    Removed {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
    },
    /// A leader speaks to a replica that does not exist here and was never destroyed here. If the
    /// shard map says so too, the node creates it, [`crate::Origin::Leader`]; if it still carries
    /// an earlier replica of the shard, which was removed and never heard of it, it destroys that
    /// one first.
    Missing {
        /// The shard.
        shard: ShardId,
        /// The replica that the leader counts on.
        replica: ReplicaId,
        /// The leader's node.
        from: NodeId,
    },
    /// This replica's disk lost something. It neither votes, campaigns, acknowledges nor serves.
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
        /// What can be done.
        damage: Damage,
    },
    /// All that was damaged came back from peers; the replica takes part again.
    Repaired {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
        /// Entries that were rewritten.
        entries: u32,
    },
    /// A peer broke the protocol, or this node's disk did. Log it loudly and stop the node: it
    /// must not go on acknowledging.
    Fatal {
        /// What happened, for a person.
        reason: String,
    },
}

/// A shard's leadership as one replica knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// What this replica is.
    pub role: Role,
    /// The Raft term.
    pub term: u64,
    /// The leader, if one is known: where to forward to.
    pub leader: Option<Member>,
    /// This replica leads *and* has applied an entry of its own term: it may evaluate commands.
    pub serving: bool,
}

/// What a replica is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It gives or seeks no orders: followers, candidates, and replicas that wait for state.
    Follower,
    /// It replicates, without a vote.
    Learner,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// What is known about a proposal that was not applied under its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// An entry of a later term stands at or below its index: it was not and will not be applied.
    Overwritten,
    /// A snapshot covers its index: it may or may not have been applied.
    Unknown,
}

/// What the disk lost of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Entries whose identity is known: peers are being asked for exactly these.
    Entries {
        /// How many.
        count: u32,
    },
    /// Rows of its state: the leader is being asked for a snapshot.
    Rows,
    /// Its term, its vote, or an entry nobody can name: only a new replica id helps. The planner
    /// should add one as a learner and remove this one.
    Irreparable,
}

/// Effects in the order in which they were caused. The owner drains it and keeps its capacity.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// An empty list.
    pub fn new() -> Effects {
        Effects::default()
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all effects, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.list.drain(..)
    }

    /// Exchanges the list with `other`: for an owner that calls back into the core while it
    /// carries effects out.
    pub fn swap(&mut self, other: &mut Vec<Effect>) {
        std::mem::swap(&mut self.list, other);
    }
}
