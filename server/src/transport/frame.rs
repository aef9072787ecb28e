//! Frames: how bytes on a peer connection become messages, and how garbage is told from them.
//!
//! ```text
//! 0        4        8        12        14      16
//! | magic  | length | crc32  | version | kind  | body (rkyv, `length` bytes) …
//! ```
//!
//! All integers are little-endian. The checksum covers version, kind and body, so a flipped bit
//! anywhere past it is caught before the body is looked at; the body is then validated by rkyv
//! before it is used. A length beyond the kind's bound is refused before a byte is allocated.

use std::num::NonZeroUsize;

use bytes::Bytes;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Portable, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"SYN0";
/// Version of the peer protocol; both ends must speak the same. It is raised with the first change after a
/// release: nodes of two unreleased builds are not meant to meet.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 16;

/// How deep values may nest: a frame must not be able to exhaust the stack.
const DEPTH_MAX: usize = 64;

/// A whole frame, header included, ready for the socket.
pub type Frame = AlignedVec;

/// What a frame carries. The number is the wire form and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// The dialling side introduces itself.
    Hello = 1,
    /// The accepting side answers.
    HelloAnswer = 2,
    /// A batch of Raft messages.
    Raft = 3,
    /// Requests forwarded to a shard's leader.
    Requests = 4,
    /// Answers to forwarded requests.
    Responses = 5,
    /// A membership message.
    Membership = 6,
    /// A question or an answer of cluster formation.
    Formation = 7,
    /// What nodes tell each other of shards and nodes.
    Directory = 8,
    /// An order to a shard, or its answer.
    Shards = 9,
    /// Forwarded requests that nobody waits for any more.
    Withdrawals = 10,
}

impl Kind {
    /// The largest body that this kind may have, in bytes.
    pub fn body_bytes_max(self) -> u32 {
        match self {
            Kind::Hello | Kind::HelloAnswer => 16 << 10,
            Kind::Formation | Kind::Shards | Kind::Withdrawals => 1 << 20,
            Kind::Membership | Kind::Directory => 8 << 20,
            Kind::Raft | Kind::Requests | Kind::Responses => 48 << 20,
        }
    }
}

impl Kind {
    /// What it is called in figures.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::HelloAnswer => "hello-answer",
            Kind::Raft => "raft",
            Kind::Requests => "requests",
            Kind::Responses => "responses",
            Kind::Membership => "membership",
            Kind::Formation => "formation",
            Kind::Directory => "directory",
            Kind::Shards => "shards",
            Kind::Withdrawals => "withdrawals",
        }
    }
}

impl TryFrom<u16> for Kind {
    type Error = FrameError;

    fn try_from(wire: u16) -> Result<Self, FrameError> {
        Ok(match wire {
            1 => Kind::Hello,
            2 => Kind::HelloAnswer,
            3 => Kind::Raft,
            4 => Kind::Requests,
            5 => Kind::Responses,
            6 => Kind::Membership,
            7 => Kind::Formation,
            8 => Kind::Directory,
            9 => Kind::Shards,
            10 => Kind::Withdrawals,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

/// Why bytes from a peer are no frame of ours. The connection is closed after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection ended or failed.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The other side does not speak this protocol at all.
    #[error("not a Synod peer: the first bytes are {0:02x?}")]
    NotAPeer([u8; 4]),
    /// A peer of another release.
    #[error("peer speaks protocol version {theirs}, this node speaks {PROTOCOL_VERSION}")]
    OtherVersion {
        /// What the frame said.
        theirs: u16,
    },
    /// A frame kind that this release does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u16),
    /// A length past the bound of its kind.
    #[error("frame of {bytes} bytes where {kind:?} may have {max}")]
    TooLong {
        /// The kind.
        kind: Kind,
        /// The announced length.
        bytes: u32,
        /// The bound.
        max: u32,
    },
    /// Damaged on the way.
    #[error("frame checksum mismatch (kind {0:?})")]
    Checksum(Kind),
    /// The checksum holds but the content is not a value of the type: a bug or another release.
    #[error("frame body of {kind:?} does not validate: {reason}")]
    Invalid {
        /// The kind.
        kind: Kind,
        /// What the validation said.
        reason: String,
    },
    /// A valid frame where another was due.
    #[error("{got:?} where {wanted:?} was due")]
    OutOfPlace {
        /// What came.
        got: Kind,
        /// What should have.
        wanted: Kind,
    },
}

/// What [`encode`] takes.
pub trait Encodable: for<'a> Serialize<FrameSerializer<'a>> {}

impl<T: for<'a> Serialize<FrameSerializer<'a>>> Encodable for T {}

type FrameSerializer<'a> = HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>;

/// Encodes `value` as one frame of `kind`.
pub fn encode<T: Encodable>(kind: Kind, value: &T) -> Result<Frame, FrameError> {
    let frame = rkyv::api::high::to_bytes_in(value, begin()).map_err(|e| FrameError::Invalid {
        kind,
        reason: e.to_string(),
    })?;
    seal(kind, frame)
}

/// An empty frame: append the body, then [`seal`] it.
///
/// The header is as long as the alignment, so positions inside the body stay aligned.
pub fn begin() -> Frame {
    let mut frame = AlignedVec::with_capacity(512);
    frame.extend_from_slice(&[0; HEADER_BYTES]);
    frame
}

/// Writes the header of a frame whose body is complete.
pub fn seal(kind: Kind, mut frame: Frame) -> Result<Frame, FrameError> {
    let max = kind.body_bytes_max();
    let bytes = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    if bytes > max {
        return Err(FrameError::TooLong { kind, bytes, max });
    }
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&bytes.to_le_bytes());
    frame[12..14].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    frame[14..16].copy_from_slice(&(kind as u16).to_le_bytes());
    let crc = crc32fast::hash(&frame[12..]);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

/// What a sealed frame carries.
pub fn kind_of(frame: &Frame) -> Option<Kind> {
    let wire = frame.get(14..HEADER_BYTES)?;
    let wire = u16::from_le_bytes(wire.try_into().ok()?);
    Kind::try_from(wire).ok()
}

/// Reads one frame: its kind and its body, checksum verified, content not yet validated.
///
/// The body is aligned for rkyv, so it is validated and read in place.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(Kind, Bytes), FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let [
        m0,
        m1,
        m2,
        m3,
        l0,
        l1,
        l2,
        l3,
        c0,
        c1,
        c2,
        c3,
        v0,
        v1,
        k0,
        k1,
    ] = header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FrameError::NotAPeer([m0, m1, m2, m3]));
    }
    let theirs = u16::from_le_bytes([v0, v1]);
    if theirs != PROTOCOL_VERSION {
        return Err(FrameError::OtherVersion { theirs });
    }
    let kind = Kind::try_from(u16::from_le_bytes([k0, k1]))?;
    let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
    let max = kind.body_bytes_max();
    if bytes > max {
        return Err(FrameError::TooLong { kind, bytes, max });
    }
    let mut body = AlignedVec::<16>::with_capacity(bytes as usize);
    body.resize(bytes as usize, 0);
    reader.read_exact(&mut body).await?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[12..]);
    crc.update(&body);
    if crc.finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum(kind));
    }
    Ok((kind, Bytes::from_owner(body)))
}

/// Validates a body and builds its value.
pub fn decode<T>(kind: Kind, body: &[u8]) -> Result<T, FrameError>
where
    T: Archive,
    T::Archived: Portable
        + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    let invalid = |e: rancor::Error| FrameError::Invalid {
        kind,
        reason: e.to_string(),
    };
    let mut validator = Validator::new(
        ArchiveValidator::with_max_depth(body, NonZeroUsize::new(DEPTH_MAX)),
        SharedValidator::new(),
    );
    let archived =
        rkyv::api::access_with_context::<T::Archived, _, rancor::Error>(body, &mut validator)
            .map_err(invalid)?;
    rkyv::deserialize::<T, rancor::Error>(archived).map_err(invalid)
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    async fn read_bytes(bytes: &[u8]) -> Result<(Kind, Bytes), FrameError> {
        let mut reader = bytes;
        read(&mut reader).await
    }

    #[tokio::test]
    async fn a_frame_comes_back_as_it_went() {
        let value = vec![(7u64, String::from("seven")), (8, String::from("eight"))];
        let frame = encode(Kind::Raft, &value).unwrap();
        let (kind, body) = read_bytes(&frame).await.unwrap();
        assert_eq!(kind, Kind::Raft);
        assert_eq!(decode::<Vec<(u64, String)>>(kind, &body).unwrap(), value);
    }

    #[tokio::test]
    async fn every_flipped_bit_is_an_error() {
        let frame = encode(Kind::Hello, &vec![1u32, 2, 3]).unwrap();
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let outcome = read_bytes(&damaged).await;
            assert!(outcome.is_err(), "bit {bit} went unnoticed");
        }
    }

    #[tokio::test]
    async fn every_prefix_of_a_frame_is_an_error() {
        let frame = encode(Kind::Hello, &vec![1u32, 2, 3]).unwrap();
        for length in 0..frame.len() {
            assert!(
                read_bytes(&frame[..length]).await.is_err(),
                "prefix of {length} bytes"
            );
        }
    }

    #[tokio::test]
    async fn a_huge_length_is_refused_before_it_is_allocated() {
        let mut frame = encode(Kind::Hello, &vec![1u32]).unwrap().to_vec();
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            read_bytes(&frame).await,
            Err(FrameError::TooLong { .. })
        ));
    }

    #[tokio::test]
    async fn a_http_request_is_named_as_no_peer() {
        let outcome = read_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(matches!(outcome, Err(FrameError::NotAPeer(first)) if &first == b"GET "));
    }
}
