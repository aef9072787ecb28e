//! SQL's operators over several decisions: nodes of the graph.
//!
//! Numbers in nodes are integers over a constant denominator, so operands are brought over a common one first. A
//! divisor must be known never to be 0. AVG is compared by cross-multiplication.

use super::Compiler;
use super::cells::{Cell, Term};
use super::fold::Set;
use super::maps::{denominator, integer};
use super::resolved::Operator;
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{self, CmpOp};
use crate::tables::Value;

fn unsupported<T>(place: Place, what: impl Into<String>) -> Result<T> {
    Err(Error::at(ErrorKind::Unsupported, place, what))
}

fn zero_divisor(op: Infix, place: Place) -> Error {
    let message = format!(
        "a divisor of {} that can be 0; write NULLIF(divisor, 0)",
        op.sql()
    );
    Error::at(ErrorKind::Arithmetic, place, message)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Compiler {
    /// Makes the node of an operator.
    pub(super) fn node(&mut self, op: Operator, args: &[Cell], place: Place) -> Result<Cell> {
        use graph::Expr as G;
        match (op, args) {
            (Operator::Negate, [a]) => {
                let a = self.term(*a, place)?;
                let node = self.emit(G::Neg(a.node.expr()), place)?;
                Ok(Cell::Node(Term { node, ..a }))
            }
            (Operator::Not, [a]) => {
                let a = self.condition_node(*a, place)?;
                Ok(Cell::truth(self.emit(G::Not(a.expr()), place)?))
            }
            (Operator::Truth, [a]) => {
                let a = self.term(*a, place)?;
                let zero = self.const_node(Some(0), place)?;
                let node = G::Cmp(CmpOp::Ne, a.node.expr(), zero.expr());
                Ok(Cell::truth(self.emit(node, place)?))
            }
            (Operator::IsNull, [a]) => {
                let node = match a {
                    Cell::Ratio { sum, .. } => sum.node,
                    _ => self.term(*a, place)?.node,
                };
                Ok(Cell::truth(self.emit(G::IsNull(node.expr()), place)?))
            }
            (Operator::IsTrue, [a]) => {
                let cond = self.condition_node(*a, place)?.expr();
                let then = self.const_node(Some(1), place)?.expr();
                let otherwise = self.const_node(Some(0), place)?.expr();
                let node = self.emit(
                    G::Ite {
                        cond,
                        then,
                        otherwise,
                    },
                    place,
                )?;
                Ok(Cell::truth(node))
            }
            (Operator::Same, [a, b]) => {
                let equal = self.apply(Operator::Infix(Infix::Equal), args, place)?;
                let equal = self.apply(Operator::IsTrue, &[equal], place)?;
                let a_null = self.apply(Operator::IsNull, &[*a], place)?;
                let b_null = self.apply(Operator::IsNull, &[*b], place)?;
                self.apply(Operator::Choose, &[a_null, b_null, equal], place)
            }
            (Operator::Infix(op @ (Infix::And | Infix::Or)), [a, b]) => {
                let both = vec![
                    self.condition_node(*a, place)?.expr(),
                    self.condition_node(*b, place)?.expr(),
                ];
                let junction = if op == Infix::And { G::And } else { G::Or };
                Ok(Cell::truth(self.emit(junction(both), place)?))
            }
            (Operator::Infix(op), [a, b]) => self.infix_node(op, *a, *b, place),
            (Operator::Choose, [c, a, b]) => self.choose_node(*c, *a, *b, place),
            (Operator::InSet(set), [a]) => self.in_set_node(set, *a, place),
            (Operator::Call(number), _) => {
                let name = match number {
                    super::CONTAINS => "contains",
                    _ => super::fold::FUNCTIONS[usize::from(number)].0,
                };
                unsupported(
                    place,
                    format!("{name}() of several decisions or of an aggregate"),
                )
            }
            (op, _) => unsupported(place, format!("{op:?}")),
        }
    }

    fn choose_node(&mut self, c: Cell, a: Cell, b: Cell, place: Place) -> Result<Cell> {
        use graph::Expr as G;
        let cond = self.condition_node(c, place)?.expr();
        let (a_null, b_null) = (is_null(&a), is_null(&b));
        [a, b].iter().for_each(|&cell| self.rely_on_no_zero(cell));
        let (mut a, mut b) = (self.term(a, place)?, self.term(b, place)?);
        if a_null {
            a.den = b.den;
            a.text = b.text;
        } else if b_null {
            b.den = a.den;
            b.text = a.text;
        }
        let (a, b) = self.aligned(a, b, place)?;
        let (then, otherwise) = (a.node.expr(), b.node.expr());
        let node = self.emit(
            G::Ite {
                cond,
                then,
                otherwise,
            },
            place,
        )?;
        Ok(Cell::Node(Term {
            node,
            den: a.den,
            real: a.real || b.real,
            text: a.text,
            nonzero: (a.nonzero || a_null) && (b.nonzero || b_null),
            never_null: a.never_null && b.never_null,
        }))
    }

    fn in_set_node(&mut self, set: u32, a: Cell, place: Place) -> Result<Cell> {
        self.baked_sets.insert(set);
        let Set { values, has_null } = self.sets[set as usize].clone();
        if values.is_empty() && !has_null {
            return Ok(Cell::FALSE);
        }
        let a = self.term(a, place)?;
        let mut integers = Vec::with_capacity(values.len());
        for value in values {
            let text = matches!(value, Value::Text(_));
            if text == a.text && a.den % denominator(&[value]) == 0 {
                integers.extend(integer(value, a.den, place)?);
            }
        }
        integers.sort_unstable();
        let id = self.model.add_set(integers);
        let node = self.emit(graph::Expr::InSet(a.node.expr(), id), place)?;
        if !has_null {
            return Ok(Cell::truth(node));
        }
        // A set with NULL never says FALSE.
        let null = self.const_node(None, place)?;
        let node = self.emit(graph::Expr::Or(vec![node.expr(), null.expr()]), place)?;
        Ok(Cell::truth(node))
    }

    /// `term` over a multiple of its denominator.
    fn rescaled(&mut self, term: Term, den: i64, place: Place) -> Result<Term> {
        if term.den == den {
            return Ok(term);
        }
        let factor = self.const_node(Some(den / term.den), place)?;
        let node = self.emit(graph::Expr::Mul(term.node.expr(), factor.expr()), place)?;
        Ok(Term { node, den, ..term })
    }

    /// Two terms over one denominator.
    pub(super) fn aligned(&mut self, a: Term, b: Term, place: Place) -> Result<(Term, Term)> {
        if a.text != b.text && !a.node.eq(&b.node) {
            return Err(Error::at(ErrorKind::Type, place, "text met a number"));
        }
        let den = (a.den / gcd(a.den, b.den))
            .checked_mul(b.den)
            .ok_or_else(|| {
                let message = "the common denominator of these decimals overflows; use integers";
                Error::at(ErrorKind::Arithmetic, place, message)
            })?;
        Ok((self.rescaled(a, den, place)?, self.rescaled(b, den, place)?))
    }

    fn infix_node(&mut self, op: Infix, a: Cell, b: Cell, place: Place) -> Result<Cell> {
        use graph::Expr as G;
        let compare = match op {
            Infix::Equal => Some(CmpOp::Eq),
            Infix::NotEqual => Some(CmpOp::Ne),
            Infix::Less => Some(CmpOp::Lt),
            Infix::LessOrEqual => Some(CmpOp::Le),
            Infix::Greater => Some(CmpOp::Gt),
            Infix::GreaterOrEqual => Some(CmpOp::Ge),
            Infix::Concat => return unsupported(place, "|| of several decisions"),
            Infix::Add
            | Infix::Subtract
            | Infix::Multiply
            | Infix::Divide
            | Infix::Modulo
            | Infix::And
            | Infix::Or => None,
        };
        if let Some(compare) = compare {
            return self.compare_node(compare, a, b, place);
        }
        if let (Cell::Ratio { sum, count }, Cell::Const(_)) = (a, b)
            && matches!(op, Infix::Multiply | Infix::Divide)
        {
            let sum = Cell::Node(Term { real: true, ..sum });
            let Cell::Node(sum) = self.infix_node(op, sum, b, place)? else {
                return unsupported(place, "this arithmetic on AVG");
            };
            return Ok(Cell::Ratio { sum, count });
        }
        let b_cell = b;
        let (a, b) = (self.term(a, place)?, self.term(b, place)?);
        if a.text || b.text {
            return Err(Error::at(
                ErrorKind::Type,
                place,
                format!("a text under {}", op.sql()),
            ));
        }
        let real = a.real || b.real;
        let never_null = a.never_null && b.never_null;
        let result = |node, den| {
            Cell::Node(Term {
                node,
                den,
                real,
                text: false,
                nonzero: false,
                never_null,
            })
        };
        match op {
            Infix::Add | Infix::Subtract => {
                let (a, b) = self.aligned(a, b, place)?;
                let sum = if op == Infix::Add { G::Add } else { G::Sub };
                let node = sum(a.node.expr(), b.node.expr());
                Ok(result(self.emit(node, place)?, a.den))
            }
            Infix::Multiply => {
                let den = a.den.checked_mul(b.den).ok_or_else(|| {
                    Error::at(ErrorKind::Arithmetic, place, "these decimals overflow")
                })?;
                let node = self.emit(G::Mul(a.node.expr(), b.node.expr()), place)?;
                Ok(result(node, den))
            }
            Infix::Divide if real => self.divided(a, (b_cell, b.den), place),
            Infix::Divide | Infix::Modulo => {
                if real {
                    return unsupported(place, "% of decimals over decisions");
                }
                if !b.nonzero || matches!(b_cell, Cell::Const(Value::Integer(0))) {
                    return Err(zero_divisor(op, place));
                }
                self.rely_on_no_zero(b_cell);
                let node = match op {
                    Infix::Divide => G::Div(a.node.expr(), b.node.expr()),
                    _ => G::Rem(a.node.expr(), b.node.expr()),
                };
                Ok(result(self.emit(node, place)?, 1))
            }
            _ => unsupported(place, op.sql()),
        }
    }

    /// A decimal by a constant.
    fn divided(&mut self, a: Term, (divisor, den): (Cell, i64), place: Place) -> Result<Cell> {
        let Cell::Const(divisor) = divisor else {
            let what = "a division of decimals by what depends on decisions; multiply across";
            return unsupported(place, what);
        };
        let Some(number) = integer(divisor, den, place)?.filter(|&n| n != 0) else {
            return Err(zero_divisor(Infix::Divide, place));
        };
        // (a / x) / (number / y) = a·y / (x·number)
        let shared = gcd(den, number.saturating_abs());
        let times = den / shared * number.signum();
        let number = number.saturating_abs() / shared;
        let overflows = || Error::at(ErrorKind::Arithmetic, place, "this divisor overflows");
        let den = a.den.checked_mul(number).ok_or_else(overflows)?;
        let times = self.const_node(Some(times), place)?;
        let node = self.emit(graph::Expr::Mul(a.node.expr(), times.expr()), place)?;
        Ok(Cell::Node(Term {
            node,
            den,
            real: true,
            text: false,
            nonzero: false,
            ..a
        }))
    }

    /// Notes that what is compiled is sound only while a column has no 0.
    fn rely_on_no_zero(&mut self, cell: Cell) {
        if let Cell::Map { map, .. } = cell {
            let entry = &mut self.maps.entries[map.0 as usize];
            entry.divides |= !entry.has_zero;
        }
    }

    fn compare_node(&mut self, op: CmpOp, a: Cell, b: Cell, place: Place) -> Result<Cell> {
        use graph::Expr as G;
        // sum / count < x ⇔ sum < x · count, for the count is positive wherever the sum is not NULL.
        let (left, right) = match (a, b) {
            (Cell::Ratio { sum: s, count: c }, Cell::Ratio { sum: t, count: d }) => {
                let left = self.emit(G::Mul(s.node.expr(), d.expr()), place)?;
                let right = self.emit(G::Mul(t.node.expr(), c.expr()), place)?;
                (Term { node: left, ..s }, Term { node: right, ..t })
            }
            (Cell::Ratio { sum, count }, other) => {
                let other = self.term(other, place)?;
                let node = self.emit(G::Mul(other.node.expr(), count.expr()), place)?;
                (sum, Term { node, ..other })
            }
            (other, Cell::Ratio { sum, count }) => {
                let other = self.term(other, place)?;
                let node = self.emit(G::Mul(other.node.expr(), count.expr()), place)?;
                (Term { node, ..other }, sum)
            }
            (a, b) => (self.term(a, place)?, self.term(b, place)?),
        };
        let ordered = !matches!(op, CmpOp::Eq | CmpOp::Ne);
        if left.text && right.text && ordered {
            return unsupported(place, "an order between texts of several decisions or rows");
        }
        let (left, right) = self.aligned(left, right, place)?;
        let node = self.emit(G::Cmp(op, left.node.expr(), right.node.expr()), place)?;
        Ok(Cell::truth(node))
    }
}

fn is_null(cell: &Cell) -> bool {
    matches!(cell, Cell::Const(Value::Null))
}
