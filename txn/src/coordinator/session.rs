//! An interactive transaction: reads as they are needed, writes kept until the end.

use std::collections::{BTreeMap, BTreeSet};

use synod_storage::{Micros, Version};

use super::attempt::{read_keys, reads_of};
use super::event::{Call, Effect, Ended, Ticket};
use super::{Owner, Turn};
use crate::command::{Access, Begin, Class, Command, Key, ReadMode};
use crate::execute;
use crate::participant::Now;
use crate::reply::{ErrorCode, Reply};
use crate::transaction::{KeyRead, KeyWrite, ReadValue, TxnAnswer, TxnRequest};
use crate::value::Value;
use crate::wire::Outcome;

/// What a session waits for.
#[derive(Debug)]
enum Phase {
    /// The next command.
    Idle,
    /// Nothing: it is over.
    Over,
    /// Values for a command (or for watching, if there is none).
    Reading {
        command: Option<Command>,
        waiting: BTreeMap<Call, Vec<Key>>,
        asked: Micros,
    },
    /// The earlier reads hold for less than a new value's version: they are validated again.
    Refreshing {
        command: Option<Command>,
        waiting: BTreeSet<Call>,
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
    values: BTreeMap<Key, ReadValue>,
    written: BTreeMap<Key, Option<Value>>,
    /// Every value read holds up to this version at least.
    valid_through: Version,
    phase: Phase,
    touched: Micros,
}

impl Session {
    pub(super) fn new(begin: Begin, now: Micros) -> Session {
        Session {
            begin,
            values: BTreeMap::new(),
            written: BTreeMap::new(),
            valid_through: Version::MAX,
            phase: Phase::Idle,
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
        Session::new(begin, now.monotonic)
    }

    /// What it has read, and wants to write.
    pub(super) fn into_effects(self) -> (Vec<KeyRead>, Vec<KeyWrite>) {
        let writes = self
            .written
            .into_iter()
            .map(|(key, value)| KeyWrite { key, value });
        (reads_of(&self.values), writes.collect())
    }

    pub(super) fn watch(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>) {
        self.read(turn, ticket, keys, None);
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
        let mut keys = BTreeSet::new();
        command.for_each_key(|key| {
            keys.insert(key.clone());
        });
        if keys.is_empty() {
            let message = "this command cannot be part of a transaction yet";
            return reply(turn, Reply::err(message));
        }
        if self.values.len() + self.written.len() + keys.len() > turn.settings.keys_max {
            let message = "the transaction has too many keys";
            return reply(turn, Reply::error(ErrorCode::TooLarge, message));
        }
        let needed: Vec<Key> = match execute::must_read(&command) {
            true => keys
                .into_iter()
                .filter(|key| !self.values.contains_key(key) && !self.written.contains_key(key))
                .collect(),
            false => Vec::new(),
        };
        match needed.is_empty() {
            true => self.carry_out(turn, ticket, command),
            false => self.read(turn, ticket, needed, Some(command)),
        }
    }

    fn read(&mut self, turn: &mut Turn, ticket: Ticket, keys: Vec<Key>, command: Option<Command>) {
        match read_keys(turn, Owner::Session(ticket), keys) {
            Some(waiting) => {
                let asked = turn.monotonic();
                self.phase = Phase::Reading {
                    command,
                    waiting,
                    asked,
                };
            }
            None => self.fail(
                turn,
                ticket,
                ErrorCode::TryAgain,
                "a shard is not known yet",
            ),
        }
    }

    fn carry_out(&mut self, turn: &mut Turn, ticket: Ticket, command: Command) {
        self.phase = Phase::Idle;
        let now_ms = turn.now.wall_ms;
        let reply = carry_out(&command, &self.values, &mut self.written, now_ms);
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
                command,
                mut waiting,
                asked,
            } => {
                let Some(keys) = waiting.remove(&call) else {
                    self.phase = Phase::Reading {
                        command,
                        waiting,
                        asked,
                    };
                    return;
                };
                let Outcome::Txn(TxnAnswer::Values {
                    values,
                    valid_through,
                }) = outcome
                else {
                    return self.lost(turn, ticket, outcome);
                };
                self.valid_through = self.valid_through.min(valid_through);
                self.values.extend(keys.into_iter().zip(values));
                match waiting.is_empty() {
                    true => self.complete(turn, ticket, command),
                    false => {
                        self.phase = Phase::Reading {
                            command,
                            waiting,
                            asked,
                        }
                    }
                }
            }
            Phase::Refreshing {
                command,
                mut waiting,
                through,
                asked,
            } => {
                if !waiting.remove(&call) {
                    self.phase = Phase::Refreshing {
                        command,
                        waiting,
                        through,
                        asked,
                    };
                    return;
                }
                let Outcome::Txn(TxnAnswer::Valid { through: of_shard }) = outcome else {
                    return self.lost(turn, ticket, outcome);
                };
                let through = through.min(of_shard);
                if waiting.is_empty() {
                    self.valid_through = through;
                    self.complete(turn, ticket, command);
                } else {
                    self.phase = Phase::Refreshing {
                        command,
                        waiting,
                        through,
                        asked,
                    };
                }
            }
        }
    }

    /// All values of a command are there: were they true together?
    fn complete(&mut self, turn: &mut Turn, ticket: Ticket, command: Option<Command>) {
        let newest = self
            .values
            .values()
            .map(|read| read.version)
            .max()
            .unwrap_or(Version::ZERO);
        turn.hlc.merge(newest);
        if newest > self.valid_through {
            return self.refresh(turn, ticket, command);
        }
        match command {
            Some(command) => self.carry_out(turn, ticket, command),
            None => {
                let watched = reads_of(&self.values);
                let ended = Ended::Watched(watched);
                turn.effects.push(Effect::Ended { ticket, ended });
                self.phase = Phase::Over;
            }
        }
    }

    fn refresh(&mut self, turn: &mut Turn, ticket: Ticket, command: Option<Command>) {
        let mut by_shard: BTreeMap<synod_storage::ShardId, Vec<KeyRead>> = BTreeMap::new();
        for read in reads_of(&self.values) {
            let Some(descriptor) = turn.map.locate(&read.key) else {
                return self.fail(
                    turn,
                    ticket,
                    ErrorCode::TryAgain,
                    "a shard is not known yet",
                );
            };
            by_shard.entry(descriptor.shard).or_default().push(read);
        }
        let mut waiting = BTreeSet::new();
        for reads in by_shard.into_values() {
            let key = reads[0].key.clone();
            let request = TxnRequest::Validate {
                reads,
                ranges: Vec::new(),
            };
            waiting.extend(turn.call(Owner::Session(ticket), &key, request));
        }
        let (asked, through) = (turn.monotonic(), Version::MAX);
        self.phase = Phase::Refreshing {
            command,
            waiting,
            through,
            asked,
        };
    }

    fn lost(&mut self, turn: &mut Turn, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Reply(Reply::Error { code, message }) => {
                let ended = Ended::Failed(Reply::Error { code, message });
                turn.effects.push(Effect::Ended { ticket, ended });
                self.phase = Phase::Over;
            }
            Outcome::Txn(_) => {
                let message = "something that was read has changed";
                self.fail(turn, ticket, ErrorCode::Conflict, message);
            }
            Outcome::Reply(_)
            | Outcome::NotLeader { .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::StreamBroken
            | Outcome::Overloaded
            | Outcome::Unknown => {
                self.fail(
                    turn,
                    ticket,
                    ErrorCode::TryAgain,
                    "a shard could not be read",
                );
            }
        }
    }

    /// Ends the transaction; nothing was done.
    fn fail(&mut self, turn: &mut Turn, ticket: Ticket, code: ErrorCode, message: &'static str) {
        let ended = Ended::Failed(Reply::error(code, message));
        turn.effects.push(Effect::Ended { ticket, ended });
        self.phase = Phase::Over;
    }

    /// Whether it is over, and to be forgotten.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether the session is over: idle for too long, or ended.
    pub(super) fn tick(&mut self, turn: &mut Turn, ticket: Ticket) -> bool {
        let now = turn.monotonic();
        let age_us = |since: Micros| now.0.saturating_sub(since.0);
        match &self.phase {
            Phase::Over => true,
            Phase::Idle if age_us(self.touched) >= turn.settings.idle_max_us => {
                self.fail(
                    turn,
                    ticket,
                    ErrorCode::Timeout,
                    "the transaction was idle for too long",
                );
                true
            }
            Phase::Reading { asked, .. } | Phase::Refreshing { asked, .. }
                if age_us(*asked) >= turn.settings.answer_max_us =>
            {
                self.fail(
                    turn,
                    ticket,
                    ErrorCode::TryAgain,
                    "a shard could not be read",
                );
                true
            }
            Phase::Idle | Phase::Reading { .. } | Phase::Refreshing { .. } => false,
        }
    }
}

/// Carries out a command on values that were read, under those that were written.
pub(super) fn carry_out(
    command: &Command,
    values: &BTreeMap<Key, ReadValue>,
    written: &mut BTreeMap<Key, Option<Value>>,
    now_ms: u64,
) -> Reply {
    let mut present = Vec::new();
    if execute::must_read(command) {
        command.for_each_key(|key| {
            let value = match written.get(key) {
                Some(value) => value.clone(),
                None => values.get(key).and_then(|read| read.value.clone()),
            };
            present.push(value.filter(|value| !value.is_expired(now_ms)));
        });
    }
    let execution = execute::execute(command, &present, now_ms);
    written.extend(execution.writes);
    execution.reply
}
