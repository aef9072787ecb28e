//! Changed rows of a compiled problem.
//!
//! A row that is inserted joins the rest of each block by keys and adds what comes of it; a row that goes takes its
//! records ([`super::joined`]) away; a row that changes does both and keeps its decisions. No view is run again.
//! Subqueries that are correlated by an equality re-derive the outer rows with that key.
//!
//! What cannot be done by keys (a column of another type, a value of a constant query that became part of expressions)
//! compiles the problem again from the tables. The two ways are held equal by tests; only the time differs.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Compiler;
use super::constants::Stale;
use super::group::{Argument, Grouping};
use super::join::{Match, Part};
use super::joined::Handle;
use super::reads::Reads;
use super::resolved::{Block, RelationId};
use super::turnover::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::VarId;
use crate::ordered::Target;
use crate::tables::{Value, millionths, quoted};

/// Marks the errors that compiling again resolves.
pub(super) const REBUILD: &str = "the problem must be compiled again";

/// A value of a changed row.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A decimal of at most six places.
    Real(f64),
    /// Text.
    Text(String),
}

/// A change of one row of a table that has a primary key.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A row in the table's column order; it replaces the row with its primary key.
    Upsert {
        /// The table.
        table: String,
        /// All of its columns.
        row: Vec<Datum>,
    },
    /// The row with a primary key goes.
    Delete {
        /// The table.
        table: String,
        /// The key, in key order.
        key: Vec<Datum>,
    },
}

/// What a change left to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// Decisions of new rows, and of rows whose decision must or may be made again.
    pub touched: BTreeSet<VarId>,
    /// Whether everything was compiled again (`touched` is empty then).
    pub rebuilt: bool,
}

/// How a changed row reaches a block.
pub(super) enum Reach {
    /// Not at all.
    No,
    /// As a row of these sources.
    Rows(Vec<usize>),
    /// In a way that keys cannot follow.
    Rebuild,
}

/// Whose block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    View(usize),
    Policy(usize),
}

pub(super) fn rebuild<T>() -> Result<T> {
    Err(Error::bare(ErrorKind::Limit, REBUILD))
}

impl Compiler {
    /// Applies changes. On an error the tables may hold some of them, and the problem must be loaded again.
    pub(crate) fn apply_changes(&mut self, changes: &[Change]) -> Result<Applied> {
        let mut applied = Applied::default();
        let mut again = false;
        let mut stale = Stale::default();
        for change in changes {
            match self.change(change, again, &mut stale) {
                Ok(touched) => applied.touched.extend(touched),
                Err(e) if e.message == REBUILD => again = true,
                Err(e) => return Err(e),
            }
            // Soft cells that wait must be there when a later change of the list takes them away.
            again |= !again && self.add_softs().is_err();
        }
        if !again {
            match self.settle(&mut stale) {
                Ok(touched) => applied.touched.extend(touched),
                Err(e) if e.message == REBUILD => again = true,
                Err(e) => return Err(e),
            }
            again |= !again && self.add_softs().is_err();
        }
        if again {
            self.rebuild()?;
            return Ok(Applied {
                touched: BTreeSet::new(),
                rebuilt: true,
            });
        }
        let variables = &self.variables;
        let mirrors = &self.mirrors;
        // A row may have come and gone within the list.
        applied.touched.retain(|var| {
            let of = variables[var.index()];
            let vars = &mirrors[of.mirror].decisions[of.decision].vars;
            vars.get(of.slot as usize).copied().flatten() == Some(*var)
        });
        Ok(applied)
    }

    /// The variables of a row's decisions; none where there is no such row.
    pub(crate) fn decisions_of(&mut self, table: &str, key: &[Datum]) -> Result<Vec<VarId>> {
        let key: Vec<Value> = key
            .iter()
            .map(|datum| self.value(datum))
            .collect::<Result<_>>()?;
        let Some(&RelationId::Mirror(table)) = self.by_name.get(&table.to_ascii_lowercase()) else {
            return Ok(Vec::new());
        };
        let entry = &self.mirrors[table];
        let slots = entry.mirror.find(&entry.mirror.schema.primary_key, &key);
        let vars = slots.iter().flat_map(|&slot| {
            let decisions = entry.decisions.iter();
            decisions
                .filter_map(move |decision| decision.vars.get(slot as usize).copied().flatten())
        });
        Ok(vars.collect())
    }

    /// The variable that a target names, and the value of its domain.
    pub(crate) fn target(&mut self, target: &Target) -> Result<(VarId, Option<u32>)> {
        let unknown = |what: &str| {
            let message = format!("{what} of table {} that a target names", target.table);
            Error::bare(ErrorKind::Name, format!("there is no {message}"))
        };
        let key: Vec<Value> = target
            .key
            .iter()
            .map(|datum| self.value(datum))
            .collect::<Result<_>>()?;
        let wanted = self.value(&target.value)?;
        let Some(&RelationId::Mirror(table)) = self.by_name.get(&target.table.to_ascii_lowercase())
        else {
            return Err(unknown("decision"));
        };
        let entry = &self.mirrors[table];
        let schema = &entry.mirror.schema;
        let slot = entry
            .mirror
            .find(&schema.primary_key, &key)
            .first()
            .copied();
        let slot = slot.ok_or_else(|| unknown("row"))?;
        let column = schema
            .columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(&target.column));
        let decision = column.and_then(|c| {
            entry
                .decisions
                .iter()
                .find(|d| d.columns.iter().any(|own| own.column == c))
        });
        let decision = decision.ok_or_else(|| unknown("decision column"))?;
        let var = decision.vars.get(slot as usize).copied().flatten();
        let var = var.ok_or_else(|| unknown("decision"))?;
        if wanted == Value::Null {
            return Ok((var, None));
        }
        let domain = &self.mirrors[decision.mirror].mirror;
        let [only] = decision.columns.as_slice() else {
            return Err(unknown("decision of one column"));
        };
        let value = domain
            .find(&[only.domain_column], &[wanted])
            .first()
            .copied();
        let value = value.ok_or_else(|| unknown("value"))?;
        Ok((var, Some(value)))
    }

    fn value(&mut self, datum: &Datum) -> Result<Value> {
        Ok(match datum {
            Datum::Null => Value::Null,
            Datum::Integer(n) => Value::Integer(*n),
            Datum::Real(x) => match millionths(&format!("{x}")) {
                Some(n) => Value::Decimal(n),
                None => {
                    let message = format!("{x} is not a decimal of at most 6 places in range");
                    return Err(Error::bare(ErrorKind::Arithmetic, message));
                }
            },
            Datum::Text(text) => Value::Text(self.symbols.intern(text)),
        })
    }

    /// Writes the change into SQLite, and into everything that follows from it unless all is compiled again anyway.
    fn change(&mut self, change: &Change, again: bool, stale: &mut Stale) -> Result<Vec<VarId>> {
        let (Change::Upsert { table: name, .. } | Change::Delete { table: name, .. }) = change;
        let name = name.to_ascii_lowercase();
        let Some(&RelationId::Mirror(table)) = self.by_name.get(&name) else {
            // At most constant queries read it.
            self.change_unread(change)?;
            stale.tables.insert(name);
            return Ok(Vec::new());
        };
        let schema = Rc::clone(&self.mirrors[table].mirror.schema);
        if schema.primary_key.is_empty() {
            let message = format!("table {name} has no primary key");
            return Err(Error::bare(ErrorKind::Domain, message));
        }
        let (key, row) = match change {
            Change::Upsert { row, .. } => {
                if row.len() != schema.columns.len() {
                    let message = format!("{} values for the columns of {name}", row.len());
                    return Err(Error::bare(ErrorKind::Type, message));
                }
                let row: Box<[Value]> = row.iter().map(|d| self.value(d)).collect::<Result<_>>()?;
                let key: Vec<Value> = schema.primary_key.iter().map(|&c| row[c]).collect();
                (key, Some(row))
            }
            Change::Delete { key, .. } => {
                let key: Vec<Value> = key.iter().map(|d| self.value(d)).collect::<Result<_>>()?;
                if key.len() != schema.primary_key.len() {
                    let message = format!("{} values for the primary key of {name}", key.len());
                    return Err(Error::bare(ErrorKind::Type, message));
                }
                (key, None)
            }
        };
        let sql = match &row {
            Some(row) => {
                let marks: Vec<String> = (1..=row.len()).map(|i| format!("?{i}")).collect();
                format!(
                    "INSERT OR REPLACE INTO {} VALUES ({})",
                    quoted(&schema.name),
                    marks.join(", ")
                )
            }
            None => {
                let columns = schema.primary_key.iter().enumerate();
                let columns: Vec<String> = columns
                    .map(|(i, &c)| format!("{} = ?{}", quoted(&schema.columns[c].name), i + 1))
                    .collect();
                format!(
                    "DELETE FROM {} WHERE {}",
                    quoted(&schema.name),
                    columns.join(" AND ")
                )
            }
        };
        self.tables.rows_with(
            &sql,
            row.as_deref().unwrap_or(&key),
            None,
            &mut self.symbols,
        )?;
        if again {
            return rebuild();
        }
        let data = &self.mirrors[table].mirror;
        let slot = data.find(&schema.primary_key, &key).first().copied();
        if slot.and_then(|slot| data.row(slot)) != row.as_deref() {
            stale.tables.insert(name);
        }
        self.change_row_at(table, slot, row, stale)
    }

    fn change_unread(&mut self, change: &Change) -> Result<()> {
        let (Change::Upsert { table: name, .. } | Change::Delete { table: name, .. }) = change;
        let schema = crate::tables::Schema::read(&self.tables, name, &mut self.symbols)?;
        let Some(schema) = schema else {
            return Err(Error::bare(
                ErrorKind::Name,
                format!("no such table: {name}"),
            ));
        };
        let (sql, values) = match change {
            Change::Upsert { row, .. } => {
                let marks: Vec<String> = (1..=row.len()).map(|i| format!("?{i}")).collect();
                let sql = format!(
                    "INSERT OR REPLACE INTO {} VALUES ({})",
                    quoted(&schema.name),
                    marks.join(", ")
                );
                (sql, row)
            }
            Change::Delete { key, .. } => {
                let columns = schema.primary_key.iter().enumerate();
                let columns: Vec<String> = columns
                    .map(|(i, &c)| format!("{} = ?{}", quoted(&schema.columns[c].name), i + 1))
                    .collect();
                let sql = format!(
                    "DELETE FROM {} WHERE {}",
                    quoted(&schema.name),
                    columns.join(" AND ")
                );
                (sql, key)
            }
        };
        let values: Vec<Value> = values
            .iter()
            .map(|d| self.value(d))
            .collect::<Result<_>>()?;
        self.tables
            .rows_with(&sql, &values, None, &mut self.symbols)
            .map(|_| ())
    }

    /// Compiles everything again from what the tables hold.
    fn rebuild(&mut self) -> Result<()> {
        let tables = self.tables.successor()?;
        let old = std::mem::replace(&mut self.tables, tables);
        let fresh = Compiler::from_tables(
            old,
            std::mem::take(&mut self.view_statements),
            std::mem::take(&mut self.decision_tables),
            std::mem::take(&mut self.constraints),
        )?;
        *self = fresh;
        Ok(())
    }

    /// All blocks that rows belong to: views first, as policies read them.
    pub(super) fn all_of(&self) -> Vec<Of> {
        let policies = (0..self.policies.len()).map(Of::Policy);
        (0..self.views.len())
            .map(Of::View)
            .chain(policies)
            .collect()
    }

    pub(super) fn reads_of(&self, of: Of) -> Rc<Vec<Reads>> {
        match of {
            Of::Policy(policy) => Rc::clone(&self.policies[policy].reads),
            Of::View(view) => Rc::clone(&self.views[view].reads),
        }
    }

    pub(super) fn grouping_of_ref(&self, of: Of) -> Option<&Grouping> {
        match of {
            Of::Policy(policy) => self.policies[policy].grouping.as_ref(),
            Of::View(view) => self.views[view].grouping.as_ref(),
        }
    }

    pub(super) fn block_of(&self, of: Of) -> Rc<Block> {
        match of {
            Of::Policy(policy) => Rc::clone(&self.policies[policy].block),
            Of::View(view) => Rc::clone(&self.views[view].block),
        }
    }

    pub(super) fn grouping_of(&mut self, of: Of) -> &mut Option<Grouping> {
        match of {
            Of::Policy(policy) => &mut self.policies[policy].grouping,
            Of::View(view) => &mut self.views[view].grouping,
        }
    }

    /// How a changed row that is a row of `sources` of a block can be followed there.
    pub(super) fn reach(&self, of: Of, block: &Block, sources: Vec<usize>) -> Reach {
        if sources.is_empty() {
            return Reach::No;
        }
        let (grouping, template) = match of {
            Of::Policy(policy) => (
                &self.policies[policy].grouping,
                self.policies[policy].template.is_some(),
            ),
            Of::View(view) => (&self.views[view].grouping, false),
        };
        if block.grouped {
            let Some(grouping) = grouping else {
                return Reach::Rebuild;
            };
            if grouping.is_brittle(block) {
                return Reach::Rebuild;
            }
            let own = !template && !block.keys.is_empty();
            for component in &grouping.components {
                if sources.iter().all(|&s| component.sources >> s & 1 == 0) {
                    continue;
                }
                let named = !component.keys.is_empty();
                if own && named && !self.is_counted(block, component) {
                    return Reach::Rebuild;
                }
                // With its first or last row, all groups come or go.
                if own && !named && self.model.row_count(grouping.bag) == 0 {
                    return Reach::Rebuild;
                }
            }
        }
        Reach::Rows(sources)
    }

    /// Removes what a row of a source brought.
    pub(super) fn take_away(&mut self, of: Of, source: usize, row: u32) -> Result<()> {
        let handles = match self.grouping_of(of) {
            Some(grouping) => grouping.joined.take(source, row),
            None => match of {
                Of::Policy(policy) => self.policies[policy].joined.take(source, row),
                Of::View(view) => self.views[view].joined.take(source, row),
            },
        };
        for handle in handles {
            match (handle, of) {
                (Handle::Bag(row), _) => self.model.remove_row(row),
                (Handle::Row(row), _) => self.drop_row(of, row)?,
            }
        }
        Ok(())
    }

    /// Adds what a row of a source brings.
    pub(super) fn bring(&mut self, of: Of, source: usize, row: u32) -> Result<()> {
        let block = self.block_of(of);
        let there = match block.sources[source].relation {
            RelationId::Mirror(mirror) => self.mirrors[mirror].mirror.row(row).is_some(),
            RelationId::View(view) => self.views[view].row(row).is_some(),
        };
        if !there {
            return Ok(());
        }
        let mut found = self.matches(&block, None, Part::Delta { source, row })?;
        // A self-join meets the new row once for each source that it is.
        let same = |s: &usize| block.sources[*s].relation == block.sources[source].relation;
        let earlier: Vec<usize> = (0..source).filter(same).collect();
        found.retain(|m| earlier.iter().all(|&s| m.rows()[s] != row));
        if !block.grouped {
            for m in &found {
                self.bring_row(of, &block, m)?;
            }
            return Ok(());
        }
        let Some(mut grouping) = self.grouping_of(of).take() else {
            return rebuild();
        };
        let result = self.bring_to_bag(of, &block, &mut grouping, &found);
        *self.grouping_of(of) = Some(grouping);
        result
    }

    fn bring_row(&mut self, of: Of, block: &Block, found: &Match) -> Result<()> {
        match of {
            Of::Policy(policy) => {
                let goal = Rc::clone(&self.policies[policy].goal);
                self.compile_row(policy, block, &goal, found)
            }
            Of::View(view) => {
                let row = self.conditional_row(block, None, found)?;
                self.announce(view, row, Origin::Joined(found.rows()));
                Ok(())
            }
        }
    }

    fn bring_to_bag(
        &mut self,
        of: Of,
        block: &Block,
        grouping: &mut Grouping,
        found: &[Match],
    ) -> Result<()> {
        let arguments = grouping.arguments.clone();
        for m in found {
            self.bring_match(of, block, grouping, m, &arguments)?;
        }
        Ok(())
    }

    fn bring_match(
        &mut self,
        of: Of,
        block: &Block,
        grouping: &mut Grouping,
        found: &Match,
        arguments: &[Argument],
    ) -> Result<()> {
        self.introduce_tuples(block, grouping, found)?;
        let parts = grouping.part_count();
        let components = grouping.components.clone();
        let row = self.prepare_row(block, None, found, &components, arguments)?;
        if !self.stays_certain(grouping, &row)? {
            return rebuild();
        }
        self.add_joined_row(grouping, row, block.place)?;
        if let Of::Policy(policy) = of
            && self.policies[policy].template.is_some()
        {
            for part in parts..grouping.part_count() {
                if !self.introduce_part(policy, grouping, part)? {
                    return rebuild();
                }
            }
        }
        Ok(())
    }

    /// Numbers the key tuples that a new row brings to components without decisions.
    fn introduce_tuples(
        &mut self,
        block: &Block,
        grouping: &Grouping,
        found: &Match,
    ) -> Result<()> {
        let frame = super::join::Frame {
            parent: None,
            block,
            bound: &found.bound,
            folded: None,
        };
        for (number, component) in grouping.components.iter().enumerate() {
            if component.keyed || component.keys.is_empty() {
                continue;
            }
            let mut tuple = Vec::with_capacity(component.keys.len());
            for &key in &component.keys {
                match self.eval(&block.keys[key], &frame)? {
                    super::Cell::Const(value) => tuple.push(value.key()),
                    _ => return rebuild(),
                }
            }
            let Some(dictionary) = self.tuples.get(&(block.id, number)) else {
                return rebuild();
            };
            if dictionary.number(&tuple).is_none() {
                self.check_names(dictionary, &tuple)?;
            }
            if let Some(dictionary) = self.tuples.get_mut(&(block.id, number)) {
                dictionary.add(tuple.into_boxed_slice());
            }
        }
        Ok(())
    }

    /// Reads the present values of a row's decisions again, and their choices if the row itself changed.
    pub(super) fn redecide(
        &mut self,
        table: usize,
        slot: u32,
        row_changed: bool,
    ) -> Result<Vec<VarId>> {
        let mut touched = Vec::new();
        for decision in 0..self.mirrors[table].decisions.len() {
            let (allowed, current) = self.choices(table, decision, slot)?;
            let vars = &self.mirrors[table].decisions[decision].vars;
            let Some(var) = vars.get(slot as usize).copied().flatten() else {
                continue;
            };
            if row_changed {
                self.model.set_allowed(var, allowed);
            }
            if self.model.current(var) != current {
                self.model.set_current(var, current);
                touched.push(var);
            } else if row_changed {
                touched.push(var);
            }
        }
        Ok(touched)
    }

    pub(super) fn remove_row(&mut self, table: usize, slot: u32) -> Result<()> {
        for decision in 0..self.mirrors[table].decisions.len() {
            let vars = &mut self.mirrors[table].decisions[decision].vars;
            if let Some(var) = vars.get_mut(slot as usize).and_then(Option::take)
                && self.model.remove_var(var).is_err()
            {
                return rebuild();
            }
        }
        self.mirrors[table].mirror.remove(slot);
        Ok(())
    }
}
