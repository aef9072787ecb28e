//! What comes into a coordinator and what goes out.

use synod_storage::{ShardId, Version};

use crate::command::{Begin, Command, Key};
use crate::reply::Reply;
use crate::transaction::{Again, KeyRead};
use crate::wire::{Body, Outcome};

/// The gateway's name for a transaction, or for a connection's watched keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A question to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// A transaction that is known whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// Keys that must be as they were: what [`Ended::Watched`] gave.
    pub watched: Vec<KeyRead>,
    /// The commands, in order. Only commands on keys.
    pub commands: Vec<Command>,
}

/// An input of [`Coordinator::step`](super::Coordinator::step).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Carry out a script. Ends with `Replies`, `Changed` or `Failed`.
    Run {
        /// The gateway's name for it; used once.
        ticket: Ticket,
        /// What to do.
        script: Script,
    },
    /// Remember the versions of keys. Ends with `Watched` or `Failed`.
    Watch {
        /// The gateway's name for it; used once.
        ticket: Ticket,
        /// The keys.
        keys: Vec<Key>,
    },
    /// An interactive transaction begins. One of the past is answered with its version, or ends with
    /// `Failed`.
    Begin {
        /// The gateway's name for it.
        ticket: Ticket,
        /// How.
        begin: Begin,
        /// If the client runs one again that has lost: what [`Ended::Lost`] said. It keeps its age.
        again: Option<Again>,
    },
    /// A command of an interactive transaction; the one before is answered. Answered by
    /// [`Effect::Reply`], or the transaction is ended with `Failed`.
    Execute {
        /// The transaction.
        ticket: Ticket,
        /// A command on keys.
        command: Command,
    },
    /// An interactive transaction is to be committed. Ends with `Replies` (of nothing) or `Failed`.
    Commit {
        /// The transaction.
        ticket: Ticket,
    },
    /// A fresh token is wanted. Ends with `Told`.
    Token {
        /// The gateway's name for the question; used once.
        ticket: Ticket,
    },
    /// What became of a token? Ends with `Told` or `Failed`.
    Status {
        /// The gateway's name for the question; used once.
        ticket: Ticket,
        /// The token.
        token: bytes::Bytes,
    },
    /// An interactive transaction is abandoned. No answer.
    Drop {
        /// The transaction.
        ticket: Ticket,
    },
    /// The answer to a call. `NotLeader` and `Overloaded` may be passed on after the gateway has
    /// tried for a while; `StaleEpoch` after the map has taken in the descriptor.
    Answered {
        /// Which.
        call: Call,
        /// What was answered.
        outcome: Outcome,
    },
    /// Time has passed: every few milliseconds while transactions are active.
    Tick,
}

impl Event {
    /// The transaction that it is about.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Event::Run { ticket, .. }
            | Event::Watch { ticket, .. }
            | Event::Begin { ticket, .. }
            | Event::Execute { ticket, .. }
            | Event::Commit { ticket }
            | Event::Token { ticket }
            | Event::Status { ticket, .. }
            | Event::Drop { ticket } => Some(*ticket),
            Event::Answered { .. } | Event::Tick => None,
        }
    }
}

/// An output of [`Coordinator::step`](super::Coordinator::step).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to the leader of a shard. No stream.
    Call {
        /// The call's name.
        call: Call,
        /// The shard.
        shard: ShardId,
        /// The epoch that it was routed by.
        epoch: u64,
        /// The largest version seen, for the request's clock.
        hlc: Version,
        /// The question.
        body: Body,
    },
    /// The reply to a command of an interactive transaction.
    Reply {
        /// The transaction.
        ticket: Ticket,
        /// The reply.
        reply: Reply,
    },
    /// A transaction is over. Its ticket means nothing any more.
    Ended {
        /// Which.
        ticket: Ticket,
        /// How.
        ended: Ended,
    },
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It is committed. The replies of a script's commands, in order.
    Replies(Vec<Reply>),
    /// A watched key has changed. Certainly nothing was done: `EXEC` answers null.
    Changed,
    /// The versions of the keys that were to be watched.
    Watched(Vec<KeyRead>),
    /// The answer to a question.
    Told(Reply),
    /// Certainly nothing was done, or, with the code `UNKNOWN`, nobody knows.
    Failed(Reply),
    /// An interactive transaction has lost against another one, and certainly nothing was done.
    Lost {
        /// What the client is told.
        why: Reply,
        /// For the next [`Event::Begin`], if the client runs it again.
        again: Again,
    },
}
