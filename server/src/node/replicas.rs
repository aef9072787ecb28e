//! The replicas of this node, from their creation to their end.
//!
//! *Creation.* The first ones come from the founding record. Later ones begin when a leader speaks to
//! a replica that is not here: if the directory says so too, it is created, empty, and the leader
//! sends it a snapshot. It has to wait as long as another replica here, or one that is being
//! destroyed, has keys of its range: a late split, or a removal, comes first. Those of a shard that is
//! split off begin on every node when it applies the split, which is when all its keys are there.
//!
//! *End.* A replica that has applied its own removal is destroyed. One that never heard of it is
//! found out by comparison: the directory's descriptor is newer than the first one that could name the
//! replica ([`ids::first_epoch`]) and does not. Replica ids are never used again, so this cannot hit a
//! replica that is about to be added. A shard that was merged ends on each node when that applies the
//! merge, or hears of it; the keys stay.
//!
//! *Damage.* A replica whose disk lost what no peer can name is reported in the system shard: the
//! controller replaces it.

use synod_replication::{
    Campaign, Configuration, Damage, Event as ReplicationEvent, NodeId, Origin,
};
use synod_storage::{KeyRange, ReplicaId, ShardId};
use synod_testpoint::reached;
use synod_txn::{
    Event as ShardEvent, Newborn, Now, ReplicaRole, SYSTEM_SHARD, ShardDescriptor, Telling,
};
use tracing::{debug, error, info};

use super::Observation;
use super::turn::{Effects, Node};
use crate::directory::{DamagedReplica, Table};
use crate::shards::ids;

/// A descriptor of a shard of which nothing is known here but that there is a replica of it: what
/// its log says will take its place.
pub(super) fn unknown(shard: ShardId) -> ShardDescriptor {
    ShardDescriptor {
        shard,
        epoch: 0,
        range: nothing(),
        replicas: Vec::new(),
    }
}

/// The first configuration of a shard.
pub(super) fn configuration(descriptor: &ShardDescriptor) -> Configuration {
    let of = |role| {
        let replicas = descriptor.replicas.iter();
        replicas
            .filter(move |replica| replica.role == role)
            .map(|replica| replica.replica)
    };
    Configuration {
        voters: of(ReplicaRole::Voter).collect(),
        learners: of(ReplicaRole::Learner).collect(),
        nodes: descriptor
            .replicas
            .iter()
            .map(|it| (it.replica, it.node))
            .collect(),
        ..Configuration::default()
    }
}

fn nothing() -> KeyRange {
    KeyRange {
        start: Vec::new(),
        end: Some(Vec::new()),
    }
}

impl Node {
    /// Tells replication which keys a shard's snapshots hold.
    pub(super) fn set_range(
        &mut self,
        now: Now,
        descriptor: &ShardDescriptor,
        effects: &mut Effects,
    ) {
        let event = ReplicationEvent::Range {
            shard: descriptor.shard,
            range: descriptor.range.clone(),
        };
        self.step_replication(now, event, effects);
    }

    pub(super) fn step_replication(
        &mut self,
        now: Now,
        event: ReplicationEvent,
        effects: &mut Effects,
    ) {
        self.replication.step(
            now.monotonic,
            event,
            &mut self.store,
            &mut effects.replication,
        );
    }

    /// A leader counts on a replica that is not here.
    pub(super) fn missing(
        &mut self,
        now: Now,
        (shard, replica): (ShardId, ReplicaId),
        from: NodeId,
        effects: &mut Effects,
    ) {
        let me = self.id();
        let names_it = |descriptor: &&ShardDescriptor| {
            let mut replicas = descriptor.replicas.iter();
            replicas.any(|it| it.replica == replica && it.node == me)
        };
        let Some(descriptor) = self.directory.shard(shard).filter(names_it).cloned() else {
            // The leader knows more than this node; it will speak again.
            debug!(%shard, %replica, %from, "a leader counts on a replica that the map does not name");
            return self.ask_node(from);
        };
        if let Some(present) = self.store.replica(shard)
            && present != replica
        {
            info!(%shard, %present, %replica, "an earlier replica of the shard makes room");
            return self.destroy(now, shard, present, effects);
        }
        let local = self.participant.shards();
        let occupied = local
            .filter(|other| other.shard != shard)
            .map(|other| &other.range)
            .chain(self.dropping.values());
        if occupied
            .into_iter()
            .any(|range| range.overlaps(&descriptor.range))
        {
            debug!(%shard, %replica, "the keys of a new replica belong to another one here as yet");
            return;
        }
        if self.participant.descriptor(shard).is_some() {
            // It is here, and damaged: destroyed first, when the directory names another one.
            return;
        }
        info!(%shard, %replica, %from, "a new replica begins");
        self.step_shards(
            now,
            ShardEvent::Open {
                shard,
                descriptor: descriptor.clone(),
            },
            effects,
        );
        let create = ReplicationEvent::Create {
            shard,
            replica,
            origin: Origin::Leader,
        };
        self.step_replication(now, create, effects);
        self.set_range(now, &descriptor, effects);
    }

    /// A shard was split off one that has a replica here.
    pub(super) fn split_off(
        &mut self,
        now: Now,
        telling: Telling,
        newborn: Newborn,
        effects: &mut Effects,
    ) {
        let descriptor = newborn.descriptor().clone();
        let shard = descriptor.shard;
        let me = self.id();
        let mut replicas = descriptor.replicas.iter();
        let mine = replicas.find(|it| it.node == me).map(|it| it.replica);
        if self.participant.descriptor(shard).is_none() {
            // A replica that was here and went does not come back.
            let Some(replica) = mine.filter(|mine| !self.store.is_dropped(*mine)) else {
                return;
            };
            if telling == Telling::Again {
                return;
            }
            let at = Some(&descriptor.range.start);
            let leads_left = self
                .participant
                .shards()
                .filter(|left| left.range.end.as_ref() == at)
                .any(|left| self.participant.leads(left.shard));
            let origin = Origin::Bootstrap {
                configuration: configuration(&descriptor),
                campaign: match leads_left {
                    true => Campaign::Now,
                    false => Campaign::OnTimeout,
                },
            };
            info!(%shard, %replica, "a shard is split off");
            let told = unknown(shard);
            let open = ShardEvent::Open {
                shard,
                descriptor: told,
            };
            self.step_shards(now, open, effects);
            let create = ReplicationEvent::Create {
                shard,
                replica,
                origin,
            };
            self.step_replication(now, create, effects);
        }
        self.step_shards(now, ShardEvent::Born { newborn }, effects);
    }

    /// A replica has applied its own removal.
    pub(super) fn removed(
        &mut self,
        now: Now,
        shard: ShardId,
        replica: ReplicaId,
        effects: &mut Effects,
    ) {
        reached!(ReplicaRemoved);
        info!(%shard, %replica, "this replica is no longer a member of its shard: it is destroyed");
        self.destroy(now, shard, replica, effects);
    }

    fn destroy(&mut self, now: Now, shard: ShardId, replica: ReplicaId, effects: &mut Effects) {
        let range = self
            .participant
            .descriptor(shard)
            .map(|descriptor| descriptor.range.clone())
            .filter(|range| !range.is_empty())
            .filter(|range| {
                // Keys that another shard here has taken over stay.
                let mut others = self.participant.shards().filter(|it| it.shard != shard);
                !others.any(|other| other.range.overlaps(range))
            });
        self.end_replica(now, shard, replica, range, effects);
    }

    /// Destroys a replica, and the keys of a range, if nobody has them any more.
    pub(super) fn end_replica(
        &mut self,
        now: Now,
        shard: ShardId,
        replica: ReplicaId,
        range: Option<KeyRange>,
        effects: &mut Effects,
    ) {
        self.step_shards(now, ShardEvent::Close { shard }, effects);
        self.dropping
            .insert(replica, range.clone().unwrap_or_else(nothing));
        let event = ReplicationEvent::Destroy {
            shard,
            replica,
            range,
        };
        self.step_replication(now, event, effects);
        if shard == SYSTEM_SHARD {
            self.directory.leave();
        }
    }

    /// Destroys the replicas that were removed and never heard of it.
    pub(super) fn sweep_replicas(&mut self, now: Now, effects: &mut Effects) {
        if !std::mem::take(&mut self.unswept) {
            return;
        }
        let me = self.id();
        let stale: Vec<(ShardId, ReplicaId)> = self
            .participant
            .shards()
            .filter_map(|applied| {
                let known = self.directory.shard(applied.shard)?;
                let replica = self.store.replica(applied.shard)?;
                let mut named = known.replicas.iter();
                let is_stale = known.epoch > applied.epoch
                    && known.epoch >= ids::first_epoch(replica)
                    && !named.any(|it| it.replica == replica && it.node == me);
                is_stale.then_some((applied.shard, replica))
            })
            .collect();
        // Those of a shard that was merged were frozen for good before it was: their keys stay, for the
        // left neighbour, which may not have heard of the merge here.
        let local = self.participant.shards().map(|applied| applied.shard);
        let gone = local.filter(|shard| self.directory.gone(*shard).is_some());
        let merged: Vec<(ShardId, ReplicaId)> = gone
            .filter_map(|shard| Some((shard, self.store.replica(shard)?)))
            .collect();
        for (shard, replica) in merged {
            info!(%shard, %replica, "the shard was merged into its left neighbour: its replica ends");
            self.end_replica(now, shard, replica, None, effects);
        }
        for (shard, replica) in stale {
            info!(%shard, %replica, "this replica was removed and had not heard of it: it is destroyed");
            self.destroy(now, shard, replica, effects);
        }
    }

    /// The state of a replica was replaced: what is known by its rows is known to all.
    pub(super) fn snapshot_installed(&mut self, now: Now, shard: ShardId, effects: &mut Effects) {
        reached!(SnapshotInstalled);
        self.observe(&Observation::SnapshotInstalled(shard));
        self.step_shards(now, ShardEvent::SnapshotInstalled { shard }, effects);
        if let Some(descriptor) = self.participant.descriptor(shard).cloned() {
            self.described(now, descriptor, effects);
        }
    }

    /// A replica's disk lost something.
    pub(super) fn damaged(&mut self, now: Now, shard: ShardId, replica: ReplicaId, damage: Damage) {
        error!(%shard, %replica, ?damage, "the replica's disk lost something: it does not take part \
            until its peers have repaired it, or another one takes its place");
        match damage {
            Damage::Entries { .. } | Damage::Rows => {}
            Damage::Irreparable => self.report_damage(now, shard, replica),
        }
    }

    fn report_damage(&mut self, now: Now, shard: ShardId, replica: ReplicaId) {
        let node = self.id();
        let row = DamagedReplica {
            shard,
            replica,
            node,
        };
        let key = Table::Damaged(replica).key();
        self.write_row(now, key, 1, Some(row.encode()));
    }

    /// Reports once more what is damaged beyond repair: a node that its peers do not let in for a while cannot write
    /// that down. What was written down already is not written again.
    pub(super) fn report_damages(&mut self, now: Now) {
        let irreparable: Vec<(ShardId, ReplicaId)> = self
            .replication
            .damaged()
            .filter(|(_, _, damage)| *damage == Damage::Irreparable)
            .map(|(shard, replica, _)| (shard, replica))
            .collect();
        for (shard, replica) in irreparable {
            self.report_damage(now, shard, replica);
        }
    }
}
