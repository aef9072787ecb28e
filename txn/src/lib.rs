//! Commands, their deterministic apply, and transactions over shards.
//!
//! ```text
//! argv ─► Command ─► ShardMap::split ─► Request ─► Participant (leader) ─► log entry
//!                                                      │                      │ committed
//!         Reply ◄── Merge::finish ◄── Response ◄───────┴── Participant (all) ◄┘
//! ```
//!
//! - [`Command`]: what clients may ask, parsed once, with Redis' words for what is wrong; [`table`]
//!   says the same to tools.
//! - [`ShardMap`]: which shard has a key; [`ShardMap::split`] cuts a command over shards and
//!   [`Merge`] makes one [`Reply`] of the parts.
//! - [`Request`] and [`Response`]: what gateways and leaders say to each other. The outcome tells
//!   exactly what happened: done, certainly not done, or unknown.
//! - [`Participant`]: all shards of one node. It evaluates on the leader, and applies everywhere.
//!
//! Nothing here does I/O, looks at a clock, or draws a random number: all of it comes in as
//! [`Event`]s and goes out as [`Effect`]s.

mod command;
pub mod coordinator;
mod execute;
pub mod glob;
pub mod hlc;
pub mod number;
mod participant;
mod reply;
mod shard_map;
mod split;
mod state;
mod token;
mod transaction;
mod value;
mod wire;
#[cfg(test)]
mod world;

pub use command::{
    Access, Advance, Begin, COMMAND_BYTES_MAX, Class, Command, Deadline, ExpireCondition,
    GetExExpiry, KEY_BYTES_MAX, KEYS_MAX, Key, KindFilter, Order, Range, ReadMode, Scan, Set,
    SetAnswer, SetCondition, SetExpiry, TimeUnit, TransactionCommand, TtlForm, VALUE_BYTES_MAX,
    parse_argv, table,
};
pub use participant::{
    Batch, Call, Effect, Event, Extent, Leadership, LeftSide, Newborn, Now, Participant, Refusal,
    Round, Settings, Telling, Token,
};
pub use reply::{ErrorCode, Reply};
pub use shard_map::{
    Authority, Replica, ReplicaRole, SYSTEM_SHARD, ShardDescriptor, ShardMap, even_ranges,
};
pub use split::{Merge, Part, Split};
pub use state::State;
pub use transaction::{
    Again, AttemptId, Elsewhere, Intent, KeyRead, KeyWrite, RangeRead, ReadElsewhere, ReadValue,
    SnapshotRead, TxnAnswer, TxnId, TxnRequest, Verdict, Writer,
};
pub use value::Value;
pub use wire::{Body, DEPTH_MAX, Outcome, Request, Response, Stream};
