//! Latches: who may look at a key next, in order of arrival.
//!
//! A latch is short: it is held while a command waits for the disk, never while it waits for
//! consensus or for another transaction. Each key has a queue; a command enters the queues of all
//! its keys at once and runs when it stands at the head of every one. Since all enter at once, in
//! one order, nobody waits in a circle; since queues are first in, first out, nobody starves.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// A command that waits for latches or for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WorkId(pub(super) u64);

/// What can be latched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Latch {
    /// A key.
    Key(Bytes),
    /// A client's pipeline: its commands are evaluated in order.
    Stream(u64),
}

/// The queues.
///
/// Invariants: no queue is empty; a work stands in each queue at most once.
#[derive(Clone, Debug, Default)]
pub(super) struct Latches {
    queues: BTreeMap<Latch, VecDeque<WorkId>>,
}

impl Latches {
    /// Whether nobody holds or waits for a latch.
    pub(super) fn is_free(&self, latch: &Latch) -> bool {
        !self.queues.contains_key(latch)
    }

    /// Whether no latch is held at all.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Enters the queues of `latches`, which are distinct. In how many `work` is not first: it holds
    /// its latches when that many [`Latches::release`]s have named it.
    pub(super) fn enqueue(&mut self, work: WorkId, latches: &[Latch]) -> usize {
        let mut behind = 0;
        for latch in latches {
            let queue = self.queues.entry(latch.clone()).or_default();
            assert!(!queue.contains(&work), "a work enters a latch queue once");
            behind += usize::from(!queue.is_empty());
            queue.push_back(work);
        }
        behind
    }

    /// Leaves the queues of `latches`, at whose heads `work` stands. Names each work that is now
    /// first in one of them, once for each such queue.
    pub(super) fn release(&mut self, work: WorkId, latches: &[Latch], next: &mut Vec<WorkId>) {
        for latch in latches {
            let Some(queue) = self.queues.get_mut(latch) else {
                unreachable!("a held latch has a queue");
            };
            assert_eq!(
                queue.pop_front(),
                Some(work),
                "only its holder releases a latch"
            );
            match queue.front() {
                Some(first) => next.push(*first),
                None => {
                    self.queues.remove(latch);
                }
            }
        }
    }

    /// Leaves the queues of `latches`, wherever in them `work` stands. Names each work that is now first
    /// in one that this one was first in, once for each such queue.
    pub(super) fn leave(&mut self, work: WorkId, latches: &[Latch], next: &mut Vec<WorkId>) {
        for latch in latches {
            let Some(queue) = self.queues.get_mut(latch) else {
                unreachable!("a latch that is waited for has a queue");
            };
            let Some(place) = queue.iter().position(|it| *it == work) else {
                unreachable!("a work stands in the queues of its latches");
            };
            queue.remove(place);
            match queue.front() {
                Some(first) if place == 0 => next.push(*first),
                Some(_) => {}
                None => {
                    self.queues.remove(latch);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&'static str]) -> Vec<Latch> {
        names
            .iter()
            .map(|name| Latch::Key(Bytes::from_static(name.as_bytes())))
            .collect()
    }

    #[test]
    fn a_work_runs_when_it_is_first_everywhere_and_in_order_of_arrival() {
        let mut latches = Latches::default();
        let (a, b, c) = (WorkId(1), WorkId(2), WorkId(3));
        assert_eq!(latches.enqueue(a, &keys(&["x", "y"])), 0);
        assert_eq!(latches.enqueue(b, &keys(&["y", "z"])), 1);
        assert_eq!(latches.enqueue(c, &keys(&["x", "z"])), 2);
        let mut next = Vec::new();
        latches.release(a, &keys(&["x", "y"]), &mut next);
        assert_eq!(next, vec![c, b]);
        next.clear();
        latches.release(b, &keys(&["y", "z"]), &mut next);
        assert_eq!(next, vec![c]);
        latches.release(c, &keys(&["x", "z"]), &mut Vec::new());
        assert!(latches.is_empty());
    }

    #[test]
    fn a_work_that_leaves_makes_room_for_the_next_only_where_it_was_first() {
        let mut latches = Latches::default();
        let (a, b, c) = (WorkId(1), WorkId(2), WorkId(3));
        latches.enqueue(a, &keys(&["x"]));
        latches.enqueue(b, &keys(&["x", "y"]));
        latches.enqueue(c, &keys(&["x", "y"]));
        let mut next = Vec::new();
        latches.leave(b, &keys(&["x", "y"]), &mut next);
        assert_eq!(next, vec![c], "in y; in x another one is still first");
        next.clear();
        latches.leave(a, &keys(&["x"]), &mut next);
        assert_eq!(next, vec![c]);
        latches.leave(c, &keys(&["x", "y"]), &mut Vec::new());
        assert!(latches.is_empty());
    }
}
