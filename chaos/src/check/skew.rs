//! Write skew with predicates: two transactions each look whether some ranges are empty and, if so,
//! insert a row of their own into one of them. At most one of them commits, for the other one's predicate
//! would have found its row.

use std::collections::BTreeMap;

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// What an operation read: its ranges, and the keys that it found in them.
type Predicate<'a> = (Vec<(&'a str, &'a str)>, Vec<&'a str>);

/// Checks a history in which each predicate, of one range or more, is made true by transactions that
/// found nothing.
pub fn check(history: &[Operation]) -> Verdict {
    let mut filled: BTreeMap<Vec<(&str, &str)>, &Operation> = BTreeMap::new();
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        let (ranges, found) = predicate(operation);
        if found.len() > 1 {
            let what = format!("{found:?} stand in {ranges:?}, where one may");
            let authors = history.iter().filter(|author| {
                let mut steps = author.steps.iter();
                steps.any(|step| step.writes() && found.contains(&step.key()))
            });
            return Err(Anomaly::new("write skew", what, authors.chain([operation])));
        }
        if operation.only_reads() || !found.is_empty() {
            continue;
        }
        if let Some(other) = filled.insert(ranges.clone(), operation) {
            let what = format!("two transactions found nothing in {ranges:?}");
            return Err(Anomaly::new("write skew", what, [other, operation]));
        }
    }
    Ok(())
}

fn predicate(operation: &Operation) -> Predicate<'_> {
    let (mut ranges, mut found) = (Vec::new(), Vec::new());
    for step in &operation.steps {
        if let Step::Range {
            from,
            to,
            rows: Some(rows),
        } = step
        {
            ranges.push((from.as_str(), to.as_str()));
            found.extend(rows.iter().map(|(key, _)| key.as_str()));
        }
    }
    (ranges, found)
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
        Operation::done(0, How::Interactive, 0..1, steps)
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
