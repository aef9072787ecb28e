//! One sequence of configurations: the view logs on all disks are parts of one sequence, none skipped, and
//! each view in them is proven by its certificate (Suresh and others, "Stable and consistent membership at
//! scale with Rapid", section 4: all processes learn of the same configurations in the same order).

use std::collections::BTreeMap;

use synod_membership::catalog::Catalog;
use synod_membership::configuration::SharedConfiguration;
use synod_membership::durable::log;
use synod_membership::id::ConfigHash;

/// Where a node keeps its views.
pub const FILE: &str = "membership/views";

/// What all disks together have shown of the sequence.
#[derive(Debug, Default)]
pub struct Views {
    hashes: BTreeMap<u64, (ConfigHash, usize)>,
    /// Each node's log as it was when it was looked at last.
    looked_at: BTreeMap<usize, Vec<u8>>,
    verified: usize,
}

impl Views {
    /// Reads a node's view log, as it would after a crash now, and holds it against the others'.
    pub fn look(&mut self, node: usize, bytes: &[u8]) -> Result<(), String> {
        if self.looked_at.get(&node).is_some_and(|log| log == bytes) {
            return Ok(());
        }
        self.looked_at.insert(node, bytes.to_vec());
        let log = log::recover(bytes).map_err(|e| format!("the view log of node {node}: {e}"))?;
        let Some(base) = log.base else {
            return Ok(());
        };
        let mut last: SharedConfiguration = base.configuration.clone();
        self.note(node, last.seq(), last.hash())?;
        let catalog = Catalog::new();
        for view in &log.views {
            last = view
                .verify(&last, &catalog)
                .map_err(|e| format!("view {} of node {node} is not proven: {e}", view.seq))?;
            self.verified += 1;
            self.note(node, last.seq(), last.hash())?;
        }
        Ok(())
    }

    /// How many configurations were seen, and how many proofs were checked.
    pub fn counts(&self) -> (usize, usize) {
        (self.hashes.len(), self.verified)
    }

    fn note(&mut self, node: usize, seq: u64, hash: ConfigHash) -> Result<(), String> {
        let (first, of) = *self.hashes.entry(seq).or_insert((hash, node));
        match first == hash {
            true => Ok(()),
            false => Err(format!(
                "node {node} holds another view {seq} than node {of}: {hash} and {first}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use synod_membership::configuration::{Configuration, Mode, Overlay};
    use synod_membership::id::{Boot, ClusterId, NodeId};
    use synod_membership::member::Member;
    use synod_membership::message::Snapshot;

    use super::*;

    #[test]
    fn two_configurations_of_one_number_are_found() {
        let mut views = Views::default();
        let (one, other) = (ConfigHash(1), ConfigHash(2));
        assert_eq!(views.note(0, 4, one), Ok(()));
        assert_eq!(views.note(1, 4, one), Ok(()));
        assert_eq!(views.note(1, 5, other), Ok(()));
        assert!(views.note(2, 4, other).is_err());
    }

    #[test]
    fn a_log_that_cannot_be_read_is_found() {
        let member = Member {
            node: NodeId(1),
            boot: Boot::first(1),
            address: ([127, 0, 0, 1], 1).into(),
            labels: Arc::default(),
        };
        let (mode, overlay) = (Mode::Decentralised, Overlay::default());
        let configuration = Configuration::genesis(ClusterId(1), mode, overlay, member);
        let base = log::encode_base(&Snapshot {
            configuration: Arc::new(configuration),
            view: None,
        });
        let mut views = Views::default();
        assert_eq!(views.look(0, &[]), Ok(()));
        assert_eq!(views.look(0, &base), Ok(()));
        assert_eq!(views.look(0, &base[..base.len() - 1]), Ok(()), "torn");
        // A bad frame that a good one follows is no torn tail.
        let mut bytes = [&base[..], &base[..]].concat();
        bytes[base.len() - 1] ^= 1;
        assert!(views.look(0, &bytes).is_err());
    }
}
