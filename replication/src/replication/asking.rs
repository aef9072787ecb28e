//! What the layer above asks for and is told at once: to propose, to read, to hand leadership over, to
//! change the members; and what it wants to know.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{EntryId, Micros, ReplicaId, ShardId};

use super::{GroupStatus, ProposeError, Replication, TransferError};
use crate::config::Reads;
use crate::configuration::{Change, ChangeError, ChangeRecord, Configuration};
use crate::effect::{Damage, Leadership};
use crate::eraft;
use crate::group::Group;
use crate::lease::WaitingRead;
use crate::quiet::Sleep;
use crate::read::{Grant, Proof, Read, ReadFailure, ReadToken};
use synod_testpoint::planted;

impl Replication {
    /// Proposes an entry. The number is final: what is applied under it is this entry, or
    /// [`Effect::ProposalLost`] says that it is not.
    pub fn propose(
        &mut self,
        now: Micros,
        shard: ShardId,
        data: Bytes,
    ) -> Result<EntryId, ProposeError> {
        let group = self.groups.get_mut(&shard).ok_or(ProposeError::NoReplica)?;
        if !group.is_leader() {
            return Err(ProposeError::NotLeader(group.leadership().leader));
        }
        let bytes = data.len() as u64;
        if bytes > self.config.entry_bytes_max {
            return Err(ProposeError::TooLarge);
        }
        if !group.is_serving() {
            return Err(ProposeError::NotServing);
        }
        let raft = &group.raft.raft;
        if raft.lead_transferee.is_some()
            || !group.configuration.contains(group.replica)
            || (group.proposed_bytes > 0
                && group.proposed_bytes + bytes > self.config.uncommitted_bytes_max)
            || (self.proposed_bytes > 0
                && self.proposed_bytes + bytes > self.config.uncommitted_node_bytes_max)
        {
            return Err(ProposeError::Throttled);
        }
        let id = group.queue(eraft::proposal(data));
        self.recount(shard);
        self.touch(now, shard);
        Ok(id)
    }

    /// Asks to read the state of a shard, linearizably: see [`crate::read`].
    pub fn read(&mut self, now: Micros, shard: ShardId, token: ReadToken) -> Read {
        let Some(group) = self.groups.get_mut(&shard) else {
            return Read::Refused(ReadFailure::NoReplica);
        };
        let lease_us = self.config.lease_us();
        let applied = group.applied();
        let index = group.committed();
        let Some(leading) = &mut group.leading else {
            return Read::Refused(ReadFailure::NotLeader(group.leadership().leader));
        };
        let index = index.max(leading.first_index);
        let alone = group.configuration.is_sole_voter(group.replica);
        let leased = self.config.reads == Reads::Lease
            && leading
                .lease_end(group.replica, &group.configuration, lease_us)
                .is_some_and(|end| now < end);
        let stale = planted!(ServesBeforeOwnTerm);
        if (applied >= index || stale) && (alone || leased) {
            let proof = if alone { Proof::Quorum } else { Proof::Lease };
            return Read::Ready(Grant {
                term: leading.term,
                proof,
            });
        }
        let deadline = Micros(now.0 + self.config.read_timeout_ms * 1_000);
        leading.reads.push_back(WaitingRead {
            token,
            index,
            round: None,
            deadline,
        });
        self.touch(now, shard);
        Read::Pending
    }

    /// Whether what was read under `grant` may leave. `now` has to be taken from the clock *after*
    /// the state was read.
    pub fn confirm(&self, now: Micros, shard: ShardId, grant: &Grant) -> bool {
        let Some(group) = self.groups.get(&shard) else {
            return false;
        };
        match grant.proof {
            Proof::Quorum => true,
            Proof::Lease => group.leading.as_ref().is_some_and(|leading| {
                leading.term == grant.term
                    && leading
                        .lease_end(group.replica, &group.configuration, self.config.lease_us())
                        .is_some_and(|end| now < end)
            }),
        }
    }

    /// Hands leadership to another voter. The lease ends here and now, for the rest of the term.
    pub fn transfer(
        &mut self,
        now: Micros,
        shard: ShardId,
        to: ReplicaId,
    ) -> Result<(), TransferError> {
        let Some(group) = self.groups.get_mut(&shard) else {
            return Err(TransferError::NotLeader(None));
        };
        let hint = group.leadership().leader;
        let Some(leading) = &mut group.leading else {
            return Err(TransferError::NotLeader(hint));
        };
        if to == group.replica || !group.configuration.voters.contains(&to) {
            return Err(TransferError::Ineligible);
        }
        if group.raft.raft.lead_transferee.is_some() || group.raft.raft.has_pending_conf() {
            return Err(TransferError::Busy);
        }
        if !planted!(KeepsLeaseInTransfer) {
            leading.bar_lease();
        }
        group.submit_queued();
        group.raft.transfer_leader(to.0);
        group.settle();
        self.touch(now, shard);
        Ok(())
    }

    /// Proposes a change of the members: one step, through a joint configuration if it is more
    /// than one change. Each step must be one that the shard survives; the planner sees to that.
    pub fn change_replicas(
        &mut self,
        now: Micros,
        shard: ShardId,
        changes: &[Change],
    ) -> Result<EntryId, ChangeError> {
        let group = self
            .groups
            .get_mut(&shard)
            .ok_or(ChangeError::NotLeader(None))?;
        if !group.is_leader() {
            return Err(ChangeError::NotLeader(group.leadership().leader));
        }
        if !group.is_serving()
            || group.raft.raft.has_pending_conf()
            || group.configuration.is_joint()
        {
            return Err(ChangeError::Busy);
        }
        if !group.configuration.admits(changes) {
            return Err(ChangeError::Invalid);
        }
        if group.raft.raft.lead_transferee.is_some() {
            return Err(ChangeError::Throttled);
        }
        group.submit_queued();
        let entry = eraft::change_proposal(&ChangeRecord::enter(changes));
        let id = EntryId::new(group.term(), group.last_index() + 1);
        group.step_raft(eraft::proposals(group.replica, vec![entry]));
        assert_eq!(group.last_id(), id, "a checked change was refused");
        self.touch(now, shard);
        Ok(id)
    }

    /// What a replica knows of its shard's leadership.
    pub fn leadership(&self, shard: ShardId) -> Option<Leadership> {
        self.groups.get(&shard).map(Group::leadership)
    }

    /// A shard's members, as applied here.
    pub fn configuration(&self, shard: ShardId) -> Option<&Configuration> {
        self.groups.get(&shard).map(|group| &group.configuration)
    }

    /// Shards with a replica here that takes part.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.groups.keys().copied()
    }

    /// Replicas that stand aside, and what is wrong with them.
    pub fn damaged(&self) -> impl Iterator<Item = (ShardId, ReplicaId, Damage)> + '_ {
        let damaged = self.damaged.iter();
        damaged.map(|(&shard, damaged)| (shard, damaged.replica, damaged.damage()))
    }

    /// Figures of one replica.
    pub fn status(&self, shard: ShardId) -> Option<GroupStatus> {
        let group = self.groups.get(&shard)?;
        let lease_end = group.leading.as_ref().and_then(|leading| {
            leading.lease_end(group.replica, &group.configuration, self.config.lease_us())
        });
        Some(GroupStatus {
            replica: group.replica,
            leadership: group.leadership(),
            configuration: group.configuration.clone(),
            last: group.last_id(),
            commit: group.committed(),
            applied: group.applied(),
            quiet: group.is_quiet(),
            lease_end,
            lacks: lacks(group),
        })
    }

    /// Whether [`Self::flush`] has something to do.
    pub fn needs_flush(&self) -> bool {
        self.flush_wanted || !self.dirty.is_empty()
    }

    /// Brings the node's sum of bytes without an outcome in line with a group's.
    pub(super) fn recount(&mut self, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            self.proposed_bytes = self.proposed_bytes + group.proposed_bytes - group.counted_bytes;
            group.counted_bytes = group.proposed_bytes;
        }
    }

    /// A command came for the group: it is awake, and has something for the next flush.
    pub(super) fn touch(&mut self, now: Micros, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            group.active_at = now;
            if !matches!(group.sleep, Sleep::Awake) {
                group.sleep = Sleep::Awake;
                self.awake.insert(shard);
            }
        }
        self.mark(shard);
    }
}

/// What each member lacks of a leader's log ([`GroupStatus::lacks`]).
fn lacks(group: &Group) -> BTreeMap<ReplicaId, u64> {
    if !group.is_leader() {
        return BTreeMap::new();
    }
    let raft = &group.raft.raft;
    let (first, last) = (raft.raft_log.first_index(), raft.raft_log.last_index());
    let of_member = |(&id, progress): (&u64, &raft::Progress)| {
        let lacks = match progress.matched {
            _ if id == group.replica.0 => 0,
            0 => u64::MAX,
            matched if matched + 1 < first => u64::MAX,
            matched => last.saturating_sub(matched),
        };
        (ReplicaId(id), lacks)
    };
    raft.prs().iter().map(of_member).collect()
}
