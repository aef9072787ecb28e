//! Synod, the server.

pub mod config;
pub mod edge;
pub mod resp;
