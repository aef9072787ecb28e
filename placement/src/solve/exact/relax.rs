//! The fewest hard rows to give up, so that the rest can hold.
//!
//! One literal stands for each row, and the number of literals that are false is minimised: from any assignment
//! downwards, until the constraint solver proves that fewer will not do. Unlike a core, which names one conflict, this
//! resolves all of them at once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use pumpkin_solver::conflict_resolvers::resolvers::ResolutionResolver;
use pumpkin_solver::core::predicate;
use pumpkin_solver::core::predicates::Predicate;
use pumpkin_solver::core::results::{ProblemSolution, SatisfactionResultUnderAssumptions};
use pumpkin_solver::core::variables::Literal;

use super::super::Relaxation;
use super::super::candidates::Candidates;
use super::encode::Encoder;
use super::linear::{Linear, TooWide, View};
use super::touched::Touched;
use super::{Budget, Countdown, Hard, broken_constants, hard_rows, post};
use crate::graph::RowRef;
use crate::graph::internal::{Graph, State};

/// The rows to give up. `None` when nothing was found.
///
/// `candidates` must not have the unary rows folded in: they are rows like others here.
pub(crate) fn relax(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    budget: &mut Budget<'_>,
) -> Option<Relaxation> {
    let touched = Touched::from(graph, candidates, &state.assignment);
    find(graph, state, candidates, &touched, budget).unwrap_or(None)
}

fn find(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    touched: &Touched,
    budget: &mut Budget<'_>,
) -> Result<Option<Relaxation>, TooWide> {
    let vars = &candidates.vars;
    if vars.iter().any(|&var| candidates.of(var).is_empty()) {
        // No row is in the way of a decision that has no value to choose from.
        return Ok(None);
    }
    let mut encoder = Encoder::new(graph, state, candidates, touched, budget.seed);
    let rows = hard_rows(&mut encoder)?;
    let known: BTreeSet<Hard> = rows.iter().copied().collect();
    let lost = broken_constants(graph, state, touched, &known);
    // What has one name is one row, however many conditions it is made of.
    let mut literals: BTreeMap<RowRef, Literal> = BTreeMap::new();
    let mut given_up = Linear::default();
    for row in rows {
        let literal = match literals.entry(row.name(graph)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let literal = *new.insert(encoder.gate.literal());
                given_up.add(&Linear::literal(literal), -1)?;
                given_up.constant += 1;
                literal
            }
        };
        post(&mut encoder, literal, row)?;
    }
    if literals.is_empty() || encoder.gate.is_dead() {
        return Ok(None);
    }
    let (count, _, _) = encoder.gate.view(&given_up)?;
    let mut asked = Asked {
        encoder,
        literals,
        count,
    };
    let mut best: Option<Vec<RowRef>> = None;
    loop {
        let limit = best.as_ref().map(Vec::len);
        match asked.fewer_than(limit, budget)? {
            Answer::Found(rows) => best = Some(rows),
            Answer::None => {
                return Ok(best.map(|rows| Relaxation {
                    rows: all_of(lost, rows),
                    minimal: true,
                }));
            }
            Answer::Unknown => {
                return Ok(best.map(|rows| Relaxation {
                    rows: all_of(lost, rows),
                    minimal: false,
                }));
            }
        }
    }
}

fn all_of(mut lost: Vec<RowRef>, rows: Vec<RowRef>) -> Vec<RowRef> {
    lost.extend(rows);
    lost.sort_unstable();
    lost.dedup();
    lost
}

struct Asked<'a> {
    encoder: Encoder<'a>,
    literals: BTreeMap<RowRef, Literal>,
    /// How many literals are false.
    count: View,
}

enum Answer {
    Found(Vec<RowRef>),
    None,
    Unknown,
}

impl Asked<'_> {
    /// Looks for an assignment that gives up fewer rows than `limit`.
    fn fewer_than(
        &mut self,
        limit: Option<usize>,
        budget: &mut Budget<'_>,
    ) -> Result<Answer, TooWide> {
        let mut assumptions: Vec<Predicate> = Vec::new();
        if let Some(limit) = limit {
            let count = self.count;
            let most = i32::try_from(limit).map_err(|_| TooWide)? - 1;
            assumptions.push(predicate![count <= most]);
        }
        let rounds = budget.rounds_max;
        let mut countdown = Countdown {
            left: rounds,
            aborted: false,
            budget,
        };
        let mut brancher = self.encoder.gate.solver.default_brancher();
        let mut resolver = ResolutionResolver::default();
        let result = self.encoder.gate.solver.satisfy_under_assumptions(
            &mut brancher,
            &mut countdown,
            &mut resolver,
            &assumptions,
        );
        Ok(match result {
            SatisfactionResultUnderAssumptions::Satisfiable(found) => {
                let solution = found.solution();
                let mut rows = Vec::new();
                for (&row, &literal) in &self.literals {
                    if !solution.get_literal_value(literal) {
                        rows.push(row);
                    }
                }
                Answer::Found(rows)
            }
            SatisfactionResultUnderAssumptions::UnsatisfiableUnderAssumptions(_)
            | SatisfactionResultUnderAssumptions::Unsatisfiable(_) => Answer::None,
            SatisfactionResultUnderAssumptions::Unknown(_) => Answer::Unknown,
        })
    }
}
