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

impl ChangeItem {
    fn of(change: Change) -> ChangeItem {
        match change {
            Change::Voter(Member { replica, node }) => ChangeItem::Voter { replica, node },
            Change::Learner(Member { replica, node }) => ChangeItem::Learner { replica, node },
            Change::Remove(replica) => ChangeItem::Remove { replica },
        }
    }

    pub(crate) fn replica(self) -> ReplicaId {
        match self {
            ChangeItem::Voter { replica, .. }
            | ChangeItem::Learner { replica, .. }
            | ChangeItem::Remove { replica } => replica,
        }
    }
}

impl ChangeRecord {
    /// The record that enters the configuration which `changes` describe.
    pub(crate) fn enter(changes: &[Change]) -> ChangeRecord {
        ChangeRecord {
            changes: changes.iter().copied().map(ChangeItem::of).collect(),
        }
    }

    /// The record that leaves a joint configuration.
    pub(crate) fn leave() -> ChangeRecord {
        ChangeRecord {
            changes: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match rkyv::to_bytes::<ArchiveError>(self) {
            Ok(bytes) => bytes.into_vec(),
            Err(error) => unreachable!("archiving to memory: {error}"),
        }
    }

    pub(crate) fn decode(data: &[u8]) -> Option<ChangeRecord> {
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(data.len());
        aligned.extend_from_slice(data);
        rkyv::from_bytes::<ChangeRecord, ArchiveError>(&aligned).ok()
    }
}

impl Configuration {
    /// A configuration of these voters, for a shard that begins to exist.
    pub fn of_voters(members: impl IntoIterator<Item = Member>) -> Configuration {
        let nodes: BTreeMap<_, _> = members.into_iter().map(|m| (m.replica, m.node)).collect();
        Configuration {
            voters: nodes.keys().copied().collect(),
            nodes,
            ..Configuration::default()
        }
    }

    /// Whether decisions need two majorities.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether this replica takes part in any way.
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.is_voter(replica)
            || self.learners.contains(&replica)
            || self.learners_next.contains(&replica)
    }

    /// Whether this replica has a vote, in either half.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// Whether this replica alone decides.
    pub(crate) fn is_sole_voter(&self, replica: ReplicaId) -> bool {
        self.voters == [replica] && self.voters_outgoing.is_empty()
    }

    /// All members, in order of their ids.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.nodes
            .iter()
            .map(|(&replica, &node)| Member { replica, node })
    }

    /// Whether `changes` can be applied to it: ids unused if new, nodes without two replicas, a
    /// voter left over.
    pub(crate) fn admits(&self, changes: &[Change]) -> bool {
        if changes.is_empty() || self.is_joint() {
            return false;
        }
        let mut nodes = self.nodes.clone();
        let mut voters: Vec<ReplicaId> = self.voters.clone();
        for change in changes {
            match *change {
                Change::Voter(member) | Change::Learner(member) => {
                    match nodes.insert(member.replica, member.node) {
                        Some(node) if node != member.node => return false,
                        Some(_) | None => {}
                    }
                    voters.retain(|&r| r != member.replica);
                    if matches!(change, Change::Voter(_)) {
                        voters.push(member.replica);
                    }
                }
                Change::Remove(replica) => {
                    if nodes.remove(&replica).is_none() {
                        return false;
                    }
                    voters.retain(|&r| r != replica);
                }
            }
        }
        let mut seen: Vec<NodeId> = nodes.values().copied().collect();
        seen.sort_unstable();
        seen.dedup();
        !voters.is_empty() && seen.len() == nodes.len() && nodes.keys().all(|r| r.0 != 0)
    }

    /// The configuration that raft-rs computed, with the nodes of this one and of `record`.
    pub(crate) fn next(
        &self,
        raft: &raft::eraftpb::ConfState,
        record: &ChangeRecord,
    ) -> Configuration {
        let mut nodes = self.nodes.clone();
        for item in &record.changes {
            match *item {
                ChangeItem::Voter { replica, node } | ChangeItem::Learner { replica, node } => {
                    nodes.insert(replica, node);
                }
                ChangeItem::Remove { .. } => {}
            }
        }
        let mut next = Configuration {
            voters: sorted(raft.get_voters()),
            learners: sorted(raft.get_learners()),
            voters_outgoing: sorted(raft.get_voters_outgoing()),
            learners_next: sorted(raft.get_learners_next()),
            nodes: BTreeMap::new(),
        };
        nodes.retain(|&replica, _| next.contains(replica));
        next.nodes = nodes;
        next
    }

    /// As storage keeps it.
    pub(crate) fn to_stored(&self) -> ConfState {
        let nodes: Vec<(ReplicaId, NodeId)> = self.nodes.iter().map(|(&r, &n)| (r, n)).collect();
        let members = match rkyv::to_bytes::<ArchiveError>(&nodes) {
            Ok(bytes) => bytes.into_vec(),
            Err(error) => unreachable!("archiving to memory: {error}"),
        };
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: false,
            members,
        }
    }

    /// From what storage kept; `None` if the members are not to be read.
    pub(crate) fn from_stored(stored: &ConfState) -> Option<Configuration> {
        let nodes = if stored.members.is_empty() {
            Vec::new()
        } else {
            let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(stored.members.len());
            aligned.extend_from_slice(&stored.members);
            rkyv::from_bytes::<Vec<(ReplicaId, NodeId)>, ArchiveError>(&aligned).ok()?
        };
        Some(Configuration {
            voters: stored.voters.clone(),
            learners: stored.learners.clone(),
            voters_outgoing: stored.voters_outgoing.clone(),
            learners_next: stored.learners_next.clone(),
            nodes: nodes.into_iter().collect(),
        })
    }

    /// As raft-rs takes it.
    pub(crate) fn to_raft(&self) -> raft::eraftpb::ConfState {
        let ids = |replicas: &[ReplicaId]| replicas.iter().map(|r| r.0).collect::<Vec<u64>>();
        let mut state = raft::eraftpb::ConfState::default();
        state.set_voters(ids(&self.voters));
        state.set_learners(ids(&self.learners));
        state.set_voters_outgoing(ids(&self.voters_outgoing));
        state.set_learners_next(ids(&self.learners_next));
        state
    }
}

fn sorted(ids: &[u64]) -> Vec<ReplicaId> {
    let mut ids: Vec<ReplicaId> = ids.iter().copied().map(ReplicaId).collect();
    ids.sort_unstable();
    ids
}
