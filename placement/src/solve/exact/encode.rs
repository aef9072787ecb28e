//! The graph as constraints.
//!
//! A truth value is a pair of literals, TRUE and FALSE, of which at most one holds; NULL is neither. A number is a
//! linear sum and a literal for NULL. A node over a single decision is tabulated: its value is a choice among the
//! candidates, whatever operators made it. A hard row gets one assumption literal, so that a proof of infeasibility
//! names the rows that it used.

use std::collections::BTreeMap;

use pumpkin_solver::core::predicate;
use pumpkin_solver::core::variables::Literal;

use super::super::candidates::Candidates;
use super::linear::{Gate, Linear, TooWide, View};
use super::support::{Support, Supports};
use super::touched::Touched;
use crate::graph::internal::{Graph, Op, State, UNSET, Val, is_true};
use crate::graph::value::{NULL, OVERFLOW};
use crate::graph::{CmpOp, VarId};

/// A table with more distinct values than this becomes an integer variable instead of a sum of choices.
const CHOICES_MAX: usize = 12;

/// The value of a node.
#[derive(Clone, Debug)]
pub(super) enum Code {
    Truth(Truth),
    Number(Number),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Truth {
    pub yes: Literal,
    pub no: Literal,
}

#[derive(Clone, Debug)]
pub(super) struct Number {
    pub linear: Linear,
    pub null: Literal,
}

pub(super) struct Encoder<'a> {
    pub graph: &'a Graph,
    pub state: &'a State,
    pub candidates: &'a Candidates,
    pub touched: &'a Touched,
    pub gate: Gate,
    views: BTreeMap<u32, View>,
    codes: BTreeMap<u32, Code>,
    members: BTreeMap<(u32, Vec<u32>), Literal>,
    pub supports: Supports<'a>,
}

impl<'a> Encoder<'a> {
    /// An empty model.
    pub(super) fn new(
        graph: &'a Graph,
        state: &'a State,
        candidates: &'a Candidates,
        touched: &'a Touched,
        seed: u64,
    ) -> Encoder<'a> {
        Encoder {
            graph,
            state,
            candidates,
            touched,
            gate: Gate::new(seed),
            views: BTreeMap::new(),
            codes: BTreeMap::new(),
            members: BTreeMap::new(),
            supports: Supports::new(graph, state, candidates, touched),
        }
    }

    /// Makes the solver's variable of a choice, unless it is there: a core's model has only the core's decisions.
    pub(super) fn declare(&mut self, var: VarId) -> Result<View, TooWide> {
        let var = self.supports.head(var);
        if let Some(&view) = self.views.get(&var.0) {
            return Ok(view);
        }
        let numbers: Vec<i32> = self
            .candidates
            .of(var)
            .iter()
            .map(|&value| encoded(self.graph, var, value))
            .collect::<Result<_, _>>()?;
        let view = self.gate.integer(&numbers);
        self.views.insert(var.0, view);
        Ok(view)
    }

    /// The solver's variable of a decision that has a choice.
    pub(super) fn decision(&self, var: VarId) -> Option<View> {
        self.views.get(&self.supports.head(var).0).copied()
    }

    /// How many variables the solver decides.
    #[cfg(test)]
    pub(super) fn choices(&self) -> usize {
        self.views.len()
    }

    /// A literal that is true exactly when the decision has one of the values.
    pub(super) fn member(&mut self, var: VarId, values: Vec<u32>) -> Result<Literal, TooWide> {
        let var = self.supports.head(var);
        let all = self.candidates.of(var);
        if values.is_empty() {
            return Ok(self.gate.falsehood());
        }
        if values.len() == all.len() {
            return Ok(self.gate.truth());
        }
        if let Some(&literal) = self.members.get(&(var.0, values.clone())) {
            return Ok(literal);
        }
        let view = self.declare(var)?;
        let number = |value: u32| match value {
            UNSET => self.graph.domains[self.graph.vars.domain[var.index()].index()].len as i32,
            value => value as i32,
        };
        let literal = if let [only] = values[..] {
            let only = number(only);
            self.gate.literal_for(predicate![view == only])
        } else {
            let numbers: Vec<i32> = values.iter().map(|&value| number(value)).collect();
            let literal = self.gate.literal();
            let mut some = vec![(!literal).get_true_predicate()];
            for value in numbers {
                some.push(predicate![view == value]);
                self.gate.clause(vec![
                    predicate![view != value],
                    literal.get_true_predicate(),
                ]);
            }
            self.gate.clause(some);
            literal
        };
        self.members.insert((var.0, values), literal);
        Ok(literal)
    }

    /// The code of a node.
    pub(super) fn code(&mut self, id: u32) -> Result<Code, TooWide> {
        if let Some(code) = self.codes.get(&id) {
            return Ok(code.clone());
        }
        let code = match self.supports.of(id) {
            Support::Nothing => {
                let value = self.supports.value_with(id, None);
                self.constant(value)?
            }
            Support::One(var) => {
                let values = self.candidates.of(var);
                let table: Vec<(u32, Val)> = values
                    .iter()
                    .map(|&value| (value, self.supports.value_with(id, Some((var, value)))))
                    .collect();
                let truth = is_truth(self.graph.nodes.get(id).op);
                if truth {
                    Code::Truth(self.truth_table(var, &table)?)
                } else {
                    Code::Number(self.number_table(var, &table)?)
                }
            }
            Support::Many => self.operator(id)?,
        };
        self.codes.insert(id, code.clone());
        Ok(code)
    }

    pub(super) fn constant(&mut self, value: Val) -> Result<Code, TooWide> {
        if value == OVERFLOW {
            return Err(TooWide);
        }
        let null = if value == NULL {
            self.gate.truth()
        } else {
            self.gate.falsehood()
        };
        let linear = Linear::constant(if value == NULL { 0 } else { value });
        Ok(Code::Number(Number { linear, null }))
    }

    fn truth_table(&mut self, var: VarId, table: &[(u32, Val)]) -> Result<Truth, TooWide> {
        if table.iter().any(|&(_, value)| value == OVERFLOW) {
            return Err(TooWide);
        }
        let with = |want: fn(Val) -> bool| -> Vec<u32> {
            table
                .iter()
                .filter(|&&(_, value)| want(value))
                .map(|&(at, _)| at)
                .collect()
        };
        let (yes, no) = (with(is_true), with(|value| value == 0));
        Ok(Truth {
            yes: self.member(var, yes)?,
            no: self.member(var, no)?,
        })
    }

    /// A number that is a function of one decision.
    pub(super) fn number_table(
        &mut self,
        var: VarId,
        table: &[(u32, Val)],
    ) -> Result<Number, TooWide> {
        let mut by_value: BTreeMap<Val, Vec<u32>> = BTreeMap::new();
        let mut nulls = Vec::new();
        for &(at, value) in table {
            if value == OVERFLOW {
                return Err(TooWide);
            }
            if value == NULL {
                nulls.push(at);
            } else {
                by_value.entry(value).or_default().push(at);
            }
        }
        let null = self.member(var, nulls)?;
        let Some((&base, _)) = by_value.first_key_value() else {
            return Ok(Number {
                linear: Linear::constant(0),
                null,
            });
        };
        let identity = table
            .iter()
            .all(|&(at, value)| at != UNSET && value == Val::from(at));
        if identity {
            let low = table.iter().map(|&(_, value)| value).min().unwrap_or(0);
            let high = table.iter().map(|&(_, value)| value).max().unwrap_or(0);
            return Ok(Number {
                linear: Linear::of(self.declare(var)?, low, high),
                null,
            });
        }
        let mut linear = Linear::constant(base);
        if by_value.len() <= CHOICES_MAX {
            for (value, at) in by_value.into_iter().skip(1) {
                let literal = self.member(var, at)?;
                linear.add(&Linear::literal(literal), value - base)?;
            }
        } else {
            let numbers: Vec<i32> = by_value
                .keys()
                .map(|&value| i32::try_from(value).map_err(|_| TooWide))
                .collect::<Result<_, _>>()?;
            let low = i128::from(numbers[0]);
            let high = i128::from(numbers[numbers.len() - 1]);
            if low < -(1 << 30) || high > 1 << 30 {
                return Err(TooWide);
            }
            let own = self.gate.integer(&numbers);
            for (number, at) in numbers.into_iter().zip(by_value.into_values()) {
                let literal = self.member(var, at)?;
                let same = predicate![own == number];
                self.gate
                    .clause(vec![(!literal).get_true_predicate(), same]);
            }
            linear = Linear::of(own, low, high);
        }
        Ok(Number { linear, null })
    }

    pub(super) fn truth(&mut self, id: u32) -> Result<Truth, TooWide> {
        let code = self.code(id)?;
        self.as_truth(code)
    }

    pub(super) fn number(&mut self, id: u32) -> Result<Number, TooWide> {
        let code = self.code(id)?;
        Ok(self.as_number(code))
    }

    pub(super) fn as_truth(&mut self, code: Code) -> Result<Truth, TooWide> {
        match code {
            Code::Truth(truth) => Ok(truth),
            Code::Number(Number { linear, null }) => {
                let zero = self.gate.equal_literal(&linear, 0)?;
                Ok(Truth {
                    yes: self.gate.both(!zero, !null),
                    no: self.gate.both(zero, !null),
                })
            }
        }
    }

    pub(super) fn as_number(&mut self, code: Code) -> Number {
        match code {
            Code::Number(number) => number,
            Code::Truth(Truth { yes, no }) => {
                let null = self.gate.all_of(&[!yes, !no]);
                Number {
                    linear: Linear::literal(yes),
                    null,
                }
            }
        }
    }

    fn operator(&mut self, id: u32) -> Result<Code, TooWide> {
        let node = self.graph.nodes.get(id);
        match node.op {
            Op::Const | Op::Free | Op::Lookup => {
                let value = self.supports.value_with(id, None);
                self.constant(value)
            }
            Op::Neg => {
                let a = self.number(node.a)?;
                self.negated(&a)
            }
            Op::Add | Op::Sub => {
                let (a, b) = (self.number(node.a)?, self.number(node.b)?);
                self.sum(&a, &b, if node.op == Op::Add { 1 } else { -1 })
            }
            Op::Mul => {
                let (a, b) = (self.number(node.a)?, self.number(node.b)?);
                self.product(&a, &b)
            }
            Op::Div | Op::Rem => {
                let (a, b) = (self.number(node.a)?, self.number(node.b)?);
                self.quotient(&a, &b, node.op == Op::Rem)
            }
            Op::Cmp(op) => {
                let (a, b) = (self.number(node.a)?, self.number(node.b)?);
                self.comparison(op, &a, &b)
            }
            Op::And | Op::Or => {
                let operands: Vec<u32> = self.graph.nodes.operands(node.a).to_vec();
                let codes = operands
                    .into_iter()
                    .map(|operand| self.truth(operand))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Code::Truth(self.junction(&codes, node.op == Op::And)))
            }
            Op::Not => {
                let Truth { yes, no } = self.truth(node.a)?;
                Ok(Code::Truth(Truth { yes: no, no: yes }))
            }
            Op::IsNull => {
                let code = self.code(node.a)?;
                let Number { null, .. } = self.as_number(code);
                Ok(Code::Truth(Truth {
                    yes: null,
                    no: !null,
                }))
            }
            Op::Ite => {
                let cond = self.truth(node.a)?.yes;
                let (then, otherwise) = (self.number(node.b)?, self.number(node.c)?);
                self.choice(cond, &then, &otherwise)
            }
            Op::InSet => {
                let a = self.number(node.a)?;
                let set = self.graph.sets[node.b as usize].clone();
                self.membership(&a, &set)
            }
            Op::Agg => {
                let agg = self.graph.nodes.aggs[node.a as usize];
                self.fold(agg.bag.0, agg.part, agg.key, agg.fold)
            }
        }
    }

    pub(super) fn negated(&mut self, a: &Number) -> Result<Code, TooWide> {
        Ok(Code::Number(Number {
            linear: a.linear.scaled(-1)?,
            null: a.null,
        }))
    }

    pub(super) fn sum(&mut self, a: &Number, b: &Number, sign: i128) -> Result<Code, TooWide> {
        let mut linear = a.linear.clone();
        linear.add(&b.linear, sign)?;
        let null = self.gate.one_of(&[a.null, b.null]);
        Ok(Code::Number(Number { linear, null }))
    }

    pub(super) fn product(&mut self, a: &Number, b: &Number) -> Result<Code, TooWide> {
        let null = self.gate.one_of(&[a.null, b.null]);
        let linear = if a.linear.is_constant() {
            b.linear.scaled(a.linear.constant)?
        } else if b.linear.is_constant() {
            a.linear.scaled(b.linear.constant)?
        } else {
            self.gate.times(&a.linear, &b.linear)?
        };
        Ok(Code::Number(Number { linear, null }))
    }

    pub(super) fn quotient(
        &mut self,
        a: &Number,
        b: &Number,
        remainder: bool,
    ) -> Result<Code, TooWide> {
        let zero = self.gate.equal_literal(&b.linear, 0)?;
        let null = self.gate.one_of(&[a.null, b.null, zero]);
        if zero == self.gate.truth() {
            return Ok(Code::Number(Number {
                linear: Linear::constant(0),
                null,
            }));
        }
        let divisor = if zero == self.gate.falsehood() {
            b.linear.clone()
        } else {
            // The solver's division must not see a 0: divide by 1 there, the result is NULL anyway.
            let (low, high) = b.linear.range()?;
            if high - low > 10_000 {
                return Err(TooWide);
            }
            let values: Vec<i32> = (low.min(1)..=high.max(1))
                .filter(|&value| value != 0)
                .map(|value| i32::try_from(value).map_err(|_| TooWide))
                .collect::<Result<_, _>>()?;
            let own = self.gate.integer(&values);
            let own = Linear::of(own, low.min(1), high.max(1));
            let mut difference = own.clone();
            difference.add(&b.linear, -1)?;
            self.gate.equal_if(!zero, &difference, 0)?;
            self.gate.equal_if(zero, &own, 1)?;
            own
        };
        let quotient = self.gate.divide(&a.linear, &divisor)?;
        if !remainder {
            return Ok(Code::Number(Number {
                linear: quotient,
                null,
            }));
        }
        let mut linear = a.linear.clone();
        let product = if divisor.is_constant() {
            quotient.scaled(divisor.constant)?
        } else {
            self.gate.times(&quotient, &divisor)?
        };
        linear.add(&product, -1)?;
        Ok(Code::Number(Number { linear, null }))
    }

    pub(super) fn comparison(
        &mut self,
        op: CmpOp,
        a: &Number,
        b: &Number,
    ) -> Result<Code, TooWide> {
        let holds = self.compare(op, a, b)?;
        let known = self.gate.all_of(&[!a.null, !b.null]);
        Ok(Code::Truth(Truth {
            yes: self.gate.both(holds, known),
            no: self.gate.both(!holds, known),
        }))
    }

    /// The comparison of the sums, NULL aside.
    fn compare(&mut self, op: CmpOp, a: &Number, b: &Number) -> Result<Literal, TooWide> {
        let mut difference = a.linear.clone();
        difference.add(&b.linear, -1)?;
        match op {
            CmpOp::Eq => self.gate.equal_literal(&difference, 0),
            CmpOp::Ne => Ok(!self.gate.equal_literal(&difference, 0)?),
            CmpOp::Le => self.gate.at_most_literal(&difference, 0),
            CmpOp::Lt => self.gate.at_most_literal(&difference, -1),
            CmpOp::Gt => Ok(!self.gate.at_most_literal(&difference, 0)?),
            CmpOp::Ge => Ok(!self.gate.at_most_literal(&difference, -1)?),
        }
    }

    pub(super) fn junction(&mut self, operands: &[Truth], conjunction: bool) -> Truth {
        let yes: Vec<Literal> = operands.iter().map(|truth| truth.yes).collect();
        let no: Vec<Literal> = operands.iter().map(|truth| truth.no).collect();
        if conjunction {
            Truth {
                yes: self.gate.all_of(&yes),
                no: self.gate.one_of(&no),
            }
        } else {
            Truth {
                yes: self.gate.one_of(&yes),
                no: self.gate.all_of(&no),
            }
        }
    }

    pub(super) fn choice(
        &mut self,
        cond: Literal,
        then: &Number,
        otherwise: &Number,
    ) -> Result<Code, TooWide> {
        if cond == self.gate.truth() {
            return Ok(Code::Number(then.clone()));
        }
        if cond == self.gate.falsehood() {
            return Ok(Code::Number(otherwise.clone()));
        }
        let first = self.gate.both(cond, then.null);
        let second = self.gate.both(!cond, otherwise.null);
        let null = self.gate.one_of(&[first, second]);
        let (low, high) = then.linear.range()?;
        let (other_low, other_high) = otherwise.linear.range()?;
        let (low, high) = (low.min(other_low), high.max(other_high));
        if then.linear.is_constant() && otherwise.linear.is_constant() {
            let mut linear = Linear::constant(otherwise.linear.constant);
            let difference = then.linear.constant - otherwise.linear.constant;
            linear.add(&Linear::literal(cond), difference)?;
            return Ok(Code::Number(Number { linear, null }));
        }
        let own = Linear::of(self.gate.bounded(low, high)?, low, high);
        for (when, branch) in [(cond, then), (!cond, otherwise)] {
            let mut difference = own.clone();
            difference.add(&branch.linear, -1)?;
            self.gate.equal_if(when, &difference, 0)?;
        }
        Ok(Code::Number(Number { linear: own, null }))
    }

    pub(super) fn membership(&mut self, a: &Number, set: &[i64]) -> Result<Code, TooWide> {
        let mut equal = Vec::new();
        for &member in set {
            equal.push(self.gate.equal_literal(&a.linear, i128::from(member))?);
        }
        let inside = self.gate.one_of(&equal);
        Ok(Code::Truth(Truth {
            yes: self.gate.both(inside, !a.null),
            no: self.gate.both(!inside, !a.null),
        }))
    }
}

/// The solver's number for a value; NULL comes after all values.
pub(super) fn encoded(graph: &Graph, var: VarId, value: u32) -> Result<i32, TooWide> {
    let len = graph.domains[graph.vars.domain[var.index()].index()].len;
    let value = if value == UNSET { len } else { value };
    if value >= 1 << 29 {
        Err(TooWide)
    } else {
        Ok(value as i32)
    }
}

/// Whether an operator makes truth values.
fn is_truth(op: Op) -> bool {
    matches!(
        op,
        Op::Cmp(_) | Op::And | Op::Or | Op::Not | Op::IsNull | Op::InSet
    )
}
