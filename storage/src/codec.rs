//! rkyv, with its types in one place: everything read from a disk is validated before use.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// Encodes a value.
pub(crate) fn encode<T>(value: &T) -> AlignedVec
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    // Serializing into memory fails only when a length does not fit into 32 bits, and everything that
    // is encoded here is bounded far below that.
    rkyv::to_bytes::<Error>(value).unwrap_or_else(|error| panic!("a bounded value: {error}"))
}

/// Decodes a value, if the bytes are one.
pub(crate) fn decode<T>(bytes: &AlignedVec) -> Option<T>
where
    T: Archive,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>,
{
    rkyv::from_bytes::<T, Error>(bytes).ok()
}

/// Decodes a value from bytes that lie anywhere.
pub(crate) fn decode_unaligned<T>(bytes: &[u8]) -> Option<T>
where
    T: Archive,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>,
{
    let mut aligned = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    decode(&aligned)
}
