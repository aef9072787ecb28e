//! The systems under measurement, started as processes on loopback with empty directories, and
//! ended with the run.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Protocol;
use crate::started::Started;

/// A running system.
pub struct System {
    /// Its name in the table.
    pub name: &'static str,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where its nodes serve clients.
    pub addresses: Vec<String>,
    processes: Vec<Started>,
}

impl System {
    /// Three Synod nodes, all fsync.
    pub fn synod(program: &Path, dir: &Path) -> io::Result<Self> {
        Self::synod_of(3, "Synod, 3 nodes", program, dir)
    }

    /// A Synod cluster of so many nodes.
    pub fn synod_of(
        nodes: u16,
        name: &'static str,
        program: &Path,
        dir: &Path,
    ) -> io::Result<Self> {
        let peer = |i: u16| format!("127.0.0.1:{}", 17701 + i);
        let client = |i: u16| format!("127.0.0.1:{}", 17601 + i);
        let join: Vec<String> = (0..nodes).map(peer).collect();
        let join = join.join(",");
        let mut processes = Vec::new();
        for i in 0..nodes {
            let data = dir.join(format!("synod{i}"));
            processes.push(spawn(
                Command::new(program)
                    .arg("start")
                    .args(["--data".as_ref(), data.as_os_str()])
                    .args(["--client", &client(i)])
                    .args(["--peer", &peer(i)])
                    .args(["--join", &join]),
            )?);
        }
        Self {
            name,
            protocol: Protocol::Resp,
            addresses: (0..nodes).map(client).collect(),
            processes,
        }
        .ready()
    }

    /// Three etcd nodes with their defaults.
    pub fn etcd(dir: &Path) -> io::Result<Self> {
        let cluster: Vec<String> = (0..3)
            .map(|i| format!("e{i}=http://127.0.0.1:{}", 12380 + 10 * i))
            .collect();
        let cluster = cluster.join(",");
        let mut processes = Vec::new();
        for i in 0..3 {
            let client = format!("http://127.0.0.1:{}", 12379 + 10 * i);
            let peer = format!("http://127.0.0.1:{}", 12380 + 10 * i);
            let data = dir.join(format!("etcd{i}"));
            processes.push(spawn(
                Command::new("etcd")
                    .args(["--name", &format!("e{i}")])
                    .args(["--data-dir".as_ref(), data.as_os_str()])
                    .args([
                        "--listen-client-urls",
                        &client,
                        "--advertise-client-urls",
                        &client,
                    ])
                    .args(["--listen-peer-urls", &peer])
                    .args(["--initial-advertise-peer-urls", &peer])
                    .args([
                        "--initial-cluster",
                        &cluster,
                        "--quota-backend-bytes",
                        "8589934592",
                    ]),
            )?);
        }
        let addresses = (0..3)
            .map(|i| format!("127.0.0.1:{}", 12379 + 10 * i))
            .collect();
        Self {
            name: "etcd, 3 nodes",
            protocol: Protocol::Etcd,
            addresses,
            processes,
        }
        .ready()
    }

    /// One Redis that syncs each write before it answers: durable on one machine, replicated on
    /// none.
    pub fn redis(dir: &Path) -> io::Result<Self> {
        let data = dir.join("redis");
        std::fs::create_dir_all(&data)?;
        let process = spawn(
            Command::new("redis-server")
                .args(["--port", "16379", "--bind", "127.0.0.1", "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always"])
                .args(["--dir".as_ref(), data.as_os_str()]),
        )?;
        let addresses = vec!["127.0.0.1:16379".to_owned()];
        let processes = vec![process];
        Self {
            name: "Redis, 1 node",
            protocol: Protocol::Resp,
            addresses,
            processes,
        }
        .ready()
    }

    /// Waits until every node accepts connections, and a little for elections.
    fn ready(self) -> io::Result<Self> {
        let patience = Instant::now() + Duration::from_secs(30);
        for address in &self.addresses {
            while let Err(error) = TcpStream::connect(address) {
                if Instant::now() > patience {
                    return Err(io::Error::other(format!(
                        "{} at {address}: {error}",
                        self.name
                    )));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        Ok(self)
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Started::id).collect()
    }
}

/// The processor time that a process has used so far, in hundredths of a second; 0 if it is gone.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields.get(11..13).unwrap_or_default();
    ticks.iter().filter_map(|t| t.parse::<u64>().ok()).sum()
}

fn spawn(command: &mut Command) -> io::Result<Started> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Started::spawn(command)
}
