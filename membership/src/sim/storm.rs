//! Random scenarios: a storm of faults on a small cluster, then calm.
//!
//! A scenario file shows what somebody thought of. A storm draws faults of every kind at random, ends
//! them all, and then waits. Whatever happened: the sequences agree, nobody gives up, and in
//! the end all running nodes are in one view with each other and with nobody else.
//!
//! The text of a storm is an ordinary scenario file, so a failing one can be kept, cut down and replayed.

use std::fmt::Write;

use super::report::Report;
use super::rng::Rng;
use super::runner::{self, Progress};
use super::scenario::{Scenario, ScenarioError};

const STREAM_STORM: u64 = 4;
/// Faults fall into this time.
const STORM_MS: u64 = 60_000;
/// After which there is this much calm: a node that was removed while alive waits for a minute or two
/// before it asks to come back.
const CALM_MS: u64 = 240_000;

/// A storm that did not end well.
#[derive(Clone, Debug)]
pub struct Wreck {
    /// Its seed.
    pub seed: u64,
    /// What is wrong.
    pub problem: String,
    /// The scenario file.
    pub text: String,
}

/// The scenario file of a seed, for a cluster of `nodes` (3 to 12 drawn when `None`).
pub fn text(seed: u64, nodes: Option<u64>) -> String {
    let mut rng = Rng::new(seed, STREAM_STORM);
    let nodes = nodes.unwrap_or_else(|| 3 + rng.below(10));
    let bootstrap = if rng.chance(0.3) { "join" } else { "formed" };
    let latency = ["1", "[0.2, 3]", "[1, 30]"][rng.below(3) as usize];
    let run_ms = STORM_MS + CALM_MS;
    let mut text = format!(
        "nodes = {nodes}\nseed = {seed}\nbootstrap = \"{bootstrap}\"\nlatency_ms = {latency}\npersist_ms = {}\nrun_ms = {run_ms}\n",
        1 + rng.below(20),
    );
    // Losing so few for good leaves a majority whatever the order in which they go.
    let mut may_crash = (nodes - 1) / 4;
    for _ in 0..1 + rng.below(6) {
        let at_ms = 5_000 + rng.below(STORM_MS - 15_000);
        let until_ms = (at_ms + 500 + rng.below(20_000)).min(STORM_MS);
        let mut some = |most: u64| {
            let mut all: Vec<u64> = (0..nodes).collect();
            rng.shuffle(&mut all);
            all.truncate(1 + rng.below(most) as usize);
            all.sort_unstable();
            format!("{all:?}")
        };
        let nodes_one = some(1);
        let nodes_few = some(nodes.div_ceil(3));
        let nodes_any = some(nodes);
        let peers = some(nodes);
        let rate = 0.05 + 0.95 * (rng.below(1_000) as f64 / 1_000.0);
        let span = format!("at_ms = {at_ms}\nuntil_ms = {until_ms}");
        let mut event = match rng.below(12) {
            0 if may_crash > 0 => {
                may_crash -= 1;
                format!("kind = \"crash\"\nnodes = {nodes_one}\nat_ms = {at_ms}")
            }
            0..=2 => format!("kind = \"restart\"\nnodes = {nodes_few}\n{span}"),
            3 => format!("kind = \"restart\"\nnodes = {nodes_any}\n{span}"),
            4 => format!("kind = \"pause\"\nnodes = {nodes_few}\n{span}"),
            5 => format!("kind = \"drop_ingress\"\nnodes = {nodes_few}\nrate = {rate}\n{span}"),
            6 => format!("kind = \"drop_egress\"\nnodes = {nodes_few}\nrate = {rate}\n{span}"),
            7 | 8 => format!("kind = \"drop_link\"\nnodes = {nodes_few}\npeers = {peers}\n{span}"),
            9 => format!("kind = \"loss\"\nrate = {}\n{span}", rate / 2.0),
            10 => format!("kind = \"duplicate\"\nrate = {rate}\n{span}"),
            _ => format!("kind = \"reorder\"\nrate = {rate}\n{span}"),
        };
        let flips = rng.chance(0.2) && !event.contains("crash");
        if flips {
            let (on_ms, off_ms) = (200 + rng.below(5_000), 200 + rng.below(5_000));
            let _ = write!(event, "\non_ms = {on_ms}\noff_ms = {off_ms}");
        }
        let _ = write!(text, "\n[[events]]\n{event}\n");
    }
    text
}

/// Runs the storm of a seed; `overrides` as in [`Scenario::parse`].
pub fn run(
    seed: u64,
    nodes: Option<u64>,
    overrides: &[(String, String)],
) -> Result<Result<Report, Wreck>, ScenarioError> {
    let text = text(seed, nodes);
    let scenario = Scenario::parse(&text, overrides)?;
    let report = runner::run("storm", &scenario, seed, Progress::Silent);
    Ok(match verdict(&report) {
        None => Ok(report),
        Some(problem) => Err(Wreck {
            seed,
            problem,
            text,
        }),
    })
}

/// What is wrong with how a storm ended.
pub fn verdict(report: &Report) -> Option<String> {
    if let Some(disagreement) = &report.disagreement {
        return Some(format!("disagreement: {disagreement}"));
    }
    let said = report
        .notes
        .iter()
        .find(|words| ["Alarm", "Halted"].iter().any(|kind| words.contains(kind)));
    if let Some(words) = said {
        return Some(format!("note: {words}"));
    }
    if !report.all_in_one_view {
        let (up, size) = (report.up, report.final_size);
        return Some(format!(
            "liveness: {up} nodes run, the most frequent view has {size} members"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_storm_is_a_valid_scenario() {
        for seed in 0..500 {
            if let Err(error) = Scenario::parse(&text(seed, None), &[]) {
                panic!("seed {seed}: {error}\n{}", text(seed, None));
            }
        }
    }
}
