//! Rewriting what is left of files that are mostly dead.
//!
//! The live records of a few files are copied, sorted, into a new one; one record of the manifest
//! takes the new file in and the old ones out; then the pointers follow. A rewritten record keeps its
//! version, so a crash in between leaves two copies of the same, which merging puts right.
//!
//! A *deep* reclaim also drops deletes. A delete may go only when the index has no older version of its
//! key, which a reader may still ask for, and when no other file can hold an older record of it, or a
//! rebuild of the index would bring that one back; what each file says of its oldest record decides it.
//! To make that line rise, a deep reclaim asks the index of each record whether it is the newest of its
//! key: then it cannot be what any delete hides, and counts as new.

use std::collections::VecDeque;
use std::sync::Arc;

use super::indexing::{note_complete, stamp_complete};
use super::{Desk, FinishedFile, Trouble, disk_trouble};
use crate::index::{Pointer, pointer};
use crate::manifest::Edit;
use crate::value::{
    FooterEntry, ReadError, VALUES_DIR, ValueWriter, read_footer, read_record, value_path,
};
use crate::{FileNumber, JobStep};

/// Index entries changed at a step.
const KEYS_PER_STEP: usize = 128;

/// Whether deletes may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Only copy.
    Plain,
    /// Look at every record, to drop deletes and to make the copies count as new.
    Deep,
}

#[derive(Debug)]
enum Phase {
    Load(VecDeque<FileNumber>),
    Copy,
    SyncDir,
    Commit,
    Relocate(usize),
    Note,
    Remove,
    Done,
}

/// A live record on its way.
#[derive(Debug)]
struct Move {
    entry: FooterEntry,
    from: FileNumber,
    ordinal: u32,
    /// Where it went; `None` for a delete that nobody needs any more.
    to: Option<Pointer>,
}

/// A reclaim under way.
#[derive(Debug)]
pub(crate) struct Reclaim {
    pub sources: Vec<FileNumber>,
    /// A record that cannot be read: its file cannot be reclaimed before it is repaired.
    pub damaged: Option<(FileNumber, Vec<u8>, Pointer)>,
    /// A file that no longer lists all its records: it stays, the index still finds them.
    pub unlisted: Option<FileNumber>,
    depth: Depth,
    moves: Vec<Move>,
    next: usize,
    writer: Option<ValueWriter>,
    finished: Option<FinishedFile>,
    phase: Phase,
}

impl Reclaim {
    pub fn new(sources: Vec<FileNumber>, depth: Depth) -> Self {
        let load = sources.iter().copied().collect();
        Self {
            sources,
            damaged: None,
            unlisted: None,
            depth,
            moves: Vec::new(),
            next: 0,
            writer: None,
            finished: None,
            phase: Phase::Load(load),
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let step = self.advance(desk);
        if let Err(Trouble::Full) = &step {
            self.give_up(desk);
        }
        step
    }

    fn give_up(&mut self, desk: &Desk) {
        let written = self.writer.take().map(|writer| writer.path().to_owned());
        let finished = self.finished.take().map(|file| value_path(file.number));
        for path in written.into_iter().chain(finished) {
            let _ = desk.disk.remove(&path);
        }
    }

    fn advance(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match &mut self.phase {
            Phase::Load(left) => match left.pop_front() {
                Some(number) => self.load(desk, number)?,
                None => {
                    self.moves.sort_by(|a, b| {
                        (&a.entry.key, b.entry.version).cmp(&(&b.entry.key, a.entry.version))
                    });
                    self.phase = Phase::Copy;
                }
            },
            Phase::Copy => {
                if self.copy(desk)? == JobStep::Done {
                    if self.damaged.is_some() {
                        self.give_up(desk);
                        self.phase = Phase::Done;
                        return Ok(JobStep::Done);
                    }
                    self.finish()?;
                    self.phase = Phase::SyncDir;
                }
            }
            Phase::SyncDir => {
                if self.finished.is_some() {
                    desk.disk
                        .sync_dir(VALUES_DIR)
                        .map_err(disk_trouble("cannot sync the directory of value files"))?;
                }
                self.phase = Phase::Commit;
            }
            Phase::Commit => {
                let added = self
                    .finished
                    .iter()
                    .map(|file| (file.number, file.state.clone()));
                let edit = Edit::Reclaimed {
                    removed: self.sources.clone(),
                    added: added.collect(),
                };
                desk.manifest.append(vec![edit])?;
                if let Some(file) = &self.finished {
                    desk.files.insert(file.number, Arc::clone(&file.file));
                }
                self.phase = Phase::Relocate(0);
            }
            Phase::Relocate(from) => {
                let from = *from;
                let to = (from + KEYS_PER_STEP).min(self.moves.len());
                for moved in &self.moves[from..to] {
                    let source = (moved.from, moved.ordinal);
                    let done = pointer::relocate(&*desk.index, &moved.entry.key, source, moved.to)?;
                    if let Some(pointer) = moved.to.filter(|_| done) {
                        desk.live.set(&pointer);
                    }
                }
                self.phase = if to == self.moves.len() {
                    Phase::Note
                } else {
                    Phase::Relocate(to)
                };
            }
            Phase::Note => {
                if let Some(file) = &self.finished {
                    let complete_to = stamp_complete(desk, file.number)?;
                    note_complete(desk, complete_to)?;
                }
                self.phase = Phase::Remove;
            }
            Phase::Remove => {
                for number in &self.sources {
                    desk.files.remove(*number);
                    desk.live.remove(*number);
                    // A file that stays behind is removed at the next start.
                    if let Err(error) = desk.disk.remove(&value_path(*number)) {
                        tracing::warn!(%number, %error, "cannot remove a value file");
                    }
                }
                self.phase = Phase::Done;
                return Ok(JobStep::Done);
            }
            Phase::Done => return Ok(JobStep::Done),
        }
        Ok(JobStep::Again)
    }

    fn load(&mut self, desk: &Desk, number: FileNumber) -> Result<(), Trouble> {
        let state = &desk.manifest.state;
        let (Some(known), Some(file)) = (state.files.get(&number), desk.files.get(number)) else {
            return Ok(());
        };
        let footer = read_footer(&*file, known, state.store)
            .map_err(disk_trouble("cannot read a value file"))?;
        if footer.lost {
            self.unlisted = Some(number);
            self.phase = Phase::Done;
            return Ok(());
        }
        for (at, entry) in footer.entries.into_iter().enumerate() {
            let ordinal = u32::try_from(at).unwrap_or(u32::MAX);
            let live = desk.live.is_live(number, ordinal) && !state.is_dropped(number, &entry.key);
            if live {
                self.moves.push(Move {
                    entry,
                    from: number,
                    ordinal,
                    to: None,
                });
            }
        }
        Ok(())
    }

    /// Copies a chunk.
    fn copy(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let last_source = self.sources.iter().copied().max().unwrap_or_default();
        let files = &desk.manifest.state.files;
        let oldest_source = self
            .sources
            .iter()
            .filter_map(|n| files.get(n))
            .map(|file| file.oldest)
            .min();
        let mut others = files
            .iter()
            .filter(|(number, _)| !self.sources.contains(number));
        let deletes_go =
            self.depth == Depth::Deep && others.all(|(_, file)| file.oldest > last_source);
        while let Some(moved) = self.moves.get_mut(self.next) {
            self.next += 1;
            let key = &moved.entry.key;
            let from = Pointer::to_record(moved.from, moved.ordinal as usize, &moved.entry);
            let mut is_newest = false;
            if self.depth == Depth::Deep {
                let entry = pointer::get(&*desk.index, key)?.unwrap_or_default();
                is_newest = entry.list.first() == Some(&from);
                // What it hides may still be asked for, and then lies in this very file.
                let hides_nothing = entry.list.len() == 1 && !entry.has_history;
                if deletes_go && is_newest && hides_nothing && moved.entry.is_delete {
                    continue;
                }
            }
            let Some(file) = desk.files.get(moved.from) else {
                continue;
            };
            let record = match read_record(&*file, key, &from) {
                Ok(record) => record,
                Err(ReadError::Damaged) => {
                    self.damaged = Some((moved.from, key.clone(), from));
                    return Ok(JobStep::Done);
                }
                Err(ReadError::Disk(error)) => {
                    return Err(disk_trouble("cannot read a value file")(error));
                }
            };
            if self.writer.is_none() {
                let number = desk.manifest.state.next_file;
                let store = desk.manifest.state.store;
                let writer = ValueWriter::create(&*desk.disk, value_path(number), number, store);
                self.writer = Some(writer.map_err(disk_trouble("cannot create a value file"))?);
            }
            let Some(writer) = &mut self.writer else {
                return Err(Trouble::Full);
            };
            if !is_newest {
                writer.inherit_age(oldest_source.unwrap_or_default());
            }
            let is_delete = moved.entry.is_delete;
            moved.to = Some(writer.push_raw(key, moved.entry.version, is_delete, &record.raw));
            if writer.pending_bytes() >= desk.options.chunk_bytes {
                writer
                    .flush()
                    .map_err(disk_trouble("cannot write a value file"))?;
                return Ok(JobStep::Again);
            }
        }
        Ok(JobStep::Done)
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        match writer.finish() {
            Ok(state) => {
                self.finished = Some(FinishedFile {
                    number: writer.number(),
                    state,
                    file: writer.file(),
                    footer: Vec::new(),
                });
                Ok(())
            }
            Err(error) => {
                self.writer = Some(writer);
                Err(disk_trouble("cannot finish a value file")(error))
            }
        }
    }
}
