//! Numbers as Redis reads and writes them.
//!
//! The integer commands accept only the canonical spelling (no sign `+`, no leading zeros, no
//! blanks), because the value is also a string that other commands see: `INCR` on `"01"` must fail
//! rather than silently rewrite it.

/// Reads a canonical decimal `i64`, or nothing.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    if digits.len() > 19 {
        return None;
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
    }
    match negative {
        true => 0i64.checked_sub_unsigned(magnitude),
        false => i64::try_from(magnitude).ok(),
    }
}

/// Reads a canonical decimal `u64`, or nothing.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    match text {
        [] => None,
        [b'0'] => Some(0),
        [b'0', ..] => None,
        _ if text.len() > 20 => None,
        _ => text.iter().try_fold(0u64, |value, &digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            value.checked_mul(10)?.checked_add(digit)
        }),
    }
}

/// Reads a finite floating-point number, or nothing.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    // Rust also reads "inf", "nan" and "infinity"; a stored NaN could never be incremented again.
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(number)
}

/// Writes a finite number the way `INCRBYFLOAT` stores it: at most 17 digits behind the point, no
/// exponent, no trailing zeros.
///
/// Redis computes in 80-bit floats on x86; here it is `f64` everywhere, so that replicas on
/// different machines could never differ.
pub fn format_f64(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    // The shortest text that reads back as the same number, never in exponent form.
    format!("{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_integers_are_integers() {
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "1 ",
            " 1",
            "1.0",
            "0x1",
            "9223372036854775808",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
    }

    #[test]
    fn floats_never_print_an_exponent() {
        assert_eq!(format_f64(1e20), "100000000000000000000");
        assert_eq!(format_f64(0.1 + 0.2), "0.30000000000000004");
        assert_eq!(format_f64(3.0), "3");
        assert_eq!(format_f64(-0.0), "0");
        assert_eq!(parse_f64(b"nan"), None);
        assert_eq!(parse_f64(b"inf"), None);
    }

    proptest! {
        #[test]
        fn integers_round_trip(number: i64) {
            prop_assert_eq!(parse_i64(number.to_string().as_bytes()), Some(number));
        }

        #[test]
        fn floats_round_trip(number in prop::num::f64::NORMAL) {
            prop_assert_eq!(parse_f64(format_f64(number).as_bytes()), Some(number));
        }

        #[test]
        fn what_reads_as_an_integer_is_its_own_spelling(text in "[-+ 0-9a]{0,22}") {
            if let Some(number) = parse_i64(text.as_bytes()) {
                prop_assert_eq!(number.to_string(), text);
            }
        }
    }
}
