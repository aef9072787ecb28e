//! The first complete assignment: decisions without a permitted value get one, largest first.
//!
//! Largest first is most of what packing needs: small ones fill the gaps. Each goes to the best of a sample of its
//! candidates; the sample grows to all of them only while every sampled one breaks something.

use super::aim::Targets;
use super::candidates::Candidates;
use super::search::Search;
use super::ties::commonest;
use crate::graph::internal::{Dependent, Graph, Totals};
use crate::graph::{Cell, VarId};

/// Candidates tried for each decision before the others are asked too.
const SAMPLE: usize = 8;
/// The same where a maximum says which candidates have room.
const SAMPLE_COLD: usize = 4;

/// Expressions looked through for a broken row over a decision; more are not about that decision alone.
const OWN_NODES_MAX: usize = 64;

/// Order of placement: how much of everything a decision carries, relative to its like.
pub(crate) fn demands(graph: &Graph, vars: &[VarId]) -> Vec<f64> {
    let mut means: Vec<Vec<f64>> = Vec::new();
    for bag in &graph.bags.bag {
        let mut mean = vec![0.0; usize::from(bag.cells)];
        let mut rows = 0.0_f64;
        for &row in bag.parts.iter().flatten().take(1024) {
            for (mean, cell) in mean.iter_mut().zip(graph.bags.cells_of(row)) {
                *mean += magnitude(*cell);
            }
            rows += 1.0;
        }
        means.push(mean.into_iter().map(|sum| sum / rows.max(1.0)).collect());
    }
    let demand = |var: &VarId| {
        let mut demand = 0.0;
        for row in graph.bags.rows_of(*var) {
            let bag = graph.bags.rows[row as usize].bag as usize;
            for (cell, mean) in graph.bags.cells_of(row).iter().zip(&means[bag]) {
                if *mean > 0.0 {
                    demand += magnitude(*cell) / mean;
                }
            }
        }
        demand
    };
    vars.iter().map(demand).collect()
}

fn magnitude(cell: Cell) -> f64 {
    match cell {
        Cell::Const(constant) => constant.unwrap_or(0).unsigned_abs() as f64,
        Cell::Lookup { times, .. } => times.unsigned_abs() as f64,
        Cell::Expr(_) => 0.0,
    }
}

/// The decisions that must be made: unplaced, or at a value that they may not have. Largest first.
pub(crate) fn undecided(graph: &Graph, candidates: &Candidates, assignment: &[u32]) -> Vec<VarId> {
    let is_open = |var: VarId| {
        let value = assignment[var.index()];
        let apart = |member: &VarId| assignment[member.index()] != value;
        !candidates.permits(var, value) || candidates.ties.members(var).iter().any(apart)
    };
    let open: Vec<VarId> = candidates
        .choices
        .iter()
        .copied()
        .filter(|&var| is_open(var) && !candidates.of(var).is_empty())
        .collect();
    let demand = demands(graph, &open);
    // Who chooses among slots waits until they are placed.
    let chooses = |index: usize| !candidates.ties.slots(open[index]).is_empty();
    let mut order: Vec<usize> = (0..open.len()).collect();
    order.sort_by(|&a, &b| {
        let slots_last = chooses(a).cmp(&chooses(b));
        slots_last
            .then(demand[b].total_cmp(&demand[a]))
            .then(a.cmp(&b))
    });
    order.into_iter().map(|index| open[index]).collect()
}

/// How a construction chooses among the candidates of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The best of a sample; all of them where the sample breaks something.
    Sampled,
    /// The best of all, the first of equals: the greedy baseline.
    Full,
}

impl Search<'_> {
    /// Decides what is undecided.
    pub(crate) fn construct(&mut self, choice: Choice, cold: Option<&Targets>) {
        for var in undecided(self.graph, self.candidates, &self.state.assignment) {
            if self.exhausted() {
                // Without a budget any value is better than none.
                let value = self.candidates.of(var)[0];
                self.force(&[(var, value)]);
            } else {
                self.place(var, choice, cold);
            }
        }
    }

    fn place(&mut self, var: VarId, choice: Choice, cold: Option<&Targets>) {
        let values: &[u32] = &self.values_to_try(var);
        let mut best: Option<Totals> = None;
        let mut chosen = values[0];
        if choice == Choice::Full || values.len() <= SAMPLE {
            for &value in values {
                if self.measure(&[(var, value)], &mut best) {
                    chosen = value;
                }
            }
            self.force(&[(var, chosen)]);
            return;
        }
        // A leader whose replica has gone breaks a row already: no worse is not good enough then, and what its block
        // stands on is the first thing to try.
        let own = self.breaks_own(var);
        let goal = self.base.hinge - i64::from(own);
        if own {
            for value in self.block_values(var) {
                if self.measure(&[(var, value)], &mut best) {
                    chosen = value;
                }
            }
        }
        // A group whose members are not together yet meets where most of them are.
        let here = self.candidates.ties.members(var).iter();
        let here = commonest(here.map(|&member| self.value(member)), values);
        if let Some(value) = here
            && self.measure(&[(var, value)], &mut best)
        {
            chosen = value;
        }
        let sample = if cold.is_some() { SAMPLE_COLD } else { SAMPLE };
        for _ in 0..sample {
            let value = match cold {
                Some(targets) => self.target_value(var, targets).unwrap_or(values[0]),
                None => values[self.rng.below(values.len())],
            };
            if self.measure(&[(var, value)], &mut best) {
                chosen = value;
            }
        }
        let breaks = best.as_ref().is_none_or(|best| best.hinge > goal);
        if breaks {
            // From a random start, so that many decisions do not pile up on the first value that fits.
            let start = self.rng.below(values.len());
            for index in 0..values.len() {
                let value = values[(start + index) % values.len()];
                if self.measure(&[(var, value)], &mut best) {
                    chosen = value;
                    if best.as_ref().is_some_and(|best| best.hinge <= goal) {
                        break;
                    }
                }
            }
        }
        self.force(&[(var, chosen)]);
    }

    /// Whether a hard row over a few decisions, this one among them, is broken now.
    fn breaks_own(&self, var: VarId) -> bool {
        let mut seen: Vec<u32> = self.graph.nodes.lookups(var).collect();
        let mut next = 0;
        while let Some(&id) = seen.get(next) {
            next += 1;
            for dependent in self.graph.nodes.dependents(id) {
                match dependent {
                    Dependent::Root(root) if self.state.hinge[root as usize] > 0 => return true,
                    Dependent::Node(parent) if !seen.contains(&parent) => seen.push(parent),
                    Dependent::Root(_) | Dependent::Node(_) | Dependent::Row(_) => {}
                }
            }
            if seen.len() > OWN_NODES_MAX {
                return false;
            }
        }
        false
    }

    /// The values of the other decisions of a block that this one may have too.
    pub(super) fn block_values(&self, var: VarId) -> Vec<u32> {
        let block = self.graph.vars.block[var.index()] as usize;
        let domain = self.graph.vars.domain[var.index()];
        let others = self.graph.blocks[block].iter().copied();
        others
            .filter(|&other| other != var && self.graph.vars.domain[other.index()] == domain)
            .map(|other| self.value(other))
            .filter(|&value| self.candidates.permits(var, value))
            .take(SAMPLE)
            .collect()
    }
}
