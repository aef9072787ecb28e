//! What the controller is told, and what it wants done.

use std::collections::BTreeMap;

use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{Authority, ShardDescriptor};

use super::advance::Step;
use super::cluster::{Duty, Report};
use super::records::{Policies, Row};
use super::solver::{Answer, Question};

/// What can happen to the controller.
#[derive(Clone, Debug)]
pub enum Event {
    /// A configuration of members was installed.
    View {
        /// Its number.
        seq: u64,
        /// Its members with their labels.
        members: BTreeMap<NodeId, BTreeMap<String, String>>,
    },
    /// An operator wants something of a node.
    Duty(NodeId, Duty),
    /// A shard is new, or its descriptor changed.
    Shard(ShardDescriptor),
    /// A shard is no more.
    ShardGone(ShardId),
    /// A shard's leader reported.
    Report(Report),
    /// A replica's disk lost what no peer can name: it takes no part, and a new one has to take its place.
    Damaged(ShardId, ReplicaId),
    /// Nothing more has to be done for such a replica.
    Replaced(ReplicaId),
    /// The policies in force.
    Policies(Policies),
    /// The solver answered.
    Answered(Answer),
    /// An order was carried out, or not.
    Ordered {
        /// The order.
        order: u64,
        /// What became of it.
        result: Result<ShardDescriptor, Refusal>,
    },
    /// The rows of [`Effect::Write`] are durable.
    Written(u64),
    /// Time passed.
    Tick,
}

/// Why an order was not carried out. Only after [`Refusal::Unknown`] may it have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another node leads the shard.
    NotLeader(Option<NodeId>),
    /// The shard is at another epoch.
    Stale(ShardDescriptor),
    /// The shard has obeyed a later plan or controller.
    Superseded,
    /// An earlier change is under way.
    Busy,
    /// A copy is not where it must be.
    NotCaughtUp,
    /// The change cannot be made, for this reason.
    Invalid(String),
    /// Nobody knows: what the shard's descriptor says decides.
    Unknown,
}

/// What the controller wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the solver. One question is under way at a time.
    Ask(Question),
    /// The answer to this question is not wanted any more; it still comes, perhaps incomplete.
    Abort(u64),
    /// Write rows to the system shard, all or none, and say when they are durable.
    Write {
        /// Names the write.
        id: u64,
        /// The rows.
        rows: Vec<Row>,
    },
    /// Order a shard to take a step.
    Order {
        /// Names the order.
        id: u64,
        /// The shard.
        shard: ShardId,
        /// The epoch that the step was derived from; the shard refuses another one.
        epoch: u64,
        /// Who orders.
        authority: Authority,
        /// The step.
        step: Step,
    },
    /// A node that shall leave carries nothing any more.
    Emptied(NodeId),
}
