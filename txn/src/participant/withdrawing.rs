//! Requests that nobody waits for any more: their client is gone.
//!
//! What was evaluated is on its way, and runs its course. What was not (it waits for its turn, for
//! another transaction's lock, for the disk) need not be, and an answer that waits for the proof of
//! leadership need not be kept. Clients that give up sooner than a shard can answer would otherwise
//! pile up commands, each of them for nobody.
//!
//! Commands of one pipeline are evaluated in order. So those of them that were not evaluated are a
//! suffix, and as they leave together, none takes effect behind one that did not.

use std::collections::BTreeSet;

use super::Turn;
use super::event::Token;
use super::latch::WorkId;
use super::leader::Leader;
use super::shard::{Own, Role, Shard};
use super::work::{Asker, Stage, Task, Work};
use crate::command::Class;
use crate::state::State;

impl Shard {
    pub(super) fn withdraw<S: State>(&mut self, turn: &mut Turn<S>, tokens: &BTreeSet<Token>) {
        if let Role::Leading(leader) = &mut self.role {
            leader.withdraw(turn, &self.own, tokens);
            leader.run_released(turn, &self.own);
        }
    }
}

impl Leader {
    fn withdraw<S: State>(&mut self, turn: &mut Turn<S>, own: &Own, tokens: &BTreeSet<Token>) {
        self.reads.withdraw(tokens);
        let gone: Vec<WorkId> = self
            .works
            .iter()
            .filter(|(_, work)| is_withdrawn(work, tokens))
            .map(|(id, _)| *id)
            .collect();
        let mut named = Vec::new();
        for id in gone {
            let Some(work) = self.works.remove(&id) else {
                continue;
            };
            self.ranges.take(id);
            if matches!(work.stage, Stage::Parked { .. }) {
                for waiting in self.parked.values_mut() {
                    waiting.retain(|parked| *parked != id);
                }
            }
            self.latches.leave(id, &work.latches, &mut named);
        }
        // Some of those named have left since.
        named.retain(|id| self.works.contains_key(id));
        self.run_first(turn, own, named);
    }
}

/// Whether a work can end here and now. A walk that deletes has to come to its end.
fn is_withdrawn(work: &Work, tokens: &BTreeSet<Token>) -> bool {
    let Asker::Request { token, .. } = &work.asker else {
        return false;
    };
    let Task::Command(command) = &work.task else {
        return false;
    };
    let may_end = match &work.stage {
        Stage::Stream | Stage::Parked { .. } | Stage::Latching | Stage::Point { .. } => true,
        Stage::Scan(_) => command.class() == Class::Read,
    };
    may_end && tokens.contains(token)
}
