//! Who installed which view, and whether they agree.
//!
//! For a protocol with agreed views, every node's sequence must be a piece of one and the same sequence:
//! one hash a number, none skipped. A sequence begins at the node's admission, so a gap is
//! allowed exactly where the view itself admits the node. For the baselines a "view" is any change of
//! a node's own list, numbered by the node; they are held to the same test, and fail it.
//!
//! SWIM makes millions of distinct lists while 2,000 nodes join. The first [`LISTED_MAX`] are kept
//! in full, of the rest only the installations are counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::protocol::Install;

/// Distinct views kept with their members' changes.
const LISTED_MAX: usize = 20_000;

/// A distinct view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewReport {
    /// Position in the sequence.
    pub seq: u64,
    /// In hexadecimal.
    pub hash: String,
    /// Members.
    pub size: u32,
    /// As in [`Install`].
    pub joined: Vec<u32>,
    /// As in [`Install`].
    pub removed: Vec<u32>,
    /// As in [`Install`].
    pub restarted: Vec<u32>,
    /// When the first node installed it.
    pub first_install_ms: f64,
    /// When the last one did.
    pub last_install_ms: f64,
    /// How many did.
    pub installed: u32,
}

#[derive(Clone, Copy, Default)]
struct Last {
    seq: u64,
    hash: u128,
    size: u32,
    installs: u32,
}

/// Health of the nodes at the moment of an install.
pub trait Health {
    /// Whether a fault of the scenario struck the node itself, now or shortly before.
    fn is_faulty(&self, node: u32) -> bool;
}

/// The record of a run.
pub struct Views {
    listed: Vec<(Install, u64, u64, u32)>,
    index: HashMap<(u64, u128), usize>,
    unlisted: u64,
    hash_of: BTreeMap<u64, u128>,
    nodes: Vec<Last>,
    disagreement: Option<String>,
    sizes: BTreeSet<u32>,
    removed: BTreeMap<u32, u64>,
    wrongly_removed: BTreeMap<u32, u64>,
    last_install_us: u64,
}

impl Views {
    /// An empty record for `nodes` nodes.
    pub fn new(nodes: u32) -> Views {
        Views {
            listed: Vec::new(),
            index: HashMap::new(),
            unlisted: 0,
            hash_of: BTreeMap::new(),
            nodes: vec![Last::default(); nodes as usize],
            disagreement: None,
            sizes: BTreeSet::new(),
            removed: BTreeMap::new(),
            wrongly_removed: BTreeMap::new(),
            last_install_us: 0,
        }
    }

    /// `node` installed a view. Reading back from disk what it had installed before changes nothing.
    pub fn record(&mut self, now_us: u64, node: u32, install: Install, health: &impl Health) {
        let last = self.nodes[node as usize];
        if last.installs > 0 && (last.seq, last.hash) == (install.seq, install.hash) {
            return;
        }
        self.check(now_us, node, last, &install);
        let Install {
            seq, hash, size, ..
        } = install;
        let installs = last.installs + 1;
        self.nodes[node as usize] = Last {
            seq,
            hash,
            size,
            installs,
        };
        // What a faulty node believes of the others is not held against the others' detector.
        if !health.is_faulty(node) {
            self.sizes.insert(install.size);
            for &gone in &install.removed {
                self.removed.entry(gone).or_insert(now_us);
                if !health.is_faulty(gone) {
                    self.wrongly_removed.entry(gone).or_insert(now_us);
                }
            }
            self.last_install_us = now_us;
        }
        if let Some(&at) = self.index.get(&(seq, hash)) {
            let (known, _, last_us, installed) = &mut self.listed[at];
            *last_us = now_us;
            *installed += 1;
            if known.adopted {
                // Now the step that led to it is known, too.
                *known = install;
            }
        } else if self.listed.len() < LISTED_MAX {
            self.index.insert((seq, hash), self.listed.len());
            self.listed.push((install, now_us, now_us, 1));
        } else {
            self.unlisted += 1;
        }
    }

    fn check(&mut self, now_us: u64, node: u32, last: Last, install: &Install) {
        let hash = *self.hash_of.entry(install.seq).or_insert(install.hash);
        if self.disagreement.is_some() {
            return;
        }
        let Install { seq, .. } = *install;
        let step = if install.adopted {
            self.step_to(install)
        } else {
            Some(install)
        };
        // Nobody knows the step to an adopted view yet: the benefit of the doubt.
        let admitted =
            step.is_none_or(|step| step.joined.contains(&node) || step.restarted.contains(&node));
        let problem = if hash != install.hash {
            format!("{:032x} as view {seq}, others {hash:032x}", install.hash)
        } else if last.installs == 0 || seq == last.seq + 1 {
            return;
        } else if seq <= last.seq {
            format!("view {seq} after view {}", last.seq)
        } else if !admitted {
            format!("view {seq} right after view {}", last.seq)
        } else {
            return;
        };
        let at_ms = now_us as f64 / 1e3;
        self.disagreement = Some(format!("node {node} installed {problem} at {at_ms} ms"));
    }

    fn step_to(&self, install: &Install) -> Option<&Install> {
        let at = *self.index.get(&(install.seq, install.hash))?;
        let known = &self.listed[at].0;
        (!known.adopted).then_some(known)
    }

    /// Whether all sequences agree; else the first thing that did not.
    pub fn agreement(&self) -> Result<(), &str> {
        self.disagreement.as_deref().map_or(Ok(()), Err)
    }

    /// The distinct views in the order of their first installation, and how many installations of
    /// further ones there were.
    pub fn report(&self) -> (Vec<ViewReport>, u64) {
        let report = |(install, first_us, last_us, installed): &(Install, u64, u64, u32)| {
            let install = install.clone();
            ViewReport {
                seq: install.seq,
                hash: format!("{:032x}", install.hash),
                size: install.size,
                joined: install.joined,
                removed: install.removed,
                restarted: install.restarted,
                first_install_ms: *first_us as f64 / 1e3,
                last_install_ms: *last_us as f64 / 1e3,
                installed: *installed,
            }
        };
        (self.listed.iter().map(report).collect(), self.unlisted)
    }

    /// The sizes that nodes without a fault of their own have seen.
    pub fn sizes(&self) -> &BTreeSet<u32> {
        &self.sizes
    }

    /// The nodes that some healthy node removed, and when the first did, in microseconds.
    pub fn removed(&self) -> &BTreeMap<u32, u64> {
        &self.removed
    }

    /// Those among them that had no fault of their own.
    pub fn wrongly_removed(&self) -> &BTreeMap<u32, u64> {
        &self.wrongly_removed
    }

    /// The hash that a node is at.
    pub fn hash_at(&self, node: u32) -> u128 {
        self.nodes[node as usize].hash
    }

    /// The size of the view that a node is at.
    pub fn size_at(&self, node: u32) -> u32 {
        self.nodes[node as usize].size
    }

    /// How often a node changed its view after its first.
    pub fn changes(&self, node: u32) -> u32 {
        self.nodes[node as usize].installs.saturating_sub(1)
    }

    /// When a healthy node last installed anything, in microseconds.
    pub fn last_install_us(&self) -> u64 {
        self.last_install_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Faulty(&'static [u32]);
    impl Health for Faulty {
        fn is_faulty(&self, node: u32) -> bool {
            self.0.contains(&node)
        }
    }

    fn view(seq: u64, hash: u128) -> Install {
        Install {
            seq,
            hash,
            size: 5,
            joined: vec![],
            removed: vec![],
            restarted: vec![],
            adopted: false,
        }
    }

    fn agreement(installs: &[(u32, Install)]) -> Result<(), String> {
        let mut views = Views::new(5);
        for (node, install) in installs {
            views.record(0, *node, install.clone(), &Faulty(&[]));
        }
        views.agreement().map_err(str::to_owned)
    }

    #[test]
    fn prefixes_agree() {
        assert_eq!(
            agreement(&[(0, view(1, 10)), (0, view(2, 20)), (1, view(1, 10))]),
            Ok(())
        );
        // Read back after a restart.
        assert_eq!(
            agreement(&[(0, view(1, 10)), (0, view(1, 10)), (0, view(2, 20))]),
            Ok(())
        );
    }

    #[test]
    fn another_hash_a_gap_and_a_step_back_are_found() {
        let fork = agreement(&[(0, view(1, 10)), (1, view(1, 11))]).unwrap_err();
        assert!(fork.starts_with("node 1 installed 0000"), "{fork}");
        let gap = agreement(&[(0, view(1, 10)), (0, view(3, 30))]).unwrap_err();
        assert!(
            gap.starts_with("node 0 installed view 3 right after view 1"),
            "{gap}"
        );
        let back = agreement(&[(0, view(2, 20)), (0, view(1, 10))]).unwrap_err();
        assert!(
            back.starts_with("node 0 installed view 1 after view 2"),
            "{back}"
        );
    }

    #[test]
    fn a_sequence_may_start_again_where_the_view_admits_the_node() {
        let mut readmitted = view(5, 50);
        readmitted.joined = vec![3];
        let adopted = Install {
            adopted: true,
            ..view(5, 50)
        };
        assert_eq!(
            agreement(&[(3, view(1, 10)), (3, readmitted.clone())]),
            Ok(())
        );
        assert_eq!(
            agreement(&[
                (3, view(1, 10)),
                (0, readmitted.clone()),
                (3, adopted.clone())
            ]),
            Ok(())
        );
        let skipped = agreement(&[(2, view(1, 10)), (0, readmitted), (2, adopted)]).unwrap_err();
        assert!(
            skipped.starts_with("node 2 installed view 5 right after view 1"),
            "{skipped}"
        );
    }

    #[test]
    fn only_healthy_observers_wrong_the_healthy() {
        let mut views = Views::new(5);
        let mut cut = view(1, 10);
        cut.removed = vec![1, 2];
        views.record(7, 1, cut.clone(), &Faulty(&[1]));
        assert!(views.removed().is_empty());
        views.record(9, 3, cut, &Faulty(&[1]));
        assert_eq!(views.removed().keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            views.wrongly_removed().iter().collect::<Vec<_>>(),
            [(&2, &9)]
        );
    }
}
