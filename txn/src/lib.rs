//! Commands, their deterministic apply, and transactions over shards.

mod command;
mod execute;
pub mod glob;
pub mod hlc;
pub mod number;
mod participant;
mod reply;
mod shard_map;
mod split;
mod state;
mod value;
mod wire;

pub use command::{
    Access, Begin, COMMAND_BYTES_MAX, Class, Command, Deadline, ExpireCondition, GetExExpiry,
    KEY_BYTES_MAX, KEYS_MAX, Key, KindFilter, Order, Range, ReadMode, Scan, Set, SetAnswer,
    SetCondition, SetExpiry, TimeUnit, TransactionCommand, TtlForm, VALUE_BYTES_MAX, parse_argv,
    table,
};
pub use participant::{
    Batch, Effect, Event, Leadership, Now, Participant, Refusal, Round, Settings, Token,
};
pub use reply::{ErrorCode, Reply};
pub use shard_map::{Replica, ReplicaRole, SYSTEM_SHARD, ShardDescriptor, ShardMap, even_ranges};
pub use split::{Merge, Part, Split};
pub use state::State;
pub use value::Value;
pub use wire::{DEPTH_MAX, Outcome, Request, Response, Stream};
