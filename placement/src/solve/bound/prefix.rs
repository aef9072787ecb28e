//! A growing set of buckets, and what must stand inside it: the H of a cut.

use super::super::candidates::Candidates;
use super::cut::Demand;
use crate::graph::internal::{Graph, UNSET};

/// Whether the policies that keep members of a block apart count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Apart {
    Known,
    Ignored,
}

/// A growing set of buckets, and how much room each class has outside of it.
pub(super) struct Prefix<'a> {
    demand: &'a Demand,
    /// Values of each bucket, by key.
    values: Vec<Vec<u32>>,
    /// For each class and limit: values outside by entry of the limit's column.
    outside: Vec<Vec<Vec<i64>>>,
    /// For each class: values outside.
    left: Vec<i64>,
    /// For each class and limit: how many members of a block can stand outside.
    room: Vec<Vec<i64>>,
    allowed: Vec<Vec<bool>>,
    graph: &'a Graph,
    pub fixed: i128,
}

impl<'a> Prefix<'a> {
    pub(super) fn new(graph: &'a Graph, candidates: &Candidates, demand: &'a Demand) -> Prefix<'a> {
        let map = &graph.maps[demand.map.index()];
        let mut values: Vec<Vec<u32>> = Vec::new();
        for (value, &key) in map.image.iter().enumerate() {
            if let Ok(key) = usize::try_from(key) {
                if values.len() <= key {
                    values.resize(key + 1, Vec::new());
                }
                values[key].push(value as u32);
            }
        }
        let mut prefix = Prefix {
            demand,
            values,
            outside: Vec::new(),
            left: Vec::new(),
            room: Vec::new(),
            allowed: Vec::new(),
            graph,
            fixed: 0,
        };
        for class in &demand.classes {
            let set = candidates.set(class.set);
            let mut allowed = vec![false; graph.domains[class.domain].len as usize];
            let mut left = 0;
            let mut outside: Vec<Vec<i64>> = vec![Vec::new(); class.limits.len()];
            // A decision that may be NULL can always stay outside.
            let null = set.contains(&UNSET);
            for &value in set.iter().filter(|&&value| value != UNSET) {
                allowed[value as usize] = true;
                left += 1;
                for (limit, counts) in class.limits.iter().zip(&mut outside) {
                    match usize::try_from(graph.image(limit.0, value)) {
                        Ok(entry) => {
                            if counts.len() <= entry {
                                counts.resize(entry + 1, 0);
                            }
                            counts[entry] += 1;
                        }
                        // Without an entry the limit does not bind.
                        Err(_) => left += 1 << 40,
                    }
                }
            }
            if null {
                left += 1 << 40;
            }
            // With several values per entry a limit allows several; with one it allows one even if it says more,
            // unless members may share a value.
            let room = class
                .limits
                .iter()
                .zip(&outside)
                .map(|(limit, counts)| counts.iter().map(|&count| share(count, limit.1)).sum())
                .collect();
            prefix.outside.push(outside);
            prefix.left.push(left);
            prefix.room.push(room);
            prefix.allowed.push(allowed);
        }
        prefix
    }

    pub(super) fn include(&mut self, key: u32) {
        let Some(values) = self.values.get(key as usize) else {
            return;
        };
        for (class, data) in self.demand.classes.iter().enumerate() {
            for &value in values {
                if !self.allowed[class]
                    .get(value as usize)
                    .copied()
                    .unwrap_or(false)
                {
                    continue;
                }
                self.left[class] -= 1;
                for (index, limit) in data.limits.iter().enumerate() {
                    if let Ok(entry) = usize::try_from(self.graph.image(limit.0, value)) {
                        let count = &mut self.outside[class][index][entry];
                        let before = share(*count, limit.1);
                        *count -= 1;
                        self.room[class][index] += share(*count, limit.1) - before;
                    }
                }
            }
        }
    }

    /// How many members of a block of the class must stand inside.
    pub(super) fn must_stay(&self, class: usize, apart: Apart) -> usize {
        let count = self.demand.classes[class].count as i64;
        let left = self.left[class];
        let mut room = if left == 0 { 0 } else { count };
        if left < 1 << 39 && apart == Apart::Known {
            for &limited in &self.room[class] {
                room = room.min(limited);
            }
        }
        (count - room.min(count)) as usize
    }

    /// What the buckets inside must carry.
    pub(super) fn needed(&self, apart: Apart) -> i128 {
        let classes = self.demand.classes.iter().enumerate();
        let moving: i128 = classes
            .map(|(index, class)| class.least[self.must_stay(index, apart)])
            .sum();
        self.fixed + moving
    }
}

/// Members that the values of one entry can take: the limit, where there is any value left.
fn share(values: i64, limit: i64) -> i64 {
    if values > 0 { limit } else { 0 }
}
