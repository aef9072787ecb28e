//! Whether ranges still are as they were read: no phantoms.
//!
//! A range that a transaction has read is checked by walking through it once more. It is unchanged if
//! no row is newer than the read and there are as many rows as there were. The walk may wait for the
//! disk; what is evaluated meanwhile is compared with the ranges as it is proposed, and what was
//! proposed before and is not applied yet is looked up at the beginning. So the check holds at the
//! moment at which the task is evaluated, and from then on the task's own lock or place in the log
//! keeps the range.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{
    Direction, KeyRange, ReadId, Scan, ScanPage, ScanRequest, ScanWhat, ShardId, Space, Version,
};

use super::Turn;
use super::intent::ranges_of;
use super::latch::WorkId;
use super::overlay::Overlay;
use super::work::Task;
use crate::shard_map::keyspace;
use crate::state::State;
use crate::transaction::RangeRead;
use synod_testpoint::planted;

/// Rows of one page.
const PAGE_ROWS_MAX: usize = 4096;

/// Bytes of one page.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// The check of one range.
#[derive(Clone, Debug)]
struct Check {
    read: RangeRead,
    /// What was not walked through yet; `None` at the end.
    rest: Option<KeyRange>,
    /// The page that is being read.
    pending: Option<ReadId>,
    rows: u64,
    changed: bool,
}

/// The check of a task's ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeChecks {
    checks: Vec<Check>,
}

/// The checks that wait for the disk, by their works.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    waiting: BTreeMap<WorkId, RangeChecks>,
}

impl RangeChecks {
    /// Begins to check a task's ranges, and goes as far as it can without the disk.
    pub(super) fn begin<S: State>(
        turn: &mut Turn<S>,
        shard: ShardId,
        overlay: &Overlay,
        task: &Task,
    ) -> RangeChecks {
        let ranges = match task {
            Task::Command(_) => &[],
            Task::Txn(request) => ranges_of(request),
        };
        if planted!(RangesAreNotChecked) {
            return RangeChecks::default();
        }
        let checks = ranges.iter().map(|read| {
            let mut check = Check {
                read: read.clone(),
                rest: Some(read.range.clone()),
                pending: None,
                rows: 0,
                // Whatever is still on its way was evaluated after the range was read.
                changed: overlay.touches(&read.range),
            };
            check.run(turn, shard);
            check
        });
        RangeChecks {
            checks: checks.collect(),
        }
    }

    /// Whether nothing has to be read any more.
    pub(super) fn is_complete(&self) -> bool {
        self.checks.iter().all(|check| check.pending.is_none())
    }

    /// Whether all ranges are as they were read; once it is complete.
    pub(super) fn hold(&self) -> bool {
        let holds = |check: &Check| !check.changed && check.rows == check.read.rows;
        self.checks.iter().all(holds)
    }

    /// The pages that are being read.
    pub(super) fn pending(&self) -> impl Iterator<Item = ReadId> {
        self.checks.iter().filter_map(|check| check.pending)
    }
}

impl Check {
    fn run<S: State>(&mut self, turn: &mut Turn<S>, shard: ShardId) {
        while !self.changed
            && let Some(range) = self.rest.take().filter(|rest| !rest.is_empty())
        {
            let (space, rows) = keyspace::rows(shard, &range);
            let request = ScanRequest {
                space,
                range: rows,
                at: Version::MAX,
                direction: Direction::Forward,
                what: ScanWhat::Keys,
                rows_max: PAGE_ROWS_MAX,
                bytes_max: PAGE_BYTES_MAX,
            };
            match turn.state.scan(request) {
                Scan::Ready(page) => self.take(space, page),
                Scan::Pending(read) => {
                    self.pending = Some(read);
                    return;
                }
            }
        }
    }

    fn take(&mut self, space: Space, page: ScanPage) {
        self.rows += page.rows.len() as u64;
        self.changed |= page.rows.iter().any(|row| row.version > self.read.at);
        // The system shard's rows have versions of another kind; no transaction reads its ranges.
        self.changed |= matches!(space, Space::Local(_));
        self.rest = page.rest;
    }
}

impl Ranges {
    /// Whether nothing is being checked.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps the check of a work that has to wait.
    pub(super) fn wait(&mut self, work: WorkId, checks: RangeChecks) {
        if !checks.checks.is_empty() {
            self.waiting.insert(work, checks);
        }
    }

    /// A key is written: ranges that have it are not as they were.
    pub(super) fn written(&mut self, key: &Bytes) {
        for check in self.waiting.values_mut().flat_map(|it| &mut it.checks) {
            check.changed |= check.read.range.contains(key);
        }
    }

    /// A page has come from the disk.
    pub(super) fn read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        shard: ShardId,
        work: WorkId,
        read: ReadId,
        page: ScanPage,
    ) {
        let Some(checks) = self.waiting.get_mut(&work) else {
            return;
        };
        for check in &mut checks.checks {
            if check.pending == Some(read) {
                check.pending = None;
                let (space, _) = keyspace::rows(shard, &check.read.range);
                check.take(space, page);
                check.run(turn, shard);
                return;
            }
        }
    }

    /// The pages that a work waits for.
    pub(super) fn pending(&self, work: WorkId) -> Vec<ReadId> {
        let checks = self.waiting.get(&work);
        checks.into_iter().flat_map(RangeChecks::pending).collect()
    }

    /// Whether a work's ranges are checked.
    pub(super) fn is_complete(&self, work: WorkId) -> bool {
        self.waiting.get(&work).is_none_or(RangeChecks::is_complete)
    }

    /// Takes out what a work's check has come to.
    pub(super) fn take(&mut self, work: WorkId) -> RangeChecks {
        self.waiting.remove(&work).unwrap_or_default()
    }

    /// Forgets all checks.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
