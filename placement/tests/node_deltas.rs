//! Deltas of nodes under the default policies: status, labels and capacity of nodes change, nodes come and go, and the
//! changed problem judges every assignment as one that is loaded afresh.

mod policies;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policies::{defaults, read};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::solve::Config;
use synod_placement::{Answer, Change, Datum, Decision, Problem, Status};

/// Beside the defaults: columns that may be NULL, groups with expressions of their own, a set that is part of
/// expressions, a value of a query.
const MORE: &str = "
CREATE CONSTRAINT fast_disk AS SELECT * FROM replicas r JOIN nodes n ON n.node_id = r.controllable__node
MINIMIZE coalesce(n.disk, 'none') <> 'ssd' TIER 5;
CREATE VIEW zone_count AS SELECT n.zone, count(*) AS held FROM replicas r
JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.zone;
CREATE CONSTRAINT even_zones AS SELECT * FROM zone_count z MINIMIZE max(z.held) TIER 6;
CREATE CONSTRAINT large_in_eu AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
WHERE s.bytes > 6 CHECK n.region IN (SELECT region FROM nodes WHERE disk = 'ssd');
CREATE CONSTRAINT pinned AS SELECT * FROM replicas r JOIN pins p ON p.shard_id = r.shard_id AND p.slot = r.slot
CHECK r.controllable__node = p.node;
";

type Row = Vec<Datum>;

/// The tables as this test knows them: rows by key.
#[derive(Clone, Default)]
struct World {
    tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
}

fn text(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

fn node_row(n: u8, rng: &mut SmallRng) -> Row {
    let pick = |rng: &mut SmallRng, from: &[&str]| text(from[rng.random_range(0..from.len())]);
    let disk = match rng.random_range(0..3) {
        0 => Datum::Null,
        1 => text("ssd"),
        _ => text("hdd"),
    };
    vec![
        text(format!("n{n}")),
        pick(rng, &["a", "b", "c"]),
        pick(rng, &["eu", "us"]),
        Datum::Null,
        disk,
        pick(rng, &["up", "up", "up", "down", "draining"]),
        Datum::Integer(rng.random_range(10..40)),
        Datum::Integer(rng.random_range(20..60)),
        Datum::Integer(rng.random_range(2..6)),
    ]
}

fn shard_row(s: i64, rng: &mut SmallRng) -> Row {
    let number = |rng: &mut SmallRng, most| Datum::Integer(rng.random_range(0..most));
    let region = match rng.random_range(0..3) {
        0 => text("eu"),
        _ => Datum::Null,
    };
    vec![
        Datum::Integer(s),
        Datum::Null,
        Datum::Null,
        Datum::Null,
        Datum::Null,
        number(rng, 9),
        number(rng, 5),
        number(rng, 5),
        Datum::Integer(2),
        region,
        Datum::Null,
    ]
}

fn placed(n: Option<u8>) -> Datum {
    n.map_or(Datum::Null, |n| text(format!("n{n}")))
}

impl World {
    fn new(rng: &mut SmallRng) -> World {
        let mut world = World::default();
        for n in 1..=4 {
            let mut row = node_row(n, rng);
            row[5] = text("up");
            world.put("nodes", row, 1);
        }
        for s in 1..=3 {
            let row = shard_row(s, rng);
            world.put("shards", row, 1);
            for slot in 0..2 {
                world.put("replicas", world.replica(s, slot, rng), 2);
            }
            let at = placed(Some(rng.random_range(1..=4)));
            world.put("leaders", vec![Datum::Integer(s), at.clone(), at], 1);
        }
        world.put(
            "pins",
            vec![Datum::Integer(1), Datum::Integer(0), text("n1")],
            2,
        );
        world
    }

    fn replica(&self, shard: i64, slot: i64, rng: &mut SmallRng) -> Row {
        let at = placed((rng.random_range(0..5) > 0).then(|| rng.random_range(1..=5)));
        vec![
            Datum::Integer(shard),
            Datum::Integer(slot),
            text("voter"),
            at.clone(),
            at,
        ]
    }

    fn put(&mut self, table: &'static str, row: Row, keys: usize) -> Change {
        let key = format!("{:?}", &row[..keys]);
        self.tables
            .entry(table)
            .or_default()
            .insert(key, row.clone());
        Change::Upsert {
            table: table.to_owned(),
            row,
        }
    }

    fn take(&mut self, table: &'static str, key: Row) -> Change {
        let rows = self.tables.entry(table).or_default();
        rows.remove(&format!("{key:?}"));
        Change::Delete {
            table: table.to_owned(),
            key,
        }
    }

    fn state(&self) -> String {
        let mut sql = read("policies/tables.sql");
        for (table, rows) in &self.tables {
            for row in rows.values() {
                let cells: Vec<String> = row
                    .iter()
                    .map(|cell| match cell {
                        Datum::Null => "NULL".to_owned(),
                        Datum::Integer(n) => n.to_string(),
                        Datum::Real(x) => x.to_string(),
                        Datum::Text(text) => format!("'{text}'"),
                    })
                    .collect();
                writeln!(sql, "INSERT INTO {table} VALUES ({});", cells.join(", ")).unwrap();
            }
        }
        sql
    }

    fn change(&mut self, rng: &mut SmallRng) -> Change {
        let (n, s) = (rng.random_range(1..=4u8), rng.random_range(1..=3));
        match rng.random_range(0..20) {
            // One column of a node.
            0..=9 => {
                let mut row =
                    self.tables["nodes"][&format!("{:?}", [text(format!("n{n}"))])].clone();
                let column = [1, 2, 4, 5, 5, 5, 5, 6, 8][rng.random_range(0..9)];
                row[column] = node_row(n, rng)[column].clone();
                self.put("nodes", row, 1)
            }
            10..=11 => {
                let row = node_row(n, rng);
                self.put("nodes", row, 1)
            }
            // A fifth node comes and goes.
            12 => {
                let row = node_row(5, rng);
                self.put("nodes", row, 1)
            }
            13 => self.take("nodes", vec![text("n5")]),
            14..=16 => {
                let row = self.replica(s, rng.random_range(0..2), rng);
                self.put("replicas", row, 2)
            }
            17 => {
                let row = shard_row(s, rng);
                self.put("shards", row, 1)
            }
            18 => {
                let at = placed(Some(n));
                self.put("leaders", vec![Datum::Integer(s), at.clone(), at], 1)
            }
            _ => {
                let row = vec![Datum::Integer(s), Datum::Integer(0), text(format!("n{n}"))];
                self.put("pins", row, 2)
            }
        }
    }
}

fn ordered(problem: &Problem) -> Vec<Decision> {
    let mut decisions = problem.decisions();
    decisions.sort_by_key(|d| (d.table.clone(), serde_json::to_string(&d.key).unwrap()));
    decisions
}

/// Judges random assignments on both problems.
fn compare(changed: &mut Problem, fresh: &mut Problem, rng: &mut SmallRng, seed: u64) {
    let (ours, theirs) = (ordered(changed), ordered(fresh));
    let shown = |decisions: &[Decision]| -> Vec<String> {
        let one = |d: &Decision| {
            let mut choices: Vec<String> = d.choices.iter().map(|c| format!("{c:?}")).collect();
            choices.sort();
            let current = d.current.map(|c| &d.choices[c]);
            format!("{} {:?} {current:?} {choices:?}", d.table, d.key)
        };
        decisions.iter().map(one).collect()
    };
    assert_eq!(shown(&ours), shown(&theirs), "seed {seed}");
    for _ in 0..8 {
        let choices: Vec<Option<usize>> = theirs
            .iter()
            .map(|d| Some(rng.random_range(0..d.choices.len())))
            .collect();
        let same: Vec<Option<usize>> = ours
            .iter()
            .zip(theirs.iter().zip(&choices))
            .map(|(own, (other, choice))| {
                let value = &other.choices[choice.unwrap()];
                own.choices.iter().position(|c| c == value)
            })
            .collect();
        let mut a = changed.judge(&ours, &same).unwrap();
        let mut b = fresh.judge(&theirs, &choices).unwrap();
        let key = |r: &synod_placement::PolicyRow| serde_json::to_string(r).unwrap();
        a.broken.sort_by_key(key);
        b.broken.sort_by_key(key);
        assert_eq!(a, b, "seed {seed}");
    }
}

fn decided(problem: &mut Problem) -> Answer {
    let config = Config {
        evaluations_max: 20_000,
        conflicts_max: 2_000,
        ..Config::default()
    };
    problem.solve(&config, &mut || false).unwrap()
}

#[test]
fn changed_nodes_are_fresh_ones() {
    let policies = defaults() + MORE;
    let (mut followed, mut all) = (0, 0);
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::new(&mut rng);
        let mut problem = Problem::load(&world.state(), &policies).unwrap();
        for _ in 0..12 {
            let changes: Vec<Change> = (0..rng.random_range(1..4))
                .map(|_| world.change(&mut rng))
                .collect();
            let touched = problem
                .apply(&changes)
                .unwrap_or_else(|e| panic!("{seed} {e} {changes:?}"));
            all += 1;
            followed += u32::from(touched.is_scoped());
            let mut fresh = Problem::load(&world.state(), &policies).unwrap();
            compare(&mut problem, &mut fresh, &mut rng, seed);
        }
        // And it decides as well as a fresh one.
        let mut fresh = Problem::load(&world.state(), &policies).unwrap();
        let (ours, theirs) = (decided(&mut problem), decided(&mut fresh));
        if ours.status == Status::Optimal && theirs.status == Status::Optimal {
            assert_eq!(ours.tiers, theirs.tiers, "seed {seed}");
        }
        let infeasible = |a: &Answer| a.status == Status::Infeasible;
        let feasible = |a: &Answer| matches!(a.status, Status::Optimal | Status::Feasible);
        assert!(!(infeasible(&ours) && feasible(&theirs)), "seed {seed}");
        assert!(!(feasible(&ours) && infeasible(&theirs)), "seed {seed}");
    }
    // The others give a zone its first or last node, where groups have expressions of their own.
    assert!(followed * 2 > all, "{followed} of {all} followed by keys");
}

/// A node that goes down, and comes back, is no reason to compile anything again; what it held is what it touched.
#[test]
fn the_status_of_a_node_is_followed_by_keys() {
    let mut state = read("policies/tables.sql");
    for n in 0..9 {
        let zone = ["a", "b", "c"][n % 3];
        writeln!(
            state,
            "INSERT INTO nodes VALUES ('n{n}', '{zone}', 'eu', NULL, NULL, 'up', 1000, 1000, 90);"
        )
        .unwrap();
    }
    for s in 0..30 {
        writeln!(
            state,
            "INSERT INTO shards VALUES ({s}, NULL, NULL, NULL, NULL, 10, 1, 1, 3, NULL, NULL);"
        )
        .unwrap();
        for slot in 0..3 {
            let n = (s + slot) % 9;
            writeln!(
                state,
                "INSERT INTO replicas VALUES ({s}, {slot}, 'voter', 'n{n}', 'n{n}');"
            )
            .unwrap();
        }
        let n = s % 9;
        writeln!(state, "INSERT INTO leaders VALUES ({s}, 'n{n}', 'n{n}');").unwrap();
    }
    let mut problem = Problem::load(&state, &defaults()).unwrap();
    let row = |status: &str| Change::Upsert {
        table: "nodes".to_owned(),
        row: vec![
            text("n4"),
            text("b"),
            text("eu"),
            Datum::Null,
            Datum::Null,
            text(status),
            Datum::Integer(1000),
            Datum::Integer(1000),
            Datum::Integer(90),
        ],
    };
    for _ in 0..3 {
        let touched = problem.apply(&[row("down")]).unwrap();
        assert!(touched.is_scoped());
        assert!(
            problem.broken().unwrap().len() >= 10,
            "what it held must leave"
        );
        let answer = problem
            .solve_scoped(&touched, &Config::default(), &mut || false)
            .unwrap();
        assert!(matches!(answer.status, Status::Optimal | Status::Feasible));
        assert!(answer.assignments.iter().all(|a| a.value != "n4"));
        assert!(problem.apply(&[row("up")]).unwrap().is_scoped());
        assert!(problem.broken().unwrap().is_empty());
    }
}
