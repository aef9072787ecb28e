//! One replicated shard, and the loop that drives many of them.
