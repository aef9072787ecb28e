//! One client's stream of commands: what waits, what is under way, what may start next.
//!
//! A client may send many commands before it reads a reply. Replies go back in the order of the
//! commands, whatever the order of the answers; and a later write must not take effect before an
//! earlier one. So commands of one connection overlap only where that cannot be seen: on the same
//! shard, whose leader keeps the order of the stream, or when all of them only read.

use std::collections::VecDeque;

use synod_storage::ShardId;
use synod_txn::Reply;
use synod_txn::Stream;

use crate::edge::session::Submission;
use synod_txn::{Class, Command, ErrorCode, TransactionCommand};

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
    },
    /// Answers are awaited.
    UnderWay,
    /// Answered; leaves when all before it have left.
    Done(Reply),
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
    /// A transaction was refused: what follows belongs to it and must not run by itself.
    in_refused_transaction: bool,
}

impl Session {
    pub(super) fn new(stream: u64) -> Self {
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
            in_refused_transaction: false,
        }
    }

    pub(super) fn push(&mut self, slot: Slot) -> Place {
        self.slots.push_back(slot);
        self.first + self.slots.len() as u64 - 1
    }

    /// Transactions are not served yet. One that is refused is refused whole: the commands between
    /// its beginning and its end are answered with errors, not carried out one by one.
    pub(super) fn refuse_transaction(&mut self, command: Command) -> Submission {
        use TransactionCommand as Txn;
        let refused = |code, message| Submission::Immediate(Reply::error(code, message));
        match &command {
            Command::Transaction(Txn::Multi | Txn::Begin(_)) => {
                self.in_refused_transaction = true;
                refused(
                    ErrorCode::Err,
                    "transactions are not served by this release",
                )
            }
            Command::Transaction(Txn::Exec | Txn::Commit) if self.in_refused_transaction => {
                self.in_refused_transaction = false;
                refused(
                    ErrorCode::ExecAbort,
                    "the transaction was refused; nothing was done",
                )
            }
            Command::Transaction(Txn::Discard | Txn::Rollback) if self.in_refused_transaction => {
                self.in_refused_transaction = false;
                Submission::Immediate(Reply::Ok)
            }
            _ if self.in_refused_transaction => refused(
                ErrorCode::Err,
                "the transaction was refused; nothing was done",
            ),
            _ => Submission::Command(command),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.under_way.is_empty()
    }

    /// The next command that was not started, if it may be tried at `now_us`.
    pub(super) fn candidate(&mut self, now_us: u64) -> Option<(Place, &Command, u64)> {
        if self.refused {
            return None;
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
            }) if *not_before_us <= now_us => Some((place, command, *deadline_us)),
            _ => None,
        }
    }

    /// Leaves a command that was not started for later.
    pub(super) fn rest(&mut self, place: Place, until_us: u64) {
        if let Some(index) = place.checked_sub(self.first)
            && let Some(Slot::Waiting { not_before_us, .. }) = self.slots.get_mut(index as usize)
        {
            *not_before_us = until_us;
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
    pub(super) fn start(&mut self, place: Place, footprint: Footprint) -> Option<Command> {
        let index = self.index(place)?;
        let slot = std::mem::replace(&mut self.slots[index], Slot::UnderWay);
        let Slot::Waiting { command, .. } = slot else {
            self.slots[index] = slot;
            return None;
        };
        self.under_way.push((place, footprint));
        self.next = place + 1;
        Some(command)
    }

    /// A command is answered for good.
    pub(super) fn finish(&mut self, place: Place, reply: Reply) {
        self.leave(place);
        if let Some(index) = self.index(place) {
            self.slots[index] = Slot::Done(reply);
        }
        self.begin_again_when_quiet();
    }

    /// A command was refused without effect and is to be tried again.
    pub(super) fn refuse(
        &mut self,
        place: Place,
        command: Command,
        deadline_us: u64,
        not_before_us: u64,
    ) {
        self.leave(place);
        if let Some(index) = self.index(place) {
            self.slots[index] = Slot::Waiting {
                command,
                deadline_us,
                not_before_us,
            };
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
    pub(super) fn expired(&self, now_us: u64) -> Vec<Place> {
        if self
            .slots
            .iter()
            .all(|slot| !matches!(slot, Slot::Waiting { .. }))
        {
            return Vec::new();
        }
        (self.first..)
            .zip(&self.slots)
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
