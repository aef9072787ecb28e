//! The state of a cluster as one node sees it, and how it is shown on one screen.
//!
//! A node answers `SYNOD STATUS` with a [`Report`] as JSON; `synod status` shows it, or prints the
//! JSON as it is. The first line says whether all is well. What is wrong follows, in words, before
//! any table: an operator who is woken up reads the top.

mod render;
mod report;

#[cfg(not(madsim))]
pub(crate) use render::{bytes, duration};
pub use render::{render, render_members};
pub use report::{
    Member, Move, NodeReport, Replica, Report, Sent, ShardReport, StorageReport, TrafficReport,
    View, short,
};
