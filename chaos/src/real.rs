//! Real processes on loopback: the same workloads and checkers, with `kill -9` and `SIGSTOP` for faults.
//!
//! Nothing here can be replayed: time, disks and sockets are the machine's. It looks for what the
//! simulator cannot show, because it stands in its place: the real runtime, disk, index and TCP.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::LocalSet;

use crate::fault::{Fault, Strike};
use crate::history::Step;
use crate::plan::Plan;
use crate::report::{Failure, RunReport};
use crate::timeline::{Timeline, What};
use crate::trace::Trace;
use crate::workload::{Clients, PLACES, Recorder};

/// The faults that can strike real processes.
pub const FAULTS: &[Fault] = &[
    Fault::KillOne,
    Fault::KillMinority,
    Fault::KillMajority,
    Fault::KillAll,
    Fault::Pause,
];

/// A cluster of real processes. They die with it.
struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    children: BTreeMap<usize, Child>,
}

impl Cluster {
    fn start(program: &Path, folder: &Path, nodes: u16) -> io::Result<Self> {
        // All are bound before one is let go, so that none is given out twice.
        let listeners: Vec<TcpListener> = (0..2 * nodes)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<io::Result<_>>()?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        drop(listeners);
        let (clients, peers) = addresses.split_at(usize::from(nodes));
        let mut cluster = Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            clients: clients.to_vec(),
            peers: peers.to_vec(),
            children: BTreeMap::new(),
        };
        for i in 0..usize::from(nodes) {
            cluster.spawn(i)?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, i: usize) -> io::Result<()> {
        if self.children.contains_key(&i) {
            return Ok(());
        }
        let data = self.folder.join(format!("n{i}"));
        std::fs::create_dir_all(&data)?;
        let log = self.folder.join(format!("n{i}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.program);
        command
            .args(["start", "--die-with-parent", "--data"])
            .arg(&data)
            .args(["--client", &self.clients[i].to_string()])
            .args(["--peer", &self.peers[i].to_string()]);
        for peer in &self.peers {
            command.args(["--join", &peer.to_string()]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.children.insert(i, child);
        Ok(())
    }

    fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.children.remove(&i) {
            // It may have ended by itself: `ended` has told so before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, i: usize, signal: Signal) {
        let pid = self.children.get(&i).map(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // A process that has ended needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// What ended that nobody killed.
    fn ended(&mut self) -> Option<String> {
        self.children.iter_mut().find_map(|(i, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some(format!("node {i} ended by itself: {status}"))
        })
    }

    fn begin(&mut self, strike: &Strike) -> (Vec<usize>, String) {
        let nodes = self.clients.len();
        let mut victims: Vec<usize> = (0..nodes).collect();
        victims.shuffle(&mut SmallRng::seed_from_u64(strike.draw));
        victims.truncate(match strike.fault {
            Fault::KillMinority => (nodes - 1) / 2,
            Fault::KillMajority => nodes / 2 + 1,
            Fault::KillAll => nodes,
            _ => 1,
        });
        for victim in &victims {
            match strike.fault {
                Fault::Pause => self.signal(*victim, Signal::STOP),
                _ => self.kill(*victim),
            }
        }
        let what = format!("{} {victims:?}", strike.fault.name());
        (victims, what)
    }

    fn heal(&mut self) -> io::Result<()> {
        for i in 0..self.clients.len() {
            self.signal(i, Signal::CONT);
            self.spawn(i)?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for i in 0..self.clients.len() {
            self.kill(i);
        }
    }
}

/// Runs a plan with processes of `program`, whose data and logs go into `folder`.
pub fn run(plan: &Plan, program: &Path, folder: &Path) -> Result<RunReport, String> {
    let started = Instant::now();
    let timeline = Timeline::default();
    let now_us = move || u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let recorder = Arc::new(Recorder::new(now_us, Trace::default()));
    let mut cluster = Cluster::start(program, folder, plan.nodes)
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let living = live(plan, &mut cluster, &recorder, &timeline);
    let judged = LocalSet::new().block_on(&runtime, living);
    Ok(RunReport {
        failure: judged.err(),
        history: recorder.history(),
        events: timeline.events(),
        simulated: started.elapsed(),
        trace: 0,
    })
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
        .map_err(Failure::Anomaly)
}

/// Strikes until the clients are done. Strikes that overlap end with the later one.
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
        moments.insert((strike.at_ms + strike.for_ms.max(1), i), false);
    }
    moments.insert((plan.safety_ms, usize::MAX), false);
    let mut struck: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
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
            let (victims, what) = cluster.begin(&plan.strikes[i]);
            struck.insert(i, victims);
            timeline.add(recorder.now_us(), What::Struck { strike: i, what });
        } else if let Some(victims) = struck.remove(&i) {
            for victim in victims {
                cluster.signal(victim, Signal::CONT);
                cluster.spawn(victim).map_err(lost)?;
            }
            timeline.add(recorder.now_us(), What::Undone { strike: i });
        }
    }
    Ok(())
}

fn lost(error: io::Error) -> Failure {
    Failure::Stopped(format!("a process cannot be started again: {error}"))
}
