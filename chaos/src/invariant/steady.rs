//! Steadiness: without an order, a shard changes its leader only after an election time-out (Ongaro and
//! Ousterhout, section 5.6: the broadcast time is far below the election time-out). Nodes that hand
//! leadership to each other, again and again, break no promise, and serve nobody meanwhile.

use std::collections::{BTreeMap, VecDeque};

/// Within so long,
const WINDOW_US: u64 = 2_000_000;
/// so many changes can be explained by elections, and by a few orders.
const CHANGES_MAX: usize = 15;

#[derive(Debug, Default)]
pub(super) struct Steady {
    /// By shard: when the last leaders were new.
    changes: BTreeMap<u64, VecDeque<u64>>,
}

impl Steady {
    /// A shard has a new leader.
    pub(super) fn changed(&mut self, shard: u64, now_us: u64) -> Result<(), String> {
        let changes = self.changes.entry(shard).or_default();
        changes.push_back(now_us);
        while changes
            .front()
            .is_some_and(|at_us| at_us + WINDOW_US < now_us)
        {
            changes.pop_front();
        }
        match changes.len() > CHANGES_MAX {
            true => Err(format!(
                "shard {shard} had {} leaders within {} ms",
                changes.len(),
                WINDOW_US / 1000
            )),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_that_is_handed_to_and_fro_is_found() {
        let mut steady = Steady::default();
        for election in 0..100 {
            assert_eq!(steady.changed(1, election * 300_000), Ok(()));
        }
        let begin_us = 40_000_000;
        let found = (0..20).any(|turn| steady.changed(1, begin_us + turn * 30_000).is_err());
        assert!(found);
    }
}
