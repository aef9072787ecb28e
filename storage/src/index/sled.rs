//! The index of production: sled.
//!
//! Two things about sled 0.34 shape this file. Its `flush` hands dirty pages to the kernel and no
//! further (`sync_file_range`), so it covers the death of the process only; for a clean stop the files
//! are synced here, one by one, with their directories. And a damaged file may make it panic as well as
//! fail, so every call into it is guarded.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Index, IndexError, IndexFactory, Piece, Tree, Visit};
use crate::Direction;

/// Opens sled in a directory of its own.
#[derive(Debug)]
pub struct SledIndexFactory {
    path: PathBuf,
    cache_bytes: u64,
}

impl SledIndexFactory {
    /// The index in the directory `path`, with a page cache of about `cache_bytes`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, cache_bytes: u64) -> Self {
        Self {
            path: path.into(),
            cache_bytes,
        }
    }

    /// Where a damaged index is kept until the next one is.
    fn aside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".damaged");
        PathBuf::from(name)
    }
}

/// A database that was just closed may be locked for a moment more: its flusher lets go last.
fn open_patiently(config: &sled::Config) -> Result<sled::Db, sled::Error> {
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && tries < 40 =>
            {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            opened => return opened,
        }
    }
}

/// Runs a call into sled; a panic in there is an error of the index like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(IndexError(format!("sled: {error}"))),
        Err(_) => Err(IndexError("sled panicked".to_owned())),
    }
}

impl IndexFactory for SledIndexFactory {
    /// On a thread for each core: sled takes inserts from several, and most of what one costs is its
    /// own work. More threads than cores only made garbage that the others have to free.
    fn run_all(&self, pieces: Vec<Piece<'_>>) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(pieces.len());
        let pieces = Mutex::new(pieces.into_iter());
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(piece) = next() {
                        piece();
                    }
                });
            }
        });
    }

    fn open(&mut self) -> Result<Arc<dyn Index>, IndexError> {
        let config = sled::Config::new()
            .path(&self.path)
            .cache_capacity(self.cache_bytes)
            .flush_every_ms(Some(1_000))
            .mode(sled::Mode::HighThroughput);
        guarded(|| {
            let db = open_patiently(&config)?;
            let newest = db.open_tree("newest")?;
            let history = db.open_tree("history")?;
            let stamp = db.open_tree("stamp")?;
            Ok(Arc::new(SledIndex {
                db,
                newest,
                history,
                stamp,
            }) as Arc<dyn Index>)
        })
    }

    fn discard(&mut self) -> Result<(), IndexError> {
        let failed = |error: io::Error| {
            IndexError(format!(
                "cannot move {} aside: {error}",
                self.path.display()
            ))
        };
        if !self.path.exists() {
            return Ok(());
        }
        let aside = self.aside();
        match std::fs::remove_dir_all(&aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        std::fs::rename(&self.path, &aside).map_err(failed)?;
        tracing::warn!("the index was moved to {}", aside.display());
        Ok(())
    }

    fn seal(&self) -> Result<(), IndexError> {
        sync_tree(&self.path)
            .and_then(|()| self.path.parent().map_or(Ok(()), sync_path))
            .map_err(|error| IndexError(format!("cannot sync {}: {error}", self.path.display())))
    }
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs every file below a directory, then the directory.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync_path(&entry.path())?;
        }
    }
    sync_path(path)
}

#[derive(Debug)]
struct SledIndex {
    db: sled::Db,
    newest: sled::Tree,
    history: sled::Tree,
    stamp: sled::Tree,
}

impl SledIndex {
    fn tree(&self, tree: Tree) -> &sled::Tree {
        match tree {
            Tree::Newest => &self.newest,
            Tree::History => &self.history,
            Tree::Stamp => &self.stamp,
        }
    }
}

impl Index for SledIndex {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        guarded(|| Ok(self.tree(tree).get(key)?.map(|value| value.to_vec())))
    }

    fn insert(&self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        guarded(|| self.tree(tree).insert(key, value).map(drop))
    }

    fn remove(&self, tree: Tree, key: &[u8]) -> Result<(), IndexError> {
        guarded(|| self.tree(tree).remove(key).map(drop))
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
        guarded(|| {
            let tree = self.tree(tree);
            let mut range = match end {
                Some(end) => tree.range(start..end),
                None => tree.range(start..),
            };
            loop {
                let next = match direction {
                    Direction::Forward => range.next(),
                    Direction::Reverse => range.next_back(),
                };
                let Some(row) = next else { return Ok(()) };
                let (key, value) = row?;
                if visit(&key, &value).is_break() {
                    return Ok(());
                }
            }
        })
    }

    fn sync(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush().map(drop))
    }
}
