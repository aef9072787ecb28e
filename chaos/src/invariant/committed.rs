//! State machine safety and log matching: what one replica commits at an index, every replica
//! commits there, for ever; and a process commits in order, nothing twice (Ongaro and Ousterhout, figure 3).
//!
//! Entries are compared by the checksum over term, index, kind and data, so the same index with
//! another term is found, too. Replicas apply entries blindly and in order: equal entries at equal
//! indexes are equal states.

use std::collections::BTreeMap;

use synod_storage::{Entry, entry_checksum};

#[derive(Debug, Default)]
pub(super) struct Committed {
    /// By shard and index: the checksum, and who committed it first.
    entries: BTreeMap<(u64, u64), (u32, usize)>,
    /// The last index of a process's replica in this life.
    last: BTreeMap<(usize, u64), u64>,
}

impl Committed {
    /// A node's process begins a new life: it applies again from its last checkpoint.
    pub(super) fn restarted(&mut self, node: usize) {
        self.last.retain(|(of, _), _| *of != node);
    }

    /// A snapshot took the place of what a replica had.
    pub(super) fn jumped(&mut self, node: usize, shard: u64) {
        self.last.remove(&(node, shard));
    }

    pub(super) fn committed(
        &mut self,
        node: usize,
        shard: u64,
        entries: &[Entry],
    ) -> Result<(), String> {
        for entry in entries {
            let index = entry.id.index;
            let last = self.last.insert((node, shard), index);
            // Changes of the members are entries, too, and none of the state machine's.
            if last.is_some_and(|last| last >= index) {
                return Err(format!(
                    "node {node} committed entry {index} of shard {shard} after {last:?}"
                ));
            }
            let sum = entry_checksum(entry);
            let (known, by) = *self.entries.entry((shard, index)).or_insert((sum, node));
            if known != sum {
                return Err(format!(
                    "node {node} committed another entry {index} of shard {shard} than node {by} \
                     did: a committed entry was lost"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_storage::{EntryId, EntryKind};

    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: EntryId { term, index },
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"x"),
        }
    }

    #[test]
    fn another_entry_at_a_committed_index_is_found() {
        let mut invariant = Committed::default();
        assert_eq!(
            invariant.committed(0, 1, &[entry(1, 1), entry(1, 2)]),
            Ok(())
        );
        assert_eq!(invariant.committed(1, 1, &[entry(1, 1)]), Ok(()));
        assert!(invariant.committed(1, 1, &[entry(2, 2)]).is_err());
    }

    #[test]
    fn nothing_is_committed_twice_but_in_a_new_life() {
        let mut invariant = Committed::default();
        assert_eq!(
            invariant.committed(0, 1, &[entry(1, 1), entry(1, 3)]),
            Ok(())
        );
        assert!(invariant.committed(0, 1, &[entry(1, 3)]).is_err());
        invariant.restarted(0);
        assert_eq!(invariant.committed(0, 1, &[entry(1, 1)]), Ok(()));
    }
}
