//! The report: deltas to decision, node loss to plan, and whole rebalances beside greedy, min-cost flow and OR-tools'
//! CP-SAT.
//!
//! `cargo xtask placement`, or `cargo bench -p synod-placement --bench report [-- FILTER]`. It prints Markdown.
//!
//! CP-SAT runs on the same instances in the same run if Python finds `ortools` (`pip install ortools`);
//! `SYNOD_PYTHON` names the interpreter, `SYNOD_ORTOOLS_SECONDS` its budget for each instance (default 10). Times are
//! those of the one thread that decides: `cpu` what it ran, `wall` with the neighbours of a shared machine.

mod sql;

use std::process::Command;
use std::time::Instant;

use sql::deltas::{Cluster, Took};
use sql::loss::{Loss, Took as LossTook};
use sql::rebalance::Start;
use sql::{cpu_ms, rebalance};
use synod_placement::solve::{Config, Solver};
use synod_placement::{Problem, Status};

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    deltas(&wanted);
    losses(&wanted);
    rebalances(&wanted);
}

fn deltas(wanted: &dyn Fn(&str) -> bool) {
    let sizes = [(1_000, 10_000, 200), (10_000, 100_000, 200)];
    let name = |nodes: u64, shards: u64| format!("deltas {nodes} nodes, {shards} shards");
    if !sizes
        .iter()
        .any(|&(nodes, shards, _)| wanted(&name(nodes, shards)))
    {
        return;
    }
    println!("51 new replicas, from row deltas to decision, milliseconds:\n");
    println!(
        "| cluster | batches | cpu p50 | cpu p99 | wall p50 | wall p99 | of it deltas p99 | first batch | load and compile |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (nodes, shards, batches) in sizes {
        let name = name(nodes, shards);
        if !wanted(&name) {
            continue;
        }
        let mut cluster = Cluster::new(nodes, shards);
        // The first batch makes the indexes that the others use.
        let first = cluster.batch();
        let took: Vec<Took> = (0..batches).map(|_| cluster.batch()).collect();
        let at = |of: fn(&Took) -> f64, part: f64| {
            let mut all: Vec<f64> = took.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[((all.len() - 1) as f64 * part) as usize]
        };
        println!(
            "| {name} | {batches} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            at(|t| t.cpu, 0.5),
            at(|t| t.cpu, 0.99),
            at(|t| t.wall, 0.5),
            at(|t| t.wall, 0.99),
            at(|t| t.deltas, 0.99),
            first.cpu,
            cluster.load,
        );
    }
    println!();
}

fn losses(wanted: &dyn Fn(&str) -> bool) {
    let sizes = [(1_000, 10_000, 100), (10_000, 100_000, 20)];
    let name = |nodes: u64, shards: u64| format!("loss {nodes} nodes, {shards} shards");
    if !sizes
        .iter()
        .any(|&(nodes, shards, _)| wanted(&name(nodes, shards)))
    {
        return;
    }
    println!(
        "A node goes down: from its row to an ordered plan, default policies, cpu milliseconds:\n"
    );
    println!(
        "| cluster | losses | moves | p50 | p99 | deltas p99 | solve p99 | plan p99 | load and compile |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (nodes, shards, losses) in sizes {
        let name = name(nodes, shards);
        if !wanted(&name) {
            continue;
        }
        let mut cluster = Loss::new(nodes, shards);
        let took: Vec<LossTook> = (0..losses)
            .map(|n| cluster.lose(n * (nodes / losses)))
            .collect();
        let at = |of: fn(&LossTook) -> f64, part: f64| {
            let mut all: Vec<f64> = took.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[((all.len() - 1) as f64 * part) as usize]
        };
        let moves: usize = took.iter().map(|t| t.moves).sum();
        let whole = |t: &LossTook| t.deltas + t.solve + t.plan;
        println!(
            "| {name} | {losses} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} |",
            moves as f64 / losses as f64,
            at(whole, 0.5),
            at(whole, 0.99),
            at(|t| t.deltas, 0.99),
            at(|t| t.solve, 0.99),
            at(|t| t.plan, 0.99),
            cluster.load,
        );
    }
    println!();
}

fn rebalances(wanted: &dyn Fn(&str) -> bool) {
    println!(
        "Whole rebalances, shards × 3 replicas × nodes, from random places, the greatest load minimised:\n"
    );
    println!("| instance | solver | status | value | bound | gap % | tries | cpu ms | wall ms |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (shards, nodes) in [(1_000, 50), (10_000, 100)] {
        for shape in ["plain", "domiciled", "tight"] {
            let name = format!("{shards} × 3 × {nodes} {shape}");
            if wanted(&name) {
                instance(&name, shards, nodes, shape);
            }
        }
    }
}

fn instance(name: &str, shards: u64, nodes: u64, shape: &str) {
    let (placed, policies, json) = rebalance::instance(shards, nodes, shape, Start::Random);
    let (unplaced, _, _) = rebalance::instance(shards, nodes, shape, Start::Unplaced);
    // Within 0.1% of the bound where there are 1,000 shards, 1% where there are 10,000; then as good as can be.
    let asked = if shards > 1_000 { 10_000 } else { 1_000 };
    let quality = format!("Synod, to {}%", f64::from(asked) / 1e4);
    let runs = [
        (quality.as_str(), Solver::Search, asked, &placed),
        ("Synod", Solver::Search, Config::default().gap_ppm, &placed),
        // It moves nothing that is placed.
        ("greedy, from nothing", Solver::Greedy, 0, &unplaced),
        ("min-cost flow", Solver::Flow, 0, &placed),
    ];
    for (label, solver, gap_ppm, state) in runs {
        let mut problem = Problem::load(state, &policies).expect("the benchmark's own SQL");
        let config = Config {
            solver,
            gap_ppm,
            ..Config::default()
        };
        let (start, cpu) = (Instant::now(), cpu_ms());
        let answer = problem.solve(&config, &mut || false).expect("no overflow");
        let (wall, cpu) = (start.elapsed().as_secs_f64() * 1e3, cpu_ms() - cpu);
        let status = match answer.status {
            Status::Optimal => "optimal",
            Status::Feasible => "feasible",
            Status::Infeasible => "infeasible",
            Status::Unknown => "breaks hard rows",
        };
        let tier = answer.tiers.first();
        let value = tier.map(|tier| tier.value.as_f64());
        let bound = tier.and_then(|tier| tier.bound).map(|bound| bound.as_f64());
        let show = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let gap = value.zip(bound).map_or_else(
            || "–".to_owned(),
            |(value, bound)| format!("{:.3}", (value / bound - 1.0) * 100.0),
        );
        println!(
            "| {name} | {label} | {status} | {} | {} | {gap} | {} | {cpu:.1} | {wall:.1} |",
            show(value),
            show(bound),
            answer.stats.evaluations
        );
    }
    cp_sat(name, &json);
}

/// One line of the same table, or why there is none.
fn cp_sat(name: &str, instance: &serde_json::Value) {
    let python = std::env::var("SYNOD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let seconds = std::env::var("SYNOD_ORTOOLS_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let file = std::env::temp_dir().join(format!("synod-instance-{}.json", std::process::id()));
    if let Err(error) = std::fs::write(&file, instance.to_string()) {
        println!("| {name} | CP-SAT | skipped: {error} | | | | | | |");
        return;
    }
    for workers in ["1", "2"] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ortools_rebalance.py");
        let output = Command::new(&python)
            .args([script, &file.to_string_lossy(), &seconds, workers])
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                println!("| {name} | CP-SAT, {workers} worker(s), {seconds} s | {line} |");
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let reason = text.lines().last().unwrap_or("no reason given");
                println!("| {name} | CP-SAT | skipped: {reason} | | | | | | |");
                break;
            }
            Err(error) => {
                println!("| {name} | CP-SAT | skipped: {python}: {error} | | | | | | |");
                break;
            }
        }
    }
    // A left-over instance in the temporary folder is harmless.
    let _ = std::fs::remove_file(&file);
}
