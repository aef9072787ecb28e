//! Declared placement: SQL policies, solved, after DCM (OSDI 2020).

mod admission;
mod answer;
pub mod command;
mod compile;
mod dialect;
mod error;
mod explain;
pub mod graph;
mod judge;
mod ordered;
pub mod plan;
mod problem;
pub mod solve;
mod tables;

pub use admission::{Admission, Finding, Verdict, admit};
pub use answer::{Answer, Assignment, Number, PolicyRow, Stats, Status, Tier};
pub use compile::{Change, Datum};
pub use error::{Error, ErrorKind, Place, Result, Source};
pub use explain::{Alternative, Cost, Explanation};
pub use judge::{Decision, Judgement};
pub use ordered::{Plan, PlanStatus, Step};
pub use problem::{Problem, Touched};
