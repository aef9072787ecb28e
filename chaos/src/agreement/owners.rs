//! One owner a key and epoch: whoever describes a shard in an epoch gives it the same keys, and the newest
//! descriptions of all shards, put together, cover every key once (Corbett and others, "Spanner",
//! section 2.1: a directory has one home at a time; here: the epoch in each request and entry).

use std::collections::BTreeMap;

use synod::status::Report;

/// What nodes said of the shards' keys.
#[derive(Debug, Default)]
pub struct Owners {
    /// By shard and epoch: its first key, the key behind its last one, and who said so.
    ranges: BTreeMap<(u64, u64), (String, String, usize)>,
}

impl Owners {
    /// Takes what a node reports, and holds it against what others did.
    pub fn look(&mut self, node: usize, report: &Report) -> Result<(), String> {
        for shard in &report.shards {
            let said = (shard.start.clone(), shard.end.clone(), node);
            let known = self.ranges.entry((shard.id, shard.epoch)).or_insert(said);
            if (&known.0, &known.1) != (&shard.start, &shard.end) {
                return Err(format!(
                    "in epoch {} shard {} owns {:?} to {:?} for node {node}, and {:?} to {:?} for node {}",
                    shard.epoch, shard.id, shard.start, shard.end, known.0, known.1, known.2
                ));
            }
        }
        Ok(())
    }

    /// Whether a node that has come to rest knows one owner for every key.
    pub fn cover(node: usize, report: &Report) -> Result<(), String> {
        let mut next = Some("");
        for shard in &report.shards {
            if next != Some(shard.start.as_str()) {
                return Err(format!(
                    "node {node}: shard {} begins at {:?}, and the one before it ends at {next:?}",
                    shard.id, shard.start
                ));
            }
            // Nothing comes behind a range without end.
            next = Some(shard.end.as_str()).filter(|end| !end.is_empty());
        }
        match next {
            None => Ok(()),
            Some(end) => Err(format!("node {node}: nobody owns the keys from {end:?} on")),
        }
    }
}

#[cfg(test)]
mod tests {
    use synod::status::ShardReport;

    use super::*;

    fn report(shards: &[(u64, u64, &str, &str)]) -> Report {
        let shards = shards.iter().map(|(id, epoch, start, end)| ShardReport {
            id: *id,
            epoch: *epoch,
            start: (*start).to_owned(),
            end: (*end).to_owned(),
            ..ShardReport::default()
        });
        Report {
            shards: shards.collect(),
            ..Report::default()
        }
    }

    #[test]
    fn two_ranges_of_one_epoch_are_found() {
        let mut owners = Owners::default();
        assert_eq!(owners.look(0, &report(&[(1, 4, "", "m")])), Ok(()));
        assert_eq!(owners.look(1, &report(&[(1, 5, "", "k")])), Ok(()));
        assert!(owners.look(1, &report(&[(1, 4, "", "k")])).is_err());
    }

    #[test]
    fn keys_without_an_owner_or_with_two_are_found() {
        let covers = |shards: &[(u64, u64, &str, &str)]| Owners::cover(0, &report(shards)).is_ok();
        assert!(covers(&[(1, 1, "", "m"), (2, 1, "m", "")]));
        assert!(!covers(&[(1, 1, "", "m"), (2, 1, "n", "")]), "a gap");
        assert!(!covers(&[(1, 1, "", "n"), (2, 1, "m", "")]), "an overlap");
        assert!(!covers(&[(1, 1, "", "m")]), "no end");
        assert!(!covers(&[(1, 1, "", ""), (2, 1, "m", "")]), "two ends");
    }
}
