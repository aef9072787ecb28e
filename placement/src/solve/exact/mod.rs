//! The exact solver: the graph as constraints for pumpkin, a lazy clause generation solver.
//!
//! It takes over where search proves nothing: small and scoped problems, proofs of optimality, all solutions, cores.
//! What is interchangeable is counted first ([`classes`]), so that small means few kinds of values, not few values.
//! Its answers are believed only because of what [`linear`] refuses.

mod classes;
mod cores;
mod encode;
mod folds;
mod linear;
mod relax;
mod require;
mod rows;
mod sorter;
mod support;
mod templates;
mod touched;

use pumpkin_solver::conflict_resolvers::resolvers::ResolutionResolver;
use pumpkin_solver::core::DefaultBrancher;
use pumpkin_solver::core::predicate;
use pumpkin_solver::core::predicates::Predicate;
use pumpkin_solver::core::results::{ProblemSolution, SatisfactionResultUnderAssumptions};
use pumpkin_solver::core::termination::TerminationCondition;

use super::candidates::Candidates;
use super::decide::EXACT_PAIRS_MAX;
use super::{Assignment, Solver};
use crate::graph::VarId;
use crate::graph::internal::{Graph, RootKind, State, UNSET, soft_term};
use classes::{Classes, Soft};
use encode::{Encoder, encoded};
use linear::{Linear, TooWide, View};
use rows::{Hard, broken_constants, broken_now, hard_rows, post};
use touched::Touched;

pub(crate) use cores::{Rows, core};
pub(crate) use relax::relax;

/// Limits of one run of the constraint solver.
pub(crate) struct Budget<'a> {
    /// Rounds of its main loop, each a decision or a conflict.
    pub rounds_max: u64,
    /// Pairs of a choice and a value in any one question about a core.
    pub pairs_max: usize,
    pub seed: u64,
    pub abort: &'a mut dyn FnMut() -> bool,
}

impl<'a> Budget<'a> {
    /// What the configuration allows.
    pub(crate) fn new(config: &super::Config, abort: &'a mut dyn FnMut() -> bool) -> Budget<'a> {
        Budget {
            rounds_max: config.conflicts_max,
            pairs_max: match config.solver {
                Solver::Exact => usize::MAX,
                Solver::Auto | Solver::Search | Solver::Flow | Solver::Greedy => {
                    4 * EXACT_PAIRS_MAX
                }
            },
            seed: config.seed,
            abort,
        }
    }
}

struct Countdown<'a, 'b> {
    left: u64,
    aborted: bool,
    budget: &'a mut Budget<'b>,
}

impl TerminationCondition for Countdown<'_, '_> {
    fn should_stop(&mut self) -> bool {
        if self.left == 0 || self.aborted {
            return true;
        }
        self.left -= 1;
        if self.left.is_multiple_of(256) {
            self.aborted = (self.budget.abort)();
        }
        self.aborted
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The values are best in every tier; `solutions` are as many best ones as asked for.
    Optimal {
        values: Assignment,
        solutions: Vec<Assignment>,
        complete: bool,
    },
    /// No assignment satisfies the hard rows.
    Infeasible,
    /// The budget ended, or the numbers do not fit. The best values found, if any, and how many tiers are settled.
    Unknown {
        values: Option<Assignment>,
        settled: usize,
    },
}

/// A tier as the constraint solver sees it: without its constant, divided by the common divisor of its terms.
struct Objective {
    tier: usize,
    view: View,
    constant: i128,
    divisor: i128,
}

impl Objective {
    fn new(encoder: &mut Encoder<'_>, tier: usize, sum: &Linear) -> Result<Objective, TooWide> {
        let divisor = sum.divisor();
        let mut reduced = Linear::default();
        reduced
            .terms
            .extend(sum.terms.iter().map(|term| linear::Term {
                coefficient: term.coefficient / divisor,
                ..*term
            }));
        let view = encoder.gate.view(&reduced)?.0;
        Ok(Objective {
            tier,
            view,
            constant: sum.constant,
            divisor,
        })
    }

    /// The solver's number for a value of the tier.
    fn number(&self, value: i128) -> i128 {
        (value - self.constant) / self.divisor
    }
}

struct Found {
    values: Assignment,
    numbers: Vec<i128>,
}

/// One answer of the constraint solver.
enum Answer {
    Found(Found),
    None,
    Unknown,
}

/// The same decisions with fewer values: a few of each class of values that nothing tells apart. Whether anything
/// better than `state`, or anything at all, satisfies the hard rows is the same question over those. `None` where
/// they are all.
pub(crate) fn kernel(graph: &Graph, state: &State, candidates: &Candidates) -> Option<Candidates> {
    let touched = Touched::from(graph, candidates, &state.assignment);
    let rows = {
        let mut encoder = Encoder::new(graph, state, candidates, &touched, 0);
        hard_rows(&mut encoder).ok()?
    };
    let classes = Classes::new(graph, state, candidates, &touched, &rows, Soft::Counted);
    classes.kernel(graph, candidates, &state.assignment)
}

/// How many variables the constraint solver has for these decisions.
#[cfg(test)]
pub(crate) fn choice_count(graph: &Graph, state: &State, candidates: &Candidates) -> usize {
    let touched = Touched::from(graph, candidates, &state.assignment);
    let mut encoder = Encoder::new(graph, state, candidates, &touched, 0);
    for &var in &touched.free {
        assert!(encoder.declare(VarId(var)).is_ok());
    }
    encoder.choices()
}

/// The sum of each tier.
fn tier_sums(encoder: &mut Encoder<'_>) -> Result<Vec<Linear>, TooWide> {
    let (graph, state) = (encoder.graph, encoder.state);
    let mut sums: Vec<Linear> = state
        .totals
        .tiers
        .iter()
        .map(|&total| Linear::constant(total))
        .collect();
    for root in encoder.touched.roots.iter().copied().collect::<Vec<_>>() {
        let data = graph.roots.root[root as usize];
        let RootKind::Soft { tier, weight } = data.kind else {
            continue;
        };
        let tier = graph.roots.tier_index(tier);
        // What it contributes now is in the total already.
        sums[tier].constant -= soft_term(weight, state.values[data.expr.index()]);
        let linear = encoder.soft_root(data.expr.0)?;
        sums[tier].add(&linear, i128::from(weight))?;
    }
    for spec in graph.bags.lazies.iter().filter(|spec| spec.alive) {
        let RootKind::Soft { tier, weight } = spec.kind else {
            continue;
        };
        let tier = graph.roots.tier_index(tier);
        let parts = encoder
            .touched
            .parts
            .range((spec.bag.0, 0)..=(spec.bag.0, u32::MAX));
        for (bag, part) in parts.copied().collect::<Vec<_>>() {
            let mut keys = encoder.reachable(bag, part)?;
            keys.extend(
                state
                    .occupied(graph, bag, Some(part), None)
                    .into_iter()
                    .map(|(_, key)| key),
            );
            for key in keys {
                let rows = state.fold(graph, bag, part, key, crate::graph::Fold::CountRows);
                if rows > 0 {
                    let bucket = crate::graph::internal::Bucket {
                        state,
                        graph,
                        bag,
                        part,
                        key,
                        rows,
                    };
                    sums[tier].constant -= soft_term(weight, bucket.value(&spec.template));
                }
                let linear = encoder.soft_template(bag, part, key, &spec.template)?;
                sums[tier].add(&linear, i128::from(weight))?;
            }
        }
    }
    Ok(sums)
}

/// Solves to the end, or to the end of the budget.
///
/// The state must be at a complete assignment of the fixed decisions. `known` is the tier vector of an assignment that
/// satisfies all hard rows, if one is known: only better ones are looked for, and `Optimal` with the values of the
/// state means that there are none.
pub(crate) fn solve(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    feasible: bool,
    solutions_max: u32,
    budget: &mut Budget<'_>,
) -> Verdict {
    let touched = Touched::from(graph, candidates, &state.assignment);
    match attempt(
        graph,
        state,
        candidates,
        &touched,
        feasible,
        solutions_max,
        budget,
    ) {
        Ok(verdict) => verdict,
        Err(TooWide) => Verdict::Unknown {
            values: None,
            settled: 0,
        },
    }
}

fn attempt(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    touched: &Touched,
    feasible: bool,
    solutions_max: u32,
    budget: &mut Budget<'_>,
) -> Result<Verdict, TooWide> {
    if candidates
        .vars
        .iter()
        .any(|&var| candidates.of(var).is_empty())
    {
        return Ok(Verdict::Infeasible);
    }
    let mut encoder = Encoder::new(graph, state, candidates, touched, budget.seed);
    let rows = hard_rows(&mut encoder)?;
    if !broken_constants(graph, state, touched, &rows.iter().copied().collect()).is_empty() {
        return Ok(Verdict::Infeasible);
    }
    let truth = encoder.gate.truth();
    for &row in &rows {
        post(&mut encoder, truth, row)?;
    }
    let sums = tier_sums(&mut encoder)?;
    let mut objectives: Vec<Objective> = Vec::new();
    for (tier, sum) in sums.iter().enumerate() {
        if !sum.is_constant() {
            objectives.push(Objective::new(&mut encoder, tier, sum)?);
        }
    }
    for &var in &touched.free {
        encoder.declare(VarId(var))?;
    }
    if encoder.gate.is_dead() {
        return Ok(Verdict::Infeasible);
    }
    let mut run = Run {
        brancher: encoder.gate.solver.default_brancher(),
        resolver: ResolutionResolver::default(),
        encoder,
    };

    let mut best = feasible.then(|| {
        let numbers = objectives
            .iter()
            .map(|objective| objective.number(state.totals.tiers[objective.tier]))
            .collect();
        Found {
            values: present(state, candidates),
            numbers,
        }
    });
    if best.is_none() {
        match run.ask(&[], &objectives, budget) {
            Answer::Found(found) => best = Some(found),
            Answer::None => return Ok(Verdict::Infeasible),
            Answer::Unknown => {
                return Ok(Verdict::Unknown {
                    values: None,
                    settled: 0,
                });
            }
        }
    }
    let Some(mut best) = best else {
        return Ok(Verdict::Unknown {
            values: None,
            settled: 0,
        });
    };
    for (index, objective) in objectives.iter().enumerate() {
        loop {
            let number = i32::try_from(best.numbers[index]).map_err(|_| TooWide)?;
            let view = objective.view;
            match run.ask(&[predicate![view <= number - 1]], &objectives, budget) {
                Answer::Found(found) => best = found,
                Answer::None => {
                    run.encoder.gate.clause(vec![predicate![view <= number]]);
                    break;
                }
                Answer::Unknown => {
                    let settled = objective.tier;
                    return Ok(Verdict::Unknown {
                        values: Some(best.values),
                        settled,
                    });
                }
            }
        }
    }
    let values = best.values;
    let mut solutions = Vec::new();
    let mut complete = false;
    while (solutions.len() as u32) < solutions_max {
        match run.ask(&[], &objectives, budget) {
            Answer::Found(found) => {
                run.block(&found.values)?;
                solutions.push(found.values);
            }
            Answer::None => {
                complete = true;
                break;
            }
            Answer::Unknown => break,
        }
    }
    if solutions_max > 0 && !complete && solutions.len() as u32 == solutions_max {
        complete = matches!(run.ask(&[], &objectives, budget), Answer::None);
    }
    Ok(Verdict::Optimal {
        values,
        solutions,
        complete,
    })
}

fn present(state: &State, candidates: &Candidates) -> Assignment {
    candidates
        .vars
        .iter()
        .map(|&var| match state.assignment[var.index()] {
            UNSET => (var, None),
            value => (var, Some(value)),
        })
        .collect()
}

struct Run<'a> {
    encoder: Encoder<'a>,
    brancher: DefaultBrancher,
    resolver: ResolutionResolver,
}

impl Run<'_> {
    /// Looks for an assignment under assumptions.
    fn ask(
        &mut self,
        assumptions: &[Predicate],
        objectives: &[Objective],
        budget: &mut Budget<'_>,
    ) -> Answer {
        if self.encoder.gate.is_dead() {
            return Answer::None;
        }
        let rounds = budget.rounds_max;
        let mut countdown = Countdown {
            left: rounds,
            aborted: false,
            budget,
        };
        let (graph, candidates) = (self.encoder.graph, self.encoder.candidates);
        let views: Vec<Option<View>> = candidates
            .vars
            .iter()
            .map(|&var| self.encoder.decision(var))
            .collect();
        let result = self.encoder.gate.solver.satisfy_under_assumptions(
            &mut self.brancher,
            &mut countdown,
            &mut self.resolver,
            assumptions,
        );
        match result {
            SatisfactionResultUnderAssumptions::Satisfiable(found) => {
                let solution = found.solution();
                let mut values = Vec::with_capacity(candidates.vars.len());
                for (&var, view) in candidates.vars.iter().zip(&views) {
                    let value = match view {
                        None => self.encoder.state.assignment[var.index()],
                        Some(view) => {
                            let number = solution.get_integer_value(*view) as u32;
                            let domain = graph.vars.domain[var.index()].index();
                            if number == graph.domains[domain].len {
                                UNSET
                            } else {
                                number
                            }
                        }
                    };
                    values.push((var, if value == UNSET { None } else { Some(value) }));
                }
                let numbers = objectives
                    .iter()
                    .map(|objective| i128::from(solution.get_integer_value(objective.view)))
                    .collect();
                Answer::Found(Found { values, numbers })
            }
            SatisfactionResultUnderAssumptions::UnsatisfiableUnderAssumptions(_)
            | SatisfactionResultUnderAssumptions::Unsatisfiable(_) => Answer::None,
            SatisfactionResultUnderAssumptions::Unknown(_) => Answer::Unknown,
        }
    }

    /// Forbids an assignment.
    fn block(&mut self, values: &Assignment) -> Result<(), TooWide> {
        let mut clause = Vec::new();
        for &var in &self.encoder.candidates.choices {
            let position = self.encoder.candidates.position(var);
            let (_, value) = values[position];
            if let Some(view) = self.encoder.decision(var) {
                let number = encoded(self.encoder.graph, var, value.unwrap_or(UNSET))?;
                clause.push(predicate![view != number]);
            }
        }
        self.encoder.gate.clause(clause);
        Ok(())
    }
}
