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
        let newest = self
            .answered
            .entry(member)
            .or_insert(Answered { round, sent_at });
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
                    if *voter == own {
                        Some(always)
                    } else {
                        self.answered.get(voter).map(&of)
                    }
                })
                .collect();
            answers.sort_unstable_by(|a, b| b.cmp(a));
            answers.get(voters.len() / 2).copied()
        };
        if synod_testpoint::planted!(CountsLearners) {
            let all: Vec<ReplicaId> = configuration.nodes.keys().copied().collect();
            return half(&all);
        }
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
                .quorum(own, configuration, Micros(u64::MAX), |answered| {
                    answered.sent_at
                })
                .map(|sent_at| Micros(sent_at.0.saturating_add(lease_us))),
        }
    }

    /// The newest round that a quorum answered.
    pub(crate) fn confirmed(&self, own: ReplicaId, configuration: &Configuration) -> Option<Round> {
        self.quorum(own, configuration, Round(u64::MAX), |answered| {
            answered.round
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_US: u64 = 500;

    fn ids(ids: &[u64]) -> Vec<ReplicaId> {
        ids.iter().copied().map(ReplicaId).collect()
    }

    fn configuration(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> Configuration {
        Configuration {
            voters: ids(voters),
            voters_outgoing: ids(outgoing),
            learners: ids(learners),
            ..Configuration::default()
        }
    }

    /// Replica 1 leads; the others answered the rounds that were sent at these times.
    fn lease_end(configuration: &Configuration, answers: &[(u64, u64)]) -> Option<u64> {
        let mut leading = Leading::new(2, 1);
        for &(member, sent_at) in answers {
            leading.answered(ReplicaId(member), Round(sent_at), Micros(sent_at));
        }
        leading
            .lease_end(ReplicaId(1), configuration, LEASE_US)
            .map(|end| end.0)
    }

    #[test]
    fn the_lease_runs_from_the_oldest_answer_that_a_quorum_needs() {
        let three = configuration(&[1, 2, 3], &[], &[]);
        assert_eq!(lease_end(&three, &[]), None);
        assert_eq!(lease_end(&three, &[(2, 100)]), Some(600));
        assert_eq!(lease_end(&three, &[(2, 100), (3, 300)]), Some(800));
        let five = configuration(&[1, 2, 3, 4, 5], &[], &[]);
        assert_eq!(lease_end(&five, &[(2, 300)]), None);
        assert_eq!(lease_end(&five, &[(2, 300), (3, 100), (4, 200)]), Some(700));
        let four = configuration(&[1, 2, 3, 4], &[], &[]);
        assert_eq!(lease_end(&four, &[(2, 300)]), None);
        assert_eq!(lease_end(&four, &[(2, 300), (3, 100)]), Some(600));
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let joint = configuration(&[1, 4, 5], &[1, 2, 3], &[]);
        assert_eq!(lease_end(&joint, &[(4, 300), (5, 300)]), None);
        assert_eq!(lease_end(&joint, &[(2, 300), (3, 300)]), None);
        assert_eq!(lease_end(&joint, &[(4, 300), (2, 100)]), Some(600));
    }

    #[test]
    fn learners_and_strangers_do_not_count() {
        let learners = configuration(&[1, 2, 3], &[], &[4, 5]);
        assert_eq!(lease_end(&learners, &[(4, 300), (5, 300), (9, 300)]), None);
    }

    #[test]
    fn a_leader_outside_of_its_voters_needs_a_quorum_of_others() {
        let others = configuration(&[2, 3, 4], &[], &[]);
        assert_eq!(lease_end(&others, &[(2, 300)]), None);
        assert_eq!(lease_end(&others, &[(2, 300), (3, 200)]), Some(700));
    }

    #[test]
    fn a_sole_voter_always_leads() {
        assert_eq!(
            lease_end(&configuration(&[1], &[], &[2]), &[]),
            Some(u64::MAX)
        );
    }

    #[test]
    fn the_present_configuration_decides_about_earlier_answers() {
        let mut leading = Leading::new(2, 1);
        leading.answered(ReplicaId(2), Round(9), Micros(100));
        let own = ReplicaId(1);
        let before = configuration(&[1, 2, 3], &[], &[]);
        assert!(leading.lease_end(own, &before, LEASE_US).is_some());
        assert!(leading.confirmed(own, &before).is_some());
        let after = configuration(&[1, 4, 5], &[], &[]);
        assert_eq!(leading.lease_end(own, &after, LEASE_US), None);
        assert_eq!(leading.confirmed(own, &after), None);
    }

    #[test]
    fn a_transfer_ends_the_lease_for_the_rest_of_the_term() {
        let three = configuration(&[1, 2, 3], &[], &[]);
        let mut leading = Leading::new(2, 1);
        leading.answered(ReplicaId(2), Round(1), Micros(100));
        leading.bar_lease();
        leading.answered(ReplicaId(3), Round(7), Micros(900));
        assert_eq!(leading.lease_end(ReplicaId(1), &three, LEASE_US), None);
        assert_eq!(
            leading.confirmed(ReplicaId(1), &three),
            Some(Round(7)),
            "rounds still count"
        );
    }

    #[test]
    fn a_late_answer_to_an_old_round_takes_nothing_back() {
        let three = configuration(&[1, 2, 3], &[], &[]);
        assert_eq!(lease_end(&three, &[(2, 300), (2, 100)]), Some(800));
    }
}
