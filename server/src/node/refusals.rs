//! Peers that were turned away lately, or turned this node away: what `SYNOD STATUS` says of them.

use std::collections::BTreeMap;

use synod_storage::Micros;

use crate::transport::Refusal;

/// Whoever is refused tries again within a second: after so long without, it is over.
const REMEMBERED_US: u64 = 30_000_000;
/// So many are remembered: a port scanner must not fill a node.
const KEPT_MAX: usize = 16;

/// What was said, and when last.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    said: BTreeMap<String, Micros>,
}

impl Refusals {
    /// Remembers a refusal, and whom it is about.
    pub(super) fn note(&mut self, now: Micros, refusal: &Refusal, whom: &str) {
        match refusal {
            Refusal::OtherCluster { .. }
            | Refusal::OtherVersion { .. }
            | Refusal::StaleBoot { .. }
            | Refusal::ClonedDirectory { .. } => {}
            // A member has moved or was replaced: views see to that.
            Refusal::OtherNode { .. } => return,
        }
        self.said.insert(format!("{whom}: {refusal}"), now);
        while self.said.len() > KEPT_MAX {
            let oldest = self.said.iter().min_by_key(|(_, at)| **at);
            let Some(oldest) = oldest.map(|(words, _)| words.clone()) else {
                return;
            };
            self.said.remove(&oldest);
        }
    }

    /// Those of the last half minute.
    pub(super) fn lately(&self, now: Micros) -> impl Iterator<Item = &str> {
        let fresh = move |at: &Micros| now.0.saturating_sub(at.0) < REMEMBERED_US;
        let said = self.said.iter().filter(move |(_, at)| fresh(at));
        said.map(|(words, _)| words.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_few_are_told_for_a_while() {
        let mut refusals = Refusals::default();
        let refusal = Refusal::OtherVersion {
            caller: 2,
            called: 1,
        };
        for n in 0..100u64 {
            refusals.note(Micros(n), &refusal, &format!("node {n}"));
            refusals.note(Micros(n), &refusal, "the same again");
        }
        let told: Vec<&str> = refusals.lately(Micros(100)).collect();
        assert_eq!(told.len(), KEPT_MAX);
        assert!(told.iter().any(|words| words.starts_with("node 99: ")));
        assert!(told.iter().any(|words| words.starts_with("the same again")));
        assert_eq!(refusals.lately(Micros(100 + REMEMBERED_US)).count(), 0);
    }
}
