//! What the niced thread does: one piece of work at a time, in small steps.
//!
//! There is never more than one piece of background work under way, and it holds everything that it
//! changes: the manifest, the index, the live map. So none of these needs a lock, and the order in
//! which files get into the manifest is the order of their numbers.

mod checkpoint;
mod collecting;
mod indexing;
mod merging;
pub(crate) mod rebuild;
mod reclaim;
mod upkeep;

use std::io;
use std::sync::Arc;

pub(crate) use checkpoint::{Checkpoint, Repaired};
pub(crate) use collecting::{Collect, Superseded};
pub(crate) use indexing::{FinishedFile, Indexing, Merge, Stamp};
pub(crate) use reclaim::{Depth, Reclaim};
pub(crate) use upkeep::{Count, Drop, Forget, Scrub, Space, Stop, Trim};

use crate::disk::Disk;
use crate::index::{IndexError, IndexFactory, Layered, no_index};
use crate::live::LiveMap;
use crate::log::segment::Fill;
use crate::manifest::{Edit, IndexState, Manifest, ManifestError};
use crate::memtable::Memtable;
use crate::snapshot::{Import, ImportChunk, Pin};
use crate::value::FileTable;
use crate::{Fatal, JobStep, Options};

/// Everything that background work changes. It travels with the work.
#[derive(Debug)]
pub(crate) struct Desk {
    pub disk: Arc<dyn Disk>,
    pub options: Arc<Options>,
    pub manifest: Manifest,
    pub index: Arc<Layered>,
    pub factory: Box<dyn IndexFactory>,
    pub files: FileTable,
    pub live: LiveMap,
    /// Whether `live` has been counted to its end since the start.
    pub live_complete: bool,
    /// Keys to be looked at again when their older versions are out of reach.
    pub superseded: Superseded,
}

/// Why a piece of work was given up.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No space. Nothing has changed: try again when there is some.
    Full,
    /// The index cannot be trusted: the node must stop, the next start rebuilds it.
    Index(IndexError),
    /// The node must stop.
    Fatal(Fatal),
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<ManifestError> for Trouble {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Full => Self::Full,
            ManifestError::Fatal(fatal) => Self::Fatal(fatal),
        }
    }
}

/// Classes a disk error: only a full disk is something to wait for.
pub(crate) fn disk_trouble(what: &str) -> impl FnOnce(io::Error) -> Trouble + use<'_> {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => Trouble::Full,
        _ => Trouble::Fatal(Fatal::disk(what, error)),
    }
}

impl Desk {
    /// A desk whose index is not open yet.
    pub fn new(
        disk: &Arc<dyn Disk>,
        options: &Arc<Options>,
        factory: Box<dyn IndexFactory>,
        manifest: Manifest,
        files: FileTable,
    ) -> Self {
        Self {
            disk: Arc::clone(disk),
            options: Arc::clone(options),
            index: Arc::new(Layered::new(no_index())),
            factory,
            manifest,
            files,
            live: LiveMap::default(),
            live_complete: false,
            superseded: Superseded::default(),
        }
    }

    /// Makes sure that the next start rebuilds the index.
    pub fn distrust_index(&mut self) {
        let state = IndexState {
            boot: 0,
            clean: false,
            ..self.manifest.state.index.clone()
        };
        if self.manifest.append(vec![Edit::Index(state)]).is_err() {
            // Then the next start has to find out by itself.
            tracing::error!("cannot note that the index is broken");
        }
    }
}

/// A kind of background work.
#[derive(Debug)]
pub(crate) enum Task {
    Checkpoint(Checkpoint),
    Merge(Merge),
    /// Fills a spare segment.
    Fill(Option<Fill>),
    Trim(Trim),
    Space(Space),
    Pin(Pin),
    ImportChunk(Box<ImportChunk>),
    /// Removes what an import that was given up has written.
    Abort(Box<Import>),
    Drop(Drop),
    Forget(Forget),
    Collect(Collect),
    Reclaim(Reclaim),
    Count(Count),
    Scrub(Scrub),
    Stop(Stop),
    /// Frees a memtable off the loop: thirty thousand rows take milliseconds.
    Discard(Option<Arc<Memtable>>),
}

/// A piece of background work, under way or done.
#[derive(Debug)]
pub(crate) struct BackgroundWork {
    pub desk: Desk,
    pub task: Task,
    pub trouble: Option<Trouble>,
}

impl BackgroundWork {
    pub fn step(&mut self) -> JobStep {
        let desk = &mut self.desk;
        let step = match &mut self.task {
            Task::Checkpoint(checkpoint) => checkpoint.step(desk),
            Task::Merge(merge) => merge.step(desk),
            Task::Fill(Some(fill)) => fill
                .step()
                .map_err(disk_trouble("cannot fill a spare segment")),
            Task::Fill(None) => Ok(JobStep::Done),
            Task::Trim(trim) => trim.step(desk),
            Task::Space(space) => space.step(desk),
            Task::Pin(pin) => pin.step(desk),
            Task::ImportChunk(import) => import.step(desk),
            Task::Abort(import) => {
                import.remove_files(desk);
                Ok(JobStep::Done)
            }
            Task::Drop(drop) => drop.step(desk),
            Task::Forget(forget) => forget.step(desk),
            Task::Collect(collect) => collect.step(desk),
            Task::Reclaim(reclaim) => reclaim.step(desk),
            Task::Count(count) => count.step(desk),
            Task::Scrub(scrub) => scrub.step(desk),
            Task::Stop(stop) => stop.step(desk),
            Task::Discard(memtable) => {
                *memtable = None;
                Ok(JobStep::Done)
            }
        };
        step.unwrap_or_else(|trouble| {
            if let Trouble::Index(_) = &trouble {
                self.desk.distrust_index();
            }
            self.trouble = Some(trouble);
            JobStep::Done
        })
    }
}
