//! The simulator's only source of chance.
//!
//! One scenario and one seed give one run, on every machine and with every version of every library.
//! So everything draws from the core's own generator, which no crate can change under us. Each user has a
//! stream of its own: a node that asks for one number more must not change which messages the
//! network loses.

use std::convert::Infallible;

use crate::rng::Seed;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    generator: crate::rng::Rng,
}

/// One step of SplitMix64, also a good 64-bit mixing function.
pub fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of one stream of one seed.
    pub fn new(seed: u64, stream: u64) -> Rng {
        let start = split_mix(seed) ^ split_mix(stream.wrapping_mul(0xa076_1d64_78bd_642f) ^ 1);
        Rng {
            generator: crate::rng::Rng::new(Seed::from(start)),
        }
    }

    /// 64 uniform bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A uniform number in `0..bound`; 0 when `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply and shift: biased by less than bound / 2^64, which no run can notice.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `rate`.
    #[inline]
    pub fn chance(&mut self, rate: f64) -> bool {
        // 53 bits fill the mantissa of a double exactly.
        ((self.next_u64() >> 11) as f64) < rate * (1u64 << 53) as f64
    }

    /// Puts the slice into a uniformly random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// The SWIM baseline's library draws through this interface.
impl rand_core::TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_stream_name_one_sequence() {
        let draw = |seed, stream| Rng::new(seed, stream).next_u64();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn chance_and_below_keep_their_odds() {
        let mut rng = Rng::new(7, 0);
        let hits = (0..100_000).filter(|_| rng.chance(0.01)).count();
        assert!(
            (800..1200).contains(&hits),
            "1% of 100000 came out as {hits}"
        );
        let mut seen = [0u32; 10];
        for _ in 0..100_000 {
            seen[rng.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
    }
}
