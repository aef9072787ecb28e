//! Names to positions, and the static type check.
//!
//! A subquery that mentions no decision and that SQLite can prepare on its own is constant: SQLite runs it
//! once and its value takes its place. Every other subquery becomes a block of its own.

use std::rc::Rc;

use super::resolved::{AggregateOf, Block, Expr, Link, Node, Operator, RelationId, SourceOf, Type};
use super::{Compiler, Kinds};
use crate::dialect::ast::{self, Infix, Literal, Prefix};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::tables::Value;

/// The most sources of one block.
const SOURCES_MAX: usize = 32;

/// What a name may refer to while a block is being resolved.
pub(super) struct Scope {
    sources: Vec<SourceOf>,
    /// Set once rows have been folded: only keys and aggregates are in reach.
    pub(super) folded: Option<Folded>,
}

pub(super) struct Folded {
    keys: Vec<Expr>,
    pub(super) aggregates: Vec<AggregateOf>,
}

pub(super) fn error<T>(kind: ErrorKind, place: Place, message: impl Into<String>) -> Result<T> {
    Err(Error::at(kind, place, message))
}

pub(super) fn join(a: Type, b: Type) -> Option<Type> {
    match (a, b) {
        (Type::Any, other) | (other, Type::Any) => Some(other),
        (Type::Text, Type::Text) => Some(Type::Text),
        (Type::Text, _) | (_, Type::Text) => None,
        (Type::Truth, Type::Truth) => Some(Type::Truth),
        _ => Some(Type::Number),
    }
}

/// An expression of `args` under `op`.
pub(super) fn apply(place: Place, ty: Type, op: Operator, args: Vec<Expr>) -> Expr {
    Expr {
        place,
        ty,
        decision: args.iter().any(|a| a.decision),
        sources: args.iter().fold(0, |bits, a| bits | a.sources),
        outer: args.iter().any(|a| a.outer),
        node: Node::Apply(op, args),
    }
}

pub(super) fn constant(place: Place, ty: Type, value: Value) -> Expr {
    Expr {
        place,
        ty,
        decision: false,
        sources: 0,
        outer: false,
        node: Node::Const(value),
    }
}

/// Whether an expression, outside of its subqueries, has a node that `is`.
fn any_node(expr: &ast::Expr, is: &impl Fn(&ast::Node) -> bool) -> bool {
    use ast::Node;
    if is(&expr.node) {
        return true;
    }
    let any = |e: &ast::Expr| any_node(e, is);
    match &expr.node {
        Node::Literal(_) | Node::Column { .. } | Node::Exists(_) | Node::Scalar(_) => false,
        Node::Aggregate(_, argument, _) => argument.as_deref().is_some_and(any),
        Node::Prefix(_, a) | Node::IsNull(a) | Node::IsTrue(a) | Node::InQuery(a, _) => any(a),
        Node::Infix(_, a, b) | Node::Same(a, b) => any(a) || any(b),
        Node::InList(a, list) => any(a) || list.iter().any(any),
        Node::Case(arms, otherwise) => {
            arms.iter().any(|(c, v)| any(c) || any(v)) || otherwise.as_deref().is_some_and(any)
        }
        Node::Call(_, args) => args.iter().any(any),
    }
}

fn aggregates_in(expr: &ast::Expr) -> bool {
    any_node(expr, &|node| matches!(node, ast::Node::Aggregate(..)))
}

fn subqueries_in(expr: &ast::Expr) -> bool {
    any_node(expr, &|node| {
        matches!(
            node,
            ast::Node::Exists(_) | ast::Node::Scalar(_) | ast::Node::InQuery(..)
        )
    })
}

/// The equality of a column of a source with a column of the rows around the block.
fn link_of(block: &Block, source: usize) -> Option<(usize, usize, usize)> {
    block.conditions.iter().find_map(|condition| {
        let Node::Apply(Operator::Infix(Infix::Equal), args) = &condition.node else {
            return None;
        };
        let [a, b] = args.as_slice() else { return None };
        [(a, b), (b, a)]
            .into_iter()
            .find_map(|(own, other)| match (&own.node, &other.node) {
                (
                    Node::Column {
                        level: 0,
                        source: s,
                        column,
                    },
                    Node::Column {
                        level: 1,
                        source: outer,
                        column: outer_column,
                    },
                ) if *s == source && !own.decision && !other.decision => {
                    Some((*column, *outer, *outer_column))
                }
                _ => None,
            })
    })
}

/// What a block is resolved for, besides its rows.
pub(super) struct Wanted<'a> {
    /// Resolve the select list.
    pub items: bool,
    /// An expression judged on each row or group: CHECK or an objective.
    pub goal: Option<&'a ast::Expr>,
}

impl Compiler {
    /// Resolves a select block under the scopes of the blocks around it.
    pub(super) fn resolve_block(
        &mut self,
        select: &ast::Select,
        scopes: &mut Vec<Scope>,
        wanted: &Wanted<'_>,
    ) -> Result<(Block, Option<Expr>)> {
        let mut sources: Vec<SourceOf> = Vec::new();
        let mut inner_relations = Vec::new();
        for from in &select.from {
            let relation = match &from.relation {
                ast::Relation::Named(name) => self.relation(name, from.place)?,
                ast::Relation::Derived(query) => self.derived(query)?,
            };
            let taken = |s: &SourceOf| s.alias.eq_ignore_ascii_case(&from.alias);
            if !from.alias.is_empty() && sources.iter().any(taken) {
                let message = format!("two sources are named {}", from.alias);
                return error(ErrorKind::Name, from.place, message);
            }
            sources.push(SourceOf {
                relation,
                alias: from.alias.clone(),
            });
        }
        if sources.len() > SOURCES_MAX {
            let message = format!("more than {SOURCES_MAX} sources");
            return error(ErrorKind::Limit, select.place, message);
        }
        let shown = sources.clone();
        scopes.push(Scope {
            sources,
            folded: None,
        });
        let result = self.resolve_in_scope(select, scopes, wanted, shown, &mut inner_relations);
        scopes.pop();
        result
    }

    fn resolve_in_scope(
        &mut self,
        select: &ast::Select,
        scopes: &mut Vec<Scope>,
        wanted: &Wanted<'_>,
        sources: Vec<SourceOf>,
        inner: &mut Vec<Link>,
    ) -> Result<(Block, Option<Expr>)> {
        let mut conditions = Vec::new();
        for condition in &select.conditions {
            if aggregates_in(condition) {
                let message = "an aggregate in WHERE or ON; write HAVING";
                return error(ErrorKind::Syntax, condition.place, message);
            }
            let resolved = self.resolve(condition, scopes, inner)?;
            conditions.push(self.condition(resolved)?);
        }
        let mut keys = Vec::new();
        let mut key_names = Vec::new();
        for (index, key) in select.group_by.iter().flatten().enumerate() {
            // GROUP BY 1 and GROUP BY alias mean the select list.
            let key = match &key.node {
                ast::Node::Literal(Literal::Integer(n)) => {
                    let position = usize::try_from(*n - 1).ok();
                    match position.and_then(|p| select.items.get(p)) {
                        Some(ast::Item::Expr(expr, _)) => expr,
                        Some(ast::Item::All(_) | ast::Item::AllOf(..)) | None => {
                            let message = format!("GROUP BY {n} names no expression");
                            return error(ErrorKind::Name, key.place, message);
                        }
                    }
                }
                ast::Node::Column { table: None, name } if !self.in_scope(name, scopes) => {
                    let alias = select.items.iter().find_map(|item| match item {
                        ast::Item::Expr(expr, alias) if alias.eq_ignore_ascii_case(name) => {
                            Some(expr)
                        }
                        _ => None,
                    });
                    alias.unwrap_or(key)
                }
                _ => key,
            };
            if aggregates_in(key) {
                let message = "an aggregate in GROUP BY";
                return error(ErrorKind::Syntax, key.place, message);
            }
            let name = match &key.node {
                ast::Node::Column { name, .. } => name.clone(),
                _ => format!("key{}", index + 1),
            };
            let name = match key_names.contains(&name) {
                true => match &key.node {
                    ast::Node::Column {
                        table: Some(table),
                        name,
                    } => format!("{table}.{name}"),
                    _ => format!("key{}", index + 1),
                },
                false => name,
            };
            key_names.push(name);
            keys.push(self.resolve(key, scopes, inner)?);
        }
        let item_aggregates = wanted.items
            && select.items.iter().any(|item| match item {
                ast::Item::Expr(expr, _) => aggregates_in(expr),
                ast::Item::All(_) | ast::Item::AllOf(..) => false,
            });
        let grouped = select.group_by.is_some()
            || select.having.is_some()
            || item_aggregates
            || wanted.goal.is_some_and(aggregates_in);
        if grouped && let Some(scope) = scopes.last_mut() {
            scope.folded = Some(Folded {
                keys: keys.clone(),
                aggregates: Vec::new(),
            });
        }
        let having = match &select.having {
            Some(expr) => {
                let resolved = self.resolve(expr, scopes, inner)?;
                Some(self.condition(resolved)?)
            }
            None => None,
        };
        let goal = match wanted.goal {
            Some(goal) => Some(self.resolve(goal, scopes, inner)?),
            None => None,
        };
        let mut outputs = Vec::new();
        if wanted.items {
            for item in &select.items {
                match item {
                    ast::Item::Expr(expr, name) => {
                        outputs.push((name.clone(), self.resolve(expr, scopes, inner)?));
                    }
                    ast::Item::All(place) => {
                        for index in 0..sources.len() {
                            self.expand(index, *place, scopes, &sources, grouped, &mut outputs)?;
                        }
                    }
                    ast::Item::AllOf(place, alias) => {
                        let found = sources
                            .iter()
                            .position(|s| s.alias.eq_ignore_ascii_case(alias));
                        let Some(index) = found else {
                            let message = format!("no source is named {alias}");
                            return error(ErrorKind::Name, *place, message);
                        };
                        self.expand(index, *place, scopes, &sources, grouped, &mut outputs)?;
                    }
                }
            }
        }
        let aggregates = scopes
            .last_mut()
            .and_then(|s| s.folded.take())
            .map(|f| f.aggregates)
            .unwrap_or_default();
        let correlated = conditions.iter().any(|e| e.outer)
            || keys.iter().any(|e| e.outer)
            || having.iter().any(|e| e.outer)
            || outputs.iter().any(|(_, e)| e.outer)
            || aggregates
                .iter()
                .any(|a| a.argument.as_ref().is_some_and(|e| e.outer));
        self.blocks += 1;
        let decision = conditions.iter().chain(&keys).any(|e| e.decision)
            || sources
                .iter()
                .any(|s| matches!(s.relation, RelationId::View(_)))
            || aggregates
                .iter()
                .any(|a| a.argument.as_ref().is_some_and(|e| e.decision))
            || (!grouped && outputs.iter().any(|(_, e)| e.decision));
        let block = Block {
            id: self.blocks,
            place: select.place,
            sources,
            conditions,
            grouped,
            keys,
            key_names,
            having,
            aggregates,
            outputs,
            correlated,
            decision,
            links: std::mem::take(inner),
        };
        Ok((block, goal))
    }

    fn expand(
        &mut self,
        index: usize,
        place: Place,
        scopes: &mut Vec<Scope>,
        sources: &[SourceOf],
        grouped: bool,
        outputs: &mut Vec<(String, Expr)>,
    ) -> Result<()> {
        let names = self.columns(sources[index].relation);
        for (column, name) in names.into_iter().enumerate() {
            let expr = if grouped {
                let table = Some(sources[index].alias.clone());
                let node = ast::Node::Column {
                    table,
                    name: name.clone(),
                };
                self.resolve(&ast::Expr { place, node }, scopes, &mut Vec::new())?
            } else {
                self.column(place, 0, index, column, sources)?
            };
            outputs.push((name, expr));
        }
        Ok(())
    }

    /// An expression read as a condition.
    pub(super) fn condition(&self, expr: Expr) -> Result<Expr> {
        match expr.ty {
            Type::Truth => Ok(expr),
            Type::Text => error(
                ErrorKind::Type,
                expr.place,
                "a text where a condition is needed",
            ),
            Type::Number | Type::Any => {
                Ok(apply(expr.place, Type::Truth, Operator::Truth, vec![expr]))
            }
        }
    }

    fn resolve_condition(
        &mut self,
        expr: &ast::Expr,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        let resolved = self.resolve(expr, scopes, inner)?;
        self.condition(resolved)
    }

    fn in_scope(&self, name: &str, scopes: &[Scope]) -> bool {
        scopes.last().is_some_and(|scope| {
            scope.sources.iter().any(|s| {
                self.columns(s.relation)
                    .iter()
                    .any(|c| c.eq_ignore_ascii_case(name))
            })
        })
    }

    /// The source and column that a name means at the innermost level where it means one.
    fn find(
        &self,
        table: Option<&str>,
        name: &str,
        place: Place,
        scopes: &[Scope],
    ) -> Result<(usize, usize, usize)> {
        for (level, scope) in scopes.iter().rev().enumerate() {
            let mut found = None;
            let mut named = false;
            for (index, source) in scope.sources.iter().enumerate() {
                if table.is_some_and(|t| !source.alias.eq_ignore_ascii_case(t)) {
                    continue;
                }
                named = true;
                let columns = self.columns(source.relation);
                if let Some(column) = columns.iter().position(|c| c.eq_ignore_ascii_case(name)) {
                    if found.is_some() {
                        let message = format!("ambiguous column {name}");
                        return error(ErrorKind::Name, place, message);
                    }
                    found = Some((level, index, column));
                }
            }
            if let Some(found) = found {
                return Ok(found);
            }
            if table.is_some() && named {
                break;
            }
        }
        let shown = match table {
            Some(table) => format!("{table}.{name}"),
            None => name.to_owned(),
        };
        error(ErrorKind::Name, place, format!("no such column: {shown}"))
    }

    fn column(
        &self,
        place: Place,
        level: usize,
        source: usize,
        column: usize,
        sources: &[SourceOf],
    ) -> Result<Expr> {
        let relation = sources[source].relation;
        let (ty, decision) = match relation {
            RelationId::Mirror(mirror) => self.mirror_type(mirror, column, place)?,
            RelationId::View(view) => {
                let output = &self.views[view].block.outputs[column].1;
                (output.ty, output.decision)
            }
        };
        let level32 = u32::try_from(level).unwrap_or(u32::MAX);
        Ok(Expr {
            place,
            ty,
            decision,
            sources: if level == 0 { 1 << source } else { 0 },
            outer: level > 0,
            node: Node::Column {
                level: level32,
                source,
                column,
            },
        })
    }

    /// The type of a mirror's column, and whether it is a decision.
    fn mirror_type(&self, mirror: usize, column: usize, place: Place) -> Result<(Type, bool)> {
        let entry = &self.mirrors[mirror];
        if let Some((decision, slot)) = entry.decision_of(column) {
            let domain = &entry.decisions[decision];
            let target = domain.columns[slot].domain_column;
            let (ty, _) = self.mirror_type(domain.mirror, target, place)?;
            return Ok((ty, true));
        }
        let data = &entry.mirror;
        let Kinds { text, number } = entry.kinds[column];
        match (text, number) {
            (true, true) => {
                let name = &data.schema.columns[column].name;
                let message = format!("column {name} holds both text and numbers");
                error(ErrorKind::Type, place, message)
            }
            (true, false) => Ok((Type::Text, false)),
            (false, true) => Ok((Type::Number, false)),
            (false, false) => Ok((Type::Any, false)),
        }
    }

    pub(super) fn resolve(
        &mut self,
        expr: &ast::Expr,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        let place = expr.place;
        // After the fold, an expression that equals a key is that key.
        let keys = match scopes.last() {
            Some(Scope {
                folded: Some(folded),
                ..
            }) if !aggregates_in(expr) && !subqueries_in(expr) => folded.keys.clone(),
            _ => Vec::new(),
        };
        if !keys.is_empty()
            && let Ok(row) = self.resolve_as_row(expr, scopes)
            && let Some(key) = keys.iter().position(|k| k.same(&row))
        {
            let node = Node::Key { level: 0, key };
            return Ok(Expr {
                place,
                ty: row.ty,
                decision: false,
                sources: 0,
                outer: false,
                node,
            });
        }
        match &expr.node {
            ast::Node::Literal(literal) => Ok(match literal {
                Literal::Null => constant(place, Type::Any, Value::Null),
                Literal::Integer(n @ (0 | 1)) => constant(place, Type::Truth, Value::Integer(*n)),
                Literal::Integer(n) => constant(place, Type::Number, Value::Integer(*n)),
                Literal::Millionths(n) => constant(place, Type::Number, Value::Decimal(*n)),
                Literal::Text(text) => {
                    let symbol = self.symbols.intern(text);
                    constant(place, Type::Text, Value::Text(symbol))
                }
            }),
            ast::Node::Column { table, name } => {
                self.resolve_column(table.as_deref(), name, place, scopes)
            }
            ast::Node::Prefix(Prefix::Negate, a) => {
                let a = self.numeric(a, scopes, inner, "-")?;
                Ok(apply(place, Type::Number, Operator::Negate, vec![a]))
            }
            ast::Node::Prefix(Prefix::Not, a) => {
                let a = self.resolve_condition(a, scopes, inner)?;
                Ok(apply(place, Type::Truth, Operator::Not, vec![a]))
            }
            ast::Node::Infix(op, a, b) => self.resolve_infix(place, *op, a, b, scopes, inner),
            ast::Node::IsNull(a) => {
                let a = self.resolve(a, scopes, inner)?;
                Ok(apply(place, Type::Truth, Operator::IsNull, vec![a]))
            }
            ast::Node::IsTrue(a) => {
                let a = self.resolve_condition(a, scopes, inner)?;
                Ok(apply(place, Type::Truth, Operator::IsTrue, vec![a]))
            }
            ast::Node::Same(a, b) => {
                let a = self.resolve(a, scopes, inner)?;
                let b = self.resolve(b, scopes, inner)?;
                self.comparable(place, "IS NOT DISTINCT FROM", &a, &b)?;
                Ok(apply(place, Type::Truth, Operator::Same, vec![a, b]))
            }
            ast::Node::InList(a, list) => self.resolve_in_list(place, a, list, scopes, inner),
            ast::Node::InQuery(a, query) => {
                let a = self.resolve(a, scopes, inner)?;
                if let Some(set) = self.constant_set(query, &a)? {
                    let op = Operator::InSet(set);
                    return Ok(apply(place, Type::Truth, op, vec![a]));
                }
                let block = self.subquery(query, scopes, inner)?;
                let [(_, output)] = block.outputs.as_slice() else {
                    return error(
                        ErrorKind::Syntax,
                        query.place,
                        "IN needs a query of one column",
                    );
                };
                self.comparable(place, "IN", &a, output)?;
                Ok(Expr {
                    place,
                    ty: Type::Truth,
                    decision: a.decision || block.decision,
                    sources: a.sources | self.sources_of(&block),
                    outer: a.outer || self.outer_of(&block),
                    node: Node::InBlock(Box::new(a), block),
                })
            }
            ast::Node::Exists(query) => {
                if let Some(sql) = self.constant_sql(query, true)? {
                    let sql = format!("SELECT EXISTS ({sql})");
                    let number = self.constant_scalar(sql, query)?;
                    let node = Node::ConstantScalar(number);
                    return Ok(Expr {
                        node,
                        ..constant(place, Type::Truth, Value::Null)
                    });
                }
                let block = self.subquery(query, scopes, inner)?;
                Ok(Expr {
                    place,
                    ty: Type::Truth,
                    decision: block.decision,
                    sources: self.sources_of(&block),
                    outer: self.outer_of(&block),
                    node: Node::Exists(block),
                })
            }
            ast::Node::Scalar(query) => {
                if let Some(sql) = self.constant_sql(query, false)? {
                    let number = self.constant_scalar(sql, query)?;
                    let ty = match self.scalars[number] {
                        Value::Null => Type::Any,
                        Value::Text(_) => Type::Text,
                        Value::Integer(_) | Value::Decimal(_) => Type::Number,
                    };
                    let node = Node::ConstantScalar(number);
                    return Ok(Expr {
                        node,
                        ..constant(place, ty, Value::Null)
                    });
                }
                let block = self.subquery(query, scopes, inner)?;
                let [(_, output)] = block.outputs.as_slice() else {
                    let message = "a subquery as a value needs one column";
                    return error(ErrorKind::Syntax, query.place, message);
                };
                if !block.grouped || !block.keys.is_empty() {
                    let message = "a subquery as a value that is no aggregate over all its rows";
                    return error(ErrorKind::Unsupported, query.place, message);
                }
                Ok(Expr {
                    place,
                    ty: output.ty,
                    decision: block.decision,
                    sources: self.sources_of(&block),
                    outer: self.outer_of(&block),
                    node: Node::Scalar(block),
                })
            }
            ast::Node::Case(arms, otherwise) => {
                let mut result = match otherwise {
                    Some(e) => self.resolve(e, scopes, inner)?,
                    None => constant(place, Type::Any, Value::Null),
                };
                for (condition, value) in arms.iter().rev() {
                    let condition = self.resolve(condition, scopes, inner)?;
                    let condition = self.condition(condition)?;
                    let value = self.resolve(value, scopes, inner)?;
                    let Some(ty) = join(value.ty, result.ty) else {
                        let message = "CASE with both text and numbers";
                        return error(ErrorKind::Type, value.place, message);
                    };
                    result = apply(place, ty, Operator::Choose, vec![condition, value, result]);
                }
                Ok(result)
            }
            ast::Node::Aggregate(function, argument, when) => {
                let of = (*function, argument.as_deref(), *when);
                self.resolve_aggregate(place, of, scopes, inner)
            }
            ast::Node::Call(name, args) => self.resolve_call(place, name, args, scopes, inner),
        }
    }

    /// Resolves as if rows had not been folded, to compare with the keys.
    fn resolve_as_row(&mut self, expr: &ast::Expr, scopes: &mut Vec<Scope>) -> Result<Expr> {
        let folded = scopes.last_mut().and_then(|s| s.folded.take());
        let result = self.resolve(expr, scopes, &mut Vec::new());
        if let Some(scope) = scopes.last_mut() {
            scope.folded = folded;
        }
        result
    }

    fn resolve_column(
        &mut self,
        table: Option<&str>,
        name: &str,
        place: Place,
        scopes: &[Scope],
    ) -> Result<Expr> {
        let found = self.find(table, name, place, scopes);
        let (level, source, column) = match found {
            Ok(found) => found,
            Err(_) if table.is_none() && name.eq_ignore_ascii_case("false") => {
                return Ok(constant(place, Type::Truth, Value::Integer(0)));
            }
            Err(e) => return Err(e),
        };
        let scope = &scopes[scopes.len() - 1 - level];
        let row = self.column(place, 0, source, column, &scope.sources)?;
        if let Some(folded) = &scope.folded {
            let Some(key) = folded.keys.iter().position(|k| k.same(&row)) else {
                let message = format!(
                    "{name} is neither in GROUP BY nor inside of an aggregate; add it to GROUP BY"
                );
                return error(ErrorKind::Unsupported, place, message);
            };
            let level32 = u32::try_from(level).unwrap_or(u32::MAX);
            return Ok(Expr {
                outer: level > 0,
                sources: 0,
                decision: false,
                node: Node::Key {
                    level: level32,
                    key,
                },
                ..row
            });
        }
        self.column(place, level, source, column, &scope.sources)
    }

    pub(super) fn numeric(
        &mut self,
        expr: &ast::Expr,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
        op: &str,
    ) -> Result<Expr> {
        let resolved = self.resolve(expr, scopes, inner)?;
        match resolved.ty.is_numeric() {
            true => Ok(resolved),
            false => error(
                ErrorKind::Type,
                resolved.place,
                format!("a text under {op}"),
            ),
        }
    }

    pub(super) fn comparable(&self, place: Place, op: &str, a: &Expr, b: &Expr) -> Result<()> {
        match join(a.ty, b.ty) {
            Some(_) => Ok(()),
            None => error(
                ErrorKind::Type,
                place,
                format!("{op} compares text with a number"),
            ),
        }
    }

    /// The sources of the enclosing block that a correlated block reads: unknown in detail, so all.
    fn sources_of(&self, block: &Block) -> u64 {
        if block.correlated { u64::MAX } else { 0 }
    }

    fn outer_of(&self, block: &Block) -> bool {
        block.correlated
    }

    /// Resolves a subquery that is not constant.
    fn subquery(
        &mut self,
        query: &ast::Query,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Rc<Block>> {
        let select = query.select.as_ref().map_err(Clone::clone)?;
        let (block, _) = self.resolve_block(
            select,
            scopes,
            &Wanted {
                items: true,
                goal: None,
            },
        )?;
        if block.grouped && !block.keys.is_empty() && block.correlated {
            let message = "GROUP BY in a subquery that reads the rows around it";
            return error(ErrorKind::Unsupported, query.place, message);
        }
        for (index, source) in block.sources.iter().enumerate() {
            // A fold's bag does not follow its outer row.
            let by = if block.grouped {
                None
            } else {
                link_of(&block, index)
            };
            inner.push(Link {
                relation: source.relation,
                by,
            });
        }
        inner.extend(block.links.iter().map(|link| Link { by: None, ..*link }));
        Ok(Rc::new(block))
    }
}
