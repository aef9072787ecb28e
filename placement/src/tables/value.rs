//! Values of cells: NULL, integers, exact decimals, interned text.
//!
//! Values are `Copy` and sixteen bytes wide because a cluster has millions of cells. Text is interned, so
//! that equality of text is equality of symbols, in the tables, in the expression graph and in the solvers.

use std::collections::HashMap;
use std::rc::Rc;

/// Millionths in one.
pub const MILLION: i64 = 1_000_000;

/// An interned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

/// A constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer; truth is 1 and 0.
    Integer(i64),
    /// An exact decimal, in millionths.
    Decimal(i64),
    /// Text.
    Text(Symbol),
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(self) -> bool {
        self == Value::Null
    }

    /// Truth: `None` for NULL (and for text, which the type check has refused before).
    pub fn truth(self) -> Option<bool> {
        match self {
            Value::Null | Value::Text(_) => None,
            Value::Integer(n) | Value::Decimal(n) => Some(n != 0),
        }
    }

    /// The key under which equal numbers meet, whether written 2 or 2.0.
    pub fn key(self) -> Value {
        match self {
            Value::Decimal(n) if n % MILLION == 0 => Value::Integer(n / MILLION),
            other => other,
        }
    }
}

/// Text ↔ symbol. Symbols are numbered in the order of arrival.
#[derive(Debug, Default)]
pub struct Symbols {
    texts: Vec<Rc<str>>,
    numbers: HashMap<Rc<str>, Symbol>,
}

impl Symbols {
    /// The symbol of `text`.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.numbers.get(text) {
            return symbol;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
        let text: Rc<str> = text.into();
        self.texts.push(Rc::clone(&text));
        self.numbers.insert(text, symbol);
        symbol
    }

    /// The text of a symbol of this table.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }

    /// A value as SQL writes it.
    pub fn sql(&self, value: Value) -> String {
        match value {
            Value::Null => "NULL".to_owned(),
            Value::Integer(n) => n.to_string(),
            Value::Decimal(n) => decimal_text(n),
            Value::Text(s) => format!("'{}'", self.text(s).replace('\'', "''")),
        }
    }

    /// A value in JSON.
    pub fn json(&self, value: Value) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Integer(n) => n.into(),
            Value::Decimal(n) => serde_json::Value::from(n as f64 / MILLION as f64),
            Value::Text(s) => self.text(s).into(),
        }
    }
}

/// Millionths as a decimal text.
fn decimal_text(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    let n = n.unsigned_abs();
    let million = MILLION.unsigned_abs();
    let fraction = format!("{:06}", n % million);
    let fraction = fraction.trim_end_matches('0');
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    format!("{sign}{}.{fraction}", n / million)
}

/// Reads a decimal such as `12.5`, `.5`, `3.` or `1e-3` exactly; `None` beyond six places or 64 bits.
pub fn millionths(text: &str) -> Option<i64> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(i) => (&text[..i], text[i + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (-1i128, rest),
        None => (1, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut digits: i128 = 0;
    let mut places = -i64::from(exponent);
    for (part, counts) in [(whole, 0), (fraction, 1)] {
        for byte in part.bytes() {
            if !byte.is_ascii_digit() {
                return None;
            }
            digits = digits
                .checked_mul(10)?
                .checked_add(i128::from(byte - b'0'))?;
            places += counts;
        }
    }
    while places > 6 && digits % 10 == 0 && digits != 0 {
        digits /= 10;
        places -= 1;
    }
    if digits == 0 {
        return Some(0);
    }
    if places > 6 {
        return None;
    }
    while places < 6 {
        digits = digits.checked_mul(10)?;
        places += 1;
    }
    i64::try_from(sign * digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(millionths("1.5"), Some(1_500_000));
        assert_eq!(millionths("-.000001"), Some(-1));
        assert_eq!(millionths("1e3"), Some(1_000_000_000));
        assert_eq!(millionths("1.50000000"), Some(1_500_000));
        assert_eq!(millionths("0.0000001"), None);
        assert_eq!(millionths("1e30"), None);
        assert_eq!(millionths("."), None);
        assert_eq!(decimal_text(-1_250_000), "-1.25");
    }
}
