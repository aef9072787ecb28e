//! Between our own types and raft-rs'.
//!
//! raft-rs speaks protobuf structs. They are built and taken apart field by field here; protobuf's
//! own encoding is used in one place only, on our own bytes: raft-rs parses the change of a
//! configuration when the leader proposes it. Such an entry therefore has two forms. While it is
//! proposed, `data` is protobuf for raft-rs and `context` is our record; in the log, on the wire
//! and on every follower, `data` is our record and there is no context.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType, MessageType,
};
use synod_storage::{Entry, EntryId, EntryKind, ReplicaId, ShardId};

use crate::configuration::{ChangeItem, ChangeRecord};
use crate::message::{Ballot, GroupBody, GroupMessage, VoteKind, WireEntry};

type RaftEntry = raft::eraftpb::Entry;
type RaftMessage = raft::eraftpb::Message;

/// raft-rs marks an election at the leader's wish with this context.
const TRANSFER: &[u8] = raft::CAMPAIGN_TRANSFER;

/// The kind and the data of an entry as the log has it.
fn kind_and_data(entry: &RaftEntry) -> (EntryKind, Bytes) {
    match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data.clone()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            let data = if entry.context.is_empty() {
                &entry.data
            } else {
                &entry.context
            };
            (EntryKind::Configuration, data.clone())
        }
    }
}

/// As the log has it.
pub(crate) fn to_stored(entry: &RaftEntry) -> Entry {
    let (kind, data) = kind_and_data(entry);
    Entry {
        id: EntryId::new(entry.term, entry.index),
        kind,
        data,
    }
}

fn raft_entry(id: EntryId, kind: EntryKind, data: Bytes) -> RaftEntry {
    let mut entry = RaftEntry::default();
    entry.set_entry_type(match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::Configuration => EntryType::EntryConfChangeV2,
    });
    entry.term = id.term;
    entry.index = id.index;
    entry.data = data;
    entry
}

/// As raft-rs reads it from the log.
pub(crate) fn from_stored(entry: Entry) -> RaftEntry {
    raft_entry(entry.id, entry.kind, entry.data)
}

/// A proposal of the layer above; raft-rs numbers it.
pub(crate) fn proposal(data: Bytes) -> RaftEntry {
    raft_entry(EntryId::ZERO, EntryKind::Normal, data)
}

/// A proposal to change the members; raft-rs numbers it.
pub(crate) fn change_proposal(record: &ChangeRecord) -> RaftEntry {
    let change = raft_change(record);
    let data = match change.write_to_bytes() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("our own protobuf: {error}"),
    };
    let mut entry = raft_entry(EntryId::ZERO, EntryKind::Configuration, data.into());
    entry.context = record.encode().into();
    entry
}

/// What raft-rs has to apply for `record`.
pub(crate) fn raft_change(record: &ChangeRecord) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    let singles: Vec<ConfChangeSingle> = record
        .changes
        .iter()
        .map(|item| {
            let node_id = item.replica().0;
            let mut single = ConfChangeSingle {
                node_id,
                ..ConfChangeSingle::default()
            };
            single.set_change_type(match item {
                ChangeItem::Voter { .. } => ConfChangeType::AddNode,
                ChangeItem::Learner { .. } => ConfChangeType::AddLearnerNode,
                ChangeItem::Remove { .. } => ConfChangeType::RemoveNode,
            });
            single
        })
        .collect();
    if singles.len() > 1 {
        // We leave by ourselves: raft-rs' automatic leave is lost when the leader steps down
        // before it has applied the entry.
        change.set_transition(ConfChangeTransition::Explicit);
    }
    change.set_changes(singles.into());
    change
}

/// What a message of raft-rs becomes.
pub(crate) enum Outgoing {
    /// A consensus message.
    Wire(GroupMessage),
    /// A snapshot: its data takes another way.
    Snapshot { to: ReplicaId, id: EntryId },
    /// A message whose work our own heartbeat does, or that we never let raft-rs send.
    Ours,
}

/// Takes a message of raft-rs apart.
pub(crate) fn outgoing(shard: ShardId, mut message: RaftMessage) -> Outgoing {
    let body = match message.get_msg_type() {
        MessageType::MsgAppend => {
            let previous = EntryId::new(message.log_term, message.index);
            let entries = message
                .take_entries()
                .into_iter()
                .map(|entry| {
                    let (kind, data) = kind_and_data(&entry);
                    WireEntry {
                        term: entry.term,
                        kind,
                        data,
                    }
                })
                .collect();
            GroupBody::Append {
                previous,
                commit: message.commit,
                entries,
            }
        }
        MessageType::MsgAppendResponse if message.reject => GroupBody::Rejected {
            index: message.index,
            hint: EntryId::new(message.log_term, message.reject_hint),
            commit: message.commit,
        },
        MessageType::MsgAppendResponse => GroupBody::Accepted {
            index: message.index,
            commit: message.commit,
        },
        MessageType::MsgRequestPreVote | MessageType::MsgRequestVote => GroupBody::Vote {
            kind: match message.get_msg_type() {
                MessageType::MsgRequestPreVote => VoteKind::PreVote,
                _ if message.context == TRANSFER => VoteKind::Transfer,
                _ => VoteKind::Election,
            },
            last: EntryId::new(message.log_term, message.index),
            commit: EntryId::new(message.commit_term, message.commit),
        },
        MessageType::MsgRequestPreVoteResponse | MessageType::MsgRequestVoteResponse => {
            GroupBody::VoteReply {
                kind: match message.get_msg_type() {
                    MessageType::MsgRequestPreVoteResponse => VoteKind::PreVote,
                    _ => VoteKind::Election,
                },
                vote: if message.reject {
                    Ballot::Refused
                } else {
                    Ballot::Granted
                },
                commit: EntryId::new(message.commit_term, message.commit),
            }
        }
        MessageType::MsgTimeoutNow => GroupBody::TimeoutNow,
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            return Outgoing::Snapshot {
                to: ReplicaId(message.to),
                id: EntryId::new(metadata.term, metadata.index),
            };
        }
        // Heartbeats are ours, and so are their answers. The rest is local to raft-rs, or would
        // forward a command, which only the gateway may do.
        MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return Outgoing::Ours,
    };
    Outgoing::Wire(GroupMessage {
        shard,
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        term: message.term,
        body,
    })
}

fn raft_message(kind: MessageType, from: ReplicaId, to: ReplicaId, term: u64) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_msg_type(kind);
    message.from = from.0;
    message.to = to.0;
    message.term = term;
    message
}

/// Puts a checked message of a peer together for raft-rs.
pub(crate) fn incoming(message: GroupMessage) -> RaftMessage {
    let GroupMessage {
        shard: _,
        from,
        to,
        term,
        body,
    } = message;
    match body {
        GroupBody::Append {
            previous,
            commit,
            entries,
        } => {
            let mut raft = raft_message(MessageType::MsgAppend, from, to, term);
            raft.index = previous.index;
            raft.log_term = previous.term;
            raft.commit = commit;
            let first = previous.index + 1;
            let entries: Vec<RaftEntry> = entries
                .into_iter()
                .zip(first..)
                .map(|(e, index)| raft_entry(EntryId::new(e.term, index), e.kind, e.data))
                .collect();
            raft.set_entries(entries.into());
            raft
        }
        GroupBody::Accepted { index, commit } => {
            let mut raft = raft_message(MessageType::MsgAppendResponse, from, to, term);
            raft.index = index;
            raft.commit = commit;
            raft
        }
        GroupBody::Rejected {
            index,
            hint,
            commit,
        } => {
            let mut raft = raft_message(MessageType::MsgAppendResponse, from, to, term);
            raft.reject = true;
            raft.index = index;
            raft.reject_hint = hint.index;
            raft.log_term = hint.term;
            raft.commit = commit;
            raft
        }
        GroupBody::Vote { kind, last, commit } => {
            let mut raft = match kind {
                VoteKind::PreVote => raft_message(MessageType::MsgRequestPreVote, from, to, term),
                VoteKind::Election => raft_message(MessageType::MsgRequestVote, from, to, term),
                VoteKind::Transfer => {
                    let mut raft = raft_message(MessageType::MsgRequestVote, from, to, term);
                    raft.context = Bytes::from_static(TRANSFER);
                    raft
                }
            };
            raft.index = last.index;
            raft.log_term = last.term;
            raft.commit = commit.index;
            raft.commit_term = commit.term;
            raft
        }
        GroupBody::VoteReply { kind, vote, commit } => {
            let kind = match kind {
                VoteKind::PreVote => MessageType::MsgRequestPreVoteResponse,
                VoteKind::Election | VoteKind::Transfer => MessageType::MsgRequestVoteResponse,
            };
            let mut raft = raft_message(kind, from, to, term);
            raft.reject = vote == Ballot::Refused;
            raft.commit = commit.index;
            raft.commit_term = commit.term;
            raft
        }
        GroupBody::TimeoutNow => raft_message(MessageType::MsgTimeoutNow, from, to, term),
    }
}

/// A heartbeat of `from`, for raft-rs to follow.
pub(crate) fn heartbeat(from: ReplicaId, to: ReplicaId, term: u64, commit: u64) -> RaftMessage {
    let mut raft = raft_message(MessageType::MsgHeartbeat, from, to, term);
    raft.commit = commit;
    raft
}

/// The answer of `from` to a heartbeat.
pub(crate) fn heartbeat_reply(
    from: ReplicaId,
    to: ReplicaId,
    term: u64,
    commit: u64,
) -> RaftMessage {
    let mut raft = raft_message(MessageType::MsgHeartbeatResponse, from, to, term);
    raft.commit = commit;
    raft
}

/// Proposals, as one step of the leader.
pub(crate) fn proposals(from: ReplicaId, entries: Vec<RaftEntry>) -> RaftMessage {
    let mut raft = raft_message(MessageType::MsgPropose, from, ReplicaId(0), 0);
    raft.set_entries(entries.into());
    raft
}

/// An installed snapshot, without its data, for raft-rs to restore.
pub(crate) fn snapshot(
    from: ReplicaId,
    to: ReplicaId,
    term: u64,
    id: EntryId,
    configuration: raft::eraftpb::ConfState,
) -> RaftMessage {
    let mut raft = raft_message(MessageType::MsgSnapshot, from, to, term);
    raft.set_snapshot(snapshot_of(id, configuration));
    raft
}

/// A snapshot as raft-rs sees it: all metadata.
pub(crate) fn snapshot_of(
    id: EntryId,
    configuration: raft::eraftpb::ConfState,
) -> raft::eraftpb::Snapshot {
    let mut snapshot = raft::eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = id.index;
    metadata.term = id.term;
    metadata.set_conf_state(configuration);
    snapshot
}
