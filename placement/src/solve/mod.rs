//! Deciding: from a model and its present values to values for the decisions in scope, with a proof or a gap.
//!
//! Four answers, never confused: *optimal* (every tier's bound is met), *feasible* (all hard rows hold; the bound says
//! how far from optimal it can be), *infeasible* (proved by an exhausted exact model or by a cut, with a core of
//! policy rows), *unknown* (the budget ended first). A time-out is the last, never the third.

mod aim;
mod bound;
mod candidates;
mod construct;
mod decide;
mod exact;
mod flow;
mod holders;
mod improve;
mod portfolio;
mod reach;
mod reasons;
mod repair;
mod revert;
mod rng;
mod run;
mod search;
#[cfg(test)]
mod tests;
mod ties;

pub(crate) use rng::Rng;

use crate::graph::{Model, ModelError, RowRef, VarId};

/// Which method decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Solver {
    /// Search, with exact proofs where the problem is small enough for them.
    #[default]
    Auto,
    /// Local search from the present values.
    Search,
    /// The constraint solver alone.
    Exact,
    /// Min-cost max-flow on the linear part of the model; a baseline.
    Flow,
    /// Largest first, each where it fits best; a baseline.
    Greedy,
}

/// Which decisions may change.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All.
    All,
    /// These; all others keep their present values, and are constants for bounds and proofs.
    Vars(&'a [VarId]),
}

/// Budgets and the seed. They count work, not time: the same inputs give the same answer on any machine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which method decides.
    pub solver: Solver,
    /// Seed of the search's random choices.
    pub seed: u64,
    /// Moves that the search may try.
    pub evaluations_max: u64,
    /// Conflicts that the exact solver may meet, in each of its runs.
    pub conflicts_max: u64,
    /// Parts per million of a tier's value that are not worth searching for, nor moving anything for: the search stops
    /// when a tier is this close to its bound, and an answer that is better by less than this than what stands now is
    /// not given. Without effect on tiers whose values are small.
    pub gap_ppm: u32,
    /// Searches run side by side with different seeds; the best answer wins. More than one is reproducible too.
    pub threads: u32,
    /// How many distinct best solutions to list; 0 lists none.
    pub solutions: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            solver: Solver::Auto,
            seed: 0,
            evaluations_max: 2_000_000,
            conflicts_max: 20_000,
            gap_ppm: 200,
            threads: 1,
            solutions: 0,
        }
    }
}

/// What was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All hard rows hold and no better assignment exists in any tier.
    Optimal,
    /// All hard rows hold.
    Feasible,
    /// No assignment satisfies all hard rows.
    Infeasible,
    /// Neither an assignment nor a proof was found within the budget.
    Unknown,
}

/// A tier's sum and what it cannot be better than, given the values reported for the tiers before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierOutcome {
    /// The declared tier.
    pub tier: u32,
    /// Its sum at the answer.
    pub value: i128,
    /// A proved lower bound of it, if there is any.
    pub bound: Option<i128>,
}

/// Policy rows that cannot hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// The rows, in the order of their names.
    pub rows: Vec<RowRef>,
    /// Whether it is proved that no row can be dropped.
    pub minimal: bool,
    /// Where the proof is a count: what the rows need in total, and what there is.
    pub shortage: Option<Shortage>,
}

/// A pigeonhole proof in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The least that must be placed.
    pub needed: i128,
    /// The most that can be.
    pub available: i128,
}

/// Hard rows to give up, so that the rest can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relaxation {
    /// The rows, in the order of their names.
    pub rows: Vec<RowRef>,
    /// Whether it is proved that fewer will not do.
    pub minimal: bool,
}

/// One assignment of the decisions in scope.
pub type Assignment = Vec<(VarId, Option<u32>)>;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was proved.
    pub status: Status,
    /// Each declared tier; empty when none is declared, or nothing feasible was found.
    pub tiers: Vec<TierOutcome>,
    /// The decisions in scope, unchanged ones too. Where hard rows are broken, the assignment that breaks them least.
    pub values: Assignment,
    /// Hard rows that `values` breaks: empty when optimal or feasible.
    pub broken: Vec<RowRef>,
    /// When infeasible: why.
    pub core: Option<Core>,
    /// As asked for by [`Config::solutions`].
    pub solutions: Vec<Assignment>,
    /// Whether `solutions` is all there are.
    pub solutions_complete: bool,
    /// Moves tried.
    pub evaluations: u64,
}

/// Decides. The model keeps its present values; apply the answer with [`Model::set_current`].
///
/// `abort` is asked now and then; once it says true the best answer so far is returned. It is the only way in which
/// time can influence an answer.
pub fn solve(
    model: &mut Model,
    scope: Scope<'_>,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Outcome, ModelError> {
    decide::decide(model, scope, config, abort)
}

/// The fewest hard rows to give up in a model whose hard rows cannot all hold. `None` when the model is too large to
/// say, or has a decision without a value to choose from: what [`Outcome::broken`] names is enough, but perhaps not
/// fewest.
pub fn relax(
    model: &mut Model,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Option<Relaxation>, ModelError> {
    decide::relax(model, config, abort)
}
