//! One round of consensus for a transaction that writes in one shard and has read in others.
//!
//! # What happens
//!
//! ```text
//! coordinator       the shard that it writes in                  shards that it has read in
//! execute ────────► locks, looks at its own reads, evaluates;
//!                   has a version, and asks, all at once ──────► validate, with that version
//!                   one entry: all writes at that version ◄───── valid
//! answer  ◄──────── when it is applied
//! ```
//!
//! Nothing is logged before the entry, and the entry is the whole transaction: there is no attempt to be
//! resolved, and nobody to be told. Until then all that there is of it is in the memory of one leader. So
//! whatever comes between (the leader is deposed, its shard is split, nobody answers) has certainly undone it.
//!
//! # Why it is sound
//!
//! Take the moment when all locks are there and the first question leaves. What it has read elsewhere was
//! read before and is valid after: so it is as it was then. What it writes nobody reads or writes from then
//! until it is in the log: commands and prepares meet the lock, walks and validations of ranges do so too,
//! and nothing is closed at or above the version. So to everybody else the whole transaction happens at that
//! moment.
//!
//! Its version was chosen then, and every shard that validates has merged it (rule 5). What replaces
//! something that it has read is therefore newer than what it writes: no snapshot has the one without the
//! other. What it has read in its own shard needs no lock, for the same reason: whatever replaces it there
//! afterwards has a greater version.
//!
//! # Waiting
//!
//! It holds locks while its questions wait, so they wait as those of other lock holders do: for younger ones
//! only (rule 11). Whoever meets its locks waits for it as for a prepared attempt, and for a second at most:
//! then it is given up, as it is by the first answer that is no.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{Micros, Version};
use synod_testpoint::planted;

use super::event::{Batch, Call};
use super::intent::Ran;
use super::leader::Leader;
use super::reads::Held;
use super::shard::Own;
use super::transactions::{Prepared, TxnRecord};
use super::work::Asker;
use super::{Effect, Turn};
use crate::reply::Reply;
use crate::state::State;
use crate::transaction::{AttemptId, Elsewhere, TxnAnswer, TxnRequest, Verdict, Writer};
use crate::wire::{Body, Outcome};

/// The transactions whose reads elsewhere are being asked about.
///
/// Invariant: each has its locks in the leader's view, and waits for one call at least.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    attempts: BTreeMap<AttemptId, Asked>,
    calls: BTreeMap<Call, AttemptId>,
}

#[derive(Clone, Debug)]
struct Asked {
    asker: Asker,
    /// What it does, in the form in which it is locked.
    effects: Prepared,
    replies: Vec<Reply>,
    /// What it has seen here waits for this batch.
    needs: Batch,
    waiting: BTreeSet<Call>,
    since: Micros,
}

impl Asking {
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The version that an attempt will write at.
    pub(super) fn version(&self, attempt: &AttemptId) -> Option<Version> {
        Some(self.attempts.get(attempt)?.effects.version)
    }

    /// The lowest version that something is about to be written at.
    pub(super) fn lowest(&self) -> Option<Version> {
        self.attempts.values().map(|it| it.effects.version).min()
    }

    /// Gives up all, whose locks are gone already.
    pub(super) fn drain(&mut self, undone: &mut Vec<Held>) {
        self.calls.clear();
        for asked in std::mem::take(&mut self.attempts).into_values() {
            undone.extend(asked.asker.held(Outcome::Unknown));
        }
    }

    fn take(&mut self, attempt: AttemptId) -> Option<Asked> {
        let asked = self.attempts.remove(&attempt)?;
        self.calls.retain(|_, of| *of != attempt);
        Some(asked)
    }
}

impl Leader {
    /// Locks what a transaction writes, and asks the shards that it has read in.
    pub(super) fn ask_elsewhere<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        (elsewhere, token): (&Elsewhere, Option<Bytes>),
        (ran, needs): (Ran, Batch),
    ) {
        let attempt = elsewhere.attempt;
        if self.asking.attempts.contains_key(&attempt) {
            // A second copy of the question. It is asked again, when the first one is over.
            return self.answer(turn, own, asker, Outcome::Overloaded, Batch(0));
        }
        let version = turn.hlc.tick(turn.now.wall_ms);
        let writes = ran.writes.into_iter();
        let effects = Prepared {
            begun: version,
            version,
            anchor: Bytes::new(),
            spans: Vec::new(),
            reads: Vec::new(),
            ranges: Vec::new(),
            writes: writes
                .map(|(key, it)| (key, it.map(|it| it.encode())))
                .collect(),
            token,
        };
        if !planted!(AsksWithoutLocks) {
            self.view.lock_ahead(attempt, &effects);
        }
        let mut waiting = BTreeSet::new();
        for part in &elsewhere.parts {
            let call = Call(turn.new_work().0);
            self.asking.calls.insert(call, attempt);
            waiting.insert(call);
            let txn = attempt.txn;
            let request = TxnRequest::Validate {
                reads: part.reads.clone(),
                ranges: part.ranges.clone(),
                writer: Some(Writer { txn, version }),
            };
            turn.effects.push(Effect::Call {
                shard: self.shard,
                call,
                key: part.key.clone(),
                body: Body::Txn(request),
            });
        }
        let is_asked = !waiting.is_empty() && !planted!(AsksNobody);
        self.asking.attempts.insert(
            attempt,
            Asked {
                asker,
                effects,
                replies: ran.replies,
                needs,
                waiting,
                since: turn.now.monotonic,
            },
        );
        if !is_asked {
            self.write_ahead(turn, own, attempt);
        }
    }

    /// An answer has come. Whether it was to one of these questions.
    pub(super) fn elsewhere_answered<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        call: Call,
        outcome: &Outcome,
    ) -> bool {
        let Some(attempt) = self.asking.calls.remove(&call) else {
            return false;
        };
        let Some(asked) = self.asking.attempts.get_mut(&attempt) else {
            unreachable!("a question belongs to an attempt");
        };
        match outcome {
            Outcome::Txn(TxnAnswer::Valid { through })
                if *through >= asked.effects.version || planted!(ReadersIgnoreWriters) =>
            {
                asked.waiting.remove(&call);
                if asked.waiting.is_empty() {
                    self.write_ahead(turn, own, attempt);
                }
            }
            Outcome::Txn(TxnAnswer::Changed) => {
                self.give_up_asked(turn, own, attempt, TxnAnswer::Changed);
            }
            // A lock was in the way, or nobody could be asked: nothing is wrong with what was read.
            Outcome::Txn(_)
            | Outcome::Reply(_)
            | Outcome::NotLeader { .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::StreamBroken
            | Outcome::Overloaded
            | Outcome::Unknown => self.give_up_asked(turn, own, attempt, TxnAnswer::Conflict),
        }
        true
    }

    /// Everything that was read elsewhere holds: writes, in one entry.
    fn write_ahead<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, attempt: AttemptId) {
        let Some(asked) = self.unlocked(attempt) else {
            return;
        };
        let Prepared {
            version,
            writes,
            token,
            ..
        } = asked.effects;
        let replies = asked.replies;
        // Somebody else may have used the token meanwhile, or asked about it.
        if let Some(stands) = self.token_stands(turn.now.wall_ms, token.as_ref()) {
            self.released.push((attempt, Verdict::Aborted));
            return self.settled(turn, own, asked.asker, stands);
        }
        self.released.push((attempt, Verdict::Committed(version)));
        let told = |version| Outcome::Txn(TxnAnswer::Executed { version, replies });
        let record = match token {
            None if writes.is_empty() => {
                return self.answer(turn, own, asked.asker, told(None), asked.needs);
            }
            None => TxnRecord::Write { version, writes },
            Some(token) => TxnRecord::Once {
                token,
                version,
                writes,
            },
        };
        self.step_of(turn, own, asked.asker, record, version, told(Some(version)));
    }

    /// Lets go of the locks: it has certainly had no effect.
    fn give_up_asked<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        attempt: AttemptId,
        why: TxnAnswer,
    ) {
        if let Some(asked) = self.unlocked(attempt) {
            self.released.push((attempt, Verdict::Aborted));
            self.answer(turn, own, asked.asker, Outcome::Txn(why), Batch(0));
        }
    }

    fn unlocked(&mut self, attempt: AttemptId) -> Option<Asked> {
        let asked = self.asking.take(attempt)?;
        if !planted!(AsksWithoutLocks) {
            self.view.unlock_ahead(attempt, &asked.effects);
        }
        Some(asked)
    }

    /// Gives up those who have waited for too long for an answer.
    pub(super) fn tick_asking<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        let patience_us = turn.settings.recover_after_us;
        let now = turn.now.monotonic;
        let late = |asked: &Asked| now.0.saturating_sub(asked.since.0) >= patience_us;
        let attempts = self.asking.attempts.iter();
        let late: Vec<AttemptId> = attempts
            .filter(|(_, asked)| late(asked))
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in late {
            self.give_up_asked(turn, own, attempt, TxnAnswer::Conflict);
        }
    }
}
