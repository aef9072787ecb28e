//! What can be told of a template without a bucket.

use super::bag::Bag;
use super::expr::{Fold, Template};
use super::model::{Graph, ModelError, narrow_one};
use super::root::fold_step;
use super::value::{self, Val, widen};

/// What one typical change of a decision changes a template by.
pub(super) fn template_step(graph: &Graph, bag: &Bag, template: &Template) -> f64 {
    let of = |operand: &Template| template_step(graph, bag, operand);
    match template {
        Template::Fold(fold) => fold_step(graph, bag, *fold),
        Template::Part(_) | Template::Key(_) | Template::Const(_) => 0.0,
        Template::Neg(a) | Template::Not(a) => of(a),
        Template::IsNull(_) | Template::InSet(_, _) => 1.0,
        Template::Add(a, b)
        | Template::Sub(a, b)
        | Template::Rem(a, b)
        | Template::Cmp(_, a, b) => of(a).max(of(b)),
        Template::Mul(a, b) => match (a.as_ref(), b.as_ref()) {
            (Template::Const(Some(k)), other) | (other, Template::Const(Some(k))) => {
                of(other) * k.unsigned_abs() as f64
            }
            (a, _) => of(a),
        },
        Template::Div(a, _) => of(a),
        Template::And(operands) | Template::Or(operands) => {
            operands.iter().map(of).fold(0.0, f64::max)
        }
        Template::Ite(_, b, c) => of(b).max(of(c)),
    }
}

/// Calls back for each fold of a template.
pub(crate) fn template_folds(template: &Template, visit: &mut impl FnMut(Fold)) {
    match template {
        Template::Fold(fold) => visit(*fold),
        Template::Part(_) | Template::Key(_) | Template::Const(_) => {}
        Template::Neg(a) | Template::Not(a) | Template::IsNull(a) | Template::InSet(a, _) => {
            template_folds(a, visit);
        }
        Template::Add(a, b)
        | Template::Sub(a, b)
        | Template::Mul(a, b)
        | Template::Div(a, b)
        | Template::Rem(a, b)
        | Template::Cmp(_, a, b) => {
            template_folds(a, visit);
            template_folds(b, visit);
        }
        Template::And(operands) | Template::Or(operands) => {
            operands
                .iter()
                .for_each(|operand| template_folds(operand, visit));
        }
        Template::Ite(a, b, c) => {
            template_folds(a, visit);
            template_folds(b, visit);
            template_folds(c, visit);
        }
    }
}

/// Whether its constants fit.
pub(super) fn check_template(template: &Template) -> Result<(), ModelError> {
    match template {
        Template::Const(constant) => narrow_one(*constant).map(|_| ()),
        Template::Fold(_) | Template::Part(_) | Template::Key(_) => Ok(()),
        Template::Neg(a) | Template::Not(a) | Template::IsNull(a) | Template::InSet(a, _) => {
            check_template(a)
        }
        Template::Add(a, b)
        | Template::Sub(a, b)
        | Template::Mul(a, b)
        | Template::Div(a, b)
        | Template::Rem(a, b)
        | Template::Cmp(_, a, b) => check_template(a).and_then(|()| check_template(b)),
        Template::And(operands) | Template::Or(operands) => {
            operands.iter().try_for_each(check_template)
        }
        Template::Ite(a, b, c) => {
            check_template(a)?;
            check_template(b)?;
            check_template(c)
        }
    }
}

/// Widens a template's constant; a bucket without that constant has NULL.
#[inline]
pub(crate) fn bucket_constant(constant: Option<i64>) -> Val {
    constant.map_or(value::NULL, widen)
}
