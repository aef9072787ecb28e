//! Min-cost max-flow, a baseline after Quincy and Firmament: decisions to values, unit by unit.
//!
//! A flow sees each decision as one unit and each value as a number of places, with a cost for each pair. It does not
//! see sizes, groups or maxima: that is why it is a baseline. Places are what an even share would be, costs are what
//! the rows over single decisions say.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::candidates::{Candidates, value_at};
use crate::graph::VarId;
use crate::graph::internal::{Graph, Op, RootKind, State, UNSET, soft_term};

/// Candidates of a decision that become edges.
const EDGES_MAX: usize = 16;

/// Assigns every decision in scope that has candidates.
pub(super) fn assign(graph: &Graph, state: &mut State, candidates: &Candidates) {
    let mut network = Network::new(graph, candidates);
    network.run();
    for (index, &var) in candidates.vars.iter().enumerate() {
        let value = match network.place[index] {
            Some(edge) => network.edges[index][edge].0,
            // No room within the even share: the cheapest edge.
            None => match network.edges[index].first() {
                Some(&(value, _)) => value,
                None => continue,
            },
        };
        state.assign(graph, var, value);
    }
    state.propagate(graph);
}

struct Network {
    /// For each decision: values and costs, cheapest first.
    edges: Vec<Vec<(u32, i64)>>,
    /// For each (domain, value): the decisions there.
    at: Vec<Vec<Vec<u32>>>,
    domain: Vec<usize>,
    places: usize,
    place: Vec<Option<usize>>,
}

impl Network {
    fn new(graph: &Graph, candidates: &Candidates) -> Network {
        let mut network = Network {
            edges: Vec::new(),
            at: vec![Vec::new(); graph.domains.len()],
            domain: Vec::new(),
            places: 1,
            place: vec![None; candidates.vars.len()],
        };
        let mut widest = 1;
        for (index, &var) in candidates.vars.iter().enumerate() {
            let domain = graph.vars.domain[var.index()].index();
            network.at[domain].resize(graph.domains[domain].len as usize, Vec::new());
            let values: Vec<u32> = candidates
                .of(var)
                .iter()
                .copied()
                .filter(|&value| value != UNSET)
                .collect();
            widest = widest.max(values.len());
            let costs = unary_costs(graph, var);
            // A stride through the candidates, different for each decision, keeps the edges few and well spread.
            let stride = values.len().div_ceil(EDGES_MAX).max(1);
            let offset = index % stride;
            let mut edges: Vec<(u32, i64)> = values
                .iter()
                .skip(offset)
                .step_by(stride)
                .map(|&value| (value, cost_at(graph, &costs, value)))
                .collect();
            edges.sort_by_key(|&(value, cost)| (cost, value));
            network.edges.push(edges);
            network.domain.push(domain);
        }
        network.places = candidates.vars.len().div_ceil(widest) + 1;
        network
    }

    /// Successive shortest paths: each decision is one augmentation.
    fn run(&mut self) {
        for start in 0..self.edges.len() {
            self.augment(start);
        }
    }

    /// Finds the cheapest chain of displacements that ends at a free place.
    fn augment(&mut self, start: usize) {
        let mut cost = vec![i64::MAX; self.edges.len()];
        let mut via: Vec<Option<(usize, usize)>> = vec![None; self.edges.len()];
        let mut heap = BinaryHeap::new();
        cost[start] = 0;
        heap.push(Reverse((0_i64, start)));
        let mut visited = 0;
        while let Some(Reverse((so_far, index))) = heap.pop() {
            if so_far > cost[index] {
                continue;
            }
            visited += 1;
            let own = self.place[index].map_or(0, |edge| self.edges[index][edge].1);
            for (edge, &(value, price)) in self.edges[index].iter().enumerate() {
                if self.place[index] == Some(edge) {
                    continue;
                }
                let holders = &self.at[self.domain[index]][value as usize];
                if holders.len() < self.places {
                    self.shift(start, index, edge, &via);
                    return;
                }
                for &holder in holders {
                    let holder = holder as usize;
                    // Reduced costs stay non-negative because edges are sorted and taken cheapest first.
                    let total = so_far
                        .saturating_add((price - own).max(0))
                        .saturating_add(1);
                    if total < cost[holder] {
                        cost[holder] = total;
                        via[holder] = Some((index, edge));
                        heap.push(Reverse((total, holder)));
                    }
                }
            }
            if visited > 64 {
                return;
            }
        }
    }

    /// Moves the last of a chain to its free place, each before it to the place that it left.
    fn shift(&mut self, start: usize, last: usize, edge: usize, via: &[Option<(usize, usize)>]) {
        let (mut index, mut edge) = (last, edge);
        loop {
            if let Some(old) = self.place[index] {
                let value = self.edges[index][old].0 as usize;
                self.at[self.domain[index]][value].retain(|&other| other as usize != index);
            }
            self.place[index] = Some(edge);
            let value = self.edges[index][edge].0 as usize;
            self.at[self.domain[index]][value].push(index as u32);
            if index == start {
                return;
            }
            let Some((before, its_edge)) = via[index] else {
                return;
            };
            (index, edge) = (before, its_edge);
        }
    }
}

/// Soft roots over this decision alone.
fn unary_costs(graph: &Graph, var: VarId) -> Vec<(u32, i64)> {
    use crate::graph::internal::Dependent;
    let mut costs = Vec::new();
    for node in graph.nodes.lookups(var) {
        for dependent in graph.nodes.dependents(node) {
            let Dependent::Node(parent) = dependent else {
                continue;
            };
            if !matches!(graph.nodes.get(parent).op, Op::Cmp(_) | Op::InSet) {
                continue;
            }
            for dependent in graph.nodes.dependents(parent) {
                if let Dependent::Root(root) = dependent
                    && let RootKind::Soft { weight, .. } = graph.roots.root[root as usize].kind
                {
                    costs.push((parent, weight));
                }
            }
        }
    }
    costs
}

fn cost_at(graph: &Graph, costs: &[(u32, i64)], value: u32) -> i64 {
    let sum: i128 = costs
        .iter()
        .map(|&(id, weight)| soft_term(weight, value_at(graph, id, value)))
        .sum();
    i64::try_from(sum).unwrap_or(i64::MAX / 4)
}
