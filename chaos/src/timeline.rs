//! What happened to a world besides its operations: strikes, leaders, views, processes that stopped.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds of the world.
    pub at_us: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A fault began.
    Struck {
        /// The strike's place in the plan.
        strike: usize,
        /// What it did, to whom.
        what: String,
    },
    /// A fault ended.
    Undone {
        /// The strike's place in the plan.
        strike: usize,
    },
    /// A node began to lead a shard.
    Leads {
        /// Which node.
        node: usize,
        /// Which shard.
        shard: u64,
        /// In which term.
        term: u64,
    },
    /// A node has a new view of who is a member.
    Sees {
        /// Which node.
        node: usize,
        /// The view's number.
        view: u64,
        /// How many are members in it.
        members: usize,
    },
    /// A process stopped by itself.
    Stopped {
        /// Which node.
        node: usize,
        /// What it said.
        why: String,
    },
    /// Everything works again.
    Healed,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Struck { strike, what } => write!(f, "strike {strike}: {what}"),
            What::Undone { strike } => write!(f, "strike {strike} is over"),
            What::Leads { node, shard, term } => {
                write!(f, "node {node} leads shard {shard} in term {term}")
            }
            What::Sees {
                node,
                view,
                members,
            } => write!(f, "node {node} is in view {view} of {members}"),
            What::Stopped { node, why } => write!(f, "node {node} stopped by itself: {why}"),
            What::Healed => write!(f, "everything works again"),
        }
    }
}

/// The events of a world, in order. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Arc<Mutex<Vec<Event>>>);

impl Timeline {
    /// Adds an event.
    pub fn add(&self, at_us: u64, what: What) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Event { at_us, what });
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
