//! The network between the nodes, and what is wrong with it.
//!
//! Messages are datagrams over connections that are always shaken: each arrives after a drawn delay
//! or not at all, and the protocol above retransmits. Faults are rules; the active ones are compiled
//! into one survival probability per node and direction, plus a table for single links, so that
//! a message costs a comparison while nothing is wrong and two draws at most while something is.
//!
//! Whether a message is lost is decided when it arrives, with the rules of that moment.

use std::collections::HashMap;

use super::rng::Rng;
use super::scenario::{Event, EventKind, Latency};

/// A message that is held back arrives at least up to this much later.
const REORDER_LEAST_US: u64 = 10_000;

/// When copies of a message arrive, counted from its sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// Delay of the message.
    pub first_us: u64,
    /// Delay of its duplicate.
    pub second_us: Option<u64>,
}

/// One active fault.
struct Rule {
    id: usize,
    kind: EventKind,
    /// `None`: everyone.
    nodes: Option<Vec<u32>>,
    peers: Vec<u32>,
    rate: f64,
}

/// The network of a run.
pub struct Network {
    latency: Latency,
    rng: Rng,
    rules: Vec<Rule>,
    lossy: bool,
    /// Survival probabilities by receiver and by sender.
    ingress: Vec<f64>,
    egress: Vec<f64>,
    /// Survival probabilities of (sender, receiver). Only looked up, never iterated.
    links: HashMap<(u32, u32), f64>,
    mangling: bool,
    /// Probabilities by sender.
    duplicate: Vec<f64>,
    reorder: Vec<f64>,
}

impl Network {
    /// A sound network of `nodes` nodes.
    pub fn new(nodes: u32, latency: Latency, rng: Rng) -> Network {
        let nodes = nodes as usize;
        Network {
            latency,
            rng,
            rules: Vec::new(),
            lossy: false,
            ingress: vec![1.0; nodes],
            egress: vec![1.0; nodes],
            links: HashMap::new(),
            mangling: false,
            duplicate: vec![0.0; nodes],
            reorder: vec![0.0; nodes],
        }
    }

    /// A fault begins. `id` names it; `nodes` is `None` for everyone.
    pub fn begin(&mut self, id: usize, event: &Event, nodes: Option<Vec<u32>>) {
        self.end_rule(id);
        let peers = event.peers.clone();
        self.rules.push(Rule {
            id,
            kind: event.kind,
            nodes,
            peers,
            rate: event.rate,
        });
        self.compile();
    }

    /// A fault ends.
    pub fn end(&mut self, id: usize) {
        self.end_rule(id);
        self.compile();
    }

    fn end_rule(&mut self, id: usize) {
        self.rules.retain(|rule| rule.id != id);
    }

    fn compile(&mut self) {
        self.ingress.fill(1.0);
        self.egress.fill(1.0);
        self.duplicate.fill(0.0);
        self.reorder.fill(0.0);
        self.links.clear();
        let everyone: Vec<u32> = (0..self.ingress.len() as u32).collect();
        for rule in &self.rules {
            let keep = 1.0 - rule.rate;
            let nodes = rule.nodes.as_ref().unwrap_or(&everyone);
            // Independent faults: survival multiplies.
            let mut link = |from: u32, to: u32| {
                *self.links.entry((from, to)).or_insert(1.0) *= keep;
            };
            match rule.kind {
                EventKind::Loss if rule.nodes.is_none() && rule.peers.is_empty() => {
                    // Once a message, not once for each end.
                    self.ingress.iter_mut().for_each(|p| *p *= keep);
                }
                EventKind::DropIngress | EventKind::DropEgress | EventKind::Loss
                    if rule.peers.is_empty() =>
                {
                    for &node in nodes {
                        if rule.kind != EventKind::DropEgress {
                            self.ingress[node as usize] *= keep;
                        }
                        if rule.kind != EventKind::DropIngress {
                            self.egress[node as usize] *= keep;
                        }
                    }
                }
                EventKind::DropIngress
                | EventKind::DropEgress
                | EventKind::DropLink
                | EventKind::Loss => {
                    for &node in nodes {
                        for &peer in rule.peers.iter().filter(|peer| **peer != node) {
                            if rule.kind != EventKind::DropEgress {
                                link(peer, node);
                            }
                            if rule.kind != EventKind::DropIngress {
                                link(node, peer);
                            }
                        }
                    }
                }
                EventKind::Duplicate => {
                    for &node in nodes {
                        self.duplicate[node as usize] = rule.rate;
                    }
                }
                EventKind::Reorder => {
                    for &node in nodes {
                        self.reorder[node as usize] = rule.rate;
                    }
                }
                EventKind::Start
                | EventKind::Crash
                | EventKind::Restart
                | EventKind::Leave
                | EventKind::Pause => unreachable!("{:?} is not a fault of the network", rule.kind),
            }
        }
        self.lossy = !self.links.is_empty()
            || self
                .ingress
                .iter()
                .chain(&self.egress)
                .any(|survival| *survival < 1.0);
        self.mangling = self
            .duplicate
            .iter()
            .chain(&self.reorder)
            .any(|rate| *rate > 0.0);
    }

    /// The one delay of every message of this moment, when they do not differ.
    pub fn uniform_delay_us(&self) -> Option<u64> {
        let fixed = self.latency.least_us == self.latency.most_us && !self.mangling;
        fixed.then_some(self.latency.least_us)
    }

    /// Draws the delays of a message of `from`.
    pub fn delays(&mut self, from: u32) -> Delays {
        let first_us = self.delay_us(from);
        let rate = self.duplicate[from as usize];
        let twice = rate > 0.0 && self.rng.chance(rate);
        Delays {
            first_us,
            second_us: twice.then(|| self.delay_us(from)),
        }
    }

    fn delay_us(&mut self, from: u32) -> u64 {
        let Latency { least_us, most_us } = self.latency;
        let mut delay_us = least_us;
        if most_us > least_us {
            delay_us += self.rng.below(most_us - least_us + 1);
        }
        let rate = self.reorder[from as usize];
        if rate > 0.0 && self.rng.chance(rate) {
            delay_us += self.rng.below((10 * most_us).max(REORDER_LEAST_US));
        }
        delay_us
    }

    /// Whether a message survives the way.
    #[inline]
    pub fn arrives(&mut self, from: u32, to: u32) -> bool {
        !self.lossy || self.survives(from, to)
    }

    fn survives(&mut self, from: u32, to: u32) -> bool {
        let mut survival = self.egress[from as usize] * self.ingress[to as usize];
        if !self.links.is_empty()
            && let Some(link) = self.links.get(&(from, to))
        {
            survival *= link;
        }
        survival >= 1.0 || (survival > 0.0 && self.rng.chance(survival))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{Scenario, Targets};
    use super::*;

    fn network(event: &str) -> Network {
        let scenario = Scenario::parse(&format!("nodes = 4\n[[events]]\n{event}"), &[]).unwrap();
        let mut network = Network::new(4, scenario.latency, Rng::new(1, 1));
        let event = &scenario.events[0];
        let nodes = match &event.targets {
            Targets::Everyone => None,
            Targets::Nodes(nodes) => Some(nodes.clone()),
            Targets::Count(_) => panic!("not in this test"),
        };
        network.begin(0, event, nodes);
        network
    }

    /// The links of four nodes that lose everything.
    fn dead(network: &mut Network) -> Vec<(u32, u32)> {
        let all = (0..4).flat_map(|a| (0..4).map(move |b| (a, b)));
        all.filter(|(a, b)| a != b)
            .filter(|&(a, b)| !network.arrives(a, b))
            .collect()
    }

    #[test]
    fn rules_hit_their_direction_only() {
        let mut ingress = network("kind = \"drop_ingress\"\nnodes = [2]");
        assert_eq!(dead(&mut ingress), [(0, 2), (1, 2), (3, 2)]);
        let mut egress = network("kind = \"drop_egress\"\nnodes = [2]\npeers = [0, 2]");
        assert_eq!(dead(&mut egress), [(2, 0)]);
        let mut link = network("kind = \"drop_link\"\nnodes = [1]\npeers = [3]");
        assert_eq!(dead(&mut link), [(1, 3), (3, 1)]);
        link.end(0);
        assert_eq!(dead(&mut link), []);
    }

    #[test]
    fn loss_everywhere_strikes_a_message_once() {
        let mut loss = network("kind = \"loss\"\nrate = 0.1");
        let lost = (0..100_000).filter(|_| !loss.arrives(0, 1)).count();
        assert!(
            (9_500..10_500).contains(&lost),
            "10% of 100000 came out as {lost}"
        );
    }

    #[test]
    fn duplicates_and_held_back_messages() {
        let mut twice = network("kind = \"duplicate\"\nrate = 1\nnodes = [0]");
        assert_eq!(
            twice.delays(0),
            Delays {
                first_us: 1_000,
                second_us: Some(1_000)
            }
        );
        assert_eq!(
            twice.delays(1),
            Delays {
                first_us: 1_000,
                second_us: None
            }
        );
        let mut held = network("kind = \"reorder\"\nrate = 1");
        let latest = (0..1_000).map(|_| held.delays(3).first_us).max().unwrap();
        assert!((9_000..11_000).contains(&latest), "{latest}");
        assert_eq!(held.uniform_delay_us(), None);
    }
}
