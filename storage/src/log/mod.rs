//! The write-ahead log that all shards of a node share.

mod batch;
mod view;

pub use batch::LogBatch;
pub(crate) use batch::Record;
pub use view::{LogError, LogView};
