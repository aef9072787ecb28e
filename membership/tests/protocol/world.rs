//! A deterministic world of nodes: virtual time, links that lose and delay, disks that lag and lose, processes that
//! crash, pause and restart. Every run is a function of its seed.
//!
//! It checks while it runs that all installed sequences agree: one hash for each sequence number of a cluster, and no
//! gaps in any process's sequence.

#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use synod_membership::catalog::Catalog;
use synod_membership::codec::{Decode, Encode};
use synod_membership::configuration::{Configuration, Mode, Overlay};
use synod_membership::durable;
use synod_membership::durable::{Record, Recovered};
use synod_membership::effect::{Alarm, Effect, Halt};
use synod_membership::event::{BootChoice, Contact, Event, Start};
use synod_membership::id::{Boot, ClusterId, Destination, Identity, NodeId, Token};
use synod_membership::member::Member;
use synod_membership::message::Message;
use synod_membership::node::Node;
use synod_membership::rng::{Rng, Seed};
use synod_membership::settings::Settings;
use synod_membership::status::{Phase, Status};
use synod_membership::time::Time;

use crate::schedule::{Happening, Scheduled};

/// A machine: an address, a disk, and a process if one runs.
pub struct Host {
    pub address: SocketAddr,
    pub settings: Settings,
    pub disk: Recovered,
    pub node: Option<Node>,
    pub identity: Option<Identity>,
    run: u64,
    wake: Option<Time>,
    pub paused_until: Option<Time>,
    /// Clock rate in percent, since when in virtual time, and what it showed then.
    clock: (u64, Time, Time),
    /// Virtual time of a write and its sync.
    pub fsync: Duration,
    pub join: Vec<SocketAddr>,
    /// Installed by each run, in order.
    pub installed: Vec<Vec<Arc<Configuration>>>,
    pub serving: bool,
    pub halted: Option<Halt>,
    pub alarms: Vec<Alarm>,
    pub left: bool,
    pub removed: u64,
    /// If set, the run dies when this many more writes are asked for, before they are confirmed.
    pub die_at_write: Option<u64>,
    /// If set, the run dies right after a write is durable, before it learns of it.
    pub die_before_confirm: Option<u64>,
    pub bytes_sent: u64,
}

/// Whether a message from a host to another gets through.
pub type Filter = Box<dyn FnMut(usize, usize, &Message) -> bool>;

/// All of it.
pub struct World {
    pub now: Time,
    pub hosts: Vec<Host>,
    pub rng: Rng,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
    pub latency: Duration,
    pub jitter: Duration,
    /// Loss in parts per thousand, by (from, to).
    pub loss: BTreeMap<(usize, usize), u64>,
    pub loss_everywhere: u64,
    pub duplicate: u64,
    catalog: Catalog,
    /// One hash for each sequence number of each cluster.
    chain: BTreeMap<(ClusterId, u64), Arc<Configuration>>,
    /// True to send each message through its encoding.
    pub encode: bool,
    pub messages: BTreeMap<&'static str, u64>,
    /// Who sent each kind of message last.
    senders: BTreeMap<&'static str, usize>,
    /// What this host sends about agreement takes so much longer.
    pub slow: Option<(usize, Duration)>,
    /// Called on each message: false drops it.
    pub filter: Option<Filter>,
    pub trace: bool,
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn address(host: usize) -> SocketAddr {
    let [_, b, c, d] = (host as u32 + 1).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, b, c, d), 7000))
}

/// The host at an address.
fn host_at(address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(v4) = address else {
        return None;
    };
    let [_, b, c, d] = v4.ip().octets();
    (u32::from_be_bytes([0, b, c, d]) as usize).checked_sub(1)
}

fn is_agreement(message: &Message) -> bool {
    let kinds = [
        "FastVotes",
        "Prepare",
        "Promise",
        "Accept",
        "Accepted",
        "Refused",
    ];
    kinds.contains(&message.kind())
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            now: Time::ZERO,
            hosts: Vec::new(),
            rng: Rng::new(Seed::from(seed)),
            queue: BinaryHeap::new(),
            sequence: 0,
            latency: Duration::from_micros(250),
            jitter: Duration::from_micros(100),
            loss: BTreeMap::new(),
            loss_everywhere: 0,
            duplicate: 0,
            catalog: Catalog::new(),
            chain: BTreeMap::new(),
            encode: true,
            messages: BTreeMap::new(),
            senders: BTreeMap::new(),
            slow: None,
            filter: None,
            trace: std::env::var_os("WORLD_TRACE").is_some(),
        }
    }

    /// A world of so many hosts, on which nothing runs yet.
    pub fn of_hosts(seed: u64, count: usize) -> World {
        let mut world = World::new(seed);
        (0..count).for_each(|_| {
            world.add_host();
        });
        world
    }

    /// A cluster of so many nodes that began together: all their edges, too.
    pub fn founded(seed: u64, count: usize) -> World {
        let mut world = World::of_hosts(seed, count);
        world.begin_together();
        world
    }

    /// Founds a cluster on all hosts, and starts it.
    pub fn begin_together(&mut self) {
        let all: Vec<usize> = (0..self.hosts.len()).collect();
        self.found(&all);
        for host in &all {
            self.start_as(*host, &[], BootChoice::Registered);
        }
        self.until(ms(1_000), "the founders", |world| world.agree(&all));
    }

    /// A cluster of so many nodes, joined through the first, all of them voting members.
    pub fn cluster(seed: u64, count: usize) -> World {
        let mut world = World::new(seed);
        for _ in 0..count {
            world.add_host();
        }
        world.start(0, &[]);
        world.run(ms(500));
        for host in 1..count {
            world.start(host, &[0]);
        }
        world.until(ms(20_000), "a cluster", |world| {
            let all: Vec<usize> = (0..count).collect();
            let voters = if count == 2 { 1 } else { count };
            world.agree(&all)
                && world
                    .view(0)
                    .is_some_and(|view| view.voters().len() == voters)
        });
        world.messages.clear();
        world.senders.clear();
        world
    }

    pub fn add_host(&mut self) -> usize {
        let address = address(self.hosts.len());
        self.hosts.push(Host {
            address,
            settings: Settings::new(address),
            disk: Recovered::default(),
            node: None,
            identity: None,
            run: 0,
            wake: None,
            paused_until: None,
            clock: (100, Time::ZERO, Time::ZERO),
            fsync: ms(2),
            join: Vec::new(),
            installed: Vec::new(),
            serving: false,
            halted: None,
            alarms: Vec::new(),
            left: false,
            removed: 0,
            die_at_write: None,
            die_before_confirm: None,
            bytes_sent: 0,
        });
        self.hosts.len() - 1
    }

    /// Starts a process on the host's disk.
    pub fn start(&mut self, host: usize, join: &[usize]) {
        self.start_as(host, join, BootChoice::Next);
    }

    pub fn start_as(&mut self, host: usize, join: &[usize], boot: BootChoice) {
        let seed = self.rng.next_u64();
        let addresses: Vec<SocketAddr> = join.iter().map(|j| self.hosts[*j].address).collect();
        let catalog = self.catalog.clone();
        let h = &mut self.hosts[host];
        assert!(h.node.is_none(), "host {host} runs already");
        h.join = addresses.clone();
        h.run += 1;
        h.installed.push(Vec::new());
        h.identity = None;
        h.serving = false;
        h.left = false;
        h.wake = None;
        h.node = Some(Node::new(
            Arc::new(h.settings.clone()),
            Seed::from(seed),
            catalog,
        ));
        let recovered = h.disk.clone();
        self.step(
            host,
            Event::Start(Box::new(Start {
                recovered,
                join: addresses,
                boot,
            })),
        );
    }

    /// Ends the process: writes that were not confirmed may or may not have happened.
    pub fn crash(&mut self, host: usize) {
        let kept = self.rng.below(4);
        let run = self.hosts[host].run;
        let mut unconfirmed: Vec<(Token, Record)> = self
            .queue
            .iter()
            .filter_map(|scheduled| match &scheduled.2 {
                Happening::Persisted {
                    at,
                    run: r,
                    token,
                    record,
                } if *at == host && *r == run => Some((*token, record.clone())),
                _ => None,
            })
            .collect();
        unconfirmed.sort_by_key(|(token, _)| *token);
        let h = &mut self.hosts[host];
        for (_, record) in unconfirmed.into_iter().take(kept) {
            h.disk.apply(&record);
        }
        h.node = None;
        h.run += 1;
        h.serving = false;
        h.die_at_write = None;
        h.die_before_confirm = None;
    }

    pub fn restart(&mut self, host: usize) {
        let join: Vec<usize> = (0..self.hosts.len())
            .filter(|other| self.hosts[host].join.contains(&self.hosts[*other].address))
            .collect();
        if self.hosts[host].node.is_some() {
            self.crash(host);
        }
        self.start(host, &join);
    }

    /// From its next start, the host listens at this port.
    pub fn move_to_port(&mut self, host: usize, port: u16) {
        let h = &mut self.hosts[host];
        h.address.set_port(port);
        h.settings.address = h.address;
    }

    pub fn pause(&mut self, host: usize, span: Duration) {
        self.hosts[host].paused_until = Some(self.now + span);
    }

    pub fn set_clock(&mut self, host: usize, percent: u64) {
        let shown = self.local(host);
        self.hosts[host].clock = (percent, self.now, shown);
        self.hosts[host].wake = None;
        self.step(host, Event::Tick);
    }

    /// Who sent this kind of message last, since the cluster was formed.
    pub fn last_sender(&self, kind: &str) -> Option<usize> {
        self.senders.get(kind).copied()
    }

    /// From here on, [`World::last_sender`] knows of what is sent later only.
    pub fn senders_forgotten(&mut self) {
        self.senders.clear();
    }

    /// Runs until somebody begins a classic round, the first since the cluster was formed: who.
    pub fn until_round(&mut self) -> usize {
        let begun = |world: &World| world.last_sender("Prepare").is_some();
        self.until(ms(8_000), "a classic round", begun);
        self.last_sender("Prepare").expect("somebody began it")
    }

    /// Notes from now on who sends what to whom, and lets through what passes.
    pub fn listen(
        &mut self,
        passes: impl Fn(usize, &Message) -> bool + 'static,
    ) -> Rc<RefCell<Vec<(usize, usize, Message)>>> {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        self.filter = Some(Box::new(move |from, to, message| {
            log.borrow_mut().push((from, to, message.clone()));
            passes(from, message)
        }));
        heard
    }

    /// A message from somebody who is no host.
    pub fn deliver(&mut self, host: usize, from: Identity, message: Message) {
        self.step(host, Event::Message { from, message });
    }

    /// Writes the directories of a cluster that these hosts found.
    pub fn found(&mut self, hosts: &[usize]) {
        let members: Vec<Member> = hosts
            .iter()
            .map(|host| Member {
                node: NodeId(self.rng.next_u128()),
                boot: Boot::first(self.rng.next_u64()),
                address: self.hosts[*host].address,
                labels: Arc::default(),
            })
            .collect();
        let cluster = ClusterId(self.rng.next_u128());
        let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
        let (mode, overlay) = (Mode::Decentralised, Overlay::default());
        for (node, directory) in durable::found(cluster, mode, overlay, members) {
            let host = hosts[nodes.iter().position(|other| *other == node).unwrap()];
            for record in directory.records() {
                self.hosts[host].disk.apply(&record);
            }
        }
    }

    pub fn event(&mut self, host: usize, event: Event) {
        self.step(host, event);
    }

    /// Drops everything between two hosts, both ways.
    pub fn cut_link(&mut self, a: usize, b: usize) {
        self.loss.insert((a, b), 1000);
        self.loss.insert((b, a), 1000);
    }

    /// Drops everything that comes in.
    pub fn deafen(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            self.loss.insert((other, host), 1000);
        }
    }

    /// Drops everything that goes out.
    pub fn mute(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            self.loss.insert((host, other), 1000);
        }
    }

    pub fn heal(&mut self) {
        self.loss.clear();
        self.loss_everywhere = 0;
        self.duplicate = 0;
    }

    pub fn isolate(&mut self, group: &[usize]) {
        for a in 0..self.hosts.len() {
            for b in 0..self.hosts.len() {
                if group.contains(&a) != group.contains(&b) {
                    self.loss.insert((a, b), 1000);
                }
            }
        }
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|next| next.0 <= end) {
            self.advance();
        }
        self.now = end;
    }

    /// Runs until something holds; panics if it does not in time.
    pub fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&World) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            let next = self.queue.peek().map(|next| next.0);
            if next.is_none_or(|next| next > end) {
                panic!("no {what} within {limit:?}:\n{}", self.describe());
            }
            self.advance();
        }
    }

    fn advance(&mut self) {
        let Some(Scheduled(at, _, happening)) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        let (host, run) = match &happening {
            Happening::Deliver { to, run, .. } => (*to, *run),
            Happening::Persisted { at, run, .. } | Happening::Wake { at, run } => (*at, *run),
        };
        if self.hosts[host].run != run || self.hosts[host].node.is_none() {
            return;
        }
        if let Some(until) = self.hosts[host].paused_until {
            if self.now < until {
                // Arrivals wait for the process, in order.
                self.schedule(until, happening);
                return;
            }
            self.hosts[host].paused_until = None;
        }
        match happening {
            Happening::Deliver { from, message, .. } => {
                self.step(host, Event::Message { from, message });
            }
            Happening::Persisted { token, record, .. } => {
                let h = &mut self.hosts[host];
                h.disk.apply(&record);
                if let Some(left) = &mut h.die_before_confirm {
                    if *left == 0 {
                        self.crash_exactly(host);
                        return;
                    }
                    *left -= 1;
                }
                self.step(host, Event::Persisted(token));
            }
            Happening::Wake { .. } => {
                let due = self.hosts[host].wake.is_some_and(|wake| wake <= self.now);
                if due {
                    self.hosts[host].wake = None;
                    self.step(host, Event::Tick);
                }
            }
        }
    }

    /// Ends the process with the disk exactly as it is.
    pub fn crash_exactly(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.node = None;
        h.run += 1;
        h.serving = false;
        h.die_at_write = None;
        h.die_before_confirm = None;
    }

    fn schedule(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Scheduled(at, self.sequence, happening));
    }

    fn local(&self, host: usize) -> Time {
        let (percent, since, shown) = self.hosts[host].clock;
        Time(shown.0 + (self.now.0 - since.0) * percent / 100)
    }

    fn step(&mut self, host: usize, event: Event) {
        let local = self.local(host);
        let Some(node) = self.hosts[host].node.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        if self.trace
            && !matches!(
                event,
                Event::Tick
                    | Event::Message {
                        message: Message::Probe(_) | Message::ProbeAck(_),
                        ..
                    }
            )
        {
            println!("{:>9} {host}: {event:?}", self.now.0);
        }
        node.step(local, event, &mut effects);
        let run = self.hosts[host].run;
        for effect in effects {
            if self.hosts[host].run != run {
                return;
            }
            self.carry_out(host, effect);
        }
        let (percent, since, shown) = self.hosts[host].clock;
        let Some(node) = self.hosts[host].node.as_ref() else {
            return;
        };
        let global =
            |local: Time| Time(since.0 + (local.0.saturating_sub(shown.0) * 100).div_ceil(percent));
        let wake = node
            .next_deadline()
            .map(|local| global(local).max(self.now));
        if let Some(at) = wake.filter(|_| wake != self.hosts[host].wake) {
            self.hosts[host].wake = wake;
            self.schedule(at, Happening::Wake { at: host, run });
        }
    }

    fn carry_out(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Identity(identity) => self.hosts[host].identity = Some(identity),
            Effect::Send { to, message } => self.send(host, to, message),
            Effect::SendMany { to, message } => {
                for to in to.iter() {
                    self.send(host, *to, message.clone());
                }
            }
            Effect::Persist { token, record } => {
                let h = &mut self.hosts[host];
                if let Some(left) = &mut h.die_at_write {
                    if *left == 0 {
                        self.crash_exactly(host);
                        return;
                    }
                    *left -= 1;
                }
                let run = h.run;
                let at = self.now + h.fsync;
                self.schedule(
                    at,
                    Happening::Persisted {
                        at: host,
                        run,
                        token,
                        record,
                    },
                );
            }
            Effect::Install(change) => {
                let configuration = change.configuration;
                if self.trace {
                    println!(
                        "{:>9} {host}: INSTALL {} size {}",
                        self.now.0,
                        configuration.seq(),
                        configuration.members().len()
                    );
                }
                self.check_installed(host, &configuration);
                self.hosts[host].serving = self.status(host).is_some_and(|s| s.serving);
                self.hosts[host]
                    .installed
                    .last_mut()
                    .unwrap()
                    .push(configuration);
            }
            Effect::Suspend(_) => self.hosts[host].serving = false,
            Effect::Resume => self.hosts[host].serving = true,
            Effect::Removed(_) => {
                self.hosts[host].removed += 1;
                self.hosts[host].serving = false;
                // What comes after is a new sequence.
                self.hosts[host].installed.push(Vec::new());
            }
            Effect::Left(_) => self.hosts[host].left = true,
            Effect::Alarm(alarm) => self.hosts[host].alarms.push(alarm),
            Effect::Halt(halt) => self.hosts[host].halted = Some(halt),
        }
    }

    fn check_installed(&mut self, host: usize, configuration: &Arc<Configuration>) {
        let key = (configuration.cluster(), configuration.seq());
        let first = self
            .chain
            .entry(key)
            .or_insert_with(|| configuration.clone());
        assert_eq!(
            first.hash(),
            configuration.hash(),
            "host {host} installs another configuration {}:\n{:?}\n{:?}",
            key.1,
            first
                .members()
                .iter()
                .map(|m| (m.address, m.boot.counter))
                .collect::<Vec<_>>(),
            configuration
                .members()
                .iter()
                .map(|m| (m.address, m.boot.counter))
                .collect::<Vec<_>>(),
        );
        if let Some(last) = self.hosts[host].installed.last().and_then(|run| run.last()) {
            assert_eq!(
                last.seq() + 1,
                configuration.seq(),
                "host {host} skips a configuration"
            );
        }
    }

    fn send(&mut self, from: usize, to: Destination, message: Message) {
        let Some(identity) = self.hosts[from].identity else {
            panic!("host {from} speaks before it has an identity: {message:?}")
        };
        let Some(target) = host_at(to.address).filter(|host| *host < self.hosts.len()) else {
            return;
        };
        if target == from {
            return;
        }
        *self.messages.entry(message.kind()).or_default() += 1;
        self.senders.insert(message.kind(), from);
        self.hosts[from].bytes_sent += message.encoded_len() as u64;
        if self.loses(from, target, &message) {
            return;
        }
        let message = if self.encode {
            Message::from_bytes(&message.to_bytes()).expect("a message comes back")
        } else {
            message
        };
        let copies = if self.rng.below(1000) < self.duplicate as usize {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let slow = self
                .slow
                .filter(|(host, _)| *host == from && is_agreement(&message));
            let extra = slow.map_or(Duration::ZERO, |(_, extra)| extra);
            let at = self.now + self.latency + extra + self.rng.span(self.jitter);
            let there = self.hosts[target]
                .identity
                .filter(|_| self.hosts[target].node.is_some());
            match there {
                Some(_) if self.hosts[target].address != to.address => {
                    self.refuse(from, to, Contact::Refused);
                }
                Some(found) if to.node.is_some_and(|node| node != found.node) => {
                    let (node, cluster) = (Some(found.node), found.cluster);
                    self.refuse(from, to, Contact::Stranger { node, cluster });
                }
                Some(_) => {
                    let run = self.hosts[target].run;
                    let message = message.clone();
                    self.schedule(
                        at,
                        Happening::Deliver {
                            to: target,
                            run,
                            from: identity,
                            message,
                        },
                    );
                }
                None => {}
            }
        }
    }

    fn loses(&mut self, from: usize, to: usize, message: &Message) -> bool {
        let here = self.loss.get(&(from, to)).copied().unwrap_or(0);
        let lost = here.max(self.loss_everywhere);
        let mut filter = self.filter.as_mut();
        self.rng.below(1000) < lost as usize
            || filter
                .as_mut()
                .is_some_and(|passes| !passes(from, to, message))
    }

    fn refuse(&mut self, from: usize, to: Destination, contact: Contact) {
        // Recursion through `step` is bounded: a failed contact sends nothing to the same place at once.
        self.step_later(from, Event::ContactFailed { to, contact });
    }

    fn step_later(&mut self, host: usize, event: Event) {
        if let Event::ContactFailed { to, contact } = event {
            let mut effects = Vec::new();
            let local = self.local(host);
            if let Some(node) = self.hosts[host].node.as_mut() {
                node.step(local, Event::ContactFailed { to, contact }, &mut effects);
            }
            for effect in effects {
                self.carry_out(host, effect);
            }
        }
    }

    pub fn status(&self, host: usize) -> Option<Status> {
        self.hosts[host].node.as_ref().and_then(Node::status)
    }

    pub fn view(&self, host: usize) -> Option<Arc<Configuration>> {
        self.hosts[host]
            .node
            .as_ref()
            .and_then(|node| node.view().cloned())
    }

    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host]
            .disk
            .registration
            .expect("a registration")
            .node
    }

    /// True if these hosts, and no others, are members, are all at one configuration, list their boots and serve.
    pub fn agree(&self, hosts: &[usize]) -> bool {
        let Some(view) = self.view(hosts[0]) else {
            return false;
        };
        let addresses: BTreeSet<SocketAddr> = view.members().iter().map(|m| m.address).collect();
        let expected: BTreeSet<SocketAddr> = hosts.iter().map(|h| self.hosts[*h].address).collect();
        addresses == expected
            && hosts.iter().all(|host| {
                let same = self
                    .view(*host)
                    .is_some_and(|other| other.hash() == view.hash());
                same && self
                    .status(*host)
                    .is_some_and(|s| s.serving && s.phase == Phase::Member)
            })
    }

    pub fn seq(&self, host: usize) -> u64 {
        self.view(host).map_or(0, |view| view.seq())
    }

    pub fn describe(&self) -> String {
        let mut text = format!("at {:?}\n", self.now);
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            let line = match self.status(host) {
                None => format!("{host}: down {:?}", h.halted),
                Some(s) => format!(
                    "{host} {:?}: {:?} serving={} seq={} members={} voters={} missing={} needed={} halted={:?} alarms={:?}",
                    s.node,
                    s.phase,
                    s.serving,
                    s.seq,
                    s.members.len(),
                    s.voters.len(),
                    s.missing_voters.len(),
                    s.voters_needed,
                    h.halted,
                    h.alarms
                ),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}
