//! Who replicates a shard, and how that changes.
//!
//! Changes go through joint consensus (dissertation §4.3) unless they add or remove one voter or
//! one learner. The leader leaves a joint configuration by itself as soon as it may, and so does
//! any later leader: raft-rs' own automatic leave is lost when the leader steps down in between.
//!
//! A configuration also says on which node each replica lives, so that a node knows after a
//! restart, without asking anybody, where its peers are.

use std::collections::BTreeMap;

use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};
use synod_storage::{ConfState, ReplicaId};

use crate::identity::{Member, NodeId};

/// The members of a shard. In a joint configuration `voters_outgoing` is the old half, and every
/// decision needs both halves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Replicas that vote.
    pub voters: Vec<ReplicaId>,
    /// Replicas that receive, without a vote.
    pub learners: Vec<ReplicaId>,
    /// The old half of a joint configuration; empty otherwise.
    pub voters_outgoing: Vec<ReplicaId>,
    /// Voters that will be learners when the joint configuration is left.
    pub learners_next: Vec<ReplicaId>,
    /// Where each of them lives.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
}

/// One step from one configuration to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a voter, or give a learner a vote.
    Voter(Member),
    /// Add a learner, or take a voter's vote.
    Learner(Member),
    /// Remove a replica.
    Remove(ReplicaId),
}

/// Why a change was refused. Nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another replica leads, this one if known.
    #[error("not the leader")]
    NotLeader(Option<Member>),
    /// An earlier change is not applied yet, or the configuration is joint: wait for
    /// [`crate::Effect::ConfigurationChanged`].
    #[error("an earlier change is under way")]
    Busy,
    /// It would leave the shard without a voter, or contradicts the present members.
    #[error("the change does not fit the present members")]
    Invalid,
    /// Too much is uncommitted, or leadership is being transferred: retry.
    #[error("retry later")]
    Throttled,
}

/// A change as its log entry carries it. No changes: leave the joint configuration.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    pub(crate) changes: Vec<ChangeItem>,
}

/// One change of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum ChangeItem {
    Voter { replica: ReplicaId, node: NodeId },
    Learner { replica: ReplicaId, node: NodeId },
    Remove { replica: ReplicaId },
}
