//! One changed row: what came of it goes, and what comes of it now is added, block by block.
//!
//! A block meets the row in one of three ways. As a row of its own, it takes its joined rows away and brings others; as
//! something that decisions look up, it changes columns over a domain (brought up to date later, for a whole list of
//! changes: [`super::remap`]); and as the name of a group, it changes only what the group is called
//! ([`super::regroup`]). A column that a block does not read is none of its business.

use std::collections::BTreeSet;

use super::constants::Stale;
use super::delta::{Of, Reach, rebuild};
use super::maps::DomainRef;
use super::regroup::Rename;
use super::resolved::{Block, RelationId};
use super::{Compiler, Kinds, MirrorOf};
use crate::error::Result;
use crate::graph::VarId;
use crate::tables::Value;

/// A row before and after a change, and the columns in which they differ.
struct RowChange {
    table: usize,
    columns: BTreeSet<usize>,
    old: Option<Box<[Value]>>,
    new: Option<Box<[Value]>>,
}

/// Rows of sources whose joined rows are to be made again, each once; `None` is the changed row itself where it is new.
type Plan = BTreeSet<(Of, usize, Option<u32>)>;

impl Compiler {
    /// Changes the row in a slot of a mirror, or adds one.
    pub(super) fn change_row_at(
        &mut self,
        table: usize,
        slot: Option<u32>,
        new: Option<Box<[Value]>>,
        stale: &mut Stale,
    ) -> Result<Vec<VarId>> {
        let entry = &self.mirrors[table];
        let old: Option<Box<[Value]>> = slot.and_then(|s| entry.mirror.row(s)).map(Box::from);
        if old == new {
            return Ok(Vec::new());
        }
        // Only the decision itself changed: nothing is re-derived.
        if let (Some(old), Some(new), Some(slot)) = (&old, &new, slot)
            && (0..old.len()).all(|c| old[c] == new[c] || entry.decision_of(c).is_some())
        {
            self.mirrors[table].mirror.replace(slot, new.clone());
            return self.redecide(table, slot, false);
        }
        if !keeps_types(entry, new.as_deref()) {
            return rebuild();
        }
        let columns: BTreeSet<usize> = match (&old, &new) {
            (Some(old), Some(new)) => (0..old.len()).filter(|&c| old[c] != new[c]).collect(),
            _ => (0..entry.mirror.schema.columns.len()).collect(),
        };
        let change = RowChange {
            table,
            columns,
            old,
            new,
        };
        let (plan, renaming) = self.plan_of(&change, slot)?;
        for &(of, source, row) in &plan {
            if let Some(row) = row.or(slot) {
                self.leave(of, source, row)?;
            }
        }
        let looked_up = self.mirrors[table].decisions.is_empty() && self.is_looked_up(table);
        let RowChange {
            columns, old, new, ..
        } = change;
        let mut touched = Vec::new();
        let Some(slot) = self.write_row(table, slot, new, &mut touched)? else {
            return Ok(touched);
        };
        if looked_up {
            touched.extend(self.change_value(table, slot, &columns, old.is_some(), stale)?);
            stale.mirrors.entry(table).or_default().extend(&columns);
        }
        let exists = self.mirrors[table].mirror.row(slot).is_some();
        for (mut rename, source) in renaming {
            if exists {
                rename.new = self.tuple_of(rename.of, rename.component, source, slot)?;
                if rename.new.is_none() {
                    return rebuild();
                }
            }
            stale.renames.push(rename);
        }
        for &(of, source, row) in &plan {
            self.enter(of, source, row.unwrap_or(slot))?;
        }
        for of in plan.iter().map(|&(of, _, _)| of).collect::<BTreeSet<_>>() {
            self.turn_over(of)?;
        }
        self.admit_arrivals()?;
        Ok(touched)
    }

    /// Puts a row into its slot, and its decisions with it. The slot, unless there is neither an old row nor a new one.
    fn write_row(
        &mut self,
        table: usize,
        slot: Option<u32>,
        new: Option<Box<[Value]>>,
        touched: &mut Vec<VarId>,
    ) -> Result<Option<u32>> {
        Ok(match (slot, new) {
            (None, None) => None,
            (Some(slot), None) => {
                self.remove_row(table, slot)?;
                Some(slot)
            }
            (Some(slot), Some(row)) => {
                self.mirrors[table].mirror.replace(slot, row);
                touched.extend(self.redecide(table, slot, true)?);
                Some(slot)
            }
            (None, Some(row)) => {
                let slot = self.mirrors[table].mirror.insert(row);
                for decision in 0..self.mirrors[table].decisions.len() {
                    self.add_variable(table, decision, slot)?;
                    let vars = &self.mirrors[table].decisions[decision].vars;
                    touched.extend(vars[slot as usize]);
                }
                Some(slot)
            }
        })
    }

    /// Which rows of which blocks come of a row that is about to change (`None`: the row itself), and which groups
    /// only change their names.
    fn plan_of(
        &mut self,
        change: &RowChange,
        slot: Option<u32>,
    ) -> Result<(Plan, Vec<(Rename, usize)>)> {
        let RowChange {
            table,
            columns,
            old,
            new,
        } = change;
        let updated = old.is_some() && new.is_some();
        let mut plan = Plan::new();
        let mut renaming = Vec::new();
        for of in self.all_of() {
            let block = self.block_of(of);
            let reads = self.reads_of(of);
            let bindings = self.bindings(block.id);
            let mut rows = Vec::new();
            for source in 0..block.sources.len() {
                let same = block.sources[source].relation == RelationId::Mirror(*table);
                if !same || (updated && !reads[source].any(columns)) {
                    continue;
                }
                let rowed = bindings.rows >> source & 1 == 1;
                let looked_up = self.looks_up(&block, source);
                if rowed && looked_up {
                    return rebuild();
                }
                // Rows that are joined follow their keys into other groups, where groups come and go.
                let named = updated
                    && reads[source].other.is_disjoint(columns)
                    && !(rowed && self.has_own_groups(of));
                if block.grouped
                    && (named || looked_up)
                    && let Some(component) = self.own_component(of, source)
                {
                    let old = match slot.filter(|_| old.is_some()) {
                        Some(slot) => self.tuple_of(of, component, source, slot)?,
                        None => None,
                    };
                    if old.is_some() || (looked_up && !updated) {
                        let rename = Rename {
                            of,
                            component,
                            old,
                            new: None,
                            rowed,
                        };
                        renaming.push((rename, source));
                        continue;
                    }
                }
                if !looked_up {
                    rows.push(source);
                }
            }
            match self.reach(of, &block, rows) {
                Reach::No => {}
                Reach::Rebuild => return rebuild(),
                Reach::Rows(sources) => plan.extend(sources.into_iter().map(|s| (of, s, slot))),
            }
            self.plan_links(of, &block, change, &mut plan)?;
        }
        Ok((plan, renaming))
    }

    /// The rows around subqueries that read the changed row, by the equalities that tie them.
    fn plan_links(&self, of: Of, block: &Block, change: &RowChange, plan: &mut Plan) -> Result<()> {
        for link in &block.links {
            if link.relation != RelationId::Mirror(change.table) {
                continue;
            }
            let Some((inner, source, outer)) = link.by else {
                return rebuild();
            };
            let RelationId::Mirror(other) = block.sources[source].relation else {
                return rebuild();
            };
            let mut rows = BTreeSet::new();
            for row in [&change.old, &change.new].into_iter().flatten() {
                rows.extend(self.mirrors[other].mirror.find(&[outer], &[row[inner]]));
            }
            plan.extend(rows.into_iter().map(|row| (of, source, Some(row))));
        }
        Ok(())
    }

    /// A row that is a value of domains came, went or changed.
    fn change_value(
        &mut self,
        table: usize,
        slot: u32,
        columns: &BTreeSet<usize>,
        existed: bool,
        stale: &mut Stale,
    ) -> Result<Vec<VarId>> {
        let exists = self.mirrors[table].mirror.row(slot).is_some();
        let mut touched = Vec::new();
        for number in 0..self.domains.len() {
            if self.domains[number].mirror != table {
                continue;
            }
            let domain = DomainRef(u32::try_from(number).unwrap_or(u32::MAX));
            if !(existed && exists) {
                let slots = self.mirrors[table].mirror.slots();
                self.grow_maps(domain, slots as usize);
                let of = self.domains[number].graph;
                self.model.grow_domain(of, slots);
                match exists {
                    true => self.model.restore_value(of, slot),
                    false => self.model.retire_value(of, slot),
                }
                stale.values.insert((domain, slot));
            }
            for deciding in 0..self.mirrors.len() {
                for decision in 0..self.mirrors[deciding].decisions.len() {
                    let of = &self.mirrors[deciding].decisions[decision];
                    if of.domain != domain {
                        continue;
                    }
                    let (keys, constants): (Vec<usize>, Vec<usize>) = (
                        of.columns.iter().map(|c| c.domain_column).collect(),
                        of.constants.iter().map(|(_, c)| *c).collect(),
                    );
                    let row = self.mirrors[table].mirror.row(slot);
                    let unnamed = row.is_some_and(|row| keys.iter().any(|&c| row[c].is_null()));
                    // What a row may choose, or what its value is called, is known row by row.
                    if unnamed
                        || constants.iter().any(|c| columns.contains(c))
                        || (existed && exists && keys.iter().any(|c| columns.contains(c)))
                        || !self.mirrors[table].mirror.is_unique(&keys)
                    {
                        return rebuild();
                    }
                    touched.extend(self.reconsider(deciding, decision, slot, existed)?);
                }
            }
        }
        Ok(touched)
    }

    /// The decisions of a table that stand at a value which changed; those that name one which came.
    fn reconsider(
        &mut self,
        table: usize,
        decision: usize,
        value: u32,
        existed: bool,
    ) -> Result<Vec<VarId>> {
        let entry = &self.mirrors[table];
        let of = &entry.decisions[decision];
        let slots = |of: &super::DecisionOf| -> Vec<u32> {
            let vars = of.vars.iter().enumerate();
            let at = vars
                .filter(|(_, var)| var.is_some_and(|var| self.model.current(var) == Some(value)));
            at.map(|(slot, _)| u32::try_from(slot).unwrap_or(u32::MAX))
                .collect()
        };
        let slots = match existed {
            true => slots(of),
            // Rows may have named it before it was there.
            false => (0..u32::try_from(of.vars.len()).unwrap_or(u32::MAX))
                .filter(|&slot| {
                    let var = of.vars[slot as usize];
                    var.is_some_and(|var| self.model.current(var).is_none())
                })
                .collect(),
        };
        let mut touched = Vec::new();
        for slot in slots {
            let changed = self.redecide(table, slot, false)?;
            if existed {
                let vars = &self.mirrors[table].decisions[decision].vars;
                touched.extend(vars[slot as usize]);
            }
            touched.extend(changed);
        }
        Ok(touched)
    }
}

/// Whether a table stays filled, and each column keeps its type: one that gets a first text, or a first number, has
/// another.
fn keeps_types(entry: &MirrorOf, new: Option<&[Value]>) -> bool {
    let mut occupied = entry.mirror.occupied();
    let (first, second) = (occupied.next(), occupied.next());
    if first.is_none() || (new.is_none() && second.is_none()) {
        return false;
    }
    let mut kinds = entry.kinds.clone();
    for (kind, value) in kinds.iter_mut().zip(new.unwrap_or_default()) {
        kind.note(*value);
    }
    let same = |(a, b): (&Kinds, &Kinds)| a.text == b.text && a.number == b.number;
    kinds.iter().zip(&entry.kinds).all(same)
}
