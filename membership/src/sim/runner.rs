//! From a scenario to a report: picks the protocol, keeps the time, tells of progress.

use std::time::{Duration, Instant};

use super::protocol::Protocol;
use super::rapid::Rapid;
use super::report::Report;
use super::scenario::{ProtocolKind, Scenario};
use super::world::{Trace, World};
use crate::baseline::heartbeat::Heartbeat;
use crate::baseline::swim::Swim;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Whether to tell of progress on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Say nothing.
    Silent,
    /// A line every two seconds of real time.
    Lines,
    /// Everything that happens.
    Trace,
}

/// Runs a scenario to its end.
pub fn run(name: &str, scenario: &Scenario, seed: u64, progress: Progress) -> Report {
    match scenario.protocol {
        ProtocolKind::Rapid | ProtocolKind::RapidC => {
            run_protocol::<Rapid>(name, scenario, seed, progress)
        }
        ProtocolKind::Swim => run_protocol::<Swim>(name, scenario, seed, progress),
        ProtocolKind::Heartbeat => run_protocol::<Heartbeat>(name, scenario, seed, progress),
    }
}

fn run_protocol<P: Protocol>(
    name: &str,
    scenario: &Scenario,
    seed: u64,
    progress: Progress,
) -> Report {
    let trace = match progress {
        Progress::Trace => Trace::On,
        Progress::Silent | Progress::Lines => Trace::Off,
    };
    let began = Instant::now();
    let mut told = began;
    let finished = World::<P>::new(scenario, seed, trace).run(|now_us, events| {
        if progress == Progress::Lines && told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let share = 100.0 * now_us as f64 / scenario.run_us as f64;
            let rate = events as f64 / began.elapsed().as_secs_f64() / 1e6;
            let at_s = now_us as f64 / 1e6;
            eprintln!(
                "{name}: {} seed {seed}: {at_s:.1} s ({share:.0}%), {rate:.1} M events/s",
                scenario.protocol
            );
        }
    });
    let wall_ms = began.elapsed().as_millis() as u64;
    Report::new(name, scenario, seed, finished, wall_ms)
}
