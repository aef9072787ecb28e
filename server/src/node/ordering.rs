//! Orders at work: the asker's and the leader's side.
//!
//! ```text
//!            epoch, authority, busy?        authority in the log         what the step is
//!   order ─────────────────────────► Authorizing ─────────► checked again ─────────► Changing ─► Done
//!             └──► Refused                                     └──► Refused           └──► Unknown
//! ```
//!
//! A shard takes one order at a time. Where an order stands is looked at whenever the node's cores
//! have settled; nothing of it is kept on disk, because the shard's log and its descriptor say all:
//! the next leader finishes what was begun, and the asker looks at the descriptor.

use synod_replication::{ChangeError, Event as ReplicationEvent, NodeId, Role, TransferError};
use synod_storage::{KeyRange, ReplicaId, ShardId};
use synod_txn::{
    Advance, Event as ShardEvent, KEY_BYTES_MAX, Now, Replica, SYSTEM_SHARD, ShardDescriptor,
};
use tracing::{debug, info, warn};

use super::merging::Merging;
use super::turn::{Effects, Node};
use crate::directory::{Table, Ticket, encode_descriptor};
use crate::shards::check::{self, Nodes, Standing};
use crate::shards::{Change, Message, Order, OrderId, Refusal, Step, ids, reconcile};
use crate::transport::{self, Class, Kind};

/// How long a leader works on a step before it answers that it does not know: less than the asker
/// waits.
const PATIENCE_US: u64 = 8_000_000;
/// How long a description may be on its way before it is proposed again.
const DESCRIBE_AGAIN_US: u64 = 500_000;

/// An order that this node's shard is carrying out.
#[derive(Debug)]
pub(super) struct Running {
    from: NodeId,
    id: u64,
    pub(super) order: Order,
    pub(super) stage: Stage,
    deadline_us: u64,
    /// The right neighbour, while it is merged.
    pub(super) merging: Option<Merging>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its controller is on its way into the log.
    Authorizing,
    /// The number of the new shard is being drawn.
    Drawing { ticket: Ticket },
    /// The right neighbour is asked to freeze, by an order of this node's own.
    Freezing { term: u64, order: OrderId },
    /// All nodes are asked whether it is frozen there.
    Gathering { term: u64 },
    /// The step was proposed in this term.
    Changing { term: u64 },
    /// Leadership is on its way from this term to a node.
    Transferring { term: u64, to: NodeId },
}

/// A description that was proposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Describing {
    term: u64,
    epoch: u64,
    again_us: u64,
}

/// Where an order stands.
enum Progress {
    Wait,
    Act,
    End(Result<ShardDescriptor, Refusal>),
}

impl Nodes for Node {
    fn is_known(&self, node: NodeId) -> bool {
        node == self.id() || self.peers.contains_key(&node)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        node == self.id() || self.peers.get(&node).is_some_and(|peer| peer.connected)
    }
}

impl Node {
    /// Asks a shard, wherever it is led, to take a step. The end comes with
    /// [`Orders::take_done`](crate::shards::Orders::take_done), within ten seconds.
    pub fn order(&mut self, now: Now, order: Order, effects: &mut Effects) -> OrderId {
        let id = self.orders.submit(now.monotonic.0, order);
        self.send_orders(now, effects);
        id
    }

    /// Sends the orders that are due.
    pub(super) fn send_orders(&mut self, now: Now, effects: &mut Effects) {
        if self.orders.is_idle() {
            return;
        }
        // What this node leads it knows best, also when no client has asked for it lately.
        let shards = self.orders.asking(now.monotonic.0);
        let led: Vec<ShardId> = shards
            .filter(|shard| self.leading_term(*shard).is_some())
            .collect();
        let me = self.id();
        let due = self.orders.due(
            now.monotonic.0,
            |shard| match led.contains(&shard) {
                true => Some(me),
                false => self.gateway.leader(shard),
            },
            |shard| self.directory.shard(shard),
        );
        for (node, id, order) in due {
            debug!(shard = %order.shard, to = %node, id = id.0, step = ?order.step, "an order is sent");
            if node == me {
                self.ordered(now, node, id.0, order, effects);
                continue;
            }
            let message = Message::Order { id: id.0, order };
            if !self.send_shards(node, &message) {
                self.orders.unsent(now.monotonic.0, id);
            }
        }
    }

    pub(super) fn send_shards(&self, to: NodeId, message: &Message) -> bool {
        match transport::encode(Kind::Shards, message) {
            Ok(frame) => self.send_frame(to, Class::Forward, frame),
            Err(error) => {
                warn!(%to, "cannot send an order or its answer: {error}");
                false
            }
        }
    }

    /// A peer's message about orders.
    pub(super) fn shards_message(
        &mut self,
        now: Now,
        from: NodeId,
        message: Message,
        effects: &mut Effects,
    ) {
        match message {
            Message::Order { id, order } => self.ordered(now, from, id, order, effects),
            Message::Led(reports) => self.take_reports(now, from, reports, effects),
            Message::IsFrozen { shard, into } => self.asked_whether_frozen(from, shard, into),
            Message::Frozen { shard, into } => {
                self.heard_frozen(now, from, shard, &into, effects);
            }
            Message::Done { id, descriptor } => {
                self.learn_shard(descriptor.clone());
                let id = OrderId(id);
                self.orders
                    .answered(now.monotonic.0, from, id, Ok(descriptor));
            }
            Message::Refused { id, refusal } => {
                if let Refusal::StaleEpoch { descriptor } = &refusal {
                    self.learn_shard(descriptor.clone());
                }
                let id = OrderId(id);
                self.orders
                    .answered(now.monotonic.0, from, id, Err(refusal));
            }
        }
    }

    fn answer_order(
        &mut self,
        now: Now,
        to: NodeId,
        id: u64,
        end: Result<ShardDescriptor, Refusal>,
    ) {
        if to == self.id() {
            let me = self.id();
            self.orders.answered(now.monotonic.0, me, OrderId(id), end);
            return;
        }
        debug!(%to, id, ?end, "an order is answered");
        let message = match end {
            Ok(descriptor) => Message::Done { id, descriptor },
            Err(refusal) => Message::Refused { id, refusal },
        };
        // An answer that finds no room is lost: the asker looks at the descriptor.
        self.send_shards(to, &message);
    }

    /// The term in which this node leads and serves a shard.
    pub(super) fn leading_term(&self, shard: ShardId) -> Option<u64> {
        let leadership = self.replication.leadership(shard)?;
        let leads = leadership.role == Role::Leader && leadership.serving;
        (leads && self.participant.leads(shard)).then_some(leadership.term)
    }

    pub(super) fn not_leader(&self, shard: ShardId) -> Refusal {
        let leadership = self.replication.leadership(shard);
        let leader = leadership.and_then(|leadership| leadership.leader);
        let hint = leader.map(|member| member.node);
        Refusal::NotLeader { hint }
    }

    /// An order for a shard that this node is thought to lead.
    fn ordered(&mut self, now: Now, from: NodeId, id: u64, order: Order, effects: &mut Effects) {
        let shard = order.shard;
        if self.leading_term(shard).is_none() {
            let refusal = self.not_leader(shard);
            return self.answer_order(now, from, id, Err(refusal));
        }
        if self.running.contains_key(&shard) {
            return self.answer_order(now, from, id, Err(Refusal::Busy));
        }
        if let Err(refusal) = self.guard(&order) {
            return self.answer_order(now, from, id, Err(refusal));
        }
        if let Some(authority) = order.authority {
            let event = ShardEvent::Authorize { shard, authority };
            self.step_shards(now, event, effects);
        }
        self.step_replication(now, ReplicationEvent::Wake { shard }, effects);
        let running = Running {
            from,
            id,
            order,
            stage: Stage::Authorizing,
            deadline_us: now.monotonic.0 + PATIENCE_US,
            merging: None,
        };
        self.running.insert(shard, running);
        self.advance_order(now, shard, effects);
    }

    /// Whether an order belongs to the shard as it is.
    fn guard(&self, order: &Order) -> Result<(), Refusal> {
        let shard = order.shard;
        let Some(descriptor) = self.participant.descriptor(shard) else {
            return Err(self.not_leader(shard));
        };
        let followed = self.participant.authority(shard).unwrap_or_default();
        check::order(order, descriptor, followed)
    }

    /// Moves on the orders that can be.
    pub(super) fn advance_orders(&mut self, now: Now, effects: &mut Effects) {
        let running = &self.running;
        // A number whose order is over is one that no shard will have.
        self.drawn.retain(|drawn| {
            let mut stages = running.values().map(|running| running.stage);
            stages.any(|stage| {
                stage
                    == Stage::Drawing {
                        ticket: drawn.ticket,
                    }
            })
        });
        let shards: Vec<ShardId> = self.running.keys().copied().collect();
        for shard in shards {
            self.advance_order(now, shard, effects);
        }
    }

    pub(super) fn advance_order(&mut self, now: Now, shard: ShardId, effects: &mut Effects) {
        let Some(running) = self.running.get(&shard) else {
            return;
        };
        let end = match self.standing_of(now, running) {
            Progress::Wait => return,
            Progress::End(end) => end,
            Progress::Act => match self.act(now, shard, effects) {
                Ok(stage) => {
                    if let Some(running) = self.running.get_mut(&shard) {
                        running.stage = stage;
                    }
                    return;
                }
                Err(refusal) => Err(refusal),
            },
        };
        let Some(Running {
            from, id, order, ..
        }) = self.running.remove(&shard)
        else {
            return;
        };
        match &end {
            Ok(descriptor) => {
                info!(%shard, epoch = descriptor.epoch, step = ?order.step, "the shard took a step");
            }
            Err(refusal) => info!(%shard, step = ?order.step, "the shard did not: {refusal}"),
        }
        self.answer_order(now, from, id, end);
    }

    /// Where a running order stands.
    fn standing_of(&self, now: Now, running: &Running) -> Progress {
        let order = &running.order;
        let shard = order.shard;
        let late = now.monotonic.0 >= running.deadline_us;
        let term = self.leading_term(shard);
        match running.stage {
            Stage::Authorizing => {
                if term.is_none() {
                    return Progress::End(Err(self.not_leader(shard)));
                }
                if let Err(refusal) = self.guard(order) {
                    return Progress::End(Err(refusal));
                }
                let followed = self.participant.authority(shard);
                match order.authority.is_none_or(|of| Some(of) == followed) {
                    true => Progress::Act,
                    false if late => Progress::End(Err(Refusal::Busy)),
                    false => Progress::Wait,
                }
            }
            Stage::Drawing { ticket } => {
                if term.is_none() {
                    return Progress::End(Err(self.not_leader(shard)));
                }
                if let Err(refusal) = self.guard(order) {
                    return Progress::End(Err(refusal));
                }
                match self.drawn.iter().find(|drawn| drawn.ticket == ticket) {
                    Some(_) => Progress::Act,
                    None if late => Progress::End(Err(Refusal::Busy)),
                    None => Progress::Wait,
                }
            }
            Stage::Freezing { term: begun, .. } | Stage::Gathering { term: begun } => {
                self.standing_of_merge(now, running, begun)
            }
            Stage::Changing { term: proposed } => {
                if let (Some(descriptor), Some(configuration)) = (
                    self.participant.descriptor(shard),
                    self.replication.configuration(shard),
                ) && descriptor.epoch > order.epoch
                    && !configuration.is_joint()
                    && reconcile::agree(descriptor, configuration)
                {
                    return Progress::End(Ok(descriptor.clone()));
                }
                match term == Some(proposed) && !late {
                    true => Progress::Wait,
                    false => Progress::End(Err(Refusal::Unknown)),
                }
            }
            Stage::Transferring { term: from, to } => {
                let leadership = self.replication.leadership(shard);
                let leader = leadership.and_then(|leadership| leadership.leader);
                if leader.is_some_and(|leader| leader.node == to)
                    && let Some(descriptor) = self.participant.descriptor(shard)
                {
                    return Progress::End(Ok(descriptor.clone()));
                }
                let changed = leadership.is_none_or(|it| it.term != from && it.leader.is_some());
                match changed || late {
                    true => Progress::End(Err(Refusal::Unknown)),
                    false => Progress::Wait,
                }
            }
        }
    }

    /// Where a merge stands that was begun in this term.
    fn standing_of_merge(&self, now: Now, running: &Running, begun: u64) -> Progress {
        let order = &running.order;
        if let Err(refusal) = self.guard(order) {
            return Progress::End(Err(refusal));
        }
        if self.leading_term(order.shard) != Some(begun) {
            return Progress::End(Err(self.not_leader(order.shard)));
        }
        let merging = running.merging.as_ref();
        if let Some(refusal) = merging.and_then(|merging| merging.refused.clone()) {
            return Progress::End(Err(refusal));
        }
        match merging.is_some_and(|merging| merging.is_due(now)) {
            _ if now.monotonic.0 >= running.deadline_us => Progress::End(Err(Refusal::Busy)),
            true => Progress::Act,
            false => Progress::Wait,
        }
    }

    /// Takes the step: it is this order's turn, in the epoch that it names.
    fn act(&mut self, now: Now, shard: ShardId, effects: &mut Effects) -> Result<Stage, Refusal> {
        let (Some(running), Some(term)) = (self.running.get(&shard), self.leading_term(shard))
        else {
            return Err(self.not_leader(shard));
        };
        // It is about to end: only the end of its freeze changes it.
        if self.participant.frozen(shard).is_some()
            && !matches!(
                running.order.step,
                Step::Freeze { .. } | Step::Transfer { .. }
            )
        {
            return Err(Refusal::Busy);
        }
        match running.order.step.clone() {
            Step::Change(changes) => self.change(now, shard, term, &changes, effects),
            Step::Transfer { to } => self.transfer(now, shard, term, to),
            Step::Split { at } => match running.stage {
                Stage::Drawing { ticket } => self.split(now, (shard, term), &at, ticket, effects),
                Stage::Authorizing
                | Stage::Freezing { .. }
                | Stage::Gathering { .. }
                | Stage::Changing { .. }
                | Stage::Transferring { .. } => {
                    self.splittable(shard, &at)?;
                    let ticket = self.writer.draw_shard(now.monotonic.0);
                    self.write_due(now, effects);
                    Ok(Stage::Drawing { ticket })
                }
            },
            Step::Merge => self.merge(now, shard, term, effects),
            Step::Freeze { into } => self.freeze(now, shard, term, into, effects),
        }
    }

    /// The descriptor of a shard that can be split at this key now.
    fn splittable(&self, shard: ShardId, at: &[u8]) -> Result<&ShardDescriptor, Refusal> {
        let invalid = |reason: String| Err(Refusal::Invalid(reason));
        let (Some(descriptor), Some(configuration)) = (
            self.participant.descriptor(shard),
            self.replication.configuration(shard),
        ) else {
            return Err(self.not_leader(shard));
        };
        if shard == SYSTEM_SHARD {
            return invalid("the system shard is not split".to_owned());
        }
        if !descriptor.range.contains(at) || descriptor.range.start == at {
            return invalid(format!(
                "'{}' is not between two keys of shard {shard}",
                at.escape_ascii()
            ));
        }
        if at.len() > KEY_BYTES_MAX {
            return invalid(format!("a key has at most {KEY_BYTES_MAX} bytes"));
        }
        if descriptor.replicas.len() > ids::PER_EPOCH {
            return invalid(format!("shard {shard} has too many replicas to be split"));
        }
        let settled = !configuration.is_joint() && reconcile::agree(descriptor, configuration);
        match settled && self.participant.is_described(shard) {
            true => Ok(descriptor),
            false => Err(Refusal::Busy),
        }
    }

    /// Splits a shard, now that the new one has a number.
    fn split(
        &mut self,
        now: Now,
        (shard, term): (ShardId, u64),
        at: &[u8],
        ticket: Ticket,
        effects: &mut Effects,
    ) -> Result<Stage, Refusal> {
        let place = self.drawn.iter().position(|drawn| drawn.ticket == ticket);
        let number = place.and_then(|place| self.drawn.swap_remove(place).number);
        let Some(number) = number else {
            return Err(Refusal::Busy);
        };
        let founded = self.founding.shards.len() as u64;
        let Some(right) = ids::shard(founded, number) else {
            return Err(Refusal::Invalid("there are no shard ids left".to_owned()));
        };
        let before = self.splittable(shard, at)?.clone();
        let replicas = before.replicas.iter().enumerate();
        let replicas: Option<Vec<Replica>> = replicas
            .map(|(i, it)| {
                let replica = ids::replica(right, 0, i)?;
                Some(Replica { replica, ..*it })
            })
            .collect();
        let Some(replicas) = replicas else {
            return Err(Refusal::Invalid("there are no replica ids left".to_owned()));
        };
        let (left_range, right_range) = halves(&before.range, at);
        let right = ShardDescriptor {
            shard: right,
            epoch: 1,
            range: right_range,
            replicas,
        };
        let left = ShardDescriptor {
            epoch: before.epoch + 1,
            range: left_range,
            ..before
        };
        self.step_shards(now, ShardEvent::Split { left, right }, effects);
        Ok(Stage::Changing { term })
    }

    fn change(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        changes: &[Change],
        _effects: &mut Effects,
    ) -> Result<Stage, Refusal> {
        let (Some(descriptor), Some(status)) = (
            self.participant.descriptor(shard),
            self.replication.status(shard),
        ) else {
            return Err(self.not_leader(shard));
        };
        if !self.participant.is_described(shard) {
            return Err(Refusal::Busy);
        }
        let standing = Standing {
            own: status.replica,
            descriptor,
            configuration: &status.configuration,
            lacks: &status.lacks,
        };
        let changes = check::change(&standing, changes, self)?;
        match self
            .replication
            .change_replicas(now.monotonic, shard, &changes)
        {
            Ok(_) => Ok(Stage::Changing { term }),
            Err(ChangeError::NotLeader(_)) => Err(self.not_leader(shard)),
            Err(ChangeError::Busy | ChangeError::Throttled) => Err(Refusal::Busy),
            Err(ChangeError::Invalid) => Err(Refusal::Invalid(
                "the change does not fit the present members".to_owned(),
            )),
        }
    }

    fn transfer(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        to: ReplicaId,
    ) -> Result<Stage, Refusal> {
        let Some(status) = self.replication.status(shard) else {
            return Err(self.not_leader(shard));
        };
        let Some(node) = status.configuration.nodes.get(&to).copied() else {
            return Err(Refusal::Invalid(format!("replica {to} is not a member")));
        };
        if to == status.replica {
            return Ok(Stage::Transferring { term, to: node });
        }
        if !self.is_alive(node) {
            return Err(Refusal::Invalid(format!("node {node} is not reachable")));
        }
        let lag_entries = status.lacks.get(&to).copied().unwrap_or(u64::MAX);
        if lag_entries > check::LAG_ENTRIES_MAX {
            return Err(Refusal::NotCaughtUp {
                replica: to,
                lag_entries,
            });
        }
        match self.replication.transfer(now.monotonic, shard, to) {
            Ok(()) => Ok(Stage::Transferring { term, to: node }),
            Err(TransferError::NotLeader(_)) => Err(self.not_leader(shard)),
            Err(TransferError::Busy) => Err(Refusal::Busy),
            Err(TransferError::Ineligible) => {
                Err(Refusal::Invalid(format!("replica {to} has no vote")))
            }
        }
    }

    /// A new shard that is led by a replica without its first rows, which were lost with the old
    /// shard's replica here, is handed to one after the other of the rest: some have them.
    fn pass_on_unborn(&mut self, now: Now, shard: ShardId) {
        if !self.participant.lacks_rows(shard) {
            return;
        }
        let Some(status) = self.replication.status(shard) else {
            return;
        };
        let others = status.configuration.voters.iter().copied();
        let alive = |replica: &ReplicaId| {
            let node = status.configuration.nodes.get(replica);
            *replica != status.replica && node.is_some_and(|node| self.is_alive(*node))
        };
        let others: Vec<ReplicaId> = others.filter(alive).collect();
        let turn = status.leadership.term as usize % others.len().max(1);
        if let Some(heir) = others.get(turn) {
            // Refused while one is under way: asked again when the shards are looked at next.
            let _ = self.replication.transfer(now.monotonic, shard, *heir);
        }
    }

    /// Looks at all shards that this node leads: once in a while, in case a note was lost.
    pub(super) fn reconcile_all(&mut self) {
        self.unreconciled = self
            .participant
            .shards()
            .map(|descriptor| descriptor.shard)
            .collect();
    }

    /// Brings descriptors in line with configurations, and what is published with both.
    pub(super) fn reconcile(&mut self, now: Now, effects: &mut Effects) {
        for shard in std::mem::take(&mut self.unreconciled) {
            let Some(term) = self.leading_term(shard) else {
                self.describing.remove(&shard);
                continue;
            };
            if !self.participant.is_described(shard) {
                self.pass_on_unborn(now, shard);
                continue;
            }
            let (Some(descriptor), Some(configuration)) = (
                self.participant.descriptor(shard),
                self.replication.configuration(shard),
            ) else {
                continue;
            };
            if configuration.is_joint() {
                continue;
            }
            if reconcile::agree(descriptor, configuration) {
                self.describing.remove(&shard);
                let known = |child: &ShardId| {
                    self.directory.shard(*child).is_some() || self.directory.gone(*child).is_some()
                };
                let weaned = self.participant.newborns(shard).filter(known);
                let weaned: Vec<ShardId> = weaned.collect();
                let advance = Advance {
                    key: Table::Shard(shard).key(),
                    generation: descriptor.epoch,
                    value: Some(encode_descriptor(descriptor)),
                };
                self.writer.put(now.monotonic.0, advance);
                for (right, epoch) in self.participant.merged(shard) {
                    self.writer.put(
                        now.monotonic.0,
                        Advance {
                            key: Table::Shard(right).key(),
                            generation: epoch,
                            value: None,
                        },
                    );
                }
                for child in weaned {
                    self.step_shards(now, ShardEvent::Weaned { shard, child }, effects);
                }
                continue;
            }
            let next = reconcile::described(descriptor, configuration);
            let on_its_way = self.describing.get(&shard).is_some_and(|it| {
                it.term == term && it.epoch == next.epoch && now.monotonic.0 < it.again_us
            });
            if on_its_way {
                continue;
            }
            let describing = Describing {
                term,
                epoch: next.epoch,
                again_us: now.monotonic.0 + DESCRIBE_AGAIN_US,
            };
            self.describing.insert(shard, describing);
            let event = ShardEvent::Describe { descriptor: next };
            self.step_shards(now, event, effects);
        }
    }
}

/// The parts of a range before and from a key on.
fn halves(range: &KeyRange, at: &[u8]) -> (KeyRange, KeyRange) {
    let left = KeyRange {
        start: range.start.clone(),
        end: Some(at.to_vec()),
    };
    let right = KeyRange {
        start: at.to_vec(),
        end: range.end.clone(),
    };
    (left, right)
}
