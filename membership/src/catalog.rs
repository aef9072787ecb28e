//! Configurations shared by the nodes of one process.
//!
//! A configuration is a pure function of its predecessor and a cut, so nodes that live together need only one copy of
//! it, with one overlay. A server runs one node, for which the catalog is a formality; a simulator runs thousands, for
//! which it is the difference between megabytes and gigabytes, and between one computation a view change and thousands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::configuration::{Configuration, Rejected, SharedConfiguration};
use crate::cut::Cut;
use crate::id::{ConfigHash, CutHash};

type Known = BTreeMap<(ConfigHash, CutHash), Weak<Configuration>>;

/// Remembers the successors that were computed, for as long as somebody holds them.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    known: Arc<Mutex<Known>>,
}

/// Beyond so many entries, those that nobody holds any more are dropped.
const KNOWN_MAX: usize = 64;

impl Catalog {
    /// A catalog that knows nothing.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// The configuration that `before` becomes through `cut`.
    pub fn successor(
        &self,
        before: &Configuration,
        cut: &Cut,
    ) -> Result<SharedConfiguration, Rejected> {
        let key = (before.hash(), before.cut_hash(cut));
        // The map holds only finished values, so that a panic elsewhere leaves nothing half done in it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let made = Arc::new(before.successor(cut)?);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, held| held.strong_count() > 0);
        }
        known.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}
