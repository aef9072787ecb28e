//! One run of a plan: clients work while faults strike; everything heals; the world must serve
//! again; then the checker and the invariants judge.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Duration;

use madsim::runtime::Runtime;

use crate::agreement;
use crate::ending;
use crate::fault::{Fault, Strikes};
use crate::history::{Operation, Outcome};
use crate::invariant::Watch;
use crate::plan::Plan;
use crate::report::{Failure, RunReport};
use crate::settling;
use crate::timeline::Timeline;
use crate::workload::{Clients, Recorder};
use crate::world::{Setup, World, world_us};

/// Beyond this much virtual time a run hangs.
const TIME_LIMIT: Duration = Duration::from_secs(2_400);

/// The fewest operations that must succeed, those of the observer included. Faults that hit a majority
/// for most of a run leave little more.
const ANSWERED_MIN: usize = 15;

/// What a run leaves behind even if it panics.
struct Traces {
    recorder: Arc<Recorder>,
    timeline: Timeline,
    trace: crate::trace::Trace,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// A world runs in this thread: a panic is its failure, and not the harness's own.
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a plan in a world of its own.
pub fn run(plan: &Plan) -> RunReport {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !RUNS.get() {
                return usual(panic);
            }
            PANIC.with_borrow_mut(|last| {
                last.get_or_insert_with(|| panic.to_string());
            });
        }));
    });
    PANIC.set(None);
    RUNS.set(true);
    let traces: RefCell<Option<Traces>> = RefCell::new(None);
    let mut simulated = Duration::ZERO;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut runtime = Runtime::with_seed_and_config(plan.seed, madsim::Config::default());
        runtime.set_time_limit(TIME_LIMIT);
        let judged = runtime.block_on(async {
            let judged = live(plan, &traces).await;
            let simulated = Duration::from_micros(world_us());
            // The world has ended: its tasks are dropped when they are looked at.
            madsim::time::sleep(Duration::from_millis(1)).await;
            (judged, simulated)
        });
        simulated = judged.1;
        judged.0
    }));
    RUNS.set(false);
    let failure = match outcome {
        Ok(judged) => judged.err(),
        Err(_) => {
            let words = PANIC.take().unwrap_or_else(|| "without a word".to_owned());
            Some(Failure::Panicked(words))
        }
    };
    let traces = traces.into_inner();
    let history = traces.as_ref().map_or(Vec::new(), |t| t.recorder.history());
    RunReport {
        failure,
        history,
        events: traces.as_ref().map_or(Vec::new(), |t| t.timeline.events()),
        simulated,
        trace: traces.map_or(0, |t| t.trace.sum()),
    }
}

/// How the cluster of a plan is made.
fn setup(plan: &Plan) -> Setup {
    let setup = match plan.placed {
        true => Setup::placed(plan.nodes),
        false => Setup::manual(plan.nodes),
    };
    Setup {
        reads: plan.reads,
        ..setup
    }
}

/// What may be asked of placement while a plan is carried out.
fn watch(plan: &Plan) -> Watch {
    let spoils = |fault: Fault| {
        matches!(
            fault,
            Fault::Move
                | Fault::Learner
                | Fault::LeftWithLearners
                | Fault::LogRot
                | Fault::ClockJump
                | Fault::ClockStrobe
        )
    };
    match plan.placed && !plan.strikes.iter().any(|strike| spoils(strike.fault)) {
        true => Watch::Controlled,
        false => Watch::Distinct,
    }
}

async fn live(plan: &Plan, traces: &RefCell<Option<Traces>>) -> Result<(), Failure> {
    let mut world = World::new(plan.seed, setup(plan));
    world.invariants.watch_placement(watch(plan));
    let recorder = Arc::new(Recorder::new(world_us, world.trace.clone()));
    traces.replace(Some(Traces {
        recorder: recorder.clone(),
        timeline: world.timeline.clone(),
        trace: world.trace.clone(),
    }));
    let clients = Clients {
        addresses: world.client_addresses(),
        recorder: recorder.clone(),
        seed: plan.seed,
    };
    let (workload, mut observer) = (plan.workload, clients.observer());
    let begun =
        world.spawn(move || async move { workload.begin(&mut observer).await.map(|()| observer) });
    let mut observer = joined(begun).await?.map_err(Failure::Stuck)?;
    let begin_us = world_us();
    let until_us = begin_us + plan.safety_ms * 1000;
    let working: Vec<_> = (0u32..)
        .zip(&plan.clients)
        .map(|(client, habit)| {
            let session = clients.session(client, *habit);
            world.spawn(move || workload.work(session, until_us))
        })
        .collect();
    let strikes = Strikes::new(&plan.strikes, plan.seed, world.nodes());
    strikes.run(&mut world, begin_us, until_us).await;
    world.heal();
    for client in working {
        joined(client).await?;
    }
    let ended = world.spawn(move || async move {
        let ended = workload.end(&mut observer).await;
        ended.map(|()| observer)
    });
    let ended = joined(ended).await?;
    sound(&world)?;
    let observer = ended.map_err(Failure::Stuck)?;
    let history = recorder.history();
    workload.check(&history).map_err(Failure::Anomaly)?;
    let alive = world.spawn(move || async move { ending::probe(observer).await });
    let alive = joined(alive).await?;
    sound(&world)?;
    let observer = alive.map_err(Failure::Stuck)?;
    if plan.placed {
        settling::settle(&mut world).await?;
    }
    let addresses = world.client_addresses();
    let clocks_agree = !plan
        .strikes
        .iter()
        .any(|strike| strike.fault.bends_wall_clocks());
    let agreed = world.spawn(move || async move {
        agreement::owned(&addresses).await?;
        match clocks_agree {
            true => agreement::alike(&addresses).await,
            false => Ok(()),
        }
    });
    joined(agreed).await??;
    if let Some(lost) = plan.bereaved_of.filter(|_| ending::can_lose_one(plan)) {
        ending::bereave(&mut world, observer, usize::from(lost)).await?;
        if plan.placed && plan.nodes > 3 {
            settling::settle(&mut world).await?;
        }
    }
    is_telling(&history)
}

pub(crate) async fn joined<T>(task: madsim::task::JoinHandle<T>) -> Result<T, Failure> {
    ended(task.await)
}

/// What a task came to.
pub(crate) fn ended<T>(end: Result<T, madsim::task::JoinError>) -> Result<T, Failure> {
    end.map_err(|error| Failure::Panicked(error.to_string()))
}

/// Neither an invariant was broken, nor did a node stop without excuse.
pub(crate) fn sound(world: &World) -> Result<(), Failure> {
    world.look_at_views();
    if let Some(violation) = world.invariants.violation() {
        return Err(Failure::Invariant(violation));
    }
    match world.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(Failure::Stopped(failures.join("; "))),
    }
}

/// A run in which next to nothing was answered shows nothing.
fn is_telling(history: &[Operation]) -> Result<(), Failure> {
    let answered = history.iter().filter(|o| o.outcome == Outcome::Ok).count();
    match answered < ANSWERED_MIN {
        true => Err(Failure::Idle {
            answered,
            wanted: ANSWERED_MIN,
        }),
        false => Ok(()),
    }
}
