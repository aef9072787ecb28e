//! `present(aggregate)`: what an aggregate is now, whatever is decided.
//!
//! A node is relieved only once it holds a quarter more than its share: that is a condition on what stands now, and
//! the balance it asks for is one on what is decided. Both speak of the same groups, so both are folds of one bag. Its
//! rows come in pairs: one is where the decision puts it and carries the arguments of ordinary aggregates; its twin
//! is where the decision stands now, and carries those of `present`. The twin looks up a *shadow* of the decision, a
//! variable that no solver may change and that follows the present value, so that deltas keep it up to date like any
//! other row.

use super::Compiler;
use super::cells::Cell;
use super::group::{Grouping, PreparedRow};
use crate::dialect::ast::When;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;

impl Compiler {
    /// The variable that follows a decision's present value.
    fn shadow(&mut self, var: graph::VarId) -> graph::VarId {
        let shadow = self.model.shadow(var);
        let of = self.variables[var.index()];
        if shadow.index() >= self.variables.len() {
            self.variables.resize(shadow.index() + 1, of);
        }
        self.variables[shadow.index()] = of;
        shadow
    }

    /// Divides a row into the one that is decided and the one that stands now, where some aggregate asks for that.
    pub(super) fn split(
        &mut self,
        grouping: &Grouping,
        row: PreparedRow,
        place: Place,
    ) -> Result<(PreparedRow, Option<PreparedRow>)> {
        if grouping.arguments.iter().all(|a| a.when == When::Decided) {
            return Ok((row, None));
        }
        if row.condition.is_some() {
            let message = "present() of rows that depend on decisions for more than their group";
            return Err(Error::at(ErrorKind::Unsupported, place, message));
        }
        let only = |cells: &[Cell], when: When| -> Vec<Cell> {
            let arguments = grouping.arguments.iter().zip(cells);
            arguments
                .map(|(a, &cell)| if a.when == when { cell } else { Cell::NULL })
                .collect()
        };
        let mut twin = PreparedRow {
            bound: row.bound.clone(),
            condition: None,
            tuples: row.tuples.clone(),
            arguments: only(&row.arguments, When::Present),
        };
        for cell in twin.tuples.iter_mut().chain(&mut twin.arguments) {
            match cell {
                Cell::Const(_) => {}
                Cell::Map { var, .. } => *var = self.shadow(*var),
                Cell::Node(_) | Cell::Ratio { .. } => {
                    let message =
                        "present() of what several decisions, or one that may be NULL, make";
                    return Err(Error::at(ErrorKind::Unsupported, place, message));
                }
            }
        }
        let decided = only(&row.arguments, When::Decided);
        let row = PreparedRow {
            arguments: decided,
            ..row
        };
        Ok((row, Some(twin)))
    }
}
