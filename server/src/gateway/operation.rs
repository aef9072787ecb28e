//! One command under way on one shard.

use synod_storage::ShardId;
use synod_txn::{Class, Command, Merge, Reply};

/// A command that was started.
#[derive(Debug)]
pub(super) struct Operation {
    /// The command, for another start.
    pub(super) command: Command,
    pub(super) class: Class,
    pub(super) shard: ShardId,
    pub(super) merge: Merge,
    pub(super) deadline_us: u64,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// The request that carries it.
    pub(super) sent: Option<u64>,
}

impl Operation {
    /// What the client is told when the shard has answered.
    pub(super) fn reply(self, reply: Reply) -> Reply {
        self.merge.finish(vec![reply])
    }
}
