//! The transactions of one shard, as its log says.
//!
//! An attempt goes through these rows of the shard, each change an entry of the log:
//!
//! ```text
//!            prepare                 resolve
//!   (none) ──────────► prepared ───────────────► finished ──floor──► (none)
//!                         │  decide (anchor only)    ▲
//!                         └────────► committed ──────┘ forget
//!   (none) ─── conclude (anchor only) ────────► committed: prepared and decided in one
//!   (none) ─── resolve or recover: aborted ──► finished: a tombstone, which blocks a late prepare
//! ```
//!
//! The decision to commit is a compare-and-set at apply: it needs the anchor's own prepared row, or is
//! made in the entry that would have prepared it, under the same conditions. That an attempt is not
//! known never permits its commit by itself. Finished attempts are remembered until the floor passes the clock
//! reading at which they were begun; attempts at or below the floor are refused.
//!
//! A leader keeps this twice: as applied, and as it will be when all that it has proposed is
//! applied. Both go through [`Transactions::apply`], so they cannot disagree about what a record does.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rkyv::{Archive, Deserialize, Serialize};
use synod_storage::{KeyRange, Version};

use super::entry::put_bytes;
use super::locks::Locks;
use crate::token;
use crate::transaction::{AttemptId, Verdict};
use synod_testpoint::planted;

/// The local row that holds the floor.
pub(super) const FLOOR_ROW: &[u8] = b"floor";

const PREPARED_ROWS: u8 = 1;
const COMMITTED_ROWS: u8 = 2;
const FINISHED_ROWS: u8 = 3;
const TOKEN_ROWS: u8 = 4;

/// The local row that holds the floor of tokens.
pub(super) const TOKEN_FLOOR_ROW: &[u8] = b"token_floor";

/// The local rows that are about attempts and tokens.
pub(super) fn attempt_rows() -> KeyRange {
    KeyRange::new([PREPARED_ROWS], [TOKEN_ROWS + 1])
}

/// The row of a token.
fn token_row(token: &Bytes) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + token.len());
    row.put_u8(TOKEN_ROWS);
    row.put_slice(token);
    row.freeze()
}

/// An attempt that has locked what it needs here, and can still go either way.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// The coordinator's clock when the attempt began to prepare.
    pub(super) begun: Version,
    /// The version of the prepare: the commit version will be at least this.
    pub(super) version: Version,
    /// A key of the shard that decides.
    pub(super) anchor: Bytes,
    /// At the anchor: a key of each participant. Elsewhere nothing.
    pub(super) spans: Vec<Bytes>,
    /// Keys locked for reading, and not for writing.
    pub(super) reads: Vec<Bytes>,
    /// Ranges locked for reading.
    pub(super) ranges: Vec<KeyRange>,
    /// Keys locked for writing, and what will be stored under them.
    pub(super) writes: Vec<(Bytes, Option<Bytes>)>,
    /// At the anchor: the client's name for the transaction, if it has one.
    pub(super) token: Option<Bytes>,
}

impl Prepared {
    /// Whether this shard decides about the attempt.
    pub(super) fn is_anchor(&self) -> bool {
        !self.spans.is_empty()
    }
}

/// The anchor's record of a commit, kept until every participant has applied it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) begun: Version,
    pub(super) version: Version,
    pub(super) spans: Vec<Bytes>,
}

/// An attempt that is over here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) begun: Version,
    pub(super) verdict: Verdict,
}

/// A change of the shard's transactions, as it stands in the log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) enum TxnRecord {
    /// Lock, and keep the writes.
    Prepare {
        /// Whose.
        attempt: AttemptId,
        /// What.
        prepared: Prepared,
    },
    /// At the anchor: commit.
    Decide {
        /// Which.
        attempt: AttemptId,
        /// The commit version.
        version: Version,
    },
    /// Let go of the locks. Of an attempt that is not prepared here: a tombstone.
    Resolve {
        /// Which.
        attempt: AttemptId,
        /// When it was begun.
        begun: Version,
        /// The verdict.
        verdict: Verdict,
    },
    /// At the anchor, when all others are prepared: prepare and decide. The version is the commit's.
    Conclude {
        /// Which.
        attempt: AttemptId,
        /// What.
        prepared: Prepared,
    },
    /// At the anchor: every participant knows.
    Forget {
        /// Which.
        attempt: AttemptId,
    },
    /// Refuse attempts begun at or below this from now on, and forget those that are over.
    Floor {
        /// The floor.
        version: Version,
    },
    /// A whole transaction with a token, on this shard alone.
    Once {
        /// The token.
        token: Bytes,
        /// The version of its writes.
        version: Version,
        /// Keys, and what is stored under them from now on.
        writes: Vec<(Bytes, Option<Bytes>)>,
    },
    /// Nothing was done under this token, and nothing ever will be.
    Fence {
        /// The token.
        token: Bytes,
    },
    /// Refuse tokens issued at or below this from now on, and forget what became of them.
    TokenFloor {
        /// The floor.
        version: Version,
    },
    /// A whole transaction that writes on this shard alone, at a version that was chosen before.
    Write {
        /// The version of its writes.
        version: Version,
        /// Keys, and what is stored under them from now on.
        writes: Vec<(Bytes, Option<Bytes>)>,
    },
}

/// Whether a record is in the log, or a leader looks ahead: then nothing is stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Applied,
    Ahead,
}

/// What a record does to the rest of the state.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    when: When,
    /// User keys, what is stored under them, and at which version.
    pub(super) writes: Vec<(Bytes, Option<Bytes>, Version)>,
    /// Rows of the shard's own.
    pub(super) rows: Vec<(Bytes, Option<Bytes>)>,
    /// The attempt that let go of its locks, with its verdict.
    pub(super) released: Option<(AttemptId, Verdict)>,
}

impl Changes {
    fn new(when: When) -> Changes {
        Changes {
            when,
            writes: Vec::new(),
            rows: Vec::new(),
            released: None,
        }
    }

    /// A row of the shard's own, which is not even made if nothing is stored.
    fn row(&mut self, row: impl FnOnce() -> (Bytes, Option<Bytes>)) {
        if self.when == When::Applied {
            self.rows.push(row());
        }
    }

    /// All writes of a transaction, at its version.
    fn write(&mut self, writes: &[(Bytes, Option<Bytes>)], version: Version) {
        let writes = writes.iter();
        let write = |(key, value): &(Bytes, Option<Bytes>)| (key.clone(), value.clone(), version);
        self.writes = writes.map(write).collect();
    }
}

/// All that a shard knows about transactions.
///
/// Invariants: an attempt is in at most one of `prepared` and `finished`; one in `committed` is
/// finished as committed; `locks` are exactly those of `prepared`, and, in a leader's view, of those that
/// have their locks ahead of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    floor: Version,
    prepared: BTreeMap<AttemptId, Prepared>,
    committed: BTreeMap<AttemptId, Committed>,
    finished: BTreeMap<AttemptId, Finished>,
    token_floor: Version,
    /// What became of the tokens that have their home here.
    tokens: BTreeMap<Bytes, Verdict>,
    locks: Locks,
}

impl Transactions {
    pub(super) fn token_floor(&self) -> Version {
        self.token_floor
    }

    /// What became of a token.
    pub(super) fn token(&self, token: &Bytes) -> Option<Verdict> {
        self.tokens.get(token).copied()
    }

    /// How many tokens are remembered.
    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Whether raising the floor of tokens to `version` would forget any.
    pub(super) fn wants_token_floor(&self, version: Version) -> bool {
        let oldest = self.tokens.keys().next();
        version > self.token_floor
            && oldest.is_some_and(|token| token::issued_at(token) <= Some(version))
    }

    /// Records what became of a token, once.
    fn record(
        &mut self,
        token: &Bytes,
        verdict: Verdict,
        changes: &mut Changes,
    ) -> Result<(), String> {
        if let Some(before) = self.tokens.insert(token.clone(), verdict) {
            return Err(format!("a token has two outcomes: {before:?}, {verdict:?}"));
        }
        changes.row(|| (token_row(token), Some(encode_verdict(verdict))));
        Ok(())
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(super) fn floor(&self) -> Version {
        self.floor
    }

    pub(super) fn prepared(&self) -> &BTreeMap<AttemptId, Prepared> {
        &self.prepared
    }

    pub(super) fn committed(&self) -> &BTreeMap<AttemptId, Committed> {
        &self.committed
    }

    /// Whether no attempt is in the middle of anything here.
    pub(super) fn is_at_rest(&self) -> bool {
        self.prepared.is_empty() && self.committed.is_empty()
    }

    pub(super) fn finished(&self, attempt: &AttemptId) -> Option<&Finished> {
        self.finished.get(attempt)
    }

    /// Locks for an attempt of which nothing is in the log; only in a leader's view.
    pub(super) fn lock_ahead(&mut self, attempt: AttemptId, effects: &Prepared) {
        self.locks.lock(attempt, effects);
    }

    /// Lets go of these locks.
    pub(super) fn unlock_ahead(&mut self, attempt: AttemptId, effects: &Prepared) {
        self.locks.unlock(attempt, effects);
    }

    /// Whether an attempt may be prepared here: it is new, and not too old.
    pub(super) fn admits(&self, attempt: &AttemptId, begun: Version) -> bool {
        (begun > self.floor || planted!(FloorAdmits))
            && !self.prepared.contains_key(attempt)
            && !self.finished.contains_key(attempt)
    }

    /// Whether the floor could be raised to `version` with some use and no harm.
    pub(super) fn wants_floor(&self, version: Version) -> bool {
        version > self.floor
            && self
                .finished
                .values()
                .any(|finished| finished.begun <= version)
            && self
                .prepared
                .values()
                .all(|prepared| prepared.begun > version)
            && self
                .committed
                .values()
                .all(|committed| committed.begun > version)
    }

    /// Carries out a record that is in the log. An error means that it should never have been proposed.
    pub(super) fn apply(&mut self, record: &TxnRecord) -> Result<Changes, String> {
        self.carry_out(record, When::Applied)
    }

    /// Carries out a record that is on its way into the log: what it does to rows is not wanted yet.
    pub(super) fn apply_ahead(&mut self, record: &TxnRecord) -> Result<Changes, String> {
        self.carry_out(record, When::Ahead)
    }

    fn carry_out(&mut self, record: &TxnRecord, when: When) -> Result<Changes, String> {
        let mut changes = Changes::new(when);
        match record {
            TxnRecord::Prepare { attempt, prepared } => {
                if !self.admits(attempt, prepared.begun) {
                    return Err(format!("{attempt:?} may not be prepared"));
                }
                changes.row(|| (attempt.row(PREPARED_ROWS), Some(encode(prepared))));
                self.locks.lock(*attempt, prepared);
                self.prepared.insert(*attempt, prepared.clone());
            }
            TxnRecord::Conclude { attempt, prepared } => {
                self.conclude(*attempt, prepared, &mut changes)?;
            }
            TxnRecord::Decide { attempt, version } => {
                let Some(prepared) = self.prepared.get(attempt).filter(|it| it.is_anchor()) else {
                    return Err(format!("{attempt:?} is not prepared at its anchor"));
                };
                let (begun, spans) = (prepared.begun, prepared.spans.clone());
                if let Some(token) = prepared.token.clone() {
                    self.record(&token, Verdict::Committed(*version), &mut changes)?;
                }
                let committed = Committed {
                    begun,
                    version: *version,
                    spans,
                };
                changes.row(|| (attempt.row(COMMITTED_ROWS), Some(encode(&committed))));
                self.committed.insert(*attempt, committed);
                self.finish(*attempt, begun, Verdict::Committed(*version), &mut changes)?;
            }
            TxnRecord::Resolve {
                attempt,
                begun,
                verdict,
            } => {
                if let Some(finished) = self.finished.get(attempt) {
                    // Told twice; it must be the same story.
                    return match finished.verdict == *verdict {
                        true => Ok(changes),
                        false => Err(format!("{attempt:?} has two verdicts")),
                    };
                }
                self.finish(*attempt, *begun, *verdict, &mut changes)?;
            }
            TxnRecord::Forget { attempt } => {
                if self.committed.remove(attempt).is_some() {
                    changes.row(|| (attempt.row(COMMITTED_ROWS), None));
                }
            }
            TxnRecord::Once {
                token,
                version,
                writes,
            } => {
                self.record(token, Verdict::Committed(*version), &mut changes)?;
                changes.write(writes, *version);
            }
            TxnRecord::Write { version, writes } => changes.write(writes, *version),
            TxnRecord::Fence { token } => self.record(token, Verdict::Aborted, &mut changes)?,
            TxnRecord::TokenFloor { version } => self.raise_token_floor(*version, &mut changes),
            TxnRecord::Floor { version } => self.raise_floor(*version, &mut changes),
        }
        Ok(changes)
    }

    /// Commits at the anchor an attempt that all others have prepared.
    fn conclude(
        &mut self,
        attempt: AttemptId,
        prepared: &Prepared,
        changes: &mut Changes,
    ) -> Result<(), String> {
        if !self.admits(&attempt, prepared.begun) || !prepared.is_anchor() {
            return Err(format!("{attempt:?} may not be concluded"));
        }
        // Taken and let go at once: nobody else has them.
        self.locks.lock(attempt, prepared);
        self.locks.unlock(attempt, prepared);
        let (begun, version) = (prepared.begun, prepared.version);
        let verdict = Verdict::Committed(version);
        if let Some(token) = &prepared.token {
            self.record(token, verdict, changes)?;
        }
        changes.write(&prepared.writes, version);
        let spans = prepared.spans.clone();
        let committed = Committed {
            begun,
            version,
            spans,
        };
        changes.row(|| (attempt.row(COMMITTED_ROWS), Some(encode(&committed))));
        self.committed.insert(attempt, committed);
        self.remember(attempt, Finished { begun, verdict }, changes);
        Ok(())
    }

    /// Keeps what became of an attempt until the floor has passed it.
    fn remember(&mut self, attempt: AttemptId, finished: Finished, changes: &mut Changes) {
        if finished.begun > self.floor {
            changes.row(|| (attempt.row(FINISHED_ROWS), Some(encode_finished(finished))));
            self.finished.insert(attempt, finished);
        }
    }

    /// Refuses what is old, and forgets it.
    fn raise_floor(&mut self, version: Version, changes: &mut Changes) {
        self.floor = self.floor.max(version);
        let floor = self.floor;
        for (attempt, _) in self.finished.extract_if(.., |_, it| it.begun <= floor) {
            changes.row(|| (attempt.row(FINISHED_ROWS), None));
        }
        let value = || Bytes::copy_from_slice(&floor.0.to_le_bytes());
        changes.row(|| (Bytes::from_static(FLOOR_ROW), Some(value())));
    }

    /// The same for tokens.
    fn raise_token_floor(&mut self, version: Version, changes: &mut Changes) {
        self.token_floor = self.token_floor.max(version);
        let floor = Some(self.token_floor);
        let is_old = |token: &Bytes| token::issued_at(token) <= floor;
        for (token, _) in self.tokens.extract_if(.., |token, _| is_old(token)) {
            changes.row(|| (token_row(&token), None));
        }
        let value = || Bytes::copy_from_slice(&self.token_floor.0.to_le_bytes());
        changes.row(|| (Bytes::from_static(TOKEN_FLOOR_ROW), Some(value())));
    }

    /// Ends an attempt: its writes, if it committed, its locks, and the memory of it.
    fn finish(
        &mut self,
        attempt: AttemptId,
        begun: Version,
        verdict: Verdict,
        changes: &mut Changes,
    ) -> Result<(), String> {
        let prepared = self.prepared.remove(&attempt);
        match (&prepared, verdict) {
            (Some(prepared), Verdict::Committed(version)) => {
                if version < prepared.version {
                    return Err(format!("{attempt:?} commits below its prepare"));
                }
                changes.write(&prepared.writes, version);
            }
            (None, Verdict::Committed(_)) => {
                return Err(format!("{attempt:?} commits and is not prepared"));
            }
            (Some(_) | None, Verdict::Aborted) => {}
        }
        if let Some(prepared) = &prepared {
            self.locks.unlock(attempt, prepared);
            changes.row(|| (attempt.row(PREPARED_ROWS), None));
            changes.released = Some((attempt, verdict));
        }
        self.remember(attempt, Finished { begun, verdict }, changes);
        Ok(())
    }

    /// Takes over what another shard, which is at rest, knows of attempts and tokens: its keys are this
    /// shard's from now on. The floors become the larger of the two.
    ///
    /// An attempt that is over there and still prepared here stays prepared: its locks are let go, and
    /// its writes done, when this shard is told.
    pub(super) fn absorb(&mut self, other: Transactions) -> Result<Changes, String> {
        if !other.is_at_rest() {
            return Err("a merge would take over the locks of an attempt".to_owned());
        }
        let mut changes = Changes::new(When::Applied);
        self.raise_floor(other.floor, &mut changes);
        self.raise_token_floor(other.token_floor, &mut changes);
        for (attempt, finished) in other.finished {
            if finished.begun <= self.floor || self.prepared.contains_key(&attempt) {
                continue;
            }
            match self.finished.insert(attempt, finished) {
                Some(known) if known.verdict != finished.verdict => {
                    return Err(format!("{attempt:?} has two verdicts"));
                }
                Some(_) | None => {}
            }
            changes.row(|| (attempt.row(FINISHED_ROWS), Some(encode_finished(finished))));
        }
        let floor = Some(self.token_floor);
        for (token, verdict) in other.tokens {
            if token::issued_at(&token) <= floor {
                continue;
            }
            match self.tokens.get(&token) {
                Some(known) if *known != verdict => {
                    return Err("a token has two outcomes".to_owned());
                }
                // Both are halves of one shard, and have it from there.
                Some(_) => {}
                None => self.record(&token, verdict, &mut changes)?,
            }
        }
        Ok(changes)
    }

    /// Reads the rows that another shard, or this one, has of its own; others are passed over.
    pub(super) fn of_rows(rows: &[(Bytes, Bytes)]) -> Result<Transactions, String> {
        let mut transactions = Transactions::default();
        for (key, value) in rows {
            match &key[..] {
                FLOOR_ROW => transactions.load_floor(value)?,
                TOKEN_FLOOR_ROW => transactions.load_token_floor(value)?,
                row if attempt_rows().contains(row) => transactions.load(row, value)?,
                _ => {}
            }
        }
        Ok(transactions)
    }

    /// Takes in one row of the shard's own, after a start or a snapshot.
    pub(super) fn load(&mut self, row: &[u8], value: &[u8]) -> Result<(), String> {
        let malformed = || "an attempt's or a token's row cannot be read".to_owned();
        if row.first() == Some(&TOKEN_ROWS) {
            let token = Bytes::copy_from_slice(&row[1..]);
            let verdict = decode_verdict(&mut &value[..]).ok_or_else(malformed)?;
            self.tokens.insert(token, verdict);
            return Ok(());
        }
        let attempt = AttemptId::of_row(row).ok_or_else(malformed)?;
        match row.first() {
            Some(&PREPARED_ROWS) => {
                let prepared = decode_prepared(value).ok_or_else(malformed)?;
                self.locks.lock(attempt, &prepared);
                self.prepared.insert(attempt, prepared);
            }
            Some(&COMMITTED_ROWS) => {
                let committed = decode_committed(value).ok_or_else(malformed)?;
                self.committed.insert(attempt, committed);
            }
            Some(&FINISHED_ROWS) => {
                let finished = decode_finished(value).ok_or_else(malformed)?;
                self.finished.insert(attempt, finished);
            }
            Some(_) | None => return Err(malformed()),
        }
        Ok(())
    }

    pub(super) fn load_floor(&mut self, value: &[u8]) -> Result<(), String> {
        self.floor = decode_floor(value)?;
        Ok(())
    }

    pub(super) fn load_token_floor(&mut self, value: &[u8]) -> Result<(), String> {
        self.token_floor = decode_floor(value)?;
        Ok(())
    }
}

/// A record's bytes, behind those that are there, with their length before them.
pub(super) fn put_record(out: &mut BytesMut, record: &TxnRecord) {
    put_bytes(out, &archived(record));
}

/// How plain data is written into memory.
type Archiver<'a> = rkyv::api::high::HighSerializer<
    rkyv::util::AlignedVec,
    rkyv::ser::allocator::ArenaHandle<'a>,
    rkyv::rancor::Error,
>;

/// A row's bytes.
fn encode(value: &impl for<'a> Serialize<Archiver<'a>>) -> Bytes {
    Bytes::copy_from_slice(&archived(value))
}

fn archived(value: &impl for<'a> Serialize<Archiver<'a>>) -> rkyv::util::AlignedVec {
    rkyv::to_bytes::<rkyv::rancor::Error>(value)
        .expect("plain data: serialising it into memory cannot fail")
}

macro_rules! decodes {
    ($($name:ident: $type:ty),*) => {$(
        /// Reads the bytes of one, wherever they lie.
        pub(super) fn $name(bytes: &[u8]) -> Option<$type> {
            let mut aligned: rkyv::util::AlignedVec =
                rkyv::util::AlignedVec::with_capacity(bytes.len());
            aligned.extend_from_slice(bytes);
            rkyv::from_bytes::<$type, rkyv::rancor::Error>(&aligned).ok()
        }
    )*};
}

decodes!(decode_record: TxnRecord, decode_prepared: Prepared, decode_committed: Committed);

fn encode_finished(finished: Finished) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u64_le(finished.begun.0);
    out.put_slice(&encode_verdict(finished.verdict));
    out.freeze()
}

fn encode_verdict(verdict: Verdict) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    match verdict {
        Verdict::Aborted => out.put_u8(0),
        Verdict::Committed(version) => {
            out.put_u8(1);
            out.put_u64_le(version.0);
        }
    }
    out.freeze()
}

fn decode_verdict(bytes: &mut &[u8]) -> Option<Verdict> {
    match bytes.try_get_u8().ok()? {
        0 => Some(Verdict::Aborted),
        1 => Some(Verdict::Committed(Version(bytes.try_get_u64_le().ok()?))),
        _ => None,
    }
}

fn decode_floor(value: &[u8]) -> Result<Version, String> {
    let malformed = |_| "a floor cannot be read".to_owned();
    let bytes = value.try_into().map_err(malformed)?;
    Ok(Version(u64::from_le_bytes(bytes)))
}

fn decode_finished(mut bytes: &[u8]) -> Option<Finished> {
    let begun = Version(bytes.try_get_u64_le().ok()?);
    let verdict = decode_verdict(&mut bytes)?;
    Some(Finished { begun, verdict })
}
