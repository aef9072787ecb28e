//! `SYNOD SHARD …`: orders that an operator gives by hand.
//!
//! ```text
//! SYNOD SHARD SPLIT key                   the shard that has the key is split there
//! SYNOD SHARD MERGE shard                 with the next one in key order
//! SYNOD SHARD MOVE shard from to          a replica, from node to node; answers when it is there
//! SYNOD SHARD TRANSFER shard node         the leadership
//! SYNOD SHARD ADD shard node              a learner
//! SYNOD SHARD PROMOTE|DEMOTE|REMOVE shard node
//! ```
//!
//! Nodes are named by their ids, or the first digits of them. An order by hand names the epoch that
//! this node knows and no controller. Refusals that pass by themselves are waited out, within the
//! command's time.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{ErrorCode, Now, Reply, ShardDescriptor};

use super::turn::{Effects, Node};
use crate::gateway::Asked;
use crate::shards::relocate::{self, Next};
use crate::shards::{Change, Order, OrderId, Refusal, Step};

/// How long one step is tried.
const STEP_PATIENCE_US: u64 = 15_000_000;
/// How long a move may take.
const MOVE_PATIENCE_US: u64 = 900_000_000;
/// The pause before a step is tried again.
const PAUSE_US: u64 = 50_000;
/// Commands under way.
const TASKS_MAX: usize = 256;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// This step, once, in the epoch that is known when it is sent.
    Once(Step),
    /// A replica on another node.
    Moved { from: NodeId, to: NodeId },
}

/// A command under way.
#[derive(Debug)]
struct Task {
    asked: Asked,
    shard: ShardId,
    goal: Goal,
    order: Option<OrderId>,
    due_us: u64,
    deadline_us: u64,
}

/// Commands under way.
#[derive(Debug, Default)]
pub(super) struct ByHand {
    tasks: BTreeMap<u64, Task>,
    next: u64,
}

impl ByHand {
    /// Whether no command is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Node {
    /// Takes a `SYNOD SHARD` command; an error is its answer.
    pub(super) fn by_hand(&mut self, now: Now, asked: Asked, args: &[Bytes]) -> Result<(), Reply> {
        if self.by_hand.tasks.len() >= TASKS_MAX {
            let message = "too many orders are under way; nothing was done";
            return Err(Reply::error(ErrorCode::TryAgain, message));
        }
        let (shard, goal) = self.parse_order(args).map_err(Reply::err)?;
        let patience_us = match goal {
            Goal::Once(_) => STEP_PATIENCE_US,
            Goal::Moved { .. } => MOVE_PATIENCE_US,
        };
        let task = Task {
            asked,
            shard,
            goal,
            order: None,
            due_us: now.monotonic.0,
            deadline_us: now.monotonic.0 + patience_us,
        };
        self.by_hand.next += 1;
        self.by_hand.tasks.insert(self.by_hand.next, task);
        Ok(())
    }

    fn parse_order(&self, args: &[Bytes]) -> Result<(ShardId, Goal), String> {
        const USAGE: &str = "SYNOD SHARD SPLIT key | MERGE shard | MOVE shard from to | \
            TRANSFER|ADD|PROMOTE|DEMOTE|REMOVE shard node";
        let (verb, rest) = args.split_first().ok_or(USAGE)?;
        let verb = verb.to_ascii_uppercase();
        let once = |shard, step| Ok((shard, Goal::Once(step)));
        match (verb.as_slice(), rest) {
            (b"SPLIT", [key]) => {
                let descriptor = self.gateway.map().locate(key);
                let descriptor = descriptor.ok_or("no shard is known to have this key")?;
                once(descriptor.shard, Step::Split { at: key.to_vec() })
            }
            (b"MERGE", [shard]) => once(self.shard_of(shard)?.shard, Step::Merge),
            (b"MOVE", [shard, from, to]) => {
                let shard = self.shard_of(shard)?.shard;
                let (from, to) = (self.node_of(from)?, self.node_of(to)?);
                Ok((shard, Goal::Moved { from, to }))
            }
            (b"ADD", [shard, node]) => {
                let node = self.node_of(node)?;
                let add = Change::AddLearner { node };
                once(self.shard_of(shard)?.shard, Step::Change(vec![add]))
            }
            (b"TRANSFER", [shard, node]) => {
                let (shard, to) = self.replica_of(shard, node)?;
                once(shard, Step::Transfer { to })
            }
            (verb @ (b"PROMOTE" | b"DEMOTE" | b"REMOVE"), [shard, node]) => {
                let (shard, replica) = self.replica_of(shard, node)?;
                let change = match verb {
                    b"PROMOTE" => Change::Promote { replica },
                    b"DEMOTE" => Change::Demote { replica },
                    _ => Change::Remove { replica },
                };
                once(shard, Step::Change(vec![change]))
            }
            _ => Err(USAGE.to_owned()),
        }
    }

    fn shard_of(&self, word: &Bytes) -> Result<&ShardDescriptor, String> {
        let number = std::str::from_utf8(word)
            .ok()
            .and_then(|it| it.parse().ok());
        let shown = word.escape_ascii();
        let number = number.ok_or_else(|| format!("'{shown}' is not a shard's number"))?;
        self.directory
            .shard(ShardId(number))
            .ok_or_else(|| format!("shard {number} is not known"))
    }

    /// The node whose id begins with these digits.
    pub(super) fn node_of(&self, word: &Bytes) -> Result<NodeId, String> {
        let shown = word.escape_ascii();
        let digits = std::str::from_utf8(word).unwrap_or_default();
        let known = self.peers.keys().copied().chain([self.id()]);
        let mut fits =
            known.filter(|node| !digits.is_empty() && node.to_string().starts_with(digits));
        match (fits.next(), fits.next()) {
            (Some(node), None) => Ok(node),
            (Some(_), Some(_)) => Err(format!("'{shown}' fits more than one node")),
            (None, _) => Err(format!("'{shown}' fits no node's id")),
        }
    }

    fn replica_of(&self, shard: &Bytes, node: &Bytes) -> Result<(ShardId, ReplicaId), String> {
        let node = self.node_of(node)?;
        let descriptor = self.shard_of(shard)?;
        let mut replicas = descriptor.replicas.iter();
        let replica = replicas.find(|replica| replica.node == node);
        let shard = descriptor.shard;
        let replica =
            replica.ok_or_else(|| format!("node {node} has no replica of shard {shard}"))?;
        Ok((shard, replica.replica))
    }

    /// Moves commands on, and takes in what became of their orders.
    pub(super) fn tick_by_hand(&mut self, now: Now, effects: &mut Effects) {
        let due: Vec<u64> = self
            .by_hand
            .tasks
            .iter()
            .filter(|(_, task)| task.order.is_none() && task.due_us <= now.monotonic.0)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(task) = self.by_hand.tasks.get(&number) else {
                continue;
            };
            let (shard, goal) = (task.shard, task.goal.clone());
            let Some(descriptor) = self.directory.shard(shard) else {
                self.end_by_hand(now, number, Reply::err("the shard is gone"), effects);
                continue;
            };
            let step = match goal {
                Goal::Once(step) => step,
                Goal::Moved { from, to } => {
                    let leader = self.gateway.leader(shard);
                    match relocate::next(descriptor, leader, from, to) {
                        Next::Take(step) => step,
                        Next::Done => {
                            let reply = done(descriptor);
                            self.end_by_hand(now, number, reply, effects);
                            continue;
                        }
                        Next::Impossible(why) => {
                            self.end_by_hand(now, number, Reply::err(why), effects);
                            continue;
                        }
                    }
                }
            };
            let order = Order {
                shard,
                epoch: descriptor.epoch,
                authority: None,
                step,
            };
            let id = self.order(now, order, effects);
            if let Some(task) = self.by_hand.tasks.get_mut(&number) {
                task.order = Some(id);
            }
        }
    }

    /// An order of this node has ended.
    pub(super) fn order_ended(
        &mut self,
        now: Now,
        id: OrderId,
        end: Result<ShardDescriptor, Refusal>,
        effects: &mut Effects,
    ) {
        let mut tasks = self.by_hand.tasks.iter_mut();
        let Some((number, task)) = tasks.find(|(_, task)| task.order == Some(id)) else {
            return;
        };
        let number = *number;
        task.order = None;
        task.due_us = now.monotonic.0 + PAUSE_US;
        let late = now.monotonic.0 >= task.deadline_us;
        let moves = matches!(task.goal, Goal::Moved { .. });
        let refusal = match end {
            Ok(descriptor) => {
                self.learn_shard(descriptor.clone());
                if !moves {
                    self.end_by_hand(now, number, done(&descriptor), effects);
                }
                return;
            }
            Err(refusal) => refusal,
        };
        if let Refusal::StaleEpoch { descriptor } = &refusal {
            self.learn_shard(descriptor.clone());
        }
        let passes = match &refusal {
            Refusal::NotLeader { .. }
            | Refusal::StaleEpoch { .. }
            | Refusal::Busy
            | Refusal::NotCaughtUp { .. } => true,
            // A move looks at the shard again; of another step nobody knows whether it was done.
            Refusal::Unknown => moves,
            // The leader may have changed under a move.
            Refusal::Invalid(_) | Refusal::LosesMajority => moves && !late,
            Refusal::Superseded { .. } => false,
        };
        if passes && !late {
            return;
        }
        let code = match &refusal {
            Refusal::Unknown => ErrorCode::Unknown,
            Refusal::NotLeader { .. }
            | Refusal::StaleEpoch { .. }
            | Refusal::Busy
            | Refusal::NotCaughtUp { .. } => ErrorCode::TryAgain,
            Refusal::Invalid(_) | Refusal::LosesMajority | Refusal::Superseded { .. } => {
                ErrorCode::Err
            }
        };
        let reply = Reply::error(code, refusal.to_string());
        self.end_by_hand(now, number, reply, effects);
    }

    fn end_by_hand(&mut self, now: Now, number: u64, reply: Reply, effects: &mut Effects) {
        if let Some(task) = self.by_hand.tasks.remove(&number) {
            self.answer(now, task.asked, reply, effects);
        }
    }
}

fn done(descriptor: &ShardDescriptor) -> Reply {
    let (shard, epoch) = (descriptor.shard, descriptor.epoch);
    Reply::Status(format!("shard {shard} is at epoch {epoch}").into())
}
