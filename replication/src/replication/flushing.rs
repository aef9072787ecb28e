//! One pass over the groups that have something: see the text of [`super`].

use synod_storage::{EntryId, LogBatch, Micros, ReplicaId, ShardId, Store};

use super::{AfterSync, Replication, Waiting};
use crate::apply::Handed;
use crate::config::Reads;
use crate::effect::{Effect, Effects};
use crate::eraft;
use crate::lease::Round;
use crate::log::Caller;
use crate::message::GroupBody;
use crate::read::{Grant, Proof, ReadFailure};
use synod_testpoint::planted;

impl Replication {
    /// One pass over the groups that have something: see the module's text.
    pub fn flush(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        self.flush_wanted = false;
        self.release(now, store, fx);
        let dirty = std::mem::take(&mut self.dirty);
        let mut readies: Vec<(ShardId, raft::Ready)> = Vec::with_capacity(dirty.len());
        let mut batch = std::mem::take(&mut self.batch);
        for &shard in &dirty {
            let Some(group) = self.groups.get_mut(&shard) else {
                continue;
            };
            group.dirty = false;
            group.submit_queued();
            if group.has_ready() {
                let ready = self.collect(shard, &mut batch, store, fx);
                readies.extend(ready.map(|ready| (shard, ready)));
            }
        }
        self.submit(batch, store);
        for (shard, ready) in readies {
            self.advance_ready(shard, ready, fx);
        }
        for &shard in &dirty {
            self.follow_up(now, shard, store, fx);
        }
        self.dirty_list_reuse(dirty);
        self.send(now, fx);
    }

    /// Keeps the allocation of a worked-off list.
    pub(super) fn dirty_list_reuse(&mut self, mut list: Vec<ShardId>) {
        list.clear();
        if self.dirty.is_empty() {
            self.dirty = list;
        }
    }

    /// What waited for the log and waits no longer.
    pub(super) fn release(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        let synced = store.synced();
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.seq <= synced)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            let (shard, replica) = (waiting.shard, waiting.replica);
            match waiting.what {
                AfterSync::Ready {
                    number,
                    messages,
                    snapshot,
                } => {
                    let Some(group) = self.groups.get_mut(&shard) else {
                        continue;
                    };
                    if group.replica != replica {
                        continue;
                    }
                    group.unsynced -= 1;
                    group.raft.on_persist_ready(number);
                    if let Some(id) = snapshot {
                        // Only now: raft-rs has to know of the snapshot before it is applied.
                        group.raft.advance_apply_to(id.index);
                    }
                    group.settle();
                    self.post(shard, messages, fx);
                    self.mark(shard);
                }
                AfterSync::Repair { entries } => {
                    self.repaired(now, shard, replica, entries, store, fx);
                }
            }
        }
    }

    /// One group's Ready: entries and hard state into the batch, what may leave into the outbox.
    pub(super) fn collect(
        &mut self,
        shard: ShardId,
        batch: &mut LogBatch,
        store: &mut Store,
        fx: &mut Effects,
    ) -> Option<raft::Ready> {
        let group = self.groups.get_mut(&shard)?;
        group.raft.store().set_caller(Caller::Ready);
        let mut ready = group.raft.ready();
        group.raft.store().set_caller(Caller::Step);
        let replica = group.replica;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let id = EntryId::new(metadata.term, metadata.index);
            let conf = group.configuration.to_stored();
            batch.snapshot_marker(shard, replica, id, conf);
        }
        let entries: Vec<_> = ready.take_entries().iter().map(eraft::to_stored).collect();
        batch.entries(shard, replica, &entries);
        let hard_state = group.hard_state();
        if ready.must_sync() {
            let deferred = self.deferred.remove(&shard);
            let mut written = hard_state;
            if planted!(ForgetsVotes) {
                written.vote = ReplicaId(0);
            }
            if planted!(LeavesCommitBehind) {
                written.commit = written.commit.min(2);
            }
            if hard_state != group.recorded || deferred {
                batch.hard_state(shard, replica, written);
            }
            group.recorded = hard_state;
        } else if hard_state != group.recorded {
            group.recorded = hard_state;
            self.deferred.insert(shard);
        }
        let messages = ready.take_messages();
        self.post(shard, messages, fx);
        let _ = store;
        Some(ready)
    }

    /// Submits the batch of this flush. Commit indexes that wait for a batch go with it.
    pub(super) fn submit(&mut self, mut batch: LogBatch, store: &mut Store) {
        if !batch.is_empty() || self.beats {
            for shard in std::mem::take(&mut self.deferred) {
                if let Some(group) = self.groups.get(&shard)
                    && !planted!(LeavesCommitBehind)
                {
                    batch.hard_state(shard, group.replica, group.recorded);
                }
            }
        }
        if !batch.is_empty() {
            self.submitted = store.submit(batch);
        }
    }

    /// Tells raft-rs that its Ready is on its way, and keeps what has to wait for it.
    pub(super) fn advance_ready(
        &mut self,
        shard: ShardId,
        mut ready: raft::Ready,
        fx: &mut Effects,
    ) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let number = ready.number();
        let must_sync = ready.must_sync();
        let messages = ready.take_persisted_messages();
        let snapshot = (!ready.snapshot().is_empty()).then(|| {
            let metadata = ready.snapshot().get_metadata();
            EntryId::new(metadata.term, metadata.index)
        });
        group.raft.advance_append_async(ready);
        if !must_sync && group.unsynced == 0 {
            group.raft.on_persist_ready(number);
            group.settle();
            self.post(shard, messages, fx);
            return;
        }
        let early = planted!(AcknowledgesBeforeSync);
        let (early, messages) = if early {
            (messages, Vec::new())
        } else {
            (Vec::new(), messages)
        };
        group.unsynced += 1;
        let replica = group.replica;
        let what = AfterSync::Ready {
            number,
            messages,
            snapshot,
        };
        self.waiting.push_back(Waiting {
            seq: self.submitted,
            shard,
            replica,
            what,
        });
        self.post(shard, early, fx);
    }

    /// Puts a group's messages into the outbox.
    pub(super) fn post(
        &mut self,
        shard: ShardId,
        messages: Vec<raft::eraftpb::Message>,
        fx: &mut Effects,
    ) {
        for message in messages {
            match eraft::outgoing(shard, message) {
                eraft::Outgoing::Wire(message) => {
                    let Some(group) = self.groups.get_mut(&shard) else {
                        return;
                    };
                    if let GroupBody::Append { commit, .. } = &message.body {
                        group.told_commit = group.told_commit.max(*commit);
                    }
                    if let Some(node) = group.node_of(message.to) {
                        self.outbox.consensus(node, message, fx);
                    }
                }
                eraft::Outgoing::Snapshot { to, id } => self.offer_taken(shard, to, id),
                eraft::Outgoing::Ours => {}
            }
        }
    }

    /// What follows for a group once its Ready is on its way.
    pub(super) fn follow_up(
        &mut self,
        now: Micros,
        shard: ShardId,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let bytes_max = self.config.committed_bytes_max;
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let wanted = group.raft.store().take_wanted();
        if let Some((low, high, context)) = wanted.entries {
            group.refetch = Some(context);
            store.fetch(shard, low, high);
        }
        let mut damaged = wanted.damaged;
        match group.hand_out(bytes_max, store, fx) {
            Handed::All => {}
            Handed::Damaged(id) => damaged = Some(id),
        }
        if damaged.is_some() {
            self.suspend(now, shard, store, fx);
            return;
        }
        group.leave_joint();
        if group.has_ready() {
            self.mark(shard);
        }
        if let Some((to, least)) = wanted.snapshot {
            self.snapshot_wanted(now, shard, to, least, store);
        }
        self.recount(shard);
        self.announce(shard, fx);
        self.serve_reads(now, shard, fx);
    }

    /// Says what changed about a group's leadership.
    pub(super) fn announce(&mut self, shard: ShardId, fx: &mut Effects) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let leadership = group.leadership();
        if leadership != group.announced {
            group.announced = leadership;
            fx.push(Effect::Leadership { shard, leadership });
        }
        let failure = ReadFailure::NotLeader(leadership.leader);
        for token in group.abandoned.drain(..) {
            fx.push(Effect::ReadFailed {
                shard,
                token,
                failure,
            });
        }
    }

    /// Answers the reads that may go on, fails those that waited too long, and takes the group
    /// into a round for the others.
    pub(super) fn serve_reads(&mut self, now: Micros, shard: ShardId, fx: &mut Effects) {
        let upcoming = self.rounds.upcoming();
        let retry_us = self.config.heartbeat_us() / 2;
        let lease_us = self.config.lease_us();
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let applied = group.applied();
        let (own, configuration) = (group.replica, &group.configuration);
        let Some(leading) = &mut group.leading else {
            return;
        };
        if leading.reads.is_empty() {
            return;
        }
        let confirmed = leading.confirmed(own, configuration);
        let leased = self.config.reads == Reads::Lease
            && leading
                .lease_end(own, configuration, lease_us)
                .is_some_and(|end| now < end);
        let alone = configuration.is_sole_voter(own);
        let term = leading.term;
        let mut waits = false;
        leading.reads.retain(|read| {
            let quorum = alone
                || read
                    .round
                    .is_some_and(|round| confirmed.is_some_and(|done| done >= round));
            if applied >= read.index && (quorum || leased) {
                let proof = if quorum { Proof::Quorum } else { Proof::Lease };
                let (token, grant) = (read.token, Grant { term, proof });
                fx.push(Effect::ReadReady {
                    shard,
                    token,
                    grant,
                });
                return false;
            }
            if now >= read.deadline {
                let (token, failure) = (read.token, ReadFailure::TimedOut);
                fx.push(Effect::ReadFailed {
                    shard,
                    token,
                    failure,
                });
                return false;
            }
            waits |= !quorum && !leased;
            true
        });
        // One round at a time; it is repeated when its answers are overdue.
        let due = match leading.read_round {
            Some((round, sent_at)) => {
                confirmed.is_some_and(|done| done >= round) || now.0 >= sent_at.0 + retry_us
            }
            None => true,
        };
        if waits && due {
            let early = planted!(JoinsEarlierRound);
            let upcoming = if early {
                Round(upcoming.0 - 1)
            } else {
                upcoming
            };
            leading.read_round = Some((upcoming, now));
            for read in leading.reads.iter_mut().filter(|read| read.round.is_none()) {
                read.round = Some(upcoming);
            }
            self.heartbeat_group(shard);
        }
    }

    /// Ends the flush: everything to one node leaves as one message.
    pub(super) fn send(&mut self, now: Micros, fx: &mut Effects) {
        let round = if self.outbox.begins_round() {
            self.rounds.begin(now)
        } else {
            self.rounds.upcoming()
        };
        self.outbox.send(self.config.incarnation, round, fx);
    }

    /// The layer above has applied everything that `Committed` gave it, up to `index`.
    pub fn applied(
        &mut self,
        now: Micros,
        shard: ShardId,
        index: u64,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let bytes_max = self.config.committed_bytes_max;
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if index <= group.applied() {
            return;
        }
        group.advance(index);
        match group.hand_out(bytes_max, store, fx) {
            Handed::All => {}
            Handed::Damaged(_) => {
                self.suspend(now, shard, store, fx);
                return;
            }
        }
        group.leave_joint();
        self.mark(shard);
        self.recount(shard);
        self.announce(shard, fx);
        self.serve_reads(now, shard, fx);
    }

    /// Something waits for the next look at the transfers.
    pub(crate) fn flush_soon(&mut self) {
        self.flush_wanted = true;
    }

    /// Remembers that repaired entries are on their way to the disk.
    pub(crate) fn await_repair(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        entries: u32,
        batch: LogBatch,
        store: &mut Store,
    ) {
        self.submitted = store.submit(batch);
        let what = AfterSync::Repair { entries };
        self.waiting.push_back(Waiting {
            seq: self.submitted,
            shard,
            replica,
            what,
        });
    }
}
