//! Whether an order is obeyed, whether a change of a shard's members may be made, and what it is for replication.
//!
//! The leader asks, with what it knows at this moment; the answer is a pure function of it.

use std::collections::BTreeMap;

use synod_replication::{Change as RaftChange, Configuration, Member, NodeId};
use synod_storage::ReplicaId;
use synod_txn::{Authority, ShardDescriptor};

use super::{Change, Order, Refusal, ids, reconcile};

/// A replica with so many entries less than the leader counts as caught up. An entry is all that a
/// turn of the leader's loop decided, so this is a fraction of a second under full load.
pub const LAG_ENTRIES_MAX: u64 = 1_000;

/// What a leader knows about its shard.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The leader's own replica.
    pub own: ReplicaId,
    /// The descriptor as applied.
    pub descriptor: &'a ShardDescriptor,
    /// The members as applied.
    pub configuration: &'a Configuration,
    /// How many entries each member is known to lack; `u64::MAX`: everything.
    pub lacks: &'a BTreeMap<ReplicaId, u64>,
}

/// What is known of nodes.
pub trait Nodes {
    /// Whether it belongs to the cluster and may carry replicas.
    fn is_known(&self, node: NodeId) -> bool;
    /// Whether it answers at present.
    fn is_alive(&self, node: NodeId) -> bool;
}

impl Standing<'_> {
    fn lag_entries(&self, replica: ReplicaId) -> u64 {
        self.lacks.get(&replica).copied().unwrap_or(u64::MAX)
    }
}

/// Whether an order was made for the shard as it is, by nobody whose plan a newer one has taken the place of.
pub fn order(
    order: &Order,
    descriptor: &ShardDescriptor,
    followed: Authority,
) -> Result<(), Refusal> {
    if order.authority.is_some_and(|of| of < followed) {
        return Err(Refusal::Superseded { by: followed });
    }
    if order.epoch != descriptor.epoch {
        let descriptor = descriptor.clone();
        return Err(Refusal::StaleEpoch { descriptor });
    }
    Ok(())
}

/// Judges a change: what to propose, or why not.
pub fn change(
    standing: &Standing<'_>,
    changes: &[Change],
    nodes: &impl Nodes,
) -> Result<Vec<RaftChange>, Refusal> {
    let invalid = |reason: String| Err(Refusal::Invalid(reason));
    let Standing {
        descriptor,
        configuration,
        own,
        ..
    } = *standing;
    if configuration.is_joint() || !reconcile::agree(descriptor, configuration) {
        return Err(Refusal::Busy);
    }
    if changes.is_empty() || changes.len() > ids::PER_EPOCH {
        return invalid(format!("{} changes in one step", changes.len()));
    }
    let mut voters = configuration.voters.clone();
    let mut members: BTreeMap<ReplicaId, NodeId> = configuration.nodes.clone();
    let mut touched: Vec<ReplicaId> = Vec::new();
    let mut raft = Vec::with_capacity(changes.len());
    let (shard, epoch) = (descriptor.shard, descriptor.epoch);
    for (i, change) in changes.iter().enumerate() {
        let replica = match *change {
            Change::AddLearner { node } => {
                if !nodes.is_known(node) {
                    return invalid(format!("node {node} is not known, or carries nothing"));
                }
                if members.values().any(|it| *it == node) {
                    return invalid(format!("node {node} carries a replica already"));
                }
                let Some(replica) = ids::replica(shard, epoch, i) else {
                    return invalid("the shard has no replica ids left".to_owned());
                };
                members.insert(replica, node);
                raft.push(RaftChange::Learner(Member { replica, node }));
                replica
            }
            Change::Promote { replica }
            | Change::Demote { replica }
            | Change::Remove { replica } => {
                let Some(node) = members.get(&replica).copied() else {
                    return invalid(format!("replica {replica} is not a member"));
                };
                let votes = voters.contains(&replica);
                let member = Member { replica, node };
                voters.retain(|voter| *voter != replica);
                match *change {
                    Change::Promote { .. } if votes => {
                        return invalid(format!("replica {replica} votes already"));
                    }
                    Change::Demote { .. } if !votes => {
                        return invalid(format!("replica {replica} has no vote"));
                    }
                    Change::Demote { .. } | Change::Remove { .. } if replica == own => {
                        return invalid(format!(
                            "replica {replica} leads: transfer the leadership first"
                        ));
                    }
                    Change::Promote { .. } => {
                        let lag_entries = standing.lag_entries(replica);
                        if lag_entries > LAG_ENTRIES_MAX {
                            return Err(Refusal::NotCaughtUp {
                                replica,
                                lag_entries,
                            });
                        }
                        voters.push(replica);
                        raft.push(RaftChange::Voter(member));
                    }
                    Change::Demote { .. } => raft.push(RaftChange::Learner(member)),
                    Change::Remove { .. } => {
                        members.remove(&replica);
                        raft.push(RaftChange::Remove(replica));
                    }
                    Change::AddLearner { .. } => unreachable!("it names no replica"),
                }
                replica
            }
        };
        if touched.contains(&replica) {
            return invalid(format!("replica {replica} is changed twice in one step"));
        }
        touched.push(replica);
    }
    let ready = voters.iter().filter(|voter| {
        let alive = |node: &NodeId| nodes.is_alive(*node);
        **voter == own
            || (members.get(voter).is_some_and(alive)
                && standing.lag_entries(**voter) <= LAG_ENTRIES_MAX)
    });
    if ready.count() <= voters.len() / 2 {
        return Err(Refusal::LosesMajority);
    }
    Ok(raft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Step;
    use synod_storage::{KeyRange, ShardId};

    struct AllBut(Vec<NodeId>);

    impl Nodes for AllBut {
        fn is_known(&self, node: NodeId) -> bool {
            node.0 < 100
        }

        fn is_alive(&self, node: NodeId) -> bool {
            !self.0.contains(&node)
        }
    }

    fn configuration(voters: &[u64], learners: &[u64]) -> Configuration {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<Vec<_>>();
        let all = voters.iter().chain(learners);
        Configuration {
            voters: ids(voters),
            learners: ids(learners),
            nodes: all
                .map(|id| (ReplicaId(*id), NodeId(u128::from(*id))))
                .collect(),
            ..Configuration::default()
        }
    }

    fn judge(
        configuration: &Configuration,
        changes: &[Change],
        lagging: &[(u64, u64)],
        dead: &[u128],
    ) -> Result<Vec<RaftChange>, Refusal> {
        let descriptor = reconcile::described(
            &ShardDescriptor {
                shard: ShardId(3),
                epoch: 7,
                range: KeyRange::all(),
                replicas: Vec::new(),
            },
            configuration,
        );
        let replicas = configuration.nodes.keys();
        let mut lacks: BTreeMap<ReplicaId, u64> = replicas.map(|replica| (*replica, 0)).collect();
        lacks.extend(
            lagging
                .iter()
                .map(|(replica, lag)| (ReplicaId(*replica), *lag)),
        );
        let standing = Standing {
            own: ReplicaId(1),
            descriptor: &descriptor,
            configuration,
            lacks: &lacks,
        };
        change(
            &standing,
            changes,
            &AllBut(dead.iter().copied().map(NodeId).collect()),
        )
    }

    /// Of two controllers the later one is obeyed, and of its plans the last; by hand is of no plan. Nobody is who
    /// does not know the shard as it is.
    #[test]
    fn an_order_of_an_older_epoch_or_plan_is_refused() {
        let descriptor = ShardDescriptor {
            shard: ShardId(3),
            epoch: 7,
            range: KeyRange::all(),
            replicas: Vec::new(),
        };
        let followed = Authority { term: 4, plan: 9 };
        let judged = |epoch, authority| {
            let given = Order {
                shard: ShardId(3),
                epoch,
                authority,
                step: Step::Merge,
            };
            order(&given, &descriptor, followed)
        };
        let by = |term, plan| Some(Authority { term, plan });
        for obeyed in [None, by(4, 9), by(4, 10), by(5, 1)] {
            assert_eq!(judged(7, obeyed), Ok(()), "{obeyed:?}");
            for epoch in [6, 8] {
                let stale = judged(epoch, obeyed);
                assert!(
                    matches!(stale, Err(Refusal::StaleEpoch { descriptor }) if descriptor.epoch == 7)
                );
            }
        }
        for older in [by(4, 8), by(3, 100)] {
            let refused = Err(Refusal::Superseded { by: followed });
            assert_eq!(judged(7, older), refused, "{older:?}");
        }
    }

    const R2: ReplicaId = ReplicaId(2);
    const R3: ReplicaId = ReplicaId(3);

    #[test]
    fn one_voter_becomes_three_in_one_joint_change() {
        let one = configuration(&[1], &[2, 3]);
        let both = [
            Change::Promote { replica: R2 },
            Change::Promote { replica: R3 },
        ];
        assert_eq!(judge(&one, &both, &[], &[]).unwrap().len(), 2);
        // One of the two lacks the log, or is dead: the other two decide.
        assert!(judge(&one, &both, &[], &[2]).is_ok());
        assert_eq!(
            judge(&one, &both, &[], &[2, 3]),
            Err(Refusal::LosesMajority)
        );
        assert_eq!(
            judge(&one, &both, &[(3, 5_000)], &[]),
            Err(Refusal::NotCaughtUp {
                replica: R3,
                lag_entries: 5_000
            })
        );
    }

    /// However short the log is: it waits for a snapshot, which may be long.
    #[test]
    fn who_has_nothing_gets_no_vote() {
        let grown = configuration(&[1, 2, 3], &[4]);
        let moved = [
            Change::Promote {
                replica: ReplicaId(4),
            },
            Change::Remove { replica: R3 },
        ];
        assert!(judge(&grown, &moved, &[], &[]).is_ok());
        let refusal = judge(&grown, &moved, &[(4, u64::MAX)], &[]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "replica 4 has nothing yet: try again when it has caught up"
        );
    }

    #[test]
    fn a_new_learner_gets_an_id_of_this_epoch_and_a_node_has_one_replica() {
        let three = configuration(&[1, 2, 3], &[]);
        let add = |node| [Change::AddLearner { node: NodeId(node) }];
        let proposed = judge(&three, &add(9), &[], &[]).unwrap();
        let replica = ids::replica(ShardId(3), 8, 0).unwrap();
        let node = NodeId(9);
        assert_eq!(
            proposed,
            vec![RaftChange::Learner(Member { replica, node })]
        );
        assert!(matches!(
            judge(&three, &add(2), &[], &[]),
            Err(Refusal::Invalid(_))
        ));
        assert!(matches!(
            judge(&three, &add(100), &[], &[]),
            Err(Refusal::Invalid(_))
        ));
    }

    #[test]
    fn nothing_is_removed_that_the_rest_needs() {
        let three = configuration(&[1, 2, 3], &[]);
        let remove = [Change::Remove { replica: R2 }];
        assert!(judge(&three, &remove, &[], &[2]).is_ok(), "the dead one");
        assert_eq!(
            judge(&three, &remove, &[], &[3]),
            Err(Refusal::LosesMajority)
        );
        assert_eq!(
            judge(&three, &remove, &[(3, 9_000)], &[]),
            Err(Refusal::LosesMajority)
        );
    }

    #[test]
    fn the_leader_is_not_removed_and_nothing_is_named_twice() {
        let three = configuration(&[1, 2, 3], &[]);
        let own = [Change::Remove {
            replica: ReplicaId(1),
        }];
        assert!(matches!(
            judge(&three, &own, &[], &[]),
            Err(Refusal::Invalid(_))
        ));
        let twice = [
            Change::Demote { replica: R2 },
            Change::Remove { replica: R2 },
        ];
        assert!(matches!(
            judge(&three, &twice, &[], &[]),
            Err(Refusal::Invalid(_))
        ));
    }

    #[test]
    fn an_unfinished_change_is_waited_for() {
        let mut joint = configuration(&[1, 2, 3], &[]);
        joint.voters_outgoing = vec![ReplicaId(1)];
        let remove = [Change::Remove { replica: R2 }];
        assert_eq!(judge(&joint, &remove, &[], &[]), Err(Refusal::Busy));
    }
}
