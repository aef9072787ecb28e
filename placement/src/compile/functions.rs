//! Resolution of infix operators, IN lists, aggregates and functions.

use super::Compiler;
use super::fold::{FUNCTIONS, ResultType, Set};
use super::resolve::{apply, constant, error, join};
use super::resolved::{AggregateOf, Expr, Link, Node, Operator, Type};
use super::scope::Scope;
use crate::dialect::ast::{self, Aggregate, Infix};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::tables::Value;

impl Compiler {
    pub(super) fn resolve_in_list(
        &mut self,
        place: Place,
        a: &ast::Expr,
        list: &[ast::Expr],
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        let a = self.resolve(a, scopes, inner)?;
        let mut set = Set::default();
        let mut rest = Vec::new();
        for item in list {
            let item = self.resolve(item, scopes, inner)?;
            self.comparable(item.place, "IN", &a, &item)?;
            match item.node {
                Node::Const(Value::Null) => set.has_null = true,
                Node::Const(value) => set.values.push(value.key()),
                _ => rest.push(item),
            }
        }
        let mut result = None;
        if rest.is_empty() || !set.values.is_empty() || set.has_null {
            let set = self.intern_set(set);
            result = Some(apply(
                place,
                Type::Truth,
                Operator::InSet(set),
                vec![a.clone()],
            ));
        }
        for item in rest {
            let op = Operator::Infix(Infix::Equal);
            let equal = apply(place, Type::Truth, op, vec![a.clone(), item]);
            let or = Operator::Infix(Infix::Or);
            result = Some(match result {
                None => equal,
                Some(before) => apply(place, Type::Truth, or, vec![before, equal]),
            });
        }
        result.map_or_else(|| error(ErrorKind::Syntax, place, "an empty list"), Ok)
    }

    pub(super) fn resolve_aggregate(
        &mut self,
        place: Place,
        (function, argument, when): (Aggregate, Option<&ast::Expr>, ast::When),
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        let Some(folded) = scopes.last_mut().and_then(|s| s.folded.take()) else {
            return error(
                ErrorKind::Unsupported,
                place,
                "an aggregate inside of an aggregate",
            );
        };
        let resolved = argument.map(|e| self.resolve(e, scopes, inner)).transpose();
        let Some(scope) = scopes.last_mut() else {
            return error(ErrorKind::Syntax, place, "an aggregate outside of a query");
        };
        let folded = scope.folded.insert(folded);
        let argument = resolved?;
        let ty = match (function, &argument) {
            (Aggregate::Sum | Aggregate::Avg, Some(e)) if e.ty == Type::Text => {
                return error(ErrorKind::Type, place, "a sum of texts");
            }
            (Aggregate::Min | Aggregate::Max, Some(e)) => e.ty,
            (Aggregate::AllEqual | Aggregate::AllDifferent, _) => Type::Truth,
            _ => Type::Number,
        };
        folded.aggregates.push(AggregateOf {
            place,
            function,
            argument,
            when,
        });
        let node = Node::Aggregate(folded.aggregates.len() - 1);
        Ok(Expr {
            place,
            ty,
            decision: true,
            sources: 0,
            outer: false,
            node,
        })
    }

    pub(super) fn resolve_call(
        &mut self,
        place: Place,
        name: &str,
        args: &[ast::Expr],
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        if name == "contains" {
            return self.resolve_contains(place, args, scopes, inner);
        }
        let mut resolved = Vec::new();
        for arg in args {
            resolved.push(self.resolve(arg, scopes, inner)?);
        }
        let same_type = |exprs: &[&Expr]| {
            exprs
                .iter()
                .try_fold(Type::Any, |ty, e| join(ty, e.ty))
                .ok_or_else(|| {
                    Error::at(
                        ErrorKind::Type,
                        place,
                        format!("{name}() of both text and numbers"),
                    )
                })
        };
        let is_null = |e: &Expr| apply(place, Type::Truth, Operator::IsNull, vec![e.clone()]);
        let choose = |ty, c, a, b| apply(place, ty, Operator::Choose, vec![c, a, b]);
        let null = || constant(place, Type::Any, Value::Null);
        match (name, resolved.as_slice()) {
            ("coalesce" | "ifnull", [_, _, ..]) => {
                let ty = same_type(&resolved.iter().collect::<Vec<_>>())?;
                let mut result = null();
                for e in resolved.into_iter().rev() {
                    result = match result.node {
                        Node::Const(Value::Null) => e,
                        _ => choose(ty, is_null(&e), result, e),
                    };
                }
                Ok(result)
            }
            ("nullif", [a, b]) => {
                let ty = same_type(&[a, b])?;
                let op = Operator::Infix(Infix::Equal);
                let equal = apply(place, Type::Truth, op, vec![a.clone(), b.clone()]);
                Ok(choose(ty, equal, null(), a.clone()))
            }
            ("iif", [c, a, b]) => {
                let ty = same_type(&[a, b])?;
                Ok(choose(ty, self.condition(c.clone())?, a.clone(), b.clone()))
            }
            ("min" | "max", [_, _, ..]) => {
                let ty = same_type(&resolved.iter().collect::<Vec<_>>())?;
                let op = if name == "min" {
                    Infix::Less
                } else {
                    Infix::Greater
                };
                // NULL when any argument is.
                let mut any_null = is_null(&resolved[0]);
                let mut best = resolved[0].clone();
                for e in &resolved[1..] {
                    let wins = vec![e.clone(), best.clone()];
                    let wins = apply(place, Type::Truth, Operator::Infix(op), wins);
                    best = choose(ty, wins, e.clone(), best);
                    let either = vec![any_null, is_null(e)];
                    any_null = apply(place, Type::Truth, Operator::Infix(Infix::Or), either);
                }
                Ok(choose(ty, any_null, null(), best))
            }
            ("abs", [a]) if a.ty.is_numeric() => {
                let zero = constant(place, Type::Number, Value::Integer(0));
                let op = Operator::Infix(Infix::Less);
                let negative = apply(place, Type::Truth, op, vec![a.clone(), zero]);
                let minus = apply(place, Type::Number, Operator::Negate, vec![a.clone()]);
                Ok(choose(Type::Number, negative, minus, a.clone()))
            }
            _ => {
                let found = FUNCTIONS.iter().position(|(f, _)| *f == name);
                let Some(index) = found else {
                    let message = format!("no such function: {name}");
                    return error(ErrorKind::Name, place, message);
                };
                let ty = match FUNCTIONS[index].1 {
                    ResultType::Number => Type::Number,
                    ResultType::Text => Type::Text,
                    ResultType::Any => Type::Any,
                };
                let number = u8::try_from(index).unwrap_or(u8::MAX);
                Ok(apply(place, ty, Operator::Call(number), resolved))
            }
        }
    }

    /// `contains(json_array, x)`: the array is a constant of the text; `x IN` its elements.
    pub(super) fn resolve_contains(
        &mut self,
        place: Place,
        args: &[ast::Expr],
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        let [array, element] = args else {
            return error(
                ErrorKind::Syntax,
                place,
                "contains(array, element) takes two arguments",
            );
        };
        let array = self.resolve(array, scopes, inner)?;
        let element = self.resolve(element, scopes, inner)?;
        if array.decision {
            let message = "contains() of an array that depends on a decision";
            return error(ErrorKind::Unsupported, array.place, message);
        }
        Ok(apply(
            place,
            Type::Truth,
            Operator::Call(super::CONTAINS),
            vec![array, element],
        ))
    }

    pub(super) fn resolve_infix(
        &mut self,
        place: Place,
        op: Infix,
        a: &ast::Expr,
        b: &ast::Expr,
        scopes: &mut Vec<Scope>,
        inner: &mut Vec<Link>,
    ) -> Result<Expr> {
        match op {
            Infix::And | Infix::Or => {
                let a = self.resolve(a, scopes, inner)?;
                let a = self.condition(a)?;
                let b = self.resolve(b, scopes, inner)?;
                let b = self.condition(b)?;
                Ok(apply(place, Type::Truth, Operator::Infix(op), vec![a, b]))
            }
            Infix::Add | Infix::Subtract | Infix::Multiply | Infix::Divide | Infix::Modulo => {
                let a = self.numeric(a, scopes, inner, op.sql())?;
                let b = self.numeric(b, scopes, inner, op.sql())?;
                Ok(apply(place, Type::Number, Operator::Infix(op), vec![a, b]))
            }
            Infix::Concat => {
                let a = self.resolve(a, scopes, inner)?;
                let b = self.resolve(b, scopes, inner)?;
                Ok(apply(place, Type::Text, Operator::Infix(op), vec![a, b]))
            }
            Infix::Equal
            | Infix::NotEqual
            | Infix::Less
            | Infix::LessOrEqual
            | Infix::Greater
            | Infix::GreaterOrEqual => {
                let a = self.resolve(a, scopes, inner)?;
                let b = self.resolve(b, scopes, inner)?;
                self.comparable(place, op.sql(), &a, &b)?;
                Ok(apply(place, Type::Truth, Operator::Infix(op), vec![a, b]))
            }
        }
    }
}
