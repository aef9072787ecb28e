//! Which value files are rewritten, and when.
//!
//! A file is dead data as far as its records have newer versions elsewhere, and only a rewrite of what
//! is live gives the space back. The longer that waits, the less of the file is left to be copied: with
//! keys that change often, none of it. So nothing is rewritten while dead data is a small amount, or the
//! smaller part of all; then the files with the least live data go first. A file without any goes at
//! once, and when space is short, each file that is worth it. A file whose pointers are not in the index yet
//! waits: what is live of it is not known.

use std::collections::BTreeSet;

use super::Store;
use crate::background::{Collect, Depth, Desk, Reclaim};
use crate::threshold::Thresholds;
use crate::{FileNumber, Micros};

/// What is known about reclaims to come.
#[derive(Debug, Default)]
pub(super) struct Reclaims {
    /// Something changed: it is worth looking again.
    pub due: bool,
    /// Files that cannot be rewritten, until a checkpoint has repaired what is bad in them.
    pub impossible: BTreeSet<FileNumber>,
    /// Files that are damaged where no row is: to be reclaimed however dense they are.
    pub bad_footers: BTreeSet<FileNumber>,
    deep: DeepRound,
    /// When the last checkpoint was complete.
    pub checkpointed_at: Micros,
    /// Superseded versions are not looked at before.
    collect_at: Micros,
}

/// A round of deep reclaims: see [`Reclaim`].
#[derive(Clone, Copy, Debug, Default)]
struct DeepRound {
    /// Files up to this one are still to be done, those with the oldest records first; none under way
    /// if zero.
    until: FileNumber,
    /// Deletes that the last round could not drop.
    left_deletes: u64,
}

impl Store {
    /// A look at superseded versions. Keys that change all the time lose them by themselves, so this
    /// waits for a pause between checkpoints, unless space is short.
    pub(super) fn next_collect(&mut self) -> Option<Collect> {
        let desk = self.desk.as_ref()?;
        let reclaims = &self.schedule.reclaims;
        let pause_us = self.options.collect_after_ms * 1_000;
        let is_calm = self.now.0 >= reclaims.checkpointed_at.0 + pause_us;
        let wanted = is_calm || self.space_is_short();
        if desk.superseded.is_empty() || !wanted || self.now < reclaims.collect_at {
            return None;
        }
        Some(Collect::new(Thresholds::new(&self.thresholds)))
    }

    pub(super) fn collect_done(&mut self, collect: &Collect) {
        let reclaims = &mut self.schedule.reclaims;
        reclaims.due |= collect.collected > 0;
        if collect.round_over {
            let pause_ms = self
                .options
                .collect_after_ms
                .min(self.options.disk_check_ms);
            reclaims.collect_at = Micros(self.now.0 + pause_ms * 1_000);
        }
    }

    pub(super) fn space_is_short(&self) -> bool {
        self.schedule.available_bytes / 4 < self.options.disk_low_bytes
    }

    /// The files that are worth rewriting now.
    pub(super) fn next_reclaim(&mut self) -> Option<Reclaim> {
        let desk = self.desk.as_ref()?;
        if !self.schedule.reclaims.due || !desk.live_complete {
            return None;
        }
        let sources = self.sparse_files(desk);
        if !sources.is_empty() {
            return Some(Reclaim::new(sources, Depth::Plain));
        }
        self.next_deep_reclaim()
    }

    /// The least dense files, as many as make a new one.
    fn sparse_files(&self, desk: &Desk) -> Vec<FileNumber> {
        let reclaims = &self.schedule.reclaims;
        let below_percent = match self.is_sparse(desk) {
            true => u64::from(self.options.reclaim_below_percent),
            false => 0,
        };
        let mut sparse: Vec<(u64, FileNumber, u64)> = Vec::new();
        for (number, file) in &desk.manifest.state.files {
            let live = desk.live.bytes(*number);
            // Of its records only: a small file is mostly footer, and would never be dense.
            let percent = live * 100 / file.record_bytes.max(1);
            let wanted =
                live == 0 || percent < below_percent || reclaims.bad_footers.contains(number);
            if wanted && !desk.index.waits(*number) && !reclaims.impossible.contains(number) {
                sparse.push((percent, *number, live));
            }
        }
        sparse.sort_unstable();
        let mut live_bytes = 0;
        let sources = sparse.iter().take_while(|(_, _, live)| {
            let fits = live_bytes == 0 || live_bytes + live <= self.options.value_file_bytes;
            live_bytes += live;
            fits
        });
        sources.map(|(_, number, _)| *number).take(8).collect()
    }

    /// Whether dead data is worth a rewrite of live data.
    fn is_sparse(&self, desk: &Desk) -> bool {
        let files = desk.manifest.state.files.values();
        let records: u64 = files.map(|file| file.record_bytes).sum();
        let live = desk.live.total_bytes();
        let dead = records.saturating_sub(live);
        let share = live * 100 < records * u64::from(self.options.reclaim_below_percent);
        (share && dead > self.options.reclaim_dead_bytes) || self.space_is_short()
    }

    /// Deletes that have nothing left to hide.
    fn next_deep_reclaim(&mut self) -> Option<Reclaim> {
        let desk = self.desk.as_ref()?;
        let files = &desk.manifest.state.files;
        let reclaims = &mut self.schedule.reclaims;
        let (mut records, mut deletes) = (0, 0);
        for number in files.keys() {
            records += u64::from(desk.live.records(*number));
            deletes += u64::from(desk.live.deletes(*number));
        }
        if reclaims.deep.until == FileNumber(0) {
            let left = reclaims.deep.left_deletes;
            let enough = deletes * 5 > records && deletes > 64 + left * 3 / 2;
            if !enough {
                reclaims.due = false;
                return None;
            }
            reclaims.deep.until = FileNumber(desk.manifest.state.next_file.0 - 1);
        }
        if !desk.index.unmerged().is_empty() {
            // First everything goes into the index: what a delete hides must be known.
            return None;
        }
        let until = reclaims.deep.until;
        let left = files
            .iter()
            .filter(|(number, _)| **number <= until && !reclaims.impossible.contains(number));
        let oldest = left.min_by_key(|(number, file)| (file.oldest, **number));
        match oldest.map(|(number, _)| *number) {
            Some(number) => Some(Reclaim::new(vec![number], Depth::Deep)),
            None => {
                reclaims.deep = DeepRound {
                    until: FileNumber(0),
                    left_deletes: deletes,
                };
                None
            }
        }
    }

    /// Whether a round of deep reclaims is under way, or waits for the index.
    pub(super) fn is_reclaiming_deeply(&self) -> bool {
        self.schedule.reclaims.deep.until != FileNumber(0)
    }

    pub(super) fn reclaim_done(&mut self, reclaim: &Reclaim) {
        if let Some((number, key, pointer)) = &reclaim.damaged {
            self.schedule.reclaims.impossible.insert(*number);
            self.report_damage(key, pointer);
        } else if let Some(number) = reclaim.unlisted {
            self.schedule.reclaims.impossible.insert(number);
        } else {
            self.stats.reclaims += 1;
            let files = self.desk.as_ref().map(|desk| &desk.manifest.state.files);
            let bad_footers = &mut self.schedule.reclaims.bad_footers;
            bad_footers.retain(|number| files.is_some_and(|files| files.contains_key(number)));
        }
    }
}
