//! A small world: nodes with simulated disks, links, clocks, and clients, in one event loop.
//!
//! It runs the production code with virtual time. One seed is one history. What it checks at every
//! step: no index of a shard is ever committed with two contents, no term has two leaders, entries
//! are handed out in order. What it checks at the end: every key is linearizable (so no
//! acknowledged write was lost and no read was stale), and, once all faults are healed, that every
//! shard serves again.

mod cost;
mod history;
mod random;
mod scenarios;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rkyv::util::AlignedVec;
use synod_storage::disk::{SimDisk, Survival};
use synod_storage::index::MemoryIndexFactory;
use synod_storage::{
    Entry, EntryId, Job, JobStep, KeyRange, Lane, Lookup, Micros, OpenConfig, Options, ReplicaId,
    ShardId, Space, Store, Version, Write, WriteOp, entry_checksum,
};

use self::history::{History, Key, Span};
use crate::election::Random;
use crate::event::{Campaign, Event, Origin};
use crate::{
    Config, Configuration, Effect, Effects, Grant, Incarnation, Loss, Member, Message, NodeId,
    Read, ReadFailure, ReadToken, Reads, Replication, Role,
};

/// One-way properties of the network between two nodes.
#[derive(Clone, Copy, Debug)]
struct Link {
    cut: bool,
    loss_permille: u64,
    repeat_permille: u64,
    delay_us: (u64, u64),
}

const FAIR: Link = Link {
    cut: false,
    loss_permille: 0,
    repeat_permille: 0,
    delay_us: (100, 600),
};

/// How the world is built.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    nodes: u64,
    /// The first so many nodes carry each shard.
    replicas: u64,
    shards: u64,
    clients: u64,
    keys: u8,
    reads: Reads,
    quiet_after_ms: u64,
    /// Microseconds that one step of a disk job takes.
    disk_us: (u64, u64),
    think_us: (u64, u64),
    /// Permille of operations that write.
    write_permille: u64,
    /// Bytes of a value besides its number.
    padding: usize,
}

impl Plan {
    fn new(seed: u64) -> Plan {
        Plan {
            seed,
            nodes: 3,
            replicas: 3,
            shards: 2,
            clients: 4,
            keys: 3,
            reads: Reads::Lease,
            quiet_after_ms: 3_000,
            disk_us: (50, 400),
            think_us: (500, 20_000),
            write_permille: 500,
            padding: 100,
        }
    }
}

/// What happens at a moment.
#[derive(Debug)]
enum Happening {
    Tick {
        node: usize,
        life: u64,
    },
    Deliver {
        node: usize,
        from: usize,
        life: u64,
        frame: Bytes,
    },
    Disk {
        node: usize,
        life: u64,
        lane: usize,
    },
    Request {
        node: usize,
        op: u64,
        attempt: u32,
    },
    Answer {
        op: u64,
        attempt: u32,
        answer: Answer,
    },
    NextOp {
        client: usize,
    },
    GiveUp {
        op: u64,
    },
    Fault(random::Fault),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Nothing was done.
    Retry(Option<usize>),
    Written,
    Value(u64),
    /// It may or may not have been done.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    client: usize,
    key: Key,
    /// The value to write; `None` reads.
    write: Option<u64>,
    invoked: u64,
    attempt: u32,
}

/// A process.
struct Process {
    store: Store,
    replication: Replication,
    lanes: [VecDeque<Job>; 3],
    writes: BTreeMap<(ShardId, EntryId), (u64, u32)>,
    reads: BTreeMap<ReadToken, (u64, u32)>,
    applied: BTreeMap<ShardId, u64>,
}

/// A machine: it outlives its processes.
struct Machine {
    id: NodeId,
    disk: SimDisk,
    index: MemoryIndexFactory,
    life: u64,
    process: Option<Process>,
    paused_until: u64,
    /// Instead of the plan's.
    disk_us: Option<(u64, u64)>,
    /// The clock's rate in millionths, and where it started.
    rate_ppm: u64,
    clock: (u64, u64),
    fatal: Option<String>,
}

impl Machine {
    fn now(&self, world_us: u64) -> Micros {
        Micros(self.clock.1 + (world_us - self.clock.0) * self.rate_ppm / 1_000_000)
    }
}

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    machines: Vec<Machine>,
    links: Vec<Vec<Link>>,
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    clients_run: bool,
    history: History,
    /// Everything that was ever committed.
    committed: BTreeMap<(ShardId, u64), (u64, u32)>,
    leaders: BTreeMap<(ShardId, u64), ReplicaId>,
    /// Which replica each node is meant to carry.
    placed: BTreeMap<(usize, ShardId), ReplicaId>,
    next_replica: u64,
    /// What is allowed to stop a node.
    fatal_allowed: bool,
    failure: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    trace: bool,
    options: Options,
    applied_total: u64,
    /// So many of the next snapshot chunks are spoiled on their way.
    spoiled_chunks: u32,
}

impl World {
    fn new(plan: Plan) -> World {
        World::with_options(plan, Options::tiny())
    }

    fn with_options(plan: Plan, options: Options) -> World {
        let random = Random::new(plan.seed, ShardId(0), ReplicaId(0));
        let nodes = plan.nodes as usize;
        let mut world = World {
            random,
            now: 1_000,
            order: 0,
            queue: BTreeMap::new(),
            machines: Vec::new(),
            links: vec![vec![FAIR; nodes]; nodes],
            ops: BTreeMap::new(),
            next_op: 1,
            clients_run: true,
            history: History::default(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            placed: BTreeMap::new(),
            next_replica: 1_000,
            fatal_allowed: false,
            failure: None,
            counts: BTreeMap::new(),
            trace: std::env::var_os("SYNOD_TRACE").is_some(),
            options,
            applied_total: 0,
            spoiled_chunks: 0,
            plan,
        };
        for node in 0..nodes {
            let disk = SimDisk::new(world.random.next());
            world.machines.push(Machine {
                id: NodeId((node as u128 + 1) << 96),
                disk,
                index: MemoryIndexFactory::new(),
                life: 0,
                process: None,
                paused_until: 0,
                disk_us: None,
                rate_ppm: 1_000_000,
                clock: (0, 0),
                fatal: None,
            });
            world.start(node);
        }
        for shard in 1..=world.plan.shards {
            world.bootstrap(ShardId(shard));
        }
        for client in 0..world.plan.clients as usize {
            world.after(1_000, Happening::NextOp { client });
        }
        world
    }

    fn bootstrap(&mut self, shard: ShardId) {
        let members: Vec<Member> = (0..self.plan.replicas as usize)
            .map(|node| Member {
                replica: ReplicaId(shard.0 * 10 + node as u64),
                node: self.machines[node].id,
            })
            .collect();
        let configuration = Configuration::of_voters(members.iter().copied());
        for (node, member) in members.iter().enumerate() {
            self.placed.insert((node, shard), member.replica);
            let first = (shard.0 % self.plan.replicas) as usize == node;
            let campaign = if first {
                Campaign::Now
            } else {
                Campaign::OnTimeout
            };
            let configuration = configuration.clone();
            let origin = Origin::Bootstrap {
                configuration,
                campaign,
            };
            let create = Event::Create {
                shard,
                replica: member.replica,
                origin,
            };
            self.event(node, create);
            self.event(
                node,
                Event::Range {
                    shard,
                    range: KeyRange::all(),
                },
            );
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>10} {}", self.now, text());
        }
    }

    fn fail(&mut self, text: String) {
        self.say(|| format!("FAILURE {text}"));
        if self.failure.is_none() {
            self.failure = Some(text);
        }
    }

    fn after(&mut self, delay_us: u64, happening: Happening) {
        self.order += 1;
        self.queue
            .insert((self.now + delay_us, self.order), happening);
    }

    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        if low >= high {
            low
        } else {
            self.random.between(low, high)
        }
    }

    fn chance(&mut self, permille: u64) -> bool {
        self.random.between(0, 1_000) < permille
    }

    // --- processes ------------------------------------------------------------------------------

    fn start(&mut self, node: usize) {
        if self.machines[node].process.is_some() {
            return;
        }
        let offset = self.random.between(1, 1 << 40);
        let (seed, fresh) = (self.random.next(), self.random.next());
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.paused_until = 0;
        machine.clock = (now, offset);
        let mut config = Config::new(machine.id, Incarnation(machine.life), seed);
        config.reads = self.plan.reads;
        config.quiet_after_ms = self.plan.quiet_after_ms;
        config.snapshot_timeout_ms = 2_000;
        let open = OpenConfig {
            disk: Arc::new(machine.disk.clone()),
            index: Box::new(machine.index.clone()),
            options: self.options.clone(),
            boot: u128::from(machine.life),
            fresh_store: u128::from(fresh),
        };
        let opened = match Store::open(open, &mut |_| {}) {
            Ok(opened) => opened,
            Err(error) => {
                self.fail(format!("node {node} does not open: {error}"));
                return;
            }
        };
        let found = format!("{:?} {:?}", opened.report, opened.replicas);
        let mut fx = Effects::new();
        let local = machine.now(now);
        let mut applied = BTreeMap::new();
        for replica in &opened.replicas {
            applied.insert(replica.shard, replica.applied.index);
        }
        let shards: Vec<ShardId> = opened
            .replicas
            .iter()
            .map(|replica| replica.shard)
            .collect();
        let log = opened.store.log();
        let replication = Replication::new(config, local, log, opened.replicas, &mut fx);
        machine.process = Some(Process {
            store: opened.store,
            replication,
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            applied,
        });
        let life = machine.life;
        self.say(|| format!("node {node} starts, life {life}: {found}"));
        self.carry_out(node, &mut fx);
        for shard in shards {
            self.event(
                node,
                Event::Range {
                    shard,
                    range: KeyRange::all(),
                },
            );
        }
        self.after(0, Happening::Tick { node, life });
    }

    fn kill(&mut self, node: usize) {
        if self.machines[node].process.take().is_some() {
            self.say(|| format!("node {node} is killed"));
            let disk = self.machines[node].disk.kill();
            self.machines[node].disk = disk;
        }
    }

    fn power_loss(&mut self, node: usize) {
        self.power_loss_leaving(node, Survival::Random);
    }

    fn power_loss_leaving(&mut self, node: usize, survival: Survival) {
        self.machines[node].process = None;
        self.say(|| format!("node {node} loses power"));
        let disk = self.machines[node].disk.power_loss(survival);
        self.machines[node].disk = disk;
    }

    fn is_up(&self, node: usize) -> bool {
        self.machines[node].process.is_some()
    }

    /// Feeds an event to a node and lets it finish.
    fn event(&mut self, node: usize, event: Event) {
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let mut fx = Effects::new();
        process
            .replication
            .step(now, event, &mut process.store, &mut fx);
        self.carry_out(node, &mut fx);
        self.settle(node);
    }

    /// The node's loop: everything that can be done now is done.
    fn settle(&mut self, node: usize) {
        for _ in 0..1_000 {
            let now = self.machines[node].now(self.now);
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let mut events = Vec::new();
            process.store.take_events(&mut events);
            let mut fx = Effects::new();
            let idle = events.is_empty() && !process.replication.needs_flush();
            for event in events {
                let event = Event::Store(event);
                process
                    .replication
                    .step(now, event, &mut process.store, &mut fx);
            }
            process.replication.flush(now, &mut process.store, &mut fx);
            self.carry_out(node, &mut fx);
            self.take_jobs(node);
            if idle {
                return;
            }
        }
        self.fail(format!("node {node} does not come to rest"));
    }

    fn take_jobs(&mut self, node: usize) {
        let mut jobs = Vec::new();
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        process.store.take_jobs(&mut jobs);
        let life = self.machines[node].life;
        for job in jobs {
            let lane = match job.lane() {
                Lane::Log => 0,
                Lane::Background => 1,
                Lane::Read => 2,
            };
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            process.lanes[lane].push_back(job);
            if process.lanes[lane].len() == 1 {
                let delay = self.disk_delay(node);
                self.after(delay, Happening::Disk { node, life, lane });
            }
        }
    }

    fn disk_delay(&mut self, node: usize) -> u64 {
        let range = self.machines[node].disk_us.unwrap_or(self.plan.disk_us);
        self.between(range)
    }

    fn disk(&mut self, node: usize, lane: usize) {
        let life = self.machines[node].life;
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let Some(job) = process.lanes[lane].front_mut() else {
            return;
        };
        match job.step() {
            JobStep::Again => {
                let delay = self.disk_delay(node);
                self.after(delay, Happening::Disk { node, life, lane });
            }
            JobStep::Done => {
                let Some(job) = process.lanes[lane].pop_front() else {
                    return;
                };
                if let Err(fatal) = process.store.complete(job) {
                    self.stop_fatally(node, fatal.to_string());
                    return;
                }
                if !process.lanes[lane].is_empty() {
                    let delay = self.disk_delay(node);
                    self.after(delay, Happening::Disk { node, life, lane });
                }
                self.settle(node);
            }
        }
    }

    fn stop_fatally(&mut self, node: usize, reason: String) {
        self.say(|| format!("node {node} stops: {reason}"));
        if !self.fatal_allowed {
            self.fail(format!("node {node}: {reason}"));
        }
        self.machines[node].fatal = Some(reason);
        self.kill(node);
    }

    fn carry_out(&mut self, node: usize, fx: &mut Effects) {
        let mut list = VecDeque::new();
        list.extend(fx.drain());
        while let Some(effect) = list.pop_front() {
            let now = self.machines[node].now(self.now);
            match effect {
                Effect::Send { to, message } => self.transmit(node, to, &message),
                Effect::Committed { shard, entries } => {
                    self.committed(node, shard, &entries);
                    let last = entries.last().map_or(0, |entry| entry.id.index);
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process
                        .replication
                        .applied(now, shard, last, &mut process.store, fx);
                    for effect in fx.drain().collect::<Vec<_>>().into_iter().rev() {
                        list.push_front(effect);
                    }
                }
                Effect::Leadership { shard, leadership } => {
                    self.say(|| format!("node {node} {shard}: {leadership:?}"));
                    if leadership.role == Role::Leader {
                        let Some(replica) = self.replica(node, shard) else {
                            continue;
                        };
                        let known = *self
                            .leaders
                            .entry((shard, leadership.term))
                            .or_insert(replica);
                        if known != replica {
                            let term = leadership.term;
                            self.fail(format!("{shard}: {known} and {replica} lead term {term}"));
                        }
                    }
                }
                Effect::ReadReady {
                    shard,
                    token,
                    grant,
                } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.reads.remove(&token) {
                        self.read_now(node, shard, op, attempt, grant);
                    }
                }
                Effect::ReadFailed {
                    shard: _,
                    token,
                    failure,
                } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.reads.remove(&token) {
                        let hint = self.hint(failure);
                        self.answer(op, attempt, Answer::Retry(hint));
                    }
                }
                Effect::ProposalLost { shard, id, loss } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.writes.remove(&(shard, id)) {
                        self.answer(
                            op,
                            attempt,
                            match loss {
                                Loss::Overwritten => Answer::Retry(None),
                                Loss::Unknown => Answer::Unknown,
                            },
                        );
                    }
                }
                Effect::ConfigurationChanged {
                    shard,
                    id,
                    configuration,
                } => {
                    self.say(|| format!("node {node} {shard}: {id} {configuration:?}"));
                    self.count("configurations");
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process.applied.insert(shard, id.index);
                }
                Effect::SnapshotInstalled {
                    shard,
                    id,
                    configuration: _,
                } => {
                    self.say(|| format!("node {node} {shard}: snapshot at {id}"));
                    self.count("snapshots");
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process.applied.insert(shard, id.index);
                }
                Effect::Removed { shard, replica } => {
                    self.placed.remove(&(node, shard));
                    let range = Some(KeyRange::all());
                    let destroy = Event::Destroy {
                        shard,
                        replica,
                        range,
                    };
                    self.again(node, destroy, fx, &mut list);
                }
                Effect::Missing {
                    shard,
                    replica,
                    from: _,
                } => {
                    if self.placed.get(&(node, shard)) == Some(&replica) {
                        if let Some(before) = self.replica(node, shard) {
                            // It was removed, and never heard of it.
                            let range = Some(KeyRange::all());
                            let destroy = Event::Destroy {
                                shard,
                                replica: before,
                                range,
                            };
                            self.again(node, destroy, fx, &mut list);
                        }
                        let origin = Origin::Leader;
                        let create = Event::Create {
                            shard,
                            replica,
                            origin,
                        };
                        self.again(node, create, fx, &mut list);
                        let range = Event::Range {
                            shard,
                            range: KeyRange::all(),
                        };
                        self.again(node, range, fx, &mut list);
                    }
                }
                Effect::Damaged {
                    shard,
                    replica,
                    damage,
                } => {
                    self.say(|| format!("node {node} {shard}/{replica}: damaged, {damage:?}"));
                    self.count("damaged");
                }
                Effect::Repaired {
                    shard,
                    replica,
                    entries,
                } => {
                    self.say(|| format!("node {node} {shard}/{replica}: {entries} repaired"));
                    self.count("repaired");
                }
                Effect::Fatal { reason } => {
                    self.stop_fatally(node, reason);
                    return;
                }
            }
        }
    }

    fn again(&mut self, node: usize, event: Event, fx: &mut Effects, list: &mut VecDeque<Effect>) {
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        process.replication.step(now, event, &mut process.store, fx);
        list.extend(fx.drain());
    }

    fn replica(&self, node: usize, shard: ShardId) -> Option<ReplicaId> {
        let process = self.machines[node].process.as_ref()?;
        process
            .replication
            .status(shard)
            .map(|status| status.replica)
    }

    fn committed(&mut self, node: usize, shard: ShardId, entries: &[Entry]) {
        for entry in entries {
            let index = entry.id.index;
            let print = (entry.id.term, entry_checksum(entry));
            let known = *self.committed.entry((shard, index)).or_insert(print);
            self.say(|| format!("node {node} {shard}: applies {}", entry.id));
            if known != print {
                self.fail(format!("{shard}: index {index} is {known:?} and {print:?}"));
            }
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let before = process.applied.insert(shard, index);
            if before.is_some_and(|before| before + 1 != index) {
                self.fail(format!("node {node} {shard}: {before:?} then {index}"));
                return;
            }
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let mut writes = Vec::new();
            if !entry.data.is_empty() {
                writes.push(Write {
                    space: Space::Local(shard),
                    key: entry.data.slice(..1),
                    version: Version(index),
                    op: WriteOp::Put(entry.data.slice(1..)),
                });
            }
            process.store.apply(shard, entry.id, &writes);
            self.applied_total += 1;
            if let Some((op, attempt)) = process.writes.remove(&(shard, entry.id)) {
                self.answer(op, attempt, Answer::Written);
            }
        }
    }

    fn value(&mut self, node: usize, key: Key) -> u64 {
        let Some(process) = &mut self.machines[node].process else {
            return 0;
        };
        match process
            .store
            .get(Space::Local(key.0), &[key.1], Version::MAX)
        {
            Lookup::Found { version: _, value } => value
                .get(..8)
                .and_then(|v| v.try_into().ok())
                .map_or(0, u64::from_le_bytes),
            Lookup::Absent { .. } => 0,
            Lookup::Pending(_) => panic!("local rows are resident"),
        }
    }

    fn node_of(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == id)
    }

    fn hint(&self, failure: ReadFailure) -> Option<usize> {
        match failure {
            ReadFailure::NotLeader(leader) => leader.and_then(|leader| self.node_of(leader.node)),
            ReadFailure::TimedOut | ReadFailure::NoReplica => None,
        }
    }

    // --- the network ----------------------------------------------------------------------------

    fn transmit(&mut self, from: usize, to: NodeId, message: &Message) {
        let Some(to) = self.node_of(to) else { return };
        self.count("messages");
        if from == to {
            self.fail(format!("node {from} wrote to itself"));
        }
        let mut message = message.clone();
        if let Message::Snapshot(snapshot) = &mut message {
            self.count("snapshot messages");
            if let crate::message::SnapshotBody::Chunk { payload, .. } = &mut snapshot.body {
                self.count("chunks");
                let spoil = self.spoiled_chunks > 0 && !payload.is_empty();
                if spoil {
                    self.spoiled_chunks -= 1;
                    let mut bytes = payload.to_vec();
                    let at = self.random.next() as usize % bytes.len();
                    bytes[at] ^= 4;
                    *payload = bytes.into();
                }
            }
        }
        let frame = Bytes::from_owner(message.encode(AlignedVec::new()));
        let link = self.links[from][to];
        if link.cut || self.chance(link.loss_permille) {
            return;
        }
        let copies = if self.chance(link.repeat_permille) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.between(link.delay_us);
            let life = self.machines[to].life;
            let frame = frame.clone();
            self.after(
                delay,
                Happening::Deliver {
                    node: to,
                    from,
                    life,
                    frame,
                },
            );
        }
    }

    // --- clients --------------------------------------------------------------------------------

    fn next_op(&mut self, client: usize) {
        if !self.clients_run {
            return;
        }
        let shard = ShardId(1 + self.random.next() % self.plan.shards);
        let key = (
            shard,
            (self.random.next() % u64::from(self.plan.keys)) as u8,
        );
        let write = self.chance(self.plan.write_permille);
        self.begin_op(client, key, write);
    }

    fn begin_op(&mut self, client: usize, key: Key, write: bool) {
        let node = (self.random.next() % self.plan.nodes) as usize;
        self.begin_op_at(node, client, key, write);
    }

    /// Begins an operation whose first attempt goes to this node.
    fn begin_op_at(&mut self, node: usize, client: usize, key: Key, write: bool) -> u64 {
        let id = self.next_op;
        self.next_op += 1;
        let write = write.then_some(id);
        let op = Op {
            client,
            key,
            write,
            invoked: self.now,
            attempt: 0,
        };
        self.ops.insert(id, op);
        let delay = self.random.between(50, 300);
        self.after(
            delay,
            Happening::Request {
                node,
                op: id,
                attempt: 0,
            },
        );
        self.after(3_000_000, Happening::GiveUp { op: id });
        id
    }

    fn request(&mut self, node: usize, id: u64, attempt: u32) {
        let Some(op) = self.ops.get(&id).copied() else {
            return;
        };
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            self.answer(id, attempt, Answer::Retry(None));
            return;
        };
        let shard = op.key.0;
        match op.write {
            Some(value) => {
                let mut data = vec![op.key.1];
                data.extend_from_slice(&value.to_le_bytes());
                data.resize(9 + self.plan.padding, b'x');
                match process.replication.propose(now, shard, data.into()) {
                    Ok(entry) => {
                        process.writes.insert((shard, entry), (id, attempt));
                    }
                    Err(crate::ProposeError::NotLeader(leader)) => {
                        let hint = leader.and_then(|leader| self.node_of(leader.node));
                        self.answer(id, attempt, Answer::Retry(hint));
                    }
                    Err(
                        crate::ProposeError::NotServing
                        | crate::ProposeError::Throttled
                        | crate::ProposeError::TooLarge
                        | crate::ProposeError::NoReplica,
                    ) => self.answer(id, attempt, Answer::Retry(None)),
                }
            }
            None => match process.replication.read(now, shard, ReadToken(id)) {
                Read::Ready(grant) => self.read_now(node, shard, id, attempt, grant),
                Read::Pending => {
                    process.reads.insert(ReadToken(id), (id, attempt));
                }
                Read::Refused(failure) => {
                    let hint = self.hint(failure);
                    self.answer(id, attempt, Answer::Retry(hint));
                }
            },
        }
        self.settle(node);
    }

    fn read_now(&mut self, node: usize, shard: ShardId, id: u64, attempt: u32, grant: Grant) {
        let Some(op) = self.ops.get(&id).copied() else {
            return;
        };
        let value = self.value(node, op.key);
        let now = self.machines[node].now(self.now);
        let Some(process) = &self.machines[node].process else {
            return;
        };
        let answer = if process.replication.confirm(now, shard, &grant) {
            Answer::Value(value)
        } else {
            Answer::Retry(Some(node))
        };
        self.answer(id, attempt, answer);
    }

    fn answer(&mut self, op: u64, attempt: u32, answer: Answer) {
        let delay = self.random.between(50, 300);
        self.after(
            delay,
            Happening::Answer {
                op,
                attempt,
                answer,
            },
        );
    }

    fn answered(&mut self, id: u64, attempt: u32, answer: Answer) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        if op.attempt != attempt {
            return;
        }
        let span = Span {
            invoked: op.invoked,
            completed: self.now,
        };
        let (client, key) = (op.client, op.key);
        match answer {
            Answer::Retry(hint) => {
                op.attempt += 1;
                let attempt = op.attempt;
                let any = (self.random.next() % self.plan.nodes) as usize;
                let node = hint.unwrap_or(any);
                let delay = self.random.between(1_000, 20_000);
                self.after(
                    delay,
                    Happening::Request {
                        node,
                        op: id,
                        attempt,
                    },
                );
                return;
            }
            Answer::Written => {
                if let Some(value) = op.write {
                    self.history.write(key, value, span);
                }
            }
            Answer::Value(value) => self.history.read(key, value, span),
            Answer::Unknown => {
                if let Some(value) = op.write {
                    let completed = u64::MAX;
                    self.history.write(key, value, Span { completed, ..span });
                }
            }
        }
        self.ops.remove(&id);
        let think = self.between(self.plan.think_us);
        if client < self.plan.clients as usize {
            self.after(think, Happening::NextOp { client });
        }
    }

    fn give_up(&mut self, id: u64) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        self.count("given up");
        if let Some(value) = op.write {
            let span = Span {
                invoked: op.invoked,
                completed: u64::MAX,
            };
            self.history.write(op.key, value, span);
        }
        if op.client < self.plan.clients as usize {
            self.after(1_000, Happening::NextOp { client: op.client });
        }
    }

    // --- time -----------------------------------------------------------------------------------

    fn paused(&self, node: usize) -> bool {
        self.machines[node].paused_until > self.now
    }

    fn happen(&mut self, happening: Happening) {
        // A stopped process handles what came in the meantime when it goes on.
        let stopped = match &happening {
            Happening::Tick { node, .. }
            | Happening::Deliver { node, .. }
            | Happening::Disk { node, .. }
            | Happening::Request { node, .. } => self.paused(*node).then_some(*node),
            Happening::Answer { .. }
            | Happening::NextOp { .. }
            | Happening::GiveUp { .. }
            | Happening::Fault(_) => None,
        };
        if let Some(node) = stopped {
            let wait = self.machines[node].paused_until - self.now;
            self.after(wait, happening);
            return;
        }
        match happening {
            Happening::Tick { node, life } => {
                if self.machines[node].life != life || !self.is_up(node) {
                    return;
                }
                let local = self.machines[node].now(self.now);
                if let Some(process) = &mut self.machines[node].process {
                    process.store.tick(local);
                }
                self.event(node, Event::Tick);
                let tick_us = 20_000 * 1_000_000 / self.machines[node].rate_ppm;
                let late = self.random.between(0, 500);
                self.after(tick_us + late, Happening::Tick { node, life });
            }
            Happening::Deliver {
                node,
                from,
                life,
                frame,
            } => {
                if self.machines[node].life != life || !self.is_up(node) {
                    return;
                }
                match Message::decode(&frame) {
                    Ok(message) => {
                        let from = self.machines[from].id;
                        self.event(node, Event::Receive { from, message });
                    }
                    Err(error) => self.fail(format!("our own frame: {error}")),
                }
            }
            Happening::Disk { node, life, lane } => {
                if self.machines[node].life == life {
                    self.disk(node, lane);
                }
            }
            Happening::Request { node, op, attempt } => self.request(node, op, attempt),
            Happening::Answer {
                op,
                attempt,
                answer,
            } => self.answered(op, attempt, answer),
            Happening::NextOp { client } => self.next_op(client),
            Happening::GiveUp { op } => self.give_up(op),
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    /// Lets the world run for so long, or until something is wrong.
    fn run(&mut self, us: u64) {
        let end = self.now + us;
        while self.failure.is_none() {
            let Some((&(at, _), _)) = self.queue.first_key_value() else {
                break;
            };
            if at > end {
                break;
            }
            let Some((_, happening)) = self.queue.pop_first() else {
                break;
            };
            self.now = at;
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    fn run_ms(&mut self, ms: u64) {
        self.run(ms * 1_000);
    }

    /// Runs until `done`, at most for so long; says whether it came to that.
    fn run_until(&mut self, ms_max: u64, done: impl Fn(&mut World) -> bool) -> bool {
        for _ in 0..ms_max {
            if done(self) {
                return true;
            }
            if self.failure.is_some() {
                return false;
            }
            self.run_ms(1);
        }
        done(self)
    }

    /// The node that serves a shard: of several that think so, the one of the latest term.
    fn leader(&self, shard: ShardId) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.machines[*node].process.as_ref()?;
            let leadership = process.replication.leadership(shard)?;
            leadership.serving.then_some((leadership.term, *node))
        };
        let nodes = 0..self.machines.len();
        nodes
            .filter_map(|node| leads(&node))
            .max()
            .map(|(_, node)| node)
    }

    fn isolate(&mut self, node: usize) {
        for other in 0..self.machines.len() {
            self.links[node][other].cut = true;
            self.links[other][node].cut = true;
        }
    }

    /// All faults end, all nodes run.
    fn heal(&mut self) {
        for row in &mut self.links {
            row.fill(FAIR);
        }
        for node in 0..self.machines.len() {
            self.machines[node].paused_until = 0;
            if !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// After healing: every shard is written to and read, every replica catches up, and the whole
    /// history holds.
    fn finish(mut self) -> Result<World, String> {
        self.heal();
        let shards: Vec<ShardId> = (1..=self.plan.shards).map(ShardId).collect();
        let want = shards.clone();
        let served = self.run_until(15_000, move |world| {
            want.iter().all(|&shard| world.leader(shard).is_some())
        });
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !served {
            return Err("a shard has no leader 15 s after healing".to_string());
        }
        self.clients_run = false;
        if !self.run_until(10_000, |world| world.ops.is_empty()) {
            return Err(self
                .failure
                .take()
                .unwrap_or_else(|| "operations hang".to_string()));
        }
        for &shard in &shards {
            for key in 0..self.plan.keys {
                self.begin_op(0, (shard, key), true);
                self.begin_op(0, (shard, key), false);
            }
        }
        self.run_until(3_500, |world| world.ops.is_empty());
        let given_up = self.counts.get("given up").copied().unwrap_or(0);
        self.run_until(10_000, |world| world.ops.is_empty());
        if self.counts.get("given up").copied().unwrap_or(0) > given_up {
            return Err("an operation after healing was not answered".to_string());
        }
        let settled = self.run_until(20_000, |world| world.replicas_agree().is_ok());
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !settled {
            return Err(self.replicas_agree().err().unwrap_or_default());
        }
        self.history.check()?;
        Ok(self)
    }

    /// All placed replicas have applied the same entries and hold the same values.
    fn replicas_agree(&mut self) -> Result<(), String> {
        let mut seen: BTreeMap<ShardId, (u64, Vec<u64>)> = BTreeMap::new();
        for ((node, shard), replica) in self.placed.clone() {
            let Some(process) = &self.machines[node].process else {
                continue;
            };
            let Some(status) = process.replication.status(shard) else {
                return Err(format!("node {node} has no replica {replica} of {shard}"));
            };
            let values: Vec<u64> = (0..self.plan.keys)
                .map(|key| self.value(node, (shard, key)))
                .collect();
            let state = (status.applied, values);
            let known = seen.entry(shard).or_insert_with(|| state.clone()).clone();
            if known != state {
                return Err(format!(
                    "{shard}: node {node} has {state:?}, another {known:?}"
                ));
            }
        }
        Ok(())
    }
}
