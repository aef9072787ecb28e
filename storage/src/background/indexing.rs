//! Putting the pointers of finished files into the index: sorted, one by one, a few at a step.
//!
//! A sled batch would apply them in random order and slow down every read from then on; sorted single
//! inserts touch each page once. Several files go in together, key by key, for the same reason.

use std::sync::Arc;

use super::{Desk, Trouble};
use crate::disk::DiskFile;
use crate::index::{Index, IndexError, Tree, Unmerged, pointer};
use crate::manifest::{Edit, FileState, ManifestError};
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

impl From<FinishedFile> for Unmerged {
    fn from(file: FinishedFile) -> Self {
        Self {
            number: file.number,
            footer: file.footer,
        }
    }
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
    Note(FileNumber),
    Done,
}

/// Files whose pointers are put into the index.
#[derive(Debug)]
pub(crate) struct Indexing {
    /// Oldest first, and of each its next record.
    files: Vec<(Arc<Unmerged>, usize)>,
    thresholds: Thresholds,
    phase: Phase,
}

impl Indexing {
    pub fn new(files: Vec<Arc<Unmerged>>, thresholds: Thresholds) -> Self {
        Self {
            files: files.into_iter().map(|file| (file, 0)).collect(),
            thresholds,
            phase: Phase::Insert,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match self.phase {
            Phase::Insert => {
                self.insert_some(desk)?;
            }
            Phase::Sync => {
                let Some(last) = self.files.last().map(|(file, _)| file.number) else {
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                };
                let files: Vec<_> = self
                    .files
                    .iter()
                    .map(|(file, _)| Arc::clone(file))
                    .collect();
                desk.index.merged(&files);
                self.phase = Phase::Note(stamp_complete(desk, last)?);
            }
            Phase::Note(complete_to) => {
                note_complete(desk, complete_to)?;
                self.phase = Phase::Done;
                return Ok(JobStep::Done);
            }
            Phase::Done => return Ok(JobStep::Done),
        }
        Ok(JobStep::Again)
    }

    /// The next key of all files.
    fn next_key(&self) -> Option<&[u8]> {
        let heads = self.files.iter().map(|(file, at)| file.footer.get(*at));
        heads.flatten().map(|entry| entry.key.as_slice()).min()
    }

    fn insert_some(&mut self, desk: &mut Desk) -> Result<(), IndexError> {
        let mut pointers = Vec::new();
        let mut displaced = Vec::new();
        for _ in 0..KEYS_PER_STEP {
            let Some(key) = self.next_key().map(<[u8]>::to_vec) else {
                self.phase = Phase::Sync;
                return Ok(());
            };
            pointers.clear();
            for (file, at) in &mut self.files {
                let is_dropped = desk.manifest.state.is_dropped(file.number, &key);
                while file.footer.get(*at).is_some_and(|entry| entry.key == key) {
                    if !is_dropped {
                        pointers.push(file.pointer(*at));
                    }
                    *at += 1;
                }
            }
            if pointers.is_empty() {
                continue;
            }
            let threshold = self.thresholds.of(&key);
            let base = desk.index.base();
            let is_superseded = pointer::merge(base, &key, &pointers, threshold, &mut displaced)?;
            if is_superseded {
                desk.superseded.note(&key);
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

/// Stamps the index, and syncs it, when all pointers of the file `merged` are in: how far it is complete.
pub(super) fn stamp_complete(desk: &Desk, merged: FileNumber) -> Result<FileNumber, IndexError> {
    let state = &desk.manifest.state;
    let complete_to = desk.index.complete_to(merged);
    let stamp = Stamp {
        store: state.store,
        generation: state.index.generation,
        complete_to: complete_to.max(state.index.complete_to),
    };
    stamp.write(desk.index.base())?;
    desk.index.sync()?;
    Ok(complete_to)
}

/// Notes in the manifest how far the index has all pointers. With no space to note it, they are merged
/// once more at the next start.
pub(super) fn note_complete(desk: &mut Desk, complete_to: FileNumber) -> Result<(), Trouble> {
    if complete_to <= desk.manifest.state.index.complete_to {
        return Ok(());
    }
    match desk.manifest.append(vec![Edit::IndexComplete(complete_to)]) {
        Ok(()) | Err(ManifestError::Full) => Ok(()),
        Err(ManifestError::Fatal(fatal)) => Err(Trouble::Fatal(fatal)),
    }
}

/// Keys of one piece of merging: a checkpoint must not wait long for its turn.
const KEYS_PER_MERGE: usize = 2048;

/// Puts files into the index that waited for it, a piece at a time.
#[derive(Debug)]
pub(crate) struct Merge {
    indexing: Indexing,
    pub finished: bool,
    steps: usize,
}

impl Merge {
    pub fn new(files: Vec<Arc<Unmerged>>, thresholds: Thresholds) -> Self {
        Self {
            indexing: Indexing::new(files, thresholds),
            finished: false,
            steps: 0,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        if self.steps == 0 && self.is_overtaken(desk) {
            self.finished = true;
            return Ok(JobStep::Done);
        }
        self.steps += 1;
        self.finished = self.indexing.step(desk)? == JobStep::Done;
        if self.finished || self.steps == KEYS_PER_MERGE / KEYS_PER_STEP {
            self.steps = 0;
            return Ok(JobStep::Done);
        }
        Ok(JobStep::Again)
    }

    /// A checkpoint with repairs puts everything into the index at once. Then these files may have been
    /// rewritten since, and must not be merged again.
    fn is_overtaken(&self, desk: &Desk) -> bool {
        let mut files = self.indexing.files.iter();
        self.indexing.phase == Phase::Insert
            && !files.all(|(file, _)| desk.index.waits(file.number))
    }
}
