//! Everything that a participant asks of its node.

use bytes::Bytes;
use synod_storage::ShardId;

use super::event::{Batch, Call, Newborn, Round, Token};
use crate::wire::{Body, Outcome};

/// Whether rows are all that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// There are no others.
    Whole,
    /// The others are as they were.
    Changes,
}

/// Whether something happens now, or is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// The entry was just applied; all keys of the range are here.
    Now,
    /// It was found in the shard's rows.
    Again,
}

/// An output of [`Participant::step`](super::Participant::step) and
/// [`Participant::flush`](super::Participant::flush).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Propose this entry, now, if this node leads the shard in exactly this term; else report
    /// [`Event::ProposalRefused`](super::Event::ProposalRefused) at once. Only `flush` asks for it,
    /// at most once for a shard each time.
    Propose {
        /// The shard.
        shard: ShardId,
        /// The term in which the commands were evaluated.
        term: u64,
        /// The batch's name.
        batch: Batch,
        /// The entry's data.
        data: Bytes,
    },
    /// Find out whether this node still leads the shard in this term, at any moment from now on: by
    /// a lease that holds after now, or by a quorum round that begins after now. Answered by
    /// [`Event::LeadershipConfirmed`](super::Event::LeadershipConfirmed) or
    /// [`Event::LeadershipDoubtful`](super::Event::LeadershipDoubtful); a lost answer is made up for
    /// by the next round. The state has been read already.
    Confirm {
        /// The shard.
        shard: ShardId,
        /// The term.
        term: u64,
        /// The round's name.
        round: Round,
    },
    /// Answer a request. Each request is answered exactly once.
    Respond {
        /// The request.
        token: Token,
        /// What happened to it.
        outcome: Outcome,
    },
    /// Ask the shard that has `key`, as a gateway would; report the outcome as
    /// [`Event::Called`](super::Event::Called), or nothing: it is asked again.
    Call {
        /// The shard that asks.
        shard: ShardId,
        /// Which question.
        call: Call,
        /// A key of the shard that is asked.
        key: Bytes,
        /// The question.
        body: Body,
    },
    /// The shard's description has changed, in the log: the maps of the node can learn it.
    Described {
        /// The shard.
        descriptor: crate::shard_map::ShardDescriptor,
    },
    /// Rows of the system shard, on a node that has a replica of it: all of them after it was opened
    /// or replaced by a snapshot, else those that the last entry changed. `None`: deleted.
    SystemRows {
        /// Whether these are all.
        extent: Extent,
        /// Keys and values.
        rows: Vec<(Bytes, Option<Bytes>)>,
    },
    /// A shard was split off, in the log of one that has a replica here: create its replica on this
    /// node, if the descriptor names one that was never here before, with all its members at once and
    /// empty; then, or if it is here already, report [`Event::Born`](super::Event::Born). With
    /// [`Telling::Again`], after a start or a snapshot, nothing is to be created: the keys might not
    /// be here.
    Split {
        /// Whether it happens now.
        telling: Telling,
        /// The new shard.
        newborn: Newborn,
    },
    /// A shard has become a part of another one, in the log of that, or was found in its rows to have
    /// done so: its replica here, if there is one, is to be closed and destroyed; its keys stay.
    Merged {
        /// Who has its keys.
        left: ShardId,
        /// The shard that is no more.
        right: ShardId,
        /// The epoch of its end: above all that it ever had.
        epoch: u64,
    },
    /// A stored value is damaged on this node: it must be repaired from another replica.
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The row.
        row: synod_storage::DamagedRow,
    },
    /// A committed entry cannot be understood or breaks an invariant: this replica must stop, and
    /// the node say so. Its state is as it was before the entry.
    Fatal {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        reason: String,
    },
}
