//! New replicas on a placed cluster, end to end: from row deltas to a decision, through the general compiler.
//!
//! The cluster keeps its size: for every shard that is added one of the oldest goes, so that the last batch meets the
//! same cluster as the first.

use std::time::Instant;

use synod_placement::solve::Config;
use synod_placement::{Change, Datum, Problem, Status, Touched};

use super::{Random, cpu_ms, insert};

/// Shards of three replicas that a batch brings.
const BATCH: u64 = 17;

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

/// What a batch took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub wall: f64,
    /// Of it the deltas.
    pub deltas: f64,
    /// Of this thread.
    pub cpu: f64,
}

pub struct Cluster {
    problem: Problem,
    random: Random,
    oldest: u64,
    next: u64,
    /// What loading and compiling took, in milliseconds.
    pub load: f64,
}

impl Cluster {
    pub fn new(nodes: u64, shards: u64) -> Cluster {
        let mut random = Random::default();
        let weights: Vec<u64> = (0..shards).map(|_| 1 + random.below(100)).collect();
        let total: u64 = weights.iter().sum::<u64>() * 3;
        let fair = total / nodes + 60;
        let mut state = TABLES.to_owned();
        let node = |n| format!("('n{n}', 'z{}', {}, {}, {fair})", n % 5, fair * 2, fair * 2);
        insert(
            &mut state,
            "nodes",
            &(0..nodes).map(node).collect::<Vec<_>>(),
        );
        let rows: Vec<String> = (0..)
            .zip(&weights)
            .map(|(s, w): (u64, _)| format!("({s}, {w}, {w})"))
            .collect();
        insert(&mut state, "shards", &rows);
        let mut rows = Vec::new();
        for s in 0..shards {
            // Three consecutive nodes are in three zones.
            let first = random.below(nodes);
            for slot in 0..3 {
                let node = (first + slot) % nodes;
                rows.push(format!("({s}, {slot}, 'n{node}', 'n{node}')"));
            }
        }
        insert(&mut state, "replicas", &rows);
        let start = Instant::now();
        let problem = Problem::load(&state, POLICIES).expect("the benchmark's own SQL");
        Cluster {
            problem,
            random,
            oldest: 0,
            next: shards,
            load: start.elapsed().as_secs_f64() * 1e3,
        }
    }

    /// Adds shards, decides where their replicas go, and removes as many old ones.
    pub fn batch(&mut self) -> Took {
        let mut changes = Vec::new();
        for _ in 0..BATCH {
            let shard = Datum::Integer(self.next as i64);
            let weight = Datum::Integer(1 + self.random.below(100) as i64);
            self.next += 1;
            changes.push(upsert(
                "shards",
                vec![shard.clone(), weight.clone(), weight],
            ));
            for slot in 0..3 {
                let row = vec![
                    shard.clone(),
                    Datum::Integer(slot),
                    Datum::Null,
                    Datum::Null,
                ];
                changes.push(upsert("replicas", row));
            }
        }
        let (cpu, start) = (cpu_ms(), Instant::now());
        let touched: Touched = self.problem.apply(&changes).expect("valid rows");
        let deltas = start.elapsed();
        let answer = self
            .problem
            .solve_scoped(&touched, &Config::default(), &mut || false)
            .expect("no overflow");
        let took = Took {
            wall: start.elapsed().as_secs_f64() * 1e3,
            deltas: deltas.as_secs_f64() * 1e3,
            cpu: cpu_ms() - cpu,
        };
        assert!(touched.is_scoped(), "followed by keys");
        assert!(
            matches!(answer.status, Status::Optimal | Status::Feasible),
            "{:?}",
            answer.status
        );
        assert_eq!(answer.assignments.len() as u64, 3 * BATCH);
        // The moves are done: the state says so.
        let mut done = Vec::new();
        for a in &answer.assignments {
            let node = Datum::Text(a.value.as_str().expect("placed").to_owned());
            let number = |k: &str| Datum::Integer(a.key[k].as_i64().unwrap_or_default());
            done.push(upsert(
                "replicas",
                vec![number("shard_id"), number("slot"), node.clone(), node],
            ));
        }
        for _ in 0..BATCH {
            let shard = Datum::Integer(self.oldest as i64);
            self.oldest += 1;
            for slot in 0..3 {
                done.push(delete(
                    "replicas",
                    vec![shard.clone(), Datum::Integer(slot)],
                ));
            }
            done.push(delete("shards", vec![shard]));
        }
        let settled = self.problem.apply(&done).expect("valid rows");
        assert!(settled.is_scoped(), "followed by keys");
        took
    }
}

fn upsert(table: &str, row: Vec<Datum>) -> Change {
    Change::Upsert {
        table: table.to_owned(),
        row,
    }
}

fn delete(table: &str, key: Vec<Datum>) -> Change {
    Change::Delete {
        table: table.to_owned(),
        key,
    }
}
