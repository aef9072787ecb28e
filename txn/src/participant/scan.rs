//! Evaluation of commands on ranges.
//!
//! A walk through a range takes a version first, waits until everything evaluated before it is
//! applied, and then reads page by page at that version: what is written meanwhile has a greater
//! one. So the pages belong together, whatever happens between them, and nobody waits for the walk.
//!
//! Where a `SCAN` page ends, its cursor names the last key by a hash of 43 bits. The leader remembers
//! which key it meant; one that does not (another node leads by now) finds it by walking through the
//! keys, or starts the shard again if the key is gone: keys may be shown twice, never skipped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use synod_storage::{
    Direction, KeyRange, ReadResult, Scan as StoreScan, ScanPage, ScanRequest, ScanWhat, Version,
};

use super::event::Batch;
use super::latch::{Latch, WorkId};
use super::leader::Leader;
use super::shard::{Own, corrupt_reply, read_failed_reply};
use super::work::{Asker, ScanGoal, ScanState, Stage, Task, Work};
use super::{Effect, Turn};
use crate::command::{Command, KindFilter, Order};
use crate::glob;
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::{clip, keyspace};
use crate::split::CURSOR_PLACE_BITS;
use crate::state::State;
use crate::transaction::{AttemptId, RangeRead, TxnAnswer, TxnRequest, Verdict};
use crate::value::Value;
use crate::wire::{Outcome, Stream};

/// Rows of one page of a walk.
pub(super) const PAGE_ROWS_MAX: usize = 1024;

/// Bytes of one page of a walk.
pub(super) const PAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes of keys and values that one answer may have.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Expired keys that one walk deletes; those beyond it are left for a later one.
const EXPIRED_MAX: usize = 16_384;

/// Whether a command is about a range of keys.
pub(super) fn is_scan(command: &Command) -> bool {
    matches!(
        command,
        Command::Scan(_)
            | Command::DbSize
            | Command::Keys { .. }
            | Command::Range(_)
            | Command::FlushAll
    )
}

/// Whether a command only looks at a range, all of it at one version.
pub(super) fn is_walk(command: &Command) -> bool {
    matches!(
        command,
        Command::Range(_) | Command::Keys { .. } | Command::DbSize
    )
}

/// The keys that cursors given out by this leader name; the oldest are forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    keys: BTreeMap<u64, Bytes>,
    order: VecDeque<u64>,
}

impl Places {
    const REMEMBERED_MAX: usize = 1024;

    fn remember(&mut self, key: &Bytes) -> u64 {
        let place = place_of(key);
        if self
            .keys
            .insert(place, Bytes::copy_from_slice(key))
            .is_none()
        {
            self.order.push_back(place);
        }
        if self.order.len() > Self::REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        place
    }
}

/// A key's hash as a place: never 0, which is the beginning. (FNV-1a, stirred at the end.)
fn place_of(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((hash ^ (hash >> 32)) >> (64 - CURSOR_PLACE_BITS)).max(1)
}

impl Leader {
    /// Takes in a command on a range, by itself or as a part of a transaction.
    pub(super) fn begin_scan<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        task: Task,
    ) {
        let (Task::Command(command) | Task::Txn(TxnRequest::Walk { command })) = &task else {
            unreachable!("only commands on ranges walk");
        };
        let (rest, goal) = self.first_range(own, command);
        let scan = ScanState {
            command: command.clone(),
            asked: rest.clone(),
            at: Version::ZERO,
            writers: BTreeSet::new(),
            needs: Batch(0),
            whole: own.descriptor.range.clone(),
            rest: Some(rest),
            found: Vec::new(),
            found_bytes: 0,
            rows: 0,
            expired: Vec::new(),
            goal,
        };
        let id = turn.new_work();
        let latches = match &asker {
            Asker::Request { stream, .. } if stream.id != Stream::NONE.id => {
                vec![Latch::Stream(stream.id)]
            }
            Asker::Request { .. } | Asker::Known { .. } | Asker::Scan(_) | Asker::Nobody => {
                Vec::new()
            }
        };
        let behind = self.latches.enqueue(id, &latches);
        let stage = Stage::Scan(Box::new(scan));
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
            self.run_scan(turn, own, id);
        }
    }

    /// What a command walks through, and what it is after at first.
    fn first_range(&self, own: &Own, command: &Command) -> (KeyRange, ScanGoal) {
        let whole = own.descriptor.range.clone();
        match command {
            Command::Range(range) => {
                let (start, end) = clip(&range.start, range.end.as_ref(), &whole);
                let end = end.map(|end| end.to_vec());
                (
                    KeyRange {
                        start: start.to_vec(),
                        end,
                    },
                    ScanGoal::Rows,
                )
            }
            Command::Scan(scan) if scan.cursor != 0 => match self.places.keys.get(&scan.cursor) {
                Some(last) => (after(last, &whole), ScanGoal::Rows),
                None => (whole, ScanGoal::Place(scan.cursor)),
            },
            Command::Scan(_) | Command::DbSize | Command::Keys { .. } | Command::FlushAll => {
                (whole, ScanGoal::Rows)
            }
            Command::Get { .. }
            | Command::Set(_)
            | Command::GetDel { .. }
            | Command::Advance(_)
            | Command::GetEx { .. }
            | Command::MGet { .. }
            | Command::MSet { .. }
            | Command::MSetNx { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Append { .. }
            | Command::StrLen { .. }
            | Command::GetRange { .. }
            | Command::SetRange { .. }
            | Command::Del { .. }
            | Command::Exists { .. }
            | Command::Touch { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Ttl { .. }
            | Command::Type { .. }
            | Command::Transaction(_)
            | Command::Synod { .. } => unreachable!("only commands on ranges walk"),
        }
    }

    /// Goes on with a walk that waits for nothing but pages.
    pub(super) fn run_scan<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        loop {
            let newest = self.newest_batch();
            let (shard, applied) = (self.shard, self.applied);
            let Some(work) = self.works.get_mut(&id) else {
                return;
            };
            let Stage::Scan(scan) = &mut work.stage else {
                unreachable!("a walk is a walk");
            };
            if scan.at == Version::ZERO {
                // From now on, everything evaluated has a greater version, but for what is prepared.
                scan.at = turn.hlc.tick(turn.now.wall_ms);
                scan.needs = Batch(u64::MAX);
            }
            if !scan.writers.is_empty() {
                return;
            }
            if scan.needs == Batch(u64::MAX) {
                // Whoever is about to write at or below the version must be over. Their own
                // versions may have raised it: then others may be below it now.
                let whole = scan.rest.clone().unwrap_or_default();
                for attempt in self.view.locks().writers_in(&whole) {
                    let prepared = self.view.prepared().get(&attempt).map(|it| it.version);
                    let version = prepared.or_else(|| self.asking.version(&attempt));
                    if version.is_some_and(|version| version <= scan.at) {
                        scan.writers.insert(attempt);
                    }
                }
                if !scan.writers.is_empty() {
                    return;
                }
                scan.needs = newest;
            }
            let needs = scan.needs;
            if needs > applied {
                return self.hurry_for(needs);
            }
            let Some(range) = scan.rest.take().filter(|rest| !rest.is_empty()) else {
                return self.end_scan(turn, own, id);
            };
            let (space, rows) = keyspace::rows(shard, &range);
            let request = ScanRequest {
                space,
                range: rows,
                // Local rows have one version only, and are read in one turn.
                at: if matches!(space, synod_storage::Space::User) {
                    scan.at
                } else {
                    Version::MAX
                },
                direction: direction_of(&scan.command),
                what: what_of(&scan.command, &scan.goal),
                rows_max: rows_max_of(&scan.command, scan),
                bytes_max: PAGE_BYTES_MAX,
            };
            match turn.state.scan(request) {
                StoreScan::Ready(page) => {
                    if !self.take_page(turn, own, id, page) {
                        return;
                    }
                }
                StoreScan::Pending(read) => {
                    turn.reads.insert(read, (shard, id));
                    return;
                }
            }
        }
    }

    /// A page has come back from the disk.
    pub(super) fn scan_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        result: ReadResult,
    ) {
        match result {
            ReadResult::Page(page) => {
                if self.take_page(turn, own, id, page) {
                    self.run_scan(turn, own, id);
                }
            }
            ReadResult::Damaged(row) => {
                turn.effects.push(Effect::Damaged {
                    shard: self.shard,
                    row,
                });
                self.fail(turn, own, id, corrupt_reply());
            }
            ReadResult::Failed => self.fail(turn, own, id, read_failed_reply()),
            ReadResult::Found { .. } | ReadResult::Absent { .. } | ReadResult::Newest(_) => {
                unreachable!("a scan is answered with a page")
            }
        }
    }

    /// Takes in a page. Whether the walk can go on at once.
    fn take_page<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        id: WorkId,
        page: ScanPage,
    ) -> bool {
        let shard = self.shard;
        let Some(work) = self.works.get_mut(&id) else {
            return false;
        };
        let Stage::Scan(scan) = &mut work.stage else {
            unreachable!("a walk is a walk");
        };
        let command = scan.command.clone();
        scan.rest = page.rest.map(|rest| unprefixed(shard, rest));
        let mut keys = Vec::new();
        for row in page.rows {
            let key = keyspace::key(shard, row.key);
            if let ScanGoal::Place(place) = scan.goal {
                if place_of(&key) == place {
                    scan.rest = Some(after(&key, &scan.whole));
                    scan.goal = ScanGoal::Rows;
                    return true;
                }
                continue;
            }
            scan.rows += 1;
            let value = match row.value.as_ref().map(Value::decode) {
                None => None,
                Some(Some(value)) => Some(value),
                Some(None) => {
                    self.fail(turn, own, id, corrupt_reply());
                    return false;
                }
            };
            let expired = value
                .as_ref()
                .is_some_and(|value| value.is_expired(turn.now.wall_ms));
            if expired {
                scan.rows -= u64::from(matches!(command, Command::Range(_)));
                if scan.expired.len() < EXPIRED_MAX {
                    scan.expired.push(key.clone());
                }
            } else {
                collect(&command, scan, &key, value, &mut keys);
            }
            if let Command::Scan(command) = &command
                && scan.rows >= u64::from(command.count)
            {
                scan.goal = ScanGoal::Ended(key);
            }
            if scan.found_bytes > ANSWER_BYTES_MAX {
                let message = "the answer exceeds 64 MiB; use LIMIT, or SCAN";
                self.fail(turn, own, id, Reply::error(ErrorCode::TooLarge, message));
                return false;
            }
        }
        if let (ScanGoal::Place(_), None) = (&scan.goal, &scan.rest) {
            // The key is gone: the shard from its beginning.
            scan.goal = ScanGoal::Rows;
            if let Command::Scan(command) = &mut scan.command {
                command.cursor = 0;
            }
            scan.rest = Some(scan.whole.clone());
            return true;
        }
        if scan.rest.is_none() && matches!(scan.goal, ScanGoal::Ended(_)) {
            // The page ended with the shard: there is no place to go on from.
            scan.goal = ScanGoal::Rows;
        }
        if is_full(&command, scan) {
            scan.stop_at_last();
        }
        if keys.is_empty() {
            return true;
        }
        // A page of `FLUSHALL`: deleted like any other keys, then the walk goes on.
        self.admit(
            turn,
            own,
            Asker::Scan(id),
            Task::Command(Command::Del { keys }),
        );
        false
    }

    /// Answers a walk, after its expired keys are deleted.
    fn end_scan<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, id: WorkId) {
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        let Stage::Scan(scan) = work.stage else {
            unreachable!("a walk is a walk");
        };
        let rows = i64::try_from(scan.rows).unwrap_or(i64::MAX);
        let reply = match &scan.command {
            Command::DbSize => Reply::Integer(rows),
            Command::FlushAll => Reply::Ok,
            Command::Scan(_) => {
                let place = match &scan.goal {
                    ScanGoal::Ended(last) => self.places.remember(last),
                    ScanGoal::Rows | ScanGoal::Place(_) => 0,
                };
                let place = i64::try_from(place).unwrap_or(0);
                Reply::Array(vec![Reply::Integer(place), Reply::Array(scan.found)])
            }
            _ => Reply::Array(scan.found),
        };
        // What `FLUSHALL` deleted is on its way: its answer waits for all of it.
        let needs = match &scan.command {
            Command::FlushAll => self.newest_batch(),
            _ => Batch(0),
        };
        let outcome = match &work.task {
            Task::Command(_) => Outcome::Reply(reply),
            Task::Txn(_) => {
                // What is past its deadline is deleted before this is answered.
                let gone = match &scan.command {
                    Command::Range(_) => 0,
                    _ => scan.expired.len() as u64,
                };
                let read = RangeRead {
                    range: scan.asked,
                    at: scan.at,
                    rows: scan.rows - gone,
                };
                Outcome::Txn(TxnAnswer::Walked { reply, read })
            }
        };
        match (work.asker, scan.expired.is_empty()) {
            (Asker::Request { token, stream }, false) => {
                let asker = Asker::Known {
                    token,
                    stream,
                    outcome,
                };
                let task = Task::Command(Command::Exists { keys: scan.expired });
                self.admit(turn, own, asker, task);
            }
            (asker, _) => self.answer(turn, own, asker, outcome, needs),
        }
        self.release_latches(turn, own, id, &work.latches);
    }

    /// An attempt is over: goes on with the walks that waited for it.
    pub(super) fn writer_gone<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        attempt: AttemptId,
        verdict: Verdict,
    ) {
        let mut woken = Vec::new();
        for (id, work) in &mut self.works {
            let Stage::Scan(scan) = &mut work.stage else {
                continue;
            };
            if scan.writers.remove(&attempt) {
                if let Verdict::Committed(version) = verdict {
                    // It may have been acknowledged before the walk was asked for.
                    scan.at = scan.at.max(version);
                }
                if scan.writers.is_empty() {
                    woken.push(*id);
                }
            }
        }
        for id in woken {
            self.run_scan(turn, own, id);
        }
    }

    /// Goes on with the walks that a batch has held up.
    pub(super) fn wake_scans<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, batch: Batch) {
        let waits = |work: &Work| match &work.stage {
            Stage::Scan(scan) => scan.at != Version::ZERO && scan.needs == batch,
            Stage::Stream | Stage::Parked { .. } | Stage::Latching | Stage::Point { .. } => false,
        };
        let woken: Vec<WorkId> = self
            .works
            .iter()
            .filter(|(_, work)| waits(work))
            .map(|(id, _)| *id)
            .collect();
        for id in woken {
            self.run_scan(turn, own, id);
        }
    }
}

impl ScanState {
    /// The walk has all that it wants: what lies behind its last row was not looked at.
    fn stop_at_last(&mut self) {
        if let (Command::Range(_), Some(Reply::Bulk(last))) =
            (&self.command, self.found.iter().rev().nth(1))
        {
            match direction_of(&self.command) {
                Direction::Forward => self.asked.end = Some(next_key(last)),
                Direction::Reverse => self.asked.start = last.to_vec(),
            }
        }
        self.rest = None;
    }
}

/// Takes one live row into a walk's answer; `keys` are those that `FLUSHALL` deletes.
fn collect(
    command: &Command,
    scan: &mut ScanState,
    key: &Bytes,
    value: Option<Value>,
    keys: &mut Vec<Bytes>,
) {
    let pattern = match command {
        Command::Keys { pattern } => Some(pattern),
        Command::Scan(scan) if scan.kind == KindFilter::Nothing => return,
        Command::Scan(scan) => scan.pattern.as_ref(),
        Command::FlushAll => {
            keys.push(key.clone());
            return;
        }
        Command::Range(_) => None,
        _ => return,
    };
    if pattern.is_some_and(|pattern| !glob::matches(pattern, key)) {
        return;
    }
    scan.found_bytes += key.len() + 16;
    scan.found.push(Reply::Bulk(key.clone()));
    if let (Command::Range(_), Some(value)) = (command, value) {
        scan.found_bytes += value.data.len() + 16;
        scan.found.push(Reply::Bulk(value.data));
    }
}

/// Whether a walk has all that it wants.
fn is_full(command: &Command, scan: &ScanState) -> bool {
    match command {
        Command::Range(range) => range.limit.is_some_and(|limit| scan.rows >= limit),
        Command::Scan(_) => matches!(scan.goal, ScanGoal::Ended(_)),
        _ => false,
    }
}

pub(super) fn direction_of(command: &Command) -> Direction {
    match command {
        Command::Range(range) => match range.order {
            Order::Forward => Direction::Forward,
            Order::Reverse => Direction::Reverse,
        },
        _ => Direction::Forward,
    }
}

fn what_of(command: &Command, goal: &ScanGoal) -> ScanWhat {
    match (command, goal) {
        (_, ScanGoal::Place(_)) | (Command::DbSize | Command::FlushAll, _) => ScanWhat::Keys,
        _ => ScanWhat::Values,
    }
}

/// How many rows the next page may have, so that no more is read than the answer can hold.
fn rows_max_of(command: &Command, scan: &ScanState) -> usize {
    let wanted = match (command, &scan.goal) {
        (_, ScanGoal::Place(_)) => u64::MAX,
        (Command::Range(range), _) => range.limit.map_or(u64::MAX, |limit| limit - scan.rows),
        (Command::Scan(command), _) => u64::from(command.count) - scan.rows,
        _ => u64::MAX,
    };
    usize::try_from(wanted)
        .unwrap_or(usize::MAX)
        .clamp(1, PAGE_ROWS_MAX)
}

/// What of a range is behind a key.
fn after(key: &Bytes, whole: &KeyRange) -> KeyRange {
    KeyRange {
        start: next_key(key),
        end: whole.end.clone(),
    }
}

/// The first key behind a key.
fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.to_vec()
}

/// A range of rows as a range of keys.
fn unprefixed(shard: synod_storage::ShardId, rows: KeyRange) -> KeyRange {
    match shard == crate::shard_map::SYSTEM_SHARD {
        false => rows,
        true => KeyRange {
            start: rows.start.get(1..).unwrap_or_default().to_vec(),
            end: rows
                .end
                .filter(|end| end.len() > 1)
                .map(|end| end[1..].to_vec()),
        },
    }
}
