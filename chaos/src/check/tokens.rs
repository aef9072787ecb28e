//! Tokens: a transaction that is sent again under its name takes effect once. Each appends its own
//! token to a list, so a second effect, and one that was denied, can be seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step, elements};

/// Checks a history of operations with tokens, each of which may have been sent several times.
pub fn check(history: &[Operation]) -> Verdict {
    let mut sent: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        if let Some(token) = &operation.token {
            sent.entry(token).or_default().push(operation);
        }
    }
    for read in history
        .iter()
        .filter(|o| o.outcome == Outcome::Ok && o.only_reads())
    {
        for step in &read.steps {
            let Step::Read {
                key,
                value: Some(value),
            } = step
            else {
                continue;
            };
            check_list(key, value.as_deref().unwrap_or_default(), read, &sent)?;
        }
    }
    Ok(())
}

fn check_list(
    key: &str,
    list: &str,
    read: &Operation,
    sent: &BTreeMap<&str, Vec<&Operation>>,
) -> Verdict {
    let mut there = BTreeSet::new();
    for token in elements(list) {
        let attempts = sent.get(token).map_or(&[][..], Vec::as_slice);
        let witness = || attempts.iter().copied().chain([read]);
        if !there.insert(token) {
            let what = format!("{token} took effect twice on {key}");
            return Err(Anomaly::new("token applied twice", what, witness()));
        }
        if attempts.is_empty() || attempts.iter().all(|o| o.outcome == Outcome::Failed) {
            let what = format!("{token} took effect on {key}, and was never said to");
            return Err(Anomaly::new("G1a", what, witness()));
        }
        if attempts.iter().any(|o| gives_up(o)) {
            let what =
                format!("{token} took effect on {key}, and was said to be given up for good");
            return Err(Anomaly::new("token given up", what, witness()));
        }
    }
    for (token, attempts) in sent {
        let appends = |operation: &Operation| {
            operation
                .steps
                .iter()
                .any(|step| matches!(step, Step::Append { key: to, .. } if to == key))
        };
        let done = attempts
            .iter()
            .find(|o| o.outcome == Outcome::Ok && o.precedes(read) && appends(o));
        if let Some(done) = done.filter(|_| !there.contains(token)) {
            let what = format!("{token} was acknowledged, and is not in {key}");
            return Err(Anomaly::new("lost token", what, [*done, read]));
        }
    }
    Ok(())
}

/// Whether the client was told that the token, not only this attempt, will never be committed.
fn gives_up(operation: &Operation) -> bool {
    let error = operation.error.as_deref().unwrap_or_default();
    operation.outcome == Outcome::Failed && error.starts_with("ABORTED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(start_us: u64, outcome: Outcome, token: Option<&str>, step: Step) -> Operation {
        Operation {
            token: token.map(str::to_owned),
            ..Operation::done(0, How::Interactive, start_us..start_us + 1, vec![step])
                .ended(outcome)
        }
    }

    fn judge(outcomes: &[Outcome], list: &str) -> String {
        let mut history: Vec<Operation> = outcomes
            .iter()
            .map(|outcome| operation(0, *outcome, Some("t"), Step::append("k", "t")))
            .collect();
        let read = Step::Read {
            key: "k".to_owned(),
            value: Some(Some(list.to_owned())),
        };
        history.push(operation(9, Outcome::Ok, None, read));
        check(&history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn however_often_it_is_sent_it_counts_once() {
        use Outcome::{Failed, Ok, Unknown};
        assert_eq!(judge(&[Unknown, Ok], "t,"), "clean");
        assert_eq!(judge(&[Unknown, Ok], "t,t,"), "token applied twice");
        assert_eq!(judge(&[Unknown, Ok], ""), "lost token");
        assert_eq!(judge(&[Unknown], ""), "clean");
        assert_eq!(judge(&[Failed], "t,"), "G1a");
        assert_eq!(judge(&[Failed, Unknown], "t,"), "clean");
    }
}
