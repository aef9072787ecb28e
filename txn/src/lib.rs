//! Commands, their deterministic apply, and transactions over shards.

mod command;
pub mod number;
mod reply;

pub use command::*;
pub use reply::{ErrorCode, Reply};
