//! An interactive transaction: reads as they are needed, writes kept until the end.
//!
//! One of the past reads everything at one version, of any replica of each shard. It locks nothing, is in
//! nobody's way, and has nothing to validate; a version that is not kept any more ends it.

use std::collections::BTreeSet;

use synod_storage::{Micros, Version};

use super::event::{Call, Effect, Ended, Ticket};
use super::holds::Holds;
use super::reading::{Read, Reading, Taken, Walked, is_walk, validate};
use super::view::{Effects, View};
use super::{Owner, Turn};
use crate::command::{Access, Begin, Class, Command, Key, ReadMode};
use crate::hlc;
use crate::participant::Now;
use crate::reply::{ErrorCode, Reply};
use crate::transaction::{Again, TxnAnswer, TxnId};
use crate::wire::Outcome;
use synod_testpoint::planted;

/// A command that waits for what it has to be shown.
#[derive(Clone, Debug)]
struct Waiting {
    /// The command; none if keys are watched.
    command: Option<Command>,
    /// What was found, if it is about a range.
    walked: Option<Walked>,
}

/// What a session waits for.
#[derive(Clone, Debug)]
enum Phase {
    /// The next command.
    Idle,
    /// Nothing: it is over.
    Over,
    /// Locks, before values and ranges are read.
    Holding {
        command: Option<Command>,
        keys: Vec<Key>,
        calls: BTreeSet<Call>,
        asked: Micros,
    },
    /// Values and ranges for a command (or for watching).
    Reading {
        waiting: Waiting,
        reading: Reading,
        asked: Micros,
    },
    /// The earlier reads hold for less than a new value's version: they are validated again.
    Refreshing {
        waiting: Waiting,
        calls: BTreeSet<Call>,
        through: Version,
        asked: Micros,
    },
}

/// An interactive transaction.
///
/// Invariant: when it is idle, all that it has read was true together at some version.
#[derive(Clone, Debug)]
pub(super) struct Session {
    begin: Begin,
    /// How often its client has run it in vain.
    restarts: u32,
    /// What it has locked because of that, and its name.
    holds: Holds,
    /// The version that everything is read at; none: as it is now.
    at: Option<Version>,
    view: View,
    /// Everything that was read holds up to this version at least.
    valid_through: Version,
    /// No version that was read is greater.
    newest: Version,
    phase: Phase,
    begun: Micros,
    touched: Micros,
}

impl Session {
    pub(super) fn new(begin: Begin, txn: TxnId, at: Option<Version>, now: Micros) -> Session {
        Session {
            begin,
            restarts: 0,
            holds: Holds::new(txn),
            at,
            view: View::default(),
            valid_through: Version::MAX,
            newest: Version::ZERO,
            phase: Phase::Idle,
            begun: now,
            touched: now,
        }
    }

    /// One that only reads the versions of keys.
    pub(super) fn watching(txn: TxnId, now: Now) -> Session {
        let begin = Begin {
            access: Access::ReadOnly,
            reads: ReadMode::Latest,
            token: None,
        };
        Session::new(begin, txn, None, now.monotonic)
    }

    /// What it has read, and wants to write; and under which name and locks.
    pub(super) fn into_effects(self) -> (Effects, u32, Holds) {
        let effects = Effects {
            token: self.begin.token,
            ..self.view.into_effects()
        };
        (effects, self.restarts, self.holds)
    }

    /// It was run before, so often, and has lost each time.
    pub(super) fn has_lost(&mut self, restarts: u32) {
        self.restarts = restarts;
    }

    /// It is over: lets go of what it has locked.
    pub(super) fn release(&mut self, turn: &mut Turn, ticket: Ticket) {
        self.holds.release(turn, Owner::Session(ticket));
    }

    pub(super) fn watch(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>) {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        self.read(turn, ticket, keys.into_iter().collect(), None);
    }

    pub(super) fn execute(&mut self, turn: &mut Turn, ticket: Ticket, command: Command) {
        self.touched = turn.monotonic();
        let reply = |turn: &mut Turn, reply| turn.effects.push(Effect::Reply { ticket, reply });
        if !matches!(self.phase, Phase::Idle) {
            return reply(turn, Reply::err("the command before is not answered yet"));
        }
        if self.begin.access == Access::ReadOnly && command.class() == Class::Write {
            return reply(turn, Reply::err("the transaction is read-only"));
        }
        let mut keys = 0;
        command.for_each_key(|_| keys += 1);
        if keys == 0 && !is_walk(&command) {
            let message = "this command cannot be part of a transaction";
            return reply(turn, Reply::err(message));
        }
        if let Some(message) = self.is_too_large(turn, keys, command.size_bytes()) {
            return reply(turn, Reply::error(ErrorCode::TooLarge, message));
        }
        let missing = self.view.missing(&command);
        match missing.is_empty() && !is_walk(&command) {
            true => self.carry_out(turn, ticket, &command, None),
            false => self.read(turn, ticket, missing, Some(command)),
        }
    }

    /// Whether it would have more keys or bytes than one transaction may have.
    fn is_too_large(&self, turn: &Turn, keys: usize, bytes: usize) -> Option<&'static str> {
        if self.view.len() + keys > turn.settings.keys_max {
            return Some("the transaction has too many keys; this command was not carried out");
        }
        let is_large = self.view.size_bytes() + bytes > turn.settings.bytes_max;
        is_large.then_some("the transaction has too many bytes; this command was not carried out")
    }

    /// Reads what a command has to be shown; if the transaction has lost too often, under locks.
    fn read(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>, command: Option<Command>) {
        let patient = self.restarts < turn.settings.optimistic_max || planted!(NeverHolds);
        if patient || self.at.is_some() {
            return self.look(turn, ticket, keys, command);
        }
        let walk = command.iter().filter(|command| is_walk(command));
        let asked = turn.monotonic();
        match (self.holds).ask(turn, Owner::Session(ticket), keys.clone(), walk) {
            Some(calls) => {
                self.phase = Phase::Holding {
                    command,
                    keys,
                    calls,
                    asked,
                };
            }
            None => self.fail_unknown_shard(turn, ticket),
        }
    }

    fn look(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>, command: Option<Command>) {
        let walk = command.iter().filter(|command| is_walk(command));
        let walk = walk.map(|command| (0, command));
        let (owner, written) = (Owner::Session(ticket), self.view.written());
        match Reading::ask(turn, owner, keys, walk, written, self.at) {
            Some(reading) => {
                let asked = turn.monotonic();
                let waiting = Waiting {
                    command,
                    walked: None,
                };
                self.phase = Phase::Reading {
                    waiting,
                    reading,
                    asked,
                };
            }
            None => self.fail_unknown_shard(turn, ticket),
        }
    }

    fn carry_out(
        &mut self,
        turn: &mut Turn,
        ticket: Ticket,
        command: &Command,
        walked: Option<&Walked>,
    ) {
        self.phase = Phase::Idle;
        self.touched = turn.monotonic();
        let now_ms = self.at.map_or(turn.now.wall_ms, hlc::wall_ms_of);
        let reply = self.view.carry_out(command, walked, now_ms);
        if let Some(message) = self.is_too_large(turn, 0, 0) {
            // The walk has brought, or wiped, more than could be known before.
            return self.fail(turn, ticket, ErrorCode::TooLarge, message);
        }
        turn.effects.push(Effect::Reply { ticket, reply });
    }

    pub(super) fn answered(
        &mut self,
        turn: &mut Turn,
        ticket: Ticket,
        call: Call,
        outcome: Outcome,
    ) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {}
            Phase::Over => self.phase = Phase::Over,
            holding @ Phase::Holding { .. } => {
                self.phase = holding;
                self.held(turn, ticket, call, outcome);
            }
            Phase::Reading {
                waiting,
                mut reading,
                asked,
            } => match reading.answered(call, outcome) {
                Taken::Complete => self.has_read(turn, ticket, waiting, reading.finish()),
                // The map is better now, and the past is the same.
                Taken::Lost(Outcome::StaleEpoch { .. })
                    if self.at.is_some() && waiting.command.is_some() =>
                {
                    if let Some(command) = waiting.command {
                        self.execute(turn, ticket, command);
                    }
                }
                Taken::Lost(outcome) => self.lost(turn, ticket, outcome),
                Taken::NotAsked | Taken::More => {
                    self.phase = Phase::Reading {
                        waiting,
                        reading,
                        asked,
                    }
                }
            },
            Phase::Refreshing {
                waiting,
                mut calls,
                mut through,
                asked,
            } => {
                if calls.remove(&call) {
                    let Outcome::Txn(TxnAnswer::Valid { through: of_shard }) = outcome else {
                        return self.lost(turn, ticket, outcome);
                    };
                    through = through.min(of_shard);
                    if calls.is_empty() {
                        self.valid_through = through;
                        return self.complete(turn, ticket, waiting);
                    }
                }
                self.phase = Phase::Refreshing {
                    waiting,
                    calls,
                    through,
                    asked,
                };
            }
        }
    }

    /// One of the locks that are awaited is there, or is not to be had.
    fn held(&mut self, turn: &mut Turn, ticket: Ticket, call: Call, outcome: Outcome) {
        let Phase::Holding {
            command,
            keys,
            calls,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if !calls.remove(&call) {
            return;
        }
        if outcome != Outcome::Txn(TxnAnswer::Done) {
            self.lost(turn, ticket, outcome);
        } else if calls.is_empty() {
            let (command, keys) = (command.take(), std::mem::take(keys));
            self.look(turn, ticket, keys, command);
        }
    }

    /// Everything that a command has to be shown is there: was it true together with the rest?
    fn has_read(&mut self, turn: &mut Turn, ticket: Ticket, mut waiting: Waiting, mut read: Read) {
        self.valid_through = self.valid_through.min(read.valid_through);
        self.newest = self.newest.max(read.newest);
        self.view.read(read.values);
        waiting.walked = read.walked.remove(&0);
        turn.hlc.merge(self.newest);
        match self.newest > self.valid_through {
            true => self.refresh(turn, ticket, waiting),
            false => self.complete(turn, ticket, waiting),
        }
    }

    /// What was read is true together.
    fn complete(&mut self, turn: &mut Turn, ticket: Ticket, waiting: Waiting) {
        if self.newest > self.valid_through {
            return self.refresh(turn, ticket, waiting);
        }
        match &waiting.command {
            Some(command) => self.carry_out(turn, ticket, command, waiting.walked.as_ref()),
            None => {
                let ended = Ended::Watched(self.view.reads());
                turn.effects.push(Effect::Ended { ticket, ended });
                self.phase = Phase::Over;
            }
        }
    }

    fn refresh(&mut self, turn: &mut Turn, ticket: Ticket, waiting: Waiting) {
        let mut ranges = self.view.ranges().to_vec();
        ranges.extend(
            waiting
                .walked
                .iter()
                .flat_map(|walked| walked.reads.clone()),
        );
        let owner = Owner::Session(ticket);
        match validate(turn, owner, self.view.reads(), ranges) {
            Some(calls) => {
                self.phase = Phase::Refreshing {
                    waiting,
                    calls: calls.into_iter().collect(),
                    through: Version::MAX,
                    asked: turn.monotonic(),
                };
            }
            None => self.fail_unknown_shard(turn, ticket),
        }
    }

    fn lost(&mut self, turn: &mut Turn, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Reply(Reply::Error { code, message }) => {
                let ended = Ended::Failed(Reply::Error { code, message });
                self.end(turn, ticket, ended);
            }
            Outcome::Txn(TxnAnswer::Collected { kept }) => {
                let message = format!(
                    "versions below {kept} are not kept any more (retention_ms); nothing was done, \
                     begin a newer snapshot"
                );
                let ended = Ended::Failed(Reply::error(ErrorCode::Expired, message));
                self.end(turn, ticket, ended);
            }
            Outcome::Txn(answer) => {
                let message = match answer {
                    TxnAnswer::Conflict => "an older transaction is in the way; run it again",
                    _ => "something that was read has changed; run the transaction again",
                };
                let ended = lost(self.holds.txn(), self.restarts, message);
                self.end(turn, ticket, ended);
            }
            Outcome::Reply(_)
            | Outcome::NotLeader { .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::StreamBroken
            | Outcome::Overloaded
            | Outcome::Unknown => {
                let message = "a shard could not be read; nothing was done";
                self.fail(turn, ticket, ErrorCode::TryAgain, message);
            }
        }
    }

    fn fail_unknown_shard(&mut self, turn: &mut Turn, ticket: Ticket) {
        let message = "a shard is not known, or was split; nothing was done";
        self.fail(turn, ticket, ErrorCode::TryAgain, message);
    }

    /// Ends the transaction; nothing was done.
    fn fail(&mut self, turn: &mut Turn, ticket: Ticket, code: ErrorCode, message: &'static str) {
        self.end(turn, ticket, Ended::Failed(Reply::error(code, message)));
    }

    fn end(&mut self, turn: &mut Turn, ticket: Ticket, ended: Ended) {
        self.release(turn, ticket);
        turn.effects.push(Effect::Ended { ticket, ended });
        self.phase = Phase::Over;
    }

    /// The version that it reads at, if it reads the past.
    pub(super) fn at(&self) -> Option<Version> {
        self.at
    }

    /// Whether it is over, and to be forgotten.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Ends it if it takes too long. Whether it is over.
    pub(super) fn tick(&mut self, turn: &mut Turn, ticket: Ticket) -> bool {
        let now = turn.monotonic();
        let age_us = |since: Micros| now.0.saturating_sub(since.0);
        let is_old = age_us(self.begun) >= turn.settings.duration_max_us;
        let failure = match &self.phase {
            Phase::Over => return true,
            _ if is_old => (
                ErrorCode::Timeout,
                "the transaction took too long; nothing was done",
            ),
            Phase::Idle if age_us(self.touched) >= turn.settings.idle_max_us => (
                ErrorCode::Idle,
                "the transaction was idle for too long; nothing was done",
            ),
            Phase::Holding { asked, .. }
            | Phase::Reading { asked, .. }
            | Phase::Refreshing { asked, .. }
                if age_us(*asked) >= turn.settings.answer_max_us =>
            {
                let message = "a shard could not be read in time; nothing was done";
                (ErrorCode::TryAgain, message)
            }
            Phase::Idle
            | Phase::Holding { .. }
            | Phase::Reading { .. }
            | Phase::Refreshing { .. } => return false,
        };
        self.fail(turn, ticket, failure.0, failure.1);
        true
    }
}

/// How a transaction ends that has lost: whoever begins it again says so.
pub(super) fn lost(txn: TxnId, restarts: u32, why: &'static str) -> Ended {
    let again = Again {
        age: txn.age,
        restarts: restarts + 1,
    };
    let why = Reply::error(ErrorCode::Conflict, why);
    Ended::Lost { why, again }
}
