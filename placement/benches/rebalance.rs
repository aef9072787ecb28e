//! Whole rebalances from SQL through the general compiler, and the same instances for other solvers.
//!
//! `cargo bench -p synod-placement --bench rebalance [-- SHARDS NODES SHAPE]` with SHAPE plain, domiciled or tight.
//! With `SYNOD_INSTANCE=FILE` the instance is also written as JSON for `benches/ortools_rebalance.py`.

use std::fmt::Write as _;
use std::time::Instant;

use synod_placement::Problem;
use synod_placement::solve::{Config, Solver};

const ZONES: u64 = 5;

const TABLES: &str = "
CREATE TABLE nodes (node_id INTEGER PRIMARY KEY, zone INTEGER, region TEXT, cap_a INTEGER, cap_b INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, home TEXT);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER,
    controllable__node INTEGER REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
";

const SPREAD: &str = "
CREATE CONSTRAINT zone_spread AS SELECT * FROM replicas r JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY r.shard_id, n.zone CHECK count(*) <= 1;
CREATE VIEW node_load AS SELECT n.node_id, sum(s.a) AS load FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.node_id;
CREATE CONSTRAINT balance AS SELECT * FROM node_load l MINIMIZE max(l.load);
";

const DOMICILE: &str = "
CREATE CONSTRAINT domicile AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node WHERE s.home IS NOT NULL CHECK n.region = s.home;
";

const CAPACITY: &str = "
CREATE CONSTRAINT capacity AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.cap_a, n.cap_b CHECK sum(s.a) <= n.cap_a AND sum(s.b) <= n.cap_b;
";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn insert(sql: &mut String, table: &str, rows: &[String]) {
    for chunk in rows.chunks(500) {
        let _ = writeln!(sql, "INSERT INTO {table} VALUES {};", chunk.join(", "));
    }
}

/// State, policies and the same as JSON.
fn instance(shards: u64, nodes: u64, shape: &str) -> (String, String, serde_json::Value) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let weights: Vec<u64> = (0..shards).map(|_| 1 + random.below(100)).collect();
    let total_a: u64 = 3 * weights.iter().sum::<u64>();
    let total_b: u64 = 3 * weights.iter().map(|w| 101 - w).sum::<u64>();
    // Half a percent of each resource stays free.
    let cap = |total: u64| total * 1005 / (1000 * nodes) + 1;
    let (cap_a, cap_b) = (cap(total_a), cap(total_b));
    let home = |node: u64| node < nodes / 3;
    let mut state = TABLES.to_owned();
    let rows: Vec<String> = (0..nodes)
        .map(|n| {
            let region = if home(n) { "home" } else { "away" };
            format!("({n}, {}, '{region}', {cap_a}, {cap_b})", n % ZONES)
        })
        .collect();
    insert(&mut state, "nodes", &rows);
    let domiciled = |s: u64| shape == "domiciled" && s.is_multiple_of(3);
    let rows: Vec<String> = (0..shards)
        .map(|s| {
            let w = weights[s as usize];
            let home = if domiciled(s) { "'home'" } else { "NULL" };
            format!("({s}, {w}, {}, {home})", 101 - w)
        })
        .collect();
    insert(&mut state, "shards", &rows);
    let mut rows = Vec::new();
    for s in 0..shards {
        let mut taken: Vec<u64> = Vec::new();
        for slot in 0..3 {
            let node = loop {
                let node = random.below(nodes);
                if taken.iter().all(|t| t % ZONES != node % ZONES) {
                    break node;
                }
            };
            taken.push(node);
            rows.push(format!("({s}, {slot}, {node})"));
        }
    }
    insert(&mut state, "replicas", &rows);
    let policies = match shape {
        "domiciled" => format!("{SPREAD}{DOMICILE}"),
        "tight" => format!("{SPREAD}{CAPACITY}"),
        _ => SPREAD.to_owned(),
    };
    let json = serde_json::json!({
        "shape": shape, "nodes": nodes, "zones": ZONES, "weights": weights,
        "cap_a": cap_a, "cap_b": cap_b, "home_nodes": nodes / 3,
        "domiciled": (0..shards).map(domiciled).collect::<Vec<_>>(),
    });
    (state, policies, json)
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let all = [(1000, 50), (10_000, 100)];
    let shapes = ["plain", "domiciled", "tight"];
    let runs: Vec<(u64, u64, &str)> = match args.as_slice() {
        [shards, nodes, shape, ..] => vec![(
            shards.parse().expect("shards"),
            nodes.parse().expect("nodes"),
            shape.as_str(),
        )],
        _ => all
            .iter()
            .flat_map(|&(s, n)| shapes.map(|shape| (s, n, shape)))
            .collect(),
    };
    for (shards, nodes, shape) in runs {
        let (state, policies, json) = instance(shards, nodes, shape);
        if let Ok(path) = std::env::var("SYNOD_INSTANCE") {
            std::fs::write(path, json.to_string()).expect("a writable file");
        }
        for solver in [Solver::Auto, Solver::Greedy, Solver::Flow] {
            let start = Instant::now();
            let mut problem = Problem::load(&state, &policies).expect("the benchmark's own SQL");
            let loaded = start.elapsed();
            let config = Config {
                solver,
                ..Config::default()
            };
            let start = Instant::now();
            let answer = problem.solve(&config, &mut || false).expect("no overflow");
            let solved = start.elapsed();
            let tier = answer
                .tiers
                .first()
                .map(|t| (t.value.as_f64(), t.bound.map_or(f64::NAN, |b| b.as_f64())));
            let (value, bound) = tier.unwrap_or((f64::NAN, f64::NAN));
            println!(
                "{shards} x 3 x {nodes} {shape}, {solver:?}: {:?}, {value} (bound {bound}, gap {:.3}%), load {:.0} ms, solve {:.1} ms",
                answer.status,
                (value / bound - 1.0) * 100.0,
                loaded.as_secs_f64() * 1e3,
                solved.as_secs_f64() * 1e3,
            );
        }
    }
}
