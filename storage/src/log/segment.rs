//! Making a segment: the one delicate step of the log.
//!
//! A segment gets its final name only when its header, and the batch that it may start with, are
//! durable. So a file of that name always had a good header once, and one whose header is bad is
//! damage, never a crash in the middle of its creation.

use std::io;
use std::sync::Arc;

use super::frame::{BLOCK, SegmentHeader};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::{Fatal, JobStep, SegmentNumber};

/// Where the log lives.
pub(crate) const LOG_DIR: &str = "log";
/// Space held back for the log, in a file of its own.
pub(crate) const RESERVE: &str = "reserve";
/// Zeros are written in pieces of this size.
const FILL_BYTES: u64 = 1 << 20;

pub(crate) fn segment_path(number: SegmentNumber) -> String {
    format!("{LOG_DIR}/segment-{:012}", number.0)
}

pub(crate) fn spare_path(number: u64) -> String {
    format!("{LOG_DIR}/spare-{number:012}")
}

/// What a name in the log's directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogName {
    Segment(SegmentNumber),
    Spare(u64),
}

pub(crate) fn parse_name(name: &str) -> Option<LogName> {
    if let Some(number) = name.strip_prefix("segment-") {
        return number.parse().ok().map(SegmentNumber).map(LogName::Segment);
    }
    name.strip_prefix("spare-")
        .and_then(|number| number.parse().ok())
        .map(LogName::Spare)
}

/// A zero-filled file that becomes a segment later.
///
/// Writing over allocated blocks and syncing the data alone takes half as long as growing a file.
#[derive(Debug)]
pub(crate) struct Fill {
    disk: Arc<dyn Disk>,
    path: String,
    bytes: u64,
    file: Option<Arc<dyn DiskFile>>,
    at: u64,
}

impl Fill {
    pub fn new(disk: Arc<dyn Disk>, path: String, bytes: u64) -> Self {
        Self {
            disk,
            path,
            bytes,
            file: None,
            at: 0,
        }
    }

    /// Writes the next piece; the last step syncs. The file does not stay behind when it fails.
    pub fn step(&mut self) -> io::Result<JobStep> {
        let step = self.advance();
        if step.is_err() {
            self.file = None;
            self.at = 0;
            // It may not exist; what matters is that the space is free again.
            let _ = self.disk.remove(&self.path);
        }
        step
    }

    fn advance(&mut self) -> io::Result<JobStep> {
        let Some(file) = &self.file else {
            self.file = Some(self.disk.open(&self.path, OpenMode::Create)?);
            return Ok(JobStep::Again);
        };
        if self.at < self.bytes {
            let piece = FILL_BYTES.min(self.bytes - self.at);
            let zeros = vec![0; usize::try_from(piece).unwrap_or(BLOCK)];
            file.write_at(&zeros, self.at)?;
            self.at += piece;
            return Ok(JobStep::Again);
        }
        file.sync_data()?;
        Ok(JobStep::Done)
    }

    pub fn into_path(self) -> String {
        self.path
    }
}

/// Why the log could not be extended.
#[derive(Debug)]
pub(crate) enum RollError {
    /// No space, the reserve included. Nothing was acknowledged and nothing is lost: try again later.
    Full,
    /// The node must stop.
    Fatal(Fatal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fill,
    Open,
    WriteFirst,
    WriteHeader,
    Sync,
    Rename,
    SyncDir,
    Done,
}

/// Makes the next segment, out of a spare if there is one.
#[derive(Debug)]
pub(crate) struct Roll {
    disk: Arc<dyn Disk>,
    header: SegmentHeader,
    /// The batch that the segment starts with, already linked.
    first: Option<Vec<u8>>,
    spare: String,
    fill: Option<Fill>,
    file: Option<Arc<dyn DiskFile>>,
    reserve_used: bool,
    phase: Phase,
}

impl Roll {
    pub fn new(
        disk: Arc<dyn Disk>,
        header: SegmentHeader,
        first: Option<Vec<u8>>,
        spare: Option<String>,
        segment_bytes: u64,
    ) -> Self {
        let phase = if spare.is_some() {
            Phase::Open
        } else {
            Phase::Fill
        };
        let spare = spare.unwrap_or_else(|| spare_path(header.segment.0));
        let fill = Some(Fill::new(Arc::clone(&disk), spare.clone(), segment_bytes));
        Self {
            disk,
            header,
            first,
            spare,
            fill,
            file: None,
            reserve_used: false,
            phase,
        }
    }

    pub fn header(&self) -> SegmentHeader {
        self.header
    }

    /// The file, once the segment is ready.
    pub fn file(&self) -> Option<Arc<dyn DiskFile>> {
        self.file.clone().filter(|_| self.phase == Phase::Done)
    }

    fn fatal(&self, what: &str, error: io::Error) -> RollError {
        RollError::Fatal(Fatal::disk(
            format!("log: {what} {}", segment_path(self.header.segment)),
            error,
        ))
    }

    pub fn step(&mut self) -> Result<JobStep, RollError> {
        match self.phase {
            Phase::Fill => match self.fill.as_mut().map(Fill::step) {
                Some(Ok(JobStep::Again)) => {}
                Some(Ok(JobStep::Done)) | None => self.phase = Phase::Open,
                Some(Err(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    if self.reserve_used || self.disk.remove(RESERVE).is_err() {
                        return Err(RollError::Full);
                    }
                    tracing::warn!("the disk is full: using the reserve for the log");
                    self.reserve_used = true;
                }
                Some(Err(error)) => return Err(self.fatal("cannot fill", error)),
            },
            Phase::Open => {
                let file = self.disk.open(&self.spare, OpenMode::Existing);
                self.file = Some(file.map_err(|error| self.fatal("cannot open", error))?);
                self.phase = if self.first.is_some() {
                    Phase::WriteFirst
                } else {
                    Phase::WriteHeader
                };
            }
            Phase::WriteFirst => {
                let first = self.first.take().unwrap_or_default();
                self.write(&first, BLOCK as u64)?;
                self.phase = Phase::WriteHeader;
            }
            Phase::WriteHeader => {
                let header = self.header.encode();
                self.write(&header, 0)?;
                self.phase = Phase::Sync;
            }
            Phase::Sync => {
                if let Some(file) = &self.file {
                    file.sync_data()
                        .map_err(|error| self.fatal("cannot sync", error))?;
                }
                self.phase = Phase::Rename;
            }
            Phase::Rename => {
                self.disk
                    .rename(&self.spare, &segment_path(self.header.segment))
                    .map_err(|error| self.fatal("cannot name", error))?;
                self.phase = Phase::SyncDir;
            }
            Phase::SyncDir => {
                self.disk
                    .sync_dir(LOG_DIR)
                    .map_err(|error| self.fatal("cannot sync the directory of", error))?;
                self.phase = Phase::Done;
            }
            Phase::Done => {}
        }
        Ok(if self.phase == Phase::Done {
            JobStep::Done
        } else {
            JobStep::Again
        })
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), RollError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.write_at(bytes, offset)
            .map_err(|error| self.fatal("cannot write", error))
    }
}
