//! Putting the pointers of finished files into the index: sorted, one by one, a few at a step.
//!
//! A sled batch would apply them in random order and slow down every read from then on; sorted single
//! inserts touch each page once.

use std::sync::Arc;

use super::{Desk, Trouble};
use crate::disk::DiskFile;
use crate::index::{Index, IndexError, Pointer, Tree, pointer};
use crate::manifest::{Edit, FileState};
use crate::threshold::Thresholds;
use crate::value::FooterEntry;
use crate::{FileNumber, JobStep};

/// A value file that is durable, named by the manifest or about to be.
#[derive(Debug)]
pub(crate) struct FinishedFile {
    pub number: FileNumber,
    pub state: FileState,
    pub file: Arc<dyn DiskFile>,
    pub footer: Vec<FooterEntry>,
}

/// What the index says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub store: u128,
    pub generation: u64,
    /// All pointers of files up to this one are in.
    pub complete_to: FileNumber,
}

const STAMP_KEY: &[u8] = b"stamp";
/// Raised when the form of the index's entries changes: an index of another format is rebuilt.
const FORMAT: u32 = 2;
const STAMP_BYTES: usize = 40;

impl Stamp {
    pub fn write(&self, index: &dyn Index) -> Result<(), IndexError> {
        let mut value = Vec::with_capacity(STAMP_BYTES);
        value.extend(self.store.to_le_bytes());
        value.extend(self.generation.to_le_bytes());
        value.extend(self.complete_to.0.to_le_bytes());
        value.extend(FORMAT.to_le_bytes());
        value.extend(crc32fast::hash(&value).to_le_bytes());
        index.insert(Tree::Stamp, STAMP_KEY, &value)
    }

    pub fn read(index: &dyn Index) -> Result<Option<Self>, IndexError> {
        let Some(value) = index.get(Tree::Stamp, STAMP_KEY)? else {
            return Ok(None);
        };
        let Ok(value) = <[u8; STAMP_BYTES]>::try_from(value.as_slice()) else {
            return Ok(None);
        };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&value[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (body, crc) = value.split_at(STAMP_BYTES - 4);
        if crc != crc32fast::hash(body).to_le_bytes() || body[32..] != FORMAT.to_le_bytes() {
            return Ok(None);
        }
        Ok(Some(Self {
            store: u128::from(word(0)) | u128::from(word(8)) << 64,
            generation: word(16),
            complete_to: FileNumber(word(24)),
        }))
    }
}

/// Keys per step.
const KEYS_PER_STEP: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Insert,
    Sync,
    Note,
    Done,
}

/// Files whose pointers are on their way into the index.
#[derive(Debug)]
pub(crate) struct Indexing {
    files: Vec<FinishedFile>,
    thresholds: Thresholds,
    /// The file at work, and its next record.
    file: usize,
    record: usize,
    phase: Phase,
}

/// The pointer to a footer's record.
pub(crate) fn pointer_to(file: FileNumber, ordinal: usize, entry: &FooterEntry) -> Pointer {
    Pointer {
        version: entry.version,
        file,
        ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
        offset: entry.offset,
        bytes: entry.bytes,
        is_delete: entry.is_delete,
    }
}

impl Indexing {
    pub fn new(files: Vec<FinishedFile>, thresholds: Thresholds) -> Self {
        Self {
            files,
            thresholds,
            file: 0,
            record: 0,
            phase: Phase::Insert,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match self.phase {
            Phase::Insert => {
                self.insert_some(desk)?;
            }
            Phase::Sync => {
                let Some(complete_to) = self.files.last().map(|file| file.number) else {
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                };
                let state = &desk.manifest.state;
                let stamp = Stamp {
                    store: state.store,
                    generation: state.index.generation,
                    complete_to: complete_to.max(state.index.complete_to),
                };
                stamp.write(&*desk.index)?;
                desk.index.sync()?;
                self.phase = Phase::Note;
            }
            Phase::Note => {
                if let Some(file) = self.files.last() {
                    // With no space to note it, the pointers are merged once more at the next start.
                    match desk.manifest.append(vec![Edit::IndexComplete(file.number)]) {
                        Ok(()) | Err(crate::manifest::ManifestError::Full) => {}
                        Err(crate::manifest::ManifestError::Fatal(fatal)) => {
                            return Err(Trouble::Fatal(fatal));
                        }
                    }
                }
                self.phase = Phase::Done;
                return Ok(JobStep::Done);
            }
            Phase::Done => return Ok(JobStep::Done),
        }
        Ok(JobStep::Again)
    }

    fn insert_some(&mut self, desk: &mut Desk) -> Result<(), IndexError> {
        let mut pointers = Vec::new();
        let mut displaced = Vec::new();
        for _ in 0..KEYS_PER_STEP {
            let Some(file) = self.files.get(self.file) else {
                self.phase = Phase::Sync;
                return Ok(());
            };
            let Some(first) = file.footer.get(self.record) else {
                self.file += 1;
                self.record = 0;
                continue;
            };
            pointers.clear();
            while let Some(entry) = file.footer.get(self.record).filter(|e| e.key == first.key) {
                pointers.push(pointer_to(file.number, self.record, entry));
                self.record += 1;
            }
            if desk.manifest.state.is_dropped(file.number, &first.key) {
                continue;
            }
            let threshold = self.thresholds.of(&first.key);
            let is_superseded = pointer::merge(
                &*desk.index,
                &first.key,
                &pointers,
                threshold,
                &mut displaced,
            )?;
            if is_superseded {
                desk.superseded.note(&first.key);
            }
            for pointer in &pointers {
                desk.live.set(pointer);
            }
            for pointer in displaced.drain(..) {
                desk.live.clear(&pointer);
            }
        }
        Ok(())
    }
}
