//! Min-cost max-flow, a baseline after Quincy and Firmament: decisions flow to values, unit by unit.
//!
//! ```text
//! block ──(at most so many)──► entry of a column (zone) ──► value (node) ──(the more, the dearer)──► sink
//! ```
//!
//! The members of a block that are alike are its supply. What keeps them apart (zone spread) is the capacity of an
//! arc, rows over single decisions are costs, and each further unit on a value costs one more, so that numbers come
//! out even. A flow does not see sizes, sums or maxima: that is why it is a baseline and no solver. Blocks are added
//! one by one, each along shortest paths of the residual network; node potentials keep reduced costs from becoming
//! negative, so that Dijkstra's algorithm finds them. On large networks that is given up for the last of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::bound::block_limits;
use super::candidates::{Candidates, value_at};
use crate::graph::internal::{Dependent, FxMap, Graph, Op, RootKind, State, UNSET, soft_term};
use crate::graph::{MapId, VarId};

/// Values of one entry that become arcs of a block: all of them in small domains, a spread of them in large ones.
const ARCS_MAX: usize = 12;
/// What one unit of a declared cost weighs against one unit more on a value.
const COST_SCALE: i64 = 1_000;
const COST_MAX: i64 = 1 << 40;
/// Arcs looked at, after which nothing that is placed makes way any more.
const WORK_MAX: u64 = 20_000_000;

/// Assigns every decision in scope that has candidates.
pub(super) fn assign(graph: &Graph, state: &mut State, candidates: &Candidates) {
    let groups = groups(graph, candidates);
    let mut network = Network::new(graph);
    let mut arcs_of: Vec<Vec<(u32, u32)>> = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        arcs_of.push(network.add(graph, candidates, index, group));
    }
    for (group, arcs) in groups.iter().zip(&arcs_of) {
        // Later blocks have moved earlier ones: what counts is where the flow goes in the end.
        let used = arcs
            .iter()
            .filter(|(arc, _)| network.arcs[*arc as usize].capacity == 0);
        let mut values: Vec<u32> = used.map(|&(_, value)| value).collect();
        for (var, value) in group.match_up(graph, candidates, &mut values) {
            state.assign(graph, var, value);
        }
    }
    state.propagate(graph);
}

/// Decisions of a block that are alike.
struct Group {
    members: Vec<VarId>,
    /// At most so many of them on the values that share an entry of a column.
    limit: Option<(MapId, i64)>,
}

/// The supply: blocks whose members are alike and kept apart by a policy, every other decision by itself.
fn groups(graph: &Graph, candidates: &Candidates) -> Vec<Group> {
    let mut blocks: BTreeMap<(u32, u32), Vec<VarId>> = BTreeMap::new();
    for &var in &candidates.vars {
        if !candidates.of(var).is_empty() {
            let name = (graph.vars.block[var.index()], candidates.set_id(var));
            blocks.entry(name).or_default().push(var);
        }
    }
    let mut groups = Vec::new();
    for members in blocks.into_values() {
        let limits = block_limits(graph, &members);
        // Of two columns the coarser keeps apart on the finer one as well.
        let coarsest = limits
            .into_iter()
            .min_by_key(|&(map, _)| graph.maps[map.index()].key_bound);
        match coarsest {
            Some(limit) => groups.push(Group {
                members,
                limit: Some(limit),
            }),
            None => groups.extend(members.into_iter().map(|var| Group {
                members: vec![var],
                limit: None,
            })),
        }
    }
    groups
}

impl Group {
    /// Who goes where: whoever stands on one of the values stays, the others follow in order.
    fn match_up(
        &self,
        graph: &Graph,
        candidates: &Candidates,
        values: &mut Vec<u32>,
    ) -> Vec<(VarId, u32)> {
        let mut out = Vec::with_capacity(self.members.len());
        let mut left = Vec::new();
        for &var in &self.members {
            let here = graph.vars.current[var.index()];
            match values.iter().position(|&value| value == here) {
                Some(at) => out.push((var, values.swap_remove(at))),
                None => left.push(var),
            }
        }
        for var in left {
            // Without a path for all of them, any value is better than none.
            let value = values.pop().unwrap_or(candidates.of(var)[0]);
            out.push((var, value));
        }
        out
    }
}

#[derive(Clone, Copy)]
struct Arc {
    to: u32,
    capacity: i64,
    cost: i64,
}

/// The residual network. Arc `2n + 1` is the reverse of arc `2n`.
///
/// Invariant: `cost + potential[from] - potential[to] >= 0` for every arc with capacity left.
struct Network {
    arcs: Vec<Arc>,
    out: Vec<Vec<u32>>,
    potential: Vec<i64>,
    /// The first node of each domain's values.
    base: Vec<u32>,
    /// Nodes below this are values.
    values: usize,
    /// Units on each value.
    load: Vec<i64>,
    distance: FxMap<u32, i64>,
    via: FxMap<u32, u32>,
    work: u64,
}

impl Network {
    fn new(graph: &Graph) -> Network {
        let mut base = Vec::with_capacity(graph.domains.len());
        let mut values = 0;
        for domain in &graph.domains {
            base.push(values as u32);
            values += domain.len as usize;
        }
        Network {
            arcs: Vec::new(),
            out: vec![Vec::new(); values],
            potential: vec![0; values],
            base,
            values,
            load: vec![0; values],
            distance: FxMap::default(),
            via: FxMap::default(),
            work: 0,
        }
    }

    fn node(&mut self) -> u32 {
        self.out.push(Vec::new());
        // Potentials start at 0 and only sink, so that arcs from a new node keep the invariant.
        self.potential.push(0);
        self.out.len() as u32 - 1
    }

    fn arc(&mut self, from: u32, to: u32, capacity: i64, cost: i64) -> u32 {
        let id = self.arcs.len() as u32;
        self.arcs.push(Arc { to, capacity, cost });
        self.arcs.push(Arc {
            to: from,
            capacity: 0,
            cost: -cost,
        });
        self.out[from as usize].push(id);
        self.out[to as usize].push(id + 1);
        id
    }

    /// Adds a group and sends its units; returns its arcs to values.
    fn add(
        &mut self,
        graph: &Graph,
        candidates: &Candidates,
        index: usize,
        group: &Group,
    ) -> Vec<(u32, u32)> {
        let first = group.members[0];
        let base = self.base[graph.vars.domain[first.index()].index()];
        let mut entries: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for &value in candidates.of(first).iter().filter(|&&value| value != UNSET) {
            let entry = group.limit.map_or(0, |(map, _)| graph.image(map, value));
            entries.entry(entry).or_default().push(value);
        }
        let source = self.node();
        let each = group.limit.map_or(1, |(_, most)| most);
        let costs: Vec<(VarId, Vec<(u32, i64)>)> = group
            .members
            .iter()
            .map(|&var| (var, unary_costs(graph, var)))
            .collect();
        let mut arcs = Vec::new();
        for (_, values) in entries {
            let entry = self.node();
            self.arc(source, entry, each, 0);
            // A stride through the values, different for each group, keeps the arcs few and well spread.
            let stride = values.len().div_ceil(ARCS_MAX).max(1);
            let current = |value: &u32| {
                let here = |&(var, _): &(VarId, _)| graph.vars.current[var.index()] == *value;
                costs.iter().any(here)
            };
            let chosen = values
                .iter()
                .enumerate()
                .filter(|(at, value)| at % stride == index % stride || current(value));
            for (_, &value) in chosen {
                let cost = costs.iter().map(|(_, costs)| cost_at(graph, costs, value));
                let cost = cost.min().unwrap_or(0);
                arcs.push((self.arc(entry, base + value, 1, cost), value));
            }
        }
        for _ in &group.members {
            if !self.augment(source) {
                break;
            }
        }
        arcs
    }

    /// Sends one unit along a cheapest path; false where there is none.
    fn augment(&mut self, source: u32) -> bool {
        self.distance.clear();
        self.via.clear();
        let mut settled: Vec<(u32, i64)> = Vec::new();
        let mut heap = BinaryHeap::new();
        let mut best: Option<(i64, u32)> = None;
        self.distance.insert(source, 0);
        heap.push(Reverse((0_i64, source)));
        while let Some(Reverse((so_far, node))) = heap.pop() {
            if best.is_some_and(|(best, _)| so_far >= best) {
                break;
            }
            if self
                .distance
                .get(&node)
                .is_some_and(|&known| known < so_far)
            {
                continue;
            }
            settled.push((node, so_far));
            if (node as usize) < self.values {
                let total = so_far + self.load[node as usize] + self.potential[node as usize];
                if best.is_none_or(|(best, _)| total < best) {
                    best = Some((total, node));
                }
                if self.work > WORK_MAX {
                    continue;
                }
            }
            self.work += self.out[node as usize].len() as u64;
            for at in 0..self.out[node as usize].len() {
                let id = self.out[node as usize][at];
                let arc = self.arcs[id as usize];
                if arc.capacity == 0 {
                    continue;
                }
                let reduced =
                    arc.cost + self.potential[node as usize] - self.potential[arc.to as usize];
                let total = so_far + reduced;
                if self
                    .distance
                    .get(&arc.to)
                    .is_none_or(|&known| total < known)
                {
                    self.distance.insert(arc.to, total);
                    self.via.insert(arc.to, id);
                    heap.push(Reverse((total, arc.to)));
                }
            }
        }
        let Some((length, end)) = best else {
            return false;
        };
        for (node, distance) in settled {
            self.potential[node as usize] += (distance - length).min(0);
        }
        self.load[end as usize] += 1;
        let mut at = end;
        while at != source {
            let Some(&id) = self.via.get(&at) else { break };
            self.arcs[id as usize].capacity -= 1;
            self.arcs[(id ^ 1) as usize].capacity += 1;
            at = self.arcs[(id ^ 1) as usize].to;
        }
        true
    }
}

/// Soft roots over this decision alone.
fn unary_costs(graph: &Graph, var: VarId) -> Vec<(u32, i64)> {
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

/// What they cost at a value, from 0 up.
fn cost_at(graph: &Graph, costs: &[(u32, i64)], value: u32) -> i64 {
    let cost = |&(id, weight): &(u32, i64)| {
        // A truth value is 0 or 1: at its worst it costs nothing, or its weight.
        soft_term(weight, value_at(graph, id, value)) - i128::from(weight.min(0))
    };
    let sum: i128 = costs.iter().map(cost).sum();
    i64::try_from(sum)
        .unwrap_or(COST_MAX)
        .min(COST_MAX / COST_SCALE)
        * COST_SCALE
}
