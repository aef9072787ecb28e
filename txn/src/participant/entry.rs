//! The data of a log entry: what the leader decided, as every replica applies it.
//!
//! ```text
//! entry   := version:u8 = 1 · term:u64 · epoch:u64 · batch:u64 · ceiling:u64 · record*
//! record  := 1 · version:u64 · count:varint · write*          a command's writes
//!          | 2 · length:varint · descriptor (rkyv)            the shard's own description
//!          | 3 · length:varint · record (rkyv)                a step of a transaction
//!          | 4 · term:u64 · plan:u64                          the controller that is followed
//!          | 5 · left · right (descriptors, each with length)  a split: alone in its entry
//!          | 6 · descriptor · count:varint · (key · value)*    a new shard's first rows: its first record
//!          | 7 · shard:u64                                     a shard that was split off has its rows
//!          | 8 · descriptor · side                            a freeze before a merge: alone in its entry
//!          | 9 · descriptor                                   the end of one, without a merge: alone
//!          | 10 · descriptor · right, as in 6                 a merge: alone in its entry
//!          | 11 · at:u64 · kept:u64                           a version that is closed
//! side    := shard:u64 · epoch:u64 · key
//! write   := 0 · key                                          delete
//!          | 1 · key · value                                  put
//! key, value := length:varint · bytes
//! ```
//!
//! Fixed integers are little-endian; a varint has seven bits a byte, the lowest first. One entry
//! holds all commands that were evaluated for a shard in one turn of the loop: consensus, encoding
//! and the log's fixed costs are paid once for all of them. Decoding copies nothing: keys and values
//! are slices of the entry.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use synod_storage::{ShardId, Version};

use super::event::Batch;
use super::merging::LeftSide;
use super::snapshots::Closed;
use super::transactions::{self, TxnRecord};
use crate::shard_map::{Authority, ShardDescriptor};
use crate::value::Value;

const FORMAT: u8 = 1;
const RECORD_WRITES: u8 = 1;
const RECORD_DESCRIPTOR: u8 = 2;
const RECORD_TXN: u8 = 3;
const RECORD_AUTHORITY: u8 = 4;
const RECORD_SPLIT: u8 = 5;
const RECORD_BIRTH: u8 = 6;
const RECORD_WEANED: u8 = 7;
const RECORD_FREEZE: u8 = 8;
const RECORD_THAW: u8 = 9;
const RECORD_MERGE: u8 = 10;
const RECORD_CLOSED: u8 = 11;
const WRITE_DELETE: u8 = 0;
const WRITE_PUT: u8 = 1;

/// What stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The term in which the commands were evaluated. The entry has an effect only if this is the
    /// term of the log entry that it came in.
    pub(super) term: u64,
    /// The shard's epoch at evaluation.
    pub(super) epoch: u64,
    /// The batch's number within the term.
    pub(super) batch: Batch,
    /// The leader promises nothing above this version until a later entry raises it.
    pub(super) ceiling: Version,
}

/// One record of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// The writes of one command: all or nothing, all at one version.
    Writes {
        /// Their version.
        version: Version,
        /// Keys, and what is stored under them from now on.
        writes: Vec<(Bytes, Option<Bytes>)>,
    },
    /// The shard's description from now on.
    Descriptor(ShardDescriptor),
    /// A step of a transaction.
    Txn(TxnRecord),
    /// The shard follows no controller below this one any more.
    Authority(Authority),
    /// The shard ends at a key, and a new one begins there.
    Split(Split),
    /// What a new shard begins with.
    Birth(Birth),
    /// A shard that was split off has taken its first rows: nobody needs to keep them for it.
    Weaned(ShardId),
    /// The shard ends here, unless it is said not to have been merged.
    Freeze(Freeze),
    /// It was not: this is the shard again.
    Thaw(ShardDescriptor),
    /// The right neighbour, which is frozen, becomes a part of the shard.
    Merge(Merge),
    /// Nothing will be written at or below a version any more.
    Closed(Closed),
}

/// What a shard becomes that is to be merged into its left neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Freeze {
    /// The shard, in its next epoch.
    pub(super) descriptor: ShardDescriptor,
    /// The neighbour.
    pub(super) into: LeftSide,
}

/// Both sides of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// The shard from here on.
    pub(super) left: ShardDescriptor,
    /// The right neighbour, and the rows that go with its keys.
    pub(super) right: Birth,
}

/// Both sides of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// The shard from here on.
    pub(super) left: ShardDescriptor,
    /// The new shard.
    pub(super) right: ShardDescriptor,
}

/// A shard, and what it knows of itself: what a new one begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    /// The shard.
    pub(super) descriptor: ShardDescriptor,
    /// Rows of its own.
    pub(super) rows: Vec<(Bytes, Bytes)>,
}

/// An entry that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed log entry: {0}")]
pub(super) struct Malformed(&'static str);

const HEADER_BYTES: usize = 1 + 4 * 8;

/// Builds an entry, record by record.
#[derive(Clone, Debug)]
pub(super) struct EntryBuilder {
    out: BytesMut,
}

impl EntryBuilder {
    pub(super) fn new() -> EntryBuilder {
        let mut out = BytesMut::with_capacity(4096);
        out.put_bytes(0, HEADER_BYTES);
        EntryBuilder { out }
    }

    /// Adds a command's writes.
    pub(super) fn writes(&mut self, version: Version, writes: &[(Bytes, Option<Value>)]) {
        let size_bytes: usize = writes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Value::encoded_len) + 11)
            .sum();
        self.out.reserve(size_bytes + 19);
        self.out.put_u8(RECORD_WRITES);
        self.out.put_u64_le(version.0);
        put_varint(&mut self.out, writes.len());
        for (key, value) in writes {
            match value {
                None => {
                    self.out.put_u8(WRITE_DELETE);
                    put_bytes(&mut self.out, key);
                }
                Some(value) => {
                    self.out.put_u8(WRITE_PUT);
                    put_bytes(&mut self.out, key);
                    put_varint(&mut self.out, value.encoded_len());
                    value.encode_into(&mut self.out);
                }
            }
        }
    }

    /// Adds a description.
    pub(super) fn descriptor(&mut self, descriptor: &ShardDescriptor) {
        self.out.put_u8(RECORD_DESCRIPTOR);
        put_bytes(&mut self.out, &encode_descriptor(descriptor));
    }

    /// Adds a step of a transaction.
    pub(super) fn txn(&mut self, record: &TxnRecord) {
        self.out.put_u8(RECORD_TXN);
        transactions::put_record(&mut self.out, record);
    }

    /// Adds a controller that is followed from here on.
    pub(super) fn authority(&mut self, authority: Authority) {
        self.out.put_u8(RECORD_AUTHORITY);
        self.out.put_u64_le(authority.term);
        self.out.put_u64_le(authority.plan);
    }

    /// Adds a split.
    pub(super) fn split(&mut self, split: &Split) {
        self.out.put_u8(RECORD_SPLIT);
        put_bytes(&mut self.out, &encode_descriptor(&split.left));
        put_bytes(&mut self.out, &encode_descriptor(&split.right));
    }

    /// Adds a new shard's first rows.
    pub(super) fn birth(&mut self, birth: &Birth) {
        self.out.put_u8(RECORD_BIRTH);
        put_birth(&mut self.out, birth);
    }

    /// Adds that a shard that was split off has its rows.
    pub(super) fn weaned(&mut self, shard: ShardId) {
        self.out.put_u8(RECORD_WEANED);
        self.out.put_u64_le(shard.0);
    }

    /// Adds the freeze before a merge.
    pub(super) fn freeze(&mut self, freeze: &Freeze) {
        self.out.put_u8(RECORD_FREEZE);
        put_bytes(&mut self.out, &encode_descriptor(&freeze.descriptor));
        put_side(&mut self.out, &freeze.into);
    }

    /// Adds that a freeze is over.
    pub(super) fn thaw(&mut self, descriptor: &ShardDescriptor) {
        self.out.put_u8(RECORD_THAW);
        put_bytes(&mut self.out, &encode_descriptor(descriptor));
    }

    /// Adds a merge.
    pub(super) fn merge(&mut self, merge: &Merge) {
        self.out.put_u8(RECORD_MERGE);
        put_bytes(&mut self.out, &encode_descriptor(&merge.left));
        put_birth(&mut self.out, &merge.right);
    }

    /// Adds that a version is closed.
    pub(super) fn closed(&mut self, closed: Closed) {
        self.out.put_u8(RECORD_CLOSED);
        self.out.put_slice(&closed.encode());
    }

    /// How long the entry is by now.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// The entry's data.
    pub(super) fn finish(mut self, header: Header) -> Bytes {
        let mut head = &mut self.out[..HEADER_BYTES];
        head.put_u8(FORMAT);
        head.put_u64_le(header.term);
        head.put_u64_le(header.epoch);
        head.put_u64_le(header.batch.0);
        head.put_u64_le(header.ceiling.0);
        self.out.freeze()
    }
}

/// Reads an entry. Whole, before anything of it is applied: half an entry is never applied.
pub(super) fn decode(data: &Bytes) -> Result<(Header, Vec<Record>), Malformed> {
    let mut rest = data.clone();
    if rest.len() < HEADER_BYTES {
        return Err(Malformed("too short"));
    }
    if rest.get_u8() != FORMAT {
        return Err(Malformed("unknown format"));
    }
    let header = Header {
        term: rest.get_u64_le(),
        epoch: rest.get_u64_le(),
        batch: Batch(rest.get_u64_le()),
        ceiling: Version(rest.get_u64_le()),
    };
    let mut records = Vec::new();
    while rest.has_remaining() {
        records.push(decode_record(&mut rest)?);
    }
    Ok((header, records))
}

fn decode_record(rest: &mut Bytes) -> Result<Record, Malformed> {
    match rest.get_u8() {
        RECORD_WRITES => {
            let version = rest
                .try_get_u64_le()
                .map_err(|_| Malformed("cut version"))?;
            let count = get_varint(rest)?;
            // At least two bytes a write: a count that cannot be is not believed.
            if count > rest.len() / 2 {
                return Err(Malformed("impossible count"));
            }
            let mut writes = Vec::with_capacity(count);
            for _ in 0..count {
                let kind = rest.try_get_u8().map_err(|_| Malformed("cut write"))?;
                let key = get_bytes(rest)?;
                let value = match kind {
                    WRITE_DELETE => None,
                    WRITE_PUT => Some(get_bytes(rest)?),
                    _ => return Err(Malformed("unknown kind of write")),
                };
                writes.push((key, value));
            }
            Ok(Record::Writes {
                version: Version(version),
                writes,
            })
        }
        RECORD_DESCRIPTOR => decode_descriptor(&get_bytes(rest)?).map(Record::Descriptor),
        RECORD_TXN => transactions::decode_record(&get_bytes(rest)?)
            .map(Record::Txn)
            .ok_or(Malformed("bad step of a transaction")),
        RECORD_AUTHORITY => {
            let mut word = || {
                rest.try_get_u64_le()
                    .map_err(|_| Malformed("cut authority"))
            };
            Ok(Record::Authority(Authority {
                term: word()?,
                plan: word()?,
            }))
        }
        RECORD_SPLIT => Ok(Record::Split(Split {
            left: decode_descriptor(&get_bytes(rest)?)?,
            right: decode_descriptor(&get_bytes(rest)?)?,
        })),
        RECORD_BIRTH => get_birth(rest).map(Record::Birth),
        RECORD_WEANED => {
            let shard = rest.try_get_u64_le().map_err(|_| Malformed("cut shard"))?;
            Ok(Record::Weaned(ShardId(shard)))
        }
        RECORD_FREEZE => Ok(Record::Freeze(Freeze {
            descriptor: decode_descriptor(&get_bytes(rest)?)?,
            into: get_side(rest)?,
        })),
        RECORD_THAW => decode_descriptor(&get_bytes(rest)?).map(Record::Thaw),
        RECORD_MERGE => Ok(Record::Merge(Merge {
            left: decode_descriptor(&get_bytes(rest)?)?,
            right: get_birth(rest)?,
        })),
        RECORD_CLOSED if rest.len() >= 16 => Closed::decode(&rest.split_to(16))
            .map(Record::Closed)
            .ok_or(Malformed("bad closed version")),
        _ => Err(Malformed("unknown kind of record")),
    }
}

/// A description's bytes, in an entry and in the shard's own row.
pub(super) fn encode_descriptor(descriptor: &ShardDescriptor) -> Bytes {
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(descriptor)
        .expect("a descriptor is plain data: serialising it into memory cannot fail");
    Bytes::copy_from_slice(&bytes)
}

/// Reads a description's bytes.
pub(super) fn decode_descriptor(bytes: &[u8]) -> Result<ShardDescriptor, Malformed> {
    // Slices of an entry have no alignment.
    let mut aligned: rkyv::util::AlignedVec = rkyv::util::AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<ShardDescriptor, rkyv::rancor::Error>(&aligned)
        .map_err(|_| Malformed("bad descriptor"))
}

fn put_birth(out: &mut BytesMut, birth: &Birth) {
    put_bytes(out, &encode_descriptor(&birth.descriptor));
    put_varint(out, birth.rows.len());
    for (key, value) in &birth.rows {
        put_bytes(out, key);
        put_bytes(out, value);
    }
}

fn get_birth(rest: &mut Bytes) -> Result<Birth, Malformed> {
    let descriptor = decode_descriptor(&get_bytes(rest)?)?;
    let count = get_varint(rest)?;
    // At least two bytes a row: a count that cannot be is not believed.
    if count > rest.len() / 2 {
        return Err(Malformed("impossible count"));
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        rows.push((get_bytes(rest)?, get_bytes(rest)?));
    }
    Ok(Birth { descriptor, rows })
}

/// The bytes of the row that keeps a new shard's first rows until it has them.
pub(super) fn encode_birth(birth: &Birth) -> Bytes {
    let mut out = BytesMut::new();
    put_birth(&mut out, birth);
    out.freeze()
}

/// Reads that row.
pub(super) fn decode_birth(row: &Bytes) -> Result<Birth, Malformed> {
    get_birth(&mut row.clone())
}

fn put_side(out: &mut BytesMut, side: &LeftSide) {
    out.put_u64_le(side.shard.0);
    out.put_u64_le(side.epoch);
    put_bytes(out, &side.start);
}

fn get_side(rest: &mut Bytes) -> Result<LeftSide, Malformed> {
    let mut word = || rest.try_get_u64_le().map_err(|_| Malformed("cut side"));
    let (shard, epoch) = (ShardId(word()?), word()?);
    let start = get_bytes(rest)?;
    Ok(LeftSide {
        shard,
        epoch,
        start,
    })
}

/// The bytes of the row that says what a shard is frozen for.
pub(super) fn encode_side(side: &LeftSide) -> Bytes {
    let mut out = BytesMut::new();
    put_side(&mut out, side);
    out.freeze()
}

/// Reads that row.
pub(super) fn decode_side(row: &Bytes) -> Result<LeftSide, Malformed> {
    get_side(&mut row.clone())
}

/// The bytes of the row that holds the controller.
pub(super) fn encode_authority(authority: Authority) -> Bytes {
    let mut row = BytesMut::with_capacity(16);
    row.put_u64_le(authority.term);
    row.put_u64_le(authority.plan);
    row.freeze()
}

/// Reads that row.
pub(super) fn decode_authority(mut row: &[u8]) -> Option<Authority> {
    let term = row.try_get_u64_le().ok()?;
    let plan = row.try_get_u64_le().ok()?;
    Some(Authority { term, plan })
}

fn put_varint(out: &mut BytesMut, value: usize) {
    let mut value = value as u64;
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.put_slice(bytes);
}

fn get_varint(rest: &mut Bytes) -> Result<usize, Malformed> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let byte = rest.try_get_u8().map_err(|_| Malformed("cut length"))?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| Malformed("impossible length"));
        }
    }
    Err(Malformed("endless length"))
}

fn get_bytes(rest: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = get_varint(rest)?;
    match len <= rest.len() {
        true => Ok(rest.split_to(len)),
        false => Err(Malformed("cut bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use synod_storage::KeyRange;

    fn header() -> Header {
        Header {
            term: 3,
            epoch: 4,
            batch: Batch(5),
            ceiling: Version(6),
        }
    }

    #[test]
    fn an_entry_holds_what_was_put_in() {
        let descriptor = ShardDescriptor {
            shard: ShardId(7),
            epoch: 9,
            range: KeyRange::new("a", "b"),
            replicas: Vec::new(),
        };
        let mut builder = EntryBuilder::new();
        let value = Value {
            data: Bytes::from_static(b"v"),
            deadline_ms: Some(77),
        };
        let key = Bytes::from_static(b"k");
        builder.writes(
            Version(10),
            &[(key.clone(), Some(value.clone())), (key.clone(), None)],
        );
        builder.descriptor(&descriptor);
        let (read, records) = decode(&builder.finish(header())).unwrap();
        assert_eq!(read, header());
        assert_eq!(
            records,
            vec![
                Record::Writes {
                    version: Version(10),
                    writes: vec![(key.clone(), Some(value.encode())), (key, None)],
                },
                Record::Descriptor(descriptor),
            ]
        );
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(
            tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut data = BytesMut::from(&EntryBuilder::new().finish(header())[..]);
            data.put_slice(&tail);
            let _ = decode(&data.freeze());
            let _ = decode(&Bytes::from(tail));
        }

        #[test]
        fn a_cut_entry_never_reads_as_another(cut in 0usize..60) {
            let mut builder = EntryBuilder::new();
            let value = Value::plain(Bytes::from_static(b"0123456789"));
            builder.writes(Version(1), &[(Bytes::from_static(b"key"), Some(value))]);
            let whole = builder.finish(header());
            if cut < whole.len() && cut != HEADER_BYTES {
                prop_assert!(decode(&whole.slice(..cut)).is_err());
            }
        }
    }
}
