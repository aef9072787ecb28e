//! `synod-footprint`: what one node takes when it is idle and when it holds a gibibyte, and how long
//! it takes to start with it. With `--cluster`, what each of five nodes takes when nobody asks them for
//! anything: they watch each other, agree on nothing new, and their Raft groups are quiet.
//!
//! A power cut is played by taking the index away after a kill: what sled holds is not trusted then,
//! and is rebuilt from the value files in just the same way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::Signal;
use synod_benches::etcd::Failure;
use synod_benches::load::{self, Load, Protocol, Verb};
use synod_benches::started::{self, Started};
use synod_benches::status;
use synod_benches::systems::{self, System};
use synod_client::{Connection, Options};

const CLIENT: &str = "127.0.0.1:17651";
const PEER: &str = "127.0.0.1:17751";
const START_PATIENCE: Duration = Duration::from_secs(120);

/// Measures memory, idle CPU and start times of one node with real files.
#[derive(Parser)]
struct Arguments {
    /// The synod program
    #[arg(long, default_value = "target/release/synod")]
    synod: PathBuf,
    /// Where the node keeps its data, in a directory that the run removes
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Keys, with values of 1 KiB
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Seconds of idleness that are looked at
    #[arg(long, default_value_t = 20)]
    idle_seconds: u64,
    /// Measures an idle cluster of five instead. Those of its bytes that count headers of TCP and IP are all bytes on
    /// loopback: nothing else should use it meanwhile
    #[arg(long)]
    cluster: bool,
}

struct Node {
    process: Started,
    started: Instant,
}

impl Node {
    fn start(synod: &Path, dir: &Path) -> Result<Self, Failure> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))?;
        let started = Instant::now();
        let process = Started::spawn(
            Command::new(synod)
                .args(["start", "--client", CLIENT, "--peer", PEER, "--data"])
                .arg(dir.join("data"))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        Ok(Self { process, started })
    }

    /// The time from the start to the first answer to a read.
    fn until_served(&self) -> Result<Duration, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let key = load::key(0);
            while self.started.elapsed() < START_PATIENCE {
                if let Ok(mut connection) = Connection::open(CLIENT, &Options::default()).await {
                    let get = synod_client::Command::read("GET").arg(&key);
                    if connection.call(&get).await.is_ok() {
                        return Ok(self.started.elapsed());
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err("the node does not serve".into())
        })
    }

    fn end(self, signal: Signal) -> Result<Duration, Failure> {
        let asked = Instant::now();
        self.process.end(signal)?;
        Ok(asked.elapsed())
    }

    fn resident_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).unwrap_or_default();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    }

    /// CPU so far, in hundredths of a second.
    fn cpu_ticks(&self) -> u64 {
        systems::cpu_ticks(self.process.id())
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let dir = arguments
        .dir
        .join(format!("footprint-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    started::end_with_signals(dir.clone())?;
    let outcome = if arguments.cluster {
        idle_cluster(&arguments, &dir)
    } else {
        run(&arguments, &dir)
    };
    fs::remove_dir_all(&dir)?;
    outcome
}

fn say(what: &str, figure: String, bound: &str) {
    println!("| {what} | {figure} | {bound} |");
}

fn run(arguments: &Arguments, dir: &Path) -> Result<(), Failure> {
    println!(
        "| one node, {} keys of 1 KiB | measured | bound |",
        arguments.keys
    );
    println!("|---|---|---|");
    let node = Node::start(&arguments.synod, dir)?;
    idle(arguments, &node)?;
    loaded(arguments, &node)?;
    restarts(arguments, dir, node)
}

/// Memory and CPU of a node that has nothing and does nothing.
fn idle(arguments: &Arguments, node: &Node) -> Result<(), Failure> {
    node.until_served()?;
    std::thread::sleep(Duration::from_secs(5));
    let before = node.cpu_ticks();
    std::thread::sleep(Duration::from_secs(arguments.idle_seconds));
    let percent = (node.cpu_ticks() - before) as f64 / arguments.idle_seconds.max(1) as f64;
    say(
        "idle, empty: memory",
        format!("{} MiB", node.resident_mib()),
        "64 MiB",
    );
    say(
        "idle, empty: CPU of one core",
        format!("{percent:.2}%"),
        "1%",
    );
    Ok(())
}

/// Processor time and traffic of each node of a cluster that has nothing to do.
fn idle_cluster(arguments: &Arguments, dir: &Path) -> Result<(), Failure> {
    const NODES: u16 = 5;
    let name = "Synod, 5 nodes";
    let system = System::synod_of(NODES, name, &arguments.synod, dir)?;
    // Its shards elect leaders, tell each other of themselves, and go quiet.
    std::thread::sleep(Duration::from_secs(15));
    let seconds = arguments.idle_seconds.max(1) as f64;
    let ticks = || system.pids().into_iter().map(systems::cpu_ticks);
    let before: Vec<u64> = ticks().collect();
    let sent_before = status::ask(&system.addresses)?.sent_bytes;
    let bytes_before = loopback_bytes()?;
    std::thread::sleep(Duration::from_secs(arguments.idle_seconds.max(1)));
    let bytes = loopback_bytes()? - bytes_before;
    let sent = status::ask(&system.addresses)?.sent_bytes;
    let percents = ticks().zip(&before);
    let percents: Vec<f64> = percents
        .map(|(now, then)| (now - then) as f64 / seconds)
        .collect();
    let most = percents.iter().copied().fold(0.0, f64::max);
    let mean = percents.iter().sum::<f64>() / f64::from(NODES);
    println!("| an idle cluster of {NODES}, a node | measured | bound |");
    println!("|---|---|---|");
    let figure = format!("{mean:.2}%, at most {most:.2}%");
    say("CPU of one core", figure, "1%");
    let rate = |bytes: u64| bytes as f64 / f64::from(NODES) / seconds / 1e3;
    let before = |kind: &str| sent_before.get(kind).copied().unwrap_or(0);
    let mut all = 0;
    for (kind, bytes) in &sent {
        let bytes = bytes - before(kind);
        all += bytes;
        if bytes > 0 {
            let figure = format!("{:.2} KB/s", rate(bytes));
            say(&format!("sent, and received: {kind}"), figure, "–");
        }
    }
    let figure = format!("{:.2} KB/s", rate(all));
    say("sent, and received", figure, "2 KB/s");
    let figure = format!("{:.2} KB/s", rate(bytes));
    say("the same with the headers of TCP and IP", figure, "–");
    Ok(())
}

/// What the loopback interface has sent so far, which is what it has received.
fn loopback_bytes() -> Result<u64, Failure> {
    let table = fs::read_to_string("/proc/net/dev")?;
    let mut lines = table.lines();
    let line = lines.find_map(|line| line.trim_start().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    bytes.ok_or_else(|| "/proc/net/dev shows no loopback interface".into())
}

/// Memory with all of the data written, and read.
fn loaded(arguments: &Arguments, node: &Node) -> Result<(), Failure> {
    let mut load = Load {
        protocol: Protocol::Resp,
        addresses: vec![CLIENT.to_owned()],
        verb: Verb::Get,
        connections: 64,
        keys: arguments.keys,
        value_bytes: 1024,
        duration: Duration::ZERO,
    };
    let begun = Instant::now();
    load::fill(&load)?;
    eprintln!("loaded in {:.1} s", begun.elapsed().as_secs_f64());
    say(
        "loaded: memory",
        format!("{} MiB", node.resident_mib()),
        "–",
    );
    load.connections = 16;
    load::read_all(&load)?;
    say(
        "loaded and read: memory",
        format!("{} MiB", node.resident_mib()),
        "320 MiB",
    );
    Ok(())
}

/// A stop, a kill and a lost index, and the start after each.
fn restarts(arguments: &Arguments, dir: &Path, node: Node) -> Result<(), Failure> {
    let start = || Node::start(&arguments.synod, dir);
    let stop = node.end(Signal::TERM)?;
    say("clean stop", format!("{:.2} s", stop.as_secs_f64()), "–");
    let node = start()?;
    let served = |node: &Node| node.until_served().map(|time| time.as_secs_f64());
    say(
        "start after a stop",
        format!("{:.2} s", served(&node)?),
        "2 s",
    );
    node.end(Signal::KILL)?;
    let node = start()?;
    say(
        "start after a kill",
        format!("{:.2} s", served(&node)?),
        "2 s",
    );
    node.end(Signal::KILL)?;
    fs::remove_dir_all(dir.join("data").join("index"))?;
    let node = start()?;
    let rebuilt = format!("{:.2} s", served(&node)?);
    say(
        "start with the index rebuilt, as after a power cut",
        rebuilt,
        "10 s",
    );
    std::thread::sleep(Duration::from_secs(2));
    say(
        "after that: memory",
        format!("{} MiB", node.resident_mib()),
        "–",
    );
    node.end(Signal::TERM)?;
    let log = fs::read_to_string(dir.join("log"))?;
    for line in log.lines().filter(|line| line.contains("index")) {
        eprintln!("{line}");
    }
    Ok(())
}
