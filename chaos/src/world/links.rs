//! The links between nodes: each direction may lose, delay, repeat and so reorder frames, or be cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod::transport::{Class, Fate, LinkFaults};

/// What a link does to frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The share that is lost; 1 is a cut.
    pub loss: f64,
    /// The share that arrives twice.
    pub duplicate: f64,
    /// Delays are drawn up to this, each frame's by itself: later ones overtake earlier ones.
    pub delay_max_us: u64,
}

/// A link that does nothing.
const CLEAN: Link = Link { loss: 0.0, duplicate: 0.0, delay_max_us: 0 };

/// All links of a world.
pub struct Links {
    state: Mutex<State>,
}

struct State {
    rng: SmallRng,
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
}

impl Links {
    /// Clean links.
    pub fn new(seed: u64) -> Self {
        let state = State { rng: SmallRng::seed_from_u64(seed), links: BTreeMap::new() };
        Self { state: Mutex::new(state) }
    }

    /// Changes one direction of a link.
    pub fn set(&self, from: SocketAddr, to: SocketAddr, link: Link) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.links.insert((from, to), link);
    }

    /// Nothing from `from` reaches `to`.
    pub fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.set(from, to, Link { loss: 1.0, ..CLEAN });
    }

    /// All links are clean.
    pub fn heal(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).links.clear();
    }
}

impl LinkFaults for Links {
    fn fate(&self, from: SocketAddr, to: SocketAddr, class: Class, _bytes: usize) -> Fate {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let link = state.links.get(&(from, to)).copied().unwrap_or(CLEAN);
        let rng = &mut state.rng;
        if link.loss > 0.0 && rng.random_bool(link.loss) {
            return Fate { deliveries: Vec::new() };
        }
        // Forwarded requests travel a stream: TCP repeats nothing and keeps their order.
        let copies = match class {
            Class::Control | Class::Bulk if rng.random_bool(link.duplicate) => 2,
            Class::Control | Class::Bulk | Class::Forward => 1,
        };
        let delay_max_us = if class == Class::Forward { 0 } else { link.delay_max_us };
        let deliveries = (0..copies)
            .map(|_| Duration::from_micros(rng.random_range(0..=delay_max_us)))
            .collect();
        Fate { deliveries }
    }
}
