//! Reads: from memory if it can be, from the reader otherwise, and how the two are put together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use crate::index::Pointer;
use crate::memtable::Memtable;
use crate::reader::{Answer, DiskPage, OnDisk, Query, ReadWork, advance};
use crate::{
    Direction, Event, Fatal, KeyRange, Lookup, NewestVersion, ReadId, ReadResult, Scan, ScanPage,
    ScanRequest, ScanRow, ScanWhat, ShardId, Space, Version, WriteOp,
};

/// Queries that one job takes along.
const QUERIES_PER_JOB: usize = 512;

impl Store {
    /// The newest value of a key at or below a version.
    pub fn get(&mut self, space: Space, key: &[u8], at: Version) -> Lookup {
        match space {
            Space::Local(shard) => match self.locals.get(&shard).and_then(|rows| rows.get(key)) {
                Some((version, value)) => Lookup::Found {
                    version: *version,
                    value: value.clone(),
                },
                None => Lookup::Absent { deleted_at: None },
            },
            Space::User => {
                if let Some((version, op)) = self.in_memtables(key, at) {
                    self.memory_reads += 1;
                    return match op {
                        WriteOp::Put(value) => Lookup::Found { version, value },
                        WriteOp::Delete => Lookup::Absent {
                            deleted_at: Some(version),
                        },
                    };
                }
                // The cache has the newest version that is on disk; an older read must look further.
                if let Some((version, value)) = self.cache.get(key)
                    && version <= at
                {
                    self.memory_reads += 1;
                    return match value {
                        Some(value) => Lookup::Found { version, value },
                        None => Lookup::Absent {
                            deleted_at: (version > Version::ZERO).then_some(version),
                        },
                    };
                }
                let read = self.next_read();
                let key = Bytes::copy_from_slice(key);
                self.queries.push_back(Query::Get { read, key, at });
                Lookup::Pending(read)
            }
        }
    }

    fn next_read(&mut self) -> ReadId {
        self.disk_reads += 1;
        self.next_read += 1;
        ReadId(self.next_read)
    }

    /// The newest version at or below `at` in either memtable. The active one is the newer.
    pub(super) fn in_memtables(&self, key: &[u8], at: Version) -> Option<(Version, WriteOp)> {
        let active = self.active.user.get(key).and_then(|chain| chain.at(at));
        let row = active.or_else(|| {
            let frozen = &self.frozen.as_ref()?.memtable;
            frozen.user.get(key).and_then(|chain| chain.at(at))
        });
        row.map(|(version, op)| (version, op.clone()))
    }

    /// When a key last changed. Its value is not read.
    pub fn newest_version(&mut self, space: Space, key: &[u8]) -> NewestVersion {
        match space {
            Space::Local(shard) => {
                let row = self.locals.get(&shard).and_then(|rows| rows.get(key));
                NewestVersion::Known(row.map(|(version, _)| *version))
            }
            Space::User => {
                if let Some((version, _)) = self.in_memtables(key, Version::MAX) {
                    return NewestVersion::Known(Some(version));
                }
                if let Some((version, _)) = self.cache.get(key) {
                    return NewestVersion::Known((version > Version::ZERO).then_some(version));
                }
                let read = self.next_read();
                self.queries.push_back(Query::Newest {
                    read,
                    key: Bytes::copy_from_slice(key),
                });
                NewestVersion::Pending(read)
            }
        }
    }

    /// One page of a range. Of local rows the answer is always ready.
    pub fn scan(&mut self, request: ScanRequest) -> Scan {
        match request.space {
            Space::Local(shard) => Scan::Ready(self.local_page(shard, &request)),
            Space::User => {
                if request.range.is_empty() {
                    return Scan::Ready(ScanPage::default());
                }
                let read = self.next_read();
                self.queries.push_back(Query::Scan { read, request });
                Scan::Pending(read)
            }
        }
    }

    fn local_page(&self, shard: ShardId, request: &ScanRequest) -> ScanPage {
        let mut page = PageBuilder::new(request);
        let Some(rows) = self
            .locals
            .get(&shard)
            .filter(|_| !request.range.is_empty())
        else {
            return ScanPage::default();
        };
        let mut range = rows.range::<[u8], _>(request.range.bounds());
        loop {
            let next = match request.direction {
                Direction::Forward => range.next(),
                Direction::Reverse => range.next_back(),
            };
            let Some((key, (version, value))) = next else {
                return page.finish(None);
            };
            if page.push(key, *version, Some(value)).is_full() {
                return page.cut();
            }
        }
    }

    /// The next reads for the reader, if it is idle.
    pub(super) fn next_reads(&mut self) -> Option<ReadWork> {
        if self.reads_in_flight || self.queries.is_empty() {
            return None;
        }
        let mut queries = VecDeque::new();
        let mut held = VecDeque::new();
        while queries.len() < QUERIES_PER_JOB
            && let Some(query) = self.queries.pop_front()
        {
            match self.is_replacing(&query) {
                true => held.push_back(query),
                false => queries.push_back(query),
            }
        }
        held.append(&mut self.queries);
        self.queries = held;
        if queries.is_empty() {
            return None;
        }
        self.reads_in_flight = true;
        Some(ReadWork {
            index: Arc::clone(&self.index),
            files: self.files.clone(),
            queries,
            answers: Vec::new(),
            generation: self.generation,
        })
    }

    pub(super) fn reads_done(&mut self, work: ReadWork) -> Result<(), Fatal> {
        self.reads_in_flight = false;
        let stale = work.generation != self.generation;
        let mut again = VecDeque::new();
        for (query, answer) in work.answers {
            let (read, result) = match (query, answer) {
                (_, Answer::Broken(error)) => {
                    if let Some(desk) = &mut self.desk {
                        desk.distrust_index();
                    }
                    tracing::error!(%error, "the index is broken");
                    return Err(Fatal::new(format!("{error}; it will be rebuilt")));
                }
                (_, Answer::Fetched(fetched)) => {
                    self.fetched(fetched);
                    continue;
                }
                (Query::Chunk { transfer, .. }, Answer::Chunk(chunk)) => {
                    self.chunk_read(transfer, chunk);
                    continue;
                }
                // A snapshot began to take their place meanwhile: asked when it is in.
                (query, _) if self.is_replacing(&query) => {
                    again.push_back(query);
                    continue;
                }
                (Query::Recall { key, version }, Answer::Row { row, .. }) if !stale => {
                    self.recalled(key, version, row);
                    continue;
                }
                // Rows went from a memtable to the disk after the reader had looked there.
                (query, _) if stale => {
                    again.push_back(query);
                    continue;
                }
                (Query::Get { read, key, at }, Answer::Row { row, is_newest }) => {
                    (read, self.finish_get(&key, at, row, is_newest))
                }
                (Query::Newest { read, key }, Answer::Row { row, .. }) => {
                    (read, self.finish_newest(&key, &row))
                }
                (Query::Scan { read, request }, Answer::Page(page)) => {
                    (read, self.finish_scan(&request, page))
                }
                (
                    Query::Get { read, .. } | Query::Newest { read, .. } | Query::Scan { read, .. },
                    Answer::PageFailed | Answer::Row { .. } | Answer::Page(_) | Answer::Chunk(_),
                ) => (read, ReadResult::Failed),
                (
                    Query::Fetch(_) | Query::Chunk { .. } | Query::Recall { .. },
                    Answer::PageFailed | Answer::Row { .. } | Answer::Page(_) | Answer::Chunk(_),
                ) => continue,
            };
            self.finished_reads.push((read, result));
        }
        again.append(&mut self.queries);
        self.queries = again;
        Ok(())
    }

    fn finish_get(&mut self, key: &Bytes, at: Version, row: OnDisk, is_newest: bool) -> ReadResult {
        if let Some((version, op)) = self.in_memtables(key, at) {
            return match op {
                WriteOp::Put(value) => ReadResult::Found { version, value },
                WriteOp::Delete => ReadResult::Absent {
                    deleted_at: Some(version),
                },
            };
        }
        // What the files still have may not be what was newest.
        if self.lost_rows(key) {
            return ReadResult::Damaged(self.damaged(key, None));
        }
        // Only what is newest of all, and only while no memtable has the key, may be cached.
        let cacheable = is_newest && self.in_memtables(key, Version::MAX).is_none();
        match row {
            OnDisk::Value(version, value) => {
                if cacheable {
                    self.cache.insert(key, version, Some(value.clone()));
                }
                ReadResult::Found { version, value }
            }
            OnDisk::Deleted(version) => {
                if cacheable {
                    self.cache.insert(key, version, None);
                }
                ReadResult::Absent {
                    deleted_at: Some(version),
                }
            }
            OnDisk::Nothing => {
                if cacheable {
                    self.cache.insert(key, Version::ZERO, None);
                }
                ReadResult::Absent { deleted_at: None }
            }
            OnDisk::Damaged(pointer) => match self.repaired(key, pointer) {
                Some((version, WriteOp::Put(value))) => ReadResult::Found { version, value },
                Some((version, WriteOp::Delete)) => ReadResult::Absent {
                    deleted_at: Some(version),
                },
                None => ReadResult::Damaged(self.damaged(key, pointer)),
            },
            OnDisk::Failed | OnDisk::Key(..) => ReadResult::Failed,
        }
    }

    fn finish_newest(&mut self, key: &Bytes, row: &OnDisk) -> ReadResult {
        if let Some((version, _)) = self.in_memtables(key, Version::MAX) {
            return ReadResult::Newest(Some(version));
        }
        if self.lost_rows(key) {
            return ReadResult::Damaged(self.damaged(key, None));
        }
        match row {
            OnDisk::Key(version, _) | OnDisk::Deleted(version) | OnDisk::Value(version, _) => {
                ReadResult::Newest(Some(*version))
            }
            OnDisk::Nothing => ReadResult::Newest(None),
            OnDisk::Damaged(pointer) => ReadResult::Damaged(self.damaged(key, *pointer)),
            OnDisk::Failed => ReadResult::Failed,
        }
    }

    fn repaired(&self, key: &Bytes, pointer: Option<Pointer>) -> Option<(Version, WriteOp)> {
        let version = pointer?.version;
        let op = self.damage.repaired(key, version)?;
        Some((version, op.clone()))
    }

    /// Puts the memtables over a page of the files.
    fn finish_scan(&mut self, request: &ScanRequest, page: DiskPage) -> ReadResult {
        // What the page covers: the range without its rest.
        let mut covered = request.range.clone();
        if let Some(rest) = &page.rest {
            match request.direction {
                Direction::Forward => covered.end = Some(rest.start.clone()),
                Direction::Reverse => covered.start = rest.end.clone().unwrap_or_default(),
            }
        }
        if self.lost_rows_in(&covered) {
            let key = Bytes::copy_from_slice(&covered.start);
            return ReadResult::Damaged(self.damaged(&key, None));
        }
        let mut overlay: BTreeMap<&Bytes, (Version, &WriteOp)> = BTreeMap::new();
        let memtables: [Option<&Memtable>; 2] = [
            self.frozen.as_ref().map(|frozen| &*frozen.memtable),
            Some(&self.active),
        ];
        let from_disk: BTreeMap<Bytes, OnDisk> = page.rows.into_iter().collect();
        for memtable in memtables.into_iter().flatten() {
            for (key, chain) in memtable.user_range(&covered) {
                if let Some(row) = chain.at(request.at) {
                    overlay.insert(key, row);
                }
            }
        }
        let mut keys: Vec<&Bytes> = overlay.keys().copied().chain(from_disk.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        match request.direction {
            Direction::Forward => {}
            Direction::Reverse => keys.reverse(),
        }
        let mut builder = PageBuilder::new(request);
        let mut damaged = None;
        for key in keys {
            let state = match (overlay.get(key), from_disk.get(key)) {
                (Some((version, WriteOp::Put(value))), _) => {
                    builder.push(key, *version, Some(value))
                }
                (Some((version, WriteOp::Delete)), _) => builder.push(key, *version, None),
                (None, Some(OnDisk::Value(version, value))) => {
                    builder.push(key, *version, Some(value))
                }
                (None, Some(OnDisk::Key(version, bytes))) => {
                    builder.push_key(key, *version, *bytes)
                }
                (None, Some(OnDisk::Deleted(version))) => builder.push(key, *version, None),
                (None, Some(OnDisk::Damaged(pointer))) => match self.repaired(key, *pointer) {
                    Some((version, WriteOp::Put(value))) => {
                        builder.push(key, version, Some(&value))
                    }
                    Some((version, WriteOp::Delete)) => builder.push(key, version, None),
                    None => {
                        damaged = Some((key.clone(), *pointer));
                        break;
                    }
                },
                (None, Some(OnDisk::Nothing | OnDisk::Failed) | None) => PageState::Room,
            };
            if state.is_full() {
                return ReadResult::Page(builder.cut());
            }
        }
        match damaged {
            Some((key, pointer)) => ReadResult::Damaged(self.damaged(&key, pointer)),
            None => ReadResult::Page(builder.finish(page.rest)),
        }
    }

    fn lost_rows(&self, key: &[u8]) -> bool {
        !self.schedule.lost_ranges.is_empty()
            && self
                .schedule
                .lost_ranges
                .iter()
                .any(|lost| lost.contains(key))
    }

    fn lost_rows_in(&self, range: &KeyRange) -> bool {
        self.schedule
            .lost_ranges
            .iter()
            .any(|lost| lost.overlaps(range))
    }

    /// Forgets everything that reads may have seen of rows that are gone now.
    pub(super) fn rows_moved(&mut self) {
        self.generation += 1;
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    Room,
    Full,
}

impl PageState {
    fn is_full(self) -> bool {
        self == Self::Full
    }
}

/// Rows of a page, up to its bounds.
struct PageBuilder<'a> {
    request: &'a ScanRequest,
    rows: Vec<ScanRow>,
    bytes: usize,
    /// What of the range is left behind the last key looked at.
    left: KeyRange,
}

impl<'a> PageBuilder<'a> {
    fn new(request: &'a ScanRequest) -> Self {
        Self {
            request,
            rows: Vec::new(),
            bytes: 0,
            left: request.range.clone(),
        }
    }

    /// Adds a row whose value is at hand; without one it is a deleted row.
    fn push(&mut self, key: &Bytes, version: Version, value: Option<&Bytes>) -> PageState {
        advance(&mut self.left, key, self.request.direction);
        let deleted = value.is_none();
        let bytes = key.len() + value.map_or(0, Bytes::len);
        let value = match self.request.what {
            ScanWhat::Values if deleted => return PageState::Room,
            ScanWhat::Keys if deleted => return PageState::Room,
            ScanWhat::Values => value.cloned(),
            ScanWhat::Keys | ScanWhat::Changes => None,
        };
        self.add(ScanRow {
            key: key.clone(),
            version,
            value,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            deleted,
        })
    }

    /// Adds a row that has a value which nobody asked for.
    fn push_key(&mut self, key: &Bytes, version: Version, bytes: u32) -> PageState {
        advance(&mut self.left, key, self.request.direction);
        self.add(ScanRow {
            key: key.clone(),
            version,
            value: None,
            bytes,
            deleted: false,
        })
    }

    fn add(&mut self, row: ScanRow) -> PageState {
        self.bytes += row.key.len() + row.value.as_ref().map_or(0, Bytes::len);
        self.rows.push(row);
        let full =
            self.rows.len() >= self.request.rows_max.max(1) || self.bytes >= self.request.bytes_max;
        if full {
            PageState::Full
        } else {
            PageState::Room
        }
    }

    /// The page ends with its last row.
    fn cut(self) -> ScanPage {
        let rest = Some(self.left).filter(|left| !left.is_empty());
        ScanPage {
            rows: self.rows,
            rest,
        }
    }

    /// The page ends where the walk did.
    fn finish(self, rest: Option<KeyRange>) -> ScanPage {
        ScanPage {
            rows: self.rows,
            rest,
        }
    }
}
