//! Real processes: the same workloads and checkers, with `kill -9`, `SIGSTOP`, cut links and full disks.
//!
//! Nothing here can be replayed: time, disks and sockets are the machine's. It looks for what the
//! simulator cannot show, because it stands in its place: the real runtime, disk, index and TCP.
//!
//! Links are cut where network namespaces are permitted, and disks are full where file systems may be
//! mounted; elsewhere these faults are left out, and the run says so.

mod cluster;
mod network;
mod volume;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use self::cluster::{Cluster, Struck};
use self::network::Network;
use self::volume::Volume;
use crate::agreement;
use crate::fault::Fault;
use crate::history::Step;
use crate::plan::Plan;
use crate::report::{Failure, RunReport};
use crate::timeline::{Timeline, What};
use crate::trace::Trace;
use crate::workload::{Clients, PLACES, Recorder};

/// The faults that can strike real processes.
const FAULTS: &[Fault] = &[
    Fault::KillOne,
    Fault::KillMinority,
    Fault::KillMajority,
    Fault::KillAll,
    Fault::Pause,
    Fault::Halves,
    Fault::Ring,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Bridge,
    Fault::DiskFull,
];

/// What this machine permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Network namespaces, to cut links.
    pub namespaces: bool,
    /// Mounts, to fill disks.
    pub volumes: bool,
}

impl Means {
    /// Tries what is permitted; what is not, in words.
    pub fn find(folder: &Path) -> (Self, Vec<String>) {
        let mut missing = Vec::new();
        let mut tried = |what: &str, result: Result<(), String>| match result {
            Ok(()) => true,
            Err(why) => {
                missing.push(format!("no {what}: {why}"));
                false
            }
        };
        // In a thread of its own, which ends where it went.
        let name = format!("synod-try-{}", std::process::id());
        let entered = std::thread::spawn(move || Network::new(&name, 1).map(drop)).join();
        let entered = entered.unwrap_or_else(|_| Err("the thread that tried it ended".to_owned()));
        let place = folder.join("try");
        let mounted = Volume::mount(&place).map(drop);
        let means = Self {
            namespaces: tried("cut links", entered),
            volumes: tried("full disks", mounted),
        };
        // An empty folder, or one that was never made.
        let _ = std::fs::remove_dir(&place);
        (means, missing)
    }

    /// Whether a fault can strike here.
    pub fn permit(self, fault: Fault) -> bool {
        FAULTS.contains(&fault)
            && (self.namespaces || !needs_namespaces(fault))
            && (self.volumes || fault != Fault::DiskFull)
    }
}

fn needs_namespaces(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Halves | Fault::Ring | Fault::Isolate | Fault::OneWay | Fault::Bridge
    )
}

/// The program under test, and where its nodes live.
pub struct NodeProgram<'a> {
    /// The program.
    pub path: &'a Path,
    /// Where its data and logs go.
    pub folder: &'a Path,
    /// What its namespaces are called; no other run's are called so.
    pub name: String,
}

/// Runs a plan with processes of `program`.
pub fn run(plan: &Plan, program: &NodeProgram<'_>, means: Means) -> Result<RunReport, String> {
    let started = Instant::now();
    let timeline = Timeline::default();
    let now_us = move || u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let recorder = Arc::new(Recorder::new(now_us, Trace::default()));
    let mut cluster = Cluster::start(program, plan, means)
        .map_err(|error| format!("cannot start {}: {error}", program.path.display()))?;
    // Made after the cluster: its sockets are where this thread is now.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let living = async {
        tokio::select! {
            biased;
            judged = live(plan, &mut cluster, &recorder, &timeline) => judged,
            // What was made for the run goes with it.
            () = interrupted() => Err(Failure::Stopped("the run was interrupted".to_owned())),
        }
    };
    let judged = LocalSet::new().block_on(&runtime, living);
    Ok(RunReport {
        failure: judged.err(),
        history: recorder.history(),
        events: timeline.events(),
        simulated: started.elapsed(),
        trace: 0,
    })
}

/// Until somebody wants this process to end.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn live(
    plan: &Plan,
    cluster: &mut Cluster,
    recorder: &Arc<Recorder>,
    timeline: &Timeline,
) -> Result<(), Failure> {
    let clients = Clients {
        addresses: cluster.clients.iter().map(SocketAddr::to_string).collect(),
        recorder: recorder.clone(),
        seed: plan.seed,
    };
    let (workload, mut observer) = (plan.workload, clients.observer());
    // The cluster forms first: until then nothing is an answer.
    let formed = Step::write(format!("{}formed", PLACES[0]), "1");
    let mut warmer = Clients {
        recorder: Arc::new(Recorder::new(|| 0, Trace::default())),
        ..clients.clone()
    }
    .observer();
    for _ in 0..300 {
        if warmer.single(formed.clone()).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    workload
        .begin(&mut observer)
        .await
        .map_err(Failure::Stuck)?;
    let begin_us = recorder.now_us();
    let until_us = begin_us + plan.safety_ms * 1000;
    let working: Vec<_> = (0u32..)
        .zip(&plan.clients)
        .map(|(client, habit)| {
            let session = clients.session(client, *habit);
            tokio::task::spawn_local(workload.work(session, until_us))
        })
        .collect();
    strike(plan, cluster, recorder, timeline, begin_us).await?;
    cluster.heal().map_err(lost)?;
    timeline.add(recorder.now_us(), What::Healed);
    for client in working {
        client
            .await
            .map_err(|error| Failure::Panicked(error.to_string()))?;
    }
    workload.end(&mut observer).await.map_err(Failure::Stuck)?;
    if let Some(ended) = cluster.ended() {
        return Err(Failure::Stopped(ended));
    }
    workload
        .check(&recorder.history())
        .map_err(Failure::Anomaly)?;
    agreement::owned(&clients.addresses).await?;
    agreement::alike(&clients.addresses).await
}

/// Strikes until the clients are done.
async fn strike(
    plan: &Plan,
    cluster: &mut Cluster,
    recorder: &Recorder,
    timeline: &Timeline,
    begin_us: u64,
) -> Result<(), Failure> {
    let mut moments: BTreeMap<(u64, usize), bool> = BTreeMap::new();
    for (i, strike) in plan.strikes.iter().enumerate() {
        moments.insert((strike.at_ms, i), true);
        moments.insert((strike.end_ms(), i), false);
    }
    moments.insert((plan.safety_ms, usize::MAX), false);
    let mut struck: BTreeMap<usize, Struck> = BTreeMap::new();
    for ((at_ms, i), begins) in moments {
        if at_ms > plan.safety_ms {
            break;
        }
        let left_us = (begin_us + at_ms * 1000).saturating_sub(recorder.now_us());
        tokio::time::sleep(Duration::from_micros(left_us)).await;
        if let Some(ended) = cluster.ended() {
            return Err(Failure::Stopped(ended));
        }
        if begins {
            let done = cluster.begin(&plan.strikes[i]).map_err(lost)?;
            let what = done.what.clone();
            struck.insert(i, done);
            timeline.add(recorder.now_us(), What::Struck { strike: i, what });
        } else if let Some(done) = struck.remove(&i) {
            cluster.end(&done).map_err(lost)?;
            timeline.add(recorder.now_us(), What::Undone { strike: i });
        }
    }
    Ok(())
}

fn lost(error: io::Error) -> Failure {
    Failure::Stopped(format!("the harness cannot strike or mend: {error}"))
}
