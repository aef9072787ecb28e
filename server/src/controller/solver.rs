//! Between the controller and the placement crate: rows in, ordered moves out.
//!
//! A [`Solver`] holds the compiled problem and is told only what changed. It lives where it may take its time: on a
//! thread of its own in production, inline with a budget that counts work in simulation; the controller never waits
//! for it.
//!
//! The problem's present values are the cluster as it is. What an earlier plan has decided and not yet carried out is
//! put in for the time of the decision, so that it is not decided twice, and taken out again before the changes are
//! put in order: a plan must be safe from where the cluster is, not from where it is going.

use std::collections::{BTreeMap, BTreeSet};

use synod_placement::solve::Config;
use synod_placement::{
    Answer as Decided, Assignment, Change, Datum, PlanStatus, PolicyRow, Problem, Source, Status,
    Target as Wanted, Touched, plan,
};
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::filter::Filter;
use super::plan::Class;
use super::reseat::{Ends, reseat, tell_apart};
use super::tables::{TABLES, node_of, node_text};

/// One changed row of the tables `replicas` and `leaders`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// A seat changes hands.
    Seat {
        /// The shard.
        shard: ShardId,
        /// The seat's number.
        slot: u32,
        /// Who sat there.
        from: Option<NodeId>,
        /// Who will.
        to: NodeId,
    },
    /// Leadership changes hands.
    Leader {
        /// The shard.
        shard: ShardId,
        /// Who led.
        from: Option<NodeId>,
        /// Who will.
        to: NodeId,
    },
}

impl Move {
    /// The shard.
    pub fn shard(&self) -> ShardId {
        match *self {
            Move::Seat { shard, .. } | Move::Leader { shard, .. } => shard,
        }
    }
}

/// How much is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The shards in need, and those that break hard rows; the rest stays.
    Urgent,
    /// Everything.
    Whole,
}

/// What the solver is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Names it.
    pub id: u64,
    /// Start over, with these policies; the changes are all rows.
    pub policies: Option<String>,
    /// Rows that differ from what the solver has.
    pub changes: Vec<Change>,
    /// Rows that put what is decided already where it is going.
    pub decided: Vec<Change>,
    /// Rows that put it back.
    pub present: Vec<Change>,
    /// How much is to be decided.
    pub scope: Scope,
    /// The shards in need: a seat is vacant, or on a node that is not up.
    pub needy: Vec<(ShardId, u32)>,
    /// Which decisions may be followed now.
    pub filter: Filter,
    /// Seeds the search.
    pub seed: u64,
}

/// What the solver says.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question.
    pub id: u64,
    /// What was decided, or why nothing could be: then the solver knows nothing any more and must be told everything.
    pub outcome: Result<Decision, String>,
}

/// A decision, put in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Whether all of it was decided; a decision that was stopped changes nothing.
    pub complete: bool,
    /// `optimal`, `feasible`, `infeasible`, `unknown`.
    pub status: String,
    /// Moves in rounds. Whichever moves of a round have finished, all hard rows hold.
    pub rounds: Vec<Vec<Move>>,
    /// Hard rows that are broken now.
    pub broken: Vec<String>,
    /// Hard rows that cannot hold together, or that stand in the way of the order.
    pub conflict: Vec<String>,
    /// How urgent the changes of each shard are.
    pub classes: BTreeMap<ShardId, Class>,
    /// Decisions that have to wait, and why.
    pub waiting: BTreeMap<ShardId, &'static str>,
    /// The value of each tier, and a bound where one is known.
    pub tiers: Vec<(u32, f64, Option<f64>)>,
    /// The value of each tier as things are.
    pub present: Vec<(u32, f64)>,
    /// What the search tried.
    pub evaluations: u64,
}

/// Holds the compiled problem between questions.
#[derive(Debug)]
pub struct Solver {
    problem: Option<Problem>,
    /// Whether its policies tell the seats of a shard apart.
    seats_differ: bool,
    config: Config,
}

/// Moves with one end on one node that may be in one round. The throttle is the controller's: rounds are for safety.
const PER_VALUE_MAX: u32 = 1_000_000;

impl Solver {
    /// A solver with these budgets.
    pub fn new(config: Config) -> Solver {
        Solver {
            problem: None,
            seats_differ: false,
            config,
        }
    }

    /// Answers. `abort` is asked now and then whether the answer is still wanted.
    pub fn answer(&mut self, question: Question, abort: &mut dyn FnMut() -> bool) -> Answer {
        let id = question.id;
        let outcome = self.decide(question, abort).map_err(|error| {
            self.problem = None;
            error.to_string()
        });
        Answer { id, outcome }
    }

    fn decide(
        &mut self,
        question: Question,
        abort: &mut dyn FnMut() -> bool,
    ) -> synod_placement::Result<Decision> {
        if let Some(policies) = &question.policies {
            let state = format!("{TABLES}\n{}", inserts(&question.changes));
            let scripts = [
                (state.as_str(), Source::State),
                (policies.as_str(), Source::Policies),
            ];
            self.problem = Some(Problem::load_scripts(&scripts)?);
            self.seats_differ = tell_apart(policies);
        }
        let Some(problem) = &mut self.problem else {
            return Ok(Decision {
                status: "unknown".to_owned(),
                ..Decision::default()
            });
        };
        if question.policies.is_none() {
            problem.apply(&question.changes)?;
        }
        let judged = problem.present()?;
        let broken = judged.broken;
        problem.apply(&question.decided)?;
        let config = Config {
            seed: question.seed,
            ..self.config
        };
        let decided = match question.scope {
            Scope::Urgent => {
                let scope = scope(problem, &question, &broken)?;
                problem.solve_scoped(&scope, &config, abort)?
            }
            Scope::Whole => problem.solve(&config, abort)?,
        };
        problem.apply(&question.present)?;
        if abort() {
            return Ok(Decision {
                status: "unknown".to_owned(),
                ..Decision::default()
            });
        }
        let seats_differ = self.seats_differ;
        let mut decision = order(problem, &question, &decided, (&broken, seats_differ))?;
        let tiers = judged.tiers.iter();
        decision.present = tiers.map(|(tier, sum)| (*tier, sum.as_f64())).collect();
        Ok(decision)
    }
}

/// The decisions of the shards in need, and of those that break hard rows.
fn scope(
    problem: &mut Problem,
    question: &Question,
    broken: &[PolicyRow],
) -> synod_placement::Result<Touched> {
    let mut shards: BTreeMap<ShardId, u32> = question.needy.iter().copied().collect();
    for shard in question.filter.shards_of(broken) {
        let standing = question.filter.shards.get(&shard);
        let seats = standing.map_or(0, |standing| standing.seats.len());
        shards.insert(shard, u32::try_from(seats).unwrap_or(u32::MAX));
    }
    let rows = shards.into_iter().flat_map(|(shard, seats)| {
        let id = Datum::Integer(i64::try_from(shard.0).unwrap_or(i64::MAX));
        let leader = ("leaders", vec![id.clone()]);
        let seats = (0..i64::from(seats))
            .map(move |slot| ("replicas", vec![id.clone(), Datum::Integer(slot)]));
        std::iter::once(leader).chain(seats)
    });
    problem.touch(rows)
}

/// Puts what may be followed in order, from where the cluster is.
fn order(
    problem: &mut Problem,
    question: &Question,
    decided: &Decided,
    (broken, seats_differ): (&[PolicyRow], bool),
) -> synod_placement::Result<Decision> {
    let assignments = match decided.status {
        Status::Optimal | Status::Feasible => &decided.assignments,
        // What breaks least is still better than to do nothing for what could be repaired.
        Status::Infeasible | Status::Unknown => &decided.relaxed,
    };
    // Where each decision goes: first what was under way, then what is new.
    let mut ends = Ends::new();
    for change in &question.decided {
        if let Some((key, node)) = row_end(change) {
            ends.insert(key, node);
        }
    }
    for (key, node) in assignments.iter().filter_map(end_of) {
        ends.insert(key, node);
    }
    if !seats_differ {
        reseat(&mut ends, &question.filter.shards);
    }
    let mut decision = summary(decided, broken);
    let bad = question.filter.shards_of(broken);
    question
        .filter
        .apply(&mut ends, &bad, &mut decision.waiting);
    let wanted: Vec<Wanted> = ends
        .iter()
        .filter_map(|(&(shard, slot), node)| Some(wanted(shard, slot, (*node)?)))
        .collect();
    let config = plan::Config {
        per_value_max: PER_VALUE_MAX,
        ..plan::Config::default()
    };
    let plan = problem.order(&wanted, &config)?;
    if plan.status != PlanStatus::Complete {
        decision
            .conflict
            .extend(plan.blocked_by.iter().map(policy_row));
        decision.conflict.dedup();
    }
    let moving: BTreeSet<ShardId> = ends.keys().map(|(shard, _)| *shard).collect();
    decision.classes = moving
        .into_iter()
        .map(|shard| (shard, question.filter.class(shard, &bad)))
        .collect();
    decision.rounds = plan
        .steps
        .iter()
        .map(|step| step.iter().filter_map(move_of).collect())
        .collect();
    Ok(decision)
}

/// What a decision says of itself.
fn summary(decided: &Decided, broken: &[PolicyRow]) -> Decision {
    Decision {
        complete: true,
        status: format!("{:?}", decided.status).to_lowercase(),
        broken: broken.iter().map(policy_row).collect(),
        conflict: decided.core.iter().map(policy_row).collect(),
        tiers: decided
            .tiers
            .iter()
            .map(|tier| {
                (
                    tier.tier,
                    tier.value.as_f64(),
                    tier.bound.map(|bound| bound.as_f64()),
                )
            })
            .collect(),
        evaluations: decided.stats.evaluations,
        ..Decision::default()
    }
}

/// The rows as statements, for a problem that is loaded afresh.
pub(super) fn inserts(changes: &[Change]) -> String {
    let mut by_table: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let literal = |datum: &Datum| match datum {
        Datum::Null => "NULL".to_owned(),
        Datum::Integer(n) => n.to_string(),
        Datum::Real(x) => x.to_string(),
        Datum::Text(text) => format!("'{}'", text.replace('\'', "''")),
    };
    for change in changes {
        if let Change::Upsert { table, row } = change {
            let cells: Vec<String> = row.iter().map(literal).collect();
            by_table
                .entry(table)
                .or_default()
                .push(format!("({})", cells.join(", ")));
        }
    }
    let mut sql = String::new();
    for (table, rows) in by_table {
        for chunk in rows.chunks(500) {
            sql.push_str(&format!(
                "INSERT INTO {table} VALUES {};\n",
                chunk.join(",\n")
            ));
        }
    }
    sql
}

fn number(value: &serde_json::Value) -> Option<u64> {
    value.as_u64()
}

fn node(value: &serde_json::Value) -> Option<NodeId> {
    node_of(value.as_str()?)
}

type Key = (ShardId, Option<u32>);

fn key_of(key: &serde_json::Map<String, serde_json::Value>) -> Option<Key> {
    let shard = ShardId(number(key.get("shard_id")?)?);
    let slot = match key.get("slot") {
        Some(slot) => Some(u32::try_from(number(slot)?).ok()?),
        None => None,
    };
    Some((shard, slot))
}

fn end_of(assignment: &Assignment) -> Option<(Key, Option<NodeId>)> {
    (assignment.current != assignment.value)
        .then(|| Some((key_of(&assignment.key)?, node(&assignment.value))))?
}

/// The decision of a row of `replicas` or `leaders`.
fn row_end(change: &Change) -> Option<(Key, Option<NodeId>)> {
    let Change::Upsert { table, row } = change else {
        return None;
    };
    let number = |datum: &Datum| match datum {
        Datum::Integer(n) => u64::try_from(*n).ok(),
        Datum::Null | Datum::Real(_) | Datum::Text(_) => None,
    };
    let node = match row.last()? {
        Datum::Text(text) => node_of(text),
        Datum::Null | Datum::Integer(_) | Datum::Real(_) => None,
    };
    let shard = ShardId(number(row.first()?)?);
    match table.as_str() {
        "replicas" => Some(((shard, u32::try_from(number(row.get(1)?)?).ok()), node)),
        "leaders" => Some(((shard, None), node)),
        _ => None,
    }
}

fn wanted(shard: ShardId, slot: Option<u32>, node: NodeId) -> Wanted {
    let id = Datum::Integer(i64::try_from(shard.0).unwrap_or(i64::MAX));
    let value = Datum::Text(node_text(node));
    match slot {
        Some(slot) => Wanted {
            table: "replicas".to_owned(),
            key: vec![id, Datum::Integer(i64::from(slot))],
            column: "controllable__node".to_owned(),
            value,
        },
        None => Wanted {
            table: "leaders".to_owned(),
            key: vec![id],
            column: "controllable__leader".to_owned(),
            value,
        },
    }
}

fn move_of(step: &synod_placement::Step) -> Option<Move> {
    let (shard, slot) = key_of(&step.key)?;
    let (from, to) = (node(&step.from), node(&step.to)?);
    Some(match slot {
        Some(slot) => Move::Seat {
            shard,
            slot,
            from,
            to,
        },
        None => Move::Leader { shard, from, to },
    })
}

/// A policy row for people: `zone_spread[shard_id=3, zone=a]`.
pub fn policy_row(row: &PolicyRow) -> String {
    let cells: BTreeSet<String> = row.row.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let cells: Vec<String> = cells.into_iter().collect();
    format!("{}[{}]", row.policy, cells.join(", "))
}
