//! What clients saw, and whether one register a key could have shown it.
//!
//! Every write has a value of its own, so a read names the write it saw, and linearizability is
//! decided exactly and fast (Gibbons and Korach, "Testing Shared Memories", 1997): the operations on
//! one value form a cluster, whose write and reads must stand together in any order that explains
//! the history. Two clusters contradict each other when an operation of each precedes one of the
//! other.

use std::collections::BTreeMap;

use synod_storage::ShardId;

/// A key of a shard.
pub(super) type Key = (ShardId, u8);

#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) invoked: u64,
    /// `u64::MAX`: nobody knows.
    pub(super) completed: u64,
}

#[derive(Debug, Default)]
struct Cluster {
    write: Option<Span>,
    reads: Vec<Span>,
}

/// The operations on all keys.
#[derive(Debug, Default)]
pub(super) struct History {
    keys: BTreeMap<Key, BTreeMap<u64, Cluster>>,
    pub(super) writes: u64,
    pub(super) reads: u64,
}

impl History {
    /// A write, acknowledged or with an unknown outcome.
    pub(super) fn write(&mut self, key: Key, value: u64, span: Span) {
        self.writes += u64::from(span.completed != u64::MAX);
        let cluster = self.keys.entry(key).or_default().entry(value).or_default();
        assert!(
            cluster.write.replace(span).is_none(),
            "values are written once"
        );
    }

    /// A read that was answered.
    pub(super) fn read(&mut self, key: Key, value: u64, span: Span) {
        self.reads += 1;
        self.keys
            .entry(key)
            .or_default()
            .entry(value)
            .or_default()
            .reads
            .push(span);
    }

    /// The first contradiction, if there is one.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, clusters) in &self.keys {
            let mut zones: Vec<(u64, u64, u64)> = Vec::new();
            for (&value, cluster) in clusters {
                let initial = Span {
                    invoked: 0,
                    completed: 0,
                };
                let write = match cluster.write {
                    Some(write) => write,
                    None if value == 0 => initial,
                    None => return Err(format!("{key:?}: {value} was read, and never written")),
                };
                if write.completed == u64::MAX && cluster.reads.is_empty() {
                    continue;
                }
                if let Some(read) = cluster.reads.iter().find(|r| r.completed < write.invoked) {
                    return Err(format!("{key:?}: {value} read before its write: {read:?}"));
                }
                let all = || cluster.reads.iter().chain(std::iter::once(&write));
                let first_end = all().map(|span| span.completed).min().unwrap_or(0);
                let last_start = all().map(|span| span.invoked).max().unwrap_or(0);
                zones.push((first_end, last_start, value));
            }
            zones.sort_unstable();
            for (at, a) in zones.iter().enumerate() {
                for b in &zones[at + 1..] {
                    if a.0 < b.1 && b.0 < a.1 {
                        return Err(format!(
                            "{key:?}: {} and {} stand in each other's way: ended {} started {}, \
                             ended {} started {}",
                            a.2, b.2, a.0, a.1, b.0, b.1
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(invoked: u64, completed: u64) -> Span {
        Span { invoked, completed }
    }

    const KEY: Key = (ShardId(1), 0);

    #[test]
    fn a_sequential_history_passes() {
        let mut history = History::default();
        history.read(KEY, 0, span(1, 2));
        history.write(KEY, 7, span(3, 4));
        history.read(KEY, 7, span(5, 6));
        assert_eq!(history.check(), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut history = History::default();
        history.write(KEY, 7, span(1, 2));
        history.write(KEY, 8, span(3, 4));
        history.read(KEY, 7, span(5, 6));
        assert!(history.check().is_err());
    }

    #[test]
    fn a_lost_write_is_found() {
        let mut history = History::default();
        history.write(KEY, 7, span(1, 2));
        history.read(KEY, 0, span(5, 6));
        assert!(history.check().is_err());
    }

    #[test]
    fn concurrent_reads_may_differ_but_not_go_back() {
        let mut history = History::default();
        history.write(KEY, 7, span(1, 10));
        history.read(KEY, 0, span(2, 4));
        history.read(KEY, 7, span(3, 5));
        assert_eq!(history.check(), Ok(()));
        history.read(KEY, 0, span(6, 7));
        assert!(history.check().is_err());
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_or_never() {
        let mut history = History::default();
        history.write(KEY, 7, span(1, u64::MAX));
        history.read(KEY, 0, span(2, 4));
        assert_eq!(history.check(), Ok(()));
        history.read(KEY, 7, span(5, 6));
        assert_eq!(history.check(), Ok(()));
    }
}
