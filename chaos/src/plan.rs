//! Plans: all that a run follows from. A plan is drawn from a seed and what was asked for on the
//! command line; a shrunken one is kept as a file.

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Strike};
use crate::workload::Workload;

/// How long clients work while the world breaks.
const SAFETY_MS: u64 = 15_000;
const CLIENTS: u32 = 5;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the world's machines, links, disks and clients are drawn from.
    pub seed: u64,
    /// What the clients do.
    pub workload: Workload,
    /// How many machines there are.
    pub nodes: u16,
    /// How many clients there are.
    pub clients: u32,
    /// How long they work while the world breaks.
    pub safety_ms: u64,
    /// What strikes the world, in order of time.
    pub strikes: Vec<Strike>,
}

/// What may be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu {
    /// Workloads, of which a run has one.
    pub workloads: Vec<Workload>,
    /// Faults, of which a run has one kind, or any mixture.
    pub faults: Vec<Fault>,
    /// How many machines; None: three, sometimes five.
    pub nodes: Option<u16>,
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
        let kinds: Vec<Fault> = match self.faults.as_slice() {
            [] => Vec::new(),
            some if rng.random_bool(0.4) => vec![some[rng.random_range(0..some.len())]],
            some => {
                let share = rng.random_range(0.1..1.0);
                some.iter()
                    .copied()
                    .filter(|_| rng.random_bool(share))
                    .collect()
            }
        };
        let mut strikes = Vec::new();
        let mut at_ms = rng.random_range(100..2500);
        while at_ms < SAFETY_MS && !kinds.is_empty() {
            strikes.push(Strike {
                at_ms,
                for_ms: rng.random_range(100..4000),
                fault: kinds[rng.random_range(0..kinds.len())],
                draw: rng.random(),
            });
            at_ms += rng.random_range(100..2500);
        }
        Plan {
            seed,
            workload,
            nodes,
            clients: CLIENTS,
            safety_ms: SAFETY_MS,
            strikes,
        }
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
            "seed {}: {}, {} nodes, {} clients, {} strikes ({kinds})",
            self.seed,
            self.workload.name(),
            self.nodes,
            self.clients,
            self.strikes.len()
        )
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
            nodes: None,
        };
        assert_eq!(menu.plan(7), menu.plan(7));
        assert_ne!(menu.plan(7).strikes, menu.plan(8).strikes);
        let text = serde_json::to_string(&menu.plan(7)).expect("a plan is JSON");
        let back: Plan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(back, menu.plan(7));
    }
}
