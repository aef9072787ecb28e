//! Link faults: the one place where a simulator may lose, delay, duplicate or reorder what nodes
//! say to each other, per link and direction. Production runs without one.

use std::net::SocketAddr;
use std::time::Duration;

use super::hello::Class;

/// What becomes of one frame: a delay for each copy that arrives; none means it is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// One entry a copy.
    pub deliveries: Vec<Duration>,
}

/// Decides the fate of frames.
pub trait LinkFaults: Send + Sync {
    /// The fate of a frame of `bytes` that `from` sends `to`.
    fn fate(&self, from: SocketAddr, to: SocketAddr, class: Class, bytes: usize) -> Fate;
}
