//! Plans of any size: every round takes all moves that fit.
//!
//! When nothing fits, decisions wait for each other in a circle. One of each circle is parked on a value where it
//! disturbs nothing, which frees the place that another waits for.

use std::collections::{BTreeMap, BTreeSet};

use super::safety::{Safety, Unit};
use super::{Change, Config, Plan, Status, apply, obstacles};
use crate::graph::{Model, ModelError, VarId};

/// Whether a decision may go somewhere else first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parking {
    Never,
    Allowed,
}

/// Values tried as a parking place.
const PARKING_VALUES: usize = 48;
/// Decisions tried before a round gives up parking.
const PARKING_VARS: usize = 256;

pub(super) fn plan(
    model: &mut Model,
    targets: &[(VarId, Option<u32>)],
    config: &Config,
    parking: Parking,
) -> Result<Plan, ModelError> {
    let mut remaining: BTreeMap<VarId, Option<u32>> = targets.iter().copied().collect();
    let mut steps = Vec::new();
    let mut parked: BTreeSet<VarId> = BTreeSet::new();
    while !remaining.is_empty() {
        let mut step = Safety::default();
        let mut taken: BTreeSet<VarId> = BTreeSet::new();
        for (&var, &to) in &remaining {
            if taken.contains(&var) {
                continue;
            }
            let single = change(model, var, to);
            if step.add(model, vec![single], config)? {
                taken.insert(var);
                continue;
            }
            let unit = companions(model, single, &remaining);
            let free = unit.iter().all(|change| !taken.contains(&change.var));
            if unit.len() > 1 && free && step.add(model, unit.clone(), config)? {
                taken.extend(unit.iter().map(|change| change.var));
            }
        }
        if taken.is_empty() {
            let stuck = parking == Parking::Never || parked.len() > targets.len();
            let moves = if stuck {
                Vec::new()
            } else {
                park(model, &remaining, &mut parked, config)?
            };
            if moves.is_empty() {
                let left: Vec<_> = remaining.iter().map(|(&var, &to)| (var, to)).collect();
                let blocked_by = obstacles(model, &left)?;
                return Ok(Plan {
                    status: Status::NoneFound,
                    steps,
                    blocked_by,
                });
            }
            apply(model, &moves)?;
            steps.push(moves);
            continue;
        }
        let step = step.into_step();
        apply(model, &step)?;
        for change in &step {
            remaining.remove(&change.var);
        }
        steps.push(step);
    }
    Ok(Plan {
        status: Status::Complete,
        steps,
        blocked_by: Vec::new(),
    })
}

fn change(model: &Model, var: VarId, to: Option<u32>) -> Change {
    Change {
        var,
        from: model.current(var),
        to,
    }
}

/// The remaining changes of the same block between the same two values.
pub(super) fn companions(
    model: &Model,
    single: Change,
    remaining: &BTreeMap<VarId, Option<u32>>,
) -> Unit {
    let mut unit = vec![single];
    for &other in model.block_of(single.var) {
        let same = other != single.var
            && remaining.get(&other) == Some(&single.to)
            && model.current(other) == single.from
            && model.domain_of(other) == model.domain_of(single.var);
        if same {
            unit.push(change(model, other, single.to));
        }
    }
    unit
}

/// Moves out of the way, side by side, each of which lets some remaining change through.
fn park(
    model: &mut Model,
    remaining: &BTreeMap<VarId, Option<u32>>,
    parked: &mut BTreeSet<VarId>,
    config: &Config,
) -> Result<Vec<Change>, ModelError> {
    // Who waits for a value, so that only decisions in somebody's way are parked.
    let mut waiting: BTreeMap<(u32, Option<u32>), Vec<VarId>> = BTreeMap::new();
    for (&var, &to) in remaining {
        let domain = model.domain_of(var).index() as u32;
        waiting.entry((domain, to)).or_default().push(var);
    }
    let mut step = Safety::default();
    let mut served: BTreeSet<VarId> = BTreeSet::new();
    let mut found = false;
    for (&var, &to) in remaining.iter().take(PARKING_VARS) {
        if parked.contains(&var) || served.contains(&var) {
            continue;
        }
        let from = model.current(var);
        let domain = model.domain_of(var).index() as u32;
        // Members of its block wait as well: for its zone, where they do not wait for its node.
        let block = model.block_of(var).iter().copied();
        let waiters: Vec<VarId> = waiting
            .get(&(domain, from))
            .into_iter()
            .flatten()
            .copied()
            .chain(block.filter(|member| remaining.contains_key(member)))
            .filter(|waiter| !served.contains(waiter))
            .collect();
        let values = model.permitted_values(var);
        let stride = (values.len() / PARKING_VALUES).max(1);
        let start = var.index() % stride;
        'values: for &value in values.iter().skip(start).step_by(stride) {
            if Some(value) == from || Some(value) == to {
                continue;
            }
            let away = change(model, var, Some(value));
            if !Safety::breaks(model, &[(var, Some(value))])?.is_empty() {
                continue;
            }
            for &waiter in waiters.iter().take(8) {
                if waiter == var {
                    continue;
                }
                let both = [(var, Some(value)), (waiter, remaining[&waiter])];
                if Safety::breaks(model, &both)?.is_empty()
                    && step.add(model, vec![away], config)?
                {
                    parked.insert(var);
                    served.insert(waiter);
                    served.insert(var);
                    found = true;
                    break 'values;
                }
            }
        }
    }
    Ok(if found { step.into_step() } else { Vec::new() })
}
