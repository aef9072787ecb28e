//! Contracted decisions and counted values: that they are found, what they save, and that no answer depends on them.

use std::fmt::Write as _;

use super::super::candidates::{Candidates, Unary};
use super::super::exact;
use super::*;
use crate::Problem;

const TABLES: &str = "
CREATE TABLE nodes (node TEXT PRIMARY KEY, zone TEXT, disk TEXT, cap INTEGER);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, w INTEGER, colo TEXT);
CREATE TABLE replicas (shard INTEGER, slot INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node), PRIMARY KEY (shard, slot));
CREATE TABLE leaders (shard INTEGER PRIMARY KEY, current_leader TEXT,
    controllable__leader TEXT REFERENCES nodes (node));
CREATE TABLE pins (shard INTEGER, slot INTEGER, node TEXT);
";

/// Policies over these tables, each of which tells values apart, or joins decisions, in a way of its own.
const POLICIES: [&str; 16] = [
    "SELECT * FROM replicas r GROUP BY r.shard, r.controllable__node CHECK count(*) <= 1",
    "SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node GROUP BY r.shard, n.zone CHECK count(*) <= 1",
    "SELECT * FROM replicas r JOIN shards s ON s.shard = r.shard JOIN nodes n ON n.node = r.controllable__node
     GROUP BY n.node, n.cap CHECK sum(s.w) <= n.cap",
    "SELECT * FROM replicas r JOIN shards s ON s.shard = r.shard WHERE s.colo IS NOT NULL
     GROUP BY s.colo, r.slot CHECK all_equal(r.controllable__node)",
    "SELECT * FROM leaders l CHECK EXISTS (SELECT 1 FROM replicas r
     WHERE r.shard = l.shard AND r.controllable__node = l.controllable__leader)",
    "SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node WHERE r.slot = 0 CHECK n.disk = 'ssd'",
    "SELECT * FROM replicas r JOIN pins p ON p.shard = r.shard AND p.slot = r.slot CHECK r.controllable__node = p.node",
    "SELECT * FROM replicas a JOIN replicas b ON a.slot = b.slot AND a.shard < b.shard
     CHECK a.controllable__node <> b.controllable__node",
    "SELECT * FROM replicas r GROUP BY r.slot CHECK all_different(r.controllable__node)",
    "SELECT * FROM nodes n JOIN replicas r ON r.controllable__node = n.node GROUP BY n.node CHECK count(*) <= 1 OR count(*) = 3",
    "SELECT * FROM leaders l JOIN nodes n ON n.node = l.controllable__leader GROUP BY n.zone CHECK count(*) <= 1",
    "SELECT * FROM replicas r MINIMIZE r.controllable__node <> r.current_node",
    "SELECT * FROM leaders l MINIMIZE l.controllable__leader <> l.current_leader",
    "SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node MINIMIZE n.disk = 'hdd' TIER 1",
    "SELECT * FROM (SELECT n.node, count(*) AS held FROM replicas r JOIN nodes n ON n.node = r.controllable__node
     GROUP BY n.node) h MINIMIZE max(h.held) TIER 2",
    "SELECT * FROM replicas r JOIN shards s ON s.shard = r.shard JOIN nodes n ON n.node = r.controllable__node
     GROUP BY n.zone MINIMIZE max(coalesce(sum(s.w), 0) - 5, 0) TIER 1",
];

/// A few decisions on a few nodes, most of which are alike.
fn instance(rng: &mut Rng) -> (String, String) {
    let mut state = TABLES.to_owned();
    let (shards, slots) = [(1, 2), (1, 3), (2, 1), (2, 2), (3, 1)][rng.below(5)];
    let leaders = rng.below(2);
    let decisions = shards * slots + leaders;
    let nodes = [0, 0, 0, 6, 5, 4][decisions.max(3)];
    for node in 0..nodes {
        let odd = rng.below(5) == 0;
        let zone = if node < nodes / 2 { "a" } else { "b" };
        let disk = if odd { "ssd" } else { "hdd" };
        let cap = if rng.below(6) == 0 { 3 } else { 8 };
        let _ = write!(
            state,
            "INSERT INTO nodes VALUES ('n{node}', '{zone}', '{disk}', {cap});"
        );
    }
    let place = |rng: &mut Rng| match rng.below(3) {
        0 => "NULL".to_owned(),
        _ => format!("'n{}'", rng.below(nodes)),
    };
    for shard in 0..shards {
        let colo = if rng.below(2) == 0 { "'g'" } else { "NULL" };
        let _ = write!(
            state,
            "INSERT INTO shards VALUES ({shard}, {}, {colo});",
            2 + rng.below(4)
        );
        for slot in 0..slots {
            let at = place(rng);
            let _ = write!(
                state,
                "INSERT INTO replicas VALUES ({shard}, {slot}, {at}, {at});"
            );
        }
    }
    for shard in 0..leaders {
        let at = place(rng);
        let _ = write!(state, "INSERT INTO leaders VALUES ({shard}, {at}, {at});");
    }
    if rng.below(3) == 0 {
        let _ = write!(
            state,
            "INSERT INTO pins VALUES (0, 0, 'n{}');",
            rng.below(nodes)
        );
    }
    let mut policies = String::new();
    for (number, policy) in POLICIES.iter().enumerate() {
        if rng.below(5) < 2 {
            let _ = writeln!(policies, "CREATE CONSTRAINT c{number} AS {policy};");
        }
    }
    (state, policies)
}

fn compiled(state: &str, policies: &str) -> Model {
    let mut problem =
        Problem::load(state, policies).unwrap_or_else(|e| panic!("{e} in {policies}"));
    problem.compiler.model.refresh().expect("no overflow");
    problem.compiler.model
}

fn candidates(model: &Model) -> Candidates {
    Candidates::new(&model.graph, model.vars().collect(), Unary::Folded)
}

#[test]
fn what_is_joined_or_counted_changes_no_answer() {
    let (mut contracted, mut seated, mut counted, mut cores, mut missed) = (0, 0, 0, 0, 0);
    let count = model_count(500);
    for seed in 0..count {
        let mut rng = Rng::new(seed ^ 0x20);
        let (state, policies) = instance(&mut rng);
        let mut model = compiled(&state, &policies);
        let brute = Brute::new(&model);
        let presolved = candidates(&model);
        contracted += u64::from(presolved.choices.len() < presolved.vars.len());
        seated += u64::from(
            presolved
                .vars
                .iter()
                .any(|&var| !presolved.ties.slots(var).is_empty()),
        );
        counted += u64::from(exact::kernel(&model.graph, &model.state, &presolved).is_some());
        for solver in [Solver::Exact, Solver::Auto, Solver::Search] {
            let what = format!("seed {seed}, {solver:?}\n{state}\n{policies}");
            let outcome = run(&mut model, solver, 0);
            match (outcome.status, brute.best()) {
                (Status::Optimal, Some(best)) => assert_eq!(&tiers(&outcome), best, "{what}"),
                (Status::Feasible, Some(best)) => {
                    assert!(
                        solver == Solver::Search && &tiers(&outcome) >= best,
                        "{what}"
                    );
                }
                (Status::Infeasible, None) => {
                    assert_core(&brute, &outcome, &what);
                    assert!(
                        outcome
                            .core
                            .is_some_and(|core| core.minimal || solver == Solver::Search),
                        "{what}"
                    );
                    cores += 1;
                }
                (Status::Unknown, None) => assert_eq!(solver, Solver::Search, "{what}"),
                // It is no proof: three that must be alone or three together are more than it looks for.
                (Status::Unknown, Some(_)) if solver == Solver::Search => missed += 1,
                (_, best) => panic!("{outcome:?} where the best is {best:?}, {what}"),
            }
        }
        if brute.best().is_none() {
            let config = Config::default();
            let relaxed = relax(&mut model, &config, &mut || false).expect("no overflow");
            let fewest = brute.all.iter().map(|(_, broken, _)| broken.len()).min();
            assert_eq!(
                relaxed.map(|r| r.rows.len()),
                fewest,
                "seed {seed}\n{state}\n{policies}"
            );
        }
    }
    println!(
        "{contracted} contracted, {seated} with slots, {counted} counted of {count}; {cores} cores"
    );
    let often = |seen: u64| seen * 12 > count;
    assert!(often(contracted) && often(seated) && often(counted) && often(cores));
    assert!(missed * 50 < count, "the search missed {missed}");
}

/// Groups of forty on thirty nodes, the leaders of three replicas each.
fn grouped() -> (String, String) {
    let mut state = TABLES.to_owned();
    for node in 0..30 {
        let _ = write!(
            state,
            "INSERT INTO nodes VALUES ('n{node}', 'z{}', 'ssd', 9999);",
            node % 3
        );
    }
    for shard in 0..80 {
        let _ = write!(
            state,
            "INSERT INTO shards VALUES ({shard}, 1, 'g{}');",
            shard % 2
        );
        for slot in 0..3 {
            let _ = write!(
                state,
                "INSERT INTO replicas VALUES ({shard}, {slot}, NULL, NULL);"
            );
        }
        let _ = write!(state, "INSERT INTO leaders VALUES ({shard}, NULL, NULL);");
    }
    let mut policies = String::new();
    for number in [0, 3, 4] {
        let _ = writeln!(
            policies,
            "CREATE CONSTRAINT c{number} AS {};",
            POLICIES[number]
        );
    }
    (state, policies)
}

#[test]
fn a_group_is_one_variable_and_a_leader_has_as_many_choices_as_slots() {
    let (state, policies) = grouped();
    let mut model = compiled(&state, &policies);
    let presolved = candidates(&model);
    // 240 replicas in two groups of three slots, and 80 leaders.
    assert_eq!(presolved.vars.len(), 320);
    assert_eq!(presolved.choices.len(), 6 + 80);
    let slots = presolved
        .vars
        .iter()
        .filter(|&&var| presolved.ties.slots(var).len() == 3);
    assert_eq!(slots.count(), 80);
    assert_eq!(
        exact::choice_count(&model.graph, &model.state, &presolved),
        6 + 80
    );
    // A choice each, none of which has to be looked for.
    let outcome = run(&mut model, Solver::Search, 0);
    assert_eq!(outcome.status, Status::Optimal);
    assert!(outcome.evaluations < 1_500, "{}", outcome.evaluations);
    assert_eq!(
        outcome.values.len(),
        320,
        "answers speak of the rows of the state"
    );
    let outcome = run(&mut model, Solver::Exact, 0);
    assert_eq!(outcome.status, Status::Optimal);
}

#[test]
fn the_leader_goes_where_its_replica_goes() {
    let (state, policies) = grouped();
    let leave =
        "CREATE CONSTRAINT leave AS SELECT * FROM replicas MINIMIZE controllable__node = 'n0';";
    let state = state.replace(", NULL, NULL);", ", 'n0', 'n0');");
    let policies = policies.replace("c0", "unused") + leave;
    let policies = policies.replacen("CHECK count(*) <= 1", "CHECK count(*) <= 9", 1);
    let mut model = compiled(&state, &policies);
    let outcome = run(&mut model, Solver::Search, 0);
    assert_eq!(
        (outcome.status, tiers(&outcome)),
        (Status::Optimal, vec![0])
    );
    assert!(outcome.evaluations < 3_000, "{}", outcome.evaluations);
}
