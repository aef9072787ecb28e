//! Snapshot reads: the shard as it was at a version that nothing will be written at any more.
//!
//! # Closed timestamps
//!
//! A leader *closes* a version by an entry of its log ([`Record::Closed`](super::entry::Record::Closed)):
//! whatever it evaluates afterwards has a greater version, and no attempt is prepared at or below it, so a
//! replica that has applied the entry has all that there will ever be up to that version (rule 33). The
//! ceiling of the entry is no lower, so later leaders keep the promise. Applying a write at or below what
//! is closed is an error that stops the replica.
//!
//! Any replica serves a read at a version that is closed *there*, without asking anybody, without locks, and
//! without being in anybody's way. At a version that is not closed yet, a follower says who leads, and the
//! leader closes it: at once, unless an attempt is prepared below it. Under writes, versions are closed every
//! now and then without being asked for, in entries that are written anyway.
//!
//! So all shards can be read at one version, each by any of its replicas, and the whole is one state that
//! the store was in. It is serializable, and not ordered in real time: it may be older than what others
//! were told already (rule 35).
//!
//! # Collection
//!
//! The same entry says from where on versions are *kept*: what a newer version at or below it has replaced
//! may be gone, on all replicas alike, whatever their clocks say (rule 34). A read below it is refused, and
//! it is looked at once more when everything was read, because it may have risen meanwhile.
//!
//! What is superseded is kept for a set time at least, and for as long as somebody reads at a version from
//! before. Every gateway with such readers tells the leaders of all shards, again and again, the lowest
//! version that they read at ([`Keep`](crate::transaction::TxnRequest::Keep)); whoever is not heard of for
//! a while is gone. A new leader has heard of nobody, so it raises nothing until all had the time to tell it.
//! Nothing depends on that but how long a reader lasts: one that was not heard is told that it is too late.
//!
//! # Deadlines
//!
//! A value is gone at a version if its deadline is at or before the version's millisecond: alike on all
//! replicas, and whenever it is asked.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use synod_storage::{
    Direction, KeyRange, Lookup, Micros, ReadId, ReadResult, Scan, ScanPage, ScanRequest, ScanWhat,
    Space, Version,
};
use synod_testpoint::{planted, reached};

use super::event::{Batch, Token};
use super::latch::WorkId;
use super::leader::Leader;
use super::scan::{ANSWER_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX, direction_of, is_walk};
use super::shard::{Own, Role, Shard, corrupt_reply, read_failed_reply};
use super::work::Asker;
use super::{Effect, Turn};
use crate::command::{Command, Key};
use crate::glob;
use crate::hlc;
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::{SYSTEM_SHARD, clip};
use crate::state::State;
use crate::transaction::{RangeRead, ReadValue, SnapshotRead, TxnAnswer};
use crate::value::Value;
use crate::wire::Outcome;

/// The local row that holds what is closed and what is kept.
pub(super) const CLOSED_ROW: &[u8] = b"closed";

/// So many versions are remembered that somebody reads at; of more, the lowest.
const READERS_MAX: usize = 1024;

/// How often a version is closed under writes.
const CLOSE_EVERY_US: u64 = 250_000;

/// Which of its versions a shard can be read at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed {
    /// Nothing will be written at or below this.
    pub(super) at: Version,
    /// Versions that were replaced at or below this may be gone.
    pub(super) kept: Version,
}

impl Closed {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(16);
        out.put_u64_le(self.at.0);
        out.put_u64_le(self.kept.0);
        out.freeze()
    }

    pub(super) fn decode(mut row: &[u8]) -> Option<Closed> {
        let at = Version(row.try_get_u64_le().ok()?);
        let kept = Version(row.try_get_u64_le().ok()?);
        row.is_empty().then_some(Closed { at, kept })
    }

    /// Of two shards that become one: what both can be read at.
    pub(super) fn of_both(self, other: Closed) -> Closed {
        Closed {
            at: self.at.min(other.at),
            kept: self.kept.max(other.kept),
        }
    }
}

/// What a leader is to close, and has.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing {
    /// Asked for.
    wanted: Version,
    /// On its way through the log.
    pub(super) proposed: Version,
    next: Micros,
    /// What was kept by the last one: it never becomes less, readers or not.
    kept: Version,
    /// When this leader began to close.
    begun: Option<Micros>,
    /// Versions that somebody reads at, and until when that is believed.
    readers: BTreeMap<Version, Micros>,
}

impl Closing {
    /// The lowest version that somebody reads at; none while it cannot be known.
    fn oldest_reader(&mut self, now: Micros, lease_us: u64) -> Option<Version> {
        let begun = *self.begun.get_or_insert(now);
        self.readers.retain(|_, until| *until > now);
        if now.0 < begun.0 + lease_us {
            return None;
        }
        let oldest = self.readers.keys().next();
        Some(oldest.copied().unwrap_or(Version::MAX))
    }
}

/// A read of the past under way.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    token: Token,
    at: Version,
    progress: Progress,
}

#[derive(Clone, Debug)]
enum Progress {
    /// Not closed yet: what is to be read then.
    Waiting(SnapshotRead),
    Keys(Vec<Slot>),
    Walk(Box<Walk>),
}

#[derive(Clone, Debug)]
enum Slot {
    Pending(ReadId),
    Known(ReadValue),
}

#[derive(Clone, Debug)]
struct Walk {
    command: Command,
    range: KeyRange,
    rest: Option<KeyRange>,
    found: Vec<Reply>,
    found_bytes: usize,
    rows: u64,
}

impl Leader {
    /// Somebody reads the past at a version.
    pub(super) fn keep<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        at: Version,
    ) {
        let until = Micros(turn.now.monotonic.0 + turn.settings.snapshot_lease_us);
        let readers = &mut self.closing.readers;
        readers.insert(at, until);
        if readers.len() > READERS_MAX {
            readers.pop_last();
        }
        let done = Outcome::Txn(TxnAnswer::Done);
        self.answer(turn, own, asker, done, Batch(0));
    }

    /// Closes a version if one is asked for, or if it is time and something is written anyway.
    pub(super) fn close<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        let done = own.closed.at.max(self.closing.proposed);
        let (now, lease_us) = (turn.now.monotonic, turn.settings.snapshot_lease_us);
        let reader = self.closing.oldest_reader(now, lease_us);
        let due = self.has_open() && turn.now.monotonic >= self.closing.next;
        let idle = self.shard == SYSTEM_SHARD || own.frozen.is_some() || own.is_unborn();
        if idle || !(due || self.closing.wanted > done) {
            return;
        }
        turn.hlc.merge(self.closing.wanted);
        let mut at = turn.hlc.read(turn.now.wall_ms);
        // Holds write nothing.
        let prepared = self.view.prepared().iter();
        let writers = prepared.filter(|(attempt, _)| !attempt.is_hold());
        let prepared = writers.map(|(_, it)| it.version);
        if let Some(oldest) = prepared.chain(self.asking.lowest()).min()
            && !planted!(ClosesOverPrepared)
        {
            at = at.min(Version(oldest.0 - 1));
        }
        if at <= done {
            return;
        }
        let kept_ms = turn.now.wall_ms.saturating_sub(turn.settings.retention_ms);
        let scan = self.oldest_scan().unwrap_or(Version::MAX);
        let kept = hlc::floor_of(kept_ms)
            .min(at)
            .min(scan)
            .min(reader.unwrap_or(Version::ZERO))
            .max(own.closed.kept)
            .max(self.closing.kept);
        self.closing.kept = kept;
        self.closing.proposed = at;
        self.closing.next = Micros(turn.now.monotonic.0 + CLOSE_EVERY_US);
        self.propose_closed(turn, Closed { at, kept });
    }
}

impl Shard {
    /// A read of the past, on any replica.
    pub(super) fn snapshot<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        token: Token,
        at: Version,
        read: SnapshotRead,
    ) {
        if let SnapshotRead::Walk(command) = &read
            && !is_walk(command)
        {
            let reply = Reply::err("this command does not walk through a range");
            return turn.respond(token, Outcome::Reply(reply));
        }
        let closed = at <= self.own.closed.at || planted!(ServesUnclosed);
        let hint = self.hint();
        if let Role::Leading(leader) = &mut self.role
            && !closed
        {
            leader.closing.wanted = leader.closing.wanted.max(at);
            leader.close(turn, &self.own);
        } else if !closed {
            return turn.respond(token, Outcome::NotLeader { hint });
        }
        if self.snapshots.len() >= turn.settings.waiting_max {
            return turn.respond(token, Outcome::Overloaded);
        }
        let id = turn.new_work();
        let progress = Progress::Waiting(read);
        self.snapshots.insert(
            id,
            Snapshot {
                token,
                at,
                progress,
            },
        );
        if closed {
            reached!(SnapshotRead);
            self.begin_snapshot(turn, id);
        }
    }

    /// Begins the reads that waited for a version to be closed.
    pub(super) fn closed<S: State>(&mut self, turn: &mut Turn<S>) {
        let closed = self.own.closed.at;
        let ready: Vec<WorkId> = self
            .snapshots
            .iter()
            .filter(|(_, it)| matches!(it.progress, Progress::Waiting(_)) && it.at <= closed)
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.begin_snapshot(turn, id);
        }
    }

    /// Whoever leads from now on may close what is waited for here.
    pub(super) fn pass_on_snapshots<S>(&mut self, turn: &mut Turn<S>) {
        let hint = self.hint();
        let waits = |_: &WorkId, it: &mut Snapshot| matches!(it.progress, Progress::Waiting(_));
        for (_, snapshot) in self.snapshots.extract_if(.., waits) {
            turn.respond(snapshot.token, Outcome::NotLeader { hint });
        }
    }

    /// The replica ends, or the shard has other keys from now on, of which it cannot say what is kept.
    pub(super) fn end_snapshots<S>(&mut self, turn: &mut Turn<S>, outcome: &Outcome) {
        for snapshot in std::mem::take(&mut self.snapshots).into_values() {
            turn.respond(snapshot.token, outcome.clone());
        }
    }

    fn begin_snapshot<S: State>(&mut self, turn: &mut Turn<S>, id: WorkId) {
        let shard = self.id;
        let Some(snapshot) = self.snapshots.get_mut(&id) else {
            return;
        };
        let at = snapshot.at;
        let Progress::Waiting(read) = &snapshot.progress else {
            unreachable!("a read begins once");
        };
        match read.clone() {
            SnapshotRead::Keys(keys) => {
                let slots: Option<Vec<Slot>> = keys.iter().map(|key| slot(turn, key, at)).collect();
                let Some(slots) = slots else {
                    return self.end_snapshot(turn, id, Outcome::Reply(corrupt_reply()));
                };
                for slot in &slots {
                    if let Slot::Pending(read) = slot {
                        turn.reads.insert(*read, (shard, id));
                    }
                }
                snapshot.progress = Progress::Keys(slots);
                self.go_on_with_keys(turn, id);
            }
            SnapshotRead::Walk(command) => {
                let whole = &self.own.descriptor.range;
                let range = match &command {
                    Command::Range(range) => {
                        let (start, end) = clip(&range.start, range.end.as_ref(), whole);
                        KeyRange {
                            start: start.to_vec(),
                            end: end.map(|end| end.to_vec()),
                        }
                    }
                    _ => whole.clone(),
                };
                snapshot.progress = Progress::Walk(Box::new(Walk {
                    command,
                    rest: Some(range.clone()),
                    range,
                    found: Vec::new(),
                    found_bytes: 0,
                    rows: 0,
                }));
                self.go_on_with_walk(turn, id);
            }
        }
    }

    /// Something that a read of the past waited for has come. Whether it was one.
    pub(super) fn snapshot_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        id: WorkId,
        read: ReadId,
        result: ReadResult,
    ) -> Option<ReadResult> {
        let Some(snapshot) = self.snapshots.get_mut(&id) else {
            return Some(result);
        };
        let at = snapshot.at;
        let known = match (result, &mut snapshot.progress) {
            (ReadResult::Damaged(row), _) => {
                let shard = self.id;
                turn.effects.push(Effect::Damaged { shard, row });
                self.end_snapshot(turn, id, Outcome::Reply(corrupt_reply()));
                return None;
            }
            (ReadResult::Page(page), Progress::Walk(walk)) => {
                match walk.take(page, at) {
                    Ok(()) => self.go_on_with_walk(turn, id),
                    Err(reply) => self.end_snapshot(turn, id, Outcome::Reply(reply)),
                }
                return None;
            }
            (ReadResult::Found { value, version }, Progress::Keys(_)) => found(&value, version, at),
            (ReadResult::Absent { deleted_at }, Progress::Keys(_)) => Some(absent(deleted_at)),
            (
                ReadResult::Failed
                | ReadResult::Newest(_)
                | ReadResult::Page(_)
                | ReadResult::Found { .. }
                | ReadResult::Absent { .. },
                _,
            ) => {
                self.end_snapshot(turn, id, Outcome::Reply(read_failed_reply()));
                return None;
            }
        };
        let Some(known) = known else {
            self.end_snapshot(turn, id, Outcome::Reply(corrupt_reply()));
            return None;
        };
        if let Progress::Keys(slots) = &mut snapshot.progress {
            for slot in slots {
                if matches!(slot, Slot::Pending(waited) if *waited == read) {
                    *slot = Slot::Known(known.clone());
                }
            }
        }
        self.go_on_with_keys(turn, id);
        None
    }

    /// Answers if all values are there.
    fn go_on_with_keys<S>(&mut self, turn: &mut Turn<S>, id: WorkId) {
        let Some(snapshot) = self.snapshots.get(&id) else {
            return;
        };
        let Progress::Keys(slots) = &snapshot.progress else {
            return;
        };
        let known = |slot: &Slot| match slot {
            Slot::Known(value) => Some(value.clone()),
            Slot::Pending(_) => None,
        };
        if let Some(values) = slots.iter().map(known).collect::<Option<Vec<_>>>() {
            let valid_through = snapshot.at;
            let answer = TxnAnswer::Values {
                values,
                valid_through,
            };
            self.end_snapshot(turn, id, Outcome::Txn(answer));
        }
    }

    fn go_on_with_walk<S: State>(&mut self, turn: &mut Turn<S>, id: WorkId) {
        let shard = self.id;
        let Some(Snapshot { at, progress, .. }) = self.snapshots.get_mut(&id) else {
            return;
        };
        let (at, Progress::Walk(walk)) = (*at, progress) else {
            return;
        };
        while let Some(range) = walk.next_range() {
            let request = ScanRequest {
                space: Space::User,
                range,
                at,
                direction: walk.direction(),
                what: ScanWhat::Values,
                rows_max: PAGE_ROWS_MAX,
                bytes_max: PAGE_BYTES_MAX,
            };
            match turn.state.scan(request) {
                Scan::Pending(read) => {
                    turn.reads.insert(read, (shard, id));
                    return;
                }
                Scan::Ready(page) => {
                    if let Err(reply) = walk.take(page, at) {
                        return self.end_snapshot(turn, id, Outcome::Reply(reply));
                    }
                }
            }
        }
        let reply = match &walk.command {
            Command::DbSize => Reply::Integer(i64::try_from(walk.rows).unwrap_or(i64::MAX)),
            _ => Reply::Array(std::mem::take(&mut walk.found)),
        };
        let read = RangeRead {
            range: walk.range.clone(),
            at,
            rows: walk.rows,
        };
        self.end_snapshot(turn, id, Outcome::Txn(TxnAnswer::Walked { reply, read }));
    }

    /// Answers, if what was read is still kept.
    fn end_snapshot<S>(&mut self, turn: &mut Turn<S>, id: WorkId, outcome: Outcome) {
        let Some(snapshot) = self.snapshots.remove(&id) else {
            return;
        };
        let kept = self.own.closed.kept;
        let outcome = match snapshot.at < kept && !planted!(ReadsBelowKept) {
            true => Outcome::Txn(TxnAnswer::Collected { kept }),
            false => outcome,
        };
        turn.respond(snapshot.token, outcome);
    }
}

impl Walk {
    /// What is to be read next, if anything is.
    fn next_range(&mut self) -> Option<KeyRange> {
        let is_full = match &self.command {
            Command::Range(range) => range.limit.is_some_and(|limit| self.rows >= limit),
            _ => false,
        };
        self.rest.take().filter(|rest| !is_full && !rest.is_empty())
    }

    fn direction(&self) -> Direction {
        direction_of(&self.command)
    }

    /// Takes in a page; an error is the answer.
    fn take(&mut self, page: ScanPage, at: Version) -> Result<(), Reply> {
        self.rest = page.rest;
        let limit = match &self.command {
            Command::Range(range) => range.limit.unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        for row in page.rows {
            if self.rows >= limit {
                break;
            }
            let value = row.value.as_ref().map(Value::decode);
            let value = value.flatten().ok_or_else(corrupt_reply)?;
            if value.is_expired(hlc::wall_ms_of(at)) {
                continue;
            }
            match &self.command {
                Command::Keys { pattern } if !glob::matches(pattern, &row.key) => continue,
                Command::DbSize => {}
                Command::Range(_) => {
                    self.found_bytes += row.key.len() + value.data.len() + 32;
                    self.found.push(Reply::Bulk(row.key));
                    self.found.push(Reply::Bulk(value.data));
                }
                _ => {
                    self.found_bytes += row.key.len() + 16;
                    self.found.push(Reply::Bulk(row.key));
                }
            }
            self.rows += 1;
        }
        match self.found_bytes > ANSWER_BYTES_MAX {
            true => Err(Reply::error(
                ErrorCode::TooLarge,
                "the answer exceeds 64 MiB; use LIMIT",
            )),
            false => Ok(()),
        }
    }
}

/// A key's value at a version, or where it is read from; `None` if it is damaged.
fn slot<S: State>(turn: &mut Turn<S>, key: &Key, at: Version) -> Option<Slot> {
    match turn.state.get(Space::User, key, at) {
        Lookup::Found { value, version } => found(&value, version, at).map(Slot::Known),
        Lookup::Absent { deleted_at } => Some(Slot::Known(absent(deleted_at))),
        Lookup::Pending(read) => Some(Slot::Pending(read)),
    }
}

fn found(value: &Bytes, version: Version, at: Version) -> Option<ReadValue> {
    let value = Value::decode(value)?;
    let value = Some(value).filter(|value| !value.is_expired(hlc::wall_ms_of(at)));
    Some(ReadValue { value, version })
}

fn absent(deleted_at: Option<Version>) -> ReadValue {
    ReadValue {
        value: None,
        version: deleted_at.unwrap_or(Version::ZERO),
    }
}
