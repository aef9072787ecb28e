//! What voters say to each other about a successor.

use std::collections::BTreeSet;
use std::sync::Arc;

use synod_membership::bitmap::Bitmap;
use synod_membership::catalog::Catalog;
use synod_membership::effect::Alarm;
use synod_membership::message::{
    Accept, Ballot, CutRequest, FastVotes, Message, Promise, Refused, Report, Tally, Vote,
};
use synod_membership::view::Rank;

use crate::world::{World, ms};

/// Whatever one that is two views behind says about the first of them, it is given both, with their proofs.
#[test]
fn who_is_further_answers_with_views_and_never_as_an_acceptor() {
    let mut world = World::cluster(3, 5);
    let before = world.view(0).unwrap();
    world.crash(4);
    world.until(ms(6_000), "a first cut", |w| w.agree(&[0, 1, 2, 3]));
    world.crash(3);
    world.until(ms(6_000), "a second cut", |w| w.agree(&[0, 1, 2]));
    world.run(ms(1_000));
    let acceptor = world.hosts[0].disk.acceptor.clone();
    let (config, from) = (before.hash(), world.hosts[1].identity.unwrap());
    let coordinator = before.voter_index(from.node).unwrap() as u32;
    let (round, views) = (99, &world.hosts[0].disk.views);
    let rank = Rank { round, coordinator };
    let ballot = Ballot { config, rank };
    let decided = views.iter().find(|view| view.seq == before.seq() + 1);
    let cut = decided.unwrap().cut.clone();
    let (hash, promised) = (before.cut_hash(&cut), rank);
    let mut voters = Bitmap::empty(5);
    voters.insert(coordinator as usize);
    let tallies = vec![Tally { cut: hash, voters }];
    let value = Vote { rank, hash, cut };
    let (asked, vote) = (Rank { round: 98, ..rank }, None);
    let said = [
        Message::Prepare(ballot),
        Message::Accept(Arc::new(Accept { ballot, value })),
        Message::CutRequest(CutRequest { config, cut: hash }),
        Message::FastVotes(Arc::new(FastVotes { config, tallies })),
        Message::Promise(Arc::new(Promise { ballot, vote })),
        Message::Accepted(ballot),
        Message::Refused(Refused {
            config,
            asked,
            promised,
        }),
    ];
    for message in said {
        let heard = world.listen(|_, _| true);
        world.deliver(0, from, message.clone());
        let answers = std::mem::take(&mut *heard.borrow_mut());
        let [(0, 1, Message::Views(views))] = &answers[..] else {
            panic!("{message:?} is answered with {answers:?}")
        };
        let first = views[0].verify(&before, &Catalog::new()).unwrap();
        let second = views[1].verify(&first, &Catalog::new()).unwrap();
        assert_eq!(second, world.view(0).unwrap());
        world.run(ms(100));
        assert_eq!(world.hosts[0].disk.acceptor, acceptor, "{message:?}");
    }
}

/// A fall-back after half a second would come to the same end, with votes in vain.
#[test]
fn what_three_of_five_decide_takes_no_fast_vote_and_no_wait() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        let seq = world.seq(0);
        world.crash(3);
        world.crash(4);
        let heard = world.listen(|_, _| true);
        world.until(ms(6_000), "all accusations, of two by three", |_| {
            let heard = heard.borrow();
            let down = |(from, _, message): &(usize, usize, Message)| {
                let Message::Alerts(batch) = message else {
                    return Vec::new();
                };
                let alerts = batch.alerts.iter();
                let down = alerts.filter(|alert| alert.report == Report::Down);
                down.map(|alert| (*from, alert.subject)).collect()
            };
            heard.iter().flat_map(down).collect::<BTreeSet<_>>().len() == 6
        });
        let told = world.now;
        world.until_round();
        // A quiet moment, and at most two others before it.
        let waited = world.now.since(told);
        assert!(waited < ms(350), "seed {seed}: {waited:?}");
        world.until(ms(200), "the cut", |w| w.agree(&[0, 1, 2]));
        assert_eq!(world.seq(0), seq + 1, "seed {seed}: one cut");
        assert!(!world.messages.contains_key("FastVotes"), "seed {seed}");
    }
}

/// It is a sign of a bug or of rot: for people to look at, and nothing that a peer could stop a node with.
#[test]
fn a_voter_in_two_tallies_is_one_alarm_and_stops_nobody() {
    let mut world = World::cluster(5, 5);
    let view = world.view(0).unwrap();
    let tally = |cut: u128, slots: [usize; 2]| {
        let mut voters = Bitmap::empty(5);
        slots.iter().for_each(|slot| {
            voters.insert(*slot);
        });
        let cut = synod_membership::id::CutHash(cut);
        Tally { cut, voters }
    };
    let (config, tallies) = (view.hash(), vec![tally(1, [1, 2]), tally(2, [2, 3])]);
    let votes = Arc::new(FastVotes { config, tallies });
    let from = world.hosts[1].identity.unwrap();
    for _ in 0..3 {
        world.deliver(0, from, Message::FastVotes(votes.clone()));
    }
    assert_eq!(world.hosts[0].alarms, [Alarm::TwoVotes { voter: 2 }]);
    assert_eq!(world.hosts[0].halted, None);
    world.crash(4);
    world.until(ms(10_000), "a cut", |w| w.agree(&[0, 1, 2, 3]));
}
