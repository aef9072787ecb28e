//! What a leader knows about its leadership: rounds, the lease, and the reads that wait for them.
//!
//! A round is a heartbeat to every member of a group, numbered and timed by the node when it is
//! *sent*. A voter that answers round *r* followed this leader at a moment after *r* was sent, and
//! from its receipt on refuses other candidates for one guard. Two conclusions:
//!
//! - **quorum read:** if a quorum answered a round that was sent after the read arrived, then no
//!   other leader could have committed anything before the read arrived that this one does not
//!   know of;
//! - **lease:** until (send time + lease) no other leader can be elected at all, so reads need no
//!   round. The lease is computed anew from the *present* configuration at each look, both halves
//!   of a joint one, never learners: one configuration's quorum says nothing about the next.
//!
//! A leader that began a transfer never holds a lease again in that term. The message that tells
//! the successor to campaign may be delayed beyond any abort of the transfer, and the votes it
//! asks for ignore guards.

use std::collections::{BTreeMap, VecDeque};

use synod_storage::{Micros, ReplicaId};

use crate::configuration::Configuration;
use crate::read::ReadToken;

/// The number of a heartbeat round; unique within an incarnation of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Round(pub(crate) u64);

/// The newest round that a member answered.
#[derive(Clone, Copy, Debug)]
struct Answered {
    round: Round,
    sent_at: Micros,
}

/// Whether a leader may hold a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It may, when a quorum answers.
    Eligible,
    /// Never again in this term: it began a transfer.
    Barred,
}

/// A leader's knowledge of one term. Dropped when the term ends.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    /// The first entry of the term. When it is applied, all that earlier leaders committed is.
    pub(crate) first_index: u64,
    answered: BTreeMap<ReplicaId, Answered>,
    standing: Standing,
    pub(crate) reads: VecDeque<WaitingRead>,
    /// The round that the newest waiting reads count on, and when it was sent.
    pub(crate) read_round: Option<(Round, Micros)>,
}

/// A read that waits for a quorum, for the state to catch up, or for both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingRead {
    pub(crate) token: ReadToken,
    /// The state must have reached this entry.
    pub(crate) index: u64,
    /// The round it counts on, once one was sent after it arrived.
    pub(crate) round: Option<Round>,
    pub(crate) deadline: Micros,
}

impl Leading {
    pub(crate) fn new(term: u64, first_index: u64) -> Leading {
        Leading {
            term,
            first_index,
            answered: BTreeMap::new(),
            standing: Standing::Eligible,
            reads: VecDeque::new(),
            read_round: None,
        }
    }

    /// A member answered a round of this incarnation.
    pub(crate) fn answered(&mut self, member: ReplicaId, round: Round, sent_at: Micros) {
        let newest = self.answered.entry(member).or_insert(Answered { round, sent_at });
        if round > newest.round {
            *newest = Answered { round, sent_at };
        }
    }

    /// No lease any more in this term.
    pub(crate) fn bar_lease(&mut self) {
        self.standing = Standing::Barred;
    }

    /// The newest round that a quorum answered; `None` if there is none. The leader itself answers
    /// every round, at once.
    fn quorum<T: Ord + Copy>(
        &self,
        own: ReplicaId,
        configuration: &Configuration,
        always: T,
        of: impl Fn(&Answered) -> T,
    ) -> Option<T> {
        let half = |voters: &[ReplicaId]| -> Option<T> {
            let mut answers: Vec<T> = voters
                .iter()
                .filter_map(|voter| {
                    if *voter == own { Some(always) } else { self.answered.get(voter).map(&of) }
                })
                .collect();
            answers.sort_unstable_by(|a, b| b.cmp(a));
            answers.get(voters.len() / 2).copied()
        };
        let incoming = half(&configuration.voters)?;
        if configuration.voters_outgoing.is_empty() {
            return Some(incoming);
        }
        Some(incoming.min(half(&configuration.voters_outgoing)?))
    }

    /// Until when this leader holds a lease; before it, nobody else leads.
    pub(crate) fn lease_end(
        &self,
        own: ReplicaId,
        configuration: &Configuration,
        lease_us: u64,
    ) -> Option<Micros> {
        match self.standing {
            Standing::Barred => None,
            Standing::Eligible => self
                .quorum(own, configuration, Micros(u64::MAX), |answered| answered.sent_at)
                .map(|sent_at| Micros(sent_at.0.saturating_add(lease_us))),
        }
    }

    /// The newest round that a quorum answered.
    pub(crate) fn confirmed(
        &self,
        own: ReplicaId,
        configuration: &Configuration,
    ) -> Option<Round> {
        self.quorum(own, configuration, Round(u64::MAX), |answered| answered.round)
    }
}
