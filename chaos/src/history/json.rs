//! Histories as JSON lines: one operation a line.

use std::io::{self, BufRead, Write};

use super::Operation;

/// Writes a history.
pub fn write_json_lines(history: &[Operation], out: &mut impl Write) -> io::Result<()> {
    for operation in history {
        serde_json::to_writer(&mut *out, operation)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads a history; an error names the line.
pub fn read_json_lines(input: impl BufRead) -> io::Result<Vec<Operation>> {
    let mut history = Vec::new();
    for (line, text) in input.lines().enumerate() {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let operation = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("line {}: {error}", line + 1)))?;
        history.push(operation);
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::super::{How, Outcome, Step};
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let history = vec![
            Operation::done(
                3,
                How::Multi,
                10..20,
                vec![
                    Step::Read {
                        key: "a".to_owned(),
                        value: Some(None),
                    },
                    Step::Add {
                        key: "b".to_owned(),
                        delta: -2,
                        sum: Some(5),
                    },
                    Step::Range {
                        from: "a".to_owned(),
                        to: "c".to_owned(),
                        rows: Some(vec![("b".to_owned(), "5".to_owned())]),
                    },
                ],
            ),
            Operation {
                token: Some("t".to_owned()),
                error: Some("UNKNOWN".to_owned()),
                ..Operation::done(
                    4,
                    How::Single,
                    11..12,
                    vec![Step::read("a"), Step::write("a", "x\"y")],
                )
                .ended(Outcome::Unknown)
            },
        ];
        let mut text = Vec::new();
        write_json_lines(&history, &mut text).expect("memory takes it");
        assert_eq!(
            String::from_utf8_lossy(&text).lines().next(),
            Some(
                r#"{"client":3,"how":"multi","start_us":10,"end_us":20,"outcome":"ok","steps":[{"f":"read","key":"a","value":null},{"f":"add","key":"b","delta":-2,"sum":5},{"f":"range","from":"a","to":"c","rows":[["b","5"]]}]}"#
            )
        );
        assert_eq!(read_json_lines(&text[..]).expect("valid"), history);
        let error = read_json_lines(&b"{}\n"[..]).expect_err("no operation");
        assert!(error.to_string().starts_with("line 1: "), "{error}");
    }
}
