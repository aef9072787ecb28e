//! Hard rows as constraints: what must hold where a row's literal is true.
//!
//! Half-reified: the constraint itself meets the search, not a literal for its truth. A disjunction gets a literal for
//! each operand, which says that it is the one; so a leader among its replicas is a choice of slot.

use pumpkin_solver::core::variables::Literal;

use super::encode::{Encoder, Number, Truth};
use super::linear::TooWide;
use super::support::Support;
use crate::graph::CmpOp;
use crate::graph::internal::Op;

impl Encoder<'_> {
    /// Posts that a hard expression is not FALSE, where the literal is true.
    ///
    /// A comparison at the top is half-reified: the constraint itself, not a literal for its truth, meets the search.
    pub(super) fn require(&mut self, when: Literal, id: u32) -> Result<(), TooWide> {
        let node = self.graph.nodes.get(id);
        if node.op == Op::And {
            for operand in self.graph.nodes.operands(node.a).to_vec() {
                self.require(when, operand)?;
            }
            return Ok(());
        }
        let several = self.supports.of(id) == Support::Many;
        if let (true, Op::Cmp(op)) = (several, node.op) {
            let (a, b) = (self.number(node.a)?, self.number(node.b)?);
            return self.require_comparison(when, op, &a, &b);
        }
        if several && node.op == Op::Or {
            return self.require_one(when, node.a, Self::require);
        }
        if several && self.is_test(id) {
            return self.require_true(when, node.a);
        }
        let Truth { no, .. } = self.truth(id)?;
        self.gate.any(&[!when, !no]);
        Ok(())
    }

    /// Whether a node is `… IS TRUE`.
    fn is_test(&self, id: u32) -> bool {
        let node = self.graph.nodes.get(id);
        let constant = |id: u32| self.graph.nodes.constant(id);
        node.op == Op::Ite && constant(node.b) == Some(1) && constant(node.c) == Some(0)
    }

    /// Posts that an expression is TRUE, where the literal is true.
    fn require_true(&mut self, when: Literal, id: u32) -> Result<(), TooWide> {
        let node = self.graph.nodes.get(id);
        if node.op == Op::And {
            for operand in self.graph.nodes.operands(node.a).to_vec() {
                self.require_true(when, operand)?;
            }
            return Ok(());
        }
        let several = self.supports.of(id) == Support::Many;
        if let (true, Op::Cmp(op)) = (several, node.op) {
            let (a, b) = (self.number(node.a)?, self.number(node.b)?);
            self.gate.any(&[!when, !a.null]);
            self.gate.any(&[!when, !b.null]);
            return self.require_comparison(when, op, &a, &b);
        }
        if several && node.op == Op::Or {
            return self.require_one(when, node.a, Self::require_true);
        }
        if several && self.is_test(id) {
            return self.require_true(when, node.a);
        }
        let Truth { yes, .. } = self.truth(id)?;
        self.gate.any(&[!when, yes]);
        Ok(())
    }

    /// Posts that one operand of a disjunction is as `post` wants it: a literal for each says which one it is. A
    /// leader among its replicas is a choice of slot by this, and a constraint for each slot that is posted only
    /// where it is chosen.
    fn require_one(
        &mut self,
        when: Literal,
        list: u32,
        post: fn(&mut Self, Literal, u32) -> Result<(), TooWide>,
    ) -> Result<(), TooWide> {
        let mut some = vec![!when];
        for operand in self.graph.nodes.operands(list).to_vec() {
            let chosen = self.gate.literal();
            post(self, chosen, operand)?;
            some.push(chosen);
        }
        self.gate.any(&some);
        Ok(())
    }

    pub(super) fn require_comparison(
        &mut self,
        when: Literal,
        op: CmpOp,
        a: &Number,
        b: &Number,
    ) -> Result<(), TooWide> {
        let when = self.gate.all_of(&[when, !a.null, !b.null]);
        if when == self.gate.falsehood() {
            return Ok(());
        }
        let mut difference = a.linear.clone();
        difference.add(&b.linear, -1)?;
        match op {
            CmpOp::Eq => self.gate.equal_if(when, &difference, 0),
            CmpOp::Le => self.gate.at_most_if(when, &difference, 0),
            CmpOp::Lt => self.gate.at_most_if(when, &difference, -1),
            CmpOp::Ge => self.gate.at_most_if(when, &difference.scaled(-1)?, 0),
            CmpOp::Gt => self.gate.at_most_if(when, &difference.scaled(-1)?, -1),
            CmpOp::Ne => {
                let equal = self.gate.equal_literal(&difference, 0)?;
                self.gate.any(&[!when, !equal]);
                Ok(())
            }
        }
    }
}
