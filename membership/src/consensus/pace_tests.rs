//! When a voter votes, and when it begins its rounds: one voter at a time, each with a clock of its own.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::bitmap::Bitmap;
use crate::catalog::Catalog;
use crate::configuration::SharedConfiguration;
use crate::cut::Departure;
use crate::message::{Ballot, FastVotes, Refused, Tally};
use crate::rng::Seed;
use crate::view::Rank;
use crate::voters::tests::{founded, member, remove};

/// A voter that hears what a test says, and whose disk takes no time.
struct Voter {
    config: SharedConfiguration,
    consensus: Consensus,
    now: Time,
    rng: Rng,
}

impl Voter {
    fn new(config: &SharedConfiguration, slot: usize) -> Voter {
        let me = config.voters()[slot];
        let agreement = Agreement::new(config.clone(), Catalog::new(), me, None);
        Voter {
            config: config.clone(),
            consensus: Consensus::new(agreement, me, Timing::default()),
            now: Time::ZERO,
            rng: Rng::new(Seed::from(slot as u64)),
        }
    }

    /// Gives what it says after its writes.
    fn act(
        &mut self,
        act: impl FnOnce(&mut Consensus, Time, &mut Rng, &mut Vec<Output>),
    ) -> Vec<Message> {
        let mut out = Vec::new();
        act(&mut self.consensus, self.now, &mut self.rng, &mut out);
        let (mut out, mut said) = (VecDeque::from(out), Vec::new());
        while let Some(output) = out.pop_front() {
            match output {
                Output::Persist(state) => {
                    let mut released = Vec::new();
                    self.consensus
                        .persisted(self.now, state.writes, &mut released);
                    out.extend(released);
                }
                Output::Send { message, .. } | Output::Broadcast(message) => said.push(message),
                other => panic!("{other:?}"),
            }
        }
        said
    }

    fn propose(&mut self, cut: &Cut) -> Vec<Message> {
        let cut = Arc::new(cut.clone());
        self.act(|consensus, now, _, out| consensus.propose(now, cut, out))
    }

    fn hear(&mut self, from: usize, message: &Message) -> Vec<Message> {
        let from = self.config.voters()[from];
        self.act(|consensus, now, rng, out| consensus.on_message(now, from, message, rng, out))
    }

    /// It hears that another voter voted for a cut.
    fn hear_vote(&mut self, from: usize, cut: &Cut) {
        let mut voters = Bitmap::empty(self.config.voters().len());
        voters.insert(from);
        let cut = self.config.cut_hash(cut);
        let votes = FastVotes {
            config: self.config.hash(),
            tallies: vec![Tally { cut, voters }],
        };
        self.hear(from, &Message::FastVotes(Arc::new(votes)));
    }

    /// Lets time pass until then; gives what it says meanwhile, and when, in milliseconds.
    fn pass(&mut self, until_ms: u64) -> Vec<(u64, Message)> {
        let end = Time::from_ms(until_ms);
        let mut said = Vec::new();
        while let Some(at) = self.consensus.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let messages = self.act(|consensus, now, rng, out| consensus.tick(now, rng, out));
            said.extend(
                messages
                    .into_iter()
                    .map(|message| (self.now.as_ms(), message)),
            );
        }
        self.now = end;
        said
    }

    /// Lets time pass; gives the classic rounds that it begins meanwhile: when, and of which rank.
    fn rounds(&mut self, until_ms: u64) -> Vec<(u64, Rank)> {
        let mut rounds: Vec<(u64, Rank)> = Vec::new();
        for (at, message) in self.pass(until_ms) {
            if let Message::Prepare(Ballot { rank, .. }) = message
                && rounds.last().is_none_or(|(_, last)| *last != rank)
            {
                rounds.push((at, rank));
            }
        }
        rounds
    }

    /// When it begins its first round.
    fn begins(&mut self) -> u64 {
        self.rounds(3_000)[0].0
    }
}

fn ballot(config: &SharedConfiguration, round: u32, coordinator: u32) -> Ballot {
    Ballot {
        config: config.hash(),
        rank: Rank { round, coordinator },
    }
}

fn five() -> SharedConfiguration {
    Arc::new(founded(5))
}

fn crash(nodes: &[u8]) -> Cut {
    remove(nodes, Departure::Failed)
}

fn arrival(index: u8) -> Cut {
    Cut {
        add: vec![member(index)],
        ..Cut::default()
    }
}

/// When each of the voters that a cut keeps begins, having proposed it at zero and heard nobody; sorted by that.
fn beginnings(config: &SharedConfiguration, cut: &Cut) -> Vec<(u64, usize)> {
    let keeps = |slot: &usize| !cut.removes(config.voters()[*slot]);
    let begins = |slot| {
        let mut voter = Voter::new(config, slot);
        voter.propose(cut);
        (voter.begins(), slot)
    };
    let slots = (0..config.voters().len()).filter(keeps);
    let mut all: Vec<(u64, usize)> = slots.map(begins).collect();
    all.sort_unstable();
    all
}

fn times(beginnings: &[(u64, usize)]) -> Vec<u64> {
    beginnings.iter().map(|(at, _)| *at).collect()
}

/// Each computes by itself when it is its turn, and no two turns are the same: so all compute one order.
#[test]
fn coordinators_that_stay_begin_at_equal_distances_in_one_order() {
    let config = Arc::new(founded(7));
    for gone in [[6, 7], [1, 4], [2, 3]] {
        let classic = beginnings(&config, &crash(&gone));
        assert_eq!(times(&classic), [0, 100, 200, 300, 400], "at once");
    }
    let fast = beginnings(&config, &arrival(9));
    let expected = [500, 600, 700, 800, 900, 1_000, 1_100];
    assert_eq!(times(&fast), expected, "after the fast round's time");
}

#[test]
fn each_configuration_has_an_order_of_its_own() {
    let mut config = five();
    let mut first = BTreeSet::new();
    for index in 10..20 {
        first.insert(beginnings(&config, &arrival(9))[0].1);
        config = Arc::new(config.successor(&arrival(index)).unwrap());
    }
    assert!(first.len() >= 3, "{first:?}");
}

#[test]
fn whoever_saw_a_vote_watches_that_a_decision_comes_of_it() {
    let config = five();
    let begins = |slot: usize| {
        let mut voter = Voter::new(&config, slot);
        assert_eq!(voter.pass(1_000), [], "nothing was heard");
        voter.hear_vote((slot + 1) % 5, &crash(&[5]));
        voter.begins()
    };
    let mut all: Vec<u64> = (0..5).map(begins).collect();
    all.sort_unstable();
    assert_eq!(all, [1_500, 1_600, 1_700, 1_800, 1_900]);
}

#[test]
fn a_classic_round_begins_as_soon_as_no_value_can_win_the_fast_one() {
    let config = five();
    let (gone, joins) = (crash(&[5]), arrival(9));
    for (undisturbed, slot) in beginnings(&config, &gone) {
        let mut voter = Voter::new(&config, slot);
        voter.propose(&gone);
        voter.pass(50);
        // Four votes are needed. One of the four voters that stay has another wish.
        voter.hear_vote((slot + 1) % 4, &joins);
        assert_eq!(voter.begins(), undisturbed - 450);
    }
    for (undisturbed, slot) in beginnings(&config, &joins) {
        let mut voter = Voter::new(&config, slot);
        voter.propose(&joins);
        voter.pass(50);
        // Of five, one may; a second one with a third wish may not.
        voter.hear_vote((slot + 1) % 5, &gone);
        assert_eq!(voter.rounds(70), []);
        voter.hear_vote((slot + 2) % 5, &arrival(8));
        assert_eq!(voter.begins(), undisturbed - 430);
    }
}

#[test]
fn a_vote_that_cannot_help_is_spared() {
    let votes = |gone: &[u8], slot| {
        let mut voter = Voter::new(&five(), slot);
        let at_once = voter.propose(&crash(gone));
        let later = voter.pass(2_000).into_iter().map(|(_, message)| message);
        let all = at_once.into_iter().chain(later);
        all.filter(|message| matches!(message, Message::FastVotes(_)))
            .count()
    };
    for slot in 0..3 {
        assert!(votes(&[5], slot) > 0, "four can decide");
        assert_eq!(votes(&[4, 5], slot), 0, "three cannot");
    }
}

#[test]
fn patience_doubles_up_to_five_seconds() {
    for slot in 0..3 {
        let mut voter = Voter::new(&five(), slot);
        voter.propose(&crash(&[4, 5]));
        let rounds = voter.rounds(40_000);
        let patience = [1_000, 2_000, 4_000, 5_000, 5_000];
        for (pair, least) in rounds.windows(2).zip(patience) {
            let (wait, raised) = (pair[1].0 - pair[0].0, pair[1].1.round - pair[0].1.round);
            // And up to half as much again, by chance, so that two do not go on in step.
            assert!((least..=least * 3 / 2).contains(&wait), "{rounds:?}");
            assert_eq!(raised, 1);
        }
        assert!(rounds.len() > patience.len());
    }
}

/// Repetitions keep the rank, whatever is heard.
#[test]
fn an_own_round_is_raised_after_its_time_or_a_refusal_and_for_nothing_else() {
    let config = five();
    let cut = crash(&[5]);
    for (at, slot) in beginnings(&config, &cut) {
        let begun = || {
            let mut voter = Voter::new(&config, slot);
            voter.propose(&cut);
            let rounds = voter.rounds(at);
            let [(_, rank)] = rounds[..] else {
                panic!("one round: {rounds:?}")
            };
            (voter, rank)
        };
        let other = (slot + 1) % 4;
        let refused = |asked| {
            Message::Refused(Refused {
                config: config.hash(),
                asked,
                promised: ballot(&config, 7, other as u32).rank,
            })
        };
        let (mut voter, rank) = begun();
        voter.hear_vote(other, &arrival(9));
        let stale = ballot(&config, rank.round, 4).rank;
        assert_ne!(stale, rank);
        voter.hear(other, &refused(stale));
        assert_eq!(voter.rounds(at + 999), [(at + 200, rank)], "repeated");
        let raised = voter.rounds(at + 1_500).last().unwrap().1;
        assert_eq!(raised.round, 8, "above all that was heard of");

        let (mut voter, rank) = begun();
        voter.hear(other, &refused(rank));
        assert_eq!(voter.rounds(at + 999)[0].1.round, 8);
    }
}

/// Nobody begins another one on top of it, though it has become clear that the fast round is lost, or has just come to
/// want something itself.
#[test]
fn anothers_round_has_its_time_before_it_is_raised() {
    let config = five();
    let (gone, two_gone) = (crash(&[5]), crash(&[4, 5]));
    for slot in 0..3 {
        let other = (slot + 1) % 3;
        let prepare = Message::Prepare(ballot(&config, 1, other as u32));
        let hears_of_it = |voter: &mut Voter| {
            let answer = voter.hear(other, &prepare);
            assert!(matches!(answer[..], [Message::Promise(_)]));
        };
        let mut voted = Voter::new(&config, slot);
        voted.propose(&gone);
        hears_of_it(&mut voted);
        voted.pass(10);
        voted.hear_vote((slot + 2) % 3, &arrival(9));
        assert_eq!(voted.rounds(499), []);
        assert_eq!(voted.rounds(1_000)[0].1.round, 2);

        let mut late = Voter::new(&config, slot);
        hears_of_it(&mut late);
        late.pass(10);
        late.propose(&two_gone);
        assert_eq!(late.rounds(499), []);
        assert_eq!(late.rounds(1_000)[0].1.round, 2);
    }
}

/// In one message or in two. It is a sign of a bug or of rot, and for people to look at.
#[test]
fn a_voter_in_two_tallies_is_an_alarm() {
    let config = five();
    let tally = |cut: &Cut, slots: &[usize]| {
        let mut voters = Bitmap::empty(5);
        slots.iter().for_each(|slot| {
            voters.insert(*slot);
        });
        let cut = config.cut_hash(cut);
        Tally { cut, voters }
    };
    let alarms = |batches: &[Vec<Tally>]| {
        let node = config.voters()[0];
        let mut agreement = Agreement::new(config.clone(), Catalog::new(), node, None);
        let mut out = Vec::new();
        for tallies in batches {
            let (config, tallies) = (config.hash(), tallies.clone());
            agreement.on_fast_votes(&FastVotes { config, tallies }, &mut out);
        }
        out
    };
    let (gone, joins) = (crash(&[5]), arrival(9));
    let (one, other) = (tally(&gone, &[1, 2]), tally(&joins, &[2, 3]));
    let alarm = [Output::TwoVotes(2)];
    assert_eq!(alarms(&[vec![one.clone(), other.clone()]]), alarm);
    assert_eq!(alarms(&[vec![one.clone()], vec![other]]), alarm);
    let disjoint = tally(&joins, &[0, 3]);
    assert_eq!(alarms(&[vec![one.clone()], vec![disjoint]]), []);
    assert_eq!(
        alarms(&[vec![one.clone()], vec![one]]),
        [],
        "it may be heard twice"
    );
}
