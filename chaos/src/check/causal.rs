//! Causal reverse: whoever sees a write must see every write that was acknowledged before that one
//! was asked for. Serializability without real time allows what this forbids.

use std::collections::BTreeMap;

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// Checks a history of writes of keys that nobody deletes and of reads of many keys in one transaction.
pub fn check(history: &[Operation]) -> Verdict {
    // A key may be written more than once: what counts is when it was there at the latest, and when
    // it can have been there at the earliest.
    let mut acknowledged: BTreeMap<&str, &Operation> = BTreeMap::new();
    let mut asked: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in history.iter().filter(|o| o.outcome != Outcome::Failed) {
        for step in operation.steps.iter().filter(|step| step.writes()) {
            let first = asked.entry(step.key()).or_insert(operation);
            if operation.start_us < first.start_us {
                *first = operation;
            }
            if operation.outcome == Outcome::Ok {
                let first = acknowledged.entry(step.key()).or_insert(operation);
                if operation.end_us < first.end_us {
                    *first = operation;
                }
            }
        }
    }
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        let found: Vec<(&str, bool)> = operation
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Read {
                    key,
                    value: Some(value),
                } => Some((key.as_str(), value.is_some())),
                Step::Read { value: None, .. }
                | Step::Write { .. }
                | Step::Insert { .. }
                | Step::Delete { .. }
                | Step::Append { .. }
                | Step::Add { .. }
                | Step::Range { .. } => None,
            })
            .collect();
        // The write that was asked for last, of those that are seen.
        let latest = found
            .iter()
            .filter(|(_, there)| *there)
            .filter_map(|(key, _)| asked.get(key).copied())
            .max_by_key(|write| write.start_us);
        for (key, _) in found.iter().filter(|(_, there)| !there) {
            let Some(missed) = acknowledged.get(key).copied() else {
                continue;
            };
            if let Some(seen) = latest.filter(|seen| missed.precedes(seen)) {
                let what = format!("{key} is missed, and a write that came after it is seen");
                return Err(Anomaly::new(
                    "causal reverse",
                    what,
                    [missed, seen, operation],
                ));
            }
            if missed.precedes(operation) {
                let what = format!("{key} was acknowledged, and a later read misses it");
                return Err(Anomaly::new("stale read", what, [missed, operation]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(start_us: u64, end_us: u64, steps: Vec<Step>) -> Operation {
        Operation::done(0, How::Multi, start_us..end_us, steps)
    }

    fn judge(second_start_us: u64, x: bool, y: bool) -> String {
        let step = |key: &str, there: bool| Step::Read {
            key: key.to_owned(),
            value: Some(there.then(|| "1".to_owned())),
        };
        let history = [
            operation(0, 10, vec![Step::write("x", "1")]),
            operation(second_start_us, 30, vec![Step::write("y", "1")]),
            operation(5, 40, vec![step("x", x), step("y", y)]),
        ];
        check(&history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn a_later_write_is_not_seen_without_the_earlier_one() {
        assert_eq!(judge(20, true, true), "clean");
        assert_eq!(judge(20, true, false), "clean");
        assert_eq!(judge(20, false, true), "causal reverse");
        assert_eq!(judge(5, false, true), "clean", "the writes were concurrent");
    }
}
