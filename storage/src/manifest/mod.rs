//! The manifest: a small append-only file that says which value files there are, how far they bring
//! each replica, where the log begins and how far the index is complete.
//!
//! A checkpoint, a reclaim, a snapshot, a drop has happened when its record here is durable, and not
//! before. Since nothing else could tell, the manifest is kept twice. A record goes to copy `a`, is
//! synced, then to copy `b`, is synced; so at most one copy has a torn end, and a copy that is damaged
//! is repaired from the other. Both are written anew at every start: what the page cache shows of a
//! record whose sync failed is either made durable then, or gone for good.
//!
//! ```text
//! manifest-GENERATION-a, -b   zero-filled ahead, records at multiples of 8 bytes:
//! record    magic u32, length u32, sequence u64, crc u32, zero u32, then rkyv: a list of edits
//! ```

mod state;

use std::io;
use std::sync::Arc;

pub(crate) use state::{
    Edit, FileState, IndexState, RangeDrop, ReplicaState, State, ThresholdState,
};

use crate::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use crate::{Fatal, OpenError, codec};

const MAGIC: u32 = u32::from_le_bytes(*b"SYNM");
/// Raised when the layout changes; part of every record's checksum.
const FORMAT: u32 = 1;
const HEADER: usize = 24;
const COPIES: [&str; 2] = ["a", "b"];

fn path(generation: u64, copy: &str) -> String {
    format!("manifest-{generation:08}-{copy}")
}

fn parse_name(name: &str) -> Option<(u64, usize)> {
    let (generation, copy) = name.strip_prefix("manifest-")?.split_once('-')?;
    let copy = COPIES.iter().position(|known| *known == copy)?;
    Some((generation.parse().ok()?, copy))
}

fn record_crc(sequence: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&FORMAT.to_le_bytes());
    crc.update(&sequence.to_le_bytes());
    crc.update(&(payload.len() as u64).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn encode_record(sequence: u64, edits: &Vec<Edit>) -> Vec<u8> {
    let payload = codec::encode(edits);
    let mut record = Vec::with_capacity(HEADER + payload.len() + 8);
    record.extend(MAGIC.to_le_bytes());
    record.extend(
        u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    record.extend(sequence.to_le_bytes());
    record.extend(record_crc(sequence, &payload).to_le_bytes());
    record.extend([0; 4]);
    record.extend_from_slice(&payload);
    record.resize(record.len().next_multiple_of(8), 0);
    record
}

/// Why an edit did not happen.
#[derive(Debug)]
pub(crate) enum ManifestError {
    /// No space. Nothing was changed.
    Full,
    /// The node must stop.
    Fatal(Fatal),
}

/// The manifest, open for appending.
///
/// Invariants: both copies are the same up to `offset`, and durable; `state` is what they say.
#[derive(Debug)]
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    generation: u64,
    files: [Arc<dyn DiskFile>; 2],
    capacity: u64,
    offset: u64,
    sequence: u64,
    bytes: u64,
    pub state: State,
}

/// One copy, as far as it can be read.
struct Copy {
    edits: Vec<Vec<Edit>>,
    /// Whether what follows is not the zeros that an intact end has.
    bad_end: bool,
}

fn read_copy(disk: &dyn Disk, path: &str) -> io::Result<Option<Copy>> {
    let file = match disk.open(path, OpenMode::Existing) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
    read_exact_at(&*file, &mut bytes, 0)?;
    let mut copy = Copy {
        edits: Vec::new(),
        bad_end: false,
    };
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let word = |from: usize| {
            u32::from_le_bytes([
                header[from],
                header[from + 1],
                header[from + 2],
                header[from + 3],
            ])
        };
        let sequence = u64::from(word(8)) | u64::from(word(12)) << 32;
        let payload = bytes.get(at + HEADER..at + HEADER + word(4) as usize);
        let record = payload
            .filter(|payload| {
                word(0) == MAGIC
                    && sequence == copy.edits.len() as u64
                    && word(16) == record_crc(sequence, payload)
            })
            .and_then(codec::decode_unaligned::<Vec<Edit>>);
        let Some(edits) = record else {
            copy.bad_end = header.iter().any(|byte| *byte != 0);
            break;
        };
        at += (HEADER + word(4) as usize).next_multiple_of(8);
        copy.edits.push(edits);
    }
    Ok(Some(copy))
}

/// What reading the manifest found.
#[derive(Debug)]
pub(crate) struct ReadManifest {
    /// `None` for an empty directory.
    pub state: Option<State>,
    generation: u64,
    /// What was repaired from the other copy, for the operator.
    pub repaired: Vec<String>,
}

/// Reads the newest generation; changes nothing.
pub(crate) fn read(disk: &dyn Disk) -> Result<ReadManifest, OpenError> {
    let names = disk
        .list("")
        .map_err(OpenError::disk("cannot list the data directory"))?;
    let generation = names
        .iter()
        .filter_map(|name| parse_name(name))
        .map(|(g, _)| g)
        .max();
    let Some(generation) = generation else {
        return Ok(ReadManifest {
            state: None,
            generation: 0,
            repaired: Vec::new(),
        });
    };
    let mut best: Option<Copy> = None;
    let mut repaired = Vec::new();
    let mut bad_ends = 0;
    let mut read_bytes = [0, 0];
    for (number, copy) in COPIES.iter().enumerate() {
        let path = path(generation, copy);
        let read = read_copy(disk, &path)
            .map_err(OpenError::disk(format!("cannot read {path}")))?
            .unwrap_or(Copy {
                edits: Vec::new(),
                bad_end: false,
            });
        read_bytes[number] = read.edits.len();
        bad_ends += usize::from(read.bad_end);
        if read.bad_end {
            repaired.push(format!("{path}: bad after record {}", read.edits.len()));
        }
        if best
            .as_ref()
            .is_none_or(|best| best.edits.len() < read.edits.len())
        {
            best = Some(read);
        }
    }
    let best = best.unwrap_or(Copy {
        edits: Vec::new(),
        bad_end: true,
    });
    // A crash tears one copy: the other one either has the record or ends cleanly before it.
    let both_bad = bad_ends == 2 && read_bytes[0] == read_bytes[1];
    let starts_well = matches!(
        best.edits.first().and_then(|e| e.first()),
        Some(Edit::Reset(_))
    );
    if both_bad || !starts_well {
        return Err(OpenError::Damaged {
            file: path(generation, "a"),
            what: format!("both copies are bad after record {}", best.edits.len()),
        });
    }
    let mut state = State::default();
    for edit in best.edits.iter().flatten() {
        state.apply(edit);
    }
    Ok(ReadManifest {
        state: Some(state),
        generation,
        repaired,
    })
}

impl Manifest {
    /// Writes a new generation that says `state`, and makes it the current one.
    pub fn create(
        disk: Arc<dyn Disk>,
        read: &ReadManifest,
        state: State,
        bytes: u64,
    ) -> Result<Self, ManifestError> {
        let generation = read.generation + 1;
        let (files, offset, capacity) = write_generation(&*disk, generation, &state, bytes)?;
        let manifest = Self {
            disk,
            generation,
            files,
            capacity,
            offset,
            sequence: 1,
            bytes,
            state,
        };
        manifest.remove_older();
        Ok(manifest)
    }

    fn remove_older(&self) {
        for name in self.disk.list("").unwrap_or_default() {
            if parse_name(&name).is_some_and(|(generation, _)| generation < self.generation) {
                // Left over, it is removed at the next start.
                let _ = self.disk.remove(&name);
            }
        }
    }

    /// Appends a record of edits and applies it: the commit point of all background work. Durable in
    /// both copies when this returns.
    pub fn append(&mut self, edits: Vec<Edit>) -> Result<(), ManifestError> {
        let record = encode_record(self.sequence, &edits);
        if self.offset + record.len() as u64 > self.capacity {
            let mut state = self.state.clone();
            for edit in &edits {
                state.apply(edit);
            }
            let generation = self.generation + 1;
            let (files, offset, capacity) =
                write_generation(&*self.disk, generation, &state, self.bytes)?;
            self.state = state;
            (self.generation, self.files, self.offset, self.capacity) =
                (generation, files, offset, capacity);
            self.sequence = 1;
            self.remove_older();
            return Ok(());
        }
        for (file, copy) in self.files.iter().zip(COPIES) {
            let fatal = |error| {
                let path = path(self.generation, copy);
                ManifestError::Fatal(Fatal::disk(format!("cannot append to {path}"), error))
            };
            file.write_at(&record, self.offset).map_err(fatal)?;
            file.sync_data().map_err(fatal)?;
        }
        self.offset += record.len() as u64;
        self.sequence += 1;
        for edit in &edits {
            self.state.apply(edit);
        }
        Ok(())
    }
}

type Generation = ([Arc<dyn DiskFile>; 2], u64, u64);

/// Writes both copies under temporary names, syncs them, and only then names them.
fn write_generation(
    disk: &dyn Disk,
    generation: u64,
    state: &State,
    bytes: u64,
) -> Result<Generation, ManifestError> {
    let record = encode_record(0, &vec![Edit::Reset(state.clone())]);
    let capacity = bytes.max(record.len() as u64 * 2).next_multiple_of(4096);
    let mut content = vec![0; usize::try_from(capacity).unwrap_or(record.len())];
    content[..record.len()].copy_from_slice(&record);
    let temporary = |copy: &str| format!("new-manifest-{copy}");
    let written = (|| -> io::Result<[Arc<dyn DiskFile>; 2]> {
        let files = [
            disk.open(&temporary(COPIES[0]), OpenMode::Create)?,
            disk.open(&temporary(COPIES[1]), OpenMode::Create)?,
        ];
        for file in &files {
            file.write_at(&content, 0)?;
            file.sync_data()?;
        }
        Ok(files)
    })();
    let files = written.map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull {
            for copy in COPIES {
                // It may not exist; the space is what matters.
                let _ = disk.remove(&temporary(copy));
            }
            return ManifestError::Full;
        }
        ManifestError::Fatal(Fatal::disk("cannot write a new manifest", error))
    })?;
    let named = COPIES
        .iter()
        .try_for_each(|copy| disk.rename(&temporary(copy), &path(generation, copy)))
        .and_then(|()| disk.sync_dir(""));
    named.map_err(|error| {
        ManifestError::Fatal(Fatal::disk("cannot name the new manifest", error))
    })?;
    Ok((files, record.len() as u64, capacity))
}
