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
use super::group::{Argument, Grouping, PreparedRow};
use super::resolve::constant;
use super::resolved::{Block, Type};
use crate::dialect::ast::When;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::Value;

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

/// The distinct arguments of a block's aggregates, and which of them each aggregate has.
pub(super) fn arguments_of(block: &Block) -> Result<(Vec<Argument>, Vec<Option<u8>>)> {
    let mut arguments: Vec<Argument> = Vec::new();
    let mut cell_of = Vec::new();
    let mixed = block.aggregates.iter().any(|a| a.when == When::Present);
    for aggregate in &block.aggregates {
        let one = || constant(aggregate.place, Type::Number, Value::Integer(1));
        let argument = match &aggregate.argument {
            Some(argument) => argument.clone(),
            // Where rows of both assignments share a bucket, each kind is counted by a cell of its own.
            None if mixed => one(),
            None => {
                cell_of.push(None);
                continue;
            }
        };
        let same = |a: &Argument| a.when == aggregate.when && a.expr.same(&argument);
        let position = arguments.iter().position(same).unwrap_or_else(|| {
            arguments.push(Argument {
                expr: argument,
                when: aggregate.when,
            });
            arguments.len() - 1
        });
        let limit = |_| Error::at(ErrorKind::Limit, aggregate.place, "too many aggregates");
        cell_of.push(Some(u8::try_from(position).map_err(limit)?));
    }
    Ok((arguments, cell_of))
}
