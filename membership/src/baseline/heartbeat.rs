//! Heartbeats from all to all.
//!
//! Each node tells every node that it knows "I am here" once a second, and drops from its list who
//! has been silent for five. It keeps sending to those it dropped, so lists heal by themselves. A
//! joiner asks a seed for the list and makes itself known by its heartbeats. Cost grows with the
//! square of the cluster, and each node decides alone: a bad link splits opinions for good.
//!
//! A simulated hour of 1,000 nodes is 3.6 billion heartbeats. So the table of who was last heard stands in
//! what the nodes share, in blocks of as many receivers as fit into a cache line, by sender: one node's
//! beat to all others fills whole lines, and a node that looks for the silent reads lines in a row. No node
//! reads another's column.

use std::rc::Rc;

use crate::baseline::list::{Change, MemberList};
use crate::sim::protocol::{Boot, Input, Origin, Outbox, Protocol};
use crate::sim::rng::Rng;
use crate::sim::scenario::Scenario;

/// Between two heartbeats.
const PERIOD_US: u64 = 1_000_000;
/// Silence that takes a member off the list.
const SILENCE_MS: u32 = 5_000;
/// Payload of a heartbeat: who, and which incarnation; also of a request, an entry of a list.
const BEAT_BYTES: u32 = 8;

/// What nodes send each other.
#[derive(Clone, Debug)]
pub enum Message {
    /// I am here.
    Beat,
    /// Send me your list.
    Join,
    /// My list.
    Members(Rc<[u32]>),
    /// I leave.
    Leave,
}

/// What the nodes of a run share.
pub struct Cluster {
    nodes: u32,
    founders: Vec<u32>,
    seeds: Vec<u32>,
    /// When, in milliseconds, a receiver last heard of a sender, while that is on its list; else
    /// [`NOT_LISTED`]. A line for each block of receivers and sender.
    heard_ms: Vec<[u32; BLOCK]>,
}

/// Receivers in a cache line.
const BLOCK: usize = 16;
/// See [`Cluster::heard_ms`].
const NOT_LISTED: u32 = u32::MAX;

impl Cluster {
    #[inline]
    fn heard_ms(&mut self, receiver: u32, sender: u32) -> &mut u32 {
        let (block, place) = (receiver as usize / BLOCK, receiver as usize % BLOCK);
        &mut self.heard_ms[block * self.nodes as usize + sender as usize][place]
    }
}

/// A node.
pub struct Heartbeat {
    me: u32,
    list: MemberList,
    /// Everyone ever heard of, without this node.
    known: Rc<[u32]>,
    is_known: Vec<bool>,
    /// Until another node was heard of.
    joining: bool,
    rng: Rng,
}

fn millis(us: u64) -> u32 {
    // A run of more than 49 days would wrap; no scenario comes near.
    (us / 1_000) as u32
}

impl Heartbeat {
    fn learn(&mut self, nodes: impl IntoIterator<Item = u32>) {
        let mut known = None;
        for node in nodes {
            if node != self.me && !std::mem::replace(&mut self.is_known[node as usize], true) {
                known.get_or_insert_with(|| self.known.to_vec()).push(node);
            }
        }
        if let Some(known) = known {
            self.known = known.into();
        }
    }

    #[inline]
    fn heard(
        &mut self,
        cluster: &mut Cluster,
        now_us: u64,
        node: u32,
        out: &mut Outbox<Message, ()>,
    ) {
        let before_ms = std::mem::replace(cluster.heard_ms(self.me, node), millis(now_us));
        if before_ms == NOT_LISTED {
            self.learn([node]);
            self.list.change(node, Change::Joined, out);
        }
    }
}

impl Protocol for Heartbeat {
    type Message = Message;
    type Record = ();
    type Disk = ();
    type Cluster = Cluster;

    fn cluster(scenario: &Scenario, founders: &[u32], _seed: u64) -> Cluster {
        let seeds = scenario.seeds.clone();
        Cluster {
            nodes: scenario.nodes,
            founders: founders.to_vec(),
            seeds,
            heard_ms: vec![
                [NOT_LISTED; BLOCK];
                (scenario.nodes as usize).div_ceil(BLOCK) * scenario.nodes as usize
            ],
        }
    }

    fn write((): &mut (), (): ()) {}

    fn boot(
        cluster: &mut Cluster,
        boot: Boot,
        (): &(),
        now_us: u64,
        out: &mut Outbox<Message, ()>,
    ) -> Heartbeat {
        let nodes = cluster.nodes as usize;
        let founder = boot.origin == Origin::Founder;
        for sender in 0..cluster.nodes {
            *cluster.heard_ms(boot.node, sender) = NOT_LISTED;
        }
        let others = if founder {
            cluster.founders.clone()
        } else {
            Vec::new()
        };
        for &sender in &others {
            *cluster.heard_ms(boot.node, sender) = millis(now_us);
        }
        let mut node = Heartbeat {
            me: boot.node,
            list: MemberList::new(cluster.nodes, boot.node, others.iter().copied()),
            known: Rc::new([]),
            is_known: vec![false; nodes],
            joining: !founder,
            rng: Rng::new(boot.seed, 0),
        };
        node.learn(others.iter().copied());
        node.list.report(out);
        out.wake_at(now_us + node.rng.below(PERIOD_US));
        node
    }

    #[inline]
    fn absorb(cluster: &mut Cluster, now_us: u64, from: u32, to: u32, message: &Message) -> bool {
        let heard_ms = cluster.heard_ms(to, from);
        let absorbed = matches!(message, Message::Beat) && *heard_ms != NOT_LISTED;
        if absorbed {
            *heard_ms = millis(now_us);
        }
        absorbed
    }

    fn step(
        &mut self,
        cluster: &mut Cluster,
        now_us: u64,
        input: Input<Message>,
        out: &mut Outbox<Message, ()>,
    ) {
        match input {
            Input::Message {
                from,
                message: Message::Beat,
            } => self.heard(cluster, now_us, from, out),
            Input::Message {
                from,
                message: Message::Join,
            } => {
                self.heard(cluster, now_us, from, out);
                let members: Rc<[u32]> = self.list.members().collect();
                let bytes = BEAT_BYTES * members.len() as u32;
                out.send(from, Message::Members(members), bytes);
            }
            Input::Message {
                from,
                message: Message::Members(members),
            } => {
                self.joining = false;
                self.learn(members.iter().copied());
                self.heard(cluster, now_us, from, out);
                out.send_all(Rc::clone(&self.known), Message::Beat, BEAT_BYTES);
            }
            Input::Message {
                from,
                message: Message::Leave,
            } => {
                *cluster.heard_ms(self.me, from) = NOT_LISTED;
                self.list.change(from, Change::Removed, out);
            }
            Input::Wake => {
                for &node in self.known.iter() {
                    let heard_ms = cluster.heard_ms(self.me, node);
                    if *heard_ms != NOT_LISTED && millis(now_us) - *heard_ms > SILENCE_MS {
                        *heard_ms = NOT_LISTED;
                        self.list.change(node, Change::Removed, out);
                    }
                }
                out.send_all(Rc::clone(&self.known), Message::Beat, BEAT_BYTES);
                if self.joining {
                    let seed = cluster.seeds[self.rng.below(cluster.seeds.len() as u64) as usize];
                    if seed != self.me {
                        out.send(seed, Message::Join, BEAT_BYTES);
                    }
                }
                out.wake_at(now_us + PERIOD_US);
            }
            Input::Persisted(_) => {}
            Input::Leave => {
                out.send_all(Rc::clone(&self.known), Message::Leave, BEAT_BYTES);
                out.stop();
            }
        }
    }
}
