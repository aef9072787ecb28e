//! The order in which methods are asked, and what their answers amount to.

use std::borrow::Cow;

use super::bound::{Demands, lower_bounds};
use super::candidates::{Candidates, Unary};
use super::construct::Choice;
use super::exact::{self, Budget, Verdict};
use super::portfolio::Task;
use super::reach::soft_roots;
use super::search::{Limits, Search};
use super::{Assignment, Config, Core, Outcome, Relaxation, Scope, Solver, Status, TierOutcome};
use crate::graph::internal::{Graph, State, UNSET};
use crate::graph::{Model, ModelError, RowRef, VarId};

/// The exact solver is asked without being told to up to this many pairs of a choice and a value, of which values that
/// nothing tells apart count once for each choice that must be able to differ.
pub(super) const EXACT_PAIRS_MAX: usize = 20_000;
/// Before they are counted, there are at most so many; where an answer is known already and only its proof is missing,
/// at most the smaller number.
pub(super) const PAIRS_MAX: usize = 2_000_000;
const KNOWN_PAIRS_MAX: usize = 40_000;

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
        bounds_may_rise: true,
    };
    let outcome = case.decide();
    for &var in &candidates.vars {
        let current = model.graph.vars.current[var.index()];
        model.state.assign(&model.graph, var, current);
    }
    model.state.propagate(&model.graph);
    outcome
}

pub(super) fn relax(
    model: &mut Model,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Option<Relaxation>, ModelError> {
    model.refresh()?;
    let mut candidates = Candidates::new(&model.graph, model.vars().collect(), Unary::Kept);
    if candidates.size() > PAIRS_MAX {
        return Ok(None);
    }
    if candidates.size() > EXACT_PAIRS_MAX {
        match exact::kernel(&model.graph, &model.state, &candidates) {
            Some(kernel) if kernel.size() <= EXACT_PAIRS_MAX => candidates = kernel,
            Some(_) | None => return Ok(None),
        }
    }
    let mut budget = Budget::new(config, abort);
    Ok(exact::relax(
        &model.graph,
        &model.state,
        &candidates,
        &mut budget,
    ))
}

/// One question: what is decided, where, and what has been found out so far.
pub(super) struct Case<'a> {
    pub graph: &'a Graph,
    pub state: &'a mut State,
    pub candidates: &'a Candidates,
    soft: &'a [u32],
    pub config: &'a Config,
    pub abort: &'a mut dyn FnMut() -> bool,
    evaluations: u64,
    /// The best bounds that searches came by.
    searched: Vec<i128>,
    bounds_may_rise: bool,
}

impl<'a> Case<'a> {
    fn decide(&mut self) -> Result<Outcome, ModelError> {
        let vars = &self.candidates.vars;
        if vars.iter().any(|&var| self.candidates.of(var).is_empty()) {
            return Ok(self.infeasible());
        }
        match self.config.solver {
            Solver::Auto | Solver::Search => self.search(),
            Solver::Greedy => {
                let mut search = self.hand();
                search.aim_at_first_maximum();
                search.construct(Choice::Full, None);
                self.evaluations += search.evaluations;
            }
            Solver::Flow => super::flow::assign(self.graph, self.state, self.candidates),
            Solver::Exact => {}
        }
        let feasible = self.is_feasible();
        if self.config.solver != Solver::Exact && self.is_complete() && !feasible {
            let mut core = self.cut();
            let exact = self.exact_candidates();
            if core.is_some() && exact.is_some() {
                // A count is proof enough, and names more rows than it must.
                core = self.smallest_core().or(core);
            } else if core.is_none() && self.config.solver == Solver::Auto && exact.is_none() {
                core = self.local_core();
            }
            if core.is_some() {
                return Ok(self.answer(Status::Infeasible, core, Vec::new()));
            }
        }
        let bounds = self.bounds();
        let (status, proved) = self.judge(&bounds);
        if (!proved || self.config.solutions > 0)
            && let Some(candidates) = self.exact_candidates()
        {
            return self.exact(&candidates);
        }
        self.check_overflow()?;
        Ok(self.answer(status, None, bounds))
    }

    /// Whether every decision has a value that it may have.
    fn is_complete(&self) -> bool {
        self.candidates.vars.iter().all(|&var| {
            self.candidates
                .permits(var, self.state.assignment[var.index()])
        })
    }

    fn is_feasible(&self) -> bool {
        self.is_complete() && self.state.totals.hinge == 0
    }

    /// What an assignment with these bounds amounts to, and whether anything is left to prove.
    fn judge(&self, bounds: &[i128]) -> (Status, bool) {
        match (self.is_feasible(), *bounds == self.state.totals.tiers) {
            (true, true) => (Status::Optimal, true),
            (true, false) => (Status::Feasible, false),
            (false, _) => (Status::Unknown, false),
        }
    }

    /// The best bounds known, the searches' and those at the answer; none at an assignment that is not complete.
    fn bounds(&self) -> Vec<i128> {
        if !self.is_complete() {
            return Vec::new();
        }
        if !self.bounds_may_rise {
            return self.searched.clone();
        }
        let demands = &mut Demands::default();
        let here = lower_bounds(self.graph, self.state, self.candidates, self.soft, demands).tiers;
        let mut bounds = self.searched.clone();
        bounds.resize(here.len(), i128::MIN);
        bounds
            .into_iter()
            .zip(here)
            .map(|(a, b)| a.max(b))
            .collect()
    }

    /// A search that does only what it is told: without budgets of its own.
    pub(super) fn hand(&mut self) -> Search<'_> {
        let limits = Limits {
            evaluations_max: u64::MAX,
            patience: 0,
            gap_ppm: 0,
            abort: self.abort,
        };
        let (graph, candidates, seed) = (self.graph, self.candidates, self.config.seed);
        Search::new(graph, self.state, candidates, self.soft, seed, limits)
    }

    fn search(&mut self) {
        let task = Task {
            graph: self.graph,
            candidates: self.candidates,
            soft: self.soft,
            config: self.config,
        };
        let searched = task.search(self.state, self.abort);
        self.evaluations += searched.evaluations;
        self.searched = searched.bounds;
        self.bounds_may_rise = searched.bounds_may_rise;
        if self.state.totals.hinge > 0
            && let Some(untied) = self.candidates.untied()
        {
            // Nothing holds all rows, as it seems: which of them to miss is then a question about those that tie, too.
            let candidates = &untied;
            let searched = Task { candidates, ..task }.search(self.state, self.abort);
            self.evaluations += searched.evaluations;
        }
    }

    /// The decisions as the exact solver gets them, if it is asked: with few of the values that nothing tells apart,
    /// unless all solutions are wanted.
    fn exact_candidates(&self) -> Option<Cow<'a, Candidates>> {
        let all = Cow::Borrowed(self.candidates);
        let told = match self.config.solver {
            Solver::Exact => true,
            Solver::Auto => self.config.solutions > 0,
            Solver::Search | Solver::Flow | Solver::Greedy => return None,
        };
        let size = self.candidates.size();
        let most = match self.is_feasible() {
            true => KNOWN_PAIRS_MAX,
            false => PAIRS_MAX,
        };
        if self.config.solutions > 0 || (!told && size > most) {
            return told.then_some(all);
        }
        let few = exact::kernel(self.graph, self.state, self.candidates).map(Cow::Owned);
        let few = few.unwrap_or(all);
        (told || few.size() <= EXACT_PAIRS_MAX).then_some(few)
    }

    fn exact(&mut self, candidates: &Candidates) -> Result<Outcome, ModelError> {
        let feasible = self.is_feasible();
        let solutions_max = self.config.solutions;
        let mut budget = Budget::new(self.config, self.abort);
        let verdict = exact::solve(
            self.graph,
            self.state,
            candidates,
            feasible,
            solutions_max,
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
                let mut outcome = self.answer(Status::Optimal, None, bounds);
                outcome.solutions = solutions;
                outcome.solutions_complete = complete;
                Ok(outcome)
            }
            Verdict::Infeasible => Ok(self.infeasible()),
            Verdict::Unknown { values, settled } => {
                if let Some(values) = values {
                    self.adopt(&values);
                }
                let mut bounds = self.bounds();
                let tiers = self.state.totals.tiers.iter();
                for (bound, value) in bounds.iter_mut().zip(tiers).take(settled) {
                    *bound = *value;
                }
                self.check_overflow()?;
                let (status, _) = self.judge(&bounds);
                Ok(self.answer(status, None, bounds))
            }
        }
    }

    /// Takes an assignment, and then back what of it changes nothing: equal optima are split by fewest changes.
    fn adopt(&mut self, values: &Assignment) {
        for &(var, value) in values {
            self.state.assign(self.graph, var, value.unwrap_or(UNSET));
        }
        self.state.propagate(self.graph);
        let mut search = self.hand();
        search.revert();
        self.evaluations += search.evaluations;
    }

    /// Infeasible, with a core.
    fn infeasible(&mut self) -> Outcome {
        let core = self.core();
        self.answer(Status::Infeasible, Some(core), Vec::new())
    }

    pub(super) fn broken(&self) -> Vec<RowRef> {
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

    fn answer(&self, status: Status, core: Option<Core>, bounds: Vec<i128>) -> Outcome {
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
        debug_assert!(
            !decided
                || bounds
                    .iter()
                    .zip(&self.state.totals.tiers)
                    .all(|(b, v)| b <= v),
            "a bound is below every value"
        );
        let declared = self.graph.roots.tiers.iter().zip(&self.state.totals.tiers);
        let tiers = declared
            .zip(bounds)
            .filter(|_| decided)
            .map(|((&tier, &value), bound)| TierOutcome {
                tier,
                value,
                bound: (bound != i128::MIN).then(|| bound.min(value)),
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
