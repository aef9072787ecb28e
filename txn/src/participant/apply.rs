//! Apply: what the log says becomes the state, alike on every replica.
//!
//! Everything that decides whether an entry has an effect is in the entry or in the state that
//! earlier entries have made. What this node knows besides (its role, what it proposed) only decides
//! who is answered.

use bytes::Bytes;
use synod_storage::{Entry, ShardId, Space, Version, Write, WriteOp};
use synod_testpoint::{planted, reached};

use super::entry::{self, Birth, Header, Record};
use super::event::{Batch, Newborn};
use super::leader::{Proposed, release};
use super::merging::{FROZEN_ROW, end_of};
use super::shard::{AUTHORITY_ROW, CEILING_ROW, DESCRIPTOR_ROW, Role, Shard};
use super::snapshots::{CLOSED_ROW, Closed};
use super::splitting::{decode_ceiling, newborn_row};
use super::transactions::Changes;
use super::{Effect, Extent, Telling, Turn};
use crate::shard_map::{SYSTEM_SHARD, ShardDescriptor, keyspace};
use crate::state::State;
use crate::value::Value;
use crate::wire::Outcome;

/// Whether an entry had its effect, which all replicas agree about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its writes are part of the state.
    Applied,
    /// It was evaluated in another term than the one it came in.
    OldTerm,
    /// It was evaluated in another epoch than the applied one.
    OldEpoch,
    /// The shard has ended, for all that is known.
    Frozen,
}

/// What an entry comes to, record by record.
struct Done {
    shard: ShardId,
    /// The entry's raft index, which rows of the shard's own carry.
    index: Version,
    writes: Vec<Write>,
    ceiling: Version,
    /// The version of the last command, and the greatest of all.
    last: Version,
    greatest: Version,
    described: Option<ShardDescriptor>,
    newborn: Option<Newborn>,
    merged: Option<ShardDescriptor>,
    /// What is closed, and whether something was written there in spite of it.
    closed: Closed,
    broken: bool,
    born: bool,
}

impl Done {
    fn new(shard: ShardId, entry: &Entry, ceiling: Version, closed: Closed) -> Done {
        Done {
            shard,
            index: Version(entry.id.index),
            writes: Vec::new(),
            ceiling,
            last: Version::ZERO,
            greatest: Version::ZERO,
            described: None,
            newborn: None,
            merged: None,
            closed,
            broken: false,
            born: false,
        }
    }

    /// A row of the shard's own.
    fn local(&mut self, key: Bytes, value: Option<Bytes>) {
        self.writes.push(Write {
            space: Space::Local(self.shard),
            key,
            version: self.index,
            op: value.map_or(WriteOp::Delete, WriteOp::Put),
        });
    }

    /// A user's key, or a row of the cluster's tables.
    fn user(&mut self, key: &Bytes, value: Option<Bytes>, version: Version) {
        self.greatest = self.greatest.max(version);
        let (space, key) = keyspace::row(self.shard, key);
        self.broken |= space == Space::User && version <= self.closed.at;
        let version = match space {
            Space::User => version,
            Space::Local(_) => self.index,
        };
        let op = value.map_or(WriteOp::Delete, WriteOp::Put);
        self.writes.push(Write {
            space,
            key,
            version,
            op,
        });
    }

    fn command(
        &mut self,
        version: Version,
        writes: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<(), String> {
        if version <= self.last {
            return Err(format!("version {version} is not above the one before"));
        }
        self.last = version;
        self.greatest = self.greatest.max(version);
        for (key, value) in writes {
            self.user(&key, value, version);
        }
        Ok(())
    }

    fn step(&mut self, changes: Changes) {
        for (key, value, version) in changes.writes {
            self.user(&key, value, version);
        }
        for (key, value) in changes.rows {
            self.local(key, value);
        }
    }

    fn describe(&mut self, descriptor: ShardDescriptor) {
        let value = entry::encode_descriptor(&descriptor);
        self.local(Bytes::from_static(DESCRIPTOR_ROW), Some(value));
        self.described = Some(descriptor);
    }

    fn birth(&mut self, birth: Birth) -> Result<(), String> {
        self.describe(birth.descriptor);
        for (key, value) in birth.rows {
            match &key[..] == CEILING_ROW {
                true => self.ceiling = self.ceiling.max(decode_ceiling(&value)?),
                false => self.local(key, Some(value)),
            }
        }
        self.born = true;
        Ok(())
    }
}

impl Shard {
    /// Applies committed entries, in order.
    pub(super) fn committed<S: State>(&mut self, turn: &mut Turn<S>, entries: &[Entry]) {
        for entry in entries {
            self.settle_older_terms(turn, entry.id.term);
            if entry.data.is_empty() {
                turn.state.apply(self.id, entry.id, &[]);
                continue;
            }
            let (header, records) = match entry::decode(&entry.data) {
                Ok(decoded) => decoded,
                Err(malformed) => {
                    return self.fatal(turn, format!("entry {}: {malformed}", entry.id));
                }
            };
            let verdict = if header.term != entry.id.term && !planted!(AppliesOldTerms) {
                reached!(OldTermDropped);
                Verdict::OldTerm
            } else if header.epoch != self.own.descriptor.epoch && !self.own.is_unborn() {
                reached!(OldEpochDropped);
                Verdict::OldEpoch
            } else if self.own.frozen.is_some() && !matches!(records[..], [Record::Thaw(_)]) {
                Verdict::Frozen
            } else {
                Verdict::Applied
            };
            let described = match verdict {
                Verdict::Applied => match self.apply(turn, entry, header, records) {
                    Ok(described) => described,
                    Err(reason) => {
                        return self.fatal(turn, format!("entry {}: {reason}", entry.id));
                    }
                },
                Verdict::OldTerm | Verdict::OldEpoch | Verdict::Frozen => {
                    turn.state.apply(self.id, entry.id, &[]);
                    None
                }
            };
            self.settle(turn, header, verdict);
            if let Some(descriptor) = described {
                self.described(turn, descriptor);
            }
        }
    }

    /// Carries out an entry's records. After an error the replica is not used any more.
    fn apply<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        entry: &Entry,
        header: Header,
        records: Vec<Record>,
    ) -> Result<Option<ShardDescriptor>, String> {
        let id = self.id;
        let ceiling = self.own.ceiling.max(header.ceiling);
        let mut done = Done::new(id, entry, ceiling, self.own.closed);
        for record in records {
            self.take(turn, &mut done, record)?;
        }
        let Done {
            ceiling,
            greatest,
            closed,
            ..
        } = done;
        if done.broken {
            return Err(format!(
                "a write at or below {}, which is closed",
                closed.at
            ));
        }
        if closed.at > ceiling {
            return Err(format!(
                "{} is closed above the ceiling {ceiling}",
                closed.at
            ));
        }
        if closed != self.own.closed {
            done.local(Bytes::from_static(CLOSED_ROW), Some(closed.encode()));
        }
        if greatest > ceiling {
            return Err(format!("version {greatest} is above the ceiling {ceiling}"));
        }
        if ceiling > self.own.ceiling {
            let value = Bytes::copy_from_slice(&ceiling.0.to_le_bytes());
            done.local(Bytes::from_static(CEILING_ROW), Some(value));
        }
        turn.state.apply(id, entry.id, &done.writes);
        if id == SYSTEM_SHARD {
            show_system_rows(turn, &done.writes);
        }
        self.own.ceiling = ceiling;
        turn.hlc.merge(greatest);
        if closed != self.own.closed {
            self.own.closed = closed;
            self.closed(turn);
        }
        if let Some(right) = done.merged {
            // Above whatever the right side's leaders have promised.
            turn.hlc.merge(ceiling);
            turn.effects.push(Effect::Merged {
                left: id,
                right: right.shard,
                epoch: end_of(&right),
            });
        }
        if done.born {
            self.begin_life(turn);
        }
        if let Some(newborn) = done.newborn {
            self.own.newborns.insert(newborn.birth.descriptor.shard);
            turn.effects.push(Effect::Split {
                telling: Telling::Now,
                newborn,
            });
        }
        Ok(done.described)
    }

    /// Takes in one record: what it changes of the shard, and of the store.
    fn take<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        done: &mut Done,
        record: Record,
    ) -> Result<(), String> {
        match record {
            Record::Writes { version, writes } => done.command(version, writes)?,
            Record::Txn(record) => {
                let changes = self.own.transactions.apply(&record)?;
                done.step(changes);
            }
            Record::Authority(authority) => {
                // The highest stays, whatever the order in which leaders wrote them.
                self.own.authority = self.own.authority.max(authority);
                let value = entry::encode_authority(self.own.authority);
                done.local(Bytes::from_static(AUTHORITY_ROW), Some(value));
            }
            Record::Split(split) => {
                reached!(ShardSplit);
                let newborn = self.newborn(turn, &split, done.ceiling)?;
                let kept = entry::encode_birth(&newborn.birth);
                done.local(newborn_row(newborn.birth.descriptor.shard), Some(kept));
                done.describe(split.left);
                done.newborn = Some(newborn);
            }
            Record::Closed(closed) => {
                if closed.at < done.closed.at || closed.kept < done.closed.kept {
                    return Err("what is closed does not open again".to_owned());
                }
                done.closed = closed;
            }
            // A later leader's: what the first one wrote stands.
            Record::Birth(_) if self.own.described => {}
            Record::Birth(birth) => done.birth(birth)?,
            Record::Weaned(child) => {
                self.own.newborns.remove(&child);
                done.local(newborn_row(child), None);
            }
            Record::Freeze(freeze) => {
                self.freeze_applied(&freeze)?;
                let row = entry::encode_side(&freeze.into);
                done.local(Bytes::from_static(FROZEN_ROW), Some(row));
                done.describe(freeze.descriptor);
            }
            Record::Thaw(descriptor) => {
                reached!(ShardThawed);
                self.own.frozen = None;
                done.local(Bytes::from_static(FROZEN_ROW), None);
                done.describe(descriptor);
            }
            Record::Merge(merge) => {
                reached!(ShardMerged);
                let (changes, ceiling, closed) = self.merge_applied(&merge)?;
                done.closed = done.closed.of_both(closed);
                done.step(changes);
                done.ceiling = done.ceiling.max(ceiling);
                done.describe(merge.left);
                done.merged = Some(merge.right.descriptor);
            }
            Record::Descriptor(descriptor) => {
                if descriptor.shard != self.id {
                    return Err(format!("describes shard {}", descriptor.shard));
                }
                done.describe(descriptor);
            }
        }
        Ok(())
    }

    /// The shard is described anew.
    fn described<S: State>(&mut self, turn: &mut Turn<S>, descriptor: ShardDescriptor) {
        let new_epoch = descriptor.epoch != self.own.descriptor.epoch;
        self.own.descriptor = descriptor.clone();
        self.own.described = true;
        turn.effects.push(Effect::Described {
            descriptor: descriptor.clone(),
        });
        if new_epoch {
            let descriptor = descriptor.clone();
            self.end_snapshots(turn, &Outcome::StaleEpoch { descriptor });
        }
        if new_epoch && let Role::Leading(leader) = &mut self.role {
            let undone = leader.epoch_changed(turn, &self.own.transactions);
            leader.reborn(&self.own);
            self.refuse_all(turn, undone, &Outcome::StaleEpoch { descriptor });
        }
    }

    /// An entry of `term` is being applied: no entry of an earlier term is still to come, so what
    /// was proposed in one and was not seen has certainly not happened.
    fn settle_older_terms<S: State>(&mut self, turn: &mut Turn<S>, term: u64) {
        if let Role::Leading(leader) = &self.role
            && leader.term() < term
        {
            let leadership = super::Leadership::Following { leader: None };
            self.leadership(turn, leadership);
        }
        while self
            .orphans
            .front()
            .is_some_and(|orphans| orphans.term < term)
        {
            let Some(orphans) = self.orphans.pop_front() else {
                break;
            };
            let hint = self.hint();
            for proposed in orphans.batches {
                self.refuse_all(turn, proposed.held, &Outcome::NotLeader { hint });
            }
        }
    }

    /// Tells those who wait for a batch what the log has decided.
    fn settle<S: State>(&mut self, turn: &mut Turn<S>, header: Header, verdict: Verdict) {
        let batch = header.batch;
        let proposed = match &mut self.role {
            Role::Leading(leader) if leader.term() == header.term => leader.settle(batch),
            Role::Leading(_) | Role::Following { .. } => {
                match self.take_orphan(header.term, batch) {
                    Some(proposed) => proposed,
                    None => return,
                }
            }
        };
        match verdict {
            Verdict::Applied => release(turn, proposed.held),
            Verdict::OldTerm => {
                let hint = self.hint();
                self.refuse_all(turn, proposed.held, &Outcome::NotLeader { hint });
            }
            Verdict::OldEpoch => {
                let descriptor = self.own.descriptor.clone();
                self.refuse_all(turn, proposed.held, &Outcome::StaleEpoch { descriptor });
            }
            Verdict::Frozen => self.refuse_all(turn, proposed.held, &Outcome::Overloaded),
        }
        if let Role::Leading(leader) = &mut self.role
            && leader.term() == header.term
        {
            let mut ready = Vec::new();
            leader.reads.applied(batch, &mut ready);
            release(turn, ready);
            leader.wake_scans(turn, &self.own, batch);
            leader.run_released(turn, &self.own);
        }
    }

    /// A batch that this node proposed when it led in `term`.
    fn take_orphan(&mut self, term: u64, batch: Batch) -> Option<Proposed> {
        let orphans = self
            .orphans
            .front_mut()
            .filter(|orphans| orphans.term == term)?;
        let proposed = orphans.batches.pop_front()?;
        assert_eq!(
            proposed.batch, batch,
            "batches are applied in the order of their proposal"
        );
        if orphans.batches.is_empty() {
            self.orphans.pop_front();
        }
        Some(proposed)
    }
}

/// Tells the node which rows of the system shard an entry has changed.
fn show_system_rows<S>(turn: &mut Turn<S>, writes: &[Write]) {
    let rows: Vec<(Bytes, Option<Bytes>)> = writes
        .iter()
        .filter(|write| keyspace::is_row(&write.key))
        .map(|write| {
            let value = match &write.op {
                WriteOp::Put(value) => Value::decode(value).map(|value| value.data),
                WriteOp::Delete => None,
            };
            (keyspace::key(SYSTEM_SHARD, write.key.clone()), value)
        })
        .collect();
    if !rows.is_empty() {
        turn.effects.push(Effect::SystemRows {
            extent: Extent::Changes,
            rows,
        });
    }
}
