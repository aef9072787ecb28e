//! What a command answers, before any protocol dresses it.
//!
//! A [`Reply`] knows nothing of RESP2 or RESP3: the edge encodes it for whichever the client
//! speaks. It crosses the wire between a shard's leader and the gateway, so it is also an rkyv type.
//!
//! The error codes are part of the promises. A client library may retry some codes by itself
//! (`TRYAGAIN` is such a code for several), so a code that is retried is only ever used for a
//! command that has certainly not taken effect. [`ErrorCode::Unknown`] is the one answer that
//! means "perhaps": no other code is used once a proposal was made and not seen applied.

use std::borrow::Cow;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

/// The first word of an error: what kind of failure it is, and so what happened to the data.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[rkyv(derive(Debug))]
pub enum ErrorCode {
    /// The command is wrong, or cannot be done on this data. Nothing was changed.
    Err,
    /// `EXEC` refused because a command was rejected while queueing. Nothing was changed.
    ExecAbort,
    /// The transaction lost against another one. Nothing was changed; run it again.
    Conflict,
    /// No leader could be reached in time, or it is overloaded. Nothing was changed; try again.
    TryAgain,
    /// This node serves no clients now: it is no member of the cluster, or hears no majority of it.
    /// Nothing was changed; another node may do it.
    NotServing,
    /// The outcome is not known: the command may have taken effect, or may still take effect.
    Unknown,
    /// The disk of the shard's leader is full; only reads and deletes are served.
    DiskFull,
    /// Damage was detected in the stored value and it is not repaired yet. It is never served.
    Corrupt,
    /// A transaction took too long. Nothing was changed.
    Timeout,
    /// A transaction was idle for too long. Nothing was changed.
    Idle,
    /// A transaction, a command or a reply is larger than its limit. Nothing was changed.
    TooLarge,
    /// The connection must authenticate first. Only the edge says so, before it does anything.
    NoAuth,
    /// The user or the password is wrong.
    WrongPass,
    /// The client asked for a protocol version that is not spoken.
    NoProto,
    /// The transaction token is below the token floor: its outcome is no longer kept. A snapshot is
    /// too old: versions that it needs may be gone. Nothing was changed.
    Expired,
    /// The transaction's token was given up by a question about its outcome: it has certainly not
    /// happened and never will under this token.
    Aborted,
}

impl ErrorCode {
    /// The word that starts the error on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::Err => "ERR",
            ErrorCode::ExecAbort => "EXECABORT",
            ErrorCode::Conflict => "CONFLICT",
            ErrorCode::TryAgain => "TRYAGAIN",
            ErrorCode::NotServing => "NOTSERVING",
            ErrorCode::Unknown => "UNKNOWN",
            ErrorCode::DiskFull => "DISKFULL",
            ErrorCode::Corrupt => "CORRUPT",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::Idle => "IDLE",
            ErrorCode::TooLarge => "TOOLARGE",
            ErrorCode::NoAuth => "NOAUTH",
            ErrorCode::WrongPass => "WRONGPASS",
            ErrorCode::NoProto => "NOPROTO",
            ErrorCode::Expired => "EXPIRED",
            ErrorCode::Aborted => "ABORTED",
        }
    }
}

/// The answer to one command.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(serialize_bounds(
    __S: rkyv::ser::Writer + rkyv::ser::Allocator,
    __S::Error: rkyv::rancor::Source,
))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(
    __C: rkyv::validation::ArchiveContext,
    __C::Error: rkyv::rancor::Source,
)))]
pub enum Reply {
    /// `+OK`.
    Ok,
    /// A short status line, such as `QUEUED` or the answer of `TYPE`.
    Status(#[rkyv(with = rkyv::with::AsOwned)] Cow<'static, str>),
    /// A failure, with what it says about the data.
    Error {
        /// What kind of failure.
        code: ErrorCode,
        /// One line for people; never holds CR or LF.
        #[rkyv(with = rkyv::with::AsOwned)]
        message: Cow<'static, str>,
    },
    /// A signed integer.
    Integer(i64),
    /// A binary-safe string.
    Bulk(Bytes),
    /// A missing value.
    Null,
    /// A missing array: `EXEC` whose watched keys changed.
    NullArray,
    /// Replies in order.
    Array(#[rkyv(omit_bounds)] Vec<Reply>),
    /// Pairs in order; a flat array for RESP2 clients.
    Map(#[rkyv(omit_bounds)] Vec<(Reply, Reply)>),
    /// An unordered collection; an array for RESP2 clients.
    Set(#[rkyv(omit_bounds)] Vec<Reply>),
    /// A floating-point number; a string for RESP2 clients.
    Double(f64),
    /// True or false; 1 or 0 for RESP2 clients.
    Boolean(bool),
    /// Text for people, such as the answer of `INFO`; a string for RESP2 clients.
    Verbatim(Bytes),
}

impl Reply {
    /// An error of `code`. Line breaks in `message`, which would end the reply early on the wire,
    /// become spaces.
    pub fn error(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Reply {
        let message = message.into();
        let message = match message.contains(['\r', '\n']) {
            true => Cow::Owned(message.replace(['\r', '\n'], " ")),
            false => message,
        };
        Reply::Error { code, message }
    }

    /// An `ERR` error.
    pub fn err(message: impl Into<Cow<'static, str>>) -> Reply {
        Reply::error(ErrorCode::Err, message)
    }

    /// A bulk string copied from `bytes`.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::Bulk(Bytes::copy_from_slice(bytes.as_ref()))
    }

    /// A bulk string, or null.
    pub fn bulk_or_null(bytes: Option<Bytes>) -> Reply {
        match bytes {
            Some(bytes) => Reply::Bulk(bytes),
            None => Reply::Null,
        }
    }

    /// Whether this is an error of any code.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error { .. })
    }

    /// Bytes of payload, roughly: what a reply costs in a queue.
    pub fn size_bytes(&self) -> usize {
        let payload = match self {
            Reply::Ok
            | Reply::Integer(_)
            | Reply::Null
            | Reply::NullArray
            | Reply::Double(_)
            | Reply::Boolean(_) => 0,
            Reply::Status(text) => text.len(),
            Reply::Error { message, .. } => message.len(),
            Reply::Bulk(bytes) | Reply::Verbatim(bytes) => bytes.len(),
            Reply::Array(items) | Reply::Set(items) => items.iter().map(Reply::size_bytes).sum(),
            Reply::Map(pairs) => pairs
                .iter()
                .map(|(k, v)| k.size_bytes() + v.size_bytes())
                .sum(),
        };
        payload + 16
    }
}
