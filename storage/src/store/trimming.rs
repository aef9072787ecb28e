//! Letting the front of the log go.
//!
//! A segment may go when the checkpoint has all that it brought about: every entry in it is applied and
//! checkpointed. One slow group must not pin the log: where a group's entries are not applied yet, they
//! are written anew at the end, as are hard states that have not changed for long. What a slow
//! follower would still need is given up when the log is longer than it should be: it gets a snapshot.

use std::collections::VecDeque;

use super::Store;
use crate::background::Trim;
use crate::log::Record;
use crate::log::segment::spare_path;
use crate::{BatchSeq, Entry, EntryId, LogError, ReplicaId, SegmentNumber, ShardId};

/// Entries, and for each the batch that has it.
type Rest = (Vec<Entry>, Vec<BatchSeq>);

/// What keeps a segment from going.
enum Hold {
    /// Nothing: where each group's log would begin.
    Free(Vec<(ShardId, ReplicaId, EntryId)>),
    /// A checkpoint has to come first.
    Checkpoint,
    /// These have to be written anew; empty while they are being fetched.
    Rewrite(Vec<Record>),
    /// A damaged entry waits for a peer.
    Damage,
}

impl Store {
    pub(super) fn next_trim(&mut self) -> Option<Trim> {
        if !self.schedule.trim_due || self.synced < self.schedule.trim_after {
            return None;
        }
        let total: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        let (first, segment) = self.segments.first_key_value().map(|(n, s)| (*n, *s))?;
        let is_current = self.segments.len() == 1;
        if is_current || total.saturating_sub(segment.bytes) < self.options.log_keep_bytes {
            self.schedule.trim_due = false;
            return None;
        }
        match self.hold(segment.last) {
            Hold::Free(starts) => {
                self.schedule.trimming = Some(segment.last);
                let wanted = self.options.spare_segments;
                let is_usual = segment.bytes == self.options.segment_bytes;
                let spare = (self.spares.len() < wanted && is_usual).then(|| {
                    self.next_spare += 1;
                    spare_path(self.next_spare - 1)
                });
                Some(Trim {
                    segments: VecDeque::from([(first, spare)]),
                    log_start: SegmentNumber(first.0 + 1),
                    starts,
                    spares: Vec::new(),
                    noted: false,
                })
            }
            Hold::Checkpoint => {
                self.schedule.checkpoint_wanted |= total > 2 * self.options.log_keep_bytes;
                self.schedule.trim_due = false;
                None
            }
            Hold::Rewrite(records) => {
                for record in records {
                    self.rewrite(record);
                }
                self.schedule.trim_after = self.submitted;
                None
            }
            Hold::Damage => {
                self.schedule.trim_due = false;
                None
            }
        }
    }

    /// What of the batches up to `last` is still needed.
    fn hold(&mut self, last: BatchSeq) -> Hold {
        let mut starts = Vec::new();
        let mut records = Vec::new();
        let mut rests = Vec::new();
        let groups = self.view.lock();
        for (shard, group) in &groups.groups {
            let Some(replica) = self.replicas.get(shard) else {
                continue;
            };
            if !replica.in_manifest {
                return Hold::Checkpoint;
            }
            if group.hard_state_batch > BatchSeq(0) && group.hard_state_batch <= last {
                let (shard, replica, state) = (*shard, group.replica, group.hard_state);
                records.push(Record::HardState {
                    shard,
                    replica,
                    state,
                });
            }
            let in_front = group.runs.iter().filter(|run| run.batch <= last);
            let Some(through) = in_front.map(|run| run.last()).max() else {
                continue;
            };
            if through <= replica.checkpointed.index {
                let term = group.term(through).unwrap_or(replica.checkpointed.term);
                starts.push((*shard, group.replica, EntryId::new(term, through)));
            } else if replica.checkpointed.index < replica.applied.index {
                return Hold::Checkpoint;
            } else {
                rests.push((
                    *shard,
                    group.replica,
                    replica.checkpointed.index + 1,
                    through,
                ));
            }
        }
        drop(groups);
        for (shard, replica, lo, hi) in rests {
            match self.rest(shard, lo, hi) {
                Ok(Some((entries, from))) => {
                    records.push(Record::Rewritten {
                        shard,
                        replica,
                        entries,
                        from,
                    });
                }
                Ok(None) => {
                    self.fetch(shard, lo, hi + 1);
                    self.schedule.trim_due = false;
                    return Hold::Rewrite(Vec::new());
                }
                Err(_) => return Hold::Damage,
            }
        }
        if records.is_empty() {
            Hold::Free(starts)
        } else {
            Hold::Rewrite(records)
        }
    }

    /// The entries between `lo` and `hi`, both included, as far as they are at hand; `None` if they
    /// have to be fetched first.
    fn rest(&self, shard: ShardId, lo: u64, hi: u64) -> Result<Option<Rest>, LogError> {
        let entries = match self.view.entries(shard, lo, hi + 1, u64::MAX) {
            Ok(entries) => entries,
            Err(LogError::Temporarily) => return Ok(None),
            Err(error) => return Err(error),
        };
        let groups = self.view.lock();
        let group = groups.groups.get(&shard).ok_or(LogError::NoReplica)?;
        let mut from = Vec::new();
        let mut old = Vec::new();
        for entry in entries {
            // All of it, also what lies further back: so the copies follow each other without a gap.
            if let Some(run) = group.run_at(entry.id.index) {
                from.push(run.batch);
                old.push(entry);
            }
        }
        Ok(Some((old, from)))
    }

    /// Writes records anew. They must be consecutive for the frame: each run is one record.
    fn rewrite(&mut self, record: Record) {
        let Record::Rewritten {
            shard,
            replica,
            entries,
            from,
        } = record
        else {
            self.enqueue(record);
            return;
        };
        let mut run: Vec<Entry> = Vec::new();
        let mut batches: Vec<BatchSeq> = Vec::new();
        let mut bytes = 0;
        for (entry, batch) in entries.into_iter().zip(from) {
            let gap = run
                .last()
                .is_some_and(|last| last.id.index + 1 != entry.id.index);
            if gap || bytes > self.options.batch_bytes_max / 2 {
                let (entries, from) = (std::mem::take(&mut run), std::mem::take(&mut batches));
                self.enqueue(Record::Rewritten {
                    shard,
                    replica,
                    entries,
                    from,
                });
                bytes = 0;
            }
            bytes += entry.data.len();
            run.push(entry);
            batches.push(batch);
        }
        if !run.is_empty() {
            self.enqueue(Record::Rewritten {
                shard,
                replica,
                entries: run,
                from: batches,
            });
        }
    }

    pub(super) fn trim_done(&mut self, trim: Trim) {
        let mut groups = self.view.lock();
        for (shard, replica, start) in &trim.starts {
            if groups
                .groups
                .get(shard)
                .is_some_and(|group| group.replica == *replica)
            {
                groups.compact(*shard, *start);
            }
        }
        drop(groups);
        let gone = self.segments.range(..trim.log_start).next_back();
        if let Some(last) = gone.map(|(_, segment)| segment.last) {
            self.placements = self.placements.split_off(&BatchSeq(last.0 + 1));
        }
        self.segments = self.segments.split_off(&trim.log_start);
        self.spares.extend(trim.spares);
        self.trim_over();
    }

    /// A trim has ended, one way or the other.
    pub(super) fn trim_over(&mut self) {
        self.schedule.trimming = None;
        self.retry_fetches();
    }
}
