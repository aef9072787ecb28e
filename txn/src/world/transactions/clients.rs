//! What the clients do: transactions of list-append, as scripts, interactively, or as single commands.

use bytes::Bytes;
use rand::Rng;
use synod_replication::NodeId;

use super::Run;
use crate::coordinator::{self, Ended, Script, Ticket};
use crate::{Access, Begin, Command, ErrorCode, Order, Range, ReadMode, Reply, Stream, hlc, token};

use super::messages::Waiting;

/// Lists that transactions append to.
pub(in super::super) const KEYS: usize = 5;

/// One micro-operation of a transaction.
#[derive(Clone, Debug)]
pub(in super::super) enum Op {
    Append {
        key: usize,
        word: u64,
    },
    /// What was read; `None` while it is not known.
    Read {
        key: usize,
        seen: Option<Vec<u64>>,
    },
    /// All lists, by one range over all shards; those that do not exist too.
    ReadAll {
        seen: Option<Vec<Vec<u64>>>,
    },
}

impl Op {
    /// Takes in what was answered.
    pub(in super::super) fn answered(&mut self, reply: &Reply) {
        match self {
            Op::Append { .. } => {}
            Op::Read { seen, .. } => *seen = Some(seen_in(reply).expect("a list")),
            Op::ReadAll { seen } => {
                let Reply::Array(rows) = reply else {
                    panic!("rows: {reply:?}");
                };
                let mut lists = vec![Vec::new(); KEYS];
                for row in rows.chunks(2) {
                    let of = (0..KEYS).find(|of| row[0] == Reply::Bulk(key(*of)));
                    lists[of.expect("a key")] = seen_in(&row[1]).expect("a list");
                }
                *seen = Some(lists);
            }
        }
    }

    /// The lists that it has seen.
    pub(in super::super) fn seen(&self) -> Vec<(usize, &[u64])> {
        match self {
            Op::Append { .. } => Vec::new(),
            Op::Read { key, seen } => seen.iter().map(|list| (*key, &list[..])).collect(),
            Op::ReadAll { seen } => {
                let lists = seen.iter().flatten().map(Vec::as_slice);
                lists.enumerate().collect()
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum State {
    Running,
    Committed,
    Failed,
    Unknown,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Txn {
    pub(in super::super) ops: Vec<Op>,
    pub(in super::super) asked_at: u64,
    pub(in super::super) ended_at: Option<u64>,
    pub(in super::super) state: State,
    /// Whether it read the past: it has no place in real time.
    pub(in super::super) past: bool,
    /// Its name, by which it can be asked about.
    pub(in super::super) token: Option<Bytes>,
}

/// What a client is doing.
#[derive(Debug)]
pub(super) enum Client {
    Idle,
    /// A script or a single command: the transaction's index.
    Waiting(usize),
    /// An interactive transaction, and how many of its operations are done.
    Session {
        txn: usize,
        ticket: Ticket,
        coordinator: usize,
        done: usize,
        committing: bool,
    },
    /// What became of a transaction with a token?
    Asking {
        txn: usize,
        /// What the client knows of it already.
        told: State,
    },
}

pub(in super::super) fn key(index: usize) -> Bytes {
    // Two keys in each shard.
    let first = [b'\x10', b'\x70', b'\xd0'][index % 3];
    Bytes::from(vec![first, b'0' + index as u8])
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.split_terminator(',')
        .map(|word| word.parse().unwrap())
        .collect()
}

pub(in super::super) fn seen_in(reply: &Reply) -> Option<Vec<u64>> {
    match reply {
        Reply::Bulk(bytes) => Some(words(bytes)),
        Reply::Null => Some(Vec::new()),
        _ => None,
    }
}

/// The command that carries out an operation.
pub(in super::super) fn command(op: &Op) -> Command {
    match op {
        Op::Append { key: index, word } => Command::Append {
            key: key(*index),
            value: Bytes::from(format!("{word},")),
        },
        Op::Read { key: index, .. } => Command::Get { key: key(*index) },
        Op::ReadAll { .. } => Command::Range(Range {
            start: Bytes::new(),
            end: None,
            limit: None,
            order: Order::Forward,
        }),
    }
}

impl Run {
    pub(super) fn random_ops(&mut self) -> Vec<Op> {
        if self.rng.random_ratio(1, 3) {
            // Write skew, if it is let: one key is read and another one written.
            let (read, written) = (self.rng.random_range(0..3), self.rng.random_range(1..3));
            let written = (read + written) % 3;
            let read = Op::Read {
                key: read,
                seen: None,
            };
            let append = Op::Append {
                key: written,
                word: self.clock * 10,
            };
            return match self.rng.random_ratio(1, 2) {
                true => vec![read, append],
                false => vec![append, read],
            };
        }
        let count = self.rng.random_range(1..4);
        // Some only read, several shards mostly.
        let only_reads = self.rng.random_ratio(1, 3);
        (0..count)
            .map(|i| {
                let key = self.rng.random_range(0..KEYS);
                match !only_reads && self.rng.random_ratio(3, 5) {
                    true => Op::Append {
                        key,
                        word: self.clock * 10 + i,
                    },
                    false if self.rng.random_ratio(1, 4) => Op::ReadAll { seen: None },
                    false => Op::Read { key, seen: None },
                }
            })
            .collect()
    }

    pub(super) fn start(&mut self, client: usize) {
        let ops = self.random_ops();
        let txn = self.txns.len();
        let (asked_at, ended_at) = (self.clock, None);
        self.txns.push(Txn {
            ops: ops.clone(),
            asked_at,
            ended_at,
            state: State::Running,
            past: false,
            token: None,
        });
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let coordinator = self.rng.random_range(0..2);
        match self.rng.random_range(0..10) {
            0..5 => {
                let commands = ops.iter().map(command).collect();
                let script = Script {
                    watched: Vec::new(),
                    commands,
                };
                self.tickets.insert(ticket, (client, coordinator));
                self.clients[client] = Client::Waiting(txn);
                self.coordinate(coordinator, coordinator::Event::Run { ticket, script });
            }
            5..8 => {
                let begin = self.random_begin(txn);
                self.tickets.insert(ticket, (client, coordinator));
                self.clients[client] = Client::Session {
                    txn,
                    ticket,
                    coordinator,
                    done: 0,
                    committing: false,
                };
                let past = begin.reads != ReadMode::Latest;
                let again = None;
                let event = coordinator::Event::Begin {
                    ticket,
                    begin,
                    again,
                };
                self.coordinate(coordinator, event);
                if !past {
                    self.next_of_session(client);
                }
            }
            _ => {
                self.txns[txn].ops.truncate(1);
                if let [Op::ReadAll { .. }] = self.txns[txn].ops[..] {
                    // Over shards: never by itself.
                    self.txns[txn].ops[0] = Op::Read { key: 0, seen: None };
                }
                let command = command(&self.txns[txn].ops[0]);
                let mut named = None;
                command.for_each_key(|key| named = self.world.map.locate(key));
                let Some(shard) = named.map(|it| it.shard) else {
                    // Split off, and not begun yet.
                    self.txns[txn].state = State::Failed;
                    return;
                };
                self.clients[client] = Client::Waiting(txn);
                let leader = self.leader_or_not(shard);
                let token = self.world.send(leader, shard, command, Stream::NONE);
                self.waiting
                    .insert(token, (Waiting::Client(client), leader));
            }
        }
    }

    /// How an interactive transaction begins: some read the past, and only read.
    fn random_begin(&mut self, txn: usize) -> Begin {
        let it = &mut self.txns[txn];
        let reads_only = it.ops.iter().all(|op| !matches!(op, Op::Append { .. }));
        it.past = reads_only && self.rng.random_ratio(1, 2);
        let (access, reads) = match it.past {
            true => (Access::ReadOnly, ReadMode::Snapshot),
            false => (Access::ReadWrite, ReadMode::Latest),
        };
        if !it.past && self.rng.random_ratio(1, 3) {
            let issued = hlc::floor_of(self.world.wall_ms);
            it.token = Some(token::issue(issued, NodeId(77), txn as u64));
        }
        Begin {
            access,
            reads,
            token: it.token.clone(),
        }
    }

    /// Asks what became of a transaction, through any coordinator.
    fn ask_about(&mut self, client: usize, txn: usize, token: Bytes) {
        let told = self.txns[txn].state;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let coordinator = self.rng.random_range(0..2);
        self.tickets.insert(ticket, (client, coordinator));
        self.clients[client] = Client::Asking { txn, told };
        self.coordinate(coordinator, coordinator::Event::Status { ticket, token });
    }

    pub(super) fn next_of_session(&mut self, client: usize) {
        let Client::Session {
            txn,
            ticket,
            coordinator,
            done,
            committing,
        } = &mut self.clients[client]
        else {
            return;
        };
        let (ticket, coordinator) = (*ticket, *coordinator);
        let event = match self.txns[*txn].ops.get(*done) {
            Some(op) => coordinator::Event::Execute {
                ticket,
                command: command(op),
            },
            None => {
                *committing = true;
                coordinator::Event::Commit { ticket }
            }
        };
        self.coordinate(coordinator, event);
    }

    /// A command of an interactive transaction is answered.
    pub(super) fn replied(&mut self, ticket: Ticket, reply: Reply) {
        let Some((client, _)) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let Client::Session { txn, done, .. } = &mut self.clients[client] else {
            return;
        };
        // A snapshot's beginning is answered with its version.
        if !(self.txns[*txn].past && matches!(reply, Reply::Integer(_))) {
            self.txns[*txn].ops[*done].answered(&reply);
            *done += 1;
        }
        self.next_of_session(client);
    }

    pub(super) fn ended(&mut self, ticket: Ticket, ended: Ended) {
        let Some((client, _)) = self.tickets.remove(&ticket) else {
            return;
        };
        let index = match self.clients[client] {
            Client::Waiting(txn) | Client::Session { txn, .. } | Client::Asking { txn, .. } => txn,
            Client::Idle => panic!("nobody waits"),
        };
        let interactive = matches!(self.clients[client], Client::Session { .. });
        let asked = match self.clients[client] {
            Client::Asking { told, .. } => Some(told),
            Client::Idle | Client::Waiting(_) | Client::Session { .. } => None,
        };
        self.clients[client] = Client::Idle;
        let txn = &mut self.txns[index];
        txn.ended_at = Some(self.clock);
        txn.state = match ended {
            Ended::Told(Reply::Status(word)) => match &word[..] {
                "COMMITTED" if asked != Some(State::Failed) => State::Committed,
                "ABORTED" if asked != Some(State::Committed) => State::Failed,
                other => panic!("{other}, and was told {asked:?}: {txn:?}"),
            },
            Ended::Replies(replies) => {
                if !interactive {
                    assert_eq!(replies.len(), txn.ops.len());
                    for (op, reply) in txn.ops.iter_mut().zip(&replies) {
                        op.answered(reply);
                    }
                }
                State::Committed
            }
            Ended::Failed(Reply::Error {
                code: ErrorCode::Unknown,
                ..
            }) => State::Unknown,
            Ended::Failed(_) | Ended::Lost { .. } => asked.unwrap_or(State::Failed),
            Ended::Changed | Ended::Watched(_) | Ended::Told(_) => panic!("nothing is watched"),
        };
        // Some ask although they were told: it must be the same story.
        let token = txn.token.clone().filter(|_| asked.is_none());
        if let Some(token) = token
            && (txn.state == State::Unknown || self.rng.random_ratio(1, 4))
        {
            self.ask_about(client, index, token);
        }
    }
}
