//! One bucket, as a policy over all buckets of its bag sees it.

use super::expr::{Fold, Template};
use super::model::Graph;
use super::root::{Avoid, opaque};
use super::state::{State, in_set};
use super::template::bucket_constant;
use super::value::{self, NULL, Val};

/// One bucket, as a template sees it.
pub(crate) struct Bucket<'a> {
    pub state: &'a State,
    pub graph: &'a Graph,
    pub bag: u32,
    pub part: u32,
    pub key: u32,
    /// Its rows; templates are evaluated only where there are any.
    pub rows: Val,
}

impl Bucket<'_> {
    /// The value of a template.
    pub(crate) fn value(&self, template: &Template) -> Val {
        let data = &self.graph.bags.bag[self.bag as usize];
        match template {
            Template::Fold(Fold::CountRows) => self.rows,
            Template::Fold(fold) => self
                .state
                .fold(self.graph, self.bag, self.part, self.key, *fold),
            Template::Part(index) => bucket_constant(data.part_constant(self.part, *index)),
            Template::Key(index) => bucket_constant(data.key_constant(self.key, *index)),
            Template::Const(constant) => constant.map_or(NULL, i128::from),
            Template::Neg(a) => value::neg(self.value(a)),
            Template::Add(a, b) => value::add(self.value(a), self.value(b)),
            Template::Sub(a, b) => value::sub(self.value(a), self.value(b)),
            Template::Mul(a, b) => value::mul(self.value(a), self.value(b)),
            Template::Div(a, b) => value::div(self.value(a), self.value(b)),
            Template::Rem(a, b) => value::rem(self.value(a), self.value(b)),
            Template::Cmp(op, a, b) => value::cmp(*op, self.value(a), self.value(b)),
            Template::And(operands) => value::and(operands.iter().map(|o| self.value(o))),
            Template::Or(operands) => value::or(operands.iter().map(|o| self.value(o))),
            Template::Not(a) => value::not(self.value(a)),
            Template::IsNull(a) => value::is_null(self.value(a)),
            Template::Ite(cond, then, otherwise) => {
                let cond = self.value(cond);
                if cond == value::OVERFLOW {
                    cond
                } else if value::is_true(cond) {
                    self.value(then)
                } else {
                    self.value(otherwise)
                }
            }
            Template::InSet(a, set) => in_set(&self.graph.sets[set.index()], self.value(a)),
        }
    }

    /// By how much a template misses, as [`hinge`](super::root::hinge) for expressions.
    pub(crate) fn hinge(&self, template: &Template, avoid: Avoid) -> Val {
        match (template, avoid) {
            (Template::Cmp(op, a, b), _) => {
                let op = if avoid == Avoid::False {
                    *op
                } else {
                    op.negated()
                };
                value::shortfall(op, self.value(a), self.value(b))
            }
            (Template::And(operands), Avoid::False) | (Template::Or(operands), Avoid::True) => {
                operands
                    .iter()
                    .map(|o| self.hinge(o, avoid))
                    .fold(0, Val::saturating_add)
            }
            (Template::And(operands), Avoid::True) | (Template::Or(operands), Avoid::False) => {
                operands
                    .iter()
                    .map(|o| self.hinge(o, avoid))
                    .min()
                    .unwrap_or(1)
            }
            (Template::Not(a), Avoid::False) => self.hinge(a, Avoid::True),
            (Template::Not(a), Avoid::True) => self.hinge(a, Avoid::False),
            (Template::Ite(cond, then, otherwise), _) => {
                let branch = if value::is_true(self.value(cond)) {
                    then
                } else {
                    otherwise
                };
                self.hinge(branch, avoid)
            }
            (
                Template::Fold(_)
                | Template::Part(_)
                | Template::Key(_)
                | Template::Const(_)
                | Template::Neg(_)
                | Template::Add(_, _)
                | Template::Sub(_, _)
                | Template::Mul(_, _)
                | Template::Div(_, _)
                | Template::Rem(_, _)
                | Template::IsNull(_)
                | Template::InSet(_, _),
                _,
            ) => opaque(self.value(template), avoid),
        }
    }
}
