//! The order in which methods are asked, and what their answers amount to.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use super::bound::{Cuts, lower_bounds};
use super::candidates::{Candidates, Unary, value_at};
use super::construct::Choice;
use super::exact::{self, Budget, Rows, Verdict};
use super::reach::soft_roots;
use super::search::{Limits, Search, compare_declared};
use super::{Assignment, Config, Core, Outcome, Scope, Shortage, Solver, Status, TierOutcome};
use crate::graph::internal::{Graph, State, UNSET};
use crate::graph::{Model, ModelError, RowRef, VarId};

/// The exact solver is asked without being told to up to this many pairs of a decision and a value.
const EXACT_PAIRS_MAX: usize = 20_000;
/// Broken rows whose neighbourhoods are checked for a conflict of their own.
const LOCAL_TRIES: usize = 4;
/// Walks down from a broken row to the decisions around it.
const LOCAL_SAMPLES: usize = 24;
/// Decisions of such a neighbourhood.
const LOCAL_VARS_MAX: usize = 48;
/// Tries without improvement that end a stage: a base, and some for each decision.
const PATIENCE: u64 = 1_000;
const PATIENCE_PER_VAR: u64 = 12;
const PATIENCE_MAX: u64 = 50_000;

pub(super) fn decide(
    model: &mut Model,
    scope: Scope<'_>,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Outcome, ModelError> {
    model.refresh()?;
    let vars: Vec<VarId> = match scope {
        Scope::All => model.vars().collect(),
        Scope::Vars(vars) => {
            let mut vars = vars.to_vec();
            vars.sort_unstable();
            vars.dedup();
            vars
        }
    };
    let candidates = Candidates::new(&model.graph, vars, Unary::Folded);
    let soft = soft_roots(&model.graph, &candidates);
    let mut case = Case {
        graph: &model.graph,
        state: &mut model.state,
        candidates: &candidates,
        soft: &soft,
        config,
        abort,
        evaluations: 0,
        searched: Vec::new(),
    };
    let outcome = case.decide();
    for &var in &candidates.vars {
        let current = model.graph.vars.current[var.index()];
        model.state.assign(&model.graph, var, current);
    }
    model.state.propagate(&model.graph);
    outcome
}

struct Case<'a> {
    graph: &'a Graph,
    state: &'a mut State,
    candidates: &'a Candidates,
    soft: &'a [u32],
    config: &'a Config,
    abort: &'a mut dyn FnMut() -> bool,
    evaluations: u64,
    /// The best bounds that searches came by.
    searched: Vec<i128>,
}

impl Case<'_> {
    fn decide(&mut self) -> Result<Outcome, ModelError> {
        if self
            .candidates
            .vars
            .iter()
            .any(|&var| self.candidates.of(var).is_empty())
        {
            return self.infeasible();
        }
        match self.config.solver {
            Solver::Auto | Solver::Search => self.search(),
            Solver::Greedy => self.construct(),
            Solver::Flow => super::flow::assign(self.graph, self.state, self.candidates),
            Solver::Exact => {}
        }
        let exact = match self.config.solver {
            Solver::Exact => true,
            Solver::Auto => self.candidates.size() <= EXACT_PAIRS_MAX || self.config.solutions > 0,
            Solver::Search | Solver::Flow | Solver::Greedy => false,
        };
        let complete = self.is_complete();
        let feasible = complete && self.state.totals.hinge == 0;
        if !feasible
            && complete
            && self.config.solver != Solver::Exact
            && let Some(core) = self.cut()
        {
            return Ok(self.answer(Status::Infeasible, Some(core)));
        }
        if !feasible
            && complete
            && !exact
            && self.config.solver == Solver::Auto
            && let Some(core) = self.local_core()
        {
            return Ok(self.answer(Status::Infeasible, Some(core)));
        }
        let bounds = if complete { self.bounds() } else { Vec::new() };
        let proved = feasible && bounds == self.state.totals.tiers;
        if exact && (!proved || self.config.solutions > 0) {
            return self.exact(feasible);
        }
        let status = match (feasible, proved) {
            (true, true) => Status::Optimal,
            (true, false) => Status::Feasible,
            (false, _) => Status::Unknown,
        };
        self.check_overflow()?;
        Ok(self.answer_with(status, None, bounds))
    }

    fn is_complete(&self) -> bool {
        self.candidates.vars.iter().all(|&var| {
            self.candidates
                .permits(var, self.state.assignment[var.index()])
        })
    }

    /// The best bounds known: the search's, and those at the answer.
    fn bounds(&self) -> Vec<i128> {
        let here = lower_bounds(self.graph, self.state, self.candidates, self.soft);
        let mut bounds = self.searched.clone();
        bounds.resize(here.len(), i128::MIN);
        bounds
            .into_iter()
            .zip(here)
            .map(|(a, b)| a.max(b))
            .collect()
    }

    fn patience(&self) -> u64 {
        let vars = self.candidates.vars.len() as u64;
        (PATIENCE + PATIENCE_PER_VAR * vars).min(PATIENCE_MAX)
    }

    fn construct(&mut self) {
        let limits = Limits {
            evaluations_max: u64::MAX,
            patience: 0,
            gap_ppm: 0,
            abort: self.abort,
        };
        let mut search = Search::new(
            self.graph,
            self.state,
            self.candidates,
            self.soft,
            self.config.seed,
            limits,
        );
        search.construct(Choice::Full, None);
        self.evaluations += search.evaluations;
    }

    /// Searches, on as many threads as asked for; the best answer wins, the lowest seed among equals.
    fn search(&mut self) {
        let threads = self.config.threads.max(1);
        if threads == 1 {
            let seed = self.config.seed;
            let patience = self.patience();
            let max = self.config.evaluations_max;
            let tried = search_once(
                self.graph,
                self.state,
                self.candidates,
                self.soft,
                seed,
                Limits {
                    evaluations_max: max,
                    patience,
                    gap_ppm: self.config.gap_ppm,
                    abort: self.abort,
                },
            );
            self.evaluations += tried.evaluations;
            self.searched = tried.bounds;
            return;
        }
        let stop = AtomicBool::new(false);
        let (graph, candidates, soft) = (self.graph, self.candidates, self.soft);
        let gap_ppm = self.config.gap_ppm;
        let (seed, patience, max) = (
            self.config.seed,
            self.patience(),
            self.config.evaluations_max,
        );
        let start: &State = self.state;
        let mut answers: Vec<(State, Tried)> = Vec::new();
        let abort = &mut *self.abort;
        std::thread::scope(|scope| {
            let stop = &stop;
            let others: Vec<_> = (1..u64::from(threads))
                .map(|index| {
                    let mut state = start.clone();
                    scope.spawn(move || {
                        let mut abort = || stop.load(Atomic::Relaxed);
                        let limits = Limits {
                            evaluations_max: max,
                            patience,
                            gap_ppm,
                            abort: &mut abort,
                        };
                        let seed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9));
                        let tried = search_once(graph, &mut state, candidates, soft, seed, limits);
                        (state, tried)
                    })
                })
                .collect();
            let mut state = start.clone();
            let mut both = || {
                let now = abort();
                if now {
                    stop.store(true, Atomic::Relaxed);
                }
                now
            };
            let limits = Limits {
                evaluations_max: max,
                patience,
                gap_ppm,
                abort: &mut both,
            };
            let tried = search_once(graph, &mut state, candidates, soft, seed, limits);
            answers.push((state, tried));
            for other in others {
                // A search that panicked has no answer; the others do.
                if let Ok(answer) = other.join() {
                    answers.push(answer);
                }
            }
        });
        for (_, tried) in &answers {
            self.evaluations += tried.evaluations;
            self.searched.resize(tried.bounds.len(), i128::MIN);
            for (best, &bound) in self.searched.iter_mut().zip(&tried.bounds) {
                *best = (*best).max(bound);
            }
        }
        let best = answers.into_iter().reduce(|best, other| {
            match compare_declared(&other.0.totals, &best.0.totals) {
                Ordering::Less => other,
                Ordering::Equal | Ordering::Greater => best,
            }
        });
        if let Some((state, _)) = best {
            *self.state = state;
        }
    }

    fn cut(&mut self) -> Option<Core> {
        let shortfall = Cuts::new(self.graph, self.state, self.candidates).shortfall()?;
        Some(Core {
            rows: shortfall.rows,
            minimal: false,
            shortage: Some(Shortage {
                needed: shortfall.needed,
                available: shortfall.available,
            }),
        })
    }

    fn exact(&mut self, feasible: bool) -> Result<Outcome, ModelError> {
        let mut budget = Budget {
            rounds_max: self.config.conflicts_max,
            seed: self.config.seed,
            abort: self.abort,
        };
        let verdict = exact::solve(
            self.graph,
            self.state,
            self.candidates,
            feasible,
            self.config.solutions,
            &mut budget,
        );
        match verdict {
            Verdict::Optimal {
                values,
                solutions,
                complete,
            } => {
                self.adopt(&values);
                let bounds = self.state.totals.tiers.clone();
                self.check_overflow()?;
                let mut outcome = self.answer_with(Status::Optimal, None, bounds);
                outcome.solutions = solutions;
                outcome.solutions_complete = complete;
                Ok(outcome)
            }
            Verdict::Infeasible => self.infeasible(),
            Verdict::Unknown { values, settled } => {
                if let Some(values) = values {
                    self.adopt(&values);
                }
                let found = self.is_complete() && self.state.totals.hinge == 0;
                let mut bounds = if self.is_complete() {
                    self.bounds()
                } else {
                    Vec::new()
                };
                for (bound, value) in bounds
                    .iter_mut()
                    .zip(&self.state.totals.tiers)
                    .take(settled)
                {
                    *bound = *value;
                }
                self.check_overflow()?;
                let proved = found && bounds == self.state.totals.tiers;
                let status = match (found, proved) {
                    (true, true) => Status::Optimal,
                    (true, false) => Status::Feasible,
                    (false, _) => Status::Unknown,
                };
                Ok(self.answer_with(status, None, bounds))
            }
        }
    }

    /// Takes an assignment, and then back what of it changes nothing: equal optima are split by fewest changes.
    fn adopt(&mut self, values: &Assignment) {
        for &(var, value) in values {
            self.state.assign(self.graph, var, value.unwrap_or(UNSET));
        }
        self.state.propagate(self.graph);
        let limits = Limits {
            evaluations_max: u64::MAX,
            patience: 0,
            gap_ppm: 0,
            abort: self.abort,
        };
        let mut search = Search::new(
            self.graph,
            self.state,
            self.candidates,
            self.soft,
            self.config.seed,
            limits,
        );
        search.revert();
        self.evaluations += search.evaluations;
    }

    /// Infeasible, with a core.
    fn infeasible(&mut self) -> Result<Outcome, ModelError> {
        let core = self.core();
        Ok(self.answer(Status::Infeasible, Some(core)))
    }

    fn core(&mut self) -> Core {
        let declared = Candidates::new(self.graph, self.candidates.vars.clone(), Unary::Kept);
        // A decision without candidates is a whole core by itself.
        let blocked = self
            .candidates
            .vars
            .iter()
            .copied()
            .find(|&var| self.candidates.of(var).is_empty());
        if let Some(var) = blocked {
            return self.core_of_one(var, &declared);
        }
        let mut budget = Budget {
            rounds_max: self.config.conflicts_max,
            seed: self.config.seed,
            abort: self.abort,
        };
        exact::core(self.graph, self.state, &declared, Rows::All, &mut budget).unwrap_or_else(
            || Core {
                // The proof stands, its reason was not found: everything that may have to do with it.
                rows: self.broken(),
                minimal: false,
                shortage: None,
            },
        )
    }

    /// A proof of infeasibility from the blocks around one broken row: a shard whose own policies conflict is found
    /// in a cluster of any size.
    fn local_core(&mut self) -> Option<Core> {
        let broken: Vec<_> = self.state.broken.iter().take(LOCAL_TRIES).collect();
        for broken in broken {
            let limits = Limits {
                evaluations_max: u64::MAX,
                patience: 0,
                gap_ppm: 0,
                abort: self.abort,
            };
            let mut search = Search::new(
                self.graph,
                self.state,
                self.candidates,
                self.soft,
                0,
                limits,
            );
            let mut vars: Vec<VarId> = Vec::new();
            for _ in 0..LOCAL_SAMPLES {
                let Some(var) = search.aim_at_broken(broken) else {
                    continue;
                };
                let block = self.graph.vars.block[var.index()] as usize;
                for &member in &self.graph.blocks[block] {
                    if self.candidates.is_free(member) && !vars.contains(&member) {
                        vars.push(member);
                    }
                }
                if vars.len() > LOCAL_VARS_MAX {
                    break;
                }
            }
            drop(search);
            vars.sort_unstable();
            let declared = Candidates::new(self.graph, vars, Unary::Kept);
            if declared.vars.is_empty() || declared.size() > EXACT_PAIRS_MAX {
                continue;
            }
            let mut budget = Budget {
                rounds_max: self.config.conflicts_max,
                seed: self.config.seed,
                abort: self.abort,
            };
            let core = exact::core(self.graph, self.state, &declared, Rows::Closed, &mut budget);
            if core.is_some() {
                return core;
            }
        }
        None
    }

    /// The rows over one decision that leave it nothing to choose, none of them in vain.
    fn core_of_one(&self, var: VarId, declared: &Candidates) -> Core {
        let mut roots = self.candidates.unary_roots(var).to_vec();
        let blocked = |roots: &[u32]| {
            declared.of(var).iter().all(|&value| {
                roots.iter().any(|&root| {
                    let expr = self.graph.roots.root[root as usize].expr;
                    value_at(self.graph, expr.index() as u32, value) == 0
                })
            })
        };
        let mut index = 0;
        while index < roots.len() {
            let root = roots.remove(index);
            if !blocked(&roots) {
                roots.insert(index, root);
                index += 1;
            }
        }
        let mut rows: Vec<RowRef> = roots
            .into_iter()
            .map(|root| {
                let root = self.graph.roots.root[root as usize];
                RowRef::Root {
                    policy: root.policy,
                    row: root.row,
                }
            })
            .collect();
        rows.sort_unstable();
        Core {
            rows,
            minimal: true,
            shortage: None,
        }
    }

    fn broken(&self) -> Vec<RowRef> {
        crate::graph::violations(self.graph, self.state)
            .into_iter()
            .map(|violation| violation.source)
            .collect()
    }

    /// What the search computes with wraps silently beyond 127 bits; the answer is checked.
    fn check_overflow(&self) -> Result<(), ModelError> {
        if self.state.overflowed(self.graph) {
            Err(ModelError::Overflow)
        } else {
            Ok(())
        }
    }

    fn answer(&self, status: Status, core: Option<Core>) -> Outcome {
        self.answer_with(status, core, Vec::new())
    }

    fn answer_with(&self, status: Status, core: Option<Core>, bounds: Vec<i128>) -> Outcome {
        let values: Assignment = self
            .candidates
            .vars
            .iter()
            .map(|&var| match self.state.assignment[var.index()] {
                UNSET => (var, None),
                value => (var, Some(value)),
            })
            .collect();
        let decided = matches!(status, Status::Optimal | Status::Feasible);
        let declared = self.graph.roots.tiers.iter().zip(&self.state.totals.tiers);
        let tiers = declared
            .zip(bounds)
            .filter(|_| decided)
            .map(|((&tier, &value), bound)| TierOutcome {
                tier,
                value,
                bound: bound.min(value),
            })
            .collect();
        Outcome {
            status,
            tiers,
            values,
            broken: if decided { Vec::new() } else { self.broken() },
            core,
            solutions: Vec::new(),
            solutions_complete: false,
            evaluations: self.evaluations,
        }
    }
}

fn search_once<'a>(
    graph: &'a Graph,
    state: &'a mut State,
    candidates: &'a Candidates,
    soft: &'a [u32],
    seed: u64,
    limits: Limits<'a>,
) -> Tried {
    let mut search = Search::new(graph, state, candidates, soft, seed, limits);
    search.run(seed);
    Tried {
        evaluations: search.evaluations,
        bounds: search.bounds,
    }
}

/// What a search leaves besides its assignment.
struct Tried {
    evaluations: u64,
    bounds: Vec<i128>,
}
