//! What nodes say to each other about their shards.
//!
//! These are our own types, archived by rkyv and checked in full before anything is read: raft-rs
//! speaks protobuf, whose parser a peer could make overflow the stack, so it never sees a peer's
//! bytes. There is no way to write a proposal or a read request here: a command reaches a leader
//! through the gateway, which knows whether it was answered, and never through Raft's own
//! forwarding, which does not.
//!
//! One [`Batch`] a flush and destination carries what all shards have to say, heartbeats of all
//! groups between two nodes included; two nodes whose groups all sleep exchange a [`Sign`] now and
//! then, and nothing else. Payloads are [`Bytes`]: encoding copies them once into the frame,
//! decoding copies nothing, it cuts slices out of the frame.
//!
//! A frame is the archive of one of the four, and a last byte that says which: an archived enum
//! would be as long as its longest variant, and the shortest message is the one that never ends.
//!
//! Decoding checks the shape. What the shape cannot say (terms that run backwards, more entries
//! than the index has room for) is checked in [`Message::decode`] as well, so that the state
//! machine, which panics on impossible input, gets only possible ones.

// The archived twins that the derives make have no documentation of their own.
#![allow(missing_docs)]

use bytes::Bytes;
use rkyv::api::high::{HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error as ArchiveError, Fallible, Source, Strategy};
use rkyv::ser::{Allocator, Writer};
use rkyv::util::AlignedVec;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Portable, Serialize};
use synod_storage::{
    EntryId, EntryKind, ReplicaId, ShardId, SnapshotHeader, Version, WriteOp, row_checksum,
};

use crate::identity::Incarnation;

/// Which connection a message goes by, so that a snapshot never holds up a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Consensus: small, frequent, urgent.
    Control,
    /// Snapshot chunks and repairs: large, throttled.
    Bulk,
}

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Consensus of any number of shards, and the heartbeat between two nodes.
    Batch(Batch),
    /// The heartbeat between two nodes that have nothing else to say.
    Sign(Sign),
    /// A piece of a shard's state.
    Snapshot(SnapshotMessage),
    /// Entries that a damaged disk lost.
    Repair(RepairMessage),
}

/// All that one flush has to say to one node.
#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub struct Batch {
    /// The heartbeat round of the sender's leaders, if one begins.
    pub heartbeat: Option<Heartbeat>,
    /// Answers to rounds of the receiver's leaders.
    pub replies: Vec<HeartbeatReply>,
    /// Messages of single shards, in the order in which they were made.
    pub consensus: Vec<GroupMessage>,
}

/// One round of heartbeats from all leaders of a node, or some, to their members on another node.
///
/// A round is also what leases and quorum reads count: a reply to round *r* proves that the voter
/// followed this leader at a time after *r* was sent.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's start; a reply gives it back.
    pub incarnation: Incarnation,
    /// Counts up within an incarnation.
    pub round: u64,
    /// Digest of the quiet groups that the sender leads and the receiver follows, if a sign of life
    /// was due. Then `groups` names all others that the sender leads and the receiver follows.
    pub quiet: Option<QuietDigest>,
    /// The awake groups of this round.
    pub groups: Vec<GroupHeartbeat>,
}

/// A sign of life: a heartbeat without groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Sign {
    /// As in a heartbeat.
    pub incarnation: Incarnation,
    /// As in a heartbeat.
    pub quiet: QuietDigest,
}

/// A set of (shard, replica, term), as its size and the sum of its hashes. Two nodes whose digests
/// differ disagree on which groups sleep, and wake them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct QuietDigest {
    /// Groups in the set.
    pub count: u64,
    /// Wrapping sum of one hash a group.
    pub sum: u64,
}

/// One group's part of a heartbeat round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupHeartbeat {
    /// The shard.
    pub shard: ShardId,
    /// The leader.
    pub from: ReplicaId,
    /// The member addressed.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: u64,
    /// The commit index, as far as it is known to match this member's log.
    pub commit: u64,
    /// What the leader asks of it.
    pub ask: Ask,
}

/// What a leader asks of a member with a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Ask {
    /// To go on following.
    Follow,
    /// To go quiet, if its log ends at this entry and all of it is applied.
    Quiesce {
        /// The leader's last entry, applied by the leader.
        last: EntryId,
    },
}

/// The answer to one round.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// As in the heartbeat.
    pub incarnation: Incarnation,
    /// As in the heartbeat.
    pub round: u64,
    /// The groups that follow. A member that does not says so by a consensus message of its term.
    pub groups: Vec<GroupReply>,
}

/// One group's part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupReply {
    /// The shard.
    pub shard: ShardId,
    /// The member that answers.
    pub from: ReplicaId,
    /// The leader.
    pub to: ReplicaId,
    /// The term in which it follows.
    pub term: u64,
    /// The member's commit index.
    pub commit: u64,
    /// Whether it sleeps now, if it was asked to.
    pub rest: Rest,
}

/// Whether a member sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Rest {
    /// No.
    Awake,
    /// Yes: it stopped its election timer.
    Quiet,
}

/// A consensus message of one shard.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct GroupMessage {
    /// The shard.
    pub shard: ShardId,
    /// The sender.
    pub from: ReplicaId,
    /// The addressee; a node drops what is not for the replica it has.
    pub to: ReplicaId,
    /// The sender's term; for the messages of a pre-vote, the term it would have.
    pub term: u64,
    /// What it says.
    pub body: GroupBody,
}

/// What a consensus message says. Section numbers are those of Ongaro's dissertation.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum GroupBody {
    /// AppendEntries (§3.5), also to prove a commit index.
    Append {
        /// The entry before the first.
        previous: EntryId,
        /// The leader's commit index.
        commit: u64,
        /// Consecutive entries.
        entries: Vec<WireEntry>,
    },
    /// The log agrees with the leader's, and is durable, up to `index`.
    Accepted {
        /// The last index that agrees.
        index: u64,
        /// The follower's commit index.
        commit: u64,
    },
    /// The log does not have the entry before the first; also how a follower of a later term
    /// tells a deposed leader.
    Rejected {
        /// The index that did not match.
        index: u64,
        /// Where to try next: the follower's last candidate for a common entry.
        hint: EntryId,
        /// The follower's commit index.
        commit: u64,
    },
    /// RequestVote (§3.4), or its rehearsal (§9.6).
    Vote {
        /// Rehearsal, election, or election at the leader's wish.
        kind: VoteKind,
        /// The candidate's last entry.
        last: EntryId,
        /// The candidate's last committed entry.
        commit: EntryId,
    },
    /// The answer to [`GroupBody::Vote`].
    VoteReply {
        /// To which kind; a transfer is answered as an election.
        kind: VoteKind,
        /// The answer.
        vote: Ballot,
        /// The voter's last committed entry, if it refuses.
        commit: EntryId,
    },
    /// Leadership transfer (§3.10): campaign at once.
    TimeoutNow,
}

/// Which vote is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum VoteKind {
    /// Would you vote for me? Binds nobody.
    PreVote,
    /// A real vote, after a time-out.
    Election,
    /// A real vote, at the wish of the leader, whose lease has ended.
    Transfer,
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Ballot {
    /// Yes.
    Granted,
    /// No.
    Refused,
}

/// A log entry on the wire. Its index follows from its place.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct WireEntry {
    /// Its term.
    pub term: u64,
    /// What it is for.
    pub kind: EntryKind,
    /// Its data: a command, or an encoded change of the members.
    #[rkyv(with = Sliced)]
    pub data: Bytes,
}

/// The transfer of a shard's state from a leader to one member.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct SnapshotMessage {
    /// The shard.
    pub shard: ShardId,
    /// The sender.
    pub from: ReplicaId,
    /// The addressee.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: u64,
    /// Names the transfer: the sender's incarnation and a counter of its own.
    pub transfer: (Incarnation, u64),
    /// What it says.
    pub body: SnapshotBody,
}

/// What a message of a transfer says.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum SnapshotBody {
    /// A transfer begins: sent again until the receiver asks for chunks.
    Offer {
        /// The entry whose state it is, and the members at that entry.
        header: SnapshotHeader,
    },
    /// A chunk, as the sender's store made it.
    Chunk {
        /// Its number, from 0.
        number: u32,
        /// Whether it is the last.
        last: Last,
        /// The store's checksum over all of it.
        checksum: u32,
        /// Its bytes.
        #[rkyv(with = Sliced)]
        payload: Bytes,
    },
    /// From the receiver: it holds all chunks below `next`. Repeated after a gap: send from there.
    Want {
        /// The first chunk that it does not have.
        next: u32,
    },
    /// From the receiver: it is over.
    Done {
        /// How it ended.
        outcome: Outcome,
    },
}

/// Whether a chunk ends its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Last {
    /// More follow.
    No,
    /// The end.
    Yes,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Outcome {
    /// Installed, or not needed any more.
    Installed,
    /// Refused; nothing was replaced.
    Failed,
}

/// The repair of what a disk lost, but whose identity it kept: entries, rows, or a replica's state.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct RepairMessage {
    /// The shard.
    pub shard: ShardId,
    /// The sender.
    pub from: ReplicaId,
    /// The addressee; 0 asks whichever replica the node has.
    pub to: ReplicaId,
    /// What it says.
    pub body: RepairBody,
}

/// What a message of a repair says.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum RepairBody {
    /// Send me exactly these entries.
    Request {
        /// Each entry's identity and [`synod_storage::entry_checksum`].
        wanted: Vec<(EntryId, u32)>,
    },
    /// Those of them that this replica holds, exactly.
    Reply {
        /// The entries.
        entries: Vec<(EntryId, WireEntry)>,
    },
    /// Send me exactly these versions of these rows.
    RowsWanted {
        /// Keys and versions.
        rows: Vec<(WireKey, Version)>,
    },
    /// A row that was asked for.
    Row {
        /// The row.
        row: WireRow,
    },
    /// My rows are lost and my log is whole: send me a snapshot, if you lead.
    StateWanted {
        /// It must be as of this index at least.
        least: u64,
    },
}

/// A key on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WireKey(#[rkyv(with = Sliced)] pub Bytes);

/// One version of a row, on the wire.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct WireRow {
    /// The key.
    pub key: WireKey,
    /// The version.
    pub version: Version,
    /// The value; none for a deleted row.
    pub value: Option<WireValue>,
    /// Over all of it, as the sender's store gave it.
    pub checksum: u32,
}

/// A value on the wire.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct WireValue(#[rkyv(with = Sliced)] pub Bytes);

impl WireRow {
    /// A row with its checksum.
    pub fn new(key: Bytes, version: Version, op: &WriteOp) -> WireRow {
        let checksum = row_checksum(&key, version, op);
        let value = match op {
            WriteOp::Put(value) => Some(WireValue(value.clone())),
            WriteOp::Delete => None,
        };
        WireRow {
            key: WireKey(key),
            version,
            value,
            checksum,
        }
    }

    /// What the row says, if it arrived as it was made.
    pub fn into_op(self) -> Option<(Bytes, Version, WriteOp)> {
        let WireRow {
            key: WireKey(key),
            version,
            value,
            checksum,
        } = self;
        let op = value.map_or(WriteOp::Delete, |value| WriteOp::Put(value.0));
        (row_checksum(&key, version, &op) == checksum).then_some((key, version, op))
    }
}

/// A frame that is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MalformedMessage {
    /// The bytes are not an archive of a message.
    #[error("malformed message: {0}")]
    Archive(ArchiveError),
    /// The archive is whole, and its contents cannot be.
    #[error("impossible message: {0}")]
    Contents(&'static str),
}

impl Message {
    /// The connection it goes by.
    pub fn class(&self) -> Class {
        match self {
            Message::Batch(_) | Message::Sign(_) => Class::Control,
            Message::Snapshot(_) | Message::Repair(_) => Class::Bulk,
        }
    }

    /// Appends the encoded message to `out`, whose length must be a multiple of 16: then the
    /// archive is aligned wherever the frame is.
    pub fn encode(&self, out: AlignedVec) -> AlignedVec {
        debug_assert!(out.len() % 16 == 0);
        let (archived, tag) = match self {
            Message::Batch(batch) => (to_bytes_in::<_, ArchiveError>(batch, out), TAG_BATCH),
            Message::Sign(sign) => (to_bytes_in(sign, out), TAG_SIGN),
            Message::Snapshot(message) => (to_bytes_in(message, out), TAG_SNAPSHOT),
            Message::Repair(message) => (to_bytes_in(message, out), TAG_REPAIR),
        };
        match archived {
            Ok(mut out) => {
                out.push(tag);
                out
            }
            // Writing to memory fails only for lack of it, which aborts by itself.
            Err(error) => unreachable!("archiving to memory: {error}"),
        }
    }

    /// Checks and decodes a message. Payloads are slices of `frame`, or of one copy of it if it
    /// does not lie at a multiple of 16.
    pub fn decode(frame: &Bytes) -> Result<Message, MalformedMessage> {
        if frame.as_ptr().align_offset(16) != 0 {
            let mut aligned = AlignedVec::<16>::with_capacity(frame.len());
            aligned.extend_from_slice(frame);
            return Message::decode_aligned(&Bytes::from_owner(aligned));
        }
        Message::decode_aligned(frame)
    }

    fn decode_aligned(frame: &Bytes) -> Result<Message, MalformedMessage> {
        let Some((tag, archive)) = frame.split_last() else {
            return Err(MalformedMessage::Contents("a message of no bytes"));
        };
        let message = match *tag {
            TAG_BATCH => read::<Batch>(archive, frame).map(Message::Batch),
            TAG_SIGN => read::<Sign>(archive, frame).map(Message::Sign),
            TAG_SNAPSHOT => read::<SnapshotMessage>(archive, frame).map(Message::Snapshot),
            TAG_REPAIR => read::<RepairMessage>(archive, frame).map(Message::Repair),
            _ => return Err(MalformedMessage::Contents("a message of no known kind")),
        };
        let message = message.map_err(MalformedMessage::Archive)?;
        message.check().map_err(MalformedMessage::Contents)?;
        Ok(message)
    }

    /// What the types cannot say.
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Message::Batch(batch) => {
                if let Some(heartbeat) = &batch.heartbeat {
                    for group in &heartbeat.groups {
                        check_replicas(group.from, group.to)?;
                        check_term(group.term)?;
                    }
                }
                for reply in &batch.replies {
                    for group in &reply.groups {
                        check_replicas(group.from, group.to)?;
                        check_term(group.term)?;
                    }
                }
                for message in &batch.consensus {
                    check_replicas(message.from, message.to)?;
                    check_term(message.term)?;
                    message.body.check(message.term)?;
                }
                Ok(())
            }
            Message::Sign(_) => Ok(()),
            Message::Snapshot(message) => {
                check_replicas(message.from, message.to)?;
                check_term(message.term)?;
                match &message.body {
                    SnapshotBody::Offer { header } => {
                        let id = header.applied;
                        if id.index == 0 || id.term == 0 || id.term > message.term {
                            return Err("a snapshot of no entry");
                        }
                        Ok(())
                    }
                    SnapshotBody::Chunk { .. }
                    | SnapshotBody::Want { .. }
                    | SnapshotBody::Done { .. } => Ok(()),
                }
            }
            Message::Repair(message) => {
                if message.from.0 == 0 {
                    return Err("a message of no replica");
                }
                Ok(())
            }
        }
    }
}

impl GroupBody {
    fn check(&self, term: u64) -> Result<(), &'static str> {
        match self {
            GroupBody::Append {
                previous,
                commit: _,
                entries,
            } => {
                if (previous.index == 0) != (previous.term == 0) {
                    return Err("an append after half an entry");
                }
                if previous
                    .index
                    .checked_add(entries.len() as u64)
                    .is_none_or(|i| i == u64::MAX)
                {
                    return Err("an append beyond the last index");
                }
                let mut before = previous.term;
                for entry in entries {
                    if entry.term < before || entry.term == 0 {
                        return Err("an append whose terms run backwards");
                    }
                    before = entry.term;
                }
                if before > term {
                    return Err("an append of entries of a later term");
                }
                Ok(())
            }
            GroupBody::Vote {
                kind: _,
                last,
                commit,
            } => {
                if last.term > term || commit.index > last.index {
                    return Err("a candidate whose log cannot be");
                }
                Ok(())
            }
            GroupBody::Accepted { index, commit: _ } => {
                if *index == u64::MAX {
                    return Err("an acknowledgement beyond the last index");
                }
                Ok(())
            }
            GroupBody::Rejected {
                index,
                hint,
                commit: _,
            } => {
                if *index == u64::MAX || hint.index == u64::MAX {
                    return Err("a rejection beyond the last index");
                }
                Ok(())
            }
            GroupBody::VoteReply { .. } | GroupBody::TimeoutNow => Ok(()),
        }
    }
}

fn check_replicas(from: ReplicaId, to: ReplicaId) -> Result<(), &'static str> {
    if from.0 == 0 || to.0 == 0 || from == to {
        return Err("a message of no replica, or to itself");
    }
    Ok(())
}

fn check_term(term: u64) -> Result<(), &'static str> {
    // Zero is what the state machine takes for a message of its own.
    if term == 0 || term == u64::MAX {
        return Err("a message of no term");
    }
    Ok(())
}

// What a frame's last byte says that it is the archive of. Never reused, and nothing that padding or
// text ends with.
const TAG_BATCH: u8 = 0xd1;
const TAG_SIGN: u8 = 0xd2;
const TAG_SNAPSHOT: u8 = 0xd3;
const TAG_REPAIR: u8 = 0xd4;

/// The frame that a message is decoded from.
struct Frame {
    bytes: Bytes,
}

/// Checks an archive at the beginning of a frame, and builds its value.
fn read<T>(archive: &[u8], frame: &Bytes) -> Result<T, ArchiveError>
where
    T: Archive,
    T::Archived: Portable
        + for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, Strategy<Frame, ArchiveError>>,
{
    let archived = rkyv::access::<T::Archived, ArchiveError>(archive)?;
    let mut source = Frame {
        bytes: frame.clone(),
    };
    rkyv::api::deserialize_using(archived, &mut source)
}

/// Cuts payloads out of the frame that is being decoded.
pub trait Slices {
    /// The payload at `slice`, which lies in the frame.
    fn slice(&self, slice: &[u8]) -> Bytes;
}

impl<E> Slices for Strategy<Frame, E> {
    fn slice(&self, slice: &[u8]) -> Bytes {
        if slice.is_empty() {
            Bytes::new()
        } else {
            self.bytes.slice_ref(slice)
        }
    }
}

/// Archives [`Bytes`] as a byte vector, and gives it back as a slice of its frame.
#[derive(Debug)]
pub struct Sliced;

impl ArchiveWith<Bytes> for Sliced {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve_with(field: &Bytes, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_slice(field.as_ref(), resolver, out);
    }
}

impl<S> SerializeWith<Bytes, S> for Sliced
where
    S: Fallible<Error: Source> + Allocator + Writer + ?Sized,
{
    fn serialize_with(field: &Bytes, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(field.as_ref(), serializer)
    }
}

impl<D: Fallible + Slices + ?Sized> DeserializeWith<ArchivedVec<u8>, Bytes, D> for Sliced {
    fn deserialize_with(field: &ArchivedVec<u8>, source: &mut D) -> Result<Bytes, D::Error> {
        Ok(source.slice(field.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(previous: EntryId, term: u64, terms: &[u64]) -> Message {
        let entries = terms
            .iter()
            .map(|&term| WireEntry {
                term,
                kind: EntryKind::Normal,
                data: Bytes::from(vec![b'd'; 300]),
            })
            .collect();
        let body = GroupBody::Append {
            previous,
            commit: 3,
            entries,
        };
        let message = GroupMessage {
            shard: ShardId(1),
            from: ReplicaId(1),
            to: ReplicaId(2),
            term,
            body,
        };
        Message::Batch(Batch {
            consensus: vec![message],
            ..Batch::default()
        })
    }

    fn encoded(message: &Message) -> Bytes {
        Bytes::from_owner(message.encode(AlignedVec::new()))
    }

    #[test]
    fn a_message_survives_the_wire_aligned_or_not() {
        let message = append(EntryId::new(2, 7), 3, &[2, 3, 3]);
        let frame = encoded(&message);
        assert_eq!(Message::decode(&frame).expect("our own frame"), message);
        let mut shifted = vec![0u8; 3];
        shifted.extend_from_slice(&frame);
        let shifted = Bytes::from(shifted).slice(3..);
        assert_eq!(Message::decode(&shifted).expect("our own frame"), message);
    }

    #[test]
    fn a_sign_of_life_is_short() {
        let sign = Message::Sign(Sign {
            incarnation: Incarnation(7),
            quiet: QuietDigest { count: 3, sum: 9 },
        });
        let frame = encoded(&sign);
        assert_eq!(Message::decode(&frame).expect("our own frame"), sign);
        assert_eq!(frame.len(), 25);
    }

    #[test]
    fn payloads_are_slices_of_an_aligned_frame() {
        let frame = encoded(&append(EntryId::new(2, 7), 3, &[3]));
        let Ok(Message::Batch(batch)) = Message::decode(&frame) else {
            panic!("our own frame")
        };
        let GroupBody::Append { entries, .. } = &batch.consensus[0].body else {
            panic!("append")
        };
        assert!(frame.as_ptr_range().contains(&entries[0].data.as_ptr()));
    }

    #[test]
    fn impossible_contents_are_refused() {
        let impossible = [
            append(EntryId::new(2, 7), 3, &[3, 2]),
            append(EntryId::new(2, 7), 2, &[3]),
            append(EntryId::new(0, 7), 3, &[3]),
            append(EntryId::new(2, u64::MAX - 1), 3, &[3]),
            append(EntryId::new(2, 7), 0, &[]),
        ];
        for message in impossible {
            let outcome = Message::decode(&encoded(&message));
            assert!(
                matches!(outcome, Err(MalformedMessage::Contents(_))),
                "{message:?}"
            );
        }
    }

    #[test]
    fn damaged_frames_are_refused_or_other_messages_but_never_panic() {
        let frame = encoded(&append(EntryId::new(2, 7), 3, &[2, 3, 3]));
        let mut refused = 0;
        for bit in 0..frame.len() * 8 {
            let mut bytes = AlignedVec::<16>::new();
            bytes.extend_from_slice(&frame);
            bytes[bit / 8] ^= 1 << (bit % 8);
            refused += usize::from(Message::decode(&Bytes::from_owner(bytes)).is_err());
        }
        assert!(refused > 100, "{refused}");
        for length in 0..frame.len() {
            assert!(Message::decode(&frame.slice(..length)).is_err());
        }
    }
}
