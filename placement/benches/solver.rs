//! Solver speed, by criterion, on the graph's own API: one thread, no SQL.
//!
//! `cargo bench -p synod-placement --bench solver`

mod instances;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use instances::scoped::Cluster;
use instances::{Shape, Spec, Start, build};
use synod_placement::graph::{Model, VarId};
use synod_placement::plan;
use synod_placement::solve::{Config, Scope, Solver, solve};

fn rebalance(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rebalance to 0.1%, 1,000 x 3 x 50");
    group.sample_size(20);
    let shapes = [
        ("plain", Shape::Plain),
        ("domiciled", Shape::Domiciled),
        ("tight 0.5%", Shape::Tight(5)),
    ];
    for (name, shape) in shapes {
        for (from, start) in [("unplaced", Start::Unplaced), ("random", Start::Random)] {
            let spec = Spec {
                shards: 1_000,
                nodes: 50,
                seed: 0,
                start,
                shape,
            };
            let mut instance = build(spec).expect("instance");
            let config = Config {
                gap_ppm: 1_000,
                solver: Solver::Search,
                ..Config::default()
            };
            group.bench_function(format!("{name}, from {from}"), |bencher| {
                bencher.iter(|| {
                    solve(&mut instance.model, Scope::All, &config, &mut || false).expect("solve")
                });
            });
        }
    }
    group.finish();
}

fn scoped(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("51 new replicas");
    group.sample_size(20);
    for (nodes, shards) in [(1_000, 10_000), (10_000, 100_000)] {
        let mut cluster = Cluster::new(nodes, shards).expect("cluster");
        let vars: Vec<VarId> = (0..17)
            .flat_map(|_| cluster.add_shard(None).expect("shard"))
            .collect();
        group.bench_function(format!("{nodes} nodes, {shards} shards"), |bencher| {
            bencher.iter(|| {
                solve(
                    &mut cluster.model,
                    Scope::Vars(&vars),
                    &Config::default(),
                    &mut || false,
                )
                .expect("solve")
            });
        });
    }
    group.finish();
}

fn moves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one move, tried and undone");
    let spec = Spec {
        shards: 1_000,
        nodes: 50,
        seed: 0,
        start: Start::Random,
        shape: Shape::Tight(5),
    };
    let mut instance = build(spec).expect("instance");
    instance.model.refresh().expect("refresh");
    let mut at = 0_usize;
    group.bench_function("probe", |bencher| {
        bencher.iter(|| {
            at = (at + 7) % instance.vars.len();
            let to = (at % 50) as u32;
            instance
                .model
                .probe(&[(instance.vars[at], Some(to))])
                .expect("probe")
        });
    });
    group.finish();
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    let spec = Spec {
        shards: 1_000,
        nodes: 50,
        seed: 0,
        start: Start::Random,
        shape: Shape::Plain,
    };
    let mut instance = build(spec).expect("instance");
    let config = Config {
        gap_ppm: 1_000,
        solver: Solver::Search,
        ..Config::default()
    };
    let targets = solve(&mut instance.model, Scope::All, &config, &mut || false)
        .expect("solve")
        .values;
    group.bench_function("a rebalance of 1,000 x 3 x 50", |bencher| {
        bencher.iter_batched(
            || instance.model.clone(),
            |mut model: Model| {
                plan::plan(&mut model, &targets, &plan::Config::default()).expect("plan")
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, rebalance, scoped, moves, plans);
criterion_main!(benches);
