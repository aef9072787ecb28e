//! Deltas of nodes under the default policies: status, labels and capacity of nodes change, nodes come and go, and the
//! changed problem judges every assignment as one that is loaded afresh.

mod policies;
mod world;

use std::fmt::Write as _;

use policies::{defaults, read};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::solve::Config;
use synod_placement::{Answer, Change, Datum, Problem, Status};
use world::{Row, World, text};

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

/// Four nodes, three shards of two replicas.
fn cluster(rng: &mut SmallRng) -> World {
    let mut world = World {
        schema: read("policies/tables.sql"),
        ..World::default()
    };
    for n in 1..=4 {
        let mut row = node_row(n, rng);
        row[5] = text("up");
        world.put("nodes", row, 1);
    }
    for s in 1..=3 {
        let row = shard_row(s, rng);
        world.put("shards", row, 1);
        for slot in 0..2 {
            world.put("replicas", replica(s, slot, rng), 2);
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

fn replica(shard: i64, slot: i64, rng: &mut SmallRng) -> Row {
    let at = placed((rng.random_range(0..5) > 0).then(|| rng.random_range(1..=5)));
    vec![
        Datum::Integer(shard),
        Datum::Integer(slot),
        text("voter"),
        at.clone(),
        at,
    ]
}

fn change(world: &mut World, rng: &mut SmallRng) -> Change {
    let (n, s) = (rng.random_range(1..=4u8), rng.random_range(1..=3));
    match rng.random_range(0..20) {
        // One column of a node.
        0..=9 => {
            let mut row = world.tables["nodes"][&format!("{:?}", [text(format!("n{n}"))])].clone();
            let column = [1, 2, 4, 5, 5, 5, 5, 6, 8][rng.random_range(0..9)];
            row[column] = node_row(n, rng)[column].clone();
            world.put("nodes", row, 1)
        }
        10..=11 => {
            let row = node_row(n, rng);
            world.put("nodes", row, 1)
        }
        // A fifth node comes and goes.
        12 => {
            let row = node_row(5, rng);
            world.put("nodes", row, 1)
        }
        13 => world.take("nodes", vec![text("n5")]),
        14..=16 => {
            let row = replica(s, rng.random_range(0..2), rng);
            world.put("replicas", row, 2)
        }
        17 => {
            let row = shard_row(s, rng);
            world.put("shards", row, 1)
        }
        18 => {
            let at = placed(Some(n));
            world.put("leaders", vec![Datum::Integer(s), at.clone(), at], 1)
        }
        _ => {
            let row = vec![Datum::Integer(s), Datum::Integer(0), text(format!("n{n}"))];
            world.put("pins", row, 2)
        }
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
        let mut world = cluster(&mut rng);
        let mut problem = Problem::load(&world.state(), &policies).unwrap();
        for _ in 0..12 {
            let changes: Vec<Change> = (0..rng.random_range(1..4))
                .map(|_| change(&mut world, &mut rng))
                .collect();
            let what = format!("seed {seed}: {changes:?}");
            let now = (&world, policies.as_str());
            all += 1;
            followed += u32::from(world::follow(&mut problem, now, &changes, &mut rng, &what));
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
