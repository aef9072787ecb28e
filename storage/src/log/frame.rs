//! The bytes of the log.
//!
//! ```text
//! segment   4 KiB: magic, format, store, segment, incarnation,
//!                  where the previous segment ends, first sequence, chain, crc
//! batch     128 B: magic, format, store, segment, incarnation, sequence,
//!                  chain (crc of the previous batch's header), lengths, table crc, crc
//!           table: what the batch holds: rkyv, its own checksum
//!           bodies: the data of its entries, each with a checksum in the table
//!           zeros up to the next 4 KiB
//! ```
//!
//! Headers have a fixed layout, so that they can be looked for at any 4 KiB step. The table is apart
//! from the bodies, so that a damaged body still tells whose entry it was. A batch starts on a page of
//! its own: writing it never touches a page that holds an older, acknowledged one.

use bytes::Bytes;
use rkyv::util::AlignedVec;

use super::batch::Record;
use crate::{
    BatchSeq, ConfState, Entry, EntryId, EntryKind, HardState, ReplicaId, SegmentNumber, ShardId,
    entry_checksum,
};

/// Batches start at multiples of this: the size of a page, the unit in which a disk tears.
pub(crate) const BLOCK: usize = 4096;
/// The length of a batch's header.
pub(crate) const HEADER: usize = 128;
const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"SYNODSEG");
const BATCH_MAGIC: u64 = u64::from_le_bytes(*b"SYNODBAT");
/// Raised when the layout changes.
pub(crate) const FORMAT: u32 = 1;

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub store: u128,
    pub segment: SegmentNumber,
    pub incarnation: u64,
    /// The segment before this one; 0 for none.
    pub previous: SegmentNumber,
    /// Where the one before ends. All beyond is garbage for ever: a batch that was dropped there must
    /// never revive behind a new one.
    pub previous_end: u64,
    /// The sequence of this segment's first batch.
    pub first: BatchSeq,
    /// The header checksum of the batch before the first.
    pub chain: u32,
    /// The length that the file was given: a shorter one has lost its tail.
    pub bytes: u64,
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub store: u128,
    pub segment: SegmentNumber,
    pub incarnation: u64,
    pub sequence: BatchSeq,
    /// The header checksum of the batch before.
    pub chain: u32,
    pub table_bytes: u32,
    pub table_crc: u32,
    pub body_bytes: u64,
    /// This header's own checksum.
    pub crc: u32,
}

/// What a record of a batch is: enough to say what is lost when a body is bad.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum RecordHead {
    Entries {
        shard: ShardId,
        replica: ReplicaId,
        first: u64,
        entries: Vec<EntryHead>,
    },
    HardState {
        shard: ShardId,
        replica: ReplicaId,
        state: HardState,
    },
    Marker {
        shard: ShardId,
        replica: ReplicaId,
        id: EntryId,
        conf: ConfState,
    },
    Repair {
        shard: ShardId,
        replica: ReplicaId,
        index: u64,
        entry: EntryHead,
    },
    /// Copies of entries whose segment is about to go. Each counts only where the live copy is still
    /// the one of batch `from`, and none truncates.
    Rewritten {
        shard: ShardId,
        replica: ReplicaId,
        first: u64,
        entries: Vec<EntryHead>,
        from: Vec<BatchSeq>,
    },
}

/// What the table says of an entry's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct EntryHead {
    pub term: u64,
    pub bytes: u32,
    pub crc: u32,
    pub kind: EntryKind,
}

impl RecordHead {
    /// The entries whose bodies follow, in order.
    pub fn entries(&self) -> (u64, &[EntryHead]) {
        match self {
            Self::Entries { first, entries, .. } | Self::Rewritten { first, entries, .. } => {
                (*first, entries)
            }
            Self::Repair { index, entry, .. } => (*index, std::slice::from_ref(entry)),
            Self::HardState { .. } | Self::Marker { .. } => (0, &[]),
        }
    }

    /// Bytes of its bodies.
    pub fn body_bytes(&self) -> usize {
        let (_, entries) = self.entries();
        entries.iter().map(|entry| entry.bytes as usize).sum()
    }

    /// Its entries, from its bodies, which are first in `bodies`. A bad one is told by id and checksum.
    pub fn read(&self, bodies: &[u8]) -> Vec<Result<Entry, (EntryId, u32)>> {
        let (first, heads) = self.entries();
        let mut at = 0;
        let mut entries = Vec::with_capacity(heads.len());
        for (index, head) in (first..).zip(heads) {
            let id = EntryId::new(head.term, index);
            let end = at + head.bytes as usize;
            let read = bodies.get(at..end).map(|data| Entry {
                id,
                kind: head.kind,
                data: Bytes::copy_from_slice(data),
            });
            let whole = read.filter(|read| entry_checksum(read) == head.crc);
            entries.push(whole.ok_or((id, head.crc)));
            at = end;
        }
        entries
    }
}

/// Little-endian fields, one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Not a header, or a damaged one.
    Invalid,
    /// Whole, but of another format.
    Format(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(SEGMENT_MAGIC.to_le_bytes());
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.store.to_le_bytes());
        bytes.extend(self.segment.0.to_le_bytes());
        bytes.extend(self.incarnation.to_le_bytes());
        bytes.extend(self.previous.0.to_le_bytes());
        bytes.extend(self.previous_end.to_le_bytes());
        bytes.extend(self.first.0.to_le_bytes());
        bytes.extend(self.chain.to_le_bytes());
        bytes.extend(self.bytes.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        block[..bytes.len()].copy_from_slice(&bytes);
        block
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        const LENGTH: usize = 8 + 4 + 16 + 5 * 8 + 4 + 8;
        if bytes.len() < LENGTH + 4 {
            return Err(HeaderError::Invalid);
        }
        let mut fields = Fields { bytes, at: 0 };
        let magic = fields.u64();
        let format = fields.u32();
        let header = Self {
            store: fields.u128(),
            segment: SegmentNumber(fields.u64()),
            incarnation: fields.u64(),
            previous: SegmentNumber(fields.u64()),
            previous_end: fields.u64(),
            first: BatchSeq(fields.u64()),
            chain: fields.u32(),
            bytes: fields.u64(),
        };
        if magic != SEGMENT_MAGIC || fields.u32() != crc32fast::hash(&bytes[..LENGTH]) {
            return Err(HeaderError::Invalid);
        }
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        Ok(header)
    }
}

impl BatchHeader {
    const LENGTH: usize = 8 + 4 + 16 + 3 * 8 + 4 + 4 + 4 + 8;

    /// Encodes the header, its checksum computed anew. Returns that checksum.
    pub fn encode(&self, out: &mut [u8]) -> u32 {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(BATCH_MAGIC.to_le_bytes());
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.store.to_le_bytes());
        bytes.extend(self.segment.0.to_le_bytes());
        bytes.extend(self.incarnation.to_le_bytes());
        bytes.extend(self.sequence.0.to_le_bytes());
        bytes.extend(self.chain.to_le_bytes());
        bytes.extend(self.table_bytes.to_le_bytes());
        bytes.extend(self.table_crc.to_le_bytes());
        bytes.extend(self.body_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        out[..bytes.len()].copy_from_slice(&bytes);
        crc
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER {
            return None;
        }
        let mut fields = Fields { bytes, at: 0 };
        if fields.u64() != BATCH_MAGIC || fields.u32() != FORMAT {
            return None;
        }
        let header = Self {
            store: fields.u128(),
            segment: SegmentNumber(fields.u64()),
            incarnation: fields.u64(),
            sequence: BatchSeq(fields.u64()),
            chain: fields.u32(),
            table_bytes: fields.u32(),
            table_crc: fields.u32(),
            body_bytes: fields.u64(),
            crc: fields.u32(),
        };
        (header.crc == crc32fast::hash(&bytes[..Self::LENGTH])).then_some(header)
    }

    /// Where in the frame the table ends and the bodies begin; `None` if that is absurd.
    pub fn bodies_at(&self) -> Option<usize> {
        HEADER.checked_add(self.table_bytes as usize)
    }

    /// The table, from the first bytes of the frame; `None` if it is bad.
    pub fn table(&self, frame: &[u8]) -> Option<Vec<RecordHead>> {
        let table = frame.get(HEADER..self.bodies_at()?)?;
        if crc32fast::hash(table) != self.table_crc {
            return None;
        }
        let mut aligned = AlignedVec::<16>::with_capacity(table.len());
        aligned.extend_from_slice(table);
        crate::codec::decode(&aligned)
    }

    /// Bytes of the frame, padding included; `None` if that is absurd.
    pub fn frame_bytes(&self) -> Option<usize> {
        let body = usize::try_from(self.body_bytes).ok()?;
        let bytes = HEADER
            .checked_add(self.table_bytes as usize)?
            .checked_add(body)?;
        bytes.checked_next_multiple_of(BLOCK)
    }
}

/// Where in the chain a batch goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub store: u128,
    pub segment: SegmentNumber,
    pub incarnation: u64,
    pub sequence: BatchSeq,
    pub chain: u32,
}

/// The bodies and the table of a batch, ready but for the place it will have.
#[derive(Debug, Default)]
pub(crate) struct EncodedBatch {
    /// Header (blank), table, bodies, padding.
    pub frame: Vec<u8>,
    table_bytes: u32,
    table_crc: u32,
    body_bytes: u64,
}

fn head_of(entry: &Entry) -> EntryHead {
    EntryHead {
        term: entry.id.term,
        // An entry is at most a command of 16 MiB and what is put around it.
        bytes: u32::try_from(entry.data.len()).unwrap_or(u32::MAX),
        crc: entry_checksum(entry),
        kind: entry.kind,
    }
}

impl EncodedBatch {
    /// Encodes records once, into a buffer that is used again and again.
    pub fn encode(records: &[Record], mut frame: Vec<u8>) -> Self {
        let mut bodies: Vec<&Bytes> = Vec::new();
        let mut table = Vec::with_capacity(records.len());
        for record in records {
            table.push(match record {
                Record::Entries {
                    shard,
                    replica,
                    entries,
                } => {
                    bodies.extend(entries.iter().map(|entry| &entry.data));
                    RecordHead::Entries {
                        shard: *shard,
                        replica: *replica,
                        first: entries.first().map_or(0, |entry| entry.id.index),
                        entries: entries.iter().map(head_of).collect(),
                    }
                }
                Record::HardState {
                    shard,
                    replica,
                    state,
                } => RecordHead::HardState {
                    shard: *shard,
                    replica: *replica,
                    state: *state,
                },
                Record::Marker {
                    shard,
                    replica,
                    id,
                    conf,
                } => RecordHead::Marker {
                    shard: *shard,
                    replica: *replica,
                    id: *id,
                    conf: conf.clone(),
                },
                Record::Repair {
                    shard,
                    replica,
                    entry,
                } => {
                    bodies.push(&entry.data);
                    RecordHead::Repair {
                        shard: *shard,
                        replica: *replica,
                        index: entry.id.index,
                        entry: head_of(entry),
                    }
                }
                Record::Rewritten {
                    shard,
                    replica,
                    entries,
                    from,
                } => {
                    bodies.extend(entries.iter().map(|entry| &entry.data));
                    RecordHead::Rewritten {
                        shard: *shard,
                        replica: *replica,
                        first: entries.first().map_or(0, |entry| entry.id.index),
                        entries: entries.iter().map(head_of).collect(),
                        from: from.clone(),
                    }
                }
            });
        }
        let table = crate::codec::encode(&table);
        frame.clear();
        let body_bytes: usize = bodies.iter().map(|body| body.len()).sum();
        let total = (HEADER + table.len() + body_bytes).next_multiple_of(BLOCK);
        frame.reserve(total);
        frame.resize(HEADER, 0);
        frame.extend_from_slice(&table);
        for body in bodies {
            frame.extend_from_slice(body);
        }
        frame.resize(total, 0);
        Self {
            table_bytes: u32::try_from(table.len()).unwrap_or(u32::MAX),
            table_crc: crc32fast::hash(&table),
            body_bytes: body_bytes as u64,
            frame,
        }
    }

    /// Gives the batch its place. Returns the header's checksum, the chain of the next one.
    pub fn link(&mut self, link: Link) -> u32 {
        let header = BatchHeader {
            store: link.store,
            segment: link.segment,
            incarnation: link.incarnation,
            sequence: link.sequence,
            chain: link.chain,
            table_bytes: self.table_bytes,
            table_crc: self.table_crc,
            body_bytes: self.body_bytes,
            crc: 0,
        };
        header.encode(&mut self.frame[..HEADER])
    }

    /// Takes a frame as it was read, to link it anew.
    pub fn from_frame(header: &BatchHeader, frame: Vec<u8>) -> Self {
        Self {
            frame,
            table_bytes: header.table_bytes,
            table_crc: header.table_crc,
            body_bytes: header.body_bytes,
        }
    }
}

/// A batch as it was read.
#[derive(Debug)]
pub(crate) struct DecodedBatch {
    pub records: Vec<DecodedRecord>,
    /// Whether all bodies are whole.
    pub whole: bool,
}

/// A record as it was read: its head, and each entry's body or that it is damaged.
#[derive(Debug)]
pub(crate) struct DecodedRecord {
    pub head: RecordHead,
    pub entries: Vec<Result<Entry, (EntryId, u32)>>,
}

impl DecodedBatch {
    /// Reads the table and the bodies of a frame whose header is good. `None` if the table is bad:
    /// what the batch held is unknown.
    pub fn decode(header: &BatchHeader, frame: &[u8]) -> Option<Self> {
        let heads = header.table(frame)?;
        let mut bodies = frame.get(header.bodies_at()?..)?;
        let mut whole = true;
        let mut records = Vec::with_capacity(heads.len());
        for head in heads {
            let entries = head.read(bodies);
            whole &= entries.iter().all(Result::is_ok);
            bodies = bodies.get(head.body_bytes()..).unwrap_or_default();
            records.push(DecodedRecord { head, entries });
        }
        Some(Self { records, whole })
    }
}
