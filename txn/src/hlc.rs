//! The hybrid logical clock: versions that follow causality, and stay near the wall clock.
//!
//! A [`Version`] holds milliseconds since the Unix epoch in its upper 44 bits and a counter in its
//! lower 20. Every message between nodes carries the sender's clock and the receiver merges it, so
//! whatever happened after the message has a greater version than whatever happened before it.
//! Nothing in the protocol depends on the milliseconds being right: a far-ahead clock costs
//! freshness of closed timestamps and early expiry, never safety.

use synod_storage::Version;

/// Bits of the counter within a millisecond.
const COUNTER_BITS: u32 = 20;

/// The clock of one node.
///
/// Invariant: `last` never decreases, and every version handed out is greater than all that were
/// handed out or merged before.
#[derive(Clone, Debug)]
pub struct Hlc {
    last: Version,
}

impl Default for Hlc {
    fn default() -> Self {
        Hlc {
            last: Version::ZERO,
        }
    }
}

impl Hlc {
    /// A new version, greater than any before it, at least the wall clock's `wall_ms`.
    ///
    /// # Panics
    /// When the clock is exhausted, which takes a peer that invents versions of the year 2527.
    pub fn tick(&mut self, wall_ms: u64) -> Version {
        let after_last = self
            .last
            .0
            .checked_add(1)
            .expect("the hybrid clock is exhausted");
        self.last = Version(after_last.max(floor_of(wall_ms).0));
        self.last
    }

    /// The present reading: what the next version will be greater than.
    pub fn read(&mut self, wall_ms: u64) -> Version {
        self.last = self.last.max(floor_of(wall_ms));
        self.last
    }

    /// Merges a version that another node, or an applied entry, has shown.
    pub fn merge(&mut self, seen: Version) {
        self.last = self.last.max(seen);
    }

    /// The greatest version handed out or merged.
    pub fn last(&self) -> Version {
        self.last
    }
}

/// The first version of a millisecond.
pub fn floor_of(wall_ms: u64) -> Version {
    Version(wall_ms.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
}

/// The millisecond of a version, since the Unix epoch.
pub fn wall_ms_of(version: Version) -> u64 {
    version.0 >> COUNTER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_when_the_wall_clock_stands_or_steps_back() {
        let mut clock = Hlc::default();
        let mut last = Version::ZERO;
        for wall_ms in [1000, 1000, 999, 0, 2000, 1999] {
            let version = clock.tick(wall_ms);
            assert!(version > last);
            last = version;
        }
        assert_eq!(wall_ms_of(last), 2000);
    }

    #[test]
    fn a_merged_version_is_before_all_later_ones() {
        let mut clock = Hlc::default();
        clock.tick(1000);
        let seen = floor_of(5000);
        clock.merge(seen);
        assert!(clock.tick(1001) > seen);
    }
}
