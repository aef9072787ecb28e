//! The index of the simulation: a `BTreeMap` that outlives its node, and can be damaged.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Index, IndexError, IndexFactory, Tree, Visit};
use crate::Direction;

type Map = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    live: Map,
    /// As of the last `sync`.
    synced: Map,
    /// Every change since then.
    unsynced: Vec<(Tree, Vec<u8>, Option<Vec<u8>>)>,
    /// As of the last `seal`.
    sealed: Map,
    torn: bool,
    keep_copies: bool,
}

impl State {
    fn change(&mut self, tree: Tree, key: &[u8], value: Option<&[u8]>) {
        if self.keep_copies {
            let value = value.map(<[u8]>::to_vec);
            self.unsynced.push((tree, key.to_vec(), value));
        }
        apply(&mut self.live, tree, key, value);
    }

    /// Only so many of the changes since the last `sync` took place.
    fn keep_unsynced(&mut self, count: usize) {
        self.unsynced.truncate(count);
        self.live = self.synced.clone();
        for (tree, key, value) in &self.unsynced {
            apply(&mut self.live, *tree, key, value.as_deref());
        }
    }
}

fn apply(map: &mut Map, tree: Tree, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => map.insert((tree, key.to_vec()), value.to_vec()),
        None => map.remove(&(tree, key.to_vec())),
    };
}

/// What a crash does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// The process died: everything since the last `sync` is missing.
    Behind,
    /// The process died: some of the changes since the last `sync` are there, in their order, and the
    /// rest is missing. The number says how many, counted round and round.
    Cut(u64),
    /// The machine lost its power: the index is as of the last clean stop.
    Old,
    /// It opens with an error.
    Torn,
    /// It opens empty, without an error.
    Gone,
}

/// Opens the same in-memory index again and again. Clones are the same index.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndexFactory {
    state: Arc<Mutex<State>>,
}

impl MemoryIndexFactory {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        let factory = Self::default();
        factory.lock().keep_copies = true;
        factory
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damages the index, as a crash may.
    pub fn rot(&self, rot: Rot) {
        let mut state = self.lock();
        match rot {
            Rot::Behind => state.keep_unsynced(0),
            Rot::Cut(number) => {
                let cuts = state.unsynced.len() as u64 + 1;
                state.keep_unsynced((number % cuts) as usize);
            }
            Rot::Old => state.live = state.sealed.clone(),
            Rot::Torn => state.torn = true,
            Rot::Gone => state.live.clear(),
        }
    }

    /// A copy of the whole index, to be put back later as one restores half of a directory.
    #[must_use]
    pub fn copy(&self) -> Vec<(Tree, Vec<u8>, Vec<u8>)> {
        let state = self.lock();
        state
            .live
            .iter()
            .map(|((tree, key), value)| (*tree, key.clone(), value.clone()))
            .collect()
    }

    /// Replaces the whole index by a copy.
    pub fn restore(&self, copy: Vec<(Tree, Vec<u8>, Vec<u8>)>) {
        let mut state = self.lock();
        state.live = copy
            .into_iter()
            .map(|(tree, key, value)| ((tree, key), value))
            .collect();
    }
}

impl IndexFactory for MemoryIndexFactory {
    fn open(&mut self) -> Result<Arc<dyn Index>, IndexError> {
        if self.lock().torn {
            return Err(IndexError("torn by the simulation".to_owned()));
        }
        Ok(Arc::new(MemoryIndex {
            state: Arc::clone(&self.state),
        }))
    }

    fn discard(&mut self) -> Result<(), IndexError> {
        let mut state = self.lock();
        state.live.clear();
        state.torn = false;
        Ok(())
    }

    fn seal(&self) -> Result<(), IndexError> {
        let mut state = self.lock();
        if state.keep_copies {
            state.sealed = state.live.clone();
        }
        Ok(())
    }
}

/// An index of its own that nobody opens again.
pub(super) fn empty() -> Arc<dyn Index> {
    Arc::new(MemoryIndex {
        state: Arc::default(),
    })
}

#[derive(Debug)]
struct MemoryIndex {
    state: Arc<Mutex<State>>,
}

impl MemoryIndex {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.lock().live.get(&(tree, key.to_vec())).cloned())
    }

    fn insert(&self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        self.lock().change(tree, key, Some(value));
        Ok(())
    }

    fn remove(&self, tree: Tree, key: &[u8]) -> Result<(), IndexError> {
        self.lock().change(tree, key, None);
        Ok(())
    }

    fn range(
        &self,
        tree: Tree,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let next_tree = match tree {
            Tree::Newest => Bound::Excluded((Tree::History, Vec::new())),
            Tree::History => Bound::Excluded((Tree::Stamp, Vec::new())),
            Tree::Stamp => Bound::Unbounded,
        };
        let end = end.map_or(next_tree, |end| Bound::Excluded((tree, end.to_vec())));
        let state = self.lock();
        let mut range = state
            .live
            .range((Bound::Included((tree, start.to_vec())), end));
        loop {
            let next = match direction {
                Direction::Forward => range.next(),
                Direction::Reverse => range.next_back(),
            };
            let Some(((_, key), value)) = next else {
                return Ok(());
            };
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
    }

    fn sync(&self) -> Result<(), IndexError> {
        let mut state = self.lock();
        if state.keep_copies {
            state.synced = state.live.clone();
            state.unsynced.clear();
        }
        Ok(())
    }
}
