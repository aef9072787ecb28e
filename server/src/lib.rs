//! The Synod node: everything that touches a socket, a clock or a disk, and the assembly of the
//! cores (membership, replication, transactions, placement) into one process.

pub mod clock;
pub mod config;
pub mod edge;
pub mod formation;
pub mod resp;
pub mod transport;
