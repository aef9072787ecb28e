//! Proved lower bounds, without which "feasible" says nothing about how good.
//!
//! Three kinds, the best of which counts for each tier: the sum of what every soft row must cost by itself
//! (intervals, and for rows over one decision the minimum over its candidates), and *cuts*: however the decisions fall,
//! some set of nodes must carry what cannot stand elsewhere, and its fullest node at least the average.

mod cut;
mod interval;
mod lazy;
mod prefix;
mod range;
mod shortfall;

pub(crate) use cut::{Cuts, Demands, block_limits};
use interval::{At, Intervals};

use super::candidates::{Candidates, value_at};
use crate::graph::Template;
use crate::graph::internal::{FxMap, Graph, Op, RootKind, State, soft_term};

/// Lower bounds.
pub(crate) struct Bounds {
    /// One for each tier; the least number where none is known.
    pub tiers: Vec<i128>,
    /// Whether they follow from the incumbent, so that a better one may give better bounds: cuts do, the rest does not.
    pub may_rise: bool,
}

impl Bounds {
    fn new(tiers: Vec<Option<i128>>, may_rise: bool) -> Bounds {
        let tiers = tiers.into_iter().map(|bound| bound.unwrap_or(i128::MIN));
        Bounds {
            tiers: tiers.collect(),
            may_rise,
        }
    }
}

/// A lower bound for each tier, at the state's incumbent assignment.
///
/// `roots` are the soft roots that the scope can change; all others stay what they are.
pub(crate) fn lower_bounds(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    roots: &[u32],
    demands: &mut Demands,
) -> Bounds {
    let mut may_rise = false;
    let mut bounds: Vec<Option<i128>> = state.totals.tiers.iter().copied().map(Some).collect();
    let mut intervals = Intervals::new(graph, state, candidates);
    let mut cuts = Cuts::new(graph, state, candidates, demands);
    // What rows over a single decision cost together, by decision: their minima may conflict.
    let mut unary: FxMap<(usize, u32), Vec<(u32, i64)>> = FxMap::default();
    let mut order: Vec<(usize, u32)> = Vec::new();
    for &root in roots {
        let root = &graph.roots.root[root as usize];
        let RootKind::Soft { tier, weight } = root.kind else {
            continue;
        };
        let tier = graph.roots.tier_index(tier);
        let id = root.expr.index() as u32;
        // What it costs now makes way for the least that it can cost.
        raise(
            &mut bounds[tier],
            -soft_term(weight, state.values[id as usize]),
        );
        if let Some(var) = only_variable(graph, id) {
            if candidates.is_free(crate::graph::VarId::at(var)) {
                let list = unary.entry((tier, var)).or_insert_with(|| {
                    order.push((tier, var));
                    Vec::new()
                });
                list.push((id, weight));
            } else {
                raise(
                    &mut bounds[tier],
                    soft_term(weight, state.values[id as usize]),
                );
            }
            continue;
        }
        let mut least = intervals.least_term(id, weight);
        if weight > 0
            && let Some(cut) = cuts.expression(id)
        {
            may_rise = true;
            let cut = cut * i128::from(weight);
            if least.is_none_or(|least| cut > least) {
                least = Some(cut);
            }
        }
        match least {
            Some(least) => raise(&mut bounds[tier], least),
            None => bounds[tier] = None,
        }
    }
    for (tier, var) in order {
        let roots = &unary[&(tier, var)];
        let least = least_of_one(graph, state, candidates, var, roots);
        raise(&mut bounds[tier], least);
    }
    for lazy in graph.bags.lazies.iter().filter(|lazy| lazy.alive) {
        if let RootKind::Soft { tier, weight } = lazy.kind {
            let bound = &mut bounds[graph.roots.tier_index(tier)];
            let change = intervals.least_change(lazy, weight);
            *bound = bound
                .zip(change)
                .and_then(|(bound, change)| bound.checked_add(change));
        }
    }
    Bounds::new(bounds, may_rise)
}

/// Which rows the decisions in scope cannot break, wherever they go.
pub(crate) struct Sure<'a>(Intervals<'a>);

impl<'a> Sure<'a> {
    pub(crate) fn new(graph: &'a Graph, state: &'a State, candidates: &'a Candidates) -> Sure<'a> {
        Sure(Intervals::new(graph, state, candidates))
    }

    /// Whether a template is never FALSE on a bucket.
    pub(crate) fn holds(&mut self, bag: u32, (part, key): (u32, u32), template: &Template) -> bool {
        if let Template::And(all) = template {
            return all.iter().all(|each| self.holds(bag, (part, key), each));
        }
        let range = self.0.template(bag, At::Bucket(part, key), template);
        range.is_nothing() || range.low == Some(1)
    }
}

fn raise(bound: &mut Option<i128>, by: i128) {
    *bound = bound.and_then(|bound| bound.checked_add(by));
}

/// The one variable that an expression looks up, if it folds nothing.
fn only_variable(graph: &Graph, id: u32) -> Option<u32> {
    let mut only = None;
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        let node = graph.nodes.get(id);
        let another = node.op == Op::Lookup && *only.get_or_insert(node.a) != node.a;
        if node.op == Op::Agg || another {
            return None;
        }
        graph.nodes.for_operands(id, |operand| stack.push(operand));
    }
    only
}

/// The least that rows over one decision cost together.
fn least_of_one(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    var: u32,
    roots: &[(u32, i64)],
) -> i128 {
    let cost = |value: u32| -> i128 {
        roots
            .iter()
            .map(|&(id, weight)| soft_term(weight, value_at(graph, id, value)))
            .sum()
    };
    let present = cost(state.assignment[var as usize]);
    // Truth values are 0 or 1, so the present value is often known to be the least without looking further.
    let truths = roots.iter().all(|&(id, _)| {
        matches!(
            graph.nodes.get(id).op,
            Op::Cmp(_) | Op::And | Op::Or | Op::Not | Op::IsNull | Op::InSet
        )
    });
    let floor: i128 = roots
        .iter()
        .map(|&(_, weight)| i128::from(weight.min(0)))
        .sum();
    if truths && present == floor {
        return present;
    }
    let var = crate::graph::VarId::at(var);
    candidates
        .of(var)
        .iter()
        .map(|&value| cost(value))
        .min()
        .unwrap_or(present)
}
