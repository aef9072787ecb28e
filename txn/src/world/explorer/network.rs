//! What is on its way, and who waits for an answer.

use std::hash::Hash;
use std::rc::Rc;

use bytes::Bytes;
use synod_storage::{ShardId, Version};

use super::super::transactions::{Op, State as Outcome, key, seen_in};
use super::{Job, State, orphaned, print_of};
use crate::coordinator::{self, Ended, Script, Ticket};
use crate::{
    Access, Begin, Body, Command, ErrorCode, Event, ReadMode, Reply, Request, Stream, Token,
    TxnAnswer, TxnRequest, wire,
};

/// A question on its way to a shard.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// What it hashes to: its name.
    pub(super) print: u64,
    from: Waiting,
    to: Place,
    hlc: Version,
    pub(super) body: Body,
}

/// Where a question goes.
#[derive(Clone, Debug)]
enum Place {
    /// The shard that it was routed to, in an epoch.
    Shard(ShardId, u64),
    /// Whichever shard has a key.
    Key(Bytes),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Waiting {
    Coordinator(usize, coordinator::Call),
    Client(usize),
    Leader(usize, ShardId, crate::Call),
}

/// An answer on its way to a leader.
#[derive(Clone, Debug)]
pub(super) struct Told {
    node: usize,
    shard: ShardId,
    call: crate::Call,
    outcome: wire::Outcome,
}

impl Packet {
    /// Whether it may come twice: what is carried out in one step is not told apart from a second wish.
    pub(super) fn is_idempotent(&self) -> bool {
        match &self.body {
            Body::Command(_) => false,
            Body::Txn(request) => !matches!(request, TxnRequest::Execute { .. }),
        }
    }

    pub(super) fn label(&self) -> String {
        let text = match &self.body {
            Body::Txn(request) => format!("{request:?}"),
            Body::Command(command) => format!("{command:?}"),
        };
        let name = text.split([' ', '(', '{']).next().unwrap_or_default();
        format!("{name} from {:?} to {:?}", self.from, self.to)
    }
}

/// Whether whoever asked hears the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    Hears,
    Deaf,
}

impl State {
    fn send(&mut self, from: Waiting, to: Place, hlc: Version, body: Body) {
        let print = print_of(&(&from, &to, hlc, &body));
        let packet = Packet {
            print,
            from,
            to,
            hlc,
            body,
        };
        let at = self.packets.partition_point(|other| other.print < print);
        self.packets.insert(at, Rc::new(packet));
    }

    /// A packet arrives at its shard's leader.
    pub(super) fn arrive(&mut self, packet: &Packet, hearing: Hearing) {
        let (shard, epoch) = match &packet.to {
            Place::Shard(shard, epoch) => (*shard, *epoch),
            Place::Key(key) => {
                let Some(descriptor) = self.world.map.locate(key) else {
                    return;
                };
                (descriptor.shard, descriptor.epoch)
            }
        };
        let Some(node) = self.world.logs[&shard].leader else {
            return;
        };
        // A second copy has a name of its own, so that it is answered for itself.
        let mut token = packet.print;
        while self.waiting.contains_key(&token) {
            token += 1;
        }
        if hearing == Hearing::Hears {
            self.waiting.insert(token, (packet.from, node));
        }
        let request = Request {
            id: token,
            shard,
            epoch,
            hlc: packet.hlc,
            stream: Stream::NONE,
            body: packet.body.clone(),
        };
        let token = Token(token);
        self.world.step(node, Event::Request { token, request });
    }

    /// A packet or its answer is lost: a client that has sent it by itself never learns what became of it.
    pub(super) fn lost(&mut self, packet: &Packet) {
        if let Waiting::Client(site) = packet.from {
            self.over(site, Outcome::Unknown);
        }
    }

    /// Lets the nodes' loops turn, and passes on what comes of it, until all is quiet.
    pub(super) fn turn(&mut self) {
        loop {
            for node in 0..self.world.nodes.len() {
                if self.world.nodes[node].participant.needs_flush() {
                    self.world.flush(node);
                }
            }
            for (node, shard, term, round) in std::mem::take(&mut self.world.confirms) {
                let log = &self.world.logs[&shard];
                let event = match log.leader == Some(node) && log.term == term {
                    true => Event::LeadershipConfirmed { shard, term, round },
                    false => Event::LeadershipDoubtful {
                        shard,
                        term,
                        round,
                        hint: None,
                    },
                };
                self.world.step(node, event);
            }
            while let Some((node, shard, call, key, body)) = self.world.calls.pop_front() {
                // What has to be merged is in the question itself.
                let (from, hlc) = (Waiting::Leader(node, shard, call), Version::ZERO);
                self.send(from, Place::Key(key), hlc, body);
            }
            let answers = std::mem::take(&mut self.world.responses);
            let mut nodes = self.world.nodes.iter();
            let quiet = nodes.all(|node| !node.participant.needs_flush());
            if answers.is_empty() && quiet && self.world.confirms.is_empty() {
                return;
            }
            for (token, outcome) in answers {
                if let Some((waiting, node)) = self.waiting.remove(&token) {
                    self.answer(waiting, node, outcome);
                }
            }
        }
    }

    fn answer(&mut self, waiting: Waiting, by: usize, outcome: wire::Outcome) {
        match waiting {
            Waiting::Coordinator(site, call) => {
                let hlc = self.world.nodes[by].participant.hlc();
                self.sites[site].coordinator.merge_hlc(hlc);
                self.coordinate(site, coordinator::Event::Answered { call, outcome });
            }
            Waiting::Leader(node, shard, call) => {
                let told = Told {
                    node,
                    shard,
                    call,
                    outcome,
                };
                match &told.outcome {
                    wire::Outcome::Txn(TxnAnswer::Valid { .. }) => {
                        let print = print_of(&told);
                        let at = self.told.partition_point(|(other, _)| *other < print);
                        self.told.insert(at, (print, told));
                    }
                    _ => self.tell(told),
                }
            }
            Waiting::Client(site) => {
                let state = match outcome {
                    wire::Outcome::Reply(Reply::Error { .. }) => Outcome::Failed,
                    wire::Outcome::Reply(reply) => {
                        if let Some((txn, _)) = self.sites[site].present {
                            self.txns[txn].ops[0].answered(&reply);
                        }
                        Outcome::Committed
                    }
                    wire::Outcome::Unknown => Outcome::Unknown,
                    outcome if outcome.is_retryable() => Outcome::Failed,
                    outcome => panic!("{outcome:?}"),
                };
                self.over(site, state);
            }
        }
    }

    /// An answer arrives at a leader.
    pub(super) fn tell(&mut self, told: Told) {
        let Told {
            node,
            shard,
            call,
            outcome,
        } = told;
        let event = Event::Called {
            shard,
            call,
            outcome,
        };
        self.world.step(node, event);
    }

    pub(super) fn coordinate(&mut self, site: usize, event: coordinator::Event) {
        if !self.sites[site].alive {
            return;
        }
        let now = self.now(site);
        let mut effects = Vec::new();
        let it = &mut *self.sites[site];
        it.coordinator
            .step(now, event, &self.world.map, &mut effects);
        for effect in effects {
            match effect {
                coordinator::Effect::Call {
                    call,
                    shard,
                    epoch,
                    hlc,
                    body,
                } => {
                    let from = Waiting::Coordinator(site, call);
                    self.send(from, Place::Shard(shard, epoch), hlc, body);
                }
                coordinator::Effect::Reply { reply, .. } => self.replied(site, &reply),
                coordinator::Effect::Ended { ended, .. } => self.ended(site, &ended),
            }
        }
    }

    /// A client begins its next transaction.
    pub(super) fn begin(&mut self, site: usize, job: &Job) {
        let over = |(bit, txn): (usize, &super::Txn)| u64::from(txn.ended_at.is_some()) << bit;
        self.before
            .push(self.txns.iter().enumerate().map(over).sum());
        let txn = self.txns.len();
        self.txns.push(super::Txn {
            ops: job.ops(),
            asked_at: self.clock,
            ended_at: None,
            state: Outcome::Running,
            past: matches!(job, Job::Snapshot(_)),
            token: None,
        });
        let it = &mut *self.sites[site];
        it.begun += 1;
        it.present = Some((txn, 0));
        let ticket = Ticket(it.begun as u64);
        match job {
            Job::Script(ops) => {
                let script = Script {
                    watched: Vec::new(),
                    commands: ops.iter().map(command).collect(),
                };
                self.coordinate(site, coordinator::Event::Run { ticket, script });
            }
            Job::Session(_) | Job::Snapshot(_) => {
                let past = matches!(job, Job::Snapshot(_));
                let begin = Begin {
                    access: if past {
                        Access::ReadOnly
                    } else {
                        Access::ReadWrite
                    },
                    reads: if past {
                        ReadMode::Snapshot
                    } else {
                        ReadMode::Latest
                    },
                    token: None,
                };
                let again = None;
                let event = coordinator::Event::Begin {
                    ticket,
                    begin,
                    again,
                };
                self.coordinate(site, event);
                if !past {
                    self.go_on(site);
                }
            }
            Job::Single(op) => {
                let command = command(op);
                let mut named = None;
                command.for_each_key(|key| named = self.world.map.locate(key));
                let descriptor = named.expect("every key has a shard");
                let to = Place::Shard(descriptor.shard, descriptor.epoch);
                self.send(Waiting::Client(site), to, Version::ZERO, command.into());
            }
        }
    }

    /// A session's next command, or its end.
    fn go_on(&mut self, site: usize) {
        let Some((txn, done)) = self.sites[site].present else {
            return;
        };
        let ticket = Ticket(self.sites[site].begun as u64);
        let event = match self.txns[txn].ops.get(done) {
            Some(op) => coordinator::Event::Execute {
                ticket,
                command: command(op),
            },
            None => coordinator::Event::Commit { ticket },
        };
        self.coordinate(site, event);
    }

    fn replied(&mut self, site: usize, reply: &Reply) {
        let Some((txn, done)) = self.sites[site].present else {
            return;
        };
        // A snapshot's beginning is answered with its version.
        if !(self.txns[txn].past && matches!(reply, Reply::Integer(_))) {
            self.txns[txn].ops[done].answered(reply);
            self.sites[site].present = Some((txn, done + 1));
        }
        self.go_on(site);
    }

    fn ended(&mut self, site: usize, ended: &Ended) {
        let Some((txn, _)) = self.sites[site].present else {
            return;
        };
        let state = match ended {
            Ended::Replies(replies) => {
                for (op, reply) in self.txns[txn].ops.iter_mut().zip(replies) {
                    op.answered(reply);
                }
                Outcome::Committed
            }
            Ended::Failed(Reply::Error {
                code: ErrorCode::Unknown,
                ..
            }) => Outcome::Unknown,
            Ended::Failed(_) | Ended::Lost { .. } => Outcome::Failed,
            Ended::Changed | Ended::Watched(_) | Ended::Told(_) => panic!("nothing is watched"),
        };
        self.over(site, state);
    }

    /// A client's transaction is over.
    fn over(&mut self, site: usize, state: Outcome) {
        if let Some((txn, _)) = self.sites[site].present.take() {
            self.txns[txn].state = state;
            self.txns[txn].ended_at = Some(self.clock);
        }
    }

    /// A client's coordinator is gone, and the client has no other.
    pub(super) fn die(&mut self, site: usize, jobs: &[Job]) {
        let it = &mut *self.sites[site];
        it.alive = false;
        if let Some((_, done)) = it.present {
            let state = orphaned(&jobs[it.begun - 1], done);
            self.over(site, state);
        }
    }

    /// What stands under each key in the end.
    pub(super) fn final_lists(&mut self) -> std::collections::BTreeMap<usize, Vec<u64>> {
        let lists = (0..super::super::transactions::KEYS).map(|index| {
            let reply = self.world.call(Command::Get { key: key(index) });
            (index, seen_in(&reply).expect("a list"))
        });
        lists.collect()
    }
}

fn command(op: &Op) -> Command {
    super::super::transactions::command(op)
}
