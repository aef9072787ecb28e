//! Writing batches, one in flight: encode, write, sync.
//!
//! Batch k+1 is written only after the sync of k has returned. So a valid k+1 on disk proves that k
//! was durable, and recovery can tell a torn tail from damage.

use std::io;
use std::sync::Arc;

use synod_testpoint::planted;

use super::batch::Record;
use super::frame::{BLOCK, EncodedBatch, Link, SegmentHeader};
use super::segment::{Roll, RollError, segment_path};
use crate::disk::{Disk, DiskFile};
use crate::{BatchSeq, Fatal, JobStep, SegmentNumber};

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub segment: SegmentNumber,
    pub offset: u64,
    pub bytes: u64,
}

/// The end of the log.
///
/// Invariants: everything before `offset` is durable; `chain` is the header checksum of batch
/// `next - 1`; only the batch in flight is ever written at `offset`.
#[derive(Debug)]
pub(crate) struct LogWriter {
    pub disk: Arc<dyn Disk>,
    pub store: u128,
    pub incarnation: u64,
    pub segment: SegmentNumber,
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub next: BatchSeq,
    pub chain: u32,
    pub segment_bytes: u64,
    /// Used again from batch to batch.
    pub buffer: Vec<u8>,
}

/// What became of a batch that is not durable.
#[derive(Debug)]
pub(crate) enum LogFailure {
    /// There is no space for a new segment. Nothing was written: the same work can be done later.
    Full,
    /// What is durable is unknown.
    Fatal(Fatal),
}

#[derive(Debug)]
enum Phase {
    Encode,
    Roll(Box<Roll>),
    Write,
    Sync,
    Done,
}

/// One batch on its way to the disk.
#[derive(Debug)]
pub(crate) struct LogWork {
    pub writer: LogWriter,
    pub sequence: BatchSeq,
    pub records: Vec<Record>,
    /// A zero-filled file, should a new segment be needed; still there if it was not.
    pub spare: Option<String>,
    /// Where the batch lies, once it is durable.
    pub placement: Option<Placement>,
    /// The segment that was begun for it.
    pub rolled: Option<SegmentHeader>,
    pub failure: Option<LogFailure>,
    batch: EncodedBatch,
    phase: Phase,
}

impl LogWork {
    pub fn new(
        writer: LogWriter,
        sequence: BatchSeq,
        records: Vec<Record>,
        spare: Option<String>,
    ) -> Self {
        assert_eq!(writer.next, sequence, "a batch out of turn");
        Self {
            writer,
            sequence,
            records,
            spare,
            placement: None,
            rolled: None,
            failure: None,
            batch: EncodedBatch::default(),
            phase: Phase::Encode,
        }
    }

    /// Whether a step that follows does I/O only: the driver may run encode and write in one go.
    pub fn step(&mut self) -> JobStep {
        match self.advance() {
            Ok(step) => step,
            Err(failure) => {
                self.failure = Some(failure);
                JobStep::Done
            }
        }
    }

    fn advance(&mut self) -> Result<JobStep, LogFailure> {
        match &mut self.phase {
            Phase::Encode => {
                let buffer = std::mem::take(&mut self.writer.buffer);
                self.batch = EncodedBatch::encode(&self.records, buffer);
                let end = self.writer.offset + self.batch.frame.len() as u64;
                // A batch that is larger than a segment lengthens one that holds nothing else.
                if end > self.writer.segment_bytes && self.writer.offset > BLOCK as u64 {
                    let header = SegmentHeader {
                        store: self.writer.store,
                        segment: SegmentNumber(self.writer.segment.0 + 1),
                        incarnation: self.writer.incarnation,
                        previous: self.writer.segment,
                        previous_end: self.writer.offset,
                        first: self.sequence,
                        chain: self.writer.chain,
                        bytes: self.writer.segment_bytes,
                    };
                    self.phase = Phase::Roll(Box::new(Roll::new(
                        Arc::clone(&self.writer.disk),
                        header,
                        None,
                        self.spare.take(),
                        self.writer.segment_bytes,
                    )));
                } else {
                    self.phase = Phase::Write;
                    return self.advance();
                }
            }
            Phase::Roll(roll) => match roll.step() {
                Ok(JobStep::Again) => {}
                Ok(JobStep::Done) => {
                    let header = roll.header();
                    if let Some(file) = roll.file() {
                        self.writer.file = file;
                    }
                    self.writer.segment = header.segment;
                    self.writer.offset = BLOCK as u64;
                    self.rolled = Some(header);
                    self.phase = Phase::Write;
                }
                Err(RollError::Full) => {
                    self.phase = Phase::Encode;
                    return Err(LogFailure::Full);
                }
                Err(RollError::Fatal(fatal)) => return Err(LogFailure::Fatal(fatal)),
            },
            Phase::Write => {
                let crc = self.batch.link(Link {
                    store: self.writer.store,
                    segment: self.writer.segment,
                    incarnation: self.writer.incarnation,
                    sequence: self.sequence,
                    chain: self.writer.chain,
                });
                self.writer
                    .file
                    .write_at(&self.batch.frame, self.writer.offset)
                    .map_err(|error| self.fatal("write to", error))?;
                self.writer.chain = crc;
                self.phase = Phase::Sync;
            }
            Phase::Sync => {
                // Never tried again: the kernel takes the lost pages for clean.
                self.sync().map_err(|error| self.fatal("sync of", error))?;
                let bytes = self.batch.frame.len() as u64;
                self.placement = Some(Placement {
                    segment: self.writer.segment,
                    offset: self.writer.offset,
                    bytes,
                });
                self.writer.offset += bytes;
                self.writer.next.0 += 1;
                // A buffer that one giant batch has blown up is not kept.
                let frame = std::mem::take(&mut self.batch.frame);
                self.writer.buffer = if frame.capacity() > 8 << 20 {
                    Vec::new()
                } else {
                    frame
                };
                self.phase = Phase::Done;
                return Ok(JobStep::Done);
            }
            Phase::Done => return Ok(JobStep::Done),
        }
        Ok(JobStep::Again)
    }

    fn sync(&self) -> io::Result<()> {
        match planted!(SkipsSync) {
            true => Ok(()),
            false => self.writer.file.sync_data(),
        }
    }

    fn fatal(&self, what: &str, error: std::io::Error) -> LogFailure {
        let path = segment_path(self.writer.segment);
        LogFailure::Fatal(Fatal::disk(format!("log: {what} {path} failed"), error))
    }
}
