//! What operators ask before they decide: may these policies be put in force, what would move, why is it there?
//!
//! All of it is computed from the rows as they are and a set of policies, by the placement crate, on a thread of its
//! own: admission loads the problem once for each loss that it checks. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use synod_placement::solve::Config;
use synod_placement::{
    Change, Constraint, Explanation, Force, PolicyRow, Problem, Source, Verdict, admit_change,
    constraints,
};
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::filter::Filter;
use super::policies::located;
use super::records::Policies;
use super::solver::{Move, Question, Scope, Solver, inserts, policy_row};
use super::tables::{TABLES, node_text};

/// Bytes that a node is taken to receive a second.
pub const COPY_BYTES_PER_S: u64 = 32 << 20;
/// What a round of a plan takes beside its copies: elections, changes of members, the next look.
const ROUND_S: u64 = 1;
/// Rows that are named one by one; the rest is counted.
const ROWS_SHOWN_MAX: usize = 20;

/// A question of an operator.
#[derive(Clone, Debug)]
pub struct Review {
    /// Names it.
    pub id: u64,
    /// All rows of the cluster's tables.
    pub rows: Vec<Change>,
    /// What each shard weighs, in bytes.
    pub weights: BTreeMap<ShardId, u64>,
    /// The policies in force.
    pub present: Policies,
    /// What is asked.
    pub what: What,
    /// Seeds the search, as it will be seeded when the policies are in force.
    pub seed: u64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum What {
    /// May this set take the place of the present one?
    Admit(Policies),
    /// What would it move?
    Preview(Policies),
    /// Why are the replicas and the leader of the shard where they are?
    Explain(ShardId),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reviewed {
    /// The question.
    pub id: u64,
    /// The answer, or what is wrong with the policies, with line and column.
    pub outcome: Result<Finding, String>,
}

/// The answer to a [`What`].
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// To `Admit`.
    Admission(Admission),
    /// To `Preview`.
    Preview(Preview),
    /// To `Explain`.
    Explained(Explained),
}

/// Whether a set may be put in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// `accepted`, `refused`, or `unproven`: not decided in time.
    pub verdict: String,
    /// States that were looked at: the present one, without each node, without each zone.
    pub scenarios: usize,
    /// Those that speak against it.
    pub findings: Vec<Against>,
}

/// A state in which the set cannot hold, though the present one can.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// `now`, `loss of nodes …`, `loss of zone …`.
    pub scenario: String,
    /// Rows that cannot hold together.
    pub conflict: Vec<String>,
    /// The fewest rows to give up so that the rest can hold.
    pub give_up: Vec<String>,
}

/// What a set would move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// `optimal`, `feasible`, `infeasible`, `unknown`.
    pub status: String,
    /// In the order of their rounds.
    pub moves: Vec<Moved>,
    /// Rounds: one begins when the one before is done.
    pub rounds: usize,
    /// Bytes to be copied.
    pub bytes: u64,
    /// How long that takes, estimated.
    pub seconds: u64,
    /// Hard rows that cannot hold together, or stand in the way of the order.
    pub conflict: Vec<String>,
}

/// A replica or a leader on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Its round, from 1.
    pub round: usize,
    /// Its shard.
    pub shard: u64,
    /// The replica's place; none: it is the leadership.
    pub slot: Option<u32>,
    /// From this node; none: it was on none.
    pub from: Option<String>,
    /// To this one.
    pub to: String,
    /// Bytes to be copied.
    pub bytes: u64,
}

/// Why a shard is where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The shard.
    pub shard: u64,
    /// The version of the policies.
    pub version: u64,
    /// Its replicas, and then its leader.
    pub places: Vec<Place>,
    /// What is moving and why, or why something waits; filled in by who knows the plan.
    #[serde(default)]
    pub moving: Vec<String>,
}

/// Where one replica or the leader is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The replica's place; none: it is the leadership.
    pub slot: Option<u32>,
    /// The node; none: on none yet.
    pub node: Option<String>,
    /// Rows of hard policies that it breaks where it is.
    pub breaks: Vec<String>,
    /// Hard policies that some other place would break, and soft ones that some would cost.
    pub held_by: Vec<String>,
    /// Every other place, the best first.
    pub elsewhere: Vec<Elsewhere>,
}

/// Another place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The node.
    pub node: String,
    /// Rows of hard policies that it would break.
    pub breaks: Vec<String>,
    /// Rows that it would mend.
    pub repairs: Vec<String>,
    /// By how much it would be worse, tier by tier.
    pub costs: Vec<Cost>,
}

/// A change of a tier's sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The tier.
    pub tier: u32,
    /// Its soft policies.
    pub policies: Vec<String>,
    /// The change; negative is better.
    pub change: f64,
}

/// Answers. `abort` is asked now and then whether time is up.
pub fn answer(review: Review, config: &Config, abort: &mut dyn FnMut() -> bool) -> Reviewed {
    let id = review.id;
    let outcome = match &review.what {
        What::Admit(set) => admission(&review, set, config, abort).map(Finding::Admission),
        What::Preview(set) => preview(&review, set, config, abort).map(Finding::Preview),
        What::Explain(shard) => explained(&review, *shard).map(Finding::Explained),
    };
    Reviewed { id, outcome }
}

fn state(rows: &[Change]) -> String {
    format!("{TABLES}\n{}", inserts(rows))
}

/// Names the policy that an error is in: the last one of the shortest beginning of the set that has an error at all.
fn wrong(state: &str, set: &Policies, error: &synod_placement::Error) -> String {
    let mut scripts = vec![(state, Source::State)];
    for policy in &set.policies {
        scripts.push((policy.sql.as_str(), Source::Policies));
        if Problem::load_scripts(&scripts).is_err() {
            return located(&policy.name, error);
        }
    }
    error.to_string()
}

fn admission(
    review: &Review,
    set: &Policies,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Admission, String> {
    let state = state(&review.rows);
    let (before, after) = (review.present.scripts(), set.scripts());
    let admission = admit_change(&state, &before, &after, config, abort)
        .map_err(|error| wrong(&state, set, &error))?;
    let verdict = match admission.verdict {
        Verdict::Accepted => "accepted",
        Verdict::Refused => "refused",
        Verdict::Unproven => "unproven",
    };
    let against = |finding: &synod_placement::Finding| Against {
        scenario: finding.scenario.clone(),
        conflict: named(&finding.core),
        give_up: named(&finding.relaxation),
    };
    Ok(Admission {
        verdict: verdict.to_owned(),
        scenarios: admission.scenarios,
        findings: admission.findings.iter().map(against).collect(),
    })
}

/// Rows for people: the first ones by name, the others counted.
fn named(rows: &[PolicyRow]) -> Vec<String> {
    let mut named: Vec<String> = rows.iter().take(ROWS_SHOWN_MAX).map(policy_row).collect();
    if rows.len() > ROWS_SHOWN_MAX {
        named.push(format!("and {} more rows", rows.len() - ROWS_SHOWN_MAX));
    }
    named
}

fn preview(
    review: &Review,
    set: &Policies,
    config: &Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Preview, String> {
    let state = state(&review.rows);
    let scripts = std::iter::once((state.as_str(), Source::State)).chain(
        set.policies
            .iter()
            .map(|policy| (policy.sql.as_str(), Source::Policies)),
    );
    let scripts: Vec<(&str, Source)> = scripts.collect();
    Problem::load_scripts(&scripts).map_err(|error| wrong(&state, set, &error))?;
    let question = Question {
        id: review.id,
        policies: Some(set.sql()),
        changes: review.rows.clone(),
        decided: Vec::new(),
        present: Vec::new(),
        scope: Scope::Whole,
        needy: Vec::new(),
        filter: Filter::default(),
        seed: review.seed,
    };
    let decision = Solver::new(*config).answer(question, abort).outcome?;
    let mut preview = Preview {
        status: decision.status,
        rounds: decision.rounds.len(),
        conflict: decision.conflict,
        ..Preview::default()
    };
    for (index, moves) in decision.rounds.iter().enumerate() {
        let mut received: BTreeMap<NodeId, u64> = BTreeMap::new();
        for change in moves {
            let moved = moved(index + 1, change, &review.weights);
            preview.bytes += moved.bytes;
            if let Move::Seat { to, .. } = change {
                *received.entry(*to).or_default() += moved.bytes;
            }
            preview.moves.push(moved);
        }
        let most = received.values().copied().max().unwrap_or(0);
        preview.seconds += ROUND_S + most / COPY_BYTES_PER_S;
    }
    Ok(preview)
}

fn moved(round: usize, change: &Move, weights: &BTreeMap<ShardId, u64>) -> Moved {
    let shard = change.shard();
    let (slot, from, to, bytes) = match *change {
        Move::Seat { slot, from, to, .. } => (
            Some(slot),
            from,
            to,
            weights.get(&shard).copied().unwrap_or(0),
        ),
        Move::Leader { from, to, .. } => (None, from, to, 0),
    };
    Moved {
        round,
        shard: shard.0,
        slot,
        from: from.map(node_text),
        to: node_text(to),
        bytes,
    }
}

fn explained(review: &Review, shard: ShardId) -> Result<Explained, String> {
    let state = state(&review.rows);
    let set = &review.present;
    let scripts = [
        (state.as_str(), Source::State),
        (&set.sql(), Source::Policies),
    ];
    let mut problem = Problem::load_scripts(&scripts).map_err(|error| error.to_string())?;
    let mut declared: Vec<Constraint> = Vec::new();
    for policy in &set.policies {
        declared.extend(constraints(&policy.sql).map_err(|error| located(&policy.name, &error))?);
    }
    let number = serde_json::Value::from(shard.0);
    let mut places = Vec::new();
    for decision in problem.decisions() {
        if decision.key.get("shard_id") != Some(&number) {
            continue;
        }
        let column = decision.columns.first().map(String::as_str);
        let explanation = problem
            .explain(&decision.table, &decision.key, column)
            .map_err(|error| error.to_string())?;
        places.push(place(&explanation, &declared));
    }
    if places.is_empty() {
        return Err(format!(
            "shard {} has no replica that policies place",
            shard.0
        ));
    }
    // The leader stands last.
    places.sort_by_key(|place| place.slot.unwrap_or(u32::MAX));
    Ok(Explained {
        shard: shard.0,
        version: set.version,
        places,
        moving: Vec::new(),
    })
}

fn place(explanation: &Explanation, declared: &[Constraint]) -> Place {
    let shown = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let slot = explanation.key.get("slot").and_then(|slot| slot.as_u64());
    let slot = slot.and_then(|slot| u32::try_from(slot).ok());
    let of_tier = |tier: u32| -> Vec<String> {
        let soft = declared
            .iter()
            .filter(|it| matches!(it.force, Force::Soft { tier: own, .. } if own == tier));
        soft.map(|it| it.name.clone()).collect()
    };
    let elsewhere: Vec<Elsewhere> = explanation
        .alternatives
        .iter()
        .map(|other| Elsewhere {
            node: shown(&other.value).unwrap_or_default(),
            breaks: named(&other.violates),
            repairs: named(&other.repairs),
            costs: other
                .tiers
                .iter()
                .map(|cost| Cost {
                    tier: cost.tier,
                    policies: of_tier(cost.tier),
                    change: cost.change.as_f64(),
                })
                .collect(),
        })
        .collect();
    let mut held_by: BTreeSet<String> = BTreeSet::new();
    for other in &explanation.alternatives {
        held_by.extend(other.violates.iter().map(|row| row.policy.clone()));
        let worse = other.tiers.iter().filter(|cost| cost.change.sum > 0);
        held_by.extend(worse.flat_map(|cost| of_tier(cost.tier)));
    }
    let mine = |row: &&PolicyRow| {
        let shard = explanation.key.get("shard_id");
        row.row.iter().any(|(name, value)| {
            name.rsplit('.').next() == Some("shard_id") && Some(value) == shard
        })
    };
    let failing: Vec<PolicyRow> = explanation.failing.iter().filter(mine).cloned().collect();
    Place {
        slot,
        node: shown(&explanation.current),
        breaks: named(&failing),
        held_by: held_by.into_iter().collect(),
        elsewhere,
    }
}

#[cfg(test)]
mod tests;
