//! A view that depends on decisions: expanded once, shared by all that reads it, kept row by row.
//!
//! A row keeps its number for as long as it is there, as a row of a table keeps its slot: what was joined with it is
//! found by that number when it goes ([`super::joined`]), and a row that comes ([`super::turnover`]) is joined by its
//! number.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::cells::Cell;
use super::eval::ConditionalRow;
use super::group::Grouping;
use super::joined::Joined;
use super::reads::{Reads, reads_of};
use super::resolved::Block;
use crate::tables::Value;

/// Rows by the constant in one column.
type ViewIndex = HashMap<Value, Vec<u32>>;

/// A view, or a subquery in FROM.
///
/// Invariant: an index lists exactly the rows that are there; it is `None` once a row's cell was no constant.
#[derive(Debug)]
pub(super) struct ViewOf {
    pub block: Rc<Block>,
    /// The bag behind it, if it is grouped.
    pub grouping: Option<Grouping>,
    /// What it reads of each source.
    pub reads: Rc<Vec<Reads>>,
    /// Which joined row became which row, where it has no groups.
    pub joined: Joined,
    rows: Vec<Option<ConditionalRow>>,
    free: Vec<u32>,
    indexes: RefCell<BTreeMap<usize, Option<ViewIndex>>>,
}

fn constant(cell: Cell) -> Option<Value> {
    match cell {
        Cell::Const(value) => Some(value.key()),
        Cell::Map { .. } | Cell::Node(_) | Cell::Ratio { .. } => None,
    }
}

impl ViewOf {
    /// A view without rows.
    pub(super) fn new(block: Rc<Block>) -> ViewOf {
        ViewOf {
            reads: Rc::new(reads_of(&block, None)),
            joined: Joined::new(block.sources.len()),
            block,
            grouping: None,
            rows: Vec::new(),
            free: Vec::new(),
            indexes: RefCell::default(),
        }
    }

    /// The row of a number.
    pub(super) fn row(&self, number: u32) -> Option<&ConditionalRow> {
        self.rows.get(number as usize)?.as_ref()
    }

    /// The numbers of all rows, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let all = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        (0..all).filter(|&number| self.row(number).is_some())
    }

    /// Adds a row; its number.
    pub(super) fn insert(&mut self, row: ConditionalRow) -> u32 {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.rows.push(None);
                u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
            }
        };
        for (&column, index) in self.indexes.get_mut() {
            match (index.as_mut(), constant(row.cells[column])) {
                (Some(index), Some(value)) => index.entry(value).or_default().push(number),
                (Some(_) | None, _) => *index = None,
            }
        }
        self.rows[number as usize] = Some(row);
        number
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, number: u32) -> Option<ConditionalRow> {
        let row = self.rows.get_mut(number as usize)?.take()?;
        for (&column, index) in self.indexes.get_mut() {
            if let (Some(index), Some(value)) = (index.as_mut(), constant(row.cells[column]))
                && let Some(numbers) = index.get_mut(&value)
            {
                numbers.retain(|&other| other != number);
            }
        }
        self.free.push(number);
        Some(row)
    }

    /// The rows with a constant in a column; `None` where some row's cell is no constant.
    pub(super) fn find(&self, column: usize, value: Value) -> Option<Vec<u32>> {
        let mut indexes = self.indexes.borrow_mut();
        let index = indexes.entry(column).or_insert_with(|| {
            let mut index = ViewIndex::new();
            for number in self.numbers() {
                let value = constant(self.row(number)?.cells[column])?;
                index.entry(value).or_default().push(number);
            }
            Some(index)
        });
        let numbers = index.as_ref()?.get(&value.key());
        Some(numbers.cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, Source};

    fn view() -> ViewOf {
        ViewOf::new(Rc::new(Block {
            id: 0,
            place: Place::start(Source::Policies),
            sources: Vec::new(),
            conditions: Vec::new(),
            grouped: false,
            keys: Vec::new(),
            key_names: Vec::new(),
            having: None,
            aggregates: Vec::new(),
            outputs: Vec::new(),
            correlated: false,
            decision: true,
            links: Vec::new(),
        }))
    }

    fn row(cell: Cell) -> ConditionalRow {
        ConditionalRow {
            condition: None,
            cells: Box::from([cell]),
        }
    }

    #[test]
    fn an_index_follows_rows() {
        let number = |n| Cell::Const(Value::Integer(n));
        let mut view = view();
        let first = view.insert(row(number(7)));
        assert_eq!(view.find(0, Value::Integer(7)), Some(vec![first]));
        let second = view.insert(row(number(7)));
        let third = view.insert(row(number(8)));
        view.remove(first);
        assert_eq!(view.find(0, Value::Integer(7)), Some(vec![second]));
        assert_eq!(view.find(0, Value::Integer(8)), Some(vec![third]));
        assert_eq!(view.insert(row(number(9))), first, "numbers are used again");
        assert_eq!(view.find(0, Value::Integer(9)), Some(vec![first]));
        assert_eq!(view.numbers().collect::<Vec<_>>(), [0, 1, 2]);
        // What one row does not know as a constant, the index does not know.
        let ratio = Cell::Node(super::super::cells::Term {
            node: super::super::cells::NodeRef(0),
            den: 1,
            real: false,
            text: false,
            nonzero: false,
            never_null: false,
        });
        view.insert(row(ratio));
        assert_eq!(view.find(0, Value::Integer(9)), None);
    }
}
