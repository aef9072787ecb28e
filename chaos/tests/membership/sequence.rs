//! What the view logs on all disks say.

use std::collections::BTreeMap;

use synod_chaos::world::World;
use synod_membership::catalog::Catalog;
use synod_membership::configuration::SharedConfiguration;
use synod_membership::durable::log;
use synod_membership::id::ConfigHash;

const VIEWS: &str = "membership/views";

/// What all disks together have shown of the one sequence.
#[derive(Default)]
pub struct Sequence {
    hashes: BTreeMap<u64, (ConfigHash, usize)>,
    /// How many proofs were checked.
    pub verified: usize,
}

impl Sequence {
    /// How many different views were seen.
    pub fn views(&self) -> usize {
        self.hashes.len()
    }

    /// Looks at all nodes' logs.
    pub fn look_at_all(&mut self, world: &World) -> Result<(), String> {
        (0..world.nodes()).try_for_each(|node| self.look(world, node))
    }

    /// Reads a node's view log, as it would after a crash now, and holds it against the others'.
    fn look(&mut self, world: &World, node: usize) -> Result<(), String> {
        let bytes = world.disk(node).content(VIEWS).unwrap_or_default();
        let log = log::recover(&bytes).map_err(|e| format!("the view log of node {node}: {e}"))?;
        let Some(base) = log.base else {
            return Ok(());
        };
        let mut last: SharedConfiguration = base.configuration.clone();
        self.note(node, &last)?;
        let catalog = Catalog::new();
        for view in &log.views {
            last = view
                .verify(&last, &catalog)
                .map_err(|e| format!("view {} of node {node} is not proven: {e}", view.seq))?;
            self.verified += 1;
            self.note(node, &last)?;
        }
        Ok(())
    }

    fn note(&mut self, node: usize, configuration: &SharedConfiguration) -> Result<(), String> {
        let (seq, hash) = (configuration.seq(), configuration.hash());
        let (first, of) = *self.hashes.entry(seq).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        Err(format!(
            "node {node} holds another view {seq} than node {of}: {hash} and {first}"
        ))
    }
}
