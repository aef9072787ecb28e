//! Settings of a node's replication, and the arithmetic that ties its time-outs together.
//!
//! Three durations carry safety, all derived from the election time-out so that they cannot be
//! set apart:
//!
//! - a voter that heard from a leader refuses every other candidate, itself included, for one
//!   **guard** = the election time-out, on its own monotonic clock;
//! - a leader holds its **lease** for the guard less the greatest clock drift, counted from the
//!   moment it *sent* the heartbeat round that a quorum acknowledged. The send comes before the
//!   voters' receipt, and drift is bounded, so the lease ends before any guard does;
//! - a **restarted** voter has forgotten whom it heard from, so it neither votes nor campaigns for
//!   one guard.

use crate::identity::{Incarnation, NodeId};

/// How a leader proves, before it answers a read, that it still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// By a lease where one is held, else by a quorum round. Assumes a bounded clock *rate*
    /// ([`Config::clock_drift_percent`]).
    Lease,
    /// By a quorum round, always. Assumes nothing about clocks.
    Quorum,
}

/// Settings of one node. Durations are in milliseconds of the node's monotonic clock.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Seeds the election time-outs; nothing else here is random.
    pub seed: u64,
    /// How often the node sends [`crate::Event::Tick`].
    pub tick_ms: u64,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before an election, at least; at most twice as many.
    pub election_ticks: u32,
    /// How reads prove leadership.
    pub reads: Reads,
    /// The greatest difference between the *rates* of two nodes' clocks that a lease survives.
    pub clock_drift_percent: u32,
    /// A group without proposals for this long asks its members whether it may go quiet.
    pub quiet_after_ms: u64,
    /// A read that no quorum confirmed in this time fails with [`crate::ReadFailure::TimedOut`].
    pub read_timeout_ms: u64,
    /// Bytes of entries in one append message.
    pub append_bytes_max: u64,
    /// Append messages in flight to one follower.
    pub appends_in_flight_max: u32,
    /// Bytes of a group's proposals that are not yet committed; beyond it `propose` is refused.
    pub uncommitted_bytes_max: u64,
    /// The same over all groups of the node.
    pub uncommitted_node_bytes_max: u64,
    /// Bytes of committed entries handed out in one flush of one group.
    pub committed_bytes_max: u64,
    /// Bytes of one proposal. Larger ones are refused for ever.
    pub entry_bytes_max: u64,
    /// Snapshot chunks in flight to one follower.
    pub snapshot_chunks_in_flight_max: u32,
    /// Snapshots that this node sends at one time, over all groups.
    pub snapshots_out_max: u32,
    /// A snapshot transfer without progress for this long is given up, and begins anew.
    pub snapshot_timeout_ms: u64,
}

impl Config {
    /// The defaults for `node`: heartbeats each 100 ms, elections after 600 to 1200 ms of
    /// silence, a lease of 540 ms.
    pub fn new(node: NodeId, incarnation: Incarnation, seed: u64) -> Config {
        Config {
            node,
            incarnation,
            seed,
            tick_ms: 20,
            heartbeat_ticks: 5,
            election_ticks: 30,
            reads: Reads::Lease,
            clock_drift_percent: 10,
            quiet_after_ms: 3_000,
            read_timeout_ms: 2_000,
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 256,
            uncommitted_bytes_max: 16 << 20,
            uncommitted_node_bytes_max: 64 << 20,
            committed_bytes_max: 4 << 20,
            entry_bytes_max: 17 << 20,
            snapshot_chunks_in_flight_max: 4,
            snapshots_out_max: 2,
            snapshot_timeout_ms: 10_000,
        }
    }

    /// Microseconds between two ticks.
    pub(crate) fn tick_us(&self) -> u64 {
        self.tick_ms * 1_000
    }

    /// Microseconds for which a voter that heard from a leader refuses other candidates.
    pub(crate) fn guard_us(&self) -> u64 {
        u64::from(self.election_ticks) * self.tick_us()
    }

    /// Microseconds of a lease, from the send time of the round that renewed it.
    pub(crate) fn lease_us(&self) -> u64 {
        let drift = u64::from(self.clock_drift_percent.min(100));
        self.guard_us() / 100 * (100 - drift)
    }

    /// A node whose groups sleep under this one has a sign of life with one heartbeat in so many. Three
    /// fit into a guard, after which silence wakes them: two may be late.
    pub(crate) fn heartbeats_a_sign(&self) -> u64 {
        u64::from(self.election_ticks / self.heartbeat_ticks / 3).max(1)
    }

    /// Microseconds between two heartbeats of a leader.
    pub(crate) fn heartbeat_us(&self) -> u64 {
        u64::from(self.heartbeat_ticks) * self.tick_us()
    }

    /// Panics on settings that no edge may let through: they are checked where they are read.
    pub(crate) fn assert_valid(&self) {
        assert!(self.tick_ms > 0 && self.heartbeat_ticks > 0);
        assert!(
            self.election_ticks >= 3 * self.heartbeat_ticks,
            "elections need lost heartbeats"
        );
        assert!(self.clock_drift_percent < 100);
        assert!(self.entry_bytes_max <= self.uncommitted_node_bytes_max);
        assert!(self.appends_in_flight_max > 0 && self.append_bytes_max > 0);
    }
}
