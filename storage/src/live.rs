//! Which records of the value files the index still points to.
//!
//! One bit per record, cleared when its pointer is displaced: so a reclaim knows what to rewrite
//! without asking the index about each record. The bits are derived from the index and are not stored:
//! after a start they are counted anew in the background, and until that is done nothing is reclaimed.

use std::collections::BTreeMap;

use crate::FileNumber;
use crate::index::Pointer;

/// The live records of one file.
#[derive(Clone, Debug, Default)]
struct LiveFile {
    bits: Vec<u64>,
    records: u32,
    deletes: u32,
    bytes: u64,
}

/// The live records of all files.
///
/// Invariant: `records` and `bytes` of a file are those of its set bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveMap {
    files: BTreeMap<FileNumber, LiveFile>,
}

impl LiveMap {
    /// The index points to this record. Saying so again is harmless.
    pub fn set(&mut self, pointer: &Pointer) {
        let file = self.files.entry(pointer.file).or_default();
        let (word, bit) = (pointer.ordinal as usize / 64, pointer.ordinal % 64);
        if file.bits.len() <= word {
            file.bits.resize(word + 1, 0);
        }
        if file.bits[word] & (1 << bit) == 0 {
            file.bits[word] |= 1 << bit;
            file.records += 1;
            file.deletes += u32::from(pointer.is_delete);
            file.bytes += u64::from(pointer.bytes);
        }
    }

    /// The index no longer points to this record.
    pub fn clear(&mut self, pointer: &Pointer) {
        let Some(file) = self.files.get_mut(&pointer.file) else {
            return;
        };
        let (word, bit) = (pointer.ordinal as usize / 64, pointer.ordinal % 64);
        if file
            .bits
            .get(word)
            .is_some_and(|bits| bits & (1 << bit) != 0)
        {
            file.bits[word] &= !(1 << bit);
            file.records -= 1;
            file.deletes -= u32::from(pointer.is_delete);
            file.bytes -= u64::from(pointer.bytes);
        }
    }

    /// Takes in the live records that were counted apart from these; no record is in both.
    pub fn absorb(&mut self, other: Self) {
        for (number, theirs) in other.files {
            let ours = self.files.entry(number).or_default();
            if ours.bits.len() < theirs.bits.len() {
                ours.bits.resize(theirs.bits.len(), 0);
            }
            for (ours, theirs) in ours.bits.iter_mut().zip(&theirs.bits) {
                assert_eq!(*ours & theirs, 0, "a record was counted twice");
                *ours |= theirs;
            }
            ours.records += theirs.records;
            ours.deletes += theirs.deletes;
            ours.bytes += theirs.bytes;
        }
    }

    pub fn is_live(&self, file: FileNumber, ordinal: u32) -> bool {
        self.files
            .get(&file)
            .and_then(|file| file.bits.get(ordinal as usize / 64))
            .is_some_and(|bits| bits & (1 << (ordinal % 64)) != 0)
    }

    pub fn remove(&mut self, file: FileNumber) {
        self.files.remove(&file);
    }

    /// Bytes of a file's live records.
    pub fn bytes(&self, file: FileNumber) -> u64 {
        self.files.get(&file).map_or(0, |file| file.bytes)
    }

    pub fn records(&self, file: FileNumber) -> u32 {
        self.files.get(&file).map_or(0, |file| file.records)
    }

    pub fn deletes(&self, file: FileNumber) -> u32 {
        self.files.get(&file).map_or(0, |file| file.deletes)
    }

    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}
