//! Cells: constants, columns looked up by one decision, and nodes of the graph; and SQL's operators on them.
//!
//! An operator on constants is folded, on one decision it is lifted into a map ([`super::maps`]), and only
//! what joins several decisions becomes a node. Numbers in nodes are integers over a constant denominator, so
//! decimals stay exact; AVG is a pair of sum and count that is compared by cross-multiplication.

use super::Compiler;
use super::fold::{Folding, Set};
use super::maps::{DomainRef, MapRef, Operand, Recipe, denominator, integer};
use super::resolved::Operator;
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{self, CmpOp, Template};
use crate::tables::{MILLION, Value};

/// A node of the current target: an expression of the graph, or of the template being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRef(pub u32);

impl NodeRef {
    pub(crate) fn expr(self) -> graph::ExprId {
        graph::ExprId(self.0)
    }
}

/// Where nodes go.
#[derive(Debug)]
pub(crate) enum Target {
    Graph,
    Template(Vec<Template>),
}

/// A node with what is known of its values: each is `node / den`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub node: NodeRef,
    pub den: i64,
    /// Decimal by SQL's types, whether or not its values are whole.
    pub real: bool,
    pub text: bool,
    pub nonzero: bool,
    pub never_null: bool,
}

/// A cell of a conditional row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell {
    Const(Value),
    /// The column `map` at the value of `var`.
    Map {
        var: graph::VarId,
        map: MapRef,
    },
    Node(Term),
    /// `sum / count`, NULL where the count is 0.
    Ratio {
        sum: Term,
        count: NodeRef,
    },
}

impl Cell {
    pub(crate) const TRUE: Cell = Cell::Const(Value::Integer(1));
    pub(crate) const FALSE: Cell = Cell::Const(Value::Integer(0));
    pub(crate) const NULL: Cell = Cell::Const(Value::Null);

    pub(crate) fn truth(node: NodeRef) -> Cell {
        Cell::Node(Term {
            node,
            den: 1,
            real: false,
            text: false,
            nonzero: false,
            never_null: false,
        })
    }
}

fn unsupported<T>(place: Place, what: impl Into<String>) -> Result<T> {
    Err(Error::at(ErrorKind::Unsupported, place, what))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Compiler {
    pub(super) fn emit(&mut self, expr: graph::Expr, place: Place) -> Result<NodeRef> {
        match &mut self.target {
            Target::Graph => match self.model.expr(expr) {
                Ok(id) => Ok(NodeRef(id.0)),
                Err(e) => Err(Error::at(ErrorKind::Arithmetic, place, e.to_string())),
            },
            Target::Template(arena) => {
                let template = template_of(expr, arena)
                    .ok_or_else(|| Error::at(ErrorKind::Unsupported, place, "in a template"))?;
                arena.push(template);
                Ok(NodeRef(u32::try_from(arena.len() - 1).unwrap_or(u32::MAX)))
            }
        }
    }

    pub(super) fn const_node(&mut self, n: Option<i64>, place: Place) -> Result<NodeRef> {
        self.emit(graph::Expr::Const(n), place)
    }

    /// The constant of constants.
    pub(super) fn fold(&mut self, op: Operator, args: &[Value], place: Place) -> Result<Value> {
        let mut folding = Folding {
            tables: &self.tables,
            symbols: &mut self.symbols,
            sets: &self.sets,
        };
        folding.fold(op, args, place)
    }

    /// The graph's twin of a map, and the denominator of its integers.
    pub(super) fn twin(&mut self, map: MapRef) -> Result<(graph::MapId, i64)> {
        let entry = self.maps.entry(map);
        if let Some(twin) = entry.twin {
            return Ok(twin);
        }
        let den = denominator(&entry.values);
        let place = entry.place;
        let integers = entry
            .values
            .iter()
            .map(|&v| integer(v, den, place))
            .collect::<Result<Vec<_>>>()?;
        let domain = self.domains[entry.domain.0 as usize].graph;
        let id = self
            .model
            .add_map(domain, integers)
            .map_err(|e| Error::at(ErrorKind::Limit, place, e.to_string()))?;
        self.maps.entries[map.0 as usize].twin = Some((id, den));
        Ok((id, den))
    }

    pub(super) fn domain_of(&self, var: graph::VarId) -> DomainRef {
        self.variables[var.index()].domain
    }

    /// A map by its recipe, made if need be.
    pub(super) fn map(
        &mut self,
        domain: DomainRef,
        recipe: Recipe,
        place: Place,
    ) -> Result<MapRef> {
        if let Some(map) = self.maps.known(domain, &recipe) {
            return Ok(map);
        }
        let values = self.map_values(domain, &recipe, place)?;
        self.maps.add(domain, recipe, values, place)
    }

    fn map_values(
        &mut self,
        domain: DomainRef,
        recipe: &Recipe,
        place: Place,
    ) -> Result<Vec<Value>> {
        let mirror = self.domains[domain.0 as usize].mirror;
        let len = self.mirrors[mirror].mirror.slots() as usize;
        if let Recipe::Apply(op, operands) = recipe {
            let mirror = &self.mirrors[mirror].mirror;
            let live =
                |value: usize| u32::try_from(value).is_ok_and(|slot| mirror.row(slot).is_some());
            let mut folding = Folding {
                tables: &self.tables,
                symbols: &mut self.symbols,
                sets: &self.sets,
            };
            return self
                .maps
                .apply(*op, operands, len, live, &mut folding, place);
        }
        (0..len)
            .map(|value| Ok(self.map_value(domain, recipe, value)))
            .collect()
    }

    /// One entry of a map that no operator makes.
    pub(super) fn map_value(&self, domain: DomainRef, recipe: &Recipe, value: usize) -> Value {
        let own = &self.mirrors[self.domains[domain.0 as usize].mirror].mirror;
        let slot = u32::try_from(value).unwrap_or(u32::MAX);
        if own.row(slot).is_none() {
            return Value::Null;
        }
        match recipe {
            Recipe::Slot => Value::Integer(i64::from(slot)),
            Recipe::Find {
                mirror,
                columns,
                keys,
            } => {
                let key: Vec<Value> = keys.iter().map(|&k| self.maps.operand(k, value)).collect();
                match self.mirrors[*mirror].mirror.find(columns, &key).first() {
                    Some(&slot) => Value::Integer(i64::from(slot)),
                    None => Value::Null,
                }
            }
            Recipe::Column {
                slots,
                mirror,
                column,
            } => {
                let Value::Integer(slot) = self.maps.entry(*slots).values[value] else {
                    return Value::Null;
                };
                let slot = u32::try_from(slot).unwrap_or(u32::MAX);
                self.mirrors[*mirror]
                    .mirror
                    .row(slot)
                    .map_or(Value::Null, |row| row[*column])
            }
            Recipe::Tuple {
                block,
                component,
                cells,
            } => {
                let tuple: Box<[Value]> = cells
                    .iter()
                    .map(|&c| self.maps.operand(c, value).key())
                    .collect();
                match self
                    .tuples
                    .get(&(*block, *component))
                    .and_then(|d| d.number(&tuple))
                {
                    Some(number) => Value::Integer(i64::from(number)),
                    None => Value::Null,
                }
            }
            Recipe::Apply(..) => Value::Null,
        }
    }

    /// The cell as a node.
    pub(super) fn term(&mut self, cell: Cell, place: Place) -> Result<Term> {
        match cell {
            Cell::Const(value) => {
                let den = denominator(&[value]);
                let number = integer(value, den, place)?;
                Ok(Term {
                    node: self.const_node(number, place)?,
                    den,
                    real: matches!(value, Value::Decimal(_)),
                    text: matches!(value, Value::Text(_)),
                    nonzero: number != Some(0),
                    never_null: number.is_some(),
                })
            }
            Cell::Map { var, map } => {
                let (twin, den) = self.twin(map)?;
                let node = self.emit(graph::Expr::Lookup { var, map: twin }, place)?;
                let entry = self.maps.entry(map);
                Ok(Term {
                    node,
                    den,
                    real: entry.has_decimal,
                    text: entry.has_text,
                    nonzero: !entry.has_zero,
                    never_null: !entry.has_null && !self.variables[var.index()].nullable,
                })
            }
            Cell::Node(term) => Ok(term),
            // A comparison of AVG is exact; as a number it has the six places that decimals have, the rest cut off.
            Cell::Ratio { sum, count } => {
                let den = sum.den.checked_mul(MILLION).ok_or_else(|| {
                    Error::at(
                        ErrorKind::Arithmetic,
                        place,
                        "AVG of these decimals overflows",
                    )
                })?;
                let million = self.const_node(Some(MILLION), place)?;
                let scaled = graph::Expr::Mul(sum.node.expr(), million.expr());
                let scaled = self.emit(scaled, place)?;
                let node = self.emit(graph::Expr::Div(scaled.expr(), count.expr()), place)?;
                Ok(Term {
                    node,
                    den,
                    real: true,
                    text: false,
                    nonzero: false,
                    never_null: false,
                })
            }
        }
    }

    /// A condition as a node that is TRUE exactly where it holds.
    pub(super) fn condition_node(&mut self, cell: Cell, place: Place) -> Result<NodeRef> {
        self.term(cell, place).map(|t| t.node)
    }

    /// Applies an operator to cells.
    pub(super) fn apply(&mut self, op: Operator, args: &[Cell], place: Place) -> Result<Cell> {
        let mut constants = Vec::with_capacity(args.len());
        for cell in args {
            if let Cell::Const(value) = cell {
                constants.push(*value);
            }
        }
        if constants.len() == args.len() {
            if let Operator::InSet(set) = op {
                self.baked_sets.insert(set);
            }
            return self.fold(op, &constants, place).map(Cell::Const);
        }
        if let Some(cell) = self.shortcut(op, args) {
            return Ok(cell);
        }
        if let (Operator::Call(super::CONTAINS), [Cell::Const(array), _]) = (op, args) {
            let set = self.array_set(*array, place)?;
            return self.apply(Operator::InSet(set), &args[1..], place);
        }
        if let Some(cell) = self.lift(op, args, place)? {
            return Ok(cell);
        }
        self.node(op, args, place)
    }

    /// Results that need no node.
    fn shortcut(&self, op: Operator, args: &[Cell]) -> Option<Cell> {
        let constant = |cell: &Cell| match cell {
            Cell::Const(value) => Some(*value),
            Cell::Map { .. } | Cell::Node(_) | Cell::Ratio { .. } => None,
        };
        match (op, args) {
            (Operator::Infix(op @ (Infix::And | Infix::Or)), [a, b]) => {
                let (fixed, other) = match (constant(a), constant(b)) {
                    (Some(fixed), _) => (fixed, b),
                    (_, Some(fixed)) => (fixed, a),
                    _ => return None,
                };
                let absorbing = op == Infix::Or;
                match fixed.truth() {
                    Some(t) if t == absorbing => Some(Cell::Const(Value::Integer(i64::from(t)))),
                    Some(_) => Some(*other),
                    None => None,
                }
            }
            (Operator::Choose, [c, then, otherwise]) => {
                let chosen = constant(c)?;
                Some(if chosen.truth() == Some(true) {
                    *then
                } else {
                    *otherwise
                })
            }
            (Operator::Infix(op), [a, b]) if !matches!(op, Infix::And | Infix::Or) => {
                let null = |cell| constant(cell).is_some_and(Value::is_null);
                (null(a) || null(b)).then_some(Cell::NULL)
            }
            (Operator::IsNull, [Cell::Map { var, map }]) => {
                let nullable = self.variables[var.index()].nullable;
                (!nullable && !self.maps.entry(*map).has_null).then_some(Cell::FALSE)
            }
            (Operator::IsNull, [Cell::Node(term)]) => term.never_null.then_some(Cell::FALSE),
            _ => None,
        }
    }

    /// Lifts an operator on one decision into a map.
    fn lift(&mut self, op: Operator, args: &[Cell], place: Place) -> Result<Option<Cell>> {
        let mut decision = None;
        let mut operands = Vec::with_capacity(args.len());
        let mut constants = 0;
        for cell in args {
            match cell {
                Cell::Const(value) => {
                    constants += 1;
                    operands.push(Operand::Const(*value));
                }
                Cell::Map { var, map } => {
                    if decision.is_some_and(|(v, _)| v != *var) {
                        return Ok(None);
                    }
                    decision = Some((*var, *map));
                    operands.push(Operand::Map(*map));
                }
                Cell::Node(_) | Cell::Ratio { .. } => return Ok(None),
            }
        }
        let Some((var, first)) = decision else {
            return Ok(None);
        };
        // An unplaced or NULL decision must give the operator its NULLs: only strict operators may
        // take a NULL lookup for their result.
        let strict = !matches!(
            op,
            Operator::IsNull
                | Operator::IsTrue
                | Operator::Same
                | Operator::Choose
                | Operator::Infix(Infix::And | Infix::Or)
                | Operator::Call(_)
        );
        if !strict && self.variables[var.index()].nullable {
            return Ok(None);
        }
        let domain = self.domain_of(var);
        let recipe = Recipe::Apply(op, operands.into_boxed_slice());
        let known = self.maps.known(domain, &recipe);
        let map = match known {
            Some(map) => map,
            None => {
                let ordered = matches!(
                    op,
                    Operator::Infix(
                        Infix::Less | Infix::LessOrEqual | Infix::Greater | Infix::GreaterOrEqual
                    )
                ) && self.maps.is_text(first);
                let native = !matches!(op, Operator::Call(_) | Operator::Infix(Infix::Concat));
                if constants > 0 && native && !ordered && !self.maps.may_lift(op, first) {
                    return Ok(None);
                }
                self.map(domain, recipe, place)?
            }
        };
        Ok(Some(Cell::Map { var, map }))
    }

    /// Makes the node of an operator.
    fn node(&mut self, op: Operator, args: &[Cell], place: Place) -> Result<Cell> {
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
            (Operator::Choose, [c, a, b]) => {
                let cond = self.condition_node(*c, place)?.expr();
                let (a_null, b_null) = (is_null(a), is_null(b));
                [*a, *b].iter().for_each(|&cell| self.rely_on_no_zero(cell));
                let (mut a, mut b) = (self.term(*a, place)?, self.term(*b, place)?);
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
        let zero = || {
            let message = format!(
                "a divisor of {} that can be 0; write NULLIF(divisor, 0)",
                op.sql()
            );
            Error::at(ErrorKind::Arithmetic, place, message)
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
            Infix::Divide if real => {
                let Cell::Const(divisor) = b_cell else {
                    let what =
                        "a division of decimals by what depends on decisions; multiply across";
                    return unsupported(place, what);
                };
                let Some(number) = integer(divisor, b.den, place)?.filter(|&n| n != 0) else {
                    return Err(zero());
                };
                // (a / x) / (number / y) = a·y / (x·number)
                let shared = gcd(b.den, number.saturating_abs());
                let (times, number) = (
                    b.den / shared * number.signum(),
                    number.saturating_abs() / shared,
                );
                let den = a.den.checked_mul(number).ok_or_else(|| {
                    Error::at(ErrorKind::Arithmetic, place, "this divisor overflows")
                })?;
                let times = self.const_node(Some(times), place)?;
                let node = self.emit(G::Mul(a.node.expr(), times.expr()), place)?;
                Ok(result(node, den))
            }
            Infix::Divide | Infix::Modulo => {
                if real {
                    return unsupported(place, "% of decimals over decisions");
                }
                if !b.nonzero || matches!(b_cell, Cell::Const(Value::Integer(0))) {
                    return Err(zero());
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

/// The template of an expression whose operands are templates of the arena; `None` for a lookup.
fn template_of(expr: graph::Expr, arena: &[Template]) -> Option<Template> {
    use graph::Expr as G;
    let get = |id: graph::ExprId| Box::new(arena[id.index()].clone());
    let all = |ids: Vec<graph::ExprId>| -> Vec<Template> {
        ids.into_iter()
            .map(|id| arena[id.index()].clone())
            .collect()
    };
    Some(match expr {
        G::Const(n) => Template::Const(n),
        G::Neg(a) => Template::Neg(get(a)),
        G::Add(a, b) => Template::Add(get(a), get(b)),
        G::Sub(a, b) => Template::Sub(get(a), get(b)),
        G::Mul(a, b) => Template::Mul(get(a), get(b)),
        G::Div(a, b) => Template::Div(get(a), get(b)),
        G::Rem(a, b) => Template::Rem(get(a), get(b)),
        G::Cmp(op, a, b) => Template::Cmp(op, get(a), get(b)),
        G::And(list) => Template::And(all(list)),
        G::Or(list) => Template::Or(all(list)),
        G::Not(a) => Template::Not(get(a)),
        G::IsNull(a) => Template::IsNull(get(a)),
        G::Ite {
            cond,
            then,
            otherwise,
        } => Template::Ite(get(cond), get(then), get(otherwise)),
        G::InSet(a, set) => Template::InSet(get(a), set),
        G::Lookup { .. } | G::Agg(_) => return None,
    })
}
