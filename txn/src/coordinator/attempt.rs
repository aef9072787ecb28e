//! A transaction that is being carried out: one attempt after the other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{Micros, Version};

use super::event::{Call, Effect, Ended, Script, Ticket};
use super::plan::{Plan, Uncut, keys_of};
use super::reading::{Read, Reading, Taken, is_walk, validate};
use super::session::Session;
use super::view::{Effects, View};
use super::{Owner, Turn, attempt_of};
use crate::command::Class;
use crate::reply::{ErrorCode, Reply};
use crate::token;
use crate::transaction::{AttemptId, TxnAnswer, TxnId, TxnRequest, Verdict};
use crate::wire::Outcome;
use synod_testpoint::planted;

/// After so many attempts, a script that only reads takes locks to get through.
const OPTIMISTIC_MAX: u32 = 4;

/// A verdict is told so many times; then it is left to recovery.
const TOLD_MAX: u32 = 3;

/// What is to be carried out.
#[derive(Debug)]
enum Source {
    /// Commands.
    Script(Script),
    /// What an interactive transaction has read, and wants to write.
    Effects(Effects),
    /// What became of a token?
    Question { token: Bytes },
}

/// Where an attempt is.
#[derive(Debug)]
enum Phase {
    /// Before an attempt.
    Pause { until: Micros },
    /// Values are read, and ranges walked through.
    Gathering { reading: Reading },
    /// What was read is checked, once more, in all shards.
    Validating {
        waiting: BTreeSet<Call>,
        replies: Vec<Reply>,
    },
    /// The home of a token is asked.
    Asking { call: Call },
    /// One shard does it all.
    Executing {
        call: Call,
        replies: Option<Vec<Reply>>,
    },
    /// The first phase. `replies` are those of commands that were carried out here.
    Preparing {
        waiting: BTreeMap<Call, usize>,
        prepared: Prepared,
        replies: Option<Vec<Reply>>,
    },
    /// The second.
    Deciding {
        call: Option<Call>,
        version: Version,
        replies: Vec<Reply>,
        since: Micros,
    },
    /// The client has its answer; the participants are told.
    Resolving {
        waiting: BTreeMap<Call, usize>,
        left: BTreeSet<usize>,
        version: Version,
        told: u32,
    },
    /// The anchor may forget.
    Over,
}

/// What the participants have answered to their prepares.
#[derive(Debug, Default)]
struct Prepared {
    version: Version,
    replies: BTreeMap<usize, Vec<Reply>>,
}

/// A transaction on its way.
///
/// Invariants: it is `Over` or its client is owed an answer or it is `Resolving`; a decision is asked
/// for only when every participant of the attempt is prepared.
#[derive(Debug)]
pub(super) struct Run {
    txn: TxnId,
    ticket: Ticket,
    attempt: u32,
    /// The clock when this attempt began to prepare.
    begun: Version,
    source: Source,
    plan: Plan,
    /// Whether this attempt's commands were carried out here, and not by the shards.
    is_carried_out_here: bool,
    /// With a token: whether an attempt was sent and may still take effect.
    is_open: bool,
    phase: Phase,
    started: Micros,
    /// When the questions of this phase were asked.
    asked: Micros,
}

impl Run {
    pub(super) fn of_script(txn: TxnId, ticket: Ticket, script: Script, now: Micros) -> Run {
        Run::new(txn, ticket, Source::Script(script), now)
    }

    pub(super) fn of_session(txn: TxnId, ticket: Ticket, session: Session, now: Micros) -> Run {
        Run::new(txn, ticket, Source::Effects(session.into_effects()), now)
    }

    pub(super) fn of_question(txn: TxnId, ticket: Ticket, token: Bytes, now: Micros) -> Run {
        Run::new(txn, ticket, Source::Question { token }, now)
    }

    fn new(txn: TxnId, ticket: Ticket, source: Source, now: Micros) -> Run {
        Run {
            txn,
            ticket,
            attempt: 0,
            begun: Version::ZERO,
            source,
            plan: Plan::default(),
            is_carried_out_here: false,
            is_open: false,
            phase: Phase::Pause { until: now },
            started: now,
            asked: now,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn id(&self) -> AttemptId {
        attempt_of(self.txn, self.attempt)
    }

    fn owner(&self) -> Owner {
        Owner::Run(self.txn)
    }

    fn end(&mut self, turn: &mut Turn, ended: Ended) {
        turn.effects.push(Effect::Ended {
            ticket: self.ticket,
            ended,
        });
        self.phase = Phase::Over;
    }

    fn fail(&mut self, turn: &mut Turn, code: ErrorCode, message: &'static str) {
        self.end(turn, Ended::Failed(Reply::error(code, message)));
    }

    /// Begins the next attempt.
    pub(super) fn begin(&mut self, turn: &mut Turn) {
        self.attempt += 1;
        self.is_carried_out_here = false;
        self.begun = turn.tick();
        self.asked = turn.monotonic();
        let plan = match &self.source {
            Source::Effects(effects) => Plan::of_effects(turn.map, effects),
            Source::Script(script) => Plan::of_script(turn.map, script),
            Source::Question { token } => {
                let (home, token) = (token::home(token), token.clone());
                return match turn.call(self.owner(), &home, TxnRequest::TokenStatus { token }) {
                    Some(call) => self.phase = Phase::Asking { call },
                    None => self.again(turn),
                };
            }
        };
        match plan {
            // Reads of several shards are optimistic, until they have failed too often.
            Ok(plan)
                if self.reads_only() && plan.parts.len() > 1 && self.attempt <= OPTIMISTIC_MAX =>
            {
                self.gather(turn);
            }
            Ok(plan) => self.commit(turn, plan, None),
            Err(Uncut::Together) => self.gather(turn),
            Err(uncut) => self.uncut(turn, uncut),
        }
    }

    /// Whether it is a script that only reads.
    fn reads_only(&self) -> bool {
        match &self.source {
            Source::Script(script) => {
                let reads = |command: &crate::Command| command.class() == Class::Read;
                script.commands.iter().all(reads)
            }
            Source::Effects(_) | Source::Question { .. } => false,
        }
    }

    /// Whether it takes effect at most once, however often it is sent.
    fn has_token(&self) -> bool {
        match &self.source {
            Source::Effects(effects) => effects.token.is_some(),
            Source::Script(_) | Source::Question { .. } => false,
        }
    }

    fn uncut(&mut self, turn: &mut Turn, uncut: Uncut) {
        match (uncut, &self.source) {
            (Uncut::Refused(reply), _) => self.end(turn, Ended::Failed(reply)),
            (Uncut::Torn, Source::Effects(_)) => {
                let message = "a range that was read was split; run the transaction again";
                self.fail(turn, ErrorCode::Conflict, message);
            }
            (Uncut::Unknown | Uncut::Together | Uncut::Torn, _) => self.again(turn),
        }
    }

    /// Reads all keys and ranges of the script.
    fn gather(&mut self, turn: &mut Turn) {
        let Source::Script(script) = &self.source else {
            unreachable!("only scripts are gathered");
        };
        let mut keys = keys_of(&script.commands);
        keys.extend(script.watched.iter().map(|read| read.key.clone()));
        keys.sort();
        keys.dedup();
        let flushes = |command: &crate::Command| matches!(command, crate::Command::FlushAll);
        let written = match script.commands.iter().any(flushes) {
            true => usize::MAX,
            false => keys.len(),
        };
        let commands = script.commands.iter().enumerate();
        let walks = commands.filter(|(_, command)| is_walk(command));
        match Reading::ask(turn, self.owner(), keys, walks, written, None) {
            None => self.again(turn),
            Some(reading) => self.phase = Phase::Gathering { reading },
        }
    }

    /// Everything has been read: carries out the script on it.
    fn gathered(&mut self, turn: &mut Turn, read: Read) {
        let Source::Script(script) = &self.source else {
            unreachable!("only scripts are gathered");
        };
        turn.hlc.merge(read.newest);
        let mut view = View::default();
        view.read(read.values);
        self.is_carried_out_here = true;
        if !script.watched.iter().all(|read| view.agrees_with(read)) {
            return self.end(turn, Ended::Changed);
        }
        let mut replies = Vec::new();
        for (place, command) in script.commands.iter().enumerate() {
            let walked = read.walked.get(&place);
            replies.push(view.carry_out(command, walked, turn.now.wall_ms));
        }
        if view.len() > turn.settings.keys_max || view.size_bytes() > turn.settings.bytes_max {
            let message = "more keys or bytes than one transaction may have; nothing was done";
            return self.fail(turn, ErrorCode::TooLarge, message);
        }
        match Plan::of_effects(turn.map, &view.into_effects()) {
            Ok(plan) => self.commit(turn, plan, Some(replies)),
            Err(uncut) => self.uncut(turn, uncut),
        }
    }

    /// Makes a plan's effects true. `replies` are those of commands that were carried out here.
    fn commit(&mut self, turn: &mut Turn, mut plan: Plan, replies: Option<Vec<Reply>>) {
        plan.put_anchor_first();
        self.asked = turn.monotonic();
        self.plan = plan;
        let parts = &self.plan.parts;
        let owner = self.owner();
        match &parts[..] {
            [] => self.end(turn, Ended::Replies(replies.unwrap_or_default())),
            [only] => {
                let request = TxnRequest::Execute {
                    intent: Box::new(only.intent.clone()),
                };
                match turn.call(owner, &only.key, request) {
                    Some(call) => self.phase = Phase::Executing { call, replies },
                    None => self.again(turn),
                }
            }
            _ if !self.plan.writes() && self.plan.is_read() => {
                let reads = parts.iter().flat_map(|part| part.intent.reads.clone());
                let ranges = parts.iter().flat_map(|part| part.intent.ranges.clone());
                let (reads, ranges) = (reads.collect(), ranges.collect());
                match validate(turn, owner, reads, ranges) {
                    Some(waiting) => {
                        let waiting = waiting.into_iter().collect();
                        let replies = replies.unwrap_or_default();
                        self.phase = Phase::Validating { waiting, replies };
                    }
                    None => self.again(turn),
                }
            }
            _ => self.prepare(turn, replies),
        }
    }

    fn prepare(&mut self, turn: &mut Turn, replies: Option<Vec<Reply>>) {
        let (attempt, begun, owner) = (self.id(), self.begun, self.owner());
        let anchor = self.plan.parts[0].key.clone();
        let spans: Vec<Bytes> = self
            .plan
            .parts
            .iter()
            .map(|part| part.key.clone())
            .collect();
        let mut waiting = BTreeMap::new();
        for (index, part) in self.plan.parts.iter().enumerate() {
            let request = TxnRequest::Prepare {
                attempt,
                begun,
                anchor: anchor.clone(),
                spans: if index == 0 {
                    spans.clone()
                } else {
                    Vec::new()
                },
                intent: Box::new(part.intent.clone()),
            };
            match turn.call(owner, &part.key, request) {
                Some(call) => waiting.insert(call, index),
                None => return self.abort(turn),
            };
        }
        self.phase = Phase::Preparing {
            waiting,
            prepared: Prepared::default(),
            replies,
        };
    }

    /// Takes in the answer to a call.
    pub(super) fn answered(&mut self, turn: &mut Turn, call: Call, outcome: Outcome) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        match phase {
            Phase::Gathering { mut reading } => match reading.answered(call, outcome) {
                Taken::NotAsked | Taken::More => self.phase = Phase::Gathering { reading },
                Taken::Complete => self.gathered(turn, reading.finish()),
                Taken::Lost(outcome) => self.lost(turn, outcome),
            },
            Phase::Validating {
                mut waiting,
                replies,
            } => {
                if !waiting.remove(&call) {
                    self.phase = Phase::Validating { waiting, replies };
                    return;
                }
                match outcome {
                    Outcome::Txn(TxnAnswer::Valid { .. }) if waiting.is_empty() => {
                        self.end(turn, Ended::Replies(replies));
                    }
                    Outcome::Txn(TxnAnswer::Valid { .. }) => {
                        self.phase = Phase::Validating { waiting, replies };
                    }
                    outcome => self.lost(turn, outcome),
                }
            }
            Phase::Asking { call: expected } if call != expected => {
                self.phase = Phase::Asking { call: expected };
            }
            Phase::Asking { .. } => self.told(turn, outcome),
            Phase::Executing {
                call: expected,
                replies,
            } => {
                if call != expected {
                    self.phase = Phase::Executing {
                        call: expected,
                        replies,
                    };
                    return;
                }
                self.executed(turn, outcome, replies);
            }
            Phase::Preparing {
                mut waiting,
                mut prepared,
                replies,
            } => {
                let Some(index) = waiting.remove(&call) else {
                    self.phase = Phase::Preparing {
                        waiting,
                        prepared,
                        replies,
                    };
                    return;
                };
                match outcome {
                    Outcome::Txn(TxnAnswer::Prepared {
                        version,
                        replies: of_part,
                    }) => {
                        prepared.version = match planted!(CommitsAtFirstPrepare) {
                            true if prepared.version > Version::ZERO => prepared.version,
                            true | false => prepared.version.max(version),
                        };
                        turn.hlc.merge(version);
                        prepared.replies.insert(index, of_part);
                        match waiting.is_empty() || planted!(DecidesTooEarly) {
                            true => self.decide(turn, prepared, replies),
                            false => {
                                self.phase = Phase::Preparing {
                                    waiting,
                                    prepared,
                                    replies,
                                };
                            }
                        }
                    }
                    outcome => {
                        // Nothing has been decided, and only this coordinator could: it is off.
                        self.tell_abort(turn);
                        self.lost(turn, outcome);
                    }
                }
            }
            Phase::Deciding {
                call: asked,
                version,
                replies,
                since,
            } => {
                if asked != Some(call) {
                    self.phase = Phase::Deciding {
                        call: asked,
                        version,
                        replies,
                        since,
                    };
                    return;
                }
                self.decided(turn, outcome, version, replies, since);
            }
            Phase::Resolving {
                mut waiting,
                mut left,
                version,
                told,
            } => {
                if let Some(index) = waiting.remove(&call)
                    && outcome == Outcome::Txn(TxnAnswer::Done)
                {
                    left.remove(&index);
                }
                match left.is_empty() {
                    true => {
                        let request = TxnRequest::Forget { attempt: self.id() };
                        let _ = turn.call(self.owner(), &self.plan.parts[0].key, request);
                    }
                    false => {
                        self.phase = Phase::Resolving {
                            waiting,
                            left,
                            version,
                            told,
                        };
                    }
                }
            }
            Phase::Pause { until } => self.phase = Phase::Pause { until },
            Phase::Over => {}
        }
    }

    /// What became of a token.
    fn told(&mut self, turn: &mut Turn, outcome: Outcome) {
        match outcome {
            Outcome::Txn(TxnAnswer::Recorded(verdict)) => {
                let word = match verdict {
                    Verdict::Committed(_) => "COMMITTED",
                    Verdict::Aborted => "ABORTED",
                };
                self.end(turn, Ended::Told(Reply::Status(word.into())));
            }
            outcome => self.lost(turn, outcome),
        }
    }

    /// One shard has done it all, or not.
    fn executed(&mut self, turn: &mut Turn, outcome: Outcome, replies: Option<Vec<Reply>>) {
        match outcome {
            Outcome::Txn(TxnAnswer::Executed {
                replies: executed, ..
            }) => {
                let replies = replies.unwrap_or_else(|| self.plan.merge(vec![executed]));
                self.end(turn, Ended::Replies(replies));
            }
            Outcome::Unknown if self.plan.writes() && !self.has_token() => self.unknown(turn),
            outcome => {
                self.is_open |= self.has_token() && outcome == Outcome::Unknown;
                self.lost(turn, outcome);
            }
        }
    }

    /// The anchor has decided, or nobody knows yet.
    fn decided(
        &mut self,
        turn: &mut Turn,
        outcome: Outcome,
        version: Version,
        replies: Vec<Reply>,
        since: Micros,
    ) {
        match outcome {
            Outcome::Txn(TxnAnswer::Decided(Verdict::Committed(version))) => {
                self.end(turn, Ended::Replies(replies));
                self.resolve(turn, version);
            }
            Outcome::Txn(TxnAnswer::Decided(Verdict::Aborted)) => {
                self.tell_abort(turn);
                self.again(turn);
            }
            Outcome::Txn(TxnAnswer::Recorded(_)) => {
                self.tell_abort(turn);
                self.lost(turn, outcome);
            }
            _ if planted!(RetriesUnknown) => self.again(turn),
            // Until it is known, it is asked for again, at the next tick.
            _ => {
                self.phase = Phase::Deciding {
                    call: None,
                    version,
                    replies,
                    since,
                };
            }
        }
    }

    fn decide(&mut self, turn: &mut Turn, prepared: Prepared, replies: Option<Vec<Reply>>) {
        let version = prepared.version;
        let replies =
            replies.unwrap_or_else(|| self.plan.merge(prepared.replies.into_values().collect()));
        self.asked = turn.monotonic();
        let call = self.ask_decision(turn, version);
        self.phase = Phase::Deciding {
            call,
            version,
            replies,
            since: turn.monotonic(),
        };
    }

    fn ask_decision(&self, turn: &mut Turn, version: Version) -> Option<Call> {
        let request = TxnRequest::Decide {
            attempt: self.id(),
            begun: self.begun,
            version,
        };
        turn.call(self.owner(), &self.plan.parts[0].key, request)
    }

    /// Tells the participants that it is committed; the anchor has seen to itself.
    fn resolve(&mut self, turn: &mut Turn, version: Version) {
        let left = (1..self.plan.parts.len()).collect();
        self.tell_commit(turn, left, version, 1);
    }

    fn tell_commit(&mut self, turn: &mut Turn, left: BTreeSet<usize>, version: Version, told: u32) {
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

    /// Tells all participants that the attempt is off. Their answers are not awaited: one that does
    /// not hear it will ask the anchor.
    fn tell_abort(&self, turn: &mut Turn) {
        let (attempt, begun) = (self.id(), self.begun);
        for part in &self.plan.parts {
            let request = TxnRequest::Resolve {
                attempt,
                begun,
                verdict: Verdict::Aborted,
            };
            let _ = turn.call(self.owner(), &part.key, request);
        }
    }

    fn abort(&mut self, turn: &mut Turn) {
        self.tell_abort(turn);
        self.again(turn);
    }

    /// The attempt has certainly had no effect: what follows depends on why.
    fn lost(&mut self, turn: &mut Turn, outcome: Outcome) {
        match outcome {
            Outcome::Txn(TxnAnswer::Recorded(Verdict::Committed(_))) => {
                self.end(turn, Ended::Replies(Vec::new()));
            }
            Outcome::Txn(TxnAnswer::Recorded(Verdict::Aborted)) => {
                let message = "the token was given up when its outcome was asked for";
                self.fail(turn, ErrorCode::Aborted, message);
            }
            Outcome::Txn(TxnAnswer::Changed) => match &self.source {
                // Only watched keys are checked where the shards carry out a script's commands.
                // Where it is done here, the next attempt looks at them first.
                Source::Script(script)
                    if !script.watched.is_empty() && !self.is_carried_out_here =>
                {
                    self.end(turn, Ended::Changed);
                }
                Source::Script(_) | Source::Question { .. } => self.again(turn),
                Source::Effects(_) => {
                    self.fail(
                        turn,
                        ErrorCode::Conflict,
                        "something that was read has changed",
                    );
                }
            },
            Outcome::Reply(reply) if !is_try_again(&reply) => {
                self.end(turn, Ended::Failed(reply));
            }
            Outcome::Txn(_)
            | Outcome::Reply(_)
            | Outcome::NotLeader { .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::StreamBroken
            | Outcome::Overloaded
            | Outcome::Unknown => self.again(turn),
        }
    }

    fn unknown(&mut self, turn: &mut Turn) {
        self.fail(
            turn,
            ErrorCode::Unknown,
            "the outcome of the transaction is not known",
        );
    }

    /// Pauses before the next attempt, unless time is up.
    fn again(&mut self, turn: &mut Turn) {
        let now = turn.monotonic();
        if now.0.saturating_sub(self.started.0) >= turn.settings.retry_max_us {
            if self.is_open {
                return self.unknown(turn);
            }
            let message = "the transaction lost against others for too long";
            return self.fail(turn, ErrorCode::Conflict, message);
        }
        // Not the same for all: those who met once should not meet again.
        let spread = self.txn.counter % 7 + 1;
        let pause_us = turn.settings.pause_us * u64::from(self.attempt.min(16)) * spread / 4;
        self.phase = Phase::Pause {
            until: Micros(now.0 + pause_us),
        };
    }

    pub(super) fn tick(&mut self, turn: &mut Turn) {
        let now = turn.monotonic();
        let late = now.0.saturating_sub(self.asked.0) >= turn.settings.answer_max_us;
        match &mut self.phase {
            Phase::Pause { until } if now >= *until => self.begin(turn),
            Phase::Gathering { .. } | Phase::Validating { .. } if late => self.again(turn),
            Phase::Asking { .. } if late => self.again(turn),
            Phase::Executing { .. } if late => match self.plan.writes() && !self.has_token() {
                true => self.unknown(turn),
                false => {
                    self.is_open |= self.has_token();
                    self.again(turn);
                }
            },
            Phase::Preparing { .. } if late => self.abort(turn),
            Phase::Deciding {
                call,
                version,
                since,
                ..
            } => {
                if now.0.saturating_sub(since.0) >= turn.settings.decide_max_us {
                    return self.unknown(turn);
                }
                if call.is_none() || late {
                    let version = *version;
                    self.asked = now;
                    let asked = self.ask_decision(turn, version);
                    if let Phase::Deciding { call, .. } = &mut self.phase {
                        *call = asked;
                    }
                }
            }
            Phase::Resolving {
                left,
                version,
                told,
                ..
            } if late => match *told < TOLD_MAX {
                true => {
                    let (left, version, told) = (left.clone(), *version, *told + 1);
                    self.tell_commit(turn, left, version, told);
                }
                // The anchor will see to it.
                false => self.phase = Phase::Over,
            },
            Phase::Pause { .. }
            | Phase::Gathering { .. }
            | Phase::Validating { .. }
            | Phase::Asking { .. }
            | Phase::Executing { .. }
            | Phase::Preparing { .. }
            | Phase::Resolving { .. }
            | Phase::Over => {}
        }
    }
}

fn is_try_again(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Error {
            code: ErrorCode::TryAgain,
            ..
        }
    )
}
