//! A run: the loop that lets virtual time pass.
//!
//! The world owns all nodes, their disks, the network, the clock and the queue, and runs in one thread:
//! nothing is concurrent, so a run is a function of scenario and seed. A message to many nodes is one
//! entry of the queue while all links have the same delay, which is what makes all-to-all
//! protocols affordable at 1,000 nodes. What is in flight waits beside the queue ([`super::letters`]).

use std::collections::VecDeque;

use super::faults::{Action, Faults};
use super::letters::{Letter, Letters, Place};
use super::network::Network;
use super::notes::Notes;
use super::protocol::{Boot, Input, Origin, Outbox, Protocol, Sent, To};
use super::queue::EventQueue;
use super::rng::{Rng, split_mix};
use super::scenario::{BootstrapKind, EventKind, Scenario};
use super::traffic::Traffic;
use super::views::Views;

/// Messages that wait for a paused process; more are lost.
const PAUSED_INBOX_MAX: usize = 4_096;
const SECOND_US: u64 = 1_000_000;

// Streams of the seed.
const STREAM_NETWORK: u64 = 1;
const STREAM_DISK: u64 = 2;
const STREAM_ORDER: u64 = 3;
const STREAM_NODES: u64 = 1 << 32;

enum Due {
    Deliver(Place),
    Wake { node: u32, boot: u32 },
    Persisted { node: u32, boot: u32 },
    Start { node: u32 },
    Fault { event: u32, begin: bool },
    Second,
}

/// What every event asks of a node first. Those of all nodes fit into the nearest cache, where most of a node is not.
#[derive(Clone, Copy)]
struct Slot {
    /// When the process wants to wake.
    wake_us: u64,
    boots: u32,
    /// Whether a process runs.
    up: bool,
    paused: bool,
    missed_wake: bool,
}

/// A machine: what outlives a process, and the process if one runs.
struct Node<P: Protocol> {
    process: Option<P>,
    inbox: VecDeque<Input<P::Message>>,
    disk: P::Disk,
    /// Writes that are not durable yet, oldest first.
    pending: VecDeque<(u64, P::Record)>,
}

/// All of a run's state.
///
/// Invariant: `slots[i].up` exactly while `nodes[i]` has a process.
pub struct World<'a, P: Protocol> {
    scenario: &'a Scenario,
    seed: u64,
    cluster: P::Cluster,
    slots: Vec<Slot>,
    nodes: Vec<Node<P>>,
    founders: Vec<bool>,
    queue: EventQueue<Due>,
    letters: Letters<P::Message>,
    network: Network,
    disk_rng: Rng,
    faults: Faults,
    traffic: Traffic,
    views: Views,
    notes: Notes,
    outbox: Outbox<P::Message, P::Record>,
    events: u64,
    now_us: u64,
    trace: Trace,
}

/// Whether to print every input and every message on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No.
    Off,
    /// Yes: for small clusters and short runs.
    On,
}

/// What is left when a run is over.
pub struct Finished {
    /// The views.
    pub views: Views,
    /// The traffic.
    pub traffic: Traffic,
    /// The faults.
    pub faults: Faults,
    /// What nodes said.
    pub notes: Notes,
    /// Which nodes have a running process.
    pub up: Vec<bool>,
    /// Entries of the queue that were handled.
    pub events: u64,
}

impl<'a, P: Protocol> World<'a, P> {
    /// Sets everything up at time 0.
    pub fn new(scenario: &'a Scenario, seed: u64, trace: Trace) -> World<'a, P> {
        let mut order: Vec<u32> = (0..scenario.nodes).collect();
        Rng::new(seed, STREAM_ORDER).shuffle(&mut order);
        // Seeds last, so that a small count spares them.
        order.sort_by_key(|node| scenario.seeds.contains(node));
        let faults = Faults::new(scenario, &order);

        let mut founders = vec![false; scenario.nodes as usize];
        match scenario.bootstrap {
            BootstrapKind::Formed => founders.fill(true),
            BootstrapKind::Join => founders[scenario.seeds[0] as usize] = true,
        }
        let mut starts: Vec<Option<u64>> = vec![Some(0); scenario.nodes as usize];
        for (node, at_us) in faults.starts() {
            founders[node as usize] = false;
            starts[node as usize] = Some(at_us);
        }
        let founder_list: Vec<u32> = (0..scenario.nodes)
            .filter(|node| founders[*node as usize])
            .collect();

        let node = |_| Node {
            process: None,
            inbox: VecDeque::new(),
            disk: P::Disk::default(),
            pending: VecDeque::new(),
        };
        let slot = Slot {
            wake_us: u64::MAX,
            boots: 0,
            up: false,
            paused: false,
            missed_wake: false,
        };
        let mut world = World {
            slots: vec![slot; scenario.nodes as usize],
            scenario,
            seed,
            cluster: P::cluster(scenario, &founder_list, split_mix(seed)),
            nodes: (0..scenario.nodes).map(node).collect(),
            founders,
            queue: EventQueue::new(),
            letters: Letters::new(),
            network: Network::new(
                scenario.nodes,
                scenario.latency,
                Rng::new(seed, STREAM_NETWORK),
            ),
            disk_rng: Rng::new(seed, STREAM_DISK),
            faults,
            traffic: Traffic::new(scenario.nodes),
            views: Views::new(scenario.nodes),
            notes: Notes::default(),
            outbox: Outbox::new(),
            events: 0,
            now_us: 0,
            trace,
        };
        world.queue.push(SECOND_US, Due::Second);
        for (node, at_us) in (0..scenario.nodes).zip(starts) {
            if let Some(at_us) = at_us {
                world.queue.push(at_us, Due::Start { node });
            }
        }
        for (event, at_us) in world.faults.first_begins() {
            world.schedule_fault(at_us, event, true);
        }
        world
    }

    /// Runs to the end; `progress` hears the virtual time and the events handled, now and then.
    pub fn run(mut self, mut progress: impl FnMut(u64, u64)) -> Finished {
        while let Some((now_us, due)) = self.queue.pop(self.scenario.run_us) {
            self.now_us = now_us;
            self.events += 1;
            if self.events.is_multiple_of(1 << 16) {
                progress(now_us, self.events);
            }
            self.handle(due);
        }
        let up = self.slots.iter().map(|slot| slot.up).collect();
        let World {
            views,
            traffic,
            faults,
            notes,
            events,
            ..
        } = self;
        Finished {
            views,
            traffic,
            faults,
            notes,
            up,
            events,
        }
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Deliver(place) => {
                let Letter {
                    from,
                    to,
                    bytes,
                    message,
                } = self.letters.take(place);
                match to {
                    To::Node(to) => self.deliver(from, to, bytes, message),
                    To::Nodes(to) => {
                        for &to in to.iter() {
                            self.deliver_one(from, to, bytes, &message);
                        }
                    }
                }
            }
            Due::Wake { node: index, boot } => {
                let slot = &mut self.slots[index as usize];
                if slot.boots != boot || slot.wake_us != self.now_us {
                    // Another time was asked for since.
                    return;
                }
                slot.wake_us = u64::MAX;
                if slot.paused {
                    slot.missed_wake = true;
                } else {
                    self.step(index, Input::Wake);
                }
            }
            Due::Persisted { node: index, boot } => {
                let node = &mut self.nodes[index as usize];
                if self.slots[index as usize].boots != boot {
                    return;
                }
                if let Some((token, record)) = node.pending.pop_front() {
                    P::write(&mut node.disk, record);
                    self.input(index, Input::Persisted(token));
                }
            }
            Due::Start { node } => self.start(node),
            Due::Fault { event, begin } => self.fault(event as usize, begin),
            Due::Second => {
                let slots = &self.slots;
                self.traffic.fold(|node| slots[node].up);
                self.queue.push(self.now_us + SECOND_US, Due::Second);
            }
        }
    }

    #[inline]
    fn deliver(&mut self, from: u32, to: u32, bytes: u32, message: P::Message) {
        if self.arrives(from, to, bytes) {
            self.input(to, Input::Message { from, message });
        }
    }

    /// One of many copies, which is only made if it is needed.
    #[inline]
    fn deliver_one(&mut self, from: u32, to: u32, bytes: u32, message: &P::Message) {
        if !self.arrives(from, to, bytes) {
            return;
        }
        let awake = !self.slots[to as usize].paused && self.trace == Trace::Off;
        if awake && P::absorb(&mut self.cluster, self.now_us, from, to, message) {
            return;
        }
        let message = message.clone();
        self.input(to, Input::Message { from, message });
    }

    /// Whether a message comes through to a process; then it counts.
    #[inline]
    fn arrives(&mut self, from: u32, to: u32, bytes: u32) -> bool {
        let arrives = self.slots[to as usize].up && self.network.arrives(from, to);
        if arrives {
            self.traffic.received(to, bytes);
        }
        arrives
    }

    /// Gives a node an input, or keeps it until the process runs again.
    #[inline]
    fn input(&mut self, index: u32, input: Input<P::Message>) {
        let node = &mut self.nodes[index as usize];
        if !self.slots[index as usize].paused {
            self.step(index, input);
        } else if node.inbox.len() < PAUSED_INBOX_MAX || !matches!(input, Input::Message { .. }) {
            // A completed write is never forgotten; a message may be.
            node.inbox.push_back(input);
        }
    }

    fn step(&mut self, index: u32, input: Input<P::Message>) {
        if let Some(process) = &mut self.nodes[index as usize].process {
            if self.trace == Trace::On {
                eprintln!(
                    "{:>12.3} ms  {index} <- {input:?}",
                    self.now_us as f64 / 1e3
                );
            }
            process.step(&mut self.cluster, self.now_us, input, &mut self.outbox);
            self.drain(index);
        }
    }

    /// Carries out what a node asked for.
    fn drain(&mut self, index: u32) {
        if self.outbox.is_empty() {
            return;
        }
        let slot = &mut self.slots[index as usize];
        let boot = slot.boots;
        if let Some(wake_us) = self.outbox.wake_us.take()
            && wake_us != slot.wake_us
        {
            let wake_us = wake_us.max(self.now_us);
            slot.wake_us = wake_us;
            if wake_us <= self.scenario.run_us {
                self.queue.push(wake_us, Due::Wake { node: index, boot });
            }
        }
        for record in self.outbox.written.drain(..) {
            P::write(&mut self.nodes[index as usize].disk, record);
        }
        let mut sends = std::mem::take(&mut self.outbox.sends);
        for sent in sends.drain(..) {
            self.send(index, sent);
        }
        self.outbox.sends = sends;
        for write in self.outbox.writes.drain(..) {
            self.nodes[index as usize].pending.push_back(write);
            let due = Due::Persisted { node: index, boot };
            self.queue.push(self.now_us + self.scenario.persist_us, due);
        }
        for install in self.outbox.installs.drain(..) {
            if self.trace == Trace::On {
                eprintln!(
                    "{:>12.3} ms  {index} == {install:?}",
                    self.now_us as f64 / 1e3
                );
            }
            self.views
                .record(self.now_us, index, install, &self.faults.at(self.now_us));
        }
        for (note, words) in self.outbox.notes.drain(..) {
            if self.trace == Trace::On {
                eprintln!(
                    "{:>12.3} ms  {index} !! {note:?} {words}",
                    self.now_us as f64 / 1e3
                );
            }
            self.notes.record(self.now_us, index, note, words);
        }
        if std::mem::take(&mut self.outbox.stopped) {
            self.stop(index);
        }
    }

    fn send(&mut self, from: u32, sent: Sent<P::Message>) {
        let Sent { to, message, bytes } = sent;
        if self.trace == Trace::On {
            let at_ms = self.now_us as f64 / 1e3;
            eprintln!("{at_ms:>12.3} ms  {from} -> {to:?} {message:?}");
        }
        let letter = |to, message| Letter {
            from,
            to,
            bytes,
            message,
        };
        match to {
            To::Node(_) => {
                self.traffic.sent(from, 1, bytes);
                self.post(letter(to, message));
            }
            To::Nodes(to) => {
                self.traffic.sent(from, to.len() as u32, bytes);
                if let Some(delay_us) = self.network.uniform_delay_us() {
                    self.post_after(delay_us, letter(To::Nodes(to), message));
                    return;
                }
                for &to in to.iter() {
                    self.post(letter(To::Node(to), message.clone()));
                }
            }
        }
    }

    /// Puts a letter on its way, and with bad luck a copy.
    fn post(&mut self, letter: Letter<P::Message>) {
        let delays = self.network.delays(letter.from);
        if let Some(second_us) = delays.second_us {
            self.post_after(second_us, letter.clone());
        }
        self.post_after(delays.first_us, letter);
    }

    fn post_after(&mut self, delay_us: u64, letter: Letter<P::Message>) {
        let place = self.letters.put(letter);
        let due = Due::Deliver(place);
        self.queue.push_in_order(self.now_us + delay_us, due);
    }

    fn start(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let slot = &mut self.slots[index as usize];
        if slot.up {
            return;
        }
        slot.boots += 1;
        let count = slot.boots;
        let origin = match self.founders[index as usize] {
            true => Origin::Founder,
            false => Origin::Joiner,
        };
        let stream = STREAM_NODES + (u64::from(index) << 20) + u64::from(count);
        let seed = Rng::new(self.seed, stream).next_u64();
        let boot = Boot {
            node: index,
            count,
            origin,
            seed,
        };
        let process = P::boot(
            &mut self.cluster,
            boot,
            &node.disk,
            self.now_us,
            &mut self.outbox,
        );
        node.process = Some(process);
        slot.up = true;
        self.drain(index);
    }

    /// The process ends without a word. What was being written may or may not be on the disk.
    fn stop(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.process.take().is_none() {
            return;
        }
        let survivors = self.disk_rng.below(node.pending.len() as u64 + 1) as usize;
        for (_, record) in node.pending.drain(..).take(survivors) {
            P::write(&mut node.disk, record);
        }
        node.inbox.clear();
        let slot = &mut self.slots[index as usize];
        *slot = Slot {
            wake_us: u64::MAX,
            boots: slot.boots,
            up: false,
            paused: false,
            missed_wake: false,
        };
    }

    fn resume(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if !std::mem::take(&mut slot.paused) {
            return;
        }
        let missed_wake = std::mem::take(&mut slot.missed_wake);
        let inbox = std::mem::take(&mut self.nodes[index as usize].inbox);
        // The timer was due first, but a process that wakes up finds both ready; timers go first
        // in most event loops, and that order is the harder one for a failure detector.
        if missed_wake {
            self.step(index, Input::Wake);
        }
        for input in inbox {
            self.step(index, input);
        }
    }

    fn schedule_fault(&mut self, at_us: u64, event: usize, begin: bool) {
        let event = event as u32;
        self.queue.push(at_us, Due::Fault { event, begin });
    }

    fn fault(&mut self, event: usize, begin: bool) {
        let scenario = self.scenario;
        let description = &scenario.events[event];
        if let Some((at_us, begin)) = self.faults.next(scenario, event, begin, self.now_us) {
            self.schedule_fault(at_us, event, begin);
        }
        let targets = self.faults.targets(event);
        match (description.kind.action(), begin) {
            (Action::Network, true) => {
                let nodes = self.faults.listed(scenario, event);
                self.network.begin(event, description, nodes);
            }
            (Action::Network, false) => self.network.end(event),
            (Action::Process, _) => {
                for &node in targets.iter() {
                    match (description.kind, begin) {
                        (EventKind::Crash | EventKind::Restart, true) => self.stop(node),
                        (EventKind::Restart, false) => self.start(node),
                        (EventKind::Leave, true) => self.input(node, Input::Leave),
                        (EventKind::Pause, true) => {
                            let slot = &mut self.slots[node as usize];
                            slot.paused = slot.up;
                        }
                        (EventKind::Pause, false) => self.resume(node),
                        // Starts were scheduled one by one; the rest does not end.
                        (
                            EventKind::Start
                            | EventKind::Crash
                            | EventKind::Leave
                            | EventKind::DropIngress
                            | EventKind::DropEgress
                            | EventKind::DropLink
                            | EventKind::Loss
                            | EventKind::Duplicate
                            | EventKind::Reorder,
                            _,
                        ) => {}
                    }
                }
            }
        }
    }
}
