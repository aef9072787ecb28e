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
    /// What every frame is delayed by.
    pub delay_us: u64,
    /// What is drawn on top of it, for each frame by itself: later ones overtake earlier ones.
    pub jitter_us: u64,
}

impl Link {
    /// A link that does nothing.
    pub const CLEAN: Link = Link {
        loss: 0.0,
        duplicate: 0.0,
        delay_us: 0,
        jitter_us: 0,
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
            delay_us: self.delay_us + other.delay_us,
            jitter_us: self.jitter_us + other.jitter_us,
        }
    }
}

/// The shortest time that the simulator's timers take.
const TIMER_MIN_US: u64 = 1_000;
/// Timers this far apart end one after the other.
const ORDER_US: u64 = 20;

/// One direction between two nodes.
type Direction = (SocketAddr, SocketAddr);
/// What is wrong with frames of all classes, or of one.
type Layer = BTreeMap<(Direction, Option<Class>), Link>;

/// All links of a world.
pub struct Links {
    state: Mutex<State>,
    trace: Trace,
}

struct State {
    rng: SmallRng,
    /// When the last delayed frame of a stream arrives.
    arrivals: BTreeMap<Direction, u64>,
    layers: BTreeMap<usize, Layer>,
}

impl Links {
    /// Clean links.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            arrivals: BTreeMap::new(),
            layers: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            trace,
        }
    }

    /// Changes one direction of a link, in a strike's layer.
    pub fn set(&self, strike: usize, from: SocketAddr, to: SocketAddr, link: Link) {
        self.insert(strike, ((from, to), None), link);
    }

    /// Changes it for frames of one class only.
    pub fn set_class(
        &self,
        strike: usize,
        (from, to): (SocketAddr, SocketAddr),
        class: Class,
        link: Link,
    ) {
        self.insert(strike, ((from, to), Some(class)), link);
    }

    fn insert(&self, strike: usize, of: (Direction, Option<Class>), link: Link) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers.entry(strike).or_default().insert(of, link);
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
        let link = state
            .layers
            .values()
            .flat_map(|layer| [None, Some(class)].map(|class| layer.get(&((from, to), class))))
            .flatten()
            .fold(Link::CLEAN, |link, layer| layer.behind(link));
        let lost = link.loss > 0.0 && state.rng.random_bool(link.loss.min(1.0));
        let deliveries: Vec<Duration> = match class {
            _ if lost => Vec::new(),
            // Forwarded requests travel a stream: TCP repeats nothing and keeps their order.
            Class::Forward => vec![state.in_order((from, to), link)],
            Class::Control | Class::Bulk => {
                let copies = 1 + usize::from(state.rng.random_bool(link.duplicate));
                (0..copies).map(|_| state.delay(link)).collect()
            }
        };
        let frame = (world_us(), from, to, class as u8, bytes);
        self.trace.add(&(frame, &deliveries));
        Fate { deliveries }
    }
}

impl State {
    fn delay(&mut self, link: Link) -> Duration {
        Duration::from_micros(link.delay_us + self.rng.random_range(0..=link.jitter_us))
    }

    /// A delay by which a frame does not overtake those that were sent before it.
    fn in_order(&mut self, direction: Direction, link: Link) -> Duration {
        let now_us = world_us();
        let delay_us = u64::try_from(self.delay(link).as_micros()).unwrap_or(u64::MAX);
        let last_us = self.arrivals.get(&direction).copied().unwrap_or(0);
        if delay_us == 0 && last_us < now_us {
            return Duration::ZERO;
        }
        // A timer of the world takes a millisecond at least.
        let at_us = (now_us + delay_us.max(TIMER_MIN_US)).max(last_us + ORDER_US);
        self.arrivals.insert(direction, at_us);
        Duration::from_micros(at_us - now_us)
    }
}
