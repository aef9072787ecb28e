//! Many replicated shards on one node, driven from one loop.
//!
//! A shard is a Raft group: [raft-rs] decides, this crate does what raft-rs leaves to its user, for
//! all groups of a node at once, over one shared log. It performs no I/O and knows no clock: the
//! node feeds [`Event`]s into [`Replication`], calls [`Replication::flush`] once for all of them, and
//! carries out the [`Effect`]s.
//!
//! What it promises:
//!
//! - an entry comes out as [`Effect::Committed`] when it is durable on a majority, in the same order
//!   on every replica, each index once;
//! - a read that was granted and confirmed saw every write that was acknowledged before it began;
//! - a proposal that got a number is applied under it, or is reported lost; if neither can be
//!   known, that is what is said.
//!
//! What it never does: forward a command (only the gateway knows whether it was answered), know
//! what a command means, trust a clock further than [`Config::clock_drift_percent`], or take part
//! with a replica whose disk lost something.
//!
//! Where to read on: [`replication`] for the pass over all groups, `group` for the rules of a
//! single one, `lease` for reads, `quiet` for sleep, `snapshot`, `repair` and `rows` for
//! state that travels.
//!
//! [raft-rs]: https://docs.rs/raft/0.7

mod apply;
mod config;
mod configuration;
mod effect;
mod election;
mod eraft;
mod event;
mod group;
mod identity;
mod lease;
mod log;
pub mod message;
mod outbox;
mod peers;
mod quiet;
pub mod read;
mod repair;
pub mod replication;
mod rows;
mod snapshot;
#[cfg(test)]
mod world;

pub use config::{Config, Reads};
pub use configuration::{Change, ChangeError, Configuration};
pub use effect::{Damage, Effect, Effects, Leadership, Loss, Role};
pub use event::{Campaign, Event, Hold, Origin};
pub use identity::{Incarnation, Member, NodeId};
pub use message::{Class, MalformedMessage, Message};
pub use read::{Grant, Read, ReadFailure, ReadToken};
pub use replication::{GroupStatus, ProposeError, Replication, TransferError};
