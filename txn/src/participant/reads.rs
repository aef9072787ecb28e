//! Answers that were read, and wait for the proof that this node still leads.
//!
//! The state is read first and leadership is confirmed after: then no other leader can have
//! acknowledged a write that the answer misses. One round confirms everything that was read before
//! it was asked for. An answer that shows effects still on their way waits for their batch as well.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_storage::Micros;

use super::event::{Batch, Round, Token};
use crate::wire::{Outcome, Stream};
use synod_testpoint::planted;

/// An answer that is ready but for a condition.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The request.
    pub(super) token: Token,
    /// Its stream.
    pub(super) stream: Stream,
    /// The answer.
    pub(super) outcome: Outcome,
}

/// A held answer and the batch that it shows.
#[derive(Clone, Debug)]
pub(super) struct HeldRead {
    pub(super) held: Held,
    /// The last batch whose effects the answer shows; zero if all of it was applied.
    pub(super) needs: Batch,
}

#[derive(Clone, Debug)]
struct Asked {
    round: Round,
    since: Micros,
    reads: Vec<HeldRead>,
}

/// The answers that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    last_round: Round,
    /// Read since the last round was asked for.
    unasked: Vec<HeldRead>,
    asked: VecDeque<Asked>,
    /// Confirmed, but showing a batch that is not applied.
    confirmed: BTreeMap<Batch, Vec<Held>>,
    /// How many answers there are in all.
    waiting: usize,
}

impl Reads {
    /// Adds an answer.
    pub(super) fn push(&mut self, held: Held, needs: Batch) {
        self.waiting += 1;
        self.unasked.push(HeldRead { held, needs });
    }

    /// How many answers wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Forgets the answers to requests that nobody waits for.
    pub(super) fn withdraw(&mut self, tokens: &BTreeSet<Token>) {
        let mut sift = |reads: &mut Vec<HeldRead>| {
            let before = reads.len();
            reads.retain(|read| !tokens.contains(&read.held.token));
            self.waiting -= before - reads.len();
        };
        sift(&mut self.unasked);
        self.asked
            .iter_mut()
            .for_each(|asked| sift(&mut asked.reads));
        self.confirmed.retain(|_, reads| {
            let before = reads.len();
            reads.retain(|held| !tokens.contains(&held.token));
            self.waiting -= before - reads.len();
            !reads.is_empty()
        });
    }

    /// Whether a round has to be asked for.
    pub(super) fn wants_round(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Begins a round for all that was read.
    pub(super) fn ask(&mut self, now: Micros) -> Round {
        self.last_round.0 += 1;
        let reads = std::mem::take(&mut self.unasked);
        self.asked.push_back(Asked {
            round: self.last_round,
            since: now,
            reads,
        });
        self.last_round
    }

    /// Begins another round if the oldest has not been answered for `patience_us`: the question or
    /// the answer was lost.
    pub(super) fn ask_again(&mut self, now: Micros, patience_us: u64) -> Option<Round> {
        let oldest = self.asked.front()?;
        if now.0.saturating_sub(oldest.since.0) < patience_us {
            return None;
        }
        self.last_round.0 += 1;
        self.asked.push_back(Asked {
            round: self.last_round,
            since: now,
            reads: Vec::new(),
        });
        // A round confirms all before it, so the old ones need no patience of their own.
        for asked in &mut self.asked {
            asked.since = now;
        }
        Some(self.last_round)
    }

    /// A round was confirmed: gives out the answers that wait for nothing more.
    pub(super) fn confirm(&mut self, round: Round, applied: Batch, out: &mut Vec<Held>) {
        let before = out.len();
        while self.asked.front().is_some_and(|asked| asked.round <= round) {
            let Some(asked) = self.asked.pop_front() else {
                break;
            };
            for HeldRead { held, needs } in asked.reads {
                match needs <= applied || planted!(AnswersBeforeApply) {
                    true => out.push(held),
                    false => self.confirmed.entry(needs).or_default().push(held),
                }
            }
        }
        self.waiting -= out.len() - before;
    }

    /// A round failed: gives out the answers that must not be given.
    pub(super) fn doubt(&mut self, round: Round, out: &mut Vec<Held>) {
        while self.asked.front().is_some_and(|asked| asked.round <= round) {
            let Some(asked) = self.asked.pop_front() else {
                break;
            };
            self.waiting -= asked.reads.len();
            out.extend(asked.reads.into_iter().map(|read| read.held));
        }
    }

    /// A batch was applied: gives out the confirmed answers that showed it.
    pub(super) fn applied(&mut self, batch: Batch, out: &mut Vec<Held>) {
        while let Some(first) = self.confirmed.first_entry() {
            if *first.key() > batch {
                break;
            }
            let ready = first.remove();
            self.waiting -= ready.len();
            out.extend(ready);
        }
    }

    /// A batch will never be proposed: gives out the answers that showed it or later ones.
    pub(super) fn refused(&mut self, batch: Batch, out: &mut Vec<Held>) {
        let before = out.len();
        let mut sift = |reads: &mut Vec<HeldRead>| {
            for read in std::mem::take(reads) {
                match read.needs >= batch {
                    true => out.push(read.held),
                    false => reads.push(read),
                }
            }
        };
        sift(&mut self.unasked);
        self.asked
            .iter_mut()
            .for_each(|asked| sift(&mut asked.reads));
        for (_, held) in self.confirmed.split_off(&batch) {
            out.extend(held);
        }
        self.waiting -= out.len() - before;
    }

    /// Leadership is over: gives out everything.
    pub(super) fn drain(&mut self, out: &mut Vec<Held>) {
        out.extend(self.unasked.drain(..).map(|read| read.held));
        for asked in self.asked.drain(..) {
            out.extend(asked.reads.into_iter().map(|read| read.held));
        }
        for (_, held) in std::mem::take(&mut self.confirmed) {
            out.extend(held);
        }
        self.waiting = 0;
    }
}
