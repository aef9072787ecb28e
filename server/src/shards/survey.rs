//! What the shards that a node leads weigh, and which of them had better be two.
//!
//! *Size.* A walk through the keys of one shard after the other, a page at a time and slowly, by the
//! index alone: no value is read. It adds up what the newest versions take on disk, and notes on its
//! way which key it has reached at equal steps, so that the middle of a shard is known when its end is
//! reached. A row of a walk costs about as much as a few reads, so a walk waits the longer the more rows
//! the last one had; what is written in the meantime calls it earlier.
//!
//! *Load.* Requests are counted in windows; of every few, a key is kept. A shard that is above the
//! bound for several windows in a row is split at the median of the keys that were kept, if it has
//! one: where most requests are for one key, a split helps nobody and is not made.
//!
//! All of it is the leader's own and in memory: a new leader measures anew.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use synod_storage::{
    Direction, KeyRange, ScanPage, ScanRequest, ScanWhat, ShardId, Space, Version,
};
use synod_txn::{Class, ShardDescriptor};

/// Keys of one page of a walk.
const PAGE_ROWS: usize = 4_096;
/// A shard is not walked through again before.
const WALK_EVERY_US: u64 = 10_000_000;
/// It is after so long for each row of the last walk,
const WALK_EVERY_US_PER_ROW: u64 = 1_000;
/// or when there was a write for so many rows of it.
const WALK_ROWS_PER_WRITE: u64 = 2;
/// A shard of the greatest size has so many notes of where the walk was.
const NOTES: u64 = 64;
/// Notes of one walk, at most.
const NOTES_MAX: usize = 4_096;
/// How long a window of the load is.
const WINDOW_US: u64 = 5_000_000;
/// So many windows in a row have to be above the bound.
const WINDOWS: u32 = 3;
/// Of so many requests one key is kept, and so many are kept.
const KEEP_EVERY: u64 = 8;
const KEPT_MAX: usize = 256;
/// Fewer keys say nothing about a median.
const KEPT_MIN: usize = 32;
/// A wish is not repeated before.
const WISH_EVERY_US: u64 = 30_000_000;

/// When a shard had better be two; 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of its newest versions.
    pub split_bytes: u64,
    /// Requests a second.
    pub split_rate_per_s: u64,
}

/// What a shard weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of its newest versions, with their keys, as of the last walk.
    pub bytes: u64,
    /// Reads a second, in the last window.
    pub reads_per_s: u64,
    /// Writes a second, in the last window.
    pub writes_per_s: u64,
}

/// A split that would be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The shard.
    pub shard: ShardId,
    /// The epoch that it was measured in.
    pub epoch: u64,
    /// The first key of the new shard.
    pub at: Bytes,
    /// Why, for the log.
    pub reason: &'static str,
}

#[derive(Debug, Default)]
struct Surveyed {
    epoch: u64,
    range: KeyRange,
    weight: Weight,
    middle: Option<Bytes>,
    walked: bool,
    /// Rows of the last walk, and writes since it began.
    rows: u64,
    changes: u64,
    /// When the last walk ended, well or not; `None` before the first.
    ended_us: Option<u64>,
    reads: u64,
    writes: u64,
    kept: VecDeque<Bytes>,
    hot_windows: u32,
    wished_us: Option<u64>,
}

#[derive(Debug)]
struct Walk {
    shard: ShardId,
    epoch: u64,
    rest: KeyRange,
    rows: u64,
    bytes: u64,
    notes: Vec<(u64, Bytes)>,
}

impl Surveyed {
    fn is_due(&self, now_us: u64) -> bool {
        let Some(ended_us) = self.ended_us else {
            return true;
        };
        let rested_us = now_us.saturating_sub(ended_us);
        let changed = self.changes.saturating_mul(WALK_ROWS_PER_WRITE) >= self.rows.max(1);
        let long_ago = rested_us >= self.rows.saturating_mul(WALK_EVERY_US_PER_ROW);
        rested_us >= WALK_EVERY_US && (changed || long_ago)
    }
}

/// The survey of one node.
///
/// Invariant: a walk is through a shard in `shards`, in the epoch that stands there.
#[derive(Debug)]
pub struct Survey {
    bounds: Bounds,
    shards: BTreeMap<ShardId, Surveyed>,
    walk: Option<Walk>,
    window_us: u64,
}

impl Survey {
    /// A survey that has seen nothing.
    pub fn new(bounds: Bounds) -> Survey {
        Survey {
            bounds,
            shards: BTreeMap::new(),
            walk: None,
            window_us: 0,
        }
    }

    /// Says which shards this node leads, as they are described; all others are forgotten.
    pub fn lead<'a>(&mut self, led: impl Iterator<Item = &'a ShardDescriptor>) {
        let mut before = std::mem::take(&mut self.shards);
        for descriptor in led {
            let known = before.remove(&descriptor.shard);
            let surveyed = match known {
                Some(known) if known.epoch == descriptor.epoch => known,
                // What was measured of another range is nothing; a load goes on.
                Some(known) if known.range == descriptor.range => Surveyed {
                    epoch: descriptor.epoch,
                    ..known
                },
                Some(_) | None => Surveyed {
                    epoch: descriptor.epoch,
                    range: descriptor.range.clone(),
                    ..Surveyed::default()
                },
            };
            self.shards.insert(descriptor.shard, surveyed);
        }
        if let Some(walk) = &self.walk
            && self
                .shards
                .get(&walk.shard)
                .is_none_or(|it| it.epoch != walk.epoch)
        {
            self.walk = None;
        }
    }

    /// What a shard weighs, as far as this node, its leader, has measured it.
    pub fn weight(&self, shard: ShardId) -> Option<Weight> {
        let surveyed = self.shards.get(&shard)?;
        surveyed.walked.then_some(surveyed.weight)
    }

    /// A request came for a shard.
    pub fn count(&mut self, shard: ShardId, class: Class, key: Option<&Bytes>) {
        let Some(surveyed) = self.shards.get_mut(&shard) else {
            return;
        };
        match class {
            Class::Read => surveyed.reads += 1,
            Class::Write | Class::Control => {
                surveyed.writes += 1;
                surveyed.changes += 1;
            }
        }
        if (surveyed.reads + surveyed.writes).is_multiple_of(KEEP_EVERY)
            && let Some(key) = key
        {
            if surveyed.kept.len() >= KEPT_MAX {
                surveyed.kept.pop_front();
            }
            surveyed.kept.push_back(key.clone());
        }
    }

    /// The next page to read, if one is due. [`Survey::page`] takes it, [`Survey::failed`] its loss.
    pub fn next_page(&mut self, now_us: u64) -> Option<ScanRequest> {
        if self.walk.is_none() {
            let (shard, surveyed) = self
                .shards
                .iter_mut()
                .filter(|(_, it)| it.is_due(now_us))
                .min_by_key(|(_, it)| it.ended_us)?;
            surveyed.changes = 0;
            self.walk = Some(Walk {
                shard: *shard,
                epoch: surveyed.epoch,
                rest: surveyed.range.clone(),
                rows: 0,
                bytes: 0,
                notes: Vec::new(),
            });
        }
        let walk = self.walk.as_ref()?;
        Some(ScanRequest {
            space: Space::User,
            range: walk.rest.clone(),
            at: Version::MAX,
            direction: Direction::Forward,
            what: ScanWhat::Keys,
            rows_max: PAGE_ROWS,
            bytes_max: 1 << 20,
        })
    }

    /// A page that was asked for.
    pub fn page(&mut self, now_us: u64, page: ScanPage) {
        let Some(walk) = &mut self.walk else {
            return;
        };
        let step = (self.bounds.split_bytes / NOTES).max(1);
        for row in page.rows {
            let before = walk.bytes;
            walk.rows += 1;
            walk.bytes += u64::from(row.bytes);
            if before / step != walk.bytes / step && walk.notes.len() < NOTES_MAX {
                walk.notes.push((walk.bytes, row.key));
            }
        }
        if let Some(rest) = page.rest {
            walk.rest = rest;
            return;
        }
        let Some(Walk {
            shard,
            rows,
            bytes,
            notes,
            ..
        }) = self.walk.take()
        else {
            return;
        };
        if let Some(surveyed) = self.shards.get_mut(&shard) {
            let from_middle = |(at, _): &&(u64, Bytes)| at.abs_diff(bytes / 2);
            let middle = notes.iter().min_by_key(from_middle);
            surveyed.weight.bytes = bytes;
            surveyed.middle = middle.map(|(_, key)| key.clone());
            surveyed.walked = true;
            surveyed.rows = rows;
            surveyed.ended_us = Some(now_us);
        }
    }

    /// A page could not be read: the walk begins again later.
    pub fn failed(&mut self, now_us: u64) {
        if let Some(walk) = self.walk.take()
            && let Some(surveyed) = self.shards.get_mut(&walk.shard)
        {
            surveyed.ended_us = Some(now_us);
        }
    }

    /// Closes the window of the load, when it is over.
    pub fn tick(&mut self, now_us: u64) {
        let lasted_us = now_us.saturating_sub(self.window_us);
        if lasted_us < WINDOW_US {
            return;
        }
        let first = self.window_us == 0;
        self.window_us = now_us;
        let a_second = |count: u64| count.saturating_mul(1_000_000) / lasted_us.max(1);
        for surveyed in self.shards.values_mut() {
            let (reads, writes) = (surveyed.reads, surveyed.writes);
            (surveyed.reads, surveyed.writes) = (0, 0);
            if first {
                continue;
            }
            surveyed.weight.reads_per_s = a_second(reads);
            surveyed.weight.writes_per_s = a_second(writes);
            let bound = self.bounds.split_rate_per_s;
            surveyed.hot_windows = match bound > 0 && a_second(reads + writes) > bound {
                true => surveyed.hot_windows + 1,
                false => 0,
            };
        }
    }

    /// A split that would be good, once in a while.
    pub fn wish(&mut self, now_us: u64) -> Option<Wish> {
        let bound = self.bounds.split_bytes;
        for (shard, surveyed) in &mut self.shards {
            let again = |at: u64| now_us < at + WISH_EVERY_US;
            if surveyed.wished_us.is_some_and(again) {
                continue;
            }
            let large = bound > 0 && surveyed.walked && surveyed.weight.bytes > bound;
            let by_size = surveyed.middle.clone().filter(|_| large);
            let hot = surveyed.hot_windows >= WINDOWS;
            let by_load = || median(&surveyed.kept).filter(|_| hot);
            let by_size = by_size.map(|at| (at, "it has grown too large"));
            let wished = by_size.or_else(|| by_load().map(|at| (at, "it is asked too often")));
            let cuts = |(at, _): &(Bytes, &str)| {
                *at != surveyed.range.start && surveyed.range.contains(at)
            };
            let Some((at, reason)) = wished.filter(cuts) else {
                continue;
            };
            surveyed.wished_us = Some(now_us);
            return Some(Wish {
                shard: *shard,
                epoch: surveyed.epoch,
                at,
                reason,
            });
        }
        None
    }
}

/// The key that halves the requests; none if one side would have less than a quarter of them.
fn median(kept: &VecDeque<Bytes>) -> Option<Bytes> {
    if kept.len() < KEPT_MIN {
        return None;
    }
    let mut sorted: Vec<&Bytes> = kept.iter().collect();
    sorted.sort_unstable();
    let middle = sorted[sorted.len() / 2];
    let below = sorted.partition_point(|key| *key < middle);
    let quarter = sorted.len() / 4;
    (below >= quarter && sorted.len() - below >= quarter).then(|| middle.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_storage::ScanRow;

    const SHARD: ShardId = ShardId(3);

    fn descriptor(epoch: u64) -> ShardDescriptor {
        ShardDescriptor {
            shard: SHARD,
            epoch,
            range: KeyRange::new("a", "z"),
            replicas: Vec::new(),
        }
    }

    fn survey(split_bytes: u64, split_rate_per_s: u64) -> Survey {
        let mut survey = Survey::new(Bounds {
            split_bytes,
            split_rate_per_s,
        });
        survey.lead([descriptor(1)].iter());
        survey
    }

    fn key(i: u32) -> Bytes {
        Bytes::from(format!("k{i:05}"))
    }

    fn rows(keys: std::ops::Range<u32>, bytes: u32) -> Vec<ScanRow> {
        keys.map(|i| ScanRow {
            key: key(i),
            version: Version(1),
            value: None,
            bytes,
            deleted: false,
        })
        .collect()
    }

    #[test]
    fn a_shard_above_its_size_is_split_in_the_middle_of_its_bytes() {
        for (bound, wanted) in [(100_000, true), (1_000_000, false), (0, false)] {
            let mut survey = survey(bound, 0);
            // The first half of the keys has nine tenths of the bytes.
            let request = survey.next_page(1).expect("a walk is due");
            assert_eq!(request.range, KeyRange::new("a", "z"));
            let rest = Some(KeyRange::new(&key(100)[..], "z"));
            survey.page(
                2,
                ScanPage {
                    rows: rows(0..100, 1_800),
                    rest: rest.clone(),
                },
            );
            assert_eq!(survey.next_page(3).map(|it| it.range), rest);
            survey.page(
                4,
                ScanPage {
                    rows: rows(100..200, 200),
                    rest: None,
                },
            );
            assert_eq!(survey.next_page(5), None, "not again at once");
            assert_eq!(survey.weight(SHARD).unwrap().bytes, 200_000);
            let wish = survey.wish(6);
            assert_eq!(wish.is_some(), wanted, "bound {bound}");
            if let Some(wish) = wish {
                assert!(wish.at > key(50) && wish.at < key(60), "{wish:?}");
                assert_eq!(survey.wish(7), None, "not twice");
            }
        }
    }

    #[test]
    fn a_small_shard_does_not_hide_a_large_one_behind_it() {
        let mut survey = survey(100_000, 0);
        let small = ShardDescriptor {
            shard: ShardId(SHARD.0 - 1),
            range: KeyRange::new("A", "Z"),
            ..descriptor(1)
        };
        survey.lead([small, descriptor(1)].iter());
        for keys in [0..0, 0..200] {
            survey.next_page(1).expect("a walk is due");
            let rest = None;
            let rows = rows(keys, 1_000);
            survey.page(2, ScanPage { rows, rest });
        }
        let wish = survey.wish(3).expect("one of the two is too large");
        assert_eq!(wish.shard, SHARD);
    }

    #[test]
    fn a_shard_above_its_rate_is_split_at_the_median_unless_one_key_has_it_all() {
        for (spread, wanted) in [(1_000, true), (1, false)] {
            let mut survey = survey(0, 1_000);
            for window in 0..5u64 {
                survey.tick(1 + window * WINDOW_US);
                for i in 0..10_000 {
                    survey.count(SHARD, Class::Read, Some(&key(i * 7_919 % spread)));
                }
            }
            assert_eq!(survey.wish(0).is_some(), wanted);
        }
        let mut quiet = survey(0, 1_000_000);
        quiet.tick(1);
        (0..1_000).for_each(|i| quiet.count(SHARD, Class::Write, Some(&key(i))));
        quiet.tick(1 + WINDOW_US);
        assert_eq!(quiet.wish(0), None);
    }

    #[test]
    fn the_more_rows_a_walk_has_the_rarer_it_is_unless_they_change() {
        let walked = |rows_walked: u32| {
            let mut survey = survey(0, 0);
            survey.next_page(1).expect("a walk is due");
            let rows = rows(0..rows_walked, 1);
            survey.page(1, ScanPage { rows, rest: None });
            survey
        };
        let second = |s: u64| 1 + s * 1_000_000;
        assert_eq!(walked(10).next_page(second(9)), None);
        assert!(walked(10).next_page(second(10)).is_some());
        let mut large = walked(50_000);
        assert_eq!(large.next_page(second(49)), None);
        let write = |survey: &mut Survey, of: u32| {
            (0..of).for_each(|i| survey.count(SHARD, Class::Write, Some(&key(i))));
        };
        write(&mut large, 24_999);
        assert_eq!(large.next_page(second(49)), None, "less than half");
        write(&mut large, 1);
        assert!(large.next_page(second(49)).is_some(), "half of it is new");
        let mut early = walked(50_000);
        write(&mut early, 25_000);
        assert_eq!(early.next_page(second(9)), None, "not before");
        assert!(walked(50_000).next_page(second(50)).is_some());
    }

    #[test]
    fn what_was_measured_of_another_range_is_forgotten() {
        let mut survey = survey(1_000, 0);
        survey.next_page(1);
        survey.page(
            2,
            ScanPage {
                rows: rows(0..10, 1_000),
                rest: None,
            },
        );
        assert!(survey.weight(SHARD).is_some());
        survey.lead([descriptor(2)].iter());
        assert!(survey.weight(SHARD).is_some(), "a replica moved");
        let mut smaller = descriptor(3);
        smaller.range = KeyRange::new("a", "k");
        survey.lead([smaller].iter());
        assert_eq!(survey.weight(SHARD), None);
        assert!(survey.next_page(4).is_some(), "measured anew at once");
        survey.lead([].iter());
        assert_eq!(survey.next_page(6), None);
    }
}
