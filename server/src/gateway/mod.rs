//! The gateway: any node takes any command and finds who can answer it.
//!
//! A command is split over the shards that it concerns; each part goes to the node that is thought
//! to lead the shard, here or elsewhere; the answers are put together and go back in order. What a
//! leader refuses *without effect* is tried again, elsewhere or later, until the command's deadline.
//! What was sent and not answered is never tried again if it writes: the client is told that the
//! outcome is unknown. So there are three ends, and no wrong one: done, not done, unknown.
//!
//! The core is sans-I/O. Invariants: each request that is under way belongs to exactly one part of
//! one operation; an operation ends with exactly one reply; a session's replies leave in the order
//! of its commands.

mod handle;
mod operation;
mod session;

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::{ShardId, Version};
use synod_txn::{Class, Command};
use synod_txn::{ErrorCode, Reply};
use synod_txn::{Outcome, Request, Response, Stream};
use synod_txn::{ShardDescriptor, ShardMap};

pub use self::handle::{Handle, Mailbox, Outbox, SessionId, Submitted};
use self::operation::{Operation, PartState};
use self::session::{Footprint, Session, Slot};
use crate::edge::session::Submission;
use crate::transport::Delivery;

/// What can happen to the gateway.
#[derive(Debug)]
pub enum Event {
    /// A client connected.
    Opened(SessionId),
    /// A client sent commands.
    Submitted(SessionId, Vec<Submission>),
    /// A client is gone.
    Closed(SessionId),
    /// A leader answered.
    Response(NodeId, Response),
    /// Requests to this node are lost, and perhaps answers of it.
    Lost(NodeId, Delivery),
    /// These requests never left for the node.
    Unsent(NodeId, Vec<u64>),
    /// A shard's leader is known.
    Leader(ShardId, NodeId),
    /// The answer to [`Effect::Ask`].
    Answered(Asked, Reply),
    /// Time passed.
    Tick,
}

/// What the gateway wants done.
#[derive(Debug)]
pub enum Effect {
    /// Give a request to the participant of a node, this one perhaps.
    Request(NodeId, Request),
    /// Replies for a client, in order.
    Replies(SessionId, Vec<Reply>),
    /// A question to the node itself (`SYNOD …`); answered with [`Event::Answered`].
    Ask(Asked, Command),
}

/// Names a question to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    session: SessionId,
    place: u64,
}

/// Times of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a command may take before the client is told that it did not happen, or that
    /// nobody knows, in microseconds.
    pub command_timeout_us: u64,
    /// The pause before a refused command is tried again where no hint says where, in
    /// microseconds; grows with the attempts.
    pub retry_pause_us: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command_timeout_us: 10_000_000,
            retry_pause_us: 5_000,
        }
    }
}

/// The gateway of one node.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    map: ShardMap,
    leaders: BTreeMap<ShardId, NodeId>,
    sessions: BTreeMap<SessionId, Session>,
    /// Distinguishes this life's streams from those of earlier ones and of other nodes.
    stream_prefix: u64,
    operations: BTreeMap<u64, Operation>,
    /// Request id → the operation and the part that wait for it, and where it was sent.
    requests: BTreeMap<u64, Pending>,
    next_operation: u64,
    next_request: u64,
    /// Sessions that may have something to start or to say.
    dirty: BTreeSet<SessionId>,
    /// Parts that wait for their next attempt, by time.
    retries: BTreeSet<(u64, u64, usize)>,
    hlc: Version,
    /// Why commands are turned away, if they are.
    closed: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    operation: u64,
    part: usize,
    node: NodeId,
}

impl Gateway {
    /// A gateway that routes by `map`. `boot_nonce` makes its streams unique.
    pub fn new(boot_nonce: u64, map: ShardMap, settings: Settings) -> Self {
        Self {
            settings,
            map,
            leaders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            stream_prefix: boot_nonce << 32,
            operations: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_operation: 0,
            // Answers to an earlier life of this node must not fit requests of this one.
            next_request: boot_nonce,
            dirty: BTreeSet::new(),
            retries: BTreeSet::new(),
            hlc: Version::ZERO,
            closed: None,
        }
    }

    /// Turns new commands away with this reason from now on, or takes them again. What is under way
    /// goes on.
    pub fn close(&mut self, why: Option<String>) {
        self.closed = why;
    }

    /// What is known of the shards.
    pub fn map(&self) -> &ShardMap {
        &self.map
    }

    /// Who is thought to lead a shard.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(&shard).copied()
    }

    /// Requests under way.
    pub fn requests_under_way(&self) -> usize {
        self.requests.len()
    }

    /// Takes one event. Effects come at once, or with [`Gateway::flush`].
    pub fn step(&mut self, now_us: u64, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Opened(session) => {
                let stream = self.stream_prefix | (session.0 & u64::from(u32::MAX));
                self.sessions.insert(session, Session::new(stream));
            }
            Event::Submitted(session, batch) => self.submitted(now_us, session, batch),
            Event::Closed(id) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    // What was started goes on; what was not is nobody's any more.
                    session.closed = true;
                    self.dirty.insert(id);
                }
            }
            Event::Response(from, response) => self.answered(now_us, from, response, effects),
            Event::Lost(node, delivery) => {
                let lost = self
                    .requests
                    .iter()
                    .filter(|(_, pending)| pending.node == node)
                    .map(|(id, _)| *id)
                    .collect();
                self.lost(now_us, node, lost, delivery, effects);
            }
            Event::Unsent(node, lost) => {
                self.lost(now_us, node, lost, Delivery::Nothing, effects);
            }
            Event::Leader(shard, node) => {
                self.leaders.insert(shard, node);
            }
            Event::Answered(Asked { session: id, place }, reply) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.finish(place, reply);
                    self.dirty.insert(id);
                }
            }
            Event::Tick => self.tick(now_us, effects),
        }
    }

    /// Whether [`Gateway::flush`] has something to do.
    pub fn needs_flush(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Starts what may start and hands out replies: once after a batch of events.
    pub fn flush(&mut self, now_us: u64, effects: &mut Vec<Effect>) {
        while let Some(id) = self.dirty.pop_first() {
            self.advance(now_us, id, effects);
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let mut replies = Vec::new();
            session.drain(&mut replies);
            if session.closed {
                if session.is_idle() {
                    self.sessions.remove(&id);
                }
            } else if !replies.is_empty() {
                effects.push(Effect::Replies(id, replies));
            }
        }
    }

    fn submitted(&mut self, now_us: u64, id: SessionId, batch: Vec<Submission>) {
        let deadline_us = now_us + self.settings.command_timeout_us;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        for submission in batch {
            let submission = match submission {
                Submission::Command(command) => session.refuse_transaction(command),
                other => other,
            };
            session.push(match submission {
                Submission::Command(command)
                    if self.closed.is_some() && command.class() != Class::Control =>
                {
                    let why = self.closed.as_deref().unwrap_or_default();
                    Slot::Done(Reply::error(ErrorCode::NotServing, why.to_owned()))
                }
                Submission::Command(command) => Slot::Waiting {
                    command,
                    deadline_us,
                    not_before_us: 0,
                },
                Submission::Immediate(reply) | Submission::Reset(reply) => Slot::Done(reply),
            });
        }
        self.dirty.insert(id);
    }

    /// Starts the session's next commands, as many as may run beside each other.
    fn advance(&mut self, now_us: u64, id: SessionId, effects: &mut Vec<Effect>) {
        loop {
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            let closed = session.closed;
            let Some((place, command, deadline_us)) = session.candidate(now_us) else {
                return;
            };
            if closed {
                session.finish(place, Reply::Null);
                continue;
            }
            if command.class() == Class::Control {
                let footprint = Footprint {
                    shard: None,
                    class: Class::Control,
                };
                if !session.admits(footprint) {
                    return;
                }
                if let Some(command) = session.start(place, footprint) {
                    effects.push(Effect::Ask(Asked { session: id, place }, command));
                }
                continue;
            }
            let class = command.class();
            let split = match self.map.split(command.clone()) {
                Ok(split) => split,
                Err(reply) => {
                    session.finish(place, reply);
                    continue;
                }
            };
            let shard = match split.parts.as_slice() {
                [only] => Some(only.shard),
                _ => None,
            };
            let footprint = Footprint { shard, class };
            if !session.admits(footprint) {
                return;
            }
            let stream = if shard.is_some() {
                session.stream
            } else {
                Stream::NONE
            };
            let Some(command) = session.start(place, footprint) else {
                return;
            };
            let number = self.next_operation;
            self.next_operation += 1;
            let parts = split.parts.len();
            let operation = Operation::new(id, place, command, class, split, stream, deadline_us);
            self.operations.insert(number, operation);
            for part in 0..parts {
                self.send(now_us, number, part, effects);
            }
        }
    }

    /// Sends one part to the node that is thought to lead its shard.
    fn send(&mut self, now_us: u64, number: u64, part: usize, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        let shard = operation.parts[part].shard;
        let node = self.leaders.get(&shard).copied().or_else(|| {
            // Nobody known: ask the replicas in turn.
            let descriptor = self.map.descriptor(shard)?;
            let turn = operation.parts[part].attempts as usize;
            let replicas = &descriptor.replicas;
            replicas
                .get(turn % replicas.len().max(1))
                .map(|replica| replica.node)
        });
        let Some(node) = node else {
            operation.parts[part].state = PartState::Resting;
            self.retries
                .insert((now_us + self.settings.retry_pause_us, number, part));
            return;
        };
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        operation.parts[part].state = PartState::Sent(id);
        operation.parts[part].attempts += 1;
        let request = Request {
            id,
            shard,
            epoch: operation.parts[part].epoch,
            hlc: self.hlc,
            stream: operation.stream,
            body: operation.parts[part].command.clone().into(),
        };
        self.requests.insert(
            id,
            Pending {
                operation: number,
                part,
                node,
            },
        );
        effects.push(Effect::Request(node, request));
    }

    fn answered(
        &mut self,
        now_us: u64,
        from: NodeId,
        response: Response,
        effects: &mut Vec<Effect>,
    ) {
        self.hlc = self.hlc.max(response.hlc);
        // An answer that nobody waits for any more, or not from this node: the client was told
        // otherwise already.
        let is_awaited = |pending: &Pending| pending.node == from;
        if !self.requests.get(&response.id).is_some_and(is_awaited) {
            return;
        }
        let Some(pending) = self.requests.remove(&response.id) else {
            return;
        };
        let Pending {
            operation: number,
            part,
            node,
        } = pending;
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        let shard = operation.parts[part].shard;
        match response.outcome {
            Outcome::Reply(reply) => {
                self.leaders.insert(shard, from);
                operation.parts[part].state = PartState::Answered(reply);
                self.conclude(number);
            }
            // The answer to another kind of question: only a defect could send it here.
            Outcome::Unknown | Outcome::Txn(_) => {
                operation.parts[part].state = PartState::Answered(unknown());
                self.conclude(number);
            }
            Outcome::NotLeader { hint } => {
                match hint {
                    Some(leader) if leader != node => self.leaders.insert(shard, leader),
                    _ => self.leaders.remove(&shard),
                };
                let followed = hint.is_some_and(|leader| leader != node);
                self.refused(now_us, number, part, followed, effects);
            }
            Outcome::StaleEpoch { descriptor } => {
                self.map.install(descriptor);
                self.refused(now_us, number, part, true, effects);
            }
            Outcome::StreamBroken => self.refused(now_us, number, part, true, effects),
            Outcome::Overloaded => self.refused(now_us, number, part, false, effects),
        }
    }

    /// A part had certainly no effect. A command of one shard goes back to its session, which
    /// keeps the order; a part of several is tried again by itself.
    fn refused(
        &mut self,
        now_us: u64,
        number: u64,
        part: usize,
        at_once: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        let attempts = operation.attempts();
        // A hint is followed at once, but hints in a circle are not followed for ever.
        let pause_us = if at_once && attempts < 3 {
            0
        } else {
            self.settings.retry_pause_us * u64::from(attempts.min(20))
        };
        let again_us = now_us + pause_us;
        if again_us >= operation.deadline_us {
            let shard = operation.parts[part].shard;
            operation.parts[part].state = PartState::Answered(no_leader(shard));
            self.conclude(number);
            return;
        }
        if operation.parts.len() > 1 {
            operation.parts[part].state = PartState::Resting;
            if pause_us == 0 {
                self.send(now_us, number, part, effects);
            } else {
                self.retries.insert((again_us, number, part));
            }
            return;
        }
        let Some(operation) = self.operations.remove(&number) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&operation.session) {
            session.refuse(
                operation.place,
                operation.command,
                operation.deadline_us,
                again_us,
            );
            self.dirty.insert(operation.session);
        }
    }

    /// Ends an operation whose parts are all answered.
    fn conclude(&mut self, number: u64) {
        if !self
            .operations
            .get(&number)
            .is_some_and(Operation::is_answered)
        {
            return;
        }
        let Some(operation) = self.operations.remove(&number) else {
            return;
        };
        let (id, place) = (operation.session, operation.place);
        let reply = operation.reply();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.finish(place, reply);
            self.dirty.insert(id);
        }
    }

    /// Gives up on requests that can no longer be answered: reads, and what certainly did not
    /// arrive, are tried elsewhere; of other writes nobody knows.
    fn lost(
        &mut self,
        now_us: u64,
        node: NodeId,
        lost: Vec<u64>,
        delivery: Delivery,
        effects: &mut Vec<Effect>,
    ) {
        self.leaders.retain(|_, leader| *leader != node);
        for id in lost {
            let Some(Pending {
                operation: number,
                part,
                ..
            }) = self.requests.remove(&id)
            else {
                continue;
            };
            let Some(operation) = self.operations.get_mut(&number) else {
                continue;
            };
            if operation.class == Class::Read || delivery == Delivery::Nothing {
                self.refused(now_us, number, part, false, effects);
            } else {
                operation.parts[part].state = PartState::Answered(unknown());
                self.conclude(number);
            }
        }
    }

    fn tick(&mut self, now_us: u64, effects: &mut Vec<Effect>) {
        while let Some(&(due_us, number, part)) = self.retries.first()
            && due_us <= now_us
        {
            self.retries.pop_first();
            self.send(now_us, number, part, effects);
        }
        self.expire_operations(now_us);
        for (id, session) in &mut self.sessions {
            for place in session.expired(now_us) {
                session.finish(place, timed_out());
            }
            // Those that wait for a pause to end.
            if !session.is_idle() {
                self.dirty.insert(*id);
            }
        }
    }

    fn expire_operations(&mut self, now_us: u64) {
        let late: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.deadline_us <= now_us)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let Some(operation) = self.operations.get_mut(&number) else {
                continue;
            };
            let reads = operation.class == Class::Read;
            for part in &mut operation.parts {
                let reply = match part.state {
                    PartState::Answered(_) => continue,
                    PartState::Sent(id) => {
                        self.requests.remove(&id);
                        if reads { timed_out() } else { unknown() }
                    }
                    PartState::Resting => no_leader(part.shard),
                };
                part.state = PartState::Answered(reply);
            }
            self.conclude(number);
        }
    }

    /// Replaces what is known of a shard.
    pub fn install(&mut self, descriptor: ShardDescriptor) {
        self.map.install(descriptor);
    }
}

fn unknown() -> Reply {
    Reply::error(
        ErrorCode::Unknown,
        "the outcome is not known: it may or may not have been done",
    )
}

fn timed_out() -> Reply {
    Reply::error(ErrorCode::TryAgain, "no answer in time; nothing was done")
}

fn no_leader(shard: ShardId) -> Reply {
    let message = format!("shard {shard} has no reachable leader; nothing was done");
    Reply::error(ErrorCode::TryAgain, message)
}

#[cfg(test)]
mod tests;
