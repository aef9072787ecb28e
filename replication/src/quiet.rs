//! Groups that sleep.
//!
//! A group without work costs a node its ticks and heartbeats, and a node may have thousands. A
//! leader whose group has been idle for a while asks its members to go quiet; one that has
//! everything the leader has, all of it applied, agrees and stops its election timer. When *all*
//! have agreed, the leader sleeps as well. A quiet group holds no lease: rounds have ended, and the
//! last one lapses.
//!
//! What wakes it: any consensus message or command; for a follower also anything that says its
//! leader may be gone. Three of these are observed between *nodes*, once for all groups: silence of
//! the leader's node, another incarnation of it, its removal from the membership view. The fourth,
//! a leader's replica that died on a node that lives, shows in a digest: each sign of life carries one
//! of the groups that sleep under the sender, and the receiver compares it with those that it believes
//! to sleep under that node.
//!
//! Signs of life are all that sleepers cost on the wire, and they never end, so there are no more of
//! them than it takes: from a node to those where groups sleep under it, three in the time after which
//! silence wakes these.
//!
//! A follower that wakes because its leader may be gone forgets it: with a leader in memory and a
//! frozen timer, raft-rs refuses to vote for ever.

use std::collections::BTreeSet;

use synod_storage::{EntryId, ReplicaId};

use crate::group::Group;
use crate::message::QuietDigest;

/// How deeply a group sleeps.
#[derive(Debug)]
pub(crate) enum Sleep {
    /// It ticks.
    Awake,
    /// It leads, and asks its members to go quiet with this last entry; these have agreed.
    Asking {
        last: EntryId,
        agreed: BTreeSet<ReplicaId>,
    },
    /// It does not tick.
    Quiet,
}

impl Group {
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.sleep, Sleep::Quiet)
    }

    /// Whether all there is has been applied here, and nothing is under way.
    fn is_settled(&self) -> bool {
        self.applied() == self.last_index()
            && self.committed() == self.last_index()
            && self.persisted() == self.last_index()
            && self.unsynced == 0
            && !self.has_ready()
            && !self.installing
    }

    /// Whether a leader may ask its members to go quiet.
    pub(crate) fn may_ask(&self) -> bool {
        let Some(leading) = &self.leading else {
            return false;
        };
        let raft = &self.raft.raft;
        self.is_serving()
            && self.is_settled()
            && self.hold == crate::event::Hold::Released
            && leading.reads.is_empty()
            && self.proposed.is_empty()
            && raft.lead_transferee.is_none()
            && !self.configuration.is_joint()
            && !raft.has_pending_conf()
            && raft.prs().iter().all(|(id, progress)| {
                *id == self.replica.0 || progress.matched == raft.raft_log.last_index()
            })
    }

    /// Whether a member agrees to go quiet under its leader.
    pub(crate) fn agrees_to_rest(&self, leader: ReplicaId, term: u64, last: EntryId) -> bool {
        !self.is_leader()
            && self.leader() == leader
            && self.term() == term
            && self.last_id() == last
            && self.is_settled()
    }

    /// This group's part of a digest.
    fn quiet_hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in [self.shard.0, self.leader().0, self.term()] {
            hash = (hash ^ part)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29);
        }
        hash
    }
}

impl QuietDigest {
    /// Takes a group into the set.
    pub(crate) fn add(&mut self, group: &Group) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(group.quiet_hash());
    }
}
