//! A small world: nodes with simulated disks, links, clocks, and clients, in one event loop.
//!
//! It runs the production code with virtual time. One seed is one history. What it checks at every
//! step: no index of a shard is ever committed with two contents, no term has two leaders, entries
//! are handed out in order. What it checks at the end: every key is linearizable (so no
//! acknowledged write was lost and no read was stale), and, once all faults are healed, that every
//! shard serves again.

mod clients;
mod history;
mod network;
mod processes;
mod random;
mod scenarios;
mod time;

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

/// The user keys of a shard: no two have any in common.
fn keys_of(shard: ShardId) -> KeyRange {
    KeyRange::new(shard.0.to_be_bytes(), (shard.0 + 1).to_be_bytes())
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
                    range: keys_of(shard),
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
}
