//! What a run is: the scenario file.
//!
//! # Keys
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `nodes` | required | how many nodes there are, up or not: 1 to 100,000 |
//! | `protocol` | `"rapid"` | `rapid`, `rapid-c` (centralised), `swim`, `heartbeat` |
//! | `k`, `h`, `l` | 10, 9, 3, scaled down in small clusters | observers a node; watermarks: 1 ≤ l ≤ h ≤ k. All three or none |
//! | `detector` | `"window"` | the edge failure detector of Rapid: `window`, `paper` |
//! | `dissemination` | `"unicast"` | of Rapid's alerts and votes: `unicast` (to all), `epidemic` |
//! | `latency_ms` | 1 | one-way delay of a link: a number, or `[least, most]` for a uniform draw per message |
//! | `persist_ms` | 1 | delay of a durable write; a crash loses what is not durable yet |
//! | `run_ms` | 60000 | virtual length of the run |
//! | `seed` | 1 | of all chance; `--seed` overrides it |
//! | `bootstrap` | `"formed"` | `formed`: nodes without a `start` event are the first configuration, up at time 0. `join`: the first seed is a cluster of one; the others join it from time 0 on |
//! | `seeds` | `[0]` | the nodes that joiners ask |
//! | `events` | none | list of tables, below |
//!
//! # Events
//!
//! `at_ms` (default 0) is when it begins, `until_ms` (default: the end of the run) when it ends.
//! `nodes` lists node numbers, `"3-7"` being a range. `count = n` takes the first n of an
//! order drawn from the seed, seeds last: two events with the same count name the same nodes.
//! `on_ms`/`off_ms` make it flip-flop: on for `on_ms`, off for `off_ms`, and so on until `until_ms`.
//! `peers` narrows it to the links with these nodes. `rate` is a probability per message.
//!
//! | kind | what happens | keys besides `at_ms` |
//! |---|---|---|
//! | `start` | first start of nodes that were down so far; they join. Spread evenly up to `until_ms` when given | nodes/count, until_ms |
//! | `crash` | stop for good, silently | nodes/count |
//! | `restart` | stop (if up) and come back on the same data directory at `until_ms` (default: at once) | nodes/count, until_ms, on/off |
//! | `leave` | ask the node to leave | nodes/count |
//! | `drop_ingress` | messages to the nodes are lost | nodes/count, peers, rate (1), until_ms, on/off |
//! | `drop_egress` | messages from the nodes are lost | as above |
//! | `drop_link` | both ways between nodes and peers | nodes/count, peers, rate (1), until_ms, on/off |
//! | `loss` | messages are lost: everywhere, or to and from the nodes | rate; nodes/count, peers, until_ms, on/off |
//! | `pause` | the process stands still (SIGSTOP); what arrives waits in a bounded buffer | nodes/count, until_ms, on/off |
//! | `duplicate` | messages arrive twice | rate; nodes/count (senders), until_ms, on/off |
//! | `reorder` | messages are held back by up to 10 latencies, at least 10 ms | as duplicate |
//!
//! Every rejected key or value is named by its path, as in `events[2].rate`.

use std::fmt;

use super::toml_reader::Reader;

/// A protocol under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolKind {
    /// This crate's membership.
    Rapid,
    /// The same with a logically centralised ensemble.
    RapidC,
    /// Gossip with suspicion (crate `foca`).
    Swim,
    /// Heartbeats from all to all.
    Heartbeat,
}

impl ProtocolKind {
    /// All protocols by their names in a scenario.
    pub const NAMES: [(&'static str, ProtocolKind); 4] = [
        ("rapid", ProtocolKind::Rapid),
        ("rapid-c", ProtocolKind::RapidC),
        ("swim", ProtocolKind::Swim),
        ("heartbeat", ProtocolKind::Heartbeat),
    ];
}

impl fmt::Display for ProtocolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProtocolKind::Rapid => "rapid",
            ProtocolKind::RapidC => "rapid-c",
            ProtocolKind::Swim => "swim",
            ProtocolKind::Heartbeat => "heartbeat",
        })
    }
}

/// The edge failure detector of Rapid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorKind {
    /// Fails an edge when 4 of the last 10 probes did; a probe has two tries, and doubts quicken them.
    Window,
    /// The paper's: one try a probe, one probe a second, fails when 40% of the last 10 did.
    Paper,
}

/// How Rapid spreads alerts and votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisseminationKind {
    /// Each message to every member.
    Unicast,
    /// Epidemic broadcast.
    Epidemic,
}

/// How the cluster comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootstrapKind {
    /// The nodes are one configuration from the start.
    Formed,
    /// The first seed is a cluster of one, the others join it.
    Join,
}

/// Rapid's K, H and L.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Observers of a subject.
    pub k: u32,
    /// Reports that make a subject stable.
    pub h: u32,
    /// Reports that put it in flux.
    pub l: u32,
}

/// A uniform one-way delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The least delay.
    pub least_us: u64,
    /// The greatest delay.
    pub most_us: u64,
}

/// Whom an event strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every node.
    Everyone,
    /// These nodes.
    Nodes(Vec<u32>),
    /// So many, chosen by the seed.
    Count(u32),
}

/// What an event does. The keys of each are in the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EventKind {
    Start,
    Crash,
    Restart,
    Leave,
    DropIngress,
    DropEgress,
    DropLink,
    Loss,
    Pause,
    Duplicate,
    Reorder,
}

impl EventKind {
    const NAMES: [(&'static str, EventKind); 11] = [
        ("start", EventKind::Start),
        ("crash", EventKind::Crash),
        ("restart", EventKind::Restart),
        ("leave", EventKind::Leave),
        ("drop_ingress", EventKind::DropIngress),
        ("drop_egress", EventKind::DropEgress),
        ("drop_link", EventKind::DropLink),
        ("loss", EventKind::Loss),
        ("pause", EventKind::Pause),
        ("duplicate", EventKind::Duplicate),
        ("reorder", EventKind::Reorder),
    ];

    /// The keys that this kind understands besides `kind` and `at_ms`; `!` marks a required one,
    /// `nodes` stands for `nodes` or `count`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            EventKind::Start => &["nodes!", "until_ms"],
            EventKind::Crash | EventKind::Leave => &["nodes!"],
            EventKind::Restart | EventKind::Pause => &["nodes!", "until_ms", "on_ms"],
            EventKind::DropIngress | EventKind::DropEgress => {
                &["nodes!", "peers", "rate", "until_ms", "on_ms"]
            }
            EventKind::DropLink => &["nodes!", "peers!", "rate", "until_ms", "on_ms"],
            EventKind::Loss => &["nodes", "peers", "rate!", "until_ms", "on_ms"],
            EventKind::Duplicate | EventKind::Reorder => &["nodes", "rate!", "until_ms", "on_ms"],
        }
    }

    /// Whether the nodes that such an event names may rightly be removed for it. A bad link between
    /// two nodes is no reason; duplicates and delays are not either.
    pub fn makes_faulty(self, peers: bool) -> bool {
        match self {
            EventKind::Crash | EventKind::Restart | EventKind::Leave | EventKind::Pause => true,
            EventKind::DropIngress | EventKind::DropEgress | EventKind::Loss => !peers,
            EventKind::Start | EventKind::DropLink | EventKind::Duplicate | EventKind::Reorder => {
                false
            }
        }
    }
}

/// A flip-flop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// How long it is on.
    pub on_us: u64,
    /// How long it is off.
    pub off_us: u64,
}

/// One entry of `events`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Begin.
    pub at_us: u64,
    /// End, when given.
    pub until_us: Option<u64>,
    /// What happens.
    pub kind: EventKind,
    /// To whom.
    pub targets: Targets,
    /// On the links with whom; empty: with all.
    pub peers: Vec<u32>,
    /// Probability per message.
    pub rate: f64,
    /// Intervals, when it is not steadily on.
    pub flip: Option<Flip>,
}

/// A validated scenario. The keys are described in the module's table.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Scenario {
    pub nodes: u32,
    pub protocol: ProtocolKind,
    pub watermarks: Option<Watermarks>,
    pub detector: DetectorKind,
    pub dissemination: DisseminationKind,
    pub latency: Latency,
    pub persist_us: u64,
    pub run_us: u64,
    pub seed: u64,
    pub bootstrap: BootstrapKind,
    pub seeds: Vec<u32>,
    pub events: Vec<Event>,
}

/// Why a scenario was refused: the path of the key, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ScenarioError {
    /// As in `events[2].rate`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

/// More nodes than this are a typing error.
const NODES_MAX: u64 = 100_000;

impl Scenario {
    /// Reads and validates a scenario. `overrides` are `key = value` pairs of the top level, values
    /// written as in TOML, that replace what the text says.
    pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<Scenario, ScenarioError> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // The parser's own message spans lines and points at the place.
            ScenarioError {
                path: "scenario".into(),
                problem: error.to_string().trim_end().into(),
            }
        })?;
        for (key, value) in overrides {
            table.insert(key.clone(), parse_override(value));
        }
        let mut root = Reader::new("", table);
        let scenario = Scenario::read(&mut root)?;
        root.finish()?;
        Ok(scenario)
    }

    fn read(root: &mut Reader) -> Result<Scenario, ScenarioError> {
        let nodes = root.integer("nodes", 1..=NODES_MAX)?;
        let nodes = nodes.ok_or_else(|| root.error("nodes", "is required"))? as u32;
        let seeds = root.nodes("seeds", nodes)?.unwrap_or_else(|| vec![0]);
        if seeds.is_empty() {
            return Err(root.error("seeds", "must name at least one node"));
        }
        let run_us = root.millis("run_ms")?.unwrap_or(60_000_000);
        if run_us == 0 {
            return Err(root.error("run_ms", "must be above 0"));
        }
        let mut events = Vec::new();
        for mut reader in root.tables("events")? {
            events.push(read_event(&mut reader, nodes, run_us)?);
            reader.finish()?;
        }
        Ok(Scenario {
            nodes,
            protocol: root
                .name("protocol", &ProtocolKind::NAMES)?
                .unwrap_or(ProtocolKind::Rapid),
            watermarks: read_watermarks(root)?,
            detector: root
                .name(
                    "detector",
                    &[
                        ("window", DetectorKind::Window),
                        ("paper", DetectorKind::Paper),
                    ],
                )?
                .unwrap_or(DetectorKind::Window),
            dissemination: root
                .name(
                    "dissemination",
                    &[
                        ("unicast", DisseminationKind::Unicast),
                        ("epidemic", DisseminationKind::Epidemic),
                    ],
                )?
                .unwrap_or(DisseminationKind::Unicast),
            latency: read_latency(root)?,
            persist_us: root.millis("persist_ms")?.unwrap_or(1_000),
            run_us,
            seed: root.integer("seed", 0..=i64::MAX as u64)?.unwrap_or(1),
            bootstrap: root
                .name(
                    "bootstrap",
                    &[
                        ("formed", BootstrapKind::Formed),
                        ("join", BootstrapKind::Join),
                    ],
                )?
                .unwrap_or(BootstrapKind::Formed),
            seeds,
            events,
        })
    }

    /// The node numbers that an event strikes, for a seed's order of the nodes.
    pub fn resolve(&self, targets: &Targets, order: &[u32]) -> Vec<u32> {
        match targets {
            Targets::Everyone => (0..self.nodes).collect(),
            Targets::Nodes(nodes) => nodes.clone(),
            Targets::Count(count) => order[..*count as usize].to_vec(),
        }
    }
}

/// An override's value as TOML; what is not TOML counts as a string, so that quotes can be left out.
fn parse_override(value: &str) -> toml::Value {
    format!("x = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()))
}

fn read_watermarks(root: &mut Reader) -> Result<Option<Watermarks>, ScenarioError> {
    let k = root.integer("k", 3..=64)?;
    let h = root.integer("h", 1..=64)?;
    let l = root.integer("l", 1..=64)?;
    let (k, h, l) = match (k, h, l) {
        (None, None, None) => return Ok(None),
        (Some(k), Some(h), Some(l)) => (k as u32, h as u32, l as u32),
        (None, _, _) => return Err(root.error("k", "is required beside h and l")),
        (_, None, _) => return Err(root.error("h", "is required beside k and l")),
        (_, _, None) => return Err(root.error("l", "is required beside k and h")),
    };
    if h > k {
        return Err(root.error("h", &format!("{h} is above k = {k}")));
    }
    if l > h {
        return Err(root.error("l", &format!("{l} is above h = {h}")));
    }
    Ok(Some(Watermarks { k, h, l }))
}

fn read_latency(root: &mut Reader) -> Result<Latency, ScenarioError> {
    let (least_us, most_us) = root.millis_range("latency_ms")?.unwrap_or((1_000, 1_000));
    if least_us > most_us {
        return Err(root.error("latency_ms", "the least delay is above the greatest"));
    }
    Ok(Latency { least_us, most_us })
}

fn read_event(reader: &mut Reader, nodes: u32, run_us: u64) -> Result<Event, ScenarioError> {
    let kind = reader.name("kind", &EventKind::NAMES)?;
    let kind = kind.ok_or_else(|| reader.error("kind", "is required"))?;
    let at_us = reader.millis("at_ms")?.unwrap_or(0);
    if at_us > run_us {
        return Err(reader.error("at_ms", "is after the end of the run (run_ms)"));
    }

    let takes = |key: &str| {
        kind.keys()
            .iter()
            .any(|known| known.trim_end_matches('!') == key)
    };
    let needs = |key: &str| {
        kind.keys()
            .iter()
            .any(|known| known.strip_suffix('!') == Some(key))
    };
    for key in [
        "nodes", "count", "peers", "rate", "until_ms", "on_ms", "off_ms",
    ] {
        let class = match key {
            "count" => "nodes",
            "off_ms" => "on_ms",
            _ => key,
        };
        if reader.has(key) && !takes(class) {
            return Err(reader.error(key, "is not a key of this kind of event"));
        }
    }

    let until_us = reader.millis("until_ms")?;
    if until_us.is_some_and(|until_us| until_us < at_us) {
        return Err(reader.error("until_ms", "is before at_ms"));
    }
    let listed = reader.nodes("nodes", nodes)?;
    let count = reader.integer("count", 1..=u64::from(nodes))?;
    let targets = match (listed, count) {
        (Some(_), Some(_)) => return Err(reader.error("count", "excludes nodes")),
        (Some(listed), None) => Targets::Nodes(listed),
        (None, Some(count)) => Targets::Count(count as u32),
        (None, None) if needs("nodes") => {
            return Err(reader.error("nodes", "is required (or count)"));
        }
        (None, None) => Targets::Everyone,
    };
    let peers = reader.nodes("peers", nodes)?;
    if needs("peers") && peers.is_none() {
        return Err(reader.error("peers", "is required"));
    }
    if peers.as_ref().is_some_and(Vec::is_empty) {
        return Err(reader.error("peers", "must name at least one node"));
    }
    let rate = reader.rate("rate")?;
    if needs("rate") && rate.is_none() {
        return Err(reader.error("rate", "is required"));
    }
    let flip = match (reader.millis("on_ms")?, reader.millis("off_ms")?) {
        (None, None) => None,
        (Some(0), _) => return Err(reader.error("on_ms", "must be above 0")),
        (_, Some(0)) => return Err(reader.error("off_ms", "must be above 0")),
        (Some(on_us), Some(off_us)) => Some(Flip { on_us, off_us }),
        (Some(_), None) => return Err(reader.error("off_ms", "is required beside on_ms")),
        (None, Some(_)) => return Err(reader.error("on_ms", "is required beside off_ms")),
    };
    Ok(Event {
        at_us,
        until_us,
        kind,
        targets,
        peers: peers.unwrap_or_default(),
        rate: rate.unwrap_or(1.0),
        flip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Scenario::parse(text, &[])
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn a_number_of_nodes_is_enough() {
        let scenario = Scenario::parse("nodes = 10", &[]).expect("valid");
        assert_eq!(scenario.protocol, ProtocolKind::Rapid);
        assert_eq!(
            scenario.latency,
            Latency {
                least_us: 1_000,
                most_us: 1_000
            }
        );
        assert!(scenario.events.is_empty());
    }

    #[test]
    fn refusals_name_the_key() {
        let cases = [
            ("", "nodes: is required"),
            ("nodes = 0", "nodes: 0 is not in 1..=100000"),
            ("nodes = -3", "nodes: -3 is not in 1..=100000"),
            ("nodes = \"ten\"", "nodes: must be an integer, not a string"),
            ("nodes = 5\ncolour = 1", "colour: unknown key"),
            ("nodes = 5\nk = 10\nh = 11\nl = 3", "h: 11 is above k = 10"),
            ("nodes = 5\nk = 10\nh = 9", "l: is required beside k and h"),
            ("nodes = 5\nk = 10\nh = 2\nl = 3", "l: 3 is above h = 2"),
            ("nodes = 5\nrun_ms = 0", "run_ms: must be above 0"),
            (
                "nodes = 5\nlatency_ms = [2, 1]",
                "latency_ms: the least delay is above the greatest",
            ),
            (
                "nodes = 5\nprotocol = \"raft\"",
                "protocol: \"raft\" is not one of rapid, rapid-c, swim, heartbeat",
            ),
            (
                "nodes = 5\nseeds = [5]",
                "seeds[0]: there is no node 5: the nodes are 0-4",
            ),
            (
                "nodes = 5\n[[events]]\nat_ms = 1",
                "events[0].kind: is required",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"crash\"",
                "events[0].nodes: is required (or count)",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"crash\"\nnodes = [1]\nrate = 0.5",
                "events[0].rate: is not a key of this kind of event",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"crash\"\nnodes = [1]\n[[events]]\nkind = \"loss\"\nrate = 1.5",
                "events[1].rate: 1.5 is not in 0..=1",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"loss\"\nrate = 0.5\nat_ms = 9\nuntil_ms = 8",
                "events[0].until_ms: is before at_ms",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"crash\"\ncount = 6",
                "events[0].count: 6 is not in 1..=5",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"pause\"\nnodes = [1]\non_ms = 5",
                "events[0].off_ms: is required beside on_ms",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"drop_link\"\nnodes = [1]",
                "events[0].peers: is required",
            ),
            (
                "nodes = 5\n[[events]]\nkind = \"crash\"\nnodes = [1]\nwho = 1",
                "events[0].who: unknown key",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(refusal(text), expected, "for:\n{text}");
        }
    }

    #[test]
    fn ranges_and_overrides() {
        let text = "nodes = 50\n[[events]]\nkind = \"crash\"\nnodes = [1, \"3-5\"]";
        let overrides = [("protocol".to_owned(), "swim".to_owned())];
        let scenario = Scenario::parse(text, &overrides).expect("valid");
        assert_eq!(scenario.protocol, ProtocolKind::Swim);
        assert_eq!(scenario.events[0].targets, Targets::Nodes(vec![1, 3, 4, 5]));
    }
}
