//! Carrying out the plan: which shard may take its next step now.
//!
//! The most urgent first. A copy needs room: a node receives a few at once, and only so many bytes; one place more is
//! kept for shards that would not survive another failure. Everything else is cheap and waits for nothing but its turn.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{Authority, Now, ReplicaRole, ShardDescriptor};

use super::advance::{Next, Step, next};
use super::cluster::{Duty, Progress, Shard};
use super::plan::{Class, Plan, Target};
use super::records::{self, Head};
use super::{Controller, Effect, Refusal};

/// Between two looks at the plan when nothing but time passed, in microseconds.
const LOOK_US: u64 = 100_000;
/// The first pause after a refusal, in microseconds; it doubles.
const PAUSE_US: u64 = 200_000;
/// And the longest.
const PAUSE_MAX_US: u64 = 10_000_000;

/// An order under way.
#[derive(Clone, Debug)]
pub(super) struct Ordered {
    id: u64,
    at_us: u64,
    step: Step,
    /// The write that must be durable before the order is given, and the order.
    held: Option<(u64, Effect)>,
}

/// Copies and bytes on their way, by node.
#[derive(Default)]
struct Room {
    incoming: BTreeMap<NodeId, (u32, u64)>,
    outgoing: BTreeMap<NodeId, u32>,
    bytes: BTreeMap<NodeId, u64>,
}

impl Controller {
    pub(super) fn execute(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.monotonic.0 < self.executed_us + LOOK_US && self.executed_us != 0 {
            return;
        }
        self.executed_us = now.monotonic.0;
        self.finish(now, effects);
        self.replace_damaged(now, effects);
        let mut room = self.room();
        let round = self.plan.round();
        let mut turns: Vec<(Class, ShardId)> = self
            .plan
            .targets
            .iter()
            .map(|(shard, target)| (target.class, *shard))
            .collect();
        turns.sort_unstable();
        self.waits.clear();
        for (class, id) in turns {
            let (Some(shard), Some(target)) =
                (self.cluster.shards.get(&id), self.plan.targets.get(&id))
            else {
                continue;
            };
            let Some(stage) = target.next() else {
                continue;
            };
            if Some(stage.round) != round || !self.may_step(id, now) {
                continue;
            }
            let following = next(&self.cluster, shard, stage);
            self.take(now, id, class, following, &mut room, effects);
        }
        self.sweep(now, effects);
        self.report_emptied(effects);
    }

    pub(super) fn may_step(&self, id: ShardId, now: Now) -> bool {
        let paused = self
            .pauses
            .get(&id)
            .is_some_and(|(until, _)| *until > now.monotonic.0);
        !self.ordered.contains_key(&id) && !paused
    }

    /// Shards with a step under way that changes who votes or leads: their epochs, and since when.
    pub(super) fn committing(&self) -> impl Iterator<Item = (ShardId, u64, u64)> {
        self.ordered.iter().filter_map(|(id, ordered)| {
            let shard = self.cluster.shards.get(id)?;
            let commits = ordered.step.commits(shard);
            commits.then_some((*id, shard.descriptor.epoch, ordered.at_us))
        })
    }

    fn take(
        &mut self,
        now: Now,
        id: ShardId,
        class: Class,
        following: Next,
        room: &mut Room,
        effects: &mut Vec<Effect>,
    ) {
        let Some(shard) = self.cluster.shards.get(&id) else {
            return;
        };
        match following {
            Next::Done => {}
            Next::Wait(why) => {
                self.waits.insert(id, why);
            }
            Next::Step(step) => {
                // The plan that is being made, or written, begins with what its question has shown; and one that was
                // made for other nodes or policies gives way to the next.
                let is_outdated = self.urgent_us.is_some() && self.head.inputs != self.inputs();
                let is_replaced = self.asked.is_some() || self.writing.is_some() || is_outdated;
                if is_replaced && step.commits(shard) {
                    return;
                }
                if let Step::Add(node) = step
                    && !self.has_room(room, shard, node, class)
                {
                    return;
                }
                self.order(now, id, step, effects);
            }
        }
    }

    pub(super) fn order(&mut self, now: Now, id: ShardId, step: Step, effects: &mut Vec<Effect>) {
        let Some(shard) = self.cluster.shards.get(&id) else {
            return;
        };
        let epoch = shard.descriptor.epoch;
        let noted = self.note_leaving(now, id, &step, effects);
        let order = self.next_order;
        self.next_order += 1;
        let effect = Effect::Order {
            id: order,
            shard: id,
            epoch,
            authority: Authority {
                term: self.term,
                plan: self.head.plan,
            },
            step: step.clone(),
        };
        let held = match noted {
            Some(write) => Some((write, effect)),
            None => {
                effects.push(effect);
                None
            }
        };
        if let (Step::Add(node), Some(shard)) = (&step, self.cluster.shards.get_mut(&id)) {
            shard.awaited.insert(*node);
        }
        let ordered = Ordered {
            id: order,
            at_us: now.monotonic.0,
            step,
            held,
        };
        self.ordered.insert(id, ordered);
    }

    /// Something that was to be remembered is durable: the order that waited for it is given.
    pub(super) fn noted(&mut self, write: u64, effects: &mut Vec<Effect>) {
        for ordered in self.ordered.values_mut() {
            let held = ordered.held.take_if(|(waits_for, _)| *waits_for == write);
            effects.extend(held.map(|(_, order)| order));
        }
    }

    /// Remembers what a step takes away, before it is ordered: its plan may be replaced before it arrives, and the
    /// answer be lost, or the controller be another one by then (also by the step itself, which may move the system
    /// shard's leader), but the step must not be undone for that. The write that remembers it, if there is one.
    fn note_leaving(
        &mut self,
        now: Now,
        id: ShardId,
        step: &Step,
        effects: &mut Vec<Effect>,
    ) -> Option<u64> {
        let shard = self.cluster.shards.get(&id)?;
        let record = (now.wall_ms, self.inputs());
        let moved = match step {
            Step::Add(_) => return None,
            Step::Transfer(_) => {
                let (leader, _) = shard.leader?;
                let moved = self.moved.entry(id).or_default();
                moved.leader_from.insert(leader, record);
                moved
            }
            Step::Replace { remove, .. } => {
                let voters: Vec<NodeId> = shard.voters().collect();
                let nodes = remove.iter().filter_map(|it| shard.on_node_of(*it));
                let leaving: Vec<NodeId> = nodes.filter(|node| voters.contains(node)).collect();
                if leaving.is_empty() {
                    return None;
                }
                let moved = self.moved.entry(id).or_default();
                for node in leaving {
                    moved.from.insert(node, record);
                }
                moved
            }
        };
        let row = (
            records::shard_key(records::MOVED, id),
            records::stored(moved),
        );
        let write = self.next_write;
        self.next_write += 1;
        effects.push(Effect::Write {
            id: write,
            rows: vec![row],
        });
        Some(write)
    }

    /// What is on its way, and what lies where.
    fn room(&self) -> Room {
        let mut room = Room::default();
        if self.plan.targets.is_empty() {
            return room;
        }
        for (id, shard) in &self.cluster.shards {
            for replica in &shard.descriptor.replicas {
                *room.bytes.entry(replica.node).or_default() += shard.load.bytes;
                let copying = replica.role == ReplicaRole::Learner
                    && shard.progress.get(&replica.replica) != Some(&Progress::CaughtUp);
                if copying {
                    room.begin(shard, replica.node);
                }
            }
            if let Some(Ordered {
                step: Step::Add(node),
                ..
            }) = self.ordered.get(id)
                && shard.on(*node).is_none()
            {
                *room.bytes.entry(*node).or_default() += shard.load.bytes;
                room.begin(shard, *node);
            }
        }
        room
    }

    fn has_room(&self, room: &mut Room, shard: &Shard, node: NodeId, class: Class) -> bool {
        let reserve = u32::from(class == Class::Critical);
        let most = self.settings.copies_per_node + reserve;
        let (copies, bytes) = room.incoming.get(&node).copied().unwrap_or_default();
        let leader = shard.leader.map(|(leader, _)| leader);
        let sending = leader
            .and_then(|node| room.outgoing.get(&node))
            .copied()
            .unwrap_or(0);
        let fits = bytes == 0 || bytes + shard.load.bytes <= self.settings.copy_bytes_per_node;
        let holds = room.bytes.get(&node).copied().unwrap_or(0) + shard.load.bytes;
        let capacity = self
            .cluster
            .nodes
            .get(&node)
            .map_or(0, |node| node.capacity().bytes);
        if copies >= most || sending >= 2 * most || !fits || holds > capacity {
            return false;
        }
        *room.bytes.entry(node).or_default() += shard.load.bytes;
        room.begin(shard, node);
        true
    }

    /// Takes out of the plan what has arrived, and remembers what it left.
    fn finish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut arrived = Vec::new();
        for (id, target) in &mut self.plan.targets {
            // One that the directory has not told of yet is on its way, as far as is known.
            if let Some(shard) = self.cluster.shards.get(id) {
                target.look(shard);
            }
            if target.next().is_none() {
                arrived.push(*id);
            }
        }
        if arrived.is_empty() {
            return;
        }
        let mut rows = Vec::new();
        for id in arrived {
            if let Some(target) = self.plan.targets.remove(&id) {
                self.remember(now, id, &target);
                let moved = self.moved.get(&id).and_then(records::stored);
                rows.push((records::shard_key(records::MOVED, id), moved));
            }
        }
        let id = self.next_write;
        self.next_write += 1;
        effects.push(Effect::Write { id, rows });
        if self.plan.targets.is_empty() && self.writing.is_none() {
            let head = Head {
                plan: self.head.plan + 1,
                term: self.term,
                inputs: self.head.inputs,
            };
            self.store(head, Plan::default(), effects);
            // What was put off while there was something to do.
            self.want_urgent(now);
            self.want_whole(now);
        }
    }

    fn remember(&mut self, now: Now, id: ShardId, target: &Target) {
        let Some(end) = target.end() else {
            return;
        };
        let inputs = self.inputs();
        let stays = |node: &NodeId| end.seats.iter().any(|seat| seat.node == Some(*node));
        let moved = self.moved.entry(id).or_default();
        let old = |&(at, _): &(u64, _)| at + self.settings.no_undo_ms > now.wall_ms;
        moved
            .from
            .retain(|node, record| old(record) && !stays(node));
        moved.leader_from.retain(|_, record| old(record));
        for &node in target.from.iter().filter(|node| !stays(node)) {
            moved.from.insert(node, (now.wall_ms, inputs));
        }
        if let Some(node) = target.led_by
            && end.leader.is_some_and(|leader| leader != node)
        {
            moved.leader_from.insert(node, (now.wall_ms, inputs));
        }
    }

    pub(super) fn ordered(
        &mut self,
        now: Now,
        order: u64,
        result: Result<ShardDescriptor, Refusal>,
    ) {
        let found = self.ordered.iter().find(|(_, ordered)| ordered.id == order);
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        let step = self.ordered.remove(&id).map(|ordered| ordered.step);
        self.executed_us = 0;
        match result {
            Ok(descriptor) => {
                self.pauses.remove(&id);
                if let Some(Step::Transfer(heir)) = step {
                    self.led_by(id, heir);
                }
                self.describe(now, descriptor);
            }
            Err(Refusal::Stale(descriptor)) => {
                self.no_copy(id, step);
                self.describe(now, descriptor);
            }
            Err(
                Refusal::NotLeader(_)
                | Refusal::Superseded
                | Refusal::Busy
                | Refusal::NotCaughtUp
                | Refusal::Invalid(_),
            ) => {
                self.no_copy(id, step);
                self.pause(now, id);
            }
            Err(Refusal::Unknown) => self.pause(now, id),
        }
    }

    /// A step was refused: the copy that it asked for does not come.
    fn no_copy(&mut self, id: ShardId, step: Option<Step>) {
        if let Some(Step::Add(node)) = step
            && let Some(shard) = self.cluster.shards.get_mut(&id)
        {
            shard.awaited.remove(&node);
        }
    }

    /// A transfer succeeded: who leads now, until a report says more.
    fn led_by(&mut self, id: ShardId, heir: ReplicaId) {
        if let Some(shard) = self.cluster.shards.get_mut(&id)
            && let Some((_, term)) = shard.leader
            && let Some(replica) = shard.descriptor.replicas.iter().find(|r| r.replica == heir)
        {
            // What the old leader still says of its term counts no more; its heir speaks in a later one.
            shard.leader = Some((replica.node, term));
            self.dirty.insert(id);
        }
    }

    fn pause(&mut self, now: Now, id: ShardId) {
        let (until, times) = self.pauses.entry(id).or_default();
        let pause = (PAUSE_US << (*times).min(8)).min(PAUSE_MAX_US);
        *until = now.monotonic.0 + pause;
        *times += 1;
    }

    pub(super) fn expire_orders(&mut self, now: Now) {
        let late: Vec<ShardId> = self
            .ordered
            .iter()
            .filter(|(_, ordered)| {
                ordered.at_us + self.settings.order_timeout_us <= now.monotonic.0
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.ordered.remove(&id);
            self.pause(now, id);
        }
    }

    /// Says once of each node that shall leave that nothing lives on it any more.
    fn report_emptied(&mut self, effects: &mut Vec<Effect>) {
        let leaving = |(_, node): &(&NodeId, &super::cluster::Node)| node.duty == Duty::Leaving;
        let leaving: BTreeSet<NodeId> = self
            .cluster
            .nodes
            .iter()
            .filter(leaving)
            .map(|(id, _)| *id)
            .filter(|id| !self.emptied.contains(id))
            .collect();
        if leaving.is_empty() {
            return;
        }
        let mut carrying = BTreeSet::new();
        for shard in self.cluster.shards.values() {
            carrying.extend(shard.descriptor.replicas.iter().map(|replica| replica.node));
        }
        for node in leaving.difference(&carrying) {
            self.emptied.insert(*node);
            effects.push(Effect::Emptied(*node));
        }
    }
}

impl Room {
    fn begin(&mut self, shard: &Shard, node: NodeId) {
        let (copies, bytes) = self.incoming.entry(node).or_default();
        *copies += 1;
        *bytes += shard.load.bytes;
        if let Some((leader, _)) = shard.leader {
            *self.outgoing.entry(leader).or_default() += 1;
        }
    }
}
