//! Evaluation of tasks on keys: their turn, locks, latches, values, effects.
//!
//! ```text
//! stream ─► locks ─► latches ─► values ─► locks again ─► evaluate
//!             │ ▲                            │
//!             ▼ │ released                   │
//!            parked ◄────────────────────────┘
//! ```
//!
//! Most tasks go through all of it at once, without being kept anywhere. A task that waits for its
//! turn in its stream holds nothing else; one that waits for a lock holds no latch of a key, so that
//! whoever has the lock can go on.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use synod_storage::{Lookup, Pressure, ReadId, ReadResult, Version};
use synod_testpoint::{planted, reached};

use super::event::{Batch, Token};
use super::intent;
use super::latch::{Latch, WorkId};
use super::leader::Leader;
use super::locks::{Conflict, Wanted};
use super::ranges::RangeChecks;
use super::reads::Held;
use super::shard::{Own, Role, Shard, corrupt_reply, read_failed_reply};
use super::work::{Asker, Slot, Stage, Task, Work};
use super::{Effect, Turn, scan};
use crate::command::{Class, Command};
use crate::execute;
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::keyspace;
use crate::state::State;
use crate::transaction::TxnAnswer;
use crate::value::Value;
use crate::wire::{Body, Outcome, Stream};

impl Shard {
    /// A read of the store has come back for one of the leader's works.
    pub(super) fn store_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        work: WorkId,
        id: ReadId,
        result: ReadResult,
    ) {
        let Some(result) = self.snapshot_read(turn, work, id, result) else {
            return;
        };
        if let Role::Leading(leader) = &mut self.role {
            leader.store_read(turn, &self.own, work, id, result);
            leader.run_released(turn, &self.own);
        }
    }
}

impl Leader {
    /// Takes in a request that this shard is to serve.
    pub(super) fn request<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        token: Token,
        stream: Stream,
        body: Body,
    ) {
        let asker = Asker::Request { token, stream };
        let command = match body {
            Body::Command(command) => command,
            Body::Txn(request) => return self.txn_request(turn, own, asker, request),
        };
        if matches!(turn.state.pressure(), Pressure::DiskFull { .. }) && needs_space(&command) {
            let message = "the disk of the shard's leader is full: only reads and deletes";
            let reply = Reply::error(ErrorCode::DiskFull, message);
            return turn.respond(token, Outcome::Reply(reply));
        }
        match scan::is_scan(&command) {
            true => self.begin_scan(turn, own, asker, Task::Command(command)),
            false => self.admit(turn, own, asker, Task::Command(command)),
        }
    }

    /// Evaluates a task on keys, at once if nothing stands in its way.
    pub(super) fn admit<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        task: Task,
    ) {
        if self.is_free(&asker, &task) {
            match self.read_slots(turn, &task) {
                Err(reply) => {
                    return self.answer(turn, own, asker, Outcome::Reply(reply), Batch(0));
                }
                Ok(slots) => {
                    let ranges = RangeChecks::begin(turn, self.shard, &self.overlay, &task);
                    let complete = slots.iter().all(Slot::is_known) && ranges.is_complete();
                    if complete && self.expiry_conflict(turn, &task, &slots) == Conflict::None {
                        return self.evaluate(turn, own, asker, &task, (&slots, &ranges));
                    }
                    let id = turn.new_work();
                    let mut latches: Vec<Latch> =
                        stream_of(&asker).map(Latch::Stream).into_iter().collect();
                    latches.extend(key_latches(&task));
                    let behind = self.latches.enqueue(id, &latches);
                    assert_eq!(behind, 0, "nobody is in the way");
                    self.register(turn, id, &slots, ranges);
                    let stage = Stage::Point { slots };
                    self.works.insert(
                        id,
                        Work {
                            asker,
                            task,
                            latches,
                            behind,
                            stage,
                        },
                    );
                    if complete {
                        self.complete(turn, own, id);
                    }
                    return;
                }
            }
        }
        let id = turn.new_work();
        let latches: Vec<Latch> = stream_of(&asker).map(Latch::Stream).into_iter().collect();
        let behind = self.latches.enqueue(id, &latches);
        let stage = Stage::Stream;
        self.works.insert(
            id,
            Work {
                asker,
                task,
                latches,
                behind,
                stage,
            },
        );
        if behind == 0 {
            self.advance(turn, own, id);
        }
    }

    /// Whether neither its stream, nor locks, nor latches stand in a task's way.
    fn is_free(&self, asker: &Asker, task: &Task) -> bool {
        if !self.view.locks().is_empty() {
            let (wanted, age) = intent::wanted(task);
            if self.view.locks().conflict(&wanted, age) != Conflict::None {
                return false;
            }
        }
        if self.latches.is_empty() {
            return true;
        }
        stream_of(asker).is_none_or(|stream| self.latches.is_free(&Latch::Stream(stream)))
            && key_latches(task)
                .iter()
                .all(|latch| self.latches.is_free(latch))
    }

    /// Moves a work on by what it was waiting for: it is first in all the queues that it entered.
    fn advance<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        let Some(work) = self.works.get_mut(&id) else {
            return;
        };
        match &work.stage {
            Stage::Scan(_) => self.run_scan(turn, own, id),
            Stage::Stream | Stage::Parked { .. } => {
                let latches = key_latches(&work.task);
                work.stage = Stage::Latching;
                work.behind = self.latches.enqueue(id, &latches);
                work.latches.extend(latches);
                if work.behind == 0 {
                    self.begin(turn, own, id);
                }
            }
            Stage::Latching => self.begin(turn, own, id),
            Stage::Point { .. } => unreachable!("it has its latches already"),
        }
    }

    /// Begins a task that holds its latches.
    fn begin<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        if !self.check_locks(turn, own, id) {
            return;
        }
        let Some(work) = self.works.get(&id) else {
            return;
        };
        let task = work.task.clone();
        match self.read_slots(turn, &task) {
            Ok(slots) => {
                let ranges = RangeChecks::begin(turn, self.shard, &self.overlay, &task);
                let complete = slots.iter().all(Slot::is_known) && ranges.is_complete();
                self.register(turn, id, &slots, ranges);
                if let Some(work) = self.works.get_mut(&id) {
                    work.stage = Stage::Point { slots };
                }
                if complete {
                    self.complete(turn, own, id);
                }
            }
            Err(reply) => self.fail(turn, own, id, reply),
        }
    }

    /// Looks at the locks once more. If one is in the way the work is parked, or ended.
    fn check_locks<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) -> bool {
        let Some(work) = self.works.get(&id) else {
            return false;
        };
        if self.view.locks().is_empty() {
            return true;
        }
        let (wanted, age) = intent::wanted(&work.task);
        let conflict = self.view.locks().conflict(&wanted, age);
        self.give_way(turn, own, id, conflict)
    }

    /// Whether locks stand in the way of deleting what a task has found past its deadline.
    fn expiry_conflict<S: State>(&self, turn: &Turn<S>, task: &Task, slots: &[Slot]) -> Conflict {
        if self.view.locks().is_empty() {
            return Conflict::None;
        }
        let writes = intent::expired_keys(task, slots, turn.now.wall_ms);
        let (_, age) = intent::wanted(task);
        self.view.locks().conflict(
            &Wanted {
                writes,
                ..Wanted::default()
            },
            age,
        )
    }

    /// Parks or ends a work if a lock is in its way. Whether it may go on.
    fn give_way<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        conflict: Conflict,
    ) -> bool {
        let Some(work) = self.works.get_mut(&id) else {
            return false;
        };
        match conflict {
            Conflict::None => true,
            Conflict::Wait(holder) => {
                work.stage = Stage::Parked {
                    since: turn.now.monotonic,
                };
                self.ranges.take(id);
                self.parked.entry(holder).or_default().push(id);
                let is_key = |latch: &Latch| matches!(latch, Latch::Key(_));
                let keys: Vec<Latch> = work.latches.extract_if(.., |it| is_key(it)).collect();
                self.release_latches(turn, own, id, &keys);
                false
            }
            Conflict::Die => {
                self.end(turn, own, id, Outcome::Txn(TxnAnswer::Conflict));
                false
            }
        }
    }

    /// The values of a task's keys, as far as they are in memory. An error is its answer.
    fn read_slots<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        task: &Task,
    ) -> Result<Vec<Slot>, Reply> {
        let mut slots = Vec::new();
        let mut damaged = false;
        intent::for_each_read(task, |key| {
            if let Some(pending) = self.overlay.get(key) {
                slots.push(Slot::Known {
                    value: pending.value.clone(),
                    version: pending.version,
                    batch: pending.batch,
                });
                return;
            }
            let (space, row) = keyspace::row(self.shard, key);
            let batch = Batch(0);
            slots.push(match turn.state.get(space, &row, Version::MAX) {
                Lookup::Found { value, version } => {
                    let value = Value::decode(&value);
                    damaged |= value.is_none();
                    Slot::Known {
                        value,
                        version,
                        batch,
                    }
                }
                Lookup::Absent { deleted_at } => {
                    let version = deleted_at.unwrap_or(Version::ZERO);
                    Slot::Known {
                        value: None,
                        version,
                        batch,
                    }
                }
                Lookup::Pending(id) => Slot::Pending(id),
            });
        });
        match damaged {
            true => Err(corrupt_reply()),
            false => Ok(slots),
        }
    }

    fn register<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        work: WorkId,
        slots: &[Slot],
        ranges: RangeChecks,
    ) {
        let pages = ranges.pending().map(|read| (read, (self.shard, work)));
        turn.reads.extend(pages);
        self.ranges.wait(work, ranges);
        for slot in slots {
            if let Slot::Pending(read) = slot {
                turn.reads.insert(*read, (self.shard, work));
            }
        }
    }

    /// Carries out a task whose values are all known.
    fn evaluate<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        task: &Task,
        (slots, ranges): (&[Slot], &RangeChecks),
    ) {
        match task {
            Task::Command(command) => self.evaluate_command(turn, own, asker, command, slots),
            Task::Txn(request) => {
                self.evaluate_txn(turn, own, asker, request, (slots, ranges.hold()));
            }
        }
    }

    fn evaluate_command<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        command: &Command,
        slots: &[Slot],
    ) {
        let now_ms = turn.now.wall_ms;
        let needs = slots.iter().map(Slot::batch).max().unwrap_or_default();
        let values: Vec<Option<Value>> = slots.iter().map(|slot| slot.live(now_ms)).collect();
        let execution = execute::execute(command, &values, now_ms);
        let mut writes = execution.writes;
        if slots.iter().any(|slot| slot.is_expired(now_ms)) && !planted!(HidesExpired) {
            reached!(ExpiredDeleted);
            // Expiry is a write: what was found past its deadline is deleted before it is answered.
            let mut written: BTreeSet<Bytes> = writes.iter().map(|(key, _)| key.clone()).collect();
            let mut slots = slots.iter();
            command.for_each_key(|key| {
                let expired = slots.next().is_some_and(|slot| slot.is_expired(now_ms));
                if expired && written.insert(key.clone()) {
                    writes.push((key.clone(), None));
                }
            });
        }
        let outcome = Outcome::Reply(execution.reply);
        match writes.is_empty() {
            true => self.answer(turn, own, asker, outcome, needs),
            false => self.write(turn, own, asker, writes, |_| outcome),
        }
    }

    /// Proposes writes, and answers whoever asked when they are applied.
    pub(super) fn write<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        writes: Vec<(Bytes, Option<Value>)>,
        outcome: impl FnOnce(Version) -> Outcome,
    ) {
        match asker {
            Asker::Request { token, stream } => self.propose_writes(turn, writes, |version| {
                Some(Held {
                    token,
                    stream,
                    outcome: outcome(version),
                })
            }),
            Asker::Known {
                token,
                stream,
                outcome,
            } => {
                self.propose_writes(turn, writes, |_| {
                    Some(Held {
                        token,
                        stream,
                        outcome,
                    })
                });
            }
            Asker::Scan(scan) => {
                self.propose_writes(turn, writes, |_| None);
                self.run_scan(turn, own, scan);
            }
            Asker::Nobody => self.propose_writes(turn, writes, |_| None),
        }
    }

    /// Answers whoever asked, without an effect: when what was read is applied, and leadership is
    /// confirmed.
    pub(super) fn answer<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        outcome: Outcome,
        needs: Batch,
    ) {
        self.hurry_for(needs);
        match asker {
            Asker::Request { token, stream } => {
                self.reads.push(
                    Held {
                        token,
                        stream,
                        outcome,
                    },
                    needs,
                );
            }
            Asker::Known {
                token,
                stream,
                outcome,
            } => {
                self.reads.push(
                    Held {
                        token,
                        stream,
                        outcome,
                    },
                    needs,
                );
            }
            Asker::Scan(scan) => self.run_scan(turn, own, scan),
            Asker::Nobody => {}
        }
    }

    fn store_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        work_id: WorkId,
        read: ReadId,
        result: ReadResult,
    ) {
        let Some(work) = self.works.get_mut(&work_id) else {
            return;
        };
        let slots = match &mut work.stage {
            Stage::Scan(_) => return self.scan_read(turn, own, work_id, result),
            Stage::Stream | Stage::Parked { .. } | Stage::Latching => {
                // A read of a time before the work was parked: it reads again.
                return;
            }
            Stage::Point { slots } => slots,
        };
        if let ReadResult::Page(page) = result {
            self.ranges.read(turn, self.shard, work_id, read, page);
            let pages = self.ranges.pending(work_id).into_iter();
            turn.reads
                .extend(pages.map(|read| (read, (self.shard, work_id))));
            return self.go_on(turn, own, work_id);
        }
        let known = match result {
            ReadResult::Found { value, version } => match Value::decode(&value) {
                Some(value) => Slot::Known {
                    value: Some(value),
                    version,
                    batch: Batch(0),
                },
                None => return self.fail(turn, own, work_id, corrupt_reply()),
            },
            ReadResult::Absent { deleted_at } => {
                let version = deleted_at.unwrap_or(Version::ZERO);
                Slot::Known {
                    value: None,
                    version,
                    batch: Batch(0),
                }
            }
            ReadResult::Damaged(row) => {
                turn.effects.push(Effect::Damaged {
                    shard: self.shard,
                    row,
                });
                return self.fail(turn, own, work_id, corrupt_reply());
            }
            ReadResult::Failed => return self.fail(turn, own, work_id, read_failed_reply()),
            ReadResult::Newest(_) | ReadResult::Page(_) => {
                unreachable!("a point read is answered with a value")
            }
        };
        for slot in slots.iter_mut() {
            if matches!(slot, Slot::Pending(id) if *id == read) {
                *slot = known.clone();
            }
        }
        self.go_on(turn, own, work_id);
    }

    /// Goes on with a task for which something was read, if that was the last.
    fn go_on<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        let Some(Work {
            stage: Stage::Point { slots },
            ..
        }) = self.works.get(&id)
        else {
            return;
        };
        let complete = slots.iter().all(Slot::is_known) && self.ranges.is_complete(id);
        if complete && self.check_locks(turn, own, id) {
            self.complete(turn, own, id);
        }
    }

    /// Ends a work with an error that changes nothing.
    pub(super) fn fail<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        reply: Reply,
    ) {
        self.end(turn, own, id, Outcome::Reply(reply));
    }

    /// Ends a work with an answer, without an effect.
    pub(super) fn end<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        outcome: Outcome,
    ) {
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        self.ranges.take(id);
        match work.asker {
            // What was known holds no longer: its condition could not be met.
            Asker::Request { token, stream } | Asker::Known { token, stream, .. } => {
                self.reads.push(
                    Held {
                        token,
                        stream,
                        outcome,
                    },
                    Batch(0),
                );
            }
            Asker::Scan(scan) => self.end(turn, own, scan, outcome),
            Asker::Nobody => {}
        }
        self.release_latches(turn, own, id, &work.latches);
    }

    /// Evaluates a work whose values have come, and all that it held up.
    fn complete<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        let Some(Work {
            task,
            stage: Stage::Point { slots },
            ..
        }) = self.works.get(&id)
        else {
            unreachable!("a completed work is a task on keys");
        };
        let conflict = self.expiry_conflict(turn, task, slots);
        if !self.give_way(turn, own, id, conflict) {
            return;
        }
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        let Stage::Point { slots } = &work.stage else {
            unreachable!("a completed work is a task on keys");
        };
        let ranges = self.ranges.take(id);
        self.evaluate(turn, own, work.asker, &work.task, (slots, &ranges));
        self.release_latches(turn, own, id, &work.latches);
    }

    /// Lets go of latches, and runs what they held up.
    pub(super) fn release_latches<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        latches: &[Latch],
    ) {
        let mut named = Vec::new();
        self.latches.release(id, latches, &mut named);
        self.run_first(turn, own, named);
    }

    /// Runs works that have become first in a queue, each named once for each such queue, if they are
    /// now first in all of theirs.
    pub(super) fn run_first<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        named: Vec<WorkId>,
    ) {
        let mut ready: VecDeque<WorkId> = VecDeque::new();
        for id in named {
            let Some(work) = self.works.get_mut(&id) else {
                unreachable!("who waits for a latch is a work");
            };
            work.behind -= 1;
            if work.behind == 0 {
                ready.push_back(id);
            }
        }
        for id in ready {
            self.advance(turn, own, id);
        }
    }

    /// Goes on with the works that waited for attempts that are over.
    pub(super) fn run_released<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        while let Some((attempt, verdict)) = self.released.pop() {
            for id in self.parked.remove(&attempt).unwrap_or_default() {
                let parked = |work: &Work| matches!(work.stage, Stage::Parked { .. });
                if self.works.get(&id).is_some_and(parked) {
                    self.advance(turn, own, id);
                }
            }
            self.writer_gone(turn, own, attempt, verdict);
        }
        self.close(turn, own);
    }
}

impl Slot {
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Slot::Known { .. })
    }

    /// The batch that the value waits for.
    pub(super) fn batch(&self) -> Batch {
        match self {
            Slot::Known { batch, .. } => *batch,
            Slot::Pending(_) => Batch(0),
        }
    }

    /// Whether there is a value, past its deadline.
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        match self {
            Slot::Known {
                value: Some(value), ..
            } => value.is_expired(now_ms),
            Slot::Known { value: None, .. } | Slot::Pending(_) => false,
        }
    }

    /// The value, unless it is past its deadline.
    pub(super) fn live(&self, now_ms: u64) -> Option<Value> {
        match self {
            Slot::Known { value, .. } => value
                .as_ref()
                .filter(|value| !value.is_expired(now_ms))
                .cloned(),
            Slot::Pending(_) => unreachable!("a task is evaluated when all its values are known"),
        }
    }
}

fn stream_of(asker: &Asker) -> Option<u64> {
    match asker {
        Asker::Request { stream, .. } => (stream.id != Stream::NONE.id).then_some(stream.id),
        // These continue a request that was in order already.
        Asker::Known { .. } | Asker::Scan(_) | Asker::Nobody => None,
    }
}

/// The latches of a task's keys, without repeats.
fn key_latches(task: &Task) -> Vec<Latch> {
    intent::keys_of_task(task)
        .into_iter()
        .map(Latch::Key)
        .collect()
}

/// Whether a command may make the data larger, and so is refused when the disk is full.
fn needs_space(command: &Command) -> bool {
    let frees = matches!(
        command,
        Command::Del { .. } | Command::GetDel { .. } | Command::FlushAll | Command::Persist { .. }
    );
    command.class() == Class::Write && !frees
}
