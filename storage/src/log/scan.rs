//! Reading one segment after the other: what is a batch, what a torn tail, and what damage.
//!
//! See the module's essay for how the three are told apart. Nothing here writes.

use std::collections::BTreeMap;

use synod_testpoint::planted;

use super::frame::{BLOCK, BatchHeader, DecodedBatch, HEADER, SegmentHeader};
use super::recover::{LogContext, Segment};
use super::segment::segment_path;
use super::writer::Placement;
use crate::disk::{OpenMode, read_exact_at};
use crate::{BatchSeq, OpenError, SegmentNumber};

/// A file of the log, and its header unless that is bad.
pub(super) struct Found {
    pub number: SegmentNumber,
    pub header: Option<SegmentHeader>,
    pub bytes: u64,
}

/// The batch that a crash may have left in the page cache only.
pub(super) struct Ambiguous {
    pub header: BatchHeader,
    pub frame: Vec<u8>,
    pub placement: Placement,
}

/// What was read so far.
pub(super) struct Scan<'a, 'b> {
    pub context: &'a mut LogContext<'b>,
    pub placements: BTreeMap<BatchSeq, Placement>,
    pub segments: BTreeMap<SegmentNumber, Segment>,
    /// The last batch that was read.
    pub last: BatchSeq,
    /// The header checksum of the last batch; `None` behind damage, where the chain is broken.
    pub chain: Option<u32>,
    pub ambiguous: Option<Ambiguous>,
}

impl Scan<'_, '_> {
    /// Something of unknown content was lost before the batch `until`: every replica that existed by
    /// then is suspect.
    pub fn damage_unknown(&mut self, what: String, until: BatchSeq) {
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

    /// Enters a segment: what its header says of where the log goes on.
    fn enter(&mut self, path: &str, found: &Found, bytes: &[u8]) {
        let Some(header) = found.header else {
            self.adopt(path, bytes);
            return;
        };
        // The first segment there is: the log begins with what its header says.
        let is_first = self.chain.is_some() && self.placements.is_empty();
        if !is_first && header.first.0 > self.last.0 + 1 {
            let what = format!(
                "{path} starts with batch {}, the log before ends with {}",
                header.first, self.last
            );
            self.damage_unknown(what, header.first);
        }
        self.last = BatchSeq(header.first.0 - 1);
        self.chain = Some(header.chain);
    }

    /// Takes in a batch whose header is good.
    fn take(
        &mut self,
        path: &str,
        header: BatchHeader,
        decoded: Option<DecodedBatch>,
        placement: Placement,
        copy: Option<Vec<u8>>,
    ) {
        self.last = header.sequence;
        self.chain = Some(header.crc);
        self.context.report.batches += 1;
        let Some(batch) = decoded else {
            let what = format!("{path}: bad table in batch {}", header.sequence);
            self.damage_unknown(what, BatchSeq(header.sequence.0 + 1));
            // The header is good: the chain is whole.
            self.chain = Some(header.crc);
            self.ambiguous = None;
            return;
        };
        self.note_bad_bodies(path, placement.offset, &batch);
        self.placements.insert(header.sequence, placement);
        // Entries may leave the cache: they are on disk, here.
        self.context.groups.synced = header.sequence;
        let state = self.context.state;
        for (ordinal, record) in (0..).zip(batch.records) {
            let groups = &mut self.context.groups;
            groups.replay(header.sequence, ordinal, record, state);
        }
        self.ambiguous = copy.map(|frame| Ambiguous {
            header,
            frame,
            placement,
        });
    }

    /// Reads one segment. Returns where it ends.
    pub fn segment(&mut self, found: &Found, next: Option<&Found>) -> Result<u64, OpenError> {
        let path = segment_path(found.number);
        let cannot = || OpenError::disk(format!("cannot read {path}"));
        let file = self.context.disk.open(&path, OpenMode::Existing);
        let file = file.map_err(cannot())?;
        let mut bytes = vec![0; usize::try_from(found.bytes).unwrap_or(0)];
        read_exact_at(&*file, &mut bytes, 0).map_err(cannot())?;

        self.enter(&path, found, &bytes);
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
            // Of the last segment, the last batch is copied: until the next one is read, it is this.
            let copy = is_last.then(|| frame.to_vec());
            self.take(&path, header, decoded, placement, copy);
            at += frame_bytes;
        }
        self.leave(&path, found, is_last);
        Ok(at.min(limit) as u64)
    }

    /// Leaves a segment that was read.
    fn leave(&mut self, path: &str, found: &Found, is_last: bool) {
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
    }

    fn torn(&mut self, path: &str, at: usize, why: &str) {
        let what = format!("{path}: torn tail cut at byte {at} ({why})");
        tracing::info!("{what}");
        self.context.report.torn_tail = Some(what);
    }

    fn note_bad_bodies(&mut self, path: &str, at: u64, batch: &DecodedBatch) {
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
