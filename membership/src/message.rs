//! Everything that nodes say to each other.
//!
//! The sender's identity (cluster, node, boot) is not repeated here: the transport learns it in its handshake and
//! attaches it to each delivery. Members are named by their place in the configuration where a message is frequent, and
//! probes carry four bytes of its hash instead of sixteen. Messages are cheap to clone and at most 64 bytes in memory:
//! what is larger is shared.

use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};
use crate::configuration::SharedConfiguration;
use crate::cut::Cut;
use crate::id::{Boot, ConfigHash, CutHash, Destination, NodeId};
use crate::member::Member;
use crate::view::{Rank, View};

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// "Are you there?", from an observer to its subject.
    Probe(Probe),
    /// The answer, given on receipt; never waits on a disk.
    ProbeAck(ProbeAck),
    /// Reports of edges that fail, of joiners, of restarts (Rapid, §4.1).
    Alerts(Arc<AlertBatch>),
    /// Votes of the fast round, merged (Rapid, §4.3).
    FastVotes(Arc<FastVotes>),
    /// "Which cut has this hash?"
    CutRequest(CutRequest),
    /// The cut that was asked for.
    CutReply(Arc<CutReply>),
    /// Phase 1a of a classic round.
    Prepare(Ballot),
    /// Phase 1b.
    Promise(Arc<Promise>),
    /// Phase 2a.
    Accept(Arc<Accept>),
    /// Phase 2b, to the coordinator.
    Accepted(Ballot),
    /// "I have promised a higher rank."
    Refused(Refused),
    /// "I am at this configuration; send me what comes after."
    Pull(Pull),
    /// Certified views, in order.
    Views(Arc<Vec<Arc<View>>>),
    /// A whole configuration, for a node that starts its sequence with it.
    Snapshot(Arc<Snapshot>),
    /// "What you ask for is no longer in my log."
    Truncated(Truncated),
    /// Phase 1 of a join, to a seed (Rapid, §4.1).
    Lookup(Lookup),
    /// The seed's answer.
    LookupReply(Arc<LookupReply>),
    /// Phase 2 of a join, to each temporary observer; repeated while the joiner waits.
    Join(Arc<Join>),
    /// "You are a member as of this configuration": pull it.
    Admitted(Position),
    /// From a restarted member to its observers: "my boot is new".
    Restarted(Arc<Restarted>),
    /// From a member to its observers: "I am leaving".
    Leaving(Position),
    /// "I have installed this", to observers, who then know that I can vote.
    Installed(Installed),
    /// "A newer boot of your directory is known": an old process, or a copied or rolled-back directory.
    Superseded(Boot),
}

/// A node's place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Sequence number of its configuration.
    pub seq: u64,
    /// Hash of its configuration.
    pub hash: ConfigHash,
}

/// See [`Message::Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Comes back in the answer; both tries of a probe carry the same.
    pub nonce: u16,
    /// The prober's configuration: seq.
    pub seq: u64,
    /// The prober's configuration: [`ConfigHash::tag`].
    pub tag: u32,
}

/// See [`Message::ProbeAck`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAck {
    /// The probe's.
    pub nonce: u16,
    /// The answerer's configuration: seq; zero if it has none.
    pub seq: u64,
    /// The answerer's configuration: [`ConfigHash::tag`].
    pub tag: u32,
    /// How it is.
    pub health: Health,
}

/// What a node says of its own condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing to report.
    Well,
    /// Writes have been outstanding for too long.
    DiskStalled,
}

/// What an observer reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The edge to the subject fails.
    Down,
    /// The subject said that it leaves.
    Leave,
    /// A joiner asks to come in. It is no member, so it travels whole.
    Up(Arc<Member>),
    /// The subject answers as a new boot.
    Replace(Arc<Member>),
    /// The subject has installed this configuration, and does not vote yet.
    Ready,
    /// What was reported before is no longer so.
    Withdrawn,
}

/// One observer's report of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The observer's place in the configuration.
    pub observer: u32,
    /// The ring on which it observes the subject.
    pub ring: u8,
    /// The subject.
    pub subject: Subject,
    /// Rises with each repetition, so that a repetition can be told from a late copy.
    pub refresh: u64,
    /// What is reported.
    pub report: Report,
}

/// Whom an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A member, by its place in the configuration.
    Member(u32),
    /// A joiner.
    Joiner(NodeId),
}

/// See [`Message::Alerts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertBatch {
    /// The configuration that they were made in: alerts of another one are void.
    pub config: ConfigHash,
    /// The alerts.
    pub alerts: Vec<Alert>,
}

/// The voters that are known to have voted for one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tally {
    /// The value's hash.
    pub cut: CutHash,
    /// The voters' places.
    pub voters: Bitmap,
}

/// See [`Message::FastVotes`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FastVotes {
    /// The configuration whose successor is voted on.
    pub config: ConfigHash,
    /// One for each value.
    pub tallies: Vec<Tally>,
}

/// See [`Message::CutRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutRequest {
    /// The configuration whose successor is voted on.
    pub config: ConfigHash,
    /// The value's hash.
    pub cut: CutHash,
}

/// See [`Message::CutReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutReply {
    /// The configuration whose successor is voted on.
    pub config: ConfigHash,
    /// The value.
    pub cut: Arc<Cut>,
}

/// A round of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The configuration whose successor is decided.
    pub config: ConfigHash,
    /// The round.
    pub rank: Rank,
}

/// See [`Message::Promise`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Promise {
    /// The round that is promised.
    pub ballot: Ballot,
    /// The last vote that was cast, if any.
    pub vote: Option<Vote>,
}

/// A vote that an acceptor has cast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The round that it was cast in.
    pub rank: Rank,
    /// The value's hash.
    pub hash: CutHash,
    /// The value, whole.
    pub cut: Arc<Cut>,
}

/// See [`Message::Accept`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accept {
    /// The round.
    pub ballot: Ballot,
    /// The value that the coordinator chose, with the round in place of a vote's.
    pub value: Vote,
}

/// See [`Message::Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused {
    /// The configuration whose successor is decided.
    pub config: ConfigHash,
    /// The rank that was asked for.
    pub asked: Rank,
    /// The rank that was promised before.
    pub promised: Rank,
}

/// See [`Message::Pull`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Where the asker stands. Seq zero asks for a snapshot.
    pub from: Position,
}

/// See [`Message::Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The configuration.
    pub configuration: SharedConfiguration,
    /// How it was decided; `None` for the first of a lineage.
    pub view: Option<Arc<View>>,
}

impl Snapshot {
    /// True for the first configuration of a lineage that was begun from another one's last.
    pub fn begins_lineage(&self) -> bool {
        self.view.is_none() && self.configuration.seq() > 1
    }
}

/// See [`Message::Truncated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The lowest configuration from which the sender can lead on.
    pub floor: u64,
}

/// See [`Message::Lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup;

/// See [`Message::LookupReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupReply {
    /// Ask these to admit you.
    Observers {
        /// The seed's configuration.
        at: Position,
        /// The joiner's temporary observers.
        observers: Vec<Destination>,
    },
    /// You are a member as of this configuration already: pull it.
    Listed(Position),
    /// Your boot is refused: the directory was copied or rolled back.
    Refused(Boot),
}

/// See [`Message::Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The configuration in which the receiver is an observer.
    pub config: ConfigHash,
    /// The joiner.
    pub member: Arc<Member>,
}

/// See [`Message::Restarted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// Where the restarted node stands.
    pub at: Position,
    /// The new boot, whole.
    pub member: Arc<Member>,
    /// How many durable writes its acceptor has made: never fewer than its peers remember.
    pub writes: u64,
}

/// See [`Message::Installed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The configuration that was installed.
    pub at: Position,
    /// How many durable writes the acceptor has made.
    pub writes: u64,
}

impl std::hash::Hash for Vote {
    /// The hash stands for the value.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.rank, self.hash).hash(state);
    }
}

impl PartialOrd for Vote {
    fn partial_cmp(&self, other: &Vote) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Vote {
    /// The hash stands for the value.
    fn cmp(&self, other: &Vote) -> std::cmp::Ordering {
        (self.rank, self.hash).cmp(&(other.rank, other.hash))
    }
}

/// Implements the codec of a struct as that of its fields in order.
macro_rules! fields {
    ($($name:ident { $($field:ident: $kind:ty),* })*) => {$(
        impl Encode for $name {
            fn encode<S: Sink>(&self, out: &mut S) {
                $(Field::put(&self.$field, out);)*
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Reader<'_>) -> Result<$name, DecodeError> {
                Ok($name { $($field: <$kind as Field>::get(input)?),* })
            }
        }
    )*};
}

/// A field of a message: integers take varints, except nonces and tags, which have no small values.
trait Field: Sized {
    fn put<S: Sink>(&self, out: &mut S);
    fn get(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

impl<T: Encode + Decode> Field for T {
    fn put<S: Sink>(&self, out: &mut S) {
        self.encode(out);
    }

    fn get(input: &mut Reader<'_>) -> Result<T, DecodeError> {
        T::decode(input)
    }
}

impl Encode for u64 {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(*self);
    }
}

impl Decode for u64 {
    fn decode(input: &mut Reader<'_>) -> Result<u64, DecodeError> {
        input.varint("a number")
    }
}

impl Encode for u32 {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(u64::from(*self));
    }
}

impl Decode for u32 {
    fn decode(input: &mut Reader<'_>) -> Result<u32, DecodeError> {
        u32::try_from(input.varint("a number")?).map_err(|_| DecodeError::NotCanonical("a number"))
    }
}

fields! {
    Position { seq: u64, hash: ConfigHash }
    AlertBatch { config: ConfigHash, alerts: Vec<Alert> }
    Tally { cut: CutHash, voters: Bitmap }
    FastVotes { config: ConfigHash, tallies: Vec<Tally> }
    CutRequest { config: ConfigHash, cut: CutHash }
    CutReply { config: ConfigHash, cut: Arc<Cut> }
    Ballot { config: ConfigHash, rank: Rank }
    Promise { ballot: Ballot, vote: Option<Vote> }
    Vote { rank: Rank, hash: CutHash, cut: Arc<Cut> }
    Accept { ballot: Ballot, value: Vote }
    Refused { config: ConfigHash, asked: Rank, promised: Rank }
    Pull { from: Position }
    Snapshot { configuration: SharedConfiguration, view: Option<Arc<View>> }
    Truncated { floor: u64 }
    Join { config: ConfigHash, member: Arc<Member> }
    Restarted { at: Position, member: Arc<Member>, writes: u64 }
    Installed { at: Position, writes: u64 }
    Destination { node: Option<NodeId>, address: std::net::SocketAddr }
}

impl Encode for Probe {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.u16(self.nonce);
        out.varint(self.seq);
        out.u32(self.tag);
    }
}

impl Decode for Probe {
    fn decode(input: &mut Reader<'_>) -> Result<Probe, DecodeError> {
        const WHAT: &str = "a probe";
        Ok(Probe {
            nonce: input.u16(WHAT)?,
            seq: input.varint(WHAT)?,
            tag: input.u32(WHAT)?,
        })
    }
}

impl Encode for ProbeAck {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.u16(self.nonce);
        out.varint(self.seq);
        out.u32(self.tag);
        out.u8(match self.health {
            Health::Well => 0,
            Health::DiskStalled => 1,
        });
    }
}

impl Decode for ProbeAck {
    fn decode(input: &mut Reader<'_>) -> Result<ProbeAck, DecodeError> {
        const WHAT: &str = "a probe's answer";
        Ok(ProbeAck {
            nonce: input.u16(WHAT)?,
            seq: input.varint(WHAT)?,
            tag: input.u32(WHAT)?,
            health: match input.u8(WHAT)? {
                0 => Health::Well,
                1 => Health::DiskStalled,
                value => {
                    return Err(DecodeError::Unknown {
                        what: "a condition",
                        value,
                    });
                }
            },
        })
    }
}

impl Encode for Alert {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(u64::from(self.observer));
        out.u8(self.ring);
        match self.subject {
            Subject::Member(index) => {
                out.u8(0);
                out.varint(u64::from(index));
            }
            Subject::Joiner(node) => {
                out.u8(1);
                node.encode(out);
            }
        }
        out.varint(self.refresh);
        match &self.report {
            Report::Down => out.u8(0),
            Report::Leave => out.u8(1),
            Report::Up(member) => {
                out.u8(2);
                member.encode(out);
            }
            Report::Replace(member) => {
                out.u8(3);
                member.encode(out);
            }
            Report::Ready => out.u8(4),
            Report::Withdrawn => out.u8(5),
        }
    }
}

impl Decode for Alert {
    fn decode(input: &mut Reader<'_>) -> Result<Alert, DecodeError> {
        let observer = u32::decode(input)?;
        let ring = input.u8("an alert's ring")?;
        let subject = match input.u8("an alert's subject")? {
            0 => Subject::Member(u32::decode(input)?),
            1 => Subject::Joiner(NodeId::decode(input)?),
            value => {
                return Err(DecodeError::Unknown {
                    what: "an alert's subject",
                    value,
                });
            }
        };
        let refresh = u64::decode(input)?;
        let report = match input.u8("a report")? {
            0 => Report::Down,
            1 => Report::Leave,
            2 => Report::Up(Arc::decode(input)?),
            3 => Report::Replace(Arc::decode(input)?),
            4 => Report::Ready,
            5 => Report::Withdrawn,
            value => {
                return Err(DecodeError::Unknown {
                    what: "a report",
                    value,
                });
            }
        };
        Ok(Alert {
            observer,
            ring,
            subject,
            refresh,
            report,
        })
    }
}

impl Encode for Lookup {
    /// The question has no parts.
    fn encode<S: Sink>(&self, _: &mut S) {}
}

impl Decode for Lookup {
    fn decode(_: &mut Reader<'_>) -> Result<Lookup, DecodeError> {
        Ok(Lookup)
    }
}

impl Encode for LookupReply {
    fn encode<S: Sink>(&self, out: &mut S) {
        match self {
            LookupReply::Observers { at, observers } => {
                out.u8(0);
                at.encode(out);
                observers.encode(out);
            }
            LookupReply::Listed(at) => {
                out.u8(1);
                at.encode(out);
            }
            LookupReply::Refused(boot) => {
                out.u8(2);
                boot.encode(out);
            }
        }
    }
}

impl Decode for LookupReply {
    fn decode(input: &mut Reader<'_>) -> Result<LookupReply, DecodeError> {
        match input.u8("a seed's answer")? {
            0 => Ok(LookupReply::Observers {
                at: Position::decode(input)?,
                observers: Vec::decode(input)?,
            }),
            1 => Ok(LookupReply::Listed(Position::decode(input)?)),
            2 => Ok(LookupReply::Refused(Boot::decode(input)?)),
            value => Err(DecodeError::Unknown {
                what: "a seed's answer",
                value,
            }),
        }
    }
}

/// Numbers the kinds of message: the first byte of each.
macro_rules! kinds {
    ($($number:literal => $kind:ident($body:ty),)*) => {
        impl Encode for Message {
            fn encode<S: Sink>(&self, out: &mut S) {
                match self {
                    $(Message::$kind(body) => {
                        out.u8($number);
                        body.encode(out);
                    })*
                }
            }
        }

        impl Decode for Message {
            fn decode(input: &mut Reader<'_>) -> Result<Message, DecodeError> {
                match input.u8("a message")? {
                    $($number => Ok(Message::$kind(<$body>::decode(input)?)),)*
                    value => Err(DecodeError::Unknown { what: "a message", value }),
                }
            }
        }

        impl Message {
            /// What kind of message it is, for traces and counters.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Message::$kind(_) => stringify!($kind),)*
                }
            }
        }
    };
}

kinds! {
    0 => Probe(Probe),
    1 => ProbeAck(ProbeAck),
    2 => Alerts(Arc<AlertBatch>),
    3 => FastVotes(Arc<FastVotes>),
    4 => CutRequest(CutRequest),
    5 => CutReply(Arc<CutReply>),
    6 => Prepare(Ballot),
    7 => Promise(Arc<Promise>),
    8 => Accept(Arc<Accept>),
    9 => Accepted(Ballot),
    10 => Refused(Refused),
    11 => Pull(Pull),
    12 => Views(Arc<Vec<Arc<View>>>),
    13 => Snapshot(Arc<Snapshot>),
    14 => Truncated(Truncated),
    15 => Lookup(Lookup),
    16 => LookupReply(Arc<LookupReply>),
    17 => Join(Arc<Join>),
    18 => Admitted(Position),
    19 => Restarted(Arc<Restarted>),
    20 => Leaving(Position),
    21 => Installed(Installed),
    22 => Superseded(Boot),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_small_in_memory_and_a_probe_on_the_wire() {
        assert!(size_of::<Message>() <= 64, "{}", size_of::<Message>());
        let probe = Message::Probe(Probe {
            nonce: 7,
            seq: 300,
            tag: u32::MAX,
        });
        let health = Health::DiskStalled;
        let ack = Message::ProbeAck(ProbeAck {
            nonce: 7,
            seq: 300,
            tag: u32::MAX,
            health,
        });
        assert_eq!((probe.encoded_len(), ack.encoded_len()), (9, 10));
        assert_eq!(Message::from_bytes(&ack.to_bytes()), Ok(ack));
    }
}
