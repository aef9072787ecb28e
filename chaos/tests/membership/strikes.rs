//! What happens to a cluster.

use std::ops::RangeInclusive;

use rand::Rng;
use synod_chaos::world::{End, Link, World};
use synod_storage::disk::Fault as DiskFault;

/// What may be done to a victim.
pub struct Means {
    /// All machines may lose their power at once.
    pub blackout: bool,
    /// Disks may fail, and be replaced by empty ones.
    pub disks: bool,
    /// How wrong a clock's rate may be, in parts per million.
    pub rate_ppm: RangeInclusive<i64>,
}

/// One strike, drawn from the world's randomness; `number` names what it does to links.
pub fn strike(world: &mut World, number: usize, victim: usize, means: &Means) {
    let at = world.peer_address(victim);
    let others: Vec<_> = (0..world.nodes())
        .filter(|other| *other != victim)
        .map(|other| world.peer_address(other))
        .collect();
    let kinds = if means.disks { 13 } else { 10 };
    match world.rng().random_range(0..kinds) {
        0 | 1 => world.stop(victim, End::Kill),
        2 => world.stop(victim, End::PowerLoss),
        3 if means.blackout => {
            (0..world.nodes()).for_each(|node| world.stop(node, End::PowerLoss));
        }
        3 => world.restart(victim),
        4 => others
            .iter()
            .for_each(|other| world.links.set(number, *other, at, Link::CUT)),
        5 => others
            .iter()
            .for_each(|other| world.links.set(number, at, *other, Link::CUT)),
        6 => {
            let loss = world.rng().random_range(0.05..0.6);
            let lossy = Link {
                loss,
                duplicate: 0.1,
                jitter_us: 50_000,
                ..Link::CLEAN
            };
            others
                .iter()
                .for_each(|other| world.links.set(number, at, *other, lossy));
        }
        7 => {
            let rate = world.rng().random_range(means.rate_ppm.clone());
            world.set_clock(victim, Some(rate), None);
        }
        8 => world.pause(victim),
        10 => {
            let nth = world.rng().random_range(0..4);
            world.break_disk(victim, DiskFault::FailSync(nth));
        }
        11 => world.slow_disk(victim, 400_000),
        12 => world.replace(victim),
        _ => {
            world.links.heal();
            (0..world.nodes()).for_each(|node| world.resume(node));
        }
    }
    // Most of what is down comes up again.
    for node in 0..world.nodes() {
        if node != victim && world.rng().random_bool(0.7) {
            world.start(node);
        }
    }
}
