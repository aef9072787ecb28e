//! Ranges of values, and the operators on them.
//!
//! Sound and not tight: an operator's range holds everything that its operands' ranges allow, whether or not they can
//! be there together. A choice is where that loses most, so its condition is looked at ([`Guard`]).

use crate::graph::CmpOp;
use crate::graph::internal::{NULL, Val, is_special, widen};

/// Values between two bounds, and perhaps NULL. `None` bounds mean: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub low: Option<i128>,
    pub high: Option<i128>,
    pub null: bool,
}

pub(super) const UNKNOWN: Range = Range {
    low: None,
    high: None,
    null: true,
};
pub(super) const TRUTH: Range = Range {
    low: Some(0),
    high: Some(1),
    null: true,
};

/// NULL and nothing else: no number is between these bounds, and what is computed of them is NULL as well.
pub(super) const NOTHING: Range = Range {
    low: Some(i128::MAX),
    high: Some(-i128::MAX),
    null: true,
};

pub(super) fn exactly(value: Val) -> Range {
    if value == NULL {
        NOTHING
    } else if is_special(value) {
        UNKNOWN
    } else {
        Range {
            low: Some(value),
            high: Some(value),
            null: false,
        }
    }
}

impl Range {
    pub(super) fn is_nothing(self) -> bool {
        self.low
            .zip(self.high)
            .is_some_and(|(low, high)| low > high)
    }
}

/// What the condition of `CASE WHEN condition THEN a ELSE b END` says of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    Nothing,
    /// `b` is the tested value, which is not NULL: COALESCE.
    NotNull,
    /// `b` is the tested value, which is not 0: NULLIF.
    NotZero,
    /// `a` is the tested value that is greater, `b` the other.
    Greatest,
    Least,
    /// `a` is what the greater of the tested values has more.
    Excess,
}

impl Guard {
    /// Of the condition `x op y` over a choice between `a` and `b`, where `a` may be a difference.
    pub(super) fn of<T: Copy + PartialEq>(
        op: CmpOp,
        (x, y): (T, T),
        (a, b): (T, T),
        difference: Option<(T, T)>,
        y_is_zero: bool,
    ) -> Guard {
        let (more, less) = match op {
            CmpOp::Gt | CmpOp::Ge => (x, y),
            CmpOp::Lt | CmpOp::Le => (y, x),
            CmpOp::Eq if y_is_zero && b == x => return Guard::NotZero,
            CmpOp::Eq | CmpOp::Ne => return Guard::Nothing,
        };
        if difference == Some((more, less)) {
            Guard::Excess
        } else if (a, b) == (more, less) {
            Guard::Greatest
        } else if (a, b) == (less, more) {
            Guard::Least
        } else {
            Guard::Nothing
        }
    }

    /// The range of the choice.
    pub(super) fn chosen(self, a: Range, b: Range) -> Range {
        let (mut a, mut b) = (a, b);
        match self {
            Guard::Nothing | Guard::Greatest | Guard::Least => {}
            Guard::NotNull => b.null = false,
            Guard::NotZero => b.low = b.low.map(|low| low + i128::from(low == 0)),
            Guard::Excess => a.low = Some(a.low.unwrap_or(0).max(0)),
        }
        let mut range = Range {
            low: a.low.zip(b.low).map(|(a, b)| a.min(b)),
            high: a.high.zip(b.high).map(|(a, b)| a.max(b)),
            null: a.null || b.null,
        };
        // Where `a` is NULL the condition is, and `b` is chosen whatever it is.
        if self == Guard::Greatest {
            range.low = if a.null { b.low } else { a.low.max(b.low) };
        }
        if self == Guard::Least {
            range.high = match (a.null, a.high, b.high) {
                (false, Some(a), Some(b)) => Some(a.min(b)),
                (false, Some(one), None) | (false, None, Some(one)) => Some(one),
                (_, _, high) => high,
            };
        }
        range
    }
}

pub(super) fn negated(a: Range) -> Range {
    Range {
        low: a.high.map(|high| -high),
        high: a.low.map(|low| -low),
        null: a.null,
    }
}

pub(super) fn sum(a: Range, b: Range) -> Range {
    if a.is_nothing() || b.is_nothing() {
        return NOTHING;
    }
    let add = |a: Option<i128>, b: Option<i128>| a.zip(b).and_then(|(a, b)| a.checked_add(b));
    Range {
        low: add(a.low, b.low),
        high: add(a.high, b.high),
        null: a.null || b.null,
    }
}

pub(super) fn product(a: Range, b: Range) -> Range {
    if a.is_nothing() || b.is_nothing() {
        return NOTHING;
    }
    let null = a.null || b.null;
    let (Some(al), Some(ah), Some(bl), Some(bh)) = (a.low, a.high, b.low, b.high) else {
        return Range {
            low: None,
            high: None,
            null,
        };
    };
    let corners: Option<Vec<i128>> = [(al, bl), (al, bh), (ah, bl), (ah, bh)]
        .iter()
        .map(|&(a, b)| a.checked_mul(b))
        .collect();
    match corners {
        None => Range {
            low: None,
            high: None,
            null,
        },
        Some(corners) => Range {
            low: corners.iter().copied().min(),
            high: corners.iter().copied().max(),
            null,
        },
    }
}

/// One of the constants of parts, or of keys.
pub(super) fn constants(rows: &[Box<[i64]>], index: u8) -> Range {
    let values = rows.iter().map(|row| row.get(usize::from(index)));
    values.fold(NOTHING, |range, value| {
        let value = value.map_or(NULL, |&value| widen(value));
        Guard::Nothing.chosen(range, exactly(value))
    })
}

/// Division that truncates, by something that is always positive.
pub(super) fn quotient(a: Range, b: Range) -> Range {
    if a.is_nothing() || b.is_nothing() {
        return NOTHING;
    }
    let null = a.null || b.null;
    let (Some(least), most) = (b.low.filter(|&low| low > 0), b.high) else {
        return UNKNOWN;
    };
    // Towards 0 with the greatest divisor, away from it with the least.
    let end = |end: Option<i128>, outward: bool| match (end, most) {
        (Some(end), _) if (end < 0) == outward => Some(end / least),
        (Some(end), Some(most)) => Some(end / most),
        (Some(_), None) => Some(0),
        (None, _) => None,
    };
    Range {
        low: end(a.low, true),
        high: end(a.high, false),
        null,
    }
}

/// What is left of a division; it has the sign of what is divided.
pub(super) fn remainder(a: Range, b: Range) -> Range {
    if a.is_nothing() || b.is_nothing() {
        return NOTHING;
    }
    let (Some(low), Some(high)) = (b.low, b.high) else {
        return UNKNOWN;
    };
    let most = low.unsigned_abs().max(high.unsigned_abs());
    let most = i128::try_from(most).unwrap_or(i128::MAX) - 1;
    Range {
        low: Some(if a.low.is_some_and(|low| low >= 0) {
            0
        } else {
            -most
        }),
        high: Some(if a.high.is_some_and(|high| high <= 0) {
            0
        } else {
            most
        }),
        null: true,
    }
}

pub(super) fn comparison(op: CmpOp, a: Range, b: Range) -> Range {
    let null = a.null || b.null;
    let (Some(al), Some(ah), Some(bl), Some(bh)) = (a.low, a.high, b.low, b.high) else {
        return Range { null, ..TRUTH };
    };
    let (always, never) = match op {
        CmpOp::Le => (ah <= bl, al > bh),
        CmpOp::Lt => (ah < bl, al >= bh),
        CmpOp::Ge => (al >= bh, ah < bl),
        CmpOp::Gt => (al > bh, ah <= bl),
        CmpOp::Eq => (al == ah && bl == bh && al == bl, ah < bl || bh < al),
        CmpOp::Ne => (ah < bl || bh < al, al == ah && bl == bh && al == bl),
    };
    Range {
        low: Some(i128::from(always)),
        high: Some(i128::from(!never)),
        null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(low: i128, high: i128) -> Range {
        Range {
            low: Some(low),
            high: Some(high),
            null: false,
        }
    }

    fn holds(range: Range, value: i128) -> bool {
        range.low.is_none_or(|low| low <= value) && range.high.is_none_or(|high| value <= high)
    }

    #[test]
    fn operators_hold_all_that_their_operands_allow() {
        let ends = -4..=4_i128;
        for (al, ah) in pairs(ends.clone()) {
            for (bl, bh) in pairs(ends.clone()) {
                let (a, b) = (between(al, ah), between(bl, bh));
                let truth = |op| comparison(op, a, b);
                for x in al..=ah {
                    for y in bl..=bh {
                        assert!(holds(sum(a, b), x + y));
                        assert!(holds(product(a, b), x * y));
                        assert!(holds(sum(a, negated(b)), x - y));
                        if y != 0 {
                            assert!(holds(quotient(a, b), x / y), "{a:?} / {b:?}");
                            assert!(holds(remainder(a, b), x % y), "{a:?} % {b:?}");
                        }
                        for op in [CmpOp::Lt, CmpOp::Le, CmpOp::Eq, CmpOp::Ne, CmpOp::Gt] {
                            assert!(holds(truth(op), i128::from(op.holds(x, y))));
                        }
                        assert!(holds(Guard::Greatest.chosen(a, b), x.max(y)));
                        assert!(holds(Guard::Least.chosen(a, b), x.min(y)));
                    }
                }
            }
        }
    }

    fn pairs(ends: std::ops::RangeInclusive<i128>) -> Vec<(i128, i128)> {
        let all = ends.clone().flat_map(|a| ends.clone().map(move |b| (a, b)));
        all.filter(|(a, b)| a <= b).collect()
    }

    #[test]
    fn null_alone_is_no_number() {
        assert!(NOTHING.is_nothing());
        let five = between(5, 5);
        assert_eq!(
            Guard::Nothing.chosen(NOTHING, five),
            Range { null: true, ..five }
        );
        // `coalesce(x, 5)` of an x that is 7 or NULL.
        let seven = Range {
            null: true,
            ..between(7, 7)
        };
        assert_eq!(Guard::NotNull.chosen(five, seven), between(5, 7));
        // `nullif(x, 0)` is a divisor that is at least 1.
        let divisor = Guard::NotZero.chosen(NOTHING, between(0, 3));
        assert_eq!(quotient(between(6, 9), divisor).low, Some(2));
        assert_eq!(quotient(between(6, 9), divisor).high, Some(9));
    }
}
