//! What a model says: values, violations, tier sums, and what a change would do to them.

use super::bag::Layout;
use super::bucket::Bucket;
use super::expr::Fold;
use super::hash::FxMap;
use super::ids::{ExprId, VarId};
use super::model::{Graph, Model, ModelError, UNSET};
use super::node::{Dependent, Op};
use super::root::{Avoid, hinge};
use super::state::{Broken, Saved, State, in_set};
use super::value::{self, NULL, OVERFLOW, Val};

/// A row of a policy: what a core, a violation and an explanation name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowRef {
    /// A root.
    Root {
        /// The caller's number of the policy.
        policy: u32,
        /// The caller's name of the row.
        row: u64,
    },
    /// A bucket under a lazy policy.
    Lazy {
        /// The caller's number of the policy.
        policy: u32,
        /// First half of the bucket.
        part: u32,
        /// Second half.
        key: u32,
    },
}

/// A hard row that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which.
    pub source: RowRef,
    /// By how much, in the units of its comparison.
    pub amount: i128,
}

/// What a change of values would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Hard rows that would fail, or fail by more.
    pub broken: Vec<Violation>,
    /// Hard rows that fail now and would hold, or fail by less. The amount is the present one.
    pub repaired: Vec<Violation>,
    /// Change of each declared tier, in their order; negative is better.
    pub tiers: Vec<(u32, i128)>,
}

impl Model {
    /// The value of an expression at the present values; `None` is NULL.
    pub fn value(&self, expr: ExprId) -> Result<Option<i128>, ModelError> {
        let mut known = FxMap::default();
        match read(self, &self.state, expr.0, &mut known) {
            NULL => Ok(None),
            OVERFLOW => Err(ModelError::Overflow),
            value => Ok(Some(value)),
        }
    }

    /// The hard rows that do not hold at the present values, in the order of their names.
    pub fn violations(&self) -> Vec<Violation> {
        violations(&self.graph, &self.state)
    }

    fn violations_of(&self, broken: Broken, found: &mut Vec<Violation>) {
        violations_of(&self.graph, &self.state, broken, found);
    }

    /// The sum of each declared tier at the present values.
    pub fn tiers(&self) -> Vec<(u32, i128)> {
        let tiers = self.graph.roots.tiers.iter().copied();
        tiers.zip(self.state.totals.tiers.iter().copied()).collect()
    }

    /// Whether a row's policy needs to hold at the end of a plan only.
    pub fn is_deferrable(&self, row: RowRef) -> bool {
        let (RowRef::Root { policy, .. } | RowRef::Lazy { policy, .. }) = row;
        self.graph.deferrable.binary_search(&policy).is_ok()
    }

    /// Names of the hard rows (and parts of lazy policies) whose value a change has to do with. Two changes whose
    /// names are disjoint cannot disturb each other.
    pub(crate) fn touches(&mut self, changes: &[(VarId, Option<u32>)]) -> Vec<u64> {
        let mark = self.state.mark();
        let start = self.state.trail.len();
        for &(var, value) in changes {
            self.state.assign(&self.graph, var, value.unwrap_or(UNSET));
        }
        self.state.propagate(&self.graph);
        let mut names = Vec::new();
        for &(saved, _) in &self.state.trail[start..] {
            if let Saved::Node(node) = saved {
                for dependent in self.graph.nodes.dependents(node) {
                    if let Dependent::Root(root) = dependent {
                        names.push(u64::from(root));
                    }
                }
            }
            if let Saved::Num { bag, index } = saved {
                let data = &self.graph.bags.bag[bag as usize];
                if !data.lazies.is_empty() {
                    let slot = index / self.state.bags[bag as usize].width;
                    names.push(1 << 62 | u64::from(bag) << 32 | u64::from(slot));
                }
            }
        }
        self.state.undo(mark);
        for &(var, _) in changes {
            for row in self.graph.bags.rows_of(var) {
                let data = &self.graph.bags.rows[row as usize];
                let bag = &self.graph.bags.bag[data.bag as usize];
                if bag.layout == Layout::Scan && !bag.lazies.is_empty() {
                    names.push(1 << 63 | u64::from(data.bag) << 32 | u64::from(data.part));
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What a change of values would do; the model stays as it is.
    pub fn probe(&mut self, changes: &[(VarId, Option<u32>)]) -> Result<Probe, ModelError> {
        self.refresh()?;
        let before = self.state.totals.tiers.clone();
        let mark = self.state.mark();
        let start = self.state.trail.len();
        for &(var, value) in changes {
            self.state.assign(&self.graph, var, value.unwrap_or(UNSET));
        }
        self.state.propagate(&self.graph);
        let mut touched: Vec<Broken> = self.state.trail[start..]
            .iter()
            .filter_map(|(saved, _)| match *saved {
                Saved::Hinge(root) => Some(Broken::Root(root)),
                Saved::LazyHinge(lazy, slot) => Some(Broken::Lazy(lazy, slot)),
                Saved::Var(_)
                | Saved::Node(_)
                | Saved::Num { .. }
                | Saved::Added { .. }
                | Saved::Dropped { .. }
                | Saved::Leaf { .. }
                | Saved::Tier(_)
                | Saved::Guide
                | Saved::Total => None,
            })
            .collect();
        touched.sort_unstable_by_key(|broken| match *broken {
            Broken::Root(root) => (0, root, 0),
            Broken::Lazy(lazy, slot) => (1, lazy, slot),
        });
        touched.dedup();
        let mut after = Vec::new();
        touched
            .iter()
            .for_each(|&broken| self.violations_of(broken, &mut after));
        let tiers = self
            .graph
            .roots
            .tiers
            .iter()
            .zip(self.state.totals.tiers.iter().zip(&before))
            .map(|(&tier, (after, before))| (tier, after - before))
            .collect();
        self.state.undo(mark);
        let mut present = Vec::new();
        touched
            .iter()
            .for_each(|&broken| self.violations_of(broken, &mut present));
        let amount_in = |list: &[Violation], source: RowRef| {
            list.iter()
                .find(|violation| violation.source == source)
                .map_or(0, |v| v.amount)
        };
        let mut broken: Vec<Violation> = after
            .iter()
            .filter(|violation| violation.amount > amount_in(&present, violation.source))
            .copied()
            .collect();
        let mut repaired: Vec<Violation> = present
            .iter()
            .filter(|violation| violation.amount > amount_in(&after, violation.source))
            .copied()
            .collect();
        broken.sort_unstable();
        repaired.sort_unstable();
        Ok(Probe {
            broken,
            repaired,
            tiers,
        })
    }
}

/// The hard rows that do not hold, in the order of their names.
pub(crate) fn violations(graph: &Graph, state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    for broken in state.broken.iter() {
        violations_of(graph, state, broken, &mut found);
    }
    found.sort_unstable();
    found
}

fn violations_of(graph: &Graph, state: &State, broken: Broken, found: &mut Vec<Violation>) {
    match broken {
        Broken::Root(root) => {
            let data = graph.roots.root[root as usize];
            let amount = hinge(graph, &state.values, data.expr.0, Avoid::False);
            if amount > 0 {
                let source = RowRef::Root {
                    policy: data.policy,
                    row: data.row,
                };
                found.push(Violation { source, amount });
            }
        }
        Broken::Lazy(lazy, slot) => {
            let spec = &graph.bags.lazies[lazy as usize];
            let bag = spec.bag.0;
            let buckets = match (graph.bags.bag[bag as usize].layout, slot) {
                (Layout::Scan, part) => state.occupied(graph, bag, Some(part), None),
                (Layout::Dense { .. } | Layout::Sparse, slot) => {
                    let (part, key) = state.slot_bucket(graph, bag, slot);
                    key.map(|key| (part, key)).into_iter().collect()
                }
            };
            for (part, key) in buckets {
                let rows = state.fold(graph, bag, part, key, Fold::CountRows);
                if rows == 0 {
                    continue;
                }
                let bucket = Bucket {
                    rows,
                    state,
                    graph,
                    bag,
                    part,
                    key,
                };
                let amount = bucket.hinge(&spec.template, Avoid::False);
                if amount > 0 {
                    let source = RowRef::Lazy {
                        policy: spec.policy,
                        part,
                        key,
                    };
                    found.push(Violation { source, amount });
                }
            }
        }
    }
}

/// The value of any node, active or not.
fn read(model: &Model, state: &State, id: u32, known: &mut FxMap<u32, Val>) -> Val {
    let graph = &model.graph;
    let node = graph.nodes.get(id);
    if node.live > 0 || matches!(node.op, Op::Const | Op::Lookup | Op::Agg | Op::Free) {
        return if node.live > 0 {
            state.values[id as usize]
        } else {
            state.evaluate(graph, id)
        };
    }
    if let Some(&value) = known.get(&id) {
        return value;
    }
    let mut of = |operand: u32| read(model, state, operand, known);
    let result = match node.op {
        Op::Const | Op::Lookup | Op::Agg | Op::Free => NULL,
        Op::Neg => value::neg(of(node.a)),
        Op::Add => value::add(of(node.a), of(node.b)),
        Op::Sub => value::sub(of(node.a), of(node.b)),
        Op::Mul => value::mul(of(node.a), of(node.b)),
        Op::Div => value::div(of(node.a), of(node.b)),
        Op::Rem => value::rem(of(node.a), of(node.b)),
        Op::Cmp(op) => value::cmp(op, of(node.a), of(node.b)),
        Op::And => value::and(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
        Op::Or => value::or(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
        Op::Not => value::not(of(node.a)),
        Op::IsNull => value::is_null(of(node.a)),
        Op::Ite => {
            let cond = of(node.a);
            if cond == OVERFLOW {
                cond
            } else if value::is_true(cond) {
                of(node.b)
            } else {
                of(node.c)
            }
        }
        Op::InSet => in_set(&graph.sets[node.b as usize], of(node.a)),
    };
    known.insert(id, result);
    result
}
