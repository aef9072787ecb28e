//! Whole rebalances as SQL, and the same instances as JSON for other solvers.

use serde_json::json;

use super::{Random, insert};

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

/// Where the replicas are before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Random,
    Unplaced,
}

/// State, policies and the same as JSON.
pub fn instance(
    shards: u64,
    nodes: u64,
    shape: &str,
    start: Start,
) -> (String, String, serde_json::Value) {
    let mut random = Random::default();
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
            match start {
                Start::Random => rows.push(format!("({s}, {slot}, {node})")),
                Start::Unplaced => rows.push(format!("({s}, {slot}, NULL)")),
            }
        }
    }
    insert(&mut state, "replicas", &rows);
    let policies = match shape {
        "domiciled" => format!("{SPREAD}{DOMICILE}"),
        "tight" => format!("{SPREAD}{CAPACITY}"),
        _ => SPREAD.to_owned(),
    };
    let json = json!({
        "shape": shape, "nodes": nodes, "zones": ZONES, "weights": weights,
        "cap_a": cap_a, "cap_b": cap_b, "home_nodes": nodes / 3,
        "domiciled": (0..shards).map(domiciled).collect::<Vec<_>>(),
    });
    (state, policies, json)
}
