//! Whether moves can run side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Config};
use crate::graph::{Model, ModelError, RowRef, VarId};

/// Moves that may share rows with one more; beyond this all subsets are too many to check, and it waits.
const SHARING_MAX: usize = 6;

/// A set of changes that finish together.
pub(super) type Unit = Vec<Change>;

/// The moves of one step, each checked against every subset of those that it has to do with.
#[derive(Debug, Default)]
pub(super) struct Safety {
    units: Vec<Unit>,
    /// What each unit touches.
    touches: Vec<BTreeSet<u64>>,
    /// Units by what they touch.
    by_touch: BTreeMap<u64, Vec<usize>>,
    /// In-flight moves at each end.
    in_flight: BTreeMap<(u32, u32), u32>,
}

impl Safety {
    /// The hard rows that a change would break or worsen, those of deferrable policies aside.
    pub(super) fn breaks(
        model: &mut Model,
        changes: &[(VarId, Option<u32>)],
    ) -> Result<Vec<RowRef>, ModelError> {
        let broken = model.probe(changes)?.broken;
        Ok(broken
            .into_iter()
            .map(|violation| violation.source)
            .filter(|source| !model.is_deferrable(*source))
            .collect())
    }

    /// Adds a unit to the step, if the step stays safe.
    pub(super) fn add(
        &mut self,
        model: &mut Model,
        unit: Unit,
        config: &Config,
    ) -> Result<bool, ModelError> {
        let ends = ends(model, &unit);
        let full = |count: Option<&u32>| count.copied().unwrap_or(0) >= config.per_value_max.max(1);
        if ends.iter().any(|end| full(self.in_flight.get(end))) {
            return Ok(false);
        }
        if !Self::breaks(model, &pairs(&unit))?.is_empty() {
            return Ok(false);
        }
        let touches: BTreeSet<u64> = model.touches(&pairs(&unit)).into_iter().collect();
        let mut sharing: BTreeSet<usize> = BTreeSet::new();
        for touch in &touches {
            sharing.extend(self.by_touch.get(touch).into_iter().flatten());
            if sharing.len() > SHARING_MAX {
                return Ok(false);
            }
        }
        let sharing: Vec<usize> = sharing.into_iter().collect();
        for subset in 1_u32..1 << sharing.len() {
            let mut before: Vec<(VarId, Option<u32>)> = Vec::new();
            for (bit, &other) in sharing.iter().enumerate() {
                if subset >> bit & 1 == 1 {
                    before.extend(pairs(&self.units[other]));
                }
            }
            before.extend(pairs(&unit));
            if !Self::breaks(model, &before)?.is_empty() {
                return Ok(false);
            }
        }
        let index = self.units.len();
        for &touch in &touches {
            self.by_touch.entry(touch).or_default().push(index);
        }
        for end in ends {
            *self.in_flight.entry(end).or_insert(0) += 1;
        }
        self.touches.push(touches);
        self.units.push(unit);
        Ok(true)
    }

    /// The changes of the step.
    pub(super) fn into_step(self) -> Vec<Change> {
        self.units.into_iter().flatten().collect()
    }
}

pub(super) fn pairs(unit: &[Change]) -> Vec<(VarId, Option<u32>)> {
    unit.iter().map(|change| (change.var, change.to)).collect()
}

/// The values at both ends of a unit, once each.
fn ends(model: &Model, unit: &[Change]) -> BTreeSet<(u32, u32)> {
    unit.iter()
        .flat_map(|change| {
            let domain = model.domain_of(change.var).index() as u32;
            [change.from, change.to]
                .into_iter()
                .flatten()
                .map(move |value| (domain, value))
        })
        .collect()
}
