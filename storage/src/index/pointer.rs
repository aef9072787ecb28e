//! What the index says of a key.
