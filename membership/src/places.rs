//! Where in a sorted list an id stands.
//!
//! A node looks its peers up with every message that it gets. Halving a list of a thousand members takes ten steps
//! that no processor can foresee; this takes one or two. Ids are random bits, so that some of them do for a hash.

use crate::id::NodeId;

/// Lists as short as this are halved: that is as fast, and needs no table.
const HALVED_MAX: usize = 16;
/// An entry of the table that stands for nothing.
const EMPTY: u32 = u32::MAX;

/// The places of the ids of one list.
///
/// Invariant: `table` is empty, or has a power of two of entries, at least twice as many as there are ids; a walk from
/// where an id's bits point to, up to the next empty entry, meets its place.
#[derive(Debug)]
pub(crate) struct Places {
    table: Vec<u32>,
}

impl Places {
    /// Of ids in rising order.
    pub(crate) fn new(ids: impl ExactSizeIterator<Item = NodeId>) -> Places {
        let mut places = Places { table: Vec::new() };
        if ids.len() > HALVED_MAX {
            places.table = vec![EMPTY; (2 * ids.len()).next_power_of_two()];
            for (place, id) in ids.enumerate() {
                let mut at = places.first(id);
                while places.table[at] != EMPTY {
                    at = places.after(at);
                }
                places.table[at] = place as u32;
            }
        }
        places
    }

    fn first(&self, id: NodeId) -> usize {
        let bits = (id.0 >> 64) as u64 ^ id.0 as u64;
        (bits ^ (bits >> 32)) as usize & (self.table.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.table.len() - 1)
    }

    /// The place of an id in the list that this was made of, which has `len` ids and `id_at` reads.
    #[inline]
    pub(crate) fn find(
        &self,
        id: NodeId,
        len: usize,
        id_at: impl Fn(usize) -> NodeId,
    ) -> Option<usize> {
        if self.table.is_empty() {
            let (mut low, mut high) = (0, len);
            while low < high {
                let middle = (low + high) / 2;
                match id_at(middle).cmp(&id) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Equal => return Some(middle),
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
            return None;
        }
        let mut at = self.first(id);
        while self.table[at] != EMPTY {
            let place = self.table[at] as usize;
            if id_at(place) == id {
                return Some(place);
            }
            at = self.after(at);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Seed};

    /// Twin: as a search by halves, whatever the ids are like.
    #[test]
    fn finds_what_halving_finds() {
        let mut rng = Rng::new(Seed::from(1));
        for len in [0, 1, 16, 17, 100, 1_000] {
            let random: Vec<NodeId> = (0..len).map(|_| NodeId(rng.next_u128())).collect();
            let counted: Vec<NodeId> = (0..len).map(|n| NodeId(1_024 * n as u128)).collect();
            let high: Vec<NodeId> = (0..len).map(|n| NodeId((n as u128) << 100)).collect();
            for mut ids in [random, counted, high] {
                ids.sort_unstable();
                let places = Places::new(ids.iter().copied());
                let strangers = (0..100).map(|_| NodeId(rng.next_u128()));
                for id in ids.iter().copied().chain(strangers) {
                    let found = places.find(id, ids.len(), |place| ids[place]);
                    assert_eq!(found, ids.binary_search(&id).ok());
                }
            }
        }
    }
}
