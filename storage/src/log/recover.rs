//! The log after a stop, a kill or a power cut: which segments there are, what is in them, and the new
//! one that says where they end.
//!
//! Nothing is written before all is read; and nothing is relied on before the new segment, with its copy
//! of the last batch, is durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use synod_testpoint::planted;

use super::frame::{BLOCK, EncodedBatch, HeaderError, Link, SegmentHeader};
use super::groups::Groups;
use super::scan::{Found, Scan};
use super::segment::{LOG_DIR, LogName, Roll, RollError, parse_name, segment_path, spare_path};
use super::writer::{LogWriter, Placement};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::manifest::State;
use crate::{BatchSeq, JobStep, OpenError, OpenProgress, OpenReport, Options, SegmentNumber};

/// What recovery works with.
pub(crate) struct LogContext<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub options: &'a Options,
    /// What the manifest says; its incarnation is the new one.
    pub state: &'a State,
    pub groups: &'a mut Groups,
    pub report: &'a mut OpenReport,
    pub progress: &'a mut dyn FnMut(OpenProgress),
}

/// A segment that may have live records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub bytes: u64,
    /// Its last batch; that of the segment before if it has none.
    pub last: BatchSeq,
}

/// The log, ready for the next batch.
#[derive(Debug)]
pub(crate) struct RecoveredLog {
    pub writer: LogWriter,
    pub segments: BTreeMap<SegmentNumber, Segment>,
    pub placements: BTreeMap<BatchSeq, Placement>,
    pub spares: Vec<String>,
    pub next_spare: u64,
}

/// Reads the whole log into the view and begins a new segment.
pub(crate) fn recover(mut context: LogContext<'_>) -> Result<RecoveredLog, OpenError> {
    let disk = Arc::clone(context.disk);
    let (found, mut spares, next_spare) = list(&mut context)?;
    let total_bytes = found.iter().map(|segment| segment.bytes).sum();
    let mut scan = Scan {
        context: &mut context,
        placements: BTreeMap::new(),
        segments: BTreeMap::new(),
        last: BatchSeq(0),
        chain: Some(0),
        ambiguous: None,
    };
    let mut end = BLOCK as u64;
    let mut done_bytes = 0;
    for (at, segment) in found.iter().enumerate() {
        end = scan.segment(segment, found.get(at + 1))?;
        done_bytes += segment.bytes;
        (scan.context.progress)(OpenProgress::Log {
            done_bytes,
            total_bytes,
        });
    }
    scan.context.groups.finish_replay();
    let durable = scan.context.state.log_durable;
    if scan.last < durable {
        // The manifest has seen batches that are not there: not a tail, a loss.
        let what = format!(
            "log: batches {} to {durable} were durable and are gone",
            scan.last.0 + 1
        );
        scan.damage_unknown(what, BatchSeq(u64::MAX));
        scan.last = durable;
        scan.ambiguous = None;
        scan.chain = Some(0);
    }
    let Scan {
        mut placements,
        mut segments,
        last,
        chain,
        ambiguous,
        ..
    } = scan;
    let previous = found
        .last()
        .map(|segment| segment.number)
        .unwrap_or_default();
    let number = SegmentNumber(previous.0 + 1);
    let store = context.state.store;
    let incarnation = context.state.incarnation;
    let ambiguous = ambiguous.filter(|_| !planted!(LeavesLastBatchBehind));
    let (first, chain, previous_end) = match &ambiguous {
        Some(batch) => (
            batch.header.sequence,
            batch.header.chain,
            batch.placement.offset,
        ),
        None => (BatchSeq(last.0 + 1), chain.unwrap_or(0), end),
    };
    let mut next_chain = chain;
    let copy = ambiguous.map(|batch| {
        let mut copy = EncodedBatch::from_frame(&batch.header, batch.frame);
        next_chain = copy.link(Link {
            store,
            segment: number,
            incarnation,
            sequence: first,
            chain,
        });
        copy.frame
    });
    let copy_bytes = copy.as_ref().map_or(0, |frame| frame.len() as u64);
    let header = SegmentHeader {
        store,
        segment: number,
        incarnation,
        previous,
        previous_end: if planted!(ForgetsWhereItEnds) {
            u64::MAX
        } else {
            previous_end
        },
        first,
        chain,
        bytes: context.options.segment_bytes,
    };
    let bytes = context.options.segment_bytes;
    let file = begin(Roll::new(
        Arc::clone(&disk),
        header,
        copy,
        spares.pop(),
        bytes,
    ))?;
    if copy_bytes > 0 {
        let placement = Placement {
            segment: number,
            offset: BLOCK as u64,
            bytes: copy_bytes,
        };
        placements.insert(first, placement);
        if let Some(segment) = segments.get_mut(&previous) {
            segment.last = BatchSeq(first.0 - 1);
        }
    }
    segments.insert(number, Segment { bytes, last });
    Ok(RecoveredLog {
        writer: LogWriter {
            disk,
            store,
            incarnation,
            segment: number,
            file,
            offset: BLOCK as u64 + copy_bytes,
            next: BatchSeq(last.0 + 1),
            chain: next_chain,
            segment_bytes: bytes,
            buffer: Vec::new(),
        },
        segments,
        placements,
        spares,
        next_spare,
    })
}

/// Makes the segment of the new incarnation.
fn begin(mut roll: Roll) -> Result<Arc<dyn DiskFile>, OpenError> {
    loop {
        match roll.step() {
            Ok(JobStep::Again) => {}
            Ok(JobStep::Done) => {
                if let Some(file) = roll.file() {
                    return Ok(file);
                }
            }
            Err(RollError::Full) => {
                return Err(OpenError::Disk {
                    what: format!("no space for {}", segment_path(roll.header().segment)),
                    source: io::Error::from(io::ErrorKind::StorageFull),
                });
            }
            Err(RollError::Fatal(fatal)) => {
                let source = fatal.source.unwrap_or_else(|| io::Error::other("unknown"));
                return Err(OpenError::Disk {
                    what: fatal.what,
                    source,
                });
            }
        }
    }
}

/// The segments in order, their headers read; older ones and spares made ready to be used again.
fn list(context: &mut LogContext<'_>) -> Result<(Vec<Found>, Vec<String>, u64), OpenError> {
    let names = context
        .disk
        .list(LOG_DIR)
        .map_err(OpenError::disk("cannot list the log"))?;
    let mut found = Vec::new();
    let mut spares = Vec::new();
    let mut next_spare = 0;
    for name in names {
        match parse_name(&name) {
            Some(LogName::Segment(number)) if number < context.state.log_start => {
                // Trimmed, and the crash came before it was gone.
                let path = segment_path(number);
                context
                    .disk
                    .remove(&path)
                    .map_err(OpenError::disk(format!("cannot remove {path}")))?;
            }
            Some(LogName::Segment(number)) => {
                found.push(read_header(context, number)?);
            }
            Some(LogName::Spare(number)) => {
                let path = spare_path(number);
                next_spare = next_spare.max(number + 1);
                // A spare that was not filled to its end is no use.
                let open = context.disk.open(&path, OpenMode::Existing);
                let bytes = open.and_then(|file| file.len()).unwrap_or(0);
                if bytes >= context.options.segment_bytes {
                    spares.push(path);
                } else {
                    context
                        .disk
                        .remove(&path)
                        .map_err(OpenError::disk(format!("cannot remove {path}")))?;
                }
            }
            None => {}
        }
    }
    let first = found.first().map(|segment| segment.number);
    let wanted = context.state.log_start;
    if wanted > SegmentNumber(0) && first != Some(wanted) {
        return Err(OpenError::Missing(segment_path(wanted)));
    }
    for pair in found.windows(2) {
        let next = SegmentNumber(pair[0].number.0 + 1);
        if pair[1].number != next {
            return Err(OpenError::Missing(segment_path(next)));
        }
    }
    Ok((found, spares, next_spare))
}

fn read_header(context: &mut LogContext<'_>, number: SegmentNumber) -> Result<Found, OpenError> {
    let path = segment_path(number);
    let cannot = || OpenError::disk(format!("cannot read {path}"));
    let file = context
        .disk
        .open(&path, OpenMode::Existing)
        .map_err(cannot())?;
    let bytes = file.len().map_err(cannot())?;
    let mut block = vec![0; BLOCK];
    let read = file.read_at(&mut block, 0).map_err(cannot())?;
    let header = match SegmentHeader::decode(&block[..read]) {
        Ok(header) if header.store != context.state.store => {
            return Err(OpenError::Foreign {
                file: path,
                found: header.store,
                expected: context.state.store,
            });
        }
        Ok(header) if header.segment == number => Some(header),
        Ok(_) | Err(HeaderError::Invalid) => None,
        Err(HeaderError::Format(found)) => {
            return Err(OpenError::Format {
                file: path,
                found,
                known: super::frame::FORMAT,
            });
        }
    };
    Ok(Found {
        number,
        header,
        bytes,
    })
}
