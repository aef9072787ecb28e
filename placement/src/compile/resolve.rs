//! Expressions: names to positions, and the static type check.
//!
//! A subquery that mentions no decision and that SQLite can prepare on its own is constant: SQLite runs it
//! once and its value takes its place. Every other subquery becomes a block of its own ([`super::blocks`]).

use super::Compiler;
use super::blocks::{aggregates_in, subqueries_in};
use super::resolved::{Block, Expr, Link, Node, Operator, Type};
use super::scope::Scope;
use crate::dialect::ast::{self, Literal, Prefix};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::tables::Value;

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

impl Compiler {
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
}
