//! Declared placement: SQL policies, solved, after DCM (OSDI 2020).

mod answer;
pub mod command;
mod compile;
mod dialect;
mod error;
pub mod graph;
mod judge;
pub mod plan;
mod problem;
pub mod solve;
mod tables;

pub use answer::{Answer, Assignment, Number, PolicyRow, Stats, Status, Tier};
pub use compile::{Change, Datum};
pub use error::{Error, ErrorKind, Place, Result, Source};
pub use judge::{Decision, Judgement};
pub use problem::{Problem, Touched};
