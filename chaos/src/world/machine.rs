//! One simulated machine: what outlives its processes, and how they begin and end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use synod::config::{Layers, Settings};
use synod::edge::Shutdown;
use synod::node::{DiskWork, Entropy, Environment, NodeError, serve};
use synod_storage::disk::{Disk, SimDisk, Survival};
use synod_storage::index::MemoryIndexFactory;
use synod_storage::{Lane, Options};

use super::{CLIENT_PORT, End, Links, PEER_PORT, Setup, SimClock, ip, world_us};
use crate::invariant::Invariants;
use crate::members::{self, Cluster, Register};
use crate::timeline::{Timeline, What};

/// How long a node may be away before its replicas are replaced: longer than most faults last, and short for a run.
const REPLACE_AFTER_MS: u32 = 6_000;

/// What runs on a machine.
#[derive(Clone)]
pub(super) enum Program {
    /// A whole node, told to join these.
    Node(Setup, Vec<SocketAddr>),
    /// The membership of one, and nothing else.
    Membership(Arc<Cluster>, Register),
}

/// A machine and the process on it.
pub(super) struct Machine {
    node: NodeHandle,
    state: Arc<Mutex<State>>,
    /// Whether a process was started and not ended by the world.
    pub(super) up: bool,
}

/// What outlives the processes of a machine.
pub(super) struct State {
    pub(super) disk: SimDisk,
    pub(super) clock: SimClock,
    machine_boot: u128,
    rng: SmallRng,
    /// What a process said that stopped by itself, without excuse.
    pub(super) last_error: Option<String>,
    /// The disk was broken: a process may stop because of it.
    pub(super) excused: bool,
    /// The process stopped by itself.
    stopped: bool,
    /// It has left its cluster for good: what is on the disk is of no use any more.
    left: bool,
    /// The name and the nonce that the directory begins with, if they are not left to chance.
    first: Option<(u128, u64)>,
    slow_us: Arc<AtomicU64>,
}

impl State {
    pub(super) fn set_slow(&self, step_max_us: u64) {
        self.slow_us.store(step_max_us, Ordering::Relaxed);
    }
}

impl Machine {
    pub(super) fn new(
        i: u16,
        program: Program,
        first: Option<(u128, u64)>,
        mut rng: SmallRng,
        links: Arc<Links>,
        seen: (Invariants, Timeline),
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            disk: SimDisk::new(rng.random()),
            clock: SimClock::default(),
            machine_boot: 1,
            rng,
            last_error: None,
            excused: false,
            stopped: false,
            left: false,
            first,
            slow_us: Arc::new(AtomicU64::new(0)),
        }));
        let of_process = state.clone();
        let node = Handle::current()
            .create_node()
            .name(format!("n{i}"))
            .ip(ip(i))
            .init(move || {
                let (state, links) = (of_process.clone(), links.clone());
                process((i, program.clone()), state, links, seen.clone())
            })
            .build();
        Self {
            node,
            state,
            up: true,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.node.id()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process is there, and has not stopped by itself.
    pub(super) fn is_running(&self) -> bool {
        self.up && !self.lock().stopped
    }

    /// Whether its process has stopped because its node left.
    pub(super) fn has_left(&self) -> bool {
        self.up && self.lock().left
    }

    /// Kills whatever runs, for good.
    pub(super) fn end(&self) {
        Handle::current().kill(self.node.id());
    }

    pub(super) fn stop(&mut self, end: End) {
        self.end();
        self.up = false;
        let mut state = self.lock();
        state.clock.release();
        state.disk = match end {
            End::Kill => state.disk.kill(),
            End::PowerLoss => {
                state.machine_boot += 1;
                state.disk.power_loss(Survival::Random)
            }
        };
    }

    pub(super) fn start(&mut self) {
        if self.up {
            // It stopped by itself: what it left running goes first.
            self.stop(End::Kill);
        }
        {
            let mut state = self.lock();
            state.stopped = false;
            if std::mem::take(&mut state.left) {
                state.disk = SimDisk::new(state.rng.random());
            }
        }
        Handle::current().restart(self.node.id());
        self.up = true;
    }

    /// How many bytes the disk holds.
    pub(super) fn used_bytes(&self) -> u64 {
        let state = self.lock();
        let lengths = state.disk.paths().into_iter().filter_map(|path| {
            let content = state.disk.content(&path)?;
            Some(content.len() as u64)
        });
        lengths.sum()
    }

    /// Turns over a bit within what a log segment holds.
    pub(super) fn rot_log(&self, draw: u64) -> bool {
        let state = self.lock();
        let mut rng = SmallRng::seed_from_u64(draw);
        let segments: Vec<(String, Vec<u64>)> = state
            .disk
            .paths()
            .into_iter()
            .filter(|path| path.starts_with("log/segment-"))
            .filter_map(|path| {
                let content = state.disk.content(&path)?;
                let written: Vec<u64> = (0u64..)
                    .zip(&content)
                    .filter(|(_, byte)| **byte != 0)
                    .map(|(at, _)| at)
                    .collect();
                (!written.is_empty()).then_some((path, written))
            })
            .collect();
        if segments.is_empty() {
            return false;
        }
        let (path, written) = &segments[rng.random_range(0..segments.len())];
        let byte = written[rng.random_range(0..written.len())];
        state.disk.flip_bit(path, byte, rng.random_range(0..8));
        true
    }
}

/// One life of a node's process.
async fn process(
    (i, program): (u16, Program),
    state: Arc<Mutex<State>>,
    links: Arc<Links>,
    (invariants, timeline): (Invariants, Timeline),
) {
    let environment = environment(&state, links, invariants.of_process(usize::from(i)));
    // Bound anew each time: the world never stops a node cleanly. One that ends well has left.
    let outcome = match program {
        Program::Node(setup, join) => {
            serve(environment, settings(i, setup), join, Shutdown::default()).await
        }
        Program::Membership(cluster, register) => {
            let clock = state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clock
                .clone();
            let settings = settings(i, Setup::manual(1));
            members::serve(i, environment, clock, &settings, (&cluster, &register)).await
        }
    };
    let Err(error) = outcome else {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.stopped, state.left) = (true, true);
        return;
    };
    tracing::error!(node = i, "stopped: {error}");
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let why = error.to_string();
    timeline.add(
        world_us(),
        What::Stopped {
            node: usize::from(i),
            why: why.clone(),
        },
    );
    state.stopped = true;
    let by_disk = matches!(
        error,
        NodeError::Disk(_)
            | NodeError::Open(_)
            | NodeError::Identity(_)
            | NodeError::Membership(_)
            | NodeError::Unsaved
            | NodeError::Unwritable(_)
    );
    if !(by_disk && state.excused) {
        state.last_error = Some(why);
    }
}

fn environment(
    state: &Arc<Mutex<State>>,
    links: Arc<Links>,
    observer: Arc<dyn synod::node::Observer>,
) -> Environment {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut entropy = Entropy {
        node: state.rng.random(),
        cluster: state.rng.random(),
        store: state.rng.random(),
        nonce: state.rng.random(),
        seed: state.rng.random(),
        membership: state.rng.random(),
    };
    if let Some((node, nonce)) = state.first.take() {
        (entropy.node, entropy.nonce) = (node, nonce);
    }
    let times = Mutex::new(SmallRng::seed_from_u64(state.rng.random()));
    // Zero, small, or long: a sync may finish before the next message or after an election.
    let log_max_us = if state.rng.random_bool(0.1) {
        20_000
    } else {
        300
    };
    let slow_us = state.slow_us.clone();
    let step_time = move |lane: Lane| {
        let mut rng = times.lock().unwrap_or_else(PoisonError::into_inner);
        let max_us = match lane {
            Lane::Log => log_max_us,
            Lane::Read => 300,
            Lane::Background => 2_000,
        };
        let max_us = max_us.max(slow_us.load(Ordering::Relaxed));
        let us = rng.random_range(0..max_us);
        Duration::from_micros(if rng.random_bool(0.2) { 0 } else { us })
    };
    Environment {
        disk: Arc::new(state.disk.clone()) as Arc<dyn Disk>,
        index: Box::new(MemoryIndexFactory::new()),
        storage: Options::tiny(),
        clock: Arc::new(state.clock.clone()),
        machine_boot: state.machine_boot,
        entropy,
        disk_work: DiskWork::Tasks(Arc::new(step_time)),
        faults: Some(links),
        observer: Some(observer),
    }
}

pub(super) fn settings(i: u16, setup: Setup) -> Settings {
    let mut settings =
        Settings::from_layers(&Layers::default()).expect("the default settings are valid");
    settings.cluster.reads = setup.reads;
    settings.cluster.placement = setup.placement;
    settings.cluster.replace_after_ms = REPLACE_AFTER_MS;
    if setup.zones > 1 {
        let zone = format!("z{}", i % setup.zones);
        settings.process.labels.insert("zone".to_owned(), zone);
    }
    settings.process.client = SocketAddr::new(ip(i), CLIENT_PORT);
    settings.process.peer = SocketAddr::new(ip(i), PEER_PORT);
    settings.process.peer_advertise = settings.process.peer;
    settings
}
