//! Three-valued arithmetic on plain integers.
//!
//! NULL and "overflowed" are the two smallest 128-bit integers, so that a value is one word pair, needs no tag, and
//! NULL is the identity of MAX. Overflow poisons whatever is computed from it; whoever reads it gets an error.

use super::expr::CmpOp;

/// An integer, [`NULL`] or [`OVERFLOW`].
pub(crate) type Val = i128;

/// SQL's NULL.
pub(crate) const NULL: Val = i128::MIN;
/// A product or sum beyond 127 bits.
pub(crate) const OVERFLOW: Val = i128::MIN + 1;
/// NULL among 64-bit constants.
pub(crate) const NULL_64: i64 = i64::MIN;

/// NULL or poisoned.
#[inline]
pub(crate) fn is_special(value: Val) -> bool {
    value <= OVERFLOW
}

/// TRUE: neither zero nor NULL.
#[inline]
pub(crate) fn is_true(value: Val) -> bool {
    value != 0 && value > OVERFLOW
}

/// Widens a stored constant.
#[inline]
pub(crate) fn widen(value: i64) -> Val {
    if value == NULL_64 {
        NULL
    } else {
        i128::from(value)
    }
}

/// The result of an operator with a special operand: overflow wins over NULL.
#[inline]
fn special(a: Val, b: Val) -> Val {
    if a == OVERFLOW || b == OVERFLOW {
        OVERFLOW
    } else {
        NULL
    }
}

/// Keeps results out of the two reserved values.
#[inline]
fn checked(result: Option<Val>) -> Val {
    match result {
        Some(value) if value > OVERFLOW => value,
        Some(_) | None => OVERFLOW,
    }
}

#[inline]
pub(crate) fn neg(a: Val) -> Val {
    if is_special(a) { a } else { -a }
}

#[inline]
pub(crate) fn add(a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        special(a, b)
    } else {
        checked(a.checked_add(b))
    }
}

#[inline]
pub(crate) fn sub(a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        special(a, b)
    } else {
        checked(a.checked_sub(b))
    }
}

#[inline]
pub(crate) fn mul(a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        return special(a, b);
    }
    // Two 64-bit factors cannot overflow, and a checked 128-bit multiplication costs several times as much.
    match (i64::try_from(a), i64::try_from(b)) {
        (Ok(a), Ok(b)) => i128::from(a) * i128::from(b),
        (Ok(_) | Err(_), _) => checked(a.checked_mul(b)),
    }
}

#[inline]
pub(crate) fn div(a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        return special(a, b);
    }
    match (i64::try_from(a), i64::try_from(b)) {
        (_, Ok(0)) => NULL,
        (Ok(a), Ok(b)) if b != -1 => i128::from(a / b),
        (Ok(_) | Err(_), _) => a / b,
    }
}

#[inline]
pub(crate) fn rem(a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        special(a, b)
    } else if b == 0 {
        NULL
    } else {
        a % b
    }
}

#[inline]
pub(crate) fn cmp(op: CmpOp, a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        special(a, b)
    } else {
        Val::from(op.holds(a, b))
    }
}

#[inline]
pub(crate) fn not(a: Val) -> Val {
    if is_special(a) { a } else { Val::from(a == 0) }
}

#[inline]
pub(crate) fn is_null(a: Val) -> Val {
    if a == OVERFLOW {
        a
    } else {
        Val::from(a == NULL)
    }
}

/// Kleene's conjunction: FALSE wins, then overflow, then NULL.
pub(crate) fn and(operands: impl Iterator<Item = Val>) -> Val {
    let mut result = 1;
    for value in operands {
        if value == 0 {
            return 0;
        }
        if is_special(value) {
            result = if result == 1 {
                value
            } else {
                special(result, value)
            };
        }
    }
    result
}

/// Kleene's disjunction: TRUE wins, then overflow, then NULL.
pub(crate) fn or(operands: impl Iterator<Item = Val>) -> Val {
    let mut result = 0;
    for value in operands {
        if is_true(value) {
            return 1;
        }
        if is_special(value) {
            result = if result == 0 {
                value
            } else {
                special(result, value)
            };
        }
    }
    result
}

/// By how much a comparison misses the truth; 0 where it holds or is NULL.
#[inline]
pub(crate) fn shortfall(op: CmpOp, a: Val, b: Val) -> Val {
    if is_special(a) || is_special(b) {
        return if special(a, b) == OVERFLOW {
            Val::MAX >> 8
        } else {
            0
        };
    }
    if op.holds(a, b) {
        return 0;
    }
    match op {
        CmpOp::Eq => a.abs_diff(b).min(u128::MAX >> 9) as Val,
        CmpOp::Ne => 1,
        CmpOp::Lt => a.saturating_sub(b).saturating_add(1),
        CmpOp::Le => a.saturating_sub(b),
        CmpOp::Gt => b.saturating_sub(a).saturating_add(1),
        CmpOp::Ge => b.saturating_sub(a),
    }
}
