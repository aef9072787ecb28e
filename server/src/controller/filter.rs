//! Which decisions may be followed now.
//!
//! The solver decides as if everything might move at once. Some of it must wait: a node that has just gone may come
//! back, a move that was just made must not be undone by a wavering load, and after a mass loss only what is about to
//! lose its majority is touched. Waiting is decided per shard, so that a shard's replicas and leader stay together.

use std::collections::{BTreeMap, BTreeSet};

use synod_placement::PolicyRow;
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::plan::Class;
use super::tables::node_of;

/// A shard, as far as waiting is concerned.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Who sits where, as the solver sees it.
    pub seats: Vec<Option<NodeId>>,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Whether one more failure would cost the majority.
    pub critical: bool,
    /// Where its replicas may not go back to for the sake of balance.
    pub moved_from: BTreeSet<NodeId>,
    /// The same for its leader.
    pub led_from: BTreeSet<NodeId>,
    /// Whether it is on its way already.
    pub under_way: bool,
}

/// What the controller knows of waiting.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The shards that are not as usual; those that are missing have nothing to wait for.
    pub shards: BTreeMap<ShardId, Standing>,
    /// Nodes out of the view, and whether they have been for so long that they are replaced: in critical shards, and
    /// in all.
    pub lost: BTreeMap<NodeId, Grace>,
    /// Nodes to be emptied.
    pub draining: BTreeSet<NodeId>,
    /// The least urgent class that may be followed.
    pub least: Option<Class>,
    /// Whether only what is urgent was decided: leaders are spread when there is time for everything.
    pub urgent: bool,
    /// Whether the policies have changed since the last plan: moves are then asked for.
    pub requested: bool,
}

/// How long a node has been away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// It may come back any moment.
    Fresh,
    /// Shards that would not survive another failure do not wait for it any longer.
    Critical,
    /// Nobody waits for it.
    Over,
}

impl Filter {
    /// The shards named by broken rows, and those on the nodes that such rows name.
    pub fn shards_of(&self, rows: &[PolicyRow]) -> BTreeSet<ShardId> {
        let mut shards = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for row in rows {
            for (name, value) in &row.row {
                let column = name.rsplit('.').next().unwrap_or(name);
                if column == "shard_id" {
                    shards.extend(value.as_u64().map(ShardId));
                } else if column == "node_id" {
                    nodes.extend(value.as_str().and_then(node_of));
                }
            }
        }
        for (shard, standing) in &self.shards {
            if standing
                .seats
                .iter()
                .flatten()
                .any(|node| nodes.contains(node))
            {
                shards.insert(*shard);
            }
        }
        shards
    }

    /// How urgent the change of a shard is.
    pub fn class(&self, shard: ShardId, bad: &BTreeSet<ShardId>) -> Class {
        let default = Standing::default();
        let standing = self.shards.get(&shard).unwrap_or(&default);
        let vacant = standing.seats.iter().any(Option::is_none);
        let sits = |set: &dyn Fn(&NodeId) -> bool| standing.seats.iter().flatten().any(set);
        let lost = sits(&|node| self.lost.contains_key(node));
        if standing.critical && lost {
            Class::Critical
        } else if vacant || lost {
            Class::Repair
        } else if sits(&|node| self.draining.contains(node)) || self.requested {
            Class::Request
        } else if bad.contains(&shard) {
            Class::Repair
        } else {
            Class::Balance
        }
    }

    /// Takes out of `ends` what has to wait, with the reason.
    pub fn apply(
        &self,
        ends: &mut BTreeMap<(ShardId, Option<u32>), Option<NodeId>>,
        bad: &BTreeSet<ShardId>,
        waiting: &mut BTreeMap<ShardId, &'static str>,
    ) {
        let shards: BTreeSet<ShardId> = ends.keys().map(|(shard, _)| *shard).collect();
        for shard in shards {
            let Some(standing) = self.shards.get(&shard) else {
                continue;
            };
            let class = self.class(shard, bad);
            let changes: Vec<(Option<u32>, NodeId)> = ends
                .range((shard, None)..=(shard, Some(u32::MAX)))
                .filter_map(|(&(_, slot), node)| Some((slot, (*node)?)))
                .collect();
            let why = match bad.contains(&shard) {
                true => None,
                false => self.leads_only(standing, &changes),
            };
            if let Some(why) = why.or_else(|| self.holds_back(standing, class, &changes)) {
                waiting.insert(shard, why);
                ends.retain(|&(of, _), _| of != shard);
            }
        }
    }

    /// A change of nothing but the leader is no repair.
    fn leads_only(
        &self,
        standing: &Standing,
        changes: &[(Option<u32>, NodeId)],
    ) -> Option<&'static str> {
        let seats = changes.iter().any(|(slot, _)| slot.is_some());
        let drained = standing
            .leader
            .is_some_and(|node| self.draining.contains(&node));
        let waits = self.urgent && !seats && !drained && !standing.under_way;
        waits.then_some("leaders are spread when nothing more urgent is under way")
    }

    fn holds_back(
        &self,
        standing: &Standing,
        class: Class,
        changes: &[(Option<u32>, NodeId)],
    ) -> Option<&'static str> {
        // Also for one that is under way: what it has left by now, it has left.
        if class == Class::Balance {
            let back = |(slot, to): &(Option<u32>, NodeId)| match slot {
                Some(_) => standing.moved_from.contains(to),
                None => standing.led_from.contains(to),
            };
            if changes.iter().any(back) {
                return Some("it was moved away from there within ten minutes");
            }
        }
        if standing.under_way && class > Class::Critical {
            // What was begun is finished, unless it has to be decided again.
            return None;
        }
        if self.least.is_some_and(|least| class > least) {
            return Some("only the most urgent repairs until the cluster is stable");
        }
        let leaves = |slot: &Option<u32>| {
            let slot = slot.and_then(|slot| usize::try_from(slot).ok())?;
            standing.seats.get(slot).copied().flatten()
        };
        for (slot, _) in changes {
            let grace = leaves(slot).and_then(|node| self.lost.get(&node));
            match grace {
                Some(Grace::Fresh) => return Some("its node may come back"),
                Some(Grace::Critical) if class > Class::Critical => {
                    return Some("its node may come back");
                }
                Some(Grace::Critical | Grace::Over) | None => {}
            }
        }
        None
    }
}
