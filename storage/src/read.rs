//! Questions to the store, and their answers.
//!
//! A read is answered at once when the memtable or the value cache has it; otherwise it gets a
//! [`ReadId`](crate::ReadId), goes to the reader as part of a job, and its result comes out of
//! [`Store::take_reads`](crate::Store::take_reads). The answer is as of the moment it comes out: what
//! was applied in between, at or below the version asked for, is in it.

use bytes::Bytes;

use crate::{KeyRange, ReadId, Space, Version, WriteOp};

/// The answer to a point read that needs no disk, or the promise of one that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The newest value at or below the version asked for.
    Found {
        /// When it was written.
        version: Version,
        /// The value.
        value: Bytes,
    },
    /// The key has no value at the version asked for.
    Absent {
        /// When it was deleted, if the store still knows.
        deleted_at: Option<Version>,
    },
    /// The answer comes through [`Store::take_reads`](crate::Store::take_reads).
    Pending(ReadId),
}

/// The answer to "when did this key last change?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewestVersion {
    /// The version of the newest record, put or delete; `None` if there is none.
    Known(Option<Version>),
    /// The answer comes through [`Store::take_reads`](crate::Store::take_reads).
    Pending(ReadId),
}

/// Which way a scan walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first key of the range on.
    Forward,
    /// From the last key of the range back.
    Reverse,
}

/// What a scan brings back of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanWhat {
    /// Keys and versions of rows that have a value; values are not read.
    Keys,
    /// Keys, versions and values.
    Values,
    /// Keys and versions of all rows, deleted ones too: what a validation of a range looks at.
    Changes,
}

/// One page of a walk through a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// Which key space.
    pub space: Space,
    /// Which keys.
    pub range: KeyRange,
    /// The version read at.
    pub at: Version,
    /// Which way.
    pub direction: Direction,
    /// What of each row.
    pub what: ScanWhat,
    /// The most rows in the page, at least 1.
    pub rows_max: usize,
    /// The page ends after the row that reaches this many bytes of keys and values.
    pub bytes_max: usize,
}

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRow {
    /// The key.
    pub key: Bytes,
    /// When it was written.
    pub version: Version,
    /// The value; `None` if only keys were asked for, or if the row is deleted.
    pub value: Option<Bytes>,
    /// What key and value take, asked for or not: on disk, or about as much if it is not there yet.
    pub bytes: u32,
    /// Whether this is a deleted row ([`ScanWhat::Changes`] only).
    pub deleted: bool,
}

/// One page of a walk, and where it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Rows in the order of the walk.
    pub rows: Vec<ScanRow>,
    /// What of the range this page did not cover: ask for exactly this to go on. `None` when the walk
    /// is over. A page may be short, even empty, and still not be the last.
    pub rest: Option<KeyRange>,
}

/// The answer to a scan that needs no disk, or the promise of one that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The page.
    Ready(ScanPage),
    /// The page comes through [`Store::take_reads`](crate::Store::take_reads).
    Pending(ReadId),
}

/// What became of a pending read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// Answer to `get`.
    Found {
        /// When it was written.
        version: Version,
        /// The value.
        value: Bytes,
    },
    /// Answer to `get`: no value at that version.
    Absent {
        /// When it was deleted, if the store still knows.
        deleted_at: Option<Version>,
    },
    /// Answer to `newest_version`.
    Newest(Option<Version>),
    /// Answer to `scan`.
    Page(ScanPage),
    /// The record is there and its checksum is wrong, or it may have been lost with a damaged part of
    /// a file. Never to be taken for absent: fetch exactly this from another replica and give it to
    /// [`Store::repair`](crate::Store::repair).
    Damaged(DamagedRow),
    /// The disk refused the read. Retryable; the state is unchanged.
    Failed,
}

/// What a store has of one version of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowState {
    /// The record, good.
    Here(WriteOp),
    /// The record, damaged.
    Damaged,
    /// No such version, or not any more.
    Gone,
    /// The disk refuses for now: ask again.
    Unreadable,
}

/// The checksum of one version of a row, over key, version and value.
#[must_use]
pub fn row_checksum(key: &[u8], version: Version, op: &WriteOp) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&version.0.to_le_bytes());
    crc.update(&(key.len() as u64).to_le_bytes());
    crc.update(key);
    match op {
        WriteOp::Put(value) => {
            crc.update(&[1]);
            crc.update(value);
        }
        WriteOp::Delete => crc.update(&[0]),
    }
    crc.finalize()
}

/// A row that is damaged on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRow {
    /// Which key space.
    pub space: Space,
    /// The key.
    pub key: Bytes,
    /// The version of the damaged record; `None` if even that is lost.
    pub version: Option<Version>,
}
