//! Answers as text: for people, for pipes, and as JSON.

use serde_json::{Map, Number, Value as Json, json};
use synod_client::Value;

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With types and quotes, on a terminal.
    People,
    /// The bare text, a line for each value.
    Plain,
    /// One JSON document for each answer.
    Json,
}

/// The answer as text, without a final line end.
pub fn text(answer: &Value, form: Form) -> String {
    match form {
        Form::People => people(answer, 0),
        Form::Plain => plain(answer),
        Form::Json => json(answer).to_string(),
    }
}

/// As `redis-cli` shows it. `indent` is where nested lines begin.
fn people(answer: &Value, indent: usize) -> String {
    match answer {
        Value::Null => "(nil)".to_owned(),
        Value::Status(text) => text.clone(),
        Value::Error(error) => format!("(error) {error}"),
        Value::Integer(number) => format!("(integer) {number}"),
        Value::Bulk(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Value::Text(bytes) => String::from_utf8_lossy(bytes).trim_end().to_owned(),
        Value::Double(number) => format!("(double) {number}"),
        Value::Boolean(truth) => format!("({truth})"),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            let entries: Vec<(String, &Value)> = items
                .iter()
                .enumerate()
                .map(|(index, item)| (format!("{}) ", index + 1), item))
                .collect();
            lines("(empty array)", &entries, indent)
        }
        Value::Map(pairs) => {
            let entries: Vec<(String, &Value)> = pairs
                .iter()
                .enumerate()
                .map(|(index, (key, value))| {
                    (format!("{}# {} => ", index + 1, people(key, 0)), value)
                })
                .collect();
            lines("(empty map)", &entries, indent)
        }
    }
}

fn lines(empty: &str, entries: &[(String, &Value)], indent: usize) -> String {
    if entries.is_empty() {
        return empty.to_owned();
    }
    let line = |(label, item): &(String, &Value)| {
        format!("{label}{}", people(item, indent + label.chars().count()))
    };
    entries
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join(&format!("\n{}", " ".repeat(indent)))
}

fn plain(answer: &Value) -> String {
    match answer {
        Value::Null => String::new(),
        Value::Status(text) => text.clone(),
        Value::Error(error) => error.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Bulk(bytes) | Value::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Double(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().map(plain).collect::<Vec<_>>().join("\n")
        }
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| format!("{}\n{}", plain(key), plain(value));
            pairs.iter().map(pair).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Bytes that are not UTF-8 become `{"base16": …}`: JSON has only text.
fn json(answer: &Value) -> Json {
    match answer {
        Value::Null => Json::Null,
        Value::Status(text) => Json::String(text.clone()),
        Value::Error(error) => json!({"error": {"code": error.code, "message": error.message}}),
        Value::Integer(number) => Json::from(*number),
        Value::Bulk(bytes) | Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"base16": digits})
            }
        },
        Value::Double(number) => {
            Number::from_f64(*number).map_or_else(|| number.to_string().into(), Json::Number)
        }
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().map(json).collect()
        }
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| (plain(key), json(value));
            Json::Object(pairs.iter().map(pair).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn nested_answers_in_every_form() {
        let bulk = |bytes: &'static [u8]| Value::Bulk(Bytes::from_static(bytes));
        let answer = Value::Array(vec![
            bulk(b"a\"b"),
            Value::Null,
            Value::Array(vec![Value::Integer(1), bulk(b"\xff")]),
            Value::Map(vec![(bulk(b"k"), Value::Boolean(true))]),
        ]);
        assert_eq!(
            text(&answer, Form::People),
            "1) \"a\\\"b\"\n2) (nil)\n3) 1) (integer) 1\n   2) \"\\xff\"\n4) 1# \"k\" => (true)"
        );
        assert_eq!(text(&answer, Form::Plain), "a\"b\n\n1\n\u{fffd}\nk\ntrue");
        assert_eq!(
            text(&answer, Form::Json),
            r#"["a\"b",null,[1,{"base16":"ff"}],{"k":true}]"#
        );
    }
}
