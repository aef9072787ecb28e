//! A simulated cluster for the controller: nodes, views, shards that elect, copy and obey, in a plain loop.
//!
//! It knows nothing of the controller's reasons. It carries out orders late, twice refused, or without an answer; it
//! moves leadership when nodes stop, and the controller with that of shard 0; and after every change of a shard it
//! checks what must always hold ([`invariants`]). The solver is the real one, asked inline.

mod faults;
mod invariants;
mod scale;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::solve::Config;
use synod_replication::NodeId;
use synod_storage::{KeyRange, Micros, ReplicaId, ShardId};
use synod_txn::{Authority, Now, Replica, ReplicaRole, ShardDescriptor};

use self::faults::KillAt;
use self::invariants::Invariants;
use super::advance::Step;
use super::cluster::{Duty, Load, Progress, Report};
use super::plan::Class;
use super::records::Policies;
use super::solver::Solver;
use super::{Controller, Effect, Event, Refusal, Settings, defaults};
use crate::directory::Table;

pub(super) const SECOND: u64 = 1_000_000;

/// With so many shards, those on which nothing happens are reported on once in so many seconds: a report a second each
/// was most of the work of a long simulation.
const SHARDS_MANY: usize = 100;
const TURNS: u64 = 5;

/// Bytes that a copy receives a second.
const COPY_RATE: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub(super) struct SimNode {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) alive: bool,
}

#[derive(Clone, Debug)]
pub(super) struct SimShard {
    pub(super) descriptor: ShardDescriptor,
    pub(super) leader: Option<NodeId>,
    pub(super) term: u64,
    pub(super) load: Load,
    /// Bytes that each replica still lacks.
    pub(super) lacks: BTreeMap<ReplicaId, u64>,
    obeyed: Option<Authority>,
}

impl SimShard {
    pub(super) fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let voters = self.descriptor.replicas.iter();
        voters
            .filter(|replica| replica.role == ReplicaRole::Voter)
            .map(|replica| replica.node)
    }

    pub(super) fn learners(&self) -> usize {
        self.descriptor.replicas.len() - self.voters().count()
    }

    /// A copy begins that lacks everything.
    fn begin_copy(&mut self, replica: ReplicaId, node: NodeId) {
        let role = ReplicaRole::Learner;
        let copy = Replica {
            replica,
            node,
            role,
        };
        self.descriptor.replicas.push(copy);
        self.lacks.insert(replica, self.load.bytes);
    }
}

#[derive(Debug)]
enum Thing {
    /// For the controller of this life.
    Tell(u64, Box<Event>),
    Carry {
        life: u64,
        id: u64,
        shard: ShardId,
        epoch: u64,
        authority: Authority,
        step: Step,
    },
    Store(u64, u64, Vec<(Bytes, Option<Bytes>)>),
    Elect(ShardId),
    Look,
    Second,
    Tick,
}

pub(super) struct World {
    pub(super) rng: SmallRng,
    pub(super) now_us: u64,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    pub(super) duties: BTreeMap<NodeId, Duty>,
    pub(super) view: (u64, BTreeSet<NodeId>),
    pub(super) shards: BTreeMap<ShardId, SimShard>,
    pub(super) policies: Policies,
    pub(super) controller: Option<(NodeId, Controller)>,
    invariants: Invariants,
    pub(super) emptied: BTreeSet<NodeId>,
    pub(super) damaged: BTreeMap<ReplicaId, ShardId>,
    pub(super) copied_bytes: u64,
    pub(super) orders: u64,
    /// Of a thousand orders: how many get lost on their way, or their answers.
    pub(super) loss_permille: u32,
    /// Whether nothing is heard of a shard whose leader was moved: no answer, no report.
    pub(super) hush_transfers: bool,
    pub(super) hushed: BTreeSet<ShardId>,
    pub(super) kill_at: Option<KillAt>,
    pub(super) effects_seen: u64,
    settings: Settings,
    rows: BTreeMap<Bytes, Bytes>,
    solver: Solver,
    life: u64,
    queue: BTreeMap<(u64, u64), Thing>,
    queued: u64,
    next_replica: u64,
}

pub(super) fn node(n: u32) -> NodeId {
    NodeId((0x1000_0000 + u128::from(n)) << 96)
}

/// A budget for many small solves.
fn budget() -> Config {
    Config {
        evaluations_max: 60_000,
        conflicts_max: 500,
        ..Config::default()
    }
}

/// In one change, these replicas get votes and those go.
fn replace(
    after: &mut SimShard,
    promote: &[ReplicaId],
    remove: &[ReplicaId],
    leader: NodeId,
) -> Result<(), Refusal> {
    if promote
        .iter()
        .any(|replica| after.lacks.contains_key(replica))
    {
        return Err(Refusal::NotCaughtUp);
    }
    let list = &mut after.descriptor.replicas;
    list.retain(|replica| !remove.contains(&replica.replica));
    for replica in list.iter_mut() {
        if promote.contains(&replica.replica) {
            replica.role = ReplicaRole::Voter;
        }
    }
    after.lacks.retain(|replica, _| !remove.contains(replica));
    assert!(
        after.voters().any(|node| node == leader),
        "the leader was to remove itself: {:?}",
        after.descriptor
    );
    Ok(())
}

impl World {
    /// A cluster of the nodes `first` with their zones, that holds `shards` user shards of `bytes` each, and the system
    /// shard.
    pub(super) fn founded(seed: u64, first: &[(NodeId, &str)], shards: u64, bytes: u64) -> World {
        let mut world = World {
            rng: SmallRng::seed_from_u64(seed),
            now_us: SECOND,
            nodes: BTreeMap::new(),
            duties: BTreeMap::new(),
            view: (0, BTreeSet::new()),
            shards: BTreeMap::new(),
            policies: defaults::policies(),
            controller: None,
            invariants: Invariants::default(),
            emptied: BTreeSet::new(),
            damaged: BTreeMap::new(),
            copied_bytes: 0,
            orders: 0,
            loss_permille: 0,
            hush_transfers: false,
            hushed: BTreeSet::new(),
            kill_at: None,
            effects_seen: 0,
            settings: Settings::default(),
            rows: BTreeMap::new(),
            solver: Solver::new(budget()),
            life: 0,
            queue: BTreeMap::new(),
            queued: 0,
            next_replica: 1,
        };
        for (node, zone) in first {
            world.join(*node, zone);
        }
        world.look();
        // Round robin, as clusters are founded.
        let nodes: Vec<NodeId> = first.iter().map(|(node, _)| *node).collect();
        for shard in 0..=shards {
            let weight = if shard == 0 { 1 << 20 } else { bytes };
            let from = usize::try_from(shard).unwrap_or(0) % nodes.len();
            let copies = if nodes.len() < 3 { 1 } else { 3 };
            let on: Vec<NodeId> = nodes
                .iter()
                .cycle()
                .skip(from)
                .take(copies)
                .copied()
                .collect();
            world.found(ShardId(shard), &on, weight);
        }
        world.put(0, Thing::Tick);
        world.put(0, Thing::Second);
        world
    }

    pub(super) fn found(&mut self, shard: ShardId, nodes: &[NodeId], bytes: u64) {
        let replicas = nodes
            .iter()
            .map(|&node| Replica {
                replica: self.fresh_replica(),
                node,
                role: ReplicaRole::Voter,
            })
            .collect();
        let descriptor = ShardDescriptor {
            shard,
            epoch: 1,
            range: KeyRange {
                start: shard.0.to_be_bytes().to_vec(),
                end: Some((shard.0 + 1).to_be_bytes().to_vec()),
            },
            replicas,
        };
        let sim = SimShard {
            descriptor,
            leader: nodes.first().copied(),
            term: 1,
            load: Load {
                bytes,
                read_qps: 10,
                write_qps: 10,
            },
            lacks: BTreeMap::new(),
            obeyed: None,
        };
        self.shards.insert(shard, sim);
        if shard.0 == 0 {
            self.take_over();
        } else {
            self.tell_shard(shard);
        }
    }

    fn fresh_replica(&mut self) -> ReplicaId {
        self.next_replica += 1;
        ReplicaId(self.next_replica)
    }

    fn put(&mut self, after_us: u64, thing: Thing) {
        self.queued += 1;
        self.queue
            .insert((self.now_us + after_us, self.queued), thing);
    }

    fn tell(&mut self, after_us: u64, event: Event) {
        self.put(after_us, Thing::Tell(self.life, Box::new(event)));
    }

    fn tell_shard(&mut self, shard: ShardId) {
        let delay = self.rng.random_range(1_000..50_000);
        let descriptor = self.shards[&shard].descriptor.clone();
        self.tell(delay, Event::Shard(descriptor));
    }

    fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.alive)
    }

    fn has_majority(&self, shard: &SimShard) -> bool {
        let live = shard.voters().filter(|node| self.is_alive(*node)).count();
        2 * live > shard.voters().count()
    }

    /// The membership agrees on who is there, if a majority of the last configuration can.
    fn look(&mut self) {
        let alive: BTreeSet<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.alive)
            .map(|(id, _)| *id)
            .collect();
        let agreeing = self.view.1.intersection(&alive).count();
        if alive == self.view.1 || (2 * agreeing <= self.view.1.len() && !self.view.1.is_empty()) {
            return;
        }
        self.view = (self.view.0 + 1, alive);
        self.invariants.input_changed(self.now_us);
        let event = self.view_event();
        self.tell(1_000, event);
    }

    fn view_event(&self) -> Event {
        let members = self
            .view
            .1
            .iter()
            .map(|id| (*id, self.nodes[id].labels.clone()))
            .collect();
        Event::View {
            seq: self.view.0,
            members,
        }
    }

    fn elect(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get(&id) else {
            return;
        };
        if shard.leader.is_some_and(|leader| self.is_alive(leader)) || !self.has_majority(shard) {
            return;
        }
        let fit: Vec<NodeId> = shard.voters().filter(|node| self.is_alive(*node)).collect();
        let leader = fit[self.rng.random_range(0..fit.len())];
        self.lead(id, leader);
        self.invariants.elected(id);
    }

    fn lead(&mut self, id: ShardId, leader: NodeId) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.leader = Some(leader);
            shard.term += 1;
        }
        if id.0 == 0 {
            self.take_over();
        } else {
            self.report(id);
        }
    }

    /// Many of the shards that have a voter on a node elect it.
    pub(super) fn crowd(&mut self, node: NodeId) {
        let with_voter = |(id, shard): (&ShardId, &SimShard)| {
            let elects = shard.leader != Some(node) && shard.voters().any(|voter| voter == node);
            elects.then_some(*id)
        };
        let ids: Vec<ShardId> = self.shards.iter().filter_map(with_voter).collect();
        for id in ids {
            if id.0 != 0 && self.rng.random_bool(0.7) {
                self.lead(id, node);
                self.invariants.elected(id);
            }
        }
    }

    fn depose(&mut self) {
        self.controller = None;
        self.life += 1;
    }

    /// Who leads the system shard is the controller, with nothing but what was stored.
    fn take_over(&mut self) {
        self.depose();
        let shard = &self.shards[&ShardId(0)];
        let (Some(host), term) = (shard.leader, shard.term) else {
            return;
        };
        let rows = self.rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref()));
        let controller = Controller::new(self.settings, term, self.now(), rows);
        self.controller = Some((host, controller));
        self.solver = Solver::new(budget());
        self.tell(0, self.view_event());
        for (id, duty) in self.duties.clone() {
            self.tell(0, Event::Duty(id, duty));
        }
        self.tell(0, Event::Policies(self.policies.clone()));
        for (replica, shard) in self.damaged.clone() {
            self.tell(0, Event::Damaged(shard, replica));
        }
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            let descriptor = self.shards[&shard].descriptor.clone();
            self.tell(0, Event::Shard(descriptor));
            self.report(shard);
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: Micros(self.now_us),
            wall_ms: self.now_us / 1_000,
        }
    }

    fn report(&mut self, id: ShardId) {
        let shard = &self.shards[&id];
        let Some(leader) = shard.leader.filter(|leader| self.is_alive(*leader)) else {
            return;
        };
        if !self.has_majority(shard) || self.hushed.contains(&id) {
            return;
        }
        let progress = shard
            .descriptor
            .replicas
            .iter()
            .filter(|replica| self.is_alive(replica.node))
            .map(|replica| {
                let lacks = shard.lacks.get(&replica.replica).copied().unwrap_or(0);
                let done = (shard.load.bytes - lacks.min(shard.load.bytes)) * 1000
                    / shard.load.bytes.max(1);
                let progress = match lacks {
                    _ if self.damaged.contains_key(&replica.replica) => Progress::Copying(0),
                    0 => Progress::CaughtUp,
                    _ => Progress::Copying(u16::try_from(done).unwrap_or(1000)),
                };
                (replica.replica, progress)
            })
            .collect();
        let report = Report {
            shard: id,
            leader,
            term: shard.term,
            load: shard.load,
            measured: true,
            joint: false,
            progress,
        };
        let delay = self.rng.random_range(1_000..100_000);
        self.tell(delay, Event::Report(report));
    }

    /// One event.
    fn turn(&mut self, thing: Thing) {
        match thing {
            Thing::Tell(life, event) => {
                if life == self.life {
                    self.drive(*event);
                }
            }
            Thing::Tick => {
                self.put(SECOND / 10, Thing::Tick);
                self.drive(Event::Tick);
            }
            Thing::Second => {
                self.put(SECOND, Thing::Second);
                self.second();
            }
            Thing::Elect(shard) => self.elect(shard),
            Thing::Look => self.look(),
            Thing::Store(life, id, rows) => {
                if life == self.life {
                    for (key, value) in rows {
                        if let Some(Table::Damaged(replica)) = Table::of(&key) {
                            self.damaged.remove(&replica);
                            self.drive(Event::Replaced(replica));
                        }
                        match value {
                            Some(value) => self.rows.insert(key, value),
                            None => self.rows.remove(&key),
                        };
                    }
                    self.drive(Event::Written(id));
                }
            }
            Thing::Carry {
                life,
                id,
                shard,
                epoch,
                authority,
                step,
            } => {
                let result = self.carry_out(shard, epoch, authority, &step);
                let hushed = self.hushed.contains(&shard);
                let lost = self.rng.random_range(0..1000) < self.loss_permille || hushed;
                let delay = self.rng.random_range(1_000..30_000);
                if life == self.life && !lost {
                    self.tell(delay, Event::Ordered { order: id, result });
                }
            }
        }
    }

    fn second(&mut self) {
        let alive: BTreeSet<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.alive)
            .map(|(id, _)| *id)
            .collect();
        let mut streams: BTreeMap<NodeId, u64> = BTreeMap::new();
        for shard in self.shards.values() {
            for replica in &shard.descriptor.replicas {
                if shard.lacks.contains_key(&replica.replica) {
                    *streams.entry(replica.node).or_default() += 1;
                }
            }
        }
        let ids: Vec<ShardId> = self.shards.keys().copied().collect();
        let many = ids.len() / SHARDS_MANY;
        for id in ids {
            let Some(shard) = self.shards.get_mut(&id) else {
                continue;
            };
            let copies = !shard.lacks.is_empty();
            if shard.leader.is_some_and(|leader| alive.contains(&leader)) {
                for replica in &shard.descriptor.replicas {
                    if let Some(lacks) = shard.lacks.get_mut(&replica.replica)
                        && alive.contains(&replica.node)
                    {
                        let rate = COPY_RATE / streams.get(&replica.node).copied().unwrap_or(1);
                        *lacks = lacks.saturating_sub(rate);
                    }
                }
                shard.lacks.retain(|_, lacks| *lacks > 0);
            }
            // Of many shards, those on which nothing happens take turns.
            if copies || many == 0 || (self.now_us / SECOND + id.0).is_multiple_of(TURNS) {
                self.report(id);
            }
        }
    }

    fn drive(&mut self, event: Event) {
        let now = self.now();
        let Some((_, controller)) = &mut self.controller else {
            return;
        };
        let mut effects = Vec::new();
        controller.step(now, event, &mut effects);
        for effect in effects {
            self.effects_seen += 1;
            let seen = self.effects_seen;
            if let Some(kill) = self.kill_at.take_if(|kill| kill.effect() == seen) {
                self.end_controller(kill);
                return;
            }
            self.carry(effect);
        }
    }

    fn carry(&mut self, effect: Effect) {
        match effect {
            Effect::Ask(question) => {
                let answer = self.solver.answer(question, &mut || false);
                let delay = self.rng.random_range(10_000..200_000);
                self.tell(delay, Event::Answered(answer));
            }
            Effect::Abort(_) => {}
            Effect::Write { id, rows } => {
                let delay = self.rng.random_range(2_000..20_000);
                self.put(delay, Thing::Store(self.life, id, rows));
            }
            Effect::Order {
                id,
                shard,
                epoch,
                authority,
                step,
            } => {
                self.orders += 1;
                let delay = self.rng.random_range(1_000..50_000);
                if self.rng.random_range(0..1000) >= self.loss_permille {
                    let life = self.life;
                    self.put(
                        delay,
                        Thing::Carry {
                            life,
                            id,
                            shard,
                            epoch,
                            authority,
                            step,
                        },
                    );
                }
            }
            Effect::Emptied(node) => {
                self.emptied.insert(node);
            }
        }
    }

    /// Whether the plan says that balance alone moves the shard.
    fn is_balance(&self, id: ShardId) -> bool {
        let controller = self.controller.as_ref();
        let target = controller.and_then(|(_, controller)| controller.plan().1.get(&id));
        target.is_some_and(|target| target.class == Class::Balance)
    }

    /// The leader that takes an order, unless there is a reason to refuse it.
    fn leader_for(&self, id: ShardId, epoch: u64, authority: Authority) -> Result<NodeId, Refusal> {
        let Some(shard) = self.shards.get(&id) else {
            return Err(Refusal::Invalid("no such shard".to_owned()));
        };
        let Some(leader) = shard.leader.filter(|leader| self.is_alive(*leader)) else {
            return Err(Refusal::NotLeader(None));
        };
        if !self.has_majority(shard) {
            return Err(Refusal::Unknown);
        }
        if shard.descriptor.epoch != epoch {
            return Err(Refusal::Stale(shard.descriptor.clone()));
        }
        if shard.obeyed.is_some_and(|obeyed| obeyed > authority) {
            return Err(Refusal::Superseded);
        }
        Ok(leader)
    }

    fn carry_out(
        &mut self,
        id: ShardId,
        epoch: u64,
        authority: Authority,
        step: &Step,
    ) -> Result<ShardDescriptor, Refusal> {
        let leader = self.leader_for(id, epoch, authority)?;
        let shard = &self.shards[&id];
        let before = shard.clone();
        let mut after = shard.clone();
        after.obeyed = Some(authority);
        match step {
            Step::Add(node) => {
                if after.descriptor.replicas.iter().any(|r| r.node == *node) {
                    return Err(Refusal::Invalid("it has a replica".to_owned()));
                }
                after.begin_copy(self.fresh_replica(), *node);
                self.copied_bytes += after.load.bytes;
            }
            Step::Replace { promote, remove } => replace(&mut after, promote, remove, leader)?,
            Step::Transfer(to) => {
                let heir = after.descriptor.replicas.iter().find(|r| r.replica == *to);
                let Some(heir) = heir.filter(|r| r.role == ReplicaRole::Voter) else {
                    return Err(Refusal::Invalid("it has no vote".to_owned()));
                };
                let node = heir.node;
                if !self.is_alive(node) {
                    return Err(Refusal::Unknown);
                }
                if node == leader {
                    return Ok(after.descriptor);
                }
                self.invariants.transferred(self.now_us, id, leader, node);
                let descriptor = after.descriptor.clone();
                self.shards.insert(id, after);
                if self.hush_transfers {
                    self.hushed.insert(id);
                }
                self.lead(id, node);
                return Ok(descriptor);
            }
        }
        after.descriptor.epoch += 1;
        let up = self.up();
        let seen = (&self.nodes, &up);
        let when = (self.now_us, self.is_balance(id));
        let invariants = &mut self.invariants;
        invariants.changed(when, &before, &after, seen, &self.shards);
        let descriptor = after.descriptor.clone();
        self.shards.insert(id, after);
        self.tell_shard(id);
        Ok(descriptor)
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, us: u64) {
        let end = self.now_us + us;
        while let Some((&(at, number), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            self.now_us = at;
            let due: Vec<NodeId> = self.invariants.due(at);
            for node in due {
                self.restart(node);
            }
            if let Some(thing) = self.queue.remove(&(at, number)) {
                self.turn(thing);
            }
        }
        self.now_us = end;
    }

    /// Runs until nothing is left to do, at most for so long; how long it took.
    pub(super) fn settle(&mut self, most_us: u64) -> u64 {
        let start = self.now_us;
        let mut calm = 0;
        while calm < 8 {
            self.run(SECOND);
            let settled = self
                .controller
                .as_ref()
                .is_some_and(|(_, controller)| controller.is_settled());
            let clean = self.shards.values().all(|shard| shard.lacks.is_empty());
            calm = if settled && clean { calm + 1 } else { 0 };
            assert!(
                self.now_us < start + most_us,
                "not settled after {} s: {}",
                most_us / SECOND,
                self.describe()
            );
        }
        self.now_us - start - 8 * SECOND
    }

    /// What is not as it should be.
    pub(super) fn describe(&self) -> String {
        let Some((host, controller)) = &self.controller else {
            return format!("no controller; view {:?}", self.view);
        };
        format!(
            "controller {host} term {}: verdict {:?}; targets {:#?}; waits {:?}",
            controller.term(),
            controller.verdict(),
            controller.plan().1.iter().take(3).collect::<Vec<_>>(),
            controller.waits().iter().take(5).collect::<Vec<_>>(),
        )
    }
}
