//! Worlds, faults, workloads and checkers: what tries to break the promises, and what judges.
//!
//! A *world* is a cluster of production nodes in the simulator: simulated machines, network, disks
//! and clocks, all from one seed. A *workload* is a set of clients that record what they asked and
//! what they were told, as a *history*. *Faults* strike the world while they work, by a *plan* that
//! follows from the seed. Then the world heals, and must serve again. A *checker* looks at the
//! history alone and says whether any correct store could have produced it.
//!
//! `cargo xtask chaos` runs it; `chaos/FORMAT.md` describes histories as files.

pub mod check;
#[cfg(madsim)]
mod ending;
pub mod fault;
pub mod history;
#[cfg(madsim)]
pub mod invariant;
#[cfg(madsim)]
pub mod members;
#[cfg(madsim)]
pub mod mutate;
pub mod plan;
#[cfg(not(madsim))]
pub mod real;
pub mod report;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
mod settling;
#[cfg(madsim)]
pub mod shrink;
pub mod timeline;
pub mod trace;
pub mod workload;
#[cfg(madsim)]
pub mod world;
