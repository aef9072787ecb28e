//! Synod, the server.

#[cfg(not(madsim))]
pub mod cli;
pub mod config;
pub mod edge;
#[cfg(not(madsim))]
pub mod local;
pub mod logging;
pub mod resp;
pub mod status;
