//! Orders to shards: how the cluster is changed, one shard and one step at a time.
//!
//! # An order
//!
//! An [`Order`] goes to the shard's leader, which checks it, carries it out, and answers when the
//! shard's new descriptor is in its log. It names the *epoch* of the descriptor that it was thought
//! out for: if anything has changed since, the shard refuses it with the descriptor as it is now. So
//! of two orders that were planned on the same state at most one has an effect, and an order that
//! arrives twice has one. It may name an [`Authority`], the controller and plan that it belongs to;
//! the shard's log holds the highest that it has followed, and lower ones are refused, for ever,
//! whoever leads. An operator's order by hand names none.
//!
//! # The steps
//!
//! A change of members is simple (one) or joint (several). It is proposed only if the members that
//! result could decide at once: enough of the voters to be are alive and hold nearly all of the log
//! (rule 46 of membership). When it is applied, the leader puts the descriptor with the next epoch into the log. If
//! the leader dies in between, the next one does: whoever leads compares its configuration with its
//! descriptor, at each change of either ([`reconcile`]). Joint configurations are left by replication,
//! whoever leads.
//!
//! # Replica ids
//!
//! The shard chooses them ([`ids`]): a replica's id holds the shard's and the epoch in which it was
//! added. An epoch ends with the change that it admits, so no id is given twice, without a counter
//! that would have to be durable anywhere else.
//!
//! # Who does what
//!
//! [`Orders`] is the asker's side: it finds the leader and follows hints. [`check`] judges an order.
//! Carrying out is the node's business, for it needs the participant and replication.

// The archived twins that the derives make have no documentation of their own.
#![allow(missing_docs)]

pub mod check;
pub mod ids;
mod orders;
pub mod reconcile;
pub mod relocate;
pub mod survey;

use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{Authority, LeftSide, ShardDescriptor};

pub use self::orders::{OrderId, Orders};

/// One step that a shard is asked to take.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Order {
    /// The shard.
    pub shard: ShardId,
    /// The epoch of the descriptor that the step was planned on.
    pub epoch: u64,
    /// Whose plan it belongs to; none if it was given by hand.
    pub authority: Option<Authority>,
    /// The step.
    pub step: Step,
}

/// What a shard is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Step {
    /// Change the members: one change, or several through one joint configuration. At most
    /// [`ids::PER_EPOCH`].
    Change(Vec<Change>),
    /// Hand leadership to this voter. The epoch stays.
    Transfer {
        /// The voter.
        to: ReplicaId,
    },
    /// Split: keys from this one on become a shard of their own, on the same nodes.
    Split {
        /// The first key of the new shard; inside the range, and not its first.
        at: Vec<u8>,
    },
    /// Take the next shard in key order in. Its replicas must be on the same nodes.
    Merge,
    /// Stop, to be merged into the left neighbour: what [`Step::Merge`] asks of the right shard.
    Freeze {
        /// The neighbour, as it is.
        into: LeftSide,
    },
}

/// One change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Change {
    /// Begin a replica without a vote on a node that has none. The shard names it.
    AddLearner {
        /// The node.
        node: NodeId,
    },
    /// Give a learner that has caught up a vote.
    Promote {
        /// The learner.
        replica: ReplicaId,
    },
    /// Take a voter's vote.
    Demote {
        /// The voter.
        replica: ReplicaId,
    },
    /// Remove a replica; its node destroys it.
    Remove {
        /// The replica.
        replica: ReplicaId,
    },
}

fn lag(entries: u64) -> String {
    match entries {
        u64::MAX => "has nothing yet".to_owned(),
        1 => "lacks an entry".to_owned(),
        entries => format!("lacks {entries} entries"),
    }
}

/// Why a shard did not take a step. Nothing has happened, except where it says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Archive, Serialize, Deserialize)]
pub enum Refusal {
    /// This node does not lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who does, if known.
        hint: Option<NodeId>,
    },
    /// The shard has changed since.
    #[error("the shard has changed: it is at epoch {} now", descriptor.epoch)]
    StaleEpoch {
        /// As it is now.
        descriptor: ShardDescriptor,
    },
    /// A newer controller or plan has spoken.
    #[error("a newer plan is carried out: controller term {}, plan {}", by.term, by.plan)]
    Superseded {
        /// Whose.
        by: Authority,
    },
    /// Another step is under way: try again soon.
    #[error("another change of the shard is under way: try again")]
    Busy,
    /// A replica that is to vote lacks too much of the log.
    #[error("replica {replica} {}: try again when it has caught up", lag(*lag_entries))]
    NotCaughtUp {
        /// The replica.
        replica: ReplicaId,
        /// How many entries; `u64::MAX`: everything.
        lag_entries: u64,
    },
    /// Too few of the resulting voters are alive and up to date: the shard could stand still.
    #[error("too few of the remaining voters are alive and up to date")]
    LosesMajority,
    /// The step does not fit the shard.
    #[error("{0}")]
    Invalid(String),
    /// It may have happened, or may still: look at the descriptor, and decide anew.
    #[error("it is not known whether it was done: look at the shard's epoch")]
    Unknown,
}

/// What nodes say to each other about orders.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Message {
    /// Do this.
    Order {
        /// The asker's name for it.
        id: u64,
        /// What.
        order: Order,
    },
    /// Done: this is the shard now.
    Done {
        /// As in the order.
        id: u64,
        /// The new descriptor; of a split, the left side's.
        descriptor: ShardDescriptor,
    },
    /// Not done.
    Refused {
        /// As in the order.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Has your replica of the shard applied the freeze for this neighbour, and is that durable?
    IsFrozen {
        /// The shard.
        shard: ShardId,
        /// The neighbour.
        into: LeftSide,
    },
    /// It has, and it is. Otherwise there is no answer, and the question is asked again.
    Frozen {
        /// The shard.
        shard: ShardId,
        /// The neighbour.
        into: LeftSide,
    },
    /// What the sender says of the shards that it leads, to the leader of the system shard.
    Led(Vec<Led>),
}

/// What a shard's leader says of it, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Led {
    /// The shard.
    pub shard: ShardId,
    /// The term that it is led in.
    pub term: u64,
    /// What its keys and values take on the disk.
    pub bytes: u64,
    /// Whether the leader has measured that by now, or takes its shards to weigh the same.
    pub measured: bool,
    /// Reads a second.
    pub reads_per_s: u64,
    /// Writes a second.
    pub writes_per_s: u64,
    /// Whether its configuration is joint.
    pub joint: bool,
    /// How many entries each replica lacks, the leader's own included.
    pub lacks: Vec<(ReplicaId, u64)>,
}
