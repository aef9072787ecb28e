//! Changed rows.

use crate::tables::Value;

/// A change of one row of a base table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new row, in the table's column order.
    Insert(Box<[Value]>),
}
