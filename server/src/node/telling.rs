//! The directory at work: what this node learns, tells, and writes into the system shard.

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::{Advance, Extent, Now, Response, SYSTEM_SHARD, ShardDescriptor};
use tracing::{debug, info, warn};

use super::Observation;
use super::turn::{Effects, Node, PeerState};
use crate::directory::{Learned, Message, NodeRecord, Table};
use crate::transport::{self, Class, Kind};

/// How often a peer is asked for what this node may not know.
const ASK_EVERY_US: u64 = 10_000_000;
/// How often while something is known to be missing.
const ASK_SOON_US: u64 = 100_000;

impl Node {
    /// Writes a row of the system shard, from any node: tried until it is acknowledged, for a minute.
    /// It has an effect only if the generation is higher than the row's. `None` says that the row has
    /// no content from this generation on. `false`: too much waits already.
    pub fn write_row(
        &mut self,
        now: Now,
        key: Bytes,
        generation: u64,
        value: Option<Bytes>,
    ) -> bool {
        let advance = Advance {
            key,
            generation,
            value,
        };
        self.writer.put(now.monotonic.0, advance)
    }

    /// Registers this node, as of this boot.
    pub(super) fn register(&mut self, now: Now) {
        let record = self.record.clone();
        let (key, generation) = (Table::Node(record.node).key(), record.generation);
        self.write_row(now, key, generation, Some(record.encode()));
        self.directory.learn_node(record);
    }

    /// Asks the next peer in turn for what this node may not know: soon, and once.
    pub fn ask_for_map(&mut self, now: Now) {
        let soon_us = now.monotonic.0 + ASK_SOON_US;
        self.next_ask_us = self.next_ask_us.min(soon_us);
    }

    /// Asks one node at once.
    pub(super) fn ask_node(&mut self, node: NodeId) {
        let digest = self.directory.digest();
        self.tell(node, &Message::Ask { digest });
    }

    fn tell(&self, to: NodeId, message: &Message) {
        match transport::encode(Kind::Directory, message) {
            // What is lost is asked for again.
            Ok(frame) => drop(self.send_frame(to, Class::Forward, frame)),
            Err(error) => warn!(%to, "cannot tell of the directory: {error}"),
        }
    }

    pub(super) fn tell_all(&self, message: &Message) {
        for (node, peer) in &self.peers {
            if peer.connected {
                self.tell(*node, message);
            }
        }
    }

    /// A peer asks, or tells.
    pub(super) fn told(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            Message::Ask { digest } => {
                if digest != self.directory.digest() {
                    for rows in self.directory.tell() {
                        self.tell(from, &rows);
                    }
                }
            }
            Message::Rows {
                shards,
                gone,
                nodes,
            } => {
                for descriptor in shards {
                    self.learn_shard(descriptor);
                }
                for (shard, epoch) in gone {
                    self.learn_gone(ShardId(shard), epoch);
                }
                for record in nodes {
                    if self.directory.learn_node(record.clone()) {
                        self.meet(&record);
                    }
                }
                self.unswept = true;
                debug!(%from, now = now.monotonic.0, "told of the directory");
            }
        }
    }

    /// Takes in a shard's descriptor. Whether it was news.
    pub(super) fn learn_shard(&mut self, descriptor: ShardDescriptor) -> bool {
        let news = self.directory.learn_shard(descriptor.clone());
        self.gateway.install(descriptor);
        news
    }

    /// A shard was merged into another one.
    pub(super) fn learn_gone(&mut self, shard: ShardId, epoch: u64) {
        self.directory.learn_gone(shard, epoch);
        self.gateway.forget(shard);
        self.unswept = true;
    }

    /// A node is registered: it can be reached from now on.
    fn meet(&mut self, record: &NodeRecord) {
        if record.node == self.id() {
            return;
        }
        self.peers.entry(record.node).or_insert_with(|| {
            info!(node = %record.node, peer = %record.peer, "a node is registered");
            PeerState {
                address: record.peer,
                boot: None,
                connected: false,
                view: None,
            }
        });
    }

    /// Rows of the system shard were applied here.
    pub(super) fn system_rows(&mut self, extent: Extent, rows: Vec<(Bytes, Option<Bytes>)>) {
        let learned = self.directory.applied(extent, rows);
        let mut nodes = Vec::new();
        for news in learned {
            match news {
                Learned::Shard(descriptor) => self.gateway.install(descriptor),
                Learned::Gone(shard) => self.gateway.forget(shard),
                Learned::Node(record) => {
                    self.meet(&record);
                    nodes.push(record);
                }
            }
        }
        self.unswept = true;
        if !nodes.is_empty() && self.participant.leads(SYSTEM_SHARD) {
            self.tell_all(&Message::Rows {
                shards: Vec::new(),
                gone: Vec::new(),
                nodes,
            });
        }
    }

    /// A shard of this node is described anew, in its log.
    pub(super) fn described(
        &mut self,
        now: Now,
        descriptor: ShardDescriptor,
        effects: &mut Effects,
    ) {
        let shard = descriptor.shard;
        self.observe(&Observation::Described(&descriptor));
        self.set_range(now, &descriptor, effects);
        let news = self.learn_shard(descriptor.clone());
        self.unreconciled.insert(shard);
        if news && self.participant.leads(shard) {
            self.tell_all(&Message::Rows {
                shards: vec![descriptor],
                gone: Vec::new(),
                nodes: Vec::new(),
            });
        }
    }

    /// Whether a response is to a write of this node's own; then it is dealt with.
    pub(super) fn take_written(&mut self, now: Now, from: NodeId, response: &Response) -> bool {
        if !self.writer.awaits(from, response) {
            return false;
        }
        match self.writer.answered(now.monotonic.0, response.clone()) {
            Ok(drawn) => self.drawn.extend(drawn),
            Err(descriptor) => {
                self.learn_shard(descriptor);
            }
        }
        true
    }

    /// Sends the writes that are due.
    pub(super) fn write_due(&mut self, now: Now, effects: &mut Effects) {
        let Some(system) = self.directory.shard(SYSTEM_SHARD) else {
            return;
        };
        let hlc = self.participant.hlc();
        let due = self
            .writer
            .due(now.monotonic.0, system, hlc, &mut self.drawn);
        for (node, request) in due {
            if node == self.id() {
                self.request(now, node, request, effects);
            } else {
                self.outgoing
                    .requests
                    .entry(node)
                    .or_default()
                    .push(request);
            }
        }
    }

    /// What the directory does as time passes.
    pub(super) fn tick_directory(&mut self, now: Now) {
        if now.monotonic.0 >= self.next_look_us {
            self.next_look_us = now.monotonic.0 + ASK_SOON_US;
            if !self.gateway.map().is_complete() {
                // A shard was split off and this node has not heard of it.
                self.ask_for_map(now);
            }
        }
        if now.monotonic.0 >= self.next_ask_us {
            self.next_ask_us = now.monotonic.0 + ASK_EVERY_US;
            let after = self.last_asked;
            let reachable = |(_, peer): &(&NodeId, &PeerState)| peer.connected;
            let mut ring = self.peers.range(..).filter(reachable);
            let next = ring
                .clone()
                .find(|(node, _)| after.is_none_or(|after| **node > after))
                .or_else(|| ring.next());
            match next.map(|(node, _)| *node) {
                Some(node) => {
                    self.last_asked = Some(node);
                    self.ask_node(node);
                }
                // Nobody is reachable yet.
                None if !self.peers.is_empty() => self.ask_for_map(now),
                None => {}
            }
        }
    }
}
