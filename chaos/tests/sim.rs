//! The simulated cluster against its faults: a bounded set of seeds for every run of the tests.
//! `cargo xtask chaos` runs others, and more.
#![cfg(madsim)]

use std::time::Duration;

use madsim::runtime::Runtime;
use synod::config::Reads;
use synod_chaos::fault::Fault;
use synod_chaos::history::{Outcome, Step};
use synod_chaos::plan::{Habit, Menu};
use synod_chaos::report::Failure;
use synod_chaos::run::run;
use synod_chaos::workload::{Clients, PLACES, Recorder, Workload};
use synod_chaos::world::{Link, Setup, World, world_us};
use synod_client::{Client, Command, Connection, Options, Value};
use synod_testpoint::{Bug, plant};

/// Runs these seeds of a menu; the first failure is told with its replay.
fn hold(seeds: std::ops::Range<u64>, workloads: &[Workload], faults: &[Fault]) {
    let menu = Menu {
        workloads: workloads.to_vec(),
        faults: faults.to_vec(),
        placed: Some(false),
        ..Menu::default()
    };
    let (mut idle, runs) = (0, seeds.end - seeds.start);
    for seed in seeds {
        let plan = menu.plan(seed);
        let report = run(&plan);
        let [ok, failed, unknown] = report.counts();
        println!("{plan}: {ok} succeeded, {failed} failed, {unknown} unknown");
        if matches!(report.failure, Some(Failure::Idle { .. })) {
            idle += 1;
            continue;
        }
        if let Some(failure) = report.failure {
            let text = serde_json::to_string(&plan).expect("a plan is JSON");
            panic!("{plan}: {failure}\nreplay: cargo xtask chaos --plan FILE, with FILE:\n{text}");
        }
    }
    assert!(idle * 5 <= runs, "{idle} of {runs} runs show nothing");
}

#[test]
fn a_quiet_world_is_correct() {
    hold(0..13, Workload::ALL, &[]);
}

#[test]
fn kills_and_pauses_break_no_promise() {
    let faults = [
        Fault::KillOne,
        Fault::KillMinority,
        Fault::KillMajority,
        Fault::KillAll,
        Fault::Pause,
    ];
    hold(100..110, Workload::ALL, &faults);
}

#[test]
fn power_loss_loses_no_acknowledged_write() {
    hold(200..212, Workload::ALL, &[Fault::PowerOne, Fault::PowerAll]);
}

#[test]
fn bad_links_break_no_promise() {
    let faults = [
        Fault::Halves,
        Fault::Ring,
        Fault::Isolate,
        Fault::IsolateLeader,
        Fault::OneWay,
        Fault::Bridge,
        Fault::FlipFlop,
        Fault::Loss,
        Fault::Delay,
        Fault::Duplicate,
    ];
    hold(300..310, Workload::ALL, &faults);
}

#[test]
fn wrong_clocks_break_no_promise() {
    let faults = [Fault::ClockJump, Fault::ClockStrobe, Fault::ClockDrift];
    hold(500..506, Workload::ALL, &faults);
}

#[test]
fn broken_disks_break_no_promise() {
    let faults = [
        Fault::SyncError,
        Fault::DiskFull,
        Fault::DiskSlow,
        Fault::LogRot,
    ];
    hold(600..606, Workload::ALL, &faults);
}

#[test]
fn orders_break_no_promise() {
    let faults = [
        Fault::Transfer,
        Fault::Move,
        Fault::Split,
        Fault::Merge,
        Fault::Leave,
    ];
    hold(800..808, Workload::ALL, &faults);
}

/// Whatever a leader is led to believe. Nodes that the membership removes hand on what they lead here,
/// once, and to members.
#[test]
fn sequences_of_faults_break_no_promise() {
    let faults = [
        Fault::FreezeLeader,
        Fault::DeafTransfer,
        Fault::SlowAnswers,
        Fault::RestartVoters,
        Fault::SlowSuccession,
        Fault::ElectionStorm,
        Fault::LeftWithLearners,
        Fault::SlowRequests,
    ];
    // 908: a node paused between two looks at its clock asked for the same lease for ever.
    hold(900..912, Workload::ALL, &faults);
}

#[test]
fn everything_at_once() {
    hold(400..413, Workload::ALL, Fault::ALL);
}

/// Nothing that runs in a world asks the world outside: one seed, one trace.
#[test]
fn a_seed_has_one_trace() {
    let menu = Menu {
        workloads: vec![Workload::Register, Workload::ListAppend],
        faults: Fault::ALL.to_vec(),
        nodes: Some(3),
        placed: Some(false),
        ..Menu::default()
    };
    for seed in 700..703 {
        let plan = menu.plan(seed);
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first.history, second.history, "{plan}");
        assert_eq!(first.trace, second.trace, "{plan}");
        assert_ne!(first.trace, run(&menu.plan(seed + 40)).trace);
    }
}

/// A leader is stopped just after it has looked at its clock, and cut off; others lead meanwhile, and are written to.
/// It goes on with what it was asked since, by the clock that it had looked at: its lease holds. So it looks once more
/// when it has read, and answers nothing old. How many looks lie before the last one is tried; one more, and the clock
/// lies to the second look, too.
#[test]
fn a_leader_that_was_stopped_between_two_looks_answers_nothing_old() {
    let answers = |bug: Option<Bug>| -> Vec<usize> {
        plant(bug);
        let old = (1..20).map(old_answers).collect();
        plant(None);
        old
    };
    let (sound, planted) = (answers(None), answers(Some(Bug::NoSecondLook)));
    let saved = sound.iter().zip(&planted);
    assert!(
        saved
            .clone()
            .any(|(sound, planted)| *sound == 0 && *planted > 0),
        "the second look saves nothing: {sound:?} with it, {planted:?} without"
    );
    assert!(saved.clone().all(|(sound, planted)| sound <= planted));
}

/// It stands still for half a minute, is voted out of the view and followed by another leader; what it was asked
/// meanwhile it does not answer from what it held, and it comes back by itself.
#[test]
fn a_leader_that_stands_still_for_half_a_minute_answers_nothing_old() {
    for seed in 1..4 {
        assert_eq!(answers_after(seed, 30_000_000, None), 0, "seed {seed}");
    }
}

/// How many reads show what was replaced before they were asked, if so many looks at the clock show the past.
fn old_answers(looks: u8) -> usize {
    answers_after(7, 7_500_000, Some(looks))
}

/// How many reads that reach a leader while it stands still show what was replaced before they were asked. With `looks`
/// it hears nobody either, and finds the time of its stop in so many looks at the clock.
fn answers_after(seed: u64, stands_us: u64, looks: Option<u8>) -> usize {
    let asked_us = stands_us - 1_500_000;
    let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.set_time_limit(Duration::from_secs(600));
    runtime.block_on(async {
        let setup = Setup {
            reads: Reads::Lease,
            ..Setup::manual(3)
        };
        let world = World::new(seed, setup);
        let all = world.client_addresses();
        world
            .spawn(move || set_all(all, "old"))
            .await
            .expect("it ends");
        let leader = world.leader().expect("somebody leads");
        let mut others = world.client_addresses();
        let address = others.remove(leader);
        let options = Options {
            call_timeout: Duration::from_secs(20),
            ..Options::default()
        };
        // They ask while it stands still.
        let asked = PLACES.map(|place| {
            let (address, options) = (address.clone(), options.clone());
            world.spawn(move || async move {
                let mut connection = Connection::open(&address, &options).await.expect("it runs");
                tokio::time::sleep(Duration::from_micros(asked_us)).await;
                let get = Command::read("GET").arg(standing(place));
                connection.call(&get).await.and_then(Value::into_bytes)
            })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Some(looks) = looks {
            world.hold_clock(leader, looks);
        }
        world.pause(leader);
        for other in (0..3).filter(|node| *node != leader && looks.is_some()) {
            let (one, other) = (world.peer_address(leader), world.peer_address(other));
            world.links.set(0, one, other, Link::CUT);
            world.links.set(0, other, one, Link::CUT);
        }
        world
            .spawn(move || set_all(others, "new"))
            .await
            .expect("it ends");
        assert!(world_us() < asked_us - 500_000, "written before they ask");
        tokio::time::sleep(Duration::from_micros(stands_us - world_us())).await;
        world.resume(leader);
        let mut old = 0;
        for read in asked {
            let answer = read.await.expect("it ends");
            old += usize::from(answer.is_ok_and(|value| value.as_deref() == Some(&b"old"[..])));
        }
        if looks.is_none() {
            let back = world.spawn(move || set_all(vec![address], "again"));
            back.await.expect("it serves again");
        }
        old
    })
}

fn standing(place: &str) -> String {
    format!("{place}stands")
}

/// Sets the key of each place, each until it is done.
async fn set_all(addresses: Vec<String>, value: &str) {
    let options = Options {
        call_timeout: Duration::from_secs(1),
        retry_for: Duration::from_secs(60),
        ..Options::default()
    };
    let mut client = Client::new(addresses, options);
    for key in PLACES.map(standing) {
        while client.set(&key, value.as_bytes().to_vec()).await.is_err() {}
    }
}

/// A node with nothing to do looks at its timers when something is due; with work, fifty times a second.
#[test]
fn a_node_at_rest_is_woken_for_what_is_due_alone() {
    let mut runtime = Runtime::with_seed_and_config(5, madsim::Config::default());
    runtime.set_time_limit(Duration::from_secs(600));
    runtime.block_on(async {
        let world = World::new(5, Setup::manual(3));
        let ticks_in = async |seconds: u64| {
            let before = [0, 1, 2].map(|node| world.invariants.ticks(node));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            [0, 1, 2].map(|node| (world.invariants.ticks(node) - before[node]) / seconds)
        };
        // They form a cluster, elect leaders, and find that there is nothing to do.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let resting = ticks_in(20).await;
        let addresses = world.client_addresses();
        let set = world.spawn(move || set_all(addresses, "new"));
        set.await.expect("they serve");
        let working = ticks_in(1).await;
        println!("ticks a second: {resting:?} at rest, {working:?} after a command");
        // Ten heartbeats a second, and the probes of two peers.
        assert!(resting.iter().all(|ticks| (10..=20).contains(ticks)));
        assert!(working.iter().all(|ticks| (45..=51).contains(ticks)));
    });
}

/// With few clients and nothing broken, no read waits for a timer: nine in ten stay far below the
/// loop's tick of 20 ms, on whichever node the client sits.
#[test]
fn a_quiet_world_answers_within_a_fraction_of_a_tick() {
    // One machine in ten has a slow disk for its log: the quickest of some worlds has none.
    let late_us = (7..11).map(nine_in_ten_reads_us).min().unwrap_or(u64::MAX);
    println!("nine in ten reads within {late_us} us");
    assert!(
        late_us < 10_000,
        "a tenth of the reads took {late_us} us and more"
    );
}

fn nine_in_ten_reads_us(seed: u64) -> u64 {
    let mut config = madsim::Config::default();
    config.net.send_latency = Duration::from_micros(50)..Duration::from_micros(200);
    let mut runtime = Runtime::with_seed_and_config(seed, config);
    runtime.set_time_limit(Duration::from_secs(600));
    runtime.block_on(async {
        let world = World::new(seed, Setup::manual(3));
        let recorder = std::sync::Arc::new(Recorder::new(world_us, world.trace.clone()));
        let until_us = world_us() + 5_000_000;
        let clients = Clients {
            addresses: world.client_addresses(),
            recorder: recorder.clone(),
            seed,
        };
        let clients = [0, 1, 2].map(|client| {
            let session = clients.session(client, Habit::USUAL);
            world.spawn(move || Workload::Register.work(session, until_us))
        });
        for client in clients {
            client.await.expect("the client ends");
        }
        let mut times: Vec<u64> = recorder
            .history()
            .iter()
            .filter(|o| o.outcome == Outcome::Ok && matches!(o.steps[0], Step::Read { .. }))
            .filter_map(|o| Some(o.end_us? - o.start_us))
            .collect();
        times.sort_unstable();
        assert!(times.len() > 100, "only {} reads", times.len());
        times[times.len() * 9 / 10]
    })
}
