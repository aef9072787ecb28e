//! New replicas on a placed cluster, end to end: from row deltas to a decision, through the general compiler.
//!
//! `cargo bench -p synod-placement --bench deltas [-- NODES SHARDS BATCHES]` prints percentiles; criterion has none.

use std::fmt::Write as _;
use std::time::Instant;

use synod_placement::solve::Config;
use synod_placement::{Change, Datum, Problem, Status, Touched};

const TABLES: &str = "
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap_bytes INTEGER, cap_qps INTEGER, fair INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, bytes INTEGER, qps INTEGER);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
";

const POLICIES: &str = "
CREATE CONSTRAINT distinct_nodes AS SELECT * FROM replicas r
GROUP BY r.shard_id, r.controllable__node CHECK count(*) <= 1;
CREATE CONSTRAINT zone_spread AS SELECT * FROM replicas r JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY r.shard_id, n.zone CHECK count(*) <= 1;
CREATE CONSTRAINT capacity AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.cap_bytes, n.cap_qps CHECK sum(s.bytes) <= n.cap_bytes AND sum(s.qps) <= n.cap_qps;
CREATE CONSTRAINT balance AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.fair MINIMIZE max(coalesce(sum(s.bytes), 0) - n.fair, 0) TIER 0;
CREATE CONSTRAINT stickiness AS SELECT * FROM replicas r WHERE r.current_node IS NOT NULL
MINIMIZE r.controllable__node <> r.current_node TIER 1;
";

/// Milliseconds that this thread has run: on a shared machine the clock measures the neighbours too.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse::<f64>().ok());
    first.map_or(f64::NAN, |ns| ns / 1e6)
}

/// A small generator of its own: the same instance on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn insert(sql: &mut String, table: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<String> = rows.collect();
    for chunk in rows.chunks(500) {
        let _ = writeln!(sql, "INSERT INTO {table} VALUES {};", chunk.join(", "));
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (nodes, shards, batches) = match numbers.as_slice() {
        [nodes, shards, batches, ..] => (*nodes, *shards, *batches),
        _ => (1000, 10_000, 200),
    };
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let weights: Vec<u64> = (0..shards).map(|_| 1 + random.below(100)).collect();
    let total: u64 = weights.iter().sum::<u64>() * 3;
    let fair = total / nodes + 60;
    let zone = |node: u64| node % 5;
    let mut state = TABLES.to_owned();
    insert(
        &mut state,
        "nodes",
        (0..nodes).map(|n| {
            format!(
                "('n{n}', 'z{}', {}, {}, {fair})",
                zone(n),
                fair * 2,
                fair * 2
            )
        }),
    );
    insert(
        &mut state,
        "shards",
        (0..shards).map(|s| {
            let w = weights[s as usize];
            format!("({s}, {w}, {w})")
        }),
    );
    let mut rows = Vec::new();
    for s in 0..shards {
        // Three consecutive nodes are in three zones.
        let first = random.below(nodes);
        for slot in 0..3 {
            let node = (first + slot) % nodes;
            rows.push(format!("({s}, {slot}, 'n{node}', 'n{node}')"));
        }
    }
    insert(&mut state, "replicas", rows.into_iter());
    let start = Instant::now();
    let mut problem = Problem::load(&state, POLICIES).expect("the benchmark's own SQL");
    println!(
        "load and compile: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let config = Config::default();
    let mut times = Vec::new();
    let mut apply_times = Vec::new();
    let mut cpu_times = Vec::new();
    let text = |n: &str| Datum::Text(n.to_owned());
    for batch in 0..batches {
        let mut changes = Vec::new();
        for k in 0..17 {
            let shard = (shards + batch * 17 + k) as i64;
            let weight = 1 + random.below(100) as i64;
            changes.push(Change::Upsert {
                table: "shards".to_owned(),
                row: vec![
                    Datum::Integer(shard),
                    Datum::Integer(weight),
                    Datum::Integer(weight),
                ],
            });
            for slot in 0..3 {
                changes.push(Change::Upsert {
                    table: "replicas".to_owned(),
                    row: vec![
                        Datum::Integer(shard),
                        Datum::Integer(slot),
                        Datum::Null,
                        Datum::Null,
                    ],
                });
            }
        }
        let cpu = cpu_ms();
        let start = Instant::now();
        let touched: Touched = problem.apply(&changes).expect("valid rows");
        let applied = start.elapsed();
        let answer = problem
            .solve_scoped(&touched, &config, &mut || false)
            .expect("no overflow");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        cpu_times.push(cpu_ms() - cpu);
        apply_times.push(applied.as_secs_f64() * 1e3);
        assert!(touched.is_scoped(), "followed by keys");
        assert!(
            matches!(answer.status, Status::Optimal | Status::Feasible),
            "{:?}",
            answer.status
        );
        assert_eq!(answer.assignments.len(), 51);
        // The moves are done: the state says so.
        let done: Vec<Change> = answer
            .assignments
            .iter()
            .map(|a| {
                let node = a.value.as_str().expect("placed");
                let number = |k: &str| Datum::Integer(a.key[k].as_i64().unwrap_or_default());
                Change::Upsert {
                    table: "replicas".to_owned(),
                    row: vec![number("shard_id"), number("slot"), text(node), text(node)],
                }
            })
            .collect();
        problem.apply(&done).expect("valid rows");
    }
    for (name, times) in [
        ("deltas to decision", &mut times),
        ("of it deltas", &mut apply_times),
        ("the same in CPU time", &mut cpu_times),
    ] {
        times.sort_by(f64::total_cmp);
        let at = |p: f64| times[((times.len() - 1) as f64 * p) as usize];
        println!(
            "{name}, {nodes} nodes, {shards} shards, 51 replicas: p50 {:.2} ms, p95 {:.2}, p99 {:.2}, max {:.2}",
            at(0.5),
            at(0.95),
            at(0.99),
            at(1.0)
        );
    }
}
