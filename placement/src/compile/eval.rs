//! Evaluation of resolved expressions over rows, into cells.

use std::rc::Rc;

use super::Compiler;
use super::cells::{Cell, NodeRef, Target};
use super::fold::Set;
use super::join::{Bound, Frame, Match, Part};
use super::maps::Recipe;
use super::resolved::{Block, Expr, Node, Operator, RelationId};
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::Value;

/// A row that exists under a condition (`None`: always).
#[derive(Clone, Debug)]
pub(crate) struct ConditionalRow {
    pub condition: Option<NodeRef>,
    pub cells: Box<[Cell]>,
}

impl ConditionalRow {
    /// The nodes of the graph that it names.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeRef> + '_ {
        let cells = self.cells.iter().flat_map(|cell| match cell {
            Cell::Const(_) | Cell::Map { .. } => [None, None],
            Cell::Node(term) => [Some(term.node), None],
            Cell::Ratio { sum, count } => [Some(sum.node), Some(*count)],
        });
        self.condition.into_iter().chain(cells.flatten())
    }
}

fn lost(place: Place, what: &str) -> Error {
    Error::at(
        ErrorKind::Unsupported,
        place,
        format!("{what} out of reach"),
    )
}

impl Compiler {
    /// The cell of an expression.
    pub(super) fn eval(&mut self, expr: &Expr, frame: &Frame<'_>) -> Result<Cell> {
        match &expr.node {
            Node::Const(value) => Ok(Cell::Const(*value)),
            Node::Column {
                level,
                source,
                column,
            } => {
                let frame = frame
                    .up(*level)
                    .ok_or_else(|| lost(expr.place, "a column"))?;
                self.column_cell(frame, *source, *column, expr.place)
            }
            Node::Key { level, key } => frame
                .up(*level)
                .and_then(|f| f.folded)
                .and_then(|f| f.keys.get(*key).copied())
                .ok_or_else(|| lost(expr.place, "a group's key")),
            Node::Aggregate(index) => frame
                .folded
                .and_then(|f| f.aggregates.get(*index).copied())
                .ok_or_else(|| lost(expr.place, "an aggregate")),
            Node::ConstantScalar(number) => Ok(Cell::Const(self.scalars[*number])),
            Node::Apply(op, args) => self.eval_apply(*op, args, frame, expr.place),
            Node::Exists(block) => {
                let rows = self.block_rows(block, Some(frame))?;
                let mut any = Vec::new();
                for row in rows.iter() {
                    match row.condition {
                        None => return Ok(Cell::TRUE),
                        Some(condition) => any.push(condition.expr()),
                    }
                }
                if any.is_empty() {
                    return Ok(Cell::FALSE);
                }
                let node = self.emit(graph::Expr::Or(any), expr.place)?;
                // A row whose condition is NULL does not exist.
                self.apply(Operator::IsTrue, &[Cell::truth(node)], expr.place)
            }
            Node::InBlock(needle, block) => {
                let needle = self.eval(needle, frame)?;
                let rows = self.block_rows(block, Some(frame))?;
                if let Some(set) = constant_set(&rows) {
                    let set = self.intern_set(set);
                    return self.apply(Operator::InSet(set), &[needle], expr.place);
                }
                let mut result = Cell::FALSE;
                for row in rows.iter() {
                    let mut hit = self.apply(
                        Operator::Infix(Infix::Equal),
                        &[needle, row.cells[0]],
                        expr.place,
                    )?;
                    if let Some(condition) = row.condition {
                        let there =
                            self.apply(Operator::IsTrue, &[Cell::truth(condition)], expr.place)?;
                        let both = [there, hit];
                        hit = self.apply(Operator::Infix(Infix::And), &both, expr.place)?;
                    }
                    let either = [result, hit];
                    result = self.apply(Operator::Infix(Infix::Or), &either, expr.place)?;
                }
                Ok(result)
            }
            Node::Scalar(block) => {
                let rows = self.block_rows(block, Some(frame))?;
                let Some(row) = rows.first() else {
                    return Ok(Cell::NULL);
                };
                match row.condition {
                    None => Ok(row.cells[0]),
                    Some(condition) => {
                        let args = [Cell::truth(condition), row.cells[0], Cell::NULL];
                        self.apply(Operator::Choose, &args, expr.place)
                    }
                }
            }
        }
    }

    fn eval_apply(
        &mut self,
        op: Operator,
        args: &[Expr],
        frame: &Frame<'_>,
        place: Place,
    ) -> Result<Cell> {
        // What a constant decides keeps its other operands from being evaluated: they may divide by 0.
        match (op, args) {
            (Operator::Infix(infix @ (Infix::And | Infix::Or)), [a, b]) => {
                let a = self.eval(a, frame)?;
                if let Cell::Const(value) = a
                    && value.truth() == Some(infix == Infix::Or)
                {
                    return Ok(a);
                }
                let b = self.eval(b, frame)?;
                self.apply(op, &[a, b], place)
            }
            (Operator::Choose, [c, a, b]) => {
                let c = self.eval(c, frame)?;
                if let Cell::Const(value) = c {
                    return self.eval(if value.truth() == Some(true) { a } else { b }, frame);
                }
                // NULLIF(x, 0) is the divisor that is never 0.
                if matches!(a.node, Node::Const(Value::Null)) && nullif_zero(args).is_some() {
                    let b = self.eval(b, frame)?;
                    let cell = self.apply(op, &[c, Cell::NULL, b], place)?;
                    return Ok(match cell {
                        Cell::Node(term) => Cell::Node(super::cells::Term {
                            nonzero: true,
                            ..term
                        }),
                        other => other,
                    });
                }
                let a = self.eval(a, frame)?;
                let b = self.eval(b, frame)?;
                self.apply(op, &[c, a, b], place)
            }
            _ => {
                let mut cells = Vec::with_capacity(args.len());
                for arg in args {
                    cells.push(self.eval(arg, frame)?);
                }
                self.apply(op, &cells, place)
            }
        }
    }

    fn column_cell(
        &mut self,
        frame: &Frame<'_>,
        source: usize,
        column: usize,
        place: Place,
    ) -> Result<Cell> {
        let relation = frame.block.sources[source].relation;
        match (
            relation,
            frame.bound.get(source).copied().unwrap_or(Bound::Unbound),
        ) {
            (RelationId::Mirror(mirror), Bound::Row(slot)) => {
                let entry = &self.mirrors[mirror];
                if let Some((decision, index)) = entry.decision_of(column) {
                    let decision = &entry.decisions[decision];
                    let Some(var) = decision.vars.get(slot as usize).copied().flatten() else {
                        return Err(lost(place, "a decision"));
                    };
                    return Ok(Cell::Map {
                        var,
                        map: decision.columns[index].ids,
                    });
                }
                match entry.mirror.row(slot) {
                    Some(row) => Ok(Cell::Const(row[column])),
                    None => Err(lost(place, "a removed row")),
                }
            }
            (RelationId::Mirror(mirror), Bound::Lookup { var, slots }) => {
                let recipe = Recipe::Column {
                    slots,
                    mirror,
                    column,
                };
                let map = self.map(self.domain_of(var), recipe, place)?;
                Ok(Cell::Map { var, map })
            }
            (RelationId::View(view), Bound::Row(row)) => match self.views[view].row(row) {
                Some(row) => Ok(row.cells[column]),
                None => Err(lost(place, "a removed row")),
            },
            (_, Bound::Unbound) | (RelationId::View(_), Bound::Lookup { .. }) => {
                Err(lost(place, "a source"))
            }
        }
    }

    /// A joined row as a row of the block, where it has no groups.
    pub(super) fn conditional_row(
        &mut self,
        block: &Block,
        parent: Option<&Frame<'_>>,
        found: &Match,
    ) -> Result<ConditionalRow> {
        let frame = Frame {
            parent,
            block,
            bound: &found.bound,
            folded: None,
        };
        let mut cells = Vec::with_capacity(block.outputs.len());
        for (_, output) in &block.outputs {
            cells.push(self.eval(output, &frame)?);
        }
        Ok(ConditionalRow {
            condition: found.condition,
            cells: cells.into_boxed_slice(),
        })
    }

    /// The rows of a subquery under the rows around it; an uncorrelated one is compiled once.
    pub(super) fn block_rows(
        &mut self,
        block: &Rc<Block>,
        parent: Option<&Frame<'_>>,
    ) -> Result<Rc<Vec<ConditionalRow>>> {
        if matches!(self.target, Target::Template(_)) && block.decision {
            return Err(Error::at(
                ErrorKind::Unsupported,
                block.place,
                "in a template",
            ));
        }
        if !block.correlated
            && let Some(rows) = self.subqueries.get(&block.id)
        {
            return Ok(Rc::clone(rows));
        }
        let parent = if block.correlated { parent } else { None };
        let rows = if block.grouped {
            self.grouped_rows(block, parent)?
        } else {
            let mut rows = Vec::new();
            for found in self.matches(block, parent, Part::Whole)? {
                rows.push(self.conditional_row(block, parent, &found)?);
            }
            rows
        };
        let rows = Rc::new(rows);
        if !block.correlated {
            self.subqueries.insert(block.id, Rc::clone(&rows));
        }
        Ok(rows)
    }
}

/// The set of rows that are all there and all constant.
fn constant_set(rows: &[ConditionalRow]) -> Option<Set> {
    let mut set = Set::default();
    for row in rows {
        match (row.condition, row.cells[0]) {
            (None, Cell::Const(Value::Null)) => set.has_null = true,
            (None, Cell::Const(value)) => set.values.push(value.key()),
            _ => return None,
        }
    }
    Some(set)
}

/// The `x` of `CASE WHEN x = 0 THEN NULL ELSE x END`.
fn nullif_zero(args: &[Expr]) -> Option<&Expr> {
    let [condition, _, otherwise] = args else {
        return None;
    };
    let Node::Apply(Operator::Infix(Infix::Equal), compared) = &condition.node else {
        return None;
    };
    let [x, zero] = compared.as_slice() else {
        return None;
    };
    let is_zero = matches!(zero.node, Node::Const(Value::Integer(0)));
    (is_zero && x.same(otherwise)).then_some(otherwise)
}
