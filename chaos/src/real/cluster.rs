//! A cluster of real processes: how they begin, end, and are broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use synod::config::Reads;

use super::network::{Network, address};
use super::volume::Volume;
use super::{Means, NodeProgram};
use crate::fault::partition::{self, Direction};
use crate::fault::{Fault, Strike};
use crate::plan::Plan;

/// What a node keeps free for itself is between none of this and all of it.
const SPARE_BYTES_MAX: u64 = 320 << 20;

/// A cluster of real processes. They die with it.
pub(super) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    pub(super) clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    children: BTreeMap<usize, Child>,
    reads: &'static str,
    network: Option<Network>,
    volumes: Vec<Volume>,
    /// Nodes whose disk was full: they may have stopped because of it.
    excused: BTreeSet<usize>,
}

/// What a strike did, to take it back.
#[derive(Debug, Default)]
pub(super) struct Struck {
    victims: Vec<usize>,
    cuts: Vec<Direction>,
    pub(super) what: String,
}

impl Cluster {
    pub(super) fn start(program: &NodeProgram<'_>, plan: &Plan, means: Means) -> io::Result<Self> {
        let count = usize::from(plan.nodes);
        let network = match means.namespaces {
            true => Some(Network::new(&program.name, count).map_err(io::Error::other)?),
            false => None,
        };
        let (clients, peers) = match network {
            Some(_) => (
                (0..count).map(|i| at(address(i).into(), 7601)).collect(),
                (0..count).map(|i| at(address(i).into(), 7701)).collect(),
            ),
            None => free_addresses(count)?,
        };
        let volumes = match means.volumes {
            true => (0..count)
                .map(|i| Volume::mount(&data(program.folder, i)).map_err(io::Error::other))
                .collect::<io::Result<_>>()?,
            false => Vec::new(),
        };
        let mut cluster = Self {
            program: program.path.to_owned(),
            folder: program.folder.to_owned(),
            clients,
            peers,
            children: BTreeMap::new(),
            reads: match plan.reads {
                Reads::Lease => "lease",
                Reads::Quorum => "quorum",
            },
            network,
            volumes,
            excused: BTreeSet::new(),
        };
        for i in 0..count {
            cluster.spawn(i)?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, i: usize) -> io::Result<()> {
        if self.children.contains_key(&i) {
            return Ok(());
        }
        let data = data(&self.folder, i);
        std::fs::create_dir_all(&data)?;
        let log = self.folder.join(format!("n{i}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = match &self.network {
            Some(network) => network.command(i, &self.program),
            None => Command::new(&self.program),
        };
        command
            .args(["start", "--die-with-parent", "--data"])
            .arg(&data)
            .args(["--reads", self.reads])
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

    /// What ended that nobody killed, and that has no excuse.
    pub(super) fn ended(&mut self) -> Option<String> {
        let mut gone = Vec::new();
        let mut without_excuse = None;
        for (i, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                gone.push(*i);
                if !self.excused.contains(i) {
                    without_excuse = Some(format!("node {i} ended by itself: {status}"));
                }
            }
        }
        for i in gone {
            self.children.remove(&i);
        }
        without_excuse
    }

    /// Lets a fault begin.
    pub(super) fn begin(&mut self, strike: &Strike) -> io::Result<Struck> {
        let nodes = self.clients.len();
        let mut rng = SmallRng::seed_from_u64(strike.draw);
        let mut victims: Vec<usize> = (0..nodes).collect();
        victims.shuffle(&mut rng);
        match strike.fault {
            Fault::KillMinority => victims.truncate((nodes - 1) / 2),
            Fault::KillMajority => victims.truncate(nodes / 2 + 1),
            Fault::KillAll | Fault::Halves | Fault::Ring | Fault::Bridge => {}
            _ => victims.truncate(1),
        }
        let (mut cuts, mut detail) = (Vec::new(), String::new());
        match strike.fault {
            Fault::Pause => victims.iter().for_each(|i| self.signal(*i, Signal::STOP)),
            Fault::DiskFull => {
                let spare_bytes = rng.random_range(0..SPARE_BYTES_MAX);
                detail = format!(" but for {} KiB", spare_bytes >> 10);
                for victim in &victims {
                    self.excused.insert(*victim);
                    self.volumes[*victim].fill(spare_bytes)?;
                }
            }
            fault if super::needs_namespaces(fault) => {
                (cuts, detail) = partition::cuts(fault, &victims, nodes, &mut rng);
                if let Some(network) = &mut self.network {
                    network.cut(&cuts).map_err(io::Error::other)?;
                }
            }
            _ => victims.iter().for_each(|i| self.kill(*i)),
        }
        let what = match victims.len() < nodes {
            true => format!("{} {victims:?}{detail}", strike.fault.name()),
            false => format!("{}{detail}", strike.fault.name()),
        };
        Ok(Struck {
            victims,
            cuts,
            what,
        })
    }

    /// Takes back what a fault did. Strikes that overlap end with the earlier one, but for cuts.
    pub(super) fn end(&mut self, struck: &Struck) -> io::Result<()> {
        if let Some(network) = &mut self.network {
            network.join(&struck.cuts).map_err(io::Error::other)?;
        }
        for victim in &struck.victims {
            self.mend(*victim)?;
        }
        Ok(())
    }

    fn mend(&mut self, i: usize) -> io::Result<()> {
        if let Some(volume) = self.volumes.get(i) {
            volume.free()?;
        }
        self.signal(i, Signal::CONT);
        self.spawn(i)
    }

    /// Everything works again.
    pub(super) fn heal(&mut self) -> io::Result<()> {
        if let Some(network) = &mut self.network {
            network.heal().map_err(io::Error::other)?;
        }
        (0..self.clients.len()).try_for_each(|i| self.mend(i))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for i in 0..self.clients.len() {
            self.kill(i);
        }
    }
}

fn data(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("n{i}"))
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Addresses on loopback for clients and peers. All are bound before one is let go, so that none is
/// given out twice.
fn free_addresses(nodes: usize) -> io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let listeners: Vec<TcpListener> = (0..2 * nodes)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    let mut clients: Vec<SocketAddr> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()?;
    let peers = clients.split_off(nodes);
    Ok((clients, peers))
}
