//! Reads that missed memory: what the reader does on its own thread.
//!
//! It looks into the index and the value files only. What the memtables have to add is added by the
//! loop when the answers come back, so the reader needs no view of them; should a checkpoint have let
//! a memtable go in between, the loop asks again.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::index::{Index, IndexError, IndexKey, Pointer, Tree, pointer};
use crate::log::{FetchQuery, Fetched, fetch};
use crate::snapshot::{ChunkError, Pinned};
use crate::value::{FileTable, ReadError, read_record};
use crate::{
    Direction, JobStep, KeyRange, ReadId, ScanRequest, ScanWhat, SnapshotChunk, TransferId, Version,
};

/// A question that needs the disk.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    /// A user row at a version.
    Get {
        read: ReadId,
        key: Bytes,
        at: Version,
    },
    /// When a user row last changed.
    Newest { read: ReadId, key: Bytes },
    /// A page of user rows.
    Scan { read: ReadId, request: ScanRequest },
    /// A user row of exactly a version.
    Recall { key: Bytes, version: Version },
    /// Log entries.
    Fetch(FetchQuery),
    /// A chunk of an export.
    Chunk {
        transfer: TransferId,
        pinned: Arc<Pinned>,
        number: u32,
    },
}

impl Query {
    /// Whether it asks the index for rows of a range of user keys.
    pub fn touches(&self, range: &KeyRange) -> bool {
        match self {
            Query::Get { key, .. } | Query::Newest { key, .. } | Query::Recall { key, .. } => {
                range.contains(key)
            }
            Query::Scan { request, .. } => request.range.overlaps(range),
            // The log is no index, and the rows of an export are pinned.
            Query::Fetch(_) | Query::Chunk { .. } => false,
        }
    }
}

/// What index and value files say of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    Value(Version, Bytes),
    /// The row exists, its value was not asked for; what it takes, in bytes.
    Key(Version, u32),
    Deleted(Version),
    Nothing,
    /// Its record is bad, or its file is not there.
    Damaged(Option<Pointer>),
    Failed,
}

/// A page of rows as the files have them, and what of the range it does not cover.
#[derive(Clone, Debug)]
pub(crate) struct DiskPage {
    pub rows: Vec<(Bytes, OnDisk)>,
    pub rest: Option<KeyRange>,
}

/// The answer to a query.
#[derive(Debug)]
pub(crate) enum Answer {
    Row {
        row: OnDisk,
        /// Whether the files have nothing newer of the key than this.
        is_newest: bool,
    },
    Page(DiskPage),
    PageFailed,
    Fetched(Fetched),
    Chunk(Result<SnapshotChunk, ChunkError>),
    /// The index is broken.
    Broken(IndexError),
}

/// Index entries that a page looks at before it breaks off, rows or not.
const VISITS_MAX: usize = 4096;
/// Index entries taken at a time.
const VISITS_PER_WALK: usize = 128;
/// How often a pointer may lead to a file that a reclaim has just taken away.
const TRIES: usize = 8;

/// A batch of queries, one to a step.
#[derive(Debug)]
pub(crate) struct ReadWork {
    pub index: Arc<dyn Index>,
    pub files: FileTable,
    pub queries: VecDeque<Query>,
    pub answers: Vec<(Query, Answer)>,
    /// What the loop compares to tell whether a memtable went in between.
    pub generation: u64,
}

impl ReadWork {
    pub fn step(&mut self) -> JobStep {
        // Several to a step: each is a few microseconds.
        for _ in 0..16 {
            let Some(query) = self.queries.pop_front() else {
                return JobStep::Done;
            };
            let answer = self.answer(&query).unwrap_or_else(Answer::Broken);
            self.answers.push((query, answer));
        }
        if self.queries.is_empty() {
            JobStep::Done
        } else {
            JobStep::Again
        }
    }

    fn answer(&self, query: &Query) -> Result<Answer, IndexError> {
        match query {
            Query::Get { key, at, .. } => {
                let key = IndexKey::User { key }.encode();
                self.row(&key, *at, true)
            }
            Query::Recall { key, version } => {
                let key = IndexKey::User { key }.encode();
                self.row(&key, *version, true)
            }
            Query::Newest { key, .. } => {
                let key = IndexKey::User { key }.encode();
                self.row(&key, Version::MAX, false)
            }
            Query::Scan { request, .. } => self.page(request),
            Query::Chunk { pinned, number, .. } => Ok(Answer::Chunk(pinned.chunk(*number))),
            Query::Fetch(wanted) => Ok(Answer::Fetched(fetch(wanted))),
        }
    }

    fn row(&self, key: &[u8], at: Version, with_value: bool) -> Result<Answer, IndexError> {
        for _ in 0..TRIES {
            let Some(entry) = pointer::get(&*self.index, key)? else {
                return Ok(Answer::Row {
                    row: OnDisk::Nothing,
                    is_newest: true,
                });
            };
            let Some(pointer) = pointer::lookup_in(&*self.index, key, &entry, at)? else {
                return Ok(Answer::Row {
                    row: OnDisk::Nothing,
                    is_newest: false,
                });
            };
            if let Some(row) = self.resolve(key, &pointer, with_value) {
                let newest = entry.list.first().map(|newest| newest.version);
                return Ok(Answer::Row {
                    row,
                    is_newest: newest == Some(pointer.version),
                });
            }
        }
        Ok(Answer::Row {
            row: OnDisk::Damaged(None),
            is_newest: false,
        })
    }

    /// Follows a pointer; `None` if its file is gone: look the pointer up again.
    fn resolve(&self, key: &[u8], pointer: &Pointer, with_value: bool) -> Option<OnDisk> {
        if pointer.is_delete {
            return Some(OnDisk::Deleted(pointer.version));
        }
        if !with_value {
            return Some(OnDisk::Key(pointer.version, pointer.bytes));
        }
        let file = self.files.get(pointer.file)?;
        Some(match read_record(&*file, key, pointer) {
            Ok(record) => match record.value {
                // The record's buffer is as large as the value and its key: no need to copy it.
                Some(value) => OnDisk::Value(pointer.version, value),
                None => OnDisk::Deleted(pointer.version),
            },
            Err(ReadError::Damaged) => {
                tracing::error!(file = %pointer.file, offset = pointer.offset, "damaged record");
                OnDisk::Damaged(Some(*pointer))
            }
            Err(ReadError::Disk(error)) => {
                tracing::error!(file = %pointer.file, %error, "cannot read a record");
                OnDisk::Failed
            }
        })
    }

    fn page(&self, request: &ScanRequest) -> Result<Answer, IndexError> {
        let with_value = match request.what {
            ScanWhat::Values => true,
            ScanWhat::Keys | ScanWhat::Changes => false,
        };
        let mut left = IndexKey::user_range(&request.range);
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut visits = 0;
        let mut rest = None;
        'walk: loop {
            let entries = self.walk(&left, request.direction)?;
            let walked_all = entries.len() < VISITS_PER_WALK;
            for (key, pointers) in entries {
                visits += 1;
                let pointer = pointer::lookup_in(&*self.index, &key, &pointers, request.at)?;
                let mut row = OnDisk::Nothing;
                if let Some(pointer) = pointer {
                    row = match self.resolve(&key, &pointer, with_value) {
                        Some(row) => row,
                        None => match self.row(&key, request.at, with_value)? {
                            Answer::Row { row, .. } => row,
                            Answer::Page(_)
                            | Answer::PageFailed
                            | Answer::Fetched(_)
                            | Answer::Chunk(_)
                            | Answer::Broken(_) => OnDisk::Failed,
                        },
                    };
                }
                advance(&mut left, &key, request.direction);
                let user_key = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
                match &row {
                    OnDisk::Nothing => {}
                    OnDisk::Failed => return Ok(Answer::PageFailed),
                    OnDisk::Value(_, value) => {
                        bytes += user_key.len() + value.len();
                        rows.push((user_key, row));
                    }
                    OnDisk::Key(..) | OnDisk::Deleted(_) | OnDisk::Damaged(_) => {
                        bytes += user_key.len();
                        rows.push((user_key, row));
                    }
                }
                let full = rows.len() >= request.rows_max.max(1) || bytes >= request.bytes_max;
                if full || visits >= VISITS_MAX {
                    rest = Some(user_rest(&left, request));
                    break 'walk;
                }
            }
            if walked_all {
                break;
            }
        }
        Ok(Answer::Page(DiskPage {
            rows,
            rest: rest.filter(|rest| !rest.is_empty()),
        }))
    }

    fn walk(
        &self,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<Vec<(Vec<u8>, pointer::Pointers)>, IndexError> {
        let mut entries = Vec::new();
        let mut bad = None;
        let (start, end) = (&range.start, range.end.as_deref());
        self.index
            .range(Tree::Newest, start, end, direction, &mut |key, value| {
                match pointer::Pointers::decode(value) {
                    Ok(pointers) => entries.push((key.to_vec(), pointers)),
                    Err(error) => bad = Some(error),
                }
                if bad.is_some() || entries.len() == VISITS_PER_WALK {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        bad.map_or(Ok(entries), Err)
    }
}

/// Takes a key, and all that the walk has behind it, off a range.
pub(crate) fn advance(range: &mut KeyRange, key: &[u8], direction: Direction) {
    match direction {
        Direction::Forward => {
            range.start = key.to_vec();
            range.start.push(0);
        }
        Direction::Reverse => range.end = Some(key.to_vec()),
    }
}

/// What is left of the user's range when `left` is left of its index form.
fn user_rest(left: &KeyRange, request: &ScanRequest) -> KeyRange {
    let mut rest = request.range.clone();
    match request.direction {
        Direction::Forward => rest.start = left.start.get(1..).unwrap_or_default().to_vec(),
        Direction::Reverse => {
            rest.end = left
                .end
                .as_ref()
                .map(|end| end.get(1..).unwrap_or_default().to_vec());
        }
    }
    rest
}
