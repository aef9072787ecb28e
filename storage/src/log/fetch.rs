//! Bringing entries back that fell out of the cache: for a replay at start, or a slow follower.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::frame::{BatchHeader, DecodedBatch};
use super::group::{GroupLog, Run};
use super::segment::segment_path;
use super::view::LogView;
use super::writer::Placement;
use crate::disk::{Disk, OpenMode, read_exact_at};
use crate::{BatchSeq, Entry, EntryId, ReplicaId, ShardId};

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

/// Entries of one fetch.
const BYTES_MAX: u64 = 4 << 20;

impl FetchQuery {
    /// The runs between `lo`, included, and `hi`, excluded, as far as one fetch goes.
    pub fn plan(
        disk: &Arc<dyn Disk>,
        view: &LogView,
        placements: &BTreeMap<BatchSeq, Placement>,
        trimming: Option<BatchSeq>,
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
        let mut bytes = 0;
        let mut batch = None;
        let mut waits = false;
        let is_going = |batch| trimming.is_some_and(|last| batch <= last);
        for run in group.runs.iter().skip_while(|run| run.last() < lo) {
            if run.first >= hi.min(cached_first) || bytes > BYTES_MAX {
                break;
            }
            // New entries are in the cache until they are placed; those that a trim has written anew
            // are not.
            let placement = placements.get(&run.batch);
            let Some(placement) = placement.filter(|_| !is_going(run.batch)) else {
                waits = true;
                break;
            };
            if batch != Some(run.batch) {
                bytes += placement.bytes;
                batch = Some(run.batch);
            }
            runs.push((*run, *placement));
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
    let mut batch: Option<(BatchSeq, DecodedBatch)> = None;
    for (run, placement) in &query.runs {
        if batch
            .as_ref()
            .is_none_or(|(sequence, _)| *sequence != run.batch)
        {
            match read_batch(&*query.disk, run.batch, placement) {
                Ok(Some(read)) => batch = Some((run.batch, read)),
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
            }
        }
        let record = batch
            .as_ref()
            .and_then(|(_, read)| read.records.get(run.ordinal as usize));
        let Some(record) = record else { return fetched };
        for entry in &record.entries {
            match entry {
                Ok(entry) if (run.first..=run.last()).contains(&entry.id.index) => {
                    fetched.entries.push((entry.clone(), *run));
                }
                Ok(_) => {}
                Err((id, checksum)) if (run.first..=run.last()).contains(&id.index) => {
                    fetched.damaged = Some((*run, *id, *checksum));
                    return fetched;
                }
                Err(_) => {}
            }
        }
    }
    fetched
}

fn read_batch(
    disk: &dyn Disk,
    sequence: BatchSeq,
    placement: &Placement,
) -> io::Result<Option<DecodedBatch>> {
    let file = disk.open(&segment_path(placement.segment), OpenMode::Existing)?;
    let mut frame = vec![0; usize::try_from(placement.bytes).unwrap_or(0)];
    read_exact_at(&*file, &mut frame, placement.offset)?;
    Ok(BatchHeader::decode(&frame)
        .filter(|header| header.sequence == sequence)
        .and_then(|header| DecodedBatch::decode(&header, &frame)))
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
