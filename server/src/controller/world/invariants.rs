//! What must hold after every change of a shard, and what the end must look like.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::ShardId;

use super::{SimNode, SimShard, World};

const TEN_MINUTES: u64 = 600 * super::SECOND;

#[derive(Default)]
pub(super) struct Invariants {
    /// When something other than a load last changed.
    inputs_us: u64,
    /// (shard, node) → when its voter was moved away.
    left: BTreeMap<(ShardId, NodeId), u64>,
    led: BTreeMap<(ShardId, NodeId), u64>,
    /// Nodes that come back by themselves.
    pub(super) revive: Vec<(u64, NodeId)>,
    /// Whether the zones may hold one more than by the default policy.
    pub(super) relaxed_zones: bool,
    /// Replicas that take no part, by shard and node: to remove one loses nothing.
    pub(super) damaged: BTreeSet<(ShardId, NodeId)>,
    /// Changes seen.
    pub(super) changes: u64,
}

impl Invariants {
    pub(super) fn due(&mut self, now_us: u64) -> Vec<NodeId> {
        let due = self.revive.iter().filter(|(at, _)| *at <= now_us);
        let nodes = due.map(|(_, node)| *node).collect();
        self.revive.retain(|(at, _)| *at > now_us);
        nodes
    }

    pub(super) fn input_changed(&mut self, now_us: u64) {
        self.inputs_us = now_us;
    }

    /// An election is nobody's decision: what is moved afterwards undoes nothing.
    pub(super) fn elected(&mut self, shard: ShardId) {
        self.led.retain(|(of, _), _| *of != shard);
    }

    fn undone(&self, now_us: u64, left_us: Option<&u64>) -> bool {
        left_us.is_some_and(|&at| at > self.inputs_us && at + TEN_MINUTES > now_us)
    }

    pub(super) fn transferred(&mut self, now_us: u64, shard: ShardId, from: NodeId, to: NodeId) {
        let back = self.led.get(&(shard, to));
        assert!(
            !self.undone(now_us, back),
            "the leader of shard {shard} went back to {to} within ten minutes, nothing having changed"
        );
        self.led.insert((shard, from), now_us);
    }

    /// `balance`: nothing but a better spread asked for the change.
    pub(super) fn changed(
        &mut self,
        (now_us, balance): (u64, bool),
        before: &SimShard,
        after: &SimShard,
        (nodes, up): (&BTreeMap<NodeId, SimNode>, &BTreeSet<NodeId>),
        shards: &BTreeMap<ShardId, SimShard>,
    ) {
        self.changes += 1;
        let shard = after.descriptor.shard;
        let all = &after.descriptor.replicas;
        let distinct: BTreeSet<NodeId> = all.iter().map(|replica| replica.node).collect();
        assert_eq!(
            distinct.len(),
            all.len(),
            "two replicas of {shard} on one node"
        );
        let old: BTreeSet<NodeId> = before.voters().collect();
        let new: BTreeSet<NodeId> = after.voters().collect();
        let mended = old
            .difference(&new)
            .any(|node| self.damaged.remove(&(shard, *node)));
        assert!(
            new.len() != 2 || mended || old == new,
            "shard {shard} has two voters: either stops it"
        );
        let live = new.iter().filter(|node| nodes[node].alive).count();
        assert!(
            2 * live > new.len(),
            "shard {shard} lost its majority by a change"
        );
        self.zones(shard, &old, &new, nodes, up);
        for &node in new.difference(&old) {
            let back = self.left.get(&(shard, node));
            assert!(
                !balance || !self.undone(now_us, back),
                "a replica of {shard} went back to {node} within ten minutes, nothing having changed"
            );
        }
        for &node in old.difference(&new) {
            self.left.insert((shard, node), now_us);
        }
        let coming = all.iter().filter(|replica| {
            !before
                .descriptor
                .replicas
                .iter()
                .any(|r| r.replica == replica.replica)
        });
        for replica in coming {
            self.capacity(replica.node, after.load.bytes, nodes, shards);
        }
    }

    /// No zone gets more voters of a shard than it must have.
    fn zones(
        &self,
        shard: ShardId,
        old: &BTreeSet<NodeId>,
        new: &BTreeSet<NodeId>,
        nodes: &BTreeMap<NodeId, SimNode>,
        up: &BTreeSet<NodeId>,
    ) {
        // While a leader waits to be replaced, its shard has a voter more: both ends count once.
        if new.len() > 3 {
            return;
        }
        let live: BTreeSet<&str> = up.iter().map(|node| zone(nodes, *node)).collect();
        let most = 3_usize.div_ceil(live.len().max(1)) + usize::from(self.relaxed_zones);
        let count = |set: &BTreeSet<NodeId>, of: &str| {
            set.iter().filter(|node| zone(nodes, **node) == of).count()
        };
        for &of in &live {
            let (was, is) = (count(old, of), count(new, of));
            assert!(
                is <= most || is <= was,
                "shard {shard} has {is} voters in zone {of} of {} live ones",
                live.len()
            );
        }
    }

    fn capacity(
        &self,
        node: NodeId,
        more: u64,
        nodes: &BTreeMap<NodeId, SimNode>,
        shards: &BTreeMap<ShardId, SimShard>,
    ) {
        let Some(capacity) = nodes[&node].labels.get("capacity_bytes") else {
            return;
        };
        let there: u64 = shards
            .values()
            .filter(|shard| shard.descriptor.replicas.iter().any(|r| r.node == node))
            .map(|shard| shard.load.bytes)
            .sum();
        let capacity: u64 = capacity.parse().expect("a number");
        assert!(
            there + more <= capacity,
            "node {node} holds more than it can"
        );
    }
}

pub(super) fn zone(nodes: &BTreeMap<NodeId, SimNode>, node: NodeId) -> &str {
    nodes[&node].labels.get("zone").map_or("", String::as_str)
}

impl World {
    /// The end: as many replicas as there should be, on live nodes, and nothing left lying about.
    pub(super) fn assert_whole(&self) {
        let up = self.up();
        let wanted = match up.len() {
            0..=2 => 1,
            _ => 3,
        };
        let learners = usize::from(up.len() == 2);
        for (id, shard) in &self.shards {
            let voters: Vec<NodeId> = shard.voters().collect();
            assert_eq!(
                voters.len(),
                wanted,
                "voters of shard {id}: {}",
                self.describe()
            );
            assert_eq!(shard.learners(), learners, "learners of shard {id}");
            assert!(
                voters.iter().all(|node| up.contains(node)),
                "shard {id} stands on {voters:?}"
            );
            assert!(shard.leader.is_some(), "shard {id} has no leader");
        }
    }

    /// Nodes that may carry replicas.
    pub(super) fn up(&self) -> BTreeSet<NodeId> {
        let free = |node: &NodeId| self.duties.get(node).is_none_or(|d| *d == super::Duty::Up);
        self.view.1.iter().copied().filter(free).collect()
    }

    /// Leaders by node.
    pub(super) fn leaders(&self) -> BTreeMap<NodeId, usize> {
        let mut leaders = BTreeMap::new();
        for shard in self.shards.values() {
            if let Some(leader) = shard.leader {
                *leaders.entry(leader).or_default() += 1;
            }
        }
        leaders
    }

    /// Bytes by node.
    pub(super) fn bytes(&self) -> BTreeMap<NodeId, u64> {
        let mut bytes = BTreeMap::new();
        for shard in self.shards.values() {
            for replica in &shard.descriptor.replicas {
                *bytes.entry(replica.node).or_default() += shard.load.bytes;
            }
        }
        bytes
    }
}
