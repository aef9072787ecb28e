//! Which joined rows came of which rows: what a changed row takes away.
//!
//! A chain per (source, row) runs through the records in which the row takes part. Four bytes for each source of
//! each record: a cluster has millions of them.
//!
//! Invariant: a record whose handle is gone may still be linked; chains skip it.

use crate::graph;

/// What a joined row became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// A row of the block's bag.
    Bag(graph::RowId),
    /// A row of the policy.
    Row(u32),
}

const END: u32 = u32::MAX;

/// The records of one block.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    sources: usize,
    handles: Vec<Option<Handle>>,
    /// For each record and source, the next record of the same row.
    links: Vec<u32>,
    /// For each source, the first record of each row.
    heads: Vec<Vec<u32>>,
}

impl Joined {
    /// No records of a block of so many sources.
    pub(crate) fn new(sources: usize) -> Joined {
        Joined {
            sources,
            handles: Vec::new(),
            links: Vec::new(),
            heads: vec![Vec::new(); sources],
        }
    }

    /// Records what the joined rows (`u32::MAX`: looked up) became.
    pub(crate) fn add(&mut self, rows: &[u32], handle: Handle) {
        assert_eq!(
            rows.len(),
            self.sources,
            "a joined row has a row of each source"
        );
        let record = u32::try_from(self.handles.len()).unwrap_or(END);
        self.handles.push(Some(handle));
        for (source, &row) in rows.iter().enumerate() {
            if row == END {
                self.links.push(END);
                continue;
            }
            let heads = &mut self.heads[source];
            if row as usize >= heads.len() {
                heads.resize(row as usize + 1, END);
            }
            self.links.push(heads[row as usize]);
            heads[row as usize] = record;
        }
    }

    /// Takes out all records of a row.
    pub(crate) fn take(&mut self, source: usize, row: u32) -> Vec<Handle> {
        let Some(head) = self.heads[source].get_mut(row as usize) else {
            return Vec::new();
        };
        let mut at = std::mem::replace(head, END);
        let mut out = Vec::new();
        while at != END {
            out.extend(self.handles[at as usize].take());
            at = self.links[at as usize * self.sources + source];
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_its_records_once() {
        let mut joined = Joined::new(2);
        joined.add(&[0, 5], Handle::Row(1));
        joined.add(&[0, 6], Handle::Row(2));
        joined.add(&[1, 5], Handle::Row(3));
        joined.add(&[2, u32::MAX], Handle::Row(4));
        assert_eq!(joined.take(0, 0), [Handle::Row(2), Handle::Row(1)]);
        assert_eq!(joined.take(1, 5), [Handle::Row(3)]);
        assert_eq!(joined.take(1, 5), []);
        assert_eq!(joined.take(0, 2), [Handle::Row(4)]);
        assert_eq!(joined.take(0, 9), []);
    }
}
