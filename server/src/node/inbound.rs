//! What the transport brings: frames of peers, and news of connections.

use bytes::Bytes;
use synod_membership::id::Identity as PeerIdentity;
use synod_replication::{Event as ReplicationEvent, Incarnation, Message, NodeId};
use synod_txn::{Now, Request, Response};
use tracing::{info, warn};

use super::turn::{Effects, Node, Origin};
use super::{NodeError, forming};
use crate::transport::{self, Cause, Class, Delivery, Inbound, Kind};
use crate::{directory, formation, gateway, shards};

impl Node {
    pub(super) fn receive(
        &mut self,
        now: Now,
        inbound: Inbound,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match inbound {
            Inbound::Frame { peer, kind, body } => {
                self.learn_stranger(&peer);
                if let Err(reason) = self.frame(now, peer, kind, &body, effects) {
                    warn!(from = %peer.address, node = %peer.node, "dropped a frame: {reason}");
                }
            }
            Inbound::Reached { peer, class, .. } => self.reached(now, peer, class, effects),
            Inbound::Lost {
                destination,
                class,
                cause,
                delivery,
            } => {
                let peer = destination.address;
                match &cause {
                    Cause::RefusedThere(refusal) => self.refusals.note(
                        now.monotonic,
                        refusal,
                        &format!("the node at {peer} refuses to talk to this one"),
                    ),
                    Cause::RefusedHere(refusal) => self.refusals.note(
                        now.monotonic,
                        refusal,
                        &format!("this node cannot talk to the one at {peer}"),
                    ),
                    Cause::Gone | Cause::Silent => {}
                }
                if let Some(node) = destination.node {
                    self.lost(now, NodeId(node.0), class, delivery, effects);
                }
                self.transport.resume(destination, class);
                if class == Class::Control {
                    self.contact_failed(now, destination, cause, effects)?;
                }
            }
            Inbound::TurnedAway { address, refusal } => self.refusals.note(
                now.monotonic,
                &refusal,
                &format!("a node at {address} was turned away"),
            ),
            // The other direction is ours and reports for itself; answers may be lost, though.
            Inbound::Closed {
                peer,
                class: Class::Forward,
            } => {
                let event = gateway::Event::Lost(NodeId(peer.node.0), Delivery::Unknown);
                self.gateway.step(now, event, &mut effects.gateway);
            }
            Inbound::Closed {
                class: Class::Control | Class::Bulk,
                ..
            } => {}
        }
        Ok(())
    }

    pub(super) fn frame(
        &mut self,
        now: Now,
        peer: PeerIdentity,
        kind: Kind,
        body: &Bytes,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let from = NodeId(peer.node.0);
        match kind {
            Kind::Raft => {
                let message = Message::decode(body).map_err(|e| e.to_string())?;
                let event = ReplicationEvent::Receive { from, message };
                self.step_replication(now, event, effects);
            }
            Kind::Requests => {
                let requests: Vec<Request> =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                for request in requests {
                    self.request(now, from, request, effects);
                }
            }
            Kind::Withdrawals => {
                let ids: Vec<u64> = transport::decode(kind, body).map_err(|e| e.to_string())?;
                let origins = ids.into_iter().map(|id| Origin { node: from, id });
                self.withdrawn.extend(origins);
            }
            Kind::Responses => {
                let responses: Vec<Response> =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                for response in responses {
                    self.participant.merge_hlc(response.hlc);
                    if self.take_written(now, from, &response) {
                        continue;
                    }
                    let event = gateway::Event::Response(from, response);
                    self.gateway.step(now, event, &mut effects.gateway);
                }
            }
            Kind::Formation => {
                let message: formation::Message =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                if let Some(answer) = formation::answer(&self.founding, &message) {
                    forming::send(&self.transport, peer.address, &answer);
                }
            }
            Kind::Membership => self.membership_frame(now, peer, body, effects)?,
            Kind::Directory => {
                let message: directory::Message =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                self.told(now, from, message);
            }
            Kind::Shards => {
                let message: shards::Message =
                    transport::decode(kind, body).map_err(|e| e.to_string())?;
                self.shards_message(now, from, message, effects);
            }
            Kind::Hello | Kind::HelloAnswer => return Err("a handshake in mid-stream".to_owned()),
        }
        Ok(())
    }

    pub(super) fn reached(
        &mut self,
        now: Now,
        peer: PeerIdentity,
        class: Class,
        effects: &mut Effects,
    ) {
        let node = NodeId(peer.node.0);
        // It may be met before any view or row tells of it: that it is connected must not be missed.
        self.learn_stranger(&peer);
        let Some(state) = self.peers.get_mut(&node) else {
            return;
        };
        if class != Class::Control {
            return;
        }
        let restarted = state.boot != Some(peer.boot.counter);
        state.boot = Some(peer.boot.counter);
        state.connected = true;
        self.control.reports.missed(node);
        if restarted {
            info!(%node, address = %peer.address, boot = peer.boot.counter, "peer connected");
        }
        let event = ReplicationEvent::PeerStarted {
            node,
            incarnation: Incarnation(peer.boot.counter),
        };
        self.step_replication(now, event, effects);
    }

    pub(super) fn lost(
        &mut self,
        now: Now,
        node: NodeId,
        class: Class,
        delivery: Delivery,
        effects: &mut Effects,
    ) {
        match class {
            Class::Control => {
                if let Some(state) = self.peers.get_mut(&node) {
                    state.connected = false;
                }
                self.step_replication(now, ReplicationEvent::PeerUnreachable { node }, effects);
            }
            Class::Forward => {
                let event = gateway::Event::Lost(node, delivery);
                self.gateway.step(now, event, &mut effects.gateway);
            }
            Class::Bulk => {}
        }
    }
}
