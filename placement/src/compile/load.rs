//! Statements into tables, variables, views and constraints.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::blocks::Wanted;
use super::cells::Target;
use super::constants::ConstantResult;
use super::fold::Set;
use super::join::Part;
use super::joined::Handle;
use super::maps::Maps;
use super::resolved::RelationId;
use super::view::ViewOf;
use super::{Compiler, Kinds, MirrorOf};
use crate::dialect::ast::{self, Statement};
use crate::dialect::parse;
use crate::error::{Error, ErrorKind, Place, Result, Source};
use crate::graph;
use crate::tables::{Affinity, Column, Mirror, Schema, Symbols, Tables, Value, quoted};

fn error<T>(kind: ErrorKind, place: Place, message: impl Into<String>) -> Result<T> {
    Err(Error::at(kind, place, message))
}

/// Which constraints are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goals {
    /// All.
    All,
    /// Without objectives: for questions of feasibility.
    Hard,
}

impl Compiler {
    /// Loads scripts in their order, and compiles what they say. Places count in each script by itself.
    pub(crate) fn load(scripts: &[(&str, Source)], goals: Goals) -> Result<Compiler> {
        let mut compiler = Compiler::empty(Tables::new()?);
        for &(text, source) in scripts {
            for statement in parse(text, source)? {
                compiler.take(statement)?;
            }
        }
        compiler.constraints.retain(|c| match (&c.goal, goals) {
            (ast::Goal::Check { .. }, _) | (_, Goals::All) => true,
            (ast::Goal::Objective { .. }, Goals::Hard) => false,
        });
        compiler.compile()?;
        Ok(compiler)
    }

    /// Compiles over tables that are filled already.
    pub(super) fn from_tables(
        tables: Tables,
        view_statements: BTreeMap<String, ast::View>,
        decision_tables: BTreeMap<String, Vec<ast::DecisionColumn>>,
        constraints: Vec<ast::Constraint>,
    ) -> Result<Compiler> {
        for view in view_statements.values() {
            tables.drop_view(&view.name)?;
        }
        let mut compiler = Compiler {
            view_statements,
            decision_tables,
            constraints,
            ..Compiler::empty(tables)
        };
        compiler.compile()?;
        Ok(compiler)
    }

    fn empty(tables: Tables) -> Compiler {
        Compiler {
            tables,
            symbols: Symbols::default(),
            mirrors: Vec::new(),
            by_name: BTreeMap::new(),
            view_statements: BTreeMap::new(),
            constant_views: BTreeMap::new(),
            opening: Vec::new(),
            decision_tables: BTreeMap::new(),
            views: Vec::new(),
            arrivals: VecDeque::new(),
            domains: Vec::new(),
            variables: Vec::new(),
            blocks_of: BTreeMap::new(),
            maps: Maps::default(),
            images: Vec::new(),
            sets: Vec::new(),
            set_numbers: BTreeMap::new(),
            scalars: Vec::new(),
            tuples: HashMap::new(),
            subqueries: HashMap::new(),
            shared_bags: HashMap::new(),
            blocks: 0,
            target: Target::Graph,
            model: graph::Model::new(),
            policies: Vec::new(),
            constraints: Vec::new(),
            softs: Vec::new(),
            warnings: Vec::new(),
            tier_dens: BTreeMap::new(),
            constants: Vec::new(),
            baked_sets: BTreeSet::new(),
            bindings: Vec::new(),
        }
    }

    fn take(&mut self, statement: Statement) -> Result<()> {
        match statement {
            Statement::Table {
                name,
                place,
                sql,
                decisions,
            } => {
                self.tables.execute(&sql, place)?;
                if !decisions.is_empty() {
                    let name = name.trim_matches(['"', '`', '[', ']']).to_ascii_lowercase();
                    self.decision_tables.insert(name, decisions);
                }
                Ok(())
            }
            Statement::Data { place, sql } => self.tables.execute(&sql, place),
            Statement::View(view) => {
                let name = view.name.to_ascii_lowercase();
                if self.view_statements.contains_key(&name) {
                    let message = format!("view {} is already defined", view.name);
                    return error(ErrorKind::Name, view.place, message);
                }
                if let Some(schema) = Schema::read(&self.tables, &name, &mut self.symbols)? {
                    let message = format!("there is a table {}", schema.name);
                    return error(ErrorKind::Name, view.place, message);
                }
                self.view_statements.insert(name, view);
                Ok(())
            }
            Statement::Constraint(constraint) => {
                let same = |c: &ast::Constraint| c.name.eq_ignore_ascii_case(&constraint.name);
                match self.constraints.iter().position(same) {
                    Some(at) if constraint.or_replace => self.constraints[at] = *constraint,
                    Some(_) => {
                        let message = format!(
                            "constraint {} is already defined; write CREATE OR REPLACE",
                            constraint.name
                        );
                        return error(ErrorKind::Name, constraint.place, message);
                    }
                    None => self.constraints.push(*constraint),
                }
                Ok(())
            }
        }
    }

    fn compile(&mut self) -> Result<()> {
        for name in self.decision_tables.keys().cloned().collect::<Vec<_>>() {
            self.decision_table(&name)?;
        }
        for name in self.view_statements.keys().cloned().collect::<Vec<_>>() {
            self.is_constant_view(&name, &mut BTreeSet::new())?;
        }
        // Every view is opened, used or not: a wrong one must not wait for its first reader.
        for name in self.view_statements.keys().cloned().collect::<Vec<_>>() {
            let place = self.view_statements[&name].place;
            self.relation(&name, place)?;
        }
        for constraint in self.constraints.clone() {
            self.compile_constraint(&constraint)?;
        }
        self.finish_tiers()
    }

    /// Whether a view is SQLite's alone; it is created there if so. Cycles are errors.
    fn is_constant_view(&mut self, name: &str, path: &mut BTreeSet<String>) -> Result<bool> {
        if let Some(&known) = self.constant_views.get(name) {
            return Ok(known);
        }
        let Some(view) = self.view_statements.get(name).cloned() else {
            return Ok(true);
        };
        if !path.insert(name.to_owned()) {
            let message = format!("view {} is defined by itself", view.name);
            return error(ErrorKind::Name, view.place, message);
        }
        let mut constant = !view.query.names_decision;
        for relation in &view.query.relations {
            constant &= self.is_constant_view(relation, path)?;
            constant &= !(view.query.has_wildcard && self.decision_tables.contains_key(relation));
        }
        path.remove(name);
        if constant {
            let columns = match &view.columns {
                Some(columns) => {
                    let list: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
                    format!(" ({})", list.join(", "))
                }
                None => String::new(),
            };
            // Preparing the query itself first gives errors their place in the text.
            self.tables.columns_of(&view.query.sql, view.query_place)?;
            let sql = format!(
                "CREATE VIEW {}{columns} AS {}",
                quoted(&view.name),
                view.query.sql
            );
            self.tables.execute(&sql, view.place)?;
        }
        self.constant_views.insert(name.to_owned(), constant);
        Ok(constant)
    }

    /// The relation of a name, opened on first use.
    pub(super) fn relation(&mut self, name: &str, place: Place) -> Result<RelationId> {
        let key = name.to_ascii_lowercase();
        if let Some(&id) = self.by_name.get(&key) {
            return Ok(id);
        }
        if let Some(view) = self.view_statements.get(&key).cloned() {
            if self.constant_views.get(&key).copied().unwrap_or(false) {
                let schema = Schema::of_view(&self.tables, &view.name, view.place)?;
                let sql = format!("SELECT * FROM {}", quoted(&view.name));
                let from = (sql, view.query_place, view.query.relations.as_slice());
                let id = self.constant_relation(schema, from)?;
                self.by_name.insert(key, id);
                return Ok(id);
            }
            if self.opening.contains(&key) {
                let message = format!("view {} is defined by itself", view.name);
                return error(ErrorKind::Name, view.place, message);
            }
            self.opening.push(key.clone());
            let id = self.open_view(&view.query, view.columns.as_deref())?;
            self.opening.pop();
            self.by_name.insert(key, id);
            return Ok(id);
        }
        let Some(schema) = Schema::read(&self.tables, &key, &mut self.symbols)? else {
            return error(ErrorKind::Name, place, format!("no such table: {name}"));
        };
        let order = if schema.primary_key.is_empty() {
            "1".to_owned()
        } else {
            let key = schema.primary_key.iter();
            key.map(|&c| quoted(&schema.columns[c].name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let sql = format!("SELECT * FROM {} ORDER BY {order}", quoted(&schema.name));
        let rows = self.tables.rows(&sql, Some(place), &mut self.symbols)?;
        let id = self.add_mirror(schema, rows);
        self.by_name.insert(key, RelationId::Mirror(id));
        Ok(RelationId::Mirror(id))
    }

    fn constant_relation(
        &mut self,
        schema: Schema,
        (sql, place, relations): (String, Place, &[String]),
    ) -> Result<RelationId> {
        let rows = self.tables.rows(&sql, Some(place), &mut self.symbols)?;
        let mirror = self.add_mirror(schema, rows);
        self.remember(sql, place, relations, ConstantResult::Mirror(mirror));
        Ok(RelationId::Mirror(mirror))
    }

    pub(super) fn add_mirror(&mut self, schema: Schema, rows: Vec<Box<[Value]>>) -> usize {
        // SQLite lets a column hold values of another type than it declares; both count.
        let declared = |column: &Column| Kinds {
            text: column.affinity == Affinity::Text,
            number: matches!(column.affinity, Affinity::Integer | Affinity::Real),
        };
        let mut kinds: Vec<Kinds> = schema.columns.iter().map(declared).collect();
        for row in &rows {
            for (kind, value) in kinds.iter_mut().zip(row.iter()) {
                kind.note(*value);
            }
        }
        let mirror = Mirror::new(Rc::new(schema), rows);
        self.mirrors.push(MirrorOf {
            mirror,
            kinds,
            decisions: Vec::new(),
        });
        self.mirrors.len() - 1
    }

    fn open_view(&mut self, query: &ast::Query, columns: Option<&[String]>) -> Result<RelationId> {
        let select = query.select.as_ref().map_err(Clone::clone)?;
        let wanted = Wanted {
            items: true,
            goal: None,
        };
        let (mut block, _) = self.resolve_block(select, &mut Vec::new(), &wanted)?;
        if let Some(columns) = columns {
            if columns.len() != block.outputs.len() {
                let message = format!(
                    "{} names for {} columns",
                    columns.len(),
                    block.outputs.len()
                );
                return error(ErrorKind::Name, query.place, message);
            }
            for ((name, _), given) in block.outputs.iter_mut().zip(columns) {
                name.clone_from(given);
            }
        }
        let block = Rc::new(block);
        let mut view = ViewOf::new(Rc::clone(&block));
        if !block.grouped {
            for found in self.matches(&block, None, Part::Whole)? {
                let row = self.conditional_row(&block, None, &found)?;
                self.keep(&row);
                let number = view.insert(row);
                view.joined.add(&found.rows(), Handle::Row(number));
            }
        } else if let Some(mut grouping) = self.grouping(&block, None)? {
            for group in self.all_groups(&block, &mut grouping)? {
                if let Some(row) = self.group_row(&block, &grouping, &group, None)? {
                    self.keep(&row);
                    let number = view.insert(row);
                    grouping.standing.insert((group.part, group.key), number);
                }
            }
            view.grouping = Some(grouping);
        }
        self.views.push(view);
        Ok(RelationId::View(self.views.len() - 1))
    }

    /// A subquery in FROM.
    pub(super) fn derived(&mut self, query: &ast::Query) -> Result<RelationId> {
        if let Some(sql) = self.constant_sql(query, false)? {
            let names = self.tables.columns_of(&sql, query.place)?;
            let columns = names
                .into_iter()
                .map(|name| Column {
                    name,
                    affinity: Affinity::Any,
                })
                .collect();
            let schema = Schema {
                name: String::new(),
                columns,
                primary_key: Vec::new(),
                foreign_keys: Vec::new(),
            };
            return self.constant_relation(schema, (sql, query.place, &query.relations));
        }
        self.open_view(query, None)
    }

    /// The names of a relation's columns.
    pub(super) fn columns(&self, relation: RelationId) -> Vec<String> {
        match relation {
            RelationId::Mirror(mirror) => {
                let columns = &self.mirrors[mirror].mirror.schema.columns;
                columns.iter().map(|c| c.name.clone()).collect()
            }
            RelationId::View(view) => self.views[view]
                .block
                .outputs
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }

    /// The text of a query if it is constant: it mentions no decision and SQLite can run it by itself.
    pub(super) fn constant_sql(
        &mut self,
        query: &ast::Query,
        exists: bool,
    ) -> Result<Option<String>> {
        if query.names_decision {
            return Ok(None);
        }
        for relation in &query.relations {
            if !self.constant_views.get(relation).copied().unwrap_or(true) {
                return Ok(None);
            }
            if query.has_wildcard && !exists && self.decision_tables.contains_key(relation) {
                return Ok(None);
            }
        }
        match self.tables.columns_of(&query.sql, query.place) {
            Ok(_) => Ok(Some(query.sql.clone())),
            // It may read the rows around it; if not, resolving it names what is missing.
            Err(e) if e.kind == ErrorKind::Name && query.select.is_ok() => Ok(None),
            Err(mut e) => {
                e.place = Some(query.place);
                Err(e)
            }
        }
    }

    pub(super) fn constant_scalar(&mut self, sql: String, query: &ast::Query) -> Result<usize> {
        let rows = self
            .tables
            .rows(&sql, Some(query.place), &mut self.symbols)?;
        if rows.first().is_some_and(|row| row.len() != 1) {
            let message = "a subquery as a value needs one column";
            return error(ErrorKind::Syntax, query.place, message);
        }
        let value = rows.first().map_or(Value::Null, |row| row[0]);
        self.scalars.push(value);
        let number = self.scalars.len() - 1;
        let result = ConstantResult::Scalar(number);
        self.remember(sql, query.place, &query.relations, result);
        Ok(number)
    }

    /// The set of a constant IN (SELECT …).
    pub(super) fn constant_set(
        &mut self,
        query: &ast::Query,
        needle: &super::resolved::Expr,
    ) -> Result<Option<u32>> {
        let Some(sql) = self.constant_sql(query, false)? else {
            return Ok(None);
        };
        if let Some(known) = self.known_set(&sql, query.place) {
            return Ok(Some(known));
        }
        let set = self.run_set(&sql, query.place)?;
        let numeric_needle = needle.ty != super::resolved::Type::Text;
        let mistyped = |value: &Value| matches!(value, Value::Text(_)) == numeric_needle;
        if needle.ty != super::resolved::Type::Any && set.values.iter().any(mistyped) {
            let message = "IN compares text with a number";
            return error(ErrorKind::Type, query.place, message);
        }
        // A set of its own, whatever others hold: it changes with the tables.
        let number = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.sets.push(set);
        let result = ConstantResult::Set(number);
        self.remember(sql, query.place, &query.relations, result);
        Ok(Some(number))
    }

    /// The number of a constant set.
    pub(super) fn intern_set(&mut self, mut set: Set) -> u32 {
        set.values.sort_unstable();
        set.values.dedup();
        if let Some(&number) = self.set_numbers.get(&set) {
            return number;
        }
        let number = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.set_numbers.insert(set.clone(), number);
        self.sets.push(set);
        number
    }

    /// The set of a JSON array's elements.
    pub(super) fn array_set(&mut self, array: Value, place: Place) -> Result<u32> {
        let fail = || {
            Error::at(
                ErrorKind::Type,
                place,
                "contains() needs a JSON array of scalars",
            )
        };
        let mut set = Set::default();
        if let Value::Text(symbol) = array {
            let json: serde_json::Value =
                serde_json::from_str(self.symbols.text(symbol)).map_err(|_| fail())?;
            for element in json.as_array().ok_or_else(fail)? {
                match element {
                    serde_json::Value::Null => set.has_null = true,
                    serde_json::Value::String(text) => {
                        let symbol = self.symbols.intern(text);
                        set.values.push(Value::Text(symbol));
                    }
                    serde_json::Value::Number(n) => {
                        let n = match n.as_i64() {
                            Some(n) => Value::Integer(n),
                            None => crate::tables::millionths(&n.to_string())
                                .map(Value::Decimal)
                                .ok_or_else(fail)?,
                        };
                        set.values.push(n.key());
                    }
                    serde_json::Value::Bool(b) => set.values.push(Value::Integer(i64::from(*b))),
                    serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                        return Err(fail());
                    }
                }
            }
        } else {
            // contains(NULL, x) is NULL, as IN a set of one NULL.
            set.has_null = array.is_null();
            if !array.is_null() {
                return Err(fail());
            }
        }
        Ok(self.intern_set(set))
    }
}

impl Kinds {
    pub(super) fn note(&mut self, value: Value) {
        match value {
            Value::Null => {}
            Value::Integer(_) | Value::Decimal(_) => self.number = true,
            Value::Text(_) => self.text = true,
        }
    }
}
