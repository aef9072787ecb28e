//! What a soft policy over buckets must cost at least.
//!
//! A policy like "the excess of each node over its band" has a term for every node, and a decision of 50 replicas in a
//! cluster of 100,000 shards can change few of them. Only the buckets in reach of the scope are looked at, each by
//! itself: what stays there, its constants, and what could come.

use super::interval::{At, Intervals};
use crate::graph::Fold;
use crate::graph::internal::{Bucket, FxMap, Key, LazyData, UNSET, soft_term};

/// More buckets than this are not looked at one by one.
const BUCKETS_MAX: usize = 100_000;

impl Intervals<'_> {
    /// The least by which the decisions in scope can change what the policy adds to its tier.
    pub(super) fn least_change(&mut self, lazy: &LazyData, weight: i64) -> Option<i128> {
        let bag = lazy.bag.0;
        match self.reachable(bag) {
            Some(buckets) => {
                // Most buckets cost what the policy costs at the very least, often nothing: no more is to be known.
                let floor = self
                    .least_of(lazy, At::Unknown, weight)
                    .map(|least| least.min(0));
                let mut change = 0_i128;
                for (part, key) in buckets {
                    let present = self.present_of(lazy, (part, key), weight);
                    if Some(present) == floor {
                        continue;
                    }
                    let least = self.least_of_bucket(lazy, (part, key), weight)?;
                    change = change.checked_add(least.checked_sub(present)?)?;
                }
                Some(change)
            }
            None => {
                let buckets = self.state.occupied(self.graph, bag, None, None);
                let present: i128 = buckets
                    .into_iter()
                    .map(|bucket| self.present_of(lazy, bucket, weight))
                    .sum();
                let rows = self.graph.bags.bag[bag as usize].row_count;
                let each = self.least_of(lazy, At::Anywhere, weight)?.min(0);
                each.checked_mul(i128::from(rows))?.checked_sub(present)
            }
        }
    }

    /// What a bucket costs now.
    fn present_of(&self, lazy: &LazyData, (part, key): (u32, u32), weight: i64) -> i128 {
        let (state, graph, bag) = (self.state, self.graph, lazy.bag.0);
        let rows = state.fold(graph, bag, part, key, Fold::CountRows);
        if rows == 0 {
            return 0;
        }
        let bucket = Bucket {
            state,
            graph,
            bag,
            part,
            key,
            rows,
        };
        soft_term(weight, bucket.value(&lazy.template))
    }

    fn least_of_bucket(
        &mut self,
        lazy: &LazyData,
        (part, key): (u32, u32),
        weight: i64,
    ) -> Option<i128> {
        let least = self.least_of(lazy, At::Bucket(part, key), weight)?;
        // An empty bucket adds nothing.
        let rows = self.fold(lazy.bag.0, part, key, Fold::CountRows);
        let stays = rows.low.is_some_and(|rows| rows > 0);
        Some(if stays { least } else { least.min(0) })
    }

    fn least_of(&mut self, lazy: &LazyData, at: At, weight: i64) -> Option<i128> {
        let range = self.template(lazy.bag.0, at, &lazy.template);
        if range.is_nothing() {
            return Some(0);
        }
        let end = if weight > 0 { range.low } else { range.high }?;
        let least = end.checked_mul(i128::from(weight))?;
        Some(if range.null { least.min(0) } else { least })
    }

    /// The buckets whose rows the scope can change; `None` where they are too many, or expressions place the rows.
    fn reachable(&self, bag: u32) -> Option<Vec<(u32, u32)>> {
        let graph = self.graph;
        if graph.bags.bag[bag as usize].expr_rows > 0 {
            return None;
        }
        let mut buckets: FxMap<(u32, u32), ()> = FxMap::default();
        // Rows of one part, column and candidate set reach the same buckets.
        let mut shapes: FxMap<(u32, u32, u32), ()> = FxMap::default();
        for &var in &self.candidates.vars {
            for row in graph.bags.rows_of(var) {
                let data = &graph.bags.rows[row as usize];
                if data.bag != bag {
                    continue;
                }
                if let Some(key) = self.state.row_key(graph, row) {
                    buckets.insert((data.part, key), ());
                }
                let Key::Of(own, map) = data.key else {
                    continue;
                };
                let set = self.candidates.set_id(own);
                if !self.candidates.is_free(own)
                    || shapes
                        .insert((data.part, map.index() as u32, set), ())
                        .is_some()
                {
                    continue;
                }
                for &value in self.candidates.of(own).iter().filter(|&&v| v != UNSET) {
                    if let Ok(key) = u32::try_from(graph.image(map, value)) {
                        buckets.insert((data.part, key), ());
                    }
                }
                if buckets.len() > BUCKETS_MAX {
                    return None;
                }
            }
        }
        let mut buckets: Vec<(u32, u32)> = buckets.into_keys().collect();
        buckets.sort_unstable();
        Some(buckets)
    }
}
