//! The core's only source of chance: a small generator seeded by its caller.
//!
//! Identities, nonces, jitter and gossip partners come from here, so that a run is a function of its seed. The
//! generator is xoshiro256** (Blackman and Vigna), which is fast and passes the usual statistical batteries. It is not
//! cryptographic: nothing here defends against an adversary. A server seeds it with 256 bits from its system.

use std::time::Duration;

/// What a generator starts from. Two processes that might meet must have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub [u64; 4]);

impl From<u64> for Seed {
    /// Spreads a short seed, for simulations; a server wants all 256 bits.
    fn from(seed: u64) -> Seed {
        let mut state = seed;
        Seed([(); 4].map(|()| split_mix(&mut state)))
    }
}

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream that belongs to a seed.
    pub fn new(seed: Seed) -> Rng {
        // An all-zero state is the one that xoshiro never leaves.
        let state = if seed.0 == [0; 4] {
            Seed::from(0).0
        } else {
            seed.0
        };
        Rng { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// The next 128 bits.
    pub fn next_u128(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }

    /// A number below `bound`, which must not be zero. The bias of at most `bound` / 2^64 is of no consequence here.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing is below zero");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A span between zero and `bound`, the latter excluded unless it is zero.
    pub fn span(&mut self, bound: Duration) -> Duration {
        let micros = usize::try_from(bound.as_micros()).unwrap_or(usize::MAX);
        if micros == 0 {
            Duration::ZERO
        } else {
            Duration::from_micros(self.below(micros) as u64)
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
