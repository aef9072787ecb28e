//! What a node knows of itself and the cluster, for operators and tests.

use std::time::Duration;

use crate::effect::Suspended;
use crate::id::{Boot, ClusterId, ConfigHash, NodeId};

/// A node's own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// Its cluster.
    pub cluster: Option<ClusterId>,
    /// What it is doing.
    pub phase: Phase,
    /// True while clients may be served here.
    pub serving: bool,
    /// Why not, for a member.
    pub suspended: Option<Suspended>,
    /// Sequence number of its configuration; zero without one.
    pub seq: u64,
    /// Hash of its configuration.
    pub hash: Option<ConfigHash>,
    /// Members of its configuration.
    pub members: Vec<NodeId>,
    /// Those that vote, among them absent voters.
    pub voters: Vec<NodeId>,
    /// Voters that it has not heard from lately.
    pub missing_voters: Vec<NodeId>,
    /// How many of the missing must come back before anything can be decided; zero if a majority is here.
    pub voters_needed: usize,
    /// Where it was removed alive: how long its links must stay clean until it asks to come back.
    pub rejoin_in: Option<Duration>,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started, or waiting for its first write.
    Starting,
    /// Looking for a cluster, or asking to be let in.
    Joining,
    /// Listed in its configuration with this boot.
    Member,
    /// Listed with an older boot, since it restarted.
    Restarting,
    /// Asked to leave.
    Leaving,
    /// Removed while alive.
    Removed,
    /// Left.
    Left,
    /// Must not go on.
    Halted,
}

/// Whether another member can be reached from here: another question than whether it is in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Its latest probe from here was answered.
    Reachable,
    /// Its latest probe from here failed.
    Unreachable,
    /// Not observed from here, or not yet.
    Unknown,
}
