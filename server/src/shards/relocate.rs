//! Moving a replica from one node to another, by hand: the next step, from the shard as it is.
//!
//! Each step follows from the descriptor alone, so a move goes on wherever it stands, whatever became
//! of the order before. The copy is added and catches up before anything is taken away; where it can
//! be, the copy gets its vote and the old replica loses its own in one joint change.

use synod_replication::NodeId;
use synod_txn::{Replica, ReplicaRole, ShardDescriptor};

use super::{Change, Step};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the replica has moved.
    Done,
    /// This.
    Take(Step),
    /// It cannot be done.
    Impossible(String),
}

/// The next step of moving the replica on `from` to `to`. `leader` is who leads the shard, if known.
pub fn next(
    descriptor: &ShardDescriptor,
    leader: Option<NodeId>,
    from: NodeId,
    to: NodeId,
) -> Next {
    let on = |node: NodeId| descriptor.replicas.iter().find(|it| it.node == node);
    let change = |change: Change| Next::Take(Step::Change(vec![change]));
    if from == to {
        return Next::Impossible("a replica does not move to the node it is on".to_owned());
    }
    let shard = descriptor.shard;
    match (on(from), on(to)) {
        (None, None) => Next::Impossible(format!("node {from} has no replica of shard {shard}")),
        (None, Some(_)) => Next::Done,
        (Some(_), None) => change(Change::AddLearner { node: to }),
        (Some(old), Some(new)) => with_both(*old, *new, leader == Some(from)),
    }
}

fn with_both(old: Replica, new: Replica, old_leads: bool) -> Next {
    let promote = Change::Promote {
        replica: new.replica,
    };
    let remove = Change::Remove {
        replica: old.replica,
    };
    Next::Take(match (old.role, new.role) {
        (ReplicaRole::Voter, ReplicaRole::Learner) if old_leads => Step::Change(vec![promote]),
        (ReplicaRole::Voter, ReplicaRole::Learner) => Step::Change(vec![promote, remove]),
        (ReplicaRole::Voter, ReplicaRole::Voter) if old_leads => Step::Transfer { to: new.replica },
        (ReplicaRole::Voter, ReplicaRole::Voter) | (ReplicaRole::Learner, _) => {
            Step::Change(vec![remove])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::ids;
    use synod_storage::{KeyRange, ReplicaId, ShardId};

    const SHARD: ShardId = ShardId(4);

    fn shard(voters: &[u128]) -> ShardDescriptor {
        ShardDescriptor {
            shard: SHARD,
            epoch: 1,
            range: KeyRange::all(),
            replicas: voters
                .iter()
                .map(|node| Replica {
                    replica: ReplicaId(*node as u64),
                    node: NodeId(*node),
                    role: ReplicaRole::Voter,
                })
                .collect(),
        }
    }

    /// Takes steps on paper until the move is done; the most voters and the fewest on the way.
    fn walk(mut it: ShardDescriptor, mut leader: NodeId, from: u128, to: u128) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = match next(&it, Some(leader), NodeId(from), NodeId(to)) {
                Next::Done => return steps,
                Next::Take(step) => step,
                Next::Impossible(why) => panic!("{why}"),
            };
            match &step {
                Step::Change(changes) => {
                    for (i, change) in changes.iter().enumerate() {
                        match *change {
                            Change::AddLearner { node } => it.replicas.push(Replica {
                                replica: ids::replica(SHARD, it.epoch, i).unwrap(),
                                node,
                                role: ReplicaRole::Learner,
                            }),
                            Change::Promote { replica } => {
                                let mut all = it.replicas.iter_mut();
                                all.find(|it| it.replica == replica).unwrap().role =
                                    ReplicaRole::Voter;
                            }
                            Change::Demote { .. } => panic!("nobody is demoted"),
                            Change::Remove { replica } => {
                                it.replicas.retain(|it| it.replica != replica);
                            }
                        }
                    }
                    it.epoch += 1;
                }
                Step::Transfer { to } => {
                    let mut all = it.replicas.iter();
                    leader = all.find(|it| it.replica == *to).unwrap().node;
                }
                Step::Split { .. } | Step::Merge | Step::Freeze { .. } => {
                    panic!("a move splits and merges nothing")
                }
            }
            let has = |node| it.replicas.iter().any(|it| it.node == node);
            assert!(has(leader), "the leader is never removed");
            steps.push(step);
        }
    }

    #[test]
    fn a_follower_moves_in_two_steps() {
        let steps = walk(shard(&[1, 2, 3]), NodeId(1), 3, 4);
        assert_eq!(steps.len(), 2, "{steps:?}");
    }

    #[test]
    fn a_leader_hands_over_first() {
        let steps = walk(shard(&[1, 2, 3]), NodeId(3), 3, 4);
        assert_eq!(steps.len(), 4, "{steps:?}");
        assert!(matches!(steps[2], Step::Transfer { .. }));
        assert_eq!(walk(shard(&[1]), NodeId(1), 1, 2).len(), 4);
    }

    #[test]
    fn what_cannot_move_is_said_to_be_so() {
        let three = shard(&[1, 2, 3]);
        for (from, to) in [(9, 8), (1, 1)] {
            let step = next(&three, None, NodeId(from), NodeId(to));
            assert!(matches!(step, Next::Impossible(_)), "{step:?}");
        }
        assert_eq!(next(&three, None, NodeId(9), NodeId(1)), Next::Done);
    }
}
