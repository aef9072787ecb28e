//! Plans: all that a run follows from. A plan is drawn from a seed and what was asked for on the
//! command line; a shrunken one is kept as a file.

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use synod::config::Reads;

use crate::fault::{Fault, Strike};
use crate::workload::Workload;

/// How long clients work while the world breaks.
const SAFETY_MS: u64 = 15_000;
const CLIENTS: usize = 5;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the world's machines, links, disks and clients are drawn from.
    pub seed: u64,
    /// What the clients do.
    pub workload: Workload,
    /// How many machines there are.
    pub nodes: u16,
    /// How reads prove that they are current.
    pub reads: Reads,
    /// The clients.
    pub clients: Vec<Habit>,
    /// How long they work while the world breaks.
    pub safety_ms: u64,
    /// What strikes the world, in order of time.
    pub strikes: Vec<Strike>,
    /// A node that is lost for good when all is over, and the world at rest: the others must serve.
    #[serde(default)]
    pub bereaved_of: Option<u16>,
    /// Whether the cluster manages itself; else nobody but operators moves replicas and leaders.
    #[serde(default)]
    pub placed: bool,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habit {
    /// It stays with one node, whatever that answers; else it goes on to the next after an error.
    pub pinned: bool,
    /// It only reads. One that writes, too, soon waits for a write that a lost leader cannot answer, and
    /// does not see what that leader still says to readers.
    pub reads_only: bool,
    /// The longest it rests between two operations. One that rests long has its connection open when
    /// things happen, and asks in the midst of them.
    pub rest_max_ms: u64,
    /// How long it waits for an answer.
    pub patience_ms: u64,
}

impl Habit {
    /// A client as there are most.
    pub const USUAL: Habit = Habit {
        pinned: false,
        reads_only: false,
        rest_max_ms: 20,
        patience_ms: 3_000,
    };

    /// Reads one key after another at its node, and waits for none that is led elsewhere.
    const QUICK_READER: Habit = Habit {
        pinned: true,
        reads_only: true,
        rest_max_ms: 20,
        patience_ms: 60,
    };

    /// Asks now and then on a connection that it keeps, also while its node stands still.
    const LAZY_READER: Habit = Habit {
        pinned: true,
        reads_only: true,
        rest_max_ms: 1_500,
        patience_ms: 3_000,
    };

    fn draw(rng: &mut SmallRng) -> Self {
        Habit {
            pinned: rng.random_bool(0.6),
            reads_only: rng.random_bool(0.2),
            rest_max_ms: match rng.random_range(0..10) {
                0..2 => 3,
                2..7 => 20,
                _ => 1_500,
            },
            patience_ms: if rng.random_bool(0.2) { 500 } else { 3_000 },
        }
    }
}

/// What may be drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Menu {
    /// Workloads, of which a run has one.
    pub workloads: Vec<Workload>,
    /// Faults, of which a run has one kind, or any mixture.
    pub faults: Vec<Fault>,
    /// How many machines; None: three, sometimes five.
    pub nodes: Option<u16>,
    /// How reads prove that they are current; None: either.
    pub reads: Option<Reads>,
    /// Whether readers sit at every node, besides the others; None: sometimes.
    pub watched: Option<bool>,
    /// Whether the world loses a node in the end; None: sometimes.
    pub bereaved: Option<bool>,
    /// Whether the cluster manages itself; None: sometimes.
    pub placed: Option<bool>,
}

/// How many other clients there are where readers sit at every node: a multiple of the nodes, for
/// clients are dealt out in turn.
fn watchers_from(nodes: u16) -> usize {
    CLIENTS.next_multiple_of(usize::from(nodes))
}

impl Menu {
    /// The plan of a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed_0f91_a45e_ed00);
        let workload = match self.workloads.as_slice() {
            [] => Workload::Register,
            // In turn, so that a few seeds have something of each.
            some => some[(seed % some.len() as u64) as usize],
        };
        let drawn_nodes = if rng.random_bool(0.2) { 5 } else { 3 };
        let nodes = self.nodes.unwrap_or(drawn_nodes);
        let quorum = rng.random_bool(0.3);
        let drawn_reads = if quorum { Reads::Quorum } else { Reads::Lease };
        let mut clients: Vec<Habit> = (0..CLIENTS).map(|_| Habit::draw(&mut rng)).collect();
        // Somebody writes.
        clients[0].reads_only = false;
        let watched = rng.random_bool(0.4);
        if self.watched.unwrap_or(watched) {
            clients.truncate(watchers_from(nodes));
            clients.resize(watchers_from(nodes), Habit::USUAL);
            for reader in [Habit::QUICK_READER, Habit::LAZY_READER] {
                clients.extend(vec![reader; usize::from(nodes)]);
            }
        }
        let strikes = self.strikes(&mut rng);
        let (lost, is_lost) = (rng.random_range(0..nodes), rng.random_bool(0.15));
        let placed = rng.random_bool(0.5);
        Plan {
            seed,
            workload,
            nodes,
            reads: self.reads.unwrap_or(drawn_reads),
            clients,
            safety_ms: SAFETY_MS,
            strikes,
            bereaved_of: self.bereaved.unwrap_or(is_lost).then_some(lost),
            placed: self.placed.unwrap_or(placed),
        }
    }

    /// Bursts of faults, one or some that overlap, with calm between them: a world that is broken all
    /// the time answers nobody, and shows nothing.
    fn strikes(&self, rng: &mut SmallRng) -> Vec<Strike> {
        let kinds: Vec<Fault> = match self.faults.as_slice() {
            [] => return Vec::new(),
            some if rng.random_bool(0.4) => vec![some[rng.random_range(0..some.len())]],
            some => {
                let share = rng.random_range(0.1..1.0);
                let first = some[rng.random_range(0..some.len())];
                let others = some.iter().copied().filter(|_| rng.random_bool(share));
                std::iter::once(first).chain(others).collect()
            }
        };
        let at_once_max = rng.random_range(1..=3);
        let calm_max_ms = rng.random_range(600..2_500);
        let mut strikes = Vec::new();
        let mut burst_ms = rng.random_range(300..2_500);
        while burst_ms < SAFETY_MS {
            let (mut over_ms, mut compound) = (burst_ms, false);
            for _ in 0..rng.random_range(1..=at_once_max) {
                let fault = kinds[rng.random_range(0..kinds.len())];
                // Two sequences at once would take each other's leader away.
                if compound && fault.is_compound() {
                    continue;
                }
                compound |= fault.is_compound();
                let strike = Strike {
                    at_ms: burst_ms + rng.random_range(0..800),
                    for_ms: fault.lasts_ms(rng),
                    fault,
                    draw: rng.random(),
                };
                over_ms = over_ms.max(strike.at_ms + strike.for_ms);
                strikes.push(strike);
            }
            burst_ms = over_ms + rng.random_range(100..calm_max_ms);
        }
        strikes.sort_by_key(|strike| strike.at_ms);
        strikes
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<&str> = self.strikes.iter().map(|s| s.fault.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds = match kinds.is_empty() {
            true => "nothing".to_owned(),
            false => kinds.join(","),
        };
        write!(
            f,
            "seed {}: {}, {} nodes, {} clients, {} reads, {} strikes ({kinds})",
            self.seed,
            self.workload.name(),
            self.nodes,
            self.clients.len(),
            match self.reads {
                Reads::Lease => "lease",
                Reads::Quorum => "quorum",
            },
            self.strikes.len()
        )?;
        if self.placed {
            f.write_str(", placed")?;
        }
        match self.bereaved_of {
            Some(node) => write!(f, ", then without node {node}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_seeds_have_different_ones() {
        let menu = Menu {
            workloads: Workload::ALL.to_vec(),
            faults: Fault::ALL.to_vec(),
            ..Menu::default()
        };
        assert_eq!(menu.plan(7), menu.plan(7));
        assert_ne!(menu.plan(7).strikes, menu.plan(8).strikes);
        let text = serde_json::to_string(&menu.plan(7)).expect("a plan is JSON");
        let back: Plan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(back, menu.plan(7));
    }
}
