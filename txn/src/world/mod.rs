//! A shard, or a few, in memory: real participants over a pretended log and a pretended store.
//!
//! The log is a list with a commit index; leadership is what the test says. The store answers late
//! when the seed says so, so that latches and waiting reads are exercised.

mod asking;
mod attempts;
mod clocks;
mod coordination;
mod explorer;
mod fairness;
mod history;
mod linearizability;
mod memory;
mod merges;
mod model;
mod quiet;
mod scenarios;
mod scripts;
mod shared;
mod shipped;
mod snapshots;
mod splits;
mod terms;
mod tokens;
mod transactions;
mod withdrawals;

use std::collections::{BTreeMap, VecDeque};

use memory::MemoryState;
use shared::Shared;

use crate::coordinator::{self, Coordinator, Ended, Script, Ticket};
use crate::{
    Body, Command, Effect, Event, Leadership, LeftSide, Now, Outcome, Participant, Refusal, Reply,
    Request, Settings, ShardDescriptor, ShardMap, Stream, Token, TxnAnswer, TxnRequest,
    even_ranges,
};
use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{Entry, EntryId, EntryKind, KeyRange, Micros, ShardId, Version};
use synod_testpoint::planted;

/// A shard's log, as raft would keep it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub term: u64,
    pub leader: Option<usize>,
    pub entries: Vec<Entry>,
    pub commit: usize,
}

/// One node: its participant, its store, and how far it has applied each log.
#[derive(Clone, Debug)]
pub struct Node {
    pub participant: Participant,
    pub state: MemoryState,
    pub applied: BTreeMap<ShardId, usize>,
    pub wall_skew_ms: i64,
    /// How far its clocks are ahead of the world's time.
    pub ahead_ms: u64,
    pub effects: VecDeque<Effect>,
}

/// Nodes that all hold all shards.
#[derive(Clone)]
pub struct World {
    pub nodes: Vec<Shared<Node>>,
    pub logs: BTreeMap<ShardId, Log>,
    pub map: ShardMap,
    pub wall_ms: u64,
    pub mono_us: u64,
    pub responses: BTreeMap<u64, Outcome>,
    /// Proposals are committed and applied at once, leadership is confirmed at once.
    pub eager: bool,
    /// Confirmations that the test has to give.
    pub confirms: Vec<(usize, ShardId, u64, crate::Round)>,
    /// Refuse this many proposals.
    pub refuse: usize,
    /// Questions of leaders to other shards, which the test has to carry.
    pub calls: VecDeque<(usize, ShardId, crate::Call, Bytes, Body)>,
    /// The clock that requests carry.
    pub seen: Version,
    settings: Settings,
    next_token: u64,
    next_shard: u64,
}

pub const START_MS: u64 = 1_700_000_000_000;

impl World {
    /// `nodes` nodes and `shards` shards, the first node leading all.
    pub fn new(nodes: usize, shards: u32, late: Option<u64>) -> World {
        World::with_settings(nodes, shards, late, Settings::default())
    }

    pub fn with_settings(
        nodes: usize,
        shards: u32,
        late: Option<u64>,
        settings: Settings,
    ) -> World {
        let descriptors: Vec<ShardDescriptor> = even_ranges(shards)
            .into_iter()
            .zip(1..)
            .map(|(range, id)| ShardDescriptor {
                shard: ShardId(id),
                epoch: 1,
                range,
                replicas: Vec::new(),
            })
            .collect();
        let mut world = World {
            nodes: Vec::new(),
            logs: BTreeMap::new(),
            map: ShardMap::new(descriptors.clone()),
            wall_ms: START_MS,
            mono_us: 0,
            responses: BTreeMap::new(),
            eager: true,
            confirms: Vec::new(),
            refuse: 0,
            calls: VecDeque::new(),
            seen: Version::ZERO,
            settings: settings.clone(),
            next_token: 0,
            next_shard: 100,
        };
        for node in 0..nodes {
            world.nodes.push(Shared::new(Node {
                participant: Participant::new(settings.clone()),
                state: MemoryState::new(late.map(|seed| seed + node as u64)),
                applied: BTreeMap::new(),
                wall_skew_ms: 0,
                ahead_ms: 0,
                effects: VecDeque::new(),
            }));
            for descriptor in &descriptors {
                world.logs.entry(descriptor.shard).or_default();
                let shard = descriptor.shard;
                world.step(
                    node,
                    Event::Open {
                        shard,
                        descriptor: descriptor.clone(),
                    },
                );
            }
        }
        for descriptor in &descriptors {
            world.elect(descriptor.shard, 0, usize::MAX);
        }
        world
    }

    pub fn now(&self, node: usize) -> Now {
        let Node {
            wall_skew_ms,
            ahead_ms,
            ..
        } = &*self.nodes[node];
        Now {
            monotonic: Micros(self.mono_us + ahead_ms * 1000),
            wall_ms: (self.wall_ms + ahead_ms).saturating_add_signed(*wall_skew_ms),
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.wall_ms += ms;
        self.mono_us += ms * 1000;
    }

    /// A node's process ends, and the next one begins with what was applied: who led a shard there does so
    /// no more, and who waits for an answer gets none.
    pub fn restart(&mut self, node: usize) {
        let it: &mut Node = &mut self.nodes[node];
        let shards: Vec<ShardDescriptor> = it.participant.shards().cloned().collect();
        it.participant = Participant::new(self.settings.clone());
        it.state.forget_reads();
        it.effects.clear();
        self.confirms.retain(|(of, ..)| *of != node);
        self.calls.retain(|(of, ..)| *of != node);
        for descriptor in shards {
            let shard = descriptor.shard;
            if self.nodes[node].participant.descriptor(shard).is_none() {
                self.step(node, Event::Open { shard, descriptor });
            }
            if self.logs[&shard].leader == Some(node) {
                // It is elected once more, in another term.
                self.elect(shard, node, 0);
            }
        }
    }

    /// Gives a node an event, and carries out what follows.
    pub fn step(&mut self, node: usize, event: Event) {
        let now = self.now(node);
        let mut effects = Vec::new();
        let it: &mut Node = &mut self.nodes[node];
        it.participant.step(now, event, &mut it.state, &mut effects);
        it.effects.extend(effects);
        self.carry_out(node);
    }

    pub fn flush(&mut self, node: usize) {
        while self.nodes[node].participant.needs_flush() {
            let now = self.now(node);
            let mut effects = Vec::new();
            self.nodes[node].participant.flush(now, &mut effects);
            self.nodes[node].effects.extend(effects);
            self.carry_out(node);
        }
    }

    fn carry_out(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].effects.pop_front() {
            match effect {
                Effect::Propose {
                    shard,
                    term,
                    batch,
                    data,
                } => {
                    let log = self.logs.get_mut(&shard).unwrap();
                    if self.refuse > 0 {
                        self.refuse -= 1;
                        let refusal = Refusal::Throttled;
                        self.step(
                            node,
                            Event::ProposalRefused {
                                shard,
                                batch,
                                refusal,
                            },
                        );
                    } else if log.leader == Some(node) && log.term == term {
                        let id = EntryId::new(term, log.entries.len() as u64 + 1);
                        log.entries.push(Entry {
                            id,
                            kind: EntryKind::Normal,
                            data,
                        });
                        if self.eager {
                            self.commit(shard, usize::MAX);
                        }
                    } else {
                        let refusal = Refusal::NotLeader { hint: None };
                        self.step(
                            node,
                            Event::ProposalRefused {
                                shard,
                                batch,
                                refusal,
                            },
                        );
                    }
                }
                Effect::Confirm { shard, term, round } => match self.eager {
                    true => self.step(node, Event::LeadershipConfirmed { shard, term, round }),
                    false => self.confirms.push((node, shard, term, round)),
                },
                Effect::Respond { token, outcome } => {
                    let before = self.responses.insert(token.0, outcome);
                    assert!(before.is_none(), "a request is answered once");
                }
                Effect::Described { descriptor } => {
                    self.map.install(descriptor);
                }
                Effect::Damaged { .. } | Effect::SystemRows { .. } => {}
                Effect::Split { newborn, .. } => self.split_off(node, newborn),
                Effect::Merged { right, .. } => self.merged(node, right),
                Effect::Call {
                    shard,
                    call,
                    key,
                    body,
                } => {
                    self.calls.push_back((node, shard, call, key, body));
                }
                Effect::Fatal { reason, .. } => panic!("fatal: {reason}"),
            }
        }
    }

    /// Asks a shard's leader to split it before `at`; the new shard's id, if that is inside.
    pub fn split(&mut self, shard: ShardId, at: &[u8]) -> Option<ShardId> {
        let leader = self.logs[&shard].leader?;
        let before = self.nodes[leader].participant.descriptor(shard)?.clone();
        if !before.range.contains(at) || before.range.start == at {
            return None;
        }
        self.next_shard += 1;
        let right = ShardId(self.next_shard);
        let mut left_range = before.range.clone();
        left_range.end = Some(at.to_vec());
        let event = Event::Split {
            right: ShardDescriptor {
                shard: right,
                epoch: 1,
                range: KeyRange {
                    start: at.to_vec(),
                    end: before.range.end.clone(),
                },
                replicas: before.replicas.clone(),
            },
            left: ShardDescriptor {
                epoch: before.epoch + 1,
                range: left_range,
                ..before
            },
        };
        self.step(leader, event);
        Some(right)
    }

    /// The shard behind another one in key order, if there is one.
    pub fn right_of(&self, left: ShardId) -> Option<ShardId> {
        let known = self.map.descriptor(left)?;
        self.map.next_after(known).map(|right| right.shard)
    }

    /// Asks a shard's leader to freeze it for its left neighbour, as that is known.
    pub fn freeze(&mut self, left: ShardId, right: ShardId) {
        let (Some(known), Some(leader)) = (self.map.descriptor(left), self.logs[&right].leader)
        else {
            return;
        };
        let into = LeftSide {
            shard: left,
            epoch: known.epoch,
            start: Bytes::copy_from_slice(&known.range.start),
        };
        let shard = right;
        self.step(leader, Event::Freeze { shard, into });
    }

    /// A node applied a merge: the right side's replica ends there.
    fn merged(&mut self, node: usize, right: ShardId) {
        self.map.forget(right);
        self.step(node, Event::Close { shard: right });
    }

    /// Asks a shard's leader to take its right neighbour in, if that is frozen on all nodes. Whether it
    /// was asked.
    pub fn merge(&mut self, left: ShardId, right: ShardId) -> bool {
        let Some(leader) = self.logs[&left].leader else {
            return false;
        };
        let epoch = self.nodes[leader].participant.descriptor(left);
        let epoch = epoch.map(|descriptor| descriptor.epoch);
        let frozen = |node: &Node| {
            let into = node.participant.frozen(right);
            into.is_some_and(|into| into.shard == left && Some(into.epoch) == epoch)
        };
        let ready = self.nodes.iter().all(|node| frozen(node)) || planted!(MergesOverLaggards);
        if ready {
            self.step(leader, Event::Merge { left, right });
        }
        ready
    }

    /// A node applied a split, or remembers one: the new shard's replica begins there.
    fn split_off(&mut self, node: usize, newborn: crate::Newborn) {
        let shard = newborn.descriptor().shard;
        if self.nodes[node].participant.descriptor(shard).is_none() {
            let descriptor = ShardDescriptor {
                shard,
                epoch: 0,
                range: KeyRange::new("", ""),
                replicas: Vec::new(),
            };
            self.step(node, Event::Open { shard, descriptor });
        }
        self.step(node, Event::Born { newborn });
        let begun = self.logs.contains_key(&shard);
        self.logs.entry(shard).or_default();
        if !begun {
            self.elect(shard, node, 0);
        } else if self.eager {
            self.commit(shard, usize::MAX);
            self.flush(self.logs[&shard].leader.unwrap_or(node));
        }
    }

    /// Commits up to `entries` more entries of a shard; every node applies them in eager worlds.
    pub fn commit(&mut self, shard: ShardId, entries: usize) {
        let log = self.logs.get_mut(&shard).unwrap();
        log.commit = log.commit.saturating_add(entries).min(log.entries.len());
        if self.eager {
            for node in 0..self.nodes.len() {
                self.apply(node, shard, usize::MAX);
            }
        }
    }

    /// A node applies up to `entries` more committed entries.
    pub fn apply(&mut self, node: usize, shard: ShardId, entries: usize) {
        if self.nodes[node].participant.descriptor(shard).is_none() {
            // It was split off, and this node does not know yet.
            return;
        }
        let log = &self.logs[&shard];
        let applied = self.nodes[node].applied.entry(shard).or_insert(0);
        let end = applied.saturating_add(entries).min(log.commit);
        let entries = log.entries[*applied..end].to_vec();
        *applied = end;
        let last_term = entries.last().map(|entry| entry.id.term);
        if !entries.is_empty() {
            self.step(node, Event::Committed { shard, entries });
        }
        // A leader serves from its own term's first entry on.
        let log = &self.logs[&shard];
        if log.leader == Some(node) && last_term == Some(log.term) {
            let leadership = Leadership::Leading { term: log.term };
            self.step(node, Event::Leadership { shard, leadership });
        }
    }

    /// Makes `node` the leader of a shard. Of the entries that were not committed it keeps `keep`.
    /// The old leader learns of it only when the test says so, or in eager worlds.
    pub fn elect(&mut self, shard: ShardId, node: usize, keep: usize) {
        let eager = self.eager;
        let log = self.logs.get_mut(&shard).unwrap();
        let old = log.leader.replace(node);
        let kept = log.commit.saturating_add(keep).min(log.entries.len());
        log.entries.truncate(kept);
        log.term += 1;
        let id = EntryId::new(log.term, log.entries.len() as u64 + 1);
        log.entries.push(Entry {
            id,
            kind: EntryKind::Normal,
            data: Bytes::new(),
        });
        if eager {
            if let Some(old) = old {
                let leadership = Leadership::Following {
                    leader: Some(NodeId(node as u128)),
                };
                self.step(old, Event::Leadership { shard, leadership });
            }
            self.commit(shard, usize::MAX);
            self.flush(node);
        }
    }

    /// Sends a command to a shard, through `node`.
    pub fn send(
        &mut self,
        node: usize,
        shard: ShardId,
        body: impl Into<Body>,
        stream: Stream,
    ) -> u64 {
        let known = self.map.descriptor(shard);
        let epoch = known.map_or(1, |descriptor| descriptor.epoch);
        self.send_routed(node, (shard, epoch), body, stream)
    }

    /// Sends a command that was routed in this epoch.
    pub fn send_routed(
        &mut self,
        node: usize,
        (shard, epoch): (ShardId, u64),
        body: impl Into<Body>,
        stream: Stream,
    ) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let hlc = self.seen;
        let body = body.into();
        let request = Request {
            id: token,
            shard,
            epoch,
            hlc,
            stream,
            body,
        };
        self.step(
            node,
            Event::Request {
                token: Token(token),
                request,
            },
        );
        token
    }

    /// Answers all late reads of a node, and writes what waits to be written.
    pub fn settle(&mut self, node: usize) {
        self.nodes[node].participant.hurry();
        self.flush(node);
        while let Some((id, result)) = self.nodes[node].state.answer(0) {
            self.step(node, Event::StoreRead { id, result });
            self.flush(node);
        }
    }

    /// A whole command, over all its shards, as a gateway would do it.
    pub fn call(&mut self, command: Command) -> Reply {
        let split = match self.map.split(command.clone()) {
            Ok(split) => split,
            Err(reply) => return reply,
        };
        let [part] = &split.parts[..] else {
            return self.coordinate(command);
        };
        match self.ask(part.shard, part.command.clone()) {
            Some(Outcome::Reply(reply)) => split.merge.finish(vec![reply]),
            // It was described anew on the way, and the map has heard of it.
            Some(Outcome::StaleEpoch { .. }) => self.call(command),
            other => panic!("no reply: {other:?}"),
        }
    }

    /// Asks the leader of a shard; what it has answered by the time that it has come to rest.
    pub fn ask(&mut self, shard: ShardId, body: impl Into<Body>) -> Option<Outcome> {
        let leader = self.logs[&shard].leader.unwrap();
        let token = self.send(leader, shard, body, Stream::NONE);
        self.settle(leader);
        self.responses.remove(&token)
    }

    /// Has the questions of leaders to other shards answered, until there are none.
    pub fn carry_calls(&mut self) {
        while let Some((node, shard, call, key, body)) = self.calls.pop_front() {
            let asked = self.map.locate(&key).map(|it| it.shard);
            let answer = asked.and_then(|asked| self.ask(asked, body));
            let outcome = answer.unwrap_or(Outcome::Unknown);
            let told = Event::Called {
                shard,
                call,
                outcome,
            };
            self.step(node, told);
            self.settle(node);
        }
    }

    /// Reads a key of a shard: the version through which its leader has promised what it read.
    pub fn promised(&mut self, shard: ShardId, key: &str) -> Version {
        let read = TxnRequest::Read {
            keys: vec![Bytes::copy_from_slice(key.as_bytes())],
        };
        match self.ask(shard, read) {
            Some(Outcome::Txn(TxnAnswer::Values { valid_through, .. })) => valid_through,
            other => panic!("{other:?}"),
        }
    }

    /// Whether all nodes hold the same rows.
    pub fn replicas_agree(&self) -> bool {
        let first = self.nodes[0].state.dump();
        self.nodes[1..].iter().all(|it| it.state.dump() == first)
    }

    /// A command over several shards, as a transaction of its own.
    fn coordinate(&mut self, command: Command) -> Reply {
        let settings = coordinator::Settings::default();
        self.next_token += 1;
        let mut coordinator = Coordinator::new(settings, NodeId(99), self.next_token);
        let script = Script {
            watched: Vec::new(),
            commands: vec![command],
        };
        let ticket = Ticket(1);
        let mut events = VecDeque::from([coordinator::Event::Run { ticket, script }]);
        let mut said = None;
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            coordinator.step(self.now(0), event, &self.map, &mut effects);
            for effect in effects {
                match effect {
                    coordinator::Effect::Call {
                        call,
                        shard,
                        hlc,
                        body,
                        ..
                    } => {
                        let before = std::mem::replace(&mut self.seen, hlc);
                        let leader = self.logs[&shard].leader.unwrap();
                        let token = self.send(leader, shard, body, Stream::NONE);
                        self.settle(leader);
                        self.carry_calls();
                        let outcome = self.responses.remove(&token);
                        let outcome = outcome.unwrap_or(Outcome::Unknown);
                        self.seen = before;
                        if let Some(leader) = self.logs[&shard].leader {
                            coordinator.merge_hlc(self.nodes[leader].participant.hlc());
                        }
                        events.push_back(coordinator::Event::Answered { call, outcome });
                    }
                    coordinator::Effect::Ended { ended, .. } => {
                        said = match ended {
                            Ended::Replies(mut replies) => replies.pop(),
                            Ended::Failed(reply) => Some(reply),
                            other => panic!("{other:?}"),
                        };
                    }
                    coordinator::Effect::Reply { .. } => panic!("no session was begun"),
                }
            }
        }
        said.expect("nothing stands in its way")
    }

    /// A command line.
    pub fn run(&mut self, line: &[&str]) -> Reply {
        let argv = line
            .iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        match Command::parse(argv) {
            Ok(command) => self.call(command),
            Err(reply) => reply,
        }
    }
}
