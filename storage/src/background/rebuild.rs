//! The index at start: opened and brought up to date if it can be trusted, rebuilt if not.
//!
//! It can be trusted after a clean stop, or when only the process died (the machine's boot is still
//! the same, so the page cache is), and then only if its own stamp agrees with the manifest. Otherwise
//! it is moved aside and rebuilt from the footers of the value files: sorted, merged over all files, so
//! that each key is inserted once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use synod_testpoint::planted;

use super::merging::{Before, merge_files};
use super::{Desk, FinishedFile, Indexing, Stamp, Trouble};
use crate::index::{Index, IndexError, IndexKey, Layered, Pointer, Tree, pointer};
use crate::manifest::{Edit, IndexState, ManifestError};
use crate::threshold::Thresholds;
use crate::value::{read_footer, read_record, value_path};
use crate::{
    Direction, FileNumber, JobStep, KeyRange, OpenError, OpenProgress, OpenReport, ShardId, Version,
};

/// Records whose footers are in memory together.
const RECORDS_PER_MERGE: u64 = 1_500_000;
/// Keys that are forgotten at a step.
const KEYS_PER_STEP: usize = 256;

fn open_error(what: &str, trouble: Trouble) -> OpenError {
    let (what, source) = match trouble {
        Trouble::Full => (
            what.to_owned(),
            std::io::Error::from(std::io::ErrorKind::StorageFull),
        ),
        Trouble::Index(error) => (what.to_owned(), std::io::Error::other(error)),
        Trouble::Fatal(fatal) => (
            fatal.what,
            fatal
                .source
                .unwrap_or_else(|| std::io::Error::other("unknown")),
        ),
    };
    OpenError::Disk { what, source }
}

fn append(desk: &mut Desk, edits: Vec<Edit>) -> Result<(), OpenError> {
    desk.manifest
        .append(edits)
        .map_err(|error: ManifestError| open_error("no space for the manifest", error.into()))
}

/// Opens the index and brings it up to date. The inner error says why it has to be rebuilt.
pub(crate) fn open_index(
    desk: &mut Desk,
    boot: u128,
    report: &mut OpenReport,
) -> Result<Result<(), String>, OpenError> {
    let known = desk.manifest.state.index.clone();
    if known.generation == 0 {
        return Ok(Err("there is none yet".to_owned()));
    }
    if !known.clean && known.boot != boot && !planted!(TrustsTheIndex) {
        return Ok(Err(
            "the machine was restarted without a clean stop".to_owned()
        ));
    }
    let index = match desk.factory.open() {
        Ok(index) => index,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let stamp = match Stamp::read(&*index) {
        Ok(Some(stamp)) => stamp,
        Ok(None) => return Ok(Err("its stamp is missing".to_owned())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let state = &desk.manifest.state;
    if (stamp.store, stamp.generation) != (state.store, known.generation) {
        return Ok(Err("its stamp is that of another index".to_owned()));
    }
    if stamp.complete_to < known.complete_to {
        return Ok(Err("it is behind what it was".to_owned()));
    }
    if stamp.complete_to >= state.next_file.max(FileNumber(1)) {
        return Ok(Err("it is ahead of the value files".to_owned()));
    }
    // From here on it is being changed.
    append(
        desk,
        vec![Edit::Index(IndexState {
            clean: false,
            boot,
            ..known.clone()
        })],
    )?;
    desk.index = Arc::new(Layered::new(index));
    match catch_up(desk, known.complete_to, report)? {
        Ok(()) => Ok(Ok(())),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Merges the pointers that the index may lack, and forgets the ranges that it may still have.
fn catch_up(
    desk: &mut Desk,
    complete_to: FileNumber,
    report: &mut OpenReport,
) -> Result<Result<(), IndexError>, OpenError> {
    let late: Vec<FileNumber> = desk
        .manifest
        .state
        .files
        .keys()
        .copied()
        .filter(|file| *file > complete_to)
        .collect();
    let thresholds = Thresholds::new(&desk.manifest.state.thresholds);
    for number in late {
        let Some(file) = finished_file(desk, number, report)? else {
            continue;
        };
        let mut indexing = Indexing::new(vec![Arc::new(file.into())], thresholds.clone());
        loop {
            match indexing.step(desk) {
                Ok(JobStep::Again) => {}
                Ok(JobStep::Done) => break,
                Err(Trouble::Index(error)) => return Ok(Err(error)),
                Err(trouble) => {
                    return Err(open_error("cannot bring the index up to date", trouble));
                }
            }
        }
    }
    let mut forgetting = Forgetting::new(desk);
    let edit = loop {
        match forgetting.step(desk) {
            Ok(JobStep::Again) => {}
            Ok(JobStep::Done) => match forgetting.settle(desk) {
                Ok(edit) => break edit,
                Err(error) => return Ok(Err(error)),
            },
            Err(error) => return Ok(Err(error)),
        }
    };
    if let Some(edit) = edit {
        append(desk, vec![edit])?;
    }
    Ok(Ok(()))
}

fn finished_file(
    desk: &mut Desk,
    number: FileNumber,
    report: &mut OpenReport,
) -> Result<Option<FinishedFile>, OpenError> {
    let Some(state) = desk.manifest.state.files.get(&number).cloned() else {
        return Ok(None);
    };
    let Some(file) = desk.files.get(number) else {
        return Ok(None);
    };
    let path = value_path(number);
    let footer = read_footer(&*file, &state, desk.manifest.state.store)
        .map_err(OpenError::disk(format!("cannot read {path}")))?;
    if footer.from_records {
        let what = format!("{path}: bad footer, read from the records");
        tracing::error!("{what}");
        report.damage.push(what);
    }
    if footer.lost {
        let what = format!(
            "{path}: {} of {} records cannot be told any more",
            state.records as usize - footer.entries.len().min(state.records as usize),
            state.records
        );
        tracing::error!("{what}");
        report.damage.push(what);
        // Behind the last record that can be told, anything up to the file's last key may be missing.
        let start = footer
            .entries
            .last()
            .map_or(&state.first_key, |entry| &entry.key)
            .clone();
        let mut end = state.last_key.clone();
        end.push(0);
        append(desk, vec![Edit::LostRows(KeyRange::new(start, end))])?;
    }
    Ok(Some(FinishedFile {
        number,
        state,
        file,
        footer: footer.entries,
    }))
}

/// Moves the index aside and makes a new one out of the value files.
pub(crate) fn rebuild_index(
    desk: &mut Desk,
    boot: u128,
    why: &str,
    report: &mut OpenReport,
    progress: &mut (dyn FnMut(OpenProgress) + Send),
) -> Result<(), OpenError> {
    let damaged = |what: String| OpenError::Damaged {
        file: "the index".to_owned(),
        what,
    };
    if desk.manifest.state.index.generation > 0 {
        tracing::warn!("the index is rebuilt: {why}");
        report.index_rebuilt = Some(why.to_owned());
    }
    desk.factory
        .discard()
        .map_err(|error| damaged(error.to_string()))?;
    let index = desk.factory.open();
    desk.index = Arc::new(Layered::new(
        index.map_err(|error| damaged(error.to_string()))?,
    ));
    desk.live = crate::live::LiveMap::default();
    let known = desk.manifest.state.files.iter();
    let files: Vec<(FileNumber, u32)> = known.map(|(n, file)| (*n, file.records)).collect();
    let total_records = files.iter().map(|(_, records)| u64::from(*records)).sum();
    let mut done_records = 0;
    let mut rest = files.as_slice();
    let mut before = Before::Nothing;
    while !rest.is_empty() {
        let mut records = 0;
        let some = rest.iter().take_while(|(_, more)| {
            let fits = records == 0 || records + u64::from(*more) <= RECORDS_PER_MERGE;
            records += u64::from(*more);
            fits
        });
        let some = some.count().max(1);
        let mut group = Vec::new();
        for (number, _) in &rest[..some] {
            group.extend(finished_file(desk, *number, report)?);
        }
        let mut merged = |records| {
            done_records += records;
            progress(OpenProgress::Index {
                done_records,
                total_records,
            });
        };
        merge_files(desk, &group, before, &mut merged)
            .map_err(|error| damaged(error.to_string()))?;
        before = Before::OtherFiles;
        rest = &rest[some..];
    }
    let state = &desk.manifest.state;
    let complete_to = FileNumber(state.next_file.0.saturating_sub(1));
    let generation = state.index.generation + 1;
    Stamp {
        store: state.store,
        generation,
        complete_to,
    }
    .write(&*desk.index)
    .and_then(|()| desk.index.sync())
    .map_err(|error| damaged(error.to_string()))?;
    let index = IndexState {
        generation,
        complete_to,
        clean: false,
        boot,
    };
    let next_file = state.next_file;
    append(
        desk,
        vec![Edit::Index(index), Edit::DropsIndexed(next_file)],
    )?;
    desk.live_complete = true;
    Ok(())
}

/// Taking the pointers of dropped ranges out of the index, a few at a step.
#[derive(Debug)]
pub(crate) struct Forgetting {
    /// What is left: ranges of index keys, and the file before which records are dead.
    left: Vec<(KeyRange, FileNumber)>,
    before: Option<FileNumber>,
}

impl Forgetting {
    pub fn new(desk: &Desk) -> Self {
        let drops = desk
            .manifest
            .state
            .drops
            .iter()
            .filter(|drop| !drop.indexed);
        let left: Vec<_> = drops
            .map(|drop| (drop.range.clone(), drop.before))
            .collect();
        let before = left.iter().map(|(_, before)| *before).max();
        Self { left, before }
    }

    pub fn is_needed(desk: &Desk) -> bool {
        desk.manifest.state.drops.iter().any(|drop| !drop.indexed)
    }

    /// When all is forgotten: makes that durable, and says what to note. A note that outlived it would
    /// leave pointers to rows that are gone, and nobody would look for them again.
    pub fn settle(&self, desk: &Desk) -> Result<Option<Edit>, IndexError> {
        let Some(before) = self.before else {
            return Ok(None);
        };
        desk.index.sync()?;
        Ok(Some(Edit::DropsIndexed(before)))
    }

    pub fn step(&mut self, desk: &mut Desk) -> Result<JobStep, IndexError> {
        let Some((range, before)) = self.left.last_mut() else {
            return Ok(JobStep::Done);
        };
        let mut keys = Vec::new();
        desk.index.range(
            Tree::Newest,
            &range.start,
            range.end.as_deref(),
            Direction::Forward,
            &mut |key, _| {
                keys.push(key.to_vec());
                if keys.len() == KEYS_PER_STEP {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        let mut displaced = Vec::new();
        for key in &keys {
            pointer::forget_before(&*desk.index, key, *before, &mut displaced)?;
        }
        for pointer in displaced {
            desk.live.clear(&pointer);
        }
        match keys.last() {
            Some(last) if keys.len() == KEYS_PER_STEP => {
                range.start.clone_from(last);
                range.start.push(0);
            }
            Some(_) | None => {
                self.left.pop();
            }
        }
        Ok(if self.left.is_empty() {
            JobStep::Done
        } else {
            JobStep::Again
        })
    }
}

type LocalRows = BTreeMap<Bytes, (Version, Bytes)>;

/// Reads the shards' own rows, all of them.
pub(crate) fn load_locals(
    desk: &mut Desk,
    report: &mut OpenReport,
) -> Result<BTreeMap<ShardId, LocalRows>, OpenError> {
    let mut locals = BTreeMap::new();
    let mut edits = Vec::new();
    for (shard, known) in &desk.manifest.state.replicas {
        let range = IndexKey::local_range(*shard, known.replica);
        let mut rows = LocalRows::new();
        for (key, pointer) in newest_pointers(desk, &range)? {
            if pointer.is_delete {
                continue;
            }
            let record = desk
                .files
                .get(pointer.file)
                .map(|file| read_record(&*file, &key, &pointer));
            let value = match record {
                Some(Ok(record)) => record.value,
                Some(Err(_)) | None => {
                    let what = format!("a row of shard {shard}'s own is damaged");
                    tracing::error!("{what}");
                    report.damage.push(what);
                    edits.push(Edit::LostRows(range.clone()));
                    continue;
                }
            };
            if let (Some(IndexKey::Local { key, .. }), Some(value)) =
                (IndexKey::decode(&key), value)
            {
                rows.insert(Bytes::copy_from_slice(key), (pointer.version, value));
            }
        }
        if !rows.is_empty() {
            locals.insert(*shard, rows);
        }
    }
    if !edits.is_empty() {
        append(desk, edits)?;
    }
    Ok(locals)
}

type NewestPointers = Vec<(Vec<u8>, Pointer)>;

/// The newest pointer of each key of a range.
fn newest_pointers(desk: &Desk, range: &KeyRange) -> Result<NewestPointers, OpenError> {
    let mut found = Vec::new();
    let mut bad = None;
    let walked = desk.index.range(
        Tree::Newest,
        &range.start,
        range.end.as_deref(),
        Direction::Forward,
        &mut |key, value| match pointer::Pointers::decode(value) {
            Ok(pointers) => {
                found.extend(
                    pointers
                        .list
                        .first()
                        .map(|pointer| (key.to_vec(), *pointer)),
                );
                ControlFlow::Continue(())
            }
            Err(error) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
        },
    );
    match walked.err().or(bad) {
        None => Ok(found),
        Some(error) => Err(OpenError::Damaged {
            file: "the index".to_owned(),
            what: error.to_string(),
        }),
    }
}
