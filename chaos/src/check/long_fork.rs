//! Long fork: each key is written once, and groups of keys are read in one transaction. Two reads of
//! the same keys must be comparable: if one sees a write that the other misses, the other sees none
//! that this one misses. Parallel snapshot isolation allows what this forbids.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step};

/// A read of a group, and the keys that it saw.
type Read<'a> = (&'a Operation, BTreeSet<&'a str>);

/// Checks a history of single writes and of reads of groups.
pub fn check(history: &[Operation]) -> Verdict {
    let mut groups: BTreeMap<BTreeSet<&str>, Vec<Read>> = BTreeMap::new();
    for operation in history.iter().filter(|o| o.outcome == Outcome::Ok) {
        let (mut keys, mut present) = (BTreeSet::new(), BTreeSet::new());
        for step in &operation.steps {
            if let Step::Read {
                key,
                value: Some(value),
            } = step
            {
                keys.insert(key.as_str());
                if value.is_some() {
                    present.insert(key.as_str());
                }
            }
        }
        if keys.len() > 1 {
            groups.entry(keys).or_default().push((operation, present));
        }
    }
    for reads in groups.values() {
        for (i, (one, seen)) in reads.iter().enumerate() {
            for (other, other_seen) in &reads[i + 1..] {
                if !seen.is_subset(other_seen) && !other_seen.is_subset(seen) {
                    let what = format!("one read saw {seen:?}, another one {other_seen:?}");
                    return Err(Anomaly::new("long fork", what, [*one, *other]));
                }
                let (early, late) = match (one.precedes(other), other.precedes(one)) {
                    (true, _) => ((one, seen), (other, other_seen)),
                    (_, true) => ((other, other_seen), (one, seen)),
                    (false, false) => continue,
                };
                if let Some(key) = early.1.difference(late.1).next() {
                    let what = format!("{key} was there, and a later read misses it");
                    return Err(Anomaly::new("stale read", what, [*early.0, *late.0]));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::How;

    fn read(start_us: u64, end_us: u64, x: bool, y: bool) -> Operation {
        let step = |key: &str, there: bool| Step::Read {
            key: key.to_owned(),
            value: Some(there.then(|| "1".to_owned())),
        };
        let steps = vec![step("x", x), step("y", y)];
        Operation::done(0, How::Multi, start_us..end_us, steps)
    }

    fn found(history: &[Operation]) -> String {
        check(history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn reads_are_comparable_and_never_go_back() {
        let grows = [read(0, 9, true, false), read(0, 9, true, true)];
        assert_eq!(found(&grows), "clean");
        let forks = [read(0, 9, true, false), read(0, 9, false, true)];
        assert_eq!(found(&forks), "long fork");
        let back = [read(0, 1, true, true), read(2, 3, true, false)];
        assert_eq!(found(&back), "stale read");
    }
}
