//! One command under way: its parts, and what each of them came to.

use synod_storage::ShardId;
use synod_txn::Reply;
use synod_txn::Stream;
use synod_txn::{Class, Command};
use synod_txn::{Merge, Split};

use super::handle::SessionId;

/// A part of a command, for one shard.
#[derive(Debug)]
pub(super) struct PartOf {
    pub(super) shard: ShardId,
    pub(super) epoch: u64,
    pub(super) command: Command,
    pub(super) state: PartState,
    pub(super) attempts: u32,
}

/// Where a part stands.
#[derive(Debug)]
pub(super) enum PartState {
    /// Under this request id; its outcome is open.
    Sent(u64),
    /// Certainly without effect so far; to be sent again.
    Resting,
    /// Answered for good.
    Answered(Reply),
}

/// A command that was started.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) session: SessionId,
    pub(super) place: u64,
    /// The whole command, for another start.
    pub(super) command: Command,
    pub(super) class: Class,
    pub(super) parts: Vec<PartOf>,
    merge: Merge,
    pub(super) stream: Stream,
    pub(super) deadline_us: u64,
}

impl Operation {
    pub(super) fn new(
        session: SessionId,
        place: u64,
        command: Command,
        class: Class,
        split: Split,
        stream: Stream,
        deadline_us: u64,
    ) -> Self {
        let parts = split
            .parts
            .into_iter()
            .map(|part| PartOf {
                shard: part.shard,
                epoch: part.epoch,
                command: part.command,
                state: PartState::Resting,
                attempts: 0,
            })
            .collect();
        Self {
            session,
            place,
            command,
            class,
            parts,
            merge: split.merge,
            stream,
            deadline_us,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.parts
            .iter()
            .all(|part| matches!(part.state, PartState::Answered(_)))
    }

    /// The most attempts of any part.
    pub(super) fn attempts(&self) -> u32 {
        self.parts
            .iter()
            .map(|part| part.attempts)
            .max()
            .unwrap_or(0)
    }

    /// The parts' replies as one. Parts that are not answered count as nothing: call it when all
    /// are.
    pub(super) fn reply(self) -> Reply {
        let replies = self
            .parts
            .into_iter()
            .filter_map(|part| match part.state {
                PartState::Answered(reply) => Some(reply),
                PartState::Sent(_) | PartState::Resting => None,
            })
            .collect();
        self.merge.finish(replies)
    }
}
