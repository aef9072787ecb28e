//! Bank: money moves between accounts, and none is made or lost. Every read of all accounts shows
//! the same total; where transfers look before they take, no balance is negative.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Verdict};
use crate::history::{OBSERVER, Operation, Outcome, Step};

/// Checks a history whose first writes, by the observer, opened the accounts.
pub fn check(history: &[Operation]) -> Verdict {
    let opened: BTreeMap<&str, i64> = history
        .iter()
        .filter(|operation| operation.client == OBSERVER && operation.outcome == Outcome::Ok)
        .flat_map(|operation| &operation.steps)
        .filter_map(|step| match step {
            Step::Write { key, value, .. } => Some((key.as_str(), value.parse().ok()?)),
            Step::Read { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. }
            | Step::Range { .. } => None,
        })
        .collect();
    let accounts: BTreeSet<&str> = opened.keys().copied().collect();
    let total: i64 = opened.values().sum();
    let guarded = !history
        .iter()
        .flat_map(|operation| &operation.steps)
        .any(|step| matches!(step, Step::Add { .. }));
    // Snapshots of before the accounts were opened see none of them.
    let opened_at = history
        .iter()
        .filter(|operation| operation.client == OBSERVER)
        .find_map(|operation| operation.version);
    let mut snapshots: BTreeMap<i64, &Operation> = BTreeMap::new();
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        let balances = balances(operation);
        if !operation.only_reads() || !accounts.iter().all(|key| balances.contains_key(key)) {
            continue;
        }
        if let Some(version) = operation.version {
            if opened_at.is_some_and(|opened_at| version < opened_at) {
                continue;
            }
            let first = *snapshots.entry(version).or_insert(operation);
            if first.steps != operation.steps {
                let what = format!("two reads at version {version} differ");
                return Err(Anomaly::new("changed snapshot", what, [first, operation]));
            }
        }
        let mut sum = 0;
        for account in &accounts {
            let balance: i64 = match balances[account].map(str::parse) {
                Some(Ok(balance)) => balance,
                None | Some(Err(_)) => {
                    let what = format!("{account} is gone, or no number");
                    return Err(Anomaly::new("lost account", what, [operation]));
                }
            };
            if guarded && balance < 0 {
                let what = format!("{account} holds {balance}");
                return Err(Anomaly::new("negative balance", what, [operation]));
            }
            sum += balance;
        }
        if sum != total {
            let what = format!("the accounts hold {sum}, and {total} was paid in");
            return Err(Anomaly::new("wrong total", what, [operation]));
        }
    }
    Ok(())
}

/// What an operation read of each key.
fn balances(operation: &Operation) -> BTreeMap<&str, Option<&str>> {
    let mut balances = BTreeMap::new();
    for step in &operation.steps {
        match step {
            Step::Read {
                key,
                value: Some(value),
            } => {
                balances.insert(key.as_str(), value.as_deref());
            }
            Step::Range {
                rows: Some(rows), ..
            } => {
                for (key, value) in rows {
                    balances.insert(key.as_str(), Some(value.as_str()));
                }
            }
            Step::Read { value: None, .. }
            | Step::Range { rows: None, .. }
            | Step::Write { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. } => {}
        }
    }
    balances
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(client: u32, steps: Vec<Step>) -> Operation {
        Operation::done(client, How::Multi, 0..1, steps)
    }

    fn judge(extra: Option<Step>, balances: [&str; 2]) -> String {
        let open = vec![Step::write("a", "10"), Step::write("b", "10")];
        let reads = ["a", "b"]
            .into_iter()
            .zip(balances)
            .map(|(key, value)| Step::Read {
                key: key.to_owned(),
                value: Some((!value.is_empty()).then(|| value.to_owned())),
            });
        let mut history = vec![operation(OBSERVER, open), operation(1, reads.collect())];
        history.extend(extra.map(|step| operation(2, vec![step])));
        check(&history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn money_is_neither_made_nor_lost() {
        assert_eq!(judge(None, ["10", "10"]), "clean");
        assert_eq!(judge(None, ["3", "17"]), "clean");
        assert_eq!(judge(None, ["3", "18"]), "wrong total");
        assert_eq!(judge(None, ["20", ""]), "lost account");
        assert_eq!(judge(None, ["-1", "21"]), "negative balance");
        assert_eq!(judge(Some(Step::add("a", -11)), ["-1", "21"]), "clean");
    }

    #[test]
    fn a_snapshot_is_one_state_for_ever() {
        let reads = |version: i64, balances: [&str; 2]| {
            let reads = ["a", "b"].into_iter().zip(balances);
            let steps = reads.map(|(key, value)| Step::Read {
                key: key.to_owned(),
                value: Some((!value.is_empty()).then(|| value.to_owned())),
            });
            Operation {
                version: Some(version),
                ..operation(1, steps.collect())
            }
        };
        let found = |snapshots: &[Operation]| {
            let open = vec![Step::write("a", "10"), Step::write("b", "10")];
            let first = Operation {
                client: OBSERVER,
                ..reads(7, ["10", "10"])
            };
            let mut history = vec![operation(OBSERVER, open), first];
            history.extend_from_slice(snapshots);
            check(&history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
        };
        assert_eq!(
            found(&[reads(9, ["3", "17"]), reads(9, ["3", "17"])]),
            "clean"
        );
        assert_eq!(
            found(&[reads(9, ["3", "17"]), reads(9, ["4", "16"])]),
            "changed snapshot"
        );
        assert_eq!(found(&[reads(9, ["3", "10"])]), "wrong total");
        assert_eq!(found(&[reads(9, ["20", ""])]), "lost account");
        assert_eq!(found(&[reads(5, ["20", ""])]), "clean", "not opened yet");
    }
}
