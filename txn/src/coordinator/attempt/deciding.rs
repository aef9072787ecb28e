//! Two-phase commit, as the coordinator sees it: prepare everywhere but at the anchor, conclude there, tell.
//!
//! Until the anchor is asked to conclude, the attempt is this coordinator's to abort. From then on it is
//! the anchor's alone, whatever its answer was, because another copy of the question may still arrive.

use std::collections::{BTreeMap, BTreeSet};

use synod_storage::{Micros, Version};
use synod_testpoint::planted;

use super::{Call, Doubt, Ended, Phase, Prepared, Run, Turn};
use crate::reply::{ErrorCode, Reply};
use crate::transaction::{TxnAnswer, TxnRequest, Verdict};
use crate::wire::Outcome;

impl Run {
    /// Asks all participants but the anchor to prepare.
    pub(super) fn prepare(&mut self, turn: &mut Turn, replies: Option<Vec<Reply>>) {
        let (attempt, begun, owner) = (self.id(), self.begun, self.owner());
        let anchor = self.plan.parts[0].key.clone();
        let mut waiting = BTreeMap::new();
        for (index, part) in self.plan.parts.iter().enumerate().skip(1) {
            let request = TxnRequest::Prepare {
                attempt,
                begun,
                anchor: anchor.clone(),
                spans: Vec::new(),
                intent: Box::new(part.intent.clone()),
            };
            match turn.call(owner, &part.key, request) {
                Some(call) => waiting.insert(call, index),
                None => return self.abort(turn),
            };
        }
        let prepared = Prepared::default();
        if planted!(DecidesTooEarly) {
            return self.conclude(turn, prepared, replies);
        }
        self.phase = Phase::Preparing {
            waiting,
            prepared,
            replies,
        };
    }

    /// All others are prepared: asks the anchor to do its part and to decide, in one entry of its log.
    pub(super) fn conclude(
        &mut self,
        turn: &mut Turn,
        prepared: Prepared,
        replies: Option<Vec<Reply>>,
    ) {
        let parts = &self.plan.parts;
        let request = TxnRequest::Conclude {
            attempt: self.id(),
            begun: self.begun,
            version: prepared.version,
            spans: parts.iter().map(|part| part.key.clone()).collect(),
            intent: Box::new(parts[0].intent.clone()),
        };
        self.asked = turn.monotonic();
        match turn.call(self.owner(), &parts[0].key, request) {
            Some(call) => {
                self.phase = Phase::Concluding {
                    call,
                    prepared,
                    replies,
                };
            }
            // Nothing was sent: it is still this coordinator's to abort.
            None => self.abort(turn),
        }
    }

    /// A participant has answered; `waiting` are the others.
    pub(super) fn prepared(
        &mut self,
        turn: &mut Turn,
        (index, outcome): (usize, Outcome),
        waiting: BTreeMap<Call, usize>,
        mut prepared: Prepared,
        replies: Option<Vec<Reply>>,
    ) {
        let Outcome::Txn(TxnAnswer::Prepared {
            version,
            replies: of_part,
        }) = outcome
        else {
            // Nothing has been decided, and only this coordinator could: it is off.
            self.tell_abort(turn);
            return self.lost(turn, outcome);
        };
        prepared.version = prepared.version.max(version);
        turn.hlc.merge(version);
        prepared.replies.insert(index, of_part);
        match waiting.is_empty() {
            true => self.conclude(turn, prepared, replies),
            false => {
                self.phase = Phase::Preparing {
                    waiting,
                    prepared,
                    replies,
                };
            }
        }
    }

    /// The anchor has committed, or refused, or nobody knows.
    pub(super) fn concluded(
        &mut self,
        turn: &mut Turn,
        outcome: Outcome,
        mut prepared: Prepared,
        replies: Option<Vec<Reply>>,
    ) {
        match outcome {
            Outcome::Txn(TxnAnswer::Concluded {
                version,
                replies: of_part,
            }) => {
                turn.hlc.merge(version);
                prepared.replies.insert(0, of_part);
                let of_parts = prepared.replies.into_values().collect();
                let replies = replies.unwrap_or_else(|| self.plan.merge(of_parts));
                self.end(turn, Ended::Replies(replies));
                self.resolve(turn, version);
            }
            outcome if planted!(AbortsByItself) && outcome != Outcome::Unknown => {
                self.tell_abort(turn);
                self.lost(turn, outcome);
            }
            Outcome::Unknown if planted!(RetriesUnknown) => self.again(turn),
            outcome => {
                let refusal = Some(outcome).filter(|it| *it != Outcome::Unknown);
                self.doubt(turn, prepared.version, replies, refusal);
            }
        }
    }

    /// It is not this coordinator's any more to say what became of the attempt: asks the anchor.
    pub(super) fn doubt(
        &mut self,
        turn: &mut Turn,
        version: Version,
        replies: Option<Vec<Reply>>,
        refusal: Option<Outcome>,
    ) {
        // Without commands there is nothing that could have been lost.
        let replies = replies.or_else(|| self.plan.is_silent().then(Vec::new));
        self.asked = turn.monotonic();
        let call = self.ask_decision(turn, version);
        self.phase = Phase::Doubting {
            call,
            version,
            doubt: Doubt { replies, refusal },
            since: turn.monotonic(),
        };
    }

    /// The anchor has said what stands, or nobody knows yet.
    pub(super) fn decided(
        &mut self,
        turn: &mut Turn,
        outcome: Outcome,
        version: Version,
        doubt: Doubt,
        since: Micros,
    ) {
        match outcome {
            Outcome::Txn(TxnAnswer::Decided(Verdict::Committed(version))) => {
                match doubt.replies {
                    Some(replies) => self.end(turn, Ended::Replies(replies)),
                    None => {
                        let message = "the transaction was carried out, and what its commands \
                                       answered was lost";
                        self.fail(turn, ErrorCode::Unknown, message);
                    }
                }
                self.resolve(turn, version);
            }
            Outcome::Txn(TxnAnswer::Decided(Verdict::Aborted)) => {
                self.tell_abort(turn);
                match doubt.refusal {
                    Some(outcome) => self.lost(turn, outcome),
                    None => self.again(turn),
                }
            }
            // Until it is known, it is asked for again, at the next tick.
            _ => {
                self.phase = Phase::Doubting {
                    call: None,
                    version,
                    doubt,
                    since,
                };
            }
        }
    }

    pub(super) fn ask_decision(&self, turn: &mut Turn, version: Version) -> Option<Call> {
        let request = TxnRequest::Decide {
            attempt: self.id(),
            begun: self.begun,
            version,
        };
        turn.call(self.owner(), &self.plan.parts[0].key, request)
    }

    /// Tells the participants that it is committed; the anchor has seen to itself.
    pub(super) fn resolve(&mut self, turn: &mut Turn, version: Version) {
        let left = (1..self.plan.parts.len()).collect();
        self.tell_commit(turn, left, version, 1);
    }

    /// Waits for those who are left to have applied the commit; then the anchor may forget it.
    pub(super) fn resolving(
        &mut self,
        turn: &mut Turn,
        waiting: BTreeMap<Call, usize>,
        left: BTreeSet<usize>,
        (version, told): (Version, u32),
    ) {
        if left.is_empty() {
            let request = TxnRequest::Forget { attempt: self.id() };
            let _ = turn.call(self.owner(), &self.plan.parts[0].key, request);
            return;
        }
        self.phase = Phase::Resolving {
            waiting,
            left,
            version,
            told,
        };
    }

    pub(super) fn tell_commit(
        &mut self,
        turn: &mut Turn,
        left: BTreeSet<usize>,
        version: Version,
        told: u32,
    ) {
        let (attempt, begun) = (self.id(), self.begun);
        let verdict = Verdict::Committed(version);
        let mut waiting = BTreeMap::new();
        for index in &left {
            let request = TxnRequest::Resolve {
                attempt,
                begun,
                verdict,
            };
            let call = turn.call(self.owner(), &self.plan.parts[*index].key, request);
            waiting.extend(call.map(|call| (call, *index)));
        }
        self.asked = turn.monotonic();
        self.phase = Phase::Resolving {
            waiting,
            left,
            version,
            told,
        };
    }

    /// Tells the participants that the attempt is off; the anchor has not heard of it, or knows. Their
    /// answers are not awaited: one that does not hear it will ask the anchor.
    pub(super) fn tell_abort(&self, turn: &mut Turn) {
        let (attempt, begun) = (self.id(), self.begun);
        for part in self.plan.parts.iter().skip(1) {
            let request = TxnRequest::Resolve {
                attempt,
                begun,
                verdict: Verdict::Aborted,
            };
            let _ = turn.call(self.owner(), &part.key, request);
        }
    }

    pub(super) fn abort(&mut self, turn: &mut Turn) {
        self.tell_abort(turn);
        self.again(turn);
    }
}
