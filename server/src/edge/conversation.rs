//! One client's conversation, without its socket: bytes in, submissions out; replies in, bytes out.
//!
//! The conversation keeps the order and the window. Every command takes a *slot* when it is read
//! and frees it when it is answered, in the same order; the slot remembers how the answer is to be
//! told, because `HELLO` and `CLIENT REPLY` change that for the commands behind them while earlier
//! ones are still in flight.
//!
//! Input is read only while there is room: slots, bytes of unanswered commands, and bytes of unread
//! answers are all bounded, and what does not fit waits in the client's socket. The room for answers
//! is estimated from the size of the latest ones, so that a pipeline of reads of large values is
//! throttled before its answers exist.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use synod_txn::{Command, ErrorCode, Reply, TransactionCommand};

use super::{
    Edge,
    commands::{self, Outcome},
    registry::Registration,
    session::Submission,
};
use crate::resp::{self, Limits, Parser, Protocol, Request};

/// Output is collected up to this before it is written.
const OUTPUT_BYTES_GOAL: usize = 256 << 10;

/// The state of a connection between two events.
///
/// Invariants: `slots` holds one entry for each submission whose answer is not in `output`, in order,
/// and `in_flight_bytes` is their sum; `answers` belong to the first of them; once `ending` is set,
/// no further command is read.
#[derive(Debug)]
pub struct Conversation {
    /// Bytes that were received and not parsed yet. The connection appends to it.
    pub input: BytesMut,
    /// Bytes to send. The connection takes them from the front.
    pub output: BytesMut,
    parser: Parser,
    slots: VecDeque<Slot>,
    in_flight_bytes: u64,
    /// Answers to the first slots that did not fit into `output` yet, and their bytes.
    answers: VecDeque<Reply>,
    answers_bytes: u64,
    /// What one answer takes, by the latest ones: a decaying maximum.
    answer_bytes: u64,
    /// The state that commands change as they are read.
    pub(super) talk: Talk,
    ending: Option<Ending>,
    /// Whether `input` may hold another whole command.
    unparsed: bool,
}

/// What connection-level commands change. It is ahead of the answers by the commands in flight.
#[derive(Debug)]
pub struct Talk {
    /// The client's entry on the list.
    pub registration: Registration,
    /// How answers are told.
    pub protocol: Protocol,
    /// Whether answers are told.
    pub replies: ReplyMode,
    /// Whether the password was given, or none is asked for.
    pub authenticated: bool,
    /// Whether `MULTI` was read and neither `EXEC` nor `DISCARD`.
    pub in_multi: bool,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    On,
    /// None is.
    Off,
    /// The next one is not.
    SkipNext,
}

/// Why the conversation ends when the commands in flight are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client will send no more: it quit, or closed its half.
    Finished,
    /// What it sent is not RESP. It may still be sending.
    Malformed,
    /// This node is stopping.
    Shutdown,
}

/// The place of a command in the order of answers.
#[derive(Clone, Copy, Debug)]
struct Slot {
    protocol: Protocol,
    told: Told,
    command_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Answer,
    Nothing,
}

impl Conversation {
    /// A conversation that has not begun.
    pub fn new(registration: Registration, edge: &Edge) -> Self {
        Conversation {
            input: BytesMut::new(),
            output: BytesMut::new(),
            parser: Parser::new(Limits::default()),
            slots: VecDeque::new(),
            in_flight_bytes: 0,
            answers: VecDeque::new(),
            answers_bytes: 0,
            answer_bytes: 0,
            talk: Talk {
                registration,
                protocol: Protocol::Resp2,
                replies: ReplyMode::On,
                authenticated: edge.password.is_none(),
                in_multi: false,
            },
            ending: None,
            unparsed: false,
        }
    }

    /// Whether more input should be read: there is room, and nothing received waits for room.
    pub fn wants_input(&self, edge: &Edge) -> bool {
        self.ending.is_none() && !self.unparsed && self.has_room(edge)
    }

    /// Bytes that the argument which is arriving still needs.
    pub fn missing_bytes(&self) -> usize {
        self.parser.missing_bytes(&self.input)
    }

    /// Notes that bytes were appended to `input`.
    pub fn received(&mut self) {
        self.unparsed = true;
    }

    /// Lets the conversation end once everything in flight is answered. The first reason stays.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.unparsed = false;
    }

    /// Why it ends, if it does.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Whether it has ended: every command that was read is answered. Its output may still wait.
    pub fn is_answered(&self) -> bool {
        self.ending.is_some() && self.slots.is_empty()
    }

    /// Parses the commands that have arrived and fit the window; what they are to the gateway.
    pub fn take_submissions(&mut self, edge: &Edge) -> Vec<Submission> {
        let mut batch = Vec::new();
        while self.unparsed && self.has_room(edge) {
            let submission = match self.parser.next(&mut self.input) {
                Ok(None) => {
                    self.unparsed = false;
                    break;
                }
                Ok(Some(Request::Command(words))) => {
                    let command_bytes = words.iter().map(Bytes::len).sum::<usize>() as u32;
                    self.read(words, command_bytes, edge)
                }
                Ok(Some(Request::TooLarge { command_bytes })) => {
                    self.take_slot(0);
                    Submission::Immediate(too_large(command_bytes))
                }
                Err(error) => {
                    self.take_slot(0);
                    self.end(Ending::Malformed);
                    Submission::Immediate(Reply::err(error.to_string()))
                }
            };
            batch.push(submission);
        }
        self.talk
            .registration
            .registry()
            .count_commands(batch.len() as u64);
        batch
    }

    /// Takes answers, in the order of the commands.
    ///
    /// # Panics
    ///
    /// When there are more answers than commands: the session has lost count, and from then on
    /// every client would be given someone else's answer.
    pub fn answer(&mut self, replies: Vec<Reply>) {
        let answered = self.answers.len() + replies.len();
        assert!(answered <= self.slots.len(), "an answer without a command");
        for reply in replies {
            let bytes = reply.size_bytes() as u64;
            self.answer_bytes = bytes.max(self.answer_bytes - self.answer_bytes / 64);
            self.answers_bytes += bytes;
            self.answers.push_back(reply);
        }
    }

    /// Moves answers into `output`, as many as one write is worth. An answer that waits for a slow
    /// client stays what it is, mostly a reference to the stored value, and is not copied yet.
    pub fn fill_output(&mut self) {
        while self.output.len() < OUTPUT_BYTES_GOAL
            && let Some(reply) = self.answers.pop_front()
        {
            let slot = self.slots.pop_front().expect("`answer` counts them");
            self.in_flight_bytes -= u64::from(slot.command_bytes);
            self.answers_bytes -= reply.size_bytes() as u64;
            if slot.told == Told::Answer {
                resp::encode::encode(&reply, slot.protocol, &mut self.output);
            }
        }
    }

    fn has_room(&self, edge: &Edge) -> bool {
        let limits = &edge.clients;
        let unanswered = (self.slots.len() - self.answers.len()) as u64;
        let answers_bytes =
            self.output.len() as u64 + self.answers_bytes + unanswered * self.answer_bytes;
        self.slots.len() < limits.in_flight_commands_max as usize
            && self.in_flight_bytes < u64::from(limits.in_flight_bytes_max)
            && answers_bytes <= u64::from(limits.output_bytes_max)
    }

    fn read(&mut self, words: Vec<Bytes>, command_bytes: u32, edge: &Edge) -> Submission {
        match commands::dispatch(&words, &mut self.talk, edge) {
            Outcome::Forward => {
                self.take_slot(command_bytes);
                match Command::parse(words) {
                    Ok(command) => {
                        self.talk.follow(&command);
                        Submission::Command(command)
                    }
                    Err(reply) => Submission::Immediate(reply),
                }
            }
            Outcome::Answer(reply) => {
                self.take_slot(0);
                Submission::Immediate(reply)
            }
            Outcome::Reset(reply) => {
                self.take_slot(0);
                Submission::Reset(reply)
            }
            Outcome::Quit(reply) => {
                self.take_slot(0);
                self.end(Ending::Finished);
                Submission::Reset(reply)
            }
            Outcome::Mute(mode) => {
                // `SKIP` and `OFF` are themselves not answered.
                self.talk.replies = ReplyMode::Off;
                self.take_slot(0);
                self.talk.replies = mode;
                Submission::Immediate(Reply::Ok)
            }
        }
    }

    fn take_slot(&mut self, command_bytes: u32) {
        let told = match self.talk.replies {
            ReplyMode::On => Told::Answer,
            ReplyMode::Off => Told::Nothing,
            ReplyMode::SkipNext => {
                self.talk.replies = ReplyMode::On;
                Told::Nothing
            }
        };
        self.in_flight_bytes += u64::from(command_bytes);
        self.slots.push_back(Slot {
            protocol: self.talk.protocol,
            told,
            command_bytes,
        });
    }
}

impl Talk {
    /// Keeps up with what the gateway will think when it comes to this command.
    fn follow(&mut self, command: &Command) {
        if let Command::Transaction(step) = command {
            match step {
                TransactionCommand::Multi => self.in_multi = true,
                TransactionCommand::Exec | TransactionCommand::Discard => self.in_multi = false,
                TransactionCommand::Watch { .. }
                | TransactionCommand::Unwatch
                | TransactionCommand::Begin(_)
                | TransactionCommand::Commit
                | TransactionCommand::Rollback
                | TransactionCommand::Token
                | TransactionCommand::Status { .. } => {}
            }
        }
    }
}

fn too_large(command_bytes: u64) -> Reply {
    let limit_bytes = Limits::default().command_bytes_max;
    Reply::error(
        ErrorCode::TooLarge,
        format!("command of {command_bytes} bytes exceeds the limit of {limit_bytes} bytes"),
    )
}
