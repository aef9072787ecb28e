//! Writes to the system shard, from any node.
//!
//! A write goes to the node that is thought to lead the system shard, and again, there or to another
//! replica, until it is acknowledged or its time is over. All writes here may be repeated: a row that
//! is there already is not written again, and a number that was drawn twice is only skipped.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::Version;
use synod_txn::{
    Advance, Command, Outcome, Reply, Request, Response, SYSTEM_SHARD, ShardDescriptor, Stream,
};

use super::SHARD_COUNTER;

/// How long an answer is waited for before the next replica is asked.
const ATTEMPT_US: u64 = 1_000_000;
/// How long a write is tried at all.
const PATIENCE_US: u64 = 60_000_000;
/// The pause after a refusal.
const PAUSE_US: u64 = 20_000;
/// Writes that wait; beyond it new ones are refused.
const PENDING_MAX: usize = 65_536;

/// Names a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A number that was drawn: no other draw has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Whose.
    pub ticket: Ticket,
    /// The number, from 1 on; `None` if none could be had in time.
    pub number: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Row { key: Bytes, generation: u64 },
    Number,
}

#[derive(Debug)]
struct Pending {
    goal: Goal,
    command: Command,
    /// The request under way, and whom it was sent to.
    sent: Option<(u64, NodeId)>,
    /// When to send it (again).
    due_us: u64,
    deadline_us: u64,
    attempts: u32,
}

/// The writes of one node.
///
/// Invariant: of each row at most one write is pending, the one of the highest generation.
#[derive(Debug)]
pub struct Writer {
    pending: BTreeMap<Ticket, Pending>,
    rows: BTreeMap<Bytes, Ticket>,
    /// The generations that the system shard has acknowledged, of rows that this node writes.
    acknowledged: BTreeMap<Bytes, u64>,
    requests: BTreeMap<u64, Ticket>,
    next_ticket: u64,
    next_request: u64,
    leader: Option<NodeId>,
}

impl Writer {
    /// A writer whose request ids begin somewhere that no other asker of this node and no earlier
    /// boot comes near: at the boot's nonce, half of all numbers away from the gateway's.
    pub fn new(boot_nonce: u64) -> Writer {
        Writer {
            pending: BTreeMap::new(),
            rows: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_ticket: 0,
            next_request: boot_nonce ^ (1 << 63),
            leader: None,
        }
    }

    /// Whether nothing waits to be written or drawn.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Who leads the system shard.
    pub fn lead(&mut self, node: NodeId) {
        self.leader = Some(node);
    }

    /// Writes a row, unless this or a higher generation of it is written or on its way. `false`: too
    /// much waits already.
    pub fn put(&mut self, now_us: u64, advance: Advance) -> bool {
        let (key, generation) = (advance.key.clone(), advance.generation);
        if self
            .acknowledged
            .get(&key)
            .is_some_and(|it| *it >= generation)
        {
            return true;
        }
        if let Some(ticket) = self.rows.get(&key).copied() {
            let pending = self.pending.get(&ticket);
            let higher = pending.is_some_and(|pending| match &pending.goal {
                Goal::Row { generation: it, .. } => *it >= generation,
                Goal::Number => false,
            });
            if higher {
                return true;
            }
            self.remove(ticket);
        }
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        let goal = Goal::Row {
            key: key.clone(),
            generation,
        };
        let ticket = self.add(now_us, goal, Command::Advance(advance));
        self.rows.insert(key, ticket);
        true
    }

    /// Draws a number that no other draw of the cluster has.
    pub fn draw_shard(&mut self, now_us: u64) -> Ticket {
        let command = Command::IncrBy {
            key: Bytes::from_static(SHARD_COUNTER),
            delta: 1,
        };
        self.add(now_us, Goal::Number, command)
    }

    fn add(&mut self, now_us: u64, goal: Goal, command: Command) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let pending = Pending {
            goal,
            command,
            sent: None,
            due_us: now_us,
            deadline_us: now_us + PATIENCE_US,
            attempts: 0,
        };
        self.pending.insert(ticket, pending);
        ticket
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        if let Some((request, _)) = pending.sent {
            self.requests.remove(&request);
        }
        if let Goal::Row { key, .. } = &pending.goal {
            self.rows.remove(key);
        }
        Some(pending)
    }

    /// The requests that are to be sent now, and the numbers that could not be had. `system` is what
    /// is known of the system shard.
    pub fn due(
        &mut self,
        now_us: u64,
        system: &ShardDescriptor,
        hlc: Version,
        drawn: &mut Vec<Drawn>,
    ) -> Vec<(NodeId, Request)> {
        let mut requests = Vec::new();
        let due: Vec<Ticket> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due_us <= now_us)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in due {
            let Some(pending) = self.pending.get_mut(&ticket) else {
                continue;
            };
            if let Some((request, node)) = pending.sent.take() {
                self.requests.remove(&request);
                if self.leader == Some(node) {
                    self.leader = None;
                }
            }
            if now_us >= pending.deadline_us {
                let given_up = self.remove(ticket);
                if given_up.is_some_and(|pending| pending.goal == Goal::Number) {
                    let number = None;
                    drawn.push(Drawn { ticket, number });
                }
                continue;
            }
            let place = pending.attempts as usize % system.replicas.len().max(1);
            let in_turn = system.replicas.get(place).map(|replica| replica.node);
            let Some(node) = self.leader.or(in_turn) else {
                continue;
            };
            let id = self.next_request;
            self.next_request = self.next_request.wrapping_add(1);
            pending.attempts += 1;
            pending.sent = Some((id, node));
            pending.due_us = now_us + ATTEMPT_US;
            self.requests.insert(id, ticket);
            let request = Request {
                id,
                shard: SYSTEM_SHARD,
                epoch: system.epoch,
                hlc,
                stream: Stream::NONE,
                body: pending.command.clone().into(),
            };
            requests.push((node, request));
        }
        requests
    }

    /// Whether a response is to one of these writes.
    pub fn awaits(&self, from: NodeId, response: &Response) -> bool {
        let ticket = self.requests.get(&response.id);
        let pending = ticket.and_then(|ticket| self.pending.get(ticket));
        pending.is_some_and(|pending| pending.sent == Some((response.id, from)))
    }

    /// Takes in a response that [`Writer::awaits`]. A number, if one was drawn by it, or the system
    /// shard's newer descriptor.
    pub fn answered(
        &mut self,
        now_us: u64,
        response: Response,
    ) -> Result<Option<Drawn>, ShardDescriptor> {
        let Some(ticket) = self.requests.remove(&response.id) else {
            return Ok(None);
        };
        let Some(pending) = self.pending.get_mut(&ticket) else {
            return Ok(None);
        };
        let asked = pending.sent.take().map(|(_, node)| node);
        pending.due_us = now_us + PAUSE_US * u64::from(pending.attempts.min(25));
        match response.outcome {
            Outcome::Reply(Reply::Integer(number)) => {
                self.leader = asked;
                Ok(self.finish(ticket, number))
            }
            Outcome::NotLeader { hint } => {
                self.leader = hint.filter(|hint| Some(*hint) != asked);
                if self.leader.is_some() {
                    pending.due_us = now_us;
                }
                Ok(None)
            }
            Outcome::StaleEpoch { descriptor } => {
                pending.due_us = now_us;
                Err(descriptor)
            }
            // It may be repeated whatever became of it.
            Outcome::Reply(_)
            | Outcome::Txn(_)
            | Outcome::StreamBroken
            | Outcome::Overloaded
            | Outcome::Unknown => Ok(None),
        }
    }

    fn finish(&mut self, ticket: Ticket, number: i64) -> Option<Drawn> {
        let pending = self.remove(ticket)?;
        match pending.goal {
            Goal::Row { key, generation } => {
                let known = self.acknowledged.entry(key).or_default();
                *known = generation.max(*known);
                None
            }
            Goal::Number => Some(Drawn {
                ticket,
                number: u64::try_from(number).ok(),
            }),
        }
    }
}
