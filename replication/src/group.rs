//! One replica of one shard: a raft-rs node, and what raft-rs leaves to its user.
//!
//! Everything that enters raft-rs goes through this module, because its rules for callers are
//! strict and partly unwritten:
//!
//! - it panics on input that a correct group cannot produce, so such input is stopped here;
//! - it counts ticks where a lease needs a clock ([`Guard`]);
//! - it draws time-outs from the thread's random numbers ([`Group::settle`] sets ours);
//! - it becomes leader at once when it is the only voter, and then asserts that its whole log is
//!   persisted: it must not campaign while a write is in flight.
//!
//! Invariants, checked where they are relied on:
//!
//! - `applied ≤ handed ≤ min(committed, persisted)`: nothing is applied that could still be lost.
//! - `queued` proposals have consecutive indexes after raft's last one, and enter raft before
//!   anything else does: a number that was promised is the number that is used.
//! - `leading` exists exactly while raft-rs leads, and belongs to its term.
//! - while `installing`, nothing enters raft.

use std::collections::{BTreeMap, VecDeque};

use raft::{RawNode, StateRole};
use synod_storage::{EntryId, HardState, KeyRange, LogView, Micros, ReplicaId, ShardId};

use crate::config::Config;
use crate::configuration::Configuration;
use crate::effect::{Leadership, Role};
use crate::election::{Guard, Random};
use crate::eraft;
use crate::event::Hold;
use crate::identity::{Member, NodeId};
use crate::lease::Leading;
use crate::log::GroupLog;
use crate::message::{GroupBody, GroupMessage, VoteKind};
use crate::quiet::Sleep;
use crate::read::ReadToken;

type RaftEntry = raft::eraftpb::Entry;
type RaftMessage = raft::eraftpb::Message;

/// A proposal that has a number and no outcome yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposed {
    pub(crate) id: EntryId,
    pub(crate) bytes: u64,
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// raft-rs has seen it.
    Done,
    /// It was dropped: late, early, or not to be answered now.
    Dropped,
    /// The leader counts on entries that this replica acknowledged and does not have: its disk
    /// went back in time.
    RolledBack,
}

/// One replica.
pub(crate) struct Group {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: RawNode<GroupLog>,
    pub(crate) configuration: Configuration,
    /// Where replicas live that wrote to us and that our configuration does not know yet.
    learned: BTreeMap<ReplicaId, NodeId>,
    pub(crate) range: Option<KeyRange>,
    random: Random,
    timeout_ticks: usize,
    /// Term and role for which `timeout_ticks` was drawn.
    drawn_for: (u64, StateRole),
    pub(crate) guard: Guard,
    pub(crate) leading: Option<Leading>,
    pub(crate) announced: Leadership,
    /// Reads whose leader ceased to lead under them.
    pub(crate) abandoned: Vec<ReadToken>,
    /// The hard state that the log has or will have with the batches submitted so far.
    pub(crate) recorded: HardState,
    /// Batches with something of this group that are not durable yet.
    pub(crate) unsynced: u32,
    /// The last entry handed out to be applied.
    pub(crate) handed: u64,
    /// A fetch of entries to apply is under way.
    pub(crate) fetching: bool,
    /// raft-rs' own fetch, and the call to make when it is done.
    pub(crate) refetch: Option<raft::GetEntriesContext>,
    queued: Vec<RaftEntry>,
    pub(crate) proposed: VecDeque<Proposed>,
    pub(crate) proposed_bytes: u64,
    /// Of these, bytes that the node's sum has.
    pub(crate) counted_bytes: u64,
    pub(crate) sleep: Sleep,
    pub(crate) hold: Hold,
    pub(crate) active_at: Micros,
    /// The commit index that members were told by heartbeat or append.
    pub(crate) told_commit: u64,
    pub(crate) installing: bool,
    pub(crate) dirty: bool,
}

/// What a group starts from.
pub(crate) struct Start {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    pub(crate) configuration: Configuration,
    pub(crate) applied: u64,
    pub(crate) guard: Guard,
}

impl Group {
    pub(crate) fn new(
        config: &Config,
        now: Micros,
        view: LogView,
        start: Start,
    ) -> raft::Result<Group> {
        let Start {
            shard,
            replica,
            hard_state,
            configuration,
            applied,
            guard,
        } = start;
        let hard_state = HardState {
            commit: hard_state.commit.max(applied),
            ..hard_state
        };
        let initial = raft::eraftpb::HardState {
            term: hard_state.term,
            vote: hard_state.vote.0,
            commit: hard_state.commit,
            ..raft::eraftpb::HardState::default()
        };
        let election_ticks = config.election_ticks as usize;
        let settings = raft::Config {
            id: replica.0,
            election_tick: election_ticks,
            // Heartbeats are ours, one round for all groups: raft's own come rarely and are dropped.
            heartbeat_tick: election_ticks - 1,
            applied,
            max_size_per_msg: config.append_bytes_max,
            max_inflight_msgs: config.appends_in_flight_max as usize,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: election_ticks,
            max_election_tick: 2 * election_ticks,
            skip_bcast_commit: true,
            batch_append: true,
            ..raft::Config::default()
        };
        let log = GroupLog::new(shard, view, initial, &configuration);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&settings, log, &logger)?;
        let mut group = Group {
            shard,
            replica,
            raft,
            configuration,
            learned: BTreeMap::new(),
            range: None,
            random: Random::new(config.seed, shard, replica),
            timeout_ticks: 0,
            drawn_for: (u64::MAX, StateRole::Follower),
            guard,
            leading: None,
            announced: Leadership {
                role: Role::Follower,
                term: 0,
                leader: None,
                serving: false,
            },
            abandoned: Vec::new(),
            recorded: hard_state,
            unsynced: 0,
            handed: applied,
            fetching: false,
            refetch: None,
            queued: Vec::new(),
            proposed: VecDeque::new(),
            proposed_bytes: 0,
            counted_bytes: 0,
            sleep: Sleep::Awake,
            hold: Hold::Released,
            active_at: now,
            told_commit: 0,
            installing: false,
            dirty: false,
        };
        group.settle();
        Ok(group)
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.raft.term
    }

    pub(crate) fn committed(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    pub(crate) fn applied(&self) -> u64 {
        self.raft.raft.raft_log.applied
    }

    pub(crate) fn persisted(&self) -> u64 {
        self.raft.raft.raft_log.persisted
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// The last entry, proposals that are queued not counted.
    pub(crate) fn last_id(&self) -> EntryId {
        let log = &self.raft.raft.raft_log;
        EntryId::new(log.last_term(), log.last_index())
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// The leader that this replica follows or is; 0 is none.
    pub(crate) fn leader(&self) -> ReplicaId {
        ReplicaId(self.raft.raft.leader_id)
    }

    pub(crate) fn view(&self) -> &LogView {
        self.raft.store().view()
    }

    /// Where a replica lives, if anybody said so.
    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.configuration
            .nodes
            .get(&replica)
            .or_else(|| self.learned.get(&replica))
            .copied()
    }

    /// A replica wrote from this node.
    pub(crate) fn learn(&mut self, replica: ReplicaId, node: NodeId) {
        if !self.configuration.nodes.contains_key(&replica) {
            self.learned.insert(replica, node);
        }
    }

    pub(crate) fn forget_learned(&mut self) {
        self.learned.clear();
    }

    pub(crate) fn hard_state(&self) -> HardState {
        let raft = &self.raft.raft;
        HardState {
            term: raft.term,
            vote: ReplicaId(raft.vote),
            commit: raft.raft_log.committed,
        }
    }

    /// The leadership as it is now.
    pub(crate) fn leadership(&self) -> Leadership {
        let role = match self.raft.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.configuration.is_voter(self.replica) => Role::Follower,
            StateRole::Follower => Role::Learner,
        };
        let leader = self.leader();
        let leader = self.node_of(leader).map(|node| Member {
            replica: leader,
            node,
        });
        Leadership {
            role,
            term: self.term(),
            leader,
            serving: self.is_serving(),
        }
    }

    /// It leads, and has applied an entry of its own term.
    pub(crate) fn is_serving(&self) -> bool {
        self.leading
            .as_ref()
            .is_some_and(|leading| self.applied() >= leading.first_index)
    }

    /// Whether it has applied its own removal: it applies nothing more, and waits to be destroyed.
    pub(crate) fn is_removed(&self) -> bool {
        !self.configuration.nodes.is_empty() && !self.configuration.contains(self.replica)
    }

    /// Whether a `Ready` would have anything in it.
    pub(crate) fn has_ready(&self) -> bool {
        let raft = &self.raft.raft;
        !raft.msgs.is_empty()
            || !raft.raft_log.unstable_entries().is_empty()
            || raft.raft_log.unstable_snapshot().is_some()
            || self.hard_state() != self.recorded
            || !self.queued.is_empty()
    }

    /// Brings our own state in line with raft-rs' after any call into it.
    pub(crate) fn settle(&mut self) {
        let raft = &mut self.raft.raft;
        let now_for = (raft.term, raft.state);
        if now_for != self.drawn_for {
            self.drawn_for = now_for;
            let low = raft.election_timeout() as u64;
            self.timeout_ticks = self.random.between(low, 2 * low) as usize;
        }
        // Unconditionally: raft-rs may have drawn its own in between.
        raft.set_randomized_election_timeout(self.timeout_ticks);
        let leads = raft.state == StateRole::Leader;
        let term = raft.term;
        match &self.leading {
            Some(leading) if leads && leading.term == term => {}
            Some(_) | None => {
                if let Some(ended) = self.leading.take() {
                    self.abandoned
                        .extend(ended.reads.iter().map(|read| read.token));
                }
                if leads {
                    // Its first entry was appended by the step that made it leader.
                    self.leading = Some(Leading::new(term, self.raft.raft.raft_log.last_index()));
                    self.told_commit = 0;
                }
            }
        }
    }

    /// Gives a proposal its number. The caller has checked that this replica may propose.
    pub(crate) fn queue(&mut self, entry: RaftEntry) -> EntryId {
        let bytes = entry.data.len() as u64;
        self.queued.push(entry);
        let id = EntryId::new(self.term(), self.last_index() + self.queued.len() as u64);
        self.proposed.push_back(Proposed { id, bytes });
        self.proposed_bytes += bytes;
        id
    }

    /// Puts the queued proposals into the log, as one step. Before anything else enters raft.
    pub(crate) fn submit_queued(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.queued);
        let last = self.last_index() + entries.len() as u64;
        let proposal = eraft::proposals(self.replica, entries);
        let stepped = self.raft.raft.step(proposal);
        // Nothing entered raft since the numbers were given, and nothing limits it but we.
        assert!(
            stepped.is_ok() && self.last_index() == last,
            "a numbered proposal was refused"
        );
        self.settle();
    }

    /// One tick of the election or check-quorum timer.
    pub(crate) fn tick(&mut self, now: Micros) {
        if self.installing {
            return;
        }
        self.submit_queued();
        if !self.is_leader() && self.next_tick_campaigns() && !self.may_campaign(now) {
            return;
        }
        self.raft.tick();
        self.settle();
    }

    fn next_tick_campaigns(&self) -> bool {
        let raft = &self.raft.raft;
        raft.promotable() && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }

    /// Whether this replica may ask for votes: its promise is over, or it decides alone; and its
    /// log is durable to the end.
    fn may_campaign(&self, now: Micros) -> bool {
        let free = self.guard.is_over(now)
            || self.configuration.is_sole_voter(self.replica)
            || synod_testpoint::planted!(VotesByTicks);
        free && self.persisted() == self.last_index()
    }

    /// Campaigns now, if it may.
    pub(crate) fn campaign(&mut self, now: Micros) {
        self.submit_queued();
        if !self.installing && !self.is_leader() && self.may_campaign(now) {
            // Refused when there is nothing to campaign for; the time-out tries again.
            let _ = self.raft.campaign();
            self.settle();
        }
    }

    /// The connection to its leader's node broke, most likely because the process is gone. The voters
    /// that are left run for election as soon as their promises have ended, one after the other, so that
    /// they do not split the votes. A leader that is alive is heard again before that.
    pub(crate) fn expect_election(&mut self) {
        let leader = self.leader();
        let left = self.configuration.voters.iter().filter(|it| **it != leader);
        let left: Vec<ReplicaId> = left.copied().collect();
        let Some(place) = left.iter().position(|it| *it == self.replica) else {
            return;
        };
        // Another one first in each shard: they share the work.
        let turn = (place as u64 + self.shard.0) % left.len() as u64;
        let least = self.raft.raft.election_timeout();
        // Behind the first ticks are the last heartbeats, which reach no two voters at one moment.
        let ticks = least + least / 8 + usize::try_from(turn).unwrap_or(0) * (least / 5);
        self.timeout_ticks = ticks.min(2 * least - 1);
        self.settle();
    }

    /// Stops following anybody, so that votes are not refused on a leader's behalf.
    pub(crate) fn forget_leader(&mut self) {
        if !self.is_leader() && !self.installing {
            let term = self.term();
            self.raft.raft.become_follower(term, raft::INVALID_ID);
            self.settle();
        }
    }

    /// A leader that may not lead any more steps down within its term.
    pub(crate) fn step_down(&mut self) {
        self.submit_queued();
        let term = self.term();
        self.raft.raft.become_follower(term, raft::INVALID_ID);
        self.settle();
    }

    /// Steps raft-rs with a message that is known to be harmless.
    pub(crate) fn step_raft(&mut self, message: RaftMessage) {
        self.submit_queued();
        // An error means that the sender is not a member (any more): nothing to do.
        let _ = self.raft.step(message);
        self.settle();
    }

    /// Handles a consensus message of a peer.
    pub(crate) fn step(&mut self, now: Micros, guard_us: u64, message: GroupMessage) -> Stepped {
        if self.installing {
            return Stepped::Dropped;
        }
        let (from, term) = (message.from, message.term);
        let from_leader = match &message.body {
            GroupBody::Vote { kind, .. } => {
                if !self.may_vote(now, *kind) {
                    return Stepped::Dropped;
                }
                false
            }
            GroupBody::TimeoutNow => {
                // As a campaign, but at the leader's wish: its lease has ended, so its promise
                // does not hold us. A restarted voter's promise may be to somebody else.
                if self.persisted() != self.last_index() || self.guard.is_restart(now) {
                    return Stepped::Dropped;
                }
                false
            }
            GroupBody::Accepted { index, .. } => {
                if self.is_leader() && term == self.term() && *index > self.last_index() {
                    tracing::error!(shard = %self.shard, %from, index, "acknowledged the future");
                    return Stepped::Dropped;
                }
                false
            }
            GroupBody::Append { .. } => true,
            GroupBody::Rejected { .. } | GroupBody::VoteReply { .. } => false,
        };
        self.step_raft(eraft::incoming(message));
        if from_leader && self.leader() == from && self.term() == term {
            self.guard.promise(now, guard_us);
        }
        Stepped::Done
    }

    fn may_vote(&self, now: Micros, kind: VoteKind) -> bool {
        if self.guard.is_restart(now) {
            return false;
        }
        match kind {
            VoteKind::PreVote | VoteKind::Election => {
                self.guard.is_over(now) || synod_testpoint::planted!(VotesByTicks)
            }
            // The leader asked for this election, after it had dropped its lease for good.
            VoteKind::Transfer => true,
        }
    }

    /// Handles a heartbeat of a leader. `true`: this replica follows it.
    pub(crate) fn heartbeat(
        &mut self,
        now: Micros,
        guard_us: u64,
        from: ReplicaId,
        term: u64,
        commit: u64,
    ) -> Result<bool, Stepped> {
        if self.installing {
            return Err(Stepped::Dropped);
        }
        if term >= self.term() && commit > self.last_index() {
            return Err(Stepped::RolledBack);
        }
        self.submit_queued();
        let _ = self
            .raft
            .step(eraft::heartbeat(from, self.replica, term, commit));
        self.settle();
        let follows = self.leader() == from && self.term() == term;
        if follows {
            self.guard.promise(now, guard_us);
            // The answer is ours and does not wait for the disk: it acknowledges no entry.
            let own = |m: &RaftMessage| {
                m.get_msg_type() == raft::eraftpb::MessageType::MsgHeartbeatResponse
            };
            self.raft.raft.msgs.retain(|m| !own(m));
        }
        Ok(follows)
    }
}
