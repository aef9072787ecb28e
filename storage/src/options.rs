//! Sizes and paces of a node's store. All of them are this node's own affair: nodes may differ.

/// Settings of a store. The defaults are those the benchmarks are run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The active memtable is frozen, and a checkpoint starts, at this size. The frozen one counts
    /// the same again.
    pub memtable_bytes: usize,
    /// A checkpoint also starts when the active memtable has been waiting this long, so that a node
    /// that went quiet has little to replay.
    pub checkpoint_after_ms: u64,
    /// The pointers of a checkpoint are put into the index so long after it or later. By then the
    /// versions that they displace should be out of reach: an entry that has to keep both is long.
    pub merge_after_ms: u64,
    /// Files wait for the index up to this many; some 3 MiB each.
    pub unmerged_files_max: usize,
    /// The cache of values that were read from disk.
    pub value_cache_bytes: usize,
    /// The cache of log entries, for all groups together.
    pub entry_cache_bytes: usize,
    /// One log segment, at least 64 KiB.
    pub segment_bytes: u64,
    /// Segments kept ready, zero-filled, for when the current one is full.
    pub spare_segments: usize,
    /// The log keeps this much for slow followers, where checkpoints would let it drop more.
    pub log_keep_bytes: u64,
    /// The largest batch that is written at once. A single entry may be larger.
    pub batch_bytes_max: usize,
    /// An empty batch seals the log after this long without one.
    pub seal_after_ms: u64,
    /// A value file is closed at this size.
    pub value_file_bytes: u64,
    /// Value files are rewritten when less than this share of all of them is live, in percent: those of
    /// which less is.
    pub reclaim_below_percent: u8,
    /// So much dead data is left alone, unless space is short.
    pub reclaim_dead_bytes: u64,
    /// After so long without a checkpoint, keys are looked at again whose older versions may be out of
    /// reach by now.
    pub collect_after_ms: u64,
    /// Room for records of the manifest before it is written anew.
    pub manifest_bytes: u64,
    /// One step of background work writes about this much.
    pub chunk_bytes: usize,
    /// Below this much free space, writes are refused.
    pub disk_low_bytes: u64,
    /// Space held back in a file of its own, let go when the log cannot be extended otherwise.
    pub disk_reserve_bytes: u64,
    /// How often the free space is looked at.
    pub disk_check_ms: u64,
    /// The scrubber reads one chunk this often while nothing else is going on; 0 turns it off.
    pub scrub_every_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memtable_bytes: 32 << 20,
            checkpoint_after_ms: 60_000,
            merge_after_ms: 6_000,
            unmerged_files_max: 8,
            value_cache_bytes: 32 << 20,
            entry_cache_bytes: 16 << 20,
            segment_bytes: 32 << 20,
            spare_segments: 2,
            log_keep_bytes: 128 << 20,
            batch_bytes_max: 4 << 20,
            seal_after_ms: 50,
            value_file_bytes: 32 << 20,
            reclaim_below_percent: 50,
            reclaim_dead_bytes: 128 << 20,
            collect_after_ms: 5_000,
            manifest_bytes: 512 << 10,
            chunk_bytes: 256 << 10,
            disk_low_bytes: 256 << 20,
            disk_reserve_bytes: 64 << 20,
            disk_check_ms: 1_000,
            scrub_every_ms: 100,
        }
    }
}

impl Options {
    /// Small sizes, so that a simulated second crosses every boundary there is.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            memtable_bytes: 32 << 10,
            checkpoint_after_ms: 1_000,
            merge_after_ms: 300,
            unmerged_files_max: 3,
            value_cache_bytes: 16 << 10,
            entry_cache_bytes: 32 << 10,
            segment_bytes: 64 << 10,
            spare_segments: 1,
            log_keep_bytes: 64 << 10,
            batch_bytes_max: 16 << 10,
            seal_after_ms: 50,
            value_file_bytes: 16 << 10,
            reclaim_below_percent: 50,
            reclaim_dead_bytes: 16 << 10,
            collect_after_ms: 200,
            manifest_bytes: 16 << 10,
            chunk_bytes: 4 << 10,
            disk_low_bytes: 256 << 10,
            disk_reserve_bytes: 128 << 10,
            disk_check_ms: 100,
            scrub_every_ms: 10,
        }
    }
}
