//! A cluster of real processes on loopback, for tests. Ends with the test.

use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[path = "../support/ports.rs"]
mod ports;
mod small_disk;

use rustix::process::{Pid, Signal, kill_process};
use small_disk::SmallDisk;

/// Processes, their directories and ports.
pub struct Cluster {
    nodes: Vec<Node>,
    root: PathBuf,
}

/// One process and what it is started with.
pub struct Node {
    data: PathBuf,
    log: PathBuf,
    client: u16,
    peer: u16,
    join: Vec<u16>,
    flags: Vec<String>,
    disk: Option<SmallDisk>,
    process: Option<Child>,
}

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Two ports that are free now.
pub fn free_ports() -> [u16; 2] {
    let first = ports::free_ports(2);
    [first, first + 1]
}

/// Runs a command that should end by itself; its status and all that it printed.
pub fn run_to_end(mut command: Command) -> (ExitStatus, String) {
    let output = command.output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

impl Node {
    /// The command that starts a node.
    pub fn command(data: &Path, client: u16, peer: u16, join: &[u16]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synod"));
        command
            .arg("start")
            .args(["--data".as_ref(), data.as_os_str()])
            .args(["--client", &format!("127.0.0.1:{client}")])
            .args(["--peer", &format!("127.0.0.1:{peer}")]);
        if !join.is_empty() {
            let list: Vec<String> = join
                .iter()
                .map(|port| format!("127.0.0.1:{port}"))
                .collect();
            command.args(["--join", &list.join(",")]);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let mut command = Self::command(&self.data, self.client, self.peer, &self.join);
        command.args(&self.flags);
        if let Some(disk) = &self.disk {
            command = disk.enter(&command);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file again"))
            .stderr(log)
            .spawn()
            .expect("the program runs");
        self.process = Some(child);
    }

    fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }
}

impl Cluster {
    /// Starts `nodes` processes with empty directories. They form a cluster by themselves.
    pub fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// The same, but the last one is late: it is for the caller to run.
    pub fn start_but_one(nodes: usize) -> Self {
        let mut cluster = Self::prepare(nodes, |_| Vec::new());
        (0..nodes - 1).for_each(|i| cluster.run(i));
        (0..nodes - 1).for_each(|i| cluster.wait_until_up(i));
        cluster
    }

    /// The same, with settings of their own: flags and values.
    pub fn start_with(nodes: usize, flags: &[&str]) -> Self {
        Self::start_each(nodes, |_| flags.iter().map(ToString::to_string).collect())
    }

    /// The same, with settings for each node.
    pub fn start_each(nodes: usize, flags: impl Fn(usize) -> Vec<String>) -> Self {
        let mut cluster = Self::prepare(nodes, flags);
        cluster.run_all();
        cluster
    }

    /// The same, the last node on a disk of so many bytes; or why there is none.
    pub fn start_on_small_disk(nodes: usize, bytes: u64) -> Result<Self, String> {
        let mut cluster = Self::prepare(nodes, |_| Vec::new());
        let last = &mut cluster.nodes[nodes - 1];
        last.disk = Some(SmallDisk::mount(&last.data, bytes)?);
        cluster.run_all();
        Ok(cluster)
    }

    /// The small disk of the last node.
    pub fn small_disk(&self) -> &SmallDisk {
        let mut disks = self.nodes.iter().filter_map(|node| node.disk.as_ref());
        disks.next().expect("one has a small disk")
    }

    fn prepare(nodes: usize, flags: impl Fn(usize) -> Vec<String>) -> Self {
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("synod-test-{}-{number}", std::process::id()));
        let ports: Vec<[u16; 2]> = (0..nodes).map(|_| free_ports()).collect();
        let join: Vec<u16> = if nodes > 1 {
            ports.iter().map(|ports| ports[1]).collect()
        } else {
            Vec::new()
        };
        std::fs::create_dir_all(&root).expect("a temporary directory");
        let nodes = ports
            .iter()
            .enumerate()
            .map(|(i, [client, peer])| Node {
                data: root.join(format!("n{i}")),
                log: root.join(format!("n{i}.log")),
                client: *client,
                peer: *peer,
                join: join.clone(),
                flags: flags(i),
                disk: None,
                process: None,
            })
            .collect();
        Self { nodes, root }
    }

    /// A copy of the directories of all nodes, none of which may run, for processes at other ports.
    pub fn copy(&self) -> Self {
        let copy = Self::prepare(self.nodes.len(), |_| Vec::new());
        for (from, to) in self.nodes.iter().zip(&copy.nodes) {
            assert!(from.process.is_none(), "it runs");
            copy_tree(&from.data, &to.data);
        }
        copy
    }

    fn run_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.run(i);
        }
        for i in 0..self.nodes.len() {
            self.wait_until_up(i);
        }
    }

    /// Waits until a node accepts clients.
    pub fn wait_until_up(&mut self, i: usize) {
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.client(i)).is_err() {
            assert!(
                Instant::now() < patience,
                "node {i} is not up: {}",
                self.nodes[i].log()
            );
            std::thread::yield_now();
        }
    }

    /// Starts one more node, with an empty directory, that joins through these peers.
    pub fn add(&mut self, join: &[u16]) -> usize {
        self.add_with(join, Vec::new())
    }

    /// The same, with settings.
    pub fn add_with(&mut self, join: &[u16], flags: Vec<String>) -> usize {
        let i = self.nodes.len();
        let [client, peer] = free_ports();
        self.nodes.push(Node {
            data: self.root.join(format!("n{i}")),
            log: self.root.join(format!("n{i}.log")),
            client,
            peer,
            join: join.to_vec(),
            flags,
            disk: None,
            process: None,
        });
        self.run(i);
        i
    }

    /// Takes a stopped node's directory away.
    pub fn wipe(&mut self, i: usize) {
        std::fs::remove_dir_all(&self.nodes[i].data).expect("a directory");
    }

    /// Starts a node's process.
    pub fn run(&mut self, i: usize) {
        self.nodes[i].run();
    }

    /// kill -9.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut process) = self.nodes[i].process.take() {
            process.kill().expect("the process is there");
            process.wait().expect("the process ends");
        }
    }

    /// Lets a node stand still, or go on.
    pub fn pause(&self, i: usize, paused: bool) {
        let process = self.nodes[i].process.as_ref().expect("it runs");
        send(process, if paused { Signal::STOP } else { Signal::CONT });
    }

    /// Asks a node to stop, waits until it has, and returns what it logged.
    pub fn stop(&mut self, i: usize) -> String {
        let node = &mut self.nodes[i];
        let Some(mut process) = node.process.take() else {
            return node.log();
        };
        send(&process, Signal::TERM);
        let patience = Instant::now() + Duration::from_secs(20);
        while process.try_wait().expect("a child").is_none() {
            if Instant::now() > patience {
                let _ = process.kill();
                let _ = process.wait();
                panic!("node {i} did not stop: {}", node.log());
            }
            std::thread::yield_now();
        }
        node.log()
    }

    /// Lets a node have another peer port from its next start on.
    pub fn move_to(&mut self, i: usize, peer: u16) {
        self.nodes[i].peer = peer;
    }

    /// Changes the addresses that a node joins through at its next start.
    pub fn join(&mut self, i: usize, peers: &[u16]) {
        self.nodes[i].join = peers.to_vec();
    }

    /// What a node has logged.
    pub fn log(&self, i: usize) -> String {
        self.nodes[i].log()
    }

    /// The client address of a node.
    pub fn client(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].client)
    }

    /// All client addresses.
    pub fn clients(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|i| self.client(i)).collect()
    }

    /// The client port of a node.
    pub fn client_port(&self, i: usize) -> u16 {
        self.nodes[i].client
    }

    /// The peer address of a node.
    pub fn peer(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].peer)
    }

    /// The peer port of a node.
    pub fn peer_port(&self, i: usize) -> u16 {
        self.nodes[i].peer
    }

    /// The data directory of a node.
    pub fn data(&self, i: usize) -> PathBuf {
        self.nodes[i].data.clone()
    }
}

fn send(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).expect("a signal");
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("room for a copy");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for i in 0..self.nodes.len() {
            self.kill(i);
        }
        if std::thread::panicking() {
            for (i, node) in self.nodes.iter().enumerate() {
                eprintln!("--- node {i}\n{}", node.log());
            }
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
