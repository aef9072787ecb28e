//! Disk work as data: a job is taken from the store, stepped to its end by a driver, given back.
//!
//! The store itself never touches a disk after it is open. What it wants done comes out as jobs, each
//! a state machine whose step makes at most a few disk operations. A real driver steps a job on the
//! thread of its lane ([`driver`](crate::driver)); a simulated one is a task that sleeps between two
//! steps, so that a crash can fall between any two disk operations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::Work;

/// Which of the node's few I/O threads a job belongs to. Jobs of one lane are run one after another,
/// in the order in which they came out of [`Store::take_jobs`](crate::Store::take_jobs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Writes and syncs of the log: what acknowledgements wait for.
    Log,
    /// Checkpoints, reclaim, snapshots, scrubbing: niced.
    Background,
    /// Point reads and scans that missed memory.
    Read,
}

/// Whether a job is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// Step it again.
    Again,
    /// Give it back with [`Store::complete`](crate::Store::complete), also when it failed: it carries
    /// its error.
    Done,
}

/// A piece of disk work.
#[derive(Debug)]
pub struct Job {
    pub(crate) lane: Lane,
    pub(crate) work: Work,
    pub(crate) urgent: Arc<AtomicBool>,
}

impl Job {
    /// The lane to run it on.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// Whether memory waits for the background work: then it is run without pauses.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// Does a little of the work: a write, a sync, a chunk. Blocks on a real disk. Never panics on
    /// what the disk says or holds.
    pub fn step(&mut self) -> JobStep {
        self.work.step()
    }
}
