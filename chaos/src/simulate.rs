//! Seeds one after another, with progress, and what is done about a failure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use synod_chaos::fault::Fault;
use synod_chaos::mutate::{Hunt, Shown, hunt, shown};
use synod_chaos::plan::Plan;
use synod_chaos::report::{Failure, RunReport, write_files};
use synod_chaos::run::run as run_plan;
use synod_chaos::shrink::shrink;
use synod_testpoint::{Bug, Point, plant, take_reached};

use crate::cli::Simulate;

/// Runs that the shrinking of one failure may take.
const SHRINK_RUNS_MAX: usize = 60;
/// Failures after which no further seed is begun.
const FAILURES_MAX: usize = 5;

/// What all seeds came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    failures: Vec<String>,
    simulated: Duration,
    counts: [usize; 3],
    /// How often each point of the production code was reached.
    reached: BTreeMap<Point, u64>,
    /// How often each fault struck.
    struck: BTreeMap<Fault, u64>,
}

/// Carries out what was asked for.
pub fn run(request: &Simulate) -> Result<(), String> {
    let bugs = named(&request.bugs)?;
    if request.mutations {
        return mutations(request.seeds.unwrap_or(500), &bugs);
    }
    let planted = bugs.first().copied().filter(|_| !request.bugs.is_empty());
    if let Some(path) = &request.plan {
        plant(planted);
        return replay(path, request);
    }
    let mut request = request.clone();
    if let Some(bug) = planted
        && request.choice.is_empty()
    {
        match shown(bug) {
            Shown::ByNodes(menu) => request.menu = *menu,
            Shown::ByTest(apart) => return Err(format!("{}: {}", apart.test, apart.why)),
        }
    }
    let request = &request;
    let first_seed = request.seed.unwrap_or(0);
    let started = Instant::now();
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(first_seed);
    std::thread::scope(|scope| {
        for _ in 0..request.jobs {
            scope.spawn(|| {
                plant(planted);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let done = request
                        .seeds
                        .is_some_and(|seeds| seed - first_seed >= seeds);
                    let late = request.time.is_some_and(|time| started.elapsed() > time);
                    let failures = total
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .failures
                        .len();
                    if done || late || failures >= FAILURES_MAX {
                        break;
                    }
                    one(request, seed, started, &total);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", coverage(request, &total));
    println!("{}", summary(&total, started.elapsed()));
    match total.failures.len() {
        0 => Ok(()),
        failures => Err(format!(
            "{failures} seeds failed: {}",
            total.failures.join(", ")
        )),
    }
}

fn one(request: &Simulate, seed: u64, started: Instant, total: &Mutex<Total>) {
    let plan = request.menu.plan(seed);
    let began = Instant::now();
    let mut report = run_plan(&plan);
    let took = began.elapsed();
    if request.twice && report.failure.is_none() {
        let again = run_plan(&plan);
        if again.trace != report.trace {
            let what = format!("trace {:016x}, then {:016x}", report.trace, again.trace);
            report.failure = Some(Failure::Invariant(format!("one seed, two traces: {what}")));
        }
    }
    // So little was answered that the run shows nothing: no fault of the store.
    let idle = matches!(report.failure, Some(Failure::Idle { .. }));
    if idle {
        report.failure = None;
    }
    let [ok, failed, unknown] = report.counts();
    {
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.seeds += 1;
        total.simulated += report.simulated;
        for (point, times) in take_reached() {
            *total.reached.entry(point).or_default() += times;
        }
        for strike in &plan.strikes {
            *total.struck.entry(strike.fault).or_default() += 1;
        }
        for (sum, count) in total.counts.iter_mut().zip([ok, failed, unknown]) {
            *sum += count;
        }
        if report.failure.is_some() {
            total.failures.push(seed.to_string());
        }
    }
    let verdict = match (&report.failure, idle) {
        (Some(_), _) => "FAILED",
        (None, true) => "idle",
        (None, false) => "ok",
    };
    println!(
        "[{:6.1} s] {verdict} {plan}: {ok} succeeded, {failed} failed, {unknown} unknown, trace \
         {:016x}, {:.1} s of {:.1} s simulated",
        started.elapsed().as_secs_f64(),
        report.trace,
        took.as_secs_f64(),
        report.simulated.as_secs_f64(),
    );
    if report.failure.is_some() {
        let line = format!("cargo xtask chaos{} --seed {seed}", request.choice);
        tell(request, &plan, report, &line);
    } else if request.keep {
        write(&request.report.join(format!("seed-{seed}")), &plan, &report);
    }
}

/// Tells of a failure, makes it smaller, and writes both to the disk.
fn tell(request: &Simulate, plan: &Plan, report: RunReport, line: &str) {
    if let Some(failure) = &report.failure {
        println!("\n{failure}\n\nreplay: {line}");
    }
    let folder = request.report.join(format!("seed-{}", plan.seed));
    write(&folder, plan, &report);
    println!("shrinking…");
    let (small, small_report) = shrink(plan, report, SHRINK_RUNS_MAX, |smaller| {
        println!(
            "  {} strikes, {} clients, {} nodes, {} ms",
            smaller.strikes.len(),
            smaller.clients.len(),
            smaller.nodes,
            smaller.safety_ms
        );
    });
    let folder = folder.join("small");
    write(&folder, &small, &small_report);
    if let Some(failure) = &small_report.failure {
        println!("smallest: {small}\n{failure}");
    }
    println!(
        "replay: cargo xtask chaos --plan {}\n",
        folder.join("plan.json").display()
    );
}

/// The bugs of these names, or all.
fn named(names: &[String]) -> Result<Vec<Bug>, String> {
    let name = |bug: &Bug| format!("{bug:?}");
    if let Some(unknown) = names
        .iter()
        .find(|wanted| !Bug::ALL.iter().any(|bug| name(bug) == **wanted))
    {
        let known: Vec<String> = Bug::ALL.iter().map(name).collect();
        return Err(format!(
            "there is no bug {unknown}; there are: {}",
            known.join(", ")
        ));
    }
    let wanted = |bug: &&Bug| names.is_empty() || names.contains(&name(bug));
    Ok(Bug::ALL.iter().filter(wanted).copied().collect())
}

/// Plants bugs, one after another, and prints the table; then what only directed tests show.
fn mutations(seeds_max: u64, bugs: &[Bug]) -> Result<(), String> {
    let (mut missed, mut apart) = (Vec::new(), Vec::new());
    println!("| bug | seeds | caught by |\n|---|---|---|");
    for bug in bugs {
        let menu = match shown(*bug) {
            Shown::ByNodes(menu) => menu,
            Shown::ByTest(test) => {
                apart.push((bug, test));
                continue;
            }
        };
        let Hunt { bug, seeds, by } = hunt(*bug, &menu, seeds_max);
        match seeds {
            Some(seeds) => println!("| {bug:?}: {} | {seeds} | {by} |", bug.what()),
            None => {
                println!("| {bug:?}: {} | not within {seeds_max} | |", bug.what());
                missed.push(format!("{bug:?}"));
            }
        }
    }
    if !apart.is_empty() {
        println!("\n| bug | shown by the test | why not by whole nodes |\n|---|---|---|");
    }
    for (bug, test) in apart {
        println!("| {bug:?}: {} | {} | {} |", bug.what(), test.test, test.why);
    }
    match missed.is_empty() {
        true => Ok(()),
        false => Err(format!("not caught: {}", missed.join(", "))),
    }
}

fn write(folder: &Path, plan: &Plan, report: &RunReport) {
    match write_files(folder, plan, report) {
        Ok(()) => println!("written: {}", folder.display()),
        Err(error) => println!("cannot write {}: {error}", folder.display()),
    }
}

fn replay(path: &Path, request: &Simulate) -> Result<(), String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let plan: Plan = serde_json::from_str(&text)
        .map_err(|error| format!("{} is no plan: {error}", path.display()))?;
    let report = run_plan(&plan);
    let [ok, failed, unknown] = report.counts();
    println!(
        "{plan}: {ok} succeeded, {failed} failed, {unknown} unknown, trace {:016x}",
        report.trace
    );
    let folder = request.report.join("replay");
    write(&folder, &plan, &report);
    match &report.failure {
        None => Ok(()),
        Some(failure) => Err(failure.to_string()),
    }
}

/// What the runs came by, and what none of them ever reached.
fn coverage(request: &Simulate, total: &Total) -> String {
    let reached: Vec<String> = total
        .reached
        .iter()
        .map(|(point, times)| format!("{point:?} {times}"))
        .collect();
    let missed = Point::ALL
        .iter()
        .filter(|point| !total.reached.contains_key(point));
    let missed: Vec<String> = missed.map(|point| format!("{point:?}")).collect();
    let idle = request
        .menu
        .faults
        .iter()
        .filter(|fault| !total.struck.contains_key(fault));
    let idle: Vec<&str> = idle.map(|fault| fault.name()).collect();
    format!(
        "reached: {}\nnever reached: {}\nfaults that never struck: {}",
        reached.join(", "),
        missed.join(", "),
        idle.join(", ")
    )
}

fn summary(total: &Total, took: Duration) -> String {
    let [ok, failed, unknown] = total.counts;
    let simulated = total.simulated.as_secs_f64();
    let minutes = took.as_secs_f64() / 60.0;
    format!(
        "{} seeds, {} failed; {} operations ({ok} succeeded, {failed} failed, {unknown} unknown); \
         {:.2} h simulated in {minutes:.1} min: {:.2} h a minute",
        total.seeds,
        total.failures.len(),
        ok + failed + unknown,
        simulated / 3600.0,
        simulated / 3600.0 / minutes.max(1e-9),
    )
}
