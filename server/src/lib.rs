//! Synod, the server.

pub mod config;
pub mod resp;
