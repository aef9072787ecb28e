//! What SQLite has evaluated, evaluated again when its tables change.
//!
//! A view or a subquery over constants may use all of SQL, so what a changed row does to it is not known by its text.
//! It is run again, once for a whole list of changes, and its rows are compared with those of the last run: only what
//! differs goes on, as changed rows of its mirror. Such queries are small by nature (a row for each node, or one row);
//! what follows from them, the replicas, is not touched unless it differs.

use std::collections::{BTreeMap, BTreeSet};

use super::Compiler;
use super::delta::rebuild;
use super::fold::Set;
use super::maps::DomainRef;
use super::regroup::Rename;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::VarId;
use crate::tables::Value;

type Row = Box<[Value]>;

/// A constant query.
#[derive(Clone, Debug)]
pub(super) struct ConstantQuery {
    sql: String,
    place: Place,
    /// The base tables that it reads, in lower case.
    reads: BTreeSet<String>,
    result: ConstantResult,
}

/// What a constant query became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConstantResult {
    /// The rows of a mirror.
    Mirror(usize),
    /// One value.
    Scalar(usize),
    /// The right-hand side of an IN.
    Set(u32),
}

/// What changed rows have left to be brought up to date, once all of them are in the tables.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Base tables with changed rows, in lower case.
    pub tables: BTreeSet<String>,
    /// Mirrors that are looked up by decisions, with the columns that changed.
    pub mirrors: BTreeMap<usize, BTreeSet<usize>>,
    /// Values of domains whose rows came or went.
    pub values: BTreeSet<(DomainRef, u32)>,
    pub sets: BTreeSet<u32>,
    pub renames: Vec<Rename>,
}

impl Compiler {
    /// Notes a constant query and what it became.
    pub(super) fn remember(
        &mut self,
        sql: String,
        place: Place,
        relations: &[String],
        result: ConstantResult,
    ) {
        let mut reads = BTreeSet::new();
        self.base_tables(relations, &mut reads);
        self.constants.push(ConstantQuery {
            sql,
            place,
            reads,
            result,
        });
    }

    /// The set of a query that was met before.
    pub(super) fn known_set(&self, sql: &str, place: Place) -> Option<u32> {
        self.constants.iter().find_map(|query| match query.result {
            ConstantResult::Set(set) if query.place == place && query.sql == sql => Some(set),
            ConstantResult::Set(_) | ConstantResult::Mirror(_) | ConstantResult::Scalar(_) => None,
        })
    }

    /// The base tables behind relations, through views.
    fn base_tables(&self, relations: &[String], tables: &mut BTreeSet<String>) {
        for relation in relations {
            match self.view_statements.get(relation) {
                Some(view) => self.base_tables(&view.query.relations, tables),
                None => {
                    tables.insert(relation.clone());
                }
            }
        }
    }

    /// The set of an IN (SELECT …) over constants.
    pub(super) fn run_set(&mut self, sql: &str, place: Place) -> Result<Set> {
        let mut set = Set::default();
        for row in self.tables.rows(sql, Some(place), &mut self.symbols)? {
            match *row {
                [Value::Null] => set.has_null = true,
                [value] => set.values.push(value.key()),
                _ => {
                    let message = "IN needs a query of one column";
                    return Err(Error::at(ErrorKind::Syntax, place, message));
                }
            }
        }
        set.values.sort_unstable();
        set.values.dedup();
        Ok(set)
    }

    /// Brings everything up to date that follows from changed rows by more than their keys: constant queries, columns
    /// over domains, groups. Returns decisions that must be made again.
    pub(super) fn settle(&mut self, stale: &mut Stale) -> Result<Vec<VarId>> {
        let mut touched = Vec::new();
        for index in 0..self.constants.len() {
            if self.constants[index].reads.is_disjoint(&stale.tables) {
                continue;
            }
            let query = self.constants[index].clone();
            match query.result {
                ConstantResult::Scalar(number) => {
                    let rows = (self.tables).rows(&query.sql, Some(query.place), &mut self.symbols);
                    let value = rows?.first().map_or(Value::Null, |row| row[0]);
                    if value != self.scalars[number] {
                        // It is part of the expressions that read it.
                        return rebuild();
                    }
                }
                ConstantResult::Set(number) => {
                    let set = self.run_set(&query.sql, query.place)?;
                    self.change_set(number, set, stale)?;
                }
                ConstantResult::Mirror(mirror) => {
                    let rows = (self.tables).rows(&query.sql, Some(query.place), &mut self.symbols);
                    touched.extend(self.change_rows(mirror, rows?, stale)?);
                }
            }
        }
        self.remap(stale)?;
        Ok(touched)
    }

    fn change_set(&mut self, number: u32, set: Set, stale: &mut Stale) -> Result<()> {
        let old = &self.sets[number as usize];
        if *old == set {
            return Ok(());
        }
        let is_text = |set: &Set| set.values.first().map(|v| matches!(v, Value::Text(_)));
        let retyped = match (is_text(old), is_text(&set)) {
            (Some(old), Some(new)) => old != new,
            (Some(_), None) | (None, Some(_)) | (None, None) => false,
        };
        // What is not TRUE is FALSE, or NULL where the set has one: compiled expressions know which.
        if self.baked_sets.contains(&number) || retyped || old.has_null != set.has_null {
            return rebuild();
        }
        self.sets[number as usize] = set;
        stale.sets.insert(number);
        Ok(())
    }

    /// Makes the rows of a mirror those that its query gives now.
    fn change_rows(
        &mut self,
        mirror: usize,
        rows: Vec<Row>,
        stale: &mut Stale,
    ) -> Result<Vec<VarId>> {
        let data = &self.mirrors[mirror].mirror;
        let mut new: BTreeMap<Row, usize> = BTreeMap::new();
        for row in rows {
            *new.entry(row).or_default() += 1;
        }
        // What is there already stays; the rest is paired by the first column, which mostly is a key.
        let mut old: BTreeMap<Value, Vec<u32>> = BTreeMap::new();
        for slot in data.occupied() {
            let Some(row) = data.row(slot) else { continue };
            match new.get_mut(row) {
                Some(count) if *count > 0 => *count -= 1,
                Some(_) | None => old.entry(row[0]).or_default().push(slot),
            }
        }
        let fresh = new.into_iter().flat_map(|(row, count)| vec![row; count]);
        let mut changes: Vec<(Option<u32>, Option<Row>)> = Vec::new();
        let mut unpaired = Vec::new();
        for row in fresh {
            match old.get_mut(&row[0]).and_then(Vec::pop) {
                Some(slot) => changes.push((Some(slot), Some(row))),
                None => unpaired.push(row),
            }
        }
        let mut left = old.into_values().flatten();
        for row in unpaired {
            changes.push((left.next(), Some(row)));
        }
        changes.extend(left.map(|slot| (Some(slot), None)));
        let mut touched = Vec::new();
        for (slot, row) in changes {
            touched.extend(self.change_row_at(mirror, slot, row, stale)?);
        }
        Ok(touched)
    }
}
