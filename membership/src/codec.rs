//! Canonical bytes: one encoding for the hash, the disk and the wire.
//!
//! Each value has exactly one encoding, so it can be hashed and compared by its bytes: integers are little-endian and of
//! fixed width, or varints in their shortest form; sequences carry their length; maps and sets are sorted. An encoding
//! is written to a [`Sink`], which may collect it, hash it, or only measure it. Decoding never trusts its input: lengths
//! are checked before anything is reserved, and an encoding that is not the canonical one is refused, because the hash
//! that was taken over it would not be ours.
//!
//! Messages ride in the transport's frames as opaque bytes. An archived format with aligned, zero-copy fields would cost
//! a probe four times its size, and would still need these bytes for the hash.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use thiserror::Error;

/// Why bytes are not the canonical encoding of a value. Nothing has been changed by the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends inside the value.
    #[error("the input ends inside {0}")]
    Truncated(&'static str),
    /// A tag or flag has a value that means nothing.
    #[error("{value} is not a kind of {what}")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// The value found.
        value: u8,
    },
    /// The bytes stand for a value, but are not its canonical encoding.
    #[error("{0} is not in canonical form")]
    NotCanonical(&'static str),
    /// The value is followed by more bytes than it has.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
}

/// Where an encoding goes.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);

    /// One byte.
    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Two bytes, little-endian.
    fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Four bytes, little-endian.
    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Sixteen bytes, little-endian.
    fn u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    /// Seven bits a byte, low ones first, in as few bytes as will do.
    fn varint(&mut self, value: u64) {
        let mut rest = value;
        while rest >= 0x80 {
            self.u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.u8(rest as u8);
    }

    /// A length, then as many bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A sink that only measures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measure(pub usize);

impl Sink for Measure {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A value with canonical bytes.
pub trait Encode {
    /// Writes the canonical bytes.
    fn encode<S: Sink>(&self, out: &mut S);

    /// How many bytes the encoding has, without making it.
    fn encoded_len(&self) -> usize {
        let mut measure = Measure::default();
        self.encode(&mut measure);
        measure.0
    }

    /// The encoding, collected.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        bytes
    }
}

/// A value that can be read back from its canonical bytes.
pub trait Decode: Sized {
    /// Reads one value and leaves the rest.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads one value that fills the input.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: bytes };
        let value = Self::decode(&mut reader)?;
        match reader.rest.len() {
            0 => Ok(value),
            more => Err(DecodeError::Trailing(more)),
        }
    }
}

/// Input that is still to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        if self.rest.len() < len {
            return Err(DecodeError::Truncated(what));
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self, what: &'static str) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array(what)?))
    }

    /// A varint in its shortest form.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::NotCanonical(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded {
                    Err(DecodeError::NotCanonical(what))
                } else {
                    Ok(value)
                };
            }
        }
        Err(DecodeError::NotCanonical(what))
    }

    /// The length of a sequence whose elements have at least `element_bytes_min` bytes each.
    pub fn length(
        &mut self,
        element_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let length = self.varint(what)?;
        let fits = (self.rest.len() / element_bytes_min.max(1)) as u64;
        if length > fits {
            Err(DecodeError::Truncated(what))
        } else {
            Ok(length as usize)
        }
    }

    /// A length, then as many bytes.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.length(1, what)?;
        self.take(length, what)
    }

    /// A length, then as many bytes of UTF-8.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| DecodeError::NotCanonical(what))
    }
}

/// Fails unless the elements stand in strictly rising order.
pub(crate) fn strictly_sorted<T, K: Ord>(
    items: &[T],
    key: impl Fn(&T) -> K,
    what: &'static str,
) -> Result<(), DecodeError> {
    let sorted = items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]));
    if sorted {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical(what))
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(self.len() as u64);
        for item in self {
            item.encode(out);
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Vec<T>, DecodeError> {
        let length = input.length(1, "a sequence")?;
        // The length was bounded by the bytes that are there; elements may be larger in memory, so grow as they come.
        let mut items = Vec::with_capacity(length.min(1_024));
        for _ in 0..length {
            items.push(T::decode(input)?);
        }
        Ok(items)
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode<S: Sink>(&self, out: &mut S) {
        match self {
            None => out.u8(0),
            Some(value) => {
                out.u8(1);
                value.encode(out);
            }
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
        match input.u8("an option")? {
            0 => Ok(None),
            1 => Ok(Some(T::decode(input)?)),
            value => Err(DecodeError::Unknown {
                what: "an option",
                value,
            }),
        }
    }
}

impl<T: Encode + ?Sized> Encode for Arc<T> {
    fn encode<S: Sink>(&self, out: &mut S) {
        (**self).encode(out);
    }
}

impl<T: Decode> Decode for Arc<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Arc<T>, DecodeError> {
        T::decode(input).map(Arc::new)
    }
}

impl<T: Encode + ?Sized> Encode for Box<T> {
    fn encode<S: Sink>(&self, out: &mut S) {
        (**self).encode(out);
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Box<T>, DecodeError> {
        T::decode(input).map(Box::new)
    }
}

impl Encode for BTreeMap<String, String> {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(self.len() as u64);
        for (key, value) in self {
            out.bytes(key.as_bytes());
            out.bytes(value.as_bytes());
        }
    }
}

impl Decode for BTreeMap<String, String> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = input.length(2, "a map")?;
        let mut map = BTreeMap::new();
        for _ in 0..length {
            let key = input.str("a map's key")?.to_owned();
            let value = input.str("a map's value")?.to_owned();
            let rising = map.last_key_value().is_none_or(|(last, _)| *last < key);
            if !rising {
                return Err(DecodeError::NotCanonical("a map"));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

impl Encode for SocketAddr {
    fn encode<S: Sink>(&self, out: &mut S) {
        match self {
            SocketAddr::V4(v4) => {
                out.u8(4);
                out.put(&v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                out.u8(6);
                out.put(&v6.ip().octets());
                out.u32(v6.scope_id());
            }
        }
        out.u16(self.port());
    }
}

impl Decode for SocketAddr {
    fn decode(input: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
        match input.u8("an address")? {
            4 => {
                let ip = Ipv4Addr::from(input.array::<4>("an address")?);
                Ok(SocketAddr::V4(SocketAddrV4::new(ip, input.u16("a port")?)))
            }
            6 => {
                let ip = Ipv6Addr::from(input.array::<16>("an address")?);
                let scope = input.u32("an address")?;
                Ok(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    input.u16("a port")?,
                    0,
                    scope,
                )))
            }
            value => Err(DecodeError::Unknown {
                what: "an address",
                value,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_one_form() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.varint(value);
            let mut reader = Reader { rest: &bytes };
            assert_eq!(reader.varint("v"), Ok(value));
        }
        let padded = [0x81, 0x00];
        let mut reader = Reader { rest: &padded };
        assert_eq!(reader.varint("v"), Err(DecodeError::NotCanonical("v")));
        let overlong = [0xff; 10];
        let mut reader = Reader { rest: &overlong };
        assert_eq!(reader.varint("v"), Err(DecodeError::NotCanonical("v")));
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_anything_is_reserved() {
        let mut bytes = Vec::new();
        bytes.varint(u64::MAX);
        assert_eq!(
            Vec::<SocketAddr>::from_bytes(&bytes),
            Err(DecodeError::Truncated("a sequence"))
        );
    }

    #[test]
    fn maps_must_be_sorted() {
        let mut bytes = Vec::new();
        bytes.varint(2);
        for text in ["b", "", "a", ""] {
            bytes.bytes(text.as_bytes());
        }
        assert_eq!(
            BTreeMap::<String, String>::from_bytes(&bytes),
            Err(DecodeError::NotCanonical("a map"))
        );
    }
}
