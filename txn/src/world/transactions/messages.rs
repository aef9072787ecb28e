//! The network of the world: messages on their way, late, lost or doubled, and who waits for answers.

use bytes::Bytes;
use rand::Rng;
use synod_storage::{ShardId, Version};

use super::Run;
use super::clients::{Client, State};
use crate::coordinator;
use crate::{Body, Event, Outcome, Reply, Stream, TxnRequest};

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// From a coordinator to a shard.
    Call {
        coordinator: usize,
        call: coordinator::Call,
        shard: ShardId,
        epoch: u64,
        hlc: Version,
        body: Body,
    },
    /// From a shard's leader to another shard.
    Ask {
        node: usize,
        shard: ShardId,
        call: crate::Call,
        key: Bytes,
        body: Body,
    },
    /// Back to a coordinator.
    Answer {
        coordinator: usize,
        call: coordinator::Call,
        hlc: Version,
        outcome: Outcome,
    },
    /// Back to a leader.
    Told {
        node: usize,
        shard: ShardId,
        call: crate::Call,
        outcome: Outcome,
    },
}

/// Who waits for the response to a token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    Coordinator(usize, coordinator::Call),
    Leader(usize, ShardId, crate::Call),
    Client(usize),
}

/// Whether a message may come twice. What is carried out in one step is not told apart from a second
/// wish for the same: the transport does not double those, and gateways do not send them again.
pub(super) fn is_idempotent(message: &Message) -> bool {
    match message {
        Message::Call {
            body: Body::Txn(request),
            ..
        } => !matches!(request, TxnRequest::Execute { .. }),
        Message::Call {
            body: Body::Command(_),
            ..
        } => false,
        Message::Ask { .. } | Message::Answer { .. } | Message::Told { .. } => true,
    }
}

impl Run {
    /// Passes responses of participants on.
    pub(super) fn collect(&mut self) {
        for (token, outcome) in std::mem::take(&mut self.world.responses) {
            let Some((waiting, node)) = self.waiting.remove(&token) else {
                continue;
            };
            let hlc = self.world.nodes[node].participant.hlc();
            match waiting {
                Waiting::Coordinator(coordinator, call) => {
                    self.messages.push(Message::Answer {
                        coordinator,
                        call,
                        hlc,
                        outcome,
                    });
                }
                Waiting::Leader(node, shard, call) => {
                    self.messages.push(Message::Told {
                        node,
                        shard,
                        call,
                        outcome,
                    });
                }
                Waiting::Client(client) => {
                    let Client::Waiting(txn) = self.clients[client] else {
                        panic!("nobody waits")
                    };
                    self.clients[client] = Client::Idle;
                    let txn = &mut self.txns[txn];
                    txn.ended_at = Some(self.clock);
                    txn.state = match outcome {
                        Outcome::Reply(Reply::Error { .. }) => State::Failed,
                        Outcome::Reply(reply) => {
                            txn.ops[0].answered(&reply);
                            State::Committed
                        }
                        Outcome::Unknown => State::Unknown,
                        outcome if outcome.is_retryable() => State::Failed,
                        outcome => panic!("{outcome:?}"),
                    };
                }
            }
        }
        while let Some((node, shard, call, key, body)) = self.world.calls.pop_front() {
            self.messages.push(Message::Ask {
                node,
                shard,
                call,
                key,
                body,
            });
        }
    }

    /// Delivers a message.
    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::Call {
                coordinator,
                call,
                shard,
                epoch,
                hlc,
                body,
            } => {
                let node = self.leader_or_not(shard);
                self.world.nodes[node].participant.merge_hlc(hlc);
                let routed = (shard, epoch);
                let token = self.world.send_routed(node, routed, body, Stream::NONE);
                self.waiting
                    .insert(token, (Waiting::Coordinator(coordinator, call), node));
            }
            Message::Ask {
                node: asker,
                shard: of,
                call,
                key,
                body,
            } => {
                let Some(shard) = self.world.map.locate(&key).map(|it| it.shard) else {
                    // Split off, and not begun yet: it is asked again.
                    return;
                };
                let node = self.leader_or_not(shard);
                let token = self.world.send(node, shard, body, Stream::NONE);
                self.waiting
                    .insert(token, (Waiting::Leader(asker, of, call), node));
            }
            Message::Answer {
                coordinator,
                call,
                hlc,
                outcome,
            } => {
                self.coordinators[coordinator].merge_hlc(hlc);
                self.coordinate(coordinator, coordinator::Event::Answered { call, outcome });
            }
            Message::Told {
                node,
                shard,
                call,
                outcome,
            } => {
                self.world.step(
                    node,
                    Event::Called {
                        shard,
                        call,
                        outcome,
                    },
                );
            }
        }
        self.collect();
    }

    pub(super) fn leader_or_not(&mut self, shard: ShardId) -> usize {
        let leader = self.world.logs[&shard].leader.unwrap();
        match self.faults && self.rng.random_ratio(1, 8) {
            true => self
                .deaf
                .get(&shard)
                .map_or(self.rng.random_range(0..3), |(deaf, _)| *deaf),
            false => leader,
        }
    }
}
