//! Set: unique keys are inserted, ranges read them. What was acknowledged is there, once, in every
//! read that begins later; what failed never is; what nobody knows may be, but does not go again.

use std::collections::BTreeMap;

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// Checks a history of inserts (writes of fresh keys) and ranges.
pub fn check(history: &[Operation]) -> Verdict {
    let mut inserts: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in history {
        for step in &operation.steps {
            if let Step::Write { key, .. } = step {
                inserts.insert(key, operation);
            }
        }
    }
    let reads = reads(history);
    // Each key with the earliest answer that proves it is there.
    let mut certain: BTreeMap<&str, &Operation> = BTreeMap::new();
    for (key, insert) in &inserts {
        if insert.outcome == Outcome::Ok {
            certain.insert(key, insert);
        }
    }
    for (read, _, _, rows) in &reads {
        let mut last: Option<&str> = None;
        for (key, _) in *rows {
            if last.is_some_and(|last| last >= key.as_str()) {
                let what = format!("{key} comes twice, or out of order");
                return Err(Anomaly::new("duplicate", what, [*read]));
            }
            last = Some(key);
            match inserts.get(key.as_str()) {
                None => {
                    let what = format!("{key} is there, and nobody inserted it");
                    return Err(Anomaly::new("garbage read", what, [*read]));
                }
                Some(insert) if insert.outcome == Outcome::Failed => {
                    let what = format!("{key} is there, but its insert failed");
                    return Err(Anomaly::new("G1a", what, [*insert, *read]));
                }
                Some(insert) if read.precedes(insert) => {
                    let what = format!("{key} was there before its insert was asked for");
                    return Err(Anomaly::new("read from the future", what, [*insert, *read]));
                }
                Some(_) => {
                    let proof = certain.entry(key).or_insert(read);
                    if read.end_us < proof.end_us {
                        *proof = read;
                    }
                }
            }
        }
    }
    nothing_lost(&reads, &certain)
}

/// A read of a range: which, from where to where, and what was there.
type Read<'a> = (&'a Operation, &'a str, &'a str, &'a Vec<(String, String)>);

/// All reads that were answered, in order of the answers.
fn reads(history: &[Operation]) -> Vec<Read<'_>> {
    let mut reads: Vec<Read> = history
        .iter()
        .filter(|operation| operation.outcome == Outcome::Ok)
        .flat_map(|operation| operation.steps.iter().map(move |step| (operation, step)))
        .filter_map(|(operation, step)| match step {
            Step::Range {
                from,
                to,
                rows: Some(rows),
            } => Some((operation, from.as_str(), to.as_str(), rows)),
            Step::Range { rows: None, .. }
            | Step::Read { .. }
            | Step::Write { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. } => None,
        })
        .collect();
    reads.sort_by_key(|(operation, ..)| operation.end_us);
    reads
}

/// What was certainly there before a read began is in it.
fn nothing_lost(reads: &[Read<'_>], certain: &BTreeMap<&str, &Operation>) -> Verdict {
    for (read, from, to, rows) in reads {
        for (key, proof) in certain.range(*from..*to) {
            let there = rows
                .binary_search_by(|(row, _)| row.as_str().cmp(key))
                .is_ok();
            if proof.precedes(read) && !there {
                let what = format!("{key} was there, and a later read misses it");
                return Err(Anomaly::new("lost element", what, [*proof, *read]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(start_us: u64, outcome: Outcome, step: Step) -> Operation {
        Operation::done(0, How::Single, start_us..start_us + 1, vec![step]).ended(outcome)
    }

    fn insert(start_us: u64, outcome: Outcome, key: &str) -> Operation {
        operation(start_us, outcome, Step::write(key, "1"))
    }

    fn read(start_us: u64, keys: &[&str]) -> Operation {
        let rows = keys
            .iter()
            .map(|key| ((*key).to_owned(), "1".to_owned()))
            .collect();
        let range = Step::Range {
            from: "s".to_owned(),
            to: "t".to_owned(),
            rows: Some(rows),
        };
        operation(start_us, Outcome::Ok, range)
    }

    fn found(history: &[Operation]) -> String {
        check(history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let (a, b) = (insert(0, Outcome::Ok, "sa"), insert(2, Outcome::Ok, "sb"));
        let with = |read| found(&[a.clone(), b.clone(), read]);
        assert_eq!(with(read(4, &["sa", "sb"])), "clean");
        assert_eq!(with(read(4, &["sb"])), "lost element");
        assert_eq!(with(read(4, &["sa", "sa", "sb"])), "duplicate");
        assert_eq!(with(read(4, &["sa", "sb", "sc"])), "garbage read");
        assert_eq!(with(read(1, &["sa"])), "clean");
        let failed = insert(0, Outcome::Failed, "sa");
        assert_eq!(found(&[failed, read(4, &["sa"])]), "G1a");
        assert_eq!(
            found(&[read(0, &["sa"]), insert(4, Outcome::Ok, "sa")]),
            "read from the future"
        );
    }

    #[test]
    fn what_was_seen_once_stays() {
        let unknown = insert(0, Outcome::Unknown, "sa");
        let then = |first: &[&str], second: &[&str]| {
            found(&[unknown.clone(), read(2, first), read(4, second)])
        };
        assert_eq!(then(&[], &[]), "clean");
        assert_eq!(then(&[], &["sa"]), "clean");
        assert_eq!(then(&["sa"], &[]), "lost element");
    }
}
