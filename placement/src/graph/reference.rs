//! Evaluation from scratch, by the definitions and nothing else.
//!
//! Slow on purpose: no caches, no layouts, no order of evaluation other than recursion. Tests hold the incremental
//! evaluation and the exact solver's encoding equal to this.

use std::collections::BTreeMap;

use super::bag::{Cell, Key};
use super::expr::{Fold, Template};
use super::ids::VarId;
use super::model::{Graph, Model, ModelError, UNSET};
use super::node::{NIL, Op};
use super::read::RowRef;
use super::root::RootKind;
use super::state::in_set;
use super::template::bucket_constant;
use super::value::{self, NULL, OVERFLOW, Val, widen};

/// A model at one assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Hard rows that are FALSE, in the order of their names.
    pub violations: Vec<RowRef>,
    /// Sum of each declared tier.
    pub tiers: Vec<(u32, i128)>,
}

/// Evaluates every policy. `assignment` has one entry per variable ever added; `None` is NULL.
pub fn evaluate(model: &Model, assignment: &[Option<u32>]) -> Result<Evaluation, ModelError> {
    let graph = &model.graph;
    let values = assignment
        .iter()
        .map(|value| value.unwrap_or(UNSET))
        .collect();
    let mut at = Scratch {
        graph,
        assignment: values,
        known: BTreeMap::new(),
    };
    let mut tiers: BTreeMap<u32, i128> = graph.roots.tiers.iter().map(|&tier| (tier, 0)).collect();
    let mut violations = Vec::new();
    let mut judge = |source: RowRef, kind: RootKind, value: Val| {
        if value == OVERFLOW {
            return Err(ModelError::Overflow);
        }
        match kind {
            RootKind::Hard if value == 0 => violations.push(source),
            RootKind::Hard => {}
            RootKind::Soft { tier, weight } => {
                if value != NULL {
                    let term = value.checked_mul(i128::from(weight));
                    let sum = tiers.entry(tier).or_insert(0);
                    *sum = term
                        .and_then(|term| sum.checked_add(term))
                        .ok_or(ModelError::Overflow)?;
                }
            }
        }
        Ok(())
    };
    for root in graph.roots.root.iter().filter(|root| root.alive) {
        let source = RowRef::Root {
            policy: root.policy,
            row: root.row,
        };
        let value = at.node(root.expr.0);
        judge(source, root.kind, value)?;
    }
    for lazy in graph.bags.lazies.iter().filter(|lazy| lazy.alive) {
        for (part, key) in at.buckets(lazy.bag.0) {
            let source = RowRef::Lazy {
                policy: lazy.policy,
                part,
                key,
            };
            let value = at.template(lazy.bag.0, part, key, &lazy.template);
            judge(source, lazy.kind, value)?;
        }
    }
    violations.sort_unstable();
    Ok(Evaluation {
        violations,
        tiers: tiers.into_iter().collect(),
    })
}

/// The assignment of the present values, in the form that [`evaluate`] takes.
pub fn current(model: &Model) -> Vec<Option<u32>> {
    (0..model.graph.vars.current.len())
        .map(|v| model.current(VarId(v as u32)))
        .collect()
}

struct Scratch<'a> {
    graph: &'a Graph,
    assignment: Vec<u32>,
    known: BTreeMap<u32, Val>,
}

impl Scratch<'_> {
    fn node(&mut self, id: u32) -> Val {
        if let Some(&value) = self.known.get(&id) {
            return value;
        }
        let graph = self.graph;
        let node = graph.nodes.get(id);
        let result = match node.op {
            Op::Const | Op::Free => graph.nodes.constant(id).unwrap_or(NULL),
            Op::Lookup => self.lookup(node.a, node.b),
            Op::Neg => value::neg(self.node(node.a)),
            Op::Add => value::add(self.node(node.a), self.node(node.b)),
            Op::Sub => value::sub(self.node(node.a), self.node(node.b)),
            Op::Mul => value::mul(self.node(node.a), self.node(node.b)),
            Op::Div => value::div(self.node(node.a), self.node(node.b)),
            Op::Rem => value::rem(self.node(node.a), self.node(node.b)),
            Op::Cmp(op) => value::cmp(op, self.node(node.a), self.node(node.b)),
            Op::And => value::and(graph.nodes.operands(node.a).iter().map(|&o| self.node(o))),
            Op::Or => value::or(graph.nodes.operands(node.a).iter().map(|&o| self.node(o))),
            Op::Not => value::not(self.node(node.a)),
            Op::IsNull => value::is_null(self.node(node.a)),
            Op::Ite => {
                let cond = self.node(node.a);
                if cond == OVERFLOW {
                    cond
                } else if value::is_true(cond) {
                    self.node(node.b)
                } else {
                    self.node(node.c)
                }
            }
            Op::InSet => in_set(&graph.sets[node.b as usize], self.node(node.a)),
            Op::Agg => {
                let agg = graph.nodes.aggs[node.a as usize];
                self.fold(agg.bag.0, agg.part, agg.key, agg.fold)
            }
        };
        self.known.insert(id, result);
        result
    }

    fn lookup(&self, var: u32, map: u32) -> Val {
        match self.assignment[var as usize] {
            UNSET => NULL,
            value => widen(self.graph.maps[map as usize].image[value as usize]),
        }
    }

    fn key(&mut self, row: u32) -> Option<u32> {
        let data = self.graph.bags.rows[row as usize];
        if data.cond != NIL && !value::is_true(self.node(data.cond)) {
            return None;
        }
        let key = match data.key {
            Key::Const(key) => Val::from(key),
            Key::Of(var, map) => self.lookup(var.0, map.0),
            Key::Expr(id) => self.node(id.0),
        };
        u32::try_from(key).ok()
    }

    fn buckets(&mut self, bag: u32) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        for (part, rows) in self.graph.bags.bag[bag as usize].parts.iter().enumerate() {
            for &row in rows {
                if let Some(key) = self.key(row) {
                    found.push((part as u32, key));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn fold(&mut self, bag: u32, part: u32, key: u32, fold: Fold) -> Val {
        let graph = self.graph;
        let rows = graph.bags.bag[bag as usize].parts.get(part as usize);
        let rows = rows.map_or(&[][..], |rows| rows.as_slice());
        let rows: Vec<u32> = rows
            .iter()
            .copied()
            .filter(|&row| self.key(row) == Some(key))
            .collect();
        let index = match fold {
            Fold::CountRows => return rows.len() as Val,
            Fold::Count(cell)
            | Fold::Sum(cell)
            | Fold::Min(cell)
            | Fold::Max(cell)
            | Fold::CountDistinct(cell) => cell as usize,
        };
        let mut values: Vec<Val> = rows
            .into_iter()
            .map(|row| match graph.bags.cells_of(row)[index] {
                Cell::Const(constant) => constant.map_or(NULL, i128::from),
                Cell::Lookup { var, map, times } => {
                    value::mul(self.lookup(var.0, map.0), i128::from(times))
                }
                Cell::Expr(id) => self.node(id.0),
            })
            .filter(|&value| value != NULL)
            .collect();
        match fold {
            Fold::CountRows | Fold::Count(_) => values.len() as Val,
            Fold::Sum(_) => values.into_iter().reduce(value::add).unwrap_or(NULL),
            Fold::Min(_) => values.into_iter().min().unwrap_or(NULL),
            Fold::Max(_) => values.into_iter().max().unwrap_or(NULL),
            Fold::CountDistinct(_) => {
                values.sort_unstable();
                values.dedup();
                values.len() as Val
            }
        }
    }

    fn template(&mut self, bag: u32, part: u32, key: u32, template: &Template) -> Val {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let mut of = |operand: &Template| self.template(bag, part, key, operand);
        match template {
            Template::Fold(fold) => self.fold(bag, part, key, *fold),
            Template::Part(index) => bucket_constant(data.part_constant(part, *index)),
            Template::Key(index) => bucket_constant(data.key_constant(key, *index)),
            Template::Const(constant) => constant.map_or(NULL, i128::from),
            Template::Neg(a) => value::neg(of(a)),
            Template::Add(a, b) => value::add(of(a), of(b)),
            Template::Sub(a, b) => value::sub(of(a), of(b)),
            Template::Mul(a, b) => value::mul(of(a), of(b)),
            Template::Div(a, b) => value::div(of(a), of(b)),
            Template::Rem(a, b) => value::rem(of(a), of(b)),
            Template::Cmp(op, a, b) => value::cmp(*op, of(a), of(b)),
            Template::And(operands) => value::and(operands.iter().map(of)),
            Template::Or(operands) => value::or(operands.iter().map(of)),
            Template::Not(a) => value::not(of(a)),
            Template::IsNull(a) => value::is_null(of(a)),
            Template::Ite(cond, then, otherwise) => {
                let cond = of(cond);
                if cond == OVERFLOW {
                    cond
                } else if value::is_true(cond) {
                    of(then)
                } else {
                    of(otherwise)
                }
            }
            Template::InSet(a, set) => in_set(&graph.sets[set.index()], of(a)),
        }
    }
}
