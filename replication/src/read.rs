//! The words of a linearizable read.
//!
//! ```text
//! replication.read(now, shard, token)     Ready(grant) | Pending | NotLeader
//!     … read the state …
//! replication.confirm(later, shard, &grant)   true: the answer may leave
//! ```
//!
//! The second look is not a formality: the process may have been stopped for minutes between the
//! first and the answer, and a lease does not wait.

use crate::identity::Member;

/// The caller's name for a read that has to wait. Any value; it is only given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// The answer of [`crate::Replication::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The state applied now is recent enough.
    Ready(Grant),
    /// Wait for [`crate::Effect::ReadReady`] or [`crate::Effect::ReadFailed`].
    Pending,
    /// Not served here; nothing will follow.
    Refused(ReadFailure),
}

/// The leave to read the state of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The term in which the reader leads.
    pub term: u64,
    pub(crate) proof: Proof,
}

/// What a grant rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A lease: it has to hold until after the state was read.
    Lease,
    /// A quorum round begun after the read arrived: it cannot lapse.
    Quorum,
}

/// Why a read cannot be served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// Another replica leads, this one if known.
    NotLeader(Option<Member>),
    /// No quorum confirmed in time: cut off, or a lost message too many.
    TimedOut,
    /// There is no such replica here, or it is damaged.
    NoReplica,
}
