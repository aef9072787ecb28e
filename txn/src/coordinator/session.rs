//! An interactive transaction: reads as they are needed, writes kept until the end.
//!
//! One of the past reads everything at one version, of any replica of each shard. It locks nothing, is in
//! nobody's way, and has nothing to validate; a version that is not kept any more ends it.

use std::collections::BTreeSet;

use synod_storage::{Micros, Version};

use super::event::{Call, Effect, Ended, Ticket};
use super::reading::{Read, Reading, Taken, Walked, is_walk, validate};
use super::view::{Effects, View};
use super::{Owner, Turn};
use crate::command::{Access, Begin, Class, Command, Key, ReadMode};
use crate::hlc;
use crate::participant::Now;
use crate::reply::{ErrorCode, Reply};
use crate::transaction::TxnAnswer;
use crate::wire::Outcome;

/// A command that waits for what it has to be shown.
#[derive(Debug)]
struct Waiting {
    /// The command; none if keys are watched.
    command: Option<Command>,
    /// What was found, if it is about a range.
    walked: Option<Walked>,
}

/// What a session waits for.
#[derive(Debug)]
enum Phase {
    /// The next command.
    Idle,
    /// Nothing: it is over.
    Over,
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
#[derive(Debug)]
pub(super) struct Session {
    begin: Begin,
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
    pub(super) fn new(begin: Begin, at: Option<Version>, now: Micros) -> Session {
        Session {
            begin,
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
    pub(super) fn watching(now: Now) -> Session {
        let begin = Begin {
            access: Access::ReadOnly,
            reads: ReadMode::Latest,
            token: None,
        };
        Session::new(begin, None, now.monotonic)
    }

    /// What it has read, and wants to write.
    pub(super) fn into_effects(self) -> Effects {
        Effects {
            token: self.begin.token,
            ..self.view.into_effects()
        }
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

    fn read(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>, command: Option<Command>) {
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
                turn.effects.push(Effect::Ended { ticket, ended });
                self.phase = Phase::Over;
            }
            Outcome::Txn(TxnAnswer::Collected { kept }) => {
                let message = format!(
                    "versions below {kept} are not kept any more (retention_ms); nothing was done, \
                     begin a newer snapshot"
                );
                let ended = Ended::Failed(Reply::error(ErrorCode::Expired, message));
                turn.effects.push(Effect::Ended { ticket, ended });
                self.phase = Phase::Over;
            }
            Outcome::Txn(_) => {
                let message = "something that was read has changed; run the transaction again";
                self.fail(turn, ticket, ErrorCode::Conflict, message);
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
        let ended = Ended::Failed(Reply::error(code, message));
        turn.effects.push(Effect::Ended { ticket, ended });
        self.phase = Phase::Over;
    }

    /// Whether it reads the past: then there is nothing to commit.
    pub(super) fn is_of_the_past(&self) -> bool {
        self.at.is_some()
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
            Phase::Reading { asked, .. } | Phase::Refreshing { asked, .. }
                if age_us(*asked) >= turn.settings.answer_max_us =>
            {
                let message = "a shard could not be read in time; nothing was done";
                (ErrorCode::TryAgain, message)
            }
            Phase::Idle | Phase::Reading { .. } | Phase::Refreshing { .. } => return false,
        };
        self.fail(turn, ticket, failure.0, failure.1);
        true
    }
}
