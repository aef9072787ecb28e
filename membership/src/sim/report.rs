//! What a run showed, as JSON and for the eye.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::protocol::Note;
use super::scenario::Scenario;
use super::traffic::{Distribution, TrafficReport};
use super::views::{Health, ViewReport};
use super::world::Finished;

/// Views printed for the eye.
const VIEWS_SHOWN: usize = 12;
/// Node numbers printed for the eye.
const NODES_SHOWN: usize = 12;

/// The result of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The protocol's name.
    pub protocol: String,
    /// How many nodes the scenario has.
    pub nodes: u32,
    /// The seed.
    pub seed: u64,
    /// Virtual length.
    pub run_ms: f64,
    /// Whether every node's sequence of views is a piece of one and the same sequence.
    pub agreement: bool,
    /// The first thing that spoke against it.
    pub disagreement: Option<String>,
    /// Whether all nodes that were up and without a fault at the end are at the same view.
    pub converged: bool,
    /// Nodes that run at the end.
    pub up: u32,
    /// Whether at the end all running nodes are in one view, with each other and nobody else.
    pub all_in_one_view: bool,
    /// The size of the view that most of those are at.
    pub final_size: u32,
    /// View changes per such node, beyond its first view: mean.
    pub changes_mean: f64,
    /// And maximum.
    pub changes_max: u32,
    /// Distinct sizes that nodes saw while without a fault of their own.
    pub sizes: Vec<u32>,
    /// Nodes with a fault of their own at some time (of events that justify a removal).
    pub faulty: Vec<u32>,
    /// Nodes that a healthy node removed.
    pub removed: Vec<u32>,
    /// Those among them that had no fault at that time, nor shortly before.
    pub wrongly_removed: Vec<u32>,
    /// Faulty nodes that nobody removed.
    pub faulty_kept: Vec<u32>,
    /// From the first fault (the start, if there is none) to the first removal.
    pub first_removal_ms: Option<f64>,
    /// From there to the last change at a healthy node.
    pub settled_ms: Option<f64>,
    /// The distinct views in order of first installation.
    pub views: Vec<ViewReport>,
    /// Installations of further ones that are not listed.
    pub views_unlisted: u64,
    /// How often a node suspended itself.
    pub suspended: u64,
    /// How often a node raised an alarm.
    pub alarms: u64,
    /// How many nodes gave up.
    pub halted: u64,
    /// The first few notes of each kind, in words.
    pub notes: Vec<String>,
    /// Per node and second.
    pub traffic: TrafficReport,
    /// Events that the simulator handled.
    pub events: u64,
    /// Real time of the run.
    pub wall_ms: u64,
}

impl Report {
    /// Sums a run up.
    pub fn new(
        name: &str,
        scenario: &Scenario,
        seed: u64,
        finished: Finished,
        wall_ms: u64,
    ) -> Report {
        let Finished {
            views,
            traffic,
            faults,
            notes,
            up,
            events,
        } = finished;
        let health = faults.at(scenario.run_us);
        let healthy: Vec<u32> = (0..scenario.nodes)
            .filter(|node| up[*node as usize] && !health.is_faulty(*node))
            .collect();
        let running: Vec<u32> = (0..scenario.nodes)
            .filter(|node| up[*node as usize])
            .collect();
        let mut everywhere: Vec<(u128, u32)> = running
            .iter()
            .map(|node| (views.hash_at(*node), views.size_at(*node)))
            .collect();
        everywhere.sort_unstable();
        everywhere.dedup();
        let (listed, views_unlisted) = views.report();

        let mut last: Vec<(u128, u32)> = healthy
            .iter()
            .map(|node| (views.hash_at(*node), views.size_at(*node)))
            .collect();
        last.sort_unstable();
        let most = last.chunk_by(|a, b| a == b).max_by_key(|same| same.len());
        let final_size = most.map_or(0, |same| same[0].1);
        last.dedup();

        let changes = healthy.iter().map(|node| views.changes(*node));
        let faulty = faults.ever_faulty();
        let origin_us = faults.first_fault_us().unwrap_or(0);
        let since = |us: u64| us.checked_sub(origin_us).map(|us| us as f64 / 1e3);
        let removed: Vec<u32> = views.removed().keys().copied().collect();
        Report {
            scenario: name.to_owned(),
            protocol: scenario.protocol.to_string(),
            nodes: scenario.nodes,
            seed,
            run_ms: scenario.run_us as f64 / 1e3,
            agreement: views.agreement().is_ok(),
            disagreement: views.agreement().err().map(str::to_owned),
            converged: last.len() <= 1,
            up: running.len() as u32,
            all_in_one_view: everywhere.len() == 1 && everywhere[0].1 == running.len() as u32,
            final_size,
            changes_mean: changes.clone().map(f64::from).sum::<f64>() / healthy.len().max(1) as f64,
            changes_max: changes.max().unwrap_or(0),
            sizes: views.sizes().iter().copied().collect(),
            faulty_kept: faulty
                .iter()
                .copied()
                .filter(|n| !removed.contains(n))
                .collect(),
            faulty,
            removed,
            wrongly_removed: views.wrongly_removed().keys().copied().collect(),
            first_removal_ms: views.removed().values().min().and_then(|us| since(*us)),
            settled_ms: since(views.last_install_us()).filter(|ms| *ms > 0.0),
            views: listed,
            views_unlisted,
            suspended: notes.count(Note::Suspended),
            alarms: notes.count(Note::Alarm),
            halted: notes.count(Note::Halted),
            notes: notes.words().cloned().collect(),
            traffic: traffic.report(),
            events,
            wall_ms,
        }
    }
}

/// At most a dozen node numbers.
fn some(nodes: &[u32]) -> String {
    let shown: Vec<String> = nodes.iter().take(NODES_SHOWN).map(u32::to_string).collect();
    let more = if nodes.len() > NODES_SHOWN {
        ", ..."
    } else {
        ""
    };
    format!("[{}{more}]", shown.join(", "))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            scenario,
            protocol,
            nodes,
            seed,
            ..
        } = self;
        writeln!(
            f,
            "{scenario}: {protocol}, {nodes} nodes, seed {seed}, {} ms",
            self.run_ms
        )?;
        match &self.disagreement {
            None => writeln!(f, "agreement        yes")?,
            Some(why) => writeln!(f, "agreement        NO: {why}")?,
        }
        let converged = if self.converged {
            "all healthy nodes"
        } else {
            "NOT all healthy nodes"
        };
        writeln!(
            f,
            "at the end       {converged} in one view of {}",
            self.final_size
        )?;
        let distinct = self.views.len();
        let more = if self.views_unlisted > 0 {
            "more than "
        } else {
            ""
        };
        writeln!(
            f,
            "views            {more}{distinct} distinct, {} distinct sizes; changes a node: mean {:.1}, max {}",
            self.sizes.len(),
            self.changes_mean,
            self.changes_max
        )?;
        for view in self.views.iter().take(VIEWS_SHOWN) {
            write!(
                f,
                "  {:>4} {:.8} size {:<5} at {:.1}..{:.1} ms by {}",
                view.seq,
                view.hash,
                view.size,
                view.first_install_ms,
                view.last_install_ms,
                view.installed
            )?;
            for (sign, nodes) in [
                ("+", &view.joined),
                ("-", &view.removed),
                ("~", &view.restarted),
            ] {
                if !nodes.is_empty() {
                    write!(f, "  {sign}{} {}", nodes.len(), some(nodes))?;
                }
            }
            writeln!(f)?;
        }
        if distinct > VIEWS_SHOWN {
            writeln!(f, "  ... {more}{} more", distinct - VIEWS_SHOWN)?;
        }
        for (label, nodes) in [
            ("removed", &self.removed),
            ("wrongly removed", &self.wrongly_removed),
            ("faulty, kept", &self.faulty_kept),
        ] {
            let list = if nodes.is_empty() {
                String::new()
            } else {
                some(nodes)
            };
            writeln!(f, "{label:<16} {} {list}", nodes.len())?;
        }
        for (label, ms) in [
            ("first removal", self.first_removal_ms),
            ("settled", self.settled_ms),
        ] {
            if let Some(ms) = ms {
                writeln!(f, "{label:<16} after {ms:.1} ms")?;
            }
        }
        for words in &self.notes {
            writeln!(f, "note             {words}")?;
        }
        let line = |f: &mut fmt::Formatter<'_>, label, rx: Distribution, tx: Distribution| {
            let (a, b) = (format!("{:.1}/{}/{}", rx.mean, rx.p99, rx.max), tx);
            writeln!(
                f,
                "{label:<16} rx {a}, tx {:.1}/{}/{}",
                b.mean, b.p99, b.max
            )
        };
        writeln!(f, "per node and second, mean/p99/max")?;
        line(f, "  bytes", self.traffic.rx_bytes, self.traffic.tx_bytes)?;
        line(
            f,
            "  messages",
            self.traffic.rx_messages,
            self.traffic.tx_messages,
        )?;
        write!(
            f,
            "wall time        {} ms, {} events",
            self.wall_ms, self.events
        )
    }
}
