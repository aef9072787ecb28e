//! Criterion: compiling and deciding small scopes from SQL.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use synod_placement::Problem;
use synod_placement::solve::Config;

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")))
        .expect("an example file")
}

fn benches(c: &mut Criterion) {
    for name in ["kubernetes", "vms"] {
        let state = read(&format!("examples/{name}/state.sql"));
        let policies = read(&format!("examples/{name}/policies.sql"));
        c.bench_function(&format!("{name}: load and compile"), |b| {
            b.iter(|| black_box(Problem::load(&state, &policies).expect("an example")));
        });
        c.bench_function(&format!("{name}: solve"), |b| {
            b.iter_batched(
                || Problem::load(&state, &policies).expect("an example"),
                |mut problem| problem.solve(&Config::default(), &mut || false),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    // DCM's encoding benchmark: 50 pods on 1,000 nodes under capacity.
    let mut state = String::from(
        "CREATE TABLE nodes (node INTEGER PRIMARY KEY, cpu INTEGER);
         CREATE TABLE pods (pod INTEGER PRIMARY KEY, cpu INTEGER, controllable__node INTEGER REFERENCES nodes (node));",
    );
    for n in 0..1000 {
        state.push_str(&format!("INSERT INTO nodes VALUES ({n}, 10);"));
    }
    for p in 0..50 {
        state.push_str(&format!(
            "INSERT INTO pods VALUES ({p}, {}, NULL);",
            1 + p % 7
        ));
    }
    let policies = "CREATE CONSTRAINT capacity AS SELECT * FROM pods p JOIN nodes n ON n.node = p.controllable__node
        GROUP BY n.node, n.cpu CHECK sum(p.cpu) <= n.cpu;
        CREATE VIEW load AS SELECT n.node, sum(p.cpu) AS cpu FROM pods p JOIN nodes n ON n.node = p.controllable__node GROUP BY n.node;
        CREATE CONSTRAINT balance AS SELECT * FROM load l MINIMIZE max(l.cpu);";
    c.bench_function("50 pods on 1,000 nodes: load, compile and solve", |b| {
        b.iter(|| {
            let mut problem = Problem::load(&state, policies).expect("the benchmark's own SQL");
            problem
                .solve(&Config::default(), &mut || false)
                .expect("no overflow")
        });
    });
}

criterion_group!(group, benches);
criterion_main!(group);
