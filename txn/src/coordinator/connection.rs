//! What a client's connection remembers of transactions: `MULTI`, `WATCH`, `BEGIN`.
//!
//! The gateway shows every command of a connection to its [`Connection`], in order, one at a time
//! while the answer before depends on a coordinator. It says what to do: answer, send the command as
//! it is, or hand an event to the coordinator, whose answer is the client's reply, by way of
//! [`Connection::ended`] if the transaction is over.

use super::event::{Ended, Event, Script, Ticket};
use super::reading::is_walk;
use crate::command::{Begin, Command, ReadMode, TransactionCommand};
use crate::reply::{ErrorCode, Reply};
use crate::transaction::{Again, KeyRead};

/// What to do about a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Answer this.
    Reply(Reply),
    /// It has nothing to do with a transaction: carry it out by itself.
    Plain(Command),
    /// Give this to the coordinator and wait for its answer.
    Coordinate(Event),
    /// Give this to the coordinator, which does not answer, and answer this.
    Abandon(Event, Reply),
}

/// A command between `MULTI` and `EXEC`.
#[derive(Clone, Debug)]
enum Queued {
    /// For the shards.
    Command(Command),
    /// Answered at the edge already: its reply stands in the array of `EXEC`.
    Known(Reply),
}

#[derive(Clone, Debug)]
enum State {
    /// No transaction.
    Plain,
    /// Between `MULTI` and `EXEC`.
    Multi { queued: Vec<Queued>, dirty: Dirty },
    /// `EXEC` is being carried out; these are the places of its replies.
    Executing { queued: Vec<Queued> },
    /// `WATCH` is being carried out.
    Watching,
    /// `TXN` is being answered.
    Asking,
    /// Between `BEGIN` and its end.
    Interactive { ticket: Ticket },
    /// `COMMIT` is being carried out.
    Committing,
    /// An interactive transaction was ended by the store. What the client still sends for it must
    /// not be carried out by itself: this is the answer, until `COMMIT` or `ROLLBACK`.
    Ended { why: Reply },
    /// The beginning of a transaction was turned away. What the client may have sent behind it before it
    /// heard so must not be carried out by itself: this is the answer, until that has an end, or until
    /// something is begun anew.
    Lost { why: Reply },
}

/// Whether a command was refused while queueing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dirty {
    No,
    Yes,
}

/// A connection's transaction state.
#[derive(Clone, Debug)]
pub struct Connection {
    state: State,
    watched: Vec<KeyRead>,
    /// Keys could not be watched: `EXEC` must not go on as if nothing had been asked for.
    unwatchable: bool,
    /// The last interactive transaction has lost: the next one is taken for the same, run again, and
    /// keeps its age. If it is another one, it is a little older than it should be, which harms nobody.
    lost: Option<Again>,
}

impl Default for Connection {
    fn default() -> Self {
        Connection {
            state: State::Plain,
            watched: Vec::new(),
            unwatchable: false,
            lost: None,
        }
    }
}

impl Connection {
    /// Whether the present state is the one of a fresh connection: nothing queued, watched or begun.
    pub fn is_plain(&self) -> bool {
        matches!(self.state, State::Plain) && self.watched.is_empty() && !self.unwatchable
    }

    /// Whether commands go through the coordinator, or wait for `EXEC`.
    pub fn is_in_transaction(&self) -> bool {
        !matches!(self.state, State::Plain)
    }

    /// A command that the edge has answered by itself. What the client is to be told.
    pub fn known(&mut self, reply: Reply) -> Reply {
        let State::Multi { queued, dirty } = &mut self.state else {
            return reply;
        };
        if reply.is_error() {
            *dirty = Dirty::Yes;
            return reply;
        }
        queued.push(Queued::Known(reply));
        queued_reply()
    }

    /// A command that nobody has looked at, because nothing is served at present: `why` is what the client is
    /// told. The transaction that it belongs to, or would have begun, must not be carried out without it.
    /// What the coordinator is to be told, if anything.
    pub fn turned_away(&mut self, command: &Command, why: &Reply) -> Option<Event> {
        let step = match command {
            Command::Transaction(step) => Some(step),
            _ => None,
        };
        match (step, &mut self.state) {
            // What would have begun is over before it has.
            (
                Some(TransactionCommand::Multi | TransactionCommand::Begin(_)),
                State::Plain | State::Lost { .. },
            ) => {
                let why = undone(why);
                self.state = State::Lost { why };
            }
            (Some(TransactionCommand::Watch { .. }), State::Plain) => self.unwatchable = true,
            // What would have ended it has, and nothing was done.
            (Some(TransactionCommand::Exec | TransactionCommand::Discard), State::Multi { .. }) => {
                *self = Connection::default();
            }
            (
                Some(TransactionCommand::Commit | TransactionCommand::Rollback),
                State::Ended { .. },
            )
            | (
                Some(
                    TransactionCommand::Exec
                    | TransactionCommand::Discard
                    | TransactionCommand::Commit
                    | TransactionCommand::Rollback,
                ),
                State::Lost { .. },
            ) => self.state = State::Plain,
            (_, State::Multi { dirty, .. }) => *dirty = Dirty::Yes,
            (_, State::Interactive { ticket }) => {
                let ticket = *ticket;
                let why = undone(why);
                self.state = State::Ended { why };
                return Some(Event::Drop { ticket });
            }
            (
                _,
                State::Plain
                | State::Executing { .. }
                | State::Watching
                | State::Asking
                | State::Committing
                | State::Ended { .. }
                | State::Lost { .. },
            ) => {}
        }
        None
    }

    /// A step of a transaction whose beginning was turned away. The answer, if it is not a new beginning.
    fn lost_step(&mut self, transaction: &TransactionCommand) -> Option<Reply> {
        let State::Lost { why } = &self.state else {
            return None;
        };
        let why = why.clone();
        match transaction {
            TransactionCommand::Token | TransactionCommand::Status { .. } => Some(why),
            TransactionCommand::Exec
            | TransactionCommand::Discard
            | TransactionCommand::Commit
            | TransactionCommand::Rollback => {
                self.state = State::Plain;
                Some(why)
            }
            TransactionCommand::Multi
            | TransactionCommand::Begin(_)
            | TransactionCommand::Watch { .. }
            | TransactionCommand::Unwatch => {
                self.state = State::Plain;
                None
            }
        }
    }

    /// A command. `ticket` is a fresh one, should it be needed.
    pub fn command(&mut self, command: Command, ticket: Ticket) -> Next {
        let Command::Transaction(transaction) = command else {
            return self.data(command);
        };
        match self.lost_step(&transaction) {
            Some(reply) => Next::Reply(reply),
            None => self.step(transaction, ticket),
        }
    }

    /// A step of a transaction.
    fn step(&mut self, transaction: TransactionCommand, ticket: Ticket) -> Next {
        match (transaction, &mut self.state) {
            (TransactionCommand::Multi, State::Plain) => {
                self.state = State::Multi {
                    queued: Vec::new(),
                    dirty: Dirty::No,
                };
                Next::Reply(Reply::Ok)
            }
            (TransactionCommand::Multi, State::Multi { .. }) => {
                error("MULTI calls can not be nested")
            }
            (TransactionCommand::Exec, State::Multi { queued, dirty }) => {
                let (queued, dirty) = (std::mem::take(queued), *dirty);
                let watched = std::mem::take(&mut self.watched);
                let unwatchable = std::mem::take(&mut self.unwatchable);
                self.state = State::Plain;
                if unwatchable {
                    let message = "a key could not be watched; nothing was done";
                    return Next::Reply(Reply::error(ErrorCode::ExecAbort, message));
                }
                self.exec(queued, dirty, watched, ticket)
            }
            (TransactionCommand::Exec, _) => error("EXEC without MULTI"),
            (TransactionCommand::Discard, State::Multi { .. }) => {
                *self = Connection::default();
                Next::Reply(Reply::Ok)
            }
            (TransactionCommand::Discard, _) => error("DISCARD without MULTI"),
            (TransactionCommand::Watch { .. }, State::Multi { .. }) => {
                error("WATCH inside MULTI is not allowed")
            }
            (TransactionCommand::Watch { keys }, State::Plain) => {
                self.state = State::Watching;
                Next::Coordinate(Event::Watch { ticket, keys })
            }
            (TransactionCommand::Unwatch, State::Plain) => {
                self.watched.clear();
                self.unwatchable = false;
                Next::Reply(Reply::Ok)
            }
            (TransactionCommand::Unwatch, State::Multi { queued, .. }) => {
                // As in Redis: `EXEC` forgets the watched keys anyway.
                queued.push(Queued::Known(Reply::Ok));
                Next::Reply(queued_reply())
            }
            (TransactionCommand::Begin(begin), _) => self.begin(begin, ticket),
            (TransactionCommand::Commit, _) => self.commit(),
            (TransactionCommand::Rollback, _) => self.rollback(),
            (TransactionCommand::Token, _) => self.question(Event::Token { ticket }),
            (TransactionCommand::Status { token }, _) => {
                self.question(Event::Status { ticket, token })
            }
            (
                TransactionCommand::Multi
                | TransactionCommand::Watch { .. }
                | TransactionCommand::Unwatch,
                State::Interactive { .. }
                | State::Executing { .. }
                | State::Watching
                | State::Asking
                | State::Committing
                | State::Ended { .. }
                | State::Lost { .. },
            ) => error("not allowed between BEGIN and COMMIT"),
        }
    }

    /// A command on data.
    fn data(&mut self, command: Command) -> Next {
        match &mut self.state {
            State::Plain => Next::Plain(command),
            State::Multi { queued, dirty } => {
                let mut keys = 0;
                command.for_each_key(|_| keys += 1);
                if keys == 0 && !is_walk(&command) {
                    *dirty = Dirty::Yes;
                    return error("this command cannot be part of a transaction");
                }
                queued.push(Queued::Command(command));
                Next::Reply(queued_reply())
            }
            State::Interactive { ticket } => Next::Coordinate(Event::Execute {
                ticket: *ticket,
                command,
            }),
            State::Ended { why } | State::Lost { why } => Next::Reply(why.clone()),
            State::Executing { .. } | State::Watching | State::Asking | State::Committing => {
                error("the command before is not answered yet")
            }
        }
    }

    fn exec(
        &mut self,
        queued: Vec<Queued>,
        dirty: Dirty,
        watched: Vec<KeyRead>,
        ticket: Ticket,
    ) -> Next {
        if dirty == Dirty::Yes {
            let message = "Transaction discarded because of previous errors.";
            return Next::Reply(Reply::error(ErrorCode::ExecAbort, message));
        }
        let commands: Vec<Command> = queued
            .iter()
            .filter_map(|queued| match queued {
                Queued::Command(command) => Some(command.clone()),
                Queued::Known(_) => None,
            })
            .collect();
        self.state = State::Executing { queued };
        Next::Coordinate(Event::Run {
            ticket,
            script: Script { watched, commands },
        })
    }

    fn begin(&mut self, begin: Begin, ticket: Ticket) -> Next {
        if !matches!(self.state, State::Plain) {
            return error("a transaction is under way already");
        }
        if begin.reads != ReadMode::Latest && begin.token.is_some() {
            return error("a snapshot changes nothing, and takes no TOKEN");
        }
        let latest = begin.reads == ReadMode::Latest;
        let again = self.lost.take();
        *self = Connection {
            state: State::Interactive { ticket },
            ..Connection::default()
        };
        let event = Event::Begin {
            ticket,
            begin,
            again,
        };
        match latest {
            true => Next::Abandon(event, Reply::Ok),
            // The coordinator says which version it is.
            false => Next::Coordinate(event),
        }
    }

    /// `TXN`: between transactions only.
    fn question(&mut self, event: Event) -> Next {
        match &mut self.state {
            State::Plain => {
                self.state = State::Asking;
                Next::Coordinate(event)
            }
            State::Multi { dirty, .. } => {
                *dirty = Dirty::Yes;
                error("TXN is not allowed inside MULTI")
            }
            State::Executing { .. }
            | State::Watching
            | State::Asking
            | State::Interactive { .. }
            | State::Committing
            | State::Ended { .. }
            | State::Lost { .. } => error("not allowed between BEGIN and COMMIT"),
        }
    }

    fn commit(&mut self) -> Next {
        match std::mem::replace(&mut self.state, State::Committing) {
            State::Interactive { ticket } => Next::Coordinate(Event::Commit { ticket }),
            State::Ended { why } => {
                self.state = State::Plain;
                Next::Reply(why)
            }
            other => {
                self.state = other;
                error("COMMIT without BEGIN")
            }
        }
    }

    fn rollback(&mut self) -> Next {
        match std::mem::replace(&mut self.state, State::Plain) {
            State::Interactive { ticket } => Next::Abandon(Event::Drop { ticket }, Reply::Ok),
            State::Ended { .. } => Next::Reply(Reply::Ok),
            other => {
                self.state = other;
                error("ROLLBACK without BEGIN")
            }
        }
    }

    /// [`Effect::Ended`](super::Effect::Ended): what the client is to be told, now, or when it asks
    /// for something next.
    pub fn ended(&mut self, ended: Ended) -> Reply {
        let state = std::mem::replace(&mut self.state, State::Plain);
        match (ended, state) {
            (Ended::Watched(reads), _) => {
                self.watched.extend(reads);
                Reply::Ok
            }
            (Ended::Changed, _) => Reply::NullArray,
            (Ended::Told(reply), _) => reply,
            (Ended::Failed(why), State::Interactive { .. }) => {
                self.state = State::Ended { why: why.clone() };
                why
            }
            (Ended::Lost { why, again }, state) => {
                self.lost = Some(again);
                if let State::Interactive { .. } = state {
                    self.state = State::Ended { why: why.clone() };
                }
                why
            }
            (Ended::Failed(reply), State::Watching) => {
                self.unwatchable = true;
                reply
            }
            (Ended::Failed(reply), _) => reply,
            (Ended::Replies(replies), State::Executing { queued }) => {
                let mut replies = replies.into_iter();
                let replies = queued.into_iter().map(|queued| match queued {
                    Queued::Known(reply) => reply,
                    Queued::Command(_) => replies.next().unwrap_or(Reply::Null),
                });
                Reply::Array(replies.collect())
            }
            (Ended::Replies(_), _) => Reply::Ok,
        }
    }

    /// The client is gone, or has reset its connection: forgets everything. What the coordinator is
    /// to be told, if it knows of anything.
    pub fn reset(&mut self) -> Option<Event> {
        match std::mem::take(self).state {
            State::Interactive { ticket } => Some(Event::Drop { ticket }),
            State::Plain
            | State::Multi { .. }
            | State::Executing { .. }
            | State::Watching
            | State::Asking
            | State::Committing
            | State::Ended { .. }
            | State::Lost { .. } => None,
        }
    }
}

/// What is said of a transaction of which a command was turned away.
fn undone(why: &Reply) -> Reply {
    let code = match why {
        Reply::Error { code, .. } => *code,
        _ => ErrorCode::NotServing,
    };
    let message = "a command of this transaction was turned away; nothing of it was done";
    Reply::error(code, message)
}

fn queued_reply() -> Reply {
    Reply::Status("QUEUED".into())
}

fn error(message: &'static str) -> Next {
    Next::Reply(Reply::err(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn command(line: &str) -> Command {
        let argv = line
            .split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()));
        Command::parse(argv.collect()).unwrap()
    }

    fn reply_to(connection: &mut Connection, line: &str) -> Reply {
        match connection.command(command(line), Ticket(1)) {
            Next::Reply(reply) | Next::Abandon(_, reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn queued_commands_and_known_replies_keep_their_places() {
        let mut connection = Connection::default();
        assert_eq!(reply_to(&mut connection, "MULTI"), Reply::Ok);
        assert_eq!(reply_to(&mut connection, "SET k v"), queued_reply());
        assert_eq!(
            connection.known(Reply::Status("PONG".into())),
            queued_reply()
        );
        assert_eq!(reply_to(&mut connection, "GET k"), queued_reply());
        let Next::Coordinate(Event::Run { script, .. }) =
            connection.command(command("EXEC"), Ticket(7))
        else {
            panic!("a script");
        };
        assert_eq!(script.commands, vec![command("SET k v"), command("GET k")]);
        let reply = connection.ended(Ended::Replies(vec![Reply::Ok, Reply::bulk("v")]));
        let pong = Reply::Status("PONG".into());
        assert_eq!(reply, Reply::Array(vec![Reply::Ok, pong, Reply::bulk("v")]));
        assert!(connection.is_plain());
    }

    #[test]
    fn an_error_while_queueing_aborts_exec() {
        let mut connection = Connection::default();
        reply_to(&mut connection, "MULTI");
        assert!(connection.known(Reply::err("syntax error")).is_error());
        reply_to(&mut connection, "SET k v");
        let reply = reply_to(&mut connection, "EXEC");
        assert!(
            matches!(
                reply,
                Reply::Error {
                    code: ErrorCode::ExecAbort,
                    ..
                }
            ),
            "{reply:?}"
        );
        assert!(connection.is_plain());
    }

    #[test]
    fn a_transaction_is_not_carried_out_without_what_was_turned_away() {
        let code_of = |reply: &Reply| match reply {
            Reply::Error { code, .. } => Some(*code),
            _ => None,
        };
        let why = Reply::error(ErrorCode::NotServing, "not yet");
        let away =
            |connection: &mut Connection, line: &str| connection.turned_away(&command(line), &why);
        // Its beginning, a command in the midst of it, or a key that was to be watched.
        let mut connection = Connection::default();
        assert_eq!(away(&mut connection, "MULTI"), None);
        for line in ["SET k v", "EXEC"] {
            let reply = reply_to(&mut connection, line);
            assert_eq!(code_of(&reply), Some(ErrorCode::NotServing), "{line}");
        }
        assert!(connection.is_plain());
        // Whoever has heard of it begins anew.
        assert_eq!(away(&mut connection, "MULTI"), None);
        assert_eq!(reply_to(&mut connection, "MULTI"), Reply::Ok);
        assert_eq!(away(&mut connection, "SET k v"), None);
        let reply = reply_to(&mut connection, "EXEC");
        assert_eq!(code_of(&reply), Some(ErrorCode::ExecAbort));
        assert_eq!(away(&mut connection, "WATCH k"), None);
        reply_to(&mut connection, "MULTI");
        let reply = reply_to(&mut connection, "EXEC");
        assert_eq!(code_of(&reply), Some(ErrorCode::ExecAbort));
        // The same between `BEGIN` and `COMMIT`; the coordinator is told to forget it.
        assert_eq!(away(&mut connection, "BEGIN"), None);
        let reply = reply_to(&mut connection, "SET k v");
        assert_eq!(code_of(&reply), Some(ErrorCode::NotServing));
        let reply = reply_to(&mut connection, "COMMIT");
        assert_eq!(code_of(&reply), Some(ErrorCode::NotServing));
        assert!(connection.is_plain());
        reply_to(&mut connection, "BEGIN");
        let ticket = Ticket(1);
        let dropped = away(&mut connection, "SET k v");
        assert_eq!(dropped, Some(Event::Drop { ticket }));
        let reply = reply_to(&mut connection, "COMMIT");
        assert_eq!(code_of(&reply), Some(ErrorCode::NotServing));
        assert!(connection.is_plain());
        // One that was turned away whole leaves nothing behind.
        for line in ["MULTI", "SET k v", "EXEC", "BEGIN", "SET k v", "COMMIT"] {
            away(&mut connection, line);
        }
        assert!(connection.is_plain());
    }

    #[test]
    fn commands_out_of_place_are_errors_that_change_nothing() {
        let mut connection = Connection::default();
        for line in ["EXEC", "DISCARD", "COMMIT", "ROLLBACK"] {
            assert!(reply_to(&mut connection, line).is_error(), "{line}");
        }
        reply_to(&mut connection, "MULTI");
        for line in ["MULTI", "WATCH k", "BEGIN"] {
            assert!(reply_to(&mut connection, line).is_error(), "{line}");
        }
        assert_eq!(reply_to(&mut connection, "DISCARD"), Reply::Ok);
        assert!(connection.is_plain());
    }

    #[test]
    fn watched_keys_go_with_the_script_and_are_forgotten_after_it() {
        let mut connection = Connection::default();
        let read = KeyRead {
            key: Bytes::from_static(b"k"),
            version: None,
        };
        let next = connection.command(command("WATCH k"), Ticket(1));
        assert!(matches!(next, Next::Coordinate(Event::Watch { .. })));
        assert_eq!(
            connection.ended(Ended::Watched(vec![read.clone()])),
            Reply::Ok
        );
        reply_to(&mut connection, "MULTI");
        let Next::Coordinate(Event::Run { script, .. }) =
            connection.command(command("EXEC"), Ticket(2))
        else {
            panic!("a script");
        };
        assert_eq!(script.watched, vec![read]);
        assert_eq!(connection.ended(Ended::Changed), Reply::NullArray);
        assert!(connection.is_plain());
    }
}
