//! Taking in what happened: views, descriptors, reports, duties, policies, time.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::{Now, ShardDescriptor};

use super::Controller;
use super::cluster::{Duty, Load, Node, Progress, Report, Shard};
use super::filter::Grace;
use super::records::Policies;

/// Loads that differ by less are equal, whatever the band says: a nearly empty shard doubles with every key.
const BYTES_STEP: u64 = 1 << 20;
const QPS_STEP: u64 = 50;
/// A zone of fewer nodes is no mass of them.
const MASS_NODES_MIN: usize = 2;

impl Controller {
    pub(super) fn install_view(
        &mut self,
        now: Now,
        seq: u64,
        members: BTreeMap<NodeId, BTreeMap<String, String>>,
    ) {
        self.view = seq;
        let now_us = now.monotonic.0;
        let mut gone = Vec::new();
        let mut back = Vec::new();
        for (&id, node) in &mut self.cluster.nodes {
            if node.member && !members.contains_key(&id) {
                node.member = false;
                node.lost_us = Some(now_us);
                gone.push(id);
            }
        }
        for (id, labels) in members {
            let node = self.cluster.nodes.entry(id).or_default();
            if !node.member && node.lost_us.is_some() {
                back.push(id);
            }
            node.member = true;
            node.lost_us = None;
            node.labels = labels;
        }
        for shard in self.cluster.shards.values_mut() {
            if shard
                .leader
                .is_some_and(|(leader, _)| gone.contains(&leader))
            {
                shard.leader = None;
            }
        }
        for id in back {
            self.welcome_back(id);
        }
        self.note_losses(now_us);
        self.recount(now);
    }

    /// Copies that were begun because a node was away are not needed any more; those that are half done are finished.
    fn welcome_back(&mut self, node: NodeId) {
        let shards = &self.cluster.shards;
        self.plan.targets.retain(|id, target| {
            let (Some(shard), Some(end)) = (shards.get(id), target.end()) else {
                return false;
            };
            let sits = shard.order.contains(&node);
            let leaves = sits && !end.seats.iter().any(|seat| seat.node == Some(node));
            let half_done =
                |copy: NodeId| match shard.on(copy).and_then(|id| shard.progress.get(&id)) {
                    Some(Progress::CaughtUp) => true,
                    Some(Progress::Copying(done)) => *done >= 500,
                    None => false,
                };
            let coming = end
                .seats
                .iter()
                .filter_map(|seat| seat.node)
                .filter(|copy| !shard.order.contains(copy));
            !leaves || coming.into_iter().any(half_done)
        });
    }

    /// Whether so many nodes went at once that something larger is wrong.
    fn note_losses(&mut self, now_us: u64) {
        let window = self.settings.stable_us;
        let lately = |node: &Node| {
            node.lost_us
                .is_some_and(|at| at.saturating_add(window) > now_us)
        };
        let nodes = &self.cluster.nodes;
        let lost = nodes.values().filter(|node| lately(node)).count();
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for node in nodes.values() {
            let (all, gone) = zones.entry(node.zone()).or_default();
            *all += 1;
            *gone += usize::from(lately(node));
        }
        let zone = zones.len() > 1
            && zones
                .values()
                .any(|&(all, gone)| all >= MASS_NODES_MIN && all == gone);
        if zone || (lost >= MASS_NODES_MIN && lost * 10 > nodes.len()) {
            self.mass_until_us = Some(now_us + window);
        }
    }

    pub(super) fn set_duty(&mut self, now: Now, id: NodeId, duty: Duty) {
        let node = self.cluster.nodes.entry(id).or_default();
        if node.duty != duty {
            node.duty = duty;
            self.emptied.remove(&id);
            self.recount(now);
        }
    }

    pub(super) fn describe(&mut self, now: Now, descriptor: ShardDescriptor) {
        let id = descriptor.shard;
        self.dirty.insert(id);
        let Some(shard) = self.cluster.shards.get_mut(&id) else {
            let mut shard = Shard::new(descriptor, now.monotonic.0);
            if let Some(target) = self.plan.targets.get(&id) {
                // A plan that was read back speaks of seats as they were when it was made.
                let seats = target.end().map_or(&[][..], |stage| &stage.seats);
                shard.order.clone_from(&target.from);
                shard.reseat(seats);
            }
            self.cluster.shards.insert(id, shard);
            self.recount(now);
            return;
        };
        if shard.descriptor.epoch >= descriptor.epoch {
            return;
        }
        let split = shard.descriptor.range != descriptor.range;
        let before: BTreeSet<NodeId> = shard.voters().collect();
        shard.descriptor = descriptor;
        shard.described_us = now.monotonic.0;
        let replicas: BTreeSet<_> = shard
            .descriptor
            .replicas
            .iter()
            .map(|r| r.replica)
            .collect();
        shard
            .progress
            .retain(|replica, _| replicas.contains(replica));
        shard.begun.retain(|replica| replicas.contains(replica));
        // Also when the answer to the order was lost.
        for copy in &shard.descriptor.replicas {
            if shard.awaited.remove(&copy.node) {
                shard.begun.insert(copy.replica);
            }
        }
        let seats = self.plan.targets.get(&id).and_then(|target| target.next());
        let seats = seats.map_or_else(Vec::new, |stage| stage.seats.clone());
        shard.reseat(&seats);
        // Voters that no plan has moved: a damaged one was removed, or an operator did it.
        let unplanned = !self.plan.targets.contains_key(&id) && before != shard.voters().collect();
        if unplanned {
            self.want_urgent(now);
        }
        if split || unplanned {
            self.want_whole(now);
        }
    }

    pub(super) fn forget_shard(&mut self, now: Now, id: ShardId) {
        self.cluster.shards.remove(&id);
        self.plan.targets.remove(&id);
        self.ordered.remove(&id);
        self.moved.remove(&id);
        self.dirty.insert(id);
        self.recount(now);
    }

    pub(super) fn report(&mut self, now: Now, report: Report) {
        let Some(shard) = self.cluster.shards.get_mut(&report.shard) else {
            return;
        };
        // A term has one leader: who claims another one has lost it meanwhile.
        let late = |(leader, term): (NodeId, u64)| {
            term > report.term || (term == report.term && leader != report.leader)
        };
        if shard.leader.is_some_and(late) {
            return;
        }
        let first = shard.reported_us.is_none();
        shard.reported_us = Some(now.monotonic.0);
        shard.joint = report.joint;
        let fresh = weigh(shard, &report, first, self.settings.rate_samples.max(1));
        shard.progress = report.progress.into_iter().collect();
        let led = shard.leader.map(|(leader, _)| leader) != Some(report.leader);
        let weighs = fresh != shard.load;
        shard.leader = Some((report.leader, report.term));
        shard.load = fresh;
        if led || weighs {
            self.dirty.insert(report.shard);
            self.want_whole(now);
        }
    }

    pub(super) fn install_policies(&mut self, now: Now, policies: Policies) {
        let known = self.policies.as_ref().map(|known| known.version);
        if known != Some(policies.version) {
            // Policies that another controller has seen are nothing new.
            self.requested = policies.version != self.head.inputs.policies;
            self.policies = Some(policies);
            self.afresh = true;
            self.want_urgent(now);
            self.want_whole(now);
        }
    }

    /// A node's status or the set of shards changed: every shard's seats may have.
    fn recount(&mut self, now: Now) {
        let now_us = now.monotonic.0;
        let carrying: BTreeSet<NodeId> = self
            .cluster
            .shards
            .values()
            .flat_map(|shard| shard.descriptor.replicas.iter().map(|replica| replica.node))
            .collect();
        // Who carries replicas and was never seen in a view is lost since we began to look.
        for &node in &carrying {
            let node = self.cluster.nodes.entry(node).or_default();
            if !node.member && node.lost_us.is_none() {
                node.lost_us = Some(self.since_us);
            }
        }
        let over = self.settings.grace_us;
        self.cluster.nodes.retain(|id, node| {
            let awaited = node
                .lost_us
                .is_some_and(|at| at.saturating_add(over) > now_us);
            node.member || awaited || carrying.contains(id)
        });
        self.dirty.extend(self.cluster.shards.keys());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.settings.replicas.to_le_bytes());
        // Who is no member is told by the view; to forget one after a while changes nothing.
        for (id, node) in self.cluster.nodes.iter().filter(|(_, node)| node.member) {
            hasher.update(&id.0.to_le_bytes());
            hasher.update(node.status().text().as_bytes());
        }
        for id in self.cluster.shards.keys() {
            hasher.update(&id.0.to_le_bytes());
        }
        self.registry = u64::from(hasher.finalize());
        self.age(now);
        self.want_urgent(now);
        self.want_whole(now);
    }

    /// Time passes for nodes that are away.
    pub(super) fn age(&mut self, now: Now) {
        let now_us = now.monotonic.0;
        let mut lost = BTreeMap::new();
        for (&id, node) in self.cluster.nodes.iter().filter(|(_, node)| !node.member) {
            let away = now_us.saturating_sub(node.lost_us.unwrap_or(now_us));
            let grace = if away >= self.settings.grace_us {
                Grace::Over
            } else if away >= self.settings.critical_grace_us {
                Grace::Critical
            } else {
                Grace::Fresh
            };
            lost.insert(id, grace);
        }
        if lost != self.lost {
            self.lost = lost;
            self.want_urgent(now);
            self.want_whole(now);
        }
        if self.mass_until_us.is_some_and(|until| now_us >= until) {
            self.mass_until_us = None;
            self.want_urgent(now);
            self.want_whole(now);
        }
    }

    pub(super) fn want_urgent(&mut self, now: Now) {
        self.urgent_us.get_or_insert(now.monotonic.0);
    }

    pub(super) fn want_whole(&mut self, now: Now) {
        self.whole_us.get_or_insert(now.monotonic.0);
    }
}

/// What a shard weighs from now on. A guess never takes the place of what was measured: a new leader has to measure
/// anew, and its shard has not changed by that.
fn weigh(shard: &mut Shard, report: &Report, first: bool, samples: u64) -> Load {
    if !report.measured && shard.measured {
        return shard.load;
    }
    let first = first || (report.measured && !shard.measured);
    shard.measured |= report.measured;
    let smooth = |old: u64, now: u64| {
        let now = now.saturating_mul(1000);
        match first {
            true => now,
            false => (old * (samples - 1) + now) / samples,
        }
    };
    let (reads, writes) = shard.rates;
    shard.rates = (
        smooth(reads, report.load.read_qps),
        smooth(writes, report.load.write_qps),
    );
    let seen = Load {
        bytes: report.load.bytes,
        read_qps: shard.rates.0 / 1000,
        write_qps: shard.rates.1 / 1000,
    };
    publish(shard.load, seen, first)
}

/// What policies are told: the old figures until the new ones leave the band of a tenth around them.
fn publish(old: Load, new: Load, first: bool) -> Load {
    let one = |old: u64, new: u64, step: u64| {
        let far = old.abs_diff(new);
        match first || (far > old / 10 && far >= step) {
            true => new,
            false => old,
        }
    };
    Load {
        bytes: one(old.bytes, new.bytes, BYTES_STEP),
        read_qps: one(old.read_qps, new.read_qps, QPS_STEP),
        write_qps: one(old.write_qps, new.write_qps, QPS_STEP),
    }
}
