//! What a run came to, and the files that tell of a failure.

mod picture;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use crate::check::Anomaly;
use crate::history::{Operation, Outcome, write_edn, write_json_lines};
use crate::plan::Plan;
use crate::timeline::Event;

pub use self::picture::picture;

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Clients were told what no correct store could have told them.
    Anomaly(Anomaly),
    /// Something did not hold inside the cluster.
    Invariant(String),
    /// A node stopped by itself, and no fault excuses it.
    Stopped(String),
    /// The healed world does not serve.
    Stuck(String),
    /// Code panicked.
    Panicked(String),
    /// So little was answered that the run shows nothing.
    Idle {
        /// Operations that succeeded.
        answered: usize,
        /// How many there should have been at least.
        wanted: usize,
    },
}

impl Failure {
    /// Whether another failure is of the same kind: a shrunken run must fail alike.
    pub fn is_like(&self, other: &Failure) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Anomaly(anomaly) => write!(f, "anomaly: {anomaly}"),
            Failure::Invariant(what) => write!(f, "invariant broken: {what}"),
            Failure::Stopped(what) => write!(f, "a node stopped by itself: {what}"),
            Failure::Stuck(what) => write!(f, "not alive: {what}"),
            Failure::Panicked(what) => write!(f, "panicked: {what}"),
            Failure::Idle { answered, wanted } => write!(
                f,
                "only {answered} operations succeeded, {wanted} are the least: it shows nothing"
            ),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// What clients asked and were told.
    pub history: Vec<Operation>,
    /// What happened besides.
    pub events: Vec<Event>,
    /// How much virtual time passed.
    pub simulated: Duration,
    /// The sum of all that happened.
    pub trace: u64,
}

impl RunReport {
    /// How many operations succeeded, failed, and are unknown.
    pub fn counts(&self) -> [usize; 3] {
        [Outcome::Ok, Outcome::Failed, Outcome::Unknown]
            .map(|outcome| self.history.iter().filter(|o| o.outcome == outcome).count())
    }
}

/// Writes all that helps to understand a failure into a folder: `history.jsonl`, `history.edn`,
/// `witness.jsonl` (the shortest history that shows the anomaly), `timeline.html`, `timeline.txt`, `plan.json` (to
/// replay it), `failure.txt`.
pub fn write_files(folder: &Path, plan: &Plan, report: &RunReport) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let create = |name: &str| File::create(folder.join(name)).map(BufWriter::new);
    write_json_lines(&report.history, &mut create("history.jsonl")?)?;
    let lists = plan.workload.has_lists();
    write_edn(&report.history, lists, &mut create("history.edn")?)?;
    let witness: &[Operation] = match &report.failure {
        Some(Failure::Anomaly(anomaly)) => &anomaly.witness,
        Some(_) | None => &[],
    };
    write_json_lines(witness, &mut create("witness.jsonl")?)?;
    create("timeline.html")?.write_all(picture(plan, report).as_bytes())?;
    let mut lines = create("timeline.txt")?;
    for event in &report.events {
        writeln!(
            lines,
            "{:10.3} ms  {}",
            event.at_us as f64 / 1000.0,
            event.what
        )?;
    }
    create("plan.json")?.write_all(&serde_json::to_vec_pretty(plan)?)?;
    if let Some(failure) = &report.failure {
        writeln!(create("failure.txt")?, "{plan}\n{failure}")?;
    }
    Ok(())
}
