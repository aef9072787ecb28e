//! SipHash-2-4 with 128 bits of output (Aumasson and Bernstein), over streamed canonical bytes.
//!
//! Configurations are chained by this hash, rings are ordered by it and ties are broken by it, so its value is part of
//! the protocol: every node must compute the same one, for ever. That rules out the standard library's hasher, whose
//! algorithm may change. With the fixed keys used here the hash tells apart what accidents produce (bugs, rot, mixed
//! clusters); it does not resist forgery.

use crate::codec::{Encode, Sink};

/// A streaming SipHash-2-4-128.
#[derive(Clone)]
pub(crate) struct SipHash128 {
    v: [u64; 4],
    tail: u64,
    tail_len: usize,
    len: u64,
}

impl SipHash128 {
    /// A hash under a 128-bit key.
    pub(crate) fn keyed(k0: u64, k1: u64) -> SipHash128 {
        SipHash128 {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            tail_len: 0,
            len: 0,
        }
    }

    /// The hash of what was written so far.
    pub(crate) fn finish(mut self) -> u128 {
        let last = ((self.len & 0xff) << 56) | self.tail;
        self.compress(last);
        self.v[2] ^= 0xee;
        self.rounds(4);
        let low = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        self.v[1] ^= 0xdd;
        self.rounds(4);
        let high = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        (u128::from(high) << 64) | u128::from(low)
    }

    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(2);
        self.v[0] ^= word;
    }

    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
    }
}

impl Sink for SipHash128 {
    fn put(&mut self, bytes: &[u8]) {
        self.len = self.len.wrapping_add(bytes.len() as u64);
        let mut rest = bytes;
        if self.tail_len > 0 {
            let taken = rest.len().min(8 - self.tail_len);
            for (i, byte) in rest[..taken].iter().enumerate() {
                self.tail |= u64::from(*byte) << (8 * (self.tail_len + i));
            }
            self.tail_len += taken;
            rest = &rest[taken..];
            if self.tail_len < 8 {
                return;
            }
            let word = self.tail;
            self.compress(word);
            (self.tail, self.tail_len) = (0, 0);
        }
        let mut words = rest.chunks_exact(8);
        for word in &mut words {
            self.compress(
                word.iter()
                    .rev()
                    .fold(0, |w, byte| (w << 8) | u64::from(*byte)),
            );
        }
        for byte in words.remainder() {
            self.tail |= u64::from(*byte) << (8 * self.tail_len);
            self.tail_len += 1;
        }
    }
}

/// The 128-bit hash of a value's canonical bytes, in the domain that `purpose` names.
pub(crate) fn hash_of(purpose: u64, value: &impl Encode) -> u128 {
    let mut hash = SipHash128::keyed(0x0053_796e_6f64, purpose);
    value.encode(&mut hash);
    hash.finish()
}

/// A 64-bit hash of two numbers, in the domain that `purpose` names: for orders and ties.
pub(crate) fn order_of(purpose: u64, context: u128, id: u128) -> u64 {
    let mut hash = SipHash128::keyed(purpose, (context >> 64) as u64 ^ context as u64);
    hash.put(&id.to_le_bytes());
    hash.finish() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(len: u8) -> u128 {
        let k0 = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        let k1 = u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15]);
        let mut hash = SipHash128::keyed(k0, k1);
        let input: Vec<u8> = (0..len).collect();
        // Uneven pieces: the stream must not depend on how it was cut.
        for piece in input.chunks(3) {
            hash.put(piece);
        }
        hash.finish()
    }

    /// The first vectors of the reference implementation's table for 128-bit output.
    #[test]
    fn agrees_with_the_reference_vectors() {
        let hex = |h: u128| h.to_le_bytes().map(|b| format!("{b:02x}")).concat();
        assert_eq!(hex(reference(0)), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(reference(1)), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(hex(reference(15)), "5493e99933b0a8117e08ec0f97cfc3d9");
    }
}
