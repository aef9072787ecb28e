//! A world: a cluster of production nodes on simulated machines, and the power to break it.
//!
//! Everything in it follows from one seed: machines, network, disks, clocks and faults. The nodes
//! are [`synod::node::serve`], unchanged, on simulated sockets, with a simulated disk and clock; or only
//! their memberships ([`crate::members`]), where many nodes and many seeds are wanted.

mod clock;
mod links;
mod machine;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod::config::{Placement, Reads};
use synod_storage::disk::{Fault as DiskFault, SimDisk};
use tracing::info;

use self::machine::{Machine, Program};
use crate::invariant::{Invariants, views};
use crate::members::{Cluster, Register};
use crate::timeline::{Timeline, What};
use crate::trace::Trace;

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

/// How a cluster under test is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// How many machines there are.
    pub nodes: u16,
    /// How reads prove that they are current.
    pub reads: Reads,
    /// Who moves replicas and leaders.
    pub placement: Placement,
    /// How many zones the machines are in, one after the other.
    pub zones: u16,
}

impl Setup {
    /// A cluster that nobody but operators changes, without zones.
    pub fn manual(nodes: u16) -> Setup {
        Setup {
            nodes,
            reads: Reads::Lease,
            placement: Placement::Manual,
            zones: 1,
        }
    }

    /// A cluster that manages itself, in three zones.
    pub fn placed(nodes: u16) -> Setup {
        Setup {
            placement: Placement::Auto,
            zones: 3,
            ..Setup::manual(nodes)
        }
    }
}

/// A cluster under test.
pub struct World {
    machines: Vec<Machine>,
    clients: NodeHandle,
    /// What may happen on the links.
    pub links: Arc<Links>,
    /// What must hold in it at every moment.
    pub invariants: Invariants,
    /// What happened to it.
    pub timeline: Timeline,
    /// The sum of all that happened in it.
    pub trace: Trace,
    rng: SmallRng,
}

/// Tasks wait for each other and hold what the others wait for: a simulation that just ends leaves all of it in memory.
/// Those of a killed node are dropped, once the simulation goes on for a moment.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for machine in &self.machines {
            machine.end();
        }
        Handle::current().kill(self.clients.id());
    }
}

impl World {
    /// Machines, started.
    pub fn new(seed: u64, setup: Setup) -> Self {
        let join: Vec<SocketAddr> = (0..setup.nodes).map(peer).collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let programs = vec![(Program::Node(setup, join), None); usize::from(setup.nodes)];
        Self::of_programs(&mut rng, programs)
    }

    /// Machines with nothing but their memberships on them: `founders` that form a cluster, and
    /// `joiners` that ask them to be let in. The register hears of every view.
    pub fn of_memberships(seed: u64, founders: u16, joiners: u16, register: &Register) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let names: Vec<(u128, u64)> = (0..founders).map(|_| rng.random()).collect();
        let places = (0..founders).zip(&names);
        let founding = places.map(|(i, (node, nonce))| (peer(i), *node, *nonce));
        let settings = machine::settings(0, Setup::manual(1));
        let cluster = Arc::new(Cluster::new(rng.random(), founding.collect(), &settings));
        let first = |i: u16| names.get(usize::from(i)).copied();
        let programs = (0..founders + joiners)
            .map(|i| {
                let program = Program::Membership(cluster.clone(), register.clone());
                (program, first(i))
            })
            .collect();
        Self::of_programs(&mut rng, programs)
    }

    /// A machine for each program, with the name and nonce that its directory begins with, if they are
    /// not left to chance.
    fn of_programs(rng: &mut SmallRng, programs: Vec<(Program, Option<(u128, u64)>)>) -> Self {
        let (trace, timeline) = (Trace::default(), Timeline::default());
        let invariants = Invariants::new(timeline.clone());
        let links = Arc::new(Links::new(rng.random(), trace.clone()));
        let machines = (0u16..)
            .zip(programs)
            .map(|(i, (program, first))| {
                let rng = SmallRng::seed_from_u64(rng.random());
                let seen = (invariants.clone(), timeline.clone());
                Machine::new(i, program, first, rng, links.clone(), seen)
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
            invariants,
            timeline,
            trace,
            rng: rng.clone(),
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

    /// Runs a client, on a machine of its own that no fault strikes. Its future is made there: it
    /// need not be sent between threads, of which there is one.
    pub fn spawn<F>(&self, client: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        self.clients.spawn(async move {
            let task = madsim::task::spawn_local(client());
            match task.await {
                Ok(output) => output,
                Err(error) => panic!("a client's task ended early: {error}"),
            }
        })
    }

    /// Ends a node, if it runs.
    pub fn stop(&mut self, i: usize, end: End) {
        if self.machines[i].up {
            info!(node = i, ?end, "the world strikes");
            self.machines[i].stop(end);
        }
    }

    /// Starts a node's process again, if it does not run.
    pub fn start(&mut self, i: usize) {
        if !self.machines[i].is_running() {
            info!(node = i, "started again");
            self.machines[i].start();
        }
    }

    /// Machines whose node has left its cluster for good, by an order that took its time, begin anew.
    pub fn renew(&mut self) {
        for i in 0..self.machines.len() {
            if self.machines[i].has_left() {
                self.start(i);
            }
        }
    }

    /// Ends a node's process and starts it again, at once.
    pub fn restart(&mut self, i: usize) {
        self.stop(i, End::Kill);
        self.start(i);
    }

    /// A machine gets an empty disk in the place of its own, and its process starts as a new node.
    pub fn replace(&mut self, i: usize) {
        self.stop(i, End::Kill);
        let disk = SimDisk::new(self.rng.random());
        self.machines[i].lock().disk = disk;
        self.start(i);
    }

    /// Stops the clock of a process, but not that of the world.
    pub fn pause(&self, i: usize) {
        Handle::current().pause(self.machines[i].id());
    }

    /// Lets a paused process go on.
    pub fn resume(&self, i: usize) {
        Handle::current().resume(self.machines[i].id());
    }

    /// The readings of the clock that the process will take next, so many, show this moment, as if it
    /// had been stopped just after it took them.
    pub fn hold_clock(&self, i: usize, readings: u8) {
        self.machines[i].lock().clock.hold(readings);
    }

    /// A machine's disk, to look at and to damage.
    pub fn disk(&self, i: usize) -> SimDisk {
        self.machines[i].lock().disk.clone()
    }

    /// Looks at the view logs on all disks.
    pub fn look_at_views(&self) {
        for (i, machine) in self.machines.iter().enumerate() {
            let log = machine.lock().disk.content(views::FILE);
            self.invariants.look_at_views(i, &log.unwrap_or_default());
        }
    }

    /// Changes a machine's clock: its rate in parts per million and its wall clock's offset.
    pub fn set_clock(&self, i: usize, rate_ppm: Option<i64>, wall_offset_ms: Option<i64>) {
        self.machines[i].lock().clock.set(rate_ppm, wall_offset_ms);
    }

    /// Arms a fault of a machine's disk, which excuses its process for stopping.
    pub fn break_disk(&self, i: usize, fault: DiskFault) {
        let mut state = self.machines[i].lock();
        state.disk.inject(fault);
        state.excused = true;
    }

    /// Gives a machine's disk no more room than `spare` bytes beyond what it holds.
    pub fn fill_disk(&self, i: usize, spare: u64) {
        let used = self.machines[i].used_bytes();
        self.break_disk(i, DiskFault::Capacity(used + spare));
    }

    /// Lets every step of a machine's disk take up to this long.
    pub fn slow_disk(&self, i: usize, step_max_us: u64) {
        self.machines[i].lock().set_slow(step_max_us);
    }

    /// Turns one bit of a machine's log over, at a place drawn from `draw`; whether there was one.
    pub fn rot_log(&self, i: usize, draw: u64) -> bool {
        self.machines[i].rot_log(draw)
    }

    /// The disk of a machine works again.
    pub fn mend_disk(&self, i: usize) {
        let state = self.machines[i].lock();
        state.disk.heal();
        state.disk.inject(DiskFault::Capacity(u64::MAX));
        state.set_slow(0);
    }

    /// Everything works again: all nodes up, all links clean, clocks at their rate, disks whole.
    pub fn heal(&mut self) {
        self.links.heal();
        for i in 0..self.machines.len() {
            self.machines[i].lock().clock.release();
            self.resume(i);
            self.mend_disk(i);
            self.set_clock(i, Some(0), None);
            self.start(i);
        }
        self.timeline.add(world_us(), What::Healed);
    }

    /// A random node.
    pub fn any_node(&mut self) -> usize {
        self.rng.random_range(0..self.machines.len())
    }

    /// The world's randomness, for what is done to it by hand.
    pub fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }

    /// The node that leads most shards, as far as anybody saw.
    pub fn leader(&self) -> Option<usize> {
        self.invariants.busiest_leader()
    }

    /// The node that leads one of the shards, as far as anybody saw; which of them follows from `draw`.
    pub fn leader_of_some(&self, draw: u64) -> Option<usize> {
        self.invariants.leader_of_some(draw)
    }

    /// The machines whose process runs.
    pub fn running(&self) -> Vec<usize> {
        (0..self.machines.len())
            .filter(|i| self.machines[*i].is_running())
            .collect()
    }

    /// The address of a node, as links know it.
    pub fn peer_address(&self, i: usize) -> SocketAddr {
        peer(i as u16)
    }

    /// What a node said when it stopped by itself without excuse, if one did.
    pub fn failures(&self) -> Vec<String> {
        let failure = |(i, machine): (usize, &Machine)| {
            let error = machine.lock().last_error.clone()?;
            Some(format!("node {i}: {error}"))
        };
        self.machines
            .iter()
            .enumerate()
            .filter_map(failure)
            .collect()
    }
}

/// Where the peers of a machine find it.
fn peer(i: u16) -> SocketAddr {
    SocketAddr::new(ip(i), PEER_PORT)
}

fn ip(i: u16) -> IpAddr {
    let [high, low] = (i + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}
