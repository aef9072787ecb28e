//! What nodes say about themselves: how often, and the first few in words.

use std::collections::BTreeMap;

use super::protocol::Note;

/// Notes of a kind that are kept in words.
const KEPT_MAX: usize = 8;

/// The notes of a run.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    counts: BTreeMap<Note, u64>,
    kept: BTreeMap<Note, Vec<String>>,
}

impl Notes {
    /// A node said something.
    pub fn record(&mut self, now_us: u64, node: u32, note: Note, words: String) {
        *self.counts.entry(note).or_default() += 1;
        let kept = self.kept.entry(note).or_default();
        if kept.len() < KEPT_MAX {
            kept.push(format!(
                "node {node} at {:.1} ms: {note:?} {words}",
                now_us as f64 / 1e3
            ));
        }
    }

    /// How often that was said.
    pub fn count(&self, note: Note) -> u64 {
        self.counts.get(&note).copied().unwrap_or(0)
    }

    /// The kept ones, by kind.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.kept.values().flatten()
    }
}
