//! A settled cluster whose loads waver by 5% moves nothing, a hundred times.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::solve::Config;
use synod_placement::{Answer, Problem, Status};

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn defaults() -> String {
    let mut names: Vec<_> = std::fs::read_dir(format!("{}/policies", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    names.sort();
    names
        .iter()
        .map(|n| read(&format!("policies/{n}")) + "\n")
        .collect()
}

fn solve(state: &str, policies: &str) -> Answer {
    let mut problem = Problem::load(state, policies).unwrap();
    let config = Config {
        evaluations_max: 100_000,
        conflicts_max: 200,
        ..Config::default()
    };
    let answer = problem.solve(&config, &mut || false).unwrap();
    assert!(
        matches!(answer.status, Status::Optimal | Status::Feasible),
        "{:?}",
        answer.status
    );
    answer
}

/// The state once the answer has been carried out.
fn carried_out(state: &str, answer: &Answer) -> String {
    let mut out = state.to_owned();
    for a in &answer.assignments {
        let key: Vec<String> = a.key.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        let (table, column, value) = (&a.table, &a.column, a.value.as_str().unwrap());
        let current = column.replace("controllable__", "current_");
        out.push_str(&format!(
            "UPDATE {table} SET {column} = '{value}', {current} = '{value}' WHERE {};\n",
            key.join(" AND ")
        ));
    }
    out
}

#[test]
fn loads_that_waver_move_nothing() {
    let policies = defaults();
    let mut rng = SmallRng::seed_from_u64(5);
    let mut state = read("policies/tables.sql");
    for n in 0..9 {
        let zone = ["a", "b", "c"][n % 3];
        state.push_str(&format!(
            "INSERT INTO nodes (node_id, zone, region, status, cap_bytes, cap_qps, cap_replicas) \
             VALUES ('n{n}', '{zone}', 'eu', 'up', 100000, 100000, 100);\n"
        ));
    }
    let mut bytes = Vec::new();
    for s in 0..30 {
        let b: i64 = rng.random_range(100..2000);
        bytes.push(b);
        state.push_str(&format!(
            "INSERT INTO shards (shard_id, bytes, read_qps, write_qps, rf) VALUES ({s}, {b}, 10, 10, 3);\n\
             INSERT INTO replicas (shard_id, slot) VALUES ({s}, 0), ({s}, 1), ({s}, 2);\n\
             INSERT INTO leaders (shard_id) VALUES ({s});\n"
        ));
    }
    // Two rounds settle it: the first places, the second may still use what the first did not find.
    for _ in 0..2 {
        let answer = solve(&state, &policies);
        state = carried_out(&state, &answer);
    }
    for round in 0..100 {
        let mut wavering = state.clone();
        for (s, b) in bytes.iter().enumerate() {
            let b = b * rng.random_range(950..=1050) / 1000;
            wavering.push_str(&format!(
                "UPDATE shards SET bytes = {b} WHERE shard_id = {s};\n"
            ));
        }
        let answer = solve(&wavering, &policies);
        let moved: Vec<_> = answer
            .assignments
            .iter()
            .filter(|a| a.current != a.value)
            .collect();
        assert!(moved.is_empty(), "round {round}: {moved:?}");
    }
}
