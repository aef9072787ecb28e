//! The trace of a run, as one number: what happened, in which order, at which virtual time.
//!
//! Every frame between nodes, with its time, length and fate, every strike, and every operation of a
//! client go into it. Two runs of one seed and one build must have the same trace; if they do not,
//! something in the production code asks the outside world, and no failure could be replayed.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// The trace of a world. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Fnv>>);

impl Trace {
    /// Adds something that happened.
    pub fn add(&self, what: &impl Hash) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what.hash(&mut *sum);
    }

    /// The sum so far.
    pub fn sum(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

/// FNV-1a: the same in every build, unlike the standard library's hashers.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_matters() {
        let sum = |words: [&str; 2]| {
            let trace = Trace::default();
            words.iter().for_each(|word| trace.add(word));
            trace.sum()
        };
        assert_eq!(sum(["a", "b"]), sum(["a", "b"]));
        assert_ne!(sum(["a", "b"]), sum(["b", "a"]));
    }
}
