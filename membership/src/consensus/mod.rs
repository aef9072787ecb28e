//! When to vote, when to coordinate, when to repeat.
//!
//! [`agreement`] is safe whatever happens in whichever order; this module makes it live and quick. A voter that detects
//! a cut votes for it in the fast round. It turns to a classic round at once when the fast quorum is out of reach: when
//! for every value the votes known, and those of voters that may still be heard and that its own cut does not remove,
//! are too few. Coordinators follow each other at a distance, in an order that all compute alike, so that mostly the
//! first one succeeds undisturbed. Rounds are repeated for ever, with growing patience.
//!
//! Fast votes travel merged, as bitmaps. A small cluster sends them to all; a large one passes them on by gossip, a few
//! messages of an eighth of a byte per voter in place of one message per pair.

pub(crate) mod agreement;
#[cfg(test)]
mod explorer;
#[cfg(test)]
mod pace_tests;
#[cfg(test)]
pub(crate) mod sabotage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use agreement::{Agreement, FastRound, Output};

use crate::configuration::Configuration;
use crate::cut::Cut;
use crate::hash::order_of;
use crate::id::NodeId;
use crate::message::{CutReply, CutRequest, Message};
use crate::rng::Rng;
use crate::settings::Timing;
use crate::time::{Time, earliest};
use crate::view::Rank;

/// From so many voters on, fast votes are passed on by gossip.
const GOSSIP_FROM: usize = 33;

/// Voters that each round of gossip reaches.
const GOSSIP_FANOUT: usize = 4;

/// After so many rounds of gossip, all that can be reached have long been reached: repeat at leisure.
const GOSSIP_ROUNDS: u32 = 16;

/// One configuration's agreement on its successor, with its timers.
pub(crate) struct Consensus {
    agreement: Agreement,
    me: NodeId,
    timing: Timing,
    own: Option<(Arc<Cut>, Time)>,
    voted: bool,
    start_at: Option<Time>,
    resend_at: Option<Time>,
    rounds: u32,
    /// True once somebody began a classic round.
    begun: bool,
    /// The latest stage of another coordinator's rounds that was left its time.
    gave_way: Option<(Rank, bool)>,
    repeats: u32,
    hurried: bool,
    asked_at: Option<Time>,
}

impl Consensus {
    pub(crate) fn new(agreement: Agreement, me: NodeId, timing: Timing) -> Consensus {
        Consensus {
            agreement,
            me,
            timing,
            own: None,
            voted: false,
            start_at: None,
            resend_at: None,
            rounds: 0,
            begun: false,
            gave_way: None,
            repeats: 0,
            hurried: false,
            asked_at: None,
        }
    }

    /// True if this node has a vote.
    pub(crate) fn votes(&self) -> bool {
        self.agreement.votes()
    }

    /// True if this node has proposed its cut: it proposes once in a configuration.
    pub(crate) fn has_proposed(&self) -> bool {
        self.own.is_some()
    }

    /// When [`Consensus::tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        if self.agreement.decided().is_some() {
            return None;
        }
        earliest(self.start_at, self.resend_at)
    }

    /// Proposes the cut that this node detected.
    pub(crate) fn propose(&mut self, now: Time, cut: Arc<Cut>, out: &mut Vec<Output>) {
        if !self.votes() || self.own.is_some() {
            return;
        }
        self.own = Some((cut.clone(), now));
        let possible = self.fast_possible();
        let (round, wait) = if possible {
            (FastRound::Vote, self.timing.fallback)
        } else {
            (FastRound::Skip, Duration::ZERO)
        };
        let mut yielded = Vec::new();
        self.agreement.propose(cut, round, &mut yielded);
        self.hurried = !possible;
        if !self.begun {
            self.start_at = Some(now + wait + self.turn());
        }
        self.resend_at.get_or_insert(now + self.timing.resend);
        self.absorb(now, yielded, out);
    }

    /// The acceptor's state with so many writes is durable.
    pub(crate) fn persisted(&mut self, now: Time, writes: u64, out: &mut Vec<Output>) {
        let mut yielded = Vec::new();
        self.agreement.persisted(writes, &mut yielded);
        self.absorb(now, yielded, out);
    }

    /// A message about this configuration's successor.
    pub(crate) fn on_message(
        &mut self,
        now: Time,
        from: NodeId,
        message: &Message,
        rng: &mut Rng,
        out: &mut Vec<Output>,
    ) {
        let mut yielded = Vec::new();
        match message {
            Message::FastVotes(votes) => {
                self.agreement.on_fast_votes(votes, &mut yielded);
                self.arm(now);
                self.hurry(now);
            }
            Message::CutRequest(CutRequest { config, cut }) => {
                if let Some(cut) = self.agreement.cut(*cut) {
                    let reply = CutReply {
                        config: *config,
                        cut: cut.clone(),
                    };
                    let message = Message::CutReply(Arc::new(reply));
                    out.push(Output::Send { to: from, message });
                }
            }
            Message::CutReply(reply) => self.agreement.on_cut(reply.cut.clone(), &mut yielded),
            Message::Prepare(ballot) if !self.shuns(now, from) => {
                self.agreement.on_prepare(from, ballot.rank, &mut yielded);
                self.give_way(now, (ballot.rank, false));
            }
            Message::Accept(accept) => {
                self.agreement.on_accept(from, accept, &mut yielded);
                self.give_way(now, (accept.ballot.rank, true));
            }
            Message::Promise(promise) => self.agreement.on_promise(from, promise, &mut yielded),
            Message::Accepted(ballot) => self.agreement.on_accepted(from, *ballot, &mut yielded),
            Message::Refused(refused) => {
                if self.agreement.on_refused(*refused) {
                    let patience = self.patience();
                    self.start_at = Some(now + rng.span(patience));
                }
            }
            // Shunned, or not about agreement.
            Message::Prepare(_)
            | Message::Probe(_)
            | Message::ProbeAck(_)
            | Message::Alerts(_)
            | Message::Pull(_)
            | Message::Views(_)
            | Message::Snapshot(_)
            | Message::Truncated(_)
            | Message::Lookup(_)
            | Message::LookupReply(_)
            | Message::Join(_)
            | Message::Admitted(_)
            | Message::Restarted(_)
            | Message::Leaving(_)
            | Message::Installed(_)
            | Message::Superseded(_) => {}
        }
        self.absorb(now, yielded, out);
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Output>) {
        if self.agreement.decided().is_some() {
            return;
        }
        let mut yielded = Vec::new();
        if self.start_at.is_some_and(|at| at <= now) {
            self.agreement.start_round(&mut yielded);
            self.rounds += 1;
            self.begun = true;
            let patience = self.patience();
            self.start_at = Some(now + patience + rng.span(patience / 2));
            self.resend_at = Some(now + self.timing.resend);
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            self.repeat(rng, &mut yielded);
            self.ask_for_cut(now, rng, &mut yielded);
            self.resend_at = Some(now + self.repeat_interval());
        }
        self.absorb(now, yielded, out);
    }

    fn repeat(&mut self, rng: &mut Rng, out: &mut Vec<Output>) {
        self.repeats += 1;
        self.agreement.resend(out);
        let Some(votes) = self.agreement.fast_votes().filter(|_| self.voted) else {
            return;
        };
        let message = Message::FastVotes(votes);
        if self.gossips() {
            let voters = self.config().voters();
            for _ in 0..GOSSIP_FANOUT {
                let to = voters[rng.below(voters.len())];
                let goes = self.own.as_ref().is_some_and(|(cut, _)| cut.removes(to));
                if to != self.me && !goes {
                    out.push(Output::Send {
                        to,
                        message: message.clone(),
                    });
                }
            }
        } else {
            out.push(Output::Broadcast(message));
        }
    }

    /// Asks a voter for the cut that a quorum voted for, if it is not known here.
    fn ask_for_cut(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Output>) {
        let Some((hash, tally)) = self.agreement.missing() else {
            return;
        };
        let index = tally.iter().nth(rng.below(tally.count().max(1)));
        let request = CutRequest {
            config: self.config().hash(),
            cut: hash,
        };
        let asked = index.map(|index| self.config().voters()[index]);
        out.extend(asked.map(|to| Output::Send {
            to,
            message: Message::CutRequest(request),
        }));
        self.asked_at = Some(now);
    }

    /// Handles what is this module's affair among the machine's outputs, and passes on the rest.
    fn absorb(&mut self, now: Time, yielded: Vec<Output>, out: &mut Vec<Output>) {
        for output in yielded {
            match output {
                Output::Voted => {
                    self.voted = true;
                    let interval = self.repeat_interval();
                    self.resend_at = Some(now + interval);
                    if !self.gossips() && self.config().voters().len() > 1 {
                        let votes = self.agreement.fast_votes();
                        out.extend(votes.map(|votes| Output::Broadcast(Message::FastVotes(votes))));
                    } else if self.gossips() {
                        // The first round of gossip leaves at the next tick, which is due now.
                        self.resend_at = Some(now);
                    }
                }
                Output::Missing(_) => {
                    let again = self
                        .asked_at
                        .map_or(now, |asked| now.max(asked + self.timing.resend));
                    self.resend_at = earliest(self.resend_at, Some(again));
                }
                Output::Persist(_)
                | Output::Send { .. }
                | Output::Broadcast(_)
                | Output::Decided(_)
                | Output::TwoVotes(_) => out.push(output),
            }
        }
    }

    fn config(&self) -> &Configuration {
        self.agreement.config()
    }

    fn gossips(&self) -> bool {
        self.config().voters().len() >= GOSSIP_FROM
    }

    fn repeat_interval(&self) -> Duration {
        if self.gossips() && self.repeats < GOSSIP_ROUNDS {
            self.timing.vote_gossip
        } else {
            self.timing.resend
        }
    }

    /// Whoever hears of a vote watches that a decision comes of it.
    fn arm(&mut self, now: Time) {
        if self.votes() && self.start_at.is_none() {
            self.start_at = Some(now + self.timing.fallback + self.turn());
        }
    }

    /// Starts a classic round early once the fast round cannot succeed. One that has begun is left its time.
    fn hurry(&mut self, now: Time) {
        let open = self.agreement.decided().is_none() && !self.begun;
        if open && self.own.is_some() && !self.hurried && !self.fast_possible() {
            self.hurried = true;
            let soon = now + self.turn();
            self.start_at = Some(self.start_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Another coordinator is at work, in the first or the second phase of a round: leave it its time. What it repeats
    /// is no news: one that is heard and hears nobody would hold everything up for ever.
    fn give_way(&mut self, now: Time, stage: (Rank, bool)) {
        self.begun = true;
        let news = self.gave_way.is_none_or(|last| last < stage);
        if !news {
            return;
        }
        self.gave_way = Some(stage);
        if self.votes() && !self.agreement.coordinates() {
            self.start_at = Some(now + self.patience() + self.turn());
        }
    }

    fn fast_possible(&self) -> bool {
        self.agreement.fast_possible(|voter| self.is_live(voter))
    }

    /// True if the voter is a member that the own cut keeps.
    fn is_live(&self, voter: NodeId) -> bool {
        let goes = self.own.as_ref().is_some_and(|(cut, _)| cut.removes(voter));
        !goes && self.config().index_of(voter).is_some()
    }

    /// How long this node leaves to the coordinators before it.
    fn turn(&self) -> Duration {
        let context = self.config().hash().0;
        let order = |voter: NodeId| (order_of(0x5475_726e, context, voter.0), voter);
        let mine = order(self.me);
        let before = self
            .config()
            .voters()
            .iter()
            .filter(|voter| self.is_live(**voter) && order(**voter) < mine)
            .count();
        self.timing.stagger * before as u32
    }

    /// How long a round may take before the next.
    fn patience(&self) -> Duration {
        let doubled = self.timing.fallback * (1 << self.rounds.min(8));
        doubled.min(self.timing.round_max)
    }

    /// A coordinator that the own cut removes gets no promise for a while: a minority that is heard but cannot hear
    /// would otherwise preempt the majority for ever.
    fn shuns(&self, now: Time, coordinator: NodeId) -> bool {
        self.own
            .as_ref()
            .is_some_and(|(cut, at)| cut.removes(coordinator) && now < *at + self.timing.shun)
    }
}
