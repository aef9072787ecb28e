//! Measuring: a closed-loop load on Synod and on its peers, in one run, on one machine.
//!
//! The machine is small and shared, so a figure alone says little: every table holds the peers'
//! figures from the same run, and the ratio. The load shares the cores with what it measures; it
//! is the same load for all.

pub mod etcd;
pub mod load;
pub mod started;
pub mod status;
pub mod syncs;
pub mod systems;
pub mod transfers;
