//! Two other ways to keep a membership, to measure Rapid against.
//!
//! Neither is a choice for production. Both run in the simulator as [`crate::sim::protocol::Protocol`]s
//! over the same scenarios: [`heartbeat`] is what one writes first, [`swim`] is what Serf, Consul and
//! most gossip libraries run. Each node keeps a list of its own; there is no agreed sequence.

pub mod heartbeat;
mod list;
pub mod swim;
