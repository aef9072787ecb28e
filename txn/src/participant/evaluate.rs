//! Evaluation of commands on keys: latches, values, effects.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use synod_storage::{Lookup, Pressure, ReadId, ReadResult, Version};

use super::event::{Batch, Token};
use super::latch::{Latch, WorkId};
use super::leader::Leader;
use super::reads::Held;
use super::shard::{Own, Shard, corrupt_reply, read_failed_reply};
use super::work::{Asker, Slot, Stage, Work};
use super::{Effect, Turn, scan};
use crate::command::{Class, Command};
use crate::execute;
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::keyspace;
use crate::state::State;
use crate::value::Value;
use crate::wire::{Outcome, Stream};

impl Shard {
    /// A read of the store has come back for one of the leader's works.
    pub(super) fn store_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        work: WorkId,
        id: ReadId,
        result: ReadResult,
    ) {
        if let super::shard::Role::Leading(leader) = &mut self.role {
            leader.store_read(turn, work, id, result);
        }
    }
}

impl Leader {
    /// Takes in a request that this shard is to serve.
    pub(super) fn request<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        token: Token,
        stream: Stream,
        command: Command,
    ) {
        if matches!(turn.state.pressure(), Pressure::DiskFull { .. }) && needs_space(&command) {
            let message = "the disk of the shard's leader is full: only reads and deletes";
            let reply = Reply::error(ErrorCode::DiskFull, message);
            return turn.respond(token, Outcome::Reply(reply));
        }
        let asker = Asker::Request { token, stream };
        match scan::is_scan(&command) {
            true => self.begin_scan(turn, own, asker, command),
            false => self.admit(turn, asker, command),
        }
    }

    /// Evaluates a command on keys, at once if nothing stands in its way.
    pub(super) fn admit<S: State>(&mut self, turn: &mut Turn<S>, asker: Asker, command: Command) {
        let free = self.latches.is_empty() || {
            let mut free =
                stream_of(&asker).is_none_or(|stream| self.latches.is_free(&Latch::Stream(stream)));
            command.for_each_key(|key| free &= self.latches.is_key_free(key));
            free
        };
        let stage = match free {
            false => Stage::Latching,
            true => match self.read_slots(turn, &command) {
                Err(reply) => return self.finish(turn, asker, reply, Vec::new(), Batch(0)),
                Ok(slots) if slots.iter().all(Slot::is_known) => {
                    return self.evaluate(turn, asker, &command, &slots);
                }
                Ok(slots) => Stage::Point { slots },
            },
        };
        let id = turn.new_work();
        let latches = latches_of(&asker, &command);
        let behind = self.latches.enqueue(id, &latches);
        if let Stage::Point { slots } = &stage {
            self.register(turn, id, slots);
        }
        self.works.insert(
            id,
            Work {
                asker,
                command,
                latches,
                behind,
                stage,
            },
        );
    }

    /// The values of a command's keys, as far as they are in memory. An error is its answer.
    fn read_slots<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        command: &Command,
    ) -> Result<Vec<Slot>, Reply> {
        let mut slots = Vec::new();
        if !execute::must_read(command) {
            return Ok(slots);
        }
        let mut damaged = false;
        command.for_each_key(|key| {
            if let Some(pending) = self.overlay.get(key) {
                slots.push(Slot::Known {
                    value: pending.value.clone(),
                    batch: pending.batch,
                });
                return;
            }
            let (space, row) = keyspace::row(self.shard, key);
            slots.push(match turn.state.get(space, &row, Version::MAX) {
                Lookup::Found { value, .. } => match Value::decode(&value) {
                    Some(value) => Slot::Known {
                        value: Some(value),
                        batch: Batch(0),
                    },
                    None => {
                        damaged = true;
                        Slot::Known {
                            value: None,
                            batch: Batch(0),
                        }
                    }
                },
                Lookup::Absent { .. } => Slot::Known {
                    value: None,
                    batch: Batch(0),
                },
                Lookup::Pending(id) => Slot::Pending(id),
            });
        });
        match damaged {
            true => Err(corrupt_reply()),
            false => Ok(slots),
        }
    }

    fn register<S: State>(&mut self, turn: &mut Turn<S>, work: WorkId, slots: &[Slot]) {
        for slot in slots {
            if let Slot::Pending(read) = slot {
                turn.reads.insert(*read, (self.shard, work));
            }
        }
    }

    /// Carries out a command whose values are all known.
    fn evaluate<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        asker: Asker,
        command: &Command,
        slots: &[Slot],
    ) {
        let now_ms = turn.now.wall_ms;
        let mut needs = Batch(0);
        let mut values = Vec::with_capacity(slots.len());
        let mut any_expired = false;
        for slot in slots {
            let Slot::Known { value, batch } = slot else {
                unreachable!("a command is evaluated when all its values are known");
            };
            needs = needs.max(*batch);
            let live = value.as_ref().filter(|value| !value.is_expired(now_ms));
            any_expired |= live.is_none() && value.is_some();
            values.push(live.cloned());
        }
        let execution = execute::execute(command, &values, now_ms);
        let mut writes = execution.writes;
        if any_expired {
            // Expiry is a write: what was found past its deadline is deleted before it is answered.
            let mut written: BTreeSet<Bytes> = writes.iter().map(|(key, _)| key.clone()).collect();
            let mut at = 0;
            command.for_each_key(|key| {
                let expired = match &slots[at] {
                    Slot::Known {
                        value: Some(value), ..
                    } => value.is_expired(now_ms),
                    Slot::Known { value: None, .. } | Slot::Pending(_) => false,
                };
                at += 1;
                if expired && written.insert(key.clone()) {
                    writes.push((key.clone(), None));
                }
            });
        }
        self.finish(turn, asker, execution.reply, writes, needs);
    }

    /// Passes on what a command did: its writes to the open batch, its answer to whoever asked.
    pub(super) fn finish<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        asker: Asker,
        reply: Reply,
        writes: Vec<(Bytes, Option<Value>)>,
        needs: Batch,
    ) {
        let held = match asker {
            Asker::Request { token, stream } => Some(Held {
                token,
                stream,
                reply,
            }),
            Asker::Known {
                token,
                stream,
                reply,
            } => Some(Held {
                token,
                stream,
                reply,
            }),
            Asker::Scan(scan) => {
                if !writes.is_empty() {
                    self.propose(turn, writes, None);
                }
                return self.run_scan(turn, scan);
            }
        };
        match (writes.is_empty(), held) {
            (false, held) => self.propose(turn, writes, held),
            (true, Some(held)) => self.reads.push(held, needs),
            (true, None) => {}
        }
    }

    fn store_read<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        work_id: WorkId,
        read: ReadId,
        result: ReadResult,
    ) {
        let Some(work) = self.works.get_mut(&work_id) else {
            return;
        };
        let slots = match &mut work.stage {
            Stage::Scan(_) => return self.scan_read(turn, work_id, result),
            Stage::Latching => unreachable!("a work reads when it holds its latches"),
            Stage::Point { slots } => slots,
        };
        let value = match result {
            ReadResult::Found { value, .. } => match Value::decode(&value) {
                Some(value) => Some(value),
                None => return self.fail(turn, work_id, corrupt_reply()),
            },
            ReadResult::Absent { .. } => None,
            ReadResult::Damaged(row) => {
                turn.effects.push(Effect::Damaged {
                    shard: self.shard,
                    row,
                });
                return self.fail(turn, work_id, corrupt_reply());
            }
            ReadResult::Failed => return self.fail(turn, work_id, read_failed_reply()),
            ReadResult::Newest(_) | ReadResult::Page(_) => {
                unreachable!("a point read is answered with a value")
            }
        };
        for slot in slots.iter_mut() {
            if matches!(slot, Slot::Pending(id) if *id == read) {
                *slot = Slot::Known {
                    value: value.clone(),
                    batch: Batch(0),
                };
            }
        }
        if slots.iter().all(Slot::is_known) {
            self.complete(turn, work_id);
        }
    }

    /// Ends a work with an answer that changes nothing.
    pub(super) fn fail<S: State>(&mut self, turn: &mut Turn<S>, id: WorkId, reply: Reply) {
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        let asker = match work.asker {
            // What was known holds no longer: its condition could not be met.
            Asker::Known { token, stream, .. } => Asker::Request { token, stream },
            asker @ (Asker::Request { .. } | Asker::Scan(_)) => asker,
        };
        self.release_latches(turn, id, &work.latches);
        match asker {
            Asker::Scan(scan) => self.fail(turn, scan, reply),
            asker => self.finish(turn, asker, reply, Vec::new(), Batch(0)),
        }
    }

    /// Evaluates a work whose values have come, and all that it held up.
    fn complete<S: State>(&mut self, turn: &mut Turn<S>, id: WorkId) {
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        let Stage::Point { slots } = &work.stage else {
            unreachable!("a completed work is a command on keys");
        };
        self.evaluate(turn, work.asker, &work.command, slots);
        self.release_latches(turn, id, &work.latches);
    }

    /// Lets go of latches, and runs what they held up.
    pub(super) fn release_latches<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        id: WorkId,
        latches: &[Latch],
    ) {
        let mut named = Vec::new();
        self.latches.release(id, latches, &mut named);
        let mut ready: VecDeque<WorkId> = VecDeque::new();
        loop {
            for id in named.drain(..) {
                let Some(work) = self.works.get_mut(&id) else {
                    unreachable!("who waits for a latch is a work");
                };
                work.behind -= 1;
                if work.behind == 0 {
                    ready.push_back(id);
                }
            }
            let Some(id) = ready.pop_front() else {
                return;
            };
            self.begin(turn, id, &mut named);
        }
    }

    /// Begins a work that holds all its latches. If it ends at once, `named` are the works that are
    /// first behind it.
    fn begin<S: State>(&mut self, turn: &mut Turn<S>, id: WorkId, named: &mut Vec<WorkId>) {
        let Some(mut work) = self.works.remove(&id) else {
            return;
        };
        if let Stage::Scan(_) = work.stage {
            self.works.insert(id, work);
            return self.run_scan(turn, id);
        }
        match self.read_slots(turn, &work.command) {
            Ok(slots) if !slots.iter().all(Slot::is_known) => {
                self.register(turn, id, &slots);
                work.stage = Stage::Point { slots };
                self.works.insert(id, work);
            }
            Ok(slots) => {
                self.evaluate(turn, work.asker, &work.command, &slots);
                self.latches.release(id, &work.latches, named);
            }
            Err(reply) => {
                self.finish(turn, work.asker, reply, Vec::new(), Batch(0));
                self.latches.release(id, &work.latches, named);
            }
        }
    }
}

impl Slot {
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Slot::Known { .. })
    }
}

fn stream_of(asker: &Asker) -> Option<u64> {
    match asker {
        Asker::Request { stream, .. } => (stream.id != Stream::NONE.id).then_some(stream.id),
        // These continue a request that was in order already.
        Asker::Known { .. } | Asker::Scan(_) => None,
    }
}

/// The latches of a command, without repeats.
pub(super) fn latches_of(asker: &Asker, command: &Command) -> Vec<Latch> {
    let mut keys: BTreeSet<&Bytes> = BTreeSet::new();
    command.for_each_key(|key| {
        keys.insert(key);
    });
    let mut latches: Vec<Latch> = keys.into_iter().cloned().map(Latch::Key).collect();
    latches.extend(stream_of(asker).map(Latch::Stream));
    latches
}

/// Whether a command may make the data larger, and so is refused when the disk is full.
fn needs_space(command: &Command) -> bool {
    let frees = matches!(
        command,
        Command::Del { .. } | Command::GetDel { .. } | Command::FlushAll | Command::Persist { .. }
    );
    command.class() == Class::Write && !frees
}
