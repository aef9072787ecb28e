//! The first moments of a node: replicas that recovery found go on, those that the founding record
//! promises and that are not there yet are created.

use synod_replication::{Campaign, Configuration, Event as ReplicationEvent, NodeId, Origin};
use synod_storage::{KeyRange, ReplicaId, ShardId};
use synod_txn::Event as ShardEvent;
use synod_txn::{Replica, ReplicaRole, ShardDescriptor};

use super::NodeError;
use super::turn::Node;
use crate::formation::{Founding, SYSTEM_SHARD};

/// What recovery found, on its way to the first turn.
pub(super) struct Recovered {
    pub(super) shards: Vec<ShardId>,
    pub(super) effects: synod_replication::Effects,
    pub(super) membership: synod_membership::effect::Effects,
}

/// The shards of a founding record, as routing knows them.
pub(super) fn descriptors(founding: &Founding) -> Vec<ShardDescriptor> {
    let shards = &founding.shards;
    (0..shards.len())
        .map(|i| {
            let shard = &shards[i];
            let range = if shard.shard == SYSTEM_SHARD {
                KeyRange {
                    start: Vec::new(),
                    end: Some(Vec::new()),
                }
            } else {
                KeyRange {
                    start: shard.start.clone(),
                    end: shards.get(i + 1).map(|next| next.start.clone()),
                }
            };
            let replicas = shard
                .replicas
                .iter()
                .map(|(replica, node)| Replica {
                    replica: ReplicaId(*replica),
                    node: NodeId(*node),
                    role: ReplicaRole::Voter,
                })
                .collect();
            ShardDescriptor {
                shard: ShardId(shard.shard),
                epoch: 1,
                range,
                replicas,
            }
        })
        .collect()
}

/// The first configuration of a shard.
fn configuration(descriptor: &ShardDescriptor) -> Configuration {
    Configuration {
        voters: descriptor
            .replicas
            .iter()
            .map(|replica| replica.replica)
            .collect(),
        nodes: descriptor
            .replicas
            .iter()
            .map(|r| (r.replica, r.node))
            .collect(),
        ..Configuration::default()
    }
}

impl Node {
    /// Opens every shard that lives here and creates those that were never created.
    pub(super) fn start(&mut self, recovered: Recovered) -> Result<(), NodeError> {
        let Recovered {
            shards,
            mut effects,
            membership,
        } = recovered;
        let now = self.now();
        let me = self.id();
        for descriptor in descriptors(&self.founding) {
            let Some(mine) = descriptor
                .replicas
                .iter()
                .find(|replica| replica.node == me)
            else {
                continue;
            };
            let (shard, replica) = (descriptor.shard, mine.replica);
            let range = descriptor.range.clone();
            let mut shard_effects = Vec::new();
            let first = descriptor
                .replicas
                .first()
                .is_some_and(|first| first.node == me);
            let origin = Origin::Bootstrap {
                configuration: configuration(&descriptor),
                campaign: if first {
                    Campaign::Now
                } else {
                    Campaign::OnTimeout
                },
            };
            self.participant.step(
                now,
                ShardEvent::Open { shard, descriptor },
                &mut self.store,
                &mut shard_effects,
            );
            let create = ReplicationEvent::Create {
                shard,
                replica,
                origin,
            };
            let range = ReplicationEvent::Range { shard, range };
            let created = (!shards.contains(&shard)).then_some(create);
            for event in created.into_iter().chain([range]) {
                self.replication
                    .step(now.monotonic, event, &mut self.store, &mut effects);
            }
        }
        self.begin(effects, membership)
    }
}
