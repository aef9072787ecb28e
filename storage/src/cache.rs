//! A bounded cache of values that were read from disk.
//!
//! It holds the newest version of a key or nothing: apply takes a key out before it changes. Eviction
//! is by the clock algorithm: one bit per entry, set when it is read.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::Version;

#[derive(Debug)]
struct Slot {
    version: Version,
    /// `None` for a key that has no value, and when it lost it.
    value: Option<Bytes>,
    /// Which item of the queue is this slot's.
    stamp: u64,
    referenced: bool,
}

/// What a cached key costs besides its bytes.
const SLOT_OVERHEAD_BYTES: usize = 160;

/// The cache. The map is never walked, so its order does not matter.
///
/// Invariant: `bytes` is the sum over all slots.
#[derive(Debug)]
pub(crate) struct ValueCache {
    slots: HashMap<Bytes, Slot>,
    clock: VecDeque<(Bytes, u64)>,
    bytes: usize,
    bytes_max: usize,
    next_stamp: u64,
}

fn cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    SLOT_OVERHEAD_BYTES + key.len() + value.map_or(0, Bytes::len)
}

impl ValueCache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            slots: HashMap::new(),
            clock: VecDeque::new(),
            bytes: 0,
            bytes_max,
            next_stamp: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest version of a key and its value, if they are known.
    pub fn get(&mut self, key: &[u8]) -> Option<(Version, Option<Bytes>)> {
        let slot = self.slots.get_mut(key)?;
        slot.referenced = true;
        Some((slot.version, slot.value.clone()))
    }

    /// Remembers the newest version of a key.
    pub fn insert(&mut self, key: &Bytes, version: Version, value: Option<Bytes>) {
        let added = cost(key, value.as_ref());
        if added > self.bytes_max / 8 {
            return;
        }
        self.remove(key);
        // A key of its own: the caller's may be a slice of something large.
        let key = Bytes::copy_from_slice(key);
        self.next_stamp += 1;
        let stamp = self.next_stamp;
        self.clock.push_back((key.clone(), stamp));
        self.slots.insert(
            key,
            Slot {
                version,
                value,
                stamp,
                referenced: false,
            },
        );
        self.bytes += added;
        while self.bytes > self.bytes_max {
            self.evict_one();
        }
    }

    fn evict_one(&mut self) {
        let Some((key, stamp)) = self.clock.pop_front() else {
            return;
        };
        match self.slots.get_mut(&key) {
            Some(slot) if slot.stamp == stamp && slot.referenced => {
                slot.referenced = false;
                self.clock.push_back((key, stamp));
            }
            Some(slot) if slot.stamp == stamp => self.remove(&key),
            Some(_) | None => {}
        }
    }

    /// Forgets a key: it is about to change.
    pub fn remove(&mut self, key: &[u8]) {
        if self.slots.is_empty() {
            return;
        }
        if let Some((key, slot)) = self.slots.remove_entry(key) {
            self.bytes -= cost(&key, slot.value.as_ref());
        }
        if self.clock.len() > 64 + 2 * self.slots.len() {
            let slots = &self.slots;
            self.clock
                .retain(|(key, stamp)| slots.get(key).is_some_and(|slot| slot.stamp == *stamp));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.clock.clear();
        self.bytes = 0;
    }
}
