//! Replicas whose disk lost something.
//!
//! A checksum that fails before the end of the log is not a torn write: the entry was durable, and
//! may have been acknowledged. Dropping it, and all after it, would turn an acknowledgement into a
//! lie; skipping it would make replicas differ. So such a replica stands aside: it has no raft-rs
//! node, and therefore neither votes, campaigns, acknowledges nor serves. The log kept each entry's
//! term, index and checksum apart from its bytes; peers are asked for exactly these, and an entry
//! that matches in all three is the one that was lost, whoever sends it. When all are back, and
//! durable, the replica starts as after any restart.
//!
//! A replica whose log is whole and whose rows are not (a file of values lists them no more, or a row
//! of the shard's own was bad when the node started) gets a snapshot from the leader, under the id it
//! has: its promises and votes were in the log. The snapshot has to be as of its last entry at least,
//! so that what it acknowledged is in it, or was never committed; it takes the place of rows and log
//! together. So does a replica that asks for entries in vain: whoever has applied them may have let
//! them go.
//!
//! What nobody can name (a term, a vote, a record whose header is gone) no peer can bring back. That
//! replica has to be replaced, under a new id, as a learner first.

use std::collections::BTreeMap;

use synod_storage::{
    EntryId, HardState, KeyRange, LogBatch, Micros, RecoveredReplica, ReplicaId, ShardId, Store,
    entry_checksum,
};

use crate::configuration::Configuration;
use crate::effect::{Damage, Effect, Effects};
use crate::election::Guard;
use crate::group::Start;
use crate::identity::NodeId;
use crate::message::{Message, RepairBody, RepairMessage, WireEntry};
use crate::replication::Replication;
use crate::snapshot::Cause;

/// How often peers are asked.
const ASK_US: u64 = 200_000;

/// How long peers are asked for entries before the leader is asked for its state as well.
const ENTRIES_ONLY_US: u64 = 2_000_000;

/// How long peers are asked before the operator is told that it may not help.
const HOPE_US: u64 = 30_000_000;

/// Entries asked for at one time.
const WANTED_MAX: usize = 64;

/// What is wrong with a replica.
#[derive(Debug)]
enum Wrong {
    /// These entries, by their checksums.
    Entries(BTreeMap<EntryId, u32>),
    /// Rows; a snapshot as of the last entry or later has them.
    Rows,
    /// Something without a name.
    Unknown,
}

/// A replica that stands aside.
#[derive(Debug)]
pub(crate) struct DamagedReplica {
    pub(crate) replica: ReplicaId,
    configuration: Configuration,
    hard_state: HardState,
    applied: u64,
    last: u64,
    pub(crate) range: Option<KeyRange>,
    wrong: Wrong,
    writing: bool,
    asked_at: Option<Micros>,
    first_asked_at: Option<Micros>,
    despaired: bool,
}

impl DamagedReplica {
    pub(crate) fn new(found: &RecoveredReplica, configuration: Configuration) -> DamagedReplica {
        let wrong = if found.damage.unknown {
            Wrong::Unknown
        } else if found.damage.rows {
            Wrong::Rows
        } else {
            Wrong::Entries(found.damage.entries.iter().copied().collect())
        };
        DamagedReplica {
            replica: found.replica,
            configuration,
            hard_state: found.hard_state,
            applied: found.applied.index,
            last: found.last.index,
            range: None,
            wrong,
            writing: false,
            asked_at: None,
            first_asked_at: None,
            despaired: false,
        }
    }

    pub(crate) fn irreparable(replica: ReplicaId, configuration: Configuration) -> DamagedReplica {
        DamagedReplica {
            replica,
            configuration,
            hard_state: HardState::default(),
            applied: 0,
            last: 0,
            range: None,
            wrong: Wrong::Unknown,
            writing: false,
            asked_at: None,
            first_asked_at: None,
            despaired: true,
        }
    }

    pub(crate) fn damage(&self) -> Damage {
        match &self.wrong {
            Wrong::Entries(entries) => Damage::Entries {
                count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            },
            Wrong::Rows => Damage::Rows,
            Wrong::Unknown => Damage::Irreparable,
        }
    }

    /// Whether a snapshot as of `id` would make it whole.
    pub(crate) fn accepts_snapshot(&self, id: EntryId, members: &Configuration) -> bool {
        matches!(self.wrong, Wrong::Rows | Wrong::Entries(_))
            && !self.writing
            && id.index >= self.last.max(self.applied)
            && members.contains(self.replica)
    }
}

impl Replication {
    /// A group met an entry that its disk has lost: it stands aside.
    pub(crate) fn suspend(
        &mut self,
        now: Micros,
        shard: ShardId,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(group) = self.groups.get(&shard) else {
            return;
        };
        let replica = group.replica;
        let damage = group.view().damage(shard).unwrap_or_default();
        let found = RecoveredReplica {
            shard,
            replica,
            hard_state: group.hard_state(),
            conf: group.configuration.to_stored(),
            applied: store.applied(shard).unwrap_or_default(),
            last: group.last_id(),
            damage,
        };
        let mut damaged = DamagedReplica::new(&found, group.configuration.clone());
        damaged.range.clone_from(&group.range);
        tracing::error!(%shard, %replica, damage = ?damaged.damage(), "a replica stands aside");
        fx.push(Effect::Damaged {
            shard,
            replica,
            damage: damaged.damage(),
        });
        self.abandon(shard, store, fx);
        self.damaged.insert(shard, damaged);
        self.tick_repairs(now, fx);
    }

    /// Asks peers for what is lost.
    pub(crate) fn tick_repairs(&mut self, now: Micros, fx: &mut Effects) {
        let own = self.config.node;
        for (&shard, damaged) in &mut self.damaged {
            let state = RepairBody::StateWanted {
                least: damaged.last.max(damaged.applied),
            };
            let first = damaged.first_asked_at.unwrap_or(now);
            let wishes = match &damaged.wrong {
                Wrong::Entries(entries) => {
                    let wanted = entries.iter().take(WANTED_MAX);
                    let wanted = wanted.map(|(&id, &checksum)| (id, checksum)).collect();
                    let in_vain = now.0 >= first.0 + ENTRIES_ONLY_US;
                    let entries = RepairBody::Request { wanted };
                    std::iter::once(entries)
                        .chain(in_vain.then_some(state))
                        .collect()
                }
                Wrong::Rows => vec![state],
                Wrong::Unknown => continue,
            };
            let due = damaged.asked_at.is_none_or(|at| now.0 >= at.0 + ASK_US);
            if damaged.writing || !due {
                continue;
            }
            damaged.asked_at = Some(now);
            damaged.first_asked_at = Some(first);
            if !damaged.despaired && now.0 >= first.0 + HOPE_US {
                damaged.despaired = true;
                let (replica, damage) = (damaged.replica, Damage::Irreparable);
                fx.push(Effect::Damaged {
                    shard,
                    replica,
                    damage,
                });
            }
            for member in damaged
                .configuration
                .members()
                .filter(|member| member.node != own)
            {
                for body in &wishes {
                    let message = RepairMessage {
                        shard,
                        from: damaged.replica,
                        to: member.replica,
                        body: body.clone(),
                    };
                    fx.push(Effect::Send {
                        to: member.node,
                        message: Message::Repair(message),
                    });
                }
            }
        }
    }

    /// Handles a message of a repair.
    pub(crate) fn receive_repair(
        &mut self,
        now: Micros,
        from: NodeId,
        message: RepairMessage,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let shard = message.shard;
        match message.body {
            RepairBody::Request { wanted } => {
                self.entries_wanted(from, (shard, message.from), wanted, store, fx);
            }
            RepairBody::Reply { entries } => {
                self.entries_arrived((shard, message.to), entries, store);
            }
            RepairBody::RowsWanted { rows } => {
                self.rows_wanted(from, (shard, message.to, message.from), rows, store);
            }
            RepairBody::Row { row } => self.row_arrived((shard, message.to), row, store),
            RepairBody::StateWanted { least } => {
                self.snapshot_begins(now, shard, message.from, least, Cause::Repair, store);
            }
        }
    }

    /// A peer lost entries.
    fn entries_wanted(
        &mut self,
        from: NodeId,
        (shard, peer): (ShardId, ReplicaId),
        wanted: Vec<(EntryId, u32)>,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(group) = self.groups.get(&shard) else {
            return;
        };
        let mut entries = Vec::new();
        for (id, checksum) in wanted.into_iter().take(WANTED_MAX) {
            match group
                .view()
                .entries(shard, id.index, id.index + 1, u64::MAX)
            {
                Ok(found) => {
                    let exact = found
                        .into_iter()
                        .find(|e| e.id == id && entry_checksum(e) == checksum);
                    entries.extend(exact.map(|e| {
                        let (term, kind, data) = (e.id.term, e.kind, e.data);
                        (e.id, WireEntry { term, kind, data })
                    }));
                }
                Err(synod_storage::LogError::Temporarily) => {
                    // The peer asks again; by then it is in memory.
                    store.fetch(shard, id.index, id.index + 1);
                }
                Err(
                    synod_storage::LogError::Compacted { .. }
                    | synod_storage::LogError::Unavailable { .. }
                    | synod_storage::LogError::Damaged { .. }
                    | synod_storage::LogError::NoReplica,
                ) => {}
            }
        }
        if !entries.is_empty() {
            let message = RepairMessage {
                shard,
                from: group.replica,
                to: peer,
                body: RepairBody::Reply { entries },
            };
            fx.push(Effect::Send {
                to: from,
                message: Message::Repair(message),
            });
        }
    }

    /// A peer sends entries that were asked for.
    fn entries_arrived(
        &mut self,
        (shard, to): (ShardId, ReplicaId),
        entries: Vec<(EntryId, WireEntry)>,
        store: &mut Store,
    ) {
        // Once the state is being switched in, its log follows.
        let installing = self.is_installing(shard);
        let Some(damaged) = self.damaged.get_mut(&shard) else {
            return;
        };
        let replica = damaged.replica;
        let Wrong::Entries(wanted) = &damaged.wrong else {
            return;
        };
        if to != replica || damaged.writing || installing {
            return;
        }
        let mut batch = LogBatch::new();
        let mut count = 0;
        for (id, entry) in entries {
            let entry = synod_storage::Entry {
                id,
                kind: entry.kind,
                data: entry.data,
            };
            let exact = wanted
                .get(&id)
                .is_some_and(|sum| *sum == entry_checksum(&entry));
            if exact {
                batch.repair(shard, replica, entry);
                count += 1;
            }
        }
        if count > 0 {
            damaged.writing = true;
            self.await_repair(shard, replica, count, batch, store);
        }
    }

    /// A snapshot took the place of a replica's rows: its log follows.
    pub(crate) fn restored(
        &mut self,
        shard: ShardId,
        id: EntryId,
        members: Configuration,
        store: &mut Store,
    ) {
        let Some(damaged) = self.damaged.get_mut(&shard) else {
            return;
        };
        let state = &mut damaged.hard_state;
        if state.term < id.term {
            // A later term than it ever voted in.
            *state = HardState {
                term: id.term,
                vote: ReplicaId(0),
                commit: id.index,
            };
        }
        state.commit = id.index;
        let (replica, hard_state) = (damaged.replica, *state);
        let conf = members.to_stored();
        damaged.configuration = members;
        damaged.applied = id.index;
        damaged.writing = true;
        let mut batch = LogBatch::new();
        batch.snapshot_marker(shard, replica, id, conf);
        batch.hard_state(shard, replica, hard_state);
        self.await_repair(shard, replica, 0, batch, store);
    }

    /// Repaired entries are durable.
    pub(crate) fn repaired(
        &mut self,
        now: Micros,
        shard: ShardId,
        replica: ReplicaId,
        entries: u32,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let Some(damaged) = self
            .damaged
            .get_mut(&shard)
            .filter(|d| d.replica == replica)
        else {
            return;
        };
        damaged.writing = false;
        damaged.asked_at = None;
        let left = store.log().damage(shard).unwrap_or_default();
        if !left.is_none() {
            damaged.wrong = Wrong::Entries(left.entries.into_iter().collect());
            return;
        }
        let start = Start {
            shard,
            replica,
            hard_state: damaged.hard_state,
            configuration: damaged.configuration.clone(),
            applied: damaged.applied,
            guard: Guard::restarted(now, self.config.guard_us()),
        };
        let range = damaged.range.take();
        self.damaged.remove(&shard);
        fx.push(Effect::Repaired {
            shard,
            replica,
            entries,
        });
        self.begin(now, start, fx);
        if let Some(group) = self.groups.get_mut(&shard) {
            group.range = range;
        }
    }
}
