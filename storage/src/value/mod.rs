//! Value files: what the rows live in for good.
//!
//! A value file is written once, sorted by key, by a checkpoint, a reclaim or a snapshot, and never
//! changed. Each record carries a checksum over key, version and value that is checked at every read;
//! a footer lists keys, versions and places, so that the index can be rebuilt by reading a twentieth
//! of the data. With the footer gone the records still say what they are.
//!
//! ```text
//! header    16 B: magic u64, format u32, zero u32
//! record    24 B: crc u32, key length u32, value length u32, operation u8, zero u8[3], version u64;
//!           then the key in its index form, then the value
//! footer    rkyv: per record key, version, offset, length, operation
//! trailer   64 B: magic u64, format u32, records u32, store u128, footer offset u64, footer length u32,
//!           footer crc u32, crc u32, zeros
//! ```

mod reader;
mod writer;

pub(crate) use reader::{FileTable, ReadError, Record, read_footer, read_record, scan_records};
pub(crate) use writer::ValueWriter;

use crate::{FileNumber, Version};

/// Where value files live.
pub(crate) const VALUES_DIR: &str = "values";

/// The first bytes of a file.
const FILE_MAGIC: u64 = u64::from_le_bytes(*b"SYNODVAL");
const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"SYNODEND");
/// Raised when the layout changes.
const FORMAT: u32 = 1;
const FILE_HEADER_BYTES: usize = 16;
/// The fixed part of a record.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
const TRAILER_BYTES: usize = 64;

pub(crate) fn value_path(number: FileNumber) -> String {
    format!("{VALUES_DIR}/{:012}", number.0)
}

pub(crate) fn parse_name(name: &str) -> Option<FileNumber> {
    name.parse().ok().map(FileNumber)
}

/// What the footer says of a record. The ordinal is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct FooterEntry {
    pub key: Vec<u8>,
    pub version: Version,
    pub offset: u32,
    pub bytes: u32,
    pub is_delete: bool,
}

/// The fixed part of a record, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordHeader {
    crc: u32,
    key_bytes: u32,
    value_bytes: u32,
    is_delete: bool,
    version: Version,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl RecordHeader {
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER_BYTES || bytes[12] > 1 {
            return None;
        }
        Some(Self {
            crc: u32_at(bytes, 0),
            key_bytes: u32_at(bytes, 4),
            value_bytes: u32_at(bytes, 8),
            is_delete: bytes[12] == 1,
            version: Version(u64_at(bytes, 16)),
        })
    }

    /// Bytes of the whole record; `None` if they are absurd.
    fn record_bytes(&self) -> Option<usize> {
        RECORD_HEADER_BYTES
            .checked_add(self.key_bytes as usize)?
            .checked_add(self.value_bytes as usize)
            .filter(|bytes| *bytes <= u32::MAX as usize)
    }
}
