//! Monotonic: counters only grow. In real time no read, of points or of all counters in one
//! transaction, shows less than an earlier answer proved, nor more than was ever asked for.

use std::collections::BTreeMap;

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// What one operation shows of one counter.
struct Shown<'a> {
    key: &'a str,
    value: i64,
    operation: &'a Operation,
}

/// Checks a history of additions of 1 and of reads.
pub fn check(history: &[Operation]) -> Verdict {
    let mut shown: Vec<Shown> = Vec::new();
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        for step in &operation.steps {
            let value = match step {
                Step::Read {
                    value: Some(value), ..
                } => value.as_deref().unwrap_or("0").parse().unwrap_or(-1),
                Step::Add { sum: Some(sum), .. } => *sum,
                Step::Read { value: None, .. }
                | Step::Add { sum: None, .. }
                | Step::Write { .. }
                | Step::Insert { .. }
                | Step::Delete { .. }
                | Step::Append { .. }
                | Step::Range { .. } => continue,
            };
            let key = step.key();
            shown.push(Shown {
                key,
                value,
                operation,
            });
        }
    }
    shown.sort_by_key(|shown| shown.operation.start_us);
    let mut by_end: Vec<&Shown> = shown.iter().collect();
    by_end.sort_by_key(|shown| shown.operation.end_us);
    let mut highest: BTreeMap<&str, &Shown> = BTreeMap::new();
    let mut ended = by_end.into_iter().peekable();
    for now in &shown {
        while let Some(before) = ended.next_if(|before| before.operation.precedes(now.operation)) {
            let place = highest.entry(before.key).or_insert(before);
            if before.value > place.value {
                *place = before;
            }
        }
        if let Some(before) = highest
            .get(now.key)
            .filter(|before| before.value > now.value)
        {
            let what = format!("{} was {}, and later {}", now.key, before.value, now.value);
            return Err(Anomaly::new(
                "not monotonic",
                what,
                [before.operation, now.operation],
            ));
        }
    }
    too_much(history, &shown)
}

/// No counter exceeds what was asked for before the answer came.
fn too_much(history: &[Operation], shown: &[Shown]) -> Verdict {
    for now in shown {
        let asked: i64 = history
            .iter()
            .filter(|add| add.outcome != Outcome::Failed && !now.operation.precedes(add))
            .flat_map(|operation| &operation.steps)
            .filter_map(|step| match step {
                Step::Add { key, delta, .. } if key == now.key => Some(*delta),
                Step::Add { .. }
                | Step::Read { .. }
                | Step::Write { .. }
                | Step::Insert { .. }
                | Step::Delete { .. }
                | Step::Append { .. }
                | Step::Range { .. } => None,
            })
            .sum();
        if now.value > asked || now.value < 0 {
            let what = format!("{} is {}, and {asked} was asked for", now.key, now.value);
            return Err(Anomaly::new("counted twice", what, [now.operation]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(start_us: u64, step: Step) -> Operation {
        Operation::done(0, How::Single, start_us..start_us + 1, vec![step])
    }

    fn add(start_us: u64, sum: i64) -> Operation {
        let step = Step::Add {
            key: "k".to_owned(),
            delta: 1,
            sum: Some(sum),
        };
        operation(start_us, step)
    }

    fn read(start_us: u64, value: &str) -> Operation {
        let step = Step::Read {
            key: "k".to_owned(),
            value: Some(Some(value.to_owned())),
        };
        operation(start_us, step)
    }

    fn found(history: &[Operation]) -> String {
        check(history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn a_counter_never_goes_back_and_counts_once() {
        assert_eq!(found(&[add(0, 1), add(2, 2), read(4, "2")]), "clean");
        assert_eq!(
            found(&[add(0, 1), add(2, 2), read(4, "1")]),
            "not monotonic"
        );
        assert_eq!(found(&[add(0, 1), read(4, "2")]), "counted twice");
        let mut unknown = operation(0, Step::add("k", 1));
        (unknown.outcome, unknown.end_us) = (Outcome::Unknown, None);
        assert_eq!(found(&[unknown, add(2, 1), read(4, "2")]), "clean");
    }
}
