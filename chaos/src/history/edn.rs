//! Histories as EDN, in the form that Elle reads for list-append and for registers: an `:invoke`
//! and a completion (`:ok`, `:fail`, `:info`) for each operation, in order of time.
//!
//! Steps become micro-operations: `[:r k v]`, `[:append k e]`, `[:w k v]`. A list is a vector of its
//! elements. Steps that Elle has no name for keep ours, so that no operation is dropped.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{Operation, Outcome, Step, elements};

/// Writes a history. `lists`: values are lists of elements, as list-append wants them.
pub fn write_edn(history: &[Operation], lists: bool, out: &mut impl Write) -> io::Result<()> {
    let last_us = history
        .iter()
        .map(|operation| operation.end_us.unwrap_or(operation.start_us))
        .max()
        .unwrap_or(0);
    let mut events: Vec<(u64, bool, &Operation)> = Vec::new();
    for operation in history {
        events.push((operation.start_us, false, operation));
        // What was never answered completes at the end, as Jepsen has it.
        events.push((operation.end_us.unwrap_or(last_us + 1), true, operation));
    }
    events.sort_by_key(|(at_us, completes, operation)| (*at_us, *completes, operation.client));
    for (index, (at_us, completes, operation)) in events.into_iter().enumerate() {
        let kind = match (completes, operation.outcome) {
            (false, _) => "invoke",
            (true, Outcome::Ok) => "ok",
            (true, Outcome::Failed) => "fail",
            (true, Outcome::Unknown) => "info",
        };
        let answered = completes && operation.outcome == Outcome::Ok;
        let steps: Vec<String> = operation
            .steps
            .iter()
            .map(|step| micro(step, answered, lists))
            .collect();
        let time_ns = u128::from(at_us) * 1000;
        writeln!(
            out,
            "{{:index {index}, :type :{kind}, :process {}, :time {time_ns}, :f :txn, :value [{}]}}",
            operation.client,
            steps.join(" "),
        )?;
    }
    Ok(())
}

fn micro(step: &Step, answered: bool, lists: bool) -> String {
    match step {
        Step::Read { key, value } => {
            let value = value.as_ref().filter(|_| answered);
            format!("[:r {} {}]", text(key), found(value, lists))
        }
        Step::Write { key, value, .. } => format!("[:w {} {}]", text(key), text(value)),
        Step::Append { key, value } => format!("[:append {} {}]", text(key), text(value)),
        Step::Insert { key, value, .. } => format!("[:insert {} {}]", text(key), text(value)),
        Step::Delete { key } => format!("[:delete {} nil]", text(key)),
        Step::Add { key, delta, .. } => format!("[:add {} {delta}]", text(key)),
        Step::Range { from, to, rows } => {
            let mut rows_text = String::from("nil");
            if let Some(rows) = rows.as_ref().filter(|_| answered) {
                rows_text = String::from("{");
                for (key, value) in rows {
                    let value = found(Some(&Some(value.clone())), lists);
                    let _ = write!(rows_text, "{} {value} ", text(key));
                }
                rows_text.push('}');
            }
            format!("[:range [{} {}] {rows_text}]", text(from), text(to))
        }
    }
}

fn found(value: Option<&Option<String>>, lists: bool) -> String {
    match value {
        None | Some(None) => "nil".to_owned(),
        Some(Some(value)) if lists => {
            let items: Vec<String> = elements(value).map(text).collect();
            format!("[{}]", items.join(" "))
        }
        Some(Some(value)) => text(value),
    }
}

/// EDN strings escape as JSON's do.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::How;
    use super::*;

    #[test]
    fn an_operation_is_an_invocation_and_a_completion() {
        let operation =
            |client, times_us, steps| Operation::done(client, How::Multi, times_us, steps);
        let read = Step::Read {
            key: "x".to_owned(),
            value: Some(Some("1,2,".to_owned())),
        };
        let history = [
            operation(0, 1..9, vec![read, Step::append("y", "3")]),
            operation(1, 2..9, vec![Step::append("x", "2")]).ended(Outcome::Unknown),
        ];
        let mut out = Vec::new();
        write_edn(&history, true, &mut out).expect("memory takes it");
        let expected = r#"{:index 0, :type :invoke, :process 0, :time 1000, :f :txn, :value [[:r "x" nil] [:append "y" "3"]]}
{:index 1, :type :invoke, :process 1, :time 2000, :f :txn, :value [[:append "x" "2"]]}
{:index 2, :type :ok, :process 0, :time 9000, :f :txn, :value [[:r "x" ["1" "2"]] [:append "y" "3"]]}
{:index 3, :type :info, :process 1, :time 10000, :f :txn, :value [[:append "x" "2"]]}
"#;
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
