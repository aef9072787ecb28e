//! Select blocks: sources, conditions, keys, what is folded, and what is judged.
//!
//! A subquery that SQLite cannot run by itself is a block of its own; its block keeps what it reads of the rows around
//! it as links, for deltas.

use std::rc::Rc;

use super::Compiler;
use super::resolve::error;
use super::resolved::{Block, Expr, Link, Node, Operator, RelationId, SourceOf};
use super::scope::{Folded, Scope};
use crate::dialect::ast::{self, Infix, Literal};
use crate::error::{ErrorKind, Place, Result};

/// The most sources of one block.
const SOURCES_MAX: usize = 32;

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

pub(super) fn aggregates_in(expr: &ast::Expr) -> bool {
    any_node(expr, &|node| matches!(node, ast::Node::Aggregate(..)))
}

pub(super) fn subqueries_in(expr: &ast::Expr) -> bool {
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
        let (keys, key_names) = self.resolve_keys(select, scopes, inner)?;
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
        let outputs = match wanted.items {
            true => self.resolve_items(select, scopes, inner, &sources, grouped)?,
            false => Vec::new(),
        };
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

    /// The keys of GROUP BY, and their names.
    fn resolve_keys(
        &mut self,
        select: &ast::Select,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<(Vec<Expr>, Vec<String>)> {
        let mut keys = Vec::new();
        let mut names = Vec::new();
        for (index, key) in select.group_by.iter().flatten().enumerate() {
            let key = self.key_meant(select, key, scopes)?;
            if aggregates_in(key) {
                let message = "an aggregate in GROUP BY";
                return error(ErrorKind::Syntax, key.place, message);
            }
            let numbered = || format!("key{}", index + 1);
            let name = match &key.node {
                ast::Node::Column { table, name } => match (names.contains(name), table) {
                    (false, _) => name.clone(),
                    (true, Some(table)) => format!("{table}.{name}"),
                    (true, None) => numbered(),
                },
                _ => numbered(),
            };
            names.push(name);
            keys.push(self.resolve(key, scopes, inner)?);
        }
        Ok((keys, names))
    }

    /// GROUP BY 1 and GROUP BY alias mean the select list.
    fn key_meant<'a>(
        &self,
        select: &'a ast::Select,
        key: &'a ast::Expr,
        scopes: &[Scope],
    ) -> Result<&'a ast::Expr> {
        Ok(match &key.node {
            ast::Node::Literal(Literal::Integer(n)) => {
                let position = n.checked_sub(1).and_then(|n| usize::try_from(n).ok());
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
                    ast::Item::Expr(expr, alias) if alias.eq_ignore_ascii_case(name) => Some(expr),
                    _ => None,
                });
                alias.unwrap_or(key)
            }
            _ => key,
        })
    }

    /// The select list.
    fn resolve_items(
        &mut self,
        select: &ast::Select,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
        sources: &[SourceOf],
        grouped: bool,
    ) -> Result<Vec<(String, Expr)>> {
        let mut outputs = Vec::new();
        for item in &select.items {
            match item {
                ast::Item::Expr(expr, name) => {
                    outputs.push((name.clone(), self.resolve(expr, scopes, inner)?));
                }
                ast::Item::All(place) => {
                    for index in 0..sources.len() {
                        self.expand(index, *place, scopes, sources, grouped, &mut outputs)?;
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
                    self.expand(index, *place, scopes, sources, grouped, &mut outputs)?;
                }
            }
        }
        Ok(outputs)
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

    /// Resolves a subquery that is not constant.
    pub(super) fn subquery(
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
