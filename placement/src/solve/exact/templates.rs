//! Policies over all buckets of a bag, on one of them.

use pumpkin_solver::core::variables::Literal;

use super::encode::{Code, Encoder, Number, Truth};
use super::linear::{Linear, TooWide};
use crate::graph::internal::bucket_constant;
use crate::graph::value::NULL;
use crate::graph::{Fold, Template};

impl Encoder<'_> {
    /// A template on one bucket.
    pub(super) fn template(
        &mut self,
        bag: u32,
        part: u32,
        key: u32,
        template: &Template,
    ) -> Result<Code, TooWide> {
        let of = |this: &mut Self, operand: &Template| -> Result<Number, TooWide> {
            let code = this.template(bag, part, key, operand)?;
            Ok(this.as_number(code))
        };
        match template {
            Template::Fold(fold) => self.fold(bag, part, key, *fold),
            Template::Part(index) => {
                let data = &self.graph.bags.bag[bag as usize];
                let constant = bucket_constant(data.part_constant(part, *index));
                self.constant(constant)
            }
            Template::Key(index) => {
                let data = &self.graph.bags.bag[bag as usize];
                let constant = bucket_constant(data.key_constant(key, *index));
                self.constant(constant)
            }
            Template::Const(constant) => self.constant(constant.map_or(NULL, i128::from)),
            Template::Neg(a) => {
                let a = of(self, a)?;
                self.negated(&a)
            }
            Template::Add(a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.sum(&a, &b, 1)
            }
            Template::Sub(a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.sum(&a, &b, -1)
            }
            Template::Mul(a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.product(&a, &b)
            }
            Template::Div(a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.quotient(&a, &b, false)
            }
            Template::Rem(a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.quotient(&a, &b, true)
            }
            Template::Cmp(op, a, b) => {
                let (a, b) = (of(self, a)?, of(self, b)?);
                self.comparison(*op, &a, &b)
            }
            Template::And(operands) | Template::Or(operands) => {
                let mut truths = Vec::new();
                for operand in operands {
                    let code = self.template(bag, part, key, operand)?;
                    truths.push(self.as_truth(code)?);
                }
                let conjunction = matches!(template, Template::And(_));
                Ok(Code::Truth(self.junction(&truths, conjunction)))
            }
            Template::Not(a) => {
                let code = self.template(bag, part, key, a)?;
                let Truth { yes, no } = self.as_truth(code)?;
                Ok(Code::Truth(Truth { yes: no, no: yes }))
            }
            Template::IsNull(a) => {
                let Number { null, .. } = of(self, a)?;
                Ok(Code::Truth(Truth {
                    yes: null,
                    no: !null,
                }))
            }
            Template::Ite(cond, then, otherwise) => {
                let code = self.template(bag, part, key, cond)?;
                let cond = self.as_truth(code)?.yes;
                let (then, otherwise) = (of(self, then)?, of(self, otherwise)?);
                self.choice(cond, &then, &otherwise)
            }
            Template::InSet(a, set) => {
                let a = of(self, a)?;
                let set = self.graph.sets[set.index()].clone();
                self.membership(&a, &set)
            }
        }
    }

    /// Posts a hard template on one bucket, where the literal is true and the bucket has rows.
    pub(super) fn require_template(
        &mut self,
        when: Literal,
        bag: u32,
        part: u32,
        key: u32,
        template: &Template,
    ) -> Result<(), TooWide> {
        let occupied = self.occupied(bag, part, key)?;
        let when = self.gate.both(when, occupied);
        if let Template::Cmp(op, a, b) = template {
            let a = self.template(bag, part, key, a)?;
            let b = self.template(bag, part, key, b)?;
            let (a, b) = (self.as_number(a), self.as_number(b));
            return self.require_comparison(when, *op, &a, &b);
        }
        let code = self.template(bag, part, key, template)?;
        let Truth { no, .. } = self.as_truth(code)?;
        self.gate.any(&[!when, !no]);
        Ok(())
    }

    /// True where a bucket has rows, or where that does not matter to a policy that empty buckets satisfy.
    fn occupied(&mut self, bag: u32, part: u32, key: u32) -> Result<Literal, TooWide> {
        let code = self.fold(bag, part, key, Fold::CountRows)?;
        let Number { linear, .. } = self.as_number(code);
        Ok(!self.gate.at_most_literal(&linear, 0)?)
    }

    /// What a soft template on one bucket adds to its tier; NULL and empty buckets add 0.
    pub(super) fn soft_template(
        &mut self,
        bag: u32,
        part: u32,
        key: u32,
        template: &Template,
    ) -> Result<Linear, TooWide> {
        let occupied = self.occupied(bag, part, key)?;
        let code = self.template(bag, part, key, template)?;
        let Number { linear, null } = self.as_number(code);
        let counts = self.gate.both(occupied, !null);
        self.gated(counts, &linear)
    }
}
