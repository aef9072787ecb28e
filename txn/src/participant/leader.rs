//! The leading role: batches, and what waits for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use synod_storage::{ShardId, Version};

use super::asking::Asking;
use super::entry::{Birth, EntryBuilder, Header};
use super::event::{Batch, Now, Round};
use super::latch::{Latches, WorkId};
use super::merging::Doubt;
use super::overlay::{Overlay, Pending};
use super::ranges::Ranges;
use super::reads::{Held, Reads};
use super::recovery::Recovery;
use super::scan::Places;
use super::shard::Own;
use super::snapshots::{Closed, Closing};
use super::splitting::Splitting;
use super::transactions::{Transactions, TxnRecord};
use super::work::{Stage, Work};
use super::{Effect, Settings, Turn};
use crate::hlc;
use crate::shard_map::{Authority, ShardDescriptor};
use crate::state::State;
use crate::transaction::{AttemptId, Verdict};
use crate::value::Value;
use crate::wire::Outcome;

/// A batch on its way through the log.
#[derive(Clone, Debug)]
pub(super) struct Proposed {
    pub(super) batch: Batch,
    /// Answers that are released when it is applied, in the order of evaluation.
    pub(super) held: Vec<Held>,
    /// Its writes, in order: the overlay is rebuilt from them if a later batch is refused.
    pub(super) writes: Vec<(Bytes, Pending)>,
    /// Its steps of transactions, likewise.
    pub(super) records: Vec<TxnRecord>,
    pub(super) size_bytes: usize,
}

/// The batch that commands are added to.
#[derive(Clone, Debug)]
struct OpenBatch {
    builder: EntryBuilder,
    proposed: Proposed,
    /// The greatest version in it.
    last_version: Version,
    /// Whether somebody waits for it. If not, it waits for others to go with, or for the next tick.
    is_awaited: bool,
}

/// A batch that is full, and waits for the next flush.
#[derive(Clone, Debug)]
struct Sealed {
    data: EntryBuilder,
    proposed: Proposed,
    ceiling: Version,
}

/// The leader of one shard in one term.
///
/// Invariants: batches are numbered without gaps from 1, `applied` < in flight < sealed < open;
/// the overlay holds the newest effect of every batch behind `applied`; every work in `works` stands
/// in the queues of its latches.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    pub(super) shard: ShardId,
    term: u64,
    pub(super) latches: Latches,
    pub(super) works: BTreeMap<WorkId, Work>,
    pub(super) overlay: Overlay,
    pub(super) reads: Reads,
    pub(super) ranges: Ranges,
    pub(super) places: Places,
    /// The shard's transactions, as they will be when all that was proposed is applied.
    pub(super) view: Transactions,
    /// Works that wait for an attempt to let go of its locks, in order of arrival.
    pub(super) parked: BTreeMap<AttemptId, Vec<WorkId>>,
    /// Attempts that have let go of their locks: those who wait for them are to be woken.
    pub(super) released: Vec<(AttemptId, Verdict)>,
    pub(super) recovery: Recovery,
    pub(super) asking: Asking,
    open: Option<OpenBatch>,
    sealed: VecDeque<Sealed>,
    in_flight: VecDeque<Proposed>,
    last_batch: Batch,
    pub(super) applied: Batch,
    /// Bytes in batches that are not applied.
    unapplied_bytes: usize,
    /// The ceiling of the newest sealed batch.
    ceiling: Version,
    ceiling_ahead_ms: u64,
    /// A description that waits for the next batch.
    description: Option<ShardDescriptor>,
    /// A controller to follow, that waits for the next batch.
    authority: Option<Authority>,
    /// First rows, if this is a new shard's first leader, that wait for the next batch.
    birth: Option<Birth>,
    /// Shards that have their first rows, to be noted in the next batch.
    weaned: BTreeSet<ShardId>,
    /// A split or a freeze that waits.
    pub(super) splitting: Option<Splitting>,
    /// What became of the merge that the shard is frozen for, if it is.
    pub(super) doubt: Doubt,
    pub(super) closing: Closing,
}

impl Leader {
    pub(super) fn new(shard: ShardId, term: u64, own: &Own, settings: &Settings) -> Leader {
        Leader {
            shard,
            term,
            latches: Latches::default(),
            works: BTreeMap::new(),
            overlay: Overlay::default(),
            reads: Reads::default(),
            ranges: Ranges::default(),
            places: Places::default(),
            view: own.transactions.clone(),
            parked: BTreeMap::new(),
            released: Vec::new(),
            recovery: Recovery::default(),
            asking: Asking::default(),
            open: None,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_batch: Batch(0),
            applied: Batch(0),
            unapplied_bytes: 0,
            ceiling: own.ceiling,
            ceiling_ahead_ms: settings.ceiling_ahead_ms,
            description: None,
            authority: None,
            birth: None,
            weaned: BTreeSet::new(),
            splitting: None,
            doubt: Doubt::default(),
            closing: Closing::default(),
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn describe(&mut self, descriptor: ShardDescriptor) {
        self.description = Some(descriptor);
    }

    pub(super) fn authorize(&mut self, authority: Authority) {
        self.authority = self.authority.max(Some(authority));
    }

    pub(super) fn give_birth(&mut self, birth: Birth) {
        self.birth = Some(birth);
    }

    pub(super) fn wean(&mut self, child: ShardId) {
        self.weaned.insert(child);
    }

    /// Puts a record into the log that is alone in its entry: what it hands on is the state before.
    pub(super) fn propose_alone(&mut self, now: Now, add: impl FnOnce(&mut EntryBuilder)) {
        self.seal(now);
        add(&mut self.open_batch().builder);
        self.seal(now);
    }

    /// Goes on with the rows that the shard was born with, or has taken over.
    pub(super) fn reborn(&mut self, own: &Own) {
        self.view = own.transactions.clone();
        self.ceiling = self.ceiling.max(own.ceiling);
    }

    pub(super) fn is_overloaded(&self, settings: &Settings) -> bool {
        self.unapplied_bytes > settings.in_flight_bytes_max
            || self.works.len() + self.reads.len() + self.asking.len() >= settings.waiting_max
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.works.is_empty()
            || !self.asking.is_empty()
            || self.last_batch > self.applied
            || self.needs_flush()
            || !self.view.prepared().is_empty()
            || !self.view.committed().is_empty()
    }

    /// The last batch that anything evaluated so far is part of.
    pub(super) fn newest_batch(&self) -> Batch {
        self.last_batch
    }

    /// The batch that is open for more, which goes with the next flush.
    fn open_batch(&mut self) -> &mut OpenBatch {
        let open = self.patient_batch();
        open.is_awaited = true;
        open
    }

    /// The batch that is open for more, for what can wait.
    fn patient_batch(&mut self) -> &mut OpenBatch {
        match &mut self.open {
            Some(open) => open,
            slot @ None => {
                self.last_batch.0 += 1;
                slot.insert(OpenBatch::new(self.last_batch))
            }
        }
    }

    /// What is evaluated so far goes with the next flush.
    pub(super) fn hurry(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_awaited = true;
        }
    }

    /// An answer waits for a batch: if that is the open one, it goes with the next flush.
    pub(super) fn hurry_for(&mut self, needs: Batch) {
        if let Some(open) = &mut self.open {
            open.is_awaited |= open.proposed.batch <= needs;
        }
    }

    /// The last batch that is not applied, or none.
    pub(super) fn newest_unapplied(&self) -> Batch {
        if self.last_batch > self.applied {
            self.last_batch
        } else {
            Batch(0)
        }
    }

    /// Puts the writes of one command or transaction into the open batch, at a new version, which
    /// it returns. `held` is answered when the batch is applied; it may be made with the version.
    pub(super) fn propose_writes<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        writes: Vec<(Bytes, Option<Value>)>,
        held: impl FnOnce(Version) -> Option<Held>,
    ) {
        let version = turn.hlc.tick(turn.now.wall_ms);
        let open = self.open_batch();
        open.builder.writes(version, &writes);
        open.last_version = version;
        open.proposed.held.extend(held(version));
        let batch = open.proposed.batch;
        for (key, value) in writes {
            self.overlay_put(
                key,
                Pending {
                    value,
                    batch,
                    version,
                },
            );
        }
        self.account(turn);
    }

    /// Puts an effect of the open batch over those before it.
    fn overlay_put(&mut self, key: Bytes, pending: Pending) {
        if !self.ranges.is_empty() {
            self.ranges.written(&key);
        }
        if let Some(open) = &mut self.open {
            open.proposed.writes.push((key.clone(), pending.clone()));
        }
        self.overlay.put(key, pending);
    }

    /// Puts a step of a transaction into the open batch: from now on, everything is evaluated as if
    /// it were applied. `version` is what it has in the shard's order of versions. It goes with the
    /// next entry: who waits for it says so, see [`Leader::hurry`].
    pub(super) fn propose_step<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        record: TxnRecord,
        version: Version,
        held: Option<Held>,
    ) {
        let changes = match self.view.apply_ahead(&record) {
            Ok(changes) => changes,
            Err(reason) => unreachable!("a leader proposes what can be applied: {reason}"),
        };
        let open = self.patient_batch();
        open.builder.txn(&record);
        open.last_version = open.last_version.max(version);
        open.proposed.held.extend(held);
        open.proposed.records.push(record);
        let batch = open.proposed.batch;
        for (key, value, version) in changes.writes {
            let value = value.as_ref().and_then(Value::decode);
            self.overlay_put(
                key,
                Pending {
                    value,
                    batch,
                    version,
                },
            );
        }
        if let Some((attempt, verdict)) = changes.released {
            self.released.push((attempt, verdict));
        }
        self.account(turn);
    }

    /// Whether something is on its way into the next entry.
    pub(super) fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// Puts into the open batch that a version is closed.
    pub(super) fn propose_closed<S: State>(&mut self, turn: &mut Turn<S>, closed: Closed) {
        let open = self.open_batch();
        open.builder.closed(closed);
        // The ceiling of the entry is no lower.
        open.last_version = open.last_version.max(closed.at);
        self.account(turn);
    }

    /// Makes sure that a version may be promised: the batch that has to be applied before it is.
    pub(super) fn promise<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        version: Version,
        applied_ceiling: Version,
    ) -> Batch {
        if version <= applied_ceiling {
            return Batch(0);
        }
        if version > self.ceiling {
            let open = self.open_batch();
            open.last_version = open.last_version.max(version);
            self.account(turn);
        }
        self.last_batch
    }

    /// Counts what the open batch has grown by, and closes it when it is full.
    fn account<S: State>(&mut self, turn: &mut Turn<S>) {
        let Some(open) = &mut self.open else {
            return;
        };
        let added_bytes = open.builder.len() - open.proposed.size_bytes;
        open.proposed.size_bytes += added_bytes;
        self.unapplied_bytes += added_bytes;
        if open.builder.len() >= turn.settings.batch_bytes_max {
            self.seal(turn.now);
        }
    }

    /// Closes the open batch.
    fn seal(&mut self, now: Now) {
        let Some(open) = self.open.take() else {
            return;
        };
        // Half of the way is left when the ceiling is raised, so that it is raised rarely. It is
        // never below a version that the batch itself holds.
        let half = hlc::floor_of(now.wall_ms + self.ceiling_ahead_ms / 2);
        if half.max(open.last_version) > self.ceiling {
            let ahead = hlc::floor_of(now.wall_ms + self.ceiling_ahead_ms);
            self.ceiling = self.ceiling.max(ahead).max(open.last_version);
        }
        let OpenBatch {
            builder: data,
            proposed,
            ..
        } = open;
        self.sealed.push_back(Sealed {
            data,
            proposed,
            ceiling: self.ceiling,
        });
    }

    /// Whether something is on its way into the next entry, and awaited.
    fn is_awaited(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_awaited)
    }

    pub(super) fn needs_flush(&self) -> bool {
        self.is_awaited()
            || !self.sealed.is_empty()
            || self.description.is_some()
            || self.authority.is_some()
            || self.birth.is_some()
            || !self.weaned.is_empty()
            || self.splits_now()
            || self.reads.wants_round()
    }

    pub(super) fn flush(&mut self, now: Now, own: &Own, effects: &mut Vec<Effect>) {
        if let Some(birth) = self.birth.take() {
            self.open_batch().builder.birth(&birth);
        }
        for child in std::mem::take(&mut self.weaned) {
            self.open_batch().builder.weaned(child);
        }
        self.flush_split(now);
        if let Some(authority) = self.authority.take() {
            self.open_batch().builder.authority(authority);
        }
        if let Some(descriptor) = self.description.take() {
            self.open_batch().builder.descriptor(&descriptor);
        }
        if self.sealed.is_empty() && self.is_awaited() {
            self.seal(now);
        }
        // One at a time: if it is refused, the later ones must not be proposed.
        if let Some(Sealed {
            data,
            proposed,
            ceiling,
        }) = self.sealed.pop_front()
        {
            let batch = proposed.batch;
            let epoch = own.descriptor.epoch;
            let header = Header {
                term: self.term,
                epoch,
                batch,
                ceiling,
            };
            let data = data.finish(header);
            self.in_flight.push_back(proposed);
            effects.push(Effect::Propose {
                shard: self.shard,
                term: self.term,
                batch,
                data,
            });
        }
        if self.reads.wants_round() {
            let round = self.reads.ask(now.monotonic);
            effects.push(Effect::Confirm {
                shard: self.shard,
                term: self.term,
                round,
            });
        }
    }

    /// A batch was not proposed. Neither can anything be that was evaluated after it: gives out
    /// every answer that depends on it, and every command that waits.
    pub(super) fn proposal_refused<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        applied: &Transactions,
        batch: Batch,
    ) -> Vec<Held> {
        let Some(refused) = self.in_flight.pop_back() else {
            unreachable!("a refused batch was proposed");
        };
        assert_eq!(
            refused.batch, batch,
            "a refusal is reported before anything else is proposed"
        );
        let mut undone = refused.held;
        self.unapplied_bytes -= refused.size_bytes;
        for sealed in std::mem::take(&mut self.sealed) {
            self.unapplied_bytes -= sealed.proposed.size_bytes;
            undone.extend(sealed.proposed.held);
        }
        if let Some(open) = self.open.take() {
            self.unapplied_bytes -= open.proposed.size_bytes;
            undone.extend(open.proposed.held);
        }
        self.last_batch = Batch(batch.0 - 1);
        self.closing.proposed = Version::ZERO;
        self.overlay = Overlay::default();
        self.view = applied.clone();
        for proposed in &self.in_flight {
            for (key, pending) in &proposed.writes {
                self.overlay.put(key.clone(), pending.clone());
            }
            for record in &proposed.records {
                if let Err(reason) = self.view.apply_ahead(record) {
                    unreachable!("what was proposed can be applied: {reason}");
                }
            }
        }
        self.reads.refused(batch, &mut undone);
        self.drain_works(turn, &mut undone);
        undone
    }

    /// Ends every command that waits: it was not evaluated, or nothing of it is in the log.
    fn drain_works<S: State>(&mut self, turn: &mut Turn<S>, undone: &mut Vec<Held>) {
        let works = std::mem::take(&mut self.works);
        turn.reads.retain(|_, (_, work)| !works.contains_key(work));
        for work in works.into_values() {
            undone.extend(work.asker.held(Outcome::Unknown));
        }
        self.asking.drain(undone);
        self.latches = Latches::default();
        self.ranges.clear();
        self.parked.clear();
        self.released.clear();
    }

    /// Ends the leadership: what certainly has not happened, and the batches of which the log will
    /// tell.
    pub(super) fn step_down<S: State>(
        mut self,
        turn: &mut Turn<S>,
    ) -> (Vec<Held>, VecDeque<Proposed>) {
        let mut undone = Vec::new();
        self.reads.drain(&mut undone);
        for sealed in std::mem::take(&mut self.sealed) {
            undone.extend(sealed.proposed.held);
        }
        if let Some(open) = self.open.take() {
            undone.extend(open.proposed.held);
        }
        self.drain_works(turn, &mut undone);
        (undone, self.in_flight)
    }

    /// The shard has a new epoch: everything evaluated in the old one will be dropped at apply.
    /// Gives out its answers, and everything else that waits.
    pub(super) fn epoch_changed<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        applied: &Transactions,
    ) -> Vec<Held> {
        let mut undone = Vec::new();
        // What waits to be cut, or to be described, was another shard.
        self.splitting = None;
        self.description = None;
        self.closing.proposed = Version::ZERO;
        self.view = applied.clone();
        self.reads.drain(&mut undone);
        for proposed in &mut self.in_flight {
            undone.append(&mut proposed.held);
            proposed.writes.clear();
            proposed.records.clear();
        }
        for sealed in std::mem::take(&mut self.sealed) {
            self.unapplied_bytes -= sealed.proposed.size_bytes;
            undone.extend(sealed.proposed.held);
        }
        if let Some(open) = self.open.take() {
            self.unapplied_bytes -= open.proposed.size_bytes;
            undone.extend(open.proposed.held);
        }
        self.last_batch = self
            .in_flight
            .back()
            .map_or(self.applied, |last| last.batch);
        self.overlay = Overlay::default();
        self.drain_works(turn, &mut undone);
        undone
    }

    /// Takes out the oldest batch in flight: the log has decided it.
    pub(super) fn settle(&mut self, batch: Batch) -> Proposed {
        let Some(proposed) = self.in_flight.pop_front() else {
            unreachable!("an applied batch of this term was proposed here");
        };
        assert_eq!(
            proposed.batch, batch,
            "batches are applied in the order of their proposal"
        );
        self.applied = batch;
        self.unapplied_bytes -= proposed.size_bytes;
        for (key, _) in &proposed.writes {
            self.overlay.settle(batch, key);
        }
        assert!(
            self.last_batch > self.applied || self.overlay.is_empty(),
            "when nothing is on its way the overlay is empty"
        );
        proposed
    }

    pub(super) fn confirmed<S: State>(&mut self, turn: &mut Turn<S>, round: Round) {
        let mut ready = Vec::new();
        self.reads.confirm(round, self.applied, &mut ready);
        release(turn, ready);
    }

    pub(super) fn doubtful(&mut self, round: Round) -> Vec<Held> {
        let mut undone = Vec::new();
        self.reads.doubt(round, &mut undone);
        undone
    }

    pub(super) fn tick<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        self.tick_split(turn);
        let patience_us = turn.settings.confirm_again_us;
        if let Some(round) = self.reads.ask_again(turn.now.monotonic, patience_us) {
            let (shard, term) = (self.shard, self.term);
            turn.effects.push(Effect::Confirm { shard, term, round });
        }
        self.tick_asking(turn, own);
        match own.frozen.is_some() {
            true => self.tick_frozen(turn, own),
            false => self.recover_stale(turn, own),
        }
        self.hurry();
    }

    /// The version that the oldest unfinished scan reads.
    pub(super) fn oldest_scan(&self) -> Option<Version> {
        let at = |work: &Work| match &work.stage {
            Stage::Scan(scan) => Some(scan.at),
            Stage::Stream | Stage::Parked { .. } | Stage::Latching | Stage::Point { .. } => None,
        };
        self.works.values().filter_map(at).min()
    }
}

impl OpenBatch {
    fn new(batch: Batch) -> OpenBatch {
        let builder = EntryBuilder::new();
        let proposed = Proposed {
            batch,
            held: Vec::new(),
            writes: Vec::new(),
            records: Vec::new(),
            size_bytes: 0,
        };
        OpenBatch {
            builder,
            proposed,
            last_version: Version::ZERO,
            is_awaited: false,
        }
    }
}

/// Answers requests whose conditions are met.
pub(super) fn release<S>(turn: &mut Turn<S>, ready: Vec<Held>) {
    for held in ready {
        turn.respond(held.token, held.outcome);
    }
}
