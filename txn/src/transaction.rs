//! The words of transactions: names, intents, requests and answers.
//!
//! A transaction is named by its age, so that any two can be put in order anywhere: the older one
//! waits, the younger one gives way (wait-die). Its name stays the same when it is started again; the
//! attempts are counted. Locks, records and tombstones are those of one attempt.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{KeyRange, ShardId, Version};

use crate::command::{Command, Key};
use crate::participant::LeftSide;
use crate::reply::Reply;
use crate::value::Value;

/// A transaction. The order is by age, then by coordinator: smaller is older.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct TxnId {
    /// The coordinator's clock, merged, when the transaction began for the first time.
    pub age: Version,
    /// The coordinator's node.
    pub node: NodeId,
    /// Unique on that node, over restarts of its process too.
    pub counter: u64,
}

/// One attempt at a transaction.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct AttemptId {
    /// The transaction.
    pub txn: TxnId,
    /// Counted from 1. The next one begins only when this one can no longer commit. Holds have numbers
    /// of their own.
    pub attempt: u32,
}

/// A transaction that has lost, and is begun again by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Its age: it has a new name each time, and is as old as it was.
    pub age: Version,
    /// How often it has lost.
    pub restarts: u32,
}

/// What became of an attempt.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All its writes stand at this version.
    Committed(Version),
    /// It has had no effect and never will.
    Aborted,
}

/// A key that was read, and what of: its version, or that there was none.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KeyRead {
    /// The key.
    pub key: Key,
    /// The version of its value; `None` if it had no value.
    pub version: Option<Version>,
}

/// A range that was read whole.
///
/// It is as it was read if no row in it is newer than `at` and there are as many as there were: the
/// rows are then a part of those that were read, and none is missing. So deletions need not be
/// remembered, however long ago it was read.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// Exactly the keys that were looked at, all of one shard.
    pub range: KeyRange,
    /// The version that was read at.
    pub at: Version,
    /// How many rows there were.
    pub rows: u64,
}

/// What a transaction wants of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Intent {
    /// Keys that must still be as they were read.
    pub reads: Vec<KeyRead>,
    /// Ranges that must still be as they were read.
    pub ranges: Vec<RangeRead>,
    /// Commands on this shard's keys, to be carried out here, in order, seeing each other's effects.
    pub commands: Vec<Command>,
    /// Keys, and what is to be stored under them, after the commands.
    pub writes: Vec<KeyWrite>,
    /// The client's name for the transaction; only for the shard of its home, which decides.
    pub token: Option<Bytes>,
    /// The transaction's name, if it has holds, which do not stand in its own way.
    pub holder: Option<TxnId>,
    /// What it has read in other shards, if it writes in this one alone; only of `Execute`.
    pub elsewhere: Option<Elsewhere>,
}

/// What a transaction has read in other shards than the one that it writes in.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The attempt, by whose name others wait for it.
    pub attempt: AttemptId,
    /// What was read, one of each shard.
    pub parts: Vec<ReadElsewhere>,
}

/// What a transaction has read in another shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadElsewhere {
    /// A key of the shard.
    pub key: Key,
    /// Keys that must still be as they were read.
    pub reads: Vec<KeyRead>,
    /// Ranges that must still be as they were read.
    pub ranges: Vec<RangeRead>,
}

/// A transaction that is about to write in another shard, and has its locks there.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Which: it waits for younger ones only.
    pub txn: TxnId,
    /// The version of its writes.
    pub version: Version,
}

/// A key and what is to be stored under it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key.
    pub key: Key,
    /// The value; `None` deletes.
    pub value: Option<Value>,
}

/// What is read of the past.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum SnapshotRead {
    /// The values of keys. Answered by `Values`.
    Keys(Vec<Key>),
    /// `RANGE`, `KEYS` or `DBSIZE`. Answered by `Walked`.
    Walk(Command),
}

/// A part of a transaction, for one shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum TxnRequest {
    /// The newest committed values.
    Read {
        /// The keys.
        keys: Vec<Key>,
    },
    /// What is in a range, at a version of the leader's choice.
    Walk {
        /// `RANGE`, `KEYS` or `DBSIZE`, on this shard's part of the range.
        command: Command,
    },
    /// Are these reads still what would be read now?
    Validate {
        /// Keys.
        reads: Vec<KeyRead>,
        /// Ranges.
        ranges: Vec<RangeRead>,
        /// Who will write elsewhere if they are: nothing is written here at or below its version any more.
        writer: Option<Writer>,
    },
    /// A transaction that writes in this shard only: carried out in one entry, when other shards have said
    /// that what it has read there still is so.
    Execute {
        /// What it wants.
        intent: Box<Intent>,
    },
    /// Lock, and nothing else, for a transaction that is about to read. Answered by `Done`.
    Hold {
        /// The hold.
        attempt: AttemptId,
        /// The coordinator's clock.
        begun: Version,
        /// Keys that nobody else is to write.
        keys: Vec<Key>,
        /// Ranges, all of this shard, in which nobody else is to write.
        ranges: Vec<KeyRange>,
    },
    /// The first phase: check, lock, and keep the writes ready.
    Prepare {
        /// The attempt.
        attempt: AttemptId,
        /// The coordinator's clock when it sent its first prepare.
        begun: Version,
        /// A key of the shard that decides.
        anchor: Key,
        /// At the anchor: a key of each participant, its own first; elsewhere nothing.
        spans: Vec<Key>,
        /// What it wants.
        intent: Box<Intent>,
    },
    /// To the anchor, when all others are prepared: the first phase and the second in one.
    Conclude {
        /// The attempt.
        attempt: AttemptId,
        /// As in the prepares.
        begun: Version,
        /// The largest version of the prepares.
        version: Version,
        /// A key of each participant, its own first.
        spans: Vec<Key>,
        /// What it wants.
        intent: Box<Intent>,
    },
    /// To the anchor: what became of the attempt? If it is prepared there, commit it; if it was never
    /// heard of, it never will be.
    Decide {
        /// The attempt.
        attempt: AttemptId,
        /// As in the prepare.
        begun: Version,
        /// The largest version of the prepares.
        version: Version,
    },
    /// To a participant: the verdict, so that it lets go of its locks.
    Resolve {
        /// The attempt.
        attempt: AttemptId,
        /// As in the prepare.
        begun: Version,
        /// The verdict.
        verdict: Verdict,
    },
    /// To the anchor, from anybody who met a lock: decide, if nothing is decided, by aborting.
    Recover {
        /// The attempt.
        attempt: AttemptId,
        /// As in the prepare.
        begun: Version,
    },
    /// To the home of a token: what became of it? If nothing did yet, nothing ever will.
    TokenStatus {
        /// The token.
        token: Bytes,
    },
    /// To the anchor: every participant has applied the verdict.
    Forget {
        /// The attempt.
        attempt: AttemptId,
    },
    /// What was there at a version. Any replica answers at which it is closed.
    Snapshot {
        /// The version.
        at: Version,
        /// What to read.
        read: SnapshotRead,
    },
    /// Somebody reads the past at a version: what was there is to be kept for a while longer. It is said
    /// again as long as he does.
    Keep {
        /// The version.
        at: Version,
    },
    /// From a frozen shard, to whichever has the first key of its left neighbour: was it merged? If it
    /// was not yet, it will not be.
    MergeStatus {
        /// Who asks.
        right: ShardId,
        /// The neighbour, as it was when the shard was frozen.
        left: LeftSide,
    },
}

/// A value as a transaction reads it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadValue {
    /// The value, with its deadline; `None` if there is none (or its deadline has come).
    pub value: Option<Value>,
    /// Its version, or that of its deletion if that is known, else zero.
    pub version: Version,
}

/// The answer to a [`TxnRequest`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum TxnAnswer {
    /// To `Read`.
    Values {
        /// In the order of the keys.
        values: Vec<ReadValue>,
        /// Nothing at or below this version will be written under these keys any more.
        valid_through: Version,
    },
    /// To `Walk`.
    Walked {
        /// The command's answer.
        reply: Reply,
        /// What was looked at.
        read: RangeRead,
    },
    /// To `Validate`: all of it is as it was read.
    Valid {
        /// Nothing at or below this version will be written there any more.
        through: Version,
    },
    /// To `Execute`: done.
    Executed {
        /// The version of its writes, if it wrote.
        version: Option<Version>,
        /// The commands' replies.
        replies: Vec<Reply>,
    },
    /// To `Prepare`: locked, and durable.
    Prepared {
        /// The commit version will be at least this.
        version: Version,
        /// The commands' replies.
        replies: Vec<Reply>,
    },
    /// To `Conclude`: committed, and durable.
    Concluded {
        /// The commit version.
        version: Version,
        /// The commands' replies.
        replies: Vec<Reply>,
    },
    /// To `Decide` and `Recover`: the attempt's verdict, which is final.
    Decided(Verdict),
    /// To `Hold`: it is locked. To `Resolve`: it is applied. To `Forget`: it is forgotten. To `Keep`: it
    /// is heard.
    Done,
    /// To a transaction with a token: what became of it before. This attempt has had no effect. To
    /// `TokenStatus`: what became of it, for ever.
    Recorded(Verdict),
    /// To `Snapshot`: the version is too old.
    Collected {
        /// What was replaced at or below this may be gone.
        kept: Version,
    },
    /// To `MergeStatus`: its keys are another shard's.
    Merged,
    /// To `MergeStatus`: its keys are its own, and this freeze has come to nothing.
    NotMerged,
    /// Certainly not done: something that was read has changed.
    Changed,
    /// Certainly not done: an older transaction is in the way, or the attempt is too old.
    Conflict,
}

/// Attempts with this number and above are holds.
const HOLDS: u32 = 1 << 31;

impl AttemptId {
    /// A transaction's hold with this number.
    pub(crate) fn hold(txn: TxnId, number: u32) -> AttemptId {
        let attempt = HOLDS | number;
        AttemptId { txn, attempt }
    }

    /// Whether it is a hold: it only locks for reading, and never commits.
    pub fn is_hold(&self) -> bool {
        self.attempt >= HOLDS
    }

    /// Twenty-eight and more bytes that sort by age.
    pub(crate) fn row(&self, prefix: u8) -> Bytes {
        let mut row = Vec::with_capacity(40);
        row.push(prefix);
        row.extend_from_slice(&self.txn.age.0.to_be_bytes());
        row.extend_from_slice(&self.txn.node.0.to_be_bytes());
        row.extend_from_slice(&self.txn.counter.to_be_bytes());
        row.extend_from_slice(&self.attempt.to_be_bytes());
        Bytes::from(row)
    }

    /// The attempt that a row is about.
    pub(crate) fn of_row(row: &[u8]) -> Option<AttemptId> {
        let u64_at = |at: usize| Some(u64::from_be_bytes(row.get(at..at + 8)?.try_into().ok()?));
        let node = u128::from_be_bytes(row.get(9..25)?.try_into().ok()?);
        let attempt = u32::from_be_bytes(row.get(33..37)?.try_into().ok()?);
        let txn = TxnId {
            age: Version(u64_at(1)?),
            node: NodeId(node),
            counter: u64_at(25)?,
        };
        Some(AttemptId { txn, attempt })
    }
}

impl RangeRead {
    /// Bytes of its keys, roughly.
    fn size_bytes(&self) -> usize {
        self.range.start.len() + self.range.end.as_ref().map_or(0, Vec::len) + 32
    }
}

/// Bytes of the keys of what was read, roughly.
fn reads_size_bytes(reads: &[KeyRead], ranges: &[RangeRead]) -> usize {
    let reads = reads.iter().map(|read| read.key.len() + 32);
    reads.chain(ranges.iter().map(RangeRead::size_bytes)).sum()
}

impl TxnRequest {
    /// Bytes of keys and values, roughly.
    pub fn size_bytes(&self) -> usize {
        let intent = |intent: &Intent| -> usize {
            let commands = intent.commands.iter().map(Command::size_bytes);
            let writes = intent.writes.iter().map(|write| {
                write.key.len() + write.value.as_ref().map_or(0, |value| value.data.len()) + 32
            });
            let elsewhere = intent.elsewhere.iter().flat_map(|it| &it.parts);
            let elsewhere = elsewhere.map(|it| reads_size_bytes(&it.reads, &it.ranges));
            let reads = reads_size_bytes(&intent.reads, &intent.ranges);
            reads + commands.chain(writes).chain(elsewhere).sum::<usize>()
        };
        match self {
            TxnRequest::Read { keys } => keys.iter().map(|key| key.len() + 32).sum(),
            TxnRequest::Hold { keys, ranges, .. } => {
                let bytes = |range: &KeyRange| {
                    range.start.len() + range.end.as_ref().map_or(0, Vec::len) + 32
                };
                let keys = keys.iter().map(|key| key.len() + 32);
                keys.chain(ranges.iter().map(bytes)).sum()
            }
            TxnRequest::Walk { command } => command.size_bytes(),
            TxnRequest::Validate { reads, ranges, .. } => reads_size_bytes(reads, ranges),
            TxnRequest::Execute { intent: it }
            | TxnRequest::Prepare { intent: it, .. }
            | TxnRequest::Conclude { intent: it, .. } => intent(it),
            TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. } => 64,
            TxnRequest::Snapshot { read, .. } => match read {
                SnapshotRead::Keys(keys) => keys.iter().map(|key| key.len() + 32).sum(),
                SnapshotRead::Walk(command) => command.size_bytes(),
            },
            TxnRequest::MergeStatus { left, .. } => left.start.len() + 32,
        }
    }
}
