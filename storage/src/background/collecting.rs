//! Letting go of versions that became unreachable after they were written.
//!
//! A checkpoint keeps of each key what can be asked for *then*: a version that was replaced a moment
//! ago is still within reach of a reader at an older one, and goes to disk with its successor. When its
//! key is written again, merging drops it. If it never is, nobody would: a store from which everything
//! was deleted at once would stay full. So keys whose entries hold more than one version are
//! remembered, and looked at again when there is time, or when space is short.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Desk, Trouble};
use crate::JobStep;
use crate::index::pointer;
use crate::threshold::Thresholds;

/// Keys remembered at most. Others are found when they are written again, or by the count at the next
/// start.
const KEYS_MAX: usize = 1 << 17;
const KEYS_PER_STEP: usize = 128;
/// Keys looked at in one piece of work.
const KEYS_PER_COLLECT: usize = 2048;

/// Index keys with a version that a newer one has replaced.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    keys: BTreeSet<Vec<u8>>,
    /// The last key that was looked at in this round.
    cursor: Option<Vec<u8>>,
}

impl Superseded {
    pub fn note(&mut self, key: &[u8]) {
        if self.keys.len() < KEYS_MAX {
            self.keys.insert(key.to_vec());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The next keys of the round; none at its end.
    fn next(&mut self) -> Vec<Vec<u8>> {
        let from = match &self.cursor {
            Some(cursor) => Bound::Excluded(cursor.clone()),
            None => Bound::Unbounded,
        };
        let rest = self.keys.range((from, Bound::Unbounded));
        let next: Vec<Vec<u8>> = rest.take(KEYS_PER_STEP).cloned().collect();
        self.cursor = next.last().cloned();
        next
    }
}

/// Looks at some keys again, with the thresholds of now.
#[derive(Debug)]
pub(crate) struct Collect {
    thresholds: Thresholds,
    looked_at: usize,
    /// Versions that were let go.
    pub collected: usize,
    /// All keys have been looked at.
    pub round_over: bool,
}

impl Collect {
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            looked_at: 0,
            collected: 0,
            round_over: false,
        }
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, Trouble> {
        let keys = desk.superseded.next();
        if keys.is_empty() {
            self.round_over = true;
            return Ok(JobStep::Done);
        }
        let mut displaced = Vec::new();
        for key in &keys {
            let threshold = self.thresholds.of(key);
            if !pointer::merge(&*desk.index, key, &[], threshold, &mut displaced)? {
                desk.superseded.keys.remove(key);
            }
        }
        self.collected += displaced.len();
        for pointer in displaced {
            desk.live.clear(&pointer);
        }
        self.looked_at += keys.len();
        Ok(match self.looked_at < KEYS_PER_COLLECT {
            true => JobStep::Again,
            false => JobStep::Done,
        })
    }
}
