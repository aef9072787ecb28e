//! From a decision to a stored plan.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_placement::{Force, constraints};
use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::Now;

use super::cluster::{NodeStatus, Seat, Shard};
use super::plan::{At, Class, Plan, Stage, Target};
use super::records::{self, Head};
use super::solver::{Answer, Decision, Move, Scope};
use super::tables::ShardRows;
use super::{Controller, Effect, Verdict};

/// How long a question that could not be answered is not asked again, in microseconds.
const RETRY_US: u64 = 10_000_000;

/// The plan as it is stored: one row, so that a successor finds all of it or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Its number and what it was made from.
    pub head: Head,
    /// Targets by shard.
    pub targets: Vec<(u64, Target)>,
}

impl Stored {
    /// As the controller has it.
    pub fn plan(self) -> Plan {
        let targets = self.targets.into_iter();
        Plan {
            targets: targets
                .map(|(shard, target)| (ShardId(shard), target))
                .collect(),
        }
    }
}

impl Controller {
    pub(super) fn adopt(&mut self, now: Now, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(asked) = self.asked.take_if(|asked| asked.id == answer.id) else {
            return;
        };
        let decision = match answer.outcome {
            Ok(decision) => decision,
            Err(error) => {
                // The solver knows nothing any more. It is told everything, later: the error may stay.
                self.verdict.error = Some(error);
                self.afresh = true;
                self.urgent_us = Some(now.monotonic.0 + RETRY_US);
                return;
            }
        };
        let again = |this: &mut Controller| match asked.scope {
            Scope::Urgent => this.want_urgent(now),
            Scope::Whole => this.want_whole(now),
        };
        let has_stepped = |(id, epoch): &(ShardId, u64)| {
            let shard = self.cluster.shards.get(id);
            shard.is_none_or(|shard| shard.descriptor.epoch != *epoch)
        };
        let stepped = asked.between.iter().any(has_stepped);
        if !decision.complete || stepped || asked.inputs != self.inputs() {
            // What changed meanwhile has asked for a decision of its own; and a plan that begins where a shard stood
            // before its last step would take it back there.
            again(self);
            return;
        }
        let head = Head {
            plan: self.head.plan + 1,
            term: self.term,
            inputs: asked.inputs,
        };
        let plan = self.planned(&head, &decision);
        self.requested = false;
        // A decision on a few shards bounds nothing.
        let (present, soft) = match asked.scope {
            Scope::Whole => (present(&decision), self.soft()),
            Scope::Urgent => (
                std::mem::take(&mut self.verdict.present),
                std::mem::take(&mut self.verdict.soft),
            ),
        };
        self.verdict = Verdict {
            present,
            soft,
            status: decision.status,
            broken: decision.broken,
            conflict: decision.conflict,
            waiting: decision.waiting,
            tiers: decision.tiers,
            error: None,
        };
        let same = plan.targets.len() == self.plan.targets.len()
            && plan
                .targets
                .iter()
                .zip(&self.plan.targets)
                .all(|((a, new), (b, old))| {
                    a == b && new.stages == old.stages && new.class == old.class
                });
        if same && self.head.inputs == head.inputs {
            return;
        }
        self.store(head, plan, effects);
    }

    /// The soft policies of each tier.
    fn soft(&self) -> BTreeMap<u32, Vec<String>> {
        let mut soft: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let policies = self.policies.iter().flat_map(|set| &set.policies);
        for declared in policies
            .filter_map(|policy| constraints(&policy.sql).ok())
            .flatten()
        {
            if let Force::Soft { tier, .. } = declared.force {
                soft.entry(tier).or_default().push(declared.name);
            }
        }
        soft
    }

    /// Writes a plan; it is in force when it is durable.
    pub(super) fn store(&mut self, head: Head, plan: Plan, effects: &mut Vec<Effect>) {
        let stored = Stored {
            head,
            targets: plan
                .targets
                .iter()
                .map(|(shard, target)| (shard.0, target.clone()))
                .collect(),
        };
        let id = self.next_write;
        self.next_write += 1;
        self.writing = Some((id, head, plan));
        effects.push(Effect::Write {
            id,
            rows: vec![(
                Bytes::from_static(records::HEAD.as_bytes()),
                records::stored(&stored),
            )],
        });
    }

    pub(super) fn written(&mut self, id: u64) {
        if let Some((_, head, plan)) = self.writing.take_if(|(written, _, _)| *written == id) {
            self.head = head;
            self.plan = plan;
            // Shards that were waiting for their turn may go at once.
            self.pauses.clear();
        }
    }

    /// The decision's moves as stages of shards.
    fn planned(&self, head: &Head, decision: &Decision) -> Plan {
        let mut plan = Plan::default();
        for (round, moves) in decision.rounds.iter().enumerate() {
            let shards: BTreeSet<ShardId> = moves.iter().map(Move::shard).collect();
            for shard in shards {
                let full = plan.targets.len() >= self.settings.plan_shards_max;
                if full && !plan.targets.contains_key(&shard) {
                    continue;
                }
                let mine = moves.iter().filter(|m| m.shard() == shard);
                self.stage(head, decision, &mut plan, (round, shard), mine);
            }
            if plan.targets.len() >= self.settings.plan_shards_max {
                // Later rounds build on all of the earlier ones.
                break;
            }
        }
        self.tidy(head, &mut plan);
        plan
    }

    /// A move that was broken off between its steps has left a voter more than there are seats. It goes to the end of
    /// the move, and back only if that was planned for other policies or to a node that is gone.
    fn tidy(&self, head: &Head, plan: &mut Plan) {
        for (&id, shard) in &self.cluster.shards {
            let surplus = shard.order.len() > self.cluster.replicas as usize;
            let Some(rows) = self.shown.shard(id).filter(|_| surplus) else {
                continue;
            };
            let is_good = |seat: &Seat| {
                seat.node
                    .is_some_and(|node| self.cluster.status(node) == NodeStatus::Up)
            };
            let replaced = self.plan.targets.get(&id);
            let onward = replaced
                .filter(|target| target.inputs.policies == head.inputs.policies)
                .and_then(|target| target.next())
                .filter(|stage| stage.seats.iter().all(is_good));
            let seats = onward.map_or(&rows.seats, |stage| &stage.seats);
            let stage = || Stage {
                round: 0,
                seats: seats.clone(),
                leader: None,
            };
            plan.targets.entry(id).or_insert_with(|| Target {
                plan: head.plan,
                class: Class::Repair,
                why: "a move was broken off".to_owned(),
                inputs: head.inputs,
                from: shard.order.clone(),
                led_by: rows.leader,
                stages: vec![stage()],
                at: At::Reached(0),
            });
        }
    }

    fn stage<'a>(
        &self,
        head: &Head,
        decision: &Decision,
        plan: &mut Plan,
        (round, id): (usize, ShardId),
        moves: impl Iterator<Item = &'a Move>,
    ) {
        let (Some(shard), Some(rows)) = (self.cluster.shards.get(&id), self.shown.shard(id)) else {
            return;
        };
        let last = plan.targets.get(&id).and_then(Target::end);
        let mut seats = match last {
            Some(stage) => stage.seats.clone(),
            None => self.present(shard, rows),
        };
        let mut leader = match last {
            Some(stage) => stage.leader,
            None => rows.leader,
        };
        for change in moves {
            match *change {
                Move::Seat { slot, to, .. } => {
                    if let Some(seat) = seats.get_mut(slot as usize) {
                        seat.node = Some(to);
                    }
                }
                Move::Leader { to, .. } => leader = Some(to),
            }
        }
        let stage = staged(round, seats, &rows.seats, leader);
        let nodes: Vec<NodeId> = stage.seats.iter().filter_map(|seat| seat.node).collect();
        let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
        if distinct.len() < nodes.len() {
            // Whatever the policies say, a node holds one replica of a shard.
            return;
        }
        // First voters come together: two of them would stop when either does. And who is between two steps of a move,
        // with a voter more than there are seats, goes to the end of it and not back.
        let growing = rows.seats.iter().any(|seat| seat.node.is_none());
        let between = shard.order.len() > self.cluster.replicas as usize;
        match plan.targets.get_mut(&id) {
            Some(target) if growing || between => target.stages = vec![stage],
            Some(target) => target.stages.push(stage),
            None => {
                let class = decision.classes.get(&id).copied().unwrap_or(Class::Balance);
                let target = Target {
                    plan: head.plan,
                    class,
                    why: self.why(id, class),
                    inputs: head.inputs,
                    from: shard.order.clone(),
                    led_by: rows.leader,
                    stages: vec![stage],
                    at: At::Reached(0),
                };
                plan.targets.insert(id, target);
            }
        }
    }

    /// The seats as they are. Voters that have no row, because nodes are few, stay as they are.
    fn present(&self, shard: &Shard, rows: &ShardRows) -> Vec<Seat> {
        let sits = |node: &NodeId| rows.seats.iter().any(|seat| seat.node == Some(*node));
        let surplus = shard.order.len() > self.cluster.replicas as usize;
        let others = shard.order.iter().filter(|node| !surplus && !sits(node));
        let kept = others.map(|node| Seat {
            node: Some(*node),
            votes: true,
        });
        rows.seats.iter().copied().chain(kept).collect()
    }

    /// Why a shard changes, in words.
    fn why(&self, id: ShardId, class: Class) -> String {
        let Some(rows) = self.shown.shard(id) else {
            return class.text().to_owned();
        };
        let sitting = || rows.seats.iter().filter_map(|seat| seat.node);
        let lost: BTreeMap<NodeId, ()> = sitting()
            .filter(|node| self.lost.contains_key(node))
            .map(|node| (node, ()))
            .collect();
        let short = |node: NodeId| node.to_string()[..8].to_owned();
        let names = |nodes: &mut dyn Iterator<Item = NodeId>| {
            nodes.map(short).collect::<Vec<_>>().join(", ")
        };
        match class {
            Class::Critical => format!(
                "node {} is lost, and one more failure would cost the majority",
                names(&mut lost.into_keys())
            ),
            Class::Repair if !lost.is_empty() => {
                format!("node {} is lost", names(&mut lost.into_keys()))
            }
            Class::Repair if rows.seats.iter().any(|seat| seat.node.is_none()) => {
                format!("it shall have {} replicas", rows.seats.len())
            }
            Class::Repair => "a hard policy is broken".to_owned(),
            Class::Request => {
                let is_draining =
                    |node: &NodeId| self.cluster.status(*node) == NodeStatus::Draining;
                let mut draining = sitting().filter(is_draining).peekable();
                match draining.peek().is_some() {
                    true => format!("node {} is to be emptied", names(&mut draining)),
                    false => "the policies changed".to_owned(),
                }
            }
            Class::Balance => "balance".to_owned(),
        }
    }
}

/// A stage with these seats, whose votes are those of the rows.
fn staged(round: usize, mut seats: Vec<Seat>, rows: &[Seat], leader: Option<NodeId>) -> Stage {
    // Until all of them are placed, a shard's further first voters get no vote: two voters stop when either does.
    let vacant = seats.iter().any(|seat| seat.node.is_none());
    for (seat, row) in seats.iter_mut().zip(rows) {
        seat.votes = row.votes && (!vacant || row.node.is_some());
    }
    // The planner moves leadership within a round in any order, and a plan that is cut short ends in its midst.
    let can_lead = |node: &NodeId| seats.iter().any(|s| s.votes && s.node == Some(*node));
    let leader = leader.filter(can_lead);
    Stage {
        round: u32::try_from(round).unwrap_or(u32::MAX),
        seats,
        leader,
    }
}

/// The present value of each tier, with the bound that the decision knows.
fn present(decision: &Decision) -> Vec<(u32, f64, Option<f64>)> {
    let bound = |tier: u32| {
        let found = decision.tiers.iter().find(|(of, _, _)| *of == tier);
        found.and_then(|(_, _, bound)| *bound)
    };
    let present = decision.present.iter();
    present
        .map(|&(tier, value)| (tier, value, bound(tier)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_a_seat_leads_a_stage() {
        let seat = |n: u128| Seat {
            node: Some(NodeId(n)),
            votes: true,
        };
        let seats = vec![seat(1), seat(2), seat(3)];
        let led = |leader| staged(0, seats.clone(), &seats, Some(NodeId(leader))).leader;
        assert_eq!(led(2), Some(NodeId(2)));
        assert_eq!(led(4), None);
    }

    #[test]
    fn a_stored_plan_is_read_back() {
        let node = |n: u128| NodeId(n << 96);
        let seat = |n| Seat {
            node: n,
            votes: true,
        };
        let stored = Stored {
            head: Head {
                plan: 7,
                term: 3,
                inputs: records::Inputs::default(),
            },
            targets: vec![(
                5,
                Target {
                    plan: 7,
                    class: Class::Request,
                    why: "a node is to be emptied".to_owned(),
                    inputs: records::Inputs::default(),
                    from: vec![node(1), node(2)],
                    led_by: Some(node(1)),
                    stages: vec![Stage {
                        round: 0,
                        seats: vec![seat(Some(node(3))), seat(None)],
                        leader: None,
                    }],
                    at: At::Unknown,
                },
            )],
        };
        let bytes = records::stored(&stored).expect("it can be stored");
        let read: Stored = serde_json::from_slice(&bytes).expect("it can be read");
        assert_eq!(read.head, stored.head);
        assert_eq!(read.targets, stored.targets);
        let moved = records::Moved {
            from: BTreeMap::from([(node(1), (12, records::Inputs::default()))]),
            leader_from: BTreeMap::new(),
        };
        let bytes = records::stored(&moved).expect("it can be stored");
        assert_eq!(records::read(&bytes), Some(moved));
    }
}
