//! The store of the world: all versions in memory, and answers that come late when the seed says so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_storage::{
    Direction, EntryId, KeyRange, Lookup, Pressure, ReadId, ReadResult, Scan, ScanPage,
    ScanRequest, ScanRow, ScanWhat, ShardId, Space, Version, Write, WriteOp,
};

use crate::State;

/// One row's versions; `None` is a deletion.
type Versions = BTreeMap<Version, Option<Bytes>>;

/// A store in memory.
#[derive(Clone, Debug)]
pub struct MemoryState {
    rows: BTreeMap<(Space, Bytes), Versions>,
    applied: BTreeMap<ShardId, EntryId>,
    late: Option<SmallRng>,
    next_read: u64,
    waiting: Vec<(ReadId, Waiting)>,
    pub disk_full: bool,
    pub damaged: BTreeSet<Bytes>,
}

#[derive(Clone, Debug)]
enum Waiting {
    Get(Space, Bytes, Version),
    Scan(ScanRequest),
}

impl MemoryState {
    /// A store that answers at once, or, with a seed, often late.
    pub fn new(late: Option<u64>) -> MemoryState {
        MemoryState {
            rows: BTreeMap::new(),
            applied: BTreeMap::new(),
            late: late.map(SmallRng::seed_from_u64),
            next_read: 0,
            waiting: Vec::new(),
            disk_full: false,
            damaged: BTreeSet::new(),
        }
    }

    fn is_late(&mut self) -> bool {
        self.late.as_mut().is_some_and(|rng| rng.random_ratio(1, 2))
    }

    fn wait(&mut self, waiting: Waiting) -> ReadId {
        self.next_read += 1;
        let id = ReadId(self.next_read);
        self.waiting.push((id, waiting));
        id
    }

    /// Answers one read that is late, the `pick`th.
    pub fn answer(&mut self, pick: usize) -> Option<(ReadId, ReadResult)> {
        if self.waiting.is_empty() {
            return None;
        }
        let (id, waiting) = self.waiting.remove(pick % self.waiting.len());
        let result = match waiting {
            Waiting::Get(space, key, at) => match self.value(space, &key, at) {
                _ if self.damaged.contains(&key) => {
                    ReadResult::Damaged(synod_storage::DamagedRow {
                        space,
                        key,
                        version: None,
                    })
                }
                Some((version, Some(value))) => ReadResult::Found { version, value },
                Some((version, None)) => ReadResult::Absent {
                    deleted_at: Some(version),
                },
                None => ReadResult::Absent { deleted_at: None },
            },
            Waiting::Scan(request) => ReadResult::Page(self.page(&request)),
        };
        Some((id, result))
    }

    fn value(&self, space: Space, key: &[u8], at: Version) -> Option<(Version, Option<Bytes>)> {
        let versions = self.rows.get(&(space, Bytes::copy_from_slice(key)))?;
        versions
            .range(..=at)
            .next_back()
            .map(|(version, value)| (*version, value.clone()))
    }

    fn page(&self, request: &ScanRequest) -> ScanPage {
        let start = (request.space, Bytes::copy_from_slice(&request.range.start));
        let mut page = ScanPage::default();
        let mut bytes = 0;
        let rows = self
            .rows
            .range((Bound::Included(start), Bound::Unbounded))
            .take_while(|((space, key), _)| *space == request.space && request.range.contains(key));
        let rows: Vec<_> = match request.direction {
            Direction::Forward => rows.collect(),
            Direction::Reverse => rows.collect::<Vec<_>>().into_iter().rev().collect(),
        };
        for ((_, key), versions) in rows {
            let Some((version, value)) = versions.range(..=request.at).next_back() else {
                continue;
            };
            if value.is_none() && request.what != ScanWhat::Changes {
                continue;
            }
            if page.rows.len() == request.rows_max || bytes >= request.bytes_max {
                page.rest = Some(match request.direction {
                    Direction::Forward => KeyRange {
                        start: key.to_vec(),
                        end: request.range.end.clone(),
                    },
                    Direction::Reverse => {
                        let end = [&key[..], &[0]].concat();
                        KeyRange {
                            start: request.range.start.clone(),
                            end: Some(end),
                        }
                    }
                });
                return page;
            }
            let row_bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            bytes += row_bytes;
            page.rows.push(ScanRow {
                bytes: u32::try_from(row_bytes).unwrap(),
                key: key.clone(),
                version: *version,
                value: value.clone().filter(|_| request.what == ScanWhat::Values),
                deleted: value.is_none(),
            });
        }
        page
    }

    /// Whoever waits for an answer is gone.
    pub fn forget_reads(&mut self) {
        self.waiting.clear();
    }

    /// All rows, for comparing replicas.
    pub fn dump(&self) -> Vec<String> {
        self.rows
            .iter()
            .map(|(row, versions)| format!("{row:?} {versions:?}"))
            .collect()
    }
}

impl State for MemoryState {
    fn get(&mut self, space: Space, key: &[u8], at: Version) -> Lookup {
        if space == Space::User && self.is_late() {
            return Lookup::Pending(self.wait(Waiting::Get(
                space,
                Bytes::copy_from_slice(key),
                at,
            )));
        }
        match self.value(space, key, at) {
            Some((version, Some(value))) => Lookup::Found { version, value },
            Some((version, None)) => Lookup::Absent {
                deleted_at: Some(version),
            },
            None => Lookup::Absent { deleted_at: None },
        }
    }

    fn scan(&mut self, request: ScanRequest) -> Scan {
        match request.space == Space::User && self.is_late() {
            true => Scan::Pending(self.wait(Waiting::Scan(request))),
            false => Scan::Ready(self.page(&request)),
        }
    }

    fn apply(&mut self, shard: ShardId, id: EntryId, writes: &[Write]) {
        let applied = self.applied.entry(shard).or_insert(EntryId::ZERO);
        assert_eq!(applied.index + 1, id.index, "entries are applied in order");
        *applied = id;
        for write in writes {
            let versions = self
                .rows
                .entry((write.space, write.key.clone()))
                .or_default();
            let value = match &write.op {
                WriteOp::Put(value) => Some(value.clone()),
                WriteOp::Delete => None,
            };
            if let Space::Local(_) = write.space {
                versions.clear();
            }
            if let Some((newest, _)) = versions.last_key_value() {
                assert!(*newest < write.version, "a key's versions grow");
            }
            versions.insert(write.version, value);
        }
    }

    fn set_threshold(&mut self, _: ShardId, range: KeyRange, threshold: Version) {
        let in_range = |space: &Space, key: &Bytes| *space == Space::User && range.contains(key);
        for ((space, key), versions) in &mut self.rows {
            if in_range(space, key) {
                let newest = versions.range(..=threshold).next_back();
                let newest = newest.map_or(Version::ZERO, |(version, _)| *version);
                versions.retain(|version, _| *version >= newest);
            }
        }
    }

    fn pressure(&self) -> Pressure {
        match self.disk_full {
            true => Pressure::DiskFull { available_bytes: 0 },
            false => Pressure::Normal,
        }
    }
}
