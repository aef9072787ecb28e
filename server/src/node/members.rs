//! The membership's place in the loop: what it is told, and what it wants done.

use bytes::Bytes;
use synod_membership::codec::Decode;
use synod_membership::effect::{Alarm, Effect, Halt, Suspended};
use synod_membership::event::Event;
use synod_membership::id::{Destination, Identity as PeerIdentity};
use synod_membership::member::Member;
use synod_membership::message::{Message, Probe, ProbeAck};
use synod_membership::time::Time;
use synod_membership::view::ViewChange;
use synod_replication::{Event as ReplicationEvent, Incarnation, NodeId};
use synod_txn::{Now, Reply};
use tracing::{error, info, warn};

use super::NodeError;
use super::turn::{Effects, Node, PeerState};
use crate::membership::{self, DISK_STALLED_US};
use crate::transport::{Cause, Class, Frame, Refusal};

/// Nodes whose addresses are remembered, members or not.
const PEERS_MAX: usize = 10_000;

impl Node {
    /// Gives the membership an event; what it wants done is done in [`Node::settle`].
    pub(super) fn step_membership(&mut self, now: Now, event: Event, effects: &mut Effects) {
        let time = Time(now.monotonic.0);
        self.membership.step(time, event, &mut effects.membership);
    }

    /// A frame of kind `Membership`.
    pub(super) fn membership_frame(
        &mut self,
        now: Now,
        peer: PeerIdentity,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), String> {
        let message = Message::from_bytes(body).map_err(|e| e.to_string())?;
        if let Message::Probe(Probe { seq, tag, .. }) | Message::ProbeAck(ProbeAck { seq, tag, .. }) =
            &message
            && let Some(state) = self.peers.get_mut(&NodeId(peer.node.0))
        {
            state.view = Some((*seq, *tag));
        }
        let event = Event::Message {
            from: peer,
            message,
        };
        self.step_membership(now, event, effects);
        Ok(())
    }

    /// What its lane has written, what is due, and how the disk does.
    pub(super) fn tick_membership(&mut self, now: Now, effects: &mut Effects) {
        if self.membership.is_due(Time(now.monotonic.0)) {
            self.step_membership(now, Event::Tick, effects);
        }
        let waiting = [
            self.membership_writer.waiting_since_us(),
            self.log_waiting_since_us,
        ];
        let oldest = waiting.into_iter().flatten().min();
        let stalled = oldest.is_some_and(|since| now.monotonic.0 > since + DISK_STALLED_US);
        if stalled != self.disk_stalled {
            self.disk_stalled = stalled;
            self.step_membership(now, Event::DiskStalled(stalled), effects);
        }
    }

    /// Confirms what is durable by now.
    pub(super) fn take_membership_writes(&mut self, now: Now, effects: &mut Effects) {
        for (token, outcome) in self.membership_writer.finished() {
            let event = match outcome {
                Ok(()) => Event::Persisted(token),
                Err(error) => {
                    error!("cannot write the membership's state: {error}");
                    Event::PersistFailed(token)
                }
            };
            self.step_membership(now, event, effects);
        }
    }

    pub(super) fn carry_membership(
        &mut self,
        now: Now,
        effect: Effect,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match effect {
            Effect::Identity(identity) => {
                self.transport.introduce(identity);
                if self.me.boot != identity.boot {
                    self.me.boot = identity.boot;
                    self.record.generation = identity.boot.counter;
                    self.register(now);
                }
            }
            Effect::Send { to, message } => {
                if let Some(frame) = membership_frame(&message) {
                    self.send_membership(to, frame);
                }
            }
            Effect::SendMany { to, message } => {
                if let Some(frame) = membership_frame(&message) {
                    let me = self.me.node;
                    for to in to.iter().filter(|to| to.node != Some(me)) {
                        self.send_membership(*to, frame.clone());
                    }
                }
            }
            Effect::Persist { token, record } => {
                self.membership_writer
                    .submit(now.monotonic.0, token, record)?;
            }
            Effect::Install(change) => self.install(now, change, effects),
            Effect::Suspend(why) => {
                match why {
                    Suspended::NoMajority => warn!("no majority of the members can be heard"),
                    Suspended::BootNotListed => info!("waiting for a view that lists this boot"),
                    Suspended::LeftOut => warn!("the next view does not list this node"),
                }
                self.update_serving();
            }
            Effect::Resume => {
                info!("the membership lets clients be served here");
                self.update_serving();
                // The join may have taken longer than a row is tried to be written.
                self.register(now);
            }
            Effect::Removed(at) => {
                warn!(
                    seq = at.seq,
                    "this node is no longer a member: it serves no clients; its replicas go on \
                     voting, and it asks to come back by itself"
                );
                self.membership.views_mut().end();
                self.update_serving();
            }
            Effect::Left(at) => {
                info!(seq = at.seq, "this node has left the cluster");
                self.update_serving();
            }
            Effect::Alarm(alarm) => {
                error!("membership: {}", describe(&alarm));
                self.membership.note_alarm(alarm);
            }
            Effect::Halt(halt) => return Err(stopped_by(halt)),
        }
        Ok(())
    }

    fn send_membership(&self, to: Destination, frame: Frame) {
        // Whatever finds no room is repeated by the protocol.
        let _ = self.transport.send(to, Class::Control, frame);
    }

    /// A view is in force.
    fn install(&mut self, now: Now, change: ViewChange, effects: &mut Effects) {
        let configuration = change.configuration.clone();
        info!(
            seq = configuration.seq(),
            hash = %configuration.hash(),
            members = configuration.members().len(),
            joined = change.joined.len(),
            left = change.left.len(),
            restarted = change.restarted.len(),
            "view installed"
        );
        let me = self.me.node;
        for member in configuration.members().iter().filter(|m| m.node != me) {
            self.learn(member);
        }
        // Hints that wake sleeping groups: no view changes a vote.
        let gone: Vec<NodeId> = change.left.iter().map(|gone| NodeId(gone.node.0)).collect();
        for node in gone {
            if configuration
                .index_of(synod_membership::id::NodeId(node.0))
                .is_none()
            {
                let event = ReplicationEvent::PeerRemoved { node };
                self.step_replication(now, event, effects);
            }
        }
        for member in change.restarted.iter().filter(|m| m.node != me) {
            let node = NodeId(member.node.0);
            let newest = self.peers.get(&node).and_then(|peer| peer.boot);
            if newest.is_none_or(|known| known <= member.boot.counter) {
                let incarnation = Incarnation(member.boot.counter);
                let event = ReplicationEvent::PeerStarted { node, incarnation };
                self.step_replication(now, event, effects);
            }
        }
        self.membership.views_mut().publish(change);
        self.update_serving();
        // Whoever has just come does not know where the shards are by now.
        self.ask_for_map(now);
    }

    /// Where a member is, by the view.
    fn learn(&mut self, member: &Member) {
        let node = NodeId(member.node.0);
        let known = self.peers.entry(node).or_insert(PeerState {
            address: member.address,
            boot: None,
            connected: false,
            view: None,
        });
        if known.address != member.address {
            let old = Destination {
                node: Some(member.node),
                address: known.address,
            };
            known.address = member.address;
            self.transport.forget(old);
        }
    }

    /// A node that no view here lists talks to this one: its replicas may still vote, so its address
    /// is worth knowing.
    pub(super) fn learn_stranger(&mut self, peer: &PeerIdentity) {
        let ours = peer
            .cluster
            .is_some_and(|cluster| cluster.0 == self.founding.cluster);
        let node = NodeId(peer.node.0);
        if ours && peer.node != self.me.node && self.peers.len() < PEERS_MAX {
            self.peers.entry(node).or_insert(PeerState {
                address: peer.address,
                boot: None,
                connected: false,
                view: None,
            });
        }
    }

    /// A control connection was lost: what that says about the peer's process.
    pub(super) fn contact_failed(
        &mut self,
        now: Now,
        to: Destination,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        if let Cause::RefusedThere(refusal) = &cause {
            self.heed(refusal)?;
        }
        let contact = membership::contact(&cause);
        let event = Event::ContactFailed { to, contact };
        self.step_membership(now, event, effects);
        Ok(())
    }

    /// A peer refuses this very boot: another process runs, or ran, on a copy of this directory.
    fn heed(&self, refusal: &Refusal) -> Result<(), NodeError> {
        let mine = self.me.boot.counter;
        match refusal {
            Refusal::StaleBoot { offered, .. } if *offered == mine => {
                Err(NodeError::Broken(format!("a peer refuses it: {refusal}")))
            }
            Refusal::ClonedDirectory { counter } if *counter == mine => {
                Err(NodeError::Broken(format!("a peer refuses it: {refusal}")))
            }
            // About a boot that this process has left behind, or about the address.
            Refusal::StaleBoot { .. }
            | Refusal::ClonedDirectory { .. }
            | Refusal::OtherCluster { .. }
            | Refusal::OtherVersion { .. }
            | Refusal::OtherNode { .. } => Ok(()),
        }
    }

    /// `SYNOD LEAVE [FORCE]`: this node goes for good. Its process ends when a view without it is
    /// certified.
    pub(super) fn leave(&mut self, now: Now, args: &[Bytes], effects: &mut Effects) -> Reply {
        let force = match args {
            [] => false,
            [word] if word.eq_ignore_ascii_case(b"FORCE") => true,
            _ => return Reply::err("SYNOD LEAVE [FORCE]"),
        };
        let replicas = self.replication.shards().count();
        if replicas > 0 && !force {
            return Reply::err(format!(
                "{replicas} replicas live on this node: move them away first, or LEAVE FORCE, which \
                 leaves their shards with so many fewer copies; nothing was done"
            ));
        }
        let members = self
            .membership
            .view()
            .map_or(0, |view| view.members().len());
        if members <= 1 {
            return Reply::err("this node is the only member: stop it instead; nothing was done");
        }
        self.step_membership(now, Event::Leave, effects);
        Reply::Status("leaving".into())
    }

    /// Opens or closes the gateway, as the membership has it.
    pub(super) fn update_serving(&mut self) {
        self.gateway.close(self.membership.why_closed());
    }
}

fn membership_frame(message: &Message) -> Option<Frame> {
    membership::frame(message)
        .inspect_err(|error| error!("cannot send a {}: {error}", message.kind()))
        .ok()
}

/// An alarm in words.
pub(super) fn describe(alarm: &Alarm) -> String {
    match alarm {
        Alarm::ConflictingHash { peer, seq } => format!(
            "node {peer} holds another view {seq} than this node: it is not listened to any more"
        ),
        Alarm::ForeignCluster { cluster, node } => format!(
            "node {node}, or whoever has its address, belongs to another cluster ({cluster}): check \
             the addresses; if this cluster is new, it may have been formed in place of an older one"
        ),
        Alarm::TwoVotes { voter } => format!(
            "voter {voter} has voted for two values: two processes run on copies of one directory"
        ),
        Alarm::Impostor(node) => format!(
            "the directory of node {node} was copied or rolled back: its process is refused; start \
             the copy with an empty directory instead"
        ),
    }
}

fn stopped_by(halt: Halt) -> NodeError {
    let reason = match halt {
        Halt::PersistFailed => return NodeError::Unsaved,
        Halt::Superseded => "a newer boot of this directory is a member: the directory was copied \
            or rolled back; start the copy with an empty directory instead"
            .to_owned(),
        Halt::ConflictingCertificate(seq) => {
            format!("two different views {seq} are certified: the cluster's history has parted")
        }
        Halt::BrokenChain(seq) => format!(
            "the directory's view {seq} does not follow from the one before: move the directory \
             away and start anew to join as a new node"
        ),
        Halt::ForeignCluster(cluster) => {
            format!("the nodes to join belong to another cluster ({cluster}) than this directory")
        }
        Halt::NotApplicable => {
            "the directory holds a cluster's state of which this node is no part".to_owned()
        }
    };
    NodeError::Broken(reason)
}
