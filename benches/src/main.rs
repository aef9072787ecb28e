//! `synod-bench`: Synod beside etcd and Redis, in one run, as a Markdown table.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use synod_benches::etcd::Failure;
use synod_benches::load::{self, Figures, Load, Verb};
use synod_benches::systems::System;

/// Measures SET and GET of Synod (3 nodes), etcd (3 nodes) and Redis (1 node, appendfsync always).
///
/// Needs `etcd` and `redis-server` on the PATH and a release build of `synod`.
#[derive(Parser)]
struct Arguments {
    /// The synod program
    #[arg(long, default_value = "target/release/synod")]
    synod: PathBuf,
    /// Where the systems keep their data; emptied by each run's own directory
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Connections, one measurement for each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128])]
    connections: Vec<usize>,
    /// Different keys
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Only these systems
    #[arg(long, value_delimiter = ',', default_values_t = ["synod".to_owned(), "etcd".to_owned(), "redis".to_owned()])]
    systems: Vec<String>,
    /// Print each measurement as a JSON line, too
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let dir = arguments.dir.join(std::process::id().to_string());
    std::fs::create_dir_all(&dir)?;
    println!(
        "{} keys, values of {} bytes (random), {} s a measurement, load on the same {} cores",
        arguments.keys,
        arguments.value_bytes,
        arguments.seconds,
        std::thread::available_parallelism()?
    );
    println!("| system | command | connections | per second | p50 ms | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|---|");
    for name in &arguments.systems {
        let system = match name.as_str() {
            "synod" => System::synod(&arguments.synod, &dir)?,
            "etcd" => System::etcd(&dir)?,
            "redis" => System::redis(&dir)?,
            other => return Err(format!("no system {other:?}: synod, etcd or redis").into()),
        };
        measure(&arguments, &system)?;
        drop(system);
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn measure(arguments: &Arguments, system: &System) -> Result<(), Failure> {
    let mut load = Load {
        protocol: system.protocol,
        addresses: system.addresses.clone(),
        verb: Verb::Set,
        connections: 64,
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
        duration: Duration::from_secs(arguments.seconds),
    };
    eprintln!("{}: writing {} keys", system.name, arguments.keys);
    load::fill(&load)?;
    for verb in [Verb::Set, Verb::Get] {
        for connections in &arguments.connections {
            (load.verb, load.connections) = (verb, *connections);
            eprintln!("{}: {verb:?} on {connections} connections", system.name);
            let figures = load::run(&load)?;
            row(system.name, &load, &figures, arguments.json)?;
        }
    }
    Ok(())
}

fn row(name: &str, load: &Load, figures: &Figures, json: bool) -> Result<(), Failure> {
    let ms = |us: u64| us as f64 / 1000.0;
    let verb = match load.verb {
        Verb::Set => "SET",
        Verb::Get => "GET",
    };
    let errors = match figures.errors {
        0 => String::new(),
        errors => format!(" ({errors} errors)"),
    };
    println!(
        "| {name} | {verb} | {} | {:.0}{errors} | {:.2} | {:.2} | {:.1} |",
        load.connections,
        figures.per_s,
        ms(figures.p50_us),
        ms(figures.p99_us),
        ms(figures.max_us)
    );
    if json {
        eprintln!("{}", serde_json::to_string(figures)?);
    }
    std::io::stdout().flush()?;
    Ok(())
}
