//! Reading value files: nothing that comes from the disk is believed before its checksum is.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{
    FILE_HEADER_BYTES, FORMAT, FooterEntry, RECORD_HEADER_BYTES, RecordHeader, TRAILER_BYTES,
    TRAILER_MAGIC, u32_at, u64_at,
};
use crate::disk::{DiskFile, read_exact_at};
use crate::index::Pointer;
use crate::manifest::FileState;
use crate::{FileNumber, Version, codec};

/// The open value files. Clones are the same table; the loop never looks into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileTable {
    files: Arc<RwLock<BTreeMap<FileNumber, Arc<dyn DiskFile>>>>,
}

impl FileTable {
    pub fn get(&self, number: FileNumber) -> Option<Arc<dyn DiskFile>> {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned()
    }

    pub fn insert(&self, number: FileNumber, file: Arc<dyn DiskFile>) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, file);
    }

    /// Takes a file out; readers that have it go on.
    pub fn remove(&self, number: FileNumber) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub key: Vec<u8>,
    pub version: Version,
    /// `None` for a delete.
    pub value: Option<Bytes>,
    /// All of it, as it lies in the file.
    pub raw: Bytes,
}

/// Why a record cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Its checksum, its key or its version is wrong.
    Damaged,
    /// The disk refuses.
    Disk(io::Error),
}

/// Reads the record that a pointer of `key` points to.
pub(crate) fn read_record(
    file: &dyn DiskFile,
    key: &[u8],
    pointer: &Pointer,
) -> Result<Record, ReadError> {
    let mut bytes = vec![0; pointer.bytes as usize];
    match read_exact_at(file, &mut bytes, u64::from(pointer.offset)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ReadError::Damaged);
        }
        Err(error) => return Err(ReadError::Disk(error)),
    }
    let record = decode_record(Bytes::from(bytes)).ok_or(ReadError::Damaged)?;
    // A write that landed in the wrong place has a good checksum and the wrong key.
    if record.key != key
        || record.version != pointer.version
        || record.value.is_none() != pointer.is_delete
    {
        return Err(ReadError::Damaged);
    }
    Ok(record)
}

/// Decodes bytes that are exactly one record.
pub(crate) fn decode_record(raw: Bytes) -> Option<Record> {
    let header = RecordHeader::decode(&raw)?;
    if header.record_bytes()? != raw.len() || crc32fast::hash(&raw[4..]) != header.crc {
        return None;
    }
    let value_at = RECORD_HEADER_BYTES + header.key_bytes as usize;
    Some(Record {
        key: raw[RECORD_HEADER_BYTES..value_at].to_vec(),
        version: header.version,
        value: (!header.is_delete).then(|| raw.slice(value_at..)),
        raw,
    })
}

/// Walks records that lie one after the other. Stops at the first bad one, which `good` says.
pub(crate) fn scan_records(bytes: &Bytes, mut visit: impl FnMut(usize, Record)) -> usize {
    let mut at = 0;
    while let Some(header) = bytes.get(at..).and_then(RecordHeader::decode) {
        let Some(end) = header
            .record_bytes()
            .and_then(|length| at.checked_add(length))
        else {
            break;
        };
        if end > bytes.len() {
            break;
        }
        let Some(record) = decode_record(bytes.slice(at..end)) else {
            break;
        };
        visit(at, record);
        at = end;
    }
    at
}

/// What a value file lists.
#[derive(Debug)]
pub(crate) struct Footer {
    pub entries: Vec<FooterEntry>,
    /// The footer was bad, and the entries come from the records themselves.
    pub from_records: bool,
    /// Not even the records tell what was there.
    pub lost: bool,
}

/// Reads the footer of a file that the manifest describes; from its records if the footer is bad.
pub(crate) fn read_footer(
    file: &dyn DiskFile,
    state: &FileState,
    store: u128,
) -> io::Result<Footer> {
    if let Some(entries) = footer_entries(file, state, store)? {
        return Ok(Footer {
            entries,
            from_records: false,
            lost: false,
        });
    }
    let length = file.len()?.min(state.bytes);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exact_at(file, &mut bytes, 0)?;
    let bytes = Bytes::from(bytes);
    let mut entries = Vec::new();
    let start = FILE_HEADER_BYTES.min(bytes.len());
    scan_records(&bytes.slice(start..), |at, record| {
        entries.push(FooterEntry {
            version: record.version,
            offset: u32::try_from(start + at).unwrap_or(u32::MAX),
            bytes: u32::try_from(record.raw.len()).unwrap_or(u32::MAX),
            is_delete: record.value.is_none(),
            key: record.key,
        });
    });
    let lost = entries.len() != state.records as usize;
    Ok(Footer {
        entries,
        from_records: true,
        lost,
    })
}

fn footer_entries(
    file: &dyn DiskFile,
    state: &FileState,
    store: u128,
) -> io::Result<Option<Vec<FooterEntry>>> {
    let Some(trailer_at) = state.bytes.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES];
    if file.read_at(&mut trailer, trailer_at)? != TRAILER_BYTES {
        return Ok(None);
    }
    let footer_at = u64_at(&trailer, 32);
    let footer_bytes = u32_at(&trailer, 40);
    let ours = u64_at(&trailer, 0) == TRAILER_MAGIC
        && u32_at(&trailer, 8) == FORMAT
        && u32_at(&trailer, 12) == state.records
        && trailer[16..32] == store.to_le_bytes()
        && u32_at(&trailer, 44) == state.footer_crc
        && u32_at(&trailer, 48) == crc32fast::hash(&trailer[..48])
        && footer_at.checked_add(u64::from(footer_bytes)) == Some(trailer_at);
    if !ours {
        return Ok(None);
    }
    let mut footer = rkyv::util::AlignedVec::<16>::with_capacity(footer_bytes as usize);
    footer.resize(footer_bytes as usize, 0);
    read_exact_at(file, &mut footer, footer_at)?;
    if crc32fast::hash(&footer) != state.footer_crc {
        return Ok(None);
    }
    Ok(codec::decode::<Vec<FooterEntry>>(&footer)
        .filter(|entries| entries.len() == state.records as usize))
}
