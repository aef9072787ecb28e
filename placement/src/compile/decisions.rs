//! Decision tables: domains, variables, present values.
//!
//! A domain is the rows of a mirror, and a value is the slot of a row, so that whatever is known of a row is looked up
//! by the value itself. Decision columns of one composite foreign key are one variable: their domain is its
//! referenced rows, filtered by the key's constant columns.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::maps::{DomainRef, Recipe};
use super::resolved::RelationId;
use super::{Compiler, DecisionColumnOf, DecisionOf, DomainOf, VariableOf};
use crate::dialect::ast::{self, Literal};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::{Affinity, Column, ForeignKey, Schema, Value};

fn error<T>(kind: ErrorKind, place: Place, message: impl Into<String>) -> Result<T> {
    Err(Error::at(kind, place, message))
}

impl Compiler {
    /// Opens a table with decision columns: domains, variables, present values.
    pub(super) fn decision_table(&mut self, name: &str) -> Result<()> {
        let declared = self.decision_tables[name].clone();
        let Some(first) = declared.first() else {
            return Ok(());
        };
        let RelationId::Mirror(table) = self.relation(name, first.place)? else {
            return Ok(());
        };
        let schema = Rc::clone(&self.mirrors[table].mirror.schema);
        if schema.primary_key.is_empty() {
            let message = format!("table {} has decisions but no primary key", schema.name);
            return error(ErrorKind::Domain, first.place, message);
        }
        let position = |c: &ast::DecisionColumn| {
            schema
                .position(&c.name)
                .ok_or_else(|| Error::at(ErrorKind::Name, c.place, format!("no column {}", c.name)))
        };
        let mut taken: BTreeSet<usize> = BTreeSet::new();
        for column in &declared {
            let own = position(column)?;
            if schema.primary_key.contains(&own) {
                let message = format!("the decision {} is part of the primary key", column.name);
                return error(ErrorKind::Domain, column.place, message);
            }
            if taken.contains(&own) {
                continue;
            }
            let keys: Vec<&ForeignKey> = schema
                .foreign_keys
                .iter()
                .filter(|k| k.columns.iter().any(|(c, _)| *c == own))
                .collect();
            let decision = match keys.as_slice() {
                [] => self.listed_decision(column, own)?,
                [key] => self.referencing_decision(&schema, &declared, column, key)?,
                _ => {
                    let message = format!("two foreign keys on the decision {}", column.name);
                    return error(ErrorKind::Domain, column.place, message);
                }
            };
            taken.extend(decision.columns.iter().map(|c| c.column));
            self.mirrors[table].decisions.push(decision);
        }
        for index in 0..self.mirrors[table].decisions.len() {
            let slots: Vec<u32> = self.mirrors[table].mirror.occupied().collect();
            for slot in slots {
                self.add_variable(table, index, slot)?;
            }
        }
        Ok(())
    }

    fn domain(&mut self, mirror: usize) -> DomainRef {
        let found = self.domains.iter().position(|d| d.mirror == mirror);
        let index = found.unwrap_or_else(|| {
            let graph = self.model.add_domain(self.mirrors[mirror].mirror.slots());
            self.domains.push(DomainOf { mirror, graph });
            self.domains.len() - 1
        });
        DomainRef(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn listed_decision(&mut self, column: &ast::DecisionColumn, own: usize) -> Result<DecisionOf> {
        let Some(listed) = &column.listed else {
            let message = format!(
                "the decision {} has no domain: write REFERENCES table(column), or CHECK ({} IN (…))",
                column.name, column.name
            );
            return error(ErrorKind::Domain, column.place, message);
        };
        let mut rows: Vec<Box<[Value]>> = Vec::new();
        for literal in listed {
            let value = match literal {
                Literal::Null => continue,
                Literal::Integer(n) => Value::Integer(*n),
                Literal::Millionths(n) => Value::Decimal(*n),
                Literal::Text(text) => Value::Text(self.symbols.intern(text)),
            };
            if !rows.iter().any(|row| row[0].key() == value.key()) {
                rows.push(Box::new([value]));
            }
        }
        let schema = Schema {
            name: String::new(),
            columns: vec![Column {
                name: column.name.clone(),
                affinity: Affinity::Any,
            }],
            primary_key: vec![0],
            foreign_keys: Vec::new(),
        };
        let mirror = self.add_mirror(schema, rows);
        self.decision(mirror, &[(own, 0)], Vec::new(), column)
    }

    fn referencing_decision(
        &mut self,
        schema: &Schema,
        declared: &[ast::DecisionColumn],
        column: &ast::DecisionColumn,
        key: &ForeignKey,
    ) -> Result<DecisionOf> {
        let RelationId::Mirror(mirror) = self.relation(&key.table, column.place)? else {
            let message = format!("{} references a view", column.name);
            return error(ErrorKind::Domain, column.place, message);
        };
        let target = Rc::clone(&self.mirrors[mirror].mirror.schema);
        let mut columns = Vec::new();
        let mut constants = Vec::new();
        for (position, (own, to)) in key.columns.iter().enumerate() {
            let referenced = match to {
                Some(name) => target.position(name),
                None => target.primary_key.get(position).copied(),
            };
            let Some(referenced) = referenced else {
                let shown = to.as_deref().unwrap_or("its primary key");
                let message = format!("{} has no column {shown} to refer to", target.name);
                return error(ErrorKind::Name, column.place, message);
            };
            let decided = declared
                .iter()
                .any(|d| d.name.eq_ignore_ascii_case(&schema.columns[*own].name));
            match decided {
                true => columns.push((*own, referenced)),
                false => constants.push((*own, referenced)),
            }
        }
        let referenced: Vec<usize> = columns.iter().chain(&constants).map(|(_, r)| *r).collect();
        if !self.mirrors[mirror].mirror.is_unique(&referenced) {
            let message = format!(
                "{} refers to columns of {} that are no key",
                column.name, target.name
            );
            return error(ErrorKind::Domain, column.place, message);
        }
        self.decision(mirror, &columns, constants, column)
    }

    fn decision(
        &mut self,
        mirror: usize,
        pairs: &[(usize, usize)],
        constants: Vec<(usize, usize)>,
        column: &ast::DecisionColumn,
    ) -> Result<DecisionOf> {
        let domain = self.domain(mirror);
        // A row without a key cannot be referred to.
        let unnamed: Vec<u32> = {
            let data = &self.mirrors[mirror].mirror;
            let unnamed = |slot: &u32| {
                data.row(*slot)
                    .is_none_or(|row| pairs.iter().any(|(_, c)| row[*c].is_null()))
            };
            (0..data.slots()).filter(unnamed).collect()
        };
        for slot in unnamed {
            self.model
                .retire_value(self.domains[domain.0 as usize].graph, slot);
        }
        let mut columns = Vec::new();
        for &(own, domain_column) in pairs {
            let slots = self.map(domain, Recipe::Slot, column.place)?;
            let recipe = Recipe::Column {
                slots,
                mirror,
                column: domain_column,
            };
            let ids = self.map(domain, recipe, column.place)?;
            columns.push(DecisionColumnOf {
                column: own,
                domain_column,
                ids,
            });
        }
        let place = column.place;
        let nullable = column.nullable;
        Ok(DecisionOf {
            mirror,
            domain,
            columns,
            constants,
            nullable,
            vars: Vec::new(),
            place,
        })
    }

    /// The name of a row by its primary key, for messages.
    fn row_name(&self, mirror: usize, slot: u32) -> String {
        let entry = &self.mirrors[mirror];
        let schema = &entry.mirror.schema;
        let Some(row) = entry.mirror.row(slot) else {
            return schema.name.clone();
        };
        let key: Vec<String> = schema
            .primary_key
            .iter()
            .map(|&c| format!("{} = {}", schema.columns[c].name, self.symbols.sql(row[c])))
            .collect();
        format!("{} where {}", schema.name, key.join(" and "))
    }

    /// The values that a row may choose (`None`: all), and its present one.
    pub(super) fn choices(
        &self,
        table: usize,
        decision: usize,
        slot: u32,
    ) -> Result<(Option<Vec<u32>>, Option<u32>)> {
        let entry = &self.mirrors[table];
        let schema = &entry.mirror.schema;
        let decision = &entry.decisions[decision];
        let Some(row) = entry.mirror.row(slot) else {
            return Ok((None, None));
        };
        let domain = &self.mirrors[decision.mirror].mirror;
        let allowed = if decision.constants.is_empty() {
            None
        } else {
            let columns: Vec<usize> = decision.constants.iter().map(|(_, c)| *c).collect();
            let key: Vec<Value> = decision
                .constants
                .iter()
                .map(|(own, _)| row[*own])
                .collect();
            Some(domain.find(&columns, &key))
        };
        let nothing = match &allowed {
            Some(slots) => slots.is_empty(),
            None => domain.occupied().next().is_none(),
        };
        if nothing && !decision.nullable {
            let name = &schema.columns[decision.columns[0].column].name;
            let message = format!(
                "{name} has no value to choose from for {}",
                self.row_name(table, slot)
            );
            return error(ErrorKind::Domain, decision.place, message);
        }
        let mut key = Vec::new();
        for column in &decision.columns {
            let own = &schema.columns[column.column].name;
            let stem = own
                .get(crate::dialect::DECISION_PREFIX.len()..)
                .unwrap_or_default();
            let mut value = row[column.column];
            if let Some(present) = schema.position(&format!("current_{stem}")) {
                let current = row[present];
                if value.is_null() {
                    value = current;
                } else if value.key() != current.key() {
                    let message = format!(
                        "{own} is {} but current_{stem} is {} for {}",
                        self.symbols.sql(value),
                        self.symbols.sql(current),
                        self.row_name(table, slot)
                    );
                    return error(ErrorKind::Domain, decision.place, message);
                }
            }
            key.push(value);
        }
        let columns: Vec<usize> = decision.columns.iter().map(|c| c.domain_column).collect();
        let present = match key.iter().any(|v| v.is_null()) {
            true => None,
            false => domain
                .find(&columns, &key)
                .into_iter()
                .find(|slot| allowed.as_ref().is_none_or(|a| a.contains(slot))),
        };
        Ok((allowed, present))
    }

    /// The values that a decision may take.
    pub(crate) fn values_of(&self, table: usize, decision: usize, slot: u32) -> Vec<u32> {
        let of = &self.mirrors[table].decisions[decision];
        let domain = &self.mirrors[of.mirror].mirror;
        let named = |value: &u32| {
            let row = domain.row(*value);
            row.is_some_and(|row| of.columns.iter().all(|c| !row[c.domain_column].is_null()))
        };
        match self.choices(table, decision, slot) {
            Ok((Some(allowed), _)) => allowed.into_iter().filter(named).collect(),
            Ok((None, _)) | Err(_) => domain.occupied().filter(named).collect(),
        }
    }

    /// Whether a decision may be NULL.
    pub(crate) fn is_nullable(&self, var: graph::VarId) -> bool {
        self.variables[var.index()].nullable
    }

    pub(super) fn add_variable(&mut self, table: usize, decision: usize, slot: u32) -> Result<()> {
        let (allowed, current) = self.choices(table, decision, slot)?;
        let entry = &self.mirrors[table];
        let schema = &entry.mirror.schema;
        let key = schema.primary_key[0];
        let named = entry.mirror.row(slot).map_or(Value::Null, |row| row[key]);
        let block_key = (schema.columns[key].name.to_ascii_lowercase(), named.key());
        let next = u32::try_from(self.blocks_of.len()).unwrap_or(u32::MAX);
        let block = *self.blocks_of.entry(block_key).or_insert(next);
        let of = &self.mirrors[table].decisions[decision];
        let (domain, nullable) = (of.domain, of.nullable);
        let var = self.model.add_var(graph::VarSpec {
            domain: self.domains[domain.0 as usize].graph,
            allowed,
            nullable: if nullable {
                graph::Nullable::Yes
            } else {
                graph::Nullable::No
            },
            current,
            block,
        });
        let info = VariableOf {
            domain,
            nullable,
            mirror: table,
            decision,
            slot,
        };
        if var.index() >= self.variables.len() {
            self.variables.resize(var.index() + 1, info);
        }
        self.variables[var.index()] = info;
        let vars = &mut self.mirrors[table].decisions[decision].vars;
        if slot as usize >= vars.len() {
            vars.resize(slot as usize + 1, None);
        }
        vars[slot as usize] = Some(var);
        Ok(())
    }
}
