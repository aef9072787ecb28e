//! Roots: what must hold, and what is summed.
//!
//! The search does not count broken rows, it minimises by *how much* each misses: a count has no slope, so a node
//! that is 40 GB too full looks no better after 39 of them have left. Amounts of different policies are brought to
//! one scale, "about one typical move is worth 1024", or bytes would drown replica counts.

use super::bag::{Bag, LazyData, LazySpec};
use super::expr::{Expr, Fold};
use super::ids::{BagId, ExprId, LazyId, RootId};
use super::model::{Graph, Model, ModelError};
use super::node::{Dependent, Op};
use super::template::{check_template, template_folds, template_step};
use super::value::{self, Val};

/// Hard or soft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// Violated where the expression is FALSE. NULL passes, as in SQL.
    Hard,
    /// `weight` × the expression is added to the tier, which is minimised; NULL adds 0.
    Soft {
        /// Lower tiers come first.
        tier: u32,
        /// Negative maximises.
        weight: i64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RootData {
    pub policy: u32,
    pub row: u64,
    pub kind: RootKind,
    pub expr: ExprId,
    /// Scaled amount for one unit of a miss.
    pub scale: f64,
    pub alive: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    pub root: Vec<RootData>,
    free: Vec<u32>,
    /// Declared tiers in order; the state keeps one sum for each.
    pub tiers: Vec<u32>,
}

impl Roots {
    pub(crate) fn tier_index(&self, tier: u32) -> usize {
        match self.tiers.binary_search(&tier) {
            Ok(index) | Err(index) => index,
        }
    }
}

/// Which truth value is the violation: FALSE for a policy, TRUE beneath an odd number of NOTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Avoid {
    False,
    True,
}

impl Avoid {
    fn flipped(self) -> Avoid {
        match self {
            Avoid::False => Avoid::True,
            Avoid::True => Avoid::False,
        }
    }
}

/// By how much the expression misses; 0 exactly when its value is not the one to avoid.
///
/// `values` holds the values of active nodes; the boolean structure above them is read here.
pub(crate) fn hinge(graph: &Graph, values: &[Val], id: u32, avoid: Avoid) -> Val {
    let node = graph.nodes.get(id);
    match (node.op, avoid) {
        (Op::Cmp(op), _) => {
            let op = if avoid == Avoid::False {
                op
            } else {
                op.negated()
            };
            value::shortfall(op, values[node.a as usize], values[node.b as usize])
        }
        (Op::And, Avoid::False) | (Op::Or, Avoid::True) => graph
            .nodes
            .operands(node.a)
            .iter()
            .map(|&operand| hinge(graph, values, operand, avoid))
            .fold(0, Val::saturating_add),
        (Op::And, Avoid::True) | (Op::Or, Avoid::False) => graph
            .nodes
            .operands(node.a)
            .iter()
            .map(|&operand| hinge(graph, values, operand, avoid))
            .min()
            .unwrap_or(1),
        (Op::Not, _) => hinge(graph, values, node.a, avoid.flipped()),
        (Op::Ite, _) => {
            let branch = if value::is_true(values[node.a as usize]) {
                node.b
            } else {
                node.c
            };
            hinge(graph, values, branch, avoid)
        }
        (
            Op::Const
            | Op::Lookup
            | Op::Neg
            | Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Rem
            | Op::IsNull
            | Op::InSet
            | Op::Agg
            | Op::Free,
            _,
        ) => opaque(values[id as usize], avoid),
    }
}

/// The hinge of a truth value that has no slope.
pub(crate) fn opaque(value: Val, avoid: Avoid) -> Val {
    if value == value::OVERFLOW {
        return Val::MAX >> 8;
    }
    let missed = match avoid {
        Avoid::False => value == 0,
        Avoid::True => value::is_true(value),
    };
    Val::from(missed)
}

/// The nodes whose values a hard root reads.
pub(crate) fn hinge_leaves(graph: &Graph, id: u32, leaves: &mut Vec<u32>) {
    let node = graph.nodes.get(id);
    match node.op {
        Op::Cmp(_) => leaves.extend([node.a, node.b]),
        Op::And | Op::Or => {
            for &operand in graph.nodes.operands(node.a) {
                hinge_leaves(graph, operand, leaves);
            }
        }
        Op::Not => hinge_leaves(graph, node.a, leaves),
        Op::Ite => {
            leaves.push(node.a);
            hinge_leaves(graph, node.b, leaves);
            hinge_leaves(graph, node.c, leaves);
        }
        Op::Const
        | Op::Lookup
        | Op::Neg
        | Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Rem
        | Op::IsNull
        | Op::InSet
        | Op::Agg
        | Op::Free => leaves.push(id),
    }
}

/// Scaled amounts: at least 1 for any miss, 1024 for about one typical move, bounded so that sums do not wrap.
#[inline]
pub(crate) fn scaled(amount: Val, scale: f64) -> i64 {
    if amount == 0 {
        return 0;
    }
    let units = (amount as f64 * scale).min((1_u64 << 40) as f64);
    1 + units as i64
}

/// What one typical change of a decision changes an expression by.
fn typical_step(graph: &Graph, id: u32, depth: u32) -> f64 {
    let node = graph.nodes.get(id);
    if depth == 0 {
        return 0.0;
    }
    let of = |operand: u32| typical_step(graph, operand, depth - 1);
    match node.op {
        Op::Const | Op::Free => 0.0,
        Op::Lookup | Op::IsNull | Op::InSet => 1.0,
        Op::Neg | Op::Not => of(node.a),
        Op::Add | Op::Sub | Op::Rem | Op::Cmp(_) => of(node.a).max(of(node.b)),
        Op::Mul => match (graph.nodes.constant(node.a), graph.nodes.constant(node.b)) {
            (Some(k), _) => of(node.b) * k.unsigned_abs() as f64,
            (_, Some(k)) => of(node.a) * k.unsigned_abs() as f64,
            (None, None) => of(node.a) * of(node.b),
        },
        Op::Div => match graph.nodes.constant(node.b) {
            Some(k) if k != 0 => of(node.a) / k.unsigned_abs() as f64,
            Some(_) | None => of(node.a),
        },
        Op::And | Op::Or => graph
            .nodes
            .operands(node.a)
            .iter()
            .map(|&operand| of(operand))
            .fold(0.0, f64::max),
        Op::Ite => of(node.b).max(of(node.c)),
        Op::Agg => {
            let agg = graph.nodes.aggs[node.a as usize];
            fold_step(graph, &graph.bags.bag[agg.bag.index()], agg.fold)
        }
    }
}

pub(super) fn fold_step(graph: &Graph, bag: &Bag, fold: Fold) -> f64 {
    let cell = match fold {
        Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_) => return 1.0,
        Fold::Sum(cell) | Fold::Min(cell) | Fold::Max(cell) => cell,
    };
    // A sample is enough for a scale.
    let (mut sum, mut count) = (0.0, 0.0);
    for &row in bag.parts.iter().flatten().take(64) {
        let magnitude = match graph.bags.cells_of(row)[cell as usize] {
            super::bag::Cell::Const(constant) => constant.unwrap_or(0).unsigned_abs() as f64,
            super::bag::Cell::Lookup { times, .. } => times.unsigned_abs() as f64,
            super::bag::Cell::Expr(id) => typical_step(graph, id.0, 8),
        };
        sum += magnitude;
        count += 1.0;
    }
    if count == 0.0 { 1.0 } else { sum / count }
}

fn scale_of(step: f64) -> f64 {
    1024.0 / step.max(1.0)
}

impl Graph {
    /// Brings the amounts of all hard policies to one scale.
    pub(crate) fn rescale(&mut self) {
        for index in 0..self.roots.root.len() {
            self.rescale_root(index);
        }
    }

    fn rescale_root(&mut self, index: usize) {
        let root = self.roots.root[index];
        if root.alive && root.kind == RootKind::Hard {
            let step = typical_step(self, root.expr.0, 16);
            self.roots.root[index].scale = scale_of(step);
        }
    }

    pub(crate) fn lazy_scale(&self, lazy: &LazyData) -> f64 {
        scale_of(template_step(
            self,
            &self.bags.bag[lazy.bag.index()],
            &lazy.template,
        ))
    }
}

impl Model {
    /// Interns an expression over expressions that exist.
    ///
    /// The identifier stays valid while a row or a root uses it, and until the next [`refresh`](Model::refresh)
    /// where nothing does yet.
    pub fn expr(&mut self, expr: Expr) -> Result<ExprId, ModelError> {
        let mut agg_level = 0;
        if let Expr::Agg(agg) = &expr {
            let bag = self
                .graph
                .bags
                .bag
                .get_mut(agg.bag.index())
                .ok_or(ModelError::Unknown {
                    what: "bag",
                    index: u64::from(agg.bag.0),
                })?;
            let cell = match agg.fold {
                Fold::CountRows => 0,
                Fold::Count(cell)
                | Fold::Sum(cell)
                | Fold::Min(cell)
                | Fold::Max(cell)
                | Fold::CountDistinct(cell) => cell + 1,
            };
            if cell > bag.cells {
                return Err(ModelError::Unknown {
                    what: "cell",
                    index: u64::from(cell) - 1,
                });
            }
            agg_level = bag.level;
            let (part, key) = (agg.part as usize, agg.key);
            let mut refit = bag.need(agg.fold);
            if bag.parts.len() <= part {
                bag.parts.resize(part + 1, Vec::new());
                bag.part_folds.resize(part + 1, super::node::NIL);
            }
            if bag.keys <= key {
                bag.keys = key + 1;
                refit |= !bag.fits(agg.part, key + 1);
            }
            if refit {
                self.state.unseal();
            }
            self.state.make_room(&mut self.graph, agg.bag.0);
        }
        let before = self.graph.nodes.len();
        let id = self.graph.nodes.add(expr, agg_level)?;
        if self.graph.nodes.len() != before {
            self.state.add_node(&self.graph, id.0);
        } else {
            self.state.reuse_node(&self.graph, id.0);
        }
        Ok(id)
    }

    /// Makes a hard or soft policy row of an expression. `row` is the caller's name for it.
    pub fn add_root(&mut self, policy: u32, row: u64, kind: RootKind, expr: ExprId) -> RootId {
        let data = RootData {
            policy,
            row,
            kind,
            expr,
            scale: 1024.0,
            alive: true,
        };
        let roots = &mut self.graph.roots;
        let id = match roots.free.pop() {
            Some(id) => {
                roots.root[id as usize] = data;
                id
            }
            None => {
                roots.root.push(data);
                roots.root.len() as u32 - 1
            }
        };
        self.graph.nodes.acquire(expr.0);
        for leaf in self.root_leaves(id) {
            self.activate(leaf);
            self.graph.nodes.add_dependent(leaf, Dependent::Root(id));
        }
        match kind {
            RootKind::Hard => self.graph.rescale_root(id as usize),
            RootKind::Soft { tier, .. } => self.declare_tier(tier),
        }
        self.state.insert_root(&self.graph, id);
        self.graph.version += 1;
        RootId(id)
    }

    /// Removes a policy row.
    pub fn remove_root(&mut self, root: RootId) {
        let id = root.0;
        let data = self.graph.roots.root[root.index()];
        assert!(data.alive, "root {id} was removed before");
        self.state.withdraw_root(&self.graph, id);
        for leaf in self.root_leaves(id) {
            self.graph.nodes.remove_dependent(leaf, Dependent::Root(id));
            self.deactivate(leaf);
        }
        self.graph.nodes.release(data.expr.0);
        self.graph.roots.root[root.index()].alive = false;
        self.graph.roots.free.push(id);
        self.graph.version += 1;
    }

    /// Evaluates a template on every bucket of a bag that has rows.
    pub fn add_lazy(&mut self, bag: BagId, spec: LazySpec) -> Result<LazyId, ModelError> {
        check_template(&spec.template)?;
        let entry = &mut self.graph.bags.bag[bag.index()];
        template_folds(&spec.template, &mut |fold| {
            entry.need(fold);
        });
        let id = LazyId(self.graph.bags.lazies.len() as u32);
        entry.lazies.push(id);
        if let RootKind::Soft { tier, .. } = spec.kind {
            self.declare_tier(tier);
        }
        self.graph.bags.lazies.push(LazyData {
            bag,
            policy: spec.policy,
            kind: spec.kind,
            template: spec.template,
            alive: true,
        });
        self.state.unseal();
        self.graph.version += 1;
        Ok(id)
    }

    /// Removes a policy over buckets.
    pub fn remove_lazy(&mut self, lazy: LazyId) {
        let entry = &mut self.graph.bags.lazies[lazy.index()];
        entry.alive = false;
        let bag = entry.bag;
        self.graph.bags.bag[bag.index()]
            .lazies
            .retain(|&other| other != lazy);
        self.state.unseal();
        self.graph.version += 1;
    }

    fn declare_tier(&mut self, tier: u32) {
        if let Err(index) = self.graph.roots.tiers.binary_search(&tier) {
            self.graph.roots.tiers.insert(index, tier);
            self.state.unseal();
        }
    }

    /// The nodes that tell a root of their changes, once each, without constants.
    fn root_leaves(&self, root: u32) -> Vec<u32> {
        let data = self.graph.roots.root[root as usize];
        let mut leaves = Vec::new();
        match data.kind {
            RootKind::Hard => hinge_leaves(&self.graph, data.expr.0, &mut leaves),
            RootKind::Soft { .. } => leaves.push(data.expr.0),
        }
        leaves.sort_unstable();
        leaves.dedup();
        leaves.retain(|&leaf| self.graph.nodes.get(leaf).op != Op::Const);
        leaves
    }

    /// Prepares a node for a dependent: its operands tell it of their changes from now on.
    pub(crate) fn activate(&mut self, id: u32) {
        let node = self.graph.nodes.get(id);
        if node.op == Op::Const || node.live > 0 {
            return;
        }
        let mut operands = Vec::new();
        self.graph
            .nodes
            .for_operands(id, |operand| operands.push(operand));
        for operand in operands {
            if self.graph.nodes.get(operand).op != Op::Const {
                self.activate(operand);
                self.graph.nodes.add_dependent(operand, Dependent::Node(id));
            }
        }
        if node.op == Op::Lookup {
            self.graph.nodes.add_lookup_edge(id);
        } else if node.op == Op::Agg {
            self.graph.add_fold_edge(id);
        }
        self.state.activate(&self.graph, id);
    }

    /// Called after a dependent went away: drops the edges from the operands with the last one.
    pub(crate) fn deactivate(&mut self, id: u32) {
        let node = self.graph.nodes.get(id);
        if node.op == Op::Const || node.live > 0 {
            return;
        }
        if node.op == Op::Lookup {
            self.graph.nodes.remove_lookup_edge(id);
        } else if node.op == Op::Agg {
            self.graph.remove_fold_edge(id);
        }
        let mut operands = Vec::new();
        self.graph
            .nodes
            .for_operands(id, |operand| operands.push(operand));
        for operand in operands {
            if self.graph.nodes.get(operand).op != Op::Const {
                self.graph
                    .nodes
                    .remove_dependent(operand, Dependent::Node(id));
                self.deactivate(operand);
            }
        }
    }
}
