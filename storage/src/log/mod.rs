//! The write-ahead log that all shards of a node share.
//!
//! # What it promises
//!
//! A batch is durable when its sync has returned, and whoever acknowledges waits for that. After any
//! crash the log is a prefix of what was submitted that holds every durable batch, or it says which
//! replicas cannot be trusted. It never loses something silently, and it never brings back something
//! that was given up.
//!
//! # How
//!
//! Batches go one after another into segments of zero-filled, preallocated space; one write and sync
//! is in flight. Each batch's header carries the checksum of the one before (the *chain*), the store,
//! the segment and the incarnation, so a stale frame of a recycled segment cannot join in.
//!
//! *Torn tail or damage?* Batch k+1 is written after k's sync returned. Whatever follows k validly,
//! in its segment or as a segment that names k's end, proves that k was durable: then a bad k is
//! damage. A bad batch without a successor is a torn tail, and is cut: a new segment begins, which
//! says where the old one ends. Nothing is ever appended to a segment of an earlier incarnation.
//!
//! *The ambiguous last batch.* After the death of a process, the page cache may show a batch that no
//! later sync will write (its sync failed, and the kernel took the pages for clean). So recovery copies the
//! last batch into the new segment and syncs it there before the store opens. An empty batch written
//! after a pause seals the log: then the batch before it is proven.
//!
//! *Damage* of a body names the entry; the replica waits for exactly this entry from a peer. Damage
//! of a header or a table does not say what was lost, so every replica that existed then is suspect.
//! Nothing is truncated to get rid of damage.

mod batch;
mod fetch;
pub(crate) mod frame;
mod group;
mod groups;
mod recover;
mod replay;
mod scan;
pub(crate) mod segment;
mod view;
mod writer;

pub use batch::LogBatch;
pub(crate) use batch::Record;
pub(crate) use fetch::{FetchPlan, FetchQuery, Fetched, fetch};
pub(crate) use group::GroupLog;
pub(crate) use groups::Groups;
pub(crate) use recover::{LogContext, Segment, recover};
pub use view::{LogError, LogView};
pub(crate) use writer::{LogFailure, LogWork, LogWriter, Placement};
