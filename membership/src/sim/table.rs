//! The comparison: several scenarios, several seeds, the protocols beside each other.
//!
//! Runs are independent and deterministic, so they are spread over threads and put in order again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::report::Report;
use super::runner::{self, Progress};
use super::scenario::{ProtocolKind, Scenario};

/// One run to be done.
pub struct Job {
    /// The scenario's name.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The seed.
    pub seed: u64,
}

impl Job {
    /// Whether a report is this run's.
    pub fn is_of(&self, report: &Report) -> bool {
        (self.name.as_str(), self.seed) == (report.scenario.as_str(), report.seed)
            && self.scenario.protocol.to_string() == report.protocol
    }
}

/// Runs all jobs on `threads` threads; `done` hears of each. The reports are in the order of the jobs.
pub fn run_all(jobs: &[Job], threads: usize, done: impl Fn(&Report) + Sync) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let report = runner::run(&job.name, &job.scenario, job.seed, Progress::Silent);
                    done(&report);
                    reports
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .insert(index, report);
                }
            });
        }
    });
    let reports = reports
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    reports.into_values().collect()
}

/// The columns, as Markdown.
const HEADER: &str = "\
| scenario | protocol | seeds | agreement | one view at the end | view changes a node, mean (max) | distinct sizes | faulty removed | healthy removed | first removal, s | settled, s | KB/s rx/tx mean | p99 | max | wall, s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The table of all reports; those of one scenario and protocol share a row.
pub fn markdown(reports: &[Report]) -> String {
    let mut rows: Vec<(&str, &str, Vec<&Report>)> = Vec::new();
    for report in reports {
        let row = rows
            .iter_mut()
            .find(|(name, protocol, _)| (*name, *protocol) == (&report.scenario, &report.protocol));
        match row {
            Some((_, _, members)) => members.push(report),
            None => rows.push((&report.scenario, &report.protocol, vec![report])),
        }
    }
    let mut table = HEADER.to_owned();
    for (scenario, protocol, runs) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| {scenario} | {protocol} | {}", row(&runs));
    }
    table
}

fn row(runs: &[&Report]) -> String {
    let count = runs.len();
    let of = |holds: fn(&Report) -> bool| runs.iter().filter(|run| holds(run)).count();
    let mean =
        |value: fn(&Report) -> f64| runs.iter().map(|run| value(run)).sum::<f64>() / count as f64;
    let range = |value: fn(&Report) -> usize| {
        let values = runs.iter().map(|run| value(run));
        match (values.clone().min(), values.max()) {
            (Some(least), Some(most)) if least != most => format!("{least}-{most}"),
            (Some(same), _) => same.to_string(),
            (None, _) => String::new(),
        }
    };
    let seconds = |value: fn(&Report) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
        let Some(most) = values.iter().copied().reduce(f64::max) else {
            return "-".to_owned();
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        format!("{:.1} (max {:.1})", mean / 1e3, most / 1e3)
    };
    let faulty = runs.iter().map(|run| run.faulty.len()).max().unwrap_or(0);
    let removed = range(|run| run.faulty.len() - run.faulty_kept.len());
    let traffic = |value: fn(&Report) -> (f64, f64)| {
        let most = |pick: fn((f64, f64)) -> f64| {
            runs.iter().map(|run| pick(value(run))).fold(0.0, f64::max) / 1e3
        };
        format!("{:.2}/{:.2}", most(|pair| pair.0), most(|pair| pair.1))
    };
    format!(
        "{count} | {}/{count} | {}/{count} | {:.1} ({}) | {} | {removed} of {faulty} | {} | {} | {} | {:.2}/{:.2} | {} | {} | {:.1} |",
        of(|run| run.agreement),
        of(|run| run.converged),
        mean(|run| run.changes_mean),
        runs.iter().map(|run| run.changes_max).max().unwrap_or(0),
        range(|run| run.sizes.len()),
        range(|run| run.wrongly_removed.len()),
        seconds(|run| run.first_removal_ms),
        seconds(|run| run.settled_ms),
        mean(|run| run.traffic.rx_bytes.mean) / 1e3,
        mean(|run| run.traffic.tx_bytes.mean) / 1e3,
        traffic(|run| (
            run.traffic.rx_bytes.p99 as f64,
            run.traffic.tx_bytes.p99 as f64
        )),
        traffic(|run| (
            run.traffic.rx_bytes.max as f64,
            run.traffic.tx_bytes.max as f64
        )),
        mean(|run| run.wall_ms as f64) / 1e3,
    )
}

/// Every scenario with every protocol and seed, in that order.
pub fn jobs(
    scenarios: &[(String, Scenario)],
    protocols: &[ProtocolKind],
    seeds: impl Iterator<Item = u64> + Clone,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (name, scenario) in scenarios {
        for protocol in protocols {
            for seed in seeds.clone() {
                let scenario = Scenario {
                    protocol: *protocol,
                    ..scenario.clone()
                };
                jobs.push(Job {
                    name: name.clone(),
                    scenario,
                    seed,
                });
            }
        }
    }
    jobs
}
