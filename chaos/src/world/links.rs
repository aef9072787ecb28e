//! The links between nodes: each direction may lose, delay, repeat and so reorder frames, or be cut.
//!
//! What is wrong with the links comes in layers, one for each strike: strikes overlap, and each ends
//! by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod::transport::{Class, Fate, LinkFaults};

use super::world_us;
use crate::trace::Trace;

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

impl Link {
    /// A link that does nothing.
    pub const CLEAN: Link = Link {
        loss: 0.0,
        duplicate: 0.0,
        delay_max_us: 0,
    };
    /// A link that lets nothing through.
    pub const CUT: Link = Link {
        loss: 1.0,
        ..Link::CLEAN
    };

    /// This link behind another one.
    fn behind(self, other: Link) -> Link {
        Link {
            loss: 1.0 - (1.0 - self.loss) * (1.0 - other.loss),
            duplicate: self.duplicate.max(other.duplicate),
            delay_max_us: self.delay_max_us + other.delay_max_us,
        }
    }
}

/// One direction between two nodes.
type Direction = (SocketAddr, SocketAddr);

/// All links of a world.
pub struct Links {
    state: Mutex<State>,
    trace: Trace,
}

struct State {
    rng: SmallRng,
    layers: BTreeMap<usize, BTreeMap<Direction, Link>>,
}

impl Links {
    /// Clean links.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            layers: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            trace,
        }
    }

    /// Changes one direction of a link, in a strike's layer.
    pub fn set(&self, strike: usize, from: SocketAddr, to: SocketAddr, link: Link) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = state.layers.entry(strike).or_default();
        layer.insert((from, to), link);
    }

    /// Takes back what a strike did.
    pub fn undo(&self, strike: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers.remove(&strike);
    }

    /// All links are clean.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers.clear();
    }
}

impl LinkFaults for Links {
    fn fate(&self, from: SocketAddr, to: SocketAddr, class: Class, bytes: usize) -> Fate {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { rng, layers } = &mut *state;
        let link = layers
            .values()
            .filter_map(|layer| layer.get(&(from, to)))
            .fold(Link::CLEAN, |link, layer| layer.behind(link));
        let lost = link.loss > 0.0 && rng.random_bool(link.loss.min(1.0));
        // Forwarded requests travel a stream: TCP repeats nothing and keeps their order.
        let (copies, delay_max_us) = match class {
            _ if lost => (0, 0),
            Class::Forward => (1, 0),
            Class::Control | Class::Bulk => (
                1 + usize::from(rng.random_bool(link.duplicate)),
                link.delay_max_us,
            ),
        };
        let deliveries: Vec<Duration> = (0..copies)
            .map(|_| Duration::from_micros(rng.random_range(0..=delay_max_us)))
            .collect();
        let frame = (world_us(), from, to, class as u8, bytes);
        self.trace.add(&(frame, &deliveries));
        Fate { deliveries }
    }
}
