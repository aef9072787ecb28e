//! The loss of a node under the default policies: from the changed row to a plan for all that the node held.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

use synod_placement::solve::Config;
use synod_placement::{Answer, Change, Datum, PlanStatus, Problem, Status, Target, plan};

use super::{cpu_ms, insert};

const POLICIES: [&str; 8] = [
    include_str!("../../policies/10-live-nodes.sql"),
    include_str!("../../policies/11-distinct-nodes.sql"),
    include_str!("../../policies/12-zone-spread.sql"),
    include_str!("../../policies/13-capacity.sql"),
    include_str!("../../policies/20-leaders-on-replicas.sql"),
    include_str!("../../policies/30-leader-home.sql"),
    include_str!("../../policies/40-balance.sql"),
    include_str!("../../policies/50-stickiness.sql"),
];

/// What a loss took, in milliseconds of this thread.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub deltas: f64,
    pub solve: f64,
    pub plan: f64,
    pub moves: usize,
}

pub struct Loss {
    problem: Problem,
    /// What loading and compiling took, in milliseconds.
    pub load: f64,
}

fn text(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

fn node_row(n: u64, status: &str) -> Vec<Datum> {
    vec![
        text(format!("n{n}")),
        text(format!("z{}", n % 5)),
        text("eu"),
        Datum::Null,
        Datum::Null,
        text(status),
        Datum::Integer(1 << 40),
        Datum::Integer(1_000_000),
        Datum::Integer(1_000_000),
    ]
}

impl Loss {
    pub fn new(nodes: u64, shards: u64) -> Loss {
        let mut state = include_str!("../../policies/tables.sql").to_owned();
        let node = |n| {
            format!(
                "('n{n}', 'z{}', 'eu', NULL, NULL, 'up', {}, 1000000, 1000000)",
                n % 5,
                1_u64 << 40
            )
        };
        insert(
            &mut state,
            "nodes",
            &(0..nodes).map(node).collect::<Vec<_>>(),
        );
        let (mut rows, mut seats, mut leaders) = (Vec::new(), Vec::new(), Vec::new());
        for s in 0..shards {
            let bytes = (32 + s % 32) << 20;
            rows.push(format!(
                "({s}, NULL, NULL, NULL, NULL, {bytes}, 10, 10, 3, NULL, NULL)"
            ));
            // Three consecutive nodes are in three zones.
            let at = |slot: u64| (s * 3 + slot) % nodes;
            for slot in 0..3 {
                let n = at(slot);
                seats.push(format!("({s}, {slot}, 'voter', 'n{n}', 'n{n}')"));
            }
            let n = at(s % 3);
            leaders.push(format!("({s}, 'n{n}', 'n{n}')"));
        }
        insert(&mut state, "shards", &rows);
        insert(&mut state, "replicas", &seats);
        insert(&mut state, "leaders", &leaders);
        let mut policies = String::new();
        for policy in POLICIES {
            let _ = writeln!(policies, "{policy}");
        }
        let start = Instant::now();
        let mut problem = Problem::load(&state, &policies).expect("the default policies");
        assert!(problem.broken().expect("no overflow").is_empty());
        Loss {
            problem,
            load: start.elapsed().as_secs_f64() * 1e3,
        }
    }

    fn status(&mut self, n: u64, status: &str) -> synod_placement::Touched {
        let change = Change::Upsert {
            table: "nodes".to_owned(),
            row: node_row(n, status),
        };
        let touched = self.problem.apply(&[change]).expect("a valid row");
        assert!(touched.is_scoped(), "followed by keys");
        touched
    }

    /// A node goes down, what it held is decided and put in order, and it comes back.
    pub fn lose(&mut self, n: u64) -> Took {
        let start = cpu_ms();
        self.status(n, "down");
        let broken = self.problem.broken().expect("no overflow");
        // All of the shards that have lost something: what stays may have to make room, and to lead.
        let shards: BTreeSet<i64> = broken
            .iter()
            .filter_map(|row| row.row.get("shard_id")?.as_i64())
            .collect();
        let rows = shards.iter().flat_map(|&shard| {
            let seats = (0..3).map(move |slot| {
                (
                    "replicas",
                    vec![Datum::Integer(shard), Datum::Integer(slot)],
                )
            });
            seats.chain([("leaders", vec![Datum::Integer(shard)])])
        });
        let touched = self.problem.touch(rows).expect("rows that are there");
        let applied = cpu_ms();
        let answer = self
            .problem
            .solve_scoped(&touched, &Config::default(), &mut || false)
            .expect("no overflow");
        let solved = cpu_ms();
        assert!(
            matches!(answer.status, Status::Optimal | Status::Feasible),
            "{:?} {:?}",
            answer.status,
            broken.len()
        );
        let targets = targets_of(&answer);
        let ordered = self
            .problem
            .order(&targets, &plan::Config::default())
            .expect("no overflow");
        let took = Took {
            deltas: applied - start,
            solve: solved - applied,
            plan: cpu_ms() - solved,
            moves: targets.len(),
        };
        assert_eq!(
            ordered.status,
            PlanStatus::Complete,
            "{:?}",
            ordered.blocked_by
        );
        let planned: BTreeSet<i64> = ordered
            .steps
            .iter()
            .flatten()
            .filter_map(|step| step.key["shard_id"].as_i64())
            .collect();
        assert_eq!(planned, shards, "all that it held is moved");
        self.status(n, "up");
        took
    }
}

/// What was decided and is not so yet.
fn targets_of(answer: &Answer) -> Vec<Target> {
    let moved = answer.assignments.iter().filter(|a| a.current != a.value);
    moved
        .map(|a| {
            let number = |name: &str| Some(Datum::Integer(a.key.get(name)?.as_i64()?));
            Target {
                table: a.table.clone(),
                key: [number("shard_id"), number("slot")]
                    .into_iter()
                    .flatten()
                    .collect(),
                column: a.column.clone(),
                value: text(a.value.as_str().unwrap_or_default()),
            }
        })
        .collect()
}
