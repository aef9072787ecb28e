//! What is proposed and not yet applied.
//!
//! Entries of one term are applied in the order in which they were proposed, or not at all from
//! some point on. So a leader may evaluate a command against the effects of those before it without
//! waiting for them, as long as its answer waits: the order of evaluation is the serial order. This
//! is what lets a hundred writes of one key share a few rounds of consensus.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::{KeyRange, Version};

use super::event::Batch;
use crate::value::Value;

/// The newest effect on a key that is not applied yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The value, or nothing if the key is deleted.
    pub(super) value: Option<Value>,
    /// The batch that it is part of.
    pub(super) batch: Batch,
    /// Its version.
    pub(super) version: Version,
}

/// The newest unapplied effect on each key.
///
/// Invariant: every entry's batch is open, sealed or in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    pending: BTreeMap<Bytes, Pending>,
}

impl Overlay {
    /// What a key will be, if something on its way changes it.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Pending> {
        self.pending.get(key)
    }

    /// Puts an effect over those that are already on their way.
    pub(super) fn put(&mut self, key: Bytes, pending: Pending) {
        let (batch, version) = (pending.batch, pending.version);
        if let Some(before) = self.pending.insert(key, pending) {
            assert!(before.batch <= batch, "effects are put in order");
            assert!(before.version < version, "versions of a key grow");
        }
    }

    /// Takes out what `batch` had put on a key: it is applied now. A newer effect stays.
    pub(super) fn settle(&mut self, batch: Batch, key: &Bytes) {
        if self
            .pending
            .get(key)
            .is_some_and(|pending| pending.batch == batch)
        {
            self.pending.remove(key);
        }
    }

    /// Whether something on its way changes a key of a range.
    pub(super) fn touches(&self, range: &KeyRange) -> bool {
        !range.is_empty()
            && (self.pending.range::<[u8], _>(range.bounds()))
                .next()
                .is_some()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
