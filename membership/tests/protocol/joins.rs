//! Getting in.

use std::collections::BTreeSet;

use synod_membership::configuration::Mode;
use synod_membership::event::Event;
use synod_membership::message::{Alert, Message, Subject};

use crate::world::{World, ms};

#[test]
fn admitted_joiners_all_die() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        (0..4).for_each(|_| {
            world.add_host();
        });
        world.start(0, &[]);
        world.run(ms(300));
        (1..4).for_each(|host| world.start(host, &[0]));
        world.until(ms(3_000), "admission", |w| {
            w.view(0).is_some_and(|v| v.members().len() == 4)
        });
        (1..4).for_each(|host| world.crash(host));
        world.until(ms(8_000), "the seed alone", |w| w.agree(&[0]));
    }
}

#[test]
fn joiner_reaches_half_of_its_observers() {
    let mut world = World::cluster(2, 8);
    let joiner = world.add_host();
    for host in 0..4 {
        world.cut_link(joiner, host);
    }
    world.start(joiner, &[7]);
    // Half of its observers are no majority; it is neither let in nor in anybody's way.
    world.run(ms(10_000));
    assert!(world.agree(&[0, 1, 2, 3, 4, 5, 6, 7]));
    world.crash(6);
    world.until(ms(6_000), "a cut all the same", |w| {
        w.view(0).unwrap().members().len() == 7
    });
    world.heal();
    world.until(ms(10_000), "the joiner", |w| {
        w.agree(&[0, 1, 2, 3, 4, 5, 7, 8])
    });
}

#[test]
fn joiner_dies_between_admission_and_install() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 4);
        let joiner = world.add_host();
        world.start(joiner, &[1]);
        world.until(ms(5_000), "admission", |w| {
            w.view(0).is_some_and(|v| v.members().len() == 5)
        });
        world.crash(joiner);
        if seed % 2 == 0 {
            world.until(ms(8_000), "removal", |w| w.agree(&[0, 1, 2, 3]));
        }
        world.start(joiner, &[1]);
        world.until(ms(8_000), "return", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
}

/// The configuration that lists it takes so long to be written that the next one takes it out again, and it is told so
/// more than once before and after.
#[test]
fn a_joiner_with_a_slow_disk_writes_each_view_once() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 4);
        world.add_host();
        world.hosts[4].fsync = ms(4_000 + seed * 200);
        world.start(4, &[0]);
        world.until(ms(20_000), "its admission", |w| {
            w.view(0).is_some_and(|view| view.members().len() == 5)
        });
        world.run(ms(100));
        world.mute(4);
        world.run(ms(30_000));
        world.heal();
        assert_eq!(world.hosts[4].halted, None, "seed {seed}");
        let directory = &world.hosts[4].disk;
        let base = directory.base.as_ref().unwrap().configuration.seq();
        let views = directory.views.iter().map(|view| view.seq);
        let count = directory.views.len() as u64;
        assert!(views.eq(base + 1..=base + count), "seed {seed}");
        world.hosts[4].fsync = ms(2);
        world.until(ms(120_000), "its return", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
}

#[test]
fn several_seeds_some_dead() {
    let mut world = World::cluster(5, 4);
    let joiner = world.add_host();
    let dead = world.add_host();
    world.start(joiner, &[dead, 2, 3]);
    world.until(ms(5_000), "the joiner", |w| w.agree(&[0, 1, 2, 3, 4]));
}

/// Joiners come while views change.
#[test]
fn parked_joiners_are_retargeted_at_each_view() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 4);
        for round in 0..4 {
            let joiner = world.add_host();
            world.start(joiner, &[round % 4]);
            world.run(ms(60));
        }
        let all: Vec<usize> = (0..8).collect();
        world.until(ms(10_000), "all", |w| w.agree(&all));
    }
}

#[test]
fn a_joiner_that_goes_away_is_forgotten() {
    let mut world = World::cluster(6, 8);
    let joiner = world.add_host();
    (0..5).for_each(|host| world.cut_link(joiner, host));
    world.start(joiner, &[7]);
    world.run(ms(3_000));
    world.crash(joiner);
    world.heal();
    let seq = world.seq(0);
    world.run(ms(10_000));
    assert_eq!(world.seq(0), seq);
}

fn reports_a_joiner(message: &Message) -> bool {
    let Message::Alerts(batch) = message else {
        return false;
    };
    let joiner = |alert: &Alert| matches!(alert.subject, Subject::Joiner(_));
    batch.alerts.iter().any(joiner)
}

/// All of its observers have heard it, and their reports take longer than it lives: there is nobody to let in.
#[test]
fn a_joiner_that_dies_before_it_is_reported_is_not_let_in() {
    for dies in [true, false] {
        let mut world = World::cluster(6, 8);
        let seq = world.seq(0);
        let joiner = world.add_host();
        world.filter = Some(Box::new(|_, _, message| !reports_a_joiner(message)));
        world.start(joiner, &[7]);
        world.until(ms(2_000), "a request", |w| w.messages.contains_key("Join"));
        world.run(ms(100));
        if dies {
            world.crash(joiner);
        }
        world.run(ms(2_000));
        world.filter = None;
        if dies {
            world.run(ms(20_000));
            assert_eq!(world.seq(0), seq);
        } else {
            world.until(ms(2_000), "the joiner", |w| w.seq(0) > seq);
            assert!(world.view(0).unwrap().index_of(world.id(joiner)).is_some());
        }
    }
}

/// A joiner asks its observers once a second. A view that changes who they are, and the view that lists it, reach it
/// before that: both come within the second after it asked.
#[test]
fn a_waiting_joiner_is_told_of_each_view_before_it_asks_again() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 8);
        let seq = world.seq(0);
        let joiner = world.add_host();
        world.filter = Some(Box::new(|_, _, message| !reports_a_joiner(message)));
        world.start(joiner, &[7]);
        world.until(ms(2_000), "a request", |w| w.messages.contains_key("Join"));
        let asked = world.now;
        // Their reports of it are lost, and those of the departure are to come by themselves.
        world.run(ms(100));
        world.event(3, Event::Leave);
        world.until(ms(500), "a view", |w| w.seq(0) > seq);
        assert_eq!(world.view(0).unwrap().members().len(), 7);
        world.filter = None;
        let left = ms(1_000).saturating_sub(world.now.since(asked));
        world.until(left, "the joiner", |w| {
            w.agree(&[0, 1, 2, 4, 5, 6, 7, joiner])
        });
    }
}

/// Four at once through one seed never leave the seed stranded: they vote only when they have installed.
#[test]
fn a_botched_growth_does_not_strand_the_seed() {
    let mut world = World::new(8);
    (0..4).for_each(|_| {
        world.add_host();
    });
    world.start(0, &[]);
    world.run(ms(300));
    (1..4).for_each(|host| world.start(host, &[0]));
    // They are admitted, and can hear nothing any more.
    world.filter = Some(Box::new(|from, _, message| {
        from != 0 || message.kind() != "Snapshot"
    }));
    world.until(ms(3_000), "admission", |w| {
        w.view(0).is_some_and(|v| v.members().len() == 4)
    });
    assert_eq!(world.view(0).unwrap().voters().len(), 1);
    world.run(ms(10_000));
    world.filter = None;
    world.until(ms(20_000), "all four", |w| w.agree(&[0, 1, 2, 3]));
}

#[test]
fn a_centralised_cluster_agrees_through_its_ensemble() {
    let mut world = World::new(9);
    for _ in 0..12 {
        let host = world.add_host();
        world.hosts[host].settings.mode = Mode::Centralised { ensemble: 3 };
    }
    world.start(0, &[]);
    world.run(ms(300));
    (1..12).for_each(|host| world.start(host, &[0]));
    let all: Vec<usize> = (0..12).collect();
    world.until(ms(20_000), "a cluster", |w| {
        w.agree(&all) && w.view(0).unwrap().voters().len() == 3
    });
    let voters: BTreeSet<_> = world.view(0).unwrap().voters().iter().copied().collect();
    let plain = all
        .iter()
        .copied()
        .find(|host| !voters.contains(&world.id(*host)))
        .unwrap();
    world.crash(plain);
    let rest: Vec<usize> = all.iter().copied().filter(|host| *host != plain).collect();
    world.until(ms(6_000), "a cut", |w| w.agree(&rest));
}

/// Seven members, of whom three vote.
fn with_ensemble(seed: u64) -> World {
    let mut world = World::cluster(seed, 7);
    world.event(0, Event::SetMode(Mode::Centralised { ensemble: 3 }));
    let all: Vec<usize> = (0..7).collect();
    world.until(ms(5_000), "an ensemble", |w| {
        w.agree(&all) && w.view(0).unwrap().voters().len() == 3
    });
    world
}

#[test]
fn ensemble_change_with_one_ensemble_member_down() {
    for seed in 0..3 {
        let mut world = with_ensemble(seed);
        let voters = world.view(0).unwrap().voters().to_vec();
        let down = (0..7)
            .find(|host| voters.contains(&world.id(*host)))
            .unwrap();
        world.crash(down);
        let rest: Vec<usize> = (0..7).filter(|host| *host != down).collect();
        // Somebody else takes the lost one's place.
        world.until(ms(10_000), "a full ensemble", |w| {
            let view = w.view(rest[0]).unwrap();
            w.agree(&rest) && view.absent_voters().is_empty() && view.voters().len() == 3
        });
        let asked = rest
            .iter()
            .copied()
            .find(|h| world.view(*h).unwrap().is_voter(world.id(*h)));
        world.event(asked.unwrap(), Event::SetMode(Mode::Decentralised));
        world.until(ms(10_000), "everybody votes", |w| {
            w.agree(&rest) && w.view(rest[0]).unwrap().voters().len() == 6
        });
    }
}

/// Not for the two, nor for a plain member that crashes, nor because the operator asks for everybody's vote.
#[test]
fn without_a_majority_of_the_ensemble_no_view_follows() {
    for seed in 0..3 {
        let (mut world, all) = (with_ensemble(seed), 0..7);
        let (view, seq) = (world.view(0).unwrap(), world.seq(0));
        let (voters, plain): (Vec<usize>, Vec<usize>) =
            all.clone().partition(|host| view.is_voter(world.id(*host)));
        let (lost, left) = ([voters[0], voters[1]], voters[2]);
        lost.iter().for_each(|host| world.crash(*host));
        world.run(ms(3_000));
        world.crash(plain[0]);
        world.event(left, Event::SetMode(Mode::Decentralised));
        world.run(ms(60_000));
        for host in plain[1..].iter().chain([&left]) {
            assert_eq!(world.seq(*host), seq, "seed {seed}");
            assert!(!world.hosts[*host].serving, "seed {seed}");
        }
        // One of the two is enough to go on.
        world.restart(lost[0]);
        let rest: Vec<usize> = all
            .filter(|host| ![lost[1], plain[0]].contains(host))
            .collect();
        world.until(ms(20_000), "a view", |w| w.agree(&rest));
    }
}

#[test]
fn an_epidemic_spreads_alerts_as_well() {
    use synod_membership::settings::Dissemination;
    let mut world = World::new(11);
    for _ in 0..12 {
        let host = world.add_host();
        world.hosts[host].settings.dissemination = Dissemination::Epidemic {
            fanout: 3,
            rounds: 6,
        };
    }
    world.start(0, &[]);
    world.run(ms(300));
    (1..12).for_each(|host| world.start(host, &[0]));
    let all: Vec<usize> = (0..12).collect();
    world.until(ms(20_000), "a cluster", |w| w.agree(&all));
    world.crash(5);
    let rest: Vec<usize> = all.iter().copied().filter(|host| *host != 5).collect();
    world.until(ms(6_000), "a cut", |w| w.agree(&rest));
}
