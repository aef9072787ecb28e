//! Damaged rows, brought back from other replicas.
//!
//! A row whose record is bad on this disk is the same, version for version, on every other replica
//! that has applied as much: versions are given once, by the leader. So a member of its shard is
//! asked for exactly this key and version, another one with each attempt, and the answer is taken
//! only if key, version and checksum are those of what was asked for; a replica that has no such
//! version says nothing. Before anybody is asked, the store looks again whether the row is still
//! damaged: a later version may have taken its place.
//!
//! The replica goes on serving its other rows meanwhile. What cannot be named, and a shard's own
//! rows that were bad when the node started, are another matter: see [`crate::repair`].

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{Micros, ReplicaId, RowState, ShardId, Store, Version};

use crate::effect::{Effect, Effects};
use crate::identity::NodeId;
use crate::message::{Message, RepairBody, RepairMessage, WireKey, WireRow};
use crate::replication::Replication;

/// How often rows are asked for while there are some.
const ASK_US: u64 = 200_000;
/// The pause after all have been asked for.
const ROUND_US: u64 = 1_000_000;
/// Rows asked for at one time, and answered at one time.
const ROWS_MAX: usize = 64;
/// Questions of peers that wait for the disk; more are dropped, and asked again.
const QUESTIONS_MAX: usize = 1_024;

/// Who asked for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    shard: ShardId,
    from: ReplicaId,
    to: ReplicaId,
    node: NodeId,
}

/// What is under way about rows.
#[derive(Debug, Default)]
pub(crate) struct RowRepairs {
    /// The last damaged row that was looked at.
    after: Option<(Bytes, Version)>,
    due: Micros,
    /// Counts attempts: each asks another member.
    attempt: usize,
    /// Rows that are damaged for sure, to be asked for with the next tick.
    wanted: BTreeMap<ShardId, Vec<(Bytes, Version)>>,
    /// What peers asked for and the disk has not given yet.
    questions: BTreeMap<(Bytes, Version), Vec<Asker>>,
}

impl RowRepairs {
    /// Whether no row is about to be asked for.
    pub(crate) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }
}

impl Replication {
    /// A row was found damaged: ask soon.
    pub(crate) fn row_damaged(&mut self) {
        self.rows.due = Micros(0);
    }

    /// Looks at the next damaged rows, and asks for those that were looked at.
    pub(crate) fn tick_rows(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        for (shard, rows) in std::mem::take(&mut self.rows.wanted) {
            self.ask_for_rows(shard, rows, fx);
        }
        if now < self.rows.due {
            return;
        }
        let rows = store.damaged_rows(self.rows.after.take(), ROWS_MAX);
        let pause_us = if rows.len() < ROWS_MAX {
            ROUND_US
        } else {
            self.rows.after = rows.last().cloned();
            ASK_US
        };
        self.rows.due = Micros(now.0 + pause_us);
        for (key, version) in rows {
            store.recall(key, version);
        }
    }

    fn ask_for_rows(&mut self, shard: ShardId, rows: Vec<(Bytes, Version)>, fx: &mut Effects) {
        let Some(group) = self.groups.get(&shard) else {
            return;
        };
        let members = group.configuration.members();
        let others: Vec<_> = members.filter(|m| m.node != self.config.node).collect();
        self.rows.attempt = self.rows.attempt.wrapping_add(1);
        let Some(member) = others.get(self.rows.attempt % others.len().max(1)) else {
            return;
        };
        let message = RepairMessage {
            shard,
            from: group.replica,
            to: member.replica,
            body: RepairBody::RowsWanted {
                rows: rows
                    .into_iter()
                    .map(|(key, version)| (WireKey(key), version))
                    .collect(),
            },
        };
        fx.push(Effect::Send {
            to: member.node,
            message: Message::Repair(message),
        });
    }

    /// A peer lost rows.
    pub(crate) fn rows_wanted(
        &mut self,
        from: NodeId,
        (shard, own, peer): (ShardId, ReplicaId, ReplicaId),
        rows: Vec<(WireKey, Version)>,
        store: &mut Store,
    ) {
        let here = self.groups.get(&shard).is_some_and(|group| {
            let range = group.range.as_ref();
            let mine = |key: &WireKey| range.is_some_and(|range| range.contains(&key.0));
            group.replica == own && rows.iter().all(|(key, _)| mine(key))
        });
        if !here {
            return;
        }
        let asker = Asker {
            shard,
            from: own,
            to: peer,
            node: from,
        };
        for (WireKey(key), version) in rows.into_iter().take(ROWS_MAX) {
            if self.rows.questions.len() >= QUESTIONS_MAX {
                return;
            }
            let askers = self
                .rows
                .questions
                .entry((key.clone(), version))
                .or_default();
            if !askers.contains(&asker) {
                askers.push(asker);
            }
            store.recall(key, version);
        }
    }

    /// The store looked at a row: for a peer, or for us.
    pub(crate) fn recalled(
        &mut self,
        key: Bytes,
        version: Version,
        state: &RowState,
        fx: &mut Effects,
    ) {
        let row = (key, version);
        let askers = self.rows.questions.remove(&row).unwrap_or_default();
        let (key, version) = row;
        match state {
            RowState::Here(op) => {
                for asker in askers {
                    let row = WireRow::new(key.clone(), version, op);
                    let message = RepairMessage {
                        shard: asker.shard,
                        from: asker.from,
                        to: asker.to,
                        body: RepairBody::Row { row },
                    };
                    fx.push(Effect::Send {
                        to: asker.node,
                        message: Message::Repair(message),
                    });
                }
            }
            RowState::Damaged => {
                let mut groups = self.groups.iter();
                let shard = groups.find(|(_, group)| {
                    let range = group.range.as_ref();
                    range.is_some_and(|range| range.contains(&key))
                });
                if let Some((&shard, _)) = shard {
                    let wanted = self.rows.wanted.entry(shard).or_default();
                    if wanted.len() < ROWS_MAX && !wanted.contains(&(key.clone(), version)) {
                        wanted.push((key, version));
                    }
                }
            }
            // It is damaged no more, or nobody can say.
            RowState::Gone | RowState::Unreadable => {}
        }
    }

    /// A peer sends a row that was asked for.
    pub(crate) fn row_arrived(
        &mut self,
        (shard, own): (ShardId, ReplicaId),
        row: WireRow,
        store: &mut Store,
    ) {
        let Some((key, version, op)) = row.into_op() else {
            return;
        };
        let ours = self.groups.get(&shard).is_some_and(|group| {
            let range = group.range.as_ref();
            group.replica == own && range.is_some_and(|range| range.contains(&key))
        });
        if ours {
            // Taken only if exactly this row is damaged here.
            store.repair(&key, version, op);
        }
    }
}
