//! A settled cluster whose loads waver by 5% moves nothing, a hundred times: under the default policies, freshly
//! placed, and after half of the nodes came later and relieved the others.

mod policies;

use std::fmt::Write as _;

use policies::{defaults, read};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::solve::Config;
use synod_placement::{Answer, Assignment, Change, Datum, Problem, Status};

const NODES: usize = 50;
const SHARDS: usize = 300;
const ZONES: usize = 5;

/// The cluster, its replicas where `at` says.
fn cluster(bytes: &[i64], at: impl Fn(usize, usize) -> Option<usize>) -> Problem {
    let mut state = read("policies/tables.sql");
    for n in 0..NODES {
        let zone = n % ZONES;
        writeln!(
            state,
            "INSERT INTO nodes (node_id, zone, region, status, cap_bytes, cap_qps, cap_replicas) \
             VALUES ('n{n}', 'z{zone}', 'eu', 'up', 100000, 100000, 100);"
        )
        .unwrap();
    }
    let node = |n: Option<usize>| n.map_or("NULL".to_owned(), |n| format!("'n{n}'"));
    for (s, bytes) in bytes.iter().enumerate() {
        writeln!(
            state,
            "INSERT INTO shards (shard_id, bytes, read_qps, write_qps, rf) VALUES ({s}, {bytes}, 10, 10, 3);"
        )
        .unwrap();
        for slot in 0..3 {
            let at = node(at(s, slot));
            writeln!(
                state,
                "INSERT INTO replicas VALUES ({s}, {slot}, 'voter', {at}, {at});"
            )
            .unwrap();
        }
        let at = node(at(s, 0));
        writeln!(state, "INSERT INTO leaders VALUES ({s}, {at}, {at});").unwrap();
    }
    Problem::load(&state, &defaults()).unwrap()
}

fn solve(problem: &mut Problem, seed: u64) -> Answer {
    let config = Config {
        evaluations_max: 400_000,
        seed,
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

/// The row of a decision that is carried out.
fn carried_out(a: &Assignment) -> Change {
    let number = |name: &str| Datum::Integer(a.key[name].as_i64().unwrap());
    let node = Datum::Text(a.value.as_str().unwrap().to_owned());
    let mut row = vec![number("shard_id")];
    if a.table == "replicas" {
        row.extend([number("slot"), Datum::Text("voter".to_owned())]);
    }
    row.extend([node.clone(), node]);
    Change::Upsert {
        table: a.table.clone(),
        row,
    }
}

/// Carries decisions out until there are none left.
fn settle(problem: &mut Problem) -> usize {
    for round in 1..=6 {
        let answer = solve(problem, 0);
        let moved: Vec<Change> = answer
            .assignments
            .iter()
            .filter(|a| a.current != a.value)
            .map(carried_out)
            .collect();
        if moved.is_empty() {
            return round;
        }
        assert!(problem.apply(&moved).unwrap().is_scoped());
    }
    panic!("it never settles");
}

fn wavers(problem: &mut Problem, bytes: &[i64], rng: &mut SmallRng) {
    for round in 0..100 {
        let changes: Vec<Change> = (0..)
            .zip(bytes)
            .map(|(s, b)| {
                let b = b * rng.random_range(950..=1050) / 1000;
                let rest = [Datum::Integer(10), Datum::Integer(10), Datum::Integer(3)];
                let mut row = vec![Datum::Integer(s)];
                row.extend(vec![Datum::Null; 4]);
                row.push(Datum::Integer(b));
                row.extend(rest);
                row.extend(vec![Datum::Null; 2]);
                Change::Upsert {
                    table: "shards".to_owned(),
                    row,
                }
            })
            .collect();
        assert!(problem.apply(&changes).unwrap().is_scoped());
        let answer = solve(problem, round);
        let moved: Vec<_> = answer
            .assignments
            .iter()
            .filter(|a| a.current != a.value)
            .collect();
        assert!(moved.is_empty(), "round {round}: {moved:?}");
    }
}

fn bytes(rng: &mut SmallRng) -> Vec<i64> {
    (0..SHARDS).map(|_| rng.random_range(100..2000)).collect()
}

#[test]
fn loads_that_waver_move_nothing() {
    let mut rng = SmallRng::seed_from_u64(5);
    let bytes = bytes(&mut rng);
    let mut problem = cluster(&bytes, |_, _| None);
    settle(&mut problem);
    wavers(&mut problem, &bytes, &mut rng);
}

#[test]
fn nodes_that_were_relieved_stay_as_they_are() {
    let mut rng = SmallRng::seed_from_u64(6);
    let bytes = bytes(&mut rng);
    // Everything stands on the first half of the nodes, three in a row in three zones.
    let mut problem = cluster(&bytes, |s, slot| Some((s + slot) % (NODES / 2)));
    assert!(settle(&mut problem) > 1, "there is something to relieve");
    wavers(&mut problem, &bytes, &mut rng);
}

/// Bytes say nothing of shards that are empty: their replicas and leaders are spread by number.
#[test]
fn empty_shards_are_spread_too() {
    let mut problem = cluster(&[0; SHARDS], |_, _| None);
    let answer = solve(&mut problem, 0);
    for (table, most) in [("replicas", 20), ("leaders", 7)] {
        let mut held = std::collections::BTreeMap::new();
        for a in answer.assignments.iter().filter(|a| a.table == table) {
            *held.entry(a.value.to_string()).or_insert(0) += 1;
        }
        let fullest = held.values().max().copied().unwrap_or(0);
        assert!(fullest <= most, "{table}: {held:?}");
    }
}
