//! When the solver is asked, and what.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::Now;

use super::cluster::{NodeStatus, Seat};
use super::filter::{Filter, Grace, Standing};
use super::plan::Class;
use super::records::Inputs;
use super::solver::{Question, Scope};
use super::tables::{ShardRows, flip};
use super::{Controller, Effect};

/// How long a new controller waits for shards whose leaders have not reported yet.
pub(super) const SETTLE_US: u64 = 3_000_000;

/// Between two looks at whether a question can be asked, in microseconds.
const LOOK_US: u64 = 20_000;

/// A step that changes who votes or leads is awaited for so long before a question: an answer about where its shard
/// stood before would lead back there. What takes longer has met a leader that is gone.
const STEP_US: u64 = 1_000_000;

/// A question under way.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) id: u64,
    pub(super) scope: Scope,
    pub(super) inputs: Inputs,
    /// Shards that were in the midst of a step which changes who votes or leads, and their epochs before it.
    pub(super) between: Vec<(ShardId, u64)>,
    aborted: bool,
}

impl Controller {
    /// Asks, if something is to be decided and nothing is being decided.
    pub(super) fn ask(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let now_us = now.monotonic.0;
        let due =
            |since: Option<u64>, after: u64| since.is_some_and(|since| now_us >= since + after);
        let urgent = due(self.urgent_us, self.settings.debounce_us);
        if let Some(asked) = &mut self.asked {
            if urgent && asked.scope == Scope::Whole && !asked.aborted {
                asked.aborted = true;
                effects.push(Effect::Abort(asked.id));
            }
            return;
        }
        let whole = self.urgent_us.is_none()
            && due(self.whole_us, self.settings.whole_pause_us)
            && now_us >= self.whole_at_us;
        // What follows looks at every shard, and something happens to one of them all the time.
        if !(urgent || whole) || self.writing.is_some() || now_us < self.looked_us + LOOK_US {
            return;
        }
        self.looked_us = now_us;
        let is_new = |(_, _, at_us)| now_us < at_us + STEP_US;
        if self.committing().any(is_new) || !self.knows_enough(now_us) {
            return;
        }
        let scope = if urgent {
            self.urgent_us = None;
            match self.requested && self.head.plan > 0 {
                true => Scope::Whole,
                false => Scope::Urgent,
            }
        } else if self.is_calm(now_us) {
            self.whole_us = None;
            self.whole_at_us = now_us + self.settings.whole_pause_us;
            Scope::Whole
        } else {
            return;
        };
        let id = self.next_question;
        self.next_question += 1;
        let question = self.question(id, scope, now);
        self.asked = Some(Asked {
            id,
            scope,
            inputs: self.inputs(),
            between: self
                .committing()
                .map(|(id, epoch, _)| (id, epoch))
                .collect(),
            aborted: false,
        });
        effects.push(Effect::Ask(question));
    }

    /// Whether there is a view, a policy, and word from the shards that can have a leader.
    fn knows_enough(&self, now_us: u64) -> bool {
        let waited = now_us >= self.since_us + SETTLE_US;
        let heard = || {
            self.cluster
                .shards
                .values()
                .all(|shard| shard.leader.is_some() || !self.cluster.has_majority(shard))
        };
        self.view > 0
            && self.policies.is_some()
            && !self.cluster.shards.is_empty()
            && (waited || heard())
    }

    /// Whether the cluster is so quiet that loads may be spread better.
    fn is_calm(&self, now_us: u64) -> bool {
        let fresh =
            |at: Option<u64>| at.is_some_and(|at| at + self.settings.report_age_max_us > now_us);
        let busy = self
            .plan
            .most_urgent()
            .is_some_and(|class| class < Class::Balance);
        !busy
            && self.mass_until_us.is_none()
            && self.lost.values().all(|grace| *grace == Grace::Over)
            && self
                .cluster
                .shards
                .values()
                .all(|shard| fresh(shard.reported_us) || !self.cluster.has_majority(shard))
    }

    fn question(&mut self, id: u64, scope: Scope, now: Now) -> Question {
        let policies = match (self.afresh, &self.policies) {
            (true, Some(policies)) => Some(policies.sql()),
            (true, None) | (false, _) => None,
        };
        if self.afresh {
            self.afresh = false;
            self.shown.clear();
            self.dirty.extend(self.cluster.shards.keys());
        }
        let mut changes = Vec::new();
        self.shown.nodes(&self.cluster, &mut changes);
        for shard in std::mem::take(&mut self.dirty) {
            self.shown.shard_changes(&self.cluster, shard, &mut changes);
        }
        self.shown.forget_nodes(&self.cluster, &mut changes);
        let mut decided = Vec::new();
        let mut present = Vec::new();
        for (&shard, target) in &self.plan.targets {
            let (Some(rows), Some(end)) = (self.shown.shard(shard), target.end()) else {
                continue;
            };
            let seats = projected(&end.seats, rows);
            let here = (rows.seats.as_slice(), rows.leader);
            let there = (
                seats.as_slice(),
                rows.leader.and(end.leader.or(rows.leader)),
            );
            flip(shard, here, there, &mut decided);
            flip(shard, there, here, &mut present);
        }
        Question {
            id,
            policies,
            changes,
            decided,
            present,
            scope,
            needy: self.needy(),
            filter: self.filter(now, scope),
            seed: self.head.plan,
        }
    }

    /// The shards with a seat that is vacant, or on a node that is not up, and how many seats they have.
    fn needy(&self) -> Vec<(ShardId, u32)> {
        let fine = |seat: &Seat| {
            let status = seat.node.map(|node| self.cluster.status(node));
            status == Some(NodeStatus::Up)
        };
        self.shown
            .shards()
            .filter(|(_, rows)| !rows.seats.iter().all(fine))
            .map(|(id, rows)| (id, u32::try_from(rows.seats.len()).unwrap_or(u32::MAX)))
            .collect()
    }

    fn filter(&self, now: Now, scope: Scope) -> Filter {
        let inputs = self.inputs();
        let recent = |moved: &BTreeMap<NodeId, (u64, Inputs)>| -> BTreeSet<NodeId> {
            moved
                .iter()
                .filter(|(_, (at, from))| {
                    *from == inputs && at.saturating_add(self.settings.no_undo_ms) > now.wall_ms
                })
                .map(|(node, _)| *node)
                .collect()
        };
        let standing = |(id, rows): (ShardId, &ShardRows)| {
            let shard = self.cluster.shards.get(&id);
            let moved = self.moved.get(&id);
            let standing = Standing {
                seats: rows.seats.iter().map(|seat| seat.node).collect(),
                leader: rows.leader,
                critical: shard.is_some_and(|shard| self.cluster.is_critical(shard)),
                moved_from: moved.map_or_else(BTreeSet::new, |moved| recent(&moved.from)),
                led_from: moved.map_or_else(BTreeSet::new, |moved| recent(&moved.leader_from)),
                under_way: self.plan.targets.contains_key(&id),
            };
            (id, standing)
        };
        let draining = self
            .cluster
            .nodes
            .iter()
            .filter(|(_, node)| node.status() == NodeStatus::Draining)
            .map(|(id, _)| *id)
            .collect();
        Filter {
            shards: self.shown.shards().map(standing).collect(),
            lost: self.lost.clone(),
            draining,
            least: self.mass_until_us.map(|_| Class::Critical),
            urgent: scope == Scope::Urgent,
            requested: self.requested && self.head.plan > 0,
        }
    }
}

/// The target's seats, as many as the shard has rows.
fn projected(end: &[Seat], rows: &ShardRows) -> Vec<Seat> {
    rows.seats
        .iter()
        .enumerate()
        .map(|(slot, seat)| match end.get(slot) {
            Some(target) if target.node.is_some() => Seat {
                node: target.node,
                votes: seat.votes,
            },
            Some(_) | None => *seat,
        })
        .collect()
}
