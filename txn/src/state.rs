//! What the participant needs of a store.
//!
//! The real one is [`synod_storage::Store`]; the test worlds of this crate have a map that answers
//! late when the seed says so. The words are storage's own.

use synod_storage::{
    EntryId, KeyRange, Lookup, Pressure, Scan, ScanRequest, ShardId, Space, Store, Version, Write,
};

/// Reads and applies of one node's state.
pub trait State {
    /// The newest value of a key at or below a version.
    fn get(&mut self, space: Space, key: &[u8], at: Version) -> Lookup;
    /// A page of a range at a version.
    fn scan(&mut self, request: ScanRequest) -> Scan;
    /// Carries out the writes of a committed entry.
    fn apply(&mut self, shard: ShardId, id: EntryId, writes: &[Write]);
    /// Says which superseded versions nobody will ask for.
    fn set_threshold(&mut self, shard: ShardId, range: KeyRange, threshold: Version);
    /// Whether writes are welcome.
    fn pressure(&self) -> Pressure;
}

impl State for Store {
    fn get(&mut self, space: Space, key: &[u8], at: Version) -> Lookup {
        Store::get(self, space, key, at)
    }

    fn scan(&mut self, request: ScanRequest) -> Scan {
        Store::scan(self, request)
    }

    fn apply(&mut self, shard: ShardId, id: EntryId, writes: &[Write]) {
        Store::apply(self, shard, id, writes);
    }

    fn set_threshold(&mut self, shard: ShardId, range: KeyRange, threshold: Version) {
        Store::set_threshold(self, shard, range, threshold);
    }

    fn pressure(&self) -> Pressure {
        Store::pressure(self)
    }
}
