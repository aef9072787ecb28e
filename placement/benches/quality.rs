//! Time and quality on the benchmark's instances: one line each. Not statistics, an overview:
//! `cargo bench -p synod-placement --bench quality [-- FILTER]`.
//!
//! `cpu` is the time that this thread ran, which on a busy machine is what the solver costs.

mod instances;

use std::time::Instant;

use instances::scoped::Cluster;
use instances::{Shape, Spec, Start, build};
use synod_placement::solve::{Config, Scope, Solver, solve};

/// Milliseconds that this thread has run, where the system tells.
fn cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    ns.unwrap_or(0.0) / 1e6
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    rebalance(&wanted);
    baselines(&wanted);
    scoped(&wanted);
    jitter(&wanted);
}

fn rebalance(wanted: &dyn Fn(&str) -> bool) {
    let shapes = [
        ("plain", Shape::Plain),
        ("domiciled", Shape::Domiciled),
        ("tight 0.5%", Shape::Tight(5)),
    ];
    let starts = [
        ("unplaced", Start::Unplaced),
        ("random", Start::Random),
        ("half", Start::Half),
    ];
    for (shards, nodes) in [(1_000, 50), (10_000, 100)] {
        for (shape_name, shape) in shapes {
            for (start_name, start) in starts {
                let name = format!("{shards}x3x{nodes} {shape_name}, {start_name}");
                if wanted(&name) {
                    for seed in 0..3 {
                        let spec = Spec {
                            shards,
                            nodes,
                            seed,
                            start,
                            shape,
                        };
                        one(&name, spec, Solver::Search);
                    }
                }
            }
        }
    }
}

fn baselines(wanted: &dyn Fn(&str) -> bool) {
    for (shards, nodes) in [(1_000, 50), (10_000, 100)] {
        for (solver_name, solver) in [("greedy", Solver::Greedy), ("flow", Solver::Flow)] {
            let name = format!("{shards}x3x{nodes} plain, {solver_name}");
            if wanted(&name) {
                let (start, shape) = (Start::Unplaced, Shape::Plain);
                one(
                    &name,
                    Spec {
                        shards,
                        nodes,
                        seed: 0,
                        start,
                        shape,
                    },
                    solver,
                );
            }
        }
    }
}

fn one(name: &str, spec: Spec, solver: Solver) {
    let mut instance = build(spec).expect("instance");
    let begin = cpu_ms();
    instance.model.refresh().expect("refresh");
    let sealed = cpu_ms() - begin;
    // Within 0.1% of the bound for the small one, 1% for the large one: what the benchmark asks for.
    let gap_ppm = if spec.shards > 1_000 { 10_000 } else { 1_000 };
    let config = Config {
        seed: spec.seed,
        solver,
        gap_ppm,
        ..Config::default()
    };
    let (begin, cpu) = (Instant::now(), cpu_ms());
    let outcome = solve(&mut instance.model, Scope::All, &config, &mut || false).expect("solve");
    let (took, cpu) = (begin.elapsed(), cpu_ms() - cpu);
    let tier = outcome.tiers.first();
    let (value, bound) = tier.map_or((0, 0), |tier| (tier.value, tier.bound.unwrap_or(0)));
    let gap = (value - bound.max(0)) as f64 / (bound.max(1)) as f64 * 100.0;
    println!(
        "{name:36} {}: {:?} {value} / {bound} gap {gap:.3}% broken {} cpu {cpu:.1} ms, wall {:.1} \
         ms, {} tries, refresh {sealed:.1} ms",
        spec.seed,
        outcome.status,
        outcome.broken.len(),
        took.as_secs_f64() * 1e3,
        outcome.evaluations,
    );
}

/// Batches of 17 shards (51 replicas) placed into a settled cluster, deltas and solve.
fn scoped(wanted: &dyn Fn(&str) -> bool) {
    for (nodes, shards) in [(1_000, 10_000), (10_000, 100_000)] {
        let name = format!("scoped 51 on {nodes} nodes");
        if !wanted(&name) {
            continue;
        }
        let mut cluster = Cluster::new(nodes, shards).expect("cluster");
        let mut times = Vec::new();
        let mut statuses = std::collections::BTreeMap::new();
        for batch in 0..100 {
            let cpu = cpu_ms();
            let mut vars = Vec::new();
            for _ in 0..17 {
                vars.extend(cluster.add_shard(None).expect("shard"));
            }
            let deltas = cpu_ms();
            let config = Config {
                seed: batch,
                ..Config::default()
            };
            let outcome = solve(&mut cluster.model, Scope::Vars(&vars), &config, &mut || {
                false
            })
            .expect("solve");
            let solved = cpu_ms();
            for &(var, value) in &outcome.values {
                cluster.model.set_current(var, value);
            }
            cluster.model.refresh().expect("refresh");
            times.push((cpu_ms() - cpu, deltas - cpu, solved - deltas));
            let key = format!("{:?} broken {}", outcome.status, outcome.broken.len());
            *statuses.entry(key).or_insert(0) += 1;
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!(
            "{name}: cpu p50 {:.2} ms, p99 {:.2} ms (deltas {:.2}, solve {:.2} at p50) {statuses:?}",
            times[50].0, times[98].0, times[50].1, times[50].2
        );
    }
}

/// A settled cluster, solved 100 times with loads jittered by five percent.
fn jitter(wanted: &dyn Fn(&str) -> bool) {
    let name = "jitter";
    if !wanted(name) {
        return;
    }
    let mut cluster = Cluster::new(100, 1_000).expect("cluster");
    let config = Config {
        solver: Solver::Search,
        ..Config::default()
    };
    let settle = solve(&mut cluster.model, Scope::All, &config, &mut || false).expect("solve");
    for &(var, value) in &settle.values {
        cluster.model.set_current(var, value);
    }
    let mut moves = 0;
    let cpu = cpu_ms();
    for round in 0..100 {
        cluster.jitter().expect("jitter");
        let config = Config {
            seed: round,
            ..config
        };
        let outcome = solve(&mut cluster.model, Scope::All, &config, &mut || false).expect("solve");
        let moved = outcome
            .values
            .iter()
            .filter(|&&(var, value)| cluster.model.current(var) != value);
        moves += moved.count();
    }
    println!(
        "jitter 5%, 100 solves of 3,000 replicas: {moves} moves, cpu {:.0} ms",
        cpu_ms() - cpu
    );
}
