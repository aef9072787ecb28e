//! Whether a shard's descriptor says what its configuration is, and the descriptor that would.
//!
//! Replication decides who the members are; the descriptor tells everybody else. The leader compares
//! the two whenever one of them changes, and when it begins to lead, because its predecessor may have
//! died between one and the other.

use synod_replication::Configuration;
use synod_txn::{Replica, ReplicaRole, ShardDescriptor};

/// The replicas of a configuration that is not joint, voters first.
fn replicas(configuration: &Configuration) -> Vec<Replica> {
    let of = |replica, role| {
        let node = configuration.nodes.get(replica).copied()?;
        Some(Replica {
            replica: *replica,
            node,
            role,
        })
    };
    let voters = configuration.voters.iter();
    let learners = configuration.learners.iter();
    voters
        .map(|replica| of(replica, ReplicaRole::Voter))
        .chain(learners.map(|replica| of(replica, ReplicaRole::Learner)))
        .flatten()
        .collect()
}

/// Whether the descriptor names exactly the members of the configuration, in their roles.
pub fn agree(descriptor: &ShardDescriptor, configuration: &Configuration) -> bool {
    let mut described = descriptor.replicas.clone();
    let mut members = replicas(configuration);
    let by_id = |replica: &Replica| replica.replica;
    described.sort_by_key(by_id);
    members.sort_by_key(by_id);
    described == members
}

/// The next descriptor of a shard, with the members of this configuration.
pub fn described(before: &ShardDescriptor, configuration: &Configuration) -> ShardDescriptor {
    ShardDescriptor {
        epoch: before.epoch + 1,
        replicas: replicas(configuration),
        ..before.clone()
    }
}
