//! Batches on their way to the log, and segments on their way out of it.

use super::{QueuedBatch, Replica, Store};
use crate::log::{LogFailure, LogWork, Placement, Record, Segment};
use crate::{BatchSeq, EntryId, Event, Fatal, LogBatch, Pressure};

impl Store {
    /// Queues a batch for the log; one write and one sync are in flight at a time, queued batches
    /// merge into the next. The view has it at once. Returns what [`Store::synced`] must reach before
    /// anything that depends on it may be told to anyone.
    pub fn submit(&mut self, mut batch: LogBatch) -> BatchSeq {
        // A hard state is never durable later than the entries it goes with, even where a crash falls
        // between the two halves of a batch that is too large for one write.
        batch.records.sort_by_key(|record| match record {
            Record::Marker { .. } => 0,
            Record::HardState { .. } => 1,
            Record::Entries { .. } | Record::Repair { .. } | Record::Rewritten { .. } => 2,
        });
        for record in batch.records {
            self.note_marker(&record);
            self.enqueue(record);
        }
        self.submitted
    }

    /// The last batch that is durable, and all before it.
    #[must_use]
    pub fn synced(&self) -> BatchSeq {
        self.synced
    }

    fn note_marker(&mut self, record: &Record) {
        let Record::Marker {
            shard,
            replica,
            id,
            conf,
        } = record
        else {
            return;
        };
        let created = BatchSeq(self.submitted.0 + 1);
        let known = self.replicas.entry(*shard).or_insert_with(|| Replica {
            id: *replica,
            conf: conf.clone(),
            applied: *id,
            checkpointed: EntryId::ZERO,
            created,
            in_manifest: false,
        });
        assert_eq!(
            known.id, *replica,
            "two replicas of shard {shard} on one node"
        );
        if known.applied.index < id.index {
            known.applied = *id;
            known.conf.clone_from(conf);
        }
    }

    pub(super) fn enqueue(&mut self, record: Record) {
        let bytes = record.bytes();
        let bytes_max = self.options.batch_bytes_max;
        let fits = |queued: &QueuedBatch| !queued.is_closed && queued.bytes + bytes <= bytes_max;
        match record {
            // Too much for one write, though not for the log: in pieces, each a batch.
            Record::Entries {
                shard,
                replica,
                entries,
            } if bytes > self.options.batch_bytes_max && entries.len() > 1 => {
                let mut entries = entries;
                let second = entries.split_off(entries.len() / 2);
                self.enqueue(Record::Entries {
                    shard,
                    replica,
                    entries,
                });
                self.enqueue(Record::Entries {
                    shard,
                    replica,
                    entries: second,
                });
                return;
            }
            record => match self.queue.back_mut().filter(|queued| fits(queued)) {
                Some(queued) => {
                    queued.bytes += bytes;
                    queued.records.push(record);
                }
                None => {
                    self.submitted.0 += 1;
                    let sequence = self.submitted;
                    self.queue.push_back(QueuedBatch {
                        sequence,
                        records: vec![record],
                        bytes,
                        is_closed: false,
                    });
                }
            },
        }
        if let Some(queued) = self.queue.back()
            && let Some(record) = queued.records.last()
        {
            let ordinal = u32::try_from(queued.records.len() - 1).unwrap_or(u32::MAX);
            self.view.lock().take(queued.sequence, ordinal, record);
        }
    }

    /// The next write, if none is in flight.
    pub(super) fn next_batch(&mut self) -> Option<Box<LogWork>> {
        if let Some(mut stalled) = self.stalled.take() {
            if self.spares.is_empty() && !self.schedule.retry_log {
                self.stalled = Some(stalled);
                return None;
            }
            self.schedule.retry_log = false;
            stalled.failure = None;
            stalled.spare = self.spares.pop();
            self.spares_out = usize::from(stalled.spare.is_some());
            return Some(stalled);
        }
        if self.queue.is_empty() {
            return None;
        }
        let writer = self.writer.take()?;
        let queued = self.queue.pop_front()?;
        self.last_batch_at = self.now;
        self.sealed = queued.records.is_empty();
        let spare = self.spares.pop();
        self.spares_out = usize::from(spare.is_some());
        Some(Box::new(LogWork::new(
            writer,
            queued.sequence,
            queued.records,
            spare,
        )))
    }

    pub(super) fn batch_done(&mut self, mut work: Box<LogWork>) -> Result<(), Fatal> {
        self.spares_out = 0;
        match work.failure.take() {
            Some(LogFailure::Fatal(fatal)) => return Err(fatal),
            Some(LogFailure::Full) => {
                if !matches!(self.pressure(), Pressure::DiskFull { .. }) {
                    tracing::warn!("the disk is full: the log waits for space");
                }
                self.stalled = Some(work);
                return Ok(());
            }
            None => {}
        }
        if let Some(header) = work.rolled {
            if let Some(segment) = self.segments.get_mut(&header.previous) {
                segment.last = BatchSeq(header.first.0 - 1);
            }
            let last = BatchSeq(header.first.0 - 1);
            let bytes = self.options.segment_bytes;
            self.segments
                .insert(header.segment, Segment { bytes, last });
            self.schedule.trim_due = true;
        }
        if let Some(placement) = work.placement {
            self.placements.insert(work.sequence, placement);
            if let Some(segment) = self.segments.get_mut(&placement.segment) {
                segment.last = work.sequence;
                segment.bytes = segment.bytes.max(placement.offset + placement.bytes);
            }
        }
        let work = *work;
        self.spares.extend(work.spare);
        self.synced = work.sequence;
        self.syncs += 1;
        self.writer = Some(work.writer);
        {
            let mut groups = self.view.lock();
            groups.synced = self.synced;
            groups.evict();
        }
        self.retry_fetches();
        Ok(())
    }

    /// Where a batch can be read: nowhere before it is written, nor once its segment is being taken off.
    pub(super) fn place(&self, batch: BatchSeq) -> Option<Placement> {
        let is_going = self.schedule.trimming.is_some_and(|last| batch <= last);
        let placement = self.placements.get(&batch).filter(|_| !is_going);
        placement.copied()
    }

    /// Asks again for the entries that had to wait.
    pub(super) fn retry_fetches(&mut self) {
        for (shard, lo, hi) in std::mem::take(&mut self.waiting_fetches) {
            self.fetch(shard, lo, hi);
        }
    }

    /// An empty batch behind the last one proves that one durable: a crash from now on cannot leave
    /// its fate open.
    pub(super) fn seal_if_idle(&mut self) {
        let idle_us = self.now.0.saturating_sub(self.last_batch_at.0);
        let idle = self.writer.is_some() && self.queue.is_empty();
        if idle && !self.sealed && idle_us >= self.options.seal_after_ms * 1_000 {
            self.seal();
        }
    }

    pub(super) fn seal(&mut self) {
        self.submitted.0 += 1;
        let sequence = self.submitted;
        self.queue.push_back(QueuedBatch {
            sequence,
            records: Vec::new(),
            bytes: 0,
            is_closed: false,
        });
    }

    /// Takes a group's fetched entries in.
    pub(super) fn fetched(&mut self, fetched: crate::log::Fetched) {
        let shard = fetched.shard;
        self.schedule.trim_due = true;
        if let Some((batch, error)) = &fetched.failed {
            // Its segment may have gone since it was asked for.
            if self.place(*batch).is_some() {
                tracing::error!(%batch, %error, "cannot read the log");
            }
        }
        if let Some(group) = self.view.lock().groups.get_mut(&shard)
            && group.replica == fetched.replica
        {
            group.take_fetched(fetched);
        }
        self.events.push(Event::Fetched { shard });
    }
}
