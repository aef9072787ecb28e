//! From the frozen memtable to value files.
//!
//! The rows are written sorted, without the versions that nobody can ask for any more; the files and
//! their directory are synced; a record of the manifest commits them together with what they bring
//! each replica to. From then on the files' footers are searched along with the index, until their
//! pointers are merged into it. A crash at any step leaves either no trace, or files that the manifest
//! knows and whose pointers are merged at the next start.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Desk, FinishedFile, Indexing, Trouble, disk_trouble};
use crate::index::{IndexKey, Unmerged};
use crate::manifest::{Edit, ReplicaState, ThresholdState};
use crate::memtable::Memtable;
use crate::threshold::Thresholds;
use crate::value::{VALUES_DIR, ValueWriter, value_path};
use crate::{BatchSeq, FileNumber, JobStep, ReplicaId, ShardId, Version, WriteOp};

/// A record brought back by a peer: its index key, version and value.
pub(crate) type Repaired = (Vec<u8>, Version, WriteOp);

#[derive(Debug)]
enum Phase {
    Local(Option<(ShardId, Bytes)>),
    User(Option<Bytes>),
    Repairs,
    SyncDir,
    Commit,
    Index(Indexing),
    Done,
}

/// A checkpoint under way.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub frozen: Arc<Memtable>,
    /// What the frozen rows bring the replicas to.
    pub replicas: Vec<(ShardId, ReplicaState)>,
    pub thresholds: BTreeMap<ShardId, ThresholdState>,
    /// Records to take the place of damaged ones; sorted.
    pub repaired: Vec<Repaired>,
    /// The last durable batch when the memtable was frozen.
    pub durable: BatchSeq,
    by_key: Thresholds,
    writer: Option<ValueWriter>,
    finished: Vec<FinishedFile>,
    phase: Phase,
}

impl Checkpoint {
    pub fn new(
        frozen: Arc<Memtable>,
        replicas: Vec<(ShardId, ReplicaState)>,
        thresholds: BTreeMap<ShardId, ThresholdState>,
        repaired: Vec<Repaired>,
        durable: BatchSeq,
    ) -> Self {
        let by_key = Thresholds::new(&thresholds);
        Self {
            frozen,
            replicas,
            thresholds,
            repaired,
            durable,
            by_key,
            writer: None,
            finished: Vec::new(),
            phase: Phase::Local(None),
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let step = self.advance(desk);
        if let Err(Trouble::Full) = &step {
            // Nothing is committed: give the space back, begin again later.
            let unfinished = self.writer.take().map(|writer| writer.path().to_owned());
            let finished = self.finished.drain(..).map(|file| value_path(file.number));
            for path in finished.chain(unfinished) {
                let _ = desk.disk.remove(&path);
            }
            self.phase = Phase::Local(None);
        }
        step
    }

    fn advance(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        match &mut self.phase {
            Phase::Local(from) => {
                let from = from.take();
                let next = self.write_local(desk, from)?;
                self.phase = next.map_or(Phase::User(None), |key| Phase::Local(Some(key)));
            }
            Phase::User(from) => {
                let from = from.take();
                let next = self.write_user(desk, from)?;
                if next.is_none() {
                    self.finish_file(desk)?;
                }
                self.phase = next.map_or(Phase::Repairs, |key| Phase::User(Some(key)));
            }
            Phase::Repairs => {
                // In a file of their own: one file has each key once.
                for (key, version, op) in std::mem::take(&mut self.repaired) {
                    let writer = open_writer(&mut self.writer, &self.finished, desk)?;
                    // They are as old as any.
                    writer.inherit_age(FileNumber(0));
                    writer.push(&key, version, value_of(&op));
                    self.repaired.push((key, version, op));
                }
                self.finish_file(desk)?;
                self.phase = Phase::SyncDir;
            }
            Phase::SyncDir => {
                if !self.finished.is_empty() {
                    desk.disk
                        .sync_dir(VALUES_DIR)
                        .map_err(disk_trouble("cannot sync the directory of value files"))?;
                }
                self.phase = Phase::Commit;
            }
            Phase::Commit => {
                self.commit(desk)?;
                if self.repaired.is_empty() {
                    self.phase = Phase::Done;
                    return Ok(JobStep::Done);
                }
                // They may be older than what the index moved to its history: no reader would find
                // its way between the two.
                let all = desk.index.unmerged().to_vec();
                self.phase = Phase::Index(Indexing::new(all, self.by_key.clone()));
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

    /// Makes it a fact, and lets readers see the files.
    fn commit(&mut self, desk: &mut Desk) -> Result<(), Trouble> {
        let files = self.finished.iter();
        let files = files.map(|file| (file.number, file.state.clone()));
        desk.manifest.append(vec![
            Edit::Checkpoint {
                files: files.collect(),
                replicas: self.replicas.clone(),
                thresholds: self.thresholds.clone().into_iter().collect(),
            },
            Edit::LogDurable(self.durable),
        ])?;
        for file in self.finished.drain(..) {
            desk.files.insert(file.number, Arc::clone(&file.file));
            let file = Unmerged::from(file);
            (0..file.footer.len()).for_each(|at| desk.live.set(&file.pointer(at)));
            desk.index.add(file);
        }
        Ok(())
    }

    /// Writes some local rows. Returns the last key, if there may be more.
    fn write_local(
        &mut self,
        desk: &mut Desk,
        from: Option<(ShardId, Bytes)>,
    ) -> Result<Option<(ShardId, Bytes)>, Trouble> {
        let frozen = Arc::clone(&self.frozen);
        let start = from.map_or(Bound::Unbounded, Bound::Excluded);
        let mut index_key = Vec::new();
        for ((shard, key), (version, op)) in frozen.local.range((start, Bound::Unbounded)) {
            let Some(replica) = self.replica_of(*shard) else {
                continue;
            };
            let writer = open_writer(&mut self.writer, &self.finished, desk)?;
            IndexKey::Local {
                shard: *shard,
                replica,
                key,
            }
            .encode_into(&mut index_key);
            writer.push(&index_key, *version, value_of(op));
            if self.chunk_is_full(desk)? {
                return Ok(Some((*shard, key.clone())));
            }
        }
        Ok(None)
    }

    fn replica_of(&self, shard: ShardId) -> Option<ReplicaId> {
        let at = self
            .replicas
            .binary_search_by_key(&shard, |(shard, _)| *shard)
            .ok()?;
        Some(self.replicas[at].1.replica)
    }

    /// Writes some user rows. Returns the last key, if there may be more.
    fn write_user(
        &mut self,
        desk: &mut Desk,
        from: Option<Bytes>,
    ) -> Result<Option<Bytes>, Trouble> {
        let frozen = Arc::clone(&self.frozen);
        let start = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut index_key = Vec::new();
        for (key, chain) in frozen.user.range::<[u8], _>((start, Bound::Unbounded)) {
            IndexKey::User { key }.encode_into(&mut index_key);
            let threshold = self.by_key.of_user(key);
            let versions: Vec<_> = chain.iter().collect();
            let above = versions.partition_point(|(version, _)| *version <= threshold);
            for (version, op) in versions[above.saturating_sub(1)..].iter().rev() {
                let writer = open_writer(&mut self.writer, &self.finished, desk)?;
                writer.push(&index_key, *version, value_of(op));
            }
            if self.chunk_is_full(desk)? {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    /// Writes what waits, if it is enough for one step; closes the file if it is long enough.
    fn chunk_is_full(&mut self, desk: &mut Desk) -> Result<bool, Trouble> {
        let Some(writer) = &mut self.writer else {
            return Ok(false);
        };
        if writer.pending_bytes() < desk.options.chunk_bytes {
            return Ok(false);
        }
        writer
            .flush()
            .map_err(disk_trouble("cannot write a value file"))?;
        if writer.bytes() >= desk.options.value_file_bytes {
            self.finish_file(desk)?;
        }
        Ok(true)
    }

    fn finish_file(&mut self, _desk: &mut Desk) -> Result<(), Trouble> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        match writer.finish() {
            Ok(state) => {
                self.finished.push(FinishedFile {
                    number: writer.number(),
                    state,
                    file: writer.file(),
                    footer: writer.into_footer(),
                });
                Ok(())
            }
            Err(error) => {
                self.writer = Some(writer);
                Err(disk_trouble("cannot finish a value file")(error))
            }
        }
    }
}

fn value_of(op: &WriteOp) -> Option<&[u8]> {
    match op {
        WriteOp::Put(value) => Some(value),
        WriteOp::Delete => None,
    }
}

fn open_writer<'a>(
    writer: &'a mut Option<ValueWriter>,
    finished: &[FinishedFile],
    desk: &Desk,
) -> Result<&'a mut ValueWriter, Trouble> {
    if writer.is_none() {
        let state = &desk.manifest.state;
        let number = finished
            .last()
            .map_or(state.next_file, |file| FileNumber(file.number.0 + 1));
        let created = ValueWriter::create(&*desk.disk, value_path(number), number, state.store);
        *writer = Some(created.map_err(disk_trouble("cannot create a value file"))?);
    }
    writer.as_mut().ok_or(Trouble::Full)
}
