//! Linearizability of each key by itself, after Wing and Gong with Lowe's memoisation ("Testing for
//! linearizability", 2016): registers, compare-and-set, counters, values that expire.
//!
//! The search orders operations one after another, each within its time, so that every one of them
//! could have been answered as it was. States that were reached before (the same operations done,
//! the same value) are not searched again. Linearizability is local: each key is checked by itself.
//!
//! Two kinds of orders need not be tried, or twenty clients on one key would leave too many of them. A
//! read that can come next, and was answered as things stand, comes next: it changes nothing, and later
//! it could only be in the way. Of additions of the same amount that nobody saw the end of, the one that
//! began first comes first: they can trade places.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::model::State;
use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// Beyond this many states the search gives up rather than to eat the machine's memory.
const STATES_MAX: usize = 3_000_000;

/// Checks every key of a history of operations on one key each. Keys start absent.
pub fn check(history: &[Operation]) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        let Some(first) = operation.steps.first() else {
            continue;
        };
        if operation.outcome != Outcome::Failed {
            keys.entry(first.key()).or_default().push(operation);
        }
    }
    for (key, mut operations) in keys {
        operations.sort_by_key(|operation| (operation.start_us, operation.client));
        drop_unobserved(&mut operations);
        match search(&operations) {
            Some(true) => {}
            Some(false) => {
                let witness = shortest(&operations);
                let what = format!("no order of the operations on {key} explains all answers");
                return Err(Anomaly::new("not linearizable", what, &witness));
            }
            None => {
                let what = format!(
                    "{} operations on {key} leave too many orders to be searched",
                    operations.len()
                );
                return Err(Anomaly::new("undecided", what, []));
            }
        }
    }
    Ok(())
}

/// A write of unknown outcome whose value nobody ever saw can always come last: it is left out, and
/// with it the half of all orders.
fn drop_unobserved(operations: &mut Vec<&Operation>) {
    let plain = operations.iter().all(|operation| {
        !operation
            .steps
            .iter()
            .any(|step| matches!(step, Step::Append { .. } | Step::Add { .. }))
    });
    if !plain {
        return;
    }
    let seen: BTreeSet<&str> = operations
        .iter()
        .flat_map(|operation| &operation.steps)
        .filter_map(|step| match step {
            Step::Read {
                value: Some(Some(value)),
                ..
            }
            | Step::Insert {
                found: Some(Some(value)),
                ..
            } => Some(value.as_str()),
            Step::Read { .. }
            | Step::Insert { .. }
            | Step::Write { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. }
            | Step::Range { .. } => None,
        })
        .collect();
    operations.retain(|operation| {
        operation.outcome == Outcome::Ok
            || !operation.steps.iter().all(|step| match step {
                Step::Read { .. } => true,
                Step::Write {
                    value,
                    ttl_ms: None,
                    ..
                }
                | Step::Insert { value, .. } => !seen.contains(value.as_str()),
                // Who found nothing may have seen that it had expired.
                Step::Write {
                    ttl_ms: Some(_), ..
                } => false,
                Step::Delete { .. }
                | Step::Append { .. }
                | Step::Add { .. }
                | Step::Range { .. } => false,
            })
    });
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
                    seen.steps.iter_mut().for_each(forget);
                }
                seen
            })
            .collect()
    };
    let is_wrong = |operations: &[Operation]| {
        let mut operations: Vec<&Operation> = operations.iter().collect();
        drop_unobserved(&mut operations);
        search(&operations) == Some(false)
    };
    // Wrong stays wrong as the prefix grows, so the first wrong one is found by halving.
    let first = ends.partition_point(|until_us| !is_wrong(&prefix(*until_us)));
    ends.get(first).map_or_else(
        || operations.iter().map(|o| (*o).clone()).collect(),
        |until_us| prefix(*until_us),
    )
}

/// Takes back what a step was answered.
fn forget(step: &mut Step) {
    match step {
        Step::Read { value, .. } => *value = None,
        Step::Insert { found, .. } => *found = None,
        Step::Add { sum, .. } => *sum = None,
        Step::Range { rows, .. } => *rows = None,
        Step::Write { .. } | Step::Delete { .. } | Step::Append { .. } => {}
    }
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

/// For each addition without a known end, the one before it that adds as much and has none either.
fn earlier_twins(operations: &[&Operation]) -> Vec<Option<usize>> {
    let mut last: BTreeMap<i64, usize> = BTreeMap::new();
    let twin = |(i, operation): (usize, &&Operation)| match operation.steps.as_slice() {
        [Step::Add { delta, .. }] if operation.outcome != Outcome::Ok => last.insert(*delta, i),
        _ => None,
    };
    operations.iter().enumerate().map(twin).collect()
}

/// The operations of one key, in order of their starts, and how far they are ordered.
struct Search<'a> {
    operations: &'a [&'a Operation],
    twins: Vec<Option<usize>>,
    done: Done,
    state: State,
    seen: HashSet<(Done, State)>,
}

impl Search<'_> {
    /// The first operation from `next` on that can come next and leads to something new: which, the state
    /// after it, and where to go on if it turns out wrong.
    fn choose(&mut self, next: usize) -> Option<(usize, State, usize)> {
        let Self {
            operations,
            twins,
            done,
            state,
            seen,
        } = self;
        // What is answered first must come before all that started later.
        let waiting = (0..operations.len()).filter(|i| !done.has(*i));
        let horizon_us = waiting
            .map(|i| operations[i].end_us.unwrap_or(u64::MAX))
            .min()
            .unwrap_or(u64::MAX);
        let open = operations.partition_point(|operation| operation.start_us <= horizon_us);
        let is_free = |i: &usize| {
            let operation = operations[*i];
            !done.has(*i)
                && operation.only_reads()
                && state.after(operation).as_ref() == Some(&*state)
        };
        if next == 0
            && let Some(i) = (0..open).find(is_free)
        {
            return Some((i, state.clone(), operations.len()));
        }
        for i in next..open {
            if done.has(i) || twins[i].is_some_and(|twin| !done.has(twin)) {
                continue;
            }
            let Some(after) = state.after(operations[i]) else {
                continue;
            };
            done.flip(i);
            let fresh = seen.insert((done.clone(), after.clone()));
            done.flip(i);
            if fresh {
                return Some((i, after, i + 1));
            }
        }
        None
    }
}

/// Whether there is an order of `operations`, which stand in order of their starts; None if there
/// are too many to be tried.
fn search(operations: &[&Operation]) -> Option<bool> {
    // A read that was never answered constrains nothing.
    let operations: Vec<&Operation> = operations
        .iter()
        .copied()
        .filter(|operation| operation.outcome == Outcome::Ok || !operation.only_reads())
        .collect();
    let is_required = |i: usize| operations[i].outcome == Outcome::Ok;
    let required = (0..operations.len()).filter(|i| is_required(*i)).count();
    let mut search = Search {
        operations: &operations,
        twins: earlier_twins(&operations),
        done: Done(vec![0; operations.len().div_ceil(64)]),
        state: State::default(),
        seen: HashSet::new(),
    };
    let mut done_required = 0;
    // What was chosen at each depth, the state before it, and where the next choice begins.
    let mut path: Vec<(usize, State, usize)> = Vec::new();
    let mut next = 0;
    loop {
        if done_required == required {
            return Some(true);
        }
        if search.seen.len() > STATES_MAX {
            return None;
        }
        match search.choose(next) {
            Some((i, after, then)) => {
                path.push((i, std::mem::replace(&mut search.state, after), then));
                search.done.flip(i);
                done_required += usize::from(is_required(i));
                next = 0;
            }
            None => {
                let Some((i, before, then)) = path.pop() else {
                    return Some(false);
                };
                search.done.flip(i);
                done_required -= usize::from(is_required(i));
                search.state = before;
                next = then;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn operation(step: Step, start_us: u64, end_us: Option<u64>) -> Operation {
        let outcome = match end_us {
            Some(_) => Outcome::Ok,
            None => Outcome::Unknown,
        };
        let times_us = start_us..end_us.unwrap_or(start_us);
        Operation::done(0, How::Single, times_us, vec![step]).ended(outcome)
    }

    fn write(value: &str, start_us: u64, end_us: u64) -> Operation {
        operation(Step::write("k", value), start_us, Some(end_us))
    }

    fn found(value: Option<&str>) -> Step {
        Step::Read {
            key: "k".to_owned(),
            value: Some(value.map(str::to_owned)),
        }
    }

    fn read(value: Option<&str>, start_us: u64, end_us: u64) -> Operation {
        operation(found(value), start_us, Some(end_us))
    }

    fn is_clean(history: &[Operation]) -> bool {
        check(history).is_ok()
    }

    #[test]
    fn reads_of_the_last_write_pass() {
        assert!(is_clean(&[
            read(None, 0, 1),
            write("a", 2, 3),
            read(Some("a"), 4, 5),
            write("b", 6, 7),
        ]));
    }

    #[test]
    fn a_stale_read_is_found_and_cut_short() {
        let history = [
            write("a", 0, 1),
            write("b", 2, 3),
            read(Some("a"), 4, 5),
            read(Some("b"), 6, 7),
        ];
        let anomaly = check(&history).expect_err("a stale read");
        assert_eq!(anomaly.witness.len(), 3);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either_but_time_runs_one_way() {
        let beside = |first: &str, second: &str| {
            is_clean(&[
                write("a", 0, 1),
                write("b", 2, 10),
                read(Some(first), 3, 4),
                read(Some(second), 5, 6),
            ])
        };
        assert!(beside("a", "b"));
        assert!(!beside("b", "a"));
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never() {
        let unknown = operation(Step::write("k", "u"), 2, None);
        let after = |reads: [Operation; 2]| {
            let [first, second] = reads;
            is_clean(&[write("a", 0, 1), unknown.clone(), first, second])
        };
        assert!(after([read(Some("a"), 3, 4), read(Some("u"), 5, 6)]));
        assert!(after([read(Some("a"), 3, 4), read(Some("a"), 5, 6)]));
        assert!(!after([read(Some("u"), 3, 4), read(Some("a"), 5, 6)]));
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        assert!(!is_clean(&[write("a", 0, 1), read(None, 2, 3)]));
    }

    #[test]
    fn a_failed_write_must_not_be_seen() {
        let mut failed = write("f", 2, 3);
        failed.outcome = Outcome::Failed;
        assert!(!is_clean(&[
            write("a", 0, 1),
            failed,
            read(Some("f"), 4, 5)
        ]));
    }

    #[test]
    fn two_inserts_into_one_absent_key_cannot_both_succeed() {
        let insert = |value: &str, found: Option<&str>, start_us| {
            let step = Step::Insert {
                key: "k".to_owned(),
                value: value.to_owned(),
                found: Some(found.map(str::to_owned)),
            };
            operation(step, start_us, Some(start_us + 10))
        };
        let both = |a, b| is_clean(&[insert("a", a, 0), insert("b", b, 1)]);
        assert!(both(None, Some("a")));
        assert!(both(Some("b"), None));
        assert!(!both(None, None));
        assert!(!both(Some("b"), Some("a")));
    }

    #[test]
    fn an_unknown_write_that_only_an_insert_met_counts() {
        let unknown = operation(Step::write("k", "u"), 0, None);
        let met = Step::Insert {
            key: "k".to_owned(),
            value: "v".to_owned(),
            found: Some(Some("u".to_owned())),
        };
        assert!(is_clean(&[
            read(None, 1, 2),
            unknown,
            operation(met, 3, Some(4))
        ]));
    }

    #[test]
    fn a_counter_counts_each_addition_once() {
        let add = |delta, sum, start_us| {
            let step = Step::Add {
                key: "k".to_owned(),
                delta,
                sum: Some(sum),
            };
            operation(step, start_us, Some(start_us + 10))
        };
        assert!(is_clean(&[add(1, 3, 0), add(2, 2, 1)]));
        assert!(!is_clean(&[add(1, 3, 0), add(2, 3, 1)]), "a lost update");
        let unknown = operation(Step::add("k", 5), 0, None);
        assert!(is_clean(&[unknown.clone(), add(1, 6, 20)]));
        assert!(is_clean(&[unknown.clone(), add(1, 1, 20)]));
        assert!(!is_clean(&[unknown, add(1, 11, 20)]), "counted twice");
    }

    /// Twenty clients read a counter while unknown additions may come at any time: not too many orders.
    #[test]
    fn many_readers_and_unknown_additions_are_decided() {
        let read = |value: u64, start_us| {
            operation(
                found(Some(&value.to_string())),
                start_us,
                Some(start_us + 100),
            )
        };
        let history = |last: u64| {
            let unknown = (0..18).map(|n| operation(Step::add("k", 1 + n / 12), 0, None));
            let mut history: Vec<Operation> = unknown.collect();
            for step in 0..10 {
                let reads = (0..20).map(|n| read(1 + step + n % 2, 50 * step + n));
                history.extend(reads);
            }
            history.push(read(last, 2_000));
            history
        };
        assert!(is_clean(&history(24)));
        assert!(!is_clean(&history(25)), "more than all additions together");
        assert!(!is_clean(&history(9)), "less than was read before");
    }

    #[test]
    fn what_has_expired_does_not_come_back() {
        let mut fleeting = write("a", 0, 1);
        fleeting.steps = vec![Step::Write {
            key: "k".to_owned(),
            value: "a".to_owned(),
            ttl_ms: Some(5),
        }];
        let then = |first: Option<&str>, second: Option<&str>| {
            is_clean(&[fleeting.clone(), read(first, 2, 3), read(second, 4, 5)])
        };
        assert!(then(Some("a"), None));
        assert!(then(None, None));
        assert!(!then(None, Some("a")));
    }

    #[test]
    fn an_unknown_write_that_expires_can_take_an_older_value_away() {
        let mut fleeting = operation(Step::write("k", "u"), 2, None);
        fleeting.steps = vec![Step::Write {
            key: "k".to_owned(),
            value: "u".to_owned(),
            ttl_ms: Some(5),
        }];
        assert!(is_clean(&[write("a", 0, 1), fleeting, read(None, 3, 4)]));
    }

    #[test]
    fn an_unknown_insert_may_have_found_that_a_value_expired() {
        let mut fleeting = write("a", 0, 1);
        fleeting.steps = vec![Step::Write {
            key: "k".to_owned(),
            value: "a".to_owned(),
            ttl_ms: Some(5),
        }];
        let insert = Step::Insert {
            key: "k".to_owned(),
            value: "b".to_owned(),
            found: None,
        };
        let unknown = operation(insert, 2, None);
        assert!(is_clean(&[
            fleeting.clone(),
            unknown.clone(),
            read(Some("b"), 3, 4)
        ]));
        assert!(is_clean(&[
            fleeting,
            unknown.clone(),
            read(Some("a"), 3, 4)
        ]));
        let stays = write("a", 0, 1);
        assert!(!is_clean(&[stays, unknown, read(Some("b"), 3, 4)]));
    }

    #[test]
    fn a_swap_is_one_operation() {
        let swap = |before: Option<&str>, after: &str, start_us| {
            let mut swap = write(after, start_us, start_us + 10);
            swap.steps.insert(0, found(before));
            swap
        };
        assert!(is_clean(&[swap(Some("b"), "a", 0), swap(None, "b", 1)]));
        assert!(!is_clean(&[swap(None, "a", 0), swap(None, "b", 1)]));
    }
}
