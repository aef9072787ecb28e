//! What is asked of the node itself: `SYNOD …`, from a client of this node.

use bytes::Bytes;
use synod_txn::{Now, Reply};

use super::status;
use super::turn::{Effects, Node};
use crate::directory::NodeState;
use crate::gateway::{self, Asked};

const USAGE: &str = "SYNOD knows: STATUS, SHARD, LEAVE, TABLES, POLICY, EXPLAIN, DRAIN, UNDRAIN, \
    DECOMMISSION";

impl Node {
    /// Answers, or begins what is answered when it ends.
    pub(super) fn asked(&mut self, now: Now, asked: Asked, args: &[Bytes], effects: &mut Effects) {
        let word = args.first().map(|word| word.to_ascii_uppercase());
        let rest = args.get(1..).unwrap_or_default();
        let reply = match (word.as_deref(), rest) {
            (Some(b"STATUS"), []) => status::answer(self),
            (Some(b"SHARD"), order) => match self.by_hand(now, asked, order) {
                Ok(()) => return,
                Err(refused) => refused,
            },
            (Some(b"LEAVE"), how) => self.leave(now, how, effects),
            (Some(b"TABLES"), names) => self.tables(names),
            (Some(b"POLICY"), what) => match self.policy(asked, what) {
                Some(reply) => reply,
                None => return,
            },
            (Some(b"EXPLAIN"), what) => match self.explain(asked, what) {
                Some(reply) => reply,
                None => return,
            },
            (Some(b"DRAIN"), node) => self.set_state(now, NodeState::Draining, node),
            (Some(b"UNDRAIN"), node) => self.set_state(now, NodeState::Up, node),
            (Some(b"DECOMMISSION"), node) => self.set_state(now, NodeState::Decommissioned, node),
            _ => Reply::err(USAGE),
        };
        self.answer(now, asked, reply, effects);
    }

    /// Gives the answer, now or when it is there.
    pub(super) fn answer(&mut self, now: Now, asked: Asked, reply: Reply, effects: &mut Effects) {
        let event = gateway::Event::Answered(asked, reply);
        self.gateway.step(now, event, &mut effects.gateway);
    }
}
