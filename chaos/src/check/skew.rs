//! Write skew with predicates: two transactions each look whether a range is empty and, if so,
//! insert a row of their own into it. At most one of them commits, for the other one's predicate
//! would have found its row.

use std::collections::BTreeMap;

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// Checks a history in which each range is filled by transactions that found it empty.
pub fn check(history: &[Operation]) -> Verdict {
    let mut filled: BTreeMap<(&str, &str), &Operation> = BTreeMap::new();
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        let Some((from, to, rows)) = operation.steps.iter().find_map(range) else {
            continue;
        };
        if rows.len() > 1 {
            let what = format!("{} rows stand between {from} and {to}", rows.len());
            let authors = history
                .iter()
                .filter(|author| author.steps.iter().any(|step| writes_one_of(step, rows)));
            return Err(Anomaly::new("write skew", what, authors.chain([operation])));
        }
        if operation.only_reads() || !rows.is_empty() {
            continue;
        }
        if let Some(other) = filled.insert((from, to), operation) {
            let what = format!("two transactions found nothing between {from} and {to}");
            return Err(Anomaly::new("write skew", what, [other, operation]));
        }
    }
    Ok(())
}

/// A range that was answered: from where to where, and its rows.
type Found<'a> = (&'a str, &'a str, &'a [(String, String)]);

fn range(step: &Step) -> Option<Found<'_>> {
    match step {
        Step::Range {
            from,
            to,
            rows: Some(rows),
        } => Some((from, to, rows)),
        Step::Range { rows: None, .. }
        | Step::Read { .. }
        | Step::Write { .. }
        | Step::Insert { .. }
        | Step::Delete { .. }
        | Step::Append { .. }
        | Step::Add { .. } => None,
    }
}

fn writes_one_of(step: &Step, rows: &[(String, String)]) -> bool {
    step.writes() && rows.iter().any(|(key, _)| key == step.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(rows: &[&str], insert: Option<&str>) -> Operation {
        let rows = rows
            .iter()
            .map(|key| ((*key).to_owned(), "1".to_owned()))
            .collect();
        let mut steps = vec![Step::Range {
            from: "a".to_owned(),
            to: "b".to_owned(),
            rows: Some(rows),
        }];
        steps.extend(insert.map(|key| Step::write(key, "1")));
        Operation {
            client: 0,
            how: How::Interactive,
            start_us: 0,
            end_us: Some(1),
            outcome: Outcome::Ok,
            token: None,
            steps,
            error: None,
        }
    }

    fn found(history: &[Operation]) -> String {
        check(history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn one_of_a_pair_commits() {
        let first = operation(&[], Some("a1"));
        assert_eq!(found(&[first.clone(), operation(&["a1"], None)]), "clean");
        assert_eq!(
            found(&[first.clone(), operation(&[], Some("a2"))]),
            "write skew"
        );
        let mut unknown = operation(&[], Some("a2"));
        (unknown.outcome, unknown.end_us) = (Outcome::Unknown, None);
        assert_eq!(found(&[first.clone(), unknown.clone()]), "clean");
        assert_eq!(
            found(&[first, unknown, operation(&["a1", "a2"], None)]),
            "write skew"
        );
    }
}
