//! One turn of the loop: drain, step, settle, send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use synod_membership::id::{Destination, Identity as PeerIdentity};
use synod_replication::{
    Config as ReplicationConfig, Effect as ReplicationEffect, Event as ReplicationEvent,
    Incarnation, Leadership, Message, NodeId, ProposeError, Read, ReadFailure, ReadToken,
    Replication, Role,
};
use synod_storage::{Event as StoreEvent, Job, Micros, Opened, ShardId, Store};
use synod_txn::{
    Effect as ShardEffect, Event as ShardEvent, Leadership as ShardLeadership, Now, Participant,
    Refusal as ProposalRefusal, Round, Settings as ParticipantSettings, Token,
};
use synod_txn::{Reply, ShardMap};
use synod_txn::{Request, Response};
use tracing::{debug, error, info, warn};

use super::lanes::Lanes;
use super::{Entropy, NodeError, forming, start};
use crate::clock::Clock;
use crate::config::{Reads, Settings};
use crate::formation::{self, Founding};
use crate::gateway::{self, Gateway, Mailbox, Outbox, SessionId, Submitted};
use crate::identity::Identity;
use crate::transport::{self, Class, Delivery, Inbound, Kind, Transport};

/// How long a stopping node tries to hand its leaderships over.
const HAND_OVER_US: u64 = 1_000_000;

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
    pub(super) started_us: u64,
    pub(super) report: synod_storage::OpenReport,
    mailbox: Arc<Mailbox>,
    lanes: Lanes,
    outboxes: BTreeMap<SessionId, Arc<Outbox>>,
    /// Requests that the participant is working on, and who waits for the answer.
    tokens: BTreeMap<Token, Origin>,
    next_token: u64,
    /// Leadership questions that wait for a quorum.
    confirmations: BTreeMap<ReadToken, (ShardId, u64, Round)>,
    next_read: u64,
    outgoing: Outgoing,
    stop: Stop,
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
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
struct Origin {
    node: NodeId,
    id: u64,
}

/// What leaves at the end of the turn.
#[derive(Default)]
struct Outgoing {
    requests: BTreeMap<NodeId, Vec<Request>>,
    responses: BTreeMap<NodeId, Vec<Response>>,
}

/// How far a clean stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    HandingOver { until_us: u64 },
    Sealing,
    Done,
}

#[derive(Default)]
struct Effects {
    gateway: Vec<gateway::Effect>,
    shards: Vec<ShardEffect>,
    replication: synod_replication::Effects,
}

impl Node {
    #[allow(clippy::too_many_arguments)] // the parts of a node, each once
    pub(super) fn new(
        opened: Opened,
        settings: &Settings,
        me: Identity,
        founding: Founding,
        transport: Transport,
        mailbox: Arc<Mailbox>,
        lanes: Lanes,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> (Self, start::Recovered) {
        let node = NodeId(me.node.0);
        let Opened {
            store,
            replicas,
            report,
        } = opened;
        let config = ReplicationConfig {
            reads: match settings.cluster.reads {
                Reads::Lease => synod_replication::Reads::Lease,
                Reads::Quorum => synod_replication::Reads::Quorum,
            },
            ..ReplicationConfig::new(node, Incarnation(me.boot.counter), entropy.seed)
        };
        let now_us = clock.monotonic_us();
        let mut effects = synod_replication::Effects::default();
        let recovered: Vec<ShardId> = replicas.iter().map(|replica| replica.shard).collect();
        let replication =
            Replication::new(config, Micros(now_us), store.log(), replicas, &mut effects);
        let map = ShardMap::new(start::descriptors(&founding));
        let gateway = Gateway::new(me.boot.nonce, map, gateway::Settings::default());
        let peers = founding
            .members
            .iter()
            .filter(|member| member.node != me.node.0)
            .map(|member| {
                let state = PeerState {
                    address: member.peer,
                    boot: None,
                    connected: false,
                };
                (NodeId(member.node), state)
            })
            .collect();
        let this = Self {
            me,
            founding,
            clock,
            store,
            replication,
            participant: Participant::new(ParticipantSettings::default()),
            gateway,
            transport,
            peers,
            started_us: now_us,
            report,
            mailbox,
            lanes,
            outboxes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            confirmations: BTreeMap::new(),
            next_read: 0,
            outgoing: Outgoing::default(),
            stop: Stop::No,
        };
        (
            this,
            start::Recovered {
                shards: recovered,
                effects,
            },
        )
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
        for inbound in frames.drain(..) {
            self.receive(now, inbound, &mut effects);
        }
        self.take_submissions(now, &mut effects);
        if ticked {
            self.tick(now, &mut effects);
        }
        self.settle(now, &mut effects)?;
        while self.send(now, &mut effects) {
            self.settle(now, &mut effects)?;
        }
        self.give_disk_work();
        Ok(())
    }

    /// Carries out what recovery or creation asked for, before the first turn.
    pub(super) fn begin(
        &mut self,
        replication: synod_replication::Effects,
    ) -> Result<(), NodeError> {
        let now = self.now();
        let mut effects = Effects {
            replication,
            ..Effects::default()
        };
        self.settle(now, &mut effects)?;
        while self.send(now, &mut effects) {
            self.settle(now, &mut effects)?;
        }
        self.give_disk_work();
        Ok(())
    }

    fn take_disk_work(&mut self, now: Now, effects: &mut Effects) -> Result<(), NodeError> {
        let mut done: Vec<Job> = Vec::new();
        self.lanes.finished(&mut done);
        for job in done {
            self.store.complete(job)?;
        }
        let mut events = Vec::new();
        self.store.take_events(&mut events);
        for event in events {
            match &event {
                StoreEvent::Stopped => self.stop = Stop::Done,
                StoreEvent::Damaged { row, place } => {
                    error!(
                        ?row,
                        "damage on disk at {place}: not served, to be repaired"
                    );
                }
                StoreEvent::Checkpointed => debug!("checkpoint complete"),
                StoreEvent::Fetched { .. }
                | StoreEvent::ExportReady { .. }
                | StoreEvent::ExportChunk { .. }
                | StoreEvent::ExportFailed { .. }
                | StoreEvent::ImportReady { .. }
                | StoreEvent::Installed { .. }
                | StoreEvent::ImportFailed { .. }
                | StoreEvent::Dropped { .. } => {}
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
        for (id, result) in reads {
            self.step_shards(now, ShardEvent::StoreRead { id, result }, effects);
        }
        Ok(())
    }

    fn give_disk_work(&mut self) {
        let mut jobs = Vec::new();
        self.store.take_jobs(&mut jobs);
        self.lanes.submit(&mut jobs);
    }

    fn take_submissions(&mut self, now: Now, effects: &mut Effects) {
        let mut news = Vec::new();
        self.mailbox.take(&mut news);
        for submitted in news {
            let event = match submitted {
                Submitted::Opened(session, outbox) => {
                    self.outboxes.insert(session, outbox);
                    gateway::Event::Opened(session)
                }
                Submitted::Commands(session, batch) => gateway::Event::Submitted(session, batch),
                Submitted::Closed(session) => {
                    self.outboxes.remove(&session);
                    gateway::Event::Closed(session)
                }
            };
            self.gateway
                .step(now.monotonic.0, event, &mut effects.gateway);
        }
    }

    fn receive(&mut self, now: Now, inbound: Inbound, effects: &mut Effects) {
        match inbound {
            Inbound::Frame { peer, kind, body } => {
                if let Err(reason) = self.frame(now, peer, kind, &body, effects) {
                    warn!(from = %peer.address, node = %peer.node, "dropped a frame: {reason}");
                }
            }
            Inbound::Reached { peer, class, .. } => self.reached(now, peer, class, effects),
            Inbound::Lost {
                destination,
                class,
                delivery,
                ..
            } => {
                if let Some(node) = destination.node {
                    self.lost(now, NodeId(node.0), class, delivery, effects);
                }
                self.transport.resume(destination, class);
            }
            // The other direction is ours and reports for itself; answers may be lost, though.
            Inbound::Closed {
                peer,
                class: Class::Forward,
            } => {
                let event = gateway::Event::Lost(NodeId(peer.node.0), Delivery::Unknown);
                self.gateway
                    .step(now.monotonic.0, event, &mut effects.gateway);
            }
            Inbound::Closed {
                class: Class::Control | Class::Bulk,
                ..
            } => {}
        }
    }

    fn frame(
        &mut self,
        now: Now,
        peer: PeerIdentity,
        kind: Kind,
        body: &Bytes,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let from = NodeId(peer.node.0);
        match kind {
            Kind::Raft => {
                let message = Message::decode(body).map_err(|e| e.to_string())?;
                let event = ReplicationEvent::Receive { from, message };
                let Self {
                    replication, store, ..
                } = self;
                replication.step(now.monotonic, event, store, &mut effects.replication);
            }
            Kind::Requests => {
                let requests: Vec<Request> =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                for request in requests {
                    self.request(now, from, request, effects);
                }
            }
            Kind::Responses => {
                let responses: Vec<Response> =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                for response in responses {
                    self.participant.merge_hlc(response.hlc);
                    let event = gateway::Event::Response(from, response);
                    self.gateway
                        .step(now.monotonic.0, event, &mut effects.gateway);
                }
            }
            Kind::Formation => {
                let message: formation::Message =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                if let Some(answer) = formation::answer(&self.founding, &message) {
                    forming::send(&self.transport, peer.address, &answer);
                }
            }
            Kind::Membership => return Err("no membership runs here yet".to_owned()),
            Kind::Hello | Kind::HelloAnswer => return Err("a handshake in mid-stream".to_owned()),
        }
        Ok(())
    }

    fn reached(&mut self, now: Now, peer: PeerIdentity, class: Class, effects: &mut Effects) {
        let node = NodeId(peer.node.0);
        let Some(state) = self.peers.get_mut(&node) else {
            return;
        };
        if class != Class::Control {
            return;
        }
        let restarted = state.boot != Some(peer.boot.counter);
        state.boot = Some(peer.boot.counter);
        state.connected = true;
        if restarted {
            info!(%node, address = %peer.address, boot = peer.boot.counter, "peer connected");
        }
        let event = ReplicationEvent::PeerStarted {
            node,
            incarnation: Incarnation(peer.boot.counter),
        };
        self.replication.step(
            now.monotonic,
            event,
            &mut self.store,
            &mut effects.replication,
        );
    }

    fn lost(
        &mut self,
        now: Now,
        node: NodeId,
        class: Class,
        delivery: Delivery,
        effects: &mut Effects,
    ) {
        match class {
            Class::Control => {
                if let Some(state) = self.peers.get_mut(&node) {
                    state.connected = false;
                }
                let event = ReplicationEvent::PeerUnreachable { node };
                let Self {
                    replication, store, ..
                } = self;
                replication.step(now.monotonic, event, store, &mut effects.replication);
            }
            Class::Forward => {
                let event = gateway::Event::Lost(node, delivery);
                self.gateway
                    .step(now.monotonic.0, event, &mut effects.gateway);
            }
            Class::Bulk => {}
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Effects) {
        self.store.tick(now.monotonic);
        let Self {
            replication, store, ..
        } = self;
        replication.step(
            now.monotonic,
            ReplicationEvent::Tick,
            store,
            &mut effects.replication,
        );
        self.step_shards(now, ShardEvent::Tick, effects);
        self.gateway
            .step(now.monotonic.0, gateway::Event::Tick, &mut effects.gateway);
        self.advance_stop(now);
    }

    fn request(&mut self, now: Now, node: NodeId, request: Request, effects: &mut Effects) {
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

    fn step_shards(&mut self, now: Now, event: ShardEvent, effects: &mut Effects) {
        self.participant
            .step(now, event, &mut self.store, &mut effects.shards);
    }

    /// Lets the cores talk to each other until none has anything left to say.
    fn settle(&mut self, now: Now, effects: &mut Effects) -> Result<(), NodeError> {
        loop {
            self.gateway.flush(now.monotonic.0, &mut effects.gateway);
            for effect in std::mem::take(&mut effects.gateway) {
                self.carry_gateway(now, effect, effects);
            }
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
            let quiet = effects.gateway.is_empty()
                && effects.shards.is_empty()
                && effects.replication.is_empty()
                && !self.participant.needs_flush()
                && !self.replication.needs_flush();
            if quiet {
                return Ok(());
            }
        }
    }

    fn carry_gateway(&mut self, now: Now, effect: gateway::Effect, effects: &mut Effects) {
        match effect {
            gateway::Effect::Request(node, request) if node == self.id() => {
                self.request(now, node, request, effects);
            }
            gateway::Effect::Request(node, request) => {
                self.outgoing
                    .requests
                    .entry(node)
                    .or_default()
                    .push(request);
            }
            gateway::Effect::Replies(session, replies) => {
                self.mailbox.answered(replies.len());
                if let Some(outbox) = self.outboxes.get(&session) {
                    outbox.push(replies);
                }
            }
            gateway::Effect::Ask(asked, command) => {
                let reply = self.answer(&command);
                let event = gateway::Event::Answered(asked, reply);
                self.gateway
                    .step(now.monotonic.0, event, &mut effects.gateway);
            }
        }
    }

    fn carry_shard(
        &mut self,
        now: Now,
        effect: ShardEffect,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match effect {
            ShardEffect::Propose {
                shard,
                term,
                batch,
                data,
            } => {
                let refusal = match self.leads_in(shard, term) {
                    Ok(()) => match self.replication.propose(now.monotonic, shard, data) {
                        Ok(_) => return Ok(()),
                        Err(ProposeError::NotLeader(leader)) => ProposalRefusal::NotLeader {
                            hint: leader.map(|member| member.node),
                        },
                        Err(ProposeError::NotServing | ProposeError::NoReplica) => {
                            ProposalRefusal::NotLeader { hint: None }
                        }
                        Err(ProposeError::Throttled | ProposeError::TooLarge) => {
                            ProposalRefusal::Throttled
                        }
                    },
                    Err(hint) => ProposalRefusal::NotLeader { hint },
                };
                let event = ShardEvent::ProposalRefused {
                    shard,
                    batch,
                    refusal,
                };
                self.step_shards(now, event, effects);
            }
            ShardEffect::Confirm { shard, term, round } => {
                self.confirm(now, shard, term, round, effects);
            }
            ShardEffect::Respond { token, outcome } => {
                let Some(Origin { node, id }) = self.tokens.remove(&token) else {
                    return Ok(());
                };
                let hlc = self.participant.hlc();
                let response = Response { id, hlc, outcome };
                if node == self.id() {
                    let event = gateway::Event::Response(node, response);
                    self.gateway
                        .step(now.monotonic.0, event, &mut effects.gateway);
                } else {
                    self.outgoing
                        .responses
                        .entry(node)
                        .or_default()
                        .push(response);
                }
            }
            // No transaction spans shards yet, so no shard has a question for another one.
            ShardEffect::Call { .. } => {}
            ShardEffect::Described { descriptor } => self.gateway.install(descriptor),
            ShardEffect::Damaged { shard, row } => {
                error!(%shard, ?row, "a stored value is damaged: not served, to be repaired");
            }
            ShardEffect::Fatal { shard, reason } => {
                return Err(NodeError::Broken(format!("shard {shard}: {reason}")));
            }
        }
        Ok(())
    }

    /// Whether this node leads a shard in exactly this term; else who does, if known.
    fn leads_in(&self, shard: ShardId, term: u64) -> Result<(), Option<NodeId>> {
        match self.replication.leadership(shard) {
            Some(Leadership {
                role: Role::Leader,
                term: present,
                ..
            }) if present == term => Ok(()),
            Some(Leadership { leader, .. }) => Err(leader.map(|member| member.node)),
            None => Err(None),
        }
    }

    fn confirm(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        round: Round,
        effects: &mut Effects,
    ) {
        let token = ReadToken(self.next_read);
        self.next_read += 1;
        let event = match self.replication.read(now.monotonic, shard, token) {
            Read::Ready(grant) => self.judge_grant(shard, term, round, grant),
            Read::Pending => {
                self.confirmations.insert(token, (shard, term, round));
                return;
            }
            Read::Refused(failure) => doubtful(shard, term, round, failure),
        };
        self.step_shards(now, event, effects);
    }

    /// The state has been read: whether the grant still holds, by a clock read now.
    fn judge_grant(
        &self,
        shard: ShardId,
        term: u64,
        round: Round,
        grant: synod_replication::Grant,
    ) -> ShardEvent {
        let later = Micros(self.clock.monotonic_us());
        if grant.term == term && self.replication.confirm(later, shard, &grant) {
            ShardEvent::LeadershipConfirmed { shard, term, round }
        } else {
            ShardEvent::LeadershipDoubtful {
                shard,
                term,
                round,
                hint: None,
            }
        }
    }

    fn carry_replication(
        &mut self,
        now: Now,
        effect: ReplicationEffect,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match effect {
            ReplicationEffect::Send { to, message } => self.send_raft(to, &message),
            ReplicationEffect::Committed { shard, entries } => {
                let last = entries.last().map_or(0, |entry| entry.id.index);
                self.step_shards(now, ShardEvent::Committed { shard, entries }, effects);
                self.replication.applied(
                    now.monotonic,
                    shard,
                    last,
                    &mut self.store,
                    &mut effects.replication,
                );
            }
            ReplicationEffect::Leadership { shard, leadership } => {
                self.leadership(now, shard, leadership, effects);
            }
            ReplicationEffect::ReadReady {
                shard,
                token,
                grant,
            } => {
                if let Some((_, term, round)) = self.confirmations.remove(&token) {
                    let event = self.judge_grant(shard, term, round, grant);
                    self.step_shards(now, event, effects);
                }
            }
            ReplicationEffect::ReadFailed {
                shard,
                token,
                failure,
            } => {
                if let Some((_, term, round)) = self.confirmations.remove(&token) {
                    self.step_shards(now, doubtful(shard, term, round, failure), effects);
                }
            }
            // The participant learns it from what is applied under that index instead.
            ReplicationEffect::ProposalLost { .. } => {}
            ReplicationEffect::ConfigurationChanged { shard, id, .. } => {
                info!(%shard, %id, "the shard's members changed");
            }
            ReplicationEffect::SnapshotInstalled { shard, .. } => {
                self.step_shards(now, ShardEvent::SnapshotInstalled { shard }, effects);
            }
            ReplicationEffect::Removed { shard, replica } => {
                warn!(%shard, %replica, "this replica is no longer a member of its shard");
            }
            ReplicationEffect::Missing {
                shard,
                replica,
                from,
            } => {
                warn!(%shard, %replica, %from, "a leader counts on a replica that is not here");
            }
            ReplicationEffect::Damaged {
                shard,
                replica,
                damage,
            } => {
                error!(%shard, %replica, ?damage, "the replica's disk lost something: it does not \
                    take part until its peers have repaired it");
            }
            ReplicationEffect::Repaired {
                shard,
                replica,
                entries,
            } => {
                info!(%shard, %replica, entries, "repaired from peers");
            }
            ReplicationEffect::Fatal { reason } => return Err(NodeError::Broken(reason)),
        }
        Ok(())
    }

    fn leadership(
        &mut self,
        now: Now,
        shard: ShardId,
        leadership: Leadership,
        effects: &mut Effects,
    ) {
        let Leadership {
            role,
            term,
            leader,
            serving,
        } = leadership;
        debug!(%shard, ?role, term, serving, "leadership");
        let leader = leader.map(|member| member.node);
        let event = if role == Role::Leader && serving {
            ShardLeadership::Leading { term }
        } else {
            ShardLeadership::Following { leader }
        };
        self.step_shards(
            now,
            ShardEvent::Leadership {
                shard,
                leadership: event,
            },
            effects,
        );
        if let Some(node) = leader
            && (node != self.id() || serving)
        {
            let event = gateway::Event::Leader(shard, node);
            self.gateway
                .step(now.monotonic.0, event, &mut effects.gateway);
        }
    }

    fn send_raft(&mut self, to: NodeId, message: &Message) {
        let class = match message.class() {
            synod_replication::Class::Control => Class::Control,
            synod_replication::Class::Bulk => Class::Bulk,
        };
        let frame = message.encode(transport::begin());
        match transport::seal(Kind::Raft, frame) {
            Ok(frame) => {
                // A full queue is a lost message: Raft repeats.
                let _ = self.send_frame(to, class, frame);
            }
            Err(error) => error!(%to, "cannot send a Raft message: {error}"),
        }
    }

    /// Whether the frame was taken.
    fn send_frame(&self, to: NodeId, class: Class, frame: transport::Frame) -> bool {
        let Some(peer) = self.peers.get(&to) else {
            return false;
        };
        let node = Some(synod_membership::id::NodeId(to.0));
        let destination = Destination {
            node,
            address: peer.address,
        };
        self.transport.send(destination, class, frame).is_ok()
    }

    /// Sends the turn's requests and answers, one frame a peer. Whether some requests could not
    /// be sent: the gateway knows by then, and may have new ones.
    fn send(&mut self, now: Now, effects: &mut Effects) -> bool {
        for (node, responses) in std::mem::take(&mut self.outgoing.responses) {
            // Answers that find no room are lost like those on a broken connection: the gateway
            // that waits learns it by time, and tells its clients what it does not know.
            self.send_batch(node, Kind::Responses, &responses);
        }
        let mut unsent = false;
        for (node, requests) in std::mem::take(&mut self.outgoing.requests) {
            if !self.send_batch(node, Kind::Requests, &requests) {
                let ids = requests.iter().map(|request| request.id).collect();
                let event = gateway::Event::Unsent(node, ids);
                self.gateway
                    .step(now.monotonic.0, event, &mut effects.gateway);
                unsent = true;
            }
        }
        unsent
    }

    /// Whether the batch was taken.
    fn send_batch<T>(&self, to: NodeId, kind: Kind, batch: &Vec<T>) -> bool
    where
        Vec<T>: transport::Encodable,
    {
        match transport::encode(kind, batch) {
            Ok(frame) => self.send_frame(to, Class::Forward, frame),
            Err(error) => {
                error!(%to, "cannot send a batch: {error}");
                false
            }
        }
    }

    /// Clients are gone: hand over, then seal.
    pub(super) fn begin_stop(&mut self) {
        let now_us = self.clock.monotonic_us();
        self.stop = Stop::HandingOver {
            until_us: now_us + HAND_OVER_US,
        };
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop == Stop::Done
    }

    fn advance_stop(&mut self, now: Now) {
        let Stop::HandingOver { until_us } = self.stop else {
            return;
        };
        let led: Vec<ShardId> = self
            .replication
            .shards()
            .filter(|shard| {
                self.replication
                    .leadership(*shard)
                    .is_some_and(|leadership| leadership.role == Role::Leader)
            })
            .collect();
        let mut handing = false;
        for shard in led {
            let Some(configuration) = self.replication.configuration(shard) else {
                continue;
            };
            let heir = configuration.voters.iter().copied().find(|replica| {
                configuration
                    .nodes
                    .get(replica)
                    .is_some_and(|node| self.peers.get(node).is_some_and(|peer| peer.connected))
            });
            if let Some(heir) = heir {
                handing = true;
                // Refused while one is under way: asked again at the next tick.
                let _ = self.replication.transfer(now.monotonic, shard, heir);
            }
        }
        if !handing || now.monotonic.0 >= until_us {
            self.stop = Stop::Sealing;
            self.store.stop();
        }
    }

    fn answer(&self, command: &synod_txn::Command) -> Reply {
        super::status::answer(self, command)
    }
}

fn doubtful(shard: ShardId, term: u64, round: Round, failure: ReadFailure) -> ShardEvent {
    let hint = match failure {
        ReadFailure::NotLeader(leader) => leader.map(|member| member.node),
        ReadFailure::TimedOut | ReadFailure::NoReplica => None,
    };
    ShardEvent::LeadershipDoubtful {
        shard,
        term,
        round,
        hint,
    }
}
