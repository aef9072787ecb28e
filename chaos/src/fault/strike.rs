//! Striking a world, and taking it back.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use synod_storage::disk::Fault as DiskFault;

use super::partition::{self, Direction};
use super::{Fault, Strike, compound, order};
use crate::timeline::What;
use crate::world::{End, Link, World, world_us};

/// How far a strobing clock jumps.
const STROBE_MS: i64 = 30_000;

/// The strikes of a plan, as they come.
pub struct Strikes {
    /// What is to come, by time: the beginning, the beats and the end of each strike.
    moments: BTreeMap<(u64, usize), Moment>,
    strikes: Vec<Strike>,
    victims: BTreeMap<usize, Vec<usize>>,
    /// The one machine whose log may rot, or whose disk may be lost: damage on two could be a majority's.
    unlucky: usize,
    /// Its disk has been lost: once is as often as a shard of three survives without repair.
    replaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Begin,
    Beat(u64),
    Turn,
    End,
}

impl Strikes {
    /// The strikes of a plan for a world of `nodes`.
    pub fn new(strikes: &[Strike], seed: u64, nodes: usize) -> Self {
        let mut moments = BTreeMap::new();
        for (i, strike) in strikes.iter().enumerate() {
            moments.insert((strike.at_ms, i), Moment::Begin);
            if let Some(beat_ms) = strike.fault.beat_ms() {
                for beat in 1..strike.for_ms.div_ceil(beat_ms) {
                    moments.insert((strike.at_ms + beat * beat_ms, i), Moment::Beat(beat));
                }
            }
            if let Some(percent) = strike.fault.turn_percent() {
                let at_ms = strike.at_ms + strike.for_ms * percent / 100;
                moments.insert((at_ms, i), Moment::Turn);
            }
            moments.insert((strike.end_ms(), i), Moment::End);
        }
        Self {
            moments,
            strikes: strikes.to_vec(),
            victims: BTreeMap::new(),
            unlucky: (seed % nodes as u64) as usize,
            replaced: false,
        }
    }

    /// Strikes until the world's time is `until_us`.
    pub async fn run(mut self, world: &mut World, begin_us: u64, until_us: u64) {
        while let Some(((at_ms, i), moment)) = self.moments.pop_first() {
            let at_us = begin_us + at_ms * 1000;
            if at_us >= until_us {
                break;
            }
            let now_us = world_us();
            tokio::time::sleep(Duration::from_micros(at_us.saturating_sub(now_us))).await;
            let strike = self.strikes[i].clone();
            world.trace.add(&(world_us(), i));
            match moment {
                Moment::Begin => {
                    let (victims, what) = self.begin(world, i, &strike);
                    self.victims.insert(i, victims);
                    world
                        .timeline
                        .add(world_us(), What::Struck { strike: i, what });
                }
                Moment::Beat(beat) => self.beat(world, i, &strike, beat),
                Moment::Turn => {
                    let victims = self.victims.get(&i).map_or(&[][..], Vec::as_slice);
                    compound::turn(world, i, &strike, victims);
                    let what = format!("{}: its turn", strike.fault.name());
                    world
                        .timeline
                        .add(world_us(), What::Struck { strike: i, what });
                }
                Moment::End => {
                    self.end(world, i, &strike);
                    world.timeline.add(world_us(), What::Undone { strike: i });
                }
            }
            world.look_at_views();
        }
        let rest = Duration::from_micros(until_us.saturating_sub(world_us()));
        tokio::time::sleep(rest).await;
    }
}

impl Strikes {
    /// Lets a fault begin: its victims, and what it does in words.
    fn begin(&mut self, world: &mut World, i: usize, strike: &Strike) -> (Vec<usize>, String) {
        let mut rng = SmallRng::seed_from_u64(strike.draw);
        let nodes = world.nodes();
        let mut victims: Vec<usize> = (0..nodes).collect();
        victims.shuffle(&mut rng);
        let fault = strike.fault;
        if fault.is_order() {
            let (addresses, draw) = (world.client_addresses(), strike.draw);
            world.spawn(move || order::give(addresses, fault, draw));
            return (Vec::new(), fault.name().to_owned());
        }
        match fault {
            Fault::KillMinority => victims.truncate((nodes - 1) / 2),
            Fault::KillMajority => victims.truncate(nodes / 2 + 1),
            Fault::KillAll
            | Fault::PowerAll
            | Fault::Halves
            | Fault::Ring
            | Fault::Bridge
            | Fault::Loss
            | Fault::Delay
            | Fault::Duplicate
            | Fault::RollingRestart
            | Fault::ElectionStorm
            | Fault::LeftWithLearners
            | Fault::Transfer
            | Fault::Move
            | Fault::Split
            | Fault::Merge
            | Fault::Learner => {}
            Fault::IsolateLeader | Fault::KillLeader => {
                victims = vec![world.leader_of_some(strike.draw).unwrap_or(victims[0])];
            }
            Fault::FreezeLeader
            | Fault::DeafTransfer
            | Fault::SlowAnswers
            | Fault::RestartVoters
            | Fault::SlowSuccession
            | Fault::SlowRequests => victims = compound::victims(world, strike.draw, victims),
            Fault::LogRot => victims = vec![self.unlucky],
            Fault::Replace | Fault::Leave if self.replaced => {
                return (Vec::new(), format!("{}, again: no", fault.name()));
            }
            Fault::Replace | Fault::Leave => {
                victims = vec![self.unlucky];
                self.replaced = true;
            }
            Fault::KillOne
            | Fault::PowerOne
            | Fault::Pause
            | Fault::Isolate
            | Fault::OneWay
            | Fault::FlipFlop
            | Fault::ClockJump
            | Fault::ClockStrobe
            | Fault::ClockDrift
            | Fault::SyncError
            | Fault::DiskFull
            | Fault::DiskSlow => victims.truncate(1),
        }
        let detail = match fault.is_compound() {
            true => compound::begin(world, i, strike, &victims, &mut rng),
            false => inflict(world, i, fault, &victims, &mut rng),
        };
        let what = match victims.len() < nodes {
            true => format!("{} {victims:?}{detail}", fault.name()),
            false => format!("{}{detail}", fault.name()),
        };
        (victims, what)
    }

    fn beat(&self, world: &mut World, i: usize, strike: &Strike, beat: u64) {
        let victims = self.victims.get(&i).map_or(&[][..], Vec::as_slice);
        let Some(victim) = victims.first() else {
            return;
        };
        let odd = beat % 2 == 1;
        match (strike.fault, odd) {
            (Fault::ClockStrobe, true) => world.set_clock(*victim, None, Some(0)),
            (Fault::ClockStrobe, false) => world.set_clock(*victim, None, Some(STROBE_MS)),
            (Fault::FlipFlop, true) => world.links.undo(i),
            (Fault::FlipFlop, false) => isolate(world, i, *victim),
            _ => compound::beat(world, strike, victims, beat),
        }
    }

    /// Takes back what a fault did.
    fn end(&self, world: &mut World, i: usize, strike: &Strike) {
        let victims = self.victims.get(&i).map_or(&[][..], Vec::as_slice);
        match strike.fault {
            Fault::KillOne
            | Fault::KillLeader
            | Fault::KillMinority
            | Fault::KillMajority
            | Fault::KillAll
            | Fault::PowerOne
            | Fault::PowerAll
            | Fault::LogRot => victims.iter().for_each(|node| world.start(*node)),
            Fault::Pause => victims.iter().for_each(|node| world.resume(*node)),
            Fault::Halves
            | Fault::Ring
            | Fault::Isolate
            | Fault::IsolateLeader
            | Fault::OneWay
            | Fault::Bridge
            | Fault::FlipFlop
            | Fault::Loss
            | Fault::Delay
            | Fault::Duplicate
            | Fault::DeafTransfer
            | Fault::SlowAnswers
            | Fault::RestartVoters
            | Fault::ElectionStorm
            | Fault::LeftWithLearners
            | Fault::SlowRequests => world.links.undo(i),
            Fault::FreezeLeader => {
                world.resume(victims[0]);
                world.links.undo(i);
            }
            Fault::SlowSuccession => {
                world.links.undo(i);
                victims.iter().for_each(|node| world.slow_disk(*node, 0));
            }
            // Wall clocks stay wrong, as they do.
            Fault::ClockJump | Fault::ClockStrobe => {}
            // What was ordered stays.
            Fault::Transfer | Fault::Move | Fault::Split | Fault::Merge | Fault::Learner => {}
            Fault::RollingRestart | Fault::Replace => {}
            // If it has left, its machine begins anew. It may have been refused: the last member stays.
            Fault::Leave => victims.iter().for_each(|node| world.restart(*node)),
            Fault::ClockDrift => victims
                .iter()
                .for_each(|node| world.set_clock(*node, Some(0), None)),
            Fault::SyncError | Fault::DiskFull | Fault::DiskSlow => {
                for node in victims {
                    world.mend_disk(*node);
                    world.start(*node);
                }
            }
        }
    }
}

/// Does to the victims what a fault does; details in words.
fn inflict(
    world: &mut World,
    i: usize,
    fault: Fault,
    victims: &[usize],
    rng: &mut SmallRng,
) -> String {
    let first = victims[0];
    match fault {
        Fault::KillOne
        | Fault::KillLeader
        | Fault::KillMinority
        | Fault::KillMajority
        | Fault::KillAll => {
            victims.iter().for_each(|node| world.stop(*node, End::Kill));
        }
        Fault::PowerOne | Fault::PowerAll => {
            let end = End::PowerLoss;
            victims.iter().for_each(|node| world.stop(*node, end));
        }
        Fault::Pause => world.pause(first),
        Fault::Halves
        | Fault::Bridge
        | Fault::Ring
        | Fault::OneWay
        | Fault::Isolate
        | Fault::IsolateLeader
        | Fault::FlipFlop => {
            let (cuts, what) = partition::cuts(fault, victims, world.nodes(), rng);
            cut_all(world, i, &cuts);
            return what;
        }
        Fault::Loss | Fault::Delay | Fault::Duplicate => return spoil(world, i, fault, rng),
        Fault::ClockJump | Fault::ClockStrobe | Fault::ClockDrift => {
            return bend_clock(world, fault, first, rng);
        }
        Fault::SyncError | Fault::DiskFull | Fault::DiskSlow | Fault::LogRot => {
            return break_disk(world, fault, first, rng);
        }
        Fault::Replace => world.replace(first),
        Fault::Leave => {
            let addresses = vec![world.client_addresses().swap_remove(first)];
            world.spawn(move || order::give(addresses, fault, 0));
        }
        // Orders and compound faults begin in places of their own.
        _ => {}
    }
    String::new()
}

/// Makes most of the links bad.
fn spoil(world: &World, i: usize, fault: Fault, rng: &mut SmallRng) -> String {
    let mut link = Link::CLEAN;
    match fault {
        Fault::Loss => link.loss = rng.random_range(0.01..0.4),
        Fault::Delay => link.jitter_us = rng.random_range(1_000..400_000),
        _ => link.duplicate = rng.random_range(0.1..1.0),
    }
    for from in 0..world.nodes() {
        for to in (0..world.nodes()).filter(|to| *to != from) {
            if rng.random_bool(0.7) {
                let (from, to) = (world.peer_address(from), world.peer_address(to));
                world.links.set(i, from, to, link);
            }
        }
    }
    format!(" {link:?}")
}

fn bend_clock(world: &World, fault: Fault, victim: usize, rng: &mut SmallRng) -> String {
    match fault {
        Fault::ClockDrift => {
            let rate_ppm = rng.random_range(-40_000..40_000);
            world.set_clock(victim, Some(rate_ppm), None);
            format!(" {rate_ppm} ppm")
        }
        Fault::ClockStrobe => {
            world.set_clock(victim, None, Some(STROBE_MS));
            String::new()
        }
        _ => {
            let offset_ms = rng.random_range(-600_000..600_000);
            world.set_clock(victim, None, Some(offset_ms));
            format!(" {offset_ms} ms")
        }
    }
}

fn break_disk(world: &mut World, fault: Fault, victim: usize, rng: &mut SmallRng) -> String {
    match fault {
        Fault::SyncError => {
            let syncs = rng.random_range(0..20);
            world.break_disk(victim, DiskFault::FailSync(syncs));
            format!(" after {syncs} syncs")
        }
        Fault::DiskFull => {
            let spare = rng.random_range(0..200_000);
            world.fill_disk(victim, spare);
            format!(" after {spare} bytes")
        }
        Fault::DiskSlow => {
            let step_max_us = rng.random_range(5_000..800_000);
            world.slow_disk(victim, step_max_us);
            format!(" {step_max_us} us a step")
        }
        _ => {
            world.stop(victim, End::Kill);
            match world.rot_log(victim, rng.random()) {
                true => String::new(),
                false => " nothing to rot".to_owned(),
            }
        }
    }
}

pub(super) fn cut(world: &World, i: usize, from: usize, to: usize) {
    let (from, to) = (world.peer_address(from), world.peer_address(to));
    world.links.set(i, from, to, Link::CUT);
}

pub(super) fn part(world: &World, i: usize, one: &[usize], other: &[usize]) {
    cut_all(world, i, &partition::between(one, other));
}

pub(super) fn isolate(world: &World, i: usize, victim: usize) {
    cut_all(world, i, &partition::around(victim, world.nodes()));
}

fn cut_all(world: &World, i: usize, cuts: &[Direction]) {
    for (from, to) in cuts {
        cut(world, i, *from, *to);
    }
}
