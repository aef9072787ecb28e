//! From the present values to the decided ones in safe steps.
//!
//! While a replica moves it stands at both ends. A group that holds both ends counts it once, an upper limit at either
//! end counts it there, and what needs a copy sees the new one only when it has caught up. All of that is one rule
//! over single-valued decisions: *whichever of a step's moves have finished, every hard row holds*. The limit at the
//! destination is met by the states in which the move has finished, the one at the source by those in which it has
//! not, and a move within a zone is in the zone either way.
//!
//! A row that is broken at the start may stay broken until it is repaired, but never by more; no row that holds
//! breaks. Rows of deferrable policies need to hold at the end only.
//!
//! Decisions of one block that leave one value for another together (a replica and the leadership on it) are one
//! unit: the copy is added, then leadership is transferred, then the old copy is removed, so whatever refers to the
//! copy finds it at one end or the other.

mod ordered;
mod rounds;
mod safety;
#[cfg(test)]
mod tests;

use crate::graph::{Model, ModelError, RowRef, VarId};
use safety::Safety;

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
            states_max: 20_000,
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

/// Up to this many changes are ordered by a complete search when the simple order fails.
const COMPLETE_MAX: usize = 12;

/// Orders the changes from the present values to `targets`, as few moves as possible first. The model keeps its
/// present values.
pub fn plan(
    model: &mut Model,
    targets: &[(VarId, Option<u32>)],
    config: &Config,
) -> Result<Plan, ModelError> {
    model.refresh()?;
    let mut targets: Vec<(VarId, Option<u32>)> = targets
        .iter()
        .copied()
        .filter(|&(var, to)| model.current(var) != to)
        .collect();
    targets.sort_unstable();
    targets.dedup_by_key(|&mut (var, _)| var);
    let present: Vec<(VarId, Option<u32>)> = targets
        .iter()
        .map(|&(var, _)| (var, model.current(var)))
        .collect();
    let result = order(model, &targets, config);
    for (var, value) in present {
        model.set_current(var, value);
    }
    model.refresh()?;
    result
}

fn order(
    model: &mut Model,
    targets: &[(VarId, Option<u32>)],
    config: &Config,
) -> Result<Plan, ModelError> {
    // Deferrable rows must hold at the end as well: a target that breaks anything has no plan.
    let end = model.probe(targets)?;
    if !end.broken.is_empty() {
        let blocked_by = end
            .broken
            .into_iter()
            .map(|violation| violation.source)
            .collect();
        return Ok(Plan {
            status: Status::NoSafeOrder,
            steps: Vec::new(),
            blocked_by,
        });
    }
    let start: Vec<(VarId, Option<u32>)> = targets
        .iter()
        .map(|&(var, _)| (var, model.current(var)))
        .collect();
    let direct = rounds::plan(model, targets, config, rounds::Parking::Never)?;
    if direct.status == Status::Complete {
        return Ok(direct);
    }
    reset(model, &start)?;
    if targets.len() <= COMPLETE_MAX {
        return ordered::plan(model, targets, config, direct.blocked_by);
    }
    let parked = rounds::plan(model, targets, config, rounds::Parking::Allowed)?;
    reset(model, &start)?;
    Ok(parked)
}

fn reset(model: &mut Model, values: &[(VarId, Option<u32>)]) -> Result<(), ModelError> {
    for &(var, value) in values {
        model.set_current(var, value);
    }
    model.refresh()
}

/// Applies changes for good.
fn apply(model: &mut Model, changes: &[Change]) -> Result<(), ModelError> {
    for change in changes {
        model.set_current(change.var, change.to);
    }
    model.refresh()
}

/// The rows in the way of the changes that remain.
fn obstacles(
    model: &mut Model,
    remaining: &[(VarId, Option<u32>)],
) -> Result<Vec<RowRef>, ModelError> {
    let mut rows = Vec::new();
    for &target in remaining {
        for row in Safety::breaks(model, &[target])? {
            rows.push(row);
        }
    }
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
}
