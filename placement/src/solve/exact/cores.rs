//! Why nothing satisfies the policies: a set of rows that cannot hold together, none of which can be dropped.
//!
//! One assumption literal stands for each row; the domains are background. The solver's own core comes first. Then
//! each of its rows is left out in turn from a model that has only the core's rows, and so only their decisions:
//! leaving rows out of the whole model would be a whole solve each.
//!
//! Each question is asked over [classes](super::classes) of the values that *its* rows do not tell apart: the fewer
//! rows are left, the more are alike. What the solver names there stands for all that it becomes when values are
//! exchanged; and of rows that are exchanged with one that is needed, each is needed.

use std::collections::BTreeSet;

use pumpkin_solver::conflict_resolvers::resolvers::ResolutionResolver;
use pumpkin_solver::core::predicates::Predicate;
use pumpkin_solver::core::results::SatisfactionResultUnderAssumptions;

use super::super::candidates::Candidates;
use super::classes::{Classes, Soft};
use super::encode::Encoder;
use super::linear::TooWide;
use super::touched::Touched;
use super::{Budget, Countdown, Hard, broken_constants, broken_now, hard_rows, post};
use crate::graph::VarId;
use crate::graph::internal::{Graph, Op, State};
use crate::solve::Core;

/// Which rows a core may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All that the scope can change; what it cannot is a constant.
    All,
    /// Those that depend on the scope and nothing else: a core of them is one whatever the rest does.
    Closed,
}

enum Answer {
    Satisfiable,
    /// These of the rows cannot hold together.
    Conflict(Vec<Hard>),
    Unknown,
}

/// A core of the hard rows that decisions in scope can change. `None` when no proof was found.
///
/// `candidates` must not have the unary rows folded in: they are rows like others here.
pub(crate) fn core(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    rows: Rows,
    budget: &mut Budget<'_>,
) -> Option<Core> {
    let touched = Touched::from(graph, candidates, &state.assignment);
    find(graph, state, candidates, &touched, rows, budget).unwrap_or(None)
}

fn find(
    graph: &Graph,
    state: &State,
    candidates: &Candidates,
    touched: &Touched,
    kind: Rows,
    budget: &mut Budget<'_>,
) -> Result<Option<Core>, TooWide> {
    if candidates
        .vars
        .iter()
        .any(|&var| candidates.of(var).is_empty())
    {
        // No row is needed to make an empty domain infeasible.
        return Ok(Some(Core {
            rows: Vec::new(),
            minimal: true,
            shortage: None,
        }));
    }
    let rows = {
        let mut encoder = Encoder::new(graph, state, candidates, touched, budget.seed);
        let mut rows = hard_rows(&mut encoder)?;
        if kind == Rows::Closed {
            rows.retain(|&row| is_closed(graph, candidates, row));
        }
        rows
    };
    let known: BTreeSet<Hard> = rows.iter().copied().collect();
    if kind == Rows::All
        && let Some(row) = broken_constants(graph, state, touched, &known)
            .into_iter()
            .next()
    {
        return Ok(Some(Core {
            rows: vec![row],
            minimal: true,
            shortage: None,
        }));
    }
    let model = Asked {
        graph,
        state,
        candidates,
        touched,
    };
    let Answer::Conflict(mut core) = model.check(&rows, budget)? else {
        return Ok(None);
    };
    core.sort_by_key(|row| row.name(graph));
    let minimal = model.shrink(&mut core, budget)?;
    let names: BTreeSet<_> = core.into_iter().map(|row| row.name(graph)).collect();
    Ok(Some(Core {
        rows: names.into_iter().collect(),
        minimal,
        shortage: None,
    }))
}

/// What is asked about rows again and again.
#[derive(Clone, Copy)]
struct Asked<'a> {
    graph: &'a Graph,
    state: &'a State,
    candidates: &'a Candidates,
    touched: &'a Touched,
}

impl Asked<'_> {
    /// The values that these rows do not tell apart.
    fn classes(&self, rows: &[Hard]) -> Classes {
        let Asked {
            graph,
            state,
            candidates,
            touched,
        } = *self;
        Classes::new(graph, state, candidates, touched, rows, Soft::Ignored)
    }

    /// Leaves rows out of a core until none can be; whether that is proved of all that are left.
    fn shrink(&self, core: &mut Vec<Hard>, budget: &mut Budget<'_>) -> Result<bool, TooWide> {
        let mut minimal = true;
        let mut needed: BTreeSet<Hard> = BTreeSet::new();
        let mut index = 0;
        while index < core.len() {
            if needed.contains(&core[index]) {
                index += 1;
                continue;
            }
            let mut rest = core.clone();
            let row = rest.remove(index);
            match self.check(&rest, budget)? {
                Answer::Conflict(smaller) => {
                    // The rows before `index` are needed by every core of what is left.
                    core.retain(|row| smaller.contains(row));
                }
                Answer::Satisfiable => {
                    needed.extend(self.classes(core).orbit(self.graph, row));
                    index += 1;
                }
                Answer::Unknown => {
                    minimal = false;
                    index += 1;
                }
            }
        }
        Ok(minimal)
    }

    /// Whether the rows can hold together.
    fn check(&self, rows: &[Hard], budget: &mut Budget<'_>) -> Result<Answer, TooWide> {
        let classes = self.classes(rows);
        let assignment = &self.state.assignment;
        let Some(kernel) = classes.kernel(self.graph, self.candidates, assignment) else {
            return self.solve(rows, budget);
        };
        let touched = Touched::from(self.graph, &kernel, assignment);
        let few = Asked {
            candidates: &kernel,
            touched: &touched,
            ..*self
        };
        // Rows about values that are left out hold, unless they are broken already by what stays.
        let mut encoder = Encoder::new(self.graph, self.state, &kernel, &touched, budget.seed);
        let mut reached: BTreeSet<Hard> = hard_rows(&mut encoder)?.into_iter().collect();
        reached.extend(broken_now(self.graph, self.state));
        let asked: Vec<Hard> = rows
            .iter()
            .copied()
            .filter(|row| reached.contains(row))
            .collect();
        Ok(match few.solve(&asked, budget)? {
            Answer::Conflict(core) => {
                let all: BTreeSet<Hard> = core
                    .into_iter()
                    .flat_map(|row| classes.orbit(self.graph, row))
                    .collect();
                Answer::Conflict(
                    rows.iter()
                        .copied()
                        .filter(|row| all.contains(row))
                        .collect(),
                )
            }
            other @ (Answer::Satisfiable | Answer::Unknown) => other,
        })
    }

    /// The same, over all values there are.
    fn solve(&self, rows: &[Hard], budget: &mut Budget<'_>) -> Result<Answer, TooWide> {
        if self.candidates.size() > budget.pairs_max {
            return Ok(Answer::Unknown);
        }
        let Asked {
            graph,
            state,
            candidates,
            touched,
        } = *self;
        let mut encoder = Encoder::new(graph, state, candidates, touched, budget.seed);
        let mut assumptions: Vec<(Predicate, Hard)> = Vec::new();
        for &row in rows {
            let literal = encoder.gate.literal();
            post(&mut encoder, literal, row)?;
            assumptions.push((literal.get_true_predicate(), row));
        }
        if encoder.gate.is_dead() {
            // Without an assumption the rows' own definitions conflict: the solver cannot say which.
            return Ok(Answer::Conflict(rows.to_vec()));
        }
        let predicates: Vec<Predicate> = assumptions
            .iter()
            .map(|&(predicate, _)| predicate)
            .collect();
        let rounds = budget.rounds_max;
        let mut brancher = encoder.gate.solver.default_brancher();
        let mut resolver = ResolutionResolver::default();
        let mut countdown = Countdown {
            left: rounds,
            aborted: false,
            budget,
        };
        let result = encoder.gate.solver.satisfy_under_assumptions(
            &mut brancher,
            &mut countdown,
            &mut resolver,
            &predicates,
        );
        Ok(match result {
            SatisfactionResultUnderAssumptions::Satisfiable(_) => Answer::Satisfiable,
            SatisfactionResultUnderAssumptions::Unsatisfiable(_) => Answer::Conflict(rows.to_vec()),
            SatisfactionResultUnderAssumptions::Unknown(_) => Answer::Unknown,
            SatisfactionResultUnderAssumptions::UnsatisfiableUnderAssumptions(mut conflict) => {
                let core = conflict.extract_core();
                let named = assumptions
                    .iter()
                    .filter(|(predicate, _)| core.contains(predicate))
                    .map(|&(_, row)| row)
                    .collect();
                Answer::Conflict(named)
            }
        })
    }
}

/// Rows of a part beyond which a fold of it is taken to depend on the whole cluster.
const CLOSED_ROWS_MAX: usize = 64;

/// Whether a row depends on decisions in scope only.
fn is_closed(graph: &Graph, candidates: &Candidates, row: Hard) -> bool {
    match row {
        Hard::Root(root) => is_closed_expr(
            graph,
            candidates,
            graph.roots.root[root as usize].expr.index() as u32,
        ),
        Hard::Bucket { lazy, part, .. } => {
            let bag = graph.bags.lazies[lazy as usize].bag;
            is_closed_part(graph, candidates, bag.index(), part)
        }
    }
}

fn is_closed_part(graph: &Graph, candidates: &Candidates, bag: usize, part: u32) -> bool {
    let Some(rows) = graph.bags.bag[bag].parts.get(part as usize) else {
        return true;
    };
    rows.len() <= CLOSED_ROWS_MAX
        && rows.iter().all(|&row| {
            graph
                .bags
                .vars_of(row)
                .iter()
                .all(|&var| candidates.is_free(var))
                && graph
                    .bags
                    .exprs_of(row)
                    .iter()
                    .all(|&expr| is_closed_expr(graph, candidates, expr))
        })
}

fn is_closed_expr(graph: &Graph, candidates: &Candidates, id: u32) -> bool {
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        let node = graph.nodes.get(id);
        if node.op == Op::Lookup && !candidates.is_free(VarId::at(node.a)) {
            return false;
        }
        if node.op == Op::Agg {
            let agg = graph.nodes.aggs[node.a as usize];
            if !is_closed_part(graph, candidates, agg.bag.index(), agg.part) {
                return false;
            }
        }
        graph.nodes.for_operands(id, |operand| stack.push(operand));
    }
    true
}
