//! One run of the search: construct, repair, improve tier by tier, revert; in stages, until a stage finds nothing.

use std::cmp::Ordering;

use super::Rng;
use super::aim::Targets;
use super::bound::lower_bounds;
use super::construct::Choice;
use super::search::{Goal, Search, compare_declared};
use crate::graph::internal::{Fold, Graph, Op, RootKind};

impl Search<'_> {
    /// Runs to the end of the budget, or until a whole stage finds nothing better.
    pub(crate) fn run(&mut self, seed: u64) {
        let tiers = self.base.tiers.len();
        self.set_goal(0);
        self.construct(Choice::Sampled);
        let targets: Vec<Targets> = (0..tiers).map(|tier| self.targets(tier)).collect();
        let mut stage = 0;
        loop {
            let start = self.base.clone();
            self.begin_stage();
            self.rng = Rng::new(seed);
            self.set_goal(0);
            if self.base.hinge > 0 {
                self.repair();
            }
            if self.base.hinge == 0 {
                self.improve_tiers(&targets);
            }
            self.revert();
            stage += 1;
            let better = compare_declared(&self.base, &start) == Ordering::Less;
            if !better {
                self.abandon_stage();
            }
            if !better || self.exhausted() || stage >= STAGES_MAX {
                break;
            }
        }
    }

    fn improve_tiers(&mut self, targets: &[Targets]) {
        let bounds = lower_bounds(self.graph, self.state, self.candidates);
        for tier in 0..targets.len() {
            let bound = Some(bounds[tier]);
            if bound == Some(self.base.tiers[tier]) {
                continue;
            }
            self.set_goal(tier);
            self.improve(&targets[tier], bound);
            if self.aborted {
                break;
            }
        }
        self.goal = Goal {
            tier: targets.len().saturating_sub(1),
            guided: false,
        };
    }

    fn set_goal(&mut self, tier: usize) {
        self.goal = Goal {
            tier,
            guided: is_guided(self.graph, tier),
        };
        self.remember();
    }
}

/// A run that still improves after this many stages has a budget problem, not a fixpoint problem.
const STAGES_MAX: u32 = 16;

/// Whether a tier has a maximum or a minimum over expressions in it.
fn is_guided(graph: &Graph, tier: usize) -> bool {
    graph.roots.root.iter().any(|root| {
        let RootKind::Soft { tier: declared, .. } = root.kind else {
            return false;
        };
        root.alive && graph.roots.tier_index(declared) == tier && has_extremum(graph, root.expr.0)
    })
}

fn has_extremum(graph: &Graph, id: u32) -> bool {
    let node = graph.nodes.get(id);
    if node.op == Op::Agg {
        let agg = graph.nodes.aggs[node.a as usize];
        return matches!(agg.fold, Fold::Max(_) | Fold::Min(_))
            && graph.bags.bag[agg.bag.index()].tournaments;
    }
    let mut found = false;
    graph
        .nodes
        .for_operands(id, |operand| found = found || has_extremum(graph, operand));
    found
}
