//! An empty index is filled from the footers of value files.
//!
//! Each footer is sorted. They are merged key by key, so that a key's pointers are put together here
//! and go into the index once, and so that the index grows at its end. Most of the time goes into the
//! index itself. So the keys are cut into ranges that hold about the same number of records, and each
//! range is a piece of work of its own; an index that gains by it takes several at once
//! ([`IndexFactory::run_all`](crate::index::IndexFactory::run_all)). Pieces share no key, so the outcome
//! does not depend on who runs when.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Desk, FinishedFile};
use crate::FileNumber;
use crate::index::{Index, IndexError, Piece, Pointer, pointer};
use crate::live::LiveMap;
use crate::manifest::State;
use crate::threshold::Thresholds;

/// Into how many ranges the keys are cut.
const PIECES: usize = 4;
/// Records merged between two words on how far it is.
const RECORDS_PER_PROGRESS: u64 = 4096;

/// Told how many records more are done.
pub(super) type Merged<'a> = dyn FnMut(u64) + Send + 'a;

/// Whether the index may have pointers of a key already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    OtherFiles,
}

/// Merges the records of some files, and inserts each key once.
pub(super) fn merge_files(
    desk: &mut Desk,
    files: &[FinishedFile],
    before: Before,
    merged: &mut Merged<'_>,
) -> Result<(), IndexError> {
    let merged = Mutex::new(merged);
    let filling = Filling {
        files,
        numbers: files.iter().map(|file| file.number).collect(),
        state: &desk.manifest.state,
        thresholds: Thresholds::new(&desk.manifest.state.thresholds),
        index: desk.index.base(),
        before,
        merged: &merged,
    };
    let parts = cut(files, PIECES);
    let mut outcomes: Vec<Result<Filled, IndexError>> =
        parts.iter().map(|_| Ok(Filled::default())).collect();
    let pieces = parts.iter().zip(&mut outcomes).map(|(part, outcome)| {
        let filling = &filling;
        Box::new(move || *outcome = filling.fill(part)) as Piece<'_>
    });
    desk.factory.run_all(pieces.collect());
    for outcome in outcomes {
        let filled = outcome?;
        desk.live.absorb(filled.live);
        for pointer in &filled.displaced {
            desk.live.clear(pointer);
        }
        for key in &filled.superseded {
            desk.superseded.note(key);
        }
    }
    Ok(())
}

/// Ranges of the records of each file, such that all records of a key are in one part.
fn cut(files: &[FinishedFile], parts: usize) -> Vec<Vec<Range<usize>>> {
    let Some(longest) = files.iter().max_by_key(|file| file.footer.len()) else {
        return Vec::new();
    };
    let mut starts = vec![0; files.len()];
    let mut out = Vec::new();
    for part in 1..=parts {
        let limit = match part == parts {
            true => None,
            false => longest.footer.get(longest.footer.len() * part / parts),
        };
        let ends: Vec<usize> = files
            .iter()
            .map(|file| match limit {
                Some(limit) => file.footer.partition_point(|entry| entry.key < limit.key),
                None => file.footer.len(),
            })
            .collect();
        out.push(starts.iter().zip(&ends).map(|(s, e)| *s..*e).collect());
        starts = ends;
    }
    out
}

/// What a piece has done to the live map.
#[derive(Default)]
struct Filled {
    live: LiveMap,
    /// Pointers into other files that its own displaced.
    displaced: Vec<Pointer>,
    /// Keys with more than one version.
    superseded: Vec<Vec<u8>>,
}

/// What all pieces share.
struct Filling<'a, 'b> {
    files: &'a [FinishedFile],
    numbers: BTreeSet<FileNumber>,
    state: &'a State,
    thresholds: Thresholds,
    index: &'a dyn Index,
    before: Before,
    merged: &'a Mutex<&'a mut Merged<'b>>,
}

impl Filling<'_, '_> {
    fn fill(&self, part: &[Range<usize>]) -> Result<Filled, IndexError> {
        let key_at = |file: usize, record: usize| {
            let entry = self.files[file].footer.get(record);
            let entry = entry.filter(|_| record < part[file].end);
            entry.map(|entry| Reverse((entry.key.as_slice(), file, record)))
        };
        let firsts = part.iter().enumerate();
        let mut heap: BinaryHeap<Reverse<(&[u8], usize, usize)>> = firsts
            .filter_map(|(file, range)| key_at(file, range.start))
            .collect();
        let mut filled = Filled::default();
        let mut list: Vec<Pointer> = Vec::new();
        let mut displaced = Vec::new();
        let mut records = 0;
        while let Some(Reverse((key, file, record))) = heap.pop() {
            let number = self.files[file].number;
            if !self.state.is_dropped(number, key) {
                let entry = &self.files[file].footer[record];
                let pointer = Pointer::to_record(number, record, entry);
                pointer::merge_lists(&mut list, &[pointer], &mut displaced);
            }
            records += 1;
            if records == RECORDS_PER_PROGRESS {
                self.tell(std::mem::take(&mut records));
            }
            heap.extend(key_at(file, record + 1));
            let is_last = heap.peek().is_none_or(|Reverse((next, _, _))| *next != key);
            if is_last && !list.is_empty() {
                self.put(key, std::mem::take(&mut list), &mut displaced, &mut filled)?;
            }
        }
        self.tell(records);
        Ok(filled)
    }

    /// Puts a key's pointers into the index.
    fn put(
        &self,
        key: &[u8],
        list: Vec<Pointer>,
        displaced: &mut Vec<Pointer>,
        filled: &mut Filled,
    ) -> Result<(), IndexError> {
        let threshold = self.thresholds.of(key);
        let is_superseded = match self.before {
            Before::Nothing => {
                let put = pointer::put_fresh(self.index, key, list, threshold, displaced)?;
                put.iter().for_each(|pointer| filled.live.set(pointer));
                put.len() > 1
            }
            Before::OtherFiles => {
                list.iter().for_each(|pointer| filled.live.set(pointer));
                pointer::merge(self.index, key, &list, threshold, displaced)?
            }
        };
        if is_superseded {
            filled.superseded.push(key.to_vec());
        }
        for pointer in displaced.drain(..) {
            match self.numbers.contains(&pointer.file) {
                true => filled.live.clear(&pointer),
                false => filled.displaced.push(pointer),
            }
        }
        Ok(())
    }

    fn tell(&self, records: u64) {
        let mut merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        (*merged)(records);
    }
}
