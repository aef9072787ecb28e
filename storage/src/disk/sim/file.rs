//! A file that has a cache and a platter.
//!
//! The cache is what a reader sees, the platter what is durable. They are compared sector by sector: a sector
//! is dirty from its first write to the next sync, whether that succeeds or not.

use std::collections::BTreeSet;

use super::Survival;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(super) struct FileState {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// Sectors whose cache was written since the last sync.
    dirty: BTreeSet<usize>,
    /// Whether the length changed since the last sync.
    length_dirty: bool,
}

impl FileState {
    /// A file with this content, on the platter.
    pub fn durable(content: Vec<u8>) -> Self {
        Self {
            platter: content.clone(),
            cache: content,
            ..Self::default()
        }
    }

    /// What a reader sees.
    pub fn content(&self) -> &[u8] {
        &self.cache
    }

    pub fn len(&self) -> u64 {
        self.cache.len() as u64
    }

    pub fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.set_len(end);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    pub fn set_len(&mut self, len: usize) {
        self.cache.resize(len, 0);
        self.length_dirty = true;
    }

    pub fn empty(&mut self) {
        self.set_len(0);
        self.dirty.clear();
    }

    pub fn sync(&mut self) {
        self.length_dirty = false;
        self.platter.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.cache.len());
            if from < to {
                self.platter[from..to].copy_from_slice(&self.cache[from..to]);
            }
        }
    }

    /// The pages are clean, and were not written.
    pub fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// Turns over a bit, in both places.
    pub fn flip(&mut self, at: usize, bit: u8) {
        self.cache[at] ^= 1 << (bit % 8);
        if let Some(platter) = self.platter.get_mut(at) {
            *platter = self.cache[at];
        }
    }

    /// Cuts or lengthens it, durably.
    pub fn lose_tail(&mut self, len: usize) {
        self.cache.resize(len, 0);
        self.platter.clone_from(&self.cache);
        self.dirty.clear();
    }

    /// Leaves of the unsynced sectors what the power cut spares.
    pub fn survive(&mut self, survival: Survival, mut random: impl FnMut() -> u64) {
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
