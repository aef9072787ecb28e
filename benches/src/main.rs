//! `synod-bench`: Synod beside etcd and Redis, in one run, as a Markdown table.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use synod_benches::etcd::Failure;
use synod_benches::load::{self, Figures, Load, Protocol, Verb};
use synod_benches::systems::System;
use synod_benches::transfers::{self, Draw, Kind, Transfers};
use synod_benches::{started, status, syncs};

/// Measures SET and GET of Synod (3 nodes), etcd (3 nodes) and Redis (1 node, appendfsync always).
///
/// Needs `etcd`, `redis-server` and `strace` on the PATH and a release build of `synod`.
#[derive(Parser)]
struct Arguments {
    /// The synod program
    #[arg(long, default_value = "target/release/synod")]
    synod: PathBuf,
    /// Where the systems keep their data, in directories that the run removes
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Connections, one measurement for each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128])]
    connections: Vec<usize>,
    /// Different keys, uniformly drawn: all measurements for each
    #[arg(long, value_delimiter = ',', default_values_t = [20_000, 1_000_000])]
    keys: Vec<u64>,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Only these systems
    #[arg(long, value_delimiter = ',', default_values_t = ["synod".to_owned(), "etcd".to_owned(), "redis".to_owned()])]
    systems: Vec<String>,
    /// Seconds for which the syncs of each system are traced, under SET on the most connections; 0:
    /// not at all
    #[arg(long, default_value_t = 5)]
    trace_seconds: u64,
    /// Measure transactions on Synod instead: a SET, three SETs of one shard, transfers over two shards
    #[arg(long)]
    transactions: bool,
    /// Print each measurement as a JSON line, too
    #[arg(long)]
    json: bool,
}

/// Syncs of one system, as traced.
struct Traced {
    name: &'static str,
    writes: f64,
    seen: u64,
    own: Option<u64>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let dir = arguments.dir.join(std::process::id().to_string());
    std::fs::create_dir_all(&dir)?;
    started::end_with_signals(dir.clone())?;
    let outcome = match arguments.transactions {
        true => transactions(&arguments, &dir),
        false => run(&arguments, &dir),
    };
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn run(arguments: &Arguments, dir: &Path) -> Result<(), Failure> {
    println!(
        "Values of {} bytes (random), {} s a measurement, load on the same {} cores, load average \
         before: {}",
        arguments.value_bytes,
        arguments.seconds,
        std::thread::available_parallelism()?,
        std::fs::read_to_string("/proc/loadavg")?
            .split(' ')
            .next()
            .unwrap_or_default()
    );
    println!();
    println!(
        "| system | keys | command | connections | per second | p50 ms | p99 ms | max ms | debt |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut traced = Vec::new();
    for (round, keys) in arguments.keys.iter().enumerate() {
        for name in &arguments.systems {
            let place = dir.join(format!("{keys}"));
            std::fs::create_dir_all(&place)?;
            let system = match name.as_str() {
                "synod" => System::synod(&arguments.synod, &place)?,
                "etcd" => System::etcd(&place)?,
                "redis" => System::redis(&place)?,
                other => return Err(format!("no system {other:?}: synod, etcd or redis").into()),
            };
            measure(arguments, &system, *keys)?;
            if round == 0 && arguments.trace_seconds > 0 {
                traced.push(trace(arguments, &system, *keys, &place)?);
            }
            drop(system);
            std::fs::remove_dir_all(&place)?;
        }
    }
    print!("{}", sync_table(&traced)?);
    Ok(())
}

/// Measures transactions: latencies on one connection, then throughput, then under contention.
fn transactions(arguments: &Arguments, dir: &Path) -> Result<(), Failure> {
    let system = System::synod(&arguments.synod, dir)?;
    println!(
        "| transaction | accounts | connections | per second | p50 ms | p99 ms | max ms | lost |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let measurements = [
        ("SET", Kind::Set, Draw::Uniform, 10_000, 1),
        (
            "MULTI of 3 SETs, one shard",
            Kind::OneShard,
            Draw::Uniform,
            10_000,
            1,
        ),
        (
            "transfer, two shards",
            Kind::Transfer,
            Draw::Uniform,
            10_000,
            1,
        ),
        ("SET", Kind::Set, Draw::Uniform, 10_000, 64),
        (
            "MULTI of 3 SETs, one shard",
            Kind::OneShard,
            Draw::Uniform,
            10_000,
            64,
        ),
        (
            "transfer, two shards",
            Kind::Transfer,
            Draw::Uniform,
            10_000,
            64,
        ),
        (
            "transfer, zipfian 0.99",
            Kind::Transfer,
            Draw::Zipfian,
            1_000,
            64,
        ),
    ];
    for (name, kind, draw, accounts, connections) in measurements {
        eprintln!("{name} on {connections} connections");
        let figures = transfers::run(&Transfers {
            addresses: system.addresses.clone(),
            kind,
            draw,
            accounts,
            connections,
            duration: Duration::from_secs(arguments.seconds),
        })?;
        println!(
            "| {name} | {accounts} | {connections} | {:.0} | {:.2} | {:.2} | {:.1} | {} |",
            figures.per_s,
            milliseconds(figures.p50_us),
            milliseconds(figures.p99_us),
            milliseconds(figures.max_us),
            figures.errors
        );
        if arguments.json {
            eprintln!("{}", serde_json::to_string(&figures)?);
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn load_on(arguments: &Arguments, system: &System, keys: u64) -> Load {
    Load {
        protocol: system.protocol,
        addresses: system.addresses.clone(),
        verb: Verb::Set,
        connections: 64,
        keys,
        value_bytes: arguments.value_bytes,
        duration: Duration::from_secs(arguments.seconds),
    }
}

/// Whether the system is ours, and says what its log and its checkpoints do.
fn speaks_of_itself(system: &System) -> bool {
    system.protocol == Protocol::Resp && system.addresses.len() > 1
}

fn measure(arguments: &Arguments, system: &System, keys: u64) -> Result<(), Failure> {
    let mut load = load_on(arguments, system, keys);
    eprintln!("{}: writing {keys} keys", system.name);
    load::fill(&load)?;
    for verb in [Verb::Set, Verb::Get] {
        for connections in &arguments.connections {
            (load.verb, load.connections) = (verb, *connections);
            eprintln!("{}: {verb:?} on {connections} connections", system.name);
            let figures = load::run(&load)?;
            let debt = match speaks_of_itself(system) {
                true => Some(status::ask(&system.addresses)?.debt_bytes),
                false => None,
            };
            row(system.name, &load, &figures, debt, arguments.json)?;
        }
    }
    Ok(())
}

/// Counts the syncs of a system under writes.
fn trace(arguments: &Arguments, system: &System, keys: u64, dir: &Path) -> Result<Traced, Failure> {
    let mut load = load_on(arguments, system, keys);
    load.connections = arguments.connections.iter().copied().max().unwrap_or(1);
    load.duration = Duration::from_secs(arguments.trace_seconds);
    eprintln!("{}: tracing syncs", system.name);
    let own = |addresses: &[String]| status::ask(addresses).map(|status| status.log_syncs);
    let measured = syncs::count(&system.pids(), dir, || {
        let before = match speaks_of_itself(system) {
            true => Some(own(&system.addresses)?),
            false => None,
        };
        let figures = load::run(&load)?;
        let after = match before {
            Some(before) => Some(own(&system.addresses)? - before),
            None => None,
        };
        Ok((figures, after))
    });
    let ((figures, own), seen) = measured?;
    Ok(Traced {
        name: system.name,
        writes: figures.per_s * load.duration.as_secs_f64(),
        seen,
        own,
    })
}

fn sync_table(traced: &[Traced]) -> Result<String, Failure> {
    let mut table = String::new();
    if traced.is_empty() {
        return Ok(table);
    }
    writeln!(table)?;
    writeln!(
        table,
        "Syncs as strace counted them, in a run of its own (tracing slows all of them):"
    )?;
    writeln!(table)?;
    writeln!(
        table,
        "| system | writes | fsync + fdatasync, all nodes | writes a sync and node | of these, log batches by its own count |"
    )?;
    writeln!(table, "|---|---|---|---|---|")?;
    for traced in traced {
        let nodes = match traced.name.contains("3 nodes") {
            true => 3.0,
            false => 1.0,
        };
        let each = traced.writes * nodes / (traced.seen.max(1)) as f64;
        let own = traced.own.map_or("–".to_owned(), |own| own.to_string());
        writeln!(
            table,
            "| {} | {:.0} | {} | {each:.1} | {own} |",
            traced.name, traced.writes, traced.seen
        )?;
    }
    Ok(table)
}

fn row(
    name: &str,
    load: &Load,
    figures: &Figures,
    debt: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let verb = match load.verb {
        Verb::Set => "SET",
        Verb::Get => "GET",
    };
    let errors = match figures.errors {
        0 => String::new(),
        errors => format!(" ({errors} errors)"),
    };
    let debt = debt.map_or("–".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    println!(
        "| {name} | {} | {verb} | {} | {:.0}{errors} | {:.2} | {:.2} | {:.1} | {debt} |",
        load.keys,
        load.connections,
        figures.per_s,
        milliseconds(figures.p50_us),
        milliseconds(figures.p99_us),
        milliseconds(figures.max_us)
    );
    if json {
        eprintln!("{}", serde_json::to_string(figures)?);
    }
    std::io::stdout().flush()?;
    Ok(())
}
