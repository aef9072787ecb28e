//! Evaluation of the parts of transactions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{KeyRange, Version};

use super::event::Batch;
use super::leader::Leader;
use super::locks::Wanted;
use super::reads::Held;
use super::shard::Own;
use super::tokens::token_of;
use super::transactions::TxnRecord;
use super::work::{Asker, Slot, Task};
use super::{Turn, scan};
use crate::command::{Class, Command, Key};
use crate::execute;
use crate::reply::Reply;
use crate::state::State;
use crate::transaction::{
    AttemptId, Intent, KeyRead, RangeRead, ReadValue, SnapshotRead, TxnAnswer, TxnId, TxnRequest,
    Verdict, Writer,
};
use crate::value::Value;
use crate::wire::Outcome;
use synod_testpoint::planted;

/// What an intent comes to.
pub(super) struct Ran {
    pub(super) replies: Vec<Reply>,
    pub(super) writes: BTreeMap<Key, Option<Value>>,
    /// Keys that were read and are not written.
    pub(super) reads: BTreeSet<Key>,
}

impl Leader {
    /// Takes in a part of a transaction.
    pub(super) fn txn_request<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        request: TxnRequest,
    ) {
        match request {
            // Doubled, or over: it must not wait for its own locks.
            TxnRequest::Hold { .. } | TxnRequest::Prepare { .. } | TxnRequest::Conclude { .. }
                if self.holds_prepares() =>
            {
                self.answer(turn, own, asker, Outcome::Overloaded, Batch(0));
            }
            TxnRequest::Hold { attempt, begun, .. }
            | TxnRequest::Prepare { attempt, begun, .. }
            | TxnRequest::Conclude { attempt, begun, .. }
                if !self.view.admits(&attempt, begun) =>
            {
                let conflict = Outcome::Txn(TxnAnswer::Conflict);
                self.settled(turn, own, asker, conflict);
            }
            TxnRequest::TokenStatus { token } => self.token_status(turn, own, asker, token),
            TxnRequest::Walk { ref command } => match scan::is_walk(command) {
                true => self.begin_scan(turn, own, asker, Task::Txn(request)),
                false => {
                    let reply = Reply::err("this command does not walk through a range");
                    self.answer(turn, own, asker, Outcome::Reply(reply), Batch(0));
                }
            },
            TxnRequest::Read { .. }
            | TxnRequest::Validate { .. }
            | TxnRequest::Execute { .. }
            | TxnRequest::Hold { .. }
            | TxnRequest::Prepare { .. }
            | TxnRequest::Conclude { .. } => self.admit(turn, own, asker, Task::Txn(request)),
            TxnRequest::Snapshot { .. } => unreachable!("the shard reads the past, not its leader"),
            TxnRequest::MergeStatus { right, left } => {
                self.merge_status(turn, own, asker, right, &left);
            }
            TxnRequest::Decide {
                attempt,
                begun,
                version,
            } => {
                self.decide(turn, own, asker, attempt, begun, version);
            }
            TxnRequest::Resolve {
                attempt,
                begun,
                verdict,
            } => {
                self.resolve(turn, own, asker, attempt, begun, verdict);
            }
            TxnRequest::Recover { attempt, begun } => {
                self.recover(turn, own, asker, attempt, begun);
            }
            TxnRequest::Keep { at } => self.keep(turn, own, asker, at),
            TxnRequest::Forget { attempt } => {
                let done = Outcome::Txn(TxnAnswer::Done);
                match self.view.committed().contains_key(&attempt) {
                    true => {
                        let record = TxnRecord::Forget { attempt };
                        self.step_later(turn, own, asker, record, Version::ZERO, done);
                    }
                    false => self.settled(turn, own, asker, done),
                }
            }
        }
    }

    /// Carries out a part of a transaction that concerns keys, whose values are all known.
    pub(super) fn evaluate_txn<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        request: &TxnRequest,
        (slots, ranges_hold): (&[Slot], bool),
    ) {
        if let Some(outcome) = self.token_stands(turn.now.wall_ms, token_of(request)) {
            return self.settled(turn, own, asker, outcome);
        }
        match request {
            TxnRequest::Read { keys } => self.read(turn, own, asker, keys, slots),
            TxnRequest::Validate { reads, writer, .. } => {
                let asked = (&reads[..], *writer);
                self.validate(turn, own, asker, asked, (slots, ranges_hold));
            }
            TxnRequest::Execute { intent } => {
                let needs = slots.iter().map(Slot::batch).max().unwrap_or_default();
                let Some(ran) = run(turn, intent, slots).filter(|_| ranges_hold) else {
                    let changed = Outcome::Txn(TxnAnswer::Changed);
                    return self.answer(turn, own, asker, changed, needs);
                };
                if let Some(elsewhere) = &intent.elsewhere {
                    let what = (elsewhere, intent.token.clone());
                    return self.ask_elsewhere(turn, own, asker, what, (ran, needs));
                }
                let replies = ran.replies;
                if let Some(token) = intent.token.clone() {
                    let writes = ran.writes.into_iter();
                    return self.write_once(turn, own, asker, token, writes, replies);
                }
                if ran.writes.is_empty() {
                    let version = None;
                    let executed = TxnAnswer::Executed { version, replies };
                    return self.answer(turn, own, asker, Outcome::Txn(executed), needs);
                }
                let writes = ran.writes.into_iter().collect();
                self.write(turn, own, asker, writes, |version| {
                    Outcome::Txn(TxnAnswer::Executed {
                        version: Some(version),
                        replies,
                    })
                });
            }
            TxnRequest::Hold {
                attempt,
                begun,
                keys,
                ranges,
            } => self.hold(turn, own, asker, (*attempt, *begun), (keys, ranges)),
            TxnRequest::Prepare { intent, .. } | TxnRequest::Conclude { intent, .. } => {
                self.prepare(turn, own, asker, request, intent, (slots, ranges_hold));
            }
            TxnRequest::Walk { .. }
            | TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Snapshot { .. }
            | TxnRequest::MergeStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. } => unreachable!("these concern no keys"),
        }
    }

    fn read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        keys: &[Key],
        slots: &[Slot],
    ) {
        let now_ms = turn.now.wall_ms;
        let expired: BTreeMap<Key, Option<Value>> = keys
            .iter()
            .zip(slots)
            .filter(|(_, slot)| slot.is_expired(now_ms))
            .map(|(key, _)| (key.clone(), None))
            .collect();
        let values: Vec<ReadValue> = slots
            .iter()
            .map(|slot| {
                let Slot::Known { version, .. } = slot else {
                    unreachable!("a task is evaluated when all its values are known");
                };
                ReadValue {
                    value: slot.live(now_ms),
                    version: *version,
                }
            })
            .collect();
        // Whatever is evaluated from now on has a greater version.
        let valid_through = match planted!(PromisesAhead) {
            true => Version(turn.hlc.last().0 + (1 << 40)),
            false => turn.hlc.read(now_ms),
        };
        let answer = |values| TxnAnswer::Values {
            values,
            valid_through,
        };
        if !expired.is_empty() {
            // Expiry is a write; the values are those of after it.
            return self.write(turn, own, asker, expired.into_iter().collect(), |version| {
                let mut values = values;
                for (value, slot) in values.iter_mut().zip(slots) {
                    if slot.is_expired(now_ms) {
                        value.version = version;
                    }
                }
                Outcome::Txn(TxnAnswer::Values {
                    values,
                    valid_through: version,
                })
            });
        }
        let needs = slots.iter().map(Slot::batch).max().unwrap_or_default();
        let needs = needs.max(self.promise(turn, valid_through, own.ceiling));
        self.answer(turn, own, asker, Outcome::Txn(answer(values)), needs);
    }

    /// Says whether all of it is as it was read, and until when it will be.
    fn validate<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        (reads, writer): (&[KeyRead], Option<Writer>),
        (slots, ranges_hold): (&[Slot], bool),
    ) {
        // From now on, whatever is written here is newer than what it writes elsewhere.
        if let Some(writer) = writer
            && !planted!(ReadersIgnoreWriters)
        {
            turn.hlc.merge(writer.version);
        }
        let needs = slots.iter().map(Slot::batch).max().unwrap_or_default();
        let through = turn.hlc.read(turn.now.wall_ms);
        let needs = needs.max(self.promise(turn, through, own.ceiling));
        let mut reads = reads.iter().zip(slots);
        let valid = ranges_hold && reads.all(|(read, slot)| is_as_read(read, slot, turn));
        let answer = match valid {
            true => TxnAnswer::Valid { through },
            false => TxnAnswer::Changed,
        };
        self.answer(turn, own, asker, Outcome::Txn(answer), needs);
    }

    /// The anchor decides to commit, if the attempt is still prepared.
    fn decide<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        attempt: AttemptId,
        begun: Version,
        version: Version,
    ) {
        match self.view.prepared().get(&attempt) {
            Some(prepared) if prepared.is_anchor() && version >= prepared.version => {
                let token = prepared.token.clone();
                if let Some(stands) = token.and_then(|token| self.view.token(&token)) {
                    // Somebody else was first with this token, or has asked about it.
                    let verdict = Verdict::Aborted;
                    let record = TxnRecord::Resolve {
                        attempt,
                        begun,
                        verdict,
                    };
                    let recorded = Outcome::Txn(TxnAnswer::Recorded(stands));
                    return self.step_of(turn, own, asker, record, Version::ZERO, recorded);
                }
                turn.hlc.merge(version);
                let record = TxnRecord::Decide { attempt, version };
                let decided = TxnAnswer::Decided(Verdict::Committed(version));
                self.step_of(turn, own, asker, record, version, Outcome::Txn(decided));
            }
            // The floor has passed it: it may have committed, been seen through, and forgotten.
            None if begun <= self.view.floor()
                && self.view.finished(&attempt).is_none()
                && !self.view.committed().contains_key(&attempt)
                && !planted!(ForgottenIsAborted) =>
            {
                self.settled(turn, own, asker, Outcome::Unknown);
            }
            None if self.view.finished(&attempt).is_none() && planted!(AbsentCommits) => {
                let decided = TxnAnswer::Decided(Verdict::Committed(version));
                self.settled(turn, own, asker, Outcome::Txn(decided));
            }
            // Absent: nobody can decide for commit any more. Finished: it stands.
            Some(_) | None => self.recover(turn, own, asker, attempt, begun),
        }
    }

    /// A participant learns the verdict.
    pub(super) fn resolve<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        attempt: AttemptId,
        begun: Version,
        verdict: Verdict,
    ) {
        let done = Outcome::Txn(TxnAnswer::Done);
        let prepared = self.view.prepared().contains_key(&attempt);
        let known = self.view.finished(&attempt).is_some();
        let late = begun > self.view.floor();
        let version = match verdict {
            Verdict::Committed(version) => version,
            Verdict::Aborted => Version::ZERO,
        };
        // An abort of an attempt that was never seen leaves a tombstone: its prepare may be on its
        // way. A commit of one can only be an old one told again.
        let tombstone = verdict == Verdict::Aborted && !known && late && !planted!(NoTombstones);
        match prepared || tombstone {
            true => {
                // Before a lock is let go, the clock is behind no version written under it.
                if !planted!(IgnoresClocks) {
                    turn.hlc.merge(version);
                }
                let record = TxnRecord::Resolve {
                    attempt,
                    begun,
                    verdict,
                };
                self.step_later(turn, own, asker, record, version, done);
            }
            false => self.settled(turn, own, asker, done),
        }
    }

    /// Somebody wants to know the verdict: if there is none, it is to abort.
    pub(super) fn recover<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        attempt: AttemptId,
        begun: Version,
    ) {
        if let Some(finished) = self.view.finished(&attempt) {
            let decided = Outcome::Txn(TxnAnswer::Decided(finished.verdict));
            return self.settled(turn, own, asker, decided);
        }
        if let Some(committed) = self.view.committed().get(&attempt) {
            let verdict = Verdict::Committed(committed.version);
            return self.settled(turn, own, asker, Outcome::Txn(TxnAnswer::Decided(verdict)));
        }
        let verdict = Verdict::Aborted;
        let aborted = Outcome::Txn(TxnAnswer::Decided(verdict));
        let tombstone = begun > self.view.floor() && !planted!(NoTombstones);
        match self.view.prepared().contains_key(&attempt) || tombstone {
            true => {
                let record = TxnRecord::Resolve {
                    attempt,
                    begun,
                    verdict,
                };
                self.step_of(turn, own, asker, record, Version::ZERO, aborted);
            }
            // Too old to be prepared, and not committed, or the record would be here: it stays until
            // whoever asks, because it holds a lock, has applied the commit.
            false => self.settled(turn, own, asker, aborted),
        }
    }

    /// Proposes a step, and answers when it is applied.
    pub(super) fn step_of<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        record: TxnRecord,
        version: Version,
        outcome: Outcome,
    ) {
        self.step_later(turn, own, asker, record, version, outcome);
        self.hurry();
    }

    /// The same for a step that nobody waits for: it goes with the next entry, whenever that is.
    fn step_later<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        record: TxnRecord,
        version: Version,
        outcome: Outcome,
    ) {
        match asker {
            Asker::Request { token, stream } | Asker::Known { token, stream, .. } => {
                let held = Held {
                    token,
                    stream,
                    outcome,
                };
                self.propose_step(turn, record, version, Some(held));
            }
            Asker::Nobody => self.propose_step(turn, record, version, None),
            Asker::Scan(scan) => {
                self.propose_step(turn, record, version, None);
                self.run_scan(turn, own, scan);
            }
        }
    }

    /// Answers what has been so for a while, or is on its way.
    pub(super) fn settled<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        outcome: Outcome,
    ) {
        let needs = self.newest_unapplied();
        self.answer(turn, own, asker, outcome, needs);
    }
}

/// Whether a key still is as it was read.
fn is_as_read<S>(read: &KeyRead, slot: &Slot, turn: &Turn<S>) -> bool {
    let Slot::Known { version, .. } = slot else {
        unreachable!("a task is evaluated when all its values are known");
    };
    let value = slot.live(turn.now.wall_ms);
    if planted!(ValidationIgnoresVersions) {
        return true;
    }
    match (read.version, value) {
        (Some(read), Some(_)) => read == *version,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Checks what an intent read, and carries out its commands. `None` if something has changed.
pub(super) fn run<S>(turn: &Turn<S>, intent: &Intent, slots: &[Slot]) -> Option<Ran> {
    let now_ms = turn.now.wall_ms;
    let (of_reads, of_commands) = slots.split_at(intent.reads.len());
    if !intent
        .reads
        .iter()
        .zip(of_reads)
        .all(|(read, slot)| is_as_read(read, slot, turn))
    {
        return None;
    }
    let mut writes: BTreeMap<Key, Option<Value>> = BTreeMap::new();
    let mut reads: BTreeSet<Key> = intent.reads.iter().map(|read| read.key.clone()).collect();
    let mut replies = Vec::with_capacity(intent.commands.len());
    let mut rest = of_commands;
    for command in &intent.commands {
        let mut values = Vec::new();
        if execute::must_read(command) {
            let mut at = 0;
            command.for_each_key(|key| {
                let slot = &rest[at];
                at += 1;
                reads.insert(key.clone());
                if slot.is_expired(now_ms) && !writes.contains_key(key) {
                    writes.insert(key.clone(), None);
                }
                values.push(match writes.get(key) {
                    Some(written) => written.clone(),
                    None => slot.live(now_ms),
                });
            });
            rest = &rest[at..];
        }
        let execution = execute::execute(command, &values, now_ms);
        writes.extend(execution.writes);
        replies.push(execution.reply);
    }
    for write in &intent.writes {
        // A deadline that has come in the meantime is a delete.
        let value = write
            .value
            .clone()
            .filter(|value| !value.is_expired(now_ms));
        writes.insert(write.key.clone(), value);
    }
    reads.retain(|key| !writes.contains_key(key));
    if planted!(ReadsAreNotLocked) {
        reads.clear();
    }
    Some(Ran {
        replies,
        writes,
        reads,
    })
}

/// Calls `visit` with each key whose value a task must see, in the order of its slots.
pub(super) fn for_each_read(task: &Task, mut visit: impl FnMut(&Key)) {
    match task {
        Task::Command(command) => {
            if execute::must_read(command) {
                command.for_each_key(visit);
            }
        }
        Task::Txn(TxnRequest::Read { keys }) => keys.iter().for_each(visit),
        Task::Txn(TxnRequest::Validate { reads, .. }) => {
            reads.iter().for_each(|read| visit(&read.key));
        }
        Task::Txn(
            TxnRequest::Execute { intent }
            | TxnRequest::Prepare { intent, .. }
            | TxnRequest::Conclude { intent, .. },
        ) => {
            intent.reads.iter().for_each(|read| visit(&read.key));
            for command in &intent.commands {
                if execute::must_read(command) {
                    command.for_each_key(&mut visit);
                }
            }
        }
        Task::Txn(
            TxnRequest::Walk { .. }
            | TxnRequest::Hold { .. }
            | TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Snapshot { .. }
            | TxnRequest::MergeStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. },
        ) => {}
    }
}

/// All keys of a part of a transaction.
pub(super) fn keys_of(request: &TxnRequest) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    match request {
        TxnRequest::Read { keys: named } | TxnRequest::Hold { keys: named, .. } => {
            keys.extend(named.iter().cloned());
        }
        TxnRequest::Validate { reads, .. } => {
            keys.extend(reads.iter().map(|read| read.key.clone()));
        }
        TxnRequest::Execute { intent }
        | TxnRequest::Prepare { intent, .. }
        | TxnRequest::Conclude { intent, .. } => {
            keys.extend(intent.token.as_ref().map(|token| crate::token::home(token)));
            keys.extend(intent.reads.iter().map(|read| read.key.clone()));
            keys.extend(intent.writes.iter().map(|write| write.key.clone()));
            for command in &intent.commands {
                command.for_each_key(|key| {
                    keys.insert(key.clone());
                });
            }
        }
        TxnRequest::Walk { .. }
        | TxnRequest::Decide { .. }
        | TxnRequest::Resolve { .. }
        | TxnRequest::Recover { .. }
        | TxnRequest::TokenStatus { .. }
        | TxnRequest::Keep { .. }
        | TxnRequest::Forget { .. } => {}
        TxnRequest::MergeStatus { left, .. } => {
            keys.insert(left.start.clone());
        }
        TxnRequest::Snapshot { read, .. } => match read {
            SnapshotRead::Keys(read) => keys.extend(read.iter().cloned()),
            SnapshotRead::Walk(_) => {}
        },
    }
    keys
}

/// The ranges that a part of a transaction has to find as they were read.
pub(super) fn ranges_of(request: &TxnRequest) -> &[RangeRead] {
    match request {
        TxnRequest::Validate { ranges, .. } => ranges,
        TxnRequest::Execute { intent }
        | TxnRequest::Prepare { intent, .. }
        | TxnRequest::Conclude { intent, .. } => &intent.ranges,
        TxnRequest::Read { .. }
        | TxnRequest::Walk { .. }
        | TxnRequest::Hold { .. }
        | TxnRequest::Decide { .. }
        | TxnRequest::Resolve { .. }
        | TxnRequest::Recover { .. }
        | TxnRequest::TokenStatus { .. }
        | TxnRequest::Snapshot { .. }
        | TxnRequest::MergeStatus { .. }
        | TxnRequest::Keep { .. }
        | TxnRequest::Forget { .. } => &[],
    }
}

/// The ranges that a part of a transaction locks whatever is in them.
pub(super) fn held_ranges_of(request: &TxnRequest) -> &[KeyRange] {
    match request {
        TxnRequest::Hold { ranges, .. } => ranges,
        TxnRequest::Read { .. }
        | TxnRequest::Walk { .. }
        | TxnRequest::Validate { .. }
        | TxnRequest::Execute { .. }
        | TxnRequest::Prepare { .. }
        | TxnRequest::Conclude { .. }
        | TxnRequest::Decide { .. }
        | TxnRequest::Resolve { .. }
        | TxnRequest::Recover { .. }
        | TxnRequest::TokenStatus { .. }
        | TxnRequest::Snapshot { .. }
        | TxnRequest::MergeStatus { .. }
        | TxnRequest::Keep { .. }
        | TxnRequest::Forget { .. } => &[],
    }
}

/// All keys of a task.
pub(super) fn keys_of_task(task: &Task) -> BTreeSet<Key> {
    match task {
        Task::Command(command) => {
            let mut keys: BTreeSet<Bytes> = BTreeSet::new();
            command.for_each_key(|key| {
                keys.insert(key.clone());
            });
            keys
        }
        Task::Txn(request) => keys_of(request),
    }
}

/// What a task wants to do with which keys, and the age by which it waits, if it holds locks.
pub(super) fn wanted(task: &Task) -> (Wanted, Option<TxnId>) {
    let mut wanted = Wanted::default();
    let mut command = |command: &Command| {
        let keys = match command.class() {
            Class::Read => &mut wanted.reads,
            Class::Write | Class::Control => &mut wanted.writes,
        };
        command.for_each_key(|key| keys.push(key.clone()));
    };
    let mut age = None;
    match task {
        Task::Command(it) => command(it),
        Task::Txn(TxnRequest::Read { keys }) => wanted.reads.clone_from(keys),
        Task::Txn(TxnRequest::Validate {
            reads,
            ranges,
            writer,
        }) => {
            // Who has locks elsewhere waits for younger ones only.
            age = writer.map(|writer| writer.txn);
            wanted.add_reads(reads, ranges);
        }
        Task::Txn(
            request @ (TxnRequest::Execute { intent }
            | TxnRequest::Prepare { intent, .. }
            | TxnRequest::Conclude { intent, .. }),
        ) => {
            intent.commands.iter().for_each(&mut command);
            wanted.add_reads(&intent.reads, &intent.ranges);
            let written = intent.writes.iter().map(|write| write.key.clone());
            wanted.writes.extend(written);
            age = intent.holder;
            if let TxnRequest::Prepare { attempt, .. } | TxnRequest::Conclude { attempt, .. } =
                request
            {
                age = Some(attempt.txn);
            }
        }
        Task::Txn(TxnRequest::Hold {
            attempt,
            keys,
            ranges,
            ..
        }) => {
            wanted.reads.clone_from(keys);
            wanted.ranges.clone_from(ranges);
            age = Some(attempt.txn);
        }
        Task::Txn(
            TxnRequest::Walk { .. }
            | TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Snapshot { .. }
            | TxnRequest::MergeStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. },
        ) => {}
    }
    (wanted_by_bugs(task, wanted, age), age)
}

/// The same, if a bug is planted that has it overlooked.
fn wanted_by_bugs(task: &Task, mut wanted: Wanted, age: Option<TxnId>) -> Wanted {
    if planted!(FastPathPassesReadLocks) && age.is_none() {
        wanted.reads.append(&mut wanted.writes);
    }
    let validates = matches!(task, Task::Txn(TxnRequest::Validate { .. }));
    if planted!(ValidationIgnoresLocks) && validates {
        wanted = Wanted::default();
    }
    if planted!(ReadsUnderLocks) && age.is_none() && wanted.writes.is_empty() && !validates {
        wanted = Wanted::default();
    }
    wanted
}

/// The keys of a task that were found past their deadline: it will delete them.
pub(super) fn expired_keys(task: &Task, slots: &[Slot], now_ms: u64) -> Vec<Key> {
    let mut expired = Vec::new();
    let mut slots = slots.iter();
    for_each_read(task, |key| {
        if slots.next().is_some_and(|slot| slot.is_expired(now_ms)) {
            expired.push(key.clone());
        }
    });
    expired
}
