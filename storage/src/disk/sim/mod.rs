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

mod file;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::file::{FileState, SECTOR};
use self::names::{Names, dir_of, not_found};
use super::{Disk, DiskFile, OpenMode};

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

#[derive(Debug)]
struct State {
    rng: u64,
    generation: u64,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: Names,
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
        let linked = self.names.files();
        let files = linked.iter().filter_map(|id| self.files.get(id));
        files.map(FileState::len).sum()
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
            names: Names::default(),
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
        let unsynced = state.names.unsynced();
        let kept = match survival {
            Survival::Random => {
                usize::try_from(state.random() % (unsynced as u64 + 1)).unwrap_or(0)
            }
            Survival::Nothing => 0,
            Survival::Everything => unsynced,
        };
        state.names.survive(kept);
        let linked = state.names.files();
        state.files.retain(|id, _| linked.contains(id));
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
        let at = usize::try_from(byte).expect("an offset within memory");
        state.named(path).flip(at, bit);
    }

    /// Cuts a file, durably: a lost tail.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &str, len: u64) {
        let mut state = self.lock();
        let len = usize::try_from(len).expect("a length within memory");
        state.named(path).lose_tail(len);
    }

    /// Takes a file away, durably.
    pub fn lose(&self, path: &str) {
        self.lock().names.lose(path);
    }

    /// The content of a file, as a reader sees it.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let id = state.names.get(path)?;
        state.files.get(&id).map(|file| file.content().to_vec())
    }

    /// Writes a whole file, durably: to put back a copy of earlier, for example.
    pub fn put(&self, path: &str, content: Vec<u8>) {
        let mut state = self.lock();
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::durable(content));
        state.names.put(path, id);
    }

    /// All files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.paths()
    }

    fn alive(&self, state: &State) -> io::Result<()> {
        if state.generation == self.generation && !state.is_down() {
            Ok(())
        } else {
            Err(eio("the machine is down"))
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        self.alive(&state)?;
        if !state.dirs.contains(dir_of(path)) {
            return Err(not_found(format!("no directory for {path}")));
        }
        let id = match (state.names.get(path), mode) {
            (Some(id), OpenMode::Existing) => id,
            (None, OpenMode::Existing) => {
                return Err(not_found(format!("no file {path}")));
            }
            (Some(id), OpenMode::Create) => {
                state.operation()?;
                state.file(id)?.empty();
                id
            }
            (None, OpenMode::Create) => {
                state.operation()?;
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, FileState::default());
                state.names.link(path, id);
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
        state.names.unlink(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        state.operation()?;
        state.names.rename(from, to)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.lock();
        self.alive(&state)?;
        if !state.dirs.contains(dir) {
            return Err(not_found(format!("no directory {dir}")));
        }
        Ok(state.names.list(dir))
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
        state.names.sync(dir);
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

    fn named(&mut self, path: &str) -> &mut FileState {
        let id = self.names.get(path).expect("a name");
        self.files.get_mut(&id).expect("a named file")
    }

    /// Whether a file may become this long.
    fn room_for(&self, id: u64, len: usize) -> io::Result<()> {
        let now = self.files.get(&id).map_or(0, FileState::len);
        let grown = (len as u64).saturating_sub(now);
        // What is used is counted only where it matters.
        let is_bounded = grown > 0 && self.capacity < u64::MAX;
        if is_bounded && self.used().saturating_add(grown) > self.capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn write(&mut self, id: u64, bytes: &[u8], offset: usize) -> io::Result<()> {
        self.room_for(id, offset + bytes.len())?;
        self.file(id)?.write(bytes, offset);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            if due(&mut state.fail_read) {
                return Err(eio(&format!("read of {} fails", self.path)));
            }
            let content = state.file(self.id)?.content();
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = &content[from.min(content.len())..];
            let read = buffer.len().min(rest.len());
            buffer[..read].copy_from_slice(&rest[..read]);
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
            if due(&mut state.fail_sync) {
                state.file(self.id)?.fail_sync();
                return Err(eio(&format!("sync of {} fails", self.path)));
            }
            state.file(self.id)?.sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.file(self.id)?.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.operation()?;
            let len = usize::try_from(len).map_err(|_| eio("length"))?;
            state.room_for(self.id, len)?;
            state.file(self.id)?.set_len(len);
            Ok(())
        })
    }
}
