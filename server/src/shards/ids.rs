//! Ids that are never given twice.
//!
//! ```text
//! replica id   0 … 2³² − 1        the first replicas, numbered in the founding record
//!              (s + 1) · 2³²      replicas that shard s has taken in since:
//!                + epoch · 16     in this epoch,
//!                + i              the i-th of that change, 0 … 15
//! ```
//!
//! *Why no id is given twice.* An order is carried out only in the epoch that it names, and only when
//! the shard's configuration agrees with its descriptor of that epoch, so after every change that is
//! committed the epoch rises before another one is proposed. A change that was proposed and lost with
//! its leader may have used the same ids; but a replica is created only on a node that a leader has
//! spoken to, a leader speaks to members of applied configurations only, and the lost change was
//! never applied. The replicas of a new shard are those of its epoch 0, and its shard id was drawn
//! from a replicated counter.

use synod_storage::{ReplicaId, ShardId};

/// Replicas that one epoch can add.
pub const PER_EPOCH: usize = 16;

/// Epochs of a shard, and shards of a cluster, end before these.
const EPOCHS_END: u64 = 1 << 28;
/// `SCAN` cursors can name no shard from here on.
const SHARDS_END: u64 = 1 << 20;

/// The id of the `i`-th replica that is added in an epoch. `None`: there are none left, after two
/// hundred million changes.
pub fn replica(shard: ShardId, epoch: u64, i: usize) -> Option<ReplicaId> {
    if shard.0 >= SHARDS_END || epoch >= EPOCHS_END || i >= PER_EPOCH {
        return None;
    }
    Some(ReplicaId(((shard.0 + 1) << 32) | (epoch << 4) | i as u64))
}

/// The epoch of the first descriptor that can have this replica in it.
pub fn first_epoch(replica: ReplicaId) -> u64 {
    // What an epoch adds is described in the next one; a founding id has nothing in these bits.
    match replica.0 >> 32 {
        0 => 1,
        _ => ((replica.0 & u64::from(u32::MAX)) >> 4) + 1,
    }
}

/// The id of the `drawn`-th shard after the founding ones, of which there were `founded`. `None`:
/// there are none left.
pub fn shard(founded: u64, drawn: u64) -> Option<ShardId> {
    let id = founded.checked_add(drawn)?.checked_sub(1)?;
    (drawn > 0 && id < SHARDS_END).then_some(ShardId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_different_shards_epochs_and_places_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for shard in [0, 1, 2, 1 << 19] {
            for epoch in [0, 1, 2, 1000, EPOCHS_END - 1] {
                for i in 0..PER_EPOCH {
                    let id = replica(ShardId(shard), epoch, i).unwrap();
                    assert!(id.0 >= 1 << 32, "founding ids are below");
                    assert!(seen.insert(id));
                    assert_eq!(first_epoch(id), epoch + 1);
                }
            }
        }
        assert_eq!(first_epoch(ReplicaId(5)), 1);
    }

    #[test]
    fn what_has_no_id_left_gets_none() {
        assert_eq!(replica(ShardId(1), EPOCHS_END, 0), None);
        assert_eq!(replica(ShardId(1), 1, PER_EPOCH), None);
        assert_eq!(shard(9, 1), Some(ShardId(9)));
        assert_eq!(shard(9, SHARDS_END), None);
        assert_eq!(shard(9, 0), None);
    }
}
