//! A merge, as the node that leads the left shard carries it out, and as all others take part in it.
//!
//! ```text
//!   order ─► same nodes, all alive? ─► right's leader: Freeze ─► every node: frozen, durable? ─► Merge
//!            └──► Refused, and why      └──► Refused             └──► not in time: Busy
//! ```
//!
//! Nothing of this is kept anywhere: if the leader dies, or gives up, the right shard finds out by itself
//! that it was not merged, and serves again (`synod_txn`'s participant tells how). An order that comes
//! again goes on from where it stands.
//!
//! A node says that its replica is frozen when a checkpoint holds it: the log of a merged shard dies with
//! its last replicas, and nobody could send an entry again that a crash had taken back.

use std::collections::BTreeSet;

use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::{Event as ShardEvent, LeftSide, Now, SYSTEM_SHARD, ShardDescriptor};
use tracing::info;

use super::ordering::{Running, Stage};
use super::turn::{Effects, Node};
use crate::directory::Message as DirectoryMessage;
use crate::shards::check::{LAG_ENTRIES_MAX, Nodes};
use crate::shards::{Message, Order, OrderId, Refusal, Step, reconcile};

/// How often a node is asked that has not answered.
const ASK_EVERY_US: u64 = 100_000;

/// The right neighbour of a shard, on its way into it.
#[derive(Debug)]
pub(super) struct Merging {
    right: ShardId,
    into: LeftSide,
    /// The nodes that have replicas of it, and those of them where it is frozen for good.
    nodes: BTreeSet<NodeId>,
    frozen: BTreeSet<NodeId>,
    /// When there is something to do; never while it is about to freeze.
    due_us: Option<u64>,
    /// Why it did not freeze.
    pub(super) refused: Option<Refusal>,
}

impl Merging {
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.due_us.is_some_and(|due_us| due_us <= now.monotonic.0)
    }
}

/// The nodes that have replicas of a shard.
fn nodes_of(descriptor: &ShardDescriptor) -> BTreeSet<NodeId> {
    descriptor.replicas.iter().map(|it| it.node).collect()
}

/// Why two shards cannot be merged where they are, if that is why: what to move.
fn apart(left: &ShardDescriptor, right: &ShardDescriptor) -> Result<(), Refusal> {
    let (of_left, of_right) = (nodes_of(left), nodes_of(right));
    let surplus: Vec<String> = of_right
        .difference(&of_left)
        .map(NodeId::to_string)
        .collect();
    let lacking: Vec<String> = of_left
        .difference(&of_right)
        .map(NodeId::to_string)
        .collect();
    if surplus.is_empty() && lacking.is_empty() {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "the replicas of shards {left} and {right} must be on the same nodes: shard {right} has to move \
         from [{}] to [{}] first (SYNOD SHARD MOVE {right} from to); nothing was done",
        surplus.join(", "),
        lacking.join(", "),
        left = left.shard,
        right = right.shard,
    )))
}

impl Node {
    /// The two shards of a merge, if they can be merged now.
    fn mergeable(&self, shard: ShardId) -> Result<(ShardDescriptor, ShardDescriptor), Refusal> {
        let invalid = |reason: String| Err(Refusal::Invalid(reason));
        if shard == SYSTEM_SHARD {
            return invalid("the system shard is not merged".to_owned());
        }
        let left = self.settled(shard)?;
        let Some(end) = &left.range.end else {
            return invalid(format!("shard {shard} is the last one in key order"));
        };
        let right = self.gateway.map().locate(end);
        let Some(right) = right.filter(|right| right.range.start == *end) else {
            return Err(Refusal::Busy);
        };
        apart(left, right)?;
        self.all_alive(right)?;
        Ok((left.clone(), right.clone()))
    }

    /// The descriptor of a shard whose members are what it says.
    fn settled(&self, shard: ShardId) -> Result<&ShardDescriptor, Refusal> {
        let (Some(descriptor), Some(configuration)) = (
            self.participant.descriptor(shard),
            self.replication.configuration(shard),
        ) else {
            return Err(self.not_leader(shard));
        };
        let settled = !configuration.is_joint() && reconcile::agree(descriptor, configuration);
        match settled && self.participant.is_described(shard) {
            true => Ok(descriptor),
            false => Err(Refusal::Busy),
        }
    }

    fn all_alive(&self, descriptor: &ShardDescriptor) -> Result<(), Refusal> {
        let nodes = nodes_of(descriptor);
        match nodes.into_iter().find(|node| !self.is_alive(*node)) {
            Some(node) => Err(Refusal::Invalid(format!(
                "node {node} does not answer, and every replica of shard {} has to take part in a merge; \
                 nothing was done",
                descriptor.shard
            ))),
            None => Ok(()),
        }
    }

    /// Moves a merge of a shard that this node leads on by a step.
    pub(super) fn merge(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        effects: &mut Effects,
    ) -> Result<Stage, Refusal> {
        let Some(Running { order, merging, .. }) = self.running.get(&shard) else {
            return Err(self.not_leader(shard));
        };
        let authority = order.authority;
        let Some(merging) = merging else {
            let (left, right) = self.mergeable(shard)?;
            let into = LeftSide {
                shard,
                epoch: left.epoch,
                start: left.range.start.clone().into(),
            };
            let frozen = self.participant.frozen(right.shard) == Some(&into);
            let merging = Merging {
                right: right.shard,
                into: into.clone(),
                nodes: nodes_of(&right),
                frozen: BTreeSet::new(),
                due_us: frozen.then_some(now.monotonic.0),
                refused: None,
            };
            if let Some(running) = self.running.get_mut(&shard) {
                running.merging = Some(merging);
            }
            if frozen {
                return Ok(Stage::Gathering { term });
            }
            let order = Order {
                shard: right.shard,
                epoch: right.epoch,
                authority,
                step: Step::Freeze { into },
            };
            let order = self.order(now, order, effects);
            return Ok(Stage::Freezing { term, order });
        };
        let (right, into) = (merging.right, merging.into.clone());
        let missing: Vec<NodeId> = merging.nodes.difference(&merging.frozen).copied().collect();
        if missing.is_empty() {
            let left = shard;
            self.step_shards(now, ShardEvent::Merge { left, right }, effects);
            return Ok(Stage::Changing { term });
        }
        if let Some(merging) = self
            .running
            .get_mut(&shard)
            .and_then(|it| it.merging.as_mut())
        {
            merging.due_us = Some(now.monotonic.0 + ASK_EVERY_US);
        }
        for node in missing {
            if node == self.id() {
                self.asked_whether_frozen(node, right, into.clone());
            } else {
                let (shard, into) = (right, into.clone());
                // What finds no room is asked again.
                self.send_shards(node, &Message::IsFrozen { shard, into });
            }
        }
        Ok(Stage::Gathering { term })
    }

    /// An order to freeze that a merge here has given has ended. Whether it was one.
    pub(super) fn freeze_ended(
        &mut self,
        now: Now,
        id: OrderId,
        end: &Result<ShardDescriptor, Refusal>,
    ) -> bool {
        let asked = |running: &&mut Running| matches!(running.stage, Stage::Freezing { order, .. } if order == id);
        let Some(running) = self.running.values_mut().find(asked) else {
            return false;
        };
        let Stage::Freezing { term, .. } = running.stage else {
            return false;
        };
        running.stage = Stage::Gathering { term };
        if let Some(merging) = &mut running.merging {
            match end {
                Ok(_) => merging.due_us = Some(now.monotonic.0),
                Err(refusal) => merging.refused = Some(refusal.clone()),
            }
        }
        if let Ok(descriptor) | Err(Refusal::StaleEpoch { descriptor }) = end {
            self.learn_shard(descriptor.clone());
        }
        true
    }

    /// Freezes a shard that this node leads.
    pub(super) fn freeze(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        into: LeftSide,
        effects: &mut Effects,
    ) -> Result<Stage, Refusal> {
        if shard == SYSTEM_SHARD {
            return Err(Refusal::Invalid(
                "the system shard is not merged".to_owned(),
            ));
        }
        let descriptor = self.settled(shard)?;
        if self.participant.frozen(shard).is_some()
            || self.participant.newborns(shard).next().is_some()
        {
            return Err(Refusal::Busy);
        }
        self.all_alive(descriptor)?;
        let Some(status) = self.replication.status(shard) else {
            return Err(self.not_leader(shard));
        };
        for (&replica, &lag_entries) in &status.lacks {
            if lag_entries > LAG_ENTRIES_MAX {
                return Err(Refusal::NotCaughtUp {
                    replica,
                    lag_entries,
                });
            }
        }
        self.step_shards(now, ShardEvent::Freeze { shard, into }, effects);
        Ok(Stage::Changing { term })
    }

    /// The leader of a left shard wants to know whether the right one is frozen here, for good.
    pub(super) fn asked_whether_frozen(&mut self, from: NodeId, shard: ShardId, into: LeftSide) {
        if self.participant.frozen(shard) != Some(&into) {
            return;
        }
        if self.store.checkpointed(shard) < self.store.applied(shard) {
            return self.store.checkpoint();
        }
        match from == self.id() {
            true => self.note_frozen(from, shard, &into),
            false => drop(self.send_shards(from, &Message::Frozen { shard, into })),
        }
    }

    /// A right shard is frozen on a node.
    pub(super) fn heard_frozen(
        &mut self,
        now: Now,
        from: NodeId,
        shard: ShardId,
        into: &LeftSide,
        effects: &mut Effects,
    ) {
        self.note_frozen(from, shard, into);
        self.advance_order(now, into.shard, effects);
    }

    fn note_frozen(&mut self, from: NodeId, right: ShardId, into: &LeftSide) {
        let running = self.running.get_mut(&into.shard);
        if let Some(merging) = running.and_then(|running| running.merging.as_mut())
            && merging.right == right
            && merging.into == *into
        {
            merging.frozen.insert(from);
            if merging.frozen.is_superset(&merging.nodes) {
                merging.due_us = Some(0);
            }
        }
    }

    /// A shard of this node has taken its right neighbour in, or had done so before.
    pub(super) fn merged(
        &mut self,
        now: Now,
        left: ShardId,
        (right, epoch): (ShardId, u64),
        effects: &mut Effects,
    ) {
        let news = self.directory.gone(right).is_none();
        self.learn_gone(right, epoch);
        if let Some(replica) = self.store.replica(right) {
            info!(%left, %right, %replica, "the shard is a part of its left neighbour: its replica ends");
            self.end_replica(now, right, replica, None, effects);
        }
        self.unreconciled.insert(left);
        if news && self.participant.leads(left) {
            self.tell_all(&DirectoryMessage::Rows {
                shards: Vec::new(),
                gone: vec![(right.0, epoch)],
                nodes: Vec::new(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_storage::{KeyRange, ReplicaId};
    use synod_txn::{Replica, ReplicaRole};

    fn shard(shard: u64, nodes: &[u128]) -> ShardDescriptor {
        let replicas = nodes.iter().map(|node| Replica {
            replica: ReplicaId(shard * 10 + *node as u64),
            node: NodeId(*node),
            role: ReplicaRole::Voter,
        });
        ShardDescriptor {
            shard: ShardId(shard),
            epoch: 1,
            range: KeyRange::all(),
            replicas: replicas.collect(),
        }
    }

    #[test]
    fn shards_on_different_nodes_are_told_what_to_move() {
        assert_eq!(apart(&shard(1, &[1, 2, 3]), &shard(2, &[3, 1, 2])), Ok(()));
        let Err(Refusal::Invalid(why)) = apart(&shard(1, &[1, 2, 3]), &shard(2, &[1, 4, 3])) else {
            panic!("replicas are on different nodes");
        };
        let (from, to) = (NodeId(4).to_string(), NodeId(2).to_string());
        let advice = format!("shard 2 has to move from [{from}] to [{to}]");
        assert!(why.contains(&advice), "{why}");
    }
}
