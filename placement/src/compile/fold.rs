//! Operators on constants: SQL's meaning, exactly, with overflow as an error.
//!
//! The same function folds constants of the text, cells of rows, and columns over a domain (an operator on
//! one decision is computed once per value of the domain, not once per row). What the dialect does not know
//! itself, SQLite computes.

use std::cmp::Ordering;

use super::resolved::Operator;
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::tables::{MILLION, Symbols, Tables, Value};

/// Deterministic scalar functions that SQLite evaluates on constants, and the type they return.
pub(super) const FUNCTIONS: [(&str, ResultType); 30] = [
    ("abs", ResultType::Number),
    ("ceil", ResultType::Number),
    ("ceiling", ResultType::Number),
    ("char", ResultType::Text),
    ("floor", ResultType::Number),
    ("format", ResultType::Text),
    ("glob", ResultType::Number),
    ("hex", ResultType::Text),
    ("instr", ResultType::Number),
    ("json_array_length", ResultType::Number),
    ("json_extract", ResultType::Any),
    ("json_valid", ResultType::Number),
    ("length", ResultType::Number),
    ("like", ResultType::Number),
    ("lower", ResultType::Text),
    ("ltrim", ResultType::Text),
    ("max", ResultType::Any),
    ("min", ResultType::Any),
    ("mod", ResultType::Number),
    ("printf", ResultType::Text),
    ("replace", ResultType::Text),
    ("round", ResultType::Number),
    ("rtrim", ResultType::Text),
    ("sign", ResultType::Number),
    ("substr", ResultType::Text),
    ("substring", ResultType::Text),
    ("trim", ResultType::Text),
    ("trunc", ResultType::Number),
    ("unicode", ResultType::Number),
    ("upper", ResultType::Text),
];

/// What a function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultType {
    Number,
    Text,
    Any,
}

/// What folding may read.
pub(super) struct Folding<'a> {
    pub tables: &'a Tables,
    pub symbols: &'a mut Symbols,
    /// The constant sets, sorted, and whether each had a NULL.
    pub sets: &'a [Set],
}

/// The right-hand side of an IN over constants.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Set {
    /// Sorted, without NULL, by [`Value::key`].
    pub values: Vec<Value>,
    pub has_null: bool,
}

fn truth(b: bool) -> Value {
    Value::Integer(i64::from(b))
}

fn overflow(place: Place, left: Value, op: &str, right: Value, symbols: &Symbols) -> Error {
    let (left, right) = (symbols.sql(left), symbols.sql(right));
    Error::at(
        ErrorKind::Arithmetic,
        place,
        format!("{left} {op} {right} overflows"),
    )
}

/// Compares two values that are not NULL; text with numbers is an error.
pub(super) fn compare(left: Value, right: Value, symbols: &Symbols) -> Option<Ordering> {
    let scaled = |value: Value| -> Option<i128> {
        match value {
            Value::Integer(n) => Some(i128::from(n) * i128::from(MILLION)),
            Value::Decimal(n) => Some(i128::from(n)),
            Value::Null | Value::Text(_) => None,
        }
    };
    match (left, right) {
        (Value::Text(a), Value::Text(b)) => {
            // BINARY collation compares bytes.
            Some(symbols.text(a).as_bytes().cmp(symbols.text(b).as_bytes()))
        }
        _ => Some(scaled(left)?.cmp(&scaled(right)?)),
    }
}

impl Folding<'_> {
    /// Applies `op` to constants.
    pub(super) fn fold(&mut self, op: Operator, args: &[Value], place: Place) -> Result<Value> {
        match (op, args) {
            (Operator::Negate, &[a]) => match a {
                Value::Integer(n) => n
                    .checked_neg()
                    .map(Value::Integer)
                    .ok_or_else(|| overflow(place, Value::Integer(0), "-", a, self.symbols)),
                Value::Decimal(n) => Ok(Value::Decimal(-n)),
                Value::Null => Ok(Value::Null),
                Value::Text(_) => Err(self.mismatch(place, "-", a)),
            },
            (Operator::Not, &[a]) => Ok(a.truth().map_or(Value::Null, |b| truth(!b))),
            (Operator::Truth, &[a]) => match a {
                Value::Text(_) => Err(self.mismatch(place, "a condition", a)),
                _ => Ok(a.truth().map_or(Value::Null, truth)),
            },
            (Operator::IsNull, &[a]) => Ok(truth(a.is_null())),
            (Operator::IsTrue, &[a]) => Ok(truth(a.truth() == Some(true))),
            (Operator::Same, &[a, b]) => match (a, b) {
                (Value::Null, Value::Null) => Ok(truth(true)),
                (Value::Null, _) | (_, Value::Null) => Ok(truth(false)),
                _ => self.infix(Infix::Equal, a, b, place),
            },
            (Operator::Infix(op), &[a, b]) => self.infix(op, a, b, place),
            (Operator::Choose, &[c, then, otherwise]) => Ok(if c.truth() == Some(true) {
                then
            } else {
                otherwise
            }),
            (Operator::InSet(set), &[a]) => {
                let set = &self.sets[set as usize];
                Ok(if a.is_null() {
                    if set.values.is_empty() && !set.has_null {
                        truth(false)
                    } else {
                        Value::Null
                    }
                } else if set.values.binary_search(&a.key()).is_ok() {
                    truth(true)
                } else if set.has_null {
                    Value::Null
                } else {
                    truth(false)
                })
            }
            (Operator::Call(number), args) => {
                let name = FUNCTIONS[usize::from(number)].0;
                let marks: Vec<String> = (1..=args.len()).map(|i| format!("?{i}")).collect();
                let sql = format!("SELECT {name}({})", marks.join(", "));
                // The text that SQLite sees is ours: an error stands where the call stands.
                let rows = self
                    .tables
                    .rows_with(&sql, args, None, self.symbols)
                    .map_err(|e| Error {
                        place: Some(place),
                        ..e
                    })?;
                Ok(rows
                    .first()
                    .and_then(|row| row.first().copied())
                    .unwrap_or(Value::Null))
            }
            (op, args) => {
                let message = format!("{op:?} with {} arguments", args.len());
                Err(Error::at(ErrorKind::Syntax, place, message))
            }
        }
    }

    fn mismatch(&self, place: Place, what: &str, value: Value) -> Error {
        let message = format!("{what} met {}", self.symbols.sql(value));
        Error::at(ErrorKind::Type, place, message)
    }

    fn infix(&mut self, op: Infix, a: Value, b: Value, place: Place) -> Result<Value> {
        match op {
            Infix::And => {
                return Ok(match (a.truth(), b.truth()) {
                    (Some(false), _) | (_, Some(false)) => truth(false),
                    (Some(true), Some(true)) => truth(true),
                    _ => Value::Null,
                });
            }
            Infix::Or => {
                return Ok(match (a.truth(), b.truth()) {
                    (Some(true), _) | (_, Some(true)) => truth(true),
                    (Some(false), Some(false)) => truth(false),
                    _ => Value::Null,
                });
            }
            _ => {}
        }
        if a.is_null() || b.is_null() {
            return Ok(Value::Null);
        }
        let ordering = |this: &Self| {
            compare(a, b, this.symbols).ok_or_else(|| {
                let (a, b) = (this.symbols.sql(a), this.symbols.sql(b));
                let message = format!("{a} {} {b} compares text with a number", op.sql());
                Error::at(ErrorKind::Type, place, message)
            })
        };
        match op {
            Infix::Equal => Ok(truth(ordering(self)?.is_eq())),
            Infix::NotEqual => Ok(truth(ordering(self)?.is_ne())),
            Infix::Less => Ok(truth(ordering(self)?.is_lt())),
            Infix::LessOrEqual => Ok(truth(ordering(self)?.is_le())),
            Infix::Greater => Ok(truth(ordering(self)?.is_gt())),
            Infix::GreaterOrEqual => Ok(truth(ordering(self)?.is_ge())),
            Infix::Concat => {
                let part = |v: Value| match v {
                    Value::Text(s) => self.symbols.text(s).to_owned(),
                    other => self.symbols.sql(other),
                };
                let text = part(a) + &part(b);
                Ok(Value::Text(self.symbols.intern(&text)))
            }
            Infix::Add | Infix::Subtract | Infix::Multiply | Infix::Divide | Infix::Modulo => {
                self.arithmetic(op, a, b, place)
            }
            Infix::And | Infix::Or => Ok(Value::Null),
        }
    }

    fn arithmetic(&mut self, op: Infix, a: Value, b: Value, place: Place) -> Result<Value> {
        let number = |v: Value| match v {
            Value::Integer(n) => Some((i128::from(n), false)),
            Value::Decimal(n) => Some((i128::from(n), true)),
            Value::Null | Value::Text(_) => None,
        };
        let Some((x, x_decimal)) = number(a) else {
            return Err(self.mismatch(place, op.sql(), a));
        };
        let Some((y, y_decimal)) = number(b) else {
            return Err(self.mismatch(place, op.sql(), b));
        };
        let million = i128::from(MILLION);
        let zero = || {
            let message = format!("{} by 0; write NULLIF(divisor, 0)", op.sql());
            Error::at(ErrorKind::Arithmetic, place, message)
        };
        let wide = if x_decimal || y_decimal {
            let x = if x_decimal { x } else { x * million };
            let y = if y_decimal { y } else { y * million };
            // Both in millionths.
            let inexact = || {
                let (a, b) = (self.symbols.sql(a), self.symbols.sql(b));
                let message = format!("{a} {} {b} needs more than six decimal places", op.sql());
                Error::at(ErrorKind::Arithmetic, place, message)
            };
            match op {
                Infix::Add => x + y,
                Infix::Subtract => x - y,
                Infix::Multiply => {
                    let product = x.checked_mul(y).ok_or_else(inexact)?;
                    if product % million != 0 {
                        return Err(inexact());
                    }
                    product / million
                }
                Infix::Divide => {
                    if y == 0 {
                        return Err(zero());
                    }
                    let scaled = x.checked_mul(million).ok_or_else(inexact)?;
                    if scaled % y != 0 {
                        return Err(inexact());
                    }
                    scaled / y
                }
                _ => {
                    // SQLite's % casts to integers first.
                    let (x, y) = (x / million, y / million);
                    if y == 0 {
                        return Err(zero());
                    }
                    (x % y) * million
                }
            }
        } else {
            match op {
                Infix::Add => x + y,
                Infix::Subtract => x - y,
                Infix::Multiply => x * y,
                _ if y == 0 => return Err(zero()),
                Infix::Divide => x / y,
                _ => x % y,
            }
        };
        let n = i64::try_from(wide).map_err(|_| overflow(place, a, op.sql(), b, self.symbols))?;
        Ok(if x_decimal || y_decimal {
            Value::Decimal(n)
        } else {
            Value::Integer(n)
        })
    }
}
