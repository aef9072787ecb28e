//! Bringing entries back that fell out of the cache: for a replay at start, or a slow follower.

use std::io;
use std::sync::Arc;

use super::frame::{BLOCK, BatchHeader, RecordHead};
use super::group::{GroupLog, Run};
use super::segment::segment_path;
use super::view::LogView;
use super::writer::Placement;
use crate::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use crate::{BatchSeq, Entry, EntryId, ReplicaId, SegmentNumber, ShardId};

/// The runs that have the wanted entries, and where their batches lie.
#[derive(Clone, Debug)]
pub(crate) struct FetchQuery {
    pub disk: Arc<dyn Disk>,
    pub shard: ShardId,
    pub replica: ReplicaId,
    runs: Vec<(Run, Placement)>,
}

/// How entries that are in no cache are to be had.
#[derive(Debug)]
pub(crate) enum FetchPlan {
    /// By reading.
    Read(FetchQuery),
    /// They are being written anew, and can be read when that batch is placed; or they are being let go,
    /// and then there is nothing to read.
    Waits,
    /// There is nothing to read.
    Nothing,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// Entries with the run that they are in, in order.
    entries: Vec<(Entry, Run)>,
    /// An entry that turned out to be damaged: the run, and which entry it is.
    damaged: Option<(Run, EntryId, u32)>,
    /// The batch that the disk would not give, and why.
    pub failed: Option<(BatchSeq, io::Error)>,
}

/// Bytes of the entries of one fetch, about: two append messages.
const BYTES_MAX: usize = 2 << 20;
/// Records of one fetch.
const RUNS_MAX: usize = 1024;

/// What a record holds; of a bad entry, which one it is.
type ReadEntries = Vec<Result<Entry, (EntryId, u32)>>;

impl FetchQuery {
    /// The runs between `lo`, included, and `hi`, excluded, as far as one fetch goes.
    pub fn plan(
        disk: &Arc<dyn Disk>,
        view: &LogView,
        place: impl Fn(BatchSeq) -> Option<Placement>,
        (shard, lo, hi): (ShardId, u64, u64),
    ) -> FetchPlan {
        let groups = view.lock();
        let Some(group) = groups.groups.get(&shard) else {
            return FetchPlan::Nothing;
        };
        let cached_first = group
            .cached
            .front()
            .map_or(u64::MAX, |entry| entry.id.index);
        let mut runs = Vec::new();
        let mut waits = false;
        for run in group.runs.iter().skip_while(|run| run.last() < lo) {
            if run.first >= hi.min(cached_first) || runs.len() == RUNS_MAX {
                break;
            }
            // New entries are in the cache until they are placed; those that a trim has written anew
            // are not.
            let Some(placement) = place(run.batch) else {
                waits = true;
                break;
            };
            runs.push((*run, placement));
        }
        match (runs.is_empty(), waits) {
            (true, true) => FetchPlan::Waits,
            (true, false) => FetchPlan::Nothing,
            (false, _) => FetchPlan::Read(Self {
                disk: Arc::clone(disk),
                shard,
                replica: group.replica,
                runs,
            }),
        }
    }
}

/// Reads the entries. What cannot be read is left out: the view says so again, and is asked again.
pub(crate) fn fetch(query: &FetchQuery) -> Fetched {
    let mut fetched = Fetched {
        shard: query.shard,
        replica: query.replica,
        entries: Vec::new(),
        damaged: None,
        failed: None,
    };
    let mut reader = Reader::new(&*query.disk);
    let mut bytes = 0;
    for (run, placement) in &query.runs {
        if bytes >= BYTES_MAX {
            break;
        }
        let read = match reader.read(run, placement) {
            Ok(Some(read)) => read,
            Ok(None) => {
                tracing::error!(batch = %run.batch, "a batch of the log is damaged");
                // What it held is known from the view, but not the checksums.
                fetched.damaged = Some((*run, EntryId::new(run.term, run.first), 0));
                return fetched;
            }
            Err(error) => {
                fetched.failed = Some((run.batch, error));
                return fetched;
            }
        };
        for entry in read {
            match entry {
                Ok(entry) if (run.first..=run.last()).contains(&entry.id.index) => {
                    bytes += entry.data.len();
                    fetched.entries.push((entry, *run));
                }
                Ok(_) => {}
                Err((id, checksum)) if (run.first..=run.last()).contains(&id.index) => {
                    fetched.damaged = Some((*run, id, checksum));
                    return fetched;
                }
                Err(_) => {}
            }
        }
    }
    fetched
}

/// Reads single records. A batch has those of all groups, and most of it is of no interest to the one
/// that asks: its table says where the wanted ones lie.
struct Reader<'a> {
    disk: &'a dyn Disk,
    segment: Option<(SegmentNumber, Arc<dyn DiskFile>)>,
    batch: Option<(BatchHeader, Vec<RecordHead>)>,
}

impl<'a> Reader<'a> {
    fn new(disk: &'a dyn Disk) -> Self {
        Self {
            disk,
            segment: None,
            batch: None,
        }
    }

    /// The entries of a run's record, good and bad; `None` if the batch is not what it should be.
    fn read(&mut self, run: &Run, placement: &Placement) -> io::Result<Option<ReadEntries>> {
        let file = match &self.segment {
            Some((segment, file)) if *segment == placement.segment => Arc::clone(file),
            Some(_) | None => {
                let path = segment_path(placement.segment);
                let file = self.disk.open(&path, OpenMode::Existing)?;
                self.segment = Some((placement.segment, Arc::clone(&file)));
                file
            }
        };
        let known = self.batch.as_ref().map(|(header, _)| header.sequence);
        if known != Some(run.batch) {
            self.batch = read_table(&*file, run.batch, placement)?;
        }
        let Some((header, records)) = &self.batch else {
            return Ok(None);
        };
        let (Some(bodies_at), Some((before, rest))) = (
            header.bodies_at(),
            records.split_at_checked(run.ordinal as usize),
        ) else {
            return Ok(None);
        };
        let Some(record) = rest.first() else {
            return Ok(None);
        };
        let at = bodies_at + before.iter().map(RecordHead::body_bytes).sum::<usize>();
        // The table may be of another batch that wants more than there is.
        let room = usize::try_from(placement.bytes).unwrap_or(usize::MAX);
        let mut bodies = vec![0; record.body_bytes().min(room.saturating_sub(at))];
        read_exact_at(&*file, &mut bodies, placement.offset + at as u64)?;
        Ok(Some(record.read(&bodies)))
    }
}

/// Reads the head of a batch: header and table.
fn read_table(
    file: &dyn DiskFile,
    sequence: BatchSeq,
    placement: &Placement,
) -> io::Result<Option<(BatchHeader, Vec<RecordHead>)>> {
    let room = usize::try_from(placement.bytes).unwrap_or(usize::MAX);
    let mut head = vec![0; BLOCK.min(room)];
    read_exact_at(file, &mut head, placement.offset)?;
    let header = BatchHeader::decode(&head).filter(|header| header.sequence == sequence);
    let Some((header, end)) = header.and_then(|header| Some((header, header.bodies_at()?))) else {
        return Ok(None);
    };
    if end > room {
        return Ok(None);
    }
    let have = head.len();
    if end > have {
        head.resize(end, 0);
        read_exact_at(file, &mut head[have..], placement.offset + have as u64)?;
    }
    Ok(header.table(&head).map(|records| (header, records)))
}

impl GroupLog {
    /// Takes in what a fetch has read, as far as the log is still the same.
    pub fn take_fetched(&mut self, fetched: Fetched) {
        for (entry, run) in fetched.entries {
            let index = entry.id.index;
            let unchanged = self.run_at(index).is_some_and(|now| {
                (now.batch, now.ordinal, now.term) == (run.batch, run.ordinal, entry.id.term)
            });
            if !unchanged {
                continue;
            }
            let at = self.fetched.partition_point(|known| known.id.index < index);
            match self.fetched.get_mut(at) {
                Some(known) if known.id.index == index => *known = entry,
                Some(_) | None => self.fetched.insert(at, entry),
            }
        }
        if let Some((run, id, checksum)) = fetched.damaged
            && self
                .run_at(id.index)
                .is_some_and(|now| now.batch == run.batch)
            && !self
                .damage
                .entries
                .iter()
                .any(|(known, _)| known.index == id.index)
        {
            self.damage.entries.push((id, checksum));
            self.damage.entries.sort_by_key(|(id, _)| id.index);
        }
    }
}
