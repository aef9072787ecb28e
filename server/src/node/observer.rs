//! What a simulator may see of a node, and never changes: who leads, what is committed, how long
//! queues are. Production runs without one. The invariants of `chaos` stand on it.

use synod_storage::{Entry, ShardId};

/// Something that can be seen of a node.
#[derive(Debug)]
pub enum Observation<'a> {
    /// The node's replica of a shard leads in this term.
    Leads {
        /// The shard.
        shard: ShardId,
        /// The term.
        term: u64,
    },
    /// Entries were committed, and are about to be applied here.
    Committed {
        /// The shard.
        shard: ShardId,
        /// The entries, in order.
        entries: &'a [Entry],
    },
    /// A snapshot took the place of the replica's state.
    SnapshotInstalled {
        /// The shard.
        shard: ShardId,
    },
    /// How much waits in one of the node's queues, seen at every tick.
    Queue {
        /// Which.
        name: &'static str,
        /// What waits there.
        length: usize,
    },
}

/// Takes note of what it is shown.
pub trait Observer: Send + Sync {
    /// Called from the node's loop: must not block.
    fn observe(&self, seen: &Observation<'_>);
}
