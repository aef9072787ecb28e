//! When the loop looks at its timers though nothing has arrived.
//!
//! A node with work to do looks each [`TICK`]. Most of what an idle node costs is being woken: a process
//! that sleeps runs with cold caches, and a turn in which nothing is found costs it as much as one with
//! work. So a node at rest sleeps until the first thing that it knows to be due, the next sign of life to
//! its peers at the latest. What ends its rest is something that arrives, and that wakes it anyway.

use std::pin::Pin;
use std::time::Duration;

use synod_membership::time::Time;
use synod_storage::Micros;
use tokio::time::{Instant, Sleep, sleep_until};

use super::TICK;
use super::turn::{Node, Stop};

/// A tick that comes later than this shifts those after it.
const LATE: Duration = Duration::from_millis(5);

/// The ticks of the loop.
pub(super) struct Pace {
    sleep: Pin<Box<Sleep>>,
    ticked_at: Instant,
}

impl Pace {
    /// The first tick is due at once.
    pub(super) fn new() -> Pace {
        let now = Instant::now();
        Pace {
            sleep: Box::pin(sleep_until(now)),
            ticked_at: now,
        }
    }

    /// Waits for the next tick. Dropped before it is ready, nothing is lost.
    pub(super) async fn tick(&mut self) {
        self.sleep.as_mut().await;
        let (due, now) = (self.sleep.deadline(), Instant::now());
        self.ticked_at = if now > due + LATE { now } else { due };
        self.sleep.as_mut().reset(self.ticked_at + TICK);
    }

    /// Lets the next tick wait for so long, or come when it always does: once after each turn.
    pub(super) fn rest(&mut self, rest: Option<Duration>) {
        let soonest = self.ticked_at + TICK;
        let due = rest.map_or(soonest, |rest| soonest.max(Instant::now() + rest));
        if due != self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
    }
}

impl Node {
    /// How long this node has nothing to do if nothing arrives; `None` if it has something to do.
    pub(super) fn rest(&self) -> Option<Duration> {
        let membership = &self.membership;
        // Asked after each turn: where there is work, its groups are awake.
        let rests = self.replication.is_at_rest()
            && self.stop == Stop::No
            && membership.serving()
            && !membership.is_removed()
            && self.membership_writer.waiting_since_us().is_none()
            && self.log_waiting_since_us.is_none()
            && self.gateway.is_idle()
            && self.tokens.is_empty()
            && self.orders.is_idle()
            && self.by_hand.is_idle()
            && self.writer.is_idle()
            && self.running.is_empty()
            && self.describing.is_empty()
            && self.dropping.is_empty();
        if !rests {
            return None;
        }
        let Micros(now_us) = self.now().monotonic;
        let Micros(heartbeat_us) = self.replication.next_heartbeat();
        let probe_us = membership.next_deadline().map(|Time(us)| us);
        let due_us = probe_us.map_or(heartbeat_us, |us| us.min(heartbeat_us));
        Some(Duration::from_micros(due_us.saturating_sub(now_us)))
    }
}
