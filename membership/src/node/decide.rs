//! From alerts to a proposal to a decision.

use std::sync::Arc;

use super::{Awaited, Node};
use crate::consensus::agreement::Output;
use crate::cut::Cut;
use crate::durable::Record;
use crate::effect::{Alarm, Effect, Effects};
use crate::id::{ConfigHash, Destination, Identity, NodeId};
use crate::message::Message;
use crate::voters;

impl Node {
    pub(super) fn tick_detector(&mut self, out: &mut Effects) {
        let may_propose = self
            .consensus
            .as_ref()
            .is_some_and(|c| c.votes() && !c.has_proposed());
        let detected = self
            .detector
            .as_mut()
            .and_then(|detector| detector.poll(self.now));
        let wanted = detected.or_else(|| self.mode_cut());
        let Some(cut) = wanted.filter(|_| may_propose) else {
            return;
        };
        let mut yielded = Vec::new();
        if let Some(consensus) = &mut self.consensus {
            consensus.propose(self.now, Arc::new(cut), &mut yielded);
        }
        self.carry_out(yielded, out);
    }

    /// The cut that changes the mode, if the operator asked for it and it is not in force.
    fn mode_cut(&mut self) -> Option<Cut> {
        let mode = self.wanted_mode?;
        let view = self.view()?;
        if view.mode() == mode {
            self.wanted_mode = None;
            return None;
        }
        let cut = voters::shape(
            view,
            Cut {
                mode: Some(mode),
                ..Cut::default()
            },
        );
        let applies = self.catalog.successor(view, &cut).is_ok();
        applies.then_some(cut)
    }

    /// A sole member that restarted has nobody to say so but itself.
    pub(super) fn restart_alone(&mut self, out: &mut Effects) {
        let Some(member) = self.as_member() else {
            return;
        };
        let cut = Arc::new(Cut {
            add: vec![member],
            ..Cut::default()
        });
        let mut yielded = Vec::new();
        if let Some(consensus) = &mut self.consensus {
            consensus.propose(self.now, cut, &mut yielded);
        }
        self.carry_out(yielded, out);
    }

    pub(super) fn tick_consensus(&mut self, out: &mut Effects) {
        let mut yielded = Vec::new();
        if let Some(consensus) = &mut self.consensus
            && consensus.deadline().is_some_and(|at| at <= self.now)
        {
            consensus.tick(self.now, &mut self.rng, &mut yielded);
        }
        self.carry_out(yielded, out);
    }

    pub(super) fn on_acceptor_durable(
        &mut self,
        config: ConfigHash,
        writes: u64,
        out: &mut Effects,
    ) {
        self.durable_writes = self.durable_writes.max(writes);
        let mut yielded = Vec::new();
        // A write for a configuration that is over releases nothing.
        if config == self.position().hash
            && let Some(consensus) = &mut self.consensus
        {
            consensus.persisted(self.now, writes, &mut yielded);
        }
        self.carry_out(yielded, out);
    }

    pub(super) fn on_agreement(&mut self, from: &Identity, message: &Message, out: &mut Effects) {
        let config = match message {
            Message::FastVotes(votes) => votes.config,
            Message::CutRequest(request) => request.config,
            Message::CutReply(reply) => reply.config,
            Message::Prepare(ballot) | Message::Accepted(ballot) => ballot.config,
            Message::Promise(promise) => promise.ballot.config,
            Message::Accept(accept) => accept.ballot.config,
            Message::Refused(refused) => refused.config,
            Message::Probe(_)
            | Message::ProbeAck(_)
            | Message::Alerts(_)
            | Message::Pull(_)
            | Message::Views(_)
            | Message::Snapshot(_)
            | Message::Truncated(_)
            | Message::Lookup(_)
            | Message::LookupReply(_)
            | Message::Join(_)
            | Message::Admitted(_)
            | Message::Restarted(_)
            | Message::Leaving(_)
            | Message::Installed(_)
            | Message::Superseded(_) => return,
        };
        if config != self.position().hash {
            self.on_other_configuration(from, config, out);
            return;
        }
        let mut yielded = Vec::new();
        if let Some(consensus) = &mut self.consensus {
            consensus.on_message(self.now, from.node, message, &mut self.rng, &mut yielded);
        }
        self.carry_out(yielded, out);
    }

    fn carry_out(&mut self, yielded: Vec<Output>, out: &mut Effects) {
        for output in yielded {
            match output {
                Output::Persist(state) => {
                    self.acceptor = Some(state.clone());
                    let (config, writes) = (state.config, state.writes);
                    let awaited = Awaited::Acceptor { config, writes };
                    self.persist(Record::Acceptor(state), awaited, out);
                }
                Output::Send { to, message } => {
                    let to = self.voter_destination(to);
                    out.extend(to.map(|to| Effect::Send { to, message }));
                }
                Output::Broadcast(message) => {
                    let to = self.view().map(|view| view.voter_destinations());
                    let others = to.filter(|to| to.len() > 1);
                    out.extend(others.map(|to| Effect::SendMany { to, message }));
                }
                Output::Decided(view) => {
                    self.accept_view(view, out);
                }
                Output::TwoVotes(voter) => {
                    let node = self
                        .view()
                        .and_then(|v| v.voters().get(voter as usize).copied());
                    if let Some(node) = node {
                        self.alarm_once(node, Alarm::TwoVotes { voter }, out);
                    }
                }
                Output::Voted | Output::Missing(_) => {}
            }
        }
    }

    fn voter_destination(&self, node: NodeId) -> Option<Destination> {
        self.view()?.slot(node).map(|slot| slot.destination())
    }
}
