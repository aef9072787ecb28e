//! Locks: what prepared attempts hold, until they are resolved.
//!
//! A lock is no state of its own: it follows from the prepared attempts, which are rows of the
//! shard. Writers exclude everybody, readers exclude writers; a range that was read excludes writers
//! of every key in it, of keys that do not exist too.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::KeyRange;

use super::transactions::Prepared;
use crate::transaction::{AttemptId, KeyRead, RangeRead, TxnId};

/// Who has locked a key.
#[derive(Clone, Debug, Default)]
struct KeyLock {
    writer: Option<AttemptId>,
    readers: Vec<AttemptId>,
}

/// The locks of one shard.
///
/// Invariant: a key's lock has a writer or readers, never another transaction's writer beside a
/// reader.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    keys: BTreeMap<Bytes, KeyLock>,
    ranges: BTreeMap<AttemptId, Vec<KeyRange>>,
}

/// What somebody wants to do with keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Keys to be read.
    pub(super) reads: Vec<Bytes>,
    /// Keys to be written.
    pub(super) writes: Vec<Bytes>,
    /// Ranges to be read.
    pub(super) ranges: Vec<KeyRange>,
}

impl Wanted {
    /// What was read is to be as it was.
    pub(super) fn add_reads(&mut self, reads: &[KeyRead], ranges: &[RangeRead]) {
        self.reads.extend(reads.iter().map(|read| read.key.clone()));
        let ranges = ranges.iter().map(|read| read.range.clone());
        self.ranges.extend(ranges);
    }
}

/// Whether locks stand in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// None does.
    None,
    /// One does, and may be waited for.
    Wait(AttemptId),
    /// An older transaction's does: give way.
    Die,
}

impl Locks {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    /// Takes the locks of a prepared attempt.
    pub(super) fn lock(&mut self, attempt: AttemptId, prepared: &Prepared) {
        for (key, _) in &prepared.writes {
            let lock = self.keys.entry(key.clone()).or_default();
            let own = |reader: &AttemptId| reader.is_hold() && reader.txn == attempt.txn;
            assert!(
                lock.writer.is_none() && lock.readers.iter().all(own),
                "a written key is locked by nobody else"
            );
            lock.writer = Some(attempt);
        }
        for key in &prepared.reads {
            let lock = self.keys.entry(key.clone()).or_default();
            // Rows are loaded in the order of their attempts, and a hold comes after its transaction.
            let own = |writer: AttemptId| attempt.is_hold() && writer.txn == attempt.txn;
            assert!(
                lock.writer.is_none_or(own),
                "a read key is written by nobody else"
            );
            lock.readers.push(attempt);
        }
        if !prepared.ranges.is_empty() {
            self.ranges.insert(attempt, prepared.ranges.clone());
        }
    }

    /// Lets go of them.
    pub(super) fn unlock(&mut self, attempt: AttemptId, prepared: &Prepared) {
        for key in prepared
            .writes
            .iter()
            .map(|(key, _)| key)
            .chain(&prepared.reads)
        {
            let Some(lock) = self.keys.get_mut(key) else {
                unreachable!("a prepared attempt holds its locks");
            };
            if lock.writer == Some(attempt) {
                lock.writer = None;
            }
            lock.readers.retain(|reader| *reader != attempt);
            if lock.writer.is_none() && lock.readers.is_empty() {
                self.keys.remove(key);
            }
        }
        self.ranges.remove(&attempt);
    }

    /// Whether locks stand in the way. With an age, wait-die: who holds locks elsewhere waits only
    /// for younger ones. Without, it holds none and may wait for anybody. A transaction's own holds do
    /// not stand in its way.
    pub(super) fn conflict(&self, wanted: &Wanted, age: Option<TxnId>) -> Conflict {
        if self.is_empty() {
            return Conflict::None;
        }
        let mut holders = Vec::new();
        for key in &wanted.reads {
            holders.extend(self.keys.get(key).and_then(|lock| lock.writer));
        }
        for key in &wanted.writes {
            if let Some(lock) = self.keys.get(key) {
                holders.extend(lock.writer);
                holders.extend(&lock.readers);
            }
            for (reader, ranges) in &self.ranges {
                if ranges.iter().any(|range| range.contains(key)) {
                    holders.push(*reader);
                }
            }
        }
        for range in &wanted.ranges {
            holders.extend(self.writers_in(range));
        }
        holders.retain(|holder| !(holder.is_hold() && age == Some(holder.txn)));
        let older = |holder: &AttemptId| age.is_some_and(|age| holder.txn < age);
        match holders.first() {
            None => Conflict::None,
            Some(_) if holders.iter().any(older) => Conflict::Die,
            Some(first) => Conflict::Wait(*first),
        }
    }

    /// Who is about to write in a range.
    pub(super) fn writers_in(&self, range: &KeyRange) -> Vec<AttemptId> {
        if range.is_empty() {
            return Vec::new();
        }
        self.keys
            .range::<[u8], _>(range.bounds())
            .filter_map(|(_, lock)| lock.writer)
            .collect()
    }
}
