//! Snapshots out and in, and replicas that go.

use std::sync::Arc;

use super::{Replica, Store};
use crate::background::Drop;
use crate::index::IndexKey;
use crate::log::GroupLog;
use crate::manifest::ReplicaState;
use crate::reader::Query;
use crate::snapshot::{ChunkError, Import, ImportChunk, ImportOutcome, Pin, Pinned};
use crate::{
    BatchSeq, Event, KeyRange, ReplicaId, ShardId, SnapshotChunk, SnapshotHeader, TransferId,
};

/// How far an export is.
#[derive(Debug)]
pub(super) enum Export {
    /// It waits for a checkpoint that begins after it.
    Waiting { shard: ShardId, range: KeyRange },
    /// That checkpoint is under way.
    Attached { shard: ShardId, range: KeyRange },
    /// It is to be pinned before anything else changes the index.
    Due {
        shard: ShardId,
        replica: ReplicaId,
        header: SnapshotHeader,
    },
    /// It is being pinned.
    Pinning,
    /// Its chunks can be read.
    Pinned(Arc<Pinned>),
}

/// An import between two chunks.
#[derive(Debug)]
pub(super) struct ImportSlot {
    /// `None` while a chunk is being written.
    import: Option<Import>,
    /// The next chunk.
    chunk: Option<SnapshotChunk>,
    aborted: bool,
    /// The user keys whose rows are being replaced, once the last chunk is being written.
    replacing: Option<KeyRange>,
}

impl ImportSlot {
    /// Whether there is a chunk to be written.
    pub fn is_ready(&self) -> bool {
        self.import.is_some() && self.chunk.is_some()
    }
}

impl Store {
    fn next_transfer(&mut self) -> TransferId {
        self.schedule.next_transfer += 1;
        TransferId(self.schedule.next_transfer)
    }

    /// Starts to pin a shard's state, its own rows and the user rows of `range`, as of its applied
    /// entry. [`Event::ExportReady`] follows; the state is that of the entry it names.
    pub fn export(&mut self, shard: ShardId, range: KeyRange) -> TransferId {
        let transfer = self.next_transfer();
        self.schedule
            .exports
            .insert(transfer, Export::Waiting { shard, range });
        self.schedule.checkpoint_wanted = true;
        transfer
    }

    /// A checkpoint begins: it holds what the waiting exports are to send.
    pub(super) fn attach_exports(&mut self) {
        for export in self.schedule.exports.values_mut() {
            if let Export::Waiting { shard, range } = export {
                *export = Export::Attached {
                    shard: *shard,
                    range: std::mem::take(range),
                };
            }
        }
    }

    /// The checkpoint is in the index.
    pub(super) fn exports_checkpointed(&mut self, replicas: &[(ShardId, ReplicaState)]) {
        let mut failed = Vec::new();
        for (transfer, export) in &mut self.schedule.exports {
            let Export::Attached { shard, range } = export else {
                continue;
            };
            let at = replicas.binary_search_by_key(shard, |(shard, _)| *shard);
            match at.map(|at| &replicas[at].1) {
                Ok(state) => {
                    let header = SnapshotHeader {
                        applied: state.applied,
                        conf: state.conf.clone(),
                        range: std::mem::take(range),
                    };
                    *export = Export::Due {
                        shard: *shard,
                        replica: state.replica,
                        header,
                    };
                }
                Err(_) => failed.push(*transfer),
            }
        }
        for transfer in failed {
            self.schedule.exports.remove(&transfer);
            self.event(Event::ExportFailed {
                transfer,
                reason: "no such replica".to_owned(),
            });
        }
    }

    pub(super) fn next_pin(&mut self) -> Option<Pin> {
        for (transfer, export) in &mut self.schedule.exports {
            if let Export::Due {
                shard,
                replica,
                header,
            } = export
            {
                let pin = Pin::new(*transfer, *shard, *replica, std::mem::take(header));
                *export = Export::Pinning;
                return Some(pin);
            }
        }
        None
    }

    pub(super) fn pin_done(&mut self, pin: Pin) {
        let Pin {
            transfer,
            header,
            pinned,
            ..
        } = pin;
        if let Some(export) = self.schedule.exports.get_mut(&transfer) {
            *export = Export::Pinned(Arc::new(pinned));
            self.event(Event::ExportReady { transfer, header });
        }
    }

    /// Asks for a chunk, any one. [`Event::ExportChunk`] or [`Event::ExportFailed`] follows.
    pub fn export_chunk(&mut self, transfer: TransferId, number: u32) {
        match self.schedule.exports.get(&transfer) {
            Some(Export::Pinned(pinned)) => {
                let pinned = Arc::clone(pinned);
                self.queries.push_back(Query::Chunk {
                    transfer,
                    pinned,
                    number,
                });
            }
            Some(
                Export::Waiting { .. }
                | Export::Attached { .. }
                | Export::Due { .. }
                | Export::Pinning,
            )
            | None => {
                let reason = "the export is not ready".to_owned();
                self.event(Event::ExportFailed { transfer, reason });
            }
        }
    }

    pub(super) fn chunk_read(
        &mut self,
        transfer: TransferId,
        chunk: Result<SnapshotChunk, ChunkError>,
    ) {
        let reason = match chunk {
            Ok(chunk) => {
                self.event(Event::ExportChunk { transfer, chunk });
                return;
            }
            Err(ChunkError::Beyond) => "no such chunk".to_owned(),
            Err(ChunkError::Damaged(key, pointer)) => {
                self.report_damage(&key, &pointer);
                "a record of it is damaged here".to_owned()
            }
            Err(ChunkError::Disk(error)) => error.to_string(),
        };
        self.event(Event::ExportFailed { transfer, reason });
    }

    /// Lets the pinned state go.
    pub fn end_export(&mut self, transfer: TransferId) {
        self.schedule.exports.remove(&transfer);
    }

    /// Starts to take a snapshot in, for a replica that exists here or is about to.
    /// [`Event::ImportReady`] asks for the first chunk. Nothing may be applied to the shard, nor
    /// appended to its log, from the last chunk until [`Event::Installed`].
    pub fn import(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        header: SnapshotHeader,
    ) -> TransferId {
        let transfer = self.next_transfer();
        let import = Some(Import::new(transfer, shard, replica, header));
        self.schedule.imports.insert(
            transfer,
            ImportSlot {
                import,
                chunk: None,
                aborted: false,
                replacing: None,
            },
        );
        self.event(Event::ImportReady {
            transfer,
            next_chunk: 0,
        });
        transfer
    }

    /// Writes a chunk, in order. A chunk that is not the expected one, or not intact, is answered by
    /// [`Event::ImportReady`] with the number that is wanted. The last one installs the snapshot:
    /// everything validated and durable, then switched in by one record. [`Event::Installed`] follows.
    pub fn import_chunk(&mut self, transfer: TransferId, chunk: SnapshotChunk) {
        let Some(slot) = self.schedule.imports.get_mut(&transfer) else {
            let reason = "no such import".to_owned();
            self.event(Event::ImportFailed { transfer, reason });
            return;
        };
        let Some(import) = slot.import.as_ref().filter(|_| slot.chunk.is_none()) else {
            // The one before is being written; its answer says what is wanted next.
            return;
        };
        let next_chunk = import.next_chunk;
        if chunk.number == next_chunk && chunk.is_intact() {
            slot.chunk = Some(chunk);
        } else {
            self.event(Event::ImportReady {
                transfer,
                next_chunk,
            });
        }
    }

    /// Gives an import up; nothing of it stays. Too late once the last chunk is being written.
    pub fn abort_import(&mut self, transfer: TransferId) {
        if let Some(slot) = self.schedule.imports.get_mut(&transfer) {
            slot.aborted = true;
        }
    }

    pub(super) fn next_abort(&mut self) -> Option<Import> {
        let aborted = self.schedule.imports.iter();
        let transfer = aborted
            .filter(|(_, slot)| slot.aborted && slot.import.is_some())
            .map(|(transfer, _)| *transfer)
            .next()?;
        self.schedule.imports.remove(&transfer)?.import
    }

    pub(super) fn next_import(&mut self) -> Option<ImportChunk> {
        let submitted = self.submitted;
        for slot in self.schedule.imports.values_mut() {
            if !slot.is_ready() {
                continue;
            }
            let (Some(import), Some(chunk)) = (slot.import.take(), slot.chunk.take()) else {
                continue;
            };
            slot.replacing = chunk.last.then(|| import.header.range.clone());
            if let Some(waiting) = self.queue.back_mut() {
                // What comes behind the snapshot must not join a batch that lies before it.
                waiting.is_closed = true;
            }
            let groups = self.view.lock();
            let group = groups
                .groups
                .get(&import.shard)
                .filter(|group| group.replica == import.replica);
            let replica = ReplicaState {
                replica: import.replica,
                applied: import.header.applied,
                conf: import.header.conf.clone(),
                start: import.header.applied,
                created: group.map_or(BatchSeq(submitted.0 + 1), |group| group.created),
                floor: submitted,
                lost_records: group.is_some_and(|group| group.damage.unknown),
            };
            return Some(ImportChunk::new(import, replica, chunk));
        }
        None
    }

    /// Whether rows that a query asks for are being replaced by a snapshot: what the index has of them is
    /// neither the old state nor the new one.
    pub(super) fn is_replacing(&self, query: &Query) -> bool {
        let mut imports = self.schedule.imports.values();
        imports.any(|slot| {
            let range = slot.replacing.as_ref();
            range.is_some_and(|range| query.touches(range))
        })
    }

    pub(super) fn import_done(&mut self, done: ImportChunk) {
        let ImportChunk {
            import,
            outcome,
            replica,
            ..
        } = done;
        let transfer = import.transfer;
        match outcome {
            ImportOutcome::Written => {
                let next_chunk = import.next_chunk;
                if let Some(slot) = self.schedule.imports.get_mut(&transfer) {
                    slot.import = Some(import);
                    self.event(Event::ImportReady {
                        transfer,
                        next_chunk,
                    });
                }
            }
            ImportOutcome::Failed(reason) => {
                self.schedule.imports.remove(&transfer);
                self.event(Event::ImportFailed { transfer, reason });
            }
            ImportOutcome::Installed => {
                self.schedule.imports.remove(&transfer);
                self.installed(import, replica);
            }
        }
    }

    fn installed(&mut self, import: Import, state: ReplicaState) {
        let Import {
            transfer,
            shard,
            replica,
            header,
            locals,
            ..
        } = import;
        if self.is_dropped(replica) {
            // Dropped while the last chunk was being written: the drop comes behind it, and ends what it
            // has switched in.
            return;
        }
        self.active.remove_user(&header.range);
        self.active.remove_local(shard);
        self.cache.clear();
        self.locals.insert(shard, locals);
        self.replaced(shard, &header.range);
        self.replicas.insert(
            shard,
            Replica {
                id: replica,
                conf: header.conf.clone(),
                applied: header.applied,
                checkpointed: header.applied,
                created: state.created,
                in_manifest: true,
            },
        );
        self.view.lock().groups.entry(shard).or_insert_with(|| {
            let mut group = GroupLog::new(replica, header.applied);
            group.created = state.created;
            group
        });
        self.rows_moved();
        self.event(Event::Installed {
            transfer,
            shard,
            replica,
            header,
        });
    }

    /// Drops a replica: its log, its own rows, and the user rows of `range` (none when another shard
    /// of this node has taken over the keys). Durable first, then throttled. [`Event::Dropped`]
    /// follows when it is durable; before that no replica of the same keys may be created here.
    pub fn drop_replica(&mut self, shard: ShardId, replica: ReplicaId, range: Option<KeyRange>) {
        self.view.lock().remove(shard, replica);
        if self
            .replicas
            .get(&shard)
            .is_some_and(|known| known.id == replica)
        {
            self.replicas.remove(&shard);
            self.locals.remove(&shard);
            self.thresholds.remove(&shard);
            self.active.remove_local(shard);
        }
        if let Some(range) = &range {
            self.active.remove_user(range);
            self.cache.clear();
            self.replaced(shard, range);
        }
        self.dropped.insert(replica);
        let mut ranges = vec![IndexKey::local_range(shard, replica)];
        ranges.extend(range.as_ref().map(IndexKey::user_range));
        self.schedule.drops.push_back((
            Drop {
                shard,
                replica,
                ranges,
            },
            range,
        ));
        self.rows_moved();
    }

    /// The rows of a shard and of its range are others now, or gone: what was damaged of them is of
    /// no interest any more.
    fn replaced(&mut self, shard: ShardId, range: &KeyRange) {
        let lost = std::mem::take(&mut self.schedule.lost_ranges);
        self.schedule.lost_ranges = lost.iter().flat_map(|lost| lost.without(range)).collect();
        self.damage.forget_rows(shard, range);
    }

    /// Whether the replica was dropped here, ever.
    #[must_use]
    pub fn is_dropped(&self, replica: ReplicaId) -> bool {
        self.dropped.contains(&replica)
    }
}
