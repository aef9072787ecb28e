//! The scenario's events over time: when each begins and ends, whom it strikes, who counts as faulty.

use std::rc::Rc;

use super::scenario::{EventKind, Scenario, Targets};
use super::views::Health;

/// A removal up to this long after a fault's end is still the fault's doing: suspicions take their time.
const FAULTY_AFTER_US: u64 = 30_000_000;

/// What an event acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Links.
    Network,
    /// Processes.
    Process,
}

impl EventKind {
    /// What it acts on.
    pub fn action(self) -> Action {
        match self {
            EventKind::Start
            | EventKind::Crash
            | EventKind::Restart
            | EventKind::Leave
            | EventKind::Pause => Action::Process,
            EventKind::DropIngress
            | EventKind::DropEgress
            | EventKind::DropLink
            | EventKind::Loss
            | EventKind::Duplicate
            | EventKind::Reorder => Action::Network,
        }
    }
}

/// The events of a run, with their targets chosen.
pub struct Faults {
    targets: Vec<Rc<[u32]>>,
    first_us: Vec<(usize, u64)>,
    starts: Vec<(u32, u64)>,
    /// Per node, the intervals in which it is faulty.
    faulty: Vec<Vec<(u64, u64)>>,
}

impl Faults {
    /// `order` is the seed's order of the nodes.
    pub fn new(scenario: &Scenario, order: &[u32]) -> Faults {
        let mut faults = Faults {
            targets: Vec::new(),
            first_us: Vec::new(),
            starts: Vec::new(),
            faulty: vec![Vec::new(); scenario.nodes as usize],
        };
        for (index, event) in scenario.events.iter().enumerate() {
            let targets: Rc<[u32]> = scenario.resolve(&event.targets, order).into();
            if event.kind == EventKind::Start {
                let spread_us = event.until_us.map_or(0, |until_us| until_us - event.at_us);
                let each = |at: usize| event.at_us + spread_us * at as u64 / targets.len() as u64;
                faults
                    .starts
                    .extend(targets.iter().enumerate().map(|(at, &n)| (n, each(at))));
            } else {
                faults.first_us.push((index, event.at_us));
            }
            let named = event.targets != Targets::Everyone;
            if named && event.kind.makes_faulty(!event.peers.is_empty()) {
                let end_us = match event.kind {
                    EventKind::Crash | EventKind::Leave => u64::MAX,
                    EventKind::Restart => event.until_us.unwrap_or(event.at_us) + FAULTY_AFTER_US,
                    _ => event
                        .until_us
                        .map_or(u64::MAX, |until_us| until_us + FAULTY_AFTER_US),
                };
                for &node in targets.iter() {
                    faults.faulty[node as usize].push((event.at_us, end_us));
                }
            }
            faults.targets.push(targets);
        }
        faults
    }

    /// The nodes that first start at a time of their own.
    pub fn starts(&self) -> impl Iterator<Item = (u32, u64)> + use<'_> {
        self.starts.iter().copied()
    }

    /// When each other event first begins.
    pub fn first_begins(&self) -> Vec<(usize, u64)> {
        self.first_us.clone()
    }

    /// What follows this begin or end of an event: (time, whether it begins).
    pub fn next(
        &self,
        scenario: &Scenario,
        event: usize,
        begin: bool,
        now_us: u64,
    ) -> Option<(u64, bool)> {
        let event = &scenario.events[event];
        let end_us = match event.kind {
            EventKind::Start | EventKind::Crash | EventKind::Leave => return None,
            EventKind::Restart if event.flip.is_none() => event.until_us.unwrap_or(event.at_us),
            EventKind::Restart
            | EventKind::DropIngress
            | EventKind::DropEgress
            | EventKind::DropLink
            | EventKind::Loss
            | EventKind::Pause
            | EventKind::Duplicate
            | EventKind::Reorder => event.until_us.unwrap_or(u64::MAX),
        };
        match (event.flip, begin) {
            (None, true) => (end_us < u64::MAX).then_some((end_us, false)),
            (None, false) => None,
            (Some(flip), true) => Some(((now_us + flip.on_us).min(end_us), false)),
            (Some(flip), false) => {
                let at_us = now_us + flip.off_us;
                (at_us < end_us).then_some((at_us, true))
            }
        }
    }

    /// Whom an event strikes.
    pub fn targets(&self, event: usize) -> Rc<[u32]> {
        Rc::clone(&self.targets[event])
    }

    /// The same, `None` for everyone.
    pub fn listed(&self, scenario: &Scenario, event: usize) -> Option<Vec<u32>> {
        let named = scenario.events[event].targets != Targets::Everyone;
        named.then(|| self.targets[event].to_vec())
    }

    /// The nodes that are faulty at some time.
    pub fn ever_faulty(&self) -> Vec<u32> {
        (0..self.faulty.len() as u32)
            .filter(|n| !self.faulty[*n as usize].is_empty())
            .collect()
    }

    /// When the first event that makes a node faulty begins.
    pub fn first_fault_us(&self) -> Option<u64> {
        self.faulty
            .iter()
            .flatten()
            .map(|(from_us, _)| *from_us)
            .min()
    }

    /// Health at a moment.
    pub fn at(&self, now_us: u64) -> HealthAt<'_> {
        HealthAt {
            faults: self,
            now_us,
        }
    }
}

/// [`Health`] at one moment.
pub struct HealthAt<'a> {
    faults: &'a Faults,
    now_us: u64,
}

impl Health for HealthAt<'_> {
    fn is_faulty(&self, node: u32) -> bool {
        let intervals = &self.faults.faulty[node as usize];
        intervals
            .iter()
            .any(|(from_us, to_us)| (*from_us..=*to_us).contains(&self.now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> (Scenario, Faults) {
        let scenario = Scenario::parse(text, &[]).unwrap();
        let order: Vec<u32> = (0..scenario.nodes).rev().collect();
        let faults = Faults::new(&scenario, &order);
        (scenario, faults)
    }

    #[test]
    fn a_flip_flop_alternates_and_ends() {
        let (scenario, faults) = faults(
            "nodes = 5\n[[events]]\nkind = \"drop_ingress\"\ncount = 2\nat_ms = 10\nuntil_ms = 35\non_ms = 10\noff_ms = 5",
        );
        let mut at = (faults.first_begins()[0].1, true);
        let mut seen = vec![at];
        while let Some(next) = faults.next(&scenario, 0, at.1, at.0) {
            at = next;
            seen.push(at);
        }
        let millis: Vec<(u64, bool)> = seen.iter().map(|(us, on)| (us / 1000, *on)).collect();
        assert_eq!(millis, [(10, true), (20, false), (25, true), (35, false)]);
        assert_eq!(faults.targets(0).as_ref(), [4, 3]);
    }

    #[test]
    fn faulty_from_the_fault_to_a_while_after_it() {
        let (_, faults) = faults(
            "nodes = 5\n[[events]]\nkind = \"pause\"\nnodes = [1]\nat_ms = 1000\nuntil_ms = 2000\n[[events]]\nkind = \"loss\"\nrate = 0.5",
        );
        let at = |ms: u64| faults.at(ms * 1000).is_faulty(1);
        assert_eq!(
            [at(999), at(1000), at(32_000), at(32_001)],
            [false, true, true, false]
        );
        assert_eq!(faults.ever_faulty(), [1]);
    }

    #[test]
    fn starts_are_spread() {
        let (_, faults) = faults(
            "nodes = 5\n[[events]]\nkind = \"start\"\nnodes = [1, 2]\nat_ms = 10\nuntil_ms = 20",
        );
        assert_eq!(
            faults.starts().collect::<Vec<_>>(),
            [(1, 10_000), (2, 15_000)]
        );
    }
}
