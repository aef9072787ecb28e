//! The event queue: what happens next.
//!
//! An hour of 1,000 nodes is some hundred million events, and nearly all of them are due within a
//! second of being scheduled (messages, probe time-outs). A plain binary heap spends most of
//! the run sifting. So time is cut into slots of 256 µs; a wheel of unsorted slots holds the next
//! second, one small heap orders the slot that is being drained, and a big heap holds the far future.
//! Nine of ten events are messages, and while all links have one delay they are due in the order in
//! which they were sent: these stand in a lane, and are not sorted at all.
//!
//! Two events of the same instant come out in the order in which they were scheduled: a run is a
//! function of its scenario and seed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Microseconds of one slot, as a power of two.
const SLOT_BITS: u32 = 8;
/// Slots in the wheel; with [`SLOT_BITS`], a horizon of about a second.
const SLOTS: u64 = 4096;

struct Entry<T> {
    at_us: u64,
    order: u64,
    item: T,
}

impl<T> Entry<T> {
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.at_us, self.order)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    /// Reversed, since the standard heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// A queue of `T` by time.
///
/// Invariants: `lane` is in order. Of all others, `current` holds the entries of slots up to `slot`;
/// `wheel[s % SLOTS]` those of slot `s` for `slot < s < slot + SLOTS`; `far` the rest. Nothing is
/// scheduled before the last `pop`.
pub struct EventQueue<T> {
    lane: VecDeque<Entry<T>>,
    current: BinaryHeap<Entry<T>>,
    wheel: Vec<Vec<Entry<T>>>,
    in_wheel: usize,
    far: BinaryHeap<Entry<T>>,
    slot: u64,
    scheduled: u64,
    now_us: u64,
}

impl<T> EventQueue<T> {
    /// An empty queue at time 0.
    pub fn new() -> EventQueue<T> {
        EventQueue {
            lane: VecDeque::new(),
            current: BinaryHeap::new(),
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            in_wheel: 0,
            far: BinaryHeap::new(),
            slot: 0,
            scheduled: 0,
            now_us: 0,
        }
    }

    fn entry(&mut self, at_us: u64, item: T) -> Entry<T> {
        let order = self.scheduled;
        self.scheduled += 1;
        let at_us = at_us.max(self.now_us);
        Entry { at_us, order, item }
    }

    /// Schedules `item`, as [`EventQueue::push`] does; cheaper, if what is scheduled so is mostly due in the order in
    /// which it is scheduled.
    #[inline]
    pub fn push_in_order(&mut self, at_us: u64, item: T) {
        let entry = self.entry(at_us, item);
        match self.lane.back() {
            Some(last) if last.at_us > entry.at_us => self.insert(entry),
            Some(_) | None => self.lane.push_back(entry),
        }
    }

    /// Schedules `item`. The past counts as now.
    #[inline]
    pub fn push(&mut self, at_us: u64, item: T) {
        let entry = self.entry(at_us, item);
        self.insert(entry);
    }

    #[inline]
    fn insert(&mut self, entry: Entry<T>) {
        let slot = entry.at_us >> SLOT_BITS;
        if slot <= self.slot {
            self.current.push(entry);
        } else if slot - self.slot < SLOTS {
            self.wheel[(slot % SLOTS) as usize].push(entry);
            self.in_wheel += 1;
        } else {
            self.far.push(entry);
        }
    }

    /// The next event and its time, unless it is due after `until_us`.
    #[inline]
    pub fn pop(&mut self, until_us: u64) -> Option<(u64, T)> {
        let laned = self.lane.front().map(Entry::key);
        let horizon_us = laned.map_or(until_us, |(at_us, _)| at_us.min(until_us));
        while self.current.is_empty() && self.advance(horizon_us).is_some() {}
        let sorted = self.current.peek().map(Entry::key);
        let in_lane = match (laned, sorted) {
            (Some(laned), Some(sorted)) => laned < sorted,
            (laned, _) => laned.is_some(),
        };
        let (at_us, _) = if in_lane { laned } else { sorted }?;
        if at_us > until_us {
            return None;
        }
        let entry = if in_lane {
            self.lane.pop_front()
        } else {
            self.current.pop()
        }?;
        assert!(entry.at_us >= self.now_us, "time ran backwards");
        self.now_us = entry.at_us;
        Some((entry.at_us, entry.item))
    }

    /// Opens the next slot that holds something; `None` when there is none until `until_us`.
    fn advance(&mut self, until_us: u64) -> Option<()> {
        let last = until_us >> SLOT_BITS;
        if self.in_wheel == 0 {
            // Nothing for a second: jump.
            let next = self.far.peek()?.at_us >> SLOT_BITS;
            if next > last {
                return None;
            }
            self.slot = next.max(self.slot + 1);
        } else {
            if self.slot >= last {
                return None;
            }
            self.slot += 1;
        }
        let opened = &mut self.wheel[(self.slot % SLOTS) as usize];
        self.in_wheel -= opened.len();
        self.current.extend(opened.drain(..));
        while self
            .far
            .peek()
            .is_some_and(|entry| entry.at_us >> SLOT_BITS <= self.slot)
        {
            self.current.extend(self.far.pop());
        }
        Some(())
    }
}

impl<T> Default for EventQueue<T> {
    fn default() -> Self {
        EventQueue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    /// Twin: the queue agrees with a sorted list, for near, far and simultaneous events alike, in the lane or not.
    #[test]
    fn gives_what_a_sorted_list_gives() {
        let mut rng = Rng::new(3, 0);
        let mut queue = EventQueue::new();
        let mut model: Vec<(u64, u64)> = Vec::new();
        let (mut now, mut id) = (0, 0);
        for _ in 0..20_000 {
            if rng.chance(0.55) {
                let ahead = match rng.below(4) {
                    0 => 0,
                    1 => rng.below(2_000),
                    2 => rng.below(1_500_000),
                    _ => rng.below(30_000_000),
                };
                match rng.below(3) {
                    0 => queue.push(now + ahead, id),
                    1 => queue.push_in_order(now + ahead, id),
                    // What the lane is for.
                    _ => {
                        queue.push_in_order(now + 1_000, id);
                        model.push((now + 1_000, id));
                        id += 1;
                        continue;
                    }
                }
                model.push((now + ahead, id));
                id += 1;
            } else {
                model.sort_unstable();
                let until = now + rng.below(5_000_000);
                let expected = model.first().copied().filter(|first| first.0 <= until);
                assert_eq!(queue.pop(until), expected);
                if let Some((at, _)) = expected {
                    model.remove(0);
                    now = at;
                }
            }
        }
    }
}
