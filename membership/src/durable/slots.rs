//! Small state in two copies.
//!
//! The registration and the acceptor's state are each a pair of slots (two files, or two regions of one). A write goes
//! to one slot and is synced, then to the other and is synced, and only then confirmed. So at any time one slot holds
//! the last confirmed value or a newer one, whole; a crash, or rot, spoils at most one.
//!
//! ```text
//! slot = magic u32 | generation u64 | length u32 | crc u32 (of generation, length, payload) | payload
//! ```
//!
//! A pair is blank before its first value: whole, with no payload. So two files that are gone, or were made anew by
//! somebody else, are not taken for a directory that never promised anything.

use thiserror::Error;

use crate::codec::{Decode, DecodeError, Encode, Sink};

const MAGIC: u32 = u32::from_le_bytes(*b"SMS1");
const HEADER_BYTES: usize = 4 + 8 + 4 + 4;

/// Why a slot, or a pair of them, cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlotError {
    /// Fewer bytes than it says it has.
    #[error("the slot is cut short")]
    Short,
    /// It does not begin like a slot.
    #[error("the slot has no header")]
    NoHeader,
    /// Its checksum does not match.
    #[error("the slot's checksum does not match")]
    Checksum,
    /// Its checksum matches, and it holds no such value: another version wrote it, or this is a bug.
    #[error("the slot holds something else: {0}")]
    Content(#[from] DecodeError),
    /// There is nothing, not even a blank.
    #[error("the slot is empty, or gone")]
    Absent,
    /// Both copies are damaged: the directory's promises are lost, and its id must not be used again.
    #[error("both copies are damaged ({first}; {second})")]
    BothDamaged {
        /// What ails the first.
        first: &'static str,
        /// What ails the second.
        second: &'static str,
    },
}

/// What a pair of slots holds. Both are to be written again before anybody relies on it: one of them may be missing,
/// damaged or old, and what a dead process left may be in the page cache only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots<T> {
    /// The value, if one was ever written.
    pub value: Option<T>,
    /// The generation to write next is one above this.
    pub generation: u64,
}

/// The bytes of a slot.
pub fn encode(generation: u64, value: &impl Encode) -> Vec<u8> {
    framed(generation, &value.to_bytes())
}

fn framed(generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.u32(MAGIC);
    bytes.u64(generation);
    bytes.u32(payload.len() as u32);
    bytes.u32(checksum(generation, payload));
    bytes.put(payload);
    bytes
}

/// The bytes of a slot that never had a value.
pub fn blank() -> Vec<u8> {
    framed(0, &[])
}

/// What a pair of slots holds. Bytes after a slot's payload are ignored, so that a region may be larger than its
/// content.
pub fn recover<T: Decode>(first: &[u8], second: &[u8]) -> Result<Slots<T>, SlotError> {
    let whole = |(generation, value)| Slots { value, generation };
    match (decode::<T>(first), decode::<T>(second)) {
        (Ok(a), Ok(b)) => Ok(whole(if a.0 >= b.0 { a } else { b })),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(whole(one)),
        (Err(first), Err(second)) => Err(SlotError::BothDamaged {
            first: ailment(first),
            second: ailment(second),
        }),
    }
}

fn ailment(error: SlotError) -> &'static str {
    match error {
        SlotError::Short => "cut short",
        SlotError::NoHeader => "no header",
        SlotError::Checksum => "checksum",
        SlotError::Content(_) => "content",
        SlotError::Absent => "empty, or gone",
        SlotError::BothDamaged { .. } => "both",
    }
}

/// A slot's generation and value; no value if it is blank.
fn decode<T: Decode>(bytes: &[u8]) -> Result<(u64, Option<T>), SlotError> {
    if bytes.is_empty() {
        return Err(SlotError::Absent);
    }
    let (header, rest) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(SlotError::Short)?;
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if word(0) != MAGIC {
        return Err(SlotError::NoHeader);
    }
    let generation = u64::from(word(4)) | (u64::from(word(8)) << 32);
    let payload = rest.get(..word(12) as usize).ok_or(SlotError::Short)?;
    if word(16) != checksum(generation, payload) {
        return Err(SlotError::Checksum);
    }
    let value = (!payload.is_empty()).then(|| T::from_bytes(payload));
    Ok((generation, value.transpose()?))
}

fn checksum(generation: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
