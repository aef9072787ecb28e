//! What forming nodes say to each other.

// The archived twins that the derives make have no documentation of their own.
#![allow(missing_docs)]

use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};

use super::{Founder, Founding};

/// A question or an answer of cluster formation.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Message {
    /// "I am empty, this is who I am and the list I was given." Repeated until answered.
    Poll {
        /// The sender.
        founder: Founder,
        /// Its list, sorted.
        seeds: Vec<SocketAddr>,
    },
    /// "So am I": the answer while the founder waits for others.
    Waiting {
        /// Whom the sender has not heard from yet.
        missing: Vec<SocketAddr>,
    },
    /// The lists differ: somebody's `--join` is wrong.
    ListsDiffer {
        /// The sender's list.
        seeds: Vec<SocketAddr>,
    },
    /// The cluster exists, and this is its beginning. Who is not in it joins it.
    Founded(Founding),
}
