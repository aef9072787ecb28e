//! The order of versions that a history of list-append shows by itself.
//!
//! Elements are unique, so a read shows which appends came before it and in which order: the longest
//! read of a key is the order of its versions, and all other reads must be its prefixes. A range is
//! a read of every key in it, also of those that are absent: that is what makes phantoms visible.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Verdict};
use crate::history::{Operation, Outcome, Step, elements};

/// What one operation read of a key: the elements without its own.
#[derive(Clone, Debug)]
pub(super) struct Seen<'a> {
    pub(super) operation: usize,
    pub(super) elements: Vec<&'a str>,
}

/// A key's versions.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    /// Who appended which element.
    pub(super) appended: BTreeMap<&'a str, usize>,
    /// All elements that anybody saw, in their order.
    pub(super) order: Vec<&'a str>,
    /// What was read from outside.
    pub(super) reads: Vec<Seen<'a>>,
}

/// The versions of all keys. Fails where the reads contradict each other or the appends.
pub(super) fn versions(history: &[Operation]) -> Result<BTreeMap<&str, Key<'_>>, Anomaly> {
    let mut keys: BTreeMap<&str, Key> = BTreeMap::new();
    for (i, operation) in history.iter().enumerate() {
        for step in &operation.steps {
            match step {
                Step::Append { key, value } => {
                    keys.entry(key).or_default().appended.insert(value, i);
                }
                Step::Read { key, .. } => {
                    keys.entry(key).or_default();
                }
                Step::Range { rows, .. } => {
                    for (key, _) in rows.iter().flatten() {
                        keys.entry(key).or_default();
                    }
                }
                Step::Write { .. }
                | Step::Insert { .. }
                | Step::Delete { .. }
                | Step::Add { .. } => {}
            }
        }
    }
    let names: Vec<&str> = keys.keys().copied().collect();
    for (i, operation) in history.iter().enumerate() {
        if operation.outcome == Outcome::Ok {
            read_steps(history, i, &names, &mut keys)?;
        }
    }
    for (name, key) in &mut keys {
        order(history, name, key)?;
    }
    intermediate(history, &keys)?;
    Ok(keys)
}

/// Walks through one operation: what it read must hold what it appended before.
fn read_steps<'a>(
    history: &'a [Operation],
    i: usize,
    names: &[&'a str],
    keys: &mut BTreeMap<&'a str, Key<'a>>,
) -> Verdict {
    let operation = &history[i];
    let mut own: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut outside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut read = |key: &'a str, value: &'a str, own: &BTreeMap<&str, Vec<&str>>| -> Verdict {
        let mut found: Vec<&str> = elements(value).collect();
        let appended = own.get(key).map_or(&[][..], Vec::as_slice);
        if !found.ends_with(appended) {
            let what =
                format!("a read of {key} answered {value:?} after its own appends {appended:?}");
            return Err(Anomaly::new("internal", what, [operation]));
        }
        found.truncate(found.len() - appended.len());
        match outside.get(key) {
            Some(before) if *before != found => {
                let what = format!("two reads of {key} in one transaction differ");
                return Err(Anomaly::new("internal", what, [operation]));
            }
            Some(_) => {}
            None => {
                outside.insert(key, found.clone());
                if let Some(key) = keys.get_mut(key) {
                    key.reads.push(Seen {
                        operation: i,
                        elements: found,
                    });
                }
            }
        }
        Ok(())
    };
    for step in &operation.steps {
        match step {
            Step::Append { key, value } => own.entry(key).or_default().push(value),
            Step::Read {
                key,
                value: Some(value),
            } => read(key, value.as_deref().unwrap_or_default(), &own)?,
            Step::Range {
                from,
                to,
                rows: Some(rows),
            } => {
                let rows: BTreeMap<&str, &str> = rows
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                for name in names
                    .iter()
                    .filter(|name| (from.as_str()..to).contains(*name))
                {
                    read(name, rows.get(name).copied().unwrap_or_default(), &own)?;
                }
            }
            Step::Read { value: None, .. }
            | Step::Range { rows: None, .. }
            | Step::Write { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Add { .. } => {}
        }
    }
    Ok(())
}

/// Finds the order of a key's versions.
fn order(history: &[Operation], name: &str, key: &mut Key<'_>) -> Verdict {
    let Some(longest) = key.reads.iter().max_by_key(|seen| seen.elements.len()) else {
        return Ok(());
    };
    let mut times = BTreeSet::new();
    for element in &longest.elements {
        let reader = &history[longest.operation];
        if !times.insert(*element) {
            let what = format!("{element} is in {name} more than once");
            let author = key.appended.get(element).map(|i| &history[*i]);
            return Err(Anomaly::new(
                "duplicate",
                what,
                author.into_iter().chain([reader]),
            ));
        }
        match key.appended.get(element).map(|i| &history[*i]) {
            None => {
                let what = format!("{element} is in {name}, and nobody appended it");
                return Err(Anomaly::new("garbage read", what, [reader]));
            }
            Some(author) if author.outcome == Outcome::Failed => {
                let what = format!("{element} is in {name}, but its transaction failed");
                return Err(Anomaly::new("G1a", what, [author, reader]));
            }
            Some(_) => {}
        }
    }
    for seen in &key.reads {
        if !longest.elements.starts_with(&seen.elements) {
            let what = format!(
                "reads of {name} are no prefixes of each other: {:?} and {:?}",
                seen.elements, longest.elements
            );
            let witness = [&history[seen.operation], &history[longest.operation]];
            return Err(Anomaly::new("incompatible order", what, witness));
        }
    }
    key.order = longest.elements.clone();
    Ok(())
}

/// Nobody sees what a transaction appended in its midst.
fn intermediate(history: &[Operation], keys: &BTreeMap<&str, Key<'_>>) -> Verdict {
    for (name, key) in keys {
        for seen in &key.reads {
            let Some(author) = seen.elements.last().and_then(|last| key.appended.get(last)) else {
                continue;
            };
            let last = history[*author]
                .steps
                .iter()
                .rev()
                .find_map(|step| match step {
                    Step::Append { key, value } if key == name => Some(value.as_str()),
                    Step::Append { .. }
                    | Step::Read { .. }
                    | Step::Write { .. }
                    | Step::Insert { .. }
                    | Step::Delete { .. }
                    | Step::Add { .. }
                    | Step::Range { .. } => None,
                });
            if last != seen.elements.last().copied() && *author != seen.operation {
                let what = format!("a read of {name} saw a transaction half done");
                let witness = [&history[*author], &history[seen.operation]];
                return Err(Anomaly::new("G1b", what, witness));
            }
        }
    }
    Ok(())
}
