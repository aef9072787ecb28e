//! When a replica runs for election.
//!
//! raft-rs draws its time-outs from the thread's random numbers at each change of role or term.
//! Ours come from the seed, and are set again after every call into raft-rs, so that one seed gives
//! one history. And raft-rs counts ticks, which come late and in bursts on a busy machine: whether a
//! voter may vote or campaign is decided by [`Guard`], on the monotonic clock.
//!
//! Lots are drawn where nobody knows more. When the connection to the leader's node breaks, its process is
//! most likely gone: then the voters take turns, right behind the end of their promises.

use synod_storage::{Micros, ReplicaId, ShardId};

/// A small, fast, well-mixed generator (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// One stream for each group of each start of each node.
    pub(crate) fn new(seed: u64, shard: ShardId, replica: ReplicaId) -> Random {
        let mut random = Random { state: seed };
        random.state ^= random.next().wrapping_add(shard.0);
        random.state ^= random.next().wrapping_add(replica.0);
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A value of `low..high`; the bias of the modulus is far below what an election feels.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }
}

/// Until when a voter refuses every candidate, itself included.
///
/// A leader's lease assumes that each voter that acknowledged a heartbeat round keeps this promise
/// on its own clock; `Config` ties the two durations together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    until: Micros,
    restart_until: Micros,
}

impl Guard {
    /// A voter that never promised anything.
    pub(crate) fn none() -> Guard {
        Guard {
            until: Micros(0),
            restart_until: Micros(0),
        }
    }

    /// A voter that may have promised something, to anybody, just before it was restarted.
    pub(crate) fn restarted(now: Micros, guard_us: u64) -> Guard {
        let until = Micros(now.0 + guard_us);
        Guard {
            until,
            restart_until: until,
        }
    }

    /// It heard from a leader.
    pub(crate) fn promise(&mut self, now: Micros, guard_us: u64) {
        self.until = self.until.max(Micros(now.0 + guard_us));
    }

    /// Whether it may vote and campaign.
    pub(crate) fn is_over(&self, now: Micros) -> bool {
        now >= self.until
    }

    /// Whether it may still be bound by a promise that it has forgotten.
    pub(crate) fn is_restart(&self, now: Micros) -> bool {
        now < self.restart_until
    }
}
