//! Linearizability of a register a key, after Wing and Gong with Lowe's memoisation ("Testing for
//! linearizability", 2016).
//!
//! The search orders operations one after another, each within its time, so that every read finds
//! the last write. States that were reached before (the same operations done, the same value) are
//! not searched again. Linearizability is local: each key is checked by itself.

use std::collections::{BTreeMap, HashSet};

use crate::history::{Call, Operation, Outcome};

/// A key whose history no register could have produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// The shortest prefix of its history that shows it, in order of the answers.
    pub operations: Vec<Operation>,
}

/// Checks every key of a history of reads and writes. Keys start absent.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        if operation.outcome != Outcome::Failed {
            keys.entry(&operation.key).or_default().push(operation);
        }
    }
    for (key, mut operations) in keys {
        operations.sort_by_key(|operation| (operation.start_us, operation.client));
        if !linearizable(&operations) {
            return Err(Violation {
                key: key.to_owned(),
                operations: shortest(&operations),
            });
        }
    }
    Ok(())
}

/// The shortest prefix, by time of answer, that is already wrong.
fn shortest(operations: &[&Operation]) -> Vec<Operation> {
    let mut ends: Vec<u64> = operations.iter().filter_map(|o| o.end_us).collect();
    ends.sort_unstable();
    let prefix = |until_us: u64| -> Vec<Operation> {
        operations
            .iter()
            .filter(|operation| operation.start_us <= until_us)
            .map(|operation| {
                let mut seen = (*operation).clone();
                if seen.end_us.is_none_or(|end_us| end_us > until_us) {
                    (seen.end_us, seen.outcome) = (None, Outcome::Unknown);
                }
                seen
            })
            .collect()
    };
    let is_wrong = |operations: &[Operation]| !linearizable(&operations.iter().collect::<Vec<_>>());
    // Wrong stays wrong as the prefix grows, so the first wrong one is found by halving.
    let first = ends.partition_point(|until_us| !is_wrong(&prefix(*until_us)));
    ends.get(first).map_or_else(
        || operations.iter().map(|o| (*o).clone()).collect(),
        |until_us| prefix(*until_us),
    )
}

/// Operations that are done, as bits.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn flip(&mut self, i: usize) {
        self.0[i / 64] ^= 1 << (i % 64);
    }
}

/// `operations` in order of their starts.
fn linearizable(operations: &[&Operation]) -> bool {
    // A read that was never answered constrains nothing.
    let operations: Vec<&Operation> = operations
        .iter()
        .copied()
        .filter(|o| o.outcome == Outcome::Ok || o.call != Call::Read)
        .collect();
    let end_us = |i: usize| operations[i].end_us.unwrap_or(u64::MAX);
    let required = operations
        .iter()
        .filter(|o| o.outcome == Outcome::Ok)
        .count();
    let mut done = Done(vec![0; operations.len().div_ceil(64)]);
    let mut done_required = 0;
    let mut value: Option<&str> = None;
    let mut seen: HashSet<(Done, Option<&str>)> = HashSet::new();
    // What was chosen at each depth, and the value before it.
    let mut path: Vec<(usize, Option<&str>)> = Vec::new();
    let mut next = 0;
    loop {
        if done_required == required {
            return true;
        }
        // What is answered first must come before all that started later.
        let horizon_us = (0..operations.len())
            .filter(|i| !done.has(*i))
            .map(end_us)
            .min()
            .unwrap_or(u64::MAX);
        let mut choice = None;
        for (i, operation) in operations.iter().enumerate().skip(next) {
            if operation.start_us > horizon_us {
                break;
            }
            let after = match operation.call {
                Call::Read if operation.value.as_deref() != value => continue,
                Call::Read => value,
                Call::Write | Call::Append => operation.value.as_deref(),
            };
            if done.has(i) {
                continue;
            }
            done.flip(i);
            let fresh = seen.insert((done.clone(), after));
            done.flip(i);
            if fresh {
                choice = Some((i, after));
                break;
            }
        }
        match choice {
            Some((i, after)) => {
                path.push((i, value));
                done.flip(i);
                done_required += usize::from(operations[i].outcome == Outcome::Ok);
                value = after;
                next = 0;
            }
            None => {
                let Some((i, before)) = path.pop() else {
                    return false;
                };
                done.flip(i);
                done_required -= usize::from(operations[i].outcome == Outcome::Ok);
                value = before;
                next = i + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(call: Call, value: Option<&str>, start_us: u64, end_us: Option<u64>) -> Operation {
        Operation {
            client: 0,
            call,
            key: "k".to_owned(),
            value: value.map(str::to_owned),
            start_us,
            end_us,
            outcome: if end_us.is_some() {
                Outcome::Ok
            } else {
                Outcome::Unknown
            },
        }
    }

    fn write(value: &str, start_us: u64, end_us: u64) -> Operation {
        operation(Call::Write, Some(value), start_us, Some(end_us))
    }

    fn read(value: Option<&str>, start_us: u64, end_us: u64) -> Operation {
        operation(Call::Read, value, start_us, Some(end_us))
    }

    #[test]
    fn reads_of_the_last_write_pass() {
        let history = [
            read(None, 0, 1),
            write("a", 2, 3),
            read(Some("a"), 4, 5),
            write("b", 6, 7),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found_and_cut_short() {
        let history = [
            write("a", 0, 1),
            write("b", 2, 3),
            read(Some("a"), 4, 5),
            read(Some("b"), 6, 7),
        ];
        let violation = check(&history).expect_err("a stale read");
        assert_eq!(violation.operations.len(), 3);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either_but_time_runs_one_way() {
        let beside = |first: &str, second: &str| {
            [
                write("a", 0, 1),
                write("b", 2, 10),
                read(Some(first), 3, 4),
                read(Some(second), 5, 6),
            ]
        };
        assert_eq!(check(&beside("a", "b")), Ok(()));
        assert!(check(&beside("b", "a")).is_err());
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never() {
        let unknown = operation(Call::Write, Some("u"), 2, None);
        let seen = [
            write("a", 0, 1),
            unknown.clone(),
            read(Some("a"), 3, 4),
            read(Some("u"), 5, 6),
        ];
        assert_eq!(check(&seen), Ok(()));
        let never = [write("a", 0, 1), unknown.clone(), read(Some("a"), 3, 4)];
        assert_eq!(check(&never), Ok(()));
        let back = [
            write("a", 0, 1),
            unknown,
            read(Some("u"), 3, 4),
            read(Some("a"), 5, 6),
        ];
        assert!(check(&back).is_err());
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        let history = [write("a", 0, 1), read(None, 2, 3)];
        assert!(check(&history).is_err());
    }

    #[test]
    fn a_failed_write_must_not_be_seen() {
        let mut failed = write("f", 2, 3);
        failed.outcome = Outcome::Failed;
        let history = [write("a", 0, 1), failed, read(Some("f"), 4, 5)];
        assert!(check(&history).is_err());
    }
}
