//! The membership simulator.
//!
//! A plain event loop in virtual time that runs a membership protocol on up to a few thousand
//! nodes, breaks nodes and links as a scenario says, and reports what every node saw. It is
//! not the place for the real transport and disk, which the deterministic runtime of the chaos crate
//! exercises; it answers what can only be seen at a scale of thousands: how many views a failure costs,
//! who is removed wrongly, how long it takes, and what it weighs on the wire.
//!
//! ```text
//! scenario ─► faults ─┐                     ┌─► views    (who installed what, agreement)
//!                     ├─► world ◄─► queue ──┤
//! protocol (Rapid,    │     │               └─► traffic  (bytes, messages)      ─► report, table
//!  SWIM, heartbeat) ──┘     └─ network
//! ```

pub mod faults;
pub mod letters;
pub mod network;
pub mod notes;
pub mod protocol;
pub mod queue;
pub mod rapid;
pub mod report;
pub mod rng;
pub mod runner;
pub mod scenario;
pub mod storm;
pub mod table;
mod toml_reader;
pub mod traffic;
pub mod views;
pub mod world;
#[cfg(test)]
mod world_tests;
