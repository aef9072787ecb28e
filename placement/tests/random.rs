//! Random instances and random policies drawn from the grammar: the graph is held equal to SQLite on every
//! assignment, and the solvers to the enumerated optimum.
//!
//! `SYNOD_RANDOM_CASES` sets how many (default 150); a failure prints the seed and the policies.

mod oracle;

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use synod_placement::solve::{Config, Solver};
use synod_placement::{Problem, Status};

struct Generator {
    rng: SmallRng,
}

impl Generator {
    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list.choose(&mut self.rng).unwrap()
    }

    fn number(&mut self) -> i64 {
        self.rng.random_range(-1..5)
    }

    fn state(&mut self) -> String {
        let nullable = |rng: &mut SmallRng, text: String| {
            if rng.random_range(0..6) == 0 {
                "NULL".to_owned()
            } else {
                text
            }
        };
        let mut sql = String::from(
            "CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, disk TEXT, cap INTEGER, price REAL);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, tag TEXT, bytes INTEGER, home TEXT);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, w INTEGER, current_node TEXT, controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
CREATE TABLE leaders (shard_id INTEGER PRIMARY KEY, controllable__leader TEXT REFERENCES nodes (node_id));\n",
        );
        let nodes = self.rng.random_range(1..=4);
        for n in 1..=nodes {
            let zone = format!("'{}'", self.pick(&["a", "b", "c"]));
            let zone = nullable(&mut self.rng, zone);
            let disk = self.pick(&["ssd", "hdd"]);
            let cap = self.rng.random_range(0..8).to_string();
            let cap = nullable(&mut self.rng, cap);
            let price = self.pick(&["0.5", "1.25", "2.0", "3"]);
            sql.push_str(&format!(
                "INSERT INTO nodes VALUES ('n{n}', {zone}, '{disk}', {cap}, {price});\n"
            ));
        }
        let shards = self.rng.random_range(1..=2);
        for s in 1..=shards {
            let tag = nullable(&mut self.rng, "'t'".to_owned());
            let bytes = self.rng.random_range(0..5).to_string();
            let bytes = nullable(&mut self.rng, bytes);
            let home = format!("'{}'", self.pick(&["a", "b"]));
            sql.push_str(&format!(
                "INSERT INTO shards VALUES ({s}, {tag}, {bytes}, {home});\n"
            ));
            for slot in 0..self.rng.random_range(1..=2) {
                let current = format!("'n{}'", self.rng.random_range(1..=nodes));
                let current = nullable(&mut self.rng, current);
                let w = self.number();
                sql.push_str(&format!(
                    "INSERT INTO replicas VALUES ({s}, {slot}, {w}, {current}, {current});\n"
                ));
            }
            if self.rng.random_bool(0.3) {
                sql.push_str(&format!("INSERT INTO leaders VALUES ({s}, NULL);\n"));
            }
        }
        sql
    }

    /// A number over the row sources r, s, n.
    fn row_number(&mut self, depth: u32) -> String {
        if depth == 0 {
            let n = self.number().to_string();
            return match self.rng.random_range(0..6) {
                0 => "r.w".to_owned(),
                1 => "s.bytes".to_owned(),
                2 => "n.cap".to_owned(),
                3 => "r.slot".to_owned(),
                4 => "n.price".to_owned(),
                _ => format!("({n})"),
            };
        }
        let a = self.row_number(depth - 1);
        let b = self.row_number(depth - 1);
        match self.rng.random_range(0..8) {
            0 => format!("({a} + {b})"),
            1 => format!("({a} - {b})"),
            2 => format!("({a} * {})", self.number()),
            3 => format!("coalesce({a}, {b})"),
            4 => format!(
                "(CASE WHEN {} THEN {a} ELSE {b} END)",
                self.row_truth(depth - 1)
            ),
            5 => format!("max({a}, {b})"),
            6 => format!("({})", self.row_truth(depth - 1)),
            _ => a,
        }
    }

    fn row_truth(&mut self, depth: u32) -> String {
        if depth == 0 {
            return match self.rng.random_range(0..12) {
                0 => "r.controllable__node = 'n1'".to_owned(),
                1 => "r.controllable__node <> r.current_node".to_owned(),
                2 => "n.zone = s.home".to_owned(),
                3 => "n.disk = 'ssd'".to_owned(),
                4 => format!("n.cap >= {}", self.number()),
                5 => "n.zone IN ('a', 'b')".to_owned(),
                6 => "n.zone NOT IN ('a', NULL)".to_owned(),
                7 => "s.tag IS NOT NULL".to_owned(),
                8 => "r.controllable__node IN (SELECT node_id FROM nodes WHERE disk = 'ssd')".to_owned(),
                9 => "EXISTS (SELECT 1 FROM replicas q WHERE q.shard_id = r.shard_id AND q.slot <> r.slot AND q.controllable__node = r.controllable__node)".to_owned(),
                10 => "r.slot IN (SELECT q.slot FROM replicas q WHERE q.controllable__node = r.controllable__node AND q.shard_id <> r.shard_id)".to_owned(),
                _ => format!("r.w > (SELECT count(*) FROM replicas q WHERE q.controllable__node = n.node_id AND q.slot >= {})", self.number()),
            };
        }
        let a = self.row_truth(depth - 1);
        match self.rng.random_range(0..7) {
            0 => format!("({a} AND {})", self.row_truth(depth - 1)),
            1 => format!("({a} OR {})", self.row_truth(depth - 1)),
            2 => format!("(NOT {a})"),
            3 => format!("({a}) IS NULL"),
            4 => {
                let op = self.pick(&["<", "<=", "=", "<>", ">=", ">"]);
                let (x, y) = (self.row_number(depth - 1), self.row_number(depth - 1));
                format!("{x} {op} {y}")
            }
            5 => {
                let x = self.row_number(depth - 1);
                format!("{x} BETWEEN {} AND {}", self.number(), self.number())
            }
            _ => a,
        }
    }

    fn aggregate(&mut self) -> String {
        let arg = self.row_number(1);
        match self.rng.random_range(0..8) {
            0 => "count(*)".to_owned(),
            1 => format!("count({arg})"),
            2 => format!("sum({arg})"),
            3 => format!("min({arg})"),
            4 => format!("max({arg})"),
            5 => "count(DISTINCT n.zone)".to_owned(),
            6 => format!("coalesce(sum({arg}), {})", self.number()),
            _ => "count(DISTINCT r.controllable__node)".to_owned(),
        }
    }

    fn group_truth(&mut self) -> String {
        let op = self.pick(&["<", "<=", "=", "<>", ">=", ">"]);
        match self.rng.random_range(0..7) {
            0 => "all_equal(r.controllable__node)".to_owned(),
            1 => "all_different(r.controllable__node)".to_owned(),
            2 => format!("avg(r.w) {op} {}", self.number()),
            3 => {
                let (a, b) = (self.aggregate(), self.aggregate());
                format!("{a} {op} {b}")
            }
            4 => {
                let (a, n, b) = (self.aggregate(), self.number(), self.aggregate());
                format!("({a} {op} {n} OR {b} IS NULL)")
            }
            _ => {
                let (a, n) = (self.aggregate(), self.number());
                format!("{a} {op} {n}")
            }
        }
    }

    fn policy(&mut self, name: &str) -> String {
        let condition = match self.rng.random_range(0..4) {
            0 => format!(" WHERE {}", self.row_truth(0)),
            1 => " WHERE r.slot < 1".to_owned(),
            _ => String::new(),
        };
        let sources = "replicas r JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node";
        let soft = self.rng.random_bool(0.4);
        let keyword = self.pick(&["MINIMIZE", "MAXIMIZE"]);
        let suffix = format!(
            " WEIGHT {} TIER {}",
            self.rng.random_range(1..4),
            self.rng.random_range(0..2)
        );
        let (group, check, objective) = if self.rng.random_bool(0.5) {
            let keys = self.pick(&[
                "r.shard_id, n.zone",
                "n.node_id",
                "n.zone",
                "r.shard_id",
                "r.shard_id, r.controllable__node",
                "n.disk, s.home",
                "s.tag, n.zone",
            ]);
            let having = if self.rng.random_bool(0.2) {
                format!(" HAVING {}", self.group_truth())
            } else {
                String::new()
            };
            (
                format!(" GROUP BY {keys}{having}"),
                self.group_truth(),
                self.aggregate(),
            )
        } else if self.rng.random_bool(0.3) {
            (String::new(), self.group_truth(), self.aggregate())
        } else {
            (String::new(), self.row_truth(2), self.row_number(2))
        };
        match soft {
            true => format!(
                "CREATE CONSTRAINT {name} AS SELECT * FROM {sources}{condition}{group} {keyword} {objective}{suffix};\n"
            ),
            false => format!(
                "CREATE CONSTRAINT {name} AS SELECT * FROM {sources}{condition}{group} CHECK {check};\n"
            ),
        }
    }

    /// A view of groups and a policy over it.
    fn view_policy(&mut self) -> String {
        let cell = self.aggregate();
        let outer = self.pick(&["max(v.x)", "min(v.x)", "sum(v.x)", "count(v.x)"]);
        let goal = match self.rng.random_range(0..3) {
            0 => format!("CHECK {outer} <= {}", self.number()),
            1 => format!("MINIMIZE {outer} TIER 1"),
            _ => format!("CHECK v.x IS NULL OR v.x <= {}", self.number()),
        };
        format!(
            "CREATE VIEW v AS SELECT n.zone AS zone, {cell} AS x FROM replicas r JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.zone;\n\
             CREATE CONSTRAINT over_view AS SELECT * FROM v {goal};\n"
        )
    }

    fn policies(&mut self) -> String {
        let mut sql = String::new();
        for i in 0..self.rng.random_range(1..=3) {
            sql.push_str(&self.policy(&format!("c{i}")));
        }
        if self.rng.random_bool(0.3) {
            sql.push_str(&self.view_policy());
        }
        sql
    }
}

#[test]
fn graph_sqlite_and_solvers_agree() {
    let cases: u64 = std::env::var("SYNOD_RANDOM_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let first: u64 = std::env::var("SYNOD_RANDOM_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let (mut feasible, mut infeasible, mut refused) = (0, 0, 0);
    for seed in first..first + cases {
        let mut generator = Generator {
            rng: SmallRng::seed_from_u64(seed),
        };
        let state = generator.state();
        let policies = generator.policies();
        let check = || {
            // The grammar contains a few combinations that the dialect refuses by name.
            Problem::load(&state, &policies)?;
            let best = oracle::compare_all(&state, &policies);
            for solver in [Solver::Auto, Solver::Exact, Solver::Search] {
                let mut problem = Problem::load(&state, &policies).unwrap();
                let config = Config {
                    solver,
                    ..Config::default()
                };
                let answer = problem.solve(&config, &mut || false).unwrap();
                let tiers: BTreeMap<u32, f64> = answer
                    .tiers
                    .iter()
                    .map(|t| (t.tier, t.value.as_f64()))
                    .collect();
                let equal = |best: &BTreeMap<u32, f64>| {
                    tiers.len() == best.len()
                        && tiers
                            .values()
                            .zip(best.values())
                            .all(|(a, b)| (a - b).abs() < 1e-6)
                };
                match (&best, answer.status) {
                    (Some(best), Status::Optimal) => {
                        assert!(equal(best), "{solver:?} {tiers:?} {best:?}");
                    }
                    (Some(_), Status::Feasible) => {
                        assert!(solver == Solver::Search, "{solver:?} is not optimal");
                    }
                    (None, Status::Infeasible) => {}
                    (_, Status::Unknown) => {
                        assert!(solver == Solver::Search, "{solver:?} does not know");
                    }
                    (best, status) => panic!("{solver:?} says {status:?}, best {best:?}"),
                }
            }
            Ok::<bool, synod_placement::Error>(best.is_some())
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
            Ok(Ok(true)) => feasible += 1,
            Ok(Ok(false)) => infeasible += 1,
            Ok(Err(e)) => {
                refused += 1;
                println!("seed {seed} refused: {e}");
            }
            Err(panic) => {
                println!("seed {seed}\n{state}\n{policies}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{feasible} feasible, {infeasible} infeasible, {refused} refused");
    assert!(feasible * 10 > cases && infeasible * 20 > cases && refused * 5 < cases);
}
