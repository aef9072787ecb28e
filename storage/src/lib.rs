//! One node's durable state: log, memtable, value files, index, manifest.

// The rig of the tests names the crate as everybody else does.
#[cfg(test)]
extern crate self as synod_storage;

mod background;
mod cache;
mod codec;
pub mod disk;
#[cfg(not(madsim))]
pub mod driver;
mod error;
mod event;
mod ids;
pub mod index;
mod job;
mod live;
mod log;
mod manifest;
mod memtable;
mod options;
mod raft_state;
mod read;
mod reader;
#[cfg(test)]
#[path = "../tests/rig/mod.rs"]
mod rig;
#[cfg(test)]
mod scenarios;
mod snapshot;
mod status;
mod store;
mod threshold;
mod value;
mod write;

pub use error::{Fatal, OpenError};
pub use event::{Event, SnapshotChunk, SnapshotHeader};
pub use ids::{
    BatchSeq, EntryId, FileNumber, Micros, ReadId, ReplicaId, SegmentNumber, ShardId, TransferId,
    Version,
};
pub use job::{Job, JobStep, Lane};
pub use log::{LogBatch, LogError, LogView};
pub use options::Options;
pub use raft_state::{ConfState, Entry, EntryKind, HardState, entry_checksum};
pub use read::{
    DamagedRow, Direction, Lookup, NewestVersion, ReadResult, RowState, Scan, ScanPage,
    ScanRequest, ScanRow, ScanWhat, row_checksum,
};
pub use status::{
    Damage, OpenConfig, OpenProgress, OpenReport, Opened, Pressure, RecoveredReplica, Stats,
};
pub use store::Store;
pub use write::{KEY_BYTES_MAX, KeyRange, Space, Write, WriteOp};
