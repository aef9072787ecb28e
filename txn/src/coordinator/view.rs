//! What a transaction sees: what it has read, under what it has written.
//!
//! The commands of an interactive transaction, and those whose meaning depends on several shards, are
//! carried out at the coordinator. A view holds what they were shown, so that it can be checked when
//! they are to take effect, and what they wrote, so that later ones see it and nobody else does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::reading::Walked;
use crate::command::{Command, Key, Order};
use crate::execute;
use crate::glob;
use crate::reply::Reply;
use crate::transaction::{KeyRead, KeyWrite, RangeRead, ReadValue};
use crate::value::Value;

/// The reads and writes of a transaction so far.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    values: BTreeMap<Key, ReadValue>,
    ranges: Vec<RangeRead>,
    written: BTreeMap<Key, Option<Value>>,
    /// Keys that were there and that `FLUSHALL` deleted without their values being read.
    flushed: BTreeSet<Key>,
    size_bytes: usize,
}

/// What has to be true when a transaction takes effect, and what it does then.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    pub(super) reads: Vec<KeyRead>,
    pub(super) ranges: Vec<RangeRead>,
    pub(super) writes: Vec<KeyWrite>,
    /// The client's name for the transaction.
    pub(super) token: Option<Bytes>,
}

impl View {
    /// The keys that have to be read before a command is carried out.
    pub(super) fn missing(&self, command: &Command) -> Vec<Key> {
        let mut keys = BTreeSet::new();
        if execute::must_read(command) {
            command.for_each_key(|key| {
                if !self.values.contains_key(key) && !self.written.contains_key(key) {
                    keys.insert(key.clone());
                }
            });
        }
        if let Command::DbSize = command {
            // Whether a written key was there decides whether it is one more.
            let unread =
                |key: &&Key| !self.values.contains_key(*key) && !self.flushed.contains(*key);
            keys.extend(self.written.keys().filter(unread).cloned());
        }
        keys.into_iter().collect()
    }

    /// How many keys it has written: a walk with a limit must find so many more.
    pub(super) fn written(&self) -> usize {
        self.written.len()
    }

    /// Keys and ranges that it is made of.
    pub(super) fn len(&self) -> usize {
        self.values.len() + self.written.len() + self.ranges.len()
    }

    /// Bytes of keys and values that it holds.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Takes in values that were read.
    pub(super) fn read(&mut self, values: impl IntoIterator<Item = (Key, ReadValue)>) {
        for (key, read) in values {
            self.size_bytes += key.len() + size_of(read.value.as_ref());
            self.values.insert(key, read);
        }
    }

    /// Carries out a command. `walked` is what was found, if it is about a range.
    pub(super) fn carry_out(
        &mut self,
        command: &Command,
        walked: Option<&Walked>,
        now_ms: u64,
    ) -> Reply {
        if let Some(walked) = walked {
            self.ranges.extend(walked.reads.iter().cloned());
            return self.carry_out_walk(command, walked, now_ms);
        }
        let mut present = Vec::new();
        if execute::must_read(command) {
            command.for_each_key(|key| {
                let value = match self.written.get(key) {
                    Some(value) => value.clone(),
                    None => self.values.get(key).and_then(|read| read.value.clone()),
                };
                present.push(value.filter(|value| !value.is_expired(now_ms)));
            });
        }
        let execution = execute::execute(command, &present, now_ms);
        for (key, value) in execution.writes {
            self.write(key, value);
        }
        execution.reply
    }

    fn write(&mut self, key: Key, value: Option<Value>) {
        self.size_bytes += key.len() + size_of(value.as_ref());
        self.written.insert(key, value);
    }

    fn carry_out_walk(&mut self, command: &Command, walked: &Walked, now_ms: u64) -> Reply {
        let live = |value: &&Value| !value.is_expired(now_ms);
        match command {
            Command::Range(range) => {
                let within = |key: &Key| {
                    *key >= range.start && range.end.as_ref().is_none_or(|end| key < end)
                };
                let mut rows: BTreeMap<Key, Bytes> = walked.rows.iter().cloned().collect();
                for (key, value) in self.written.iter().filter(|(key, _)| within(key)) {
                    match value.as_ref().filter(live) {
                        Some(value) => rows.insert(key.clone(), value.data.clone()),
                        None => rows.remove(key),
                    };
                }
                let limit = usize::try_from(range.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
                let words = |(key, data)| [Reply::Bulk(key), Reply::Bulk(data)];
                let rows = rows.into_iter();
                Reply::Array(match range.order {
                    Order::Forward => rows.take(limit).flat_map(words).collect(),
                    Order::Reverse => rows.rev().take(limit).flat_map(words).collect(),
                })
            }
            Command::Keys { pattern } => {
                let mut keys: BTreeSet<Key> = walked.keys.iter().cloned().collect();
                for (key, value) in &self.written {
                    match value.as_ref().filter(live) {
                        Some(_) if glob::matches(pattern, key) => keys.insert(key.clone()),
                        Some(_) | None => keys.remove(key),
                    };
                }
                Reply::Array(keys.into_iter().map(Reply::Bulk).collect())
            }
            Command::DbSize => {
                let mut count = walked.count;
                for (key, value) in &self.written {
                    let was_there = self.flushed.contains(key)
                        || self.values.get(key).is_some_and(|it| it.value.is_some());
                    count += i64::from(value.as_ref().is_some_and(|it| live(&it)));
                    count -= i64::from(was_there);
                }
                Reply::Integer(count)
            }
            Command::FlushAll => {
                for value in self.written.values_mut() {
                    *value = None;
                }
                for key in &walked.keys {
                    if !self.values.contains_key(key) {
                        self.flushed.insert(key.clone());
                    }
                    self.write(key.clone(), None);
                }
                Reply::Ok
            }
            _ => Reply::err("this command does not concern a range of keys"),
        }
    }

    /// What has to hold of the keys that were read.
    pub(super) fn reads(&self) -> Vec<KeyRead> {
        let as_read = |(key, read): (&Key, &ReadValue)| KeyRead {
            key: key.clone(),
            version: read.value.as_ref().map(|_| read.version),
        };
        self.values.iter().map(as_read).collect()
    }

    /// Whether a key is as somebody else has read it.
    pub(super) fn agrees_with(&self, read: &KeyRead) -> bool {
        self.values
            .get(&read.key)
            .is_some_and(|it| read.version == it.value.as_ref().map(|_| it.version))
    }

    /// The ranges that were read.
    pub(super) fn ranges(&self) -> &[RangeRead] {
        &self.ranges
    }

    /// What it comes to.
    pub(super) fn into_effects(self) -> Effects {
        let reads = self.reads();
        let write = |(key, value)| KeyWrite { key, value };
        Effects {
            reads,
            ranges: self.ranges,
            writes: self.written.into_iter().map(write).collect(),
            token: None,
        }
    }
}

fn size_of(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.data.len()) + 32
}
