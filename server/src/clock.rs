//! The node's two clocks, behind one trait so that a simulator can skew, jump and drift them.
//!
//! The monotonic clock runs leases and timeouts: only its rate matters, and it goes on while the
//! machine sleeps. The wall clock feeds the hybrid logical clock and expiry deadlines: safety
//! never depends on it.

/// Reads time for one node.
pub trait Clock: Send + Sync {
    /// Microseconds of monotonic time, from an arbitrary start that is fixed for the process.
    fn monotonic_us(&self) -> u64;
    /// Milliseconds since the Unix epoch. May jump either way.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks; under the simulator, the simulated machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(not(madsim))]
impl Clock for SystemClock {
    fn monotonic_us(&self) -> u64 {
        // CLOCK_BOOTTIME counts suspended time: a lease must not outlive a closed laptop lid.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
    }

    fn wall_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
    }
}

#[cfg(madsim)]
impl Clock for SystemClock {
    fn monotonic_us(&self) -> u64 {
        let elapsed = madsim::time::TimeHandle::current().elapsed();
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    }

    fn wall_ms(&self) -> u64 {
        let since = madsim::time::TimeHandle::current()
            .now_time()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
