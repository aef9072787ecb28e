//! One turn of the loop: drain, step, settle, send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use synod_membership::time::Time;
use synod_replication::{
    Config as ReplicationConfig, Event as ReplicationEvent, Incarnation, NodeId, ReadToken,
    Replication,
};
use synod_storage::{
    Event as StoreEvent, Job, KeyRange, Lane, Micros, Opened, ReadId, ReplicaId, ShardId, Store,
};
use synod_testpoint::reached;
use synod_txn::{
    Effect as ShardEffect, Event as ShardEvent, Now, Participant, Request, Response, Round,
    Settings as ParticipantSettings, ShardMap, Token,
};
use tracing::{debug, error};

use super::by_hand::ByHand;
use super::lanes::Lanes;
use super::ordering::{Describing, Running};
use super::refusals::Refusals;
use super::traffic::Traffic;
use super::{Entropy, NodeError, Observer, TICK_MS, start};
use crate::clock::Clock;
use crate::config::{Reads, Settings};
use crate::directory::{Directory, Drawn, NodeRecord, Writer};
use crate::formation::Founding;
use crate::gateway::{self, Gateway, Mailbox, Outbox, SessionId, Submitted};
use crate::identity::Identity;
use crate::membership::Membership;
use crate::membership::writer::Writer as MembershipWriter;
use crate::shards::Orders;
use crate::shards::survey::{Bounds, Survey};
use crate::transport::{Inbound, Transport};

/// How often all shards are compared with what is published of them.
const SWEEP_US: u64 = 1_000_000;

/// A node in operation. Owned by the loop.
pub(super) struct Node {
    pub(super) me: Identity,
    pub(super) founding: Founding,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) replication: Replication,
    pub(super) participant: Participant,
    pub(super) gateway: Gateway,
    pub(super) transport: Transport,
    pub(super) peers: BTreeMap<NodeId, PeerState>,
    pub(super) refusals: Refusals,
    pub(super) started_us: u64,
    pub(super) report: synod_storage::OpenReport,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) lanes: Lanes,
    pub(super) outboxes: BTreeMap<SessionId, Arc<Outbox>>,
    /// Requests that the participant is working on, and who waits for the answer.
    pub(super) tokens: BTreeMap<Token, Origin>,
    pub(super) next_token: u64,
    /// Requests whose clients are gone, as of this turn.
    pub(super) withdrawn: BTreeSet<Origin>,
    /// Leadership questions that wait for a quorum.
    pub(super) confirmations: BTreeMap<ReadToken, (ShardId, u64, Round)>,
    pub(super) next_read: u64,
    pub(super) outgoing: Outgoing,
    pub(super) traffic: Traffic,
    pub(super) stop: Stop,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) membership: Membership,
    pub(super) membership_writer: MembershipWriter,
    /// Since when the store's log lane has been at work without a pause.
    pub(super) log_waiting_since_us: Option<u64>,
    log_jobs: usize,
    /// What the membership was last told about the disk.
    pub(super) disk_stalled: bool,
    /// What is known of the cluster.
    pub(super) directory: Directory,
    /// This node's own record in it.
    pub(super) record: NodeRecord,
    /// Writes to the system shard, and numbers that were drawn from it.
    pub(super) writer: Writer,
    pub(super) drawn: Vec<Drawn>,
    /// When a peer is asked next for what this node may not know, and who was last.
    pub(super) next_ask_us: u64,
    /// When this node looks next whether it knows a shard for every key.
    pub(super) next_look_us: u64,
    pub(super) last_asked: Option<NodeId>,
    /// Orders of this node to shards anywhere.
    pub(super) orders: Orders,
    /// What the shards that are led here weigh; the page that it waits for, and when the next is due.
    pub(super) survey: Survey,
    pub(super) survey_read: Option<ReadId>,
    pub(super) next_page_us: u64,
    /// Orders that operators give through this node.
    pub(super) by_hand: ByHand,
    /// What places replicas and leaders, where this node leads the system shard.
    pub(super) control: super::controlling::Control,
    /// Orders that shards led here are carrying out.
    pub(super) running: BTreeMap<ShardId, Running>,
    /// Descriptions on their way into the log.
    pub(super) describing: BTreeMap<ShardId, Describing>,
    /// Shards whose descriptor may not be what their configuration is, or may not be published.
    pub(super) unreconciled: BTreeSet<ShardId>,
    /// When all shards are looked at next.
    pub(super) next_sweep_us: u64,
    /// Whether something was learned by which a replica here may prove to be removed.
    pub(super) unswept: bool,
    /// Replicas that are being destroyed, with the keys that go with them.
    pub(super) dropping: BTreeMap<ReplicaId, KeyRange>,
}

/// The parts of a node that are made before it.
pub(super) struct Parts {
    pub(super) me: Identity,
    pub(super) founding: Founding,
    pub(super) transport: Transport,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) lanes: Lanes,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Entropy,
    pub(super) membership: Membership,
    pub(super) membership_writer: MembershipWriter,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub(super) struct PeerState {
    /// Where it is.
    pub(super) address: SocketAddr,
    /// The boot that the last connection showed, if there was one.
    pub(super) boot: Option<u64>,
    /// Whether the control connection to it stands.
    pub(super) connected: bool,
    /// The view that it last said it has: seq, and the end of its hash.
    pub(super) view: Option<(u64, u32)>,
}

/// Where the founders other than this node were when the cluster began.
fn founders(founding: &Founding, me: synod_membership::id::NodeId) -> BTreeMap<NodeId, PeerState> {
    let others = founding.members.iter().filter(|member| member.node != me.0);
    let peers = others.map(|member| {
        let state = PeerState {
            address: member.peer,
            boot: None,
            connected: false,
            view: None,
        };
        (NodeId(member.node), state)
    });
    peers.collect()
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) node: NodeId,
    pub(super) id: u64,
}

/// What leaves at the end of the turn.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) requests: BTreeMap<NodeId, Vec<Request>>,
    pub(super) responses: BTreeMap<NodeId, Vec<Response>>,
    /// Requests of this node that nobody waits for any more.
    pub(super) withdrawals: BTreeMap<NodeId, Vec<u64>>,
}

/// How far a clean stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    HandingOver { until_us: u64 },
    Sealing,
    Done,
}

#[derive(Default)]
pub(super) struct Effects {
    pub(super) gateway: Vec<gateway::Effect>,
    pub(super) shards: Vec<ShardEffect>,
    pub(super) replication: synod_replication::Effects,
    pub(super) membership: synod_membership::effect::Effects,
}

/// How replication behaves, by the cluster's settings.
fn replication_config(
    settings: &Settings,
    node: NodeId,
    me: &Identity,
    entropy: &Entropy,
) -> ReplicationConfig {
    ReplicationConfig {
        reads: match settings.cluster.reads {
            Reads::Lease => synod_replication::Reads::Lease,
            Reads::Quorum => synod_replication::Reads::Quorum,
        },
        heartbeat_ticks: (settings.cluster.heartbeat_ms / TICK_MS).max(1),
        election_ticks: (settings.cluster.election_timeout_ms / TICK_MS).max(3),
        // Two clocks may be wrong in opposite directions.
        clock_drift_percent: (2 * settings.cluster.clock_rate_error_ppm)
            .div_ceil(10_000)
            .min(99),
        ..ReplicationConfig::new(node, Incarnation(me.boot.counter), entropy.seed)
    }
}

fn participant_settings(settings: &Settings) -> ParticipantSettings {
    ParticipantSettings {
        retention_ms: u64::from(settings.cluster.retention_ms),
        ..ParticipantSettings::default()
    }
}

/// When the cluster's settings let a shard be split.
fn bounds_of(settings: &Settings) -> Bounds {
    Bounds {
        split_bytes: u64::from(settings.cluster.split_size_mb) << 20,
        split_rate_per_s: u64::from(settings.cluster.split_rate_per_s),
    }
}

/// What this node tells the cluster about itself, as of this boot.
fn record_of(me: &Identity, settings: &Settings) -> NodeRecord {
    NodeRecord {
        node: NodeId(me.node.0),
        generation: me.boot.counter,
        peer: settings.process.peer_advertise,
        client: settings.process.client,
        labels: settings.process.labels.clone(),
    }
}

impl Node {
    pub(super) fn new(
        opened: Opened,
        settings: &Settings,
        parts: Parts,
        begun: synod_membership::effect::Effects,
    ) -> (Self, start::Recovered) {
        let Parts {
            me,
            founding,
            transport,
            mailbox,
            lanes,
            clock,
            entropy,
            membership,
            membership_writer,
            observer,
        } = parts;
        let node = NodeId(me.node.0);
        let Opened {
            store,
            replicas,
            report,
        } = opened;
        let config = replication_config(settings, node, &me, &entropy);
        let now_us = clock.monotonic_us();
        let mut effects = synod_replication::Effects::default();
        let shards: Vec<ShardId> = replicas.iter().map(|replica| replica.shard).collect();
        let replication =
            Replication::new(config, Micros(now_us), store.log(), replicas, &mut effects);
        let me_nonce = me.boot.nonce;
        let directory = Directory::new(start::descriptors(&founding));
        let record = record_of(&me, settings);
        let map = ShardMap::new(start::descriptors(&founding));
        let boot = (me.boot.counter, me.boot.nonce);
        let gateway = Gateway::new(node, boot, map, gateway::Settings::default());
        let peers = founders(&founding, me.node);
        let this = Self {
            me,
            founding,
            clock,
            store,
            replication,
            participant: Participant::new(participant_settings(settings)),
            gateway,
            transport,
            peers,
            refusals: Refusals::default(),
            started_us: now_us,
            report,
            mailbox,
            lanes,
            outboxes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            withdrawn: BTreeSet::new(),
            confirmations: BTreeMap::new(),
            next_read: 0,
            outgoing: Outgoing::default(),
            traffic: Traffic::default(),
            stop: Stop::No,
            observer,
            membership,
            membership_writer,
            log_waiting_since_us: None,
            log_jobs: 0,
            disk_stalled: false,
            directory,
            record,
            writer: Writer::new(me_nonce),
            drawn: Vec::new(),
            next_ask_us: 0,
            next_look_us: 0,
            last_asked: None,
            orders: Orders::new(me_nonce),
            survey: Survey::new(bounds_of(settings)),
            survey_read: None,
            next_page_us: 0,
            by_hand: ByHand::default(),
            control: super::controlling::Control::new(settings.process.placing.clone()),
            running: BTreeMap::new(),
            describing: BTreeMap::new(),
            unreconciled: BTreeSet::new(),
            next_sweep_us: 0,
            unswept: true,
            dropping: BTreeMap::new(),
        };
        let recovered = start::Recovered {
            shards,
            effects,
            membership: begun,
        };
        (this, recovered)
    }

    /// This node's name in the data plane.
    pub(super) fn id(&self) -> NodeId {
        NodeId(self.me.node.0)
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: Micros(self.clock.monotonic_us()),
            wall_ms: self.clock.wall_ms(),
        }
    }

    /// Takes all that arrived and carries it to its end.
    pub(super) fn turn(
        &mut self,
        frames: &mut Vec<Inbound>,
        ticked: bool,
    ) -> Result<(), NodeError> {
        let now = self.now();
        let mut effects = Effects::default();
        self.take_disk_work(now, &mut effects)?;
        self.take_membership_writes(now, &mut effects);
        for inbound in frames.drain(..) {
            self.receive(now, inbound, &mut effects)?;
        }
        self.take_submissions(now, &mut effects);
        if ticked {
            self.tick(now, &mut effects);
        }
        self.settle(&mut effects)?;
        while self.send(self.now(), &mut effects) {
            self.settle(&mut effects)?;
        }
        self.give_disk_work();
        Ok(())
    }

    /// Carries out what recovery or creation asked for, before the first turn.
    pub(super) fn begin(&mut self, mut effects: Effects) -> Result<(), NodeError> {
        self.settle(&mut effects)?;
        while self.send(self.now(), &mut effects) {
            self.settle(&mut effects)?;
        }
        self.give_disk_work();
        Ok(())
    }

    fn take_disk_work(&mut self, now: Now, effects: &mut Effects) -> Result<(), NodeError> {
        let mut done: Vec<Job> = Vec::new();
        self.lanes.finished(&mut done);
        for job in done {
            if job.lane() == Lane::Log {
                self.log_jobs -= 1;
                self.log_waiting_since_us = (self.log_jobs > 0).then_some(now.monotonic.0);
            }
            self.store.complete(job)?;
        }
        self.take_store_news(now, effects);
        Ok(())
    }

    /// What the store has to say. Some of it needs no disk: a read that finds its value on its way
    /// out of memory is answered without a job, in the middle of a turn.
    fn take_store_news(&mut self, now: Now, effects: &mut Effects) {
        let mut events = Vec::new();
        self.store.take_events(&mut events);
        for event in events {
            match &event {
                StoreEvent::Stopped => self.stop = Stop::Done,
                StoreEvent::Damaged { row, place } => {
                    let key = row.key.escape_ascii();
                    error!("damaged record at {place}, key {key}: not served, peers are asked");
                }
                StoreEvent::Checkpointed => {
                    reached!(CheckpointDone);
                    debug!("checkpoint complete");
                }
                StoreEvent::Fetched { .. }
                | StoreEvent::ExportReady { .. }
                | StoreEvent::ExportChunk { .. }
                | StoreEvent::ExportFailed { .. }
                | StoreEvent::ImportReady { .. }
                | StoreEvent::Installed { .. }
                | StoreEvent::ImportFailed { .. }
                | StoreEvent::Recalled { .. } => {}
                StoreEvent::Dropped { replica, .. } => {
                    self.dropping.remove(replica);
                }
            }
            let event = ReplicationEvent::Store(event);
            self.replication.step(
                now.monotonic,
                event,
                &mut self.store,
                &mut effects.replication,
            );
        }
        let mut reads = Vec::new();
        self.store.take_reads(&mut reads);
        for (id, mut result) in reads {
            if self.take_surveyed(now, id, &mut result) {
                continue;
            }
            self.step_shards(now, ShardEvent::StoreRead { id, result }, effects);
        }
    }

    fn give_disk_work(&mut self) {
        let mut jobs = Vec::new();
        self.store.take_jobs(&mut jobs);
        let logs = jobs.iter().filter(|job| job.lane() == Lane::Log).count();
        if logs > 0 {
            self.log_jobs += logs;
            let now_us = self.clock.monotonic_us();
            self.log_waiting_since_us.get_or_insert(now_us);
        }
        self.lanes.submit(&mut jobs);
    }

    fn take_submissions(&mut self, now: Now, effects: &mut Effects) {
        // A node that is about to serve need not turn its first clients away.
        if self.membership.is_settling(Time(now.monotonic.0)) {
            return;
        }
        let mut news = Vec::new();
        self.mailbox.take(&mut news);
        for submitted in news {
            let event = match submitted {
                Submitted::Opened(session, outbox, connection) => {
                    self.outboxes.insert(session, outbox);
                    gateway::Event::Opened(session, connection)
                }
                Submitted::Commands(session, batch) => {
                    self.traffic.count(&batch);
                    gateway::Event::Submitted(session, batch)
                }
                Submitted::Closed(session) => {
                    self.outboxes.remove(&session);
                    gateway::Event::Closed(session)
                }
            };
            self.gateway.step(now, event, &mut effects.gateway);
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Effects) {
        self.store.tick(now.monotonic);
        self.step_replication(now, ReplicationEvent::Tick, effects);
        self.step_shards(now, ShardEvent::Tick, effects);
        self.tick_membership(now, effects);
        if !self.membership.serving() {
            // Who is missing changes.
            self.update_serving();
        }
        if self.membership.is_removed() && self.stop == Stop::No {
            // Its replicas go on voting; it only leads no more, where others can.
            self.hand_over(now);
        }
        self.gateway
            .step(now, gateway::Event::Tick, &mut effects.gateway);
        self.traffic.tick(now.monotonic.0);
        self.tick_directory(now);
        self.write_due(now, effects);
        self.tick_survey(now, effects);
        self.tick_by_hand(now, effects);
        self.send_orders(now, effects);
        self.tick_control(now, effects);
        if now.monotonic.0 >= self.next_sweep_us {
            self.next_sweep_us = now.monotonic.0 + SWEEP_US;
            self.reconcile_all();
            self.report_damages(now);
        }
        self.advance_stop(now);
        self.observe_tick();
    }

    pub(super) fn request(
        &mut self,
        now: Now,
        node: NodeId,
        request: Request,
        effects: &mut Effects,
    ) {
        self.count_request(&request);
        let token = Token(self.next_token);
        self.next_token += 1;
        self.tokens.insert(
            token,
            Origin {
                node,
                id: request.id,
            },
        );
        self.step_shards(now, ShardEvent::Request { token, request }, effects);
    }

    /// Lets go of requests whose clients are gone: in one pass over all that are under way, however many
    /// clients left in this turn.
    fn withdraw(&mut self, now: Now, effects: &mut Effects) {
        if self.withdrawn.is_empty() {
            return;
        }
        let withdrawn = std::mem::take(&mut self.withdrawn);
        let gone = self
            .tokens
            .extract_if(.., |_, origin| withdrawn.contains(origin));
        let tokens: BTreeSet<Token> = gone.map(|(token, _)| token).collect();
        if !tokens.is_empty() {
            self.step_shards(now, ShardEvent::Withdraw { tokens }, effects);
        }
    }

    pub(super) fn step_shards(&mut self, now: Now, event: ShardEvent, effects: &mut Effects) {
        self.participant
            .step(now, event, &mut self.store, &mut effects.shards);
    }

    /// Lets the cores talk to each other until none has anything left to say.
    ///
    /// Each round reads the clock. A process that was paused in the midst of a turn would otherwise go
    /// round for ever: a lease that holds by the time at which the turn began, and not by the time at
    /// which the state has been read, is asked for again at the former.
    fn settle(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        loop {
            let now = self.now();
            for effect in std::mem::take(&mut effects.membership) {
                self.carry_membership(now, effect, effects)?;
            }
            self.gateway.flush(now, &mut effects.gateway);
            for effect in std::mem::take(&mut effects.gateway) {
                self.carry_gateway(now, effect, effects);
            }
            self.withdraw(now, effects);
            self.participant.flush(now, &mut effects.shards);
            for effect in std::mem::take(&mut effects.shards) {
                self.carry_shard(now, effect, effects)?;
            }
            self.replication
                .flush(now.monotonic, &mut self.store, &mut effects.replication);
            let mut list = Vec::new();
            effects.replication.swap(&mut list);
            for effect in list {
                self.carry_replication(now, effect, effects)?;
            }
            self.take_store_news(now, effects);
            self.reconcile(now, effects);
            self.sweep_replicas(now, effects);
            self.advance_orders(now, effects);
            for (id, end) in self.orders.take_done() {
                if self.freeze_ended(now, id, &end) {
                    continue;
                }
                self.control_order_ended(now, id, &end, effects);
                self.order_ended(now, id, end, effects);
            }
            let quiet = effects.gateway.is_empty()
                && effects.membership.is_empty()
                && effects.shards.is_empty()
                && effects.replication.is_empty()
                && !self.gateway.needs_flush()
                && !self.participant.needs_flush()
                && !self.replication.needs_flush();
            if quiet {
                return Ok(());
            }
        }
    }
}
