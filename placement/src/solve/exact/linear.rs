//! The constraint solver behind a gate: 64-bit linear terms in, 32-bit constraints out, or a refusal.
//!
//! pumpkin computes in 32 bits and wraps silently, so `1.5e9·x ≤ 2e9` with x in 2..3 is satisfiable to it. Every
//! product and sum is checked here first, after dividing by the common divisor; what does not fit is
//! [`TooWide`], and the exact solver then proves nothing at all. Nothing is ever rounded to fit.
//!
//! pumpkin also panics when a variable is made in a state that is inconsistent already. The gate remembers that
//! state, and from then on takes everything and does nothing: the model is infeasible.

use crate::graph::{Plant, planted};
use pumpkin_solver::Solver;
use pumpkin_solver::core::constraints::NegatableConstraint;
use pumpkin_solver::core::options::SolverOptions;
use pumpkin_solver::core::predicates::Predicate;
use pumpkin_solver::core::proof::ConstraintTag;
use pumpkin_solver::core::variables::{AffineView, DomainId, Literal, TransformableVariable};
use pumpkin_solver::core::{predicate, rand::SeedableRng, rand::rngs::SmallRng};

/// The model does not fit into the solver's integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooWide;

pub(crate) type View = AffineView<DomainId>;

/// Bound on every partial sum of a constraint; a power of two of room is left for the solver's own slack terms.
const SUM_MAX: i128 = 1 << 30;

/// `coefficient × view`, with the view's bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub coefficient: i128,
    pub view: View,
    pub low: i128,
    pub high: i128,
}

/// A sum of terms and a constant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linear {
    pub terms: Vec<Term>,
    pub constant: i128,
}

impl Linear {
    pub(crate) fn constant(constant: i128) -> Linear {
        Linear {
            terms: Vec::new(),
            constant,
        }
    }

    pub(crate) fn of(view: View, low: i128, high: i128) -> Linear {
        Linear {
            terms: vec![Term {
                coefficient: 1,
                view,
                low,
                high,
            }],
            constant: 0,
        }
    }

    pub(crate) fn literal(literal: Literal) -> Linear {
        Linear::of(literal.get_integer_variable(), 0, 1)
    }

    pub(crate) fn add(&mut self, other: &Linear, times: i128) -> Result<(), TooWide> {
        let scaled = |value: i128| value.checked_mul(times).ok_or(TooWide);
        self.constant = self
            .constant
            .checked_add(scaled(other.constant)?)
            .ok_or(TooWide)?;
        for term in &other.terms {
            let coefficient = scaled(term.coefficient)?;
            match self.terms.iter_mut().find(|own| own.view == term.view) {
                Some(own) => {
                    own.coefficient = own.coefficient.checked_add(coefficient).ok_or(TooWide)?;
                }
                None => self.terms.push(Term {
                    coefficient,
                    ..*term
                }),
            }
        }
        self.terms.retain(|term| term.coefficient != 0);
        Ok(())
    }

    pub(crate) fn scaled(&self, times: i128) -> Result<Linear, TooWide> {
        let mut result = Linear::default();
        result.add(self, times)?;
        Ok(result)
    }

    /// Least and greatest value, by the bounds of the terms.
    pub(crate) fn range(&self) -> Result<(i128, i128), TooWide> {
        let (mut low, mut high) = (self.constant, self.constant);
        for term in &self.terms {
            let a = term.coefficient.checked_mul(term.low).ok_or(TooWide)?;
            let b = term.coefficient.checked_mul(term.high).ok_or(TooWide)?;
            low = low.checked_add(a.min(b)).ok_or(TooWide)?;
            high = high.checked_add(a.max(b)).ok_or(TooWide)?;
        }
        Ok((low, high))
    }

    /// The greatest common divisor of the coefficients; 1 where there are none.
    pub(crate) fn divisor(&self) -> i128 {
        self.terms
            .iter()
            .fold(0, |divisor, term| gcd(divisor, term.coefficient))
            .max(1)
    }

    pub(crate) fn is_constant(&self) -> bool {
        self.terms.is_empty()
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// A number as the solver has it.
fn narrow(number: i128) -> Result<i32, TooWide> {
    if planted(Plant::NarrowSums) {
        return Ok(number as i32);
    }
    i32::try_from(number).map_err(|_| TooWide)
}

/// What a constraint became.
enum Fitted {
    Always,
    Never,
    /// `Σ views ≤ right`
    Views(Vec<View>, i32),
}

pub(crate) struct Gate {
    pub solver: Solver,
    tag: ConstraintTag,
    dead: bool,
}

impl Gate {
    pub(crate) fn new(seed: u64) -> Gate {
        let options = SolverOptions {
            random_generator: SmallRng::seed_from_u64(seed),
            memory_preallocated: 1,
            ..SolverOptions::default()
        };
        let mut solver = Solver::with_options(options);
        let tag = solver.new_constraint_tag();
        Gate {
            solver,
            tag,
            dead: false,
        }
    }

    /// Whether the model is inconsistent already.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.dead |= self.solver.is_inconsistent();
        self.dead
    }

    pub(crate) fn truth(&self) -> Literal {
        self.solver.get_true_literal()
    }

    pub(crate) fn falsehood(&self) -> Literal {
        self.solver.get_false_literal()
    }

    pub(crate) fn literal(&mut self) -> Literal {
        if self.is_dead() {
            self.truth()
        } else {
            self.solver.new_literal()
        }
    }

    /// A literal that is true exactly when the predicate is.
    pub(crate) fn literal_for(&mut self, predicate: Predicate) -> Literal {
        if self.is_dead() {
            return self.truth();
        }
        self.solver.new_literal_for_predicate(predicate, self.tag)
    }

    /// A variable over the given values, sorted.
    pub(crate) fn integer(&mut self, values: &[i32]) -> View {
        if self.is_dead() {
            return self.truth().get_integer_variable();
        }
        let dense = values.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let domain = if dense {
            self.solver
                .new_bounded_integer(values[0], values[values.len() - 1])
        } else {
            self.solver.new_sparse_integer(values)
        };
        domain.scaled(1)
    }

    /// A variable between bounds.
    pub(crate) fn bounded(&mut self, low: i128, high: i128) -> Result<View, TooWide> {
        if (low < -SUM_MAX || high > SUM_MAX) && !planted(Plant::NarrowSums) {
            return Err(TooWide);
        }
        if self.is_dead() {
            return Ok(self.truth().get_integer_variable());
        }
        let (low, high) = (narrow(low)?, narrow(high)?);
        Ok(self.solver.new_bounded_integer(low, high).scaled(1))
    }

    pub(crate) fn clause(&mut self, predicates: Vec<Predicate>) {
        if self.is_dead() {
            return;
        }
        self.solver.add_clause(predicates, self.tag);
    }

    /// One of the literals holds.
    pub(crate) fn any(&mut self, literals: &[Literal]) {
        self.clause(literals.iter().map(Literal::get_true_predicate).collect());
    }

    fn fit(linear: &Linear, right: i128) -> Result<Fitted, TooWide> {
        let right = if planted(Plant::LooseLimit) {
            right + 1
        } else {
            right
        };
        let (low, high) = linear.range()?;
        if high <= right {
            return Ok(Fitted::Always);
        }
        if low > right {
            return Ok(Fitted::Never);
        }
        let divisor = linear.divisor();
        let right = (right - linear.constant).div_euclid(divisor);
        let mut reach = right.abs();
        let mut views = Vec::with_capacity(linear.terms.len());
        for term in &linear.terms {
            let coefficient = term.coefficient / divisor;
            // The view's own scale and offset are at most 1 in size, so its bounds bound what is computed.
            let most = term.low.abs().max(term.high.abs()) + 1;
            reach = reach
                .checked_add(coefficient.abs().checked_mul(most).ok_or(TooWide)?)
                .ok_or(TooWide)?;
            if reach > SUM_MAX && !planted(Plant::NarrowSums) {
                return Err(TooWide);
            }
            views.push(term.view.scaled(narrow(coefficient)?));
        }
        Ok(Fitted::Views(views, narrow(right)?))
    }

    /// `linear ≤ right` where the literal is true.
    pub(crate) fn at_most_if(
        &mut self,
        when: Literal,
        linear: &Linear,
        right: i128,
    ) -> Result<(), TooWide> {
        match Self::fit(linear, right)? {
            Fitted::Always => {}
            Fitted::Never => self.any(&[!when]),
            Fitted::Views(views, right) => {
                if self.is_dead() {
                    return Ok(());
                }
                let constraint = pumpkin_solver::less_than_or_equals(views, right, self.tag);
                if when == self.truth() {
                    self.solver.add_constraint(constraint).post();
                } else {
                    self.solver.add_constraint(constraint).implied_by(when);
                }
            }
        }
        Ok(())
    }

    /// `linear = right` where the literal is true.
    pub(crate) fn equal_if(
        &mut self,
        when: Literal,
        linear: &Linear,
        right: i128,
    ) -> Result<(), TooWide> {
        self.at_most_if(when, linear, right)?;
        self.at_most_if(when, &linear.scaled(-1)?, -right)
    }

    /// A literal that is true exactly when `linear ≤ right`.
    pub(crate) fn at_most_literal(
        &mut self,
        linear: &Linear,
        right: i128,
    ) -> Result<Literal, TooWide> {
        match Self::fit(linear, right)? {
            Fitted::Always => Ok(self.truth()),
            Fitted::Never => Ok(self.falsehood()),
            Fitted::Views(views, right) => {
                if self.is_dead() {
                    return Ok(self.truth());
                }
                if let [view] = views[..] {
                    return Ok(self.literal_for(predicate![view <= right]));
                }
                let literal = self.literal();
                pumpkin_solver::less_than_or_equals(views, right, self.tag)
                    .reify(&mut self.solver, literal);
                Ok(literal)
            }
        }
    }

    /// A literal that is true exactly when `linear = right`.
    pub(crate) fn equal_literal(
        &mut self,
        linear: &Linear,
        right: i128,
    ) -> Result<Literal, TooWide> {
        let below = self.at_most_literal(linear, right)?;
        let above = self.at_most_literal(&linear.scaled(-1)?, -right)?;
        Ok(self.both(below, above))
    }

    /// Conjunction of two literals.
    pub(crate) fn both(&mut self, a: Literal, b: Literal) -> Literal {
        self.all_of(&[a, b])
    }

    /// A literal that is true exactly when all are.
    pub(crate) fn all_of(&mut self, literals: &[Literal]) -> Literal {
        let (truth, falsehood) = (self.truth(), self.falsehood());
        let mut rest: Vec<Literal> = Vec::new();
        for &literal in literals {
            if literal == falsehood {
                return falsehood;
            }
            if literal != truth && !rest.contains(&literal) {
                rest.push(literal);
            }
        }
        match rest[..] {
            [] => truth,
            [only] => only,
            _ => {
                let result = self.literal();
                let mut last = vec![result];
                for literal in rest {
                    self.any(&[!result, literal]);
                    last.push(!literal);
                }
                self.any(&last);
                result
            }
        }
    }

    /// A literal that is true exactly when one of them is.
    pub(crate) fn one_of(&mut self, literals: &[Literal]) -> Literal {
        let negated: Vec<Literal> = literals.iter().map(|&literal| !literal).collect();
        !self.all_of(&negated)
    }

    /// A variable equal to a sum.
    pub(crate) fn view(&mut self, linear: &Linear) -> Result<(View, i128, i128), TooWide> {
        if let ([term], 0) = (&linear.terms[..], linear.constant)
            && term.coefficient == 1
        {
            return Ok((term.view, term.low, term.high));
        }
        let (low, high) = linear.range()?;
        let view = self.bounded(low, high)?;
        let mut difference = linear.clone();
        difference.add(&Linear::of(view, low, high), -1)?;
        let truth = self.truth();
        self.equal_if(truth, &difference, 0)?;
        Ok((view, low, high))
    }

    /// `a × b = product`.
    pub(crate) fn times(&mut self, a: &Linear, b: &Linear) -> Result<Linear, TooWide> {
        let ((a, a_low, a_high), (b, b_low, b_high)) = (self.view(a)?, self.view(b)?);
        let corners = [
            a_low * b_low,
            a_low * b_high,
            a_high * b_low,
            a_high * b_high,
        ];
        let low = corners.into_iter().min().unwrap_or(0);
        let high = corners.into_iter().max().unwrap_or(0);
        let product = self.bounded(low, high)?;
        if !self.is_dead() {
            let constraint = pumpkin_solver::times(a, b, product, self.tag);
            self.solver.add_constraint(constraint).post();
        }
        Ok(Linear::of(product, low, high))
    }

    /// `a / b`, truncating; the divisor must not be able to be 0.
    pub(crate) fn divide(&mut self, a: &Linear, b: &Linear) -> Result<Linear, TooWide> {
        if a.is_constant() && b.is_constant() {
            let quotient = a.constant.checked_div(b.constant).ok_or(TooWide)?;
            return Ok(Linear::constant(quotient));
        }
        let ((a, a_low, a_high), (b, b_low, b_high)) = (self.view(a)?, self.view(b)?);
        let least = b_low.max(-b_high).max(1);
        let most = a_low.abs().max(a_high.abs()) / least;
        // The solver multiplies the quotient, and one more, back in 32 bits.
        let product = (most + 1).checked_mul(b_low.abs().max(b_high.abs()));
        if product.is_none_or(|product| product > i128::from(i32::MAX)) {
            return Err(TooWide);
        }
        let quotient = self.bounded(-most, most)?;
        if !self.is_dead() {
            let constraint = pumpkin_solver::division(a, b, quotient, self.tag);
            self.solver.add_constraint(constraint).post();
        }
        Ok(Linear::of(quotient, -most, most))
    }
}

#[cfg(test)]
mod tests;
