//! The ordered index over the value files: key → where its newest records lie.
//!
//! The index is derived. Value files and manifest can rebuild it at any time, so an index that is
//! late, torn or gone costs time, never data. That is what lets sled serve here: it is a fast ordered
//! map, it survives the death of the process, and it does not survive a power cut, not even after its
//! own `flush`. In simulation a `BTreeMap` takes its place; a differential test holds the two equal.
//!
//! The trait is drawn here, and not above, so that log, memtable, checkpoint, reclaim and recovery
//! run under the simulated disk.

mod layered;
mod memory;
pub(crate) mod pointer;
mod sled;

use std::fmt::Debug;
use std::ops::ControlFlow;

pub(crate) use layered::{Layered, Unmerged};
pub use memory::{MemoryIndexFactory, Rot};
pub(crate) use pointer::{IndexKey, Pointer};
pub use sled::SledIndexFactory;

/// The trees of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    /// One entry per key: its newest versions.
    Newest,
    /// One entry per key and version: what did not fit into the first, while it is retained.
    History,
    /// The stamp.
    Stamp,
}

/// The index cannot be used any more. It is rebuilt at the next start.
#[derive(Debug, thiserror::Error)]
#[error("index: {0}")]
pub struct IndexError(pub String);

/// What a walk calls with each key and value; it breaks off when told to.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered map of bytes. All calls block, and none of them comes from the loop.
pub trait Index: Debug + Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// The index is broken.
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Puts a key.
    ///
    /// # Errors
    /// The index is broken.
    fn insert(&self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), IndexError>;

    /// Takes a key out.
    ///
    /// # Errors
    /// The index is broken.
    fn remove(&self, tree: Tree, key: &[u8]) -> Result<(), IndexError>;

    /// Walks the keys from `start`, included, to `end`, excluded, forward or in reverse, until `visit`
    /// breaks off.
    ///
    /// # Errors
    /// The index is broken.
    fn range(
        &self,
        tree: Tree,
        start: &[u8],
        end: Option<&[u8]>,
        direction: crate::Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError>;

    /// Makes everything so far survive the death of the process (not of the machine).
    ///
    /// # Errors
    /// The index is broken.
    fn sync(&self) -> Result<(), IndexError>;
}

/// An index with nothing in it, until the real one is open.
pub(crate) fn no_index() -> std::sync::Arc<dyn Index> {
    memory::empty()
}

/// Work on an index that touches no key that another piece does.
pub type Piece<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Opens a node's index, and throws it away.
pub trait IndexFactory: Debug + Send {
    /// Carries out all pieces: one after the other, or where the index is faster for it, at once.
    fn run_all(&self, pieces: Vec<Piece<'_>>) {
        for piece in pieces {
            piece();
        }
    }

    /// Opens what is there, or an empty index.
    ///
    /// # Errors
    /// It is damaged: throw it away.
    fn open(&mut self) -> Result<std::sync::Arc<dyn Index>, IndexError>;

    /// Moves what is there aside, so that the next `open` finds an empty one.
    ///
    /// # Errors
    /// The directory cannot be changed: fatal.
    fn discard(&mut self) -> Result<(), IndexError>;

    /// Makes a closed or quiescent index survive the death of the machine: fsync of its files and
    /// directory by ourselves.
    ///
    /// # Errors
    /// What is durable is unknown: the stamp must not say clean.
    fn seal(&self) -> Result<(), IndexError>;
}
