//! The small tasks: what the log needs, free space, counting live records, dropping, stopping, and the
//! scrubber.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use synod_testpoint::planted;

use super::rebuild::Forgetting;
use super::{Desk, Trouble, disk_trouble};
use crate::disk::OpenMode;
use crate::index::{Index, IndexError, Layered, Pointer, Tree, no_index, pointer};
use crate::log::segment::{Fill, RESERVE, segment_path};
use crate::manifest::{Edit, IndexState, RangeDrop};
use crate::value::{FooterEntry, ReadError, read_footer, read_record, value_path};
use crate::{Direction, EntryId, FileNumber, JobStep, ReplicaId, SegmentNumber, ShardId};

/// Takes segments off the front of the log.
#[derive(Debug)]
pub(crate) struct Trim {
    /// The segments to go; each becomes a spare of this name, or is removed.
    pub segments: VecDeque<(SegmentNumber, Option<String>)>,
    /// Where the log begins then.
    pub log_start: SegmentNumber,
    /// The entry before the first one that each group keeps.
    pub starts: Vec<(ShardId, ReplicaId, EntryId)>,
    /// Those that became spares.
    pub spares: Vec<String>,
    pub noted: bool,
}

impl Trim {
    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        if planted!(TrimsBeforeItIsNoted)
            && let Some((number, spare)) = self.segments.pop_front()
        {
            return self.take_off(desk, number, spare);
        }
        if !self.noted {
            // The manifest first: a log that lacks what the manifest wants is not whole.
            let (log_start, starts) = (self.log_start, self.starts.clone());
            desk.manifest
                .append(vec![Edit::Trimmed { log_start, starts }])?;
            self.noted = true;
            return Ok(JobStep::Again);
        }
        let Some((number, spare)) = self.segments.pop_front() else {
            return Ok(JobStep::Done);
        };
        self.take_off(desk, number, spare)
    }

    /// Gives a segment another name, or removes it.
    fn take_off(
        &mut self,
        desk: &Desk,
        number: SegmentNumber,
        spare: Option<String>,
    ) -> Result<JobStep, Trouble> {
        let path = segment_path(number);
        let gone = match &spare {
            Some(spare) => desk.disk.rename(&path, spare),
            None => desk.disk.remove(&path),
        };
        gone.map_err(disk_trouble("cannot recycle a log segment"))?;
        self.spares.extend(spare);
        Ok(JobStep::Again)
    }
}

/// Looks at the free space. Puts the reserve back when there is enough, and lets it go when a checkpoint, and with it
/// what deletes give back, has no room otherwise.
#[derive(Debug)]
pub(crate) struct Space {
    pub available_bytes: u64,
    /// The room that a checkpoint needs, if one is wanted.
    wanted: Option<u64>,
    fill: Option<Fill>,
    checked: bool,
}

impl Space {
    pub fn new(wanted: Option<u64>) -> Self {
        Self {
            available_bytes: 0,
            wanted,
            fill: None,
            checked: false,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        if let Some(fill) = &mut self.fill {
            return match fill.step() {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(JobStep::Done),
                step => step.map_err(disk_trouble("cannot fill the reserve")),
            };
        }
        if self.checked {
            return Ok(JobStep::Done);
        }
        let ask = || desk.disk.available_bytes();
        let failed = disk_trouble("cannot ask for free space");
        self.checked = true;
        self.available_bytes = ask().map_err(failed)?;
        let is_short = self.wanted.is_some_and(|room| self.available_bytes < room);
        if is_short && desk.disk.remove(RESERVE).is_ok() {
            tracing::warn!("the disk is full: using the reserve for a checkpoint");
            self.available_bytes = ask().map_err(disk_trouble("cannot ask for free space"))?;
        }
        let wanted = desk.options.disk_reserve_bytes;
        let has_room = self.available_bytes > desk.options.disk_low_bytes.saturating_add(wanted);
        if wanted > 0 && has_room && !reserve_is_there(desk, wanted) {
            self.fill = Some(Fill::new(desk.disk.clone(), RESERVE.to_owned(), wanted));
            return Ok(JobStep::Again);
        }
        Ok(JobStep::Done)
    }
}

fn reserve_is_there(desk: &Desk, bytes: u64) -> bool {
    let reserve = desk
        .disk
        .open(RESERVE, OpenMode::Existing)
        .and_then(|file| file.len());
    reserve.is_ok_and(|length| length >= bytes)
}

/// Counts which records the index points to, a piece at a time.
#[derive(Debug)]
pub(crate) struct Count {
    pub tree: Tree,
    pub from: Vec<u8>,
    pub finished: bool,
}

const KEYS_PER_COUNT: usize = 2048;

impl Count {
    pub fn new() -> Self {
        Self {
            tree: Tree::Newest,
            from: Vec::new(),
            finished: false,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let mut seen = 0;
        let mut last = Vec::new();
        let mut bad: Option<IndexError> = None;
        let (tree, live) = (self.tree, &mut desk.live);
        let superseded = &mut desk.superseded;
        desk.index.range(
            tree,
            &self.from,
            None,
            Direction::Forward,
            &mut |key, value| {
                let pointers = match tree {
                    Tree::Newest => pointer::Pointers::decode(value).map(|entry| entry.list),
                    Tree::History | Tree::Stamp => {
                        Pointer::from_history(value).map(|one| vec![one])
                    }
                };
                match pointers {
                    Ok(pointers) => {
                        if pointers.len() > 1 {
                            superseded.note(key);
                        }
                        pointers.iter().for_each(|pointer| live.set(pointer));
                    }
                    Err(error) => bad = Some(error),
                }
                seen += 1;
                last.clear();
                last.extend_from_slice(key);
                if seen == KEYS_PER_COUNT || bad.is_some() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        if let Some(error) = bad {
            return Err(Trouble::Index(error));
        }
        if seen == KEYS_PER_COUNT {
            self.from = last;
            self.from.push(0);
            return Ok(JobStep::Done);
        }
        self.from.clear();
        match self.tree {
            Tree::Newest => self.tree = Tree::History,
            Tree::History | Tree::Stamp => {
                self.finished = true;
                desk.live_complete = true;
            }
        }
        Ok(JobStep::Done)
    }
}

/// Makes it durable that a replica is gone.
#[derive(Debug)]
pub(crate) struct Drop {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// Ranges of index keys.
    pub ranges: Vec<crate::KeyRange>,
}

impl Drop {
    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let before = FileNumber(desk.manifest.state.next_file.0 + 1);
        let ranges = self.ranges.iter();
        let drops = ranges.map(|range| RangeDrop {
            range: range.clone(),
            before,
            indexed: false,
        });
        let (shard, replica, drops) = (self.shard, self.replica, drops.collect());
        desk.manifest.append(vec![Edit::Dropped {
            shard,
            replica,
            drops,
        }])?;
        Ok(JobStep::Done)
    }
}

/// Takes dropped ranges out of the index, a piece at a time.
#[derive(Debug)]
pub(crate) struct Forget {
    pub forgetting: Forgetting,
    pub finished: bool,
}

impl Forget {
    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        if self.forgetting.step(desk)? == JobStep::Done {
            if let Some(edit) = self.forgetting.settle(desk)? {
                desk.manifest.append(vec![edit])?;
            }
            self.finished = true;
        }
        Ok(JobStep::Done)
    }
}

/// The last piece of work of a clean stop: the index is closed, synced by ourselves, stamped.
#[derive(Debug, Default)]
pub(crate) struct Stop;

impl Stop {
    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        desk.index.sync()?;
        // The last handle: sled writes what it has when it is dropped.
        desk.index = Arc::new(Layered::new(no_index()));
        let clean = match desk.factory.seal() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the index may have to be rebuilt at the next start");
                false
            }
        };
        let index = IndexState {
            clean,
            ..desk.manifest.state.index.clone()
        };
        desk.manifest.append(vec![Edit::Index(index)])?;
        Ok(JobStep::Done)
    }
}

/// Reads what nobody reads, so that rot is found while there is still a good copy elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    file: Option<(FileNumber, Vec<FooterEntry>)>,
    next_file: FileNumber,
    next_record: usize,
    /// Damaged records that a key still needs: index key, pointer.
    pub damaged: Vec<(Vec<u8>, Pointer)>,
    /// Files whose footers are bad: to be written anew.
    pub bad_footers: Vec<FileNumber>,
    /// Whether all files have been read once more.
    pub rounds: u64,
}

impl Scrub {
    /// Reads one chunk.
    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let Some((number, footer)) = &self.file else {
            self.open_next(desk)?;
            return Ok(JobStep::Done);
        };
        let Some(file) = desk.files.get(*number) else {
            self.file = None;
            return Ok(JobStep::Done);
        };
        let mut bytes = 0;
        while let Some(entry) = footer.get(self.next_record) {
            let pointer = Pointer::to_record(*number, self.next_record, entry);
            self.next_record += 1;
            bytes += entry.bytes as usize;
            if let Err(ReadError::Damaged) = read_record(&*file, &entry.key, &pointer)
                && (desk.live.is_live(*number, pointer.ordinal) || !desk.live_complete)
            {
                self.damaged.push((entry.key.clone(), pointer));
            }
            if bytes >= desk.options.chunk_bytes {
                return Ok(JobStep::Done);
            }
        }
        self.file = None;
        Ok(JobStep::Done)
    }

    fn open_next(&mut self, desk: &Desk) -> Result<(), Trouble> {
        let state = &desk.manifest.state;
        self.next_record = 0;
        let Some((number, known)) = state.files.range(self.next_file..).next() else {
            self.next_file = FileNumber(0);
            self.rounds += 1;
            return Ok(());
        };
        self.next_file = FileNumber(number.0 + 1);
        if let Some(file) = desk.files.get(*number) {
            let footer = read_footer(&*file, known, state.store)
                .map_err(disk_trouble("cannot read a value file"))?;
            if footer.from_records {
                tracing::error!(
                    "{}: damaged footer; the file is written anew",
                    value_path(*number)
                );
                self.bad_footers.push(*number);
            }
            self.file = Some((*number, footer.entries));
        }
        Ok(())
    }
}
