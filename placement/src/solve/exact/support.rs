//! What a node depends on: nothing, one choice, or several; and its value where that is not several.
//!
//! A node over one choice is tabulated, whatever operators made it; what cannot change is a constant. Decisions that
//! are contracted into one choice ([`Ties`](super::super::ties::Ties)) count as one.

use std::collections::BTreeMap;

use super::super::candidates::{Candidates, value_at};
use super::touched::Touched;
use crate::graph::VarId;
use crate::graph::internal::{Graph, Op, State, Val, is_true};
use crate::graph::value::{self, NULL};

/// What a node depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Nothing,
    /// The choice that this decision stands for.
    One(VarId),
    Many,
}

pub(super) struct Supports<'a> {
    graph: &'a Graph,
    state: &'a State,
    candidates: &'a Candidates,
    touched: &'a Touched,
    known: BTreeMap<u32, Support>,
}

impl<'a> Supports<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        state: &'a State,
        candidates: &'a Candidates,
        touched: &'a Touched,
    ) -> Supports<'a> {
        Supports {
            graph,
            state,
            candidates,
            touched,
            known: BTreeMap::new(),
        }
    }

    /// The choice that a decision is part of.
    pub(super) fn head(&self, var: VarId) -> VarId {
        self.candidates.ties.head(var)
    }

    pub(super) fn of(&mut self, id: u32) -> Support {
        if let Some(&support) = self.known.get(&id) {
            return support;
        }
        let node = self.graph.nodes.get(id);
        let support = match node.op {
            Op::Const | Op::Free => Support::Nothing,
            Op::Lookup if self.touched.free.contains(&node.a) => {
                Support::One(self.head(VarId(node.a)))
            }
            Op::Lookup => Support::Nothing,
            Op::Agg => {
                if self.agg_is_fixed(id) {
                    Support::Nothing
                } else {
                    Support::Many
                }
            }
            Op::Neg
            | Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Rem
            | Op::Cmp(_)
            | Op::And
            | Op::Or
            | Op::Not
            | Op::IsNull
            | Op::Ite
            | Op::InSet => {
                let mut operands = Vec::new();
                self.graph
                    .nodes
                    .for_operands(id, |operand| operands.push(operand));
                operands
                    .into_iter()
                    .fold(Support::Nothing, |support, operand| {
                        match (support, self.of(operand)) {
                            (Support::Nothing, other) | (other, Support::Nothing) => other,
                            (Support::One(a), Support::One(b)) if a == b => Support::One(a),
                            (Support::One(_) | Support::Many, Support::One(_) | Support::Many) => {
                                Support::Many
                            }
                        }
                    })
            }
        };
        self.known.insert(id, support);
        support
    }

    fn agg_is_fixed(&self, id: u32) -> bool {
        if self.graph.nodes.get(id).live > 0 {
            return !self.touched.nodes.contains(&id);
        }
        let agg = self.graph.nodes.aggs[self.graph.nodes.get(id).a as usize];
        !self.touched.parts.contains(&(agg.bag.0, agg.part))
    }

    /// The value of an expression in which decisions stand that cannot change, and at most one choice that can.
    pub(super) fn value_with(&self, id: u32, choice: Option<(VarId, u32)>) -> Val {
        let node = self.graph.nodes.get(id);
        let of = |operand: u32| self.value_with(operand, choice);
        match node.op {
            Op::Agg => self.state.evaluate(self.graph, id),
            Op::Lookup => {
                let var = VarId(node.a);
                let chosen = choice.filter(|&(choice, _)| choice == self.head(var));
                let value = chosen.map_or(self.state.assignment[var.index()], |(_, value)| value);
                value_at(self.graph, id, value)
            }
            Op::Const | Op::Free => self.graph.nodes.constant(id).unwrap_or(NULL),
            Op::Neg => value::neg(of(node.a)),
            Op::Add => value::add(of(node.a), of(node.b)),
            Op::Sub => value::sub(of(node.a), of(node.b)),
            Op::Mul => value::mul(of(node.a), of(node.b)),
            Op::Div => value::div(of(node.a), of(node.b)),
            Op::Rem => value::rem(of(node.a), of(node.b)),
            Op::Cmp(op) => value::cmp(op, of(node.a), of(node.b)),
            Op::And => value::and(self.graph.nodes.operands(node.a).iter().map(|&o| of(o))),
            Op::Or => value::or(self.graph.nodes.operands(node.a).iter().map(|&o| of(o))),
            Op::Not => value::not(of(node.a)),
            Op::IsNull => value::is_null(of(node.a)),
            Op::Ite if is_true(of(node.a)) => of(node.b),
            Op::Ite => of(node.c),
            Op::InSet => {
                crate::graph::internal::in_set(&self.graph.sets[node.b as usize], of(node.a))
            }
        }
    }
}
