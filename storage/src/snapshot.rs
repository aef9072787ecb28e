//! Snapshots: a shard's whole state, on its way out or in.
//!
//! *Out.* A checkpoint is made, and straight after it, before the next one can change anything, the
//! pointers of all the shard's rows are copied, and the files they point into are held open. Value
//! files never change, so these pointers are exactly the state at the checkpoint's applied entry for as
//! long as they are kept, at about fifty bytes a row; nothing is copied, nothing is blocked. Chunks are
//! cut by the lengths in the pointers, so any chunk can be read at any time.
//!
//! *In.* Chunks are validated and written into value files of their own that nobody knows. When the
//! last one is durable, one record of the manifest drops the shard's old rows and takes the files in.
//! A crash before it leaves no trace, a crash after it leaves the new state.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::background::{Desk, FinishedFile, Indexing, Trouble, disk_trouble, rebuild::Forgetting};
use crate::disk::DiskFile;
use crate::index::{Index, IndexKey, Pointer, Tree, pointer};
use crate::manifest::{Edit, ManifestError, RangeDrop, ReplicaState};
use crate::threshold::Thresholds;
use crate::value::{
    ReadError, Record, VALUES_DIR, ValueWriter, read_record, scan_records, value_path,
};
use crate::{
    Direction, FileNumber, JobStep, KeyRange, ReplicaId, ShardId, SnapshotChunk, SnapshotHeader,
    TransferId, Version,
};

/// Where a chunk is cut, in bytes of records.
const CHUNK_BYTES: usize = 1 << 20;
/// Index entries copied at a step.
const KEYS_PER_STEP: usize = 512;

/// Rows of an export, pinned.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// Index keys, each with its pointer, in order.
    rows: Vec<(Box<[u8]>, Pointer)>,
    files: BTreeMap<FileNumber, Arc<dyn DiskFile>>,
    /// The first row of each chunk.
    chunks: Vec<usize>,
}

/// Copying the pointers of a shard.
#[derive(Debug)]
pub(crate) struct Pin {
    pub transfer: TransferId,
    pub header: SnapshotHeader,
    pub pinned: Pinned,
    left: VecDeque<KeyRange>,
    chunk_bytes: usize,
}

impl Pin {
    pub fn new(
        transfer: TransferId,
        shard: ShardId,
        replica: ReplicaId,
        header: SnapshotHeader,
    ) -> Self {
        let left = VecDeque::from([
            IndexKey::local_range(shard, replica),
            IndexKey::user_range(&header.range),
        ]);
        let pinned = Pinned {
            chunks: vec![0],
            ..Pinned::default()
        };
        Self {
            transfer,
            header,
            pinned,
            left,
            chunk_bytes: 0,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let Some(range) = self.left.front_mut() else {
            return Ok(JobStep::Done);
        };
        let mut keys = Vec::new();
        let end = range.end.as_deref();
        desk.index.range(
            Tree::Newest,
            &range.start,
            end,
            Direction::Forward,
            &mut |key, _| {
                keys.push(key.to_vec());
                if keys.len() == KEYS_PER_STEP {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        match keys.last() {
            Some(last) if keys.len() == KEYS_PER_STEP => {
                range.start.clone_from(last);
                range.start.push(0);
            }
            Some(_) | None => {
                self.left.pop_front();
            }
        }
        for key in keys {
            for pointer in pointer::all(&*desk.index, &key)? {
                if let Some(file) = desk.files.get(pointer.file) {
                    self.pinned.files.entry(pointer.file).or_insert(file);
                }
                if self.chunk_bytes >= CHUNK_BYTES {
                    self.pinned.chunks.push(self.pinned.rows.len());
                    self.chunk_bytes = 0;
                }
                self.chunk_bytes += pointer.bytes as usize;
                self.pinned
                    .rows
                    .push((key.clone().into_boxed_slice(), pointer));
            }
        }
        Ok(if self.left.is_empty() {
            JobStep::Done
        } else {
            JobStep::Again
        })
    }
}

/// Why a chunk cannot be sent.
#[derive(Debug)]
pub(crate) enum ChunkError {
    /// There is no such chunk.
    Beyond,
    /// A record of it is damaged here.
    Damaged(Vec<u8>, Pointer),
    /// The disk refuses.
    Disk(std::io::Error),
}

impl Pinned {
    /// Reads a chunk: its records, one after the other, as they lie in their files.
    pub fn chunk(&self, number: u32) -> Result<SnapshotChunk, ChunkError> {
        let at = number as usize;
        let from = *self.chunks.get(at).ok_or(ChunkError::Beyond)?;
        let to = self.chunks.get(at + 1).copied().unwrap_or(self.rows.len());
        let mut payload = BytesMut::new();
        for (key, pointer) in &self.rows[from..to] {
            let damaged = || ChunkError::Damaged(key.to_vec(), *pointer);
            let file = self.files.get(&pointer.file).ok_or_else(damaged)?;
            match read_record(&**file, key, pointer) {
                Ok(record) => payload.extend_from_slice(&record.raw),
                Err(ReadError::Damaged) => return Err(damaged()),
                Err(ReadError::Disk(error)) => return Err(ChunkError::Disk(error)),
            }
        }
        Ok(SnapshotChunk::new(
            number,
            at + 1 == self.chunks.len(),
            payload.freeze(),
        ))
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(crate) struct Import {
    pub transfer: TransferId,
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub header: SnapshotHeader,
    pub next_chunk: u32,
    writer: Option<ValueWriter>,
    /// Finished files under their temporary names.
    written: Vec<(String, FinishedFile)>,
    /// The shard's own rows.
    pub locals: BTreeMap<Bytes, (Version, Bytes)>,
    last: Option<(Vec<u8>, Version)>,
}

impl Import {
    pub fn new(
        transfer: TransferId,
        shard: ShardId,
        replica: ReplicaId,
        header: SnapshotHeader,
    ) -> Self {
        Self {
            transfer,
            shard,
            replica,
            header,
            next_chunk: 0,
            writer: None,
            written: Vec::new(),
            locals: BTreeMap::new(),
            last: None,
        }
    }

    /// Removes what was written.
    pub fn remove_files(&mut self, desk: &Desk) {
        let unfinished = self.writer.take().map(|writer| writer.path().to_owned());
        for path in self
            .written
            .drain(..)
            .map(|(path, _)| path)
            .chain(unfinished)
        {
            // Left behind, it is removed at the next start.
            let _ = desk.disk.remove(&path);
        }
    }

    /// Validates a chunk and writes its records. The error says what is wrong with it.
    fn take(&mut self, desk: &Desk, chunk: &SnapshotChunk) -> Result<Result<(), String>, Trouble> {
        let mut records = Vec::new();
        let good = scan_records(&chunk.payload, |_, record| records.push(record));
        if good != chunk.payload.len() {
            return Ok(Err(format!(
                "chunk {}: bad record at byte {good}",
                chunk.number
            )));
        }
        for record in records {
            if let Err(why) = self.take_record(desk, &record)? {
                return Ok(Err(format!("chunk {}: {why}", chunk.number)));
            }
        }
        if let Some(writer) = &mut self.writer {
            writer
                .flush()
                .map_err(disk_trouble("cannot write a value file"))?;
        }
        self.next_chunk += 1;
        Ok(Ok(()))
    }

    fn take_record(
        &mut self,
        desk: &Desk,
        record: &Record,
    ) -> Result<Result<(), &'static str>, Trouble> {
        // A shard's own rows are kept under the replica's id: that of the sender means nothing here. Only
        // their newest version counts, and it comes first, also where it is a delete.
        let key = match IndexKey::decode(&record.key) {
            Some(IndexKey::User { key }) if self.header.range.contains(key) => record.key.clone(),
            Some(IndexKey::Local { shard, key, .. }) if shard == self.shard => {
                let row = Bytes::copy_from_slice(key);
                let key = IndexKey::Local {
                    shard,
                    replica: self.replica,
                    key,
                }
                .encode();
                let is_newest = self.last.as_ref().is_none_or(|(last, _)| *last != key);
                if let Some(value) = record.value.as_ref().filter(|_| is_newest) {
                    let value = Bytes::copy_from_slice(value);
                    self.locals.insert(row, (record.version, value));
                }
                key
            }
            Some(IndexKey::User { .. } | IndexKey::Local { .. }) | None => {
                return Ok(Err("a key that is not the shard's"));
            }
        };
        let in_order = self.last.as_ref().is_none_or(|(last, version)| {
            *last < key || (*last == key && record.version < *version)
        });
        if !in_order {
            return Ok(Err("keys out of order"));
        }
        let new_key = self.last.as_ref().is_none_or(|(last, _)| *last != key);
        let full = self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.bytes() >= desk.options.value_file_bytes);
        if full && new_key {
            self.finish_file()?;
        }
        if self.writer.is_none() {
            let path = format!(
                "{VALUES_DIR}/import-{}-{}",
                self.transfer,
                self.written.len()
            );
            let store = desk.manifest.state.store;
            let writer = ValueWriter::create(&*desk.disk, path, FileNumber(u64::MAX), store);
            self.writer = Some(writer.map_err(disk_trouble("cannot create a value file"))?);
        }
        if let Some(writer) = &mut self.writer {
            writer.push(&key, record.version, record.value.as_deref());
            if writer.pending_bytes() >= desk.options.chunk_bytes {
                writer
                    .flush()
                    .map_err(disk_trouble("cannot write a value file"))?;
            }
        }
        self.last = Some((key, record.version));
        Ok(Ok(()))
    }

    fn finish_file(&mut self) -> Result<(), Trouble> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        match writer.finish() {
            Ok(state) => {
                let path = writer.path().to_owned();
                let file = writer.file();
                let footer = writer.into_footer();
                let number = FileNumber(u64::MAX);
                self.written.push((
                    path,
                    FinishedFile {
                        number,
                        state,
                        file,
                        footer,
                    },
                ));
                Ok(())
            }
            Err(error) => {
                self.writer = Some(writer);
                Err(disk_trouble("cannot finish a value file")(error))
            }
        }
    }
}

#[derive(Debug)]
enum Phase {
    Take(SnapshotChunk),
    Finish,
    Name,
    Commit,
    Forget(Forgetting),
    Index(Indexing),
    Done,
}

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImportOutcome {
    /// It is written, the next one may come.
    Written,
    /// The whole snapshot is switched in.
    Installed,
    /// It cannot go on.
    Failed(String),
}

/// Writing one chunk of an import, and switching the snapshot in behind the last one.
#[derive(Debug)]
pub(crate) struct ImportChunk {
    pub import: Import,
    pub outcome: ImportOutcome,
    /// The replica as it will be.
    pub replica: ReplicaState,
    is_last: bool,
    phase: Phase,
    finished: Vec<FinishedFile>,
}

impl ImportChunk {
    pub fn new(import: Import, replica: ReplicaState, chunk: SnapshotChunk) -> Self {
        let is_last = chunk.last;
        Self {
            import,
            outcome: ImportOutcome::Written,
            replica,
            is_last,
            phase: Phase::Take(chunk),
            finished: Vec::new(),
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match self.advance(desk) {
            Err(Trouble::Full) => {
                self.import.remove_files(desk);
                for file in self.finished.drain(..) {
                    let _ = desk.disk.remove(&value_path(file.number));
                }
                self.outcome = ImportOutcome::Failed("the disk is full".to_owned());
                Ok(JobStep::Done)
            }
            step => step,
        }
    }

    fn advance(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match &mut self.phase {
            Phase::Take(chunk) => {
                if let Err(why) = self.import.take(desk, chunk)? {
                    self.import.remove_files(desk);
                    self.outcome = ImportOutcome::Failed(why);
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                }
                if !self.is_last {
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                }
                self.phase = Phase::Finish;
            }
            Phase::Finish => {
                self.import.finish_file()?;
                self.phase = Phase::Name;
            }
            Phase::Name => {
                // Behind the line that the drop of the old rows draws.
                let next = desk.manifest.state.next_file.0 + 1;
                for (number, (path, mut file)) in (next..).zip(self.import.written.drain(..)) {
                    file.number = FileNumber(number);
                    file.state.oldest = file.number;
                    desk.disk
                        .rename(&path, &value_path(file.number))
                        .map_err(disk_trouble("cannot name a value file"))?;
                    self.finished.push(file);
                }
                desk.disk
                    .sync_dir(VALUES_DIR)
                    .map_err(disk_trouble("cannot sync the directory of value files"))?;
                self.phase = Phase::Commit;
            }
            Phase::Commit => {
                let (shard, replica) = (self.import.shard, self.import.replica);
                let before = FileNumber(desk.manifest.state.next_file.0 + 1);
                let drop = |range| RangeDrop {
                    range,
                    before,
                    indexed: false,
                };
                let files = self
                    .finished
                    .iter()
                    .map(|file| (file.number, file.state.clone()));
                let edit = Edit::Installed {
                    shard,
                    replica: self.replica.clone(),
                    files: files.collect(),
                    drops: vec![
                        drop(IndexKey::local_range(shard, replica)),
                        drop(IndexKey::user_range(&self.import.header.range)),
                    ],
                };
                desk.manifest.append(vec![edit])?;
                for file in &self.finished {
                    desk.files.insert(file.number, Arc::clone(&file.file));
                }
                self.outcome = ImportOutcome::Installed;
                self.phase = Phase::Forget(Forgetting::new(desk));
            }
            Phase::Forget(forgetting) => {
                if forgetting.step(desk)? == JobStep::Done {
                    let edit = forgetting.settle(desk)?;
                    let thresholds = Thresholds::new(&desk.manifest.state.thresholds);
                    let files = self.finished.drain(..).map(|file| Arc::new(file.into()));
                    let indexing = Indexing::new(files.collect(), thresholds);
                    // Once committed, a full disk is no reason to give up: the next start forgets again.
                    match edit.map_or(Ok(()), |edit| desk.manifest.append(vec![edit])) {
                        Ok(()) | Err(ManifestError::Full) => {}
                        Err(ManifestError::Fatal(fatal)) => return Err(Trouble::Fatal(fatal)),
                    }
                    self.phase = Phase::Index(indexing);
                }
            }
            Phase::Index(indexing) => {
                if indexing.step(desk)? == JobStep::Done {
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                }
            }
            Phase::Done => return Ok(JobStep::Done),
        }
        Ok(JobStep::Again)
    }
}
