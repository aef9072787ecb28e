//! Crashes between any two operations of the disk, by seed: whatever was acknowledged is there, and
//! whatever is there was written.

mod rig;

use rand::Rng;
use rig::{Rig, put, random_changes, rng};
use synod_storage::disk::{Fault, Survival};
use synod_storage::index::Rot;
use synod_storage::{Options, Space};

/// As many as `SYNOD_SEEDS` says: a thousand take ten seconds.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("SYNOD_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    0..count.unwrap_or(200)
}

fn random_rot(rng: &mut impl Rng) -> Rot {
    match rng.random_range(0..5) {
        0 => Rot::Behind,
        3 => Rot::Cut(rng.random()),
        1 => Rot::Old,
        2 => Rot::Torn,
        _ => Rot::Gone,
    }
}

/// Writes until the armed crash hits, or the rounds are over.
fn write_until_crash(rig: &mut Rig, rng: &mut rand::rngs::SmallRng, rounds: usize) -> bool {
    for _ in 0..rounds {
        let changes = random_changes(rng);
        if rig.write(changes).is_err() {
            return true;
        }
        if rng.random_range(0..20) == 0 && rig.pass(60).is_err() {
            return true;
        }
        if rng.random_range(0..30) == 0 {
            rig.store.checkpoint();
            if rig.run().is_err() {
                return true;
            }
        }
    }
    false
}

#[test]
fn nothing_acknowledged_is_lost_by_crashes_at_random_operations() {
    for seed in seeds() {
        let mut rng = rng(seed);
        let mut rig = Rig::sim(seed);
        for _ in 0..6 {
            let after = rng.random_range(0..250);
            rig.disk().inject(Fault::CrashAfter(after));
            let crashed = write_until_crash(&mut rig, &mut rng, 60);
            match rng.random_range(0..5) {
                0 if !crashed => {}
                1 => rig.kill(),
                2 => {
                    rig.cut_power(Survival::Random, random_rot(&mut rng));
                    // And once more, while it is recovering.
                    rig.disk()
                        .inject(Fault::CrashAfter(rng.random_range(0..40)));
                    if rig.reopen().is_err() {
                        rig.power_loss(Survival::Random, random_rot(&mut rng));
                    }
                    rig.disk().heal();
                }
                3 => rig.power_loss(Survival::Nothing, random_rot(&mut rng)),
                _ => rig.power_loss(Survival::Random, random_rot(&mut rng)),
            }
            rig.disk().heal();
            assert!(
                rig.report.damage.is_empty(),
                "seed {seed}: {:?}",
                rig.report.damage
            );
            rig.check();
        }
    }
}

#[test]
fn power_cut_straight_after_an_acknowledged_write_and_again_before_the_next() {
    for seed in seeds() {
        let mut rig = Rig::sim(seed);
        rig.write(vec![put("a", "1")]).unwrap();
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check_with_power_loss();
        rig.write(vec![put("b", "2")]).unwrap();
        rig.power_loss(Survival::Random, Rot::Gone);
        rig.check();
    }
}

#[test]
fn kill_then_power_cut() {
    for seed in seeds() {
        let mut rng = rng(seed);
        let mut rig = Rig::sim(seed);
        rig.write(vec![put("a", "1")]).unwrap();
        // The crash leaves a batch in the page cache that was never synced.
        rig.submit(rig::SHARD, vec![put("b", "2")]);
        rig.disk().inject(Fault::CrashAfter(rng.random_range(0..2)));
        assert!(rig.run().is_err());
        rig.kill();
        rig.disk().heal();
        let after_kill = rig.value(b"b");
        rig.model.insert((Space::User, b"b".to_vec()), after_kill);
        // What the killed node showed after its restart must survive a power cut.
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check();
    }
}

#[test]
fn two_crashes_around_a_cut_tail_do_not_revive_a_dropped_batch() {
    for seed in seeds() {
        let mut rig = Rig::sim(seed);
        rig.write(vec![put("a", "old")]).unwrap();
        rig.submit(
            rig::SHARD,
            vec![put("a", "dropped"), put("c", vec![7; 9_000])],
        );
        rig.disk().inject(Fault::CrashAfter(1));
        assert!(rig.run().is_err());
        rig.power_loss(Survival::Random, Rot::Gone);
        rig.disk().heal();
        rig.check();
        let seen = rig.value(b"c");
        rig.write(vec![put("b", "new")]).unwrap();
        rig.power_loss(Survival::Random, Rot::Gone);
        rig.check();
        assert_eq!(rig.value(b"c"), seen, "seed {seed}");
    }
}

#[test]
fn a_failed_write_or_sync_is_fatal_and_its_batch_never_half_there() {
    for seed in seeds() {
        let mut rng = rng(seed);
        let mut rig = Rig::sim(seed);
        for round in 0..rng.random_range(1..20) {
            rig.write(vec![put(format!("k{round}"), vec![round; 300])])
                .unwrap();
        }
        let fault = match seed % 3 {
            0 => Fault::FailWrite(0),
            _ => Fault::FailSync(0),
        };
        rig.disk().inject(fault);
        rig.submit(rig::SHARD, vec![put("x", "1"), put("y", "1")]);
        assert!(rig.run().is_err(), "{fault:?} must be fatal");
        // The page cache shows what the failed sync did not write.
        rig.kill();
        let x = rig.value(b"x");
        assert_eq!(x, rig.value(b"y"));
        rig.model.insert((Space::User, b"x".to_vec()), x.clone());
        rig.model.insert((Space::User, b"y".to_vec()), x);
        rig.power_loss(Survival::Random, Rot::Gone);
        rig.check();
    }
}

#[test]
fn crash_between_each_two_steps_of_a_checkpoint() {
    let mut options = Options::tiny();
    options.memtable_bytes = 1 << 20;
    let mut step = 0;
    loop {
        let mut rig = Rig::sim_with(step, options.clone());
        let mut rng = rng(99);
        for _ in 0..40 {
            rig.write(random_changes(&mut rng)).unwrap();
        }
        rig.store.checkpoint();
        rig.run().unwrap();
        for _ in 0..40 {
            rig.write(random_changes(&mut rng)).unwrap();
        }
        rig.store.checkpoint();
        rig.disk().inject(Fault::CrashAfter(step));
        let crashed = rig.run().is_err();
        rig.power_loss(
            Survival::Random,
            if step % 2 == 0 { Rot::Old } else { Rot::Torn },
        );
        rig.check();
        // And again, so that what recovery did is durable, too.
        rig.power_loss(Survival::Nothing, Rot::Gone);
        rig.check();
        if !crashed {
            break;
        }
        step += 1;
    }
    assert!(step > 5, "a checkpoint has more steps than {step}");
}
