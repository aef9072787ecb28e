//! The checker of list-append histories: strict serializability, or the anomaly by name.
//!
//! The final lists give the order of all appends. From it, from what was read, and from real time
//! follow the edges of a graph; a cycle among what took effect is an anomaly.

use std::collections::{BTreeMap, BTreeSet};

use super::transactions::{Op, State, Txn};

/// Strict serializability of a list-append history, or the anomaly. How many were committed.
pub(super) fn check_history(
    txns: &[Txn],
    lists: &BTreeMap<usize, Vec<u64>>,
) -> Result<usize, String> {
    let mut writer: BTreeMap<u64, usize> = BTreeMap::new();
    for (index, txn) in txns.iter().enumerate() {
        for op in &txn.ops {
            if let Op::Append { word, .. } = op {
                writer.insert(*word, index);
            }
        }
    }
    let mut shown: BTreeMap<u64, usize> = BTreeMap::new();
    for list in lists.values() {
        list.iter()
            .for_each(|word| *shown.entry(*word).or_default() += 1);
    }
    let mut takes_part: BTreeSet<usize> = BTreeSet::new();
    for (index, txn) in txns.iter().enumerate() {
        let words = txn.ops.iter().filter_map(|op| match op {
            Op::Append { word, .. } => Some(shown.get(word).copied().unwrap_or(0)),
            Op::Read { .. } | Op::ReadAll { .. } => None,
        });
        let counts: Vec<usize> = words.collect();
        let all = counts.iter().all(|count| *count == 1);
        let none = counts.iter().all(|count| *count == 0);
        match txn.state {
            State::Committed if all => {
                takes_part.insert(index);
            }
            State::Unknown if none => {}
            State::Unknown if all => {
                takes_part.insert(index);
            }
            State::Failed if none => {}
            state => {
                return Err(format!(
                    "{index} is {state:?} and stands {counts:?}: {txn:?}"
                ));
            }
        }
    }
    let mut edges: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut edge = |from: usize, to: usize| {
        if from != to {
            edges.entry(from).or_default().insert(to);
        }
    };
    for list in lists.values() {
        for pair in list.windows(2) {
            edge(writer[&pair[0]], writer[&pair[1]]);
        }
    }
    for (index, txn) in txns.iter().enumerate() {
        // What an aborted transaction has seen must have been real as well, but it has no place in
        // the order: only that its lists are prefixes is checked.
        let mut own: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for op in &txn.ops {
            match op {
                Op::Append { key, word } => own.entry(*key).or_default().push(*word),
                Op::Read { .. } | Op::ReadAll { .. } => {}
            }
            for (key, seen) in op.seen() {
                let own = own.get(&key).map_or(&[][..], Vec::as_slice);
                let Some(others) = seen.strip_suffix(own) else {
                    return Err(format!("{index} does not see its own appends: {txn:?}"));
                };
                let list = &lists[&key];
                if !list.starts_with(others) {
                    return Err(format!("{index} saw {others:?} of {list:?}"));
                }
                if takes_part.contains(&index) {
                    if let Some(last) = others.last() {
                        edge(writer[last], index);
                    }
                    if let Some(next) = list.get(others.len()) {
                        edge(index, writer[next]);
                    }
                }
            }
        }
    }
    for before in &takes_part {
        let Some(ended_at) = txns[*before].ended_at else {
            continue;
        };
        if txns[*before].state == State::Unknown || txns[*before].past {
            continue;
        }
        for after in &takes_part {
            if ended_at < txns[*after].asked_at && !txns[*after].past {
                edge(*before, *after);
            }
        }
    }
    // Take away whoever has nobody before; what stays is in a cycle.
    let mut left: BTreeSet<usize> = takes_part.clone();
    loop {
        let targets: BTreeSet<usize> = left
            .iter()
            .filter_map(|from| edges.get(from))
            .flatten()
            .copied()
            .collect();
        let free: Vec<usize> = left
            .iter()
            .filter(|txn| !targets.contains(txn))
            .copied()
            .collect();
        if left.is_empty() {
            return Ok(takes_part.len());
        }
        if free.is_empty() {
            return Err(format!(
                "a cycle: {}",
                cycle_of(&left, &edges, txns).join("\n")
            ));
        }
        free.iter().for_each(|txn| {
            left.remove(txn);
        });
    }
}

/// One cycle among transactions each of which has another one of them before it, in words.
fn cycle_of(
    left: &BTreeSet<usize>,
    edges: &BTreeMap<usize, BTreeSet<usize>>,
    txns: &[Txn],
) -> Vec<String> {
    let before = |txn: usize| {
        let comes_before = |from: &&usize| edges.get(from).is_some_and(|to| to.contains(&txn));
        left.iter().find(comes_before).copied()
    };
    let mut path: Vec<usize> = left.iter().take(1).copied().collect();
    while let Some(txn) = path.last().and_then(|last| before(*last)) {
        if let Some(place) = path.iter().position(|known| *known == txn) {
            path.drain(..place);
            break;
        }
        path.push(txn);
    }
    let words = path.iter().rev();
    words
        .map(|txn| format!("{txn}: {:?}", txns[*txn]))
        .collect()
}
