//! What the controller knows of the cluster: nodes, shards, and which seat each replica sits on.
//!
//! A shard's *seats* are the rows that policies see: one for each replica that it shall have. The raft configuration
//! knows replicas by ids that are never used again, so a seat outlives the replica on it: when a copy is promoted in
//! the place of another, it takes that one's seat. Learners that are only on their way have no seat yet.
//!
//! How many seats a shard has follows from the nodes: its replication factor where there are nodes enough; with two
//! nodes a voter and a learner (two voters would stop when either does); with one, one. A shard never loses a voter
//! because nodes are few: what cannot stand on a live node just has no row until one is there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{ReplicaRole, ShardDescriptor};

/// What a node may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Reads and writes a second.
    pub qps: u64,
    /// Replicas.
    pub replicas: u64,
}

impl Default for Capacity {
    fn default() -> Capacity {
        Capacity {
            bytes: 1 << 40,
            qps: 1_000_000,
            replicas: 10_000,
        }
    }
}

/// What operators have asked of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It carries replicas.
    #[default]
    Up,
    /// Nothing shall live on it.
    Draining,
    /// Nothing shall live on it, and then it leaves the cluster.
    Leaving,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Where it stands, as labels: `zone`, `region`, `rack`, `disk`, and `capacity_*`.
    pub labels: BTreeMap<String, String>,
    /// Whether it is in the present view.
    pub member: bool,
    /// When it left the view, if it is not in it; microseconds of the controller's clock.
    pub lost_us: Option<u64>,
    /// What operators want of it.
    pub duty: Duty,
}

/// A node's state, as policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeStatus {
    /// In the view, and not to be emptied.
    Up,
    /// In the view, and to be emptied.
    Draining,
    /// Not in the view.
    Down,
}

impl NodeStatus {
    /// As the `status` column has it.
    pub fn text(self) -> &'static str {
        match self {
            NodeStatus::Up => "up",
            NodeStatus::Draining => "draining",
            NodeStatus::Down => "down",
        }
    }
}

impl Node {
    /// As policies see it.
    pub fn status(&self) -> NodeStatus {
        match (self.member, self.duty) {
            (false, _) => NodeStatus::Down,
            (true, Duty::Up) => NodeStatus::Up,
            (true, Duty::Draining | Duty::Leaving) => NodeStatus::Draining,
        }
    }

    /// A label, or what stands for it where it is missing.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// Its zone; nodes without one share one.
    pub fn zone(&self) -> &str {
        self.label("zone").unwrap_or("default")
    }

    /// What it may carry: the labels `capacity_bytes`, `capacity_qps`, `capacity_replicas`, or the defaults. A label
    /// that is no number counts as missing.
    pub fn capacity(&self) -> Capacity {
        let number = |name: &str| self.label(name).and_then(|text| text.parse::<u64>().ok());
        let default = Capacity::default();
        Capacity {
            bytes: number("capacity_bytes").unwrap_or(default.bytes),
            qps: number("capacity_qps").unwrap_or(default.qps),
            replicas: number("capacity_replicas").unwrap_or(default.replicas),
        }
    }
}

/// What a shard weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Reads a second.
    pub read_qps: u64,
    /// Writes a second.
    pub write_qps: u64,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has this many thousandths of what it needs.
    Copying(u16),
    /// It follows the log closely: it may get a vote.
    CaughtUp,
}

/// What a shard's leader says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The shard.
    pub shard: ShardId,
    /// The node that leads it.
    pub leader: NodeId,
    /// The term that it leads in.
    pub term: u64,
    /// What the shard weighs.
    pub load: Load,
    /// Whether that was measured, or is a first guess.
    pub measured: bool,
    /// Whether its configuration is joint.
    pub joint: bool,
    /// How far the other replicas are.
    pub progress: Vec<(ReplicaId, Progress)>,
}

/// A place for a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// Who sits there.
    #[serde(with = "super::records::optional_node")]
    pub node: Option<NodeId>,
    /// Whether the replica votes.
    pub votes: bool,
}

/// A shard.
#[derive(Clone, Debug)]
pub struct Shard {
    /// As the directory has it.
    pub descriptor: ShardDescriptor,
    /// When that came; microseconds.
    pub described_us: u64,
    /// Its copies that the controller of this term began.
    pub begun: BTreeSet<ReplicaId>,
    /// Nodes for which this controller has ordered a copy that it has not seen yet.
    pub awaited: BTreeSet<NodeId>,
    /// The nodes of its voters, in the order of their seats.
    pub order: Vec<NodeId>,
    /// Who leads it, as far as is known, and in which term.
    pub leader: Option<(NodeId, u64)>,
    /// What policies are told that it weighs.
    pub load: Load,
    /// Whether that was ever measured.
    pub measured: bool,
    /// Its rates, smoothed: thousandths of reads and of writes a second.
    pub rates: (u64, u64),
    /// When its leader last reported; microseconds.
    pub reported_us: Option<u64>,
    /// Whether its configuration is joint.
    pub joint: bool,
    /// How far its replicas are.
    pub progress: BTreeMap<ReplicaId, Progress>,
}

impl Shard {
    /// A shard of which only the descriptor is known.
    pub fn new(descriptor: ShardDescriptor, described_us: u64) -> Shard {
        let mut shard = Shard {
            descriptor,
            described_us,
            begun: BTreeSet::new(),
            awaited: BTreeSet::new(),
            order: Vec::new(),
            leader: None,
            load: Load::default(),
            measured: false,
            rates: (0, 0),
            reported_us: None,
            joint: false,
            progress: BTreeMap::new(),
        };
        shard.reseat(&[]);
        shard
    }

    /// The nodes of its voters.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas(ReplicaRole::Voter)
    }

    /// Whether each copy without a vote was begun by the controller of this term.
    pub fn is_only_ours(&self) -> bool {
        let replicas = self.descriptor.replicas.iter();
        let mut copies = replicas.filter(|replica| replica.role == ReplicaRole::Learner);
        copies.all(|copy| self.begun.contains(&copy.replica))
    }

    /// The nodes of its learners.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas(ReplicaRole::Learner)
    }

    fn replicas(&self, role: ReplicaRole) -> impl Iterator<Item = NodeId> + '_ {
        self.descriptor
            .replicas
            .iter()
            .filter(move |replica| replica.role == role)
            .map(|replica| replica.node)
    }

    /// The replica on a node.
    pub fn on(&self, node: NodeId) -> Option<ReplicaId> {
        self.descriptor
            .replicas
            .iter()
            .find(|replica| replica.node == node)
            .map(|replica| replica.replica)
    }

    /// The node of a replica.
    pub fn on_node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let mut replicas = self.descriptor.replicas.iter();
        replicas.find(|it| it.replica == replica).map(|it| it.node)
    }

    /// Whether the replica on a node may get a vote.
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        self.on(node)
            .is_some_and(|replica| self.progress.get(&replica) == Some(&Progress::CaughtUp))
    }

    /// Seats the voters of a new descriptor: who stays keeps the seat, who replaces somebody takes the one that
    /// `targets` foresees.
    pub fn reseat(&mut self, targets: &[Seat]) {
        let voters: BTreeSet<NodeId> = self.voters().collect();
        let mut seated: BTreeSet<NodeId> = voters
            .iter()
            .copied()
            .filter(|voter| self.order.contains(voter))
            .collect();
        let mut seats: Vec<Option<NodeId>> = self
            .order
            .iter()
            .map(|node| voters.contains(node).then_some(*node))
            .collect();
        for (index, seat) in targets.iter().enumerate() {
            if let Some(node) = seat.node
                && voters.contains(&node)
                && seats.get(index).is_none_or(Option::is_none)
                && seated.insert(node)
            {
                seats.resize(seats.len().max(index + 1), None);
                seats[index] = Some(node);
            }
        }
        // In the order of replica ids, which is the order in which they came.
        let mut others: Vec<(ReplicaId, NodeId)> = self
            .descriptor
            .replicas
            .iter()
            .filter(|replica| replica.role == ReplicaRole::Voter && !seated.contains(&replica.node))
            .map(|replica| (replica.replica, replica.node))
            .collect();
        others.sort_unstable();
        let mut others = others.into_iter().map(|(_, node)| node);
        for seat in seats.iter_mut().filter(|seat| seat.is_none()) {
            *seat = others.next();
        }
        self.order = seats.into_iter().flatten().chain(others).collect();
    }
}

/// The cluster, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// All nodes that are, were or may be members.
    pub nodes: BTreeMap<NodeId, Node>,
    /// All shards.
    pub shards: BTreeMap<ShardId, Shard>,
    /// The replicas that a shard shall have where there are nodes enough.
    pub replicas: u32,
}

impl Cluster {
    /// A node's status; one that nobody knows is down.
    pub fn status(&self, node: NodeId) -> NodeStatus {
        self.nodes.get(&node).map_or(NodeStatus::Down, Node::status)
    }

    /// Whether a node is in the view.
    pub fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.member)
    }

    /// Nodes that may carry replicas.
    pub fn up(&self) -> usize {
        self.nodes
            .values()
            .filter(|node| node.status() == NodeStatus::Up)
            .count()
    }

    /// The seats of a shard as things are, with who sits on them.
    pub fn seats(&self, shard: &Shard) -> Vec<Seat> {
        let up = self.up();
        let places = (self.replicas as usize).min(up).max(1);
        let good = |node: &NodeId| self.status(*node) == NodeStatus::Up;
        let mut nodes = shard.order.clone();
        while nodes.len() > places {
            // Who has no place anyway goes first; then the latest.
            let index = nodes
                .iter()
                .rposition(|node| !good(node))
                .unwrap_or(nodes.len() - 1);
            nodes.remove(index);
        }
        let pair = places == 2 && shard.order.len() < 2;
        let mut seats: Vec<Seat> = nodes
            .into_iter()
            .map(|node| Seat {
                node: Some(node),
                votes: true,
            })
            .collect();
        while seats.len() < places {
            let votes = !pair;
            let node = match votes {
                true => None,
                false => shard.learners().find(|node| good(node)),
            };
            seats.push(Seat { node, votes });
        }
        seats
    }

    /// Whether one more failure would cost the shard its majority.
    pub fn is_critical(&self, shard: &Shard) -> bool {
        let voters = shard.voters().count();
        let live = shard.voters().filter(|node| self.is_live(*node)).count();
        live < voters && live <= voters / 2 + 1
    }

    /// Whether a majority of the shard's voters lives.
    pub fn has_majority(&self, shard: &Shard) -> bool {
        let live = shard.voters().filter(|node| self.is_live(*node)).count();
        2 * live > shard.voters().count()
    }

    /// The bytes that lie, or are being put, on a node.
    pub fn bytes_on(&self, node: NodeId) -> u64 {
        self.shards
            .values()
            .filter(|shard| shard.on(node).is_some())
            .map(|shard| shard.load.bytes)
            .sum()
    }
}
