//! Agreed membership, after Rapid (ATC 2018).
