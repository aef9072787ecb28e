//! Deltas: a changed problem judges every assignment as one that is loaded afresh.

// A world is told table by table, in the order in which a reader would.
#![allow(clippy::field_reassign_with_default)]

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::{Change, Datum, Problem};

const TABLES: &str = "\
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, bytes INTEGER);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
CREATE TABLE leaders (shard_id INTEGER PRIMARY KEY, current_leader TEXT, controllable__leader TEXT REFERENCES nodes (node_id));
INSERT INTO nodes VALUES ('n1', 'a', 9), ('n2', 'a', 12), ('n3', 'b', 10);
";

const POLICIES: &str = "\
CREATE CONSTRAINT distinct_nodes AS SELECT * FROM replicas r
GROUP BY r.shard_id, r.controllable__node CHECK count(*) <= 1;
CREATE CONSTRAINT spread AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node GROUP BY r.shard_id, n.zone, s.bytes CHECK count(*) <= 1 + s.bytes / 5;
CREATE CONSTRAINT capacity AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.node_id, n.cap CHECK sum(s.bytes) <= n.cap;
CREATE VIEW node_load AS SELECT n.node_id, coalesce(sum(s.bytes), 0) AS load FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.node_id;
CREATE CONSTRAINT balance AS SELECT * FROM node_load l MINIMIZE max(l.load) TIER 0;
CREATE CONSTRAINT leader_on_replica AS SELECT * FROM leaders l CHECK EXISTS (
    SELECT 1 FROM replicas r WHERE r.shard_id = l.shard_id AND r.controllable__node = l.controllable__leader);
CREATE CONSTRAINT stay AS SELECT * FROM replicas r WHERE r.current_node IS NOT NULL
MINIMIZE r.controllable__node <> r.current_node TIER 1;
";

/// The tables as this test knows them.
#[derive(Clone, Default)]
struct World {
    shards: std::collections::BTreeMap<i64, i64>,
    replicas: std::collections::BTreeMap<(i64, i64), Option<u8>>,
    leaders: std::collections::BTreeMap<i64, Option<u8>>,
    nodes: std::collections::BTreeMap<u8, (char, i64)>,
}

fn node(n: Option<u8>) -> String {
    n.map_or("NULL".to_owned(), |n| format!("'n{n}'"))
}

fn datum(n: Option<u8>) -> Datum {
    n.map_or(Datum::Null, |n| Datum::Text(format!("n{n}")))
}

impl World {
    fn state(&self) -> String {
        let mut sql = TABLES.to_owned();
        sql.push_str("DELETE FROM nodes;");
        for (n, (zone, cap)) in &self.nodes {
            sql.push_str(&format!(
                "INSERT INTO nodes VALUES ('n{n}', '{zone}', {cap});\n"
            ));
        }
        for (s, bytes) in &self.shards {
            sql.push_str(&format!("INSERT INTO shards VALUES ({s}, {bytes});\n"));
        }
        for ((s, slot), at) in &self.replicas {
            let at = node(*at);
            sql.push_str(&format!(
                "INSERT INTO replicas VALUES ({s}, {slot}, {at}, {at});\n"
            ));
        }
        for (s, at) in &self.leaders {
            let at = node(*at);
            sql.push_str(&format!("INSERT INTO leaders VALUES ({s}, {at}, {at});\n"));
        }
        sql
    }

    fn change(&mut self, rng: &mut SmallRng) -> Change {
        let at = (rng.random_range(0..4) > 0).then(|| rng.random_range(1..=3u8));
        match rng.random_range(0..20) {
            0..=8 => {
                let key = (rng.random_range(1..=3), rng.random_range(0..=2));
                self.replicas.insert(key, at);
                Change::Upsert {
                    table: "replicas".to_owned(),
                    row: vec![
                        Datum::Integer(key.0),
                        Datum::Integer(key.1),
                        datum(at),
                        datum(at),
                    ],
                }
            }
            9..=11 => {
                let keys: Vec<_> = self.replicas.keys().copied().collect();
                let key = keys
                    .get(rng.random_range(0..keys.len().max(1)))
                    .copied()
                    .unwrap_or((9, 9));
                self.replicas.remove(&key);
                Change::Delete {
                    table: "replicas".to_owned(),
                    key: vec![Datum::Integer(key.0), Datum::Integer(key.1)],
                }
            }
            12..=14 => {
                let key = rng.random_range(1..=3);
                self.leaders.insert(key, at);
                Change::Upsert {
                    table: "leaders".to_owned(),
                    row: vec![Datum::Integer(key), datum(at), datum(at)],
                }
            }
            15 => {
                let key = rng.random_range(1..=3);
                self.leaders.remove(&key);
                Change::Delete {
                    table: "leaders".to_owned(),
                    key: vec![Datum::Integer(key)],
                }
            }
            16..=18 => {
                let (key, bytes) = (rng.random_range(1..=3), rng.random_range(0..8));
                self.shards.insert(key, bytes);
                Change::Upsert {
                    table: "shards".to_owned(),
                    row: vec![Datum::Integer(key), Datum::Integer(bytes)],
                }
            }
            _ => {
                let (n, cap) = (rng.random_range(1..=3u8), rng.random_range(5..15));
                let zone = ['a', 'b'][rng.random_range(0..2)];
                self.nodes.insert(n, (zone, cap));
                Change::Upsert {
                    table: "nodes".to_owned(),
                    row: vec![
                        Datum::Text(format!("n{n}")),
                        Datum::Text(zone.to_string()),
                        Datum::Integer(cap),
                    ],
                }
            }
        }
    }
}

/// Judges `tries` random assignments on both problems.
fn compare(changed: &mut Problem, fresh: &mut Problem, rng: &mut SmallRng, tries: u32) {
    let order = |p: &Problem| {
        let mut d = p.decisions();
        d.sort_by_key(|d| (d.table.clone(), serde_json::to_string(&d.key).unwrap()));
        for decision in &mut d {
            assert_eq!(decision.choices.len(), 3);
        }
        d
    };
    let (ours, theirs) = (order(changed), order(fresh));
    let names = |d: &[synod_placement::Decision]| {
        d.iter()
            .map(|d| (d.table.clone(), d.key.clone(), d.current))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&ours), names(&theirs));
    for _ in 0..tries {
        let choices: Vec<Option<usize>> =
            ours.iter().map(|_| Some(rng.random_range(0..3))).collect();
        let mut a = changed.judge(&ours, &choices).unwrap();
        let mut b = fresh.judge(&theirs, &choices).unwrap();
        let key = |r: &synod_placement::PolicyRow| serde_json::to_string(r).unwrap();
        a.broken.sort_by_key(key);
        b.broken.sort_by_key(key);
        assert_eq!(a, b);
    }
}

#[test]
fn a_changed_problem_is_a_fresh_one() {
    let mut followed = 0;
    for seed in 0..30 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::default();
        world.nodes = [(1, ('a', 9)), (2, ('a', 12)), (3, ('b', 10))].into();
        world.shards = [(1, 4), (2, 6), (3, 2)].into();
        world.replicas = [((1, 0), Some(1)), ((2, 0), None)].into();
        world.leaders = [(1, Some(1)), (2, None)].into();
        let mut problem = Problem::load(&world.state(), POLICIES).unwrap();
        for _ in 0..15 {
            let changes: Vec<Change> = (0..rng.random_range(1..3))
                .map(|_| world.change(&mut rng))
                .collect();
            let touched = problem
                .apply(&changes)
                .unwrap_or_else(|e| panic!("{seed} {e} {changes:?}"));
            followed += u32::from(touched.is_scoped());
            let mut fresh = Problem::load(&world.state(), POLICIES).unwrap();
            compare(&mut problem, &mut fresh, &mut rng, 12);
        }
    }
    assert!(
        followed > 150,
        "deltas are followed by keys, not compiled again: {followed} of 450"
    );
}

/// A decision that goes takes its own rows with it: nothing is compiled again.
#[test]
fn a_row_that_goes_is_followed_by_keys() {
    let state = "CREATE TABLE nodes (node INTEGER PRIMARY KEY);
        CREATE TABLE t (id INTEGER PRIMARY KEY, w INTEGER, current_x INTEGER,
            controllable__x INTEGER REFERENCES nodes (node));
        INSERT INTO nodes VALUES (1), (2);
        INSERT INTO t VALUES (1, 5, 1, 1), (2, 5, 2, 2), (3, 5, 1, 1);";
    let policies = "CREATE CONSTRAINT stay AS SELECT * FROM t WHERE current_x IS NOT NULL
            MINIMIZE (controllable__x <> current_x) * w;
        CREATE CONSTRAINT room AS SELECT * FROM t JOIN nodes n ON n.node = t.controllable__x
            GROUP BY n.node CHECK sum(t.w) <= 10;";
    let mut problem = Problem::load(state, policies).unwrap();
    for id in [1, 3] {
        let gone = Change::Delete {
            table: "t".to_owned(),
            key: vec![Datum::Integer(id)],
        };
        assert!(problem.apply(&[gone]).unwrap().is_scoped(), "{id}");
    }
    assert_eq!(problem.decisions().len(), 1);
}
