//! Transactions as clients know them, on their way between a session and the coordinator.
//!
//! A session's [`Connection`](synod_txn::coordinator::Connection) knows what `MULTI`, `WATCH` and
//! `BEGIN` make of the commands that follow; the coordinator carries transactions out. The gateway
//! stands between them: it gives each transaction a ticket and remembers which command waits for
//! what the coordinator says about it. A command on keys of several shards is a transaction as well,
//! with a script of one command.

use synod_txn::coordinator::{self, Ended, Next, Script, Ticket};
use synod_txn::{Class, Command, ErrorCode, Now, Reply};

use super::session::{Footprint, Place};
use super::{Asked, Effect, Gateway, SessionId};

/// Who waits for news of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder {
    /// One command over several shards.
    Command(SessionId, Place),
    /// A connection's transaction, and the command of it that waits, if one does.
    Connection(SessionId, Option<Place>),
}

impl Gateway {
    fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Starts a command that begins, ends or belongs to a transaction, or asks the node something:
    /// alone, when everything before it is answered. Whether it was started.
    pub(super) fn start_alone(
        &mut self,
        now: Now,
        id: SessionId,
        place: Place,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let ticket = self.new_ticket();
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let footprint = Footprint {
            shard: None,
            class: Class::Control,
        };
        if !session.is_quiet() {
            return false;
        }
        let Some((command, _)) = session.start(place, footprint) else {
            return false;
        };
        let command = match command {
            Command::Synod { args } if !session.connection.is_in_transaction() => {
                effects.push(Effect::Ask(Asked { session: id, place }, args));
                return true;
            }
            other => other,
        };
        match session.connection.command(command, ticket) {
            Next::Reply(reply) => session.finish(place, reply),
            Next::Plain(_) => unreachable!("a command outside of transactions does not come here"),
            Next::Coordinate(event) => {
                let holder = Holder::Connection(id, Some(place));
                self.tickets.extend(event.ticket().map(|it| (it, holder)));
                self.coordinate(now, event, effects);
            }
            Next::Abandon(event, reply) => {
                session.finish(place, reply);
                match (&event, event.ticket()) {
                    (coordinator::Event::Drop { .. }, Some(ticket)) => {
                        self.tickets.remove(&ticket);
                    }
                    (_, ticket) => {
                        let holder = Holder::Connection(id, None);
                        self.tickets.extend(ticket.map(|it| (it, holder)));
                    }
                }
                self.coordinate(now, event, effects);
            }
        }
        true
    }

    /// Carries out one command over several shards as one transaction.
    pub(super) fn start_over_shards(
        &mut self,
        now: Now,
        id: SessionId,
        place: Place,
        command: Command,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = self.new_ticket();
        self.tickets.insert(ticket, Holder::Command(id, place));
        let script = Script {
            watched: Vec::new(),
            commands: vec![command],
        };
        self.coordinate(now, coordinator::Event::Run { ticket, script }, effects);
    }

    /// Forgets what a connection has begun: it was reset, or its client is gone.
    pub(super) fn abandon(&mut self, now: Now, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(event) = session.connection.reset() {
            self.forget_transaction(now, event, effects);
        }
    }

    /// Nobody waits for a transaction any more, and the coordinator is told so.
    pub(super) fn forget_transaction(
        &mut self,
        now: Now,
        event: coordinator::Event,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(ticket) = event.ticket() {
            self.tickets.remove(&ticket);
        }
        self.coordinate(now, event, effects);
    }

    /// Gives the coordinator an event, and carries out what it wants.
    pub(super) fn coordinate(
        &mut self,
        now: Now,
        event: coordinator::Event,
        effects: &mut Vec<Effect>,
    ) {
        // Whatever a client of this gateway has seen precedes what it asks for now.
        self.coordinator.merge_hlc(self.hlc);
        let mut wanted = Vec::new();
        self.coordinator.step(now, event, &self.map, &mut wanted);
        self.hlc = self.hlc.max(self.coordinator.hlc());
        for effect in wanted {
            match effect {
                coordinator::Effect::Call {
                    call,
                    shard,
                    epoch,
                    hlc,
                    body,
                } => {
                    self.hlc = self.hlc.max(hlc);
                    self.ask_shard(now, call, (shard, epoch), body, effects);
                }
                coordinator::Effect::Reply { ticket, reply } => self.replied(ticket, reply),
                coordinator::Effect::Ended { ticket, ended } => self.ended(ticket, ended),
            }
        }
    }

    /// A command of an interactive transaction is answered.
    fn replied(&mut self, ticket: Ticket, reply: Reply) {
        let Some(Holder::Connection(id, waiting)) = self.tickets.get_mut(&ticket) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(id)
            && let Some(place) = waiting.take()
        {
            session.finish(place, reply);
            self.dirty.insert(*id);
        }
    }

    /// A transaction is over.
    fn ended(&mut self, ticket: Ticket, ended: Ended) {
        let (id, place, reply) = match self.tickets.remove(&ticket) {
            None => return,
            Some(Holder::Command(id, place)) => (id, Some(place), reply_of(ended)),
            Some(Holder::Connection(id, waiting)) => {
                let Some(session) = self.sessions.get_mut(&id) else {
                    return;
                };
                (id, waiting, session.connection.ended(ended))
            }
        };
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(place) = place
        {
            session.finish(place, reply);
            self.dirty.insert(id);
        }
    }
}

/// The reply to the only command of a script.
fn reply_of(ended: Ended) -> Reply {
    match ended {
        Ended::Replies(mut replies) => replies.pop().unwrap_or(Reply::Null),
        Ended::Failed(reply) | Ended::Lost { why: reply, .. } => reply,
        Ended::Changed | Ended::Watched(_) | Ended::Told(_) => {
            Reply::error(ErrorCode::Unknown, "the answer did not fit the command")
        }
    }
}
