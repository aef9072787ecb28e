//! A machine's clock: the world's time, faster or slower, and a wall clock that is wrong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use madsim::time::TimeHandle;
use synod::clock::Clock;

/// A clock whose rate and wall offset can be changed. Clones share it: it is the machine's, not
/// the process's.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<Mutex<Setting>>);

/// From `since_us` on (world's time), the clock shows `shown_us` plus what passed times the rate.
#[derive(Clone, Copy, Debug, Default)]
struct Setting {
    since_us: u64,
    shown_us: u64,
    rate_ppm: i64,
    wall_offset_ms: i64,
    /// What the next reading shows, once.
    held_us: Option<u64>,
}

impl Setting {
    fn monotonic_us(&self, world_us: u64) -> u64 {
        let passed = i128::from(world_us.saturating_sub(self.since_us));
        let shown = passed * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.shown_us + u64::try_from(shown).unwrap_or(0)
    }
}

impl SimClock {
    /// Changes rate and offset from now on, where they are given; monotonic time goes on from where
    /// it is.
    pub fn set(&self, rate_ppm: Option<i64>, wall_offset_ms: Option<i64>) {
        let world_us = world_us();
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown_us = setting.monotonic_us(world_us);
        *setting = Setting {
            since_us: world_us,
            shown_us,
            rate_ppm: rate_ppm.unwrap_or(setting.rate_ppm),
            wall_offset_ms: wall_offset_ms.unwrap_or(setting.wall_offset_ms),
            held_us: setting.held_us,
        };
    }

    /// How long it is, by the world's time, until the clock shows this if nobody sets it.
    pub fn until_us(&self, shown_us: u64) -> Duration {
        let setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_us = shown_us.saturating_sub(setting.monotonic_us(world_us()));
        let rate = u64::try_from(1_000_000 + setting.rate_ppm)
            .unwrap_or(0)
            .max(1);
        Duration::from_micros(left_us.saturating_mul(1_000_000).div_ceil(rate))
    }

    /// The next reading shows the present, whenever it is taken: whoever takes it had read his clock,
    /// and was stopped before he could look at what he read.
    pub fn hold(&self) {
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        setting.held_us = Some(setting.monotonic_us(world_us()));
    }

    /// Readings show the time at which they are taken.
    pub fn release(&self) {
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        setting.held_us = None;
    }
}

impl Clock for SimClock {
    fn monotonic_us(&self) -> u64 {
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held_us = setting.held_us.take();
        held_us.unwrap_or_else(|| setting.monotonic_us(world_us()))
    }

    fn wall_ms(&self) -> u64 {
        let now = TimeHandle::current()
            .now_time()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let offset_ms = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wall_offset_ms;
        u64::try_from(now.as_millis())
            .unwrap_or(0)
            .saturating_add_signed(offset_ms)
    }
}

/// The world's own time, in microseconds since its beginning.
pub fn world_us() -> u64 {
    u64::try_from(TimeHandle::current().elapsed().as_micros()).unwrap_or(u64::MAX)
}
