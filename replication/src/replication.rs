//! The driver: all groups of a node, one pass at a time.
//!
//! ```text
//! step, propose, read, …            enter raft-rs, mark groups dirty
//! flush                             one pass over the dirty groups:
//!   1 what the log has synced       → messages that waited for it, commits
//!   2 a Ready of each dirty group   → messages that need not wait; entries and hard states
//!                                     into ONE batch of the shared log
//!   3 submit the batch              → the log writes and syncs it while we go on
//!   4 committed entries             → Committed, to be applied by the layer above
//!   5 reads, heartbeats             → one round for all groups
//!   6 everything to one node        → one message
//! applied                           the layer above has applied what 4 gave it
//! ```
//!
//! Leaders' messages leave before the batch is durable, so that followers write while the leader
//! does (dissertation §10.2.1); everything a follower or candidate says leaves after.
//!
//! A hard state whose commit index alone has moved is not worth a sync of its own: it waits for the
//! next batch. It is never left out of a batch that has entries of its group: a replica that holds
//! an entry proposed under a new configuration must also remember that the change to it was
//! committed, or it could campaign, and win, under the old one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use synod_storage::{
    BatchSeq, EntryId, HardState, LogBatch, LogView, Micros, RecoveredReplica, ReplicaId, ShardId,
    Store,
};

use crate::apply::Handed;
use crate::config::{Config, Reads};
use crate::configuration::{Change, ChangeError, ChangeRecord, Configuration};
use crate::effect::{Damage, Effect, Effects, Leadership};
use crate::election::Guard;
use crate::eraft;
use crate::event::{Campaign, Event, Origin};
use crate::group::{Group, Start, Stepped};
use crate::identity::{Incarnation, Member, NodeId};
use crate::lease::WaitingRead;
use crate::log::Caller;
use crate::message::{
    Ask, Batch, GroupHeartbeat, GroupMessage, GroupReply, Heartbeat, HeartbeatReply, Message, Rest,
};
use crate::outbox::{Outbox, Rounds};
use crate::peers::Peers;
use crate::quiet::Sleep;
use crate::read::{Grant, Proof, Read, ReadFailure, ReadToken};
use crate::repair::DamagedReplica;
use crate::snapshot::Transfers;

/// Why a proposal was refused. Nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, this one if known.
    #[error("not the leader")]
    NotLeader(Option<Member>),
    /// This replica leads, and has not applied an entry of its term yet.
    #[error("the leader is not serving yet")]
    NotServing,
    /// Too much is uncommitted, or leadership is being transferred: retry.
    #[error("too much is under way")]
    Throttled,
    /// Larger than [`Config::entry_bytes_max`].
    #[error("the entry is too large")]
    TooLarge,
    /// There is no such replica here, or it is damaged.
    #[error("no replica of this shard")]
    NoReplica,
}

/// Why a transfer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Another replica leads, this one if known.
    #[error("not the leader")]
    NotLeader(Option<Member>),
    /// The target has no vote, or is this replica.
    #[error("the target cannot lead")]
    Ineligible,
    /// An earlier transfer or a change of the members is under way.
    #[error("a transfer or change is under way")]
    Busy,
}

/// What waits for the log.
#[derive(Debug)]
struct Waiting {
    seq: BatchSeq,
    shard: ShardId,
    replica: ReplicaId,
    what: AfterSync,
}

#[derive(Debug)]
enum AfterSync {
    /// A Ready is durable: its messages may leave.
    Ready {
        number: u64,
        messages: Vec<raft::eraftpb::Message>,
        snapshot: Option<EntryId>,
    },
    /// Repaired entries are durable.
    Repair { entries: u32 },
}

/// Figures of one replica, for the status page and for placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The replica.
    pub replica: ReplicaId,
    /// As it knows it.
    pub leadership: Leadership,
    /// Its members.
    pub configuration: Configuration,
    /// The last entry.
    pub last: EntryId,
    /// The commit index it knows.
    pub commit: u64,
    /// The applied index.
    pub applied: u64,
    /// Whether it sleeps.
    pub quiet: bool,
    /// Until when it holds a lease, if it leads.
    pub lease_end: Option<Micros>,
    /// If it leads: the index up to which each other member's log is known to agree and be
    /// durable.
    pub matched: BTreeMap<ReplicaId, u64>,
}

/// All replicas of a node.
pub struct Replication {
    pub(crate) config: Config,
    view: LogView,
    pub(crate) groups: BTreeMap<ShardId, Group>,
    pub(crate) damaged: BTreeMap<ShardId, DamagedReplica>,
    /// Groups that tick.
    awake: BTreeSet<ShardId>,
    dirty: Vec<ShardId>,
    waiting: VecDeque<Waiting>,
    submitted: BatchSeq,
    /// Groups whose commit index the log does not have yet.
    deferred: BTreeSet<ShardId>,
    pub(crate) batch: LogBatch,
    pub(crate) outbox: Outbox,
    rounds: Rounds,
    pub(crate) peers: Peers,
    pub(crate) transfers: Transfers,
    missing: BTreeMap<(ShardId, ReplicaId), Micros>,
    ticks: u64,
    ticked_at: Micros,
    flush_wanted: bool,
}

impl Replication {
    /// Resumes the replicas that the store recovered. Committed entries above each `applied` come
    /// out of [`Replication::flush`] like any others.
    pub fn new(
        config: Config,
        now: Micros,
        view: LogView,
        recovered: Vec<RecoveredReplica>,
        fx: &mut Effects,
    ) -> Replication {
        config.assert_valid();
        let mut replication = Replication {
            view,
            groups: BTreeMap::new(),
            damaged: BTreeMap::new(),
            awake: BTreeSet::new(),
            dirty: Vec::new(),
            waiting: VecDeque::new(),
            submitted: BatchSeq(0),
            deferred: BTreeSet::new(),
            batch: LogBatch::new(),
            outbox: Outbox::default(),
            rounds: Rounds::new(),
            peers: Peers::default(),
            transfers: Transfers::default(),
            missing: BTreeMap::new(),
            ticks: 0,
            ticked_at: now,
            flush_wanted: true,
            config,
        };
        for replica in recovered {
            replication.recover(now, replica, fx);
        }
        replication
    }

    fn recover(&mut self, now: Micros, found: RecoveredReplica, fx: &mut Effects) {
        let (shard, replica) = (found.shard, found.replica);
        let configuration = Configuration::from_stored(&found.conf);
        let reaches = found.hard_state.commit <= found.last.index.max(found.applied.index);
        let Some(configuration) = configuration.filter(|_| reaches) else {
            self.lose(shard, replica, Configuration::default(), fx);
            return;
        };
        if !found.damage.is_none() {
            let damaged = DamagedReplica::new(&found, configuration);
            fx.push(Effect::Damaged {
                shard,
                replica,
                damage: damaged.damage(),
            });
            self.damaged.insert(shard, damaged);
            return;
        }
        let guard = match crate::planted::planted!(ForgetsPromises) {
            true => Guard::none(),
            false => Guard::restarted(now, self.config.guard_us()),
        };
        let start = Start {
            shard,
            replica,
            hard_state: found.hard_state,
            configuration,
            applied: found.applied.index,
            guard,
        };
        self.begin(now, start, fx);
    }

    /// A replica that cannot take part any more under this id.
    pub(crate) fn lose(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        configuration: Configuration,
        fx: &mut Effects,
    ) {
        self.damaged
            .insert(shard, DamagedReplica::irreparable(replica, configuration));
        fx.push(Effect::Damaged {
            shard,
            replica,
            damage: Damage::Irreparable,
        });
    }

    /// Starts a group on what the log has of it.
    pub(crate) fn begin(&mut self, now: Micros, start: Start, fx: &mut Effects) {
        let (shard, replica) = (start.shard, start.replica);
        let configuration = start.configuration.clone();
        match Group::new(&self.config, now, self.view.clone(), start) {
            Ok(group) => {
                self.groups.insert(shard, group);
                self.peers.forget_neighbours();
                self.awake.insert(shard);
                self.mark(shard);
            }
            Err(error) => {
                tracing::error!(%shard, %replica, %error, "a replica does not start");
                self.lose(shard, replica, configuration, fx);
            }
        }
    }

    /// Handles an event. What follows from it comes out here and at the next [`Self::flush`].
    pub fn step(&mut self, now: Micros, event: Event, store: &mut Store, fx: &mut Effects) {
        match event {
            Event::Tick => self.tick(now, store, fx),
            Event::Receive { from, message } => {
                self.peers.heard(from, now);
                match message {
                    Message::Batch(batch) => self.receive_batch(now, from, batch, store, fx),
                    Message::Snapshot(message) => {
                        self.receive_snapshot(now, from, message, store, fx);
                    }
                    Message::Repair(message) => {
                        self.receive_repair(now, from, message, store, fx);
                    }
                }
            }
            Event::Create {
                shard,
                replica,
                origin,
            } => {
                self.create(now, shard, replica, origin, store, fx);
            }
            Event::Destroy {
                shard,
                replica,
                range,
            } => {
                let here = self.groups.get(&shard).map(|group| group.replica);
                let damaged = self.damaged.get(&shard).map(|damaged| damaged.replica);
                if here.or(damaged) == Some(replica) {
                    self.abandon(shard, store, fx);
                    self.damaged.remove(&shard);
                    // The store makes this durable before it deletes anything: a destroyed replica
                    // must never be read as an empty one.
                    store.drop_replica(shard, replica, range);
                }
            }
            Event::Wake { shard } => self.wake_by_command(now, shard),
            Event::Hold { shard, hold } => {
                if let Some(group) = self.groups.get_mut(&shard) {
                    group.hold = hold;
                }
            }
            Event::Range { shard, range } => {
                if let Some(group) = self.groups.get_mut(&shard) {
                    group.range = Some(range);
                }
            }
            Event::PeerStarted { node, incarnation } => {
                if self.peers.started(node, incarnation, now) {
                    self.wake_for_peer(now, node);
                }
            }
            Event::PeerUnreachable { node } => self.unreachable(node),
            Event::PeerRemoved { node } => self.wake_for_peer(now, node),
            Event::Store(event) => self.store_event(now, event, store, fx),
        }
    }

    fn create(
        &mut self,
        now: Micros,
        shard: ShardId,
        replica: ReplicaId,
        origin: Origin,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let taken = self.groups.contains_key(&shard) || self.damaged.contains_key(&shard);
        if taken || replica.0 == 0 || store.is_dropped(replica) {
            return;
        }
        // The first entry of a shard has index 2: a replica that is added later starts below the
        // log of every other, and therefore gets a snapshot, with the members in it.
        let (id, hard_state, configuration, campaign) = match origin {
            Origin::Bootstrap {
                configuration,
                campaign,
            } => {
                let hard_state = HardState {
                    term: 1,
                    vote: ReplicaId(0),
                    commit: 1,
                };
                (EntryId::new(1, 1), hard_state, configuration, campaign)
            }
            Origin::Leader => {
                let configuration = Configuration::default();
                (
                    EntryId::ZERO,
                    HardState::default(),
                    configuration,
                    Campaign::OnTimeout,
                )
            }
        };
        // Submitted at once: the group reads its log from here on.
        let mut batch = LogBatch::new();
        batch.create_replica(shard, replica, id, configuration.to_stored());
        batch.hard_state(shard, replica, hard_state);
        self.submitted = store.submit(batch);
        let guard = Guard::none();
        let applied = id.index;
        let start = Start {
            shard,
            replica,
            hard_state,
            configuration,
            applied,
            guard,
        };
        self.begin(now, start, fx);
        if campaign == Campaign::Now
            && let Some(group) = self.groups.get_mut(&shard)
        {
            group.campaign(now);
        }
        self.mark(shard);
    }

    /// Ends a group without touching what is stored of it.
    pub(crate) fn abandon(&mut self, shard: ShardId, store: &mut Store, fx: &mut Effects) {
        self.end_transfers(shard, store);
        self.awake.remove(&shard);
        self.deferred.remove(&shard);
        if let Some(mut group) = self.groups.remove(&shard) {
            if let Some(leading) = group.leading.take() {
                group
                    .abandoned
                    .extend(leading.reads.iter().map(|read| read.token));
            }
            for token in group.abandoned {
                let failure = ReadFailure::NoReplica;
                fx.push(Effect::ReadFailed {
                    shard,
                    token,
                    failure,
                });
            }
            for lost in group.proposed {
                let loss = crate::effect::Loss::Unknown;
                fx.push(Effect::ProposalLost {
                    shard,
                    id: lost.id,
                    loss,
                });
            }
        }
        self.peers.forget_neighbours();
    }

    /// Marks a group for the next flush.
    pub(crate) fn mark(&mut self, shard: ShardId) {
        self.flush_wanted = true;
        if let Some(group) = self.groups.get_mut(&shard)
            && !std::mem::replace(&mut group.dirty, true)
        {
            self.dirty.push(shard);
        }
    }

    // --- questions with an answer at once -------------------------------------------------------

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
        {
            return Err(ProposeError::Throttled);
        }
        let id = group.queue(eraft::proposal(data));
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
        let stale = crate::planted::planted!(ServesBeforeOwnTerm);
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
        if !crate::planted::planted!(KeepsLeaseInTransfer) {
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

    /// Figures of one replica.
    pub fn status(&self, shard: ShardId) -> Option<GroupStatus> {
        let group = self.groups.get(&shard)?;
        let lease_end = group.leading.as_ref().and_then(|leading| {
            leading.lease_end(group.replica, &group.configuration, self.config.lease_us())
        });
        let matched = if group.is_leader() {
            let others = group
                .raft
                .raft
                .prs()
                .iter()
                .filter(|(id, _)| **id != group.replica.0);
            others
                .map(|(&id, progress)| (ReplicaId(id), progress.matched))
                .collect()
        } else {
            BTreeMap::new()
        };
        Some(GroupStatus {
            replica: group.replica,
            leadership: group.leadership(),
            configuration: group.configuration.clone(),
            last: group.last_id(),
            commit: group.committed(),
            applied: group.applied(),
            quiet: group.is_quiet(),
            lease_end,
            matched,
        })
    }

    /// Whether [`Self::flush`] has something to do.
    pub fn needs_flush(&self) -> bool {
        self.flush_wanted || !self.dirty.is_empty()
    }

    /// A command came for the group: it is awake, and has something for the next flush.
    fn touch(&mut self, now: Micros, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            group.active_at = now;
            if !matches!(group.sleep, Sleep::Awake) {
                group.sleep = Sleep::Awake;
                self.awake.insert(shard);
            }
        }
        self.mark(shard);
    }

    // --- time -----------------------------------------------------------------------------------

    fn tick(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        self.ticks += 1;
        self.flush_wanted = true;
        let gap_us = now.0.saturating_sub(self.ticked_at.0);
        self.ticked_at = now;
        if gap_us > self.config.guard_us() / 2 {
            // We were not running: that nobody was heard says nothing about them.
            self.peers.excuse(now);
        }
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            if let Some(group) = self.groups.get_mut(&shard) {
                group.tick(now);
                self.mark(shard);
            }
        }
        if self.ticks % u64::from(self.config.heartbeat_ticks) == 0 {
            self.heartbeat_tick(now);
        } else {
            self.tell_commits();
        }
        self.tick_transfers(now, store, fx);
        self.tick_repairs(now, store, fx);
    }

    /// The node's heartbeat: a round of all awake leaders, and a sign of life for the rest.
    fn heartbeat_tick(&mut self, now: Micros) {
        let own = self.config.node;
        if self.peers.neighbours_forgotten() {
            let nodes = self
                .groups
                .values()
                .flat_map(|group| group.configuration.members());
            self.peers
                .set_neighbours(nodes.map(|m| m.node).filter(|&n| n != own).collect());
        }
        for &node in self.peers.neighbours() {
            self.outbox.node_heartbeat(node);
        }
        let quiet_after_us = self.config.quiet_after_ms * 1_000;
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            let Some(group) = self.groups.get_mut(&shard) else {
                continue;
            };
            if !group.is_leader() {
                continue;
            }
            let idle = now.0.saturating_sub(group.active_at.0) >= quiet_after_us;
            if idle && group.may_ask() {
                let last = group.last_id();
                let others = group.configuration.nodes.len() - 1;
                match &group.sleep {
                    Sleep::Asking {
                        last: asked,
                        agreed,
                    } if *asked == last => {
                        if agreed.len() >= others {
                            group.sleep = Sleep::Quiet;
                            self.awake.remove(&shard);
                            continue;
                        }
                    }
                    Sleep::Awake | Sleep::Asking { .. } | Sleep::Quiet => {
                        group.sleep = Sleep::Asking {
                            last,
                            agreed: BTreeSet::new(),
                        };
                    }
                }
            } else {
                group.sleep = Sleep::Awake;
            }
            self.heartbeat_group(shard);
        }
        self.watch_leaders(now);
    }

    /// Members of groups whose commit index moved without an append to carry it.
    fn tell_commits(&mut self) {
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            let behind = self
                .groups
                .get(&shard)
                .is_some_and(|group| group.is_leader() && group.told_commit < group.committed());
            if behind {
                self.heartbeat_group(shard);
            }
        }
    }

    /// Takes a group into the round that begins with this flush.
    fn heartbeat_group(&mut self, shard: ShardId) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        group.told_commit = group.committed();
        let committed = group.committed();
        let ask = match &group.sleep {
            Sleep::Asking { last, agreed: _ } => Ask::Quiesce { last: *last },
            Sleep::Awake | Sleep::Quiet => Ask::Follow,
        };
        let mut members: Vec<(u64, u64)> = group
            .raft
            .raft
            .prs()
            .iter()
            .map(|(&id, progress)| (id, progress.matched))
            .collect();
        members.sort_unstable();
        for (id, matched) in members {
            let to = ReplicaId(id);
            if to == group.replica {
                continue;
            }
            let Some(node) = group.node_of(to) else {
                continue;
            };
            let part = GroupHeartbeat {
                shard,
                from: group.replica,
                to,
                term: group.term(),
                // Never beyond what this member is known to have: it would take it for committed.
                commit: matched.min(committed),
                ask,
            };
            self.outbox.heartbeat(node, part);
        }
    }

    // --- quiet groups ---------------------------------------------------------------------------

    /// Looks for quiet groups whose leader's node has fallen silent.
    fn watch_leaders(&mut self, now: Micros) {
        let silence_us = match crate::planted::planted!(IgnoresSilence) {
            true => u64::MAX / 2,
            false => self.config.guard_us(),
        };
        let mut silent: Vec<ShardId> = Vec::new();
        for (&shard, group) in &self.groups {
            if group.is_quiet()
                && !group.is_leader()
                && group
                    .node_of(group.leader())
                    .is_none_or(|node| self.peers.is_silent(node, now, silence_us))
            {
                silent.push(shard);
            }
        }
        for shard in silent {
            self.wake(now, shard);
            if let Some(group) = self.groups.get_mut(&shard) {
                group.forget_leader();
            }
        }
    }

    pub(crate) fn wake(&mut self, now: Micros, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            if !matches!(group.sleep, Sleep::Awake) {
                group.sleep = Sleep::Awake;
                group.active_at = now;
            }
            self.awake.insert(shard);
            self.mark(shard);
        }
    }

    /// A command needs the group. A follower knocks at its leader, and counts ticks from here on.
    fn wake_by_command(&mut self, now: Micros, shard: ShardId) {
        let quiet = self.groups.get(&shard).is_some_and(Group::is_quiet);
        self.wake(now, shard);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        group.active_at = now;
        let leader = group.leader();
        if quiet && !group.is_leader() && leader.0 != 0 {
            let (replica, term) = (group.replica, group.term());
            if let Some(node) = group.node_of(leader) {
                // An acknowledgement of what is committed says nothing new, and wakes a leader.
                let commit = group.committed();
                let body = crate::message::GroupBody::Accepted {
                    index: commit,
                    commit,
                };
                let from = replica;
                let knock = GroupMessage {
                    shard,
                    from,
                    to: leader,
                    term,
                    body,
                };
                let mut none = Effects::new();
                self.outbox.consensus(node, knock, &mut none);
            }
        }
    }

    /// A peer restarted or left: quiet groups that counted on it wake.
    fn wake_for_peer(&mut self, now: Micros, node: NodeId) {
        let mut concerned: Vec<(ShardId, bool)> = Vec::new();
        for (&shard, group) in &self.groups {
            if group.is_quiet() && group.configuration.nodes.values().any(|&n| n == node) {
                let led = !group.is_leader() && group.node_of(group.leader()) == Some(node);
                concerned.push((shard, led));
            }
        }
        for (shard, led) in concerned {
            self.wake(now, shard);
            if led && let Some(group) = self.groups.get_mut(&shard) {
                group.forget_leader();
            }
        }
    }

    /// Compares what sleeps under a node with what it says.
    fn compare_digest(&mut self, now: Micros, from: NodeId, heartbeat: &Heartbeat) {
        let named = crate::quiet::named(&heartbeat.groups);
        let mut mine = crate::message::QuietDigest::default();
        let mut under: Vec<ShardId> = Vec::new();
        for (shard, group) in &self.groups {
            if group.is_quiet()
                && !group.is_leader()
                && !named.contains(shard)
                && group.node_of(group.leader()) == Some(from)
            {
                mine.add(group);
                under.push(*shard);
            }
        }
        if self.peers.digest(from, mine == heartbeat.quiet) {
            for shard in under {
                self.wake(now, shard);
            }
        }
    }

    // --- messages -------------------------------------------------------------------------------

    fn unreachable(&mut self, node: NodeId) {
        for group in self.groups.values_mut() {
            if !group.is_leader() || group.installing {
                continue;
            }
            let there = group.configuration.members().filter(|m| m.node == node);
            for member in there.collect::<Vec<_>>() {
                group.raft.report_unreachable(member.replica.0);
            }
        }
    }

    fn receive_batch(
        &mut self,
        now: Micros,
        from: NodeId,
        batch: Batch,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        for message in batch.consensus {
            self.receive_group(now, from, message, store, fx);
        }
        if let Some(heartbeat) = batch.heartbeat {
            if self.peers.started(from, heartbeat.incarnation, now) {
                self.wake_for_peer(now, from);
            }
            self.compare_digest(now, from, &heartbeat);
            for group in &heartbeat.groups {
                self.receive_heartbeat(now, from, &heartbeat, group, store, fx);
            }
        }
        for reply in batch.replies {
            self.receive_reply(now, reply);
        }
    }

    /// The group that a message is for. Says so if a leader counts on a replica that is not here.
    fn addressed(
        &mut self,
        now: Micros,
        (from, shard, to): (NodeId, ShardId, ReplicaId),
        of_leader: bool,
        store: &Store,
        fx: &mut Effects,
    ) -> Option<&mut Group> {
        if self
            .groups
            .get(&shard)
            .is_some_and(|group| group.replica == to)
        {
            return self.groups.get_mut(&shard);
        }
        let damaged = self
            .damaged
            .get(&shard)
            .is_some_and(|damaged| damaged.replica == to);
        if of_leader && !damaged && !store.is_dropped(to) {
            let patience_us = self.config.guard_us();
            let said = self.missing.get(&(shard, to)).copied();
            if said.is_none_or(|at| now.0 >= at.0 + patience_us) {
                self.missing.insert((shard, to), now);
                fx.push(Effect::Missing {
                    shard,
                    replica: to,
                    from,
                });
            }
        }
        None
    }

    fn receive_group(
        &mut self,
        now: Micros,
        from: NodeId,
        message: GroupMessage,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let (shard, sender) = (message.shard, message.from);
        let guard_us = self.config.guard_us();
        let (appends, votes) = match &message.body {
            crate::message::GroupBody::Append { .. } => (true, false),
            crate::message::GroupBody::Vote { .. } => (false, true),
            crate::message::GroupBody::Accepted { .. }
            | crate::message::GroupBody::Rejected { .. }
            | crate::message::GroupBody::VoteReply { .. }
            | crate::message::GroupBody::TimeoutNow => (false, false),
        };
        let address = (from, shard, message.to);
        let Some(group) = self.addressed(now, address, appends, store, fx) else {
            return;
        };
        group.learn(sender, from);
        let quiet = group.is_quiet();
        if quiet && votes && crate::planted::planted!(SleepsThroughVotes) {
            let _ = group.step(now, guard_us, message);
            self.mark(shard);
            return;
        }
        if quiet && votes && !group.is_leader() {
            // Its timer stands still: it would refuse this vote, and every other, for ever.
            group.forget_leader();
        }
        match group.step(now, guard_us, message) {
            Stepped::Done => {}
            Stepped::Dropped | Stepped::RolledBack => {}
        }
        if quiet {
            self.wake(now, shard);
        } else if appends && let Some(group) = self.groups.get_mut(&shard) {
            group.active_at = now;
            group.sleep = Sleep::Awake;
        }
        self.mark(shard);
    }

    fn receive_heartbeat(
        &mut self,
        now: Micros,
        from: NodeId,
        heartbeat: &Heartbeat,
        part: &GroupHeartbeat,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let guard_us = self.config.guard_us();
        let shard = part.shard;
        let address = (from, shard, part.to);
        let Some(group) = self.addressed(now, address, true, store, fx) else {
            return;
        };
        group.learn(part.from, from);
        let follows = match group.heartbeat(now, guard_us, part.from, part.term, part.commit) {
            Ok(follows) => follows,
            Err(Stepped::RolledBack) => {
                let (replica, configuration) = (group.replica, group.configuration.clone());
                tracing::error!(%shard, %replica, "acknowledged entries are gone from this disk");
                self.abandon(shard, store, fx);
                self.lose(shard, replica, configuration, fx);
                return;
            }
            Err(Stepped::Dropped | Stepped::Done) => return,
        };
        let (replica, term, commit) = (group.replica, group.term(), group.committed());
        let rest = match part.ask {
            Ask::Quiesce { last }
                if follows && group.agrees_to_rest(part.from, part.term, last) =>
            {
                group.sleep = Sleep::Quiet;
                self.awake.remove(&shard);
                Rest::Quiet
            }
            Ask::Quiesce { .. } | Ask::Follow => {
                group.sleep = Sleep::Awake;
                self.awake.insert(shard);
                Rest::Awake
            }
        };
        if follows {
            let reply = GroupReply {
                shard,
                from: replica,
                to: part.from,
                term,
                commit,
                rest,
            };
            self.outbox
                .reply(from, heartbeat.incarnation, heartbeat.round, reply);
        }
        self.mark(shard);
    }

    fn receive_reply(&mut self, now: Micros, reply: HeartbeatReply) {
        if reply.incarnation != self.config.incarnation {
            return;
        }
        let round = crate::lease::Round(reply.round);
        let sent_at = self.rounds.sent_at(round);
        for part in reply.groups {
            let Some(group) = self.groups.get_mut(&part.shard) else {
                continue;
            };
            if group.replica != part.to || group.installing || part.commit > group.last_index() {
                continue;
            }
            let (replica, from) = (group.replica, part.from);
            group.step_raft(eraft::heartbeat_reply(
                from,
                replica,
                part.term,
                part.commit,
            ));
            let Some(leading) = &mut group.leading else {
                continue;
            };
            if leading.term != part.term {
                continue;
            }
            if let Some(sent_at) = sent_at {
                let counted = if crate::planted::planted!(LeaseFromReceipt) {
                    now
                } else {
                    sent_at
                };
                leading.answered(from, round, counted);
            }
            if let Sleep::Asking { last: _, agreed } = &mut group.sleep {
                match part.rest {
                    Rest::Quiet => {
                        agreed.insert(from);
                    }
                    Rest::Awake => {
                        agreed.remove(&from);
                    }
                }
            }
            self.mark(part.shard);
        }
    }

    // --- the flush ------------------------------------------------------------------------------

    /// One pass over the groups that have something: see the module's text.
    pub fn flush(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        self.flush_wanted = false;
        self.release(now, store, fx);
        let dirty = std::mem::take(&mut self.dirty);
        let mut readies: Vec<(ShardId, raft::Ready)> = Vec::with_capacity(dirty.len());
        let mut batch = std::mem::take(&mut self.batch);
        for &shard in &dirty {
            let Some(group) = self.groups.get_mut(&shard) else {
                continue;
            };
            group.dirty = false;
            group.submit_queued();
            if group.has_ready() {
                let ready = self.collect(shard, &mut batch, store, fx);
                readies.extend(ready.map(|ready| (shard, ready)));
            }
        }
        self.submit(batch, store);
        for (shard, ready) in readies {
            self.advance_ready(shard, ready, fx);
        }
        for &shard in &dirty {
            self.follow_up(now, shard, store, fx);
        }
        self.dirty_list_reuse(dirty);
        self.send(now, fx);
    }

    /// Keeps the allocation of a worked-off list.
    fn dirty_list_reuse(&mut self, mut list: Vec<ShardId>) {
        list.clear();
        if self.dirty.is_empty() {
            self.dirty = list;
        }
    }

    /// What waited for the log and waits no longer.
    fn release(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        let synced = store.synced();
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.seq <= synced)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            let (shard, replica) = (waiting.shard, waiting.replica);
            match waiting.what {
                AfterSync::Ready {
                    number,
                    messages,
                    snapshot,
                } => {
                    let Some(group) = self.groups.get_mut(&shard) else {
                        continue;
                    };
                    if group.replica != replica {
                        continue;
                    }
                    group.unsynced -= 1;
                    group.raft.on_persist_ready(number);
                    if let Some(id) = snapshot {
                        // Only now: raft-rs has to know of the snapshot before it is applied.
                        group.raft.advance_apply_to(id.index);
                    }
                    group.settle();
                    self.post(shard, messages, fx);
                    self.mark(shard);
                }
                AfterSync::Repair { entries } => {
                    self.repaired(now, shard, replica, entries, store, fx);
                }
            }
        }
    }

    /// One group's Ready: entries and hard state into the batch, what may leave into the outbox.
    fn collect(
        &mut self,
        shard: ShardId,
        batch: &mut LogBatch,
        store: &mut Store,
        fx: &mut Effects,
    ) -> Option<raft::Ready> {
        let group = self.groups.get_mut(&shard)?;
        group.raft.store().set_caller(Caller::Ready);
        let mut ready = group.raft.ready();
        group.raft.store().set_caller(Caller::Step);
        let replica = group.replica;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let id = EntryId::new(metadata.term, metadata.index);
            let conf = group.configuration.to_stored();
            batch.snapshot_marker(shard, replica, id, conf);
        }
        let entries: Vec<_> = ready.take_entries().iter().map(eraft::to_stored).collect();
        batch.entries(shard, replica, &entries);
        let hard_state = group.hard_state();
        if ready.must_sync() {
            let deferred = self.deferred.remove(&shard);
            if hard_state != group.recorded || deferred {
                batch.hard_state(shard, replica, hard_state);
            }
            group.recorded = hard_state;
        } else if hard_state != group.recorded {
            group.recorded = hard_state;
            self.deferred.insert(shard);
        }
        let messages = ready.take_messages();
        self.post(shard, messages, fx);
        let _ = store;
        Some(ready)
    }

    /// Submits the batch of this flush. Commit indexes that wait for a batch go with it.
    fn submit(&mut self, mut batch: LogBatch, store: &mut Store) {
        let lone_due = self.ticks % u64::from(self.config.heartbeat_ticks) == 0;
        if !batch.is_empty() || lone_due {
            for shard in std::mem::take(&mut self.deferred) {
                if let Some(group) = self.groups.get(&shard) {
                    batch.hard_state(shard, group.replica, group.recorded);
                }
            }
        }
        if !batch.is_empty() {
            self.submitted = store.submit(batch);
        }
    }

    /// Tells raft-rs that its Ready is on its way, and keeps what has to wait for it.
    fn advance_ready(&mut self, shard: ShardId, mut ready: raft::Ready, fx: &mut Effects) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let number = ready.number();
        let must_sync = ready.must_sync();
        let messages = ready.take_persisted_messages();
        let snapshot = (!ready.snapshot().is_empty()).then(|| {
            let metadata = ready.snapshot().get_metadata();
            EntryId::new(metadata.term, metadata.index)
        });
        group.raft.advance_append_async(ready);
        if !must_sync && group.unsynced == 0 {
            group.raft.on_persist_ready(number);
            group.settle();
            self.post(shard, messages, fx);
            return;
        }
        let early = crate::planted::planted!(AcknowledgesBeforeSync);
        let (early, messages) = if early {
            (messages, Vec::new())
        } else {
            (Vec::new(), messages)
        };
        group.unsynced += 1;
        let replica = group.replica;
        let what = AfterSync::Ready {
            number,
            messages,
            snapshot,
        };
        self.waiting.push_back(Waiting {
            seq: self.submitted,
            shard,
            replica,
            what,
        });
        self.post(shard, early, fx);
    }

    /// Puts a group's messages into the outbox.
    fn post(&mut self, shard: ShardId, messages: Vec<raft::eraftpb::Message>, fx: &mut Effects) {
        for message in messages {
            match eraft::outgoing(shard, message) {
                eraft::Outgoing::Wire(message) => {
                    let Some(group) = self.groups.get_mut(&shard) else {
                        return;
                    };
                    if let crate::message::GroupBody::Append { commit, .. } = &message.body {
                        group.told_commit = group.told_commit.max(*commit);
                    }
                    if let Some(node) = group.node_of(message.to) {
                        self.outbox.consensus(node, message, fx);
                    }
                }
                eraft::Outgoing::Snapshot { to, id } => self.offer_taken(shard, to, id),
                eraft::Outgoing::Ours => {}
            }
        }
    }

    /// What follows for a group once its Ready is on its way.
    fn follow_up(&mut self, now: Micros, shard: ShardId, store: &mut Store, fx: &mut Effects) {
        let bytes_max = self.config.committed_bytes_max;
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let wanted = group.raft.store().take_wanted();
        if let Some((low, high, context)) = wanted.entries {
            group.refetch = Some(context);
            store.fetch(shard, low, high);
        }
        let mut damaged = wanted.damaged;
        match group.hand_out(bytes_max, store, fx) {
            Handed::All => {}
            Handed::Damaged(id) => damaged = Some(id),
        }
        if damaged.is_some() {
            self.suspend(now, shard, store, fx);
            return;
        }
        group.leave_joint();
        if group.has_ready() {
            self.mark(shard);
        }
        if let Some((to, least)) = wanted.snapshot {
            self.snapshot_wanted(now, shard, to, least, store);
        }
        self.announce(shard, fx);
        self.serve_reads(now, shard, fx);
    }

    /// Says what changed about a group's leadership.
    fn announce(&mut self, shard: ShardId, fx: &mut Effects) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let leadership = group.leadership();
        if leadership != group.announced {
            group.announced = leadership;
            fx.push(Effect::Leadership { shard, leadership });
        }
        let failure = ReadFailure::NotLeader(leadership.leader);
        for token in group.abandoned.drain(..) {
            fx.push(Effect::ReadFailed {
                shard,
                token,
                failure,
            });
        }
    }

    /// Answers the reads that may go on, fails those that waited too long, and takes the group
    /// into a round for the others.
    fn serve_reads(&mut self, now: Micros, shard: ShardId, fx: &mut Effects) {
        let upcoming = self.rounds.upcoming();
        let retry_us = self.config.heartbeat_us() / 2;
        let lease_us = self.config.lease_us();
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let applied = group.applied();
        let (own, configuration) = (group.replica, &group.configuration);
        let Some(leading) = &mut group.leading else {
            return;
        };
        if leading.reads.is_empty() {
            return;
        }
        let confirmed = leading.confirmed(own, configuration);
        let leased = self.config.reads == Reads::Lease
            && leading
                .lease_end(own, configuration, lease_us)
                .is_some_and(|end| now < end);
        let alone = configuration.is_sole_voter(own);
        let term = leading.term;
        let mut waits = false;
        leading.reads.retain(|read| {
            let quorum = alone
                || read
                    .round
                    .is_some_and(|round| confirmed.is_some_and(|done| done >= round));
            if applied >= read.index && (quorum || leased) {
                let proof = if quorum { Proof::Quorum } else { Proof::Lease };
                let (token, grant) = (read.token, Grant { term, proof });
                fx.push(Effect::ReadReady {
                    shard,
                    token,
                    grant,
                });
                return false;
            }
            if now >= read.deadline {
                let (token, failure) = (read.token, ReadFailure::TimedOut);
                fx.push(Effect::ReadFailed {
                    shard,
                    token,
                    failure,
                });
                return false;
            }
            waits |= !quorum && !leased;
            true
        });
        // One round at a time; it is repeated when its answers are overdue.
        let due = match leading.read_round {
            Some((round, sent_at)) => {
                confirmed.is_some_and(|done| done >= round) || now.0 >= sent_at.0 + retry_us
            }
            None => true,
        };
        if waits && due {
            let early = crate::planted::planted!(JoinsEarlierRound);
            let upcoming = if early {
                crate::lease::Round(upcoming.0 - 1)
            } else {
                upcoming
            };
            leading.read_round = Some((upcoming, now));
            for read in leading.reads.iter_mut().filter(|read| read.round.is_none()) {
                read.round = Some(upcoming);
            }
            self.heartbeat_group(shard);
        }
    }

    /// Ends the flush: everything to one node leaves as one message.
    fn send(&mut self, now: Micros, fx: &mut Effects) {
        let round = if self.outbox.begins_round() {
            self.rounds.begin(now)
        } else {
            self.rounds.upcoming()
        };
        let groups = &self.groups;
        let digest = |node: NodeId| {
            let mut digest = crate::message::QuietDigest::default();
            for group in groups.values() {
                if group.is_quiet()
                    && group.is_leader()
                    && group.configuration.nodes.values().any(|&n| n == node)
                {
                    digest.add(group);
                }
            }
            digest
        };
        self.outbox.send(self.config.incarnation, round, digest, fx);
    }

    /// The layer above has applied everything that `Committed` gave it, up to `index`.
    pub fn applied(
        &mut self,
        now: Micros,
        shard: ShardId,
        index: u64,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let bytes_max = self.config.committed_bytes_max;
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if index <= group.applied() {
            return;
        }
        group.advance(index);
        match group.hand_out(bytes_max, store, fx) {
            Handed::All => {}
            Handed::Damaged(_) => {
                self.suspend(now, shard, store, fx);
                return;
            }
        }
        group.leave_joint();
        self.mark(shard);
        self.announce(shard, fx);
        self.serve_reads(now, shard, fx);
    }

    /// The node's own incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.config.incarnation
    }

    /// Something waits for the next look at the transfers.
    pub(crate) fn flush_soon(&mut self) {
        self.flush_wanted = true;
    }

    /// Remembers that repaired entries are on their way to the disk.
    pub(crate) fn await_repair(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        entries: u32,
        batch: LogBatch,
        store: &mut Store,
    ) {
        self.submitted = store.submit(batch);
        let what = AfterSync::Repair { entries };
        self.waiting.push_back(Waiting {
            seq: self.submitted,
            shard,
            replica,
            what,
        });
    }
}
