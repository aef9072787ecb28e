//! A transaction that is being carried out: one attempt after the other.

mod deciding;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_storage::{Micros, Version};

use super::event::{Call, Effect, Ended, Script, Ticket};
use super::holds::Holds;
use super::plan::{Plan, Uncut, keys_of};
use super::reading::{Read, Reading, Taken, is_walk, validate};
use super::session::{self, Session};
use super::view::{Effects, View};
use super::{Owner, Turn, attempt_of};
use crate::command::Class;
use crate::reply::{ErrorCode, Reply};
use crate::token;
use crate::transaction::{AttemptId, TxnAnswer, TxnId, TxnRequest, Verdict};
use crate::wire::Outcome;
use synod_testpoint::planted;

/// A verdict is told so many times; then it is left to recovery.
const TOLD_MAX: u32 = 3;

/// What is to be carried out.
#[derive(Clone, Debug)]
enum Source {
    /// Commands.
    Script(Script),
    /// What an interactive transaction has read, and wants to write.
    /// And how often its client has run it in vain.
    Effects(Effects, u32),
    /// What became of a token?
    Question { token: Bytes },
}

/// Where an attempt is.
#[derive(Clone, Debug)]
enum Phase {
    /// Before an attempt.
    Pause { until: Micros },
    /// What is to be read is locked before.
    Holding { waiting: BTreeSet<Call> },
    /// Values are read, and ranges walked through.
    Gathering { reading: Reading },
    /// The same for what a script reads in other shards than the one that it writes in.
    Looking { reading: Reading },
    /// What was read is checked, once more, in all shards.
    Validating {
        waiting: BTreeSet<Call>,
        replies: Vec<Reply>,
    },
    /// The home of a token is asked.
    Asking { call: Call },
    /// One shard does all that is done. `replies` are those of commands that were carried out here: of
    /// all, or by part of those in other shards.
    Executing {
        call: Call,
        replies: Option<Vec<Reply>>,
        of_others: BTreeMap<usize, Vec<Reply>>,
    },
    /// The first phase, everywhere but at the anchor. `replies` are those of commands that were
    /// carried out here.
    Preparing {
        waiting: BTreeMap<Call, usize>,
        prepared: Prepared,
        replies: Option<Vec<Reply>>,
    },
    /// All others are prepared: the anchor does its part, and decides.
    Concluding {
        call: Call,
        prepared: Prepared,
        replies: Option<Vec<Reply>>,
    },
    /// The anchor has refused, or nobody knows, and a copy of the question may still be on its way: it
    /// is asked what stands, until it is known.
    Doubting {
        call: Option<Call>,
        version: Version,
        doubt: Doubt,
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

/// What a decision that is not known yet would mean.
#[derive(Clone, Debug)]
struct Doubt {
    /// The replies, if it is committed; none if they were lost with the anchor's answer.
    replies: Option<Vec<Reply>>,
    /// Why, if it is not; none if the anchor has said nothing.
    refusal: Option<Outcome>,
}

/// What the participants have answered to their prepares.
#[derive(Clone, Debug, Default)]
struct Prepared {
    version: Version,
    replies: BTreeMap<usize, Vec<Reply>>,
}

/// A transaction on its way.
///
/// Invariants: it is `Over` or its client is owed an answer or it is `Resolving`; the anchor is asked to
/// conclude only when every other participant of the attempt is prepared, and from then on only the
/// anchor can abort it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    txn: TxnId,
    ticket: Ticket,
    attempt: u32,
    /// The clock when this attempt began to prepare.
    begun: Version,
    source: Source,
    /// What was locked before it was read.
    holds: Holds,
    plan: Plan,
    /// Whether this attempt's commands were carried out here, and not by the shards.
    is_carried_out_here: bool,
    /// With a token: whether an attempt was sent whose outcome is not known.
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

    pub(super) fn of_session(ticket: Ticket, session: Session, now: Micros) -> Run {
        let (effects, restarts, holds) = session.into_effects();
        let source = Source::Effects(effects, restarts);
        let run = Run::new(holds.txn(), ticket, source, now);
        Run { holds, ..run }
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
            holds: Holds::new(txn),
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

    pub(super) fn txn(&self) -> TxnId {
        self.txn
    }

    fn id(&self) -> AttemptId {
        attempt_of(self.txn, self.attempt)
    }

    fn owner(&self) -> Owner {
        Owner::Run(self.txn)
    }

    fn end(&mut self, turn: &mut Turn, ended: Ended) {
        let ended = match ended {
            // What this attempt has met may be what an earlier one has done.
            Ended::Failed(_) | Ended::Lost { .. } if self.is_open => unknown(),
            other => other,
        };
        self.holds.release(turn, self.owner());
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
            Source::Effects(effects, _) => Plan::of_effects(turn.map, effects),
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
            Ok(plan) if self.reads_only() && plan.parts.len() > 1 && self.is_optimistic(turn) => {
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
            Source::Effects(..) | Source::Question { .. } => false,
        }
    }

    /// Whether this attempt may find at its end that something has changed.
    fn is_optimistic(&self, turn: &Turn) -> bool {
        self.attempt <= turn.settings.optimistic_max
    }

    /// Whether it takes effect at most once, however often it is sent.
    fn has_token(&self) -> bool {
        match &self.source {
            Source::Effects(effects, _) => effects.token.is_some(),
            Source::Script(_) | Source::Question { .. } => false,
        }
    }

    fn uncut(&mut self, turn: &mut Turn, uncut: Uncut) {
        match (uncut, &self.source) {
            (Uncut::Refused(reply), _) => self.end(turn, Ended::Failed(reply)),
            (Uncut::Torn, Source::Effects(_, restarts)) => {
                let message = "a range that was read was split; run the transaction again";
                let ended = session::lost(self.txn, *restarts, message);
                self.end(turn, ended);
            }
            (Uncut::Unknown | Uncut::Together | Uncut::Torn, _) => self.again(turn),
        }
    }

    /// The script of a run that is gathered, and all keys that it reads.
    fn script(&self) -> (&Script, Vec<Bytes>) {
        let Source::Script(script) = &self.source else {
            unreachable!("only scripts are gathered");
        };
        let mut keys = keys_of(&script.commands);
        keys.extend(script.watched.iter().map(|read| read.key.clone()));
        keys.sort();
        keys.dedup();
        (script, keys)
    }

    /// Reads all keys and ranges of the script; if it has lost too often, under locks.
    fn gather(&mut self, turn: &mut Turn) {
        if self.is_optimistic(turn) || planted!(NeverHolds) {
            return self.read(turn);
        }
        let (script, keys) = self.script();
        let walks: Vec<_> = script.commands.iter().filter(|it| is_walk(it)).collect();
        let mut holds = self.holds.clone();
        let asked = holds.ask(turn, self.owner(), keys, walks);
        self.holds = holds;
        match asked {
            Some(waiting) => self.phase = Phase::Holding { waiting },
            None => self.again(turn),
        }
    }

    fn read(&mut self, turn: &mut Turn) {
        let (script, keys) = self.script();
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
            [_] => self.execute(turn, replies, BTreeMap::new()),
            _ if self.plan.has_one_writer() && self.is_optimistic(turn) => {
                match self.plan.unread() {
                    keys if keys.is_empty() => self.execute(turn, replies, BTreeMap::new()),
                    keys => self.look(turn, keys),
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

    /// Asks the only shard that writes to do its part, and to ask the others whether what was read there
    /// still is so.
    fn execute(
        &mut self,
        turn: &mut Turn,
        replies: Option<Vec<Reply>>,
        of_others: BTreeMap<usize, Vec<Reply>>,
    ) {
        let anchor = &self.plan.parts[0];
        let mut intent = Box::new(anchor.intent.clone());
        intent.holder = Some(self.txn).filter(|_| !self.holds.is_empty());
        intent.elsewhere = self.plan.elsewhere(self.id());
        let request = TxnRequest::Execute { intent };
        self.asked = turn.monotonic();
        match turn.call(self.owner(), &anchor.key, request) {
            Some(call) => {
                self.phase = Phase::Executing {
                    call,
                    replies,
                    of_others,
                };
            }
            None => self.again(turn),
        }
    }

    /// Reads what is to be read in other shards than the one that writes.
    fn look(&mut self, turn: &mut Turn, keys: Vec<Bytes>) {
        match Reading::ask(turn, self.owner(), keys, std::iter::empty(), 0, None) {
            Some(reading) => self.phase = Phase::Looking { reading },
            None => self.again(turn),
        }
    }

    /// It is read: whatever else the script does is done by the shard that writes.
    fn looked(&mut self, turn: &mut Turn, read: Read) {
        turn.hlc.merge(read.newest);
        let mut view = View::default();
        view.read(read.values);
        // If something has changed in the end, it may be something that was not watched.
        self.is_carried_out_here = true;
        let mut watched = self.plan.parts.iter().flat_map(|part| &part.intent.reads);
        if !watched.all(|read| view.agrees_with(read)) {
            return self.end(turn, Ended::Changed);
        }
        let of_others = self.plan.settle_reads(&mut view, turn.now.wall_ms);
        self.execute(turn, None, of_others);
    }

    /// Whether the present phase waits for this call; of others the answer means nothing any more.
    fn awaits(&self, call: Call) -> bool {
        match &self.phase {
            Phase::Holding { waiting } | Phase::Validating { waiting, .. } => {
                waiting.contains(&call)
            }
            Phase::Gathering { .. } | Phase::Looking { .. } => true,
            Phase::Asking { call: asked }
            | Phase::Executing { call: asked, .. }
            | Phase::Concluding { call: asked, .. } => *asked == call,
            Phase::Preparing { waiting, .. } | Phase::Resolving { waiting, .. } => {
                waiting.contains_key(&call)
            }
            Phase::Doubting { call: asked, .. } => *asked == Some(call),
            Phase::Pause { .. } | Phase::Over => false,
        }
    }

    /// Takes in the answer to a call.
    pub(super) fn answered(&mut self, turn: &mut Turn, call: Call, outcome: Outcome) {
        if !self.awaits(call) {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Holding { mut waiting } => {
                waiting.remove(&call);
                if outcome != Outcome::Txn(TxnAnswer::Done) {
                    self.lost(turn, outcome);
                } else if waiting.is_empty() {
                    self.read(turn);
                } else {
                    self.phase = Phase::Holding { waiting };
                }
            }
            Phase::Gathering { mut reading } => match reading.answered(call, outcome) {
                Taken::NotAsked | Taken::More => self.phase = Phase::Gathering { reading },
                Taken::Complete => self.gathered(turn, reading.finish()),
                Taken::Lost(outcome) => self.lost(turn, outcome),
            },
            Phase::Looking { mut reading } => match reading.answered(call, outcome) {
                Taken::NotAsked | Taken::More => self.phase = Phase::Looking { reading },
                Taken::Complete => self.looked(turn, reading.finish()),
                Taken::Lost(outcome) => self.lost(turn, outcome),
            },
            Phase::Validating {
                mut waiting,
                replies,
            } => {
                waiting.remove(&call);
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
            Phase::Asking { .. } => self.told(turn, outcome),
            Phase::Executing {
                replies, of_others, ..
            } => self.executed(turn, outcome, replies, of_others),
            Phase::Preparing {
                mut waiting,
                prepared,
                replies,
            } => {
                if let Some(index) = waiting.remove(&call) {
                    self.prepared(turn, (index, outcome), waiting, prepared, replies);
                }
            }
            Phase::Concluding {
                prepared, replies, ..
            } => self.concluded(turn, outcome, prepared, replies),
            Phase::Doubting {
                version,
                doubt,
                since,
                ..
            } => self.decided(turn, outcome, version, doubt, since),
            Phase::Resolving {
                mut waiting,
                mut left,
                version,
                told,
            } => {
                let index = waiting.remove(&call);
                if let Some(index) = index.filter(|_| outcome == Outcome::Txn(TxnAnswer::Done)) {
                    left.remove(&index);
                }
                self.resolving(turn, waiting, left, (version, told));
            }
            Phase::Pause { .. } | Phase::Over => unreachable!("these phases wait for no answer"),
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
    fn executed(
        &mut self,
        turn: &mut Turn,
        outcome: Outcome,
        replies: Option<Vec<Reply>>,
        mut of_parts: BTreeMap<usize, Vec<Reply>>,
    ) {
        match outcome {
            Outcome::Txn(TxnAnswer::Executed {
                replies: executed, ..
            }) => {
                of_parts.insert(0, executed);
                let of_parts = of_parts.into_values().collect();
                let replies = replies.unwrap_or_else(|| self.plan.merge(of_parts));
                self.end(turn, Ended::Replies(replies));
            }
            Outcome::Unknown if self.plan.writes() && !self.has_token() => self.unknown(turn),
            outcome => {
                self.is_open |= self.has_token() && outcome == Outcome::Unknown;
                self.lost(turn, outcome);
            }
        }
    }

    /// The attempt has certainly had no effect: what follows depends on why.
    fn lost(&mut self, turn: &mut Turn, outcome: Outcome) {
        match outcome {
            Outcome::Txn(TxnAnswer::Recorded(Verdict::Committed(_))) => {
                self.end(turn, Ended::Replies(Vec::new()));
            }
            Outcome::Txn(TxnAnswer::Recorded(Verdict::Aborted)) => {
                // So none of the attempts has taken effect, or will.
                self.is_open = false;
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
                Source::Effects(_, restarts) => {
                    let message = "something that was read has changed; run the transaction again";
                    let ended = session::lost(self.txn, *restarts, message);
                    self.end(turn, ended);
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
        self.end(turn, unknown());
    }

    /// Pauses before the next attempt, unless time is up.
    fn again(&mut self, turn: &mut Turn) {
        // Whoever is older may be waiting for them.
        self.holds.release(turn, self.owner());
        let now = turn.monotonic();
        if now.0.saturating_sub(self.started.0) >= turn.settings.retry_max_us {
            let message = "the transaction lost against others for too long";
            return match &self.source {
                Source::Effects(_, restarts) => {
                    let ended = session::lost(self.txn, *restarts, message);
                    self.end(turn, ended);
                }
                Source::Script(_) | Source::Question { .. } => {
                    self.fail(turn, ErrorCode::Conflict, message);
                }
            };
        }
        // Not the same for all: those who met once should not meet again.
        let spread = self.txn.counter % 7 + 1;
        let pause_us = turn.settings.pause_us * u64::from(self.attempt.min(16)) * spread / 4;
        self.phase = Phase::Pause {
            until: Micros(now.0 + pause_us),
        };
    }

    /// Whether what the present phase asks for changes nothing: then it can be begun again at any time.
    fn has_no_effect(&self) -> bool {
        match &self.phase {
            Phase::Holding { .. }
            | Phase::Gathering { .. }
            | Phase::Looking { .. }
            | Phase::Validating { .. }
            | Phase::Asking { .. } => true,
            Phase::Pause { .. }
            | Phase::Executing { .. }
            | Phase::Preparing { .. }
            | Phase::Concluding { .. }
            | Phase::Doubting { .. }
            | Phase::Resolving { .. }
            | Phase::Over => false,
        }
    }

    pub(super) fn tick(&mut self, turn: &mut Turn) {
        let now = turn.monotonic();
        let late = now.0.saturating_sub(self.asked.0) >= turn.settings.answer_max_us;
        let has_no_effect = self.has_no_effect();
        match &mut self.phase {
            Phase::Pause { until } if now >= *until => self.begin(turn),
            _ if late && has_no_effect => self.again(turn),
            Phase::Executing { .. } if late => match self.plan.writes() && !self.has_token() {
                true => self.unknown(turn),
                false => {
                    self.is_open |= self.has_token();
                    self.again(turn);
                }
            },
            Phase::Preparing { .. } if late => self.abort(turn),
            Phase::Concluding {
                prepared, replies, ..
            } if late => {
                let (version, replies) = (prepared.version, replies.take());
                self.doubt(turn, version, replies, None);
            }
            Phase::Doubting {
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
                    if let Phase::Doubting { call, .. } = &mut self.phase {
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
            | Phase::Holding { .. }
            | Phase::Gathering { .. }
            | Phase::Looking { .. }
            | Phase::Validating { .. }
            | Phase::Asking { .. }
            | Phase::Executing { .. }
            | Phase::Preparing { .. }
            | Phase::Concluding { .. }
            | Phase::Resolving { .. }
            | Phase::Over => {}
        }
    }
}

fn unknown() -> Ended {
    let message = "the outcome of the transaction is not known";
    Ended::Failed(Reply::error(ErrorCode::Unknown, message))
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
