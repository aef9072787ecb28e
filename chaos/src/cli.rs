//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use synod_chaos::fault::Fault;
use synod_chaos::plan::Menu;
use synod_chaos::workload::Workload;

/// What was asked for.
pub enum Request {
    /// To be told how it is used.
    Help,
    /// Runs in the simulator.
    Simulate(Box<Simulate>),
}

/// Runs in the simulator.
#[derive(Clone)]
#[cfg_attr(not(madsim), allow(dead_code))] // a build without the simulator only names the right one
pub struct Simulate {
    /// What is drawn from.
    pub menu: Menu,
    /// The first seed.
    pub seed: Option<u64>,
    /// How many seeds; None: as many as the time allows.
    pub seeds: Option<u64>,
    /// When no further seed is begun.
    pub time: Option<Duration>,
    /// Where failures are written.
    pub report: PathBuf,
    /// Whether runs that fail nothing are written, too.
    pub keep: bool,
    /// A plan to replay instead of seeds.
    pub plan: Option<PathBuf>,
    /// Whether each seed runs twice, to compare the traces.
    pub twice: bool,
    /// Whether real processes are broken, and no simulated ones.
    pub real: bool,
    /// Whether known bugs are planted, and looked for, instead.
    pub mutations: bool,
    /// The names of these bugs; none: all.
    pub bugs: Vec<String>,
    /// Worlds at a time, each in a thread of its own.
    pub jobs: usize,
    /// The arguments that choose, as they must be given to draw the same plans.
    pub choice: String,
}

/// How it is used.
pub fn usage() -> String {
    let workloads: Vec<&str> = Workload::ALL.iter().map(|w| w.name()).collect();
    let faults: Vec<&str> = Fault::ALL.iter().map(|f| f.name()).collect();
    format!(
        "\
cargo xtask chaos [OPTION…]: breaks a simulated cluster of production nodes, and judges it

  --workload NAME,…|all   what clients do (all)
  --faults NAME,…|all|none  what goes wrong (all)
  --nodes N               machines, 3 to 9 (by the seed: 3, sometimes 5)
  --placement auto|manual whether the cluster places replicas and leaders itself (by the seed)
  --seed N                one seed
  --seeds N               seeds from 0 on, or from --seed on (200)
  --minutes M             seeds until this time is over
  --report DIR            where failures are written (target/chaos)
  --keep                  writes the runs that fail nothing there, too
  --plan FILE             replays a plan.json of a report
  --twice                 runs each seed twice and compares the traces
  --jobs N                worlds at a time (1)
  --real                  real processes on loopback; faults: kill-*, pause. Nothing is replayed
  --mutations             plants known bugs, and says how many seeds each takes to be caught
                          (--seeds: at most, 500)
  --bugs NAME,…           of these bugs; without --mutations: the first of them is planted in the runs

workloads: {}
faults: {}
",
        wrap(&workloads),
        wrap(&faults)
    )
}

fn wrap(names: &[&str]) -> String {
    let lines: Vec<String> = names.chunks(8).map(|line| line.join(", ")).collect();
    lines.join(",\n  ")
}

/// Reads the arguments.
pub fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Simulate {
        menu: Menu {
            workloads: Workload::ALL.to_vec(),
            faults: Fault::ALL.to_vec(),
            nodes: None,
            ..Menu::default()
        },
        seed: None,
        seeds: None,
        time: None,
        report: PathBuf::from("target/chaos"),
        keep: false,
        plan: None,
        twice: false,
        real: false,
        mutations: false,
        bugs: Vec::new(),
        jobs: 1,
        choice: String::new(),
    };
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        match option.as_str() {
            "--help" | "-h" | "help" => return Ok(Request::Help),
            "--twice" => request.twice = true,
            "--keep" => request.keep = true,
            "--real" => request.real = true,
            "--mutations" => request.mutations = true,
            known if KNOWN.contains(&known) => {
                let value = rest.next().ok_or(format!("{option} needs a value"))?;
                set(&mut request, option, value)?;
            }
            _ => return Err(format!("there is no option {option}\n\n{}", usage())),
        }
    }
    if request.time.is_none() {
        let seeds = match (request.mutations, request.seed) {
            (true, _) => 500,
            (false, Some(_)) => 1,
            (false, None) => 200,
        };
        request.seeds = request.seeds.or(Some(seeds));
    }
    Ok(Request::Simulate(Box::new(request)))
}

/// Takes an option with a value.
fn set(request: &mut Simulate, option: &str, value: &str) -> Result<(), String> {
    match option {
        "--workload" => request.menu.workloads = workloads(value)?,
        "--faults" => request.menu.faults = faults(value)?,
        "--nodes" => {
            let nodes = number(option, value, 3, 9)?;
            request.menu.nodes = u16::try_from(nodes).ok();
        }
        "--placement" => {
            request.menu.placed = Some(match value {
                "auto" => true,
                "manual" => false,
                _ => return Err(format!("{option} {value}: it is auto or manual")),
            });
        }
        "--seed" => request.seed = Some(number(option, value, 0, u64::MAX)?),
        "--seeds" => request.seeds = Some(number(option, value, 1, u64::MAX)?),
        "--minutes" => {
            let minutes = number(option, value, 1, 100_000)?;
            request.time = Some(Duration::from_secs(60 * minutes));
        }
        "--report" => request.report = PathBuf::from(value),
        "--plan" => request.plan = Some(PathBuf::from(value)),
        "--bugs" => request.bugs = value.split(',').map(str::to_owned).collect(),
        _ => request.jobs = usize::try_from(number(option, value, 1, 64)?).unwrap_or(1),
    }
    if matches!(
        option,
        "--workload" | "--faults" | "--nodes" | "--placement"
    ) {
        request.choice.push_str(&format!(" {option} {value}"));
    }
    Ok(())
}

const KNOWN: &[&str] = &[
    "--workload",
    "--faults",
    "--nodes",
    "--placement",
    "--seed",
    "--seeds",
    "--minutes",
    "--report",
    "--plan",
    "--bugs",
    "--jobs",
];

fn number(option: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{option} {value}: not a number from {min} to {max}"))
}

fn workloads(names: &str) -> Result<Vec<Workload>, String> {
    match names {
        "all" => Ok(Workload::ALL.to_vec()),
        names => pick("workload", names, Workload::ALL, |workload| workload.name()),
    }
}

fn faults(names: &str) -> Result<Vec<Fault>, String> {
    match names {
        "all" => Ok(Fault::ALL.to_vec()),
        "none" => Ok(Vec::new()),
        names => pick("fault", names, Fault::ALL, |fault| fault.name()),
    }
}

/// The things of these names, in the order of the list of all.
fn pick<T: Copy>(
    kind: &str,
    names: &str,
    all: &[T],
    name: impl Fn(&T) -> &'static str,
) -> Result<Vec<T>, String> {
    let wanted: Vec<&str> = names.split(',').map(str::trim).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|wanted| !all.iter().any(|one| name(one) == **wanted))
    {
        let known: Vec<&str> = all.iter().map(&name).collect();
        let known = known.join(", ");
        return Err(format!(
            "there is no {kind} {unknown:?}; there are: {known}, and all"
        ));
    }
    let picked = all.iter().filter(|one| wanted.contains(&name(one)));
    Ok(picked.copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Box<Simulate>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words)? {
            Request::Simulate(request) => Ok(request),
            Request::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        for line in ["--workload registr", "--faults kill-one,fire"] {
            let error = parsed(line).err().expect("an unknown name");
            assert!(error.contains("there are: "), "{error}");
        }
        let error = parsed("--frobnicate 3").err().expect("an unknown option");
        assert!(error.contains("--workload NAME"), "{error}");
        assert!(parsed("--nodes 2").is_err());
        assert!(parsed("--placement maybe").is_err());
        assert!(parsed("--seed").is_err());
    }

    #[test]
    fn a_choice_is_kept_for_the_replay() {
        let request = parsed("--seed 7 --faults pause,kill-one --nodes 5").expect("valid");
        assert_eq!(request.choice, " --faults pause,kill-one --nodes 5");
        assert_eq!(request.seeds, Some(1));
        assert_eq!(request.menu.faults, [Fault::KillOne, Fault::Pause]);
    }
}
