//! The asker's side: finding the shard's leader, and waiting for its answer.
//!
//! An order is sent to one node at a time. It is sent again only after an answer that proves that
//! nothing happened; if no answer comes, what became of it is unknown, and the asker is told so.

use std::collections::BTreeMap;

use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::ShardDescriptor;

use super::{Order, Refusal};

/// How long a shard has for a step.
const PATIENCE_US: u64 = 10_000_000;
/// The pause before a node is asked that may not lead either.
const PAUSE_US: u64 = 50_000;
/// Orders that wait; beyond it new ones are refused as busy.
const WAITING_MAX: usize = 4_096;

/// Names an order of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

#[derive(Debug)]
struct Waiting {
    order: Order,
    deadline_us: u64,
    /// When to look for the leader (again).
    due_us: u64,
    /// Whom it was sent to.
    sent: Option<NodeId>,
    hint: Option<NodeId>,
    attempts: usize,
}

/// The orders of one node.
#[derive(Debug)]
pub struct Orders {
    waiting: BTreeMap<OrderId, Waiting>,
    done: Vec<(OrderId, Result<ShardDescriptor, Refusal>)>,
    next: u64,
}

impl Orders {
    /// No orders. Ids begin at the boot's nonce: answers to an earlier boot fit none of this one.
    pub fn new(boot_nonce: u64) -> Orders {
        Orders {
            waiting: BTreeMap::new(),
            done: Vec::new(),
            next: boot_nonce,
        }
    }

    /// Takes an order; its end comes with [`Orders::take_done`], within ten seconds.
    pub fn submit(&mut self, now_us: u64, order: Order) -> OrderId {
        let id = OrderId(self.next);
        self.next = self.next.wrapping_add(1);
        if self.waiting.len() >= WAITING_MAX {
            self.done.push((id, Err(Refusal::Busy)));
            return id;
        }
        self.waiting.insert(
            id,
            Waiting {
                order,
                deadline_us: now_us + PATIENCE_US,
                due_us: now_us,
                sent: None,
                hint: None,
                attempts: 0,
            },
        );
        id
    }

    /// What has ended since the last time.
    pub fn take_done(&mut self) -> Vec<(OrderId, Result<ShardDescriptor, Refusal>)> {
        std::mem::take(&mut self.done)
    }

    /// Whether anything waits or has ended.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.done.is_empty()
    }

    /// The shards whose leaders are to be asked now.
    pub fn asking(&self, now_us: u64) -> impl Iterator<Item = ShardId> + '_ {
        let waiting = self.waiting.values();
        waiting
            .filter(move |waiting| waiting.sent.is_none() && now_us >= waiting.due_us)
            .map(|waiting| waiting.order.shard)
    }

    /// The orders that are to be sent now. `leader` is who is thought to lead a shard, `shard` what
    /// is known of one.
    pub fn due<'a>(
        &mut self,
        now_us: u64,
        leader: impl Fn(ShardId) -> Option<NodeId>,
        shard: impl Fn(ShardId) -> Option<&'a ShardDescriptor>,
    ) -> Vec<(NodeId, OrderId, Order)> {
        let mut late = Vec::new();
        let mut sends = Vec::new();
        for (id, waiting) in &mut self.waiting {
            if now_us >= waiting.deadline_us {
                late.push(*id);
                continue;
            }
            if waiting.sent.is_some() || now_us < waiting.due_us {
                continue;
            }
            let of = waiting.order.shard;
            let in_turn = || {
                let replicas = &shard(of)?.replicas;
                let place = waiting.attempts % replicas.len().max(1);
                replicas.get(place).map(|replica| replica.node)
            };
            let known = waiting.hint.take().or_else(|| {
                let first = waiting.attempts == 0;
                leader(of).filter(|_| first)
            });
            let Some(node) = known.or_else(in_turn) else {
                waiting.due_us = now_us + PAUSE_US;
                continue;
            };
            waiting.attempts += 1;
            waiting.sent = Some(node);
            sends.push((node, *id, waiting.order.clone()));
        }
        for id in late {
            if let Some(waiting) = self.waiting.remove(&id) {
                let end = match waiting.sent {
                    Some(_) => Refusal::Unknown,
                    None => Refusal::NotLeader { hint: None },
                };
                self.done.push((id, Err(end)));
            }
        }
        sends
    }

    /// An order never left for the node.
    pub fn unsent(&mut self, now_us: u64, id: OrderId) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.sent = None;
            waiting.due_us = now_us + PAUSE_US;
        }
    }

    /// A node has answered.
    pub fn answered(
        &mut self,
        now_us: u64,
        from: NodeId,
        id: OrderId,
        end: Result<ShardDescriptor, Refusal>,
    ) {
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return;
        };
        if waiting.sent != Some(from) {
            return;
        }
        if let Err(Refusal::NotLeader { hint }) = end {
            waiting.sent = None;
            waiting.hint = hint.filter(|hint| *hint != from);
            waiting.due_us = match waiting.hint {
                Some(_) if waiting.attempts < 3 => now_us,
                Some(_) | None => now_us + PAUSE_US,
            };
            return;
        }
        self.waiting.remove(&id);
        self.done.push((id, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Step;
    use synod_storage::{KeyRange, ReplicaId};
    use synod_txn::{Replica, ReplicaRole};

    fn descriptor() -> ShardDescriptor {
        ShardDescriptor {
            shard: ShardId(1),
            epoch: 1,
            range: KeyRange::all(),
            replicas: (1..=3)
                .map(|i| Replica {
                    replica: ReplicaId(i),
                    node: NodeId(u128::from(i)),
                    role: ReplicaRole::Voter,
                })
                .collect(),
        }
    }

    fn order() -> Order {
        Order {
            shard: ShardId(1),
            epoch: 1,
            authority: None,
            step: Step::Transfer { to: ReplicaId(2) },
        }
    }

    #[test]
    fn hints_are_followed_and_silence_is_unknown() {
        let known = descriptor();
        let mut orders = Orders::new(u64::MAX);
        let id = orders.submit(0, order());
        let due =
            |orders: &mut Orders, now_us| orders.due(now_us, |_| Some(NodeId(1)), |_| Some(&known));
        let sent = due(&mut orders, 0);
        assert_eq!((sent[0].0, sent[0].1), (NodeId(1), id));
        assert!(due(&mut orders, 1).is_empty(), "one node at a time");
        let hint = Some(NodeId(3));
        orders.answered(2, NodeId(2), id, Err(Refusal::Busy));
        orders.answered(2, NodeId(1), id, Err(Refusal::NotLeader { hint }));
        assert_eq!(due(&mut orders, 2)[0].0, NodeId(3));
        assert!(due(&mut orders, PATIENCE_US).is_empty());
        assert_eq!(orders.take_done(), vec![(id, Err(Refusal::Unknown))]);
        assert!(orders.is_idle());
    }

    #[test]
    fn an_answer_ends_it() {
        let known = descriptor();
        let mut orders = Orders::new(0);
        let id = orders.submit(0, order());
        orders.due(0, |_| None, |_| Some(&known));
        orders.answered(1, NodeId(1), id, Ok(known.clone()));
        assert_eq!(orders.take_done(), vec![(id, Ok(known))]);
    }
}
