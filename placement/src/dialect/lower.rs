//! From `sqlparser`'s tree to the dialect's own: the place where unsupported SQL is refused by name.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, DuplicateTreatment, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, GroupByExpr, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart,
    Query as SqlQuery, Select as SqlSelect, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Spanned, TableFactor, UnaryOperator, Value as SqlValue, Visit, Visitor,
};
use sqlparser::tokenizer::Span;

use super::ast::{
    Aggregate, Expr, From, Infix, Item, Literal, Node, Prefix, Query, Relation, Select, When,
};
use super::script::{DECISION_PREFIX, absolute};
use crate::error::{Error, ErrorKind, Place, Result};

/// What a query names anywhere. One visitor for both: the compiler writes the walk over all of SQL anew for each.
#[derive(Default)]
struct Names {
    relations: Vec<String>,
    names_decision: bool,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.relations.push(last_name(name).to_ascii_lowercase());
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
        let ident = match expr {
            SqlExpr::Identifier(ident) => Some(ident),
            SqlExpr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        self.names_decision |=
            ident.is_some_and(|i| i.value.to_ascii_lowercase().starts_with(DECISION_PREFIX));
        ControlFlow::Continue(())
    }
}

/// Lowers trees of one statement, whose first character stands at `base`.
pub(super) struct Lowering {
    base: Place,
}

impl Lowering {
    pub(super) fn new(base: Place) -> Lowering {
        Lowering { base }
    }

    pub(super) fn place(&self, span: Span) -> Place {
        absolute(self.base, span.start)
    }

    fn unsupported<T>(&self, span: Span, what: impl Into<String>) -> Result<T> {
        Err(Error::at(ErrorKind::Unsupported, self.place(span), what))
    }

    /// A query; that its tree cannot be held is kept as its error, not raised.
    pub(super) fn query(&self, query: &SqlQuery) -> Query {
        let mut names = Names::default();
        let _ = query.visit(&mut names);
        let Names {
            relations,
            names_decision,
        } = names;
        Query {
            place: self.place(query.span()),
            sql: query.to_string(),
            select: self.select_of(query).map(Box::new),
            relations,
            names_decision,
            has_wildcard: has_wildcard(&query.body),
        }
    }

    fn select_of(&self, query: &SqlQuery) -> Result<Select> {
        let span = query.span();
        if let Some(with) = &query.with {
            return self.unsupported(with.span(), "WITH over decisions; write CREATE VIEW");
        }
        if let Some(order) = &query.order_by {
            return self.unsupported(order.span(), "ORDER BY over decisions");
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            return self.unsupported(span, "LIMIT over decisions");
        }
        let plain = query.locks.is_empty()
            && query.for_clause.is_none()
            && query.settings.is_none()
            && query.format_clause.is_none()
            && query.pipe_operators.is_empty();
        if !plain {
            return self.unsupported(span, "a clause after SELECT that SQLite does not know");
        }
        match &*query.body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(inner) => self.select_of(inner),
            SetExpr::SetOperation { op, .. } => {
                self.unsupported(span, format!("{op} over decisions"))
            }
            SetExpr::Values(_) => self.unsupported(span, "VALUES over decisions"),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.unsupported(span, "a data change inside of a query")
            }
            SetExpr::Table(_) => self.unsupported(span, "TABLE"),
        }
    }

    fn select(&self, select: &SqlSelect) -> Result<Select> {
        let span = select.span();
        let place = absolute(self.base, select.select_token.0.span.start);
        if select.distinct.is_some() {
            return self.unsupported(span, "SELECT DISTINCT over decisions");
        }
        if !select.named_window.is_empty() || select.qualify.is_some() {
            return self.unsupported(span, "a window over decisions");
        }
        let plain = select.top.is_none()
            && select.into.is_none()
            && select.lateral_views.is_empty()
            && select.prewhere.is_none()
            && select.connect_by.is_empty()
            && select.cluster_by.is_empty()
            && select.distribute_by.is_empty()
            && select.sort_by.is_empty()
            && select.exclude.is_none()
            && select.value_table_mode.is_none();
        if !plain {
            return self.unsupported(span, "a clause of SELECT that SQLite does not know");
        }
        let mut conditions = Vec::new();
        let mut from = Vec::new();
        for table in &select.from {
            from.push(self.factor(&table.relation)?);
            for join in &table.joins {
                let constraint = match &join.join_operator {
                    JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::CrossJoin(c) => {
                        c
                    }
                    other => {
                        let text = format!("{other:?}");
                        let name: String =
                            text.chars().take_while(|c| c.is_alphanumeric()).collect();
                        let what = format!("{} join over decisions", name.to_uppercase());
                        return self.unsupported(join.relation.span(), what);
                    }
                };
                from.push(self.factor(&join.relation)?);
                match constraint {
                    JoinConstraint::On(expr) => self.conjuncts(expr, &mut conditions)?,
                    JoinConstraint::None => {}
                    JoinConstraint::Using(_) => {
                        return self.unsupported(join.relation.span(), "USING; write ON a.x = b.x");
                    }
                    JoinConstraint::Natural => {
                        return self.unsupported(join.relation.span(), "NATURAL JOIN; write ON");
                    }
                }
            }
        }
        if let Some(expr) = &select.selection {
            self.conjuncts(expr, &mut conditions)?;
        }
        let group_by = match &select.group_by {
            GroupByExpr::All(_) => return self.unsupported(span, "GROUP BY ALL"),
            GroupByExpr::Expressions(exprs, modifiers) => {
                if !modifiers.is_empty() {
                    return self.unsupported(span, "WITH ROLLUP, CUBE or TOTALS");
                }
                match exprs.is_empty() {
                    true => None,
                    false => Some(exprs.iter().map(|e| self.expr(e)).collect::<Result<_>>()?),
                }
            }
        };
        Ok(Select {
            place,
            items: select
                .projection
                .iter()
                .map(|i| self.item(i))
                .collect::<Result<_>>()?,
            from,
            conditions,
            group_by,
            having: select.having.as_ref().map(|e| self.expr(e)).transpose()?,
        })
    }

    fn item(&self, item: &SelectItem) -> Result<Item> {
        match item {
            SelectItem::UnnamedExpr(sql) => {
                let expr = self.expr(sql)?;
                let name = match &expr.node {
                    Node::Column { name, .. } => name.clone(),
                    _ => sql.to_string(),
                };
                Ok(Item::Expr(expr, name))
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                Ok(Item::Expr(self.expr(expr)?, alias.value.clone()))
            }
            SelectItem::Wildcard(_) => Ok(Item::All(self.place(item.span()))),
            SelectItem::QualifiedWildcard(kind, _) => match kind {
                SelectItemQualifiedWildcardKind::ObjectName(name) => {
                    Ok(Item::AllOf(self.place(item.span()), last_name(name)))
                }
                SelectItemQualifiedWildcardKind::Expr(_) => {
                    self.unsupported(item.span(), "an expression before .*")
                }
            },
            SelectItem::ExprWithAliases { .. } => {
                self.unsupported(item.span(), "several aliases for one expression")
            }
        }
    }

    fn factor(&self, factor: &TableFactor) -> Result<From> {
        let span = factor.span();
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                if name.0.len() != 1 {
                    return self.unsupported(span, format!("a qualified table name, {name}"));
                }
                if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
                    return self.unsupported(span, "column aliases in FROM");
                }
                let table = last_name(name);
                let alias = alias
                    .as_ref()
                    .map_or_else(|| table.clone(), |a| a.name.value.clone());
                let place = self.place(span);
                Ok(From {
                    place,
                    relation: Relation::Named(table),
                    alias,
                })
            }
            TableFactor::Derived {
                lateral: false,
                subquery,
                alias,
                ..
            } => {
                if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
                    return self.unsupported(span, "column aliases in FROM");
                }
                let alias = alias
                    .as_ref()
                    .map_or_else(String::new, |a| a.name.value.clone());
                let relation = Relation::Derived(Box::new(self.query(subquery)));
                Ok(From {
                    place: self.place(subquery.span()),
                    relation,
                    alias,
                })
            }
            other => {
                let text: String = other.to_string().chars().take(40).collect();
                self.unsupported(span, format!("{text} in FROM over decisions"))
            }
        }
    }

    /// Splits a condition into its conjuncts; each must be TRUE for the row to stay.
    fn conjuncts(&self, expr: &SqlExpr, out: &mut Vec<Expr>) -> Result<()> {
        match expr {
            SqlExpr::Nested(inner) => self.conjuncts(inner, out),
            SqlExpr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => {
                self.conjuncts(left, out)?;
                self.conjuncts(right, out)
            }
            other => {
                out.push(self.expr(other)?);
                Ok(())
            }
        }
    }

    /// A literal, possibly with a sign.
    pub(super) fn literal(&self, sql: &SqlExpr) -> Result<Literal> {
        let expr = self.expr(sql)?;
        match expr.node {
            Node::Literal(literal) => Ok(literal),
            Node::Prefix(Prefix::Negate, inner) => match inner.node {
                Node::Literal(Literal::Integer(n)) => Ok(Literal::Integer(-n)),
                Node::Literal(Literal::Millionths(n)) => Ok(Literal::Millionths(-n)),
                _ => self.unsupported(sql.span(), "an expression in a list of values"),
            },
            _ => self.unsupported(sql.span(), "an expression in a list of values"),
        }
    }

    fn boxed(&self, sql: &SqlExpr) -> Result<Box<Expr>> {
        self.expr(sql).map(Box::new)
    }

    pub(super) fn expr(&self, sql: &SqlExpr) -> Result<Expr> {
        let span = sql.span();
        let place = self.place(span);
        let make = |node: Node| Expr { place, node };
        let not = |node: Node| make(Node::Prefix(Prefix::Not, Box::new(make(node))));
        let negate_if = |negated: bool, node: Node| if negated { not(node) } else { make(node) };
        Ok(match sql {
            SqlExpr::Nested(inner) => self.expr(inner)?,
            SqlExpr::Identifier(ident) => {
                if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("true") {
                    return Ok(make(Node::Literal(Literal::Integer(1))));
                }
                make(Node::Column {
                    table: None,
                    name: ident.value.clone(),
                })
            }
            SqlExpr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, name] => make(Node::Column {
                    table: Some(table.value.clone()),
                    name: name.value.clone(),
                }),
                _ => return self.unsupported(span, format!("the name {sql}")),
            },
            SqlExpr::Value(value) => make(Node::Literal(self.value(&value.value, value.span)?)),
            SqlExpr::IsTrue(e) => make(Node::IsTrue(self.boxed(e)?)),
            SqlExpr::IsNotTrue(e) => not(Node::IsTrue(self.boxed(e)?)),
            SqlExpr::IsFalse(e) | SqlExpr::IsNotFalse(e) => {
                let inner = Node::Prefix(Prefix::Not, self.boxed(e)?);
                negate_if(
                    matches!(sql, SqlExpr::IsNotFalse(_)),
                    Node::IsTrue(Box::new(make(inner))),
                )
            }
            SqlExpr::IsNull(e) | SqlExpr::IsUnknown(e) => make(Node::IsNull(self.boxed(e)?)),
            SqlExpr::IsNotNull(e) | SqlExpr::IsNotUnknown(e) => not(Node::IsNull(self.boxed(e)?)),
            SqlExpr::IsNotDistinctFrom(a, b) => make(Node::Same(self.boxed(a)?, self.boxed(b)?)),
            SqlExpr::IsDistinctFrom(a, b) => not(Node::Same(self.boxed(a)?, self.boxed(b)?)),
            SqlExpr::InList {
                expr,
                list,
                negated,
            } => {
                let list = list.iter().map(|e| self.expr(e)).collect::<Result<_>>()?;
                negate_if(*negated, Node::InList(self.boxed(expr)?, list))
            }
            SqlExpr::InSubquery {
                expr,
                subquery,
                negated,
            } => {
                let query = Box::new(self.query(subquery));
                negate_if(*negated, Node::InQuery(self.boxed(expr)?, query))
            }
            SqlExpr::Exists { subquery, negated } => {
                negate_if(*negated, Node::Exists(Box::new(self.query(subquery))))
            }
            SqlExpr::Subquery(query) => make(Node::Scalar(Box::new(self.query(query)))),
            SqlExpr::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let at_least = make(Node::Infix(
                    Infix::GreaterOrEqual,
                    self.boxed(expr)?,
                    self.boxed(low)?,
                ));
                let at_most = make(Node::Infix(
                    Infix::LessOrEqual,
                    self.boxed(expr)?,
                    self.boxed(high)?,
                ));
                let both = Node::Infix(Infix::And, Box::new(at_least), Box::new(at_most));
                negate_if(*negated, both)
            }
            SqlExpr::BinaryOp { left, op, right } => {
                let op = match op {
                    BinaryOperator::Plus => Infix::Add,
                    BinaryOperator::Minus => Infix::Subtract,
                    BinaryOperator::Multiply => Infix::Multiply,
                    BinaryOperator::Divide => Infix::Divide,
                    BinaryOperator::Modulo => Infix::Modulo,
                    BinaryOperator::Eq => Infix::Equal,
                    BinaryOperator::NotEq => Infix::NotEqual,
                    BinaryOperator::Lt => Infix::Less,
                    BinaryOperator::LtEq => Infix::LessOrEqual,
                    BinaryOperator::Gt => Infix::Greater,
                    BinaryOperator::GtEq => Infix::GreaterOrEqual,
                    BinaryOperator::And => Infix::And,
                    BinaryOperator::Or => Infix::Or,
                    BinaryOperator::StringConcat => Infix::Concat,
                    other => return self.unsupported(span, format!("the operator {other}")),
                };
                make(Node::Infix(op, self.boxed(left)?, self.boxed(right)?))
            }
            SqlExpr::UnaryOp { op, expr } => match op {
                UnaryOperator::Plus => self.expr(expr)?,
                UnaryOperator::Minus => {
                    // The least integer has no positive twin.
                    if let SqlExpr::Value(v) = &**expr
                        && let SqlValue::Number(text, _) = &v.value
                        && text == "9223372036854775808"
                    {
                        return Ok(make(Node::Literal(Literal::Integer(i64::MIN))));
                    }
                    make(Node::Prefix(Prefix::Negate, self.boxed(expr)?))
                }
                UnaryOperator::Not => make(Node::Prefix(Prefix::Not, self.boxed(expr)?)),
                other => return self.unsupported(span, format!("the operator {other}")),
            },
            SqlExpr::Case {
                operand,
                conditions,
                else_result,
                ..
            } => {
                let mut arms = Vec::new();
                for arm in conditions {
                    let condition = match operand {
                        None => self.expr(&arm.condition)?,
                        Some(operand) => make(Node::Infix(
                            Infix::Equal,
                            self.boxed(operand)?,
                            self.boxed(&arm.condition)?,
                        )),
                    };
                    arms.push((condition, self.expr(&arm.result)?));
                }
                let otherwise = else_result.as_ref().map(|e| self.boxed(e)).transpose()?;
                make(Node::Case(arms, otherwise))
            }
            SqlExpr::Function(function) => make(self.function(function, span)?),
            SqlExpr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char: None,
            } => {
                // SQLite spells `x LIKE p` as like(p, x).
                let args = vec![self.expr(pattern)?, self.expr(expr)?];
                negate_if(*negated, Node::Call("like".to_owned(), args))
            }
            SqlExpr::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                let mut args = vec![self.expr(expr)?];
                for part in [substring_from, substring_for].into_iter().flatten() {
                    args.push(self.expr(part)?);
                }
                make(Node::Call("substr".to_owned(), args))
            }
            SqlExpr::Trim {
                trim_where: None,
                trim_what: None,
                expr,
                trim_characters: None,
            } => make(Node::Call("trim".to_owned(), vec![self.expr(expr)?])),
            SqlExpr::Floor { expr, .. } => {
                make(Node::Call("floor".to_owned(), vec![self.expr(expr)?]))
            }
            SqlExpr::Ceil { expr, .. } => {
                make(Node::Call("ceil".to_owned(), vec![self.expr(expr)?]))
            }
            SqlExpr::Tuple(_) => return self.unsupported(span, "a tuple of values"),
            SqlExpr::Cast { .. } => {
                return self.unsupported(span, "CAST over decisions; cast in a view of constants");
            }
            other => {
                let text: String = other.to_string().chars().take(60).collect();
                return self.unsupported(span, format!("the expression {text}"));
            }
        })
    }

    fn value(&self, value: &SqlValue, span: Span) -> Result<Literal> {
        match value {
            SqlValue::Null => Ok(Literal::Null),
            SqlValue::Boolean(b) => Ok(Literal::Integer(i64::from(*b))),
            SqlValue::SingleQuotedString(text) => Ok(Literal::Text(text.clone())),
            SqlValue::Number(text, _) => self.number(text, span),
            SqlValue::DoubleQuotedString(text) => Err(Error::at(
                ErrorKind::Name,
                self.place(span),
                format!("no column \"{text}\""),
            )),
            other => self.unsupported(span, format!("the literal {other}")),
        }
    }

    fn number(&self, text: &str, span: Span) -> Result<Literal> {
        let fail =
            |message: String| Err(Error::at(ErrorKind::Arithmetic, self.place(span), message));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<i64>() {
                Ok(n) => Ok(Literal::Integer(n)),
                Err(_) => fail(format!("{text} does not fit 64 bits")),
            };
        }
        match crate::tables::millionths(text) {
            Some(n) => Ok(Literal::Millionths(n)),
            None => fail(format!(
                "{text} is not a decimal of at most 6 places in range"
            )),
        }
    }

    /// `present(aggregate)`.
    fn present(&self, argument: Option<Node>, span: Span) -> Result<Node> {
        match argument {
            Some(Node::Aggregate(aggregate, argument, When::Decided)) => {
                Ok(Node::Aggregate(aggregate, argument, When::Present))
            }
            _ => {
                let message = "present() takes one aggregate, as in present(sum(x))";
                Err(Error::at(ErrorKind::Syntax, self.place(span), message))
            }
        }
    }

    fn function(&self, function: &Function, span: Span) -> Result<Node> {
        let name = function.name.to_string().to_ascii_lowercase();
        if function.over.is_some() {
            return self.unsupported(span, format!("the window function {name}"));
        }
        if function.filter.is_some() {
            return self.unsupported(span, "FILTER over decisions; use CASE or WHERE");
        }
        if !function.within_group.is_empty() || function.null_treatment.is_some() {
            return self.unsupported(span, format!("a clause after {name}()"));
        }
        let list = match &function.args {
            FunctionArguments::List(list) if list.clauses.is_empty() => list,
            _ => return self.unsupported(span, format!("these arguments of {name}()")),
        };
        let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        let mut star = false;
        let mut args = Vec::new();
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => args.push(self.expr(e)?),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => star = true,
                _ => return self.unsupported(span, format!("this argument of {name}()")),
            }
        }
        let one = args.len() == 1 && !star;
        if name == "present" {
            let argument = args.pop().filter(|_| one && !distinct);
            return self.present(argument.map(|arg| arg.node), span);
        }
        let aggregate = match name.as_str() {
            "count" if star && args.is_empty() && !distinct => {
                return Ok(Node::Aggregate(Aggregate::CountRows, None, When::Decided));
            }
            "count" if args.is_empty() && !star => {
                return Ok(Node::Aggregate(Aggregate::CountRows, None, When::Decided));
            }
            "count" if distinct => Some(Aggregate::CountDistinct),
            "count" => Some(Aggregate::Count),
            "sum" => Some(Aggregate::Sum),
            "avg" => Some(Aggregate::Avg),
            "all_equal" => Some(Aggregate::AllEqual),
            "all_different" => Some(Aggregate::AllDifferent),
            // With two or more arguments these are SQLite's scalar functions.
            "min" if args.len() <= 1 => Some(Aggregate::Min),
            "max" if args.len() <= 1 => Some(Aggregate::Max),
            name if REFUSED.contains(&name) => {
                return self.unsupported(span, format!("the function {name}()"));
            }
            _ => None,
        };
        match aggregate {
            Some(aggregate) if one => {
                if distinct && aggregate != Aggregate::CountDistinct {
                    return self.unsupported(span, format!("DISTINCT in {name}(); only in COUNT"));
                }
                let argument = args.pop().map(Box::new);
                Ok(Node::Aggregate(aggregate, argument, When::Decided))
            }
            Some(_) => {
                let message = format!("{name}() takes one argument");
                Err(Error::at(ErrorKind::Syntax, self.place(span), message))
            }
            None if star || distinct => {
                let message = format!("{name}() takes neither * nor DISTINCT");
                Err(Error::at(ErrorKind::Syntax, self.place(span), message))
            }
            None => Ok(Node::Call(name, args)),
        }
    }
}

/// Functions that are refused by name: aggregates of others, and DCM's that are written otherwise here.
const REFUSED: [&str; 9] = [
    "total",
    "group_concat",
    "string_agg",
    "any",
    "all",
    "increasing",
    "capacity_constraint",
    "json_group_array",
    "row_number",
];

fn last_name(name: &ObjectName) -> String {
    match name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => ident.value.clone(),
        Some(ObjectNamePart::Function(_)) | None => name.to_string(),
    }
}

fn has_wildcard(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => {
            select.projection.iter().any(|item| {
                matches!(
                    item,
                    SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
                )
            }) || select.from.iter().any(|table| {
                std::iter::once(&table.relation)
                    .chain(table.joins.iter().map(|j| &j.relation))
                    .any(factor_has_wildcard)
            })
        }
        SetExpr::Query(query) => has_wildcard(&query.body),
        SetExpr::SetOperation { left, right, .. } => has_wildcard(left) || has_wildcard(right),
        _ => false,
    }
}

fn factor_has_wildcard(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Derived { subquery, .. } => has_wildcard(&subquery.body),
        TableFactor::NestedJoin { .. } => true,
        _ => false,
    }
}
