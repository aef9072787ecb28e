//! What the log makes of what it finds: tails, damage, and frames that are not its own any more.

use super::*;
use crate::disk::{Fault, Survival};
use crate::index::Rot;
use crate::rig::{REPLICA, encode, put, run_job};
use crate::{Entry, EntryId, EntryKind, HardState, Lane, LogBatch, Space, entry_checksum};

/// Batches begin at multiples of this.
const BLOCK: usize = 4096;

/// Where the batches of a segment begin.
fn batches(content: &[u8]) -> Vec<usize> {
    let steps = (BLOCK..content.len()).step_by(BLOCK);
    steps
        .filter(|at| content[*at..].starts_with(b"SYNODBAT"))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Table,
    Body,
}

/// Three batches of three blocks each, with an entry of the first shard. Turns over a bit in one of them,
/// counted from the end, and lets the process start again.
fn with_a_bad(part: Part, from_end: usize, sealed: bool) -> (Rig, String, Vec<Entry>) {
    let mut rig = two_shards(50);
    let mut entries = Vec::new();
    for n in 0..3u8 {
        entries.push(rig.submit(SHARD, vec![put(format!("k{n}"), vec![n; 9_000])]));
        rig.run().unwrap();
    }
    let path = newest_segment(&rig);
    let found = batches(&rig.disk().content(&path).unwrap());
    let at = found[found.len() - 1 - from_end] as u64;
    if sealed {
        rig.pass(100).unwrap();
    }
    let inside = match part {
        Part::Header => 20,
        Part::Table => 140,
        Part::Body => 6_000,
    };
    rig.disk().flip_bit(&path, at + inside, 3);
    rig.unacknowledged.clear();
    rig.kill();
    (rig, path, entries)
}

fn bad_batches() {
    for part in [Part::Header, Part::Table, Part::Body] {
        // Nothing valid follows: the write was never finished.
        let (rig, path, _) = with_a_bad(part, 0, false);
        let cut = rig.report.torn_tail.as_deref().unwrap_or_default();
        assert!(cut.contains(&path), "{part:?}: {cut}");
        assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
        assert!(damage_of(&rig, SHARD).is_none(), "{part:?}");
        assert_eq!(end_of(&rig, SHARD), 2, "{part:?}");
        // What a later batch proves durable is damaged, the last one too once the log is sealed. The length
        // in the bad header is not believed: what follows is looked for at every block.
        for (from_end, sealed) in [(1, false), (2, false), (0, true)] {
            let (rig, path, entries) = with_a_bad(part, from_end, sealed);
            let said = rig.report.damage.join("\n");
            assert!(said.contains(&path), "{part:?}: {said}");
            assert_eq!(rig.report.torn_tail, None, "{part:?}");
            let entry = &entries[2 - from_end];
            if part == Part::Body {
                let lost = vec![(entry.id, entry_checksum(entry))];
                assert_eq!(damage_of(&rig, SHARD).entries, lost);
                assert!(!damage_of(&rig, SHARD).unknown);
                assert!(damage_of(&rig, OTHER).is_none(), "it lost nothing");
                assert_eq!(end_of(&rig, SHARD), 3, "never truncated");
            } else {
                // Whose vote or entry it was, nobody can say.
                assert!(damage_of(&rig, SHARD).unknown, "{part:?}");
                assert!(damage_of(&rig, OTHER).unknown, "{part:?}");
            }
        }
    }
}

#[test]
fn damage_is_told_from_a_torn_tail() {
    noticed(Bug::TakesDamageForATail, bad_batches);
}

/// Damage of unknown extent is remembered when the place where it was is long gone.
#[test]
fn a_replica_that_lost_something_unknown_stays_suspect() {
    let (mut rig, _, _) = with_a_bad(Part::Table, 1, false);
    for _ in 0..2 {
        rig.power_loss(Survival::Random, Rot::Gone);
        assert!(damage_of(&rig, SHARD).unknown);
        assert!(damage_of(&rig, OTHER).unknown);
    }
}

/// The page cache shows a batch whose sync has failed; no later sync writes it.
fn failed_sync_then_power_cut() {
    for fault in [Fault::FailSync(0), Fault::CrashAfter(1)] {
        let mut rig = Rig::sim(51);
        rig.write(vec![put("a", "1")]).unwrap();
        rig.disk().inject(fault);
        rig.submit(SHARD, vec![put("x", "seen")]);
        assert!(rig.run().is_err(), "{fault:?} stops the node");
        rig.kill();
        assert_eq!(rig.value(b"x"), Some(b"seen".to_vec()));
        let seen = Some(b"seen".to_vec());
        rig.model.insert((Space::User, b"x".to_vec()), seen);
        rig.power_loss(Survival::Nothing, Rot::Gone);
        assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
        rig.check();
    }
}

#[test]
fn the_last_batch_is_written_anew_before_it_is_relied_on() {
    noticed(Bug::LeavesLastBatchBehind, failed_sync_then_power_cut);
}

/// A log whose last batch, an entry of the other shard, was cut off, and what the segment held before:
/// the segment, its content with the batch, and where that begins.
fn with_a_dropped_batch(seed: u64) -> (Rig, String, Vec<u8>, usize) {
    let mut rig = two_shards(seed);
    rig.write_to(OTHER, vec![put("z", "1")]).unwrap();
    rig.write(vec![put("b", "1")]).unwrap();
    let path = newest_segment(&rig);
    let without = rig.disk().content(&path).unwrap();
    rig.submit(OTHER, vec![put("z", "dropped")]);
    rig.run().unwrap();
    let with = rig.disk().content(&path).unwrap();
    rig.unacknowledged.clear();
    rig.disk().put(&path, without);
    rig.kill();
    assert_eq!(end_of(&rig, OTHER), 1, "the scenario is void");
    let at = batches(&with).pop().expect("it was written");
    (rig, path, with, at)
}

fn dropped_batch_is_shown_again() {
    let (mut rig, path, with_it, _) = with_a_dropped_batch(52);
    rig.write(vec![put("a", "new")]).unwrap();
    rig.disk().put(&path, with_it);
    rig.kill();
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
    assert_eq!(end_of(&rig, OTHER), 1);
    rig.check();
}

#[test]
fn what_was_cut_off_stays_cut_off() {
    noticed(Bug::ForgetsWhereItEnds, dropped_batch_is_shown_again);
}

/// Segments are used again: behind their end lies what they held before, and it may even be the batch
/// that would come next.
fn stale_frames_behind_the_end() {
    let (mut rig, _, old, dropped_at) = with_a_dropped_batch(53);
    let mut frames: Vec<Vec<u8>> = batches(&old)
        .into_iter()
        .map(|at| old[at..at + BLOCK].to_vec())
        .collect();
    let dropped = old[dropped_at..dropped_at + BLOCK].to_vec();
    frames.insert(0, dropped);
    for start in 0..frames.len() {
        let path = newest_segment(&rig);
        let mut content = rig.disk().content(&path).unwrap();
        let end = batches(&content).pop().unwrap_or(0) + BLOCK;
        let stale = frames[start..].concat();
        content[end..end + stale.len()].copy_from_slice(&stale);
        rig.disk().put(&path, content);
        rig.kill();
        assert!(rig.report.damage.is_empty(), "{:?}", rig.report.damage);
        assert_eq!(end_of(&rig, OTHER), 1);
        rig.check();
    }
}

#[test]
fn frames_of_other_segments_never_chain() {
    noticed(Bug::TakesStaleFrames, stale_frames_behind_the_end);
}

/// Batch k+1 leaves when the sync of k is back: else nothing could tell a tail from damage.
#[test]
fn one_batch_is_in_flight() {
    let mut rig = Rig::sim(54);
    let mut jobs = Vec::new();
    for n in 0..3u8 {
        rig.submit(SHARD, vec![put(format!("k{n}"), "x")]);
        rig.store.take_jobs(&mut jobs);
        let writes = jobs.iter().filter(|job| job.lane() == Lane::Log);
        assert_eq!(writes.count(), 1, "with {n} more that wait");
    }
    let synced = rig.store.synced();
    for mut job in jobs {
        run_job(&mut job);
        rig.store.complete(job).unwrap();
    }
    assert_eq!(rig.store.synced().0, synced.0 + 1);
    rig.run().unwrap();
    // The two that waited went together.
    assert_eq!(rig.store.synced().0, synced.0 + 2);
}

/// What is too large for one write goes in several, and a crash may fall between them: a log with entries
/// of a term that its hard state does not know would have forgotten a vote.
#[test]
fn a_hard_state_is_never_later_than_its_entries() {
    for step in 0.. {
        let mut rig = Rig::sim(56);
        rig.write(vec![put("a", "1")]).unwrap();
        let state = HardState {
            term: 7,
            vote: REPLICA,
            commit: 1,
        };
        let entries: Vec<Entry> = (2..12)
            .map(|index| Entry {
                id: EntryId::new(7, index),
                kind: EntryKind::Normal,
                data: encode(index, &[put(format!("k{index}"), vec![1; 4_000])]),
            })
            .collect();
        let mut batch = LogBatch::new();
        batch.entries(SHARD, REPLICA, &entries);
        batch.hard_state(SHARD, REPLICA, state);
        rig.disk().inject(Fault::CrashAfter(step));
        rig.store.submit(batch);
        let crashed = rig.run().is_err();
        rig.power_loss(Survival::Nothing, Rot::Gone);
        let found = rig.replicas[0].clone();
        if found.last.term == 7 {
            assert_eq!((found.hard_state.term, found.hard_state.vote), (7, REPLICA));
        }
        if !crashed {
            assert_eq!(found.last, entries[9].id);
            assert!(step > 4, "it went in one write");
            break;
        }
    }
}

/// Raft asks for terms and entries in the midst of handing them over.
#[test]
fn entries_are_seen_before_they_are_durable() {
    let mut rig = Rig::sim(55);
    let entries: Vec<Entry> = (0..3u8)
        .map(|n| rig.submit(SHARD, vec![put(format!("k{n}"), "x")]))
        .collect();
    let log = rig.store.log();
    assert_eq!(log.last_index(SHARD), Ok(3));
    assert_eq!(log.term(SHARD, 2), Ok(entries[1].id.term));
    assert_eq!(log.entries(SHARD, 1, 4, 1 << 20), Ok(entries));
    assert_eq!(log.hard_state(SHARD).map(|state| state.commit), Ok(2));
}
