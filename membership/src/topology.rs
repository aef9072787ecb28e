//! The monitoring overlay: who observes whom.
//!
//! K rings each order the members by a hash of their ids under the ring's number; restarts, which keep the id, change no
//! edge. In the paper a member's observer on a ring is its neighbour there, and the same neighbour may count several
//! times (Rapid, §4.1). In small clusters that lets one faulty observer outvote the rest. So here a subject's observer on
//! a ring is its first predecessor that does not already observe it on an earlier ring: all K' = min(K, N − 1) are
//! distinct. A joiner's temporary observers are found in the same way, as if it stood on the rings already.

use crate::configuration::Overlay;
use crate::hash::order_of;
use crate::id::NodeId;

/// The rings of one configuration. Members are named by their place in its sorted list.
#[derive(Debug)]
pub struct Topology {
    nodes: Vec<NodeId>,
    overlay: Overlay,
    /// For each ring, the members' ring hashes and places, in the ring's order.
    rings: Vec<Vec<(u64, u32)>>,
    /// Each member's K' observers, by ring.
    observers: Vec<u32>,
    /// Each member's subjects, with the ring on which it observes them; delimited by `subject_starts`.
    subjects: Vec<(u32, u8)>,
    subject_starts: Vec<u32>,
    degree: usize,
}

/// The numbers of reports that matter about one subject (Rapid, §4.2; scaled below seventeen members).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Observers that there are.
    pub k: usize,
    /// Reports that make the subject stable.
    pub h: usize,
    /// Reports that put it in flux.
    pub l: usize,
}

impl Topology {
    /// The overlay over these nodes, which must be sorted and distinct.
    pub fn new(nodes: impl Iterator<Item = NodeId>, overlay: Overlay) -> Topology {
        let nodes: Vec<NodeId> = nodes.collect();
        assert!(
            nodes.is_sorted_by(|a, b| a < b),
            "members are sorted and distinct"
        );
        let degree = usize::from(overlay.k).min(nodes.len().saturating_sub(1));
        let rings: Vec<Vec<(u64, u32)>> = (0..overlay.k)
            .map(|ring| {
                let mut order: Vec<(u64, u32)> = nodes
                    .iter()
                    .enumerate()
                    .map(|(place, node)| (ring_hash(ring, *node), place as u32))
                    .collect();
                order.sort_unstable();
                order
            })
            .collect();
        let mut topology = Topology {
            nodes,
            overlay,
            rings,
            observers: Vec::new(),
            subjects: Vec::new(),
            subject_starts: Vec::new(),
            degree,
        };
        topology.connect();
        topology
    }

    fn connect(&mut self) {
        let count = self.nodes.len();
        let mut observers = vec![u32::MAX; count * self.degree];
        for ring in 0..self.degree {
            let order = &self.rings[ring];
            for (at, (_, subject)) in order.iter().enumerate() {
                let start = *subject as usize * self.degree;
                let chosen = &observers[start..start + ring];
                let observer = predecessor(order, at, |place| {
                    place == *subject || chosen.contains(&place)
                });
                // There are `degree` others and fewer than that are taken.
                observers[start + ring] = observer.expect("an observer is left on each ring");
            }
        }
        let mut counts = vec![0_u32; count + 1];
        observers
            .iter()
            .for_each(|observer| counts[*observer as usize + 1] += 1);
        for at in 1..counts.len() {
            counts[at] += counts[at - 1];
        }
        let mut next = counts.clone();
        let mut subjects = vec![(0, 0); observers.len()];
        for (edge, observer) in observers.iter().enumerate() {
            let slot = &mut next[*observer as usize];
            subjects[*slot as usize] = ((edge / self.degree) as u32, (edge % self.degree) as u8);
            *slot += 1;
        }
        self.observers = observers;
        self.subjects = subjects;
        self.subject_starts = counts;
    }

    /// A member's observers, by ring: distinct, and not itself.
    pub fn observers(&self, subject: u32) -> &[u32] {
        let start = subject as usize * self.degree;
        &self.observers[start..start + self.degree]
    }

    /// A member's subjects, each with the ring on which it observes it.
    pub fn subjects(&self, observer: u32) -> &[(u32, u8)] {
        let (start, end) = (
            self.subject_starts[observer as usize],
            self.subject_starts[observer as usize + 1],
        );
        &self.subjects[start as usize..end as usize]
    }

    /// The temporary observers of a node that is no member, by ring.
    pub fn joiner_observers(&self, joiner: NodeId) -> Vec<u32> {
        let degree = usize::from(self.overlay.k).min(self.nodes.len());
        let mut chosen: Vec<u32> = Vec::with_capacity(degree);
        for (ring, order) in self.rings.iter().enumerate().take(degree) {
            let at = order.partition_point(|entry| entry.0 < ring_hash(ring as u8, joiner));
            let observer = predecessor(order, at, |place| chosen.contains(&place));
            chosen.extend(observer);
        }
        chosen
    }

    /// The watermarks for a member as the subject.
    pub fn member_watermarks(&self) -> Watermarks {
        self.watermarks(self.degree)
    }

    /// The watermarks for a joiner as the subject.
    pub fn joiner_watermarks(&self) -> Watermarks {
        self.watermarks(usize::from(self.overlay.k).min(self.nodes.len()))
    }

    /// With K' observers, H' is the same share of them as H is of K. L' leaves room for as many faulty observers as
    /// the faulty minority can supply: they alone must not put a healthy member in flux, and it must be in flux when
    /// all others report it.
    fn watermarks(&self, k: usize) -> Watermarks {
        let Overlay { k: k_full, h, l } = self.overlay;
        let h = (k * usize::from(h)).div_ceil(usize::from(k_full)).min(k);
        let minority = self.nodes.len().saturating_sub(1) / 2;
        let l = (k + 1)
            .saturating_sub(minority)
            .max(usize::from(l).min(k))
            .min(h);
        Watermarks { k, h, l }
    }
}

/// The nearest place before `at` on a ring that is not excluded.
fn predecessor(order: &[(u64, u32)], at: usize, excluded: impl Fn(u32) -> bool) -> Option<u32> {
    let (after, before) = (order[..at].iter().rev(), order[at..].iter().rev());
    after
        .chain(before)
        .map(|entry| entry.1)
        .find(|place| !excluded(*place))
}

fn ring_hash(ring: u8, node: NodeId) -> u64 {
    order_of(0x5269_6e67, u128::from(ring), node.0)
}

#[cfg(test)]
mod tests;
