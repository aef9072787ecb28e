//! Small plans: a complete search for the fewest moves, parking included.
//!
//! A* over the values of the decisions that change; the heuristic is how many are not where they must be. Only when
//! every reachable safe state has been visited is it proved that no safe order exists.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::rounds::companions;
use super::safety::{Safety, Unit, pairs};
use super::{Change, Config, Plan, Status, apply, obstacles, reset};
use crate::graph::{Model, ModelError, RowRef, VarId};

type Values = Vec<Option<u32>>;

struct Visited {
    moves: u32,
    from: Option<(Values, Unit)>,
}

pub(super) fn plan(
    model: &mut Model,
    targets: &[(VarId, Option<u32>)],
    config: &Config,
    blocked_by: Vec<RowRef>,
) -> Result<Plan, ModelError> {
    let vars: Vec<VarId> = targets.iter().map(|&(var, _)| var).collect();
    let goal: Values = targets.iter().map(|&(_, to)| to).collect();
    let start: Values = vars.iter().map(|&var| model.current(var)).collect();
    let distance = |values: &Values| {
        values
            .iter()
            .zip(&goal)
            .filter(|(value, goal)| value != goal)
            .count() as u32
    };
    // A unit moves several decisions at once, so the heuristic must not count them singly to stay admissible.
    let widest = vars
        .iter()
        .map(|&var| shared(model, &vars, var))
        .max()
        .unwrap_or(1)
        .max(1);
    let heuristic = |values: &Values| distance(values).div_ceil(widest);

    let mut visited: BTreeMap<Values, Visited> = BTreeMap::new();
    let mut open = BinaryHeap::new();
    visited.insert(
        start.clone(),
        Visited {
            moves: 0,
            from: None,
        },
    );
    open.push(Reverse((
        heuristic(&start),
        distance(&start),
        start.clone(),
    )));
    let mut budget = config.states_max;
    while let Some(Reverse((estimate, _, values))) = open.pop() {
        let moves = visited[&values].moves;
        if estimate > moves + heuristic(&values) {
            continue;
        }
        let present: Vec<(VarId, Option<u32>)> =
            vars.iter().copied().zip(values.iter().copied()).collect();
        if values == goal {
            let units = path(&visited, &values);
            return pack(model, &vars, &start, units, config);
        }
        if budget == 0 {
            restore(model, &vars, &start)?;
            return Ok(Plan {
                status: Status::NoneFound,
                steps: Vec::new(),
                blocked_by,
            });
        }
        budget -= 1;
        reset(model, &present)?;
        for unit in units(model, targets, &values) {
            if !Safety::breaks(model, &pairs(&unit))?.is_empty() {
                continue;
            }
            let mut next = values.clone();
            for change in &unit {
                if let Ok(index) = vars.binary_search(&change.var) {
                    next[index] = change.to;
                }
            }
            let better = visited
                .get(&next)
                .is_none_or(|known| moves + 1 < known.moves);
            if better {
                open.push(Reverse((
                    moves + 1 + heuristic(&next),
                    distance(&next),
                    next.clone(),
                )));
                let from = Some((values.clone(), unit));
                visited.insert(
                    next,
                    Visited {
                        moves: moves + 1,
                        from,
                    },
                );
            }
        }
    }
    restore(model, &vars, &start)?;
    let blocked_by = if blocked_by.is_empty() {
        obstacles(model, targets)?
    } else {
        blocked_by
    };
    Ok(Plan {
        status: Status::NoSafeOrder,
        steps: Vec::new(),
        blocked_by,
    })
}

fn shared(model: &Model, vars: &[VarId], var: VarId) -> u32 {
    model
        .block_of(var)
        .iter()
        .filter(|other| vars.contains(other))
        .count() as u32
}

fn restore(model: &mut Model, vars: &[VarId], values: &Values) -> Result<(), ModelError> {
    let present: Vec<_> = vars.iter().copied().zip(values.iter().copied()).collect();
    reset(model, &present)
}

/// Every single move of a decision that changes, and every move together with its companions.
fn units(model: &Model, targets: &[(VarId, Option<u32>)], values: &Values) -> Vec<Unit> {
    let mut units = Vec::new();
    let remaining: BTreeMap<VarId, Option<u32>> = targets
        .iter()
        .zip(values)
        .filter(|((_, to), value)| to != *value)
        .map(|(&target, _)| target)
        .collect();
    for (&(var, to), &from) in targets.iter().zip(values) {
        if to != from {
            let single = Change { var, from, to };
            units.push(vec![single]);
            let unit = companions(model, single, &remaining);
            if unit.len() > 1 && unit.iter().all(|change| change.var >= var) {
                units.push(unit);
            }
        }
        for value in model.permitted_values(var) {
            if Some(value) != from && Some(value) != to {
                units.push(vec![Change {
                    var,
                    from,
                    to: Some(value),
                }]);
            }
        }
    }
    units
}

fn path(visited: &BTreeMap<Values, Visited>, end: &Values) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut at = end;
    while let Some((before, unit)) = visited[at].from.as_ref() {
        units.push(unit.clone());
        at = before;
    }
    units.reverse();
    units
}

/// Runs as many moves side by side as can be, in the order found.
fn pack(
    model: &mut Model,
    vars: &[VarId],
    start: &Values,
    units: Vec<Unit>,
    config: &Config,
) -> Result<Plan, ModelError> {
    restore(model, vars, start)?;
    let mut steps = Vec::new();
    let mut step = Safety::default();
    let mut moving: Vec<VarId> = Vec::new();
    for unit in units {
        let again = unit.iter().any(|change| moving.contains(&change.var));
        if again || !step.add(model, unit.clone(), config)? {
            let done = std::mem::take(&mut step).into_step();
            apply(model, &done)?;
            steps.push(done);
            moving.clear();
            step.add(model, unit.clone(), config)?;
        }
        moving.extend(unit.iter().map(|change| change.var));
    }
    let done = step.into_step();
    if !done.is_empty() {
        apply(model, &done)?;
        steps.push(done);
    }
    steps.retain(|step| !step.is_empty());
    restore(model, vars, start)?;
    Ok(Plan {
        status: Status::Complete,
        steps,
        blocked_by: Vec::new(),
    })
}
