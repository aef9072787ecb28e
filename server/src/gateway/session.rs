//! One client's stream of commands: what waits, what is under way, what may start next.
//!
//! A client may send many commands before it reads a reply. Replies go back in the order of the
//! commands, whatever the order of the answers; and a later write must not take effect before an
//! earlier one. So commands of one connection overlap only where that cannot be seen: on the same
//! shard, whose leader keeps the order of the stream, or when all of them only read.

use std::collections::VecDeque;

use synod_storage::ShardId;
use synod_txn::coordinator::{self, Connection};
use synod_txn::{Class, Command, Reply, Stream};

/// A command's place in its session: counted from the first.
pub(super) type Place = u64;

/// What is known of one command.
#[derive(Debug)]
pub(super) enum Slot {
    /// Not started; refused ones come back to this, with the time before which not to try again.
    Waiting {
        command: Command,
        deadline_us: u64,
        not_before_us: u64,
        attempts: u32,
    },
    /// The edge knows the answer; a transaction may have to hear of it first.
    Known(Reply),
    /// Nothing is served at present: this is answered, once the command's transaction has heard of it.
    TurnedAway { command: Command, why: Reply },
    /// The transaction and the watched keys are to be forgotten; then this is answered.
    Reset(Reply),
    /// Answers are awaited.
    UnderWay,
    /// Answered; leaves when all before it have left.
    Done(Reply),
}

/// What a session is to do next.
#[derive(Debug)]
pub(super) enum Candidate {
    /// Nothing, at present.
    None,
    /// Show the transaction a known answer.
    Known(Place),
    /// Tell the transaction that a command was turned away.
    TurnedAway(Place),
    /// Forget the transaction.
    Reset(Place),
    /// Start a command of this class, which has a deadline in microseconds.
    Command(Place, Class, u64),
}

/// What a started command occupies until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    /// The shard, where it is one.
    pub(super) shard: Option<ShardId>,
    /// Whether it writes.
    pub(super) class: Class,
}

/// The state of one session.
///
/// Invariants: `slots` holds every command from `first` on without a gap; the front slot is never
/// `Done` after [`Session::drain`]; every slot before `next` has been started in this round.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: Stream,
    first: Place,
    slots: VecDeque<Slot>,
    /// The first slot that was not yet looked at.
    next: Place,
    under_way: Vec<(Place, Footprint)>,
    /// Something was refused: start nothing more until all answers are in, then begin again.
    refused: bool,
    /// Whether the client is gone.
    pub(super) closed: bool,
    /// What `MULTI`, `WATCH` and `BEGIN` have made of it.
    pub(super) connection: Connection,
}

impl Session {
    /// `connection` is what is known of its transactions.
    pub(super) fn new(stream: u64, connection: Connection) -> Self {
        Self {
            stream: Stream {
                id: stream,
                generation: 1,
            },
            first: 0,
            slots: VecDeque::new(),
            next: 0,
            under_way: Vec::new(),
            refused: false,
            closed: false,
            connection,
        }
    }

    pub(super) fn push(&mut self, slot: Slot) -> Place {
        self.slots.push_back(slot);
        self.first + self.slots.len() as u64 - 1
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.under_way.is_empty()
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What comes next, if it may be tried at `now_us`.
    pub(super) fn candidate(&mut self, now_us: u64) -> Candidate {
        if self.refused {
            return Candidate::None;
        }
        while let Some(Slot::Done(_)) = self.slot(self.next) {
            self.next += 1;
        }
        let place = self.next;
        match self.slot(place) {
            Some(Slot::Waiting {
                command,
                deadline_us,
                not_before_us,
                ..
            }) if *not_before_us <= now_us => {
                Candidate::Command(place, command.class(), *deadline_us)
            }
            Some(Slot::Known(_)) => Candidate::Known(place),
            Some(Slot::TurnedAway { .. }) => Candidate::TurnedAway(place),
            Some(Slot::Reset(_)) => Candidate::Reset(place),
            Some(Slot::Waiting { .. } | Slot::UnderWay | Slot::Done(_)) | None => Candidate::None,
        }
    }

    /// Shows the transaction, if there is one, an answer that the edge knew.
    pub(super) fn tell_known(&mut self, place: Place) {
        if let Some(index) = self.index(place)
            && let Slot::Known(reply) = std::mem::replace(&mut self.slots[index], Slot::UnderWay)
        {
            self.slots[index] = Slot::Done(self.connection.known(reply));
        }
    }

    /// Tells the transaction, if there is one, that a command of it was turned away. What the coordinator is
    /// to be told, if anything.
    pub(super) fn tell_turned_away(&mut self, place: Place) -> Option<coordinator::Event> {
        let index = self.index(place)?;
        match std::mem::replace(&mut self.slots[index], Slot::UnderWay) {
            Slot::TurnedAway { command, why } => {
                let event = self.connection.turned_away(&command, &why);
                self.slots[index] = Slot::Done(why);
                event
            }
            other => {
                self.slots[index] = other;
                None
            }
        }
    }

    /// Answers a reset that was carried out.
    pub(super) fn tell_reset(&mut self, place: Place) {
        if let Some(index) = self.index(place)
            && let Slot::Reset(reply) = std::mem::replace(&mut self.slots[index], Slot::UnderWay)
        {
            self.slots[index] = Slot::Done(reply);
        }
    }

    /// The candidate cannot be started before `not_before_us`.
    pub(super) fn postpone(&mut self, place: Place, not_before: u64) {
        if let Some(index) = self.index(place)
            && let Slot::Waiting { not_before_us, .. } = &mut self.slots[index]
        {
            *not_before_us = not_before;
        }
    }

    /// The client is gone: nothing of what was not started will be.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for slot in &mut self.slots {
            match slot {
                Slot::Waiting { .. }
                | Slot::Known(_)
                | Slot::TurnedAway { .. }
                | Slot::Reset(_) => {
                    *slot = Slot::Done(Reply::Null);
                }
                Slot::UnderWay | Slot::Done(_) => {}
            }
        }
    }

    /// A command that waits.
    pub(super) fn command(&self, place: Place) -> Option<&Command> {
        match self.slot(place) {
            Some(Slot::Waiting { command, .. }) => Some(command),
            Some(
                Slot::Known(_)
                | Slot::TurnedAway { .. }
                | Slot::Reset(_)
                | Slot::UnderWay
                | Slot::Done(_),
            )
            | None => None,
        }
    }

    /// Whether a command with this footprint may start beside those under way.
    pub(super) fn admits(&self, footprint: Footprint) -> bool {
        let reads = |class: Class| matches!(class, Class::Read);
        self.under_way.iter().all(|(_, other)| {
            (reads(other.class) && reads(footprint.class))
                || (other.shard.is_some() && other.shard == footprint.shard)
        })
    }

    /// Takes the candidate out to start it.
    ///
    /// With it: how often it was tried.
    pub(super) fn start(&mut self, place: Place, footprint: Footprint) -> Option<(Command, u32)> {
        let index = self.index(place)?;
        let slot = std::mem::replace(&mut self.slots[index], Slot::UnderWay);
        let Slot::Waiting {
            command, attempts, ..
        } = slot
        else {
            self.slots[index] = slot;
            return None;
        };
        self.under_way.push((place, footprint));
        self.next = place + 1;
        Some((command, attempts))
    }

    /// A command is answered for good.
    pub(super) fn finish(&mut self, place: Place, reply: Reply) {
        self.leave(place);
        if let Some(index) = self.index(place) {
            self.slots[index] = Slot::Done(reply);
        }
        self.begin_again_when_quiet();
    }

    /// A command was refused without effect and is to be tried again: it is `waiting`.
    pub(super) fn refuse(&mut self, place: Place, waiting: Slot) {
        self.leave(place);
        if let Some(index) = self.index(place) {
            self.slots[index] = waiting;
        }
        self.refused = true;
        self.begin_again_when_quiet();
    }

    /// The replies that may leave, in order.
    pub(super) fn drain(&mut self, out: &mut Vec<Reply>) {
        while let Some(Slot::Done(_)) = self.slots.front() {
            if let Some(Slot::Done(reply)) = self.slots.pop_front() {
                out.push(reply);
            }
            self.first += 1;
        }
        self.next = self.next.max(self.first);
    }

    /// Commands that wait longer than their deadline; they certainly had no effect.
    ///
    /// What belongs to a transaction, or waits behind the beginning of one, stays: were a `MULTI`
    /// given up and a command behind it not, that would be carried out by itself. What it waits for
    /// has a deadline of its own.
    pub(super) fn expired(&self, now_us: u64) -> Vec<Place> {
        let is_waiting = |slot: &Slot| matches!(slot, Slot::Waiting { .. });
        if self.connection.is_in_transaction() || !self.slots.iter().any(is_waiting) {
            return Vec::new();
        }
        let of_transaction = |slot: &Slot| match slot {
            Slot::Waiting { command, .. } => command.class() == Class::Control,
            Slot::Known(_)
            | Slot::TurnedAway { .. }
            | Slot::Reset(_)
            | Slot::UnderWay
            | Slot::Done(_) => false,
        };
        (self.first..)
            .zip(&self.slots)
            .take_while(|(_, slot)| !of_transaction(slot))
            .filter(|(_, slot)| {
                matches!(slot, Slot::Waiting { deadline_us, .. } if *deadline_us <= now_us)
            })
            .map(|(place, _)| place)
            .collect()
    }

    fn leave(&mut self, place: Place) {
        self.under_way.retain(|(other, _)| *other != place);
    }

    fn begin_again_when_quiet(&mut self) {
        if self.refused && self.under_way.is_empty() {
            self.refused = false;
            self.stream.generation += 1;
            self.next = self.first;
        }
    }

    fn index(&self, place: Place) -> Option<usize> {
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        (index < self.slots.len()).then_some(index)
    }

    fn slot(&self, place: Place) -> Option<&Slot> {
        self.index(place).map(|index| &self.slots[index])
    }
}
