//! What gateways and leaders say to each other.
//!
//! A [`Request`] goes to the node that is thought to lead a shard, a [`Response`] comes back with
//! the same id. Both carry the sender's hybrid clock. A response says exactly what happened to the
//! data: done, certainly not done, or unknown.
//!
//! Replies nest, so whoever validates these types in a frame from a peer bounds the depth
//! (`rkyv::validation::archive::ArchiveValidator::with_max_depth`, [`DEPTH_MAX`]): a frame must not
//! be able to exhaust the stack.

use rkyv::{Archive, Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::{ShardId, Version};

use crate::command::Command;
use crate::reply::Reply;
use crate::shard_map::ShardDescriptor;
use crate::transaction::{TxnAnswer, TxnRequest};

/// The deepest nesting that a valid frame has, with room to spare.
pub const DEPTH_MAX: usize = 32;

/// One question to one shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Request {
    /// The sender's name for it; the response repeats it.
    pub id: u64,
    /// The shard.
    pub shard: ShardId,
    /// The epoch of the descriptor that it was routed by.
    pub epoch: u64,
    /// The sender's clock.
    pub hlc: Version,
    /// Which stream it belongs to.
    pub stream: Stream,
    /// What to do.
    pub body: Body,
}

/// What a request asks for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Body {
    /// A command on this shard's keys alone.
    Command(Command),
    /// A part of a transaction.
    Txn(TxnRequest),
}

impl From<Command> for Body {
    fn from(command: Command) -> Body {
        Body::Command(command)
    }
}

impl From<TxnRequest> for Body {
    fn from(request: TxnRequest) -> Body {
        Body::Txn(request)
    }
}

/// The order that a client's pipeline keeps.
///
/// Commands of one stream on one shard take effect in the order in which they arrive, and fail as a
/// suffix: once one was refused in a way that is retried, all later ones of the same generation are
/// refused too. The gateway then starts again, from the first that was refused, with the next
/// generation. Without it, the retry of an early command could land behind a later one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    /// The connection: unique over gateways and their restarts. 0 for a request without order.
    pub id: u64,
    /// Raised by the gateway each time that it starts again.
    pub generation: u32,
}

impl Stream {
    /// For requests that are in no order with others.
    pub const NONE: Stream = Stream {
        id: 0,
        generation: 0,
    };
}

/// The answer to a [`Request`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The answering node's clock.
    pub hlc: Version,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a request.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was carried out; this is its answer (which may be an error of the command's own, and then
    /// nothing was changed).
    Reply(Reply),
    /// The answer to a part of a transaction.
    Txn(TxnAnswer),
    /// Certainly not carried out: this node does not lead the shard, or lost the lead in a way that
    /// proves the command was not committed. Ask the hinted node, or any.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// Certainly not carried out: it was routed by an old map.
    StaleEpoch {
        /// The shard as it is now.
        descriptor: ShardDescriptor,
    },
    /// Certainly not carried out: an earlier command of its stream was refused.
    StreamBroken,
    /// Certainly not carried out: too much is in progress. Try again later.
    Overloaded,
    /// Nobody knows yet: it may have been carried out or may still be. Never retried by itself.
    Unknown,
}

impl Outcome {
    /// Whether the request has certainly had no effect, and may be sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Outcome::NotLeader { .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::StreamBroken
            | Outcome::Overloaded => true,
            Outcome::Reply(_) | Outcome::Txn(_) | Outcome::Unknown => false,
        }
    }
}
