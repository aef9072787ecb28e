//! What a simulator may see of a node, and never changes: who leads, what is committed, who carries
//! which shard, who is a member, how long queues are. Production runs without one. The invariants of
//! `chaos` stand on it.

use synod_membership::configuration::Configuration;
use synod_storage::{Entry, ShardId};
use synod_txn::ShardDescriptor;

use super::turn::Node;

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
    /// Entries were committed to a shard, in this order, and are about to be applied here.
    Committed(ShardId, &'a [Entry]),
    /// A snapshot took the place of the replica's state.
    SnapshotInstalled(ShardId),
    /// A replica applied a new description of its shard: who carries it, and which keys it has.
    Described(&'a ShardDescriptor),
    /// The members in force here, seen at every tick.
    View(&'a Configuration),
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

impl Node {
    /// Shows something to who looks on.
    pub(super) fn observe(&self, seen: &Observation<'_>) {
        if let Some(observer) = &self.observer {
            observer.observe(seen);
        }
    }

    /// Shows which members are in force, and how much waits.
    pub(super) fn observe_tick(&self) {
        if let Some(view) = self.membership.view() {
            self.observe(&Observation::View(view));
        }
        for (name, length) in [
            ("requests under way", self.tokens.len()),
            ("confirmations", self.confirmations.len()),
            ("sessions", self.outboxes.len()),
        ] {
            self.observe(&Observation::Queue { name, length });
        }
    }
}
