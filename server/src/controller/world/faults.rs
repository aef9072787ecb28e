//! What happens to a simulated cluster: nodes that come, go and are drained, zones, disks, controllers that end.

use super::*;

/// When a controller ends: before the n-th effect that controllers of this world ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum KillAt {
    /// With its node, which comes back.
    Node(u64),
    /// Another node leads the system shard from then on.
    Leadership(u64),
}

impl KillAt {
    pub(super) fn effect(self) -> u64 {
        match self {
            KillAt::Node(n) | KillAt::Leadership(n) => n,
        }
    }
}

impl World {
    pub(super) fn join(&mut self, id: NodeId, zone: &str) {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        self.nodes.insert(
            id,
            SimNode {
                labels,
                alive: true,
            },
        );
        self.put(SECOND, Thing::Look);
    }

    pub(super) fn kill(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = false;
        }
        let led: Vec<ShardId> = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.leader == Some(id))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in led {
            let after = self.rng.random_range(SECOND..2 * SECOND);
            self.put(after, Thing::Elect(shard));
            if let Some(shard) = self.shards.get_mut(&shard) {
                shard.leader = None;
            }
        }
        if self
            .controller
            .as_ref()
            .is_some_and(|(host, _)| *host == id)
        {
            self.depose();
        }
        self.put(5 * SECOND / 2, Thing::Look);
    }

    pub(super) fn restart(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = true;
        }
        let waiting: Vec<ShardId> = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.leader.is_none())
            .map(|(shard, _)| *shard)
            .collect();
        for shard in waiting {
            self.put(SECOND, Thing::Elect(shard));
        }
        self.put(SECOND, Thing::Look);
    }

    /// A node leaves for good: it is emptied first.
    pub(super) fn set_duty(&mut self, id: NodeId, duty: Duty) {
        self.duties.insert(id, duty);
        self.invariants.input_changed(self.now_us);
        self.tell(1_000, Event::Duty(id, duty));
    }

    pub(super) fn set_policies(&mut self, policies: Policies) {
        self.policies = policies.clone();
        self.invariants.input_changed(self.now_us);
        self.tell(1_000, Event::Policies(policies));
    }

    /// The controller ends between two things that it does; another node takes over.
    pub(super) fn end_controller(&mut self, kill: KillAt) {
        let Some(host) = self.controller.as_ref().map(|(host, _)| *host) else {
            return;
        };
        match kill {
            KillAt::Node(_) => {
                self.kill(host);
                let at_us = self.now_us + 8 * SECOND;
                self.revive_at(host, at_us);
            }
            KillAt::Leadership(_) => {
                let system = &self.shards[&ShardId(0)];
                let heir = system.voters().find(|node| *node != host).unwrap_or(host);
                self.invariants.elected(ShardId(0));
                self.lead(ShardId(0), heir);
            }
        }
    }

    /// A replica's disk loses what no peer can name.
    pub(super) fn damage(&mut self, id: ShardId, node: NodeId) -> ReplicaId {
        let replicas = &self.shards[&id].descriptor.replicas;
        let replica = replicas.iter().find(|it| it.node == node);
        let replica = replica.expect("a replica of the shard").replica;
        self.damaged.insert(replica, id);
        self.invariants.damaged.insert((id, node));
        if self.shards[&id].leader == Some(node) {
            let heir = self.shards[&id].voters().find(|other| *other != node);
            self.invariants.elected(id);
            self.lead(id, heir.expect("three voters"));
        }
        self.tell(1_000, Event::Damaged(id, replica));
        replica
    }

    fn revive_at(&mut self, id: NodeId, at_us: u64) {
        self.invariants.revive.push((at_us, id));
    }

    /// An operator, not the controller, gives a shard a copy on a node.
    pub(super) fn add_by_hand(&mut self, id: ShardId, node: NodeId) {
        let replica = self.fresh_replica();
        let shard = self.shards.get_mut(&id).expect("a shard of the world");
        shard.begin_copy(replica, node);
        shard.descriptor.epoch += 1;
        self.tell_shard(id);
    }
}
