//! The gateway: any node takes any command and finds who can answer it.
//!
//! A command on one shard goes to the node that is thought to lead it, here or elsewhere; one on
//! several shards, and what a client makes a transaction, goes to the coordinator, which asks the
//! shards through the same routes. The answers go back in order. What a
//! leader refuses *without effect* is tried again, elsewhere or later, until the command's deadline.
//! What was sent and not answered is never tried again if it writes: the client is told that the
//! outcome is unknown. So there are three ends, and no wrong one: done, not done, unknown.
//!
//! The core is sans-I/O. Invariants: each request that is under way belongs to exactly one operation
//! or question; an operation ends with exactly one reply, a question with one answer; a session's
//! replies leave in the order of its commands.

mod handle;
mod operation;
mod questions;
mod session;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{ShardId, Version};
use synod_testpoint::{planted, reached};
use synod_txn::coordinator::{self, Connection, Coordinator, Ticket};
use synod_txn::{Class, Command, Now};
use synod_txn::{ErrorCode, Reply};
use synod_txn::{Merge, ShardDescriptor, ShardMap};
use synod_txn::{Outcome, Request, Response, Stream};

pub use self::handle::{Handle, Mailbox, Outbox, SessionId, Submitted};
use self::operation::Operation;
use self::questions::Question;
use self::session::{Candidate, Footprint, Place, Session, Slot};
use self::transactions::Holder;
use crate::edge::session::Submission;
use crate::transport::Delivery;

/// What can happen to the gateway.
#[derive(Debug)]
pub enum Event {
    /// A client connected, and what its commands so far have made of its transactions.
    Opened(SessionId, Connection),
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
    /// The answers to these requests to a node are not wanted any more: what has not been started of
    /// them need not be.
    Withdraw(NodeId, Vec<u64>),
    /// Replies for a client, in order.
    Replies(SessionId, Vec<Reply>),
    /// A question to the node itself (`SYNOD …`); answered with [`Event::Answered`].
    Ask(Asked, Vec<Bytes>),
    /// The answer to [`Gateway::ask_for`].
    Called {
        /// The shard whose leader asked.
        shard: ShardId,
        /// Its name for the question.
        call: synod_txn::Call,
        /// What was answered.
        outcome: Outcome,
    },
}

/// Names a question to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    session: SessionId,
    place: u64,
}

/// Times of the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a command may take before the client is told that it did not happen, or that
    /// nobody knows, in microseconds.
    pub command_timeout_us: u64,
    /// The pause before a refused command is tried again where no hint says where, in
    /// microseconds; grows with the attempts.
    pub retry_pause_us: u64,
    /// Those of transactions.
    pub transactions: coordinator::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command_timeout_us: 10_000_000,
            retry_pause_us: 5_000,
            transactions: coordinator::Settings::default(),
        }
    }
}

/// The gateway of one node.
#[derive(Debug)]
pub struct Gateway {
    node: NodeId,
    settings: Settings,
    map: ShardMap,
    leaders: BTreeMap<ShardId, NodeId>,
    sessions: BTreeMap<SessionId, Session>,
    /// Commands of all sessions whose replies have not left: with none, a tick looks at no session.
    open_commands: usize,
    /// Distinguishes this life's streams from those of earlier ones and of other nodes.
    stream_prefix: u64,
    operations: BTreeMap<Errand, Operation>,
    /// Request id → who waits for it, and where it was sent.
    requests: BTreeMap<u64, Pending>,
    coordinator: Coordinator,
    /// Who waits for news of the coordinator's transactions.
    tickets: BTreeMap<Ticket, Holder>,
    next_ticket: u64,
    /// Questions of the coordinator and of shards' leaders.
    questions: BTreeMap<u64, Question>,
    next_question: u64,
    /// Questions that wait for their next attempt, by time.
    question_retries: BTreeSet<(u64, u64)>,
    next_request: u64,
    /// Sessions that may have something to start or to say.
    dirty: BTreeSet<SessionId>,
    hlc: Version,
    /// Why commands are turned away, if they are.
    closed: Option<String>,
}

/// Names an operation: a command under way, of which there is one at a place of a session.
type Errand = (SessionId, Place);

/// A request whose outcome is open.
#[derive(Clone, Copy, Debug)]
struct Pending {
    waiter: Waiter,
    node: NodeId,
    shard: ShardId,
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// An operation.
    Operation(Errand),
    /// A question.
    Question(u64),
}

/// Where a command goes.
enum Routed {
    /// To one shard; the part of it that the shard is asked, where that is not the whole.
    One {
        shard: ShardId,
        epoch: u64,
        part: Option<(Command, Merge)>,
    },
    /// To several: it is a transaction.
    Several,
}

impl Routed {
    fn of(map: &ShardMap, command: &Command) -> Result<Routed, Reply> {
        if let Some(home) = map.home(command) {
            return Ok(Routed::One {
                shard: home.shard,
                epoch: home.epoch,
                part: None,
            });
        }
        let mut split = map.split(command.clone())?;
        Ok(match (split.parts.len(), split.parts.pop()) {
            (1, Some(part)) => Routed::One {
                shard: part.shard,
                epoch: part.epoch,
                part: Some((part.command, split.merge)),
            },
            _ => Routed::Several,
        })
    }
}

impl Gateway {
    /// A gateway of `node` that routes by `map`. `boot_nonce` makes its streams unique, and the
    /// counter of the node's starts the names of its transactions.
    pub fn new(
        node: NodeId,
        (boot_counter, boot_nonce): (u64, u64),
        map: ShardMap,
        settings: Settings,
    ) -> Self {
        Self {
            node,
            coordinator: Coordinator::new(settings.transactions.clone(), node, boot_counter),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            question_retries: BTreeSet::new(),
            settings,
            map,
            leaders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            open_commands: 0,
            stream_prefix: boot_nonce << 32,
            operations: BTreeMap::new(),
            requests: BTreeMap::new(),
            // Answers to an earlier life of this node must not fit requests of this one.
            next_request: boot_nonce,
            dirty: BTreeSet::new(),
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

    /// Transactions that are not over.
    pub fn transactions_under_way(&self) -> usize {
        self.coordinator.active()
    }

    /// Whether nobody waits for anything here, a client or this node itself.
    pub fn is_idle(&self) -> bool {
        self.open_commands == 0
            && self.operations.is_empty()
            && self.questions.is_empty()
            && self.coordinator.active() == 0
            && !self.needs_flush()
    }

    /// Takes one event. Effects come at once, or with [`Gateway::flush`].
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let now_us = now.monotonic.0;
        match event {
            Event::Opened(session, connection) => {
                let stream = self.stream_prefix | (session.0 & u64::from(u32::MAX));
                let it = Session::new(stream, connection);
                self.sessions.insert(session, it);
            }
            Event::Submitted(session, batch) => self.submitted(now_us, session, batch),
            Event::Closed(id) => self.client_gone(id, effects),
            Event::Response(from, response) => self.answered(now, from, response, effects),
            Event::Lost(node, delivery) => {
                let lost = self
                    .requests
                    .iter()
                    .filter(|(_, pending)| pending.node == node)
                    .map(|(id, _)| *id)
                    .collect();
                self.lost(now, node, lost, delivery, effects);
            }
            Event::Unsent(node, lost) => {
                self.lost(now, node, lost, Delivery::Nothing, effects);
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
            Event::Tick => self.tick(now, effects),
        }
    }

    /// Whether [`Gateway::flush`] has something to do.
    pub fn needs_flush(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Starts what may start and hands out replies: once after a batch of events.
    pub fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(id) = self.dirty.pop_first() {
            self.advance(now, id, effects);
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let mut replies = Vec::new();
            session.drain(&mut replies);
            self.open_commands -= replies.len();
            let over = session.closed && session.is_idle();
            // Of a client that is gone too: its commands are not under way any more.
            if !replies.is_empty() {
                effects.push(Effect::Replies(id, replies));
            }
            if over {
                self.abandon(now, id, effects);
                self.sessions.remove(&id);
            }
        }
    }

    /// A client is gone, and with it all interest in its commands: what was not started will not be,
    /// and of what was, the leaders are told that nobody waits for it. Transactions that the coordinator
    /// has begun are ended by it.
    fn client_gone(&mut self, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.close();
        self.dirty.insert(id);
        let mut withdrawn: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        let errands = self.operations.range((id, 0)..=(id, Place::MAX));
        let errands: Vec<Errand> = errands.map(|(errand, _)| *errand).collect();
        for errand in errands {
            session.finish(errand.1, Reply::Null);
            let sent = self.operations.remove(&errand).and_then(|it| it.sent);
            if let Some(request) = sent
                && let Some(pending) = self.requests.remove(&request)
            {
                withdrawn.entry(pending.node).or_default().push(request);
            }
        }
        for (node, requests) in withdrawn {
            reached!(RequestWithdrawn);
            effects.push(Effect::Withdraw(node, requests));
        }
    }

    fn submitted(&mut self, now_us: u64, id: SessionId, batch: Vec<Submission>) {
        let deadline_us = now_us + self.settings.command_timeout_us;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.open_commands += batch.len();
        for submission in batch {
            session.push(match submission {
                Submission::Command(command)
                    if self.closed.is_some() && command.class() != Class::Control =>
                {
                    let why = self.closed.as_deref().unwrap_or_default();
                    let why = Reply::error(ErrorCode::NotServing, why.to_owned());
                    Slot::TurnedAway { command, why }
                }
                Submission::Command(command) => Slot::Waiting {
                    command,
                    deadline_us,
                    not_before_us: 0,
                    attempts: 0,
                },
                Submission::Immediate(reply) => Slot::Known(reply),
                Submission::Reset(reply) => Slot::Reset(reply),
            });
        }
        self.dirty.insert(id);
    }

    /// Starts the session's next commands, as many as may run beside each other.
    fn advance(&mut self, now: Now, id: SessionId, effects: &mut Vec<Effect>) {
        loop {
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            let (place, class, deadline_us) = match session.candidate(now.monotonic.0) {
                Candidate::None => return,
                Candidate::Known(place) => {
                    session.tell_known(place);
                    continue;
                }
                Candidate::TurnedAway(place) => {
                    // The one before may be what the transaction waits for.
                    if session.connection.is_in_transaction() && !session.is_quiet() {
                        return;
                    }
                    if let Some(event) = session.tell_turned_away(place) {
                        self.forget_transaction(now, event, effects);
                    }
                    continue;
                }
                Candidate::Reset(place) => {
                    if !session.is_quiet() {
                        return;
                    }
                    self.abandon(now, id, effects);
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.tell_reset(place);
                    }
                    continue;
                }
                Candidate::Command(place, class, deadline_us) => (place, class, deadline_us),
            };
            if class == Class::Control || session.connection.is_in_transaction() {
                match self.start_alone(now, id, place, effects) {
                    true => continue,
                    false => return,
                }
            }
            if !self.start(now, id, (place, class, deadline_us), effects) {
                return;
            }
        }
    }

    /// Starts a session's command on keys. Whether the next one may be looked at.
    fn start(
        &mut self,
        now: Now,
        id: SessionId,
        (place, class, deadline_us): (Place, Class, u64),
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let Some(command) = session.command(place) else {
            return false;
        };
        let routed = match Routed::of(&self.map, command) {
            Ok(routed) => routed,
            Err(reply) if is_try_again(&reply) && now.monotonic.0 < deadline_us => {
                // A hole in the map: it is being filled.
                session.postpone(place, now.monotonic.0 + self.settings.retry_pause_us);
                return false;
            }
            Err(reply) => {
                session.finish(place, reply);
                return true;
            }
        };
        let shard = match &routed {
            Routed::One { shard, .. } => Some(*shard),
            Routed::Several => None,
        };
        let footprint = Footprint { shard, class };
        if !session.admits(footprint) {
            return false;
        }
        let stream = session.stream;
        let Some((command, attempts)) = session.start(place, footprint) else {
            return false;
        };
        let Routed::One { shard, epoch, part } = routed else {
            self.start_over_shards(now, id, place, command, effects);
            return true;
        };
        let (body, merge) = part.unwrap_or_else(|| (command.clone(), Merge::Whole));
        let operation = Operation {
            command,
            class,
            shard,
            merge,
            deadline_us,
            attempts,
            sent: None,
        };
        self.send(now, (id, place), operation, (epoch, stream), body, effects);
        true
    }

    /// The node to ask about a shard: its leader, as far as is known, else its replicas in turn.
    fn route(&self, shard: ShardId, turn: u32) -> Option<NodeId> {
        self.leaders.get(&shard).copied().or_else(|| {
            let replicas = &self.map.descriptor(shard)?.replicas;
            let at = turn as usize % replicas.len().max(1);
            replicas.get(at).map(|replica| replica.node)
        })
    }

    /// This node, if it has a replica of a shard.
    fn has_replica(&self, shard: ShardId) -> Option<NodeId> {
        let replicas = &self.map.descriptor(shard)?.replicas;
        let mut nodes = replicas.iter().map(|replica| replica.node);
        nodes.find(|node| *node == self.node)
    }

    fn next_request(&mut self) -> u64 {
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        id
    }

    /// A node has said that it does not lead a shard, and perhaps who does.
    fn learn_hint(&mut self, shard: ShardId, from: NodeId, hint: Option<NodeId>) {
        match hint {
            Some(leader) if leader != from => self.leaders.insert(shard, leader),
            Some(_) | None => self.leaders.remove(&shard),
        };
    }

    /// Sends a command to the node that is thought to lead its shard.
    fn send(
        &mut self,
        now: Now,
        errand: Errand,
        mut operation: Operation,
        (epoch, stream): (u64, Stream),
        body: Command,
        effects: &mut Vec<Effect>,
    ) {
        let shard = operation.shard;
        let node = self.route(shard, operation.attempts);
        operation.attempts += 1;
        let Some(node) = node else {
            self.operations.insert(errand, operation);
            return self.refused(now, errand, false);
        };
        let id = self.next_request();
        operation.sent = Some(id);
        self.operations.insert(errand, operation);
        let request = Request {
            id,
            shard,
            epoch,
            hlc: self.hlc,
            stream,
            body: body.into(),
        };
        let waiter = Waiter::Operation(errand);
        self.requests.insert(
            id,
            Pending {
                waiter,
                node,
                shard,
            },
        );
        effects.push(Effect::Request(node, request));
    }

    fn answered(&mut self, now: Now, from: NodeId, response: Response, effects: &mut Vec<Effect>) {
        self.hlc = self.hlc.max(response.hlc);
        // An answer that nobody waits for any more, or not from this node: the client was told
        // otherwise already.
        let is_awaited = |pending: &Pending| pending.node == from;
        if !self.requests.get(&response.id).is_some_and(is_awaited) {
            return;
        }
        let Some(Pending { waiter, shard, .. }) = self.requests.remove(&response.id) else {
            return;
        };
        let errand = match waiter {
            Waiter::Operation(errand) => errand,
            Waiter::Question(number) => {
                let outcome = response.outcome;
                return self.question_answered(now, number, from, shard, outcome, effects);
            }
        };
        match response.outcome {
            Outcome::Reply(reply) => {
                if self.leaders.get(&shard) != Some(&from) {
                    self.leaders.insert(shard, from);
                }
                self.conclude(errand, reply);
            }
            // The answer to another kind of question: only a defect could send it here.
            Outcome::Unknown | Outcome::Txn(_) => self.conclude(errand, unknown()),
            Outcome::NotLeader { hint } => {
                self.learn_hint(shard, from, hint);
                let followed = hint.is_some_and(|leader| leader != from);
                self.refused(now, errand, followed);
            }
            Outcome::StaleEpoch { descriptor } => {
                self.map.install(descriptor);
                self.refused(now, errand, true);
            }
            Outcome::StreamBroken => self.refused(now, errand, true),
            Outcome::Overloaded => self.refused(now, errand, false),
        }
    }

    /// A command had certainly no effect: it goes back to its session, which keeps the order.
    fn refused(&mut self, now: Now, errand: Errand, at_once: bool) {
        let Some(operation) = self.operations.remove(&errand) else {
            return;
        };
        let (id, place) = errand;
        let attempts = operation.attempts;
        // A hint is followed at once, but hints in a circle are not followed for ever.
        let pause_us = if at_once && attempts < 3 {
            0
        } else {
            self.settings.retry_pause_us * u64::from(attempts.min(20))
        };
        let again_us = now.monotonic.0 + pause_us;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if again_us >= operation.deadline_us {
            session.finish(place, no_leader(operation.shard));
        } else {
            let waiting = Slot::Waiting {
                command: operation.command,
                deadline_us: operation.deadline_us,
                not_before_us: again_us,
                attempts,
            };
            session.refuse(place, waiting);
        }
        self.dirty.insert(id);
    }

    /// Ends an operation.
    fn conclude(&mut self, errand: Errand, reply: Reply) {
        let Some(operation) = self.operations.remove(&errand) else {
            return;
        };
        let (id, place) = errand;
        let reply = operation.reply(reply);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.finish(place, reply);
            self.dirty.insert(id);
        }
    }

    /// Gives up on requests that can no longer be answered: reads, and what certainly did not
    /// arrive, are tried elsewhere; of other writes nobody knows.
    fn lost(
        &mut self,
        now: Now,
        node: NodeId,
        lost: Vec<u64>,
        delivery: Delivery,
        effects: &mut Vec<Effect>,
    ) {
        self.leaders.retain(|_, leader| *leader != node);
        for id in lost {
            let Some(Pending { waiter, .. }) = self.requests.remove(&id) else {
                continue;
            };
            let errand = match waiter {
                Waiter::Operation(errand) => errand,
                Waiter::Question(number) => {
                    self.question_lost(now, number, delivery, effects);
                    continue;
                }
            };
            let reads = |operation: &Operation| operation.class == Class::Read;
            let reads = self.operations.get(&errand).is_some_and(reads);
            reached!(RequestLost);
            let again = reads || delivery == Delivery::Nothing;
            match again || planted!(SendsLostWritesAgain) {
                true => self.refused(now, errand, false),
                false if planted!(LostIsFailed) => self.conclude(errand, Reply::err("lost")),
                false => self.conclude(errand, unknown()),
            }
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let now_us = now.monotonic.0;
        self.tick_questions(now, effects);
        if self.coordinator.active() > 0 {
            self.coordinate(now, coordinator::Event::Tick, effects);
        }
        self.expire_operations(now_us);
        if self.open_commands == 0 {
            return;
        }
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
        let late: Vec<Errand> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.deadline_us <= now_us)
            .map(|(errand, _)| *errand)
            .collect();
        for errand in late {
            let Some(operation) = self.operations.get(&errand) else {
                continue;
            };
            let reads = operation.class == Class::Read;
            if let Some(id) = operation.sent {
                self.requests.remove(&id);
            }
            self.conclude(errand, if reads { timed_out() } else { unknown() });
        }
    }

    /// A shard was merged into another one.
    pub fn forget(&mut self, shard: ShardId) {
        self.map.forget(shard);
        self.leaders.remove(&shard);
    }

    /// Replaces what is known of a shard.
    pub fn install(&mut self, descriptor: ShardDescriptor) {
        self.map.install(descriptor);
    }
}

fn is_try_again(reply: &Reply) -> bool {
    let code = ErrorCode::TryAgain;
    matches!(reply, Reply::Error { code: of, .. } if *of == code)
}

fn unknown() -> Reply {
    reached!(SaidUnknown);
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
