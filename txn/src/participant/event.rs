//! Everything that can happen to a node's participant.

use std::collections::BTreeSet;

use synod_replication::NodeId;
use synod_storage::{Entry, Micros, ReadId, ReadResult, ShardId};

use super::entry::Birth;
use super::merging::LeftSide;
use crate::shard_map::{Authority, ShardDescriptor};
use crate::wire::{Outcome, Request};

/// A shard that was split off, and what it begins with: handed from one replica to the other, never
/// looked at by the node but for the descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newborn {
    pub(super) birth: Birth,
}

impl Newborn {
    /// The new shard.
    pub fn descriptor(&self) -> &ShardDescriptor {
        &self.birth.descriptor
    }
}

/// The time, as the node's clocks show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: for time-outs.
    pub monotonic: Micros,
    /// Milliseconds since the Unix epoch: for versions and expiry. May jump.
    pub wall_ms: u64,
}

/// The node's name for a request: given back with the response, never looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A batch of commands that was proposed as one log entry. Numbered from 1 within a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch(pub u64);

/// A question whether this node still leads a shard. Numbered from 1 within a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u64);

/// A question of a shard's leader to another shard. Unique within the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// An input of [`Participant::step`](super::Participant::step).
#[derive(Clone, Debug)]
pub enum Event {
    /// A replica of the shard is on this node: after a start for each recovered one, after a
    /// creation, and before any of its entries is applied.
    Open {
        /// The shard.
        shard: ShardId,
        /// The shard as its creator describes it. The shard's own rows win, if it has any.
        descriptor: ShardDescriptor,
    },
    /// The replica is gone from this node.
    Close {
        /// The shard.
        shard: ShardId,
    },
    /// A request, from this node's gateway or from another's.
    Request {
        /// Given back with the response.
        token: Token,
        /// What is asked.
        request: Request,
    },
    /// Nobody waits for the answers to these requests any more: commands among them that were not
    /// evaluated yet will not be, and have no answer. Of requests of one stream, all must be named at
    /// once. Those that were evaluated, or are part of a transaction, run their course.
    Withdraw {
        /// The requests.
        tokens: BTreeSet<Token>,
    },
    /// The replica's role, whenever anything about it changes. `Leading` only once an entry of its
    /// own term is applied: what was acknowledged before is then part of the state.
    Leadership {
        /// The shard.
        shard: ShardId,
        /// The role.
        leadership: Leadership,
    },
    /// Committed entries, to be applied now, in order; a leader's empty entry too, because its term
    /// proves that nothing older is still to come.
    Committed {
        /// The shard.
        shard: ShardId,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The replica's state was replaced by a snapshot.
    SnapshotInstalled {
        /// The shard.
        shard: ShardId,
    },
    /// A [`Effect::Propose`](super::Effect::Propose) was turned down; nothing was proposed. To be
    /// reported before any other event of the shard.
    ProposalRefused {
        /// The shard.
        shard: ShardId,
        /// The batch.
        batch: Batch,
        /// Why.
        refusal: Refusal,
    },
    /// This node leads the shard in that term at a moment after the round was asked for.
    LeadershipConfirmed {
        /// The shard.
        shard: ShardId,
        /// The term that was confirmed.
        term: u64,
        /// The round, and with it all earlier ones of the term.
        round: Round,
    },
    /// It could not be confirmed that this node leads the shard.
    LeadershipDoubtful {
        /// The shard.
        shard: ShardId,
        /// The term that was asked about.
        term: u64,
        /// The round, and with it all earlier ones of the term.
        round: Round,
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// A read of the store has come back.
    StoreRead {
        /// Which.
        id: ReadId,
        /// What it found.
        result: ReadResult,
    },
    /// The answer to a [`Effect::Call`](super::Effect::Call).
    Called {
        /// The shard that asked.
        shard: ShardId,
        /// Which question.
        call: Call,
        /// What was answered; `Unknown` if no answer could be had.
        outcome: Outcome,
    },
    /// The shard's description has changed (a replica moved): the leader puts it into the log.
    /// Ignored unless its epoch is higher.
    Describe {
        /// The new description.
        descriptor: ShardDescriptor,
    },
    /// The shard is to follow this controller, and none below it any more: the leader puts it into
    /// the log. Ignored unless it is higher; [`Participant::authority`](super::Participant::authority)
    /// tells when it is applied.
    Authorize {
        /// The shard.
        shard: ShardId,
        /// The controller.
        authority: Authority,
    },
    /// Split the shard: the leader lets attempts under way end, and then puts it into the log. Given
    /// up after a while, or if the shard has changed meanwhile;
    /// [`Effect::Split`](super::Effect::Split) tells that it has happened.
    Split {
        /// The shard from then on: one epoch higher, with the left part of its range.
        left: ShardDescriptor,
        /// The new shard: the rest of the range, the same nodes, replica ids of its own.
        right: ShardDescriptor,
    },
    /// Freeze a shard, so that it can be merged into its left neighbour: the leader lets attempts under
    /// way end, and then puts it into the log. Given up like a split;
    /// [`Participant::frozen`](super::Participant::frozen) tells that it has happened. Ignored if the
    /// shard is frozen, or keeps rows for one that was split off.
    Freeze {
        /// The shard.
        shard: ShardId,
        /// The neighbour.
        into: LeftSide,
    },
    /// Take the right neighbour in. Only when every replica of it is frozen for this shard in its
    /// present epoch, durably, and all have what was applied before.
    /// [`Effect::Merged`](super::Effect::Merged) tells that it has happened.
    Merge {
        /// The shard.
        left: ShardId,
        /// The neighbour, a replica of which is here.
        right: ShardId,
    },
    /// A replica of a shard that was split off is open here, and these are its first rows: if it
    /// leads and has none yet, it puts them into the log. Ignored if it has them.
    Born {
        /// As [`Effect::Split`](super::Effect::Split) had it.
        newborn: Newborn,
    },
    /// A shard that was split off is known to have its first rows in its log: they need not be kept
    /// for it any more. Ignored if they are not.
    Weaned {
        /// The shard that keeps them.
        shard: ShardId,
        /// The shard that was split off.
        child: ShardId,
    },
    /// Time has passed: every 100 ms or so.
    Tick,
}

/// A replica's role, as far as serving is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This node leads and serves.
    Leading {
        /// In this term.
        term: u64,
    },
    /// Another node leads, or none, or this one does not serve yet.
    Following {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
}

/// Why nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node does not lead in the batch's term.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// Too much is in flight, or the batch is too large.
    Throttled,
}
