//! Declared placement: SQL policies, solved, after DCM (OSDI 2020).
pub mod graph;
pub mod plan;
pub mod solve;
