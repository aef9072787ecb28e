//! Applied entries, replicas, thresholds.

use super::Store;
use crate::manifest::ThresholdState;
use crate::{ConfState, EntryId, KeyRange, ReplicaId, ShardId, Space, Version, Write, WriteOp};

impl Store {
    /// Puts the writes of an applied entry into the memtable; entries come in order, each once.
    ///
    /// # Panics
    /// If an entry is skipped or comes back: the caller would be diverging from its replicas.
    pub fn apply(&mut self, shard: ShardId, id: EntryId, writes: &[Write]) {
        let threshold = self
            .thresholds
            .get(&shard)
            .map_or(Version::ZERO, |known| known.version);
        if self.active.is_empty() {
            self.active_since = self.now;
        }
        for write in writes {
            match write.space {
                Space::User => {
                    self.cache.remove(&write.key);
                    let (key, op) = (write.key.clone(), write.op.clone());
                    self.active.put_user(key, write.version, op, threshold);
                }
                Space::Local(owner) => self.put_local(owner, write),
            }
        }
        self.advance(shard, id);
    }

    fn put_local(&mut self, owner: ShardId, write: &Write) {
        let rows = self.locals.entry(owner).or_default();
        match &write.op {
            WriteOp::Put(value) => {
                rows.insert(write.key.clone(), (write.version, value.clone()));
            }
            WriteOp::Delete => {
                rows.remove(&write.key);
            }
        }
        self.active
            .put_local(owner, write.key.clone(), write.version, write.op.clone());
    }

    fn advance(&mut self, shard: ShardId, id: EntryId) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            panic!("an entry is applied on shard {shard}, which has no replica here");
        };
        assert_eq!(
            replica.applied.index + 1,
            id.index,
            "apply out of order on shard {shard}"
        );
        assert!(
            replica.applied.term <= id.term,
            "terms go back on shard {shard}"
        );
        replica.applied = id;
    }

    /// Records the configuration that an applied entry leads to, and the entry as applied.
    ///
    /// # Panics
    /// As [`Store::apply`].
    pub fn set_conf(&mut self, shard: ShardId, id: EntryId, conf: ConfState) {
        self.advance(shard, id);
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.conf = conf;
        }
    }

    /// The last applied entry of a shard, durable or not.
    #[must_use]
    pub fn applied(&self, shard: ShardId) -> Option<EntryId> {
        self.replicas.get(&shard).map(|replica| replica.applied)
    }

    /// The last applied entry of a shard that a crash cannot take back: a checkpoint holds it.
    #[must_use]
    pub fn checkpointed(&self, shard: ShardId) -> Option<EntryId> {
        self.replicas
            .get(&shard)
            .map(|replica| replica.checkpointed)
    }

    /// The configuration of a shard as of its last applied entry.
    #[must_use]
    pub fn conf(&self, shard: ShardId) -> Option<&ConfState> {
        self.replicas.get(&shard).map(|replica| &replica.conf)
    }

    /// The replica of a shard that lives here.
    #[must_use]
    pub fn replica(&self, shard: ShardId) -> Option<ReplicaId> {
        self.replicas.get(&shard).map(|replica| replica.id)
    }

    /// Says that nobody will ask for versions of `range` below `threshold` that a newer version at or
    /// below it replaced. The shard's range may change from call to call; thresholds only rise.
    pub fn set_threshold(&mut self, shard: ShardId, range: KeyRange, threshold: Version) {
        let known = self.thresholds.entry(shard).or_default();
        let version = known.version.max(threshold);
        if known.version != version || known.range != range {
            *known = ThresholdState { range, version };
        }
    }
}
