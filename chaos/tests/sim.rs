//! The simulated cluster against its faults: a bounded set of seeds for every run of the tests.
//! `SEEDS=FIRST..LAST` runs others.
#![cfg(madsim)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::runtime::Runtime;
use rand::Rng;
use synod_chaos::check;
use synod_chaos::history::{Call, Operation, Outcome};
use synod_chaos::workload::{self, Kind, Recorder};
use synod_chaos::world::{End, Link, World, world_us};

/// Keys on several shards.
fn keys() -> Vec<String> {
    ["0", "9", "A", "M", "b", "k", "z"]
        .iter()
        .map(|prefix| format!("{prefix}key"))
        .collect()
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SEEDS") else {
        return default;
    };
    let (first, last) = text.split_once("..").expect("SEEDS=FIRST..LAST");
    first.parse().expect("a number")..last.parse().expect("a number")
}

/// Runs `test` in a fresh world for each seed; a failure names its seed.
fn for_seeds(name: &str, default: std::ops::Range<u64>, faults: &[Fault]) {
    // RUST_LOG=debug shows what the nodes say; by default nothing.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_test_writer()
        .try_init();
    for seed in seeds(default) {
        let faults = faults.to_vec();
        let outcome = std::panic::catch_unwind(|| {
            let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
            runtime.set_time_limit(Duration::from_secs(600));
            runtime.block_on(run(seed, faults))
        });
        match outcome {
            Ok(Ok(summary)) => println!("{name} seed {seed}: {summary}"),
            Ok(Err(violation)) => panic!("{name} seed {seed}: {violation}"),
            Err(panic) => {
                println!("{name} seed {seed} panicked");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillOne,
    KillAll,
    PowerLossOne,
    PowerLossAll,
    Partition,
    OneWay,
    Lossy,
    Clocks,
}

const SAFETY: Duration = Duration::from_secs(15);

async fn run(seed: u64, faults: Vec<Fault>) -> Result<String, String> {
    let mut world = World::new(seed, 3);
    let recorder: Recorder = Arc::new(Mutex::new(Vec::new()));
    let until_us = world_us() + SAFETY.as_micros() as u64;
    let kind = if seed % 2 == 0 {
        Kind::Register
    } else {
        Kind::Append
    };
    let clients: Vec<_> = (0..5)
        .map(|client| {
            world.spawn(workload::run(
                kind,
                client,
                seed * 100 + u64::from(client),
                world.client_addresses(),
                keys(),
                until_us,
                recorder.clone(),
            ))
        })
        .collect();
    while world_us() < until_us {
        let pause_ms = world.rng().random_range(300..2500);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        strike(&mut world, &faults);
    }
    world.heal();
    for client in clients {
        client.await.map_err(|e| e.to_string())?;
    }
    let patience = Duration::from_secs(20);
    let end = world
        .spawn(workload::read_end(
            world.client_addresses(),
            keys(),
            patience,
        ))
        .await
        .map_err(|e| e.to_string())?;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let end = end?;
    let history: Vec<Operation> = recorder
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match kind {
        Kind::Register => check::register::check(&history).map_err(|v| format!("{v:#?}"))?,
        Kind::Append => check::append::check(&history, &end).map_err(|v| v.to_string())?,
    }
    world
        .spawn(workload::probe(world.client_addresses(), keys(), patience))
        .await
        .map_err(|e| e.to_string())??;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let ok = history.iter().filter(|o| o.end_us.is_some()).count();
    if ok < 100 {
        return Err(format!(
            "only {ok} operations were answered: the test shows nothing"
        ));
    }
    Ok(format!("{} operations, {ok} answered", history.len()))
}

fn strike(world: &mut World, faults: &[Fault]) {
    if faults.is_empty() {
        return;
    }
    // Half of the time things get better.
    if world.rng().random_bool(0.5) {
        world.links.heal();
        for i in 0..world.nodes() {
            world.start(i);
        }
        return;
    }
    let fault = faults[world.rng().random_range(0..faults.len())];
    let victim = world.any_node();
    let address = |world: &World, i: usize| world.peer_address(i);
    let others: Vec<usize> = (0..world.nodes()).filter(|i| *i != victim).collect();
    match fault {
        Fault::KillOne => world.stop(victim, End::Kill),
        Fault::PowerLossOne => world.stop(victim, End::PowerLoss),
        Fault::KillAll | Fault::PowerLossAll => {
            let end = if fault == Fault::KillAll {
                End::Kill
            } else {
                End::PowerLoss
            };
            for i in 0..world.nodes() {
                world.stop(i, end);
            }
            for i in 0..world.nodes() {
                world.start(i);
            }
        }
        Fault::Partition => {
            for other in others {
                let (a, b) = (address(world, victim), address(world, other));
                world.links.cut(a, b);
                world.links.cut(b, a);
            }
        }
        Fault::OneWay => {
            let inward = world.rng().random_bool(0.5);
            for other in others {
                let (a, b) = (address(world, victim), address(world, other));
                let (from, to) = if inward { (b, a) } else { (a, b) };
                world.links.cut(from, to);
            }
        }
        Fault::Lossy => {
            let delay_max_us = world.rng().random_range(0..50_000);
            for other in others {
                let link = Link {
                    loss: 0.1,
                    duplicate: 0.1,
                    delay_max_us,
                };
                let (a, b) = (address(world, victim), address(world, other));
                world.links.set(a, b, link);
                world.links.set(b, a, link);
            }
        }
        Fault::Clocks => {
            let rate_ppm = world.rng().random_range(-40_000..40_000);
            let wall_ms = world.rng().random_range(-600_000..600_000);
            world.set_clock(victim, rate_ppm, wall_ms);
        }
    }
}

#[test]
fn a_quiet_world_is_linearizable() {
    for_seeds("quiet", 0..4, &[]);
}

#[test]
fn kills_lose_no_acknowledged_write() {
    for_seeds("kills", 100..112, &[Fault::KillOne, Fault::KillAll]);
}

#[test]
fn power_loss_loses_no_acknowledged_write() {
    for_seeds(
        "power",
        200..212,
        &[Fault::PowerLossOne, Fault::PowerLossAll],
    );
}

#[test]
fn bad_links_break_no_promise() {
    for_seeds(
        "links",
        300..312,
        &[Fault::Partition, Fault::OneWay, Fault::Lossy],
    );
}

#[test]
fn everything_at_once() {
    for_seeds(
        "mixed",
        400..412,
        &[
            Fault::KillOne,
            Fault::PowerLossOne,
            Fault::PowerLossAll,
            Fault::Partition,
            Fault::OneWay,
            Fault::Lossy,
            Fault::Clocks,
        ],
    );
}

/// With one client and nothing broken, no read waits for a timer: the median stays far below the
/// loop's tick of 20 ms, on whichever node the client sits.
#[test]
fn a_quiet_world_answers_within_a_fraction_of_a_tick() {
    let mut config = madsim::Config::default();
    config.net.send_latency = Duration::from_micros(50)..Duration::from_micros(200);
    let mut runtime = Runtime::with_seed_and_config(7, config);
    runtime.set_time_limit(Duration::from_secs(600));
    runtime.block_on(async {
        let world = World::new(7, 3);
        let recorder: Recorder = Arc::new(Mutex::new(Vec::new()));
        let until_us = world_us() + SAFETY.as_micros() as u64;
        let clients = [0, 1, 2].map(|client| {
            world.spawn(workload::run(
                Kind::Register,
                client,
                u64::from(client),
                world.client_addresses(),
                keys(),
                until_us,
                recorder.clone(),
            ))
        });
        for client in clients {
            client.await.expect("the client ends");
        }
        let mut times: Vec<u64> = recorder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|o| o.call == Call::Read && o.outcome == Outcome::Ok)
            .filter_map(|o| Some(o.end_us? - o.start_us))
            .collect();
        times.sort_unstable();
        assert!(times.len() > 100, "only {} reads", times.len());
        let late = times[times.len() * 9 / 10];
        let half = times[times.len() / 2];
        println!("half of the reads within {half} us, nine in ten within {late} us");
        assert!(
            late < 10_000,
            "a tenth of the reads took {late} us and more"
        );
    });
}
