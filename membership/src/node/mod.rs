//! The node: one state machine over all of the protocol.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::configuration::SharedConfiguration;
use crate::effect::Effects;
use crate::event::Event;
use crate::id::NodeId;
use crate::rng::{Rng, Seed};
use crate::settings::Settings;
use crate::status::{Reachability, Status};
use crate::time::Time;

/// A member, or one that wants to be.
pub struct Node {
    settings: Arc<Settings>,
    catalog: Catalog,
    rng: Rng,
}

impl Node {
    /// A node that has not started: give it [`Event::Start`] first.
    pub fn new(settings: Arc<Settings>, seed: Seed, catalog: Catalog) -> Node {
        Node {
            settings,
            catalog,
            rng: Rng::new(seed),
        }
    }

    /// Takes one event at one time, and appends what is to be done about it.
    pub fn step(&mut self, now: Time, event: Event, effects: &mut Effects) {
        let _ = (
            now,
            event,
            effects,
            &self.settings,
            &self.catalog,
            &mut self.rng,
        );
    }

    /// When the node wants a [`Event::Tick`]; `None` while only other events can move it.
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// The configuration in force: who is in the view. `None` before the first.
    pub fn view(&self) -> Option<&SharedConfiguration> {
        None
    }

    /// True if the node is a member of the configuration in force.
    pub fn in_view(&self, node: NodeId) -> bool {
        self.view()
            .is_some_and(|view| view.index_of(node).is_some())
    }

    /// Whether the node can be reached from here.
    pub fn reachable(&self, node: NodeId) -> Reachability {
        let _ = node;
        Reachability::Unknown
    }

    /// The node's own account.
    pub fn status(&self) -> Option<Status> {
        None
    }
}
