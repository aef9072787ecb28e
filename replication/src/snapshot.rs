//! The state of a shard, from a leader to a member whose log begins too late.
//!
//! ```text
//! raft-rs: this member needs a snapshot   the store pins the state (export)
//! raft-rs sends MsgSnapshot               Offer  →   the store begins an import
//!                                         ←  Want 0
//!                                         Chunk 0 →  written, not visible
//!                                         ←  Want 1 …
//!                                         last Chunk → the group stands still;
//!                                                    the store validates the whole, makes it
//!                                                    durable, switches it in by one record
//!                                                    raft-rs restores; the marker goes to the log
//!                                         ←  Done, and raft's acknowledgement after the sync
//! ```
//!
//! Nothing of the receiver is replaced before all of the snapshot was validated. The group stands
//! still from the moment the last chunk goes to the store until the switch is made, so the reasons
//! to accept, checked before, still hold after: a snapshot that raft-rs would refuse is never
//! switched in. All transfers of a node that fail leave nothing behind, and raft-rs asks again.
//!
//! The receiver drives: it asks for the next chunk, and asks again after a while, so that lost and
//! repeated messages need no thought. A transfer is named by its sender, the sender's incarnation and a
//! counter, and resumes wherever the receiver stands after a connection was lost. A receiver that started anew
//! knows nothing of it, and one that is silent may never come back: their transfers end, because few
//! run at one time, and others wait for their turn.

mod transfer;

use std::collections::{BTreeMap, VecDeque};

use synod_storage::{
    EntryId, Event as StoreEvent, KeyRange, Micros, ReplicaId, ShardId, SnapshotChunk,
    SnapshotHeader, Store, TransferId,
};

use crate::configuration::Configuration;
use crate::effect::{Effect, Effects};
use crate::eraft;
use crate::group::Group;
use crate::identity::{Incarnation, NodeId};
use crate::message::{Last, Outcome, SnapshotBody, SnapshotMessage};
use crate::replication::Replication;
use synod_testpoint::planted;

pub(crate) use transfer::Cause;
use transfer::{Incoming, Outgoing, Stage};

/// How often an unanswered message of a transfer is repeated.
const REPEAT_US: u64 = 200_000;

/// All transfers of a node.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    counter: u64,
    out: BTreeMap<(ShardId, ReplicaId), Outgoing>,
    into: BTreeMap<ShardId, Incoming>,
}

impl Transfers {
    /// Whether no snapshot is on its way from or to this node.
    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.into.is_empty()
    }

    /// Whether a snapshot is on its way to a node.
    #[cfg(test)]
    pub(crate) fn sends_to(&self, node: NodeId) -> bool {
        self.out.values().any(|outgoing| outgoing.node == node)
    }
}

impl Group {
    /// Whether this replica would restore a snapshot that a leader of `term` offers.
    fn accepts_snapshot(&self, term: u64, id: EntryId, members: &Configuration) -> bool {
        !self.is_leader()
            && term >= self.term()
            && id.index > self.committed()
            && members.contains(self.replica)
            && !self.raft.raft.raft_log.match_term(id.index, id.term)
    }
}

impl Replication {
    /// raft-rs wants to send a snapshot and has none.
    pub(crate) fn snapshot_wanted(
        &mut self,
        now: Micros,
        shard: ShardId,
        to: ReplicaId,
        least: u64,
        store: &mut Store,
    ) {
        self.snapshot_begins(now, shard, to, least, Cause::Log, store);
    }

    /// Begins a transfer to a member, unless one is under way.
    pub(crate) fn snapshot_begins(
        &mut self,
        now: Micros,
        shard: ShardId,
        to: ReplicaId,
        least: u64,
        cause: Cause,
        store: &mut Store,
    ) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        let full = self.transfers.out.len() >= self.config.snapshots_out_max as usize;
        if !group.is_leader() || full || self.transfers.out.contains_key(&(shard, to)) {
            return;
        }
        let (Some(node), Some(range)) = (group.node_of(to), group.range.clone()) else {
            return;
        };
        if group.applied() < least {
            return;
        }
        self.transfers.counter += 1;
        let outgoing = Outgoing {
            cause,
            name: (self.config.incarnation, self.transfers.counter),
            term: group.term(),
            from: group.replica,
            node,
            pin: store.export(shard, range),
            header: None,
            stage: Stage::Pinning,
            chunks: VecDeque::new(),
            next_read: 0,
            reading: false,
            wanted: None,
            last_wanted: None,
            progress_at: now,
            said_at: now,
        };
        self.transfers.out.insert((shard, to), outgoing);
        tracing::debug!(%shard, %to, ?cause, least, "a snapshot begins");
    }

    /// raft-rs has taken note of the pinned snapshot: the transfer begins.
    pub(crate) fn offer_taken(&mut self, shard: ShardId, to: ReplicaId, id: EntryId) {
        if let Some(outgoing) = self.transfers.out.get_mut(&(shard, to))
            && outgoing
                .header
                .as_ref()
                .is_some_and(|header| header.applied == id)
        {
            outgoing.stage = Stage::Sending;
            // The offer leaves with the next look at the transfers.
            outgoing.said_at = Micros(0);
            self.flush_soon();
        }
    }

    fn finish_out(&mut self, shard: ShardId, to: ReplicaId, outcome: Outcome, store: &mut Store) {
        let Some(outgoing) = self.transfers.out.remove(&(shard, to)) else {
            return;
        };
        tracing::debug!(%shard, %to, ?outcome, stage = ?outgoing.stage, chunks = outgoing.next_read, "a snapshot ends");
        store.end_export(outgoing.pin);
        if outgoing.cause == Cause::Repair {
            return;
        }
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        group.raft.store().withdraw_offer();
        if group.is_leader() && !group.installing {
            let status = match outcome {
                Outcome::Installed => raft::SnapshotStatus::Finish,
                Outcome::Failed => raft::SnapshotStatus::Failure,
            };
            group.submit_queued();
            group.raft.report_snapshot(to.0, status);
            group.settle();
            self.mark(shard);
        }
    }

    /// Gives up the transfers out of this node that are so.
    fn end_out(&mut self, is_over: impl Fn(ShardId, &Outgoing) -> bool, store: &mut Store) {
        let out = self.transfers.out.iter();
        let over: Vec<_> = out
            .filter(|((shard, _), outgoing)| is_over(*shard, outgoing))
            .map(|(key, _)| *key)
            .collect();
        for (shard, to) in over {
            self.finish_out(shard, to, Outcome::Failed, store);
        }
    }

    /// A node started anew: it knows nothing of what was on its way to it.
    pub(crate) fn end_transfers_to(&mut self, node: NodeId, store: &mut Store) {
        self.end_out(|_, outgoing| outgoing.node == node, store);
    }

    /// Drops all transfers of a group that ends.
    pub(crate) fn end_transfers(&mut self, shard: ShardId, store: &mut Store) {
        self.end_out(|of, _| of == shard, store);
        if let Some(incoming) = self.transfers.into.remove(&shard) {
            store.abort_import(incoming.import);
        }
    }

    /// Repeats what was not answered, gives up what makes no progress.
    pub(crate) fn tick_transfers(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        let timeout_us = self.config.snapshot_timeout_ms * 1_000;
        // As long as an election may take: who says nothing for longer is down or cut off.
        let silence_us = 2 * self.config.guard_us();
        let mut over: Vec<(ShardId, ReplicaId)> = Vec::new();
        for (&(shard, to), outgoing) in &mut self.transfers.out {
            let leads = self
                .groups
                .get(&shard)
                .is_some_and(|group| group.is_leader() && group.term() == outgoing.term);
            let idle_us = now.0.saturating_sub(outgoing.progress_at.0);
            let gone = idle_us > silence_us && self.peers.is_silent(outgoing.node, now, silence_us);
            if !leads || gone || idle_us > timeout_us {
                over.push((shard, to));
            } else if outgoing.stage == Stage::Sending
                && outgoing.wanted.is_none()
                && now.0 >= outgoing.said_at.0 + REPEAT_US
                && let Some(header) = outgoing.header.clone()
            {
                outgoing.said_at = now;
                fx.push(outgoing.message(shard, to, SnapshotBody::Offer { header }));
            }
        }
        for (shard, to) in over {
            self.finish_out(shard, to, Outcome::Failed, store);
        }
        let mut stuck: Vec<ShardId> = Vec::new();
        for (&shard, incoming) in &mut self.transfers.into {
            if now.0 > incoming.progress_at.0 + timeout_us {
                // While it installs it cannot be given up: the store will say how it ended.
                if !incoming.installing {
                    stuck.push(shard);
                }
            } else if let Some(next) = incoming.next
                && now.0 >= incoming.said_at.0 + REPEAT_US
            {
                incoming.said_at = now;
                fx.push(incoming.message(shard, SnapshotBody::Want { next }));
            }
        }
        for shard in stuck {
            if let Some(incoming) = self.transfers.into.remove(&shard) {
                store.abort_import(incoming.import);
            }
        }
    }

    /// Handles a message of a transfer.
    pub(crate) fn receive_snapshot(
        &mut self,
        now: Micros,
        from: NodeId,
        message: SnapshotMessage,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let SnapshotMessage {
            shard,
            from: sender,
            to,
            term,
            transfer,
            body,
        } = message;
        match body {
            SnapshotBody::Offer { header } => {
                let peer = (from, sender, term);
                self.offered(now, shard, to, peer, transfer, header, store, fx);
            }
            SnapshotBody::Chunk {
                number,
                last,
                checksum,
                payload,
            } => {
                let last = last == Last::Yes;
                let chunk = SnapshotChunk {
                    number,
                    last,
                    checksum,
                    payload,
                };
                self.chunk_arrived(now, shard, to, (sender, transfer), chunk, store, fx);
            }
            SnapshotBody::Want { next } => {
                let Some(outgoing) = self.transfers.out.get_mut(&(shard, sender)) else {
                    return;
                };
                if outgoing.name != transfer || outgoing.stage != Stage::Sending {
                    return;
                }
                outgoing.said_at = now;
                outgoing.want(now, next);
                outgoing.serve(shard, sender, store, fx);
            }
            SnapshotBody::Done { outcome } => {
                let known = self.transfers.out.get(&(shard, sender));
                if known.is_some_and(|outgoing| outgoing.name == transfer) {
                    self.finish_out(shard, sender, outcome, store);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // The parts of one message, and where to answer.
    fn offered(
        &mut self,
        now: Micros,
        shard: ShardId,
        to: ReplicaId,
        (node, from, term): (NodeId, ReplicaId, u64),
        name: (Incarnation, u64),
        header: SnapshotHeader,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let here = match (self.groups.get(&shard), self.damaged.get(&shard)) {
            (Some(group), _) => group.replica == to && !group.installing,
            (None, Some(damaged)) => damaged.replica == to,
            (None, None) => false,
        };
        if !here {
            return;
        }
        if let Some(incoming) = self.transfers.into.get(&shard) {
            if incoming.is(from, name) {
                if let Some(next) = incoming.next {
                    fx.push(incoming.message(shard, SnapshotBody::Want { next }));
                }
                return;
            }
            if incoming.term > term {
                return;
            }
        }
        let members = Configuration::from_stored(&header.conf);
        let id = header.applied;
        let accepted = members
            .as_ref()
            .is_some_and(|members| self.accepts_snapshot(shard, term, id, members));
        let accepted = accepted && !self.is_occupied(shard, &header.range);
        if !accepted {
            let body = self.declined(shard, id);
            let message = SnapshotMessage {
                shard,
                from: to,
                to: from,
                term,
                transfer: name,
                body,
            };
            fx.push(transfer::send(node, message));
            return;
        }
        if let Some(before) = self.transfers.into.remove(&shard) {
            store.abort_import(before.import);
        }
        let import = store.import(shard, to, header.clone());
        let incoming = Incoming {
            name,
            term,
            from,
            node,
            to,
            header,
            import,
            next: None,
            installing: false,
            progress_at: now,
            said_at: now,
        };
        self.transfers.into.insert(shard, incoming);
    }

    #[allow(clippy::too_many_arguments)] // The parts of one message, and where to answer.
    fn chunk_arrived(
        &mut self,
        now: Micros,
        shard: ShardId,
        to: ReplicaId,
        (from, name): (ReplicaId, (Incarnation, u64)),
        chunk: SnapshotChunk,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(incoming) = self.transfers.into.get_mut(&shard) else {
            return;
        };
        if !incoming.is(from, name) || incoming.to != to || incoming.next != Some(chunk.number) {
            return;
        }
        if !chunk.is_intact() {
            fx.push(incoming.message(shard, SnapshotBody::Want { next: chunk.number }));
            return;
        }
        incoming.progress_at = now;
        if chunk.last {
            let members = Configuration::from_stored(&incoming.header.conf).unwrap_or_default();
            let (term, id) = (incoming.term, incoming.header.applied);
            let range = incoming.header.range.clone();
            let occupied = self.is_occupied(shard, &range);
            if occupied || !self.accepts_snapshot(shard, term, id, &members) {
                let Some(incoming) = self.transfers.into.get_mut(&shard) else {
                    return;
                };
                let body = SnapshotBody::Done {
                    outcome: Outcome::Failed,
                };
                fx.push(incoming.message(shard, body));
                store.abort_import(incoming.import);
                self.transfers.into.remove(&shard);
                return;
            }
            // From here on nothing enters raft, until the store has switched or given up.
            if let Some(group) = self.groups.get_mut(&shard) {
                group.installing = true;
            }
        }
        if let Some(incoming) = self.transfers.into.get_mut(&shard) {
            incoming.next = None;
            incoming.installing = chunk.last;
            store.import_chunk(incoming.import, chunk);
        }
    }

    /// The answer to a snapshot that is not taken. Who has its entry goes on from there, also before it knows that
    /// the entry is committed: a leader that was told of a failure would offer the same again, for ever.
    fn declined(&self, shard: ShardId, id: EntryId) -> SnapshotBody {
        let has = |group: &Group| {
            let log = &group.raft.raft.raft_log;
            group.committed() >= id.index || log.match_term(id.index, id.term)
        };
        let outcome = match self.groups.get(&shard).is_some_and(has) {
            true => Outcome::Installed,
            false => Outcome::Failed,
        };
        SnapshotBody::Done { outcome }
    }

    /// Whether keys of this range are another replica's on this node: they are, until it has applied
    /// the split that gave them away or is destroyed. Nothing replaces them behind its back.
    fn is_occupied(&self, shard: ShardId, range: &KeyRange) -> bool {
        let mut others = self.groups.iter().filter(|(other, _)| **other != shard);
        let occupied = others.any(|(_, other)| {
            let known = other.range.as_ref();
            known.is_some_and(|known| known.overlaps(range))
        });
        occupied && !planted!(OverwritesNeighbours)
    }

    /// Whether the replica here, in operation or standing aside, would take this snapshot.
    fn accepts_snapshot(
        &self,
        shard: ShardId,
        term: u64,
        id: EntryId,
        members: &Configuration,
    ) -> bool {
        match (self.groups.get(&shard), self.damaged.get(&shard)) {
            (Some(group), _) => group.accepts_snapshot(term, id, members),
            (None, Some(damaged)) => damaged.accepts_snapshot(id, members),
            (None, None) => false,
        }
    }

    /// Whether a snapshot of the shard is complete, and on its way into the store.
    pub(crate) fn is_installing(&self, shard: ShardId) -> bool {
        let incoming = self.transfers.into.get(&shard);
        incoming.is_some_and(|incoming| incoming.installing)
    }

    fn incoming_of(&self, import: TransferId) -> Option<ShardId> {
        let mut of = self.transfers.into.iter();
        of.find(|(_, incoming)| incoming.import == import)
            .map(|(&shard, _)| shard)
    }

    fn outgoing_of(&self, pin: TransferId) -> Option<(ShardId, ReplicaId)> {
        let mut of = self.transfers.out.iter();
        of.find(|(_, outgoing)| outgoing.pin == pin)
            .map(|(&key, _)| key)
    }

    /// Handles news of the store.
    pub(crate) fn store_event(
        &mut self,
        now: Micros,
        event: StoreEvent,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        match event {
            StoreEvent::Fetched { shard } => self.fetched(shard),
            StoreEvent::ExportReady { transfer, header } => self.pinned(transfer, header),
            StoreEvent::ExportChunk { transfer, chunk } => {
                self.chunk_read(transfer, chunk, store, fx);
            }
            StoreEvent::ExportFailed { transfer, reason } => {
                if let Some((shard, to)) = self.outgoing_of(transfer) {
                    tracing::warn!(%shard, %to, reason, "a snapshot cannot be sent");
                    self.finish_out(shard, to, Outcome::Failed, store);
                }
            }
            StoreEvent::ImportReady {
                transfer,
                next_chunk,
            } => {
                let Some(shard) = self.incoming_of(transfer) else {
                    return;
                };
                let Some(incoming) = self.transfers.into.get_mut(&shard) else {
                    return;
                };
                incoming.next = Some(next_chunk);
                incoming.progress_at = now;
                incoming.said_at = now;
                fx.push(incoming.message(shard, SnapshotBody::Want { next: next_chunk }));
            }
            StoreEvent::ImportFailed { transfer, reason } => {
                let Some(shard) = self.incoming_of(transfer) else {
                    return;
                };
                tracing::warn!(%shard, reason, "a snapshot was not installed");
                if let Some(incoming) = self.transfers.into.remove(&shard) {
                    let body = SnapshotBody::Done {
                        outcome: Outcome::Failed,
                    };
                    fx.push(incoming.message(shard, body));
                }
                if let Some(group) = self.groups.get_mut(&shard) {
                    group.installing = false;
                }
            }
            StoreEvent::Installed {
                transfer: _,
                shard,
                replica,
                header,
            } => {
                self.installed(now, shard, replica, &header, store, fx);
            }
            StoreEvent::Damaged { .. } => self.row_damaged(),
            StoreEvent::Recalled {
                key,
                version,
                state,
            } => self.recalled(key, version, &state, fx),
            StoreEvent::Checkpointed | StoreEvent::Dropped { .. } | StoreEvent::Stopped => {}
        }
    }

    fn chunk_read(
        &mut self,
        pin: TransferId,
        chunk: SnapshotChunk,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some((shard, to)) = self.outgoing_of(pin) else {
            return;
        };
        if let Some(outgoing) = self.transfers.out.get_mut(&(shard, to)) {
            outgoing.take(chunk);
            outgoing.serve(shard, to, store, fx);
        }
    }

    /// Entries that raft-rs, or apply, asked for are in memory.
    fn fetched(&mut self, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            group.fetching = false;
            if let Some(context) = group.refetch.take() {
                group.submit_queued();
                group.raft.on_entries_fetched(context);
                group.settle();
            }
            self.mark(shard);
        }
    }

    fn pinned(&mut self, pin: TransferId, header: SnapshotHeader) {
        let Some((shard, to)) = self.outgoing_of(pin) else {
            return;
        };
        let (Some(outgoing), Some(group)) = (
            self.transfers.out.get_mut(&(shard, to)),
            self.groups.get_mut(&shard),
        ) else {
            return;
        };
        let Some(members) = Configuration::from_stored(&header.conf) else {
            return;
        };
        let id = header.applied;
        outgoing.header = Some(header);
        if outgoing.cause == Cause::Repair {
            outgoing.stage = Stage::Sending;
            outgoing.said_at = Micros(0);
            return;
        }
        outgoing.stage = Stage::Pinned;
        if group.is_leader() && !group.installing && group.raft.raft.prs().get(to.0).is_some() {
            group.raft.store().offer(to, id, members);
            group.submit_queued();
            group.raft.raft.send_append(to.0);
            group.settle();
            self.mark(shard);
        }
    }

    fn installed(
        &mut self,
        now: Micros,
        shard: ShardId,
        replica: ReplicaId,
        header: &SnapshotHeader,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(incoming) = self.transfers.into.remove(&shard) else {
            return;
        };
        let id = header.applied;
        let Some(members) = Configuration::from_stored(&header.conf) else {
            return;
        };
        let done = SnapshotBody::Done {
            outcome: Outcome::Installed,
        };
        let Some(group) = self.groups.get_mut(&shard) else {
            let damaged = self.damaged.get(&shard);
            if damaged.is_some_and(|damaged| damaged.replica == replica) {
                fx.push(Effect::SnapshotInstalled {
                    shard,
                    id,
                    configuration: members.clone(),
                });
                fx.push(incoming.message(shard, done));
                self.restored(shard, id, members, store);
            }
            return;
        };
        if group.replica != replica {
            return;
        }
        group.installing = false;
        let (from, term) = (incoming.from, incoming.term);
        group.step_raft(eraft::snapshot(from, replica, term, id, members.to_raft()));
        let restored = group
            .raft
            .snap()
            .map(|snapshot| snapshot.get_metadata().index);
        if restored != Some(id.index) {
            // It was checked before the group was stopped, and nothing has entered raft since.
            let reason = format!("shard {shard}: an installed snapshot at {id} was not restored");
            fx.push(Effect::Fatal { reason });
            return;
        }
        group.guard.promise(now, self.config.guard_us());
        group.configuration = members.clone();
        group.forget_learned();
        group.learn(from, incoming.node);
        group.handed = id.index;
        group.fetching = false;
        group.lose_proposals(fx);
        fx.push(Effect::SnapshotInstalled {
            shard,
            id,
            configuration: members,
        });
        fx.push(incoming.message(shard, done));
        self.mark(shard);
    }
}
