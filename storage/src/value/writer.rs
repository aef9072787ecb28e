//! Writing a value file, a chunk at a time.

use std::io;
use std::sync::Arc;

use synod_testpoint::planted;

use super::{
    FILE_HEADER_BYTES, FILE_MAGIC, FORMAT, FooterEntry, RECORD_HEADER_BYTES, TRAILER_BYTES,
    TRAILER_MAGIC,
};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::index::Pointer;
use crate::manifest::FileState;
use crate::{FileNumber, Version, codec};

/// A file is synced this often while it is written: the log's own syncs would have to wait behind one
/// sync of it all.
const SYNC_EVERY_BYTES: u64 = 4 << 20;

/// A value file in the making. Records come in the order of their index keys; of one key the newest
/// first.
#[derive(Debug)]
pub(crate) struct ValueWriter {
    path: String,
    file: Arc<dyn DiskFile>,
    number: FileNumber,
    store: u128,
    buffer: Vec<u8>,
    /// Bytes that left the buffer.
    written: u64,
    /// Of these, bytes that are durable already.
    synced: u64,
    footer: Vec<FooterEntry>,
    deletes: u32,
    oldest: FileNumber,
}

impl ValueWriter {
    /// Begins a file; it counts for nothing until the manifest names it.
    pub fn create(
        disk: &dyn Disk,
        path: String,
        number: FileNumber,
        store: u128,
    ) -> io::Result<Self> {
        let file = disk.open(&path, OpenMode::Create)?;
        let mut buffer = Vec::new();
        buffer.extend(FILE_MAGIC.to_le_bytes());
        buffer.extend(FORMAT.to_le_bytes());
        buffer.extend([0; 4]);
        Ok(Self {
            path,
            file,
            number,
            store,
            buffer,
            written: 0,
            synced: 0,
            footer: Vec::new(),
            deletes: 0,
            oldest: number,
        })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn file(&self) -> Arc<dyn DiskFile> {
        Arc::clone(&self.file)
    }

    pub fn number(&self) -> FileNumber {
        self.number
    }

    /// Bytes of records so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The records of this file may be as old as those of another one.
    pub fn inherit_age(&mut self, oldest: FileNumber) {
        self.oldest = self.oldest.min(oldest);
    }

    /// Adds a record; `None` as value is a delete. Returns where it lies.
    pub fn push(&mut self, key: &[u8], version: Version, value: Option<&[u8]>) -> Pointer {
        let offset = self.bytes();
        let value_bytes = value.unwrap_or_default();
        let bytes = RECORD_HEADER_BYTES + key.len() + value_bytes.len();
        // Keys and values are bounded by the published limits, files by their options.
        let narrow = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let start = self.buffer.len();
        self.buffer.reserve(bytes);
        self.buffer.extend([0; 4]);
        self.buffer.extend(narrow(key.len()).to_le_bytes());
        self.buffer.extend(narrow(value_bytes.len()).to_le_bytes());
        self.buffer.extend([u8::from(value.is_none()), 0, 0, 0]);
        self.buffer.extend(version.0.to_le_bytes());
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value_bytes);
        let crc = crc32fast::hash(&self.buffer[start + 4..]);
        self.buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.note(key, version, offset, narrow(bytes), value.is_none())
    }

    /// Adds a record as it lies in another file, checksum and all.
    pub fn push_raw(
        &mut self,
        key: &[u8],
        version: Version,
        is_delete: bool,
        record: &[u8],
    ) -> Pointer {
        let offset = self.bytes();
        self.buffer.extend_from_slice(record);
        self.note(
            key,
            version,
            offset,
            u32::try_from(record.len()).unwrap_or(u32::MAX),
            is_delete,
        )
    }

    fn note(
        &mut self,
        key: &[u8],
        version: Version,
        offset: u64,
        bytes: u32,
        is_delete: bool,
    ) -> Pointer {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let ordinal = u32::try_from(self.footer.len()).unwrap_or(u32::MAX);
        self.footer.push(FooterEntry {
            key: key.to_vec(),
            version,
            offset,
            bytes,
            is_delete,
        });
        self.deletes += u32::from(is_delete);
        Pointer {
            version,
            file: self.number,
            ordinal,
            offset,
            bytes,
            is_delete,
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Writes footer and trailer, and syncs the file; its name is its directory's affair.
    pub fn finish(&mut self) -> io::Result<FileState> {
        let footer_offset = self.bytes();
        let footer = codec::encode(&self.footer);
        let footer_crc = crc32fast::hash(&footer);
        self.buffer.extend_from_slice(&footer);
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        let records = u32::try_from(self.footer.len()).unwrap_or(u32::MAX);
        trailer.extend(TRAILER_MAGIC.to_le_bytes());
        trailer.extend(FORMAT.to_le_bytes());
        trailer.extend(records.to_le_bytes());
        trailer.extend(self.store.to_le_bytes());
        trailer.extend(footer_offset.to_le_bytes());
        trailer.extend(
            u32::try_from(footer.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        trailer.extend(footer_crc.to_le_bytes());
        let crc = crc32fast::hash(&trailer);
        trailer.extend(crc.to_le_bytes());
        trailer.resize(TRAILER_BYTES, 0);
        self.buffer.extend(trailer);
        self.flush()?;
        self.buffer = Vec::new();
        if !planted!(SkipsValueSync) {
            self.file.sync_data()?;
        }
        Ok(FileState {
            bytes: self.written,
            record_bytes: footer_offset - FILE_HEADER_BYTES as u64,
            records,
            deletes: self.deletes,
            footer_crc,
            oldest: self.oldest,
            first_key: self
                .footer
                .first()
                .map(|entry| entry.key.clone())
                .unwrap_or_default(),
            last_key: self
                .footer
                .last()
                .map(|entry| entry.key.clone())
                .unwrap_or_default(),
        })
    }

    /// The records of the finished file, to be put into the index.
    pub fn into_footer(self) -> Vec<FooterEntry> {
        self.footer
    }
}
