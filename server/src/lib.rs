//! The Synod node: everything that touches a socket, a clock or a disk, and the assembly of the
//! cores (membership, replication, transactions, placement) into one process.

#[cfg(not(madsim))]
pub mod cli;
pub mod clock;
pub mod config;
pub mod controller;
pub mod directory;
pub mod edge;
pub mod formation;
pub mod gateway;
pub mod identity;
#[cfg(not(madsim))]
pub mod local;
pub mod logging;
pub mod membership;
pub mod node;
pub mod resp;
pub mod shards;
pub mod status;
pub mod transport;
