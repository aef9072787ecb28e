//! Compound faults: sequences that expose what single faults hit upon too rarely.
//!
//! Each begins, takes its turn for the worse part of the way through, and ends. The sequences are
//! those by which leaders serve what is no longer true: they go on after a stop, hand over and do
//! not hear of it, count answers by when they arrived, or rely on voters that have forgotten.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use synod::transport::Class;

use super::strike::{cut, isolate, part};
use super::{Fault, Strike, order};
use crate::world::{Link, World};

/// Whom a compound fault strikes first: the leader of a shard, then the others.
pub(super) fn victims(world: &World, draw: u64, shuffled: Vec<usize>) -> Vec<usize> {
    let leader = world.leader_of_some(draw).unwrap_or(shuffled[0]);
    let others = shuffled.into_iter().filter(|node| *node != leader);
    std::iter::once(leader).chain(others).collect()
}

/// Lets it begin; details in words.
pub(super) fn begin(
    world: &mut World,
    i: usize,
    strike: &Strike,
    victims: &[usize],
    rng: &mut SmallRng,
) -> String {
    let (leader, others) = (victims[0], &victims[1..]);
    match strike.fault {
        Fault::FreezeLeader => {
            isolate(world, i, leader);
            world.pause(leader);
            // It may have been stopped in the midst of a turn, between two looks at the clock.
            let midst = rng.random_bool(0.5);
            if midst {
                // The turn's own reading, and perhaps that of its first round.
                world.hold_clock(leader, rng.random_range(1..=2));
            }
            match midst {
                true => " in the midst of a turn".to_owned(),
                false => String::new(),
            }
        }
        Fault::DeafTransfer => {
            let delay_us = rng.random_range(50_000..450_000);
            slow_answers(world, i, leader, others, delay_us);
            let addresses = vec![world.client_addresses().swap_remove(leader)];
            let (fault, draw) = (strike.fault, strike.draw);
            world.spawn(move || order::give(addresses, fault, draw));
            format!(" {delay_us} us")
        }
        Fault::SlowAnswers => {
            let delay_us = rng.random_range(200_000..650_000);
            slow_answers(world, i, leader, others, delay_us);
            format!(" {delay_us} us")
        }
        Fault::RestartVoters => {
            part(world, i, &[leader], &others[..1]);
            String::new()
        }
        Fault::SlowSuccession => {
            let step_max_us = rng.random_range(50_000..900_000);
            (0..world.nodes()).for_each(|node| world.slow_disk(node, step_max_us));
            format!(" {step_max_us} us a step")
        }
        Fault::ElectionStorm => {
            let link = Link {
                jitter_us: rng.random_range(300_000..1_800_000),
                ..Link::CLEAN
            };
            for from in 0..world.nodes() {
                for to in (0..world.nodes()).filter(|to| *to != from) {
                    let (from, to) = (world.peer_address(from), world.peer_address(to));
                    world.links.set(i, from, to, link);
                }
            }
            format!(" {} us", link.jitter_us)
        }
        Fault::LeftWithLearners => {
            let addresses = world.client_addresses();
            let (fault, draw) = (strike.fault, strike.draw);
            world.spawn(move || order::give(addresses, fault, draw));
            String::new()
        }
        Fault::SlowRequests => slow_requests(world, i, leader, others[0], rng),
        // A rolling restart has its beats only.
        _ => String::new(),
    }
}

/// Its turn for the worse.
pub(super) fn turn(world: &mut World, i: usize, strike: &Strike, victims: &[usize]) {
    let Some((leader, others)) = victims.split_first() else {
        return;
    };
    match strike.fault {
        Fault::FreezeLeader => world.resume(*leader),
        Fault::SlowAnswers => {
            for other in others {
                cut(world, i, *leader, *other);
            }
        }
        Fault::RestartVoters => {
            isolate(world, i, *leader);
            others[1..].iter().for_each(|node| world.restart(*node));
        }
        Fault::SlowSuccession => isolate(world, i, *leader),
        Fault::LeftWithLearners => {
            // Of five: the leader and two on one side. Where these are learners, the other two rule.
            let (beside, apart) = others.split_at(others.len() / 2);
            let mut side = vec![*leader];
            side.extend(beside);
            part(world, i, &side, apart);
        }
        Fault::SlowRequests if strike.draw % 2 == 0 => {
            for other in others {
                let (one, other) = (world.peer_address(*leader), world.peer_address(*other));
                for direction in [(one, other), (other, one)] {
                    let links = &world.links;
                    links.set_class(i, direction, Class::Control, Link::CUT);
                }
            }
        }
        _ => {}
    }
}

/// What it does again and again.
pub(super) fn beat(world: &mut World, strike: &Strike, victims: &[usize], beat: u64) {
    let mut rng = SmallRng::seed_from_u64(strike.draw ^ beat);
    let nodes = u64::try_from(victims.len()).unwrap_or(u64::MAX);
    match strike.fault {
        Fault::ElectionStorm if rng.random_bool(0.5) => {
            world.restart(victims[rng.random_range(0..victims.len())]);
        }
        Fault::RollingRestart if beat <= nodes => {
            world.restart(victims[usize::try_from(beat - 1).unwrap_or(0)]);
        }
        _ => {}
    }
}

/// What the others say to the leader takes long, all of it equally.
fn slow_answers(world: &World, i: usize, leader: usize, others: &[usize], delay_us: u64) {
    let link = Link {
        delay_us,
        ..Link::CLEAN
    };
    for other in others {
        let (from, to) = (world.peer_address(*other), world.peer_address(leader));
        world.links.set(i, from, to, link);
    }
}

/// What a gateway asks of a leader, or what that answers, takes long.
fn slow_requests(
    world: &World,
    i: usize,
    leader: usize,
    gateway: usize,
    rng: &mut SmallRng,
) -> String {
    // Below and above the second after which others look after what a coordinator left, and the time
    // after which it gives up.
    let delay_us = match rng.random_bool(0.5) {
        true => rng.random_range(100_000..900_000),
        false => rng.random_range(1_100_000..4_000_000),
    };
    let link = Link {
        delay_us,
        ..Link::CLEAN
    };
    let (gateway, leader) = (world.peer_address(gateway), world.peer_address(leader));
    let (direction, what) = match rng.random_bool(0.6) {
        true => ((gateway, leader), "questions"),
        false => ((leader, gateway), "answers"),
    };
    let links = &world.links;
    links.set_class(i, direction, Class::Forward, link);
    format!(" {what} {delay_us} us")
}
