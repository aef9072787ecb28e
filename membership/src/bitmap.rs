//! Sets of voters, as bits over a configuration's sorted list of voters.
//!
//! A thousand votes for one value fit in 125 bytes, and merging two sets is a pass of `or`. A small set in a large
//! cluster is sent as a list instead, whichever is shorter.

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};

/// A set of indexes below `len`. Bits from `len` on are always clear.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitmap {
    len: u32,
    words: Vec<u64>,
}

/// The most indexes that a decoded bitmap may span: far above any cluster, far below what hurts to allocate.
const LEN_MAX: u64 = 1 << 20;

impl Bitmap {
    /// No index of `len`.
    pub fn empty(len: usize) -> Bitmap {
        Bitmap {
            len: len as u32,
            words: vec![0; len.div_ceil(64)],
        }
    }

    /// How many indexes there could be.
    pub fn capacity(&self) -> usize {
        self.len as usize
    }

    /// How many indexes are in the set.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// True if the index is in the set.
    pub fn contains(&self, index: usize) -> bool {
        index < self.capacity() && self.words[index / 64] & (1 << (index % 64)) != 0
    }

    /// Adds an index, which must be below the capacity; true if it is new.
    pub fn insert(&mut self, index: usize) -> bool {
        assert!(
            index < self.capacity(),
            "index {index} of a bitmap of {}",
            self.len
        );
        let fresh = !self.contains(index);
        self.words[index / 64] |= 1 << (index % 64);
        fresh
    }

    /// Adds all of another set of the same capacity; true if one of them is new.
    pub fn merge(&mut self, other: &Bitmap) -> bool {
        assert_eq!(self.len, other.len, "bitmaps over different voters");
        let mut fresh = false;
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            fresh |= *theirs & !*mine != 0;
            *mine |= *theirs;
        }
        fresh
    }

    /// True if the two sets, of the same capacity, share an index.
    pub fn intersects(&self, other: &Bitmap) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// The indexes in the set, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.checked_sub(1)?;
                Some(at * 64 + bit)
            })
        })
    }

    fn dense_bytes(&self) -> usize {
        self.capacity().div_ceil(8)
    }

    /// True if a list of two-byte gaps is certainly shorter than the bits.
    fn is_sparse(&self) -> bool {
        self.count() * 3 < self.dense_bytes()
    }
}

impl Encode for Bitmap {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(u64::from(self.len));
        if self.is_sparse() {
            out.u8(1);
            out.varint(self.count() as u64);
            let mut next = 0;
            for index in self.iter() {
                out.varint((index - next) as u64);
                next = index + 1;
            }
        } else {
            out.u8(0);
            let mut left = self.dense_bytes();
            for word in &self.words {
                out.put(&word.to_le_bytes()[..left.min(8)]);
                left -= left.min(8);
            }
        }
    }
}

impl Decode for Bitmap {
    fn decode(input: &mut Reader<'_>) -> Result<Bitmap, DecodeError> {
        const WHAT: &str = "a bitmap";
        let len = input.varint(WHAT)?;
        if len > LEN_MAX {
            return Err(DecodeError::NotCanonical(WHAT));
        }
        let mut bitmap = Bitmap::empty(len as usize);
        let form = input.u8(WHAT)?;
        match form {
            0 => {
                let bytes = input.take(bitmap.dense_bytes(), WHAT)?;
                for (at, byte) in bytes.iter().enumerate() {
                    bitmap.words[at / 8] |= u64::from(*byte) << (8 * (at % 8));
                }
            }
            1 => {
                let mut next = 0_u64;
                for _ in 0..input.length(1, WHAT)? {
                    let index = input.varint(WHAT)?.saturating_add(next);
                    if index >= len {
                        return Err(DecodeError::NotCanonical(WHAT));
                    }
                    bitmap.insert(index as usize);
                    next = index + 1;
                }
            }
            value => return Err(DecodeError::Unknown { what: WHAT, value }),
        }
        let beyond = bitmap.iter().any(|index| index >= bitmap.capacity());
        if beyond || bitmap.is_sparse() != (form == 1) {
            return Err(DecodeError::NotCanonical(WHAT));
        }
        Ok(bitmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_come_back() {
        for (len, step) in [
            (0, 1),
            (1, 1),
            (5, 2),
            (64, 1),
            (65, 64),
            (1000, 1),
            (1000, 300),
        ] {
            let mut bitmap = Bitmap::empty(len);
            (0..len).step_by(step).for_each(|index| {
                bitmap.insert(index);
            });
            assert_eq!(bitmap.iter().count(), bitmap.count());
            assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes()), Ok(bitmap));
        }
    }

    #[test]
    fn a_thousand_votes_take_about_an_eighth_of_a_byte_each() {
        let mut bitmap = Bitmap::empty(1000);
        (0..1000).for_each(|index| {
            bitmap.insert(index);
        });
        assert!(bitmap.encoded_len() <= 128);
    }

    #[test]
    fn bits_beyond_the_capacity_are_refused() {
        let bytes = [3, 0, 0b1000];
        assert_eq!(
            Bitmap::from_bytes(&bytes),
            Err(DecodeError::NotCanonical("a bitmap"))
        );
    }
}
