//! Reading the log after a stop, a kill or a power cut.
//!
//! See the module's essay for what is a torn tail and what is damage. This file only ever reads,
//! until it makes the segment of the new incarnation at the very end.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use synod_testpoint::planted;

use super::frame::{
    BLOCK, BatchHeader, DecodedBatch, EncodedBatch, HEADER, HeaderError, Link, SegmentHeader,
};
use super::groups::Groups;
use super::segment::{LOG_DIR, LogName, Roll, RollError, parse_name, segment_path, spare_path};
use super::writer::{LogWriter, Placement};
use crate::disk::{Disk, DiskFile, read_exact_at};
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

struct Found {
    number: SegmentNumber,
    header: Option<SegmentHeader>,
    bytes: u64,
}

/// The batch that a crash may have left in the page cache only.
struct Ambiguous {
    header: BatchHeader,
    frame: Vec<u8>,
    placement: Placement,
}

struct Scan<'a, 'b> {
    context: &'a mut LogContext<'b>,
    placements: BTreeMap<BatchSeq, Placement>,
    segments: BTreeMap<SegmentNumber, Segment>,
    /// The last batch that was read.
    last: BatchSeq,
    /// The header checksum of the last batch; `None` behind damage, where the chain is broken.
    chain: Option<u32>,
    ambiguous: Option<Ambiguous>,
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
                let open = context.disk.open(&path, crate::disk::OpenMode::Existing);
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
        .open(&path, crate::disk::OpenMode::Existing)
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

impl Scan<'_, '_> {
    /// Something of unknown content was lost before the batch `until`: every replica that existed by
    /// then is suspect.
    fn damage_unknown(&mut self, what: String, until: BatchSeq) {
        tracing::error!("{what}: every replica of this node is suspect");
        self.context.report.damage.push(what);
        for group in self.context.groups.groups.values_mut() {
            if group.created < until {
                group.damage.unknown = true;
            }
        }
        self.chain = None;
    }

    /// A segment whose header is bad: it is whole all the same if its first batch is the next one.
    fn adopt(&mut self, path: &str, bytes: &[u8]) {
        let first = bytes.get(BLOCK..).and_then(BatchHeader::decode);
        let next = first.filter(|first| {
            let follows = Some(first.chain) == self.chain && first.sequence.0 == self.last.0 + 1;
            // Or it is the copy of the last batch that the segment before ends with.
            follows || (self.chain.is_some() && first.sequence == self.last)
        });
        let Some(first) = next else {
            self.damage_unknown(format!("{path}: bad header"), BatchSeq(u64::MAX));
            return;
        };
        let what = format!("{path}: bad header, nothing lost");
        tracing::error!("{what}");
        self.context.report.damage.push(what);
        self.last = BatchSeq(first.sequence.0 - 1);
        self.chain = Some(first.chain);
    }

    /// Reads one segment. Returns where it ends.
    fn segment(&mut self, found: &Found, next: Option<&Found>) -> Result<u64, OpenError> {
        let path = segment_path(found.number);
        let cannot = || OpenError::disk(format!("cannot read {path}"));
        let file = self
            .context
            .disk
            .open(&path, crate::disk::OpenMode::Existing);
        let file = file.map_err(cannot())?;
        let mut bytes = vec![0; usize::try_from(found.bytes).unwrap_or(0)];
        read_exact_at(&*file, &mut bytes, 0).map_err(cannot())?;

        match found.header {
            Some(header) => {
                if self.chain.is_some() && self.placements.is_empty() {
                    // The first segment there is: the chain starts with what its header says.
                    self.last = BatchSeq(header.first.0 - 1);
                    self.chain = Some(header.chain);
                }
                if header.first.0 > self.last.0 + 1 {
                    let what = format!(
                        "{path} starts with batch {}, the log before ends with {}",
                        header.first, self.last
                    );
                    self.damage_unknown(what, header.first);
                }
                self.last = BatchSeq(header.first.0 - 1);
                self.chain = Some(header.chain);
            }
            None => self.adopt(&path, &bytes),
        }
        // The next segment says where this one ends. What it says is as good as a valid successor.
        let proven_end = next
            .and_then(|next| next.header)
            .filter(|header| header.previous == found.number)
            .and_then(|header| usize::try_from(header.previous_end).ok())
            .map(|end| end.min(bytes.len()));
        let limit = proven_end.unwrap_or(bytes.len());
        let is_last = next.is_none();
        let mut at = BLOCK;
        while at < limit {
            let header = self.header_at(&bytes[..limit], at, found, self.chain.is_none());
            let Some((header, frame_bytes)) = header else {
                let successor = self.successor(&bytes[..limit], at + BLOCK, found);
                let Some((successor, sequence)) = successor else {
                    // With the next header bad, the first batch behind it tells whether one is missing.
                    if proven_end.is_some_and(|end| at < end) {
                        let until = next.and_then(|next| next.header).map(|header| header.first);
                        self.damage_unknown(
                            format!("{path}: no valid batch from byte {at} on"),
                            until.unwrap_or(BatchSeq(u64::MAX)),
                        );
                    } else if is_last && bytes[at..limit].iter().take(BLOCK).any(|byte| *byte != 0)
                    {
                        self.torn(&path, at, "bad header");
                    }
                    break;
                };
                self.damage_unknown(format!("{path}: bad batch at byte {at}"), sequence);
                at = successor;
                continue;
            };
            let frame = &bytes[at..at + frame_bytes];
            let decoded = DecodedBatch::decode(&header, frame);
            if decoded.as_ref().is_none_or(|batch| !batch.whole) {
                let proven = proven_end.is_some()
                    || header.sequence <= self.context.state.log_durable
                    || self
                        .successor(&bytes[..limit], at + frame_bytes, found)
                        .is_some();
                if !proven && is_last {
                    self.torn(&path, at, "bad body");
                    break;
                }
            }
            let placement = Placement {
                segment: found.number,
                offset: at as u64,
                bytes: frame_bytes as u64,
            };
            self.last = header.sequence;
            self.chain = Some(header.crc);
            match decoded {
                Some(batch) => {
                    self.note_bad_bodies(&path, at, &batch);
                    self.placements.insert(header.sequence, placement);
                    // Entries may leave the cache: they are on disk, here.
                    self.context.groups.synced = header.sequence;
                    let state = self.context.state;
                    for (ordinal, record) in (0..).zip(batch.records) {
                        self.context
                            .groups
                            .replay(header.sequence, ordinal, record, state);
                    }
                    let whole = is_last.then(|| frame.to_vec());
                    self.ambiguous = whole.map(|frame| Ambiguous {
                        header,
                        frame,
                        placement,
                    });
                }
                None => {
                    let what = format!("{path}: bad table in batch {}", header.sequence);
                    self.damage_unknown(what, BatchSeq(header.sequence.0 + 1));
                    // The header is good: the chain is whole.
                    self.chain = Some(header.crc);
                    self.ambiguous = None;
                }
            }
            self.context.report.batches += 1;
            at += frame_bytes;
        }
        if found
            .header
            .is_some_and(|header| found.bytes < header.bytes)
            && is_last
        {
            let what = format!("{path}: cut to {} bytes", found.bytes);
            self.damage_unknown(what, BatchSeq(u64::MAX));
        }
        self.segments.insert(
            found.number,
            Segment {
                bytes: found.bytes,
                last: self.last,
            },
        );
        Ok(at.min(limit) as u64)
    }

    fn torn(&mut self, path: &str, at: usize, why: &str) {
        let what = format!("{path}: torn tail cut at byte {at} ({why})");
        tracing::info!("{what}");
        self.context.report.torn_tail = Some(what);
    }

    fn note_bad_bodies(&mut self, path: &str, at: usize, batch: &DecodedBatch) {
        for record in &batch.records {
            for (id, _) in record
                .entries
                .iter()
                .filter_map(|entry| entry.as_ref().err())
            {
                let what = format!("{path}: entry {id} in the batch at byte {at} is damaged");
                tracing::error!("{what}");
                self.context.report.damage.push(what);
            }
        }
    }

    /// The batch at `at`, if it is the one that belongs there (or, behind damage, a later one).
    fn header_at(
        &self,
        bytes: &[u8],
        at: usize,
        found: &Found,
        behind_damage: bool,
    ) -> Option<(BatchHeader, usize)> {
        let header = BatchHeader::decode(bytes.get(at..at.checked_add(HEADER)?)?)?;
        let ours = header.store == self.context.state.store
            && header.segment == found.number
            && found
                .header
                .is_none_or(|segment| segment.incarnation == header.incarnation);
        let in_turn = match self.chain {
            Some(chain) if !behind_damage => {
                header.sequence.0 == self.last.0 + 1 && header.chain == chain
            }
            Some(_) | None => header.sequence > self.last,
        };
        let (ours, in_turn) = match planted!(TakesStaleFrames) {
            true => (true, header.sequence.0 == self.last.0 + 1),
            false => (ours, in_turn),
        };
        let frame_bytes = header
            .frame_bytes()
            .filter(|length| *length <= bytes.len() - at)?;
        (ours && in_turn).then_some((header, frame_bytes))
    }

    /// Looks for a batch of this segment beyond `from`: a torn length must not hide one.
    fn successor(&self, bytes: &[u8], from: usize, found: &Found) -> Option<(usize, BatchSeq)> {
        if planted!(TakesDamageForATail) {
            return None;
        }
        (from..bytes.len()).step_by(BLOCK).find_map(|at| {
            self.header_at(bytes, at, found, true)
                .map(|(header, _)| (at, header.sequence))
        })
    }
}
