//! What leaves for peers at the end of a turn.

use synod_membership::id::Destination;
use synod_replication::{Message, NodeId};
use synod_txn::Now;
use tracing::error;

use super::turn::{Effects, Node};
use crate::gateway;
use crate::transport::{self, Class, Kind};

impl Node {
    pub(super) fn send_raft(&mut self, to: NodeId, message: &Message) {
        let class = match message.class() {
            synod_replication::Class::Control => Class::Control,
            synod_replication::Class::Bulk => Class::Bulk,
        };
        let frame = message.encode(transport::begin());
        match transport::seal(Kind::Raft, frame) {
            Ok(frame) => {
                // A full queue is a lost message: Raft repeats.
                let _ = self.send_frame(to, class, frame);
            }
            Err(error) => error!(%to, "cannot send a Raft message: {error}"),
        }
    }

    /// Whether the frame was taken.
    pub(super) fn send_frame(&self, to: NodeId, class: Class, frame: transport::Frame) -> bool {
        let Some(peer) = self.peers.get(&to) else {
            return false;
        };
        let node = Some(synod_membership::id::NodeId(to.0));
        let destination = Destination {
            node,
            address: peer.address,
        };
        self.transport.send(destination, class, frame).is_ok()
    }

    /// Sends the turn's requests and answers, one frame a peer. Whether some requests could not
    /// be sent: the gateway knows by then, and may have new ones.
    pub(super) fn send(&mut self, now: Now, effects: &mut Effects) -> bool {
        for (node, responses) in std::mem::take(&mut self.outgoing.responses) {
            // Answers that find no room are lost like those on a broken connection: the gateway
            // that waits learns it by time, and tells its clients what it does not know.
            self.send_batch(node, Kind::Responses, &responses);
        }
        let mut unsent = false;
        for (node, requests) in std::mem::take(&mut self.outgoing.requests) {
            if !self.send_batch(node, Kind::Requests, &requests) {
                let ids = requests.iter().map(|request| request.id).collect();
                let event = gateway::Event::Unsent(node, ids);
                self.gateway.step(now, event, &mut effects.gateway);
                unsent = true;
            }
        }
        // Behind the requests that they are about. What is lost of them costs only what it would have saved.
        for (node, withdrawals) in std::mem::take(&mut self.outgoing.withdrawals) {
            self.send_batch(node, Kind::Withdrawals, &withdrawals);
        }
        unsent
    }

    /// Whether the batch was taken.
    pub(super) fn send_batch<T>(&self, to: NodeId, kind: Kind, batch: &Vec<T>) -> bool
    where
        Vec<T>: transport::Encodable,
    {
        match transport::encode(kind, batch) {
            Ok(frame) => self.send_frame(to, Class::Forward, frame),
            Err(error) => {
                error!(%to, "cannot send a batch: {error}");
                false
            }
        }
    }
}
