//! A world: a cluster of production nodes on simulated machines, and the power to break it.
//!
//! Everything in it follows from one seed: machines, network, disks, clocks and faults. The nodes
//! are [`synod::node::serve`], unchanged, on simulated sockets, with a simulated disk and clock.

mod clock;
mod links;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod::config::{Layers, Settings};
use synod::edge::Shutdown;
use synod::node::{DiskWork, Entropy, Environment, serve};
use synod_storage::disk::{Disk, SimDisk, Survival};
use synod_storage::index::MemoryIndexFactory;
use synod_storage::{Lane, Options};
use tracing::info;

pub use self::clock::{SimClock, world_us};
pub use self::links::{Link, Links};

const PEER_PORT: u16 = 7701;
const CLIENT_PORT: u16 = 7601;

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process dies; the machine and its page cache live on.
    Kill,
    /// The machine dies: of what was written and not synced, any part survives.
    PowerLoss,
}

/// A cluster under test.
pub struct World {
    machines: Vec<Machine>,
    clients: NodeHandle,
    /// What may happen on the links.
    pub links: Arc<Links>,
    rng: SmallRng,
}

struct Machine {
    node: NodeHandle,
    state: Arc<Mutex<State>>,
    up: bool,
}

/// What outlives the processes of a machine.
struct State {
    disk: SimDisk,
    clock: SimClock,
    machine_boot: u128,
    rng: SmallRng,
    last_error: Option<String>,
}

impl World {
    /// `nodes` machines, started.
    pub fn new(seed: u64, nodes: u16) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let links = Arc::new(Links::new(rng.random()));
        let machines = (0..nodes)
            .map(|i| {
                Machine::new(
                    i,
                    nodes,
                    SmallRng::seed_from_u64(rng.random()),
                    links.clone(),
                )
            })
            .collect();
        let clients = Handle::current()
            .create_node()
            .name("clients")
            .ip(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)))
            .build();
        Self {
            machines,
            clients,
            links,
            rng,
        }
    }

    /// How many machines there are.
    pub fn nodes(&self) -> usize {
        self.machines.len()
    }

    /// Where clients find each node.
    pub fn client_addresses(&self) -> Vec<String> {
        (0..self.machines.len() as u16)
            .map(|i| SocketAddr::new(ip(i), CLIENT_PORT).to_string())
            .collect()
    }

    /// Runs a client, on a machine of its own that no fault strikes.
    pub fn spawn<F>(&self, client: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.clients.spawn(client)
    }

    /// Whether a node's process runs.
    pub fn is_up(&self, i: usize) -> bool {
        self.machines[i].up
    }

    /// Ends a node.
    pub fn stop(&mut self, i: usize, end: End) {
        let machine = &mut self.machines[i];
        if !machine.up {
            return;
        }
        info!(node = i, ?end, "the world strikes");
        Handle::current().kill(machine.node.id());
        machine.up = false;
        let mut state = machine.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.disk = match end {
            End::Kill => state.disk.kill(),
            End::PowerLoss => {
                state.machine_boot += 1;
                state.disk.power_loss(Survival::Random)
            }
        };
    }

    /// Starts a node's process again.
    pub fn start(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if !machine.up {
            info!(node = i, "started again");
            Handle::current().restart(machine.node.id());
            machine.up = true;
        }
    }

    /// A machine's disk, to look at and to damage.
    pub fn disk(&self, i: usize) -> SimDisk {
        let state = self.machines[i]
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.disk.clone()
    }

    /// Changes a machine's clock: its rate in parts per million and its wall clock's offset.
    pub fn set_clock(&self, i: usize, rate_ppm: i64, wall_offset_ms: i64) {
        let state = self.machines[i]
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.clock.set(rate_ppm, wall_offset_ms);
    }

    /// Everything works again: all nodes up, all links clean.
    pub fn heal(&mut self) {
        self.links.heal();
        for i in 0..self.machines.len() {
            self.start(i);
        }
    }

    /// A random node.
    pub fn any_node(&mut self) -> usize {
        self.rng.random_range(0..self.machines.len())
    }

    /// The world's randomness, for faults.
    pub fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }

    /// The address of a node, as links know it.
    pub fn peer_address(&self, i: usize) -> SocketAddr {
        SocketAddr::new(ip(i as u16), PEER_PORT)
    }

    /// What a node said when it stopped by itself, if one did: no fault of this world excuses it.
    pub fn failures(&self) -> Vec<String> {
        self.machines
            .iter()
            .enumerate()
            .filter_map(|(i, machine)| {
                let state = machine.state.lock().unwrap_or_else(PoisonError::into_inner);
                state
                    .last_error
                    .as_ref()
                    .map(|error| format!("node {i}: {error}"))
            })
            .collect()
    }
}

fn ip(i: u16) -> IpAddr {
    let [high, low] = (i + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

impl Machine {
    fn new(i: u16, nodes: u16, mut rng: SmallRng, links: Arc<Links>) -> Self {
        let state = Arc::new(Mutex::new(State {
            disk: SimDisk::new(rng.random()),
            clock: SimClock::default(),
            machine_boot: 1,
            rng,
            last_error: None,
        }));
        let join: Vec<SocketAddr> = (0..nodes)
            .map(|peer| SocketAddr::new(ip(peer), PEER_PORT))
            .collect();
        let of_process = state.clone();
        let node = Handle::current()
            .create_node()
            .name(format!("n{i}"))
            .ip(ip(i))
            .init(move || process(i, join.clone(), of_process.clone(), links.clone()))
            .build();
        Self {
            node,
            state,
            up: true,
        }
    }
}

/// One life of a node's process.
async fn process(i: u16, join: Vec<SocketAddr>, state: Arc<Mutex<State>>, links: Arc<Links>) {
    let environment = environment(&state, links);
    let settings = settings(i);
    // Bound anew each time: the world never stops a node cleanly.
    let outcome = serve(environment, settings, join, Shutdown::default()).await;
    if let Err(error) = outcome {
        tracing::error!(node = i, "stopped: {error}");
        state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_error = Some(error.to_string());
    }
}

fn environment(state: &Arc<Mutex<State>>, links: Arc<Links>) -> Environment {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut entropy = Entropy {
        node: state.rng.random(),
        cluster: state.rng.random(),
        store: state.rng.random(),
        nonce: state.rng.random(),
        seed: state.rng.random(),
        membership: [0; 4],
    };
    let times = Mutex::new(SmallRng::seed_from_u64(state.rng.random()));
    // Zero, small, or long: a sync may finish before the next message or after an election.
    let slow = state.rng.random_bool(0.1);
    let step_time = move |lane: Lane| {
        let mut rng = times.lock().unwrap_or_else(PoisonError::into_inner);
        let us = match lane {
            Lane::Log if slow => rng.random_range(0..20_000),
            Lane::Log | Lane::Read => rng.random_range(0..300),
            Lane::Background => rng.random_range(0..2_000),
        };
        Duration::from_micros(if rng.random_bool(0.2) { 0 } else { us })
    };
    entropy.membership = state.rng.random();
    Environment {
        disk: Arc::new(state.disk.clone()) as Arc<dyn Disk>,
        index: Box::new(MemoryIndexFactory::new()),
        storage: Options::tiny(),
        clock: Arc::new(state.clock.clone()),
        machine_boot: state.machine_boot,
        entropy,
        disk_work: DiskWork::Tasks(Arc::new(step_time)),
        faults: Some(links),
    }
}

fn settings(i: u16) -> Settings {
    let mut settings =
        Settings::from_layers(&Layers::default()).expect("the default settings are valid");
    settings.process.client = SocketAddr::new(ip(i), CLIENT_PORT);
    settings.process.peer = SocketAddr::new(ip(i), PEER_PORT);
    settings.process.peer_advertise = settings.process.peer;
    settings
}
