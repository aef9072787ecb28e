//! What a write costs in replication and the log: three nodes in one thread, nothing lost, nothing
//! waited for. `cargo bench -p synod-replication`.
//!
//! The figure includes encoding, decoding, the log's framing and checksums, and the simulated disk;
//! not sockets, and not the state machine.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rkyv::util::AlignedVec;
use synod_replication::{
    Campaign, Config, Configuration, Effect, Effects, Event, Incarnation, Message, NodeId, Origin,
    Replication,
};
use synod_storage::disk::SimDisk;
use synod_storage::index::MemoryIndexFactory;
use synod_storage::{KeyRange, Micros, OpenConfig, Options, ReplicaId, ShardId, Store};

const NODES: u64 = 3;
const SHARDS: u64 = 9;
const ROUNDS: u64 = 2_000;
/// Proposals of each shard in a round: what one pass of a loaded loop sees.
const BATCH: u64 = 14;

struct Node {
    id: NodeId,
    store: Store,
    replication: Replication,
    inbox: Vec<(NodeId, Bytes)>,
    applied: u64,
}

impl Node {
    fn new(id: u64) -> Self {
        let config = OpenConfig {
            disk: Arc::new(SimDisk::new(id)),
            index: Box::new(MemoryIndexFactory::new()),
            options: Options::default(),
            boot: 1,
            fresh_store: u128::from(id),
        };
        let opened = Store::open(config, &mut |_| {}).expect("an empty disk");
        let config = Config::new(NodeId(u128::from(id)), Incarnation(1), id);
        let log = opened.store.log();
        let replication = Replication::new(config, Micros(0), log, Vec::new(), &mut Effects::new());
        Self {
            id: NodeId(u128::from(id)),
            store: opened.store,
            replication,
            inbox: Vec::new(),
            applied: 0,
        }
    }

    fn create(&mut self, now: Micros, shard: u64) {
        let replica = |node: u64| ReplicaId(shard * NODES + node);
        let nodes = (1..=NODES).map(|node| (replica(node), NodeId(u128::from(node))));
        let configuration = Configuration {
            voters: (1..=NODES).map(replica).collect(),
            nodes: nodes.collect(),
            ..Configuration::default()
        };
        let own = self.id.0 as u64;
        let campaign = match shard % NODES + 1 == own {
            true => Campaign::Now,
            false => Campaign::OnTimeout,
        };
        let shard = ShardId(shard);
        let create = Event::Create {
            shard,
            replica: replica(own),
            origin: Origin::Bootstrap {
                configuration,
                campaign,
            },
        };
        let range = KeyRange::all();
        for event in [create, Event::Range { shard, range }] {
            let fx = &mut Effects::new();
            self.replication.step(now, event, &mut self.store, fx);
        }
    }

    /// One pass of the loop. What is to be sent is put into `sent`.
    fn pass(&mut self, now: Micros, sent: &mut Vec<(NodeId, NodeId, Bytes)>) {
        let mut fx = Effects::new();
        for (from, frame) in std::mem::take(&mut self.inbox) {
            let message = Message::decode(&frame).expect("our own frame");
            let event = Event::Receive { from, message };
            self.replication.step(now, event, &mut self.store, &mut fx);
        }
        loop {
            self.store.run_jobs().expect("the disk is sound");
            self.replication.flush(now, &mut self.store, &mut fx);
            let mut effects = Vec::new();
            fx.swap(&mut effects);
            for effect in effects {
                match effect {
                    Effect::Send { to, message } => {
                        let frame = Bytes::from_owner(message.encode(AlignedVec::new()));
                        sent.push((self.id, to, frame));
                    }
                    Effect::Committed { shard, entries } => {
                        let last = entries.last().map_or(0, |entry| entry.id.index);
                        for entry in &entries {
                            self.store.apply(shard, entry.id, &[]);
                            self.applied += u64::from(!entry.data.is_empty());
                        }
                        let store = &mut self.store;
                        self.replication.applied(now, shard, last, store, &mut fx);
                    }
                    Effect::Fatal { reason } => panic!("{reason}"),
                    Effect::Leadership { .. }
                    | Effect::ReadReady { .. }
                    | Effect::ReadFailed { .. }
                    | Effect::ProposalLost { .. }
                    | Effect::ConfigurationChanged { .. }
                    | Effect::SnapshotInstalled { .. }
                    | Effect::Removed { .. }
                    | Effect::Missing { .. }
                    | Effect::Damaged { .. }
                    | Effect::Repaired { .. } => {}
                }
            }
            if fx.is_empty() && !self.replication.needs_flush() {
                return;
            }
        }
    }
}

/// Passes of all nodes until nobody has anything to say.
fn settle(nodes: &mut [Node], now: Micros) {
    loop {
        let mut sent = Vec::new();
        for node in nodes.iter_mut() {
            node.pass(now, &mut sent);
        }
        if sent.is_empty() {
            return;
        }
        for (from, to, frame) in sent {
            let node = nodes.iter_mut().find(|node| node.id == to);
            node.expect("a member").inbox.push((from, frame));
        }
    }
}

fn main() {
    let mut now = Micros(1_000_000);
    let mut nodes: Vec<Node> = (1..=NODES).map(Node::new).collect();
    for shard in 1..=SHARDS {
        nodes.iter_mut().for_each(|node| node.create(now, shard));
    }
    settle(&mut nodes, now);
    let data = Bytes::from(vec![7u8; 1_024]);
    let started = Instant::now();
    for round in 0..ROUNDS {
        now.0 += 1_000;
        for shard in (1..=SHARDS).map(ShardId) {
            let leader = &mut nodes[(shard.0 % NODES) as usize].replication;
            for _ in 0..BATCH {
                let id = leader.propose(now, shard, data.clone());
                id.expect("the member that campaigned leads");
            }
        }
        if round.is_multiple_of(20) {
            for node in &mut nodes {
                node.store.tick(now);
                let fx = &mut Effects::new();
                node.replication.step(now, Event::Tick, &mut node.store, fx);
            }
        }
        settle(&mut nodes, now);
    }
    let elapsed = started.elapsed();
    let writes = ROUNDS * SHARDS * BATCH;
    assert!(nodes.iter().all(|node| node.applied == writes));
    let each = elapsed.as_nanos() as f64 / writes as f64 / 1_000.0;
    println!("{writes} writes of 1 KiB on {NODES} nodes: {each:.2} us of CPU each");
}
