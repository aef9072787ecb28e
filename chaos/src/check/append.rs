//! Appends: each acknowledged one is there once, each refused one never, and every read is a prefix
//! of the end.
//!
//! Values are unique tokens in the form `<token>,`; a key holds all of its tokens in the order of
//! their effect. That makes the order visible: reads must be prefixes of the final value, in an
//! order that agrees with time.

use std::collections::BTreeMap;

use crate::history::{Call, Operation, Outcome};

/// What is wrong with a history of appends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An acknowledged append is missing.
    #[error("{token} was acknowledged and is not in {key}")]
    Lost {
        /// The key.
        key: String,
        /// The token.
        token: String,
    },
    /// An append took effect twice.
    #[error("{token} is in {key} {times} times")]
    Doubled {
        /// The key.
        key: String,
        /// The token.
        token: String,
        /// How often.
        times: usize,
    },
    /// An append that was refused took effect, or one that nobody made.
    #[error("{token} is in {key}, but was never appended with success")]
    Unexpected {
        /// The key.
        key: String,
        /// The token.
        token: String,
    },
    /// A read saw what is not a prefix of the final value.
    #[error("a read of {key} saw {seen:?}, the end is {end:?}")]
    NotAPrefix {
        /// The key.
        key: String,
        /// What was read.
        seen: String,
        /// The final value.
        end: String,
    },
    /// A read saw less than an earlier answer had shown or acknowledged.
    #[error("a read of {key} at {at_us} us missed {token}, which was there before it began")]
    Stale {
        /// The key.
        key: String,
        /// The token.
        token: String,
        /// When the read began.
        at_us: u64,
    },
}

/// Checks a history against the values that are there at the end.
pub fn check(history: &[Operation], end: &BTreeMap<String, String>) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        check_key(key, &operations, end.get(key).map_or("", String::as_str))?;
    }
    Ok(())
}

fn tokens(value: &str) -> impl Iterator<Item = &str> {
    value.split_terminator(',')
}

fn check_key(key: &str, operations: &[&Operation], end: &str) -> Result<(), Violation> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for token in tokens(end) {
        *times.entry(token).or_default() += 1;
    }
    let named = |token: &str| (key.to_owned(), token.trim_end_matches(',').to_owned());
    let mut known: BTreeMap<&str, Outcome> = BTreeMap::new();
    for operation in operations.iter().filter(|o| o.call == Call::Append) {
        let token = operation.value.as_deref().unwrap_or_default().trim_end_matches(',');
        known.insert(token, operation.outcome);
        match (times.get(token).copied().unwrap_or(0), operation.outcome) {
            (0, Outcome::Ok) => {
                let (key, token) = named(token);
                return Err(Violation::Lost { key, token });
            }
            (1.., Outcome::Failed) => {
                let (key, token) = named(token);
                return Err(Violation::Unexpected { key, token });
            }
            (times @ 2.., Outcome::Ok | Outcome::Unknown) => {
                let (key, token) = named(token);
                return Err(Violation::Doubled { key, token, times });
            }
            (0, Outcome::Failed | Outcome::Unknown) | (1, Outcome::Ok | Outcome::Unknown) => {}
        }
    }
    if let Some(token) = times.keys().find(|token| !known.contains_key(**token)) {
        let (key, token) = named(token);
        return Err(Violation::Unexpected { key, token });
    }
    check_reads(key, operations, end)
}

/// Every read is a prefix, and holds what was acknowledged or read before it began.
fn check_reads(key: &str, operations: &[&Operation], end: &str) -> Result<(), Violation> {
    let place: BTreeMap<&str, usize> =
        tokens(end).enumerate().map(|(place, token)| (token, place)).collect();
    // (when it was certain, how many tokens were there at least)
    let mut certain: Vec<(u64, usize)> = Vec::new();
    for operation in operations.iter().filter(|o| o.outcome == Outcome::Ok) {
        let value = operation.value.as_deref().unwrap_or_default();
        let Some(end_us) = operation.end_us else { continue };
        match operation.call {
            Call::Append => {
                let place = place.get(value.trim_end_matches(',')).copied();
                certain.extend(place.map(|place| (end_us, place + 1)));
            }
            Call::Read => {
                if !end.starts_with(value) {
                    let (key, seen, end) = (key.to_owned(), value.to_owned(), end.to_owned());
                    return Err(Violation::NotAPrefix { key, seen, end });
                }
                certain.push((end_us, tokens(value).count()));
            }
            Call::Write => {}
        }
    }
    for read in operations.iter().filter(|o| o.call == Call::Read && o.outcome == Outcome::Ok) {
        let seen = tokens(read.value.as_deref().unwrap_or_default()).count();
        let due = certain
            .iter()
            .filter(|(at_us, _)| *at_us < read.start_us)
            .map(|(_, tokens)| *tokens)
            .max()
            .unwrap_or(0);
        if seen < due {
            let token = tokens(end).nth(seen).unwrap_or_default().to_owned();
            return Err(Violation::Stale { key: key.to_owned(), token, at_us: read.start_us });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(token: &str, start_us: u64, outcome: Outcome) -> Operation {
        Operation {
            client: 0,
            call: Call::Append,
            key: "k".to_owned(),
            value: Some(format!("{token},")),
            start_us,
            end_us: (outcome != Outcome::Unknown).then_some(start_us + 1),
            outcome,
        }
    }

    fn read(value: &str, start_us: u64) -> Operation {
        Operation {
            call: Call::Read,
            value: Some(value.to_owned()),
            ..append("", start_us, Outcome::Ok)
        }
    }

    fn judge(history: &[Operation], end: &str) -> Result<(), Violation> {
        check(history, &[("k".to_owned(), end.to_owned())].into())
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let acknowledged = [append("a", 0, Outcome::Ok), append("b", 2, Outcome::Ok)];
        assert_eq!(judge(&acknowledged, "a,b,"), Ok(()));
        assert!(matches!(judge(&acknowledged, "a,"), Err(Violation::Lost { .. })));
        assert!(matches!(judge(&acknowledged, "a,b,a,"), Err(Violation::Doubled { .. })));
        assert!(matches!(judge(&acknowledged, "a,b,c,"), Err(Violation::Unexpected { .. })));
        let failed = [append("a", 0, Outcome::Failed)];
        assert!(matches!(judge(&failed, "a,"), Err(Violation::Unexpected { .. })));
    }

    #[test]
    fn an_unknown_append_may_be_there_or_not_but_once() {
        let history = [append("a", 0, Outcome::Unknown)];
        assert_eq!(judge(&history, ""), Ok(()));
        assert_eq!(judge(&history, "a,"), Ok(()));
        assert!(matches!(judge(&history, "a,a,"), Err(Violation::Doubled { .. })));
    }

    #[test]
    fn reads_are_prefixes_and_never_go_back() {
        let history = [append("a", 0, Outcome::Ok), append("b", 2, Outcome::Ok), read("a,", 1)];
        assert_eq!(judge(&history, "a,b,"), Ok(()));
        let stale = [append("a", 0, Outcome::Ok), append("b", 2, Outcome::Ok), read("a,", 9)];
        assert!(matches!(judge(&stale, "a,b,"), Err(Violation::Stale { .. })));
        let torn = [append("a", 0, Outcome::Ok), append("b", 2, Outcome::Ok), read("b,", 9)];
        assert!(matches!(judge(&torn, "a,b,"), Err(Violation::NotAPrefix { .. })));
    }
}
