//! The decoder of answers: RESP2 and RESP3, in any chunks.
//!
//! An answer is looked at again from its beginning when more bytes come. Simple, and quadratic only
//! in the number of reads that one answer takes; the reader asks for as much as a large string needs.

use bytes::{Bytes, BytesMut};

use crate::{
    error::{Error, ServerError},
    value::Value,
};

/// Answers nested deeper than this are refused: decoding recurses.
const DEPTH_MAX: u32 = 32;

/// Cuts the next answer off the front of `input`; `None`: it is not whole yet.
///
/// After an error the stream has no meaning any more.
pub fn decode(input: &mut BytesMut) -> Result<Option<Value>, Error> {
    let end = match whole(input, 0, DEPTH_MAX) {
        Ok(end) => end,
        Err(Stop::Incomplete) => return Ok(None),
        Err(Stop::Malformed(reason)) => return Err(Error::Malformed(reason)),
    };
    let frame = input.split_to(end).freeze();
    match value(&frame, 0) {
        Ok((value, _)) => Ok(Some(value)),
        Err(Stop::Incomplete) => Err(Error::Malformed("an answer ends within itself")),
        Err(Stop::Malformed(reason)) => Err(Error::Malformed(reason)),
    }
}

enum Stop {
    Incomplete,
    Malformed(&'static str),
}

/// The line at `at`, without its kind and end, and the offset behind it.
fn line(input: &[u8], at: usize) -> Result<(u8, &[u8], usize), Stop> {
    let rest = input.get(at..).ok_or(Stop::Incomplete)?;
    let end = rest
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .ok_or(Stop::Incomplete)?;
    match rest[..end].split_first() {
        Some((&kind, text)) => Ok((kind, text, at + end + 2)),
        None => Err(Stop::Malformed("an empty line")),
    }
}

fn number(text: &[u8]) -> Result<i64, Stop> {
    let text = std::str::from_utf8(text).map_err(|_| Stop::Malformed("a number that is none"))?;
    text.parse()
        .map_err(|_| Stop::Malformed("a number that is none"))
}

/// A length; `None`: null.
fn length(text: &[u8]) -> Result<Option<usize>, Stop> {
    match number(text)? {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| Stop::Malformed("a negative length")),
    }
}

/// Where the answer at `at` ends.
fn whole(input: &[u8], at: usize, depth: u32) -> Result<usize, Stop> {
    if depth == 0 {
        return Err(Stop::Malformed("an answer that is nested too deep"));
    }
    let (kind, text, after) = line(input, at)?;
    match kind {
        b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => Ok(after),
        b'$' | b'=' | b'!' => match length(text)? {
            None => Ok(after),
            Some(length) => {
                let end = after.checked_add(length).and_then(|end| end.checked_add(2));
                let end = end.ok_or(Stop::Malformed("a length beyond memory"))?;
                if end > input.len() {
                    Err(Stop::Incomplete)
                } else {
                    Ok(end)
                }
            }
        },
        b'*' | b'%' | b'~' | b'>' => {
            let items = length(text)?.unwrap_or(0);
            let each = if kind == b'%' { 2 } else { 1 };
            let mut end = after;
            for _ in 0..items.saturating_mul(each) {
                end = whole(input, end, depth - 1)?;
            }
            Ok(end)
        }
        _ => Err(Stop::Malformed("an answer of an unknown kind")),
    }
}

/// The answer at `at`, which is whole, and the offset behind it.
fn value(frame: &Bytes, at: usize) -> Result<(Value, usize), Stop> {
    let (kind, text, after) = line(frame, at)?;
    let scalar = |value| Ok((value, after));
    match kind {
        b'+' => scalar(Value::Status(String::from_utf8_lossy(text).into_owned())),
        b'-' => scalar(Value::Error(server_error(text))),
        b':' => scalar(Value::Integer(number(text)?)),
        b',' => scalar(Value::Double(double(text)?)),
        b'#' => scalar(Value::Boolean(text == b"t")),
        b'_' => scalar(Value::Null),
        b'(' => scalar(Value::Text(frame.slice_ref(text))),
        b'$' | b'=' | b'!' => {
            let Some(length) = length(text)? else {
                return Ok((Value::Null, after));
            };
            let bytes = frame.slice(after..after + length);
            let value = match kind {
                b'=' => Value::Text(bytes.slice(bytes.len().min(4)..)),
                b'!' => Value::Error(server_error(&bytes)),
                _ => Value::Bulk(bytes),
            };
            Ok((value, after + length + 2))
        }
        _ => aggregate(frame, kind, length(text)?, after),
    }
}

fn aggregate(
    frame: &Bytes,
    kind: u8,
    items: Option<usize>,
    mut at: usize,
) -> Result<(Value, usize), Stop> {
    let Some(items) = items else {
        return Ok((Value::Null, at));
    };
    let mut next = || {
        let (value, end) = value(frame, at)?;
        at = end;
        Ok(value)
    };
    let value = if kind == b'%' {
        Value::Map(
            (0..items)
                .map(|_| Ok((next()?, next()?)))
                .collect::<Result<_, _>>()?,
        )
    } else {
        let items = (0..items).map(|_| next()).collect::<Result<_, _>>()?;
        match kind {
            b'~' => Value::Set(items),
            b'>' => Value::Push(items),
            _ => Value::Array(items),
        }
    };
    Ok((value, at))
}

fn double(text: &[u8]) -> Result<f64, Stop> {
    let text = std::str::from_utf8(text).map_err(|_| Stop::Malformed("a number that is none"))?;
    text.parse()
        .map_err(|_| Stop::Malformed("a number that is none"))
}

fn server_error(text: &[u8]) -> ServerError {
    let text = String::from_utf8_lossy(text);
    let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
    ServerError {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value {
        let mut input = BytesMut::from(text);
        let value = decode(&mut input).expect("well formed").expect("whole");
        assert!(input.is_empty(), "all of {text:?} is read");
        value
    }

    fn bulk(text: &'static str) -> Value {
        Value::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn every_kind() {
        let error = ServerError {
            code: "ERR".into(),
            message: "no such thing".into(),
        };
        let cases = [
            ("+OK\r\n", Value::Status("OK".into())),
            ("-ERR no such thing\r\n", Value::Error(error.clone())),
            ("!17\r\nERR no such thing\r\n", Value::Error(error)),
            (":-7\r\n", Value::Integer(-7)),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            ("$0\r\n\r\n", bulk("")),
            ("$4\r\na\r\nb\r\n", bulk("a\r\nb")),
            ("=6\r\ntxt:hi\r\n", Value::Text(Bytes::from_static(b"hi"))),
            (",1.5\r\n", Value::Double(1.5)),
            (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
            ("#t\r\n", Value::Boolean(true)),
            (
                "*2\r\n:1\r\n*1\r\n+a\r\n",
                Value::Array(vec![
                    Value::Integer(1),
                    Value::Array(vec![Value::Status("a".into())]),
                ]),
            ),
            (
                "%1\r\n$1\r\nk\r\n:1\r\n",
                Value::Map(vec![(bulk("k"), Value::Integer(1))]),
            ),
            ("~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)])),
            (">1\r\n:1\r\n", Value::Push(vec![Value::Integer(1)])),
        ];
        for (text, expected) in cases {
            assert_eq!(one(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_taken_before_it_is_whole() {
        let text = b"*2\r\n%1\r\n$1\r\nk\r\n$3\r\na\r\n\r\n#f\r\n";
        for cut in 0..text.len() {
            let mut input = BytesMut::from(&text[..cut]);
            assert_eq!(
                decode(&mut input).expect("well formed"),
                None,
                "cut at {cut}"
            );
            assert_eq!(input.len(), cut);
        }
        assert!(
            decode(&mut BytesMut::from(&text[..]))
                .expect("well formed")
                .is_some()
        );
    }

    #[test]
    fn garbage_is_refused() {
        let deep = "*1\r\n".repeat(100);
        let garbage = [
            "hello\r\n",
            "\r\n",
            ":x\r\n",
            "$-2\r\n",
            "*9223372036854775808\r\n",
            &deep,
        ];
        for text in garbage {
            let refused = decode(&mut BytesMut::from(text));
            assert!(
                matches!(refused, Err(Error::Malformed(_))),
                "{text:?}: {refused:?}"
            );
        }
    }
}
