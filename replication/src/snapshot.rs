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
//! repeated messages need no thought. A transfer is named by the sender's incarnation and a counter,
//! and resumes wherever the receiver stands after a connection was lost.

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
use crate::message::{Last, Message, Outcome, SnapshotBody, SnapshotMessage};
use crate::replication::Replication;
use synod_testpoint::planted;

/// How often an unanswered message of a transfer is repeated.
const REPEAT_US: u64 = 200_000;

/// What a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The store pins the state.
    Pinning,
    /// raft-rs takes note of it at its next attempt to send.
    Pinned,
    /// The receiver asks for chunks.
    Sending,
}

/// Who wants a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// raft-rs: the member's log begins too late.
    Log,
    /// The member: its rows are lost (see [`crate::repair`]). raft-rs does not know.
    Repair,
}

/// A transfer out of this node.
#[derive(Debug)]
struct Outgoing {
    cause: Cause,
    name: (Incarnation, u64),
    term: u64,
    from: ReplicaId,
    node: NodeId,
    pin: TransferId,
    header: Option<SnapshotHeader>,
    stage: Stage,
    /// The last chunks that the store gave, newest last: at most two.
    chunks: VecDeque<SnapshotChunk>,
    /// The next chunk to ask the store for.
    next_read: u32,
    reading: bool,
    /// What the receiver wants and does not have.
    wanted: Option<u32>,
    progress_at: Micros,
    said_at: Micros,
}

/// A transfer into this node.
#[derive(Debug)]
struct Incoming {
    name: (Incarnation, u64),
    term: u64,
    from: ReplicaId,
    node: NodeId,
    to: ReplicaId,
    header: SnapshotHeader,
    import: TransferId,
    /// The next chunk to take; `None` while the store is busy with one.
    next: Option<u32>,
    /// The store has the last chunk, and will say how it ended.
    installing: bool,
    progress_at: Micros,
    said_at: Micros,
}

/// All transfers of a node.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    counter: u64,
    out: BTreeMap<(ShardId, ReplicaId), Outgoing>,
    into: BTreeMap<ShardId, Incoming>,
}

impl Outgoing {
    fn message(&self, shard: ShardId, to: ReplicaId, body: SnapshotBody) -> Effect {
        let (from, term, transfer) = (self.from, self.term, self.name);
        let message = SnapshotMessage {
            shard,
            from,
            to,
            term,
            transfer,
            body,
        };
        Effect::Send {
            to: self.node,
            message: Message::Snapshot(message),
        }
    }

    /// Sends the chunk that the receiver wants, or reads it.
    fn serve(&mut self, shard: ShardId, to: ReplicaId, store: &mut Store, fx: &mut Effects) {
        if let Some(wanted) = self.wanted
            && let Some(chunk) = self.chunks.iter().find(|chunk| chunk.number == wanted)
        {
            let body = SnapshotBody::Chunk {
                number: chunk.number,
                last: if chunk.last { Last::Yes } else { Last::No },
                checksum: chunk.checksum,
                payload: chunk.payload.clone(),
            };
            fx.push(self.message(shard, to, body));
            self.wanted = None;
        }
        // One chunk ahead of what was asked for, so that the disk works while the network does.
        let ended = self.chunks.back().is_some_and(|chunk| chunk.last);
        let ahead = self.wanted.is_some() || self.chunks.len() < 2;
        if !self.reading && !ended && ahead {
            self.reading = true;
            store.export_chunk(self.pin, self.next_read);
        }
    }
}

impl Incoming {
    fn message(&self, shard: ShardId, body: SnapshotBody) -> Effect {
        let (from, to, term, transfer) = (self.to, self.from, self.term, self.name);
        let message = SnapshotMessage {
            shard,
            from,
            to,
            term,
            transfer,
            body,
        };
        Effect::Send {
            to: self.node,
            message: Message::Snapshot(message),
        }
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
            progress_at: now,
            said_at: now,
        };
        self.transfers.out.insert((shard, to), outgoing);
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

    /// Drops all transfers of a group that ends.
    pub(crate) fn end_transfers(&mut self, shard: ShardId, store: &mut Store) {
        let out: Vec<_> = self
            .transfers
            .out
            .keys()
            .filter(|key| key.0 == shard)
            .copied()
            .collect();
        for (shard, to) in out {
            self.finish_out(shard, to, Outcome::Failed, store);
        }
        if let Some(incoming) = self.transfers.into.remove(&shard) {
            store.abort_import(incoming.import);
        }
    }

    /// Repeats what was not answered, gives up what makes no progress.
    pub(crate) fn tick_transfers(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        let timeout_us = self.config.snapshot_timeout_ms * 1_000;
        let mut over: Vec<(ShardId, ReplicaId)> = Vec::new();
        for (&(shard, to), outgoing) in &mut self.transfers.out {
            let leads = self
                .groups
                .get(&shard)
                .is_some_and(|group| group.is_leader() && group.term() == outgoing.term);
            if !leads || now.0 > outgoing.progress_at.0 + timeout_us {
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
                self.chunk_arrived(now, shard, to, transfer, chunk, store, fx);
            }
            SnapshotBody::Want { next } => {
                let Some(outgoing) = self.transfers.out.get_mut(&(shard, sender)) else {
                    return;
                };
                if outgoing.name != transfer || outgoing.stage != Stage::Sending {
                    return;
                }
                outgoing.progress_at = now;
                outgoing.said_at = now;
                outgoing.wanted = Some(next);
                while outgoing
                    .chunks
                    .front()
                    .is_some_and(|chunk| chunk.number < next)
                {
                    outgoing.chunks.pop_front();
                }
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
            if incoming.name == name {
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
            let message = Message::Snapshot(message);
            fx.push(Effect::Send { to: node, message });
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
        name: (Incarnation, u64),
        chunk: SnapshotChunk,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(incoming) = self.transfers.into.get_mut(&shard) else {
            return;
        };
        if incoming.name != name || incoming.to != to || incoming.next != Some(chunk.number) {
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
                let Some((shard, to)) = self.outgoing_of(transfer) else {
                    return;
                };
                let Some(outgoing) = self.transfers.out.get_mut(&(shard, to)) else {
                    return;
                };
                outgoing.reading = false;
                outgoing.next_read = chunk.number + 1;
                outgoing.chunks.push_back(chunk);
                outgoing.serve(shard, to, store, fx);
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
