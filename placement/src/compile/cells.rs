//! Cells: constants, columns looked up by one decision, and nodes of the graph; and SQL's operators on them.
//!
//! An operator on constants is folded, on one decision it is lifted into a map ([`super::maps`]), and only
//! what joins several decisions becomes a node ([`super::operators`]). Numbers in nodes are integers over a constant
//! denominator, so decimals stay exact; AVG is a pair of sum and count.

use super::Compiler;
use super::fold::Folding;
use super::maps::{DomainRef, MapRef, Operand, Recipe, denominator, integer};
use super::resolved::Operator;
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{self, Template};
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
