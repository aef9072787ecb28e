//! Checkers: each takes a history and finds what no correct store could have produced.
//!
//! They know nothing of the store: neither its versions nor its clocks, only what clients asked and
//! were told, and when. What is left at the end is in the history too, as reads of the observer.

pub mod anomaly;
pub mod bank;
pub mod causal;
mod cycle;
mod graph;
pub mod linearizable;
pub mod list_append;
mod lists;
pub mod long_fork;
mod model;
pub mod monotonic;
pub mod set;
pub mod skew;
pub mod tokens;

pub use self::anomaly::Anomaly;

/// What a checker says.
pub type Verdict = Result<(), Anomaly>;
