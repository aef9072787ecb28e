//! Plans: where each shard is going, in stages.
//!
//! The planner of the placement crate orders changes in rounds: whichever of a round's moves have finished, every hard
//! row holds. So a round may be carried out in any order and at any pace, and the next one begins when it is done. A
//! plan is stored shard by shard: a [`Target`] lists the stages of one shard, each with its round. Which stage a shard
//! is in is not stored: it follows from the shard's replicas, so that a controller that takes over needs nothing but
//! the plan and the directory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::cluster::{Seat, Shard};
use super::records::{Inputs, optional_node};

/// How urgent a change is. The most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// One more failure would cost the shard its majority.
    Critical,
    /// A replica is missing, or a hard row is broken.
    Repair,
    /// A node is to be emptied, or the policies changed.
    Request,
    /// The load shall be spread better.
    Balance,
}

impl Class {
    /// As tables and messages have it.
    pub fn text(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Repair => "repair",
            Class::Request => "request",
            Class::Balance => "balance",
        }
    }
}

/// One stage of a shard: how its seats and its leader shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The round that it belongs to.
    pub round: u32,
    /// Who shall sit where.
    pub seats: Vec<Seat>,
    /// Who shall lead.
    #[serde(with = "optional_node")]
    pub leader: Option<NodeId>,
}

/// Where a shard is going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The plan that brought it.
    pub plan: u64,
    /// How urgent it is.
    pub class: Class,
    /// Why, in words.
    pub why: String,
    /// What it was decided from.
    pub inputs: Inputs,
    /// Who voted when it was decided, in the order of the seats.
    #[serde(with = "super::records::nodes")]
    pub from: Vec<NodeId>,
    /// Who led.
    #[serde(with = "optional_node")]
    pub led_by: Option<NodeId>,
    /// The stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// How far the shard is.
    #[serde(skip)]
    pub at: At,
}

/// How far along its stages a shard is. Not stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The plan was read back: it follows from the shard's replicas.
    #[default]
    Unknown,
    /// So many stages are reached.
    Reached(usize),
}

impl Target {
    /// Where it ends.
    pub fn end(&self) -> Option<&Stage> {
        self.stages.last()
    }

    /// The stage that the shard has to reach next. `None`: all are reached.
    pub fn next(&self) -> Option<&Stage> {
        match self.at {
            At::Unknown => self.stages.first(),
            At::Reached(reached) => self.stages.get(reached),
        }
    }

    /// Notes the stages that the shard has reached. Only ever forward: on the way to a stage the shard is like none.
    pub fn look(&mut self, shard: &Shard) {
        let mut reached = match self.at {
            At::Unknown => self.nearest(shard),
            At::Reached(reached) => reached,
        };
        while self
            .stages
            .get(reached)
            .is_some_and(|stage| stage.is_reached(shard))
        {
            reached += 1;
        }
        self.at = At::Reached(reached);
    }

    /// The stage that the shard is nearest to; of two, the later: it has passed the earlier one and left it.
    fn nearest(&self, shard: &Shard) -> usize {
        let distances = self.stages.iter().map(|stage| stage.distance(shard));
        let nearest = distances
            .enumerate()
            .min_by_key(|&(index, distance)| (distance, usize::MAX - index));
        match nearest {
            // It is there, but for copies on their way to the next.
            Some((index, 0)) => index + usize::from(index + 1 < self.stages.len()),
            Some((index, _)) => index,
            None => 0,
        }
    }
}

impl Stage {
    /// Whether the shard is there: exactly these replicas, and the leader where it shall be.
    pub fn is_reached(&self, shard: &Shard) -> bool {
        self.has_replicas(shard) && !shard.joint && self.has_leader(shard)
    }

    /// Votes and leadership that are not where they shall be.
    fn distance(&self, shard: &Shard) -> usize {
        let seats = self.seats.iter().filter(|seat| seat.votes);
        let wanted: BTreeSet<NodeId> = seats.filter_map(|seat| seat.node).collect();
        let present: BTreeSet<NodeId> = shard.voters().collect();
        wanted.symmetric_difference(&present).count() + usize::from(!self.has_leader(shard))
    }

    /// Whether the voters are the seats' and nobody else's.
    pub fn has_replicas(&self, shard: &Shard) -> bool {
        let mut seats: Vec<(NodeId, bool)> = self
            .seats
            .iter()
            .filter_map(|seat| seat.node.map(|node| (node, seat.votes)))
            .collect();
        let mut present: Vec<(NodeId, bool)> = shard
            .voters()
            .map(|node| (node, true))
            .chain(shard.learners().map(|node| (node, false)))
            .collect();
        seats.sort_unstable();
        present.sort_unstable();
        seats == present
    }

    fn has_leader(&self, shard: &Shard) -> bool {
        match (self.leader, shard.leader) {
            (None, _) => true,
            (Some(wanted), Some((leader, _))) => wanted == leader,
            (Some(_), None) => false,
        }
    }
}

/// The plan that is carried out.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The shards that are not where they shall be.
    pub targets: BTreeMap<ShardId, Target>,
}

impl Plan {
    /// The round that is carried out now: the least of the shards' next stages.
    pub fn round(&self) -> Option<u32> {
        let next = self.targets.values().filter_map(Target::next);
        next.map(|stage| stage.round).min()
    }

    /// The most urgent class of what is not done.
    pub fn most_urgent(&self) -> Option<Class> {
        self.targets.values().map(|target| target.class).min()
    }
}
