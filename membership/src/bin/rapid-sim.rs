//! `rapid-sim`: runs a membership scenario in virtual time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use synod_membership::sim::report::Report;
use synod_membership::sim::runner::{self, Progress};
use synod_membership::sim::scenario::{ProtocolKind, Scenario, ScenarioError};
use synod_membership::sim::storm;
use synod_membership::sim::table;

/// Exit code for a scenario or an argument that makes no sense.
const EXIT_USAGE: u8 = 2;

/// The keys of a scenario, for `--help`: the module documentation's tables as plain text.
const SCENARIO_HELP: &str = include_str!("rapid-sim-help.txt");

/// Runs a membership scenario in virtual time and reports what every node saw.
#[derive(Parser)]
#[command(name = "rapid-sim", after_long_help = SCENARIO_HELP, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs scenarios with several protocols and seeds and prints one Markdown table.
    Table(Table),
    /// Runs random faults on small clusters, one storm a seed, and prints those that end badly.
    Storm(Storm),
}

#[derive(Args)]
struct Run {
    /// The scenario file (TOML); --help lists its keys.
    scenario: PathBuf,
    /// Seed of all chance; overrides the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints the whole report as JSON.
    #[arg(long)]
    json: bool,
    /// Prints every input, message and view on standard error.
    #[arg(long)]
    trace: bool,
    /// Protocol in place of the scenario's.
    #[arg(long)]
    protocol: Option<String>,
    /// KEY=VALUE in place of what the scenario says at its top level; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct Table {
    /// The scenario files.
    #[arg(required_unless_present = "from")]
    scenarios: Vec<PathBuf>,
    /// Adds the runs of a file that --log wrote before; may be repeated.
    #[arg(long)]
    from: Vec<PathBuf>,
    /// How many seeds, from 1 on.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The protocols, in the table's order.
    #[arg(long, value_delimiter = ',', default_value = "rapid,swim,heartbeat")]
    protocols: Vec<String>,
    /// Runs at a time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// As for a single run.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Also appends each run's report, without its views, as a line of JSON to this file. Runs that it holds already
    /// are not done again: an interrupted table goes on where it was. Belongs to one build of the program.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[derive(Args)]
struct Storm {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Nodes of each cluster; 3 to 12, drawn, when not given.
    #[arg(long)]
    nodes: Option<u64>,
    /// Only prints the scenario file of the first seed.
    #[arg(long)]
    text: bool,
    /// As for a single run.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What keeps a run from starting.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}: {1}")]
    Scenario(PathBuf, ScenarioError),
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    #[error("--set {0}: must be KEY=VALUE")]
    Set(String),
    #[error("--protocols: {0:?} is not one of rapid, rapid-c, swim, heartbeat")]
    Protocol(String),
    #[error("{0}:{1}: {2}")]
    Log(PathBuf, usize, serde_json::Error),
    #[error("{0}")]
    Seeds(&'static str),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.run) {
        (Some(Command::Table(table)), _) => run_table(&table),
        (Some(Command::Storm(storm)), _) => run_storms(&storm),
        (None, Some(run)) => run_one(&run),
        (None, None) => {
            eprintln!("rapid-sim: a scenario file is required; see --help");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rapid-sim: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn load(path: &Path, set: &[String]) -> Result<(String, Scenario), Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Io(path.to_owned(), error))?;
    let overrides = overrides(set)?;
    let scenario = Scenario::parse(&text, &overrides)
        .map_err(|error| Error::Scenario(path.to_owned(), error))?;
    let name = path
        .file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into());
    Ok((name, scenario))
}

fn overrides(set: &[String]) -> Result<Vec<(String, String)>, Error> {
    set.iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(Error::Set(pair.clone())),
        })
        .collect()
}

fn run_storms(arguments: &Storm) -> Result<(), Error> {
    if arguments.text {
        print(&storm::text(arguments.first, arguments.nodes));
        return Ok(());
    }
    if arguments
        .nodes
        .is_some_and(|nodes| !(3..=100).contains(&nodes))
    {
        return Err(Error::Seeds("--nodes: must be in 3..=100"));
    }
    let overrides = overrides(&arguments.set)?;
    let mut wrecks = 0;
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        let outcome = storm::run(seed, arguments.nodes, &overrides)
            .map_err(|error| Error::Scenario(PathBuf::from("storm"), error))?;
        if let Err(wreck) = outcome {
            wrecks += 1;
            print(&format!("seed {}: {}", wreck.seed, wreck.problem));
        }
    }
    print(&format!("{} storms, {wrecks} ended badly", arguments.seeds));
    Ok(())
}

fn run_one(run: &Run) -> Result<(), Error> {
    let mut set = run.set.clone();
    set.extend(
        run.protocol
            .iter()
            .map(|protocol| format!("protocol={protocol}")),
    );
    let (name, scenario) = load(&run.scenario, &set)?;
    let seed = run.seed.unwrap_or(scenario.seed);
    let progress = if run.trace {
        Progress::Trace
    } else {
        Progress::Lines
    };
    let report = runner::run(&name, &scenario, seed, progress);
    print(&if run.json {
        to_json(&report)
    } else {
        report.to_string()
    });
    Ok(())
}

fn run_table(arguments: &Table) -> Result<(), Error> {
    let scenarios: Vec<(String, Scenario)> = arguments
        .scenarios
        .iter()
        .map(|path| load(path, &arguments.set))
        .collect::<Result<_, _>>()?;
    let protocols: Vec<ProtocolKind> = arguments
        .protocols
        .iter()
        .map(|name| {
            let known = ProtocolKind::NAMES.iter().find(|(known, _)| known == name);
            known
                .map(|(_, kind)| *kind)
                .ok_or_else(|| Error::Protocol(name.clone()))
        })
        .collect::<Result<_, _>>()?;
    if arguments.seeds == 0 {
        return Err(Error::Seeds("--seeds: must be above 0"));
    }
    let mut reports = Vec::new();
    for path in &arguments.from {
        reports.extend(read_log(path)?);
    }
    let log = match &arguments.log {
        None => None,
        Some(path) => {
            if path.exists() {
                reports.extend(read_log(path)?);
            }
            Some(append_to(path)?)
        }
    };
    let mut jobs = table::jobs(&scenarios, &protocols, 1..=arguments.seeds);
    jobs.retain(|job| !reports.iter().any(|report| job.is_of(report)));
    let done = |report: &Report| tell(report, log.as_ref());
    reports.extend(table::run_all(&jobs, arguments.threads, done));
    print(&table::markdown(&reports));
    Ok(())
}

/// A run of a table is over.
fn tell(report: &Report, log: Option<&std::fs::File>) {
    eprintln!(
        "{}: {} seed {}: agreement {}, {:.1} changes a node, removed {}, wrongly {}, {} ms",
        report.scenario,
        report.protocol,
        report.seed,
        report.agreement,
        report.changes_mean,
        report.removed.len(),
        report.wrongly_removed.len(),
        report.wall_ms
    );
    let Some(mut log) = log else { return };
    let line = to_json(&Report {
        views: Vec::new(),
        ..report.clone()
    });
    // In one write, so that an interruption leaves no half of a line.
    let line = line.replace('\n', " ") + "\n";
    if let Err(error) = log.write_all(line.as_bytes()) {
        eprintln!("rapid-sim: --log: {error}");
    }
}

fn append_to(path: &Path) -> Result<std::fs::File, Error> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).append(true).open(path);
    file.map_err(|error| Error::Io(path.to_owned(), error))
}

/// The reports that `--log` wrote to a file.
fn read_log(path: &Path) -> Result<Vec<Report>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Io(path.to_owned(), error))?;
    let report = |(line, text)| {
        let report = serde_json::from_str(text);
        report.map_err(|error| Error::Log(path.to_owned(), line + 1, error))
    };
    text.lines().enumerate().map(report).collect()
}

fn to_json(report: &Report) -> String {
    match serde_json::to_string_pretty(report) {
        Ok(text) => text,
        // A struct of numbers and strings always serialises.
        Err(error) => unreachable!("report: {error}"),
    }
}

/// A reader that has gone (`| head`) is not an error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}
