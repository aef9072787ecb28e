//! Failure detectors for one edge of the overlay.
//!
//! Rapid leaves the choice of detector open, because a cut takes the word of many observers and none of them need be
//! perfect (Rapid, §4.1). What matters is the rate of false alarms under plain loss: a thousand nodes have ten thousand
//! edges, and each alarm stands for seconds.

use std::time::Duration;

use crate::settings::{Detector, Timing};

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered in time.
    Answered,
    /// Not answered in time, by any try.
    Unanswered,
}

/// Judges one edge by its probes.
pub trait FailureDetector {
    /// Takes note of a probe's end.
    fn record(&mut self, outcome: Outcome);

    /// True while the edge counts as failed.
    fn failed(&self) -> bool;

    /// How long after the last probe began the next one should.
    fn interval(&self, timing: &Timing) -> Duration;

    /// How many times a probe is sent before it counts as unanswered.
    fn tries(&self) -> u8;
}

/// The detector that the settings ask for: in place, since a node asks all its edges often.
pub(crate) enum Chosen {
    Window(Window),
    Paper(Paper),
}

impl Chosen {
    pub(crate) fn new(kind: Detector) -> Chosen {
        match kind {
            Detector::Window { window, failures } => Chosen::Window(Window::new(window, failures)),
            Detector::Paper => Chosen::Paper(Paper(History::new(10, 4))),
        }
    }
}

impl FailureDetector for Chosen {
    fn record(&mut self, outcome: Outcome) {
        match self {
            Chosen::Window(detector) => detector.record(outcome),
            Chosen::Paper(detector) => detector.record(outcome),
        }
    }

    fn failed(&self) -> bool {
        match self {
            Chosen::Window(detector) => detector.failed(),
            Chosen::Paper(detector) => detector.failed(),
        }
    }

    fn interval(&self, timing: &Timing) -> Duration {
        match self {
            Chosen::Window(detector) => detector.interval(timing),
            Chosen::Paper(detector) => detector.interval(timing),
        }
    }

    fn tries(&self) -> u8 {
        match self {
            Chosen::Window(detector) => detector.tries(),
            Chosen::Paper(detector) => detector.tries(),
        }
    }
}

/// The last outcomes, and how many failures among them fail the edge. One bit an outcome, the latest lowest, a failure
/// set.
struct History {
    failures: u64,
    /// The bits that count: as many as are remembered.
    window: u64,
    failures_max: u32,
}

impl History {
    fn new(window: u8, failures: u8) -> History {
        let remembered = u32::from(window).clamp(1, u64::BITS);
        History {
            failures: 0,
            window: u64::MAX >> (u64::BITS - remembered),
            failures_max: u32::from(failures).clamp(1, remembered),
        }
    }

    fn record(&mut self, outcome: Outcome) {
        let failure = u64::from(outcome == Outcome::Unanswered);
        self.failures = (self.failures << 1 | failure) & self.window;
    }

    fn failed(&self) -> bool {
        self.failures.count_ones() >= self.failures_max
    }
}

/// The default: some failures among the last probes, each of two tries; a doubt quickens the pace.
///
/// At 1% independent loss and four of ten, a false alarm comes once in tens of millions of edge-hours; a crash is
/// noticed after one probe at the slow pace and three at the fast one.
pub(crate) struct Window {
    history: History,
    successes: u8,
}

/// Successes in a row that end a doubt.
const REASSURANCE: u8 = 2;

impl Window {
    fn new(window: u8, failures: u8) -> Window {
        Window {
            history: History::new(window, failures),
            successes: REASSURANCE,
        }
    }
}

impl FailureDetector for Window {
    fn record(&mut self, outcome: Outcome) {
        self.history.record(outcome);
        self.successes = match outcome {
            Outcome::Answered => self.successes.saturating_add(1).min(REASSURANCE),
            Outcome::Unanswered => 0,
        };
    }

    fn failed(&self) -> bool {
        self.history.failed()
    }

    fn interval(&self, timing: &Timing) -> Duration {
        let sure = self.successes >= REASSURANCE;
        if sure {
            timing.probe_interval
        } else {
            timing.probe_interval_in_doubt
        }
    }

    fn tries(&self) -> u8 {
        2
    }
}

/// The paper's: one try a second, failed when 40% of the last ten were (Rapid, §6).
pub(crate) struct Paper(History);

impl FailureDetector for Paper {
    fn record(&mut self, outcome: Outcome) {
        self.0.record(outcome);
    }

    fn failed(&self) -> bool {
        self.0.failed()
    }

    fn interval(&self, timing: &Timing) -> Duration {
        timing.probe_interval
    }

    fn tries(&self) -> u8 {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_after(detector: &mut dyn FailureDetector, outcomes: &str) -> bool {
        for outcome in outcomes.chars() {
            detector.record(if outcome == '.' {
                Outcome::Answered
            } else {
                Outcome::Unanswered
            });
        }
        detector.failed()
    }

    #[test]
    fn four_of_the_last_ten_fail_the_edge_and_it_recovers() {
        let mut window = Window::new(10, 4);
        assert!(!failed_after(&mut window, "xxx"));
        assert!(failed_after(&mut window, "x"));
        assert!(failed_after(&mut window, "......"));
        assert!(!failed_after(&mut window, "."));
        assert!(!failed_after(&mut window, "......x..x..x.."));
    }

    #[test]
    fn doubt_quickens_the_pace_until_two_successes() {
        let timing = Timing::default();
        let mut window = Window::new(10, 4);
        assert_eq!(window.interval(&timing), timing.probe_interval);
        window.record(Outcome::Unanswered);
        assert_eq!(window.interval(&timing), timing.probe_interval_in_doubt);
        window.record(Outcome::Answered);
        assert_eq!(window.interval(&timing), timing.probe_interval_in_doubt);
        window.record(Outcome::Answered);
        assert_eq!(window.interval(&timing), timing.probe_interval);
    }
}
