//! How many commands clients send: counted at the door, by the second. Questions to the node itself
//! are not counted, or whoever looks at the figure would be in it. What the node sends to its peers
//! the transport counts.

use std::collections::BTreeMap;

use synod_txn::Class;

use crate::edge::session::Submission;
use crate::status::{Sent, TrafficReport};
use crate::transport::{self, Kind};

const SECOND_US: u64 = 1_000_000;

/// Commands of all clients of this node.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Since the start.
    commands: u64,
    /// When the present second began, and what had been counted by then.
    since: (u64, u64),
    per_s: f64,
}

impl Traffic {
    /// Commands have come in.
    pub(super) fn count(&mut self, batch: &[Submission]) {
        let counts = |submission: &&Submission| match submission {
            Submission::Command(command) => command.class() != Class::Control,
            Submission::Immediate(_) | Submission::Reset(_) => true,
        };
        self.commands += batch.iter().filter(counts).count() as u64;
    }

    /// Closes the second, if it is over.
    pub(super) fn tick(&mut self, now_us: u64) {
        let (began_us, before) = self.since;
        let elapsed_us = now_us.saturating_sub(began_us);
        if elapsed_us >= SECOND_US {
            let commands = self.commands - before;
            self.per_s = commands as f64 * SECOND_US as f64 / elapsed_us as f64;
            self.since = (now_us, self.commands);
        }
    }

    pub(super) fn report(
        &self,
        clients: usize,
        sent: BTreeMap<Kind, transport::Sent>,
    ) -> TrafficReport {
        let named = |(kind, sent): (Kind, transport::Sent)| {
            let transport::Sent { frames, bytes } = sent;
            (kind.name().to_owned(), Sent { frames, bytes })
        };
        TrafficReport {
            sent: sent.into_iter().map(named).collect(),
            clients: clients as u64,
            commands: self.commands,
            commands_per_s: self.per_s.round(),
        }
    }
}
