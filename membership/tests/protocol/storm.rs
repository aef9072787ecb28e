//! Everything at once, by seed: a safety phase with faults, then a liveness phase without. `STORM_SEEDS=1000` for more,
//! `STORM_FIRST=17` to begin elsewhere.

use synod_membership::effect::Alarm;
use synod_membership::rng::{Rng, Seed};
use synod_membership::status::Phase;

use crate::world::{World, ms};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn after_any_storm_all_live_nodes_agree() {
    let first = number("STORM_FIRST", 0);
    for seed in first..first + number("STORM_SEEDS", 40) {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut rng = Rng::new(Seed::from(seed ^ 0x5708));
    let count = 3 + rng.below(7);
    let mut world = World::cluster(seed, count);
    world.jitter = ms(1 + rng.below(20) as u64);
    for _ in 0..25 {
        let (a, b) = (rng.below(count), rng.below(count));
        match rng.below(12) {
            0 => world.crash(a),
            1 | 2 => {
                if world.hosts[a].node.is_none() || rng.below(2) == 0 {
                    world.restart(a);
                }
            }
            3 => world.cut_link(a, b),
            4 => world.deafen(a),
            5 => world.mute(a),
            6 => world.heal(),
            7 => world.pause(a, ms(rng.below(8_000) as u64)),
            8 => world.loss_everywhere = rng.below(300) as u64,
            9 => world.isolate(&[a, b]),
            10 => world.duplicate = rng.below(300) as u64,
            11 => (0..count)
                .filter(|_| rng.below(2) == 0)
                .for_each(|host| world.restart(host)),
            _ => unreachable!("a number below twelve"),
        }
        world.run(ms(rng.below(4_000) as u64));
    }
    world.heal();
    for host in 0..count {
        if world.hosts[host].node.is_none() {
            world.restart(host);
        }
    }
    let all: Vec<usize> = (0..count).collect();
    println!("seed {seed}: {count} nodes, seq {}", world.seq(0));
    // The last pause may go on for eight seconds, and then there are thirty.
    world.until(
        ms(38_000),
        &format!("agreement of those present after storm {seed}"),
        |w| {
            let removed = |host: &usize| w.status(*host).is_none_or(|s| s.phase == Phase::Removed);
            let present: Vec<usize> = all.iter().copied().filter(|host| !removed(host)).collect();
            !present.is_empty() && w.agree(&present)
        },
    );
    // And the wait of those that were removed while alive, which doubles each time.
    world.until(ms(700_000), &format!("agreement after storm {seed}"), |w| {
        w.agree(&all)
    });
    for host in &world.hosts {
        assert_eq!(host.halted, None, "seed {seed}");
        let grave = |alarm: &&Alarm| !matches!(alarm, Alarm::ForeignCluster { .. });
        assert_eq!(host.alarms.iter().find(grave), None, "seed {seed}");
    }
}
