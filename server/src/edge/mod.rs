//! The edge: where clients connect.
//!
//! A connection speaks RESP ([`crate::resp`]) and knows nothing of shards. What concerns only the
//! connection (`HELLO`, `CLIENT`, `PING`, …) is answered here, in [`commands`]; everything else
//! becomes a [`Command`](synod_txn::Command) and goes through the connection's
//! [`Session`](session::Session) to the gateway, which answers in order.
//!
//! ```text
//! socket ─► connection ─► conversation ─► Parser ─► commands ─► Submission ─► session ─► gateway
//!        ◄─ (one write) ◄─ (slots, order)   ◄─ encode ◄─────────── Reply ◄────────┘
//! ```
//!
//! Everything that a client can make grow is bounded: connections, commands in flight and their
//! bytes, unread answers, and the time that they may stay unread. A connection that hits a bound
//! waits; only one that makes no progress at all is closed.

pub mod commands;
mod connection;
mod conversation;
mod listener;
mod registry;
pub mod session;
mod shutdown;

use std::{fmt, sync::Arc};

pub use listener::serve;
pub use registry::Registry;
pub use shutdown::Shutdown;
use tokio::time::Instant;

use crate::config::ClientSettings;

/// What all connections of a process share. Nothing in it changes, but the registry.
pub struct Edge {
    /// The limits.
    pub clients: ClientSettings,
    /// What `AUTH` asks for.
    pub password: Option<String>,
    /// The port that clients use, as `INFO` tells it.
    pub port: u16,
    /// This node's name in `INFO`.
    pub node: String,
    /// When the process started.
    pub started: Instant,
    /// Who is connected.
    pub registry: Arc<Registry>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the password.
        f.debug_struct("Edge")
            .field("node", &self.node)
            .field("clients", &self.clients)
            .finish()
    }
}
