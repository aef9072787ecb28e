//! Recovery: what becomes of transactions whose coordinator is slow, or gone.
//!
//! Clocks only suggest it. A participant never lets go of a prepared lock by itself: it asks the
//! anchor, which aborts the attempt in its log if nothing is decided there, and obeys the answer. The
//! anchor in turn tells the participants of a commit that the coordinator did not see through, and
//! forgets it when all of them have applied it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{Micros, Version};

use super::event::Call;
use super::leader::Leader;
use super::shard::{Own, Role, Shard};
use super::transactions::TxnRecord;
use super::work::{Asker, Stage};
use super::{Effect, Turn};
use crate::hlc;
use crate::state::State;
use crate::transaction::{AttemptId, TxnAnswer, TxnRequest, Verdict};
use crate::wire::{Body, Outcome};
use synod_testpoint::planted;

/// What a leader has asked other shards.
#[derive(Clone, Debug, Default)]
pub(super) struct Recovery {
    watched: BTreeMap<AttemptId, Watched>,
    calls: BTreeMap<Call, Asked>,
}

/// An attempt that is not over here.
#[derive(Clone, Debug)]
struct Watched {
    /// When this leader first saw it.
    since: Micros,
    /// When others were last asked about it.
    asked: Option<Micros>,
    /// At the anchor of a commit: the participants that have applied it.
    told: BTreeSet<Bytes>,
}

#[derive(Clone, Debug)]
enum Asked {
    /// The anchor, for the verdict.
    Verdict(AttemptId),
    /// A participant, to apply a commit.
    Apply(AttemptId, Bytes),
}

impl Asked {
    fn attempt(&self) -> AttemptId {
        match self {
            Asked::Verdict(attempt) | Asked::Apply(attempt, _) => *attempt,
        }
    }
}

impl Shard {
    pub(super) fn called<S: State>(&mut self, turn: &mut Turn<S>, call: Call, outcome: Outcome) {
        if let Role::Leading(leader) = &mut self.role {
            leader.called(turn, &self.own, call, outcome);
            leader.run_released(turn, &self.own);
        }
    }
}

impl Leader {
    /// Looks after attempts that stay, requests that wait too long for a lock, and the floor.
    pub(super) fn recover_stale<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        let now = turn.now.monotonic;
        let view = &self.view;
        // A commit is told only when the log has it: what is only proposed may still be lost.
        let committed = match planted!(TellsBeforeApply) {
            true => view.committed(),
            false => own.transactions.committed(),
        };
        self.recovery.watched.retain(|attempt, _| {
            view.prepared().contains_key(attempt) || committed.contains_key(attempt)
        });
        for attempt in view.prepared().keys().chain(committed.keys()) {
            self.recovery
                .watched
                .entry(*attempt)
                .or_insert_with(|| Watched {
                    since: now,
                    asked: None,
                    told: BTreeSet::new(),
                });
        }
        let age_us = |since: Micros| now.0.saturating_sub(since.0);
        let due: Vec<AttemptId> = self
            .recovery
            .watched
            .iter()
            .filter(|(attempt, watched)| {
                let patience_us = match attempt.is_hold() {
                    true => turn.settings.hold_max_us,
                    false => turn.settings.recover_after_us,
                };
                age_us(watched.since) >= patience_us
                    && watched
                        .asked
                        .is_none_or(|at| age_us(at) >= turn.settings.ask_again_us)
            })
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in due {
            if let Some(watched) = self.recovery.watched.get_mut(&attempt) {
                watched.asked = Some(now);
            }
            self.see_through(turn, own, attempt);
        }
        self.give_up_parked(turn, own);
        let floor_ms = turn.now.wall_ms.saturating_sub(turn.settings.floor_lag_ms);
        let floor = hlc::floor_of(floor_ms);
        self.raise_token_floor(turn);
        // Raised in steps, so that it costs little.
        let step = hlc::floor_of(turn.settings.floor_lag_ms / 4);
        if floor.0 > self.view.floor().0 + step.0 && self.view.wants_floor(floor) {
            let record = TxnRecord::Floor { version: floor };
            self.propose_step(turn, record, Version::ZERO, None);
        }
    }

    /// Does what there is to do for an attempt that should be over.
    fn see_through<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, attempt: AttemptId) {
        // An answer to an older question is not needed any more.
        self.recovery
            .calls
            .retain(|_, asked| asked.attempt() != attempt);
        if let Some(prepared) = self.view.prepared().get(&attempt) {
            let (begun, anchor) = (prepared.begun, prepared.anchor.clone());
            if prepared.is_anchor() {
                return self.recover(turn, own, Asker::Nobody, attempt, begun);
            }
            if planted!(ReleasesByClock) {
                let verdict = Verdict::Aborted;
                return self.resolve(turn, own, Asker::Nobody, attempt, begun, verdict);
            }
            let request = TxnRequest::Recover { attempt, begun };
            return self.call(turn, anchor, request, Asked::Verdict(attempt));
        }
        let committed = match planted!(TellsBeforeApply) {
            true => self.view.committed().get(&attempt),
            false => own.transactions.committed().get(&attempt),
        };
        let Some(committed) = committed.filter(|_| self.view.committed().contains_key(&attempt))
        else {
            return;
        };
        let (begun, verdict) = (committed.begun, Verdict::Committed(committed.version));
        // The first span is the anchor's own.
        let spans: Vec<Bytes> = committed.spans.iter().skip(1).cloned().collect();
        let watched = self.recovery.watched.get(&attempt);
        let told = watched
            .map(|watched| watched.told.clone())
            .unwrap_or_default();
        let untold: Vec<Bytes> = spans
            .into_iter()
            .filter(|span| !told.contains(span))
            .collect();
        if untold.is_empty() {
            let record = TxnRecord::Forget { attempt };
            return self.propose_step(turn, record, Version::ZERO, None);
        }
        for span in untold {
            let request = TxnRequest::Resolve {
                attempt,
                begun,
                verdict,
            };
            self.call(turn, span.clone(), request, Asked::Apply(attempt, span));
        }
    }

    fn call<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        key: Bytes,
        request: TxnRequest,
        asked: Asked,
    ) {
        let call = Call(turn.new_work().0);
        self.recovery.calls.insert(call, asked);
        let body = Body::Txn(request);
        turn.effects.push(Effect::Call {
            shard: self.shard,
            call,
            key,
            body,
        });
    }

    fn called<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, call: Call, outcome: Outcome) {
        if self.doubt_ended(turn, own, call, &outcome)
            || self.elsewhere_answered(turn, own, call, &outcome)
        {
            return;
        }
        let Some(asked) = self.recovery.calls.remove(&call) else {
            return;
        };
        match (asked, outcome) {
            (Asked::Verdict(attempt), Outcome::Txn(TxnAnswer::Decided(verdict))) => {
                if let Some(prepared) = self.view.prepared().get(&attempt) {
                    let begun = prepared.begun;
                    let request = TxnRequest::Resolve {
                        attempt,
                        begun,
                        verdict,
                    };
                    self.txn_request(turn, own, Asker::Nobody, request);
                }
            }
            (Asked::Apply(attempt, span), Outcome::Txn(TxnAnswer::Done)) => {
                if let Some(watched) = self.recovery.watched.get_mut(&attempt) {
                    watched.told.insert(span);
                    // What is left is done at the next tick.
                    watched.asked = None;
                }
            }
            // Anything else is asked again.
            (Asked::Verdict(_) | Asked::Apply(..), _) => {}
        }
    }

    /// Requests that have waited for a lock for too long are told to come again.
    fn give_up_parked<S: State>(&mut self, turn: &mut Turn<S>, own: &Own) {
        let now = turn.now.monotonic;
        let given_up: Vec<_> = self
            .works
            .iter()
            .filter(|(_, work)| match work.stage {
                Stage::Parked { since } => {
                    now.0.saturating_sub(since.0) >= turn.settings.parked_max_us
                }
                Stage::Stream | Stage::Latching | Stage::Point { .. } | Stage::Scan(_) => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in given_up {
            for waiting in self.parked.values_mut() {
                waiting.retain(|parked| *parked != id);
            }
            let message = "another transaction holds a lock for too long";
            let reply = crate::reply::Reply::error(crate::reply::ErrorCode::TryAgain, message);
            self.fail(turn, own, id, reply);
        }
    }
}
