//! What names mean: the columns of the sources in reach, innermost first, and their types.

use super::resolve::{constant, error};
use super::resolved::{AggregateOf, Expr, Node, RelationId, SourceOf, Type};
use super::{Compiler, Kinds};
use crate::error::{ErrorKind, Place, Result};
use crate::tables::Value;

/// What a name may refer to while a block is being resolved.
pub(super) struct Scope {
    pub(super) sources: Vec<SourceOf>,
    /// Set once rows have been folded: only keys and aggregates are in reach.
    pub(super) folded: Option<Folded>,
}

/// What is in reach behind a fold.
pub(super) struct Folded {
    pub(super) keys: Vec<Expr>,
    pub(super) aggregates: Vec<AggregateOf>,
}

impl Compiler {
    /// Whether the innermost block has a column of this name.
    pub(super) fn in_scope(&self, name: &str, scopes: &[Scope]) -> bool {
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

    pub(super) fn column(
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

    /// A column by its name.
    pub(super) fn resolve_column(
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
}
