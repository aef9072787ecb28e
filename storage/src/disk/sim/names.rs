//! The names of files, as everybody sees them and as they would be after a power cut.
//!
//! A file system makes changes of names durable in the order in which they were made, and promises none of
//! them before the directory is synced: so a power cut leaves some prefix of those that were not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// A change of names that no sync of its directory has covered.
#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(path, id) => {
                names.insert(path.clone(), *id);
            }
            NameChange::Unlink(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
        }
    }

    /// Renames stay within a directory, so a directory's changes can be told apart.
    fn is_of(&self, dir: &str) -> bool {
        match self {
            NameChange::Link(path, _) | NameChange::Unlink(path) => dir_of(path) == dir,
            NameChange::Rename(_, to) => dir_of(to) == dir,
        }
    }

    fn concerns(&self, path: &str) -> bool {
        match self {
            NameChange::Link(name, _) | NameChange::Unlink(name) => name == path,
            NameChange::Rename(from, to) => from == path || to == path,
        }
    }
}

/// The directory of a path; `""` is the root.
pub(super) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

pub(super) fn not_found(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

/// Names, each of a file by its number.
///
/// Invariant: `seen` is `durable` with all of `changes` applied.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
}

impl Names {
    pub fn get(&self, path: &str) -> Option<u64> {
        self.seen.get(path).copied()
    }

    /// All files that have a name.
    pub fn files(&self) -> BTreeSet<u64> {
        self.seen.values().copied().collect()
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen.keys().cloned().collect()
    }

    /// The names in a directory, without it.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let paths = self.seen.keys().filter(|path| dir_of(path) == dir);
        let name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
        paths.map(name).collect()
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.seen);
        self.changes.push(change);
    }

    pub fn link(&mut self, path: &str, id: u64) {
        self.change(NameChange::Link(path.to_owned(), id));
    }

    pub fn unlink(&mut self, path: &str) -> io::Result<()> {
        if !self.seen.contains_key(path) {
            return Err(not_found(format!("no file {path}")));
        }
        self.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if !self.seen.contains_key(from) {
            return Err(not_found(format!("no file {from}")));
        }
        self.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Makes the changes in a directory durable.
    pub fn sync(&mut self, dir: &str) {
        let (synced, left) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| change.is_of(dir));
        self.changes = left;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut self.durable);
        }
    }

    /// How many changes a power cut may take.
    pub fn unsynced(&self) -> usize {
        self.changes.len()
    }

    /// A power cut: the first `kept` of the changes that were not synced stay.
    pub fn survive(&mut self, kept: usize) {
        for change in std::mem::take(&mut self.changes).iter().take(kept) {
            change.apply(&mut self.durable);
        }
        self.seen.clone_from(&self.durable);
    }

    /// Takes a name away, durably.
    pub fn lose(&mut self, path: &str) {
        self.seen.remove(path);
        self.durable.remove(path);
        self.changes.retain(|change| !change.concerns(path));
    }

    /// Gives a file a name, durably.
    pub fn put(&mut self, path: &str, id: u64) {
        self.seen.insert(path.to_owned(), id);
        self.durable.insert(path.to_owned(), id);
    }
}
