//! GROUP BY over conditional rows: which groups exist, and the bag that folds them.
//!
//! Which groups exist never depends on what is placed: see [`super::components`].

use std::collections::{BTreeMap, HashMap};

use super::Compiler;
use super::cells::{Cell, NodeRef, Term};
use super::folded::{Group, KeyConstant};
use super::join::{Frame, Match, Part};
use super::joined::{Handle, Joined};
use super::maps::{Operand, Recipe, denominator, integer};
use super::present::arguments_of;
use super::resolved::{Block, Expr, Operator};
use crate::dialect::ast::{Aggregate, Infix, When};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::Value;

/// The most groups that get expressions of their own.
pub(super) const GROUPS_MAX: u64 = 4_000_000;

/// Numbers for the distinct key tuples of a component.
///
/// Invariant: `numbers` names exactly the numbers that are in use; a number that is not is in `free`.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    pub tuples: Vec<Box<[Value]>>,
    numbers: HashMap<Box<[Value]>, u32>,
    /// How many rows of the component have each tuple, as far as anyone needs to know when the last one goes
    /// ([`super::turnover`]).
    counts: Vec<u32>,
    free: Vec<u32>,
    /// The tuple of a decision that may be NULL: its group exists only when it is not empty.
    pub null: Option<u32>,
}

impl Dictionary {
    pub(crate) fn number(&self, tuple: &[Value]) -> Option<u32> {
        self.numbers.get(tuple).copied()
    }

    /// Whether a number names a group.
    pub(super) fn is_used(&self, number: u32) -> bool {
        self.number(&self.tuples[number as usize]) == Some(number)
    }

    /// The numbers that name groups.
    pub(super) fn used(&self) -> impl Iterator<Item = u32> + '_ {
        let all = u32::try_from(self.tuples.len()).unwrap_or(u32::MAX);
        (0..all).filter(|&number| self.is_used(number))
    }

    /// Gives a number another tuple.
    pub(super) fn rename(&mut self, number: u32, tuple: Box<[Value]>) {
        let old = std::mem::replace(&mut self.tuples[number as usize], tuple.clone());
        self.numbers.remove(&old);
        self.numbers.insert(tuple, number);
    }

    /// Takes a number from its tuple, for another one.
    pub(super) fn retire(&mut self, number: u32) {
        self.numbers.remove(&self.tuples[number as usize]);
        self.counts[number as usize] = 0;
        self.free.push(number);
    }

    /// The number of a tuple, a new one if it has none.
    pub(crate) fn add(&mut self, tuple: Box<[Value]>) -> u32 {
        if let Some(number) = self.number(&tuple) {
            return number;
        }
        let number = u32::try_from(self.tuples.len()).unwrap_or(u32::MAX);
        self.numbers.insert(tuple.clone(), number);
        self.tuples.push(tuple);
        self.counts.push(0);
        number
    }

    /// The number of a tuple, a retired one before a new one. Whoever keeps something by number must be told.
    pub(super) fn reuse(&mut self, tuple: Box<[Value]>) -> u32 {
        if self.number(&tuple).is_none()
            && let Some(number) = self.free.pop()
        {
            self.numbers.insert(tuple.clone(), number);
            self.tuples[number as usize] = tuple;
            return number;
        }
        self.add(tuple)
    }

    /// How many rows have the tuple of a number.
    pub(super) fn count(&self, number: u32) -> u32 {
        self.counts[number as usize]
    }

    pub(super) fn set_count(&mut self, number: u32, count: u32) {
        self.counts[number as usize] = count;
    }
}

/// Sources that constant conditions tie together, and the keys that read them.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub sources: u64,
    pub keys: Vec<usize>,
    /// The keys are decision columns themselves: the tuples are those of the whole domain.
    pub(super) decision: Option<(usize, usize, usize)>,
    /// Whether some row's tuple depends on a decision.
    pub keyed: bool,
}

/// A bag and how its groups are named.
#[derive(Debug)]
pub(crate) struct Grouping {
    pub bag: graph::BagId,
    pub block: usize,
    pub components: Vec<Component>,
    pub(super) keys: usize,
    /// Tuple numbers of the components that are not keyed, by part.
    pub(super) parts: Vec<Box<[u32]>>,
    part_numbers: HashMap<Box<[u32]>, u32>,
    pub(super) part_base: u32,
    /// Rows when the bag was filled.
    pub(super) rows: u32,
    pub(super) cells: Vec<CellShape>,
    /// The bag cell of each aggregate's argument.
    pub(super) cell_of: Vec<Option<u8>>,
    /// The distinct arguments of the aggregates.
    pub arguments: Vec<Argument>,
    /// What the template of the policy reads of parts and keys; `None` if groups have their own expressions.
    pub constants: Option<Vec<KeyConstant>>,
    /// Which joined row became which row of the bag.
    pub joined: Joined,
    /// For each (part, key) with an expression of its own, the row of the policy or of the view that stands for it.
    pub(super) standing: HashMap<(u32, u32), u32>,
    /// The (component, number) whose tuples have had their first or last row since groups were last brought up to
    /// date, and whether they had a row then.
    pub(super) crossed: BTreeMap<(usize, u32), bool>,
}

/// What is known of a bag's cell over all of its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct CellShape {
    pub den: i64,
    pub real: bool,
    pub text: bool,
    /// In a bag of one group: rows that always exist with a cell that is never NULL.
    pub certain: u32,
}

impl CellShape {
    /// Before the first row.
    pub(super) const NONE: CellShape = CellShape {
        den: 1,
        real: false,
        text: false,
        certain: 0,
    };
}

/// An argument of aggregates, and of which assignment they speak.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub expr: Expr,
    pub when: When,
}

pub(super) struct PreparedRow {
    /// The rows joined, by source.
    pub(super) bound: Box<[u32]>,
    pub(super) condition: Option<NodeRef>,
    pub(super) tuples: Vec<Cell>,
    pub(super) arguments: Vec<Cell>,
}

fn lcm(a: i64, b: i64, place: Place) -> Result<i64> {
    let gcd = |mut a: i64, mut b: i64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (a / gcd(a, b)).checked_mul(b).ok_or_else(|| {
        let message = "the common denominator of these decimals overflows; use integers";
        Error::at(ErrorKind::Arithmetic, place, message)
    })
}

impl Compiler {
    /// Folds the rows of a grouped block into a bag; `None` if it has no group at all.
    pub(super) fn grouping(
        &mut self,
        block: &Block,
        parent: Option<&Frame<'_>>,
    ) -> Result<Option<Grouping>> {
        let mut components = Vec::new();
        if !block.keys.is_empty() {
            components = self.components(block);
            for (number, component) in components.iter().enumerate() {
                if !self.fill_dictionary(block, number, component)? {
                    return Ok(None);
                }
            }
        }
        let (arguments, cell_of) = arguments_of(block)?;
        let mut rows = Vec::new();
        for found in self.matches(block, parent, Part::Whole)? {
            rows.push(self.prepare_row(block, parent, &found, &components, &arguments)?);
        }
        let mut cells = vec![CellShape::NONE; arguments.len()];
        for row in &rows {
            for (component, cell) in components.iter_mut().zip(&row.tuples) {
                component.keyed |= !matches!(cell, Cell::Const(_));
            }
            for (index, cell) in row.arguments.iter().enumerate() {
                let Argument { expr, when } = &arguments[index];
                let shape = self.shape(*cell, expr.place)?;
                let cell = &mut cells[index];
                cell.text |= shape.text;
                cell.den = lcm(cell.den, shape.den, expr.place)?;
                cell.real |= shape.real;
                let certain = row.condition.is_none() && shape.never_null;
                cell.certain += u32::from(certain && *when == When::Decided);
            }
        }
        let width = u8::try_from(arguments.len())
            .map_err(|_| Error::at(ErrorKind::Limit, block.place, "too many aggregates"))?;
        // The rows of a correlated subquery share one bag, a part for each row around it.
        let (bag, part_base) = match (parent, self.shared_bags.get_mut(&block.id)) {
            (Some(_), Some((bag, next))) => {
                *next += 1;
                (*bag, *next)
            }
            (Some(_), None) => {
                let bag = self.model.add_bag(graph::BagSpec { cells: width });
                self.shared_bags.insert(block.id, (bag, 0));
                (bag, 0)
            }
            (None, _) => (self.model.add_bag(graph::BagSpec { cells: width }), 0),
        };
        let mut grouping = Grouping {
            bag,
            block: block.id,
            components,
            keys: block.keys.len(),
            parts: Vec::new(),
            part_numbers: HashMap::new(),
            part_base,
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            cells,
            cell_of,
            arguments: Vec::new(),
            constants: None,
            joined: Joined::new(block.sources.len()),
            standing: HashMap::new(),
            crossed: BTreeMap::new(),
        };
        if block.keys.is_empty() {
            grouping.part_of(Box::new([]));
        }
        self.check_key_space(&grouping, block.place)?;
        grouping.arguments = arguments;
        for row in rows {
            self.add_joined_row(&mut grouping, row, block.place)?;
        }
        Ok(Some(grouping))
    }

    /// Adds what a joined row brings to the bag, and records it.
    pub(super) fn add_joined_row(
        &mut self,
        grouping: &mut Grouping,
        row: PreparedRow,
        place: Place,
    ) -> Result<()> {
        let bound = row.bound.clone();
        let (row, present) = self.split(grouping, row, place)?;
        for row in std::iter::once(row).chain(present) {
            if let Some(id) = self.add_bag_row(grouping, row, place)? {
                grouping.joined.add(&bound, Handle::Bag(id));
            }
        }
        Ok(())
    }

    /// Whether a row leaves what is never NULL so, where compiled expressions rely on it.
    pub(super) fn stays_certain(&mut self, grouping: &Grouping, row: &PreparedRow) -> Result<bool> {
        if grouping.keys > 0 {
            return Ok(true);
        }
        for (index, argument) in grouping.arguments.iter().enumerate() {
            if grouping.cells[index].certain == 0 || argument.when == When::Present {
                continue;
            }
            let shape = self.shape(row.arguments[index], argument.expr.place)?;
            if row.condition.is_some() || !shape.never_null {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check_key_space(&self, grouping: &Grouping, place: Place) -> Result<()> {
        let keyed = self.sizes(grouping, true).iter().product::<u64>();
        if keyed > u64::from(u32::MAX / 2) {
            return Err(Error::at(
                ErrorKind::Limit,
                place,
                "more than 2^31 groups of decisions",
            ));
        }
        Ok(())
    }

    /// The numbers of tuples of the (un)keyed components.
    pub(super) fn sizes(&self, grouping: &Grouping, keyed: bool) -> Vec<u64> {
        let mut sizes = Vec::new();
        for (number, component) in grouping.components.iter().enumerate() {
            if component.keyed == keyed {
                let tuples = self.tuples.get(&(grouping.block, number));
                sizes.push(tuples.map_or(0, |d| d.tuples.len() as u64));
            }
        }
        sizes
    }

    pub(super) fn prepare_row(
        &mut self,
        block: &Block,
        parent: Option<&Frame<'_>>,
        found: &Match,
        components: &[Component],
        arguments: &[Argument],
    ) -> Result<PreparedRow> {
        let frame = Frame {
            parent,
            block,
            bound: &found.bound,
            folded: None,
        };
        let mut tuples = Vec::with_capacity(components.len());
        for (number, component) in components.iter().enumerate() {
            let mut cells = Vec::with_capacity(component.keys.len());
            for &key in &component.keys {
                cells.push(self.eval(&block.keys[key], &frame)?);
            }
            tuples.push(self.tuple_cell(block, number, &cells)?);
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.eval(&argument.expr, &frame)?);
        }
        let bound = found.rows();
        Ok(PreparedRow {
            bound,
            condition: found.condition,
            tuples,
            arguments: values,
        })
    }

    /// The number of the tuple of `cells`, as a cell.
    fn tuple_cell(&mut self, block: &Block, component: usize, cells: &[Cell]) -> Result<Cell> {
        let mut operands = Vec::with_capacity(cells.len());
        let mut decision = None;
        let mut several = false;
        for cell in cells {
            match cell {
                Cell::Const(value) => operands.push(Operand::Const(value.key())),
                Cell::Map { var, map } => {
                    several |= decision.is_some_and(|v| v != *var);
                    decision = Some(*var);
                    operands.push(Operand::Map(*map));
                }
                Cell::Node(_) | Cell::Ratio { .. } => several = true,
            }
        }
        if several {
            let message = "GROUP BY columns of one relation that depend on several decisions";
            return Err(Error::at(ErrorKind::Unsupported, block.place, message));
        }
        let Some(var) = decision else {
            let tuple: Vec<Value> = operands
                .iter()
                .map(|o| match o {
                    Operand::Const(value) => *value,
                    Operand::Map(_) => Value::Null,
                })
                .collect();
            let number = self
                .tuples
                .get(&(block.id, component))
                .and_then(|dictionary| dictionary.number(&tuple));
            return Ok(match number {
                Some(number) => Cell::Const(Value::Integer(i64::from(number))),
                None => Cell::NULL,
            });
        };
        let recipe = Recipe::Tuple {
            block: block.id,
            component,
            cells: operands.into_boxed_slice(),
        };
        let map = self.map(self.domain_of(var), recipe, block.place)?;
        let cell = Cell::Map { var, map };
        let null = self.tuples.get(&(block.id, component)).and_then(|d| d.null);
        match null {
            Some(number) if self.variables[var.index()].nullable => {
                let is_null = self.apply(Operator::IsNull, &[cell], block.place)?;
                let number = Cell::Const(Value::Integer(i64::from(number)));
                self.apply(Operator::Choose, &[is_null, number, cell], block.place)
            }
            _ => Ok(cell),
        }
    }

    fn shape(&mut self, cell: Cell, place: Place) -> Result<Term> {
        match cell {
            Cell::Const(value) => Ok(Term {
                node: NodeRef(0),
                den: denominator(&[value]),
                real: matches!(value, Value::Decimal(_)),
                text: matches!(value, Value::Text(_)),
                nonzero: false,
                never_null: !value.is_null(),
            }),
            Cell::Map { var, map } => {
                let (_, den) = self.twin(map)?;
                let entry = self.maps.entry(map);
                Ok(Term {
                    node: NodeRef(0),
                    den,
                    real: entry.has_decimal,
                    text: entry.has_text,
                    nonzero: false,
                    never_null: !entry.has_null && !self.variables[var.index()].nullable,
                })
            }
            Cell::Node(_) | Cell::Ratio { .. } => self.term(cell, place),
        }
    }

    pub(super) fn add_bag_row(
        &mut self,
        grouping: &mut Grouping,
        row: PreparedRow,
        place: Place,
    ) -> Result<Option<graph::RowId>> {
        let places: Vec<Place> = grouping.arguments.iter().map(|a| a.expr.place).collect();
        let mut unkeyed = Vec::new();
        let mut key = Cell::Const(Value::Integer(0));
        for (number, component) in grouping.components.iter().enumerate() {
            let cell = row.tuples[number];
            if component.keyed {
                let size = self
                    .tuples
                    .get(&(grouping.block, number))
                    .map_or(0, |dictionary| dictionary.tuples.len());
                let size = Cell::Const(Value::Integer(i64::try_from(size).unwrap_or(i64::MAX)));
                let times = Operator::Infix(Infix::Multiply);
                let plus = Operator::Infix(Infix::Add);
                key = match key {
                    Cell::Const(Value::Integer(0)) => cell,
                    key => {
                        let shifted = self.apply(times, &[key, size], place)?;
                        self.apply(plus, &[shifted, cell], place)?
                    }
                };
            } else {
                match cell {
                    Cell::Const(Value::Integer(n)) => {
                        unkeyed.push(u32::try_from(n).unwrap_or(u32::MAX));
                    }
                    // The tuple is no group: a condition on constants excludes it, and the row with it.
                    _ => return Ok(None),
                }
            }
        }
        let part = grouping.part_of(unkeyed.into_boxed_slice());
        let key = match key {
            Cell::Const(Value::Integer(n)) => {
                graph::Key::Const(u32::try_from(n).unwrap_or(u32::MAX))
            }
            Cell::Const(_) => return Ok(None),
            Cell::Map { var, map } => graph::Key::Of(var, self.twin(map)?.0),
            cell => graph::Key::Expr(self.term(cell, place)?.node.expr()),
        };
        let mut cells = Vec::with_capacity(row.arguments.len());
        for (index, cell) in row.arguments.iter().enumerate() {
            let shape = grouping.cells[index];
            let own = self.shape(*cell, places[index])?;
            let null = matches!(cell, Cell::Const(Value::Null));
            if shape.den % own.den != 0 || (shape.text != own.text && !null) {
                return Err(Error::at(
                    ErrorKind::Limit,
                    places[index],
                    super::delta::REBUILD,
                ));
            }
            cells.push(match *cell {
                Cell::Const(value) => graph::Cell::Const(integer(value, shape.den, places[index])?),
                Cell::Map { var, map } => {
                    let (map, den) = self.twin(map)?;
                    graph::Cell::Lookup {
                        var,
                        map,
                        times: shape.den / den,
                    }
                }
                cell => {
                    let term = self.term(cell, places[index])?;
                    let target = Term {
                        den: shape.den,
                        ..term
                    };
                    let (term, _) = self.aligned(term, target, places[index])?;
                    graph::Cell::Expr(term.node.expr())
                }
            });
        }
        let cond = row.condition.map(NodeRef::expr);
        let spec = graph::Row {
            part,
            key,
            cond,
            cells,
        };
        self.model
            .add_row(grouping.bag, spec)
            .map(Some)
            .map_err(|e| Error::at(ErrorKind::Unsupported, place, e.to_string()))
    }
}

impl Grouping {
    /// The part of a tuple of unkeyed components.
    pub(super) fn part_of(&mut self, tuple: Box<[u32]>) -> u32 {
        if let Some(&part) = self.part_numbers.get(&tuple) {
            return part;
        }
        let part = self.part_base + u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        self.part_numbers.insert(tuple.clone(), part);
        self.parts.push(tuple);
        part
    }

    /// The group of a fold without keys.
    pub(super) fn only_group(&self) -> Group {
        Group {
            part: self.part_base,
            key: 0,
            values: Box::from([]),
            optional: false,
        }
    }

    /// Whether the rows that are certain to be there may stop being so when rows change.
    pub(super) fn is_brittle(&self, block: &Block) -> bool {
        let average = block
            .aggregates
            .iter()
            .any(|a| a.function == Aggregate::Avg);
        let mixed = self
            .cells
            .iter()
            .any(|c| c.certain > 0 && c.certain < self.rows);
        block.keys.is_empty() && (average || mixed)
    }

    /// What counts rows for an aggregate: those of its own assignment, where a bag has both.
    pub(super) fn rows_of(&self, aggregate: usize) -> graph::Fold {
        self.cell_of[aggregate].map_or(graph::Fold::CountRows, graph::Fold::Count)
    }

    /// The number of parts so far.
    pub(crate) fn part_count(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_once_its_tuple_is_gone() {
        let mut dictionary = Dictionary::default();
        let tuple = |n: i64| -> Box<[Value]> { Box::from([Value::Integer(n)]) };
        assert_eq!(dictionary.add(tuple(5)), 0);
        assert_eq!(dictionary.add(tuple(6)), 1);
        dictionary.set_count(0, 3);
        dictionary.retire(0);
        assert_eq!(dictionary.number(&tuple(5)), None);
        assert_eq!(dictionary.used().collect::<Vec<_>>(), [1]);
        assert_eq!(dictionary.reuse(tuple(6)), 1);
        assert_eq!(dictionary.reuse(tuple(7)), 0);
        assert_eq!(dictionary.count(0), 0);
        assert_eq!(dictionary.reuse(tuple(5)), 2);
    }
}
