//! This crate's node in the simulator.
//!
//! The adapter does what a server's edge does: it keeps the identity that each process introduces itself
//! with and attaches it to what the process sends, turns durable writes into the directory's content,
//! and wakes the node at its deadline. Connections count as always shaken; a message to a node
//! that has another identity by now is still delivered, as it would be from a queue that outlived the
//! connection.
//!
//! All nodes share one catalog: a configuration of 2,000 members and its overlay are computed once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::protocol::{Boot, Input, Install, Note, Origin, Outbox, Protocol};
use super::rng::Rng;
use super::scenario::{DetectorKind, DisseminationKind, ProtocolKind, Scenario};
use crate::catalog::Catalog;
use crate::codec::Encode;
use crate::configuration::{Mode, Overlay};
use crate::durable::{self, Record, Recovered};
use crate::effect::{Effect, Effects};
use crate::event::{BootChoice, Event, Start};
use crate::id::{self, ClusterId, Destination, Identity, NodeId, Token};
use crate::member::Member;
use crate::message::Message;
use crate::node::Node;
use crate::rng::Seed;
use crate::settings::{Detector, Dissemination, Settings};
use crate::time::Time;
use crate::view::ViewChange;

const PORT: u16 = 7_000;
/// 10.0.0.0: node n lives at the n-th address from here.
const NETWORK: u32 = 0x0a00_0000;
/// The size of the ensemble in centralised mode.
const ENSEMBLE: u8 = 3;
/// Members told in each round of epidemic broadcast.
const EPIDEMIC_FANOUT: u8 = 4;
/// Rounds beyond the logarithm of the cluster's size.
const EPIDEMIC_ROUNDS_EXTRA: u8 = 2;

type Out = Outbox<Envelope, Record>;

fn address(node: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(NETWORK + node)), PORT)
}

fn node_at(address: SocketAddr) -> u32 {
    match address.ip() {
        IpAddr::V4(ip) => u32::from(ip) - NETWORK,
        IpAddr::V6(ip) => unreachable!("{ip} is not an address of the simulation"),
    }
}

/// A message with what the transport learnt of its sender.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Which of the sender's identities, see [`Cluster::identities`].
    identity: u32,
    message: Message,
}

/// What the nodes of a run share.
pub struct Cluster {
    settings: Settings,
    catalog: Catalog,
    seeds: Vec<SocketAddr>,
    /// What a founder's directory holds before its first start, by node. A sole founder has none: it
    /// forms its own cluster.
    founded: HashMap<u32, Recovered>,
    /// Every identity that a node has introduced itself with, by node.
    identities: Vec<Vec<Identity>>,
    /// Where a node id lives. Looked up, never iterated.
    numbers: HashMap<NodeId, u32>,
    /// Room for the effects of one step: the same for all nodes, so that it stays in the nearest cache.
    effects: Effects,
}

/// A process.
pub struct Rapid {
    me: u32,
    node: Node,
    wake_us: Option<u64>,
}

impl Protocol for Rapid {
    type Message = Envelope;
    type Record = Record;
    type Disk = Recovered;
    type Cluster = Cluster;

    fn cluster(scenario: &Scenario, founders: &[u32], seed: u64) -> Cluster {
        let mut settings = Settings::new(address(0));
        if let Some(marks) = scenario.watermarks {
            // Validated to fit: at most 64.
            settings.overlay = Overlay {
                k: marks.k as u8,
                h: marks.h as u8,
                l: marks.l as u8,
            };
        }
        if scenario.protocol == ProtocolKind::RapidC {
            settings.mode = Mode::Centralised { ensemble: ENSEMBLE };
        }
        settings.detector = match scenario.detector {
            DetectorKind::Window => Detector::default(),
            DetectorKind::Paper => Detector::Paper,
        };
        settings.dissemination = match scenario.dissemination {
            DisseminationKind::Unicast => Dissemination::Unicast,
            DisseminationKind::Epidemic => Dissemination::Epidemic {
                fanout: EPIDEMIC_FANOUT,
                rounds: scenario.nodes.ilog2() as u8 + EPIDEMIC_ROUNDS_EXTRA,
            },
        };
        let mut rng = Rng::new(seed, 0);
        let mut numbers = HashMap::new();
        let mut founded = HashMap::new();
        if founders.len() > 1 {
            let mut wide = || (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
            let cluster = ClusterId(wide());
            let mut member = |founder: &u32| {
                let node = NodeId(wide());
                numbers.insert(node, *founder);
                let boot = id::Boot::first(wide() as u64);
                Member {
                    node,
                    boot,
                    address: address(*founder),
                    labels: Arc::default(),
                }
            };
            let members = founders.iter().map(&mut member).collect();
            let directories = durable::found(cluster, settings.mode, settings.overlay, members);
            let by_number = |(node, directory)| (numbers[&node], directory);
            founded = directories.into_iter().map(by_number).collect();
        }
        Cluster {
            seeds: scenario.seeds.iter().map(|seed| address(*seed)).collect(),
            catalog: Catalog::new(),
            founded,
            identities: vec![Vec::new(); scenario.nodes as usize],
            numbers,
            settings,
            effects: Vec::new(),
        }
    }

    fn write(disk: &mut Recovered, record: Record) {
        disk.apply(&record);
    }

    fn boot(
        cluster: &mut Cluster,
        boot: Boot,
        disk: &Recovered,
        now_us: u64,
        out: &mut Out,
    ) -> Self {
        let settings = Settings {
            address: address(boot.node),
            ..cluster.settings.clone()
        };
        let mut recovered = disk.clone();
        let mut join = cluster.seeds.clone();
        let mut choice = BootChoice::Next;
        if boot.origin == Origin::Founder {
            match cluster.founded.get(&boot.node) {
                Some(directory) if boot.count == 1 => {
                    recovered = directory.clone();
                    recovered
                        .records()
                        .into_iter()
                        .for_each(|record| out.persist_at_once(record));
                    choice = BootChoice::Registered;
                }
                Some(_) => {}
                // A sole founder forms its cluster, again if it crashed too early.
                None => join.clear(),
            }
        }
        let seed = Seed::from(boot.seed);
        let node = Node::new(Arc::new(settings), seed, cluster.catalog.clone());
        let mut process = Rapid {
            me: boot.node,
            node,
            wake_us: None,
        };
        let start = Event::Start(Box::new(Start {
            recovered,
            join,
            boot: choice,
        }));
        process.run(cluster, now_us, start, out);
        process
    }

    fn step(&mut self, cluster: &mut Cluster, now_us: u64, input: Input<Envelope>, out: &mut Out) {
        let event = match input {
            Input::Message {
                from,
                message: Envelope { identity, message },
            } => {
                let from = cluster.identities[from as usize][identity as usize];
                Event::Message { from, message }
            }
            Input::Wake => {
                self.wake_us = None;
                Event::Tick
            }
            Input::Persisted(token) => Event::Persisted(Token(token)),
            Input::Leave => Event::Leave,
        };
        self.run(cluster, now_us, event, out);
    }
}

impl Rapid {
    fn run(&mut self, cluster: &mut Cluster, now_us: u64, event: Event, out: &mut Out) {
        let mut effects = std::mem::take(&mut cluster.effects);
        self.node.step(Time(now_us), event, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(cluster, effect, out);
        }
        cluster.effects = effects;
        let wake_us = self.node.next_deadline().map(|at| at.0);
        if wake_us != self.wake_us {
            self.wake_us = wake_us;
            out.wake_at(wake_us.unwrap_or(u64::MAX));
        }
    }

    fn carry_out(&self, cluster: &mut Cluster, effect: Effect, out: &mut Out) {
        match effect {
            Effect::Identity(identity) => {
                cluster.numbers.insert(identity.node, self.me);
                let known = &mut cluster.identities[self.me as usize];
                if known.last() != Some(&identity) {
                    known.push(identity);
                }
            }
            Effect::Send { to, message } => {
                let bytes = message.encoded_len() as u32;
                out.send(node_at(to.address), self.envelope(cluster, message), bytes);
            }
            Effect::SendMany { to, message } => {
                let bytes = message.encoded_len() as u32;
                let number = |to: &Destination| node_at(to.address);
                let to: Rc<[u32]> = to.iter().map(number).filter(|to| *to != self.me).collect();
                out.send_all(to, self.envelope(cluster, message), bytes);
            }
            Effect::Persist { token, record } => out.persist(token.0, record),
            Effect::Install(change) => out.install(install(cluster, change)),
            Effect::Suspend(why) => out.note(Note::Suspended, || format!("{why:?}")),
            Effect::Resume => out.note(Note::Resumed, String::new),
            Effect::Removed(at) => out.note(Note::Removed, || format!("as of view {}", at.seq)),
            Effect::Left(_) => out.stop(),
            Effect::Alarm(alarm) => out.note(Note::Alarm, || format!("{alarm:?}")),
            Effect::Halt(why) => {
                out.note(Note::Halted, || format!("{why:?}"));
                out.stop();
            }
        }
    }

    fn envelope(&self, cluster: &Cluster, message: Message) -> Envelope {
        let identities = cluster.identities[self.me as usize].len() as u32;
        assert!(
            identities > 0,
            "node {} sends before it says who it is",
            self.me
        );
        Envelope {
            identity: identities - 1,
            message,
        }
    }
}

fn install(cluster: &Cluster, change: ViewChange) -> Install {
    let numbers = |members: &[Member]| members.iter().map(|m| node_at(m.address)).collect();
    let configuration = &change.configuration;
    let gone = change
        .left
        .iter()
        .filter_map(|removal| cluster.numbers.get(&removal.node));
    Install {
        seq: configuration.seq(),
        hash: configuration.hash().0,
        size: configuration.members().len() as u32,
        joined: numbers(&change.joined),
        removed: gone.copied().collect(),
        restarted: numbers(&change.restarted),
        adopted: change.view.is_none(),
    }
}
