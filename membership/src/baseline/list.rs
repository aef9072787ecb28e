//! A node's own list of members, reported as if each change were a view.

use crate::sim::protocol::{Install, Outbox};
use crate::sim::rng::split_mix;

/// The list. The node itself is always on it.
///
/// Invariant: `size` and `hash` are those of the set of all nodes with `present`.
pub struct MemberList {
    present: Vec<bool>,
    size: u32,
    hash: u128,
    seq: u64,
}

/// What a change did to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Joined,
    /// It is gone.
    Removed,
    /// It is another incarnation.
    Restarted,
}

impl MemberList {
    /// The list of a node that knows itself and `others`.
    pub fn new(nodes: u32, me: u32, others: impl IntoIterator<Item = u32>) -> MemberList {
        let mut list = MemberList {
            present: vec![false; nodes as usize],
            size: 0,
            hash: 0,
            seq: 0,
        };
        for node in others.into_iter().chain([me]) {
            list.set(node, true);
        }
        list
    }

    fn set(&mut self, node: u32, present: bool) -> bool {
        let slot = &mut self.present[node as usize];
        let changed = *slot != present;
        if changed {
            *slot = present;
            self.size = if present {
                self.size + 1
            } else {
                self.size - 1
            };
            // A set's hash has no order: members go in and out by exclusive or.
            let low = split_mix(node.into());
            self.hash ^= (u128::from(split_mix(low)) << 64) | u128::from(low);
        }
        changed
    }

    /// Whether a node is on the list.
    #[inline]
    pub fn contains(&self, node: u32) -> bool {
        self.present[node as usize]
    }

    /// How many there are.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The members in the order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0..self.present.len() as u32).filter(|node| self.contains(*node))
    }

    /// Reports the list as it is now.
    pub fn report<M, R>(&self, out: &mut Outbox<M, R>) {
        out.install(self.install(Vec::new(), Vec::new(), Vec::new()));
    }

    /// Applies and reports a change, if it is one.
    pub fn change<M, R>(&mut self, node: u32, change: Change, out: &mut Outbox<M, R>) {
        let install = match change {
            Change::Joined if self.set(node, true) => {
                self.seq += 1;
                self.install(vec![node], Vec::new(), Vec::new())
            }
            Change::Removed if self.set(node, false) => {
                self.seq += 1;
                self.install(Vec::new(), vec![node], Vec::new())
            }
            Change::Restarted if self.contains(node) => {
                self.seq += 1;
                self.install(Vec::new(), Vec::new(), vec![node])
            }
            Change::Joined | Change::Removed | Change::Restarted => return,
        };
        out.install(install);
    }

    fn install(&self, joined: Vec<u32>, removed: Vec<u32>, restarted: Vec<u32>) -> Install {
        let (seq, hash, size) = (self.seq, self.hash, self.size);
        Install {
            seq,
            hash,
            size,
            joined,
            removed,
            restarted,
            adopted: false,
        }
    }
}
