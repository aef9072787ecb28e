//! Answers, in the shapes that the command prints as JSON.

use serde::{Serialize, Serializer};

type Object = serde_json::Map<String, serde_json::Value>;

/// What was proved. The four are never confused: running out of budget is `Unknown`, not `Infeasible`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every tier's bound equals its value.
    Optimal,
    /// All hard policies hold; the bounds say how far from optimal it can be.
    Feasible,
    /// Proved: the hard policies cannot hold together.
    Infeasible,
    /// Neither an answer nor a proof within the budget.
    Unknown,
}

impl Status {
    /// The exit code of the command: 0 decided, 3 infeasible, 4 unknown.
    pub fn exit_code(self) -> u8 {
        match self {
            Status::Optimal | Status::Feasible => 0,
            Status::Infeasible => 3,
            Status::Unknown => 4,
        }
    }
}

/// An exact sum: an integer over a constant denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Numerator.
    pub sum: i128,
    /// Denominator, at least 1.
    pub den: i64,
}

impl Number {
    /// `sum / den`.
    pub fn new(sum: i128, den: i64) -> Number {
        Number { sum, den }
    }

    /// As a floating-point number, for display.
    pub fn as_f64(self) -> f64 {
        self.sum as f64 / self.den as f64
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let den = i128::from(self.den);
        if self.sum % den == 0 {
            write!(f, "{}", self.sum / den)
        } else {
            write!(f, "{}", self.as_f64())
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let den = i128::from(self.den);
        match i64::try_from(self.sum / den) {
            Ok(whole) if self.sum % den == 0 => serializer.serialize_i64(whole),
            _ => serializer.serialize_f64(self.as_f64()),
        }
    }
}

/// The sum of a tier, and what it cannot be better than.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// The declared tier.
    pub tier: u32,
    /// Weighted MINIMIZE minus weighted MAXIMIZE.
    pub value: Number,
    /// A proved lower bound of it, given the values of the tiers before; null where none is known.
    pub bound: Option<Number>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assignment {
    /// Its table.
    pub table: String,
    /// The row's primary key.
    pub key: Object,
    /// The decision column.
    pub column: String,
    /// Its present value; null: not yet placed.
    pub current: serde_json::Value,
    /// Its decided value.
    pub value: serde_json::Value,
}

/// A row of a policy: the key of a group, or the primary keys of the rows joined.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyRow {
    /// The policy.
    pub policy: String,
    /// Column → value.
    pub row: Object,
}

/// Counts and times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Decisions in the model.
    pub variables: u64,
    /// Nodes of the graph.
    pub expressions: u64,
    /// Moves that the search tried.
    pub evaluations: u64,
    /// Reading and compiling, milliseconds.
    pub compile_ms: f64,
    /// Deciding, milliseconds.
    pub solve_ms: f64,
}

/// What [`Problem::solve`](crate::Problem::solve) answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What was proved.
    pub status: Status,
    /// The declared tiers; empty unless decided.
    pub tiers: Vec<Tier>,
    /// All decisions, unchanged ones too; empty unless decided.
    pub assignments: Vec<Assignment>,
    /// When nothing was decided: the assignment that was found to break the hard policies least.
    #[serde(skip)]
    pub relaxed: Vec<Assignment>,
    /// When infeasible: policy rows that cannot hold together.
    pub core: Vec<PolicyRow>,
    /// Whether no row of the core can be dropped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub core_minimal: bool,
    /// Where the proof is a count: what the core's rows need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<i128>,
    /// And what there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<i128>,
    /// Distinct best solutions, when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub solutions: Vec<Vec<Assignment>>,
    /// Whether these are all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub solutions_complete: bool,
    /// Counts and times.
    pub stats: Stats,
}
