//! The first phase: locks, checks, and writes that are kept ready; at the anchor, the decision with it. And
//! holds, which are locks alone.

use synod_storage::{KeyRange, Version};
use synod_testpoint::planted;

use super::Turn;
use super::event::Batch;
use super::intent::{run, wanted};
use super::leader::Leader;
use super::shard::Own;
use super::transactions::{Prepared, TxnRecord};
use super::work::{Asker, Slot, Stage};
use crate::command::Key;
use crate::hlc;
use crate::reply::Reply;
use crate::state::State;
use crate::transaction::{AttemptId, Intent, TxnAnswer, TxnRequest};
use crate::wire::Outcome;

/// What a prepare says about the attempt as a whole.
struct Names<'a> {
    attempt: AttemptId,
    begun: Version,
    anchor: &'a Key,
    spans: &'a [Key],
    /// If it is to be committed at once: the largest version at which the others are prepared.
    others: Option<Version>,
}

impl Names<'_> {
    /// What a request says, if it is one that prepares.
    fn of(request: &TxnRequest) -> Option<Names<'_>> {
        match request {
            TxnRequest::Prepare {
                attempt,
                begun,
                anchor,
                spans,
                ..
            } => Some(Names {
                attempt: *attempt,
                begun: *begun,
                anchor,
                spans,
                others: None,
            }),
            TxnRequest::Conclude {
                attempt,
                begun,
                version,
                spans,
                ..
            } => Some(Names {
                attempt: *attempt,
                begun: *begun,
                anchor: spans.first()?,
                spans,
                others: Some(*version),
            }),
            TxnRequest::Read { .. }
            | TxnRequest::Walk { .. }
            | TxnRequest::Validate { .. }
            | TxnRequest::Execute { .. }
            | TxnRequest::Hold { .. }
            | TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Snapshot { .. }
            | TxnRequest::MergeStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. } => None,
        }
    }
}

impl Leader {
    /// Locks what an attempt needs, if all of it is as it was read; or commits it at once.
    pub(super) fn prepare<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        request: &TxnRequest,
        intent: &Intent,
        (slots, ranges_hold): (&[Slot], bool),
    ) {
        let Some(names) = Names::of(request) else {
            let reply = Reply::err("an attempt without participants cannot be concluded");
            return self.answer(turn, own, asker, Outcome::Reply(reply), Batch(0));
        };
        let Names {
            attempt,
            begun,
            anchor,
            spans,
            others,
        } = names;
        let needs = slots.iter().map(Slot::batch).max().unwrap_or_default();
        if !self.view.admits(&attempt, begun) {
            let conflict = Outcome::Txn(TxnAnswer::Conflict);
            return self.answer(turn, own, asker, conflict, needs);
        }
        let Some(ran) = run(turn, intent, slots).filter(|_| ranges_hold) else {
            let changed = Outcome::Txn(TxnAnswer::Changed);
            return self.answer(turn, own, asker, changed, needs);
        };
        // A commit is above all prepares.
        turn.hlc.merge(others.unwrap_or_default());
        let version = match planted!(CommitsBelowPrepares) && others.is_some() {
            true => hlc::floor_of(turn.now.wall_ms),
            false => turn.hlc.tick(turn.now.wall_ms),
        };
        let writes = ran.writes.into_iter();
        let prepared = Prepared {
            begun,
            version,
            anchor: anchor.clone(),
            spans: spans.to_vec(),
            reads: ran.reads.into_iter().collect(),
            ranges: intent
                .ranges
                .iter()
                .map(|read| read.range.clone())
                .collect(),
            writes: writes
                .map(|(key, it)| (key, it.map(|it| it.encode())))
                .collect(),
            token: intent.token.clone(),
        };
        let replies = ran.replies;
        let (record, answer) = match others {
            None => (
                TxnRecord::Prepare { attempt, prepared },
                TxnAnswer::Prepared { version, replies },
            ),
            Some(_) => (
                TxnRecord::Conclude { attempt, prepared },
                TxnAnswer::Concluded { version, replies },
            ),
        };
        self.step_of(turn, own, asker, record, version, Outcome::Txn(answer));
    }

    /// Locks keys and ranges for reading. It is its own anchor, and never commits.
    pub(super) fn hold<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        (attempt, begun): (AttemptId, Version),
        (keys, ranges): (&[Key], &[KeyRange]),
    ) {
        let start = ranges.first().map(|range| range.start.clone().into());
        let anchor = keys.first().cloned().or(start);
        let (Some(anchor), true) = (anchor, attempt.is_hold()) else {
            let reply = Reply::err("a hold names what it is to lock, and is numbered as one");
            return self.answer(turn, own, asker, Outcome::Reply(reply), Batch(0));
        };
        // Holds stand beside each other, so an older writer might wait for one after the other for ever.
        let outranked = self.works.values().any(|work| {
            let (wanted, age) = wanted(&work.task);
            let waits = matches!(work.stage, Stage::Parked { .. });
            let within = |key| keys.contains(key) || ranges.iter().any(|range| range.contains(key));
            waits && age.is_some_and(|age| age < attempt.txn) && wanted.writes.iter().any(within)
        });
        if outranked || !self.view.admits(&attempt, begun) {
            let conflict = Outcome::Txn(TxnAnswer::Conflict);
            return self.settled(turn, own, asker, conflict);
        }
        let version = turn.hlc.tick(turn.now.wall_ms);
        let prepared = Prepared {
            begun,
            version,
            spans: vec![anchor.clone()],
            anchor,
            reads: keys.to_vec(),
            ranges: ranges.to_vec(),
            writes: Vec::new(),
            token: None,
        };
        let record = TxnRecord::Prepare { attempt, prepared };
        let done = Outcome::Txn(TxnAnswer::Done);
        self.step_of(turn, own, asker, record, version, done);
    }
}
