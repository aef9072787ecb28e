//! Columns over domains whose rows, sets or groups changed: only entries that can differ are computed again.
//!
//! Maps stand in an order in which operands come first, so one pass settles them, but for the numbers of groups: those
//! follow from other columns, and others follow from them. So there are two passes, with the groups in between.
//!
//! What was compiled relied on some properties of a column as a whole: whether it has a NULL, a 0 as a divisor, text,
//! decimals, and over which denominator its numbers are whole. A change that breaks one of them compiles the problem
//! again.

use std::collections::BTreeSet;

use super::Compiler;
use super::constants::Stale;
use super::delta::rebuild;
use super::fold::Folding;
use super::maps::{DomainRef, MapRef, Operand, Recipe, denominator, integer};
use super::resolved::Operator;
use crate::error::Result;
use crate::tables::Value;

/// Which maps a pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    BeforeGroups,
    /// The numbers of these (block, component) are new.
    Groups,
}

/// Which entries of a map may differ.
enum Affected {
    None,
    Some(BTreeSet<u32>),
    All,
}

impl Compiler {
    /// Makes room in all columns over a domain for new values.
    pub(super) fn grow_maps(&mut self, domain: DomainRef, len: usize) {
        for entry in self.maps.entries.iter_mut().filter(|e| e.domain == domain) {
            entry.values.resize(len, Value::Null);
        }
    }

    /// Whether some column is made of a mirror's rows.
    pub(super) fn is_looked_up(&self, mirror: usize) -> bool {
        self.domains.iter().any(|d| d.mirror == mirror)
            || self.maps.entries.iter().any(|e| match e.recipe {
                Recipe::Find { mirror: m, .. } | Recipe::Column { mirror: m, .. } => m == mirror,
                Recipe::Slot | Recipe::Apply(..) | Recipe::Tuple { .. } => false,
            })
    }

    /// Brings columns and groups up to date.
    pub(super) fn remap(&mut self, stale: &mut Stale) -> Result<()> {
        let idle = stale.mirrors.is_empty() && stale.values.is_empty() && stale.sets.is_empty();
        if idle && stale.renames.is_empty() {
            return Ok(());
        }
        for entry in &self.maps.entries {
            if let Recipe::Find {
                mirror, columns, ..
            } = &entry.recipe
                && stale.mirrors.contains_key(mirror)
                && !self.mirrors[*mirror].mirror.is_unique(columns)
            {
                // What was looked up is now to be joined.
                return rebuild();
            }
        }
        let nothing = BTreeSet::new();
        let before = self.pass(Pass::BeforeGroups, stale, &nothing, &[])?;
        let groups = self.regroup(stale)?;
        self.pass(Pass::Groups, stale, &groups, &before)?;
        Ok(())
    }

    /// Computes what may differ, given what differed in the pass `before`; what differs now.
    fn pass(
        &mut self,
        pass: Pass,
        stale: &Stale,
        groups: &BTreeSet<(usize, usize)>,
        before: &[BTreeSet<u32>],
    ) -> Result<Vec<BTreeSet<u32>>> {
        let mut changed: Vec<BTreeSet<u32>> = Vec::with_capacity(self.maps.entries.len());
        for index in 0..self.maps.entries.len() {
            let map = MapRef(u32::try_from(index).unwrap_or(u32::MAX));
            let values = match self.affected(map, pass, stale, groups, (before, &changed)) {
                Affected::None => BTreeSet::new(),
                Affected::Some(values) => self.recompute(map, values.into_iter())?,
                Affected::All => {
                    let len = self.maps.entry(map).values.len();
                    self.recompute(map, 0..u32::try_from(len).unwrap_or(u32::MAX))?
                }
            };
            changed.push(values);
        }
        self.tell_images()?;
        Ok(changed)
    }

    fn affected(
        &self,
        map: MapRef,
        pass: Pass,
        stale: &Stale,
        groups: &BTreeSet<(usize, usize)>,
        (before, changed): (&[BTreeSet<u32>], &[BTreeSet<u32>]),
    ) -> Affected {
        let entry = self.maps.entry(map);
        let first = pass == Pass::BeforeGroups;
        let mut values = BTreeSet::new();
        match &entry.recipe {
            Recipe::Slot => {}
            Recipe::Column {
                slots,
                mirror,
                column,
            } => {
                let columns = stale.mirrors.get(mirror);
                if first && columns.is_some_and(|columns| columns.contains(column)) {
                    return Affected::All;
                }
                values.extend(&changed[slots.0 as usize]);
            }
            Recipe::Find {
                mirror,
                columns,
                keys,
            } => {
                let stale = stale.mirrors.get(mirror);
                if first && stale.is_some_and(|changed| columns.iter().any(|c| changed.contains(c)))
                {
                    return Affected::All;
                }
                add_changed(keys, changed, &mut values);
            }
            Recipe::Apply(op, list) => {
                if let (Operator::InSet(set), true) = (op, first)
                    && stale.sets.contains(set)
                {
                    return Affected::All;
                }
                add_changed(list, changed, &mut values);
            }
            Recipe::Tuple {
                block,
                component,
                cells,
            } => {
                if first {
                    return Affected::None;
                }
                // A column that was made since the pass before may have met groups that were not yet named.
                let made_since = map.0 as usize >= before.len();
                if made_since || groups.contains(&(*block, *component)) {
                    return Affected::All;
                }
                // Its cells changed in the pass before.
                add_changed(cells, before, &mut values);
            }
        }
        let fresh = stale.values.iter().filter(|(d, _)| *d == entry.domain);
        values.extend(fresh.map(|(_, value)| *value));
        match values.is_empty() {
            true => Affected::None,
            false => Affected::Some(values),
        }
    }

    /// Computes entries of a map again; those that changed.
    fn recompute(
        &mut self,
        map: MapRef,
        values: impl Iterator<Item = u32>,
    ) -> Result<BTreeSet<u32>> {
        let entry = self.maps.entry(map);
        let (domain, recipe, place) = (entry.domain, entry.recipe.clone(), entry.place);
        let mirror = self.domains[domain.0 as usize].mirror;
        let mut changed = BTreeSet::new();
        let mut args = Vec::new();
        for value in values {
            let index = value as usize;
            let live = self.mirrors[mirror].mirror.row(value).is_some();
            let new = match &recipe {
                Recipe::Apply(op, operands) if live => {
                    args.clear();
                    args.extend(operands.iter().map(|&o| self.maps.operand(o, index)));
                    let mut folding = Folding {
                        tables: &self.tables,
                        symbols: &mut self.symbols,
                        sets: &self.sets,
                    };
                    folding.fold(*op, &args, place)?
                }
                Recipe::Apply(..) => Value::Null,
                Recipe::Slot
                | Recipe::Find { .. }
                | Recipe::Column { .. }
                | Recipe::Tuple { .. } => self.map_value(domain, &recipe, index),
            };
            let old = &mut self.maps.entries[map.0 as usize].values[index];
            if *old != new {
                *old = new;
                changed.insert(value);
            }
        }
        if !changed.is_empty() {
            self.keep_properties(map, &changed)?;
        }
        Ok(changed)
    }

    /// Computes again the columns that may hold the number of one of these tuples of a component, in which a row that
    /// came or went has given it a number or taken it away.
    pub(super) fn number_entries(
        &mut self,
        (block, component): (usize, usize),
        tuples: &[Box<[Value]>],
    ) -> Result<()> {
        let may_hold = |cells: &[Operand]| {
            let agrees = |(cell, value): (&Operand, &Value)| match cell {
                Operand::Const(constant) => constant.key() == *value,
                Operand::Map(_) => true,
            };
            (tuples.iter()).any(|tuple| cells.iter().zip(tuple.iter()).all(agrees))
        };
        for index in 0..self.maps.entries.len() {
            let entry = &self.maps.entries[index];
            let holds = match &entry.recipe {
                Recipe::Tuple {
                    block: b,
                    component: c,
                    cells,
                } => (*b, *c) == (block, component) && may_hold(cells),
                Recipe::Slot | Recipe::Find { .. } | Recipe::Column { .. } | Recipe::Apply(..) => {
                    false
                }
            };
            if holds {
                let len = u32::try_from(entry.values.len()).unwrap_or(u32::MAX);
                self.recompute(MapRef(u32::try_from(index).unwrap_or(u32::MAX)), 0..len)?;
            }
        }
        self.tell_images()
    }

    /// Notes what the graph is to be told, unless something that was compiled relied on what is no more.
    fn keep_properties(&mut self, map: MapRef, changed: &BTreeSet<u32>) -> Result<()> {
        let entry = self.maps.entry(map);
        let mirror = self.domains[entry.domain.0 as usize].mirror;
        for &value in changed {
            let live = self.mirrors[mirror].mirror.row(value).is_some();
            let broken = match entry.values[value as usize] {
                Value::Null => live && !entry.has_null,
                Value::Integer(0) => entry.divides,
                Value::Integer(_) => false,
                Value::Decimal(n) => !entry.has_decimal || (n == 0 && entry.divides),
                Value::Text(_) => !entry.has_text,
            };
            let typed = match entry.values[value as usize] {
                Value::Integer(_) | Value::Decimal(_) => entry.has_text,
                Value::Null | Value::Text(_) => false,
            };
            if broken || typed {
                return rebuild();
            }
        }
        let Some((twin, den)) = entry.twin else {
            return Ok(());
        };
        let place = entry.place;
        for &value in changed {
            let constant = self.maps.entry(map).values[value as usize];
            if den % denominator(&[constant]) != 0 {
                return rebuild();
            }
            let image = integer(constant, den, place)?;
            self.images.push((twin, value, image));
        }
        Ok(())
    }

    /// Brings the graph's columns up to date with those that were computed again.
    fn tell_images(&mut self) -> Result<()> {
        let images = std::mem::take(&mut self.images);
        self.model
            .set_maps(&images)
            .map_err(|e| crate::problem::model_error(&e))
    }
}

/// Adds the values at which an operand changed.
fn add_changed(operands: &[Operand], changed: &[BTreeSet<u32>], values: &mut BTreeSet<u32>) {
    for operand in operands {
        if let Operand::Map(of) = operand {
            values.extend(&changed[of.0 as usize]);
        }
    }
}
