//! One transfer, as its sender and its receiver see it.

use std::collections::VecDeque;

use synod_storage::{Micros, ReplicaId, ShardId, SnapshotChunk, SnapshotHeader, Store, TransferId};
use synod_testpoint::planted;

use crate::effect::{Effect, Effects};
use crate::identity::{Incarnation, NodeId};
use crate::message::{Last, Message, SnapshotBody, SnapshotMessage};

/// What a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
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
pub(super) struct Outgoing {
    pub cause: Cause,
    pub name: (Incarnation, u64),
    pub term: u64,
    pub from: ReplicaId,
    pub node: NodeId,
    pub pin: TransferId,
    pub header: Option<SnapshotHeader>,
    pub stage: Stage,
    /// The last chunks that the store gave, newest last: at most two.
    pub chunks: VecDeque<SnapshotChunk>,
    /// The next chunk to ask the store for.
    pub next_read: u32,
    pub reading: bool,
    /// What the receiver wants and does not have.
    pub wanted: Option<u32>,
    /// What it wanted last. Only another wish is progress.
    pub last_wanted: Option<u32>,
    pub progress_at: Micros,
    pub said_at: Micros,
}

/// A transfer into this node.
#[derive(Debug)]
pub(super) struct Incoming {
    pub name: (Incarnation, u64),
    pub term: u64,
    pub from: ReplicaId,
    pub node: NodeId,
    pub to: ReplicaId,
    pub header: SnapshotHeader,
    pub import: TransferId,
    /// The next chunk to take; `None` while the store is busy with one.
    pub next: Option<u32>,
    /// The store has the last chunk, and will say how it ended.
    pub installing: bool,
    pub progress_at: Micros,
    pub said_at: Micros,
}

/// A message of a transfer, on its way to the other side.
pub(super) fn send(to: NodeId, message: SnapshotMessage) -> Effect {
    let message = Message::Snapshot(message);
    Effect::Send { to, message }
}

impl Outgoing {
    pub fn message(&self, shard: ShardId, to: ReplicaId, body: SnapshotBody) -> Effect {
        let (from, term, transfer) = (self.from, self.term, self.name);
        let message = SnapshotMessage {
            shard,
            from,
            to,
            term,
            transfer,
            body,
        };
        send(self.node, message)
    }

    /// Takes note of what the receiver wants.
    pub fn want(&mut self, now: Micros, next: u32) {
        if self.last_wanted.replace(next) != Some(next) {
            self.progress_at = now;
        }
        self.wanted = Some(next);
        let at_hand = |chunk: &SnapshotChunk| chunk.number == next;
        if next != self.next_read && !self.chunks.iter().any(at_hand) {
            // It began anew, or a chunk was lost that is no longer kept.
            self.next_read = next;
        }
        self.chunks
            .retain(|chunk| chunk.number >= next && chunk.number < self.next_read);
    }

    /// A chunk was read.
    pub fn take(&mut self, chunk: SnapshotChunk) {
        self.reading = false;
        if chunk.number == self.next_read {
            self.next_read += 1;
            self.chunks.push_back(chunk);
        }
    }

    /// Sends the chunk that the receiver wants, or reads it.
    pub fn serve(&mut self, shard: ShardId, to: ReplicaId, store: &mut Store, fx: &mut Effects) {
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
    /// Whether it is the sender's transfer of this name. Another leader's may have the same: each node
    /// counts its starts and its transfers by itself.
    pub fn is(&self, from: ReplicaId, name: (Incarnation, u64)) -> bool {
        self.name == name && (self.from == from || planted!(MixesTransfers))
    }

    pub fn message(&self, shard: ShardId, body: SnapshotBody) -> Effect {
        let (from, to, term, transfer) = (self.to, self.from, self.term, self.name);
        let message = SnapshotMessage {
            shard,
            from,
            to,
            term,
            transfer,
            body,
        };
        send(self.node, message)
    }
}
