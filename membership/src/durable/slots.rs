//! Small state in two copies.
//!
//! The registration and the acceptor's state are each a pair of slots (two files, or two regions of one). A write goes
//! to one slot and is synced, then to the other and is synced, and only then confirmed. So at any time one slot holds
//! the last confirmed value or a newer one, whole; a crash, or rot, spoils at most one.
//!
//! ```text
//! slot = magic u32 | generation u64 | length u32 | crc u32 (of generation, length, payload) | payload
//! ```

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
    let payload = value.to_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.u32(MAGIC);
    bytes.u64(generation);
    bytes.u32(payload.len() as u32);
    bytes.u32(checksum(generation, &payload));
    bytes.put(&payload);
    bytes
}

/// What a pair of slots holds. An empty slice is a slot that was never written. Bytes after a slot's payload are
/// ignored, so that a region may be larger than its content.
pub fn recover<T: Decode>(first: &[u8], second: &[u8]) -> Result<Slots<T>, SlotError> {
    let read = [decode::<T>(first), decode::<T>(second)];
    match read {
        [Ok(None), Ok(None)] => Ok(Slots {
            value: None,
            generation: 0,
        }),
        [Ok(Some(a)), Ok(Some(b))] => {
            let newer = if a.0 >= b.0 { a } else { b };
            Ok(Slots {
                value: Some(newer.1),
                generation: newer.0,
            })
        }
        [Ok(Some(whole)), _] | [_, Ok(Some(whole))] => Ok(Slots {
            value: Some(whole.1),
            generation: whole.0,
        }),
        // The first write of all may be cut short in its first slot, before anything depended on it.
        [Err(_), Ok(None)] => Ok(Slots {
            value: None,
            generation: 0,
        }),
        [Ok(None), Err(error)] => Err(error),
        [Err(first), Err(second)] => Err(SlotError::BothDamaged {
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
        SlotError::BothDamaged { .. } => "both",
    }
}

fn decode<T: Decode>(bytes: &[u8]) -> Result<Option<(u64, T)>, SlotError> {
    if bytes.is_empty() {
        return Ok(None);
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
    Ok(Some((generation, T::from_bytes(payload)?)))
}

fn checksum(generation: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
