//! Agreed membership, after Rapid (ATC 2018).

#[cfg(feature = "sim")]
pub mod baseline;
#[cfg(feature = "sim")]
pub mod sim;
