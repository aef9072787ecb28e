//! The participant: all shards of one node, as far as commands are concerned.
//!
//! # What it does
//!
//! On the node that leads a shard it evaluates commands and decides what goes into the log; on every
//! node it applies what the log says. It is a sans-I/O machine: events in, effects out, no clock, no
//! randomness, no thread.
//!
//! # The order of evaluation is the serial order
//!
//! A leader evaluates a command against the applied state *and* everything that it has proposed
//! itself and not seen applied yet (the overlay). Entries of one term are applied in the order
//! of their proposal, or not at all from some point on, so what a command saw is what will precede it
//! in the log. Its answer is held until then:
//!
//! - a command that writes is answered when its batch is applied;
//! - a command that only reads is answered when leadership was confirmed *after* the state was read,
//!   and whatever it saw on its way is applied.
//!
//! So a hundred pipelined writes of one key need not wait for a hundred rounds of consensus, and no
//! answer ever shows an effect that could still be lost. All commands that were evaluated in one turn
//! of the node's loop share one log entry.
//!
//! # Deterministic apply
//!
//! An entry holds absolute writes, not commands. It is dropped if the log term that it came in is not
//! the term of its evaluation, or if it was evaluated in another epoch than the applied one; both are
//! decided by the log alone, hence alike on all replicas.
//!
//! # Three outcomes
//!
//! When leadership is lost, what was not proposed has certainly not happened. What was proposed waits
//! for the log: applied, it is answered as if nothing had been; when an entry of a later term is
//! applied first, it has certainly not happened, since terms never decrease along the log. If neither
//! is seen in time the answer is "unknown".
//!
//! # Expiry is a write
//!
//! A leader that meets a value past its deadline deletes it in the log, and answers when that is
//! applied. So a key is gone for all at one version, and no later leader with a slower clock brings it
//! back.

mod apply;
mod asking;
mod effect;
mod entry;
mod evaluate;
mod event;
mod intent;
mod latch;
mod leader;
mod locks;
mod merging;
mod overlay;
mod preparing;
mod ranges;
mod reads;
mod recovery;
mod scan;
mod shard;
mod snapshots;
mod splitting;
mod streams;
mod tokens;
mod transactions;
mod withdrawing;
mod work;

use std::collections::BTreeMap;

use synod_storage::{Entry, ReadId, ShardId, Version};

use crate::hlc::{self, Hlc};
use crate::reply::Reply;
use crate::shard_map::{Authority, ShardDescriptor};
use crate::state::State;
use crate::wire::{Outcome, Request};
use synod_testpoint::planted;

pub use effect::{Effect, Extent, Telling};
pub use event::{Batch, Call, Event, Leadership, Newborn, Now, Refusal, Round, Token};
pub use merging::LeftSide;

use latch::WorkId;
use shard::Shard;

/// A version further ahead of this node's wall clock than this is taken for a broken clock.
const HLC_AHEAD_MAX_MS: u64 = 24 * 3600 * 1000;

/// Settings of a node's participant: its own affair, nodes may differ.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Superseded versions are kept for so long.
    pub retention_ms: u64,
    /// How far ahead of its clock a leader raises its ceiling at a time.
    pub ceiling_ahead_ms: u64,
    /// A batch is closed when it has this size; a single command may make it larger.
    pub batch_bytes_max: usize,
    /// Commands proposed and not applied, for each shard, in bytes; beyond it they are refused.
    pub in_flight_bytes_max: usize,
    /// Commands that wait for latches, for the disk or for the proof that this node leads, for each
    /// shard; beyond it they are refused.
    pub waiting_max: usize,
    /// How long an unanswered confirmation of leadership is waited for before it is asked again.
    pub confirm_again_us: u64,
    /// How long a lock may stand before its transaction is asked about at its anchor.
    pub recover_after_us: u64,
    /// How long a hold may stand before it is given up.
    pub hold_max_us: u64,
    /// How long what somebody reads of the past is kept after he has last said so.
    pub snapshot_lease_us: u64,
    /// How long an unanswered question to another shard is waited for.
    pub ask_again_us: u64,
    /// How long a request waits for another transaction's lock.
    pub parked_max_us: u64,
    /// How far the floor stays behind the clock: attempts that take longer to prepare are aborted.
    pub floor_lag_ms: u64,
    /// How long what became of a token is remembered, from its issue.
    pub token_retention_ms: u64,
    /// How long after the loss of leadership an outcome is waited for, before it is unknown.
    pub outcome_timeout_us: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            retention_ms: 1_000,
            ceiling_ahead_ms: 3_000,
            batch_bytes_max: 1 << 20,
            in_flight_bytes_max: 64 << 20,
            waiting_max: 65_536,
            confirm_again_us: 250_000,
            recover_after_us: 1_000_000,
            hold_max_us: 3_000_000,
            snapshot_lease_us: 3_000_000,
            ask_again_us: 500_000,
            parked_max_us: 5_000_000,
            floor_lag_ms: 10_000,
            token_retention_ms: 600_000,
            outcome_timeout_us: 3_000_000,
        }
    }
}

/// The shards of one node.
///
/// Invariants: every request is answered exactly once, or withdrawn; every pending read of the store belongs to a
/// work of its shard; the wall clock that commands see never steps back.
#[derive(Clone, Debug)]
pub struct Participant {
    settings: Settings,
    hlc: Hlc,
    wall_ms: u64,
    shards: BTreeMap<ShardId, Shard>,
    reads: BTreeMap<ReadId, (ShardId, WorkId)>,
    next_work: u64,
}

/// What the parts of a shard need during one step.
pub(crate) struct Turn<'a, S> {
    pub(crate) now: Now,
    pub(crate) state: &'a mut S,
    pub(crate) effects: &'a mut Vec<Effect>,
    pub(crate) hlc: &'a mut Hlc,
    pub(crate) settings: &'a Settings,
    reads: &'a mut BTreeMap<ReadId, (ShardId, WorkId)>,
    next_work: &'a mut u64,
}

impl<S> Turn<'_, S> {
    fn respond(&mut self, token: Token, outcome: Outcome) {
        self.effects.push(Effect::Respond { token, outcome });
    }

    fn new_work(&mut self) -> WorkId {
        *self.next_work += 1;
        WorkId(*self.next_work)
    }
}

impl Participant {
    /// A participant without shards.
    pub fn new(settings: Settings) -> Participant {
        Participant {
            settings,
            hlc: Hlc::default(),
            wall_ms: 0,
            shards: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_work: 0,
        }
    }

    /// Takes in one event.
    pub fn step<S: State>(
        &mut self,
        now: Now,
        event: Event,
        state: &mut S,
        effects: &mut Vec<Effect>,
    ) {
        // Commands must never see time step back: a key that was found expired stays expired.
        self.wall_ms = self.wall_ms.max(now.wall_ms);
        let now = Now {
            wall_ms: self.wall_ms,
            ..now
        };
        let turn = &mut Turn {
            now,
            state,
            effects,
            hlc: &mut self.hlc,
            settings: &self.settings,
            reads: &mut self.reads,
            next_work: &mut self.next_work,
        };
        let shards = &mut self.shards;
        match event {
            Event::Open { shard, descriptor } => {
                let known = shards.contains_key(&shard);
                assert!(!known, "shard {shard} is opened once");
                shards.insert(shard, Shard::open(shard, descriptor, turn));
            }
            Event::Close { shard } => {
                if let Some(mut shard) = shards.remove(&shard) {
                    shard.close(turn);
                }
            }
            Event::Request { token, request } => Self::request(shards, turn, token, request),
            Event::Withdraw { tokens } => {
                let shards = shards.values_mut();
                shards.for_each(|shard| shard.withdraw(turn, &tokens));
            }
            Event::Leadership { shard, leadership } => {
                at(shards, shard, |it| it.leadership(turn, leadership));
            }
            Event::Committed { shard, entries } => Self::committed(shards, turn, shard, &entries),
            Event::SnapshotInstalled { shard } => {
                at(shards, shard, |it| it.snapshot_installed(turn))
            }
            Event::ProposalRefused {
                shard,
                batch,
                refusal,
            } => at(shards, shard, |it| {
                it.proposal_refused(turn, batch, refusal)
            }),
            Event::LeadershipConfirmed { shard, term, round } => {
                at(shards, shard, |it| it.confirmed(turn, term, round));
            }
            Event::LeadershipDoubtful {
                shard,
                term,
                round,
                hint,
            } => at(shards, shard, |it| it.doubtful(turn, term, round, hint)),
            Event::StoreRead { id, result } => {
                if let Some((shard, work)) = turn.reads.remove(&id) {
                    at(shards, shard, |it| it.store_read(turn, work, id, result));
                }
            }
            Event::Called {
                shard,
                call,
                outcome,
            } => at(shards, shard, |it| it.called(turn, call, outcome)),
            Event::Describe { descriptor } => {
                at(shards, descriptor.shard, |it| it.describe(descriptor));
            }
            Event::Authorize { shard, authority } => {
                at(shards, shard, |it| it.authorize(authority))
            }
            Event::Split { left, right } => {
                at(shards, left.shard, |it| it.split(turn, left, right));
            }
            Event::Freeze { shard, into } => at(shards, shard, |it| it.freeze(turn, into)),
            Event::Merge { left, right } => merging::merge(shards, turn, left, right),
            Event::Born { newborn } => {
                let shard = newborn.descriptor().shard;
                at(shards, shard, |it| it.born(turn, newborn.birth));
            }
            Event::Weaned { shard, child } => at(shards, shard, |it| it.wean(child)),
            Event::Tick => shards.values_mut().for_each(|shard| shard.tick(turn)),
        }
    }

    fn committed<S: State>(
        shards: &mut BTreeMap<ShardId, Shard>,
        turn: &mut Turn<S>,
        shard: ShardId,
        entries: &[Entry],
    ) {
        let before = turn.effects.len();
        at(shards, shard, |it| it.committed(turn, entries));
        merging::check(shards, turn, before);
    }

    fn request<S: State>(
        shards: &mut BTreeMap<ShardId, Shard>,
        turn: &mut Turn<S>,
        token: Token,
        request: Request,
    ) {
        let ahead_max = hlc::floor_of(turn.now.wall_ms + HLC_AHEAD_MAX_MS);
        if request.hlc > ahead_max {
            let reply = Reply::err("the gateway's clock is more than a day ahead");
            return turn.respond(token, Outcome::Reply(reply));
        }
        if !planted!(IgnoresClocks) {
            turn.hlc.merge(request.hlc);
        }
        match shards.get_mut(&request.shard) {
            Some(shard) => shard.request(turn, token, request),
            None => turn.respond(token, merging::heir(shards, request.shard)),
        }
    }

    /// Proposes what was evaluated and asks for the rounds that reads wait for. Once in each turn of
    /// the loop, again while [`Participant::needs_flush`].
    pub fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for shard in self.shards.values_mut() {
            shard.flush(now, effects);
        }
    }

    /// Whether a flush would have an effect.
    pub fn needs_flush(&self) -> bool {
        self.shards.values().any(Shard::needs_flush)
    }

    /// Lets go of what waits for others to go with, as the next tick would.
    #[cfg(test)]
    pub(crate) fn hurry(&mut self) {
        for shard in self.shards.values_mut() {
            shard.hurry();
        }
    }

    /// This node's clock, for outgoing frames.
    pub fn hlc(&self) -> Version {
        self.hlc.last()
    }

    /// Merges a peer's clock, from a response. One that is absurdly far ahead is ignored.
    pub fn merge_hlc(&mut self, seen: Version) {
        if seen <= hlc::floor_of(self.wall_ms + HLC_AHEAD_MAX_MS) {
            self.hlc.merge(seen);
        }
    }

    /// What a shard on this node is, by its own applied log.
    pub fn descriptor(&self, shard: ShardId) -> Option<&ShardDescriptor> {
        self.shards.get(&shard).map(Shard::descriptor)
    }

    /// All shards on this node, each as its own applied log describes it.
    pub fn shards(&self) -> impl Iterator<Item = &ShardDescriptor> {
        self.shards.values().map(Shard::descriptor)
    }

    /// Which controller a shard on this node follows, by its own applied log.
    pub fn authority(&self, shard: ShardId) -> Option<Authority> {
        self.shards.get(&shard).map(|shard| shard.own.authority)
    }

    /// Whether a shard on this node has a description of its own, in its log.
    pub fn is_described(&self, shard: ShardId) -> bool {
        self.shards
            .get(&shard)
            .is_some_and(|shard| shard.own.described)
    }

    /// The shards that were split off a shard on this node and may not have their first rows yet.
    pub fn newborns(&self, shard: ShardId) -> impl Iterator<Item = ShardId> {
        let shard = self.shards.get(&shard);
        shard
            .into_iter()
            .flat_map(|shard| shard.own.newborns.iter().copied())
    }

    /// Whether a shard on this node was split off, and this replica does not know how it begins: it
    /// must not stay its leader.
    pub fn lacks_rows(&self, shard: ShardId) -> bool {
        let shard = self.shards.get(&shard);
        shard.is_some_and(|shard| shard.own.is_unborn() && shard.birth.is_none())
    }

    /// Whether a split waits for attempts to end, or is on its way through the log.
    pub fn is_splitting(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(Shard::is_splitting)
    }

    /// The left neighbour that a shard on this node is frozen for, by its own applied log.
    pub fn frozen(&self, shard: ShardId) -> Option<&LeftSide> {
        self.shards.get(&shard)?.own.frozen.as_ref()
    }

    /// The shards that were merged into a shard on this node, and the epochs of their ends.
    pub fn merged(&self, shard: ShardId) -> impl Iterator<Item = (ShardId, u64)> {
        let shard = self.shards.get(&shard);
        let merged = shard.into_iter().flat_map(|shard| &shard.own.merged);
        merged.map(|(shard, epoch)| (*shard, *epoch))
    }

    /// Whether this node leads and serves a shard.
    pub fn leads(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(Shard::leads)
    }

    /// Whether a shard has commands on their way or waiting: it must not go quiet.
    pub fn is_busy(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(Shard::is_busy)
    }
}

/// What happens to one shard, if it is here.
fn at(shards: &mut BTreeMap<ShardId, Shard>, id: ShardId, act: impl FnOnce(&mut Shard)) {
    if let Some(shard) = shards.get_mut(&id) {
        act(shard);
    }
}
