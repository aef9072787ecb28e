//! Agreement on one successor: Fast Paxos for a single value, without a clock.
//!
//! Each configuration decides its successor by one instance of this state machine. Voters whose cut detectors yield the
//! same cut vote for it in the fast round, and N − ⌊(N−1)/4⌋ identical votes decide (Rapid, §4.3). Where that does not
//! come about, coordinators run classic rounds: a majority promises (1a, 1b), the coordinator picks a value that any
//! earlier decision forces on it, and a majority's votes (2a, 2b) decide.
//!
//! What keeps it safe, and is checked by exhaustive exploration:
//!
//! * A vote or promise is durable before anybody hears of it, and is never forgotten.
//! * No fast vote after a promise; no vote or promise below a promise.
//! * Ranks are unique: the coordinator's slot is part of them, it durably promises its own rank before it uses it, and
//!   after a restart it goes above everything it promised.
//! * Each slot counts once, and only slots of this configuration count.
//! * The coordinator's rule: a fast value is forced if it has at least |Q| − ⌊(N−1)/4⌋ of the quorum's votes.
//!
//! When to do what is the business of [`super::Consensus`]. This machine may be driven in any order at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::catalog::Catalog;
use crate::configuration::SharedConfiguration;
use crate::cut::Cut;
use crate::durable::AcceptorState;
use crate::id::{CutHash, NodeId};
use crate::message::{Accept, Ballot, FastVotes, Message, Promise, Refused, Tally, Vote};
use crate::view::{Certificate, Rank, View};

#[cfg(test)]
pub(crate) use super::sabotage::Sabotage;

/// What agreement wants done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Make the acceptor's state durable, then call [`Agreement::persisted`] with its `writes`.
    Persist(Arc<AcceptorState>),
    /// Send to one voter.
    Send { to: NodeId, message: Message },
    /// Send to all voters but this one.
    Broadcast(Message),
    /// A fast vote of our own is durable: spread the tallies.
    Voted,
    /// The successor is decided.
    Decided(Arc<View>),
    /// The quorum voted for a cut that this node does not know; somebody in the tally does.
    Missing(CutHash),
    /// A voter's bit is set for two values.
    TwoVotes(u32),
}

/// A reply that waits for the state that it speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Withheld {
    FastVote(CutHash),
    Promise { to: NodeId, promise: Arc<Promise> },
    Accepted { to: NodeId, ballot: Ballot },
}

/// A classic round that this node coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    rank: Rank,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Phase 1: promises, by voter.
    Promising(Vec<(NodeId, Option<Vote>)>),
    /// Phase 2: votes for the value that was chosen, by voter.
    Accepting { value: Vote, accepted: Vec<NodeId> },
}

/// One voter's part in deciding one successor.
///
/// Invariants: `promised` and `vote` only rise, and `vote`'s rank is at most `promised`; nothing in `withheld` was
/// sent; `round`'s rank is this node's and was durably promised before its first message.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    config: SharedConfiguration,
    catalog: Catalog,
    me: NodeId,
    slot: Option<u32>,
    promised: Rank,
    vote: Option<Vote>,
    writes: u64,
    durable_writes: u64,
    withheld: Vec<(u64, Withheld)>,
    proposal: Option<Vote>,
    tallies: BTreeMap<CutHash, Bitmap>,
    cuts: BTreeMap<CutHash, Arc<Cut>>,
    round: Option<Round>,
    highest_seen: u32,
    decided: Option<Arc<View>>,
    #[cfg(test)]
    pub(crate) sabotage: Option<Sabotage>,
}

impl Agreement {
    /// Takes up the successor of `config`. `stored` is what this directory's acceptor last wrote, for whichever
    /// configuration.
    pub(crate) fn new(
        config: SharedConfiguration,
        catalog: Catalog,
        me: NodeId,
        stored: Option<&AcceptorState>,
    ) -> Agreement {
        let current = stored.filter(|state| state.config == config.hash());
        // A state of a later configuration means that the log has lost its end: having voted there, this node must not
        // vote here.
        let left_behind = stored.is_some_and(|state| {
            state.seq > config.seq() || (state.seq == config.seq() && current.is_none())
        });
        let slot = config
            .voter_index(me)
            .map(|index| index as u32)
            .filter(|_| !left_behind);
        let writes = stored.map_or(0, |state| state.writes);
        let mut agreement = Agreement {
            me,
            slot,
            promised: current.map_or(Rank::FAST, |state| state.promised),
            vote: current.and_then(|state| state.vote.clone()),
            writes,
            durable_writes: writes,
            withheld: Vec::new(),
            proposal: None,
            tallies: BTreeMap::new(),
            cuts: BTreeMap::new(),
            round: None,
            highest_seen: 0,
            decided: None,
            config,
            catalog,
            #[cfg(test)]
            sabotage: None,
        };
        if let Some(vote) = agreement.vote.clone() {
            agreement.cuts.insert(vote.hash, vote.cut);
            if vote.rank.is_fast() {
                agreement.count_fast(vote.hash, agreement.slot);
            }
        }
        agreement
    }

    /// The configuration whose successor is being decided.
    pub(crate) fn config(&self) -> &SharedConfiguration {
        &self.config
    }

    /// True if this node has a vote here.
    pub(crate) fn votes(&self) -> bool {
        self.slot.is_some()
    }

    /// The decision, once known.
    pub(crate) fn decided(&self) -> Option<&Arc<View>> {
        self.decided.as_ref()
    }

    /// The fast votes known here, for others to merge.
    pub(crate) fn fast_votes(&self) -> Option<Arc<FastVotes>> {
        let tallies: Vec<Tally> = self
            .tallies
            .iter()
            .map(|(cut, voters)| Tally {
                cut: *cut,
                voters: voters.clone(),
            })
            .collect();
        let any = !tallies.is_empty();
        any.then(|| {
            Arc::new(FastVotes {
                config: self.config.hash(),
                tallies,
            })
        })
    }

    /// A cut that was proposed, if it is known here.
    pub(crate) fn cut(&self, hash: CutHash) -> Option<&Arc<Cut>> {
        self.cuts.get(&hash)
    }

    /// A cut that a quorum voted for in the fast round and that is not known here, with its voters.
    pub(crate) fn missing(&self) -> Option<(CutHash, &Bitmap)> {
        let quorum = self.config.fast_quorum();
        let chosen = self
            .tallies
            .iter()
            .find(|(_, tally)| tally.count() >= quorum)?;
        let unknown = self.decided.is_none() && !self.cuts.contains_key(chosen.0);
        unknown.then_some((*chosen.0, chosen.1))
    }

    /// True if some value can still reach the fast quorum, should all voters in `waiting` that were not heard yet vote
    /// for it.
    pub(crate) fn fast_possible(&self, waiting: impl Fn(NodeId) -> bool) -> bool {
        let voters = self.config.voters().iter().enumerate();
        let unheard = voters
            .filter(|(index, _)| !self.tallies.values().any(|tally| tally.contains(*index)))
            .filter(|(_, voter)| waiting(**voter))
            .count();
        let most = self.tallies.values().map(Bitmap::count).max().unwrap_or(0);
        most + unheard >= self.config.fast_quorum()
    }

    /// Proposes a cut, which must be valid: with a vote in the fast round if that is still allowed and wanted, and as
    /// what a free coordinator would choose.
    pub(crate) fn propose(&mut self, cut: Arc<Cut>, vote: FastRound, out: &mut Vec<Output>) {
        let hash = self.config.cut_hash(&cut);
        self.cuts.insert(hash, cut.clone());
        self.proposal.get_or_insert(Vote {
            rank: Rank::FAST,
            hash,
            cut: cut.clone(),
        });
        // No fast vote after a promise: the coordinator has counted on there being none.
        let allowed =
            self.vote.is_none() && (self.promised.is_fast() || self.fast_vote_sabotaged());
        if vote == FastRound::Vote && allowed && self.slot.is_some() {
            self.vote = Some(Vote {
                rank: Rank::FAST,
                hash,
                cut,
            });
            self.persist(Withheld::FastVote(hash), out);
        }
    }

    /// Begins a classic round as its coordinator, above all that were seen. Phase 1a leaves once the own promise is
    /// durable.
    pub(crate) fn start_round(&mut self, out: &mut Vec<Output>) {
        let Some(slot) = self.slot.filter(|_| self.decided.is_none()) else {
            return;
        };
        let round = self.promised.round.max(self.highest_seen) + 1;
        let rank = Rank {
            round,
            coordinator: self.rank_owner(slot),
        };
        self.highest_seen = round;
        self.round = Some(Round {
            rank,
            phase: Phase::Promising(Vec::new()),
        });
        self.promise(self.me, rank, out);
    }

    /// True while a round of ours has neither been decided nor overtaken.
    pub(crate) fn coordinates(&self) -> bool {
        self.round.is_some()
    }

    /// Sends again what the voters of the current round have not answered.
    pub(crate) fn resend(&self, out: &mut Vec<Output>) {
        let Some(round) = &self.round else { return };
        let (answered, message): (Vec<NodeId>, Message) = match &round.phase {
            Phase::Promising(promises) => {
                // Without the own promise the rank is not durable yet.
                if !promises.iter().any(|(node, _)| *node == self.me) {
                    return;
                }
                let nodes = promises.iter().map(|(node, _)| *node).collect();
                (nodes, Message::Prepare(self.ballot(round.rank)))
            }
            Phase::Accepting { value, accepted } => (accepted.clone(), self.accept_message(value)),
        };
        let silent = self
            .config
            .voters()
            .iter()
            .filter(|voter| !answered.contains(voter));
        out.extend(
            silent
                .filter(|voter| **voter != self.me)
                .map(|voter| Output::Send {
                    to: *voter,
                    message: message.clone(),
                }),
        );
    }

    /// The state with so many writes, and all before it, are durable: what was withheld for them may go.
    pub(crate) fn persisted(&mut self, writes: u64, out: &mut Vec<Output>) {
        self.durable_writes = self.durable_writes.max(writes);
        let due = self
            .withheld
            .partition_point(|(needs, _)| *needs <= self.durable_writes);
        let released: Vec<Withheld> = self.withheld.drain(..due).map(|(_, reply)| reply).collect();
        for reply in released {
            self.release(reply, out);
        }
    }

    fn release(&mut self, reply: Withheld, out: &mut Vec<Output>) {
        match reply {
            Withheld::FastVote(hash) => {
                self.count_fast(hash, self.slot);
                out.push(Output::Voted);
                self.check_fast(out);
            }
            Withheld::Promise { to, promise } if to == self.me => {
                let rank = promise.ballot.rank;
                if self.round.as_ref().is_some_and(|round| round.rank == rank) {
                    out.push(Output::Broadcast(Message::Prepare(promise.ballot)));
                    self.on_promise(self.me, &promise, out);
                }
            }
            Withheld::Promise { to, promise } => {
                out.push(Output::Send {
                    to,
                    message: Message::Promise(promise),
                });
            }
            Withheld::Accepted { to, ballot } if to == self.me => {
                self.on_accepted(self.me, ballot, out);
            }
            Withheld::Accepted { to, ballot } => {
                out.push(Output::Send {
                    to,
                    message: Message::Accepted(ballot),
                });
            }
        }
    }

    /// Merges fast votes that others know of.
    pub(crate) fn on_fast_votes(&mut self, votes: &FastVotes, out: &mut Vec<Output>) {
        let capacity = self.config.voters().len();
        for Tally { cut, voters } in &votes.tallies {
            if voters.capacity() != capacity {
                continue;
            }
            for (other, tally) in &self.tallies {
                if other != cut && tally.intersects(voters) {
                    let both = tally.iter().find(|index| voters.contains(*index));
                    out.extend(both.map(|index| Output::TwoVotes(index as u32)));
                }
            }
            self.tallies
                .entry(*cut)
                .or_insert_with(|| Bitmap::empty(capacity))
                .merge(voters);
        }
        self.check_fast(out);
    }

    /// Learns what a hash stands for.
    pub(crate) fn on_cut(&mut self, cut: Arc<Cut>, out: &mut Vec<Output>) {
        if self.is_valid(&cut) {
            self.cuts.insert(self.config.cut_hash(&cut), cut);
            self.check_fast(out);
        }
    }

    /// Phase 1a.
    pub(crate) fn on_prepare(&mut self, from: NodeId, rank: Rank, out: &mut Vec<Output>) {
        if self.slot.is_none() || !self.is_coordinator(from, rank) {
            return;
        }
        self.highest_seen = self.highest_seen.max(rank.round);
        if rank > self.promised {
            self.promise(from, rank, out);
        } else if rank == self.promised && self.vote.as_ref().is_none_or(|vote| vote.rank < rank) {
            // A repetition. The reply must still not overtake the promise on its way to the platter.
            let promise = Arc::new(Promise {
                ballot: self.ballot(rank),
                vote: self.vote.clone(),
            });
            self.withhold(Withheld::Promise { to: from, promise }, out);
        } else {
            out.push(Output::Send {
                to: from,
                message: self.refusal(rank),
            });
        }
    }

    /// Phase 1b.
    pub(crate) fn on_promise(&mut self, from: NodeId, promise: &Promise, out: &mut Vec<Output>) {
        let valid = promise.vote.as_ref().is_none_or(|vote| self.is_value(vote));
        if !valid || !self.counts(from) {
            return;
        }
        let twice = self.counts_twice();
        let Some(Round {
            rank,
            phase: Phase::Promising(promises),
        }) = &mut self.round
        else {
            return;
        };
        if *rank != promise.ballot.rank || (!twice && promises.iter().any(|(n, _)| *n == from)) {
            return;
        }
        promises.push((from, promise.vote.clone()));
        if promises.len() < self.config.majority() {
            return;
        }
        let (rank, promises) = (*rank, promises.clone());
        let Some(chosen) = self.choose(&promises) else {
            return;
        };
        self.cuts.insert(chosen.hash, chosen.cut.clone());
        let value = Vote { rank, ..chosen };
        let accepting = Phase::Accepting {
            value: value.clone(),
            accepted: Vec::new(),
        };
        self.round = Some(Round {
            rank,
            phase: accepting,
        });
        out.push(Output::Broadcast(self.accept_message(&value)));
        self.accept(self.me, value, out);
    }

    /// The coordinator's rule (Fast Paxos, §2.2; here for quorums of a majority and of N − ⌊(N−1)/4⌋).
    fn choose(&self, promises: &[(NodeId, Option<Vote>)]) -> Option<Vote> {
        let votes: Vec<&Vote> = promises
            .iter()
            .filter_map(|(_, vote)| vote.as_ref())
            .collect();
        let highest = votes
            .iter()
            .map(|vote| vote.rank)
            .max()
            .unwrap_or(Rank::FAST);
        if !highest.is_fast() {
            // Ranks are unique, so there is one value at the highest.
            return votes
                .iter()
                .find(|vote| vote.rank == highest)
                .map(|vote| (*vote).clone());
        }
        let mut counts: BTreeMap<CutHash, usize> = BTreeMap::new();
        votes
            .iter()
            .for_each(|vote| *counts.entry(vote.hash).or_default() += 1);
        let forcing = self.forcing_votes(promises.len());
        let value = |hash: CutHash| {
            votes
                .iter()
                .find(|vote| vote.hash == hash)
                .copied()
                .cloned()
        };
        if let Some((forced, _)) = counts.iter().find(|(_, count)| **count >= forcing) {
            return value(*forced);
        }
        // Free: what this node detected, or else what most others did.
        self.proposal.clone().or_else(|| {
            let (most, _) = counts
                .iter()
                .max_by_key(|(hash, count)| (**count, **hash))?;
            value(*most)
        })
    }

    /// Phase 2a.
    pub(crate) fn on_accept(&mut self, from: NodeId, accept: &Accept, out: &mut Vec<Output>) {
        let rank = accept.ballot.rank;
        let well_formed = accept.value.rank == rank && self.is_value(&accept.value);
        if self.slot.is_none() || !self.is_coordinator(from, rank) || !well_formed {
            return;
        }
        self.highest_seen = self.highest_seen.max(rank.round);
        if rank < self.promised {
            out.push(Output::Send {
                to: from,
                message: self.refusal(rank),
            });
        } else {
            self.accept(from, accept.value.clone(), out);
        }
    }

    /// Phase 2b, at the coordinator.
    pub(crate) fn on_accepted(&mut self, from: NodeId, ballot: Ballot, out: &mut Vec<Output>) {
        let (member, twice) = (self.counts(from), self.counts_twice());
        let Some(Round {
            rank,
            phase: Phase::Accepting { value, accepted },
        }) = &mut self.round
        else {
            return;
        };
        if *rank != ballot.rank || !member || (!twice && accepted.contains(&from)) {
            return;
        }
        accepted.push(from);
        if accepted.len() < self.config.majority() {
            return;
        }
        let (rank, value) = (*rank, value.clone());
        let mut voters = Bitmap::empty(self.config.voters().len());
        for voter in accepted.iter() {
            if let Some(index) = self.config.voter_index(*voter) {
                voters.insert(index);
            }
        }
        self.decide(value.cut, rank, voters, out);
    }

    /// A refusal: the next round must be higher than what was promised elsewhere. True if it is about our round.
    pub(crate) fn on_refused(&mut self, refused: Refused) -> bool {
        self.highest_seen = self.highest_seen.max(refused.promised.round);
        let ours = self
            .round
            .as_ref()
            .is_some_and(|round| round.rank == refused.asked);
        let overtaken = ours && refused.promised > refused.asked;
        if overtaken {
            self.round = None;
        }
        overtaken
    }

    fn promise(&mut self, to: NodeId, rank: Rank, out: &mut Vec<Output>) {
        assert!(rank > self.promised, "promises only rise");
        self.promised = rank;
        let promise = Arc::new(Promise {
            ballot: self.ballot(rank),
            vote: self.vote.clone(),
        });
        if to != self.me {
            // Somebody else's higher round: ours cannot succeed any more.
            self.round = None;
        }
        self.persist(Withheld::Promise { to, promise }, out);
    }

    fn accept(&mut self, to: NodeId, value: Vote, out: &mut Vec<Output>) {
        let rank = value.rank;
        let reply = Withheld::Accepted {
            to,
            ballot: self.ballot(rank),
        };
        let repeated = self.vote.as_ref().is_some_and(|vote| *vote == value);
        if repeated {
            self.withhold(reply, out);
            return;
        }
        if rank < self.promised {
            return;
        }
        self.promised = rank;
        self.cuts.insert(value.hash, value.cut.clone());
        self.vote = Some(value);
        self.persist(reply, out);
    }

    fn decide(&mut self, cut: Arc<Cut>, rank: Rank, voters: Bitmap, out: &mut Vec<Output>) {
        if self.decided.is_some() {
            return;
        }
        // Nobody votes for a cut that does not apply, so a decided one does.
        let Ok(after) = self.catalog.successor(&self.config, &cut) else {
            return;
        };
        let certificate = Certificate {
            config: self.config.hash(),
            rank,
            voters,
        };
        let view = Arc::new(View {
            seq: after.seq(),
            hash: after.hash(),
            cut,
            certificate,
        });
        self.round = None;
        self.decided = Some(view.clone());
        out.push(Output::Decided(view));
    }

    fn count_fast(&mut self, hash: CutHash, slot: Option<u32>) {
        let capacity = self.config.voters().len();
        if let Some(slot) = slot {
            let tally = self
                .tallies
                .entry(hash)
                .or_insert_with(|| Bitmap::empty(capacity));
            tally.insert(slot as usize);
        }
    }

    fn check_fast(&mut self, out: &mut Vec<Output>) {
        let quorum = self.config.fast_quorum();
        let Some((hash, voters)) = self
            .tallies
            .iter()
            .find(|(_, tally)| tally.count() >= quorum)
        else {
            return;
        };
        let (hash, voters) = (*hash, voters.clone());
        match self.cuts.get(&hash).cloned() {
            Some(cut) => self.decide(cut, Rank::FAST, voters, out),
            None if self.decided.is_none() => out.push(Output::Missing(hash)),
            None => {}
        }
    }

    /// Asks for the state to be made durable, and withholds a reply until it is.
    fn persist(&mut self, reply: Withheld, out: &mut Vec<Output>) {
        self.writes += 1;
        if self.replies_early() {
            self.release(reply, out);
        } else {
            self.withheld.push((self.writes, reply));
        }
        out.push(Output::Persist(Arc::new(AcceptorState {
            seq: self.config.seq(),
            config: self.config.hash(),
            promised: self.promised,
            vote: self.vote.clone(),
            writes: self.writes,
        })));
    }

    /// Withholds a reply about the current state, which may be on its way to the platter.
    fn withhold(&mut self, reply: Withheld, out: &mut Vec<Output>) {
        if self.durable_writes == self.writes {
            self.release(reply, out);
        } else if !self.withheld.iter().any(|(_, known)| *known == reply) {
            // Repetitions of a question, while the disk is slow, add nothing.
            self.withheld.push((self.writes, reply));
        }
    }

    fn ballot(&self, rank: Rank) -> Ballot {
        Ballot {
            config: self.config.hash(),
            rank,
        }
    }

    fn accept_message(&self, value: &Vote) -> Message {
        let accept = Accept {
            ballot: self.ballot(value.rank),
            value: value.clone(),
        };
        Message::Accept(Arc::new(accept))
    }

    fn refusal(&self, asked: Rank) -> Message {
        let (config, promised) = (self.config.hash(), self.promised);
        Message::Refused(Refused {
            config,
            asked,
            promised,
        })
    }

    /// True if the value is one that could be installed, under the hash that it claims.
    fn is_value(&self, vote: &Vote) -> bool {
        self.config.cut_hash(&vote.cut) == vote.hash
            && (self.cuts.contains_key(&vote.hash) || self.is_valid(&vote.cut))
    }

    fn is_valid(&self, cut: &Cut) -> bool {
        self.catalog.successor(&self.config, cut).is_ok()
    }

    /// A rank belongs to the voter whose slot it names.
    fn is_coordinator(&self, from: NodeId, rank: Rank) -> bool {
        #[cfg(test)]
        if self.sabotage == Some(Sabotage::SharedRanks) {
            return !rank.is_fast();
        }
        let owner = self.config.voters().get(rank.coordinator as usize);
        !rank.is_fast() && owner == Some(&from)
    }

    /// True if votes of this node count here.
    fn counts(&self, node: NodeId) -> bool {
        #[cfg(test)]
        if self.sabotage == Some(Sabotage::NonMemberVotes) {
            return true;
        }
        self.config.is_voter(node)
    }

    /// So many votes in a quorum of this size force a fast value on the coordinator: if the value was decided, all but
    /// ⌊(N−1)/4⌋ voters chose it, so at most that many in the quorum did not.
    fn forcing_votes(&self, quorum: usize) -> usize {
        #[cfg(test)]
        if self.sabotage == Some(Sabotage::UnanimousCoordinatorRule) {
            return quorum;
        }
        quorum - self.config.fast_faults()
    }

    fn rank_owner(&self, slot: u32) -> u32 {
        #[cfg(test)]
        if self.sabotage == Some(Sabotage::SharedRanks) {
            return 0;
        }
        slot
    }

    fn fast_vote_sabotaged(&self) -> bool {
        #[cfg(test)]
        return self.sabotage == Some(Sabotage::FastVoteAfterPromise);
        #[cfg(not(test))]
        false
    }

    fn replies_early(&self) -> bool {
        #[cfg(test)]
        return self.sabotage == Some(Sabotage::RepliesEarly);
        #[cfg(not(test))]
        false
    }

    fn counts_twice(&self) -> bool {
        #[cfg(test)]
        return self.sabotage == Some(Sabotage::CountsTwice);
        #[cfg(not(test))]
        false
    }
}

/// Whether to cast a vote in the fast round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastRound {
    /// Vote.
    Vote,
    /// The fast quorum is out of reach: do not bother.
    Skip,
}

#[cfg(test)]
impl Agreement {
    /// Everything that decides what this machine will do next, for an explorer that must tell states apart.
    pub(crate) fn fingerprint(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        (self.promised, &self.vote, self.writes, self.durable_writes).hash(hasher);
        (&self.withheld, &self.proposal, &self.tallies, &self.round).hash(hasher);
        self.highest_seen.hash(hasher);
        self.decided.as_ref().map(|view| view.hash).hash(hasher);
    }
}
