//! Checkers: each takes a history, or what is left at the end, and finds what no correct store
//! could have produced.

pub mod append;
pub mod register;
