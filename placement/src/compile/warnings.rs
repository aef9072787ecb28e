//! Warnings: legal SQL that rarely means what was meant.
//!
//! In an empty group SUM, MIN, MAX and AVG are NULL, and NULL passes a CHECK. So `sum(x) >= 3` holds on an empty node,
//! and an empty node is invisible to `min(load)` over a view of sums.

use super::Compiler;
use super::resolved::{Block, Expr, Node, Operator, RelationId};
use crate::dialect::ast::{Aggregate, Infix};
use crate::error::Place;

/// A hint on a policy that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

fn is_null_when_empty(function: Aggregate) -> bool {
    match function {
        Aggregate::Sum | Aggregate::Min | Aggregate::Max | Aggregate::Avg => true,
        Aggregate::CountRows
        | Aggregate::Count
        | Aggregate::CountDistinct
        | Aggregate::AllEqual
        | Aggregate::AllDifferent => false,
    }
}

impl Compiler {
    /// Looks for empty groups that a hard goal, or an aggregate over a view, does not see.
    pub(super) fn warn(&mut self, block: &Block, goal: &Expr) {
        if !block.keys.is_empty() {
            self.warn_of_floors(block, goal);
        }
        for aggregate in &block.aggregates {
            let blind = matches!(aggregate.function, Aggregate::Min | Aggregate::Avg);
            let Some(Expr {
                node:
                    Node::Column {
                        level: 0,
                        source,
                        column,
                    },
                ..
            }) = &aggregate.argument
            else {
                continue;
            };
            let RelationId::View(view) = block.sources[*source].relation else {
                continue;
            };
            let inner = &self.views[view].block;
            let Node::Aggregate(index) = inner.outputs[*column].1.node else {
                continue;
            };
            if blind
                && !inner.keys.is_empty()
                && is_null_when_empty(inner.aggregates[index].function)
            {
                let message = "an empty group is NULL and so is not seen here; write coalesce(…, 0) in the view";
                self.warnings.push(Warning {
                    place: aggregate.place,
                    message: message.to_owned(),
                });
            }
        }
    }

    fn warn_of_floors(&mut self, block: &Block, expr: &Expr) {
        let Node::Apply(op, args) = &expr.node else {
            return;
        };
        if let (Operator::Infix(op), [a, b]) = (op, args.as_slice()) {
            let low = match op {
                Infix::Greater | Infix::GreaterOrEqual => Some(a),
                Infix::Less | Infix::LessOrEqual => Some(b),
                _ => None,
            };
            if let Some(Expr {
                node: Node::Aggregate(index),
                place,
                ..
            }) = low
                && is_null_when_empty(block.aggregates[*index].function)
            {
                let message = "an empty group is NULL and passes this bound; write coalesce(…, 0)";
                self.warnings.push(Warning {
                    place: *place,
                    message: message.to_owned(),
                });
            }
        }
        for arg in args {
            self.warn_of_floors(block, arg);
        }
    }
}
