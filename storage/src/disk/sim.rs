//! A disk that can lose its power.
//!
//! Every file has a cache (what a reader sees) and a platter (what is durable), compared sector by
//! sector of 512 bytes. A killed process loses nothing of the cache. A power cut keeps a random subset
//! of the sectors that were not synced, over the old content; of the changes of names that no
//! `sync_dir` covered, a random prefix. A failed sync marks the pages clean without having written
//! them, as Linux does: the reader still sees them, no later sync writes them.
//!
//! The disk outlives the node: clones share it, and handles that were open when the node died no
//! longer work, so a forgotten task of a dead node cannot write.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, OpenMode};

const SECTOR: usize = 512;

/// Something that goes wrong, once or from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The `n`th operation from now that changes the disk (0 is the next one), and all after it, fail:
    /// the machine is as good as dead. A write that is hit may reach the cache in part.
    CrashAfter(u64),
    /// The `n`th sync of a file from now (0 is the next one) fails with EIO and marks the pages clean.
    FailSync(u64),
    /// The `n`th read from now fails with EIO.
    FailRead(u64),
    /// The `n`th write from now fails with EIO.
    FailWrite(u64),
    /// The `n`th write from now lands one sector further on, and reports success.
    MisdirectWrite(u64),
    /// The disk has this many bytes, used ones included; `u64::MAX` for no bound.
    Capacity(u64),
}

/// Which part of the unsynced state a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// A subset by the seed.
    Random,
    /// Nothing: the worst honest disk.
    Nothing,
    /// Everything: as if the last moment had made it.
    Everything,
}

#[derive(Debug, Default)]
struct FileState {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// Sectors whose cache was written since the last sync.
    dirty: BTreeSet<usize>,
    /// Whether the length changed since the last sync.
    length_dirty: bool,
}

/// A change of names that no sync of its directory has covered.
#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

#[derive(Debug)]
struct State {
    rng: u64,
    generation: u64,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
    dirs: BTreeSet<String>,
    operations: u64,
    capacity: u64,
    crash_after: Option<u64>,
    fail_sync: Option<u64>,
    fail_read: Option<u64>,
    fail_write: Option<u64>,
    misdirect_write: Option<u64>,
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("simulated disk: {what}"))
}

/// Counts a fault down; true when it is due.
fn due(fault: &mut Option<u64>) -> bool {
    match fault {
        Some(0) => {
            *fault = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl State {
    /// SplitMix64: enough for choosing sectors, and the same everywhere.
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Counts an operation that changes the disk.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.crash_after {
            Some(0) => Err(eio("the machine is down")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn is_down(&self) -> bool {
        self.crash_after == Some(0)
    }

    fn used(&self) -> u64 {
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        linked
            .iter()
            .filter_map(|id| self.files.get(id))
            .map(|f| f.cache.len() as u64)
            .sum()
    }

    fn apply_change(names: &mut BTreeMap<String, u64>, change: &NameChange) {
        match change {
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
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl SimDisk {
    /// An empty disk whose power cuts are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: seed,
            generation: 0,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            dirs: BTreeSet::from([String::new()]),
            operations: 0,
            capacity: u64::MAX,
            crash_after: None,
            fail_sync: None,
            fail_read: None,
            fail_write: None,
            misdirect_write: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            generation: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.lock();
        match fault {
            Fault::CrashAfter(n) => state.crash_after = Some(n),
            Fault::FailSync(n) => state.fail_sync = Some(n),
            Fault::FailRead(n) => state.fail_read = Some(n),
            Fault::FailWrite(n) => state.fail_write = Some(n),
            Fault::MisdirectWrite(n) => state.misdirect_write = Some(n),
            Fault::Capacity(bytes) => state.capacity = bytes,
        }
    }

    /// Disarms all faults but the capacity.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.crash_after = None;
        state.fail_sync = None;
        state.fail_read = None;
        state.fail_write = None;
        state.misdirect_write = None;
    }

    /// How many operations changed the disk so far: the steps between which a crash can fall.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The process died: the cache stays, open handles are dead. Returns the disk as the next
    /// incarnation of the node has it.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = self.lock();
        state.generation += 1;
        state.crash_after = None;
        Self {
            state: Arc::clone(&self.state),
            generation: state.generation,
        }
    }

    /// The power failed: of what was not synced, the chosen part stays. Returns the disk as the next
    /// incarnation of the node has it.
    #[must_use]
    pub fn power_loss(&self, survival: Survival) -> Self {
        let mut state = self.lock();
        state.generation += 1;
        state.crash_after = None;
        let changes = std::mem::take(&mut state.changes);
        let kept = match survival {
            Survival::Random => {
                usize::try_from(state.random() % (changes.len() as u64 + 1)).unwrap_or(0)
            }
            Survival::Nothing => 0,
            Survival::Everything => changes.len(),
        };
        let mut names = std::mem::take(&mut state.durable_names);
        for change in &changes[..kept] {
            State::apply_change(&mut names, change);
        }
        let linked: BTreeSet<u64> = names.values().copied().collect();
        state.files.retain(|id, _| linked.contains(id));
        state.durable_names.clone_from(&names);
        state.names = names;
        let ids: Vec<u64> = state.files.keys().copied().collect();
        for id in ids {
            let Some(mut file) = state.files.remove(&id) else {
                continue;
            };
            file.survive(survival, || state.random());
            state.files.insert(id, file);
        }
        Self {
            state: Arc::clone(&self.state),
            generation: state.generation,
        }
    }

    /// Turns over one bit of a file, on the platter and in the cache: rot.
    ///
    /// # Panics
    /// If there is no such file, or no such byte in it.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) {
        let mut state = self.lock();
        let id = state.names[path];
        let file = state.files.get_mut(&id).expect("a named file");
        let at = usize::try_from(byte).expect("an offset within memory");
        file.cache[at] ^= 1 << (bit % 8);
        if let Some(platter) = file.platter.get_mut(at) {
            *platter = file.cache[at];
        }
    }

    /// Cuts a file, durably: a lost tail.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &str, len: u64) {
        let mut state = self.lock();
        let id = state.names[path];
        let file = state.files.get_mut(&id).expect("a named file");
        let len = usize::try_from(len).expect("a length within memory");
        file.cache.resize(len, 0);
        file.platter.clone_from(&file.cache);
        file.dirty.clear();
    }

    /// Takes a file away, durably.
    pub fn lose(&self, path: &str) {
        let mut state = self.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
        state.changes.retain(|change| match change {
            NameChange::Link(name, _) | NameChange::Unlink(name) => name != path,
            NameChange::Rename(from, to) => from != path && to != path,
        });
    }

    /// The content of a file, as a reader sees it.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let id = state.names.get(path)?;
        state.files.get(id).map(|file| file.cache.clone())
    }

    /// Writes a whole file, durably: to put back a copy of earlier, for example.
    pub fn put(&self, path: &str, content: Vec<u8>) {
        let mut state = self.lock();
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(
            id,
            FileState {
                platter: content.clone(),
                cache: content,
                ..FileState::default()
            },
        );
        state.names.insert(path.to_owned(), id);
        state.durable_names.insert(path.to_owned(), id);
    }

    /// All files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    fn alive(&self, state: &State) -> io::Result<()> {
        if state.generation == self.generation && !state.is_down() {
            Ok(())
        } else {
            Err(eio("the machine is down"))
        }
    }
}

impl FileState {
    /// Leaves of the unsynced sectors what the power cut spares.
    fn survive(&mut self, survival: Survival, mut random: impl FnMut() -> u64) {
        let mut kept = std::mem::take(&mut self.platter);
        let durable_len = kept.len();
        if self.length_dirty {
            let (low, high) = (
                durable_len.min(self.cache.len()),
                durable_len.max(self.cache.len()),
            );
            let len = match survival {
                Survival::Random => {
                    // Lengths move sector by sector: a file is never longer by half of a write.
                    let steps = (high - low).div_ceil(SECTOR) as u64;
                    let step = usize::try_from(random() % (steps + 1)).unwrap_or(0);
                    (low + step * SECTOR).min(high)
                }
                Survival::Nothing => durable_len,
                Survival::Everything => self.cache.len(),
            };
            kept.resize(len, 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let survives = match survival {
                Survival::Random => random() & 1 == 0,
                Survival::Nothing => false,
                Survival::Everything => true,
            };
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(kept.len()).min(self.cache.len());
            if survives && from < to {
                kept[from..to].copy_from_slice(&self.cache[from..to]);
            }
        }
        self.length_dirty = false;
        self.cache.clone_from(&kept);
        self.platter = kept;
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        self.alive(&state)?;
        if !state.dirs.contains(dir_of(path)) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no directory for {path}"),
            ));
        }
        let id = match (state.names.get(path).copied(), mode) {
            (Some(id), OpenMode::Existing) => id,
            (None, OpenMode::Existing) => {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no file {path}"),
                ));
            }
            (Some(id), OpenMode::Create) => {
                state.operation()?;
                if let Some(file) = state.files.get_mut(&id) {
                    file.cache.clear();
                    file.dirty.clear();
                    file.length_dirty = true;
                }
                id
            }
            (None, OpenMode::Create) => {
                state.operation()?;
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, FileState::default());
                state.names.insert(path.to_owned(), id);
                state.changes.push(NameChange::Link(path.to_owned(), id));
                id
            }
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
            path: path.to_owned(),
        }))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        state.operation()?;
        if state.names.remove(path).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no file {path}"),
            ));
        }
        state.changes.push(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        state.operation()?;
        let Some(id) = state.names.remove(from) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no file {from}"),
            ));
        };
        state.names.insert(to.to_owned(), id);
        state
            .changes
            .push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.lock();
        self.alive(&state)?;
        if !state.dirs.contains(dir) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no directory {dir}"),
            ));
        }
        let names = state.names.keys().filter(|path| dir_of(path) == dir);
        Ok(names
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        state.operation()?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        state.operation()?;
        // Renames stay within a directory, so a directory's changes can be told apart.
        let (synced, left): (Vec<_>, Vec<_>) = std::mem::take(&mut state.changes)
            .into_iter()
            .partition(|change| match change {
                NameChange::Link(path, _) | NameChange::Unlink(path) => dir_of(path) == dir,
                NameChange::Rename(_, to) => dir_of(to) == dir,
            });
        state.changes = left;
        for change in &synced {
            State::apply_change(&mut state.durable_names, change);
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        self.alive(&state)?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    path: String,
}

impl SimFile {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        self.disk.alive(&state)?;
        run(&mut state)
    }
}

impl State {
    fn file(&mut self, id: u64) -> io::Result<&mut FileState> {
        self.files
            .get_mut(&id)
            .ok_or_else(|| eio("the file is gone"))
    }

    fn write(&mut self, id: u64, bytes: &[u8], offset: usize) -> io::Result<()> {
        let used = if self.capacity == u64::MAX {
            0
        } else {
            self.used()
        };
        let capacity = self.capacity;
        let file = self.file(id)?;
        let end = offset + bytes.len();
        if end > file.cache.len() {
            let grown = (end - file.cache.len()) as u64;
            if used.saturating_add(grown) > capacity {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            file.cache.resize(end, 0);
            file.length_dirty = true;
        }
        file.cache[offset..end].copy_from_slice(bytes);
        file.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            if due(&mut state.fail_read) {
                return Err(eio(&format!("read of {} fails", self.path)));
            }
            let file = state.file(self.id)?;
            let from = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(file.cache.len());
            let read = buffer.len().min(file.cache.len() - from);
            buffer[..read].copy_from_slice(&file.cache[from..from + read]);
            Ok(read)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let mut offset = usize::try_from(offset).map_err(|_| eio("offset"))?;
            if let Err(down) = state.operation() {
                // The machine dies in the middle of the write.
                let part = usize::try_from(state.random() % (bytes.len() as u64 + 1)).unwrap_or(0);
                let part = part / SECTOR * SECTOR;
                state.write(self.id, &bytes[..part], offset)?;
                return Err(down);
            }
            if due(&mut state.fail_write) {
                return Err(eio(&format!("write to {} fails", self.path)));
            }
            if due(&mut state.misdirect_write) {
                offset += SECTOR;
            }
            state.write(self.id, bytes, offset)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.operation()?;
            let fails = due(&mut state.fail_sync);
            let file = state.file(self.id)?;
            let dirty = std::mem::take(&mut file.dirty);
            if fails {
                return Err(eio(&format!("sync of {} fails", self.path)));
            }
            if std::mem::take(&mut file.length_dirty) || file.platter.len() != file.cache.len() {
                file.platter.resize(file.cache.len(), 0);
            }
            for sector in dirty {
                let from = sector * SECTOR;
                let to = (from + SECTOR).min(file.cache.len());
                if from < to {
                    file.platter[from..to].copy_from_slice(&file.cache[from..to]);
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.file(self.id)?.cache.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.operation()?;
            let used = state.used();
            let capacity = state.capacity;
            let file = state.file(self.id)?;
            let len = usize::try_from(len).map_err(|_| eio("length"))?;
            let grown = len.saturating_sub(file.cache.len()) as u64;
            if used.saturating_add(grown) > capacity {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            file.cache.resize(len, 0);
            file.length_dirty = true;
            Ok(())
        })
    }
}
