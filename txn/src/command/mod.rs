//! Commands: what a client may ask of the data, typed.
//!
//! A [`Command`] is parsed once, at the gateway, and from then on nobody looks at strings again:
//! it is routed, split over shards, sent to leaders and evaluated in this form. Several spellings
//! become one command (`SETEX` is a [`Set`], `DECRBY` an [`Command::IncrBy`]), so there is one
//! piece of code for each behaviour.
//!
//! Times stay as the client said them (relative or absolute) until the leader evaluates the
//! command: what it proposes is always absolute, because replicas apply it at different times.

mod args;
mod limits;
mod parse;
pub mod table;
mod table_rows;

use bytes::{BufMut, Bytes, BytesMut};
use rkyv::{Archive, Deserialize, Serialize};

pub use limits::{COMMAND_BYTES_MAX, KEY_BYTES_MAX, KEYS_MAX, VALUE_BYTES_MAX};
pub use parse::parse_argv;

use crate::reply::Reply;

/// A user key: at most [`KEY_BYTES_MAX`] bytes, ordered bytewise.
pub type Key = Bytes;

/// One data command, or one step of a transaction, as it travels from gateway to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Command {
    /// The value of a key.
    Get {
        /// The key.
        key: Key,
    },
    /// Write a value, perhaps under a condition, perhaps with a deadline.
    Set(Set),
    /// Read and delete.
    GetDel {
        /// The key.
        key: Key,
    },
    /// Read and change the deadline.
    GetEx {
        /// The key.
        key: Key,
        /// What becomes of the deadline.
        expiry: GetExExpiry,
    },
    /// The values of several keys.
    MGet {
        /// The keys, in the order of the answer; may repeat.
        keys: Vec<Key>,
    },
    /// Write several values.
    MSet {
        /// Keys and values; the last of a repeated key wins.
        pairs: Vec<(Key, Bytes)>,
    },
    /// Write several values if none of the keys exists.
    MSetNx {
        /// Keys and values; the last of a repeated key wins.
        pairs: Vec<(Key, Bytes)>,
    },
    /// Add to an integer.
    IncrBy {
        /// The key.
        key: Key,
        /// What to add.
        delta: i64,
    },
    /// Add to a floating-point number.
    IncrByFloat {
        /// The key.
        key: Key,
        /// What to add; finite.
        delta: f64,
    },
    /// Append to a string.
    Append {
        /// The key.
        key: Key,
        /// What to append.
        value: Bytes,
    },
    /// The length of a string.
    StrLen {
        /// The key.
        key: Key,
    },
    /// Part of a string.
    GetRange {
        /// The key.
        key: Key,
        /// First byte; negative counts from the end.
        start: i64,
        /// Last byte, inclusive; negative counts from the end.
        end: i64,
    },
    /// Overwrite part of a string.
    SetRange {
        /// The key.
        key: Key,
        /// Where to write, in bytes; what lies before is padded with zeros.
        offset: u32,
        /// What to write.
        value: Bytes,
    },
    /// Delete keys; answers how many existed.
    Del {
        /// The keys; may repeat.
        keys: Vec<Key>,
    },
    /// Count the keys that exist, a repeated key as often as it is named.
    Exists {
        /// The keys; may repeat.
        keys: Vec<Key>,
    },
    /// Like [`Command::Exists`]; there is no access time to touch.
    Touch {
        /// The keys; may repeat.
        keys: Vec<Key>,
    },
    /// Set a deadline.
    Expire {
        /// The key.
        key: Key,
        /// When the key ceases to exist.
        deadline: Deadline,
        /// When to do so at all.
        condition: ExpireCondition,
    },
    /// Remove the deadline.
    Persist {
        /// The key.
        key: Key,
    },
    /// The deadline of a key.
    Ttl {
        /// The key.
        key: Key,
        /// As a time left or a point in time.
        form: TtlForm,
        /// In seconds or milliseconds.
        unit: TimeUnit,
    },
    /// The type of a key: `string` or `none`.
    Type {
        /// The key.
        key: Key,
    },
    /// One page of an iteration over all keys.
    Scan(Scan),
    /// How many keys there are.
    DbSize,
    /// All keys that match.
    Keys {
        /// A glob.
        pattern: Bytes,
    },
    /// Keys and values in key order.
    Range(Range),
    /// Delete everything. The gateway refuses it unless the settings allow it.
    FlushAll,
    /// Write a row of the cluster's own tables, unless a newer generation of it is there. No client
    /// can say it.
    Advance(Advance),
    /// `MULTI`, `WATCH`, `BEGIN` and their kin: the gateway's own business.
    Transaction(TransactionCommand),
    /// `SYNOD …`: questions about the cluster, answered by the node, never sent to a shard.
    Synod {
        /// What follows the word `SYNOD`.
        args: Vec<Bytes>,
    },
}

/// A write of a row that has several writers, none of whom is sure to be the last: the row keeps the
/// highest generation, whoever comes when. Repeating it is harmless.
///
/// What is stored is [`Advance::encode`]; the answer is 1 if the row changed, else 0.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The row's key.
    pub key: Key,
    /// Orders the writes.
    pub generation: u64,
    /// The content; `None` says that there is none from this generation on.
    pub value: Option<Bytes>,
}

impl Advance {
    /// The row: generation (8 bytes, big-endian), then nothing, or 1 and the content.
    pub fn encode(&self) -> Bytes {
        let len = self.value.as_ref().map_or(0, |value| value.len() + 1);
        let mut row = BytesMut::with_capacity(8 + len);
        row.put_u64(self.generation);
        if let Some(value) = &self.value {
            row.put_u8(1);
            row.put_slice(value);
        }
        row.freeze()
    }

    /// The generation and the content of a row; `None` if it was not written in this way.
    pub fn decode(row: &Bytes) -> Option<(u64, Option<Bytes>)> {
        let (generation, rest) = row.split_at_checked(8)?;
        let generation = u64::from_be_bytes(generation.try_into().ok()?);
        match rest.first() {
            None => Some((generation, None)),
            Some(1) => Some((generation, Some(row.slice(9..)))),
            Some(_) => None,
        }
    }
}

/// `SET` and its many spellings.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// When to write at all.
    pub condition: SetCondition,
    /// What becomes of the deadline.
    pub expiry: SetExpiry,
    /// What to answer.
    pub answer: SetAnswer,
}

/// When a `SET` writes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetCondition {
    /// In any case.
    Always,
    /// `NX`: only if the key does not exist.
    IfAbsent,
    /// `XX`: only if the key exists.
    IfPresent,
}

/// What a `SET` does to the deadline.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetExpiry {
    /// Without a deadline, whatever it was.
    Clear,
    /// `KEEPTTL`: as it was.
    Keep,
    /// A new deadline.
    Until(Deadline),
}

/// What a `SET` answers.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAnswer {
    /// `OK`, or null when the condition failed.
    Status,
    /// 1, or 0 when the condition failed (`SETNX`).
    Integer,
    /// The value before, written or not (`GET`, `GETSET`).
    Previous,
}

/// What `GETEX` does to the deadline.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetExExpiry {
    /// Nothing.
    Keep,
    /// `PERSIST`: removes it.
    Clear,
    /// A new deadline.
    Until(Deadline),
}

/// A point in time, as the client gave it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// So many milliseconds from when the leader evaluates the command.
    InMs(i64),
    /// Milliseconds since the Unix epoch.
    AtMs(i64),
}

impl Deadline {
    /// The absolute deadline, in milliseconds since the Unix epoch, for a leader whose wall clock
    /// shows `now_ms`. Parsing has bounded both so that this cannot overflow in practice; it
    /// saturates if clocks are absurd.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        let at_ms = match self {
            Deadline::InMs(in_ms) => i64::try_from(now_ms)
                .unwrap_or(i64::MAX)
                .saturating_add(in_ms),
            Deadline::AtMs(at_ms) => at_ms,
        };
        u64::try_from(at_ms).unwrap_or(0)
    }
}

/// When an `EXPIRE` has an effect.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireCondition {
    /// In any case.
    Always,
    /// `NX`: only if there is no deadline.
    IfNone,
    /// `XX`: only if there is a deadline.
    IfSome,
    /// `GT`: only if later than the present one; no deadline counts as infinitely late.
    IfLater,
    /// `LT`: only if earlier than the present one; no deadline counts as infinitely late.
    IfEarlier,
    /// `XX GT`.
    IfSomeAndLater,
    /// `XX LT`.
    IfSomeAndEarlier,
}

/// How the `TTL` family shows a deadline.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlForm {
    /// The time left.
    Left,
    /// The point in time.
    At,
}

/// The unit of a time shown to a client.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// One page of `SCAN`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where to go on; 0 begins.
    pub cursor: u64,
    /// `MATCH`: only keys that match this glob.
    pub pattern: Option<Bytes>,
    /// `COUNT`: about how many keys to look at; a hint.
    pub count: u32,
    /// `TYPE`: only keys of this type; all are strings.
    pub kind: KindFilter,
}

/// `SCAN … TYPE`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindFilter {
    /// All keys.
    All,
    /// A type that this store does not have: no key matches.
    Nothing,
}

/// `RANGE start end [LIMIT n] [REVERSE]`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First key, inclusive; empty is the first of all.
    pub start: Key,
    /// End, exclusive; none is behind the last of all.
    pub end: Option<Key>,
    /// At most so many keys.
    pub limit: Option<u64>,
    /// Which end to begin at.
    pub order: Order,
}

/// The order of a range's answer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Reverse,
}

/// The commands that begin and end transactions. They concern a connection, not a shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TransactionCommand {
    /// `MULTI`.
    Multi,
    /// `EXEC`.
    Exec,
    /// `DISCARD`.
    Discard,
    /// `WATCH`.
    Watch {
        /// The keys.
        keys: Vec<Key>,
    },
    /// `UNWATCH`.
    Unwatch,
    /// `BEGIN [READONLY] [SNAPSHOT [AT version]] [TOKEN t]`.
    Begin(Begin),
    /// `COMMIT`.
    Commit,
    /// `ROLLBACK`.
    Rollback,
    /// `TXN TOKEN`: a fresh token.
    Token,
    /// `TXN STATUS token`.
    Status {
        /// The token that the transaction was begun with.
        token: Bytes,
    },
}

/// How an interactive transaction begins.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Whether it may write.
    pub access: Access,
    /// Whether it reads the newest state or an older, closed one.
    pub reads: ReadMode,
    /// The client's name for the transaction.
    pub token: Option<Bytes>,
}

/// Whether a transaction may write.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// What a transaction reads.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// The newest committed state: strictly serializable.
    Latest,
    /// The state at the moment of its beginning: serializable, not ordered in real time.
    Snapshot,
    /// The state at this version.
    SnapshotAt(u64),
}

/// Whether a command can change data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reads only.
    Read,
    /// May write.
    Write,
    /// Concerns the connection's transaction or the node, not data.
    Control,
}

impl Command {
    /// Parses a command line. An error is ready to be sent to the client.
    pub fn parse(argv: Vec<Bytes>) -> Result<Command, Reply> {
        parse_argv(&argv)
    }

    /// Whether the command can change data.
    pub fn class(&self) -> Class {
        match self {
            Command::Get { .. }
            | Command::MGet { .. }
            | Command::StrLen { .. }
            | Command::GetRange { .. }
            | Command::Exists { .. }
            | Command::Touch { .. }
            | Command::Ttl { .. }
            | Command::Type { .. }
            | Command::Scan(_)
            | Command::DbSize
            | Command::Keys { .. }
            | Command::Range(_) => Class::Read,
            Command::GetEx {
                expiry: GetExExpiry::Keep,
                ..
            } => Class::Read,
            Command::GetEx { .. }
            | Command::Set(_)
            | Command::GetDel { .. }
            | Command::MSet { .. }
            | Command::MSetNx { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Append { .. }
            | Command::SetRange { .. }
            | Command::Del { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Advance(_)
            | Command::FlushAll => Class::Write,
            Command::Transaction(_) | Command::Synod { .. } => Class::Control,
        }
    }

    /// Calls `visit` with each key that the command names, in order, repeats included.
    /// Range commands name no single key.
    pub fn for_each_key<'a>(&'a self, mut visit: impl FnMut(&'a Key)) {
        match self {
            Command::Get { key }
            | Command::GetDel { key }
            | Command::GetEx { key, .. }
            | Command::IncrBy { key, .. }
            | Command::IncrByFloat { key, .. }
            | Command::Append { key, .. }
            | Command::StrLen { key }
            | Command::GetRange { key, .. }
            | Command::SetRange { key, .. }
            | Command::Expire { key, .. }
            | Command::Persist { key }
            | Command::Ttl { key, .. }
            | Command::Type { key } => visit(key),
            Command::Set(set) => visit(&set.key),
            Command::Advance(advance) => visit(&advance.key),
            Command::MGet { keys }
            | Command::Del { keys }
            | Command::Exists { keys }
            | Command::Touch { keys }
            | Command::Transaction(TransactionCommand::Watch { keys }) => {
                keys.iter().for_each(visit);
            }
            Command::MSet { pairs } | Command::MSetNx { pairs } => {
                pairs.iter().for_each(|(key, _)| visit(key));
            }
            Command::Scan(_)
            | Command::DbSize
            | Command::Keys { .. }
            | Command::Range(_)
            | Command::FlushAll
            | Command::Transaction(_)
            | Command::Synod { .. } => {}
        }
    }

    /// Bytes of keys and values, roughly: what the command costs in a queue.
    pub fn size_bytes(&self) -> usize {
        let mut size_bytes = 64;
        self.for_each_key(|key| size_bytes += key.len() + 16);
        match self {
            Command::Set(set) => size_bytes += set.value.len(),
            Command::Advance(advance) => {
                size_bytes += advance.value.as_ref().map_or(0, Bytes::len);
            }
            Command::Append { value, .. } | Command::SetRange { value, .. } => {
                size_bytes += value.len();
            }
            Command::MSet { pairs } | Command::MSetNx { pairs } => {
                size_bytes += pairs.iter().map(|(_, value)| value.len()).sum::<usize>();
            }
            Command::Get { .. }
            | Command::GetDel { .. }
            | Command::GetEx { .. }
            | Command::MGet { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::StrLen { .. }
            | Command::GetRange { .. }
            | Command::Del { .. }
            | Command::Exists { .. }
            | Command::Touch { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Ttl { .. }
            | Command::Type { .. }
            | Command::Scan(_)
            | Command::DbSize
            | Command::Keys { .. }
            | Command::Range(_)
            | Command::FlushAll
            | Command::Transaction(_)
            | Command::Synod { .. } => {}
        }
        size_bytes
    }
}
