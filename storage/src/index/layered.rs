//! The index as its readers see it: what is in it, under what is still on its way.
//!
//! A checkpoint's pointers are not put into the index at once. While the versions that they displace
//! can still be asked for, an entry would have to hold both, which is twice as long and keeps the dead
//! record's space; and few pointers at a time fall on each of the index's pages, which costs a read and
//! a rewrite of each. So files wait here for a while, and then go in together, sorted. Until then their
//! footers, which are at hand and sorted, are searched along with the index.
//!
//! Invariants: a file is here from its checkpoint's commit until all its pointers are in the index, so
//! that a reader, who looks here first, misses none. What is here and in the index is the same pointer
//! twice. No file here is reclaimed. Only whole files leave.

use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, PoisonError, RwLock};

use super::pointer::{self, IndexKey, Pointer, Pointers};
use super::{Index, IndexError, Tree, Visit};
use crate::value::FooterEntry;
use crate::{Direction, FileNumber};

/// A value file whose pointers are on their way.
#[derive(Debug)]
pub(crate) struct Unmerged {
    pub number: FileNumber,
    /// Its records, sorted by key.
    pub footer: Vec<FooterEntry>,
}

impl Unmerged {
    /// The records of a key.
    pub fn records(&self, key: &[u8]) -> Range<usize> {
        let start = self
            .footer
            .partition_point(|entry| entry.key.as_slice() < key);
        let same = self.footer[start..]
            .iter()
            .take_while(|entry| entry.key == key);
        start..start + same.count()
    }

    pub fn pointer(&self, record: usize) -> Pointer {
        Pointer::to_record(self.number, record, &self.footer[record])
    }
}

type Files = Arc<Vec<Arc<Unmerged>>>;

/// An index, and the files that are not merged into it yet.
#[derive(Debug)]
pub(crate) struct Layered {
    base: Arc<dyn Index>,
    /// Oldest first.
    unmerged: RwLock<Files>,
}

impl Layered {
    pub fn new(base: Arc<dyn Index>) -> Self {
        Self {
            base,
            unmerged: RwLock::default(),
        }
    }

    /// The index without what is on its way: what merging writes to.
    pub fn base(&self) -> &dyn Index {
        &*self.base
    }

    /// Files on their way, oldest first.
    pub fn unmerged(&self) -> Files {
        let files = self.unmerged.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&files)
    }

    /// Whether a file is on its way.
    pub fn waits(&self, number: FileNumber) -> bool {
        self.unmerged().iter().any(|file| file.number == number)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Unmerged>>)) {
        let mut files = self
            .unmerged
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut next = files.to_vec();
        change(&mut next);
        *files = Arc::new(next);
    }

    /// From now on readers find this file's records.
    pub fn add(&self, file: Unmerged) {
        self.change(|files| {
            assert!(
                files.last().is_none_or(|last| last.number < file.number),
                "files come in the order of their numbers"
            );
            files.push(Arc::new(file));
        });
    }

    /// These files' pointers are all in the index.
    pub fn merged(&self, done: &[Arc<Unmerged>]) {
        self.change(|files| {
            files.retain(|file| done.iter().all(|done| done.number != file.number))
        });
    }

    /// How far the index has all pointers, if it has those of a file `merged` and of all before it that
    /// are not on their way.
    pub fn complete_to(&self, merged: FileNumber) -> FileNumber {
        match self.unmerged().first() {
            Some(first) => FileNumber(merged.0.min(first.number.0 - 1)),
            None => merged,
        }
    }
}

/// The pointers that files have of a key.
fn pointers_in(files: &[Arc<Unmerged>], key: &[u8]) -> Vec<Pointer> {
    let of_file = |file: &Arc<Unmerged>| -> Vec<Pointer> {
        let records = file.records(key);
        records.map(|record| file.pointer(record)).collect()
    };
    files.iter().flat_map(of_file).collect()
}

/// An entry, with pointers over it. Of a shard's own rows nobody may see an older state, so there is only
/// the newest, as merging leaves it.
fn overlaid(entry: Option<&[u8]>, over: &[Pointer], key: &[u8]) -> Result<Vec<u8>, IndexError> {
    let mut known = match entry {
        Some(bytes) => Pointers::decode(bytes)?,
        None => Pointers::default(),
    };
    pointer::merge_lists(&mut known.list, over, &mut Vec::new());
    if let Some(IndexKey::Local { .. }) = IndexKey::decode(key) {
        known.list.truncate(1);
    }
    Ok(known.encode())
}

impl Index for Layered {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match tree {
            Tree::History | Tree::Stamp => return self.base.get(tree, key),
            Tree::Newest => {}
        }
        // First: what leaves here meanwhile is in the index by then.
        let over = pointers_in(&self.unmerged(), key);
        let entry = self.base.get(tree, key)?;
        if over.is_empty() {
            return Ok(entry);
        }
        overlaid(entry.as_deref(), &over, key).map(Some)
    }

    fn insert(&self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        self.base.insert(tree, key, value)
    }

    fn remove(&self, tree: Tree, key: &[u8]) -> Result<(), IndexError> {
        self.base.remove(tree, key)
    }

    fn range(
        &self,
        tree: Tree,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        match tree {
            Tree::History | Tree::Stamp => {
                return self.base.range(tree, start, end, direction, visit);
            }
            Tree::Newest => {}
        }
        let files = self.unmerged();
        if files.is_empty() || end.is_some_and(|end| end <= start) {
            return self.base.range(tree, start, end, direction, visit);
        }
        let mut walk = Walk::new(&files, start, end, direction);
        let mut outcome = Ok(ControlFlow::Continue(()));
        self.base
            .range(tree, start, end, direction, &mut |key, value| {
                outcome = walk.up_to(Some((key, value)), visit);
                match outcome {
                    Ok(flow) => flow,
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
        if outcome?.is_continue() {
            // The index is at its end, the files may have more.
            let _ = walk.up_to(None, visit)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.base.sync()
    }
}

/// A walk through the files, abreast of one through the index.
struct Walk<'a> {
    files: &'a [Arc<Unmerged>],
    /// What each file has left of the range.
    left: Vec<Range<usize>>,
    direction: Direction,
}

impl<'a> Walk<'a> {
    fn new(
        files: &'a [Arc<Unmerged>],
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Self {
        let part = |file: &Arc<Unmerged>| {
            let below = |bound: &[u8]| {
                let footer = &file.footer;
                footer.partition_point(|entry| entry.key.as_slice() < bound)
            };
            below(start)..end.map_or(file.footer.len(), below)
        };
        Self {
            files,
            left: files.iter().map(part).collect(),
            direction,
        }
    }

    /// The next key of the files.
    fn peek(&self) -> Option<&'a [u8]> {
        let heads = self
            .files
            .iter()
            .zip(&self.left)
            .filter_map(|(file, left)| {
                let at = match self.direction {
                    Direction::Forward => left.start,
                    Direction::Reverse => left.end.checked_sub(1)?,
                };
                let entry = file.footer.get(at).filter(|_| left.start < left.end);
                entry.map(|entry| entry.key.as_slice())
            });
        match self.direction {
            Direction::Forward => heads.min(),
            Direction::Reverse => heads.max(),
        }
    }

    /// Takes a key's records off what is left.
    fn pass(&mut self, key: &[u8]) {
        for (file, left) in self.files.iter().zip(&mut self.left) {
            let has = |at: usize| file.footer.get(at).is_some_and(|entry| entry.key == key);
            match self.direction {
                Direction::Forward => {
                    while left.start < left.end && has(left.start) {
                        left.start += 1;
                    }
                }
                Direction::Reverse => {
                    while left.start < left.end && has(left.end - 1) {
                        left.end -= 1;
                    }
                }
            }
        }
    }

    /// Visits the files' keys that come before an entry of the index, then that one; without an entry,
    /// all that are left.
    fn up_to(
        &mut self,
        entry: Option<(&[u8], &[u8])>,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, IndexError> {
        while let Some(key) = self.peek() {
            let order = match (entry, self.direction) {
                (None, _) => Ordering::Less,
                (Some((at, _)), Direction::Forward) => key.cmp(at),
                (Some((at, _)), Direction::Reverse) => at.cmp(key),
            };
            let under = match order {
                Ordering::Less => None,
                Ordering::Equal => entry.map(|(_, value)| value),
                Ordering::Greater => break,
            };
            let value = overlaid(under, &pointers_in(self.files, key), key)?;
            self.pass(key);
            if visit(key, &value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if order == Ordering::Equal {
                return Ok(ControlFlow::Continue(()));
            }
        }
        Ok(match entry {
            Some((key, value)) => visit(key, value),
            None => ControlFlow::Continue(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;
    use crate::index::memory;
    use proptest::prelude::*;

    fn entry(key: u8, version: u64) -> FooterEntry {
        FooterEntry {
            key: vec![key],
            version: Version(version),
            offset: u32::try_from(version).unwrap_or(0),
            bytes: 1,
            is_delete: version.is_multiple_of(7),
        }
    }

    /// Files of some keys and versions; how many of them are merged; where a walk begins and ends.
    type Case = (Vec<Vec<(u8, u64)>>, usize, u8, Option<u8>);

    fn cases() -> impl Strategy<Value = Case> {
        let file = prop::collection::vec((0..12u8, 1..12u64), 0..8);
        let files = prop::collection::vec(file, 0..6);
        (files, 0..6usize, 0..14u8, prop::option::of(0..14u8))
    }

    fn walked(
        index: &dyn Index,
        start: u8,
        end: Option<u8>,
        direction: Direction,
    ) -> Vec<(Vec<u8>, Pointers)> {
        let mut out = Vec::new();
        let end = end.map(|end| vec![end]);
        index
            .range(
                Tree::Newest,
                &[start],
                end.as_deref(),
                direction,
                &mut |key, value| {
                    out.push((key.to_vec(), Pointers::decode(value).expect("an entry")));
                    ControlFlow::Continue(())
                },
            )
            .expect("an index in memory");
        out
    }

    proptest! {
        /// However many files are still on their way, readers see the same.
        #[test]
        fn files_on_their_way_look_as_if_they_were_merged((files, merged, start, end) in cases()) {
            let layered = Layered::new(memory::empty());
            let all = memory::empty();
            let mut number = 0;
            for records in &files {
                number += 1;
                let mut footer: Vec<_> = records.iter().map(|(key, version)| entry(*key, *version)).collect();
                footer.sort_by(|a, b| (&a.key, a.version).cmp(&(&b.key, b.version)));
                footer.dedup_by(|a, b| (&a.key, a.version) == (&b.key, b.version));
                let file = Unmerged { number: FileNumber(number), footer };
                for record in 0..file.footer.len() {
                    let (key, pointer) = (&file.footer[record].key, file.pointer(record));
                    pointer::merge(&*all, key, &[pointer], Version::ZERO, &mut Vec::new()).expect("memory");
                }
                layered.add(file);
            }
            let done: Vec<_> = layered.unmerged().iter().take(merged).cloned().collect();
            for file in &done {
                for record in 0..file.footer.len() {
                    let (key, pointer) = (&file.footer[record].key, file.pointer(record));
                    pointer::merge(layered.base(), key, &[pointer], Version::ZERO, &mut Vec::new()).expect("memory");
                }
            }
            for is_gone in [false, true] {
                if is_gone {
                    layered.merged(&done);
                    prop_assert_eq!(layered.unmerged().len(), files.len() - done.len());
                }
                for key in 0..12u8 {
                    let get = |index: &dyn Index| pointer::get(index, &[key]).expect("memory");
                    prop_assert_eq!(get(&layered), get(&*all));
                }
                for direction in [Direction::Forward, Direction::Reverse] {
                    prop_assert_eq!(
                        walked(&layered, start, end, direction),
                        walked(&*all, start, end, direction)
                    );
                }
            }
        }
    }

    #[test]
    fn the_index_is_complete_up_to_the_first_file_on_its_way() {
        let layered = Layered::new(memory::empty());
        assert_eq!(layered.complete_to(FileNumber(9)), FileNumber(9));
        layered.add(Unmerged {
            number: FileNumber(5),
            footer: Vec::new(),
        });
        layered.add(Unmerged {
            number: FileNumber(7),
            footer: Vec::new(),
        });
        assert_eq!(layered.complete_to(FileNumber(9)), FileNumber(4));
        assert_eq!(layered.complete_to(FileNumber(3)), FileNumber(3));
        let first = layered.unmerged()[0].clone();
        layered.merged(&[first]);
        assert_eq!(layered.complete_to(FileNumber(9)), FileNumber(6));
    }
}
