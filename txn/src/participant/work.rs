//! Tasks that cannot be evaluated at once.

use std::collections::BTreeSet;

use bytes::Bytes;
use synod_storage::{KeyRange, Micros, Version};

use super::event::{Batch, Token};
use super::latch::{Latch, WorkId};
use super::reads::Held;
use crate::command::Command;
use crate::reply::Reply;
use crate::transaction::{AttemptId, TxnRequest};
use crate::value::Value;
use crate::wire::{Outcome, Stream};

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// A command.
    Command(Command),
    /// A part of a transaction.
    Txn(TxnRequest),
}

/// Who wants to know what became of a work.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A request: it is answered what the task says.
    Request {
        /// The request.
        token: Token,
        /// Its stream.
        stream: Stream,
    },
    /// A request that is answered something already known, once this work is done: a range that met
    /// expired values, which had to be deleted first.
    Known {
        /// The request.
        token: Token,
        /// Its stream.
        stream: Stream,
        /// The answer.
        outcome: Outcome,
    },
    /// A scan that goes on when this work is done.
    Scan(WorkId),
    /// The leader itself.
    Nobody,
}

impl Asker {
    /// The answer to whoever asked, if that was a request. What was known for it holds no longer.
    pub(super) fn held(self, outcome: Outcome) -> Option<Held> {
        match self {
            Asker::Request { token, stream } | Asker::Known { token, stream, .. } => Some(Held {
                token,
                stream,
                outcome,
            }),
            Asker::Scan(_) | Asker::Nobody => None,
        }
    }
}

/// A task that waits for latches, for locks, for the disk, or for a batch.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Who asked.
    pub(super) asker: Asker,
    /// The task.
    pub(super) task: Task,
    /// The latches that it holds or waits for.
    pub(super) latches: Vec<Latch>,
    /// In how many queues it is not first yet.
    pub(super) behind: usize,
    /// How far it is.
    pub(super) stage: Stage,
}

/// What a work waits for.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// For its turn in its stream.
    Stream,
    /// For another transaction to let go of a lock. It holds no latch of a key meanwhile, so that
    /// whoever holds the lock can go on.
    Parked {
        /// Since when.
        since: Micros,
    },
    /// For the latches of its keys.
    Latching,
    /// A task on keys, with all its latches: for values that are being read.
    Point {
        /// One slot for each key that the task reads, in order.
        slots: Vec<Slot>,
    },
    /// A command on a range.
    Scan(Box<ScanState>),
}

/// A key's value, as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// Being read from the disk.
    Pending(synod_storage::ReadId),
    /// Known, with the batch that it waits for.
    Known {
        /// The value; deadlines are not looked at yet.
        value: Option<Value>,
        /// Its version, or that of its deletion if that is known, else zero.
        version: Version,
        /// The batch that it is part of; zero if it is applied.
        batch: Batch,
    },
}

/// A walk through a range, page by page, at one version.
#[derive(Clone, Debug)]
pub(super) struct ScanState {
    /// What was asked.
    pub(super) command: Command,
    /// The version that is read; everything at or below it was applied before the first page.
    pub(super) at: Version,
    /// Attempts that are about to write in the range, and have to be over before the walk begins.
    pub(super) writers: BTreeSet<AttemptId>,
    /// The walk begins when this batch is applied.
    pub(super) needs: Batch,
    /// The shard's range when the walk began.
    pub(super) whole: KeyRange,
    /// What was to be walked through; less, once it is clear that a part of it will do.
    pub(super) asked: KeyRange,
    /// What of the range is left; `None` at the end.
    pub(super) rest: Option<KeyRange>,
    /// What the walk has found.
    pub(super) found: Vec<Reply>,
    /// Bytes of what was found.
    pub(super) found_bytes: usize,
    /// Rows found, for the limit and for counting.
    pub(super) rows: u64,
    /// Keys past their deadline.
    pub(super) expired: Vec<Bytes>,
    /// For `SCAN`: what the walk is after.
    pub(super) goal: ScanGoal,
}

/// What a walk is after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScanGoal {
    /// Rows.
    Rows,
    /// The place that a cursor names; rows from there on.
    Place(u64),
    /// The last key that was looked at, where a `SCAN` page ended.
    Ended(Bytes),
}
