//! Replicas whose disk lost what no peer can name are replaced.
//!
//! Such a replica neither votes nor acknowledges, so its shard stands as if its node were dead: to take it out of the
//! configuration lowers neither the majority that is needed by more than the voters that are there, nor the failures
//! that are survived. So it is removed first, if those who remain are a live, caught-up majority; then its seat is
//! vacant, and is filled like any other, by a new replica id as a learner that gets its vote when it has caught up.
//! That may be on the same node: in a cluster of three there is no other. When the shard does not name the old replica
//! any more, what was noted about it is deleted.

use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::Now;

use super::advance::Step;
use super::cluster::{Progress, Shard};
use super::records::Row;
use super::{Controller, Effect};
use crate::directory::Table;

impl Controller {
    /// Removes damaged replicas, and the notes about those that are gone.
    pub(super) fn replace_damaged(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.damaged.is_empty() || self.asked.is_some() || self.writing.is_some() {
            return;
        }
        let mut gone: Vec<Row> = Vec::new();
        let mut steps: Vec<(ShardId, ReplicaId)> = Vec::new();
        for (&replica, &id) in &self.damaged {
            let Some(shard) = self.cluster.shards.get(&id) else {
                continue;
            };
            if shard.on_node_of(replica).is_none() {
                gone.push((Table::Damaged(replica).key(), None));
            } else if self.may_step(id, now) && self.may_remove(shard, replica) {
                steps.push((id, replica));
            }
        }
        for (id, replica) in steps {
            let step = Step::Replace {
                promote: Vec::new(),
                remove: vec![replica],
            };
            self.order(now, id, step, effects);
        }
        if !gone.is_empty() {
            self.damaged.retain(|replica, _| {
                !gone
                    .iter()
                    .any(|(key, _)| *key == Table::Damaged(*replica).key())
            });
            let id = self.next_write;
            self.next_write += 1;
            effects.push(Effect::Write { id, rows: gone });
        }
    }

    /// Whether those who remain are a live, caught-up majority. Who leads is not damaged.
    pub(super) fn may_remove(&self, shard: &Shard, replica: ReplicaId) -> bool {
        let Some((leader, _)) = shard.leader else {
            return false;
        };
        let node = shard.on_node_of(replica);
        let remaining: Vec<NodeId> = shard.voters().filter(|it| Some(*it) != node).collect();
        let sound = remaining.iter().filter(|node| {
            let caught_up = shard.on(**node).and_then(|it| shard.progress.get(&it));
            self.cluster.is_live(**node)
                && (**node == leader || caught_up == Some(&Progress::CaughtUp))
        });
        Some(leader) != node && !shard.joint && 2 * sound.count() > remaining.len()
    }
}
