//! The first moments of a node: replicas that recovery found go on, those that the founding record
//! promises and that are not there yet are created.

use synod_replication::{Campaign, Event as ReplicationEvent, NodeId, Origin};
use synod_storage::{KeyRange, ReplicaId, ShardId};
use synod_txn::{Event as ShardEvent, Now, Replica, ReplicaRole, ShardDescriptor};

use super::NodeError;
use super::replicas::{configuration, unknown};
use super::turn::{Effects, Node};
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

impl Node {
    /// Opens every replica that recovery found, and creates those that the founding record promises
    /// and that were never here.
    pub(super) fn start(&mut self, recovered: Recovered) -> Result<(), NodeError> {
        let Recovered {
            shards,
            effects: replication,
            membership,
        } = recovered;
        let now = self.now();
        let mut effects = Effects {
            replication,
            membership,
            ..Effects::default()
        };
        let founding = descriptors(&self.founding);
        for shard in &shards {
            // What its own rows say counts for more, if there are any.
            let told = founding.iter().find(|told| told.shard == *shard).cloned();
            self.open(now, told.unwrap_or_else(|| unknown(*shard)), &mut effects);
        }
        let me = self.id();
        for descriptor in founding {
            let here = |replica: &&Replica| replica.node == me;
            let Some(mine) = descriptor.replicas.iter().find(here) else {
                continue;
            };
            let (shard, replica) = (descriptor.shard, mine.replica);
            if shards.contains(&shard) || self.store.is_dropped(replica) {
                continue;
            }
            let first = descriptor.replicas.first().is_some_and(|it| it.node == me);
            let origin = Origin::Bootstrap {
                configuration: configuration(&descriptor),
                campaign: if first {
                    Campaign::Now
                } else {
                    Campaign::OnTimeout
                },
            };
            let create = ReplicationEvent::Create {
                shard,
                replica,
                origin,
            };
            self.step_replication(now, create, &mut effects);
            self.open(now, descriptor, &mut effects);
        }
        self.update_serving();
        self.register(now);
        self.begin(effects)
    }

    /// A replica is here: the participant opens it, and replication learns its keys.
    fn open(&mut self, now: Now, told: ShardDescriptor, effects: &mut Effects) {
        let shard = told.shard;
        let open = ShardEvent::Open {
            shard,
            descriptor: told,
        };
        self.step_shards(now, open, effects);
        if let Some(descriptor) = self.participant.descriptor(shard).cloned() {
            self.set_range(now, &descriptor, effects);
            if descriptor.epoch > 0 {
                self.learn_shard(descriptor);
            }
        }
    }
}
