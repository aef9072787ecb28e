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

mod asking;
mod flushing;
mod receiving;
mod ticking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_storage::{
    BatchSeq, EntryId, HardState, LogBatch, LogView, Micros, RecoveredReplica, ReplicaId, ShardId,
    Store,
};

use crate::config::Config;
use crate::configuration::Configuration;
use crate::effect::{Damage, Effect, Effects, Leadership, Loss};
use crate::election::Guard;
use crate::event::{Campaign, Event, Origin};
use crate::group::{Group, Start};
use crate::identity::Member;
use crate::message::Message;
use crate::outbox::{Outbox, Rounds};
use crate::peers::Peers;
use crate::read::ReadFailure;
use crate::repair::DamagedReplica;
use crate::rows::RowRepairs;
use crate::snapshot::Transfers;
use synod_testpoint::planted;

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
    /// If it leads: how many entries each member lacks, itself included, as far as is known.
    /// `u64::MAX` for one that has confirmed nothing yet, or no longer finds in the log what it lacks:
    /// it waits for a snapshot, however short the log is.
    pub lacks: BTreeMap<ReplicaId, u64>,
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
    pub(crate) rows: RowRepairs,
    missing: BTreeMap<(ShardId, ReplicaId), Micros>,
    /// Bytes of proposals without an outcome, over all groups.
    proposed_bytes: u64,
    ticked_at: Micros,
    /// The last heartbeat, how many there were, and whether it came with the last tick.
    beat_at: Micros,
    heartbeats: u64,
    beats: bool,
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
            rows: RowRepairs::default(),
            missing: BTreeMap::new(),
            proposed_bytes: 0,
            ticked_at: now,
            beat_at: now,
            heartbeats: 0,
            beats: false,
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
        let guard = match planted!(ForgetsPromises) {
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
        let alone = start.configuration.is_sole_voter(replica);
        if !start.configuration.nodes.is_empty() && !start.configuration.contains(replica) {
            // It applied its own removal, and the process died before it was destroyed.
            fx.push(Effect::Removed { shard, replica });
        }
        self.begin(now, start, fx);
        if alone && let Some(group) = self.groups.get_mut(&shard) {
            // Nobody else can lead, and nobody waits for a promise.
            group.campaign(now);
        }
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
                    Message::Sign(sign) => self.receive_sign(now, from, sign, store),
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
                } else if let Some(damaged) = self.damaged.get_mut(&shard) {
                    damaged.range = Some(range);
                }
            }
            Event::PeerStarted { node, incarnation } => {
                self.hear_of(now, node, incarnation, store);
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
            self.proposed_bytes -= group.counted_bytes;
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
                let loss = Loss::Unknown;
                fx.push(Effect::ProposalLost {
                    shard,
                    id: lost.id,
                    loss,
                });
            }
        }
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
}
