//! Commands, their deterministic apply, and transactions over shards.
