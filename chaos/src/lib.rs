//! Worlds, faults, workloads and checkers: what tries to break the promises, and what judges.
//!
//! A *world* is a cluster of production nodes in the simulator: simulated machines, network, disks
//! and clocks, all from one seed. A *workload* is a set of clients that record what they asked and
//! what they were told, as a *history*. *Faults* strike the world while they work. Then the world
//! heals, and must serve again. A *checker* looks at the history alone and says whether any
//! correct store could have produced it.

pub mod check;
pub mod history;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;
