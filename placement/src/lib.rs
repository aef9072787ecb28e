//! Declared placement: SQL policies, solved, after DCM (OSDI 2020).
//!
//! Operators say what must hold in SQL over the cluster's own tables; this crate decides where every replica and
//! leader lives, says how good the decision is, and explains it. It is pure: tables and policies in, decision out;
//! files, clocks and threads are the caller's.
//!
//! ```text
//! STATE.sql ──► tables (SQLite) ──► mirrors ─┐
//!                                            ├─► compile ─► graph ─► solve ─► answer
//! POLICIES.sql ─► dialect (tree, places) ────┘                  └──► plan  ─► ordered steps
//! ```
//!
//! What is constant, SQLite evaluates; what depends on decision columns (`controllable__*`) becomes an
//! [expression graph](graph) that both [solvers](solve) and the [planner](plan) work on. A construct that cannot be
//! compiled is an [`Error`] with its line and column: no part of a policy is dropped, and none is added.

mod admission;
mod answer;
pub mod command;
mod compile;
mod dialect;
mod error;
mod explain;
pub mod graph;
mod judge;
mod listing;
mod ordered;
pub mod plan;
mod problem;
pub mod solve;
mod tables;

pub use admission::{Admission, Finding, Verdict, admit, admit_change};
pub use answer::{Answer, Assignment, Number, PolicyRow, Stats, Status, Tier};
pub use compile::{Change, Datum, Warning};
pub use error::{Error, ErrorKind, Place, Result, Source};
pub use explain::{Alternative, Cost, Explanation};
pub use judge::{Decision, Judgement};
pub use listing::{Constraint, Force, constraints};
pub use ordered::{Plan, PlanStatus, Step, Target};
pub use problem::{Problem, Touched};
