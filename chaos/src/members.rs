//! Nodes of which only the membership runs.
//!
//! The membership, its files, the lane that writes them and the transport are production's; the loop
//! around them is this module's, and does nothing else. A whole node turns fifty times a second, for its
//! Raft groups and its store. This one moves when something is due, so that a cluster of thirty can be
//! struck in a thousand seeds in the time that fifty take with whole nodes.
//!
//! Every view that any process installs is held against all others at once ([`Register`]): one hash
//! a number, none skipped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use synod::clock::Clock;
use synod::config::Settings;
use synod::formation::{Founder, Founding};
use synod::identity::{Identity, begin_boot, load_founding, save_founding};
use synod::membership::files::Files;
use synod::membership::writer::{Work, Writer};
use synod::membership::{self, Beginning, DISK_STALLED_US, Membership};
use synod::node::{DiskWork, Environment, NodeError};
use synod::transport::{Class, Inbound, Kind, Limits, Transport};
use synod_membership::codec::Decode;
use synod_membership::durable::Recovered;
use synod_membership::effect::{Effect, Effects, Halt};
use synod_membership::event::Event;
use synod_membership::id::{ConfigHash, Destination, NodeId};
use synod_membership::message::Message;
use synod_membership::status::Phase;
use synod_membership::time::Time;
use synod_membership::view::ViewChange;
use synod_storage::Lane;
use synod_storage::disk::Disk;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::world::{SimClock, world_us};

/// Frames that wait for the loop.
const INBOX_FRAMES_MAX: usize = 4096;
/// The shortest sleep: what the simulator's timers can do.
const SLEEP_MIN: Duration = Duration::from_millis(1);
/// The longest: a clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The first members of a cluster, and what they call themselves.
#[derive(Clone)]
pub struct Cluster {
    /// The record that all directories get.
    pub founding: Founding,
    /// Whom to ask to join.
    pub seeds: Vec<SocketAddr>,
}

impl Cluster {
    /// A cluster of these founders: where they listen, and their directories' names and first nonces.
    pub fn new(cluster: u128, founders: Vec<(SocketAddr, u128, u64)>, settings: &Settings) -> Self {
        let seeds = founders.iter().map(|(peer, _, _)| *peer).collect();
        let founders = founders.into_iter().map(|(peer, node, nonce)| Founder {
            node,
            boot: (1, nonce, 0),
            peer,
            client: peer,
            labels: BTreeMap::new(),
        });
        let founding = Founding::plan(cluster, founders.collect(), settings.cluster.clone());
        Self { founding, seeds }
    }
}

/// What a process last showed.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its directory's name.
    pub node: NodeId,
    /// What it does.
    pub phase: Phase,
    /// Whether it lets clients be served.
    pub serving: bool,
    /// Its view's number.
    pub seq: u64,
    /// Its view's hash.
    pub hash: Option<ConfigHash>,
    /// How many members its view has.
    pub members: usize,
}

/// A member that a view took out without putting it back.
#[derive(Clone, Copy, Debug)]
pub struct Removed {
    /// When the first process installed that view, in the world's time.
    pub at_us: u64,
    /// Which view.
    pub seq: u64,
    /// Whom.
    pub node: NodeId,
}

/// What all processes of a world have shown. Clones share it.
#[derive(Clone, Default)]
pub struct Register(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    standings: BTreeMap<u16, Standing>,
    names: BTreeMap<NodeId, u16>,
    views: BTreeMap<u64, (ConfigHash, u16)>,
    removed: Vec<Removed>,
    violation: Option<String>,
}

impl Register {
    /// What the machine's process last showed; `None` while none has said anything.
    pub fn standing(&self, machine: u16) -> Option<Standing> {
        self.lock().standings.get(&machine).cloned()
    }

    /// Which machine a node lives on.
    pub fn machine_of(&self, node: NodeId) -> Option<u16> {
        self.lock().names.get(&node).copied()
    }

    /// All removals so far.
    pub fn removed(&self) -> Vec<Removed> {
        self.lock().removed.clone()
    }

    /// How many different views there were.
    pub fn views(&self) -> usize {
        self.lock().views.len()
    }

    /// What contradicts the agreement, if something does.
    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    fn begin(&self, machine: u16, node: NodeId) {
        let mut shown = self.lock();
        shown.names.insert(node, machine);
        shown.standings.remove(&machine);
    }

    fn show(&self, machine: u16, membership: &Membership) {
        let Some(status) = membership.status() else {
            return;
        };
        let standing = Standing {
            node: status.node,
            phase: status.phase,
            serving: status.serving,
            seq: status.seq,
            hash: status.hash,
            members: status.members.len(),
        };
        self.lock().standings.insert(machine, standing);
    }

    /// A process installed a view after the one numbered `last`, or as the first of its sequence.
    fn install(&self, machine: u16, last: Option<u64>, change: &ViewChange) {
        let configuration = &change.configuration;
        let (seq, hash) = (configuration.seq(), configuration.hash());
        let mut shown = self.lock();
        let known = shown.views.get(&seq).copied();
        let (first, of) = *shown.views.entry(seq).or_insert((hash, machine));
        let problem = if first != hash {
            Some(format!("{hash} as view {seq}, machine {of} {first}"))
        } else {
            last.filter(|last| last + 1 != seq)
                .map(|last| format!("view {seq} right after view {last}"))
        };
        if let Some(problem) = problem {
            let words = format!("machine {machine} installed {problem}");
            shown.violation.get_or_insert(words);
        }
        if known.is_none() {
            let at_us = world_us();
            let gone = change.left.iter().map(|removal| Removed {
                at_us,
                seq,
                node: removal.node,
            });
            shown.removed.extend(gone);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One life of such a process; ends only when it must.
pub async fn serve(
    machine: u16,
    environment: Environment,
    clock: SimClock,
    settings: &Settings,
    (cluster, register): (&Cluster, &Register),
) -> Result<(), NodeError> {
    let Environment {
        disk,
        entropy,
        disk_work: DiskWork::Tasks(step_time),
        faults,
        ..
    } = environment;
    let peer = settings.process.peer;
    let listener = TcpListener::bind(peer)
        .await
        .map_err(|error| NodeError::Listen {
            whom: "peers",
            address: peer,
            error,
        })?;
    let identity = begin_boot(&disk, (entropy.node, entropy.nonce))?;
    let (files, recovered) = open(&disk, identity, &cluster.founding)?;
    register.begin(machine, identity.node);

    let (inbox, mut inbound) = mpsc::channel(INBOX_FRAMES_MAX);
    let local = membership::introduction(Some(&cluster.founding), identity, peer);
    let transport = Transport::new(local, inbox, Limits::default(), entropy.seed, faults);
    let accepting = tokio::spawn(transport.clone().serve(listener));
    let wake = Arc::new(Notify::new());
    let pause = Arc::new(move || step_time(Lane::Log));
    let writer = Writer::start(files, disk, Work::Task(pause), wake.clone())
        .map_err(|error| NodeError::Broken(error.to_string()))?;
    let mut effects = Effects::new();
    let beginning = Beginning {
        founding: &cluster.founding,
        identity,
        peer,
        client: settings.process.client,
        labels: &settings.process.labels,
        join: &cluster.seeds,
        recovered,
        seed: entropy.membership,
    };
    let mut process = Process {
        machine,
        me: identity.node,
        membership: Membership::start(now(&clock), beginning, &mut effects),
        clock,
        writer,
        transport,
        register: register.clone(),
        last: None,
        disk_stalled: false,
        effects,
    };
    let outcome = process.run(&mut inbound, &wake).await;
    accepting.abort();
    outcome
}

/// What the directory holds; an empty one gets the founding record, and a founder's the first view.
fn open(
    disk: &Arc<dyn Disk>,
    identity: Identity,
    founding: &Founding,
) -> Result<(Files, Recovered), NodeError> {
    let (mut files, mut recovered) = Files::open(disk, identity)?;
    if load_founding(disk)?.is_none() {
        if let Some(first) = membership::founded(founding, identity.node) {
            files.found(disk, &first)?;
            recovered.base = first.base;
        }
        save_founding(disk, founding)?;
    }
    Ok((files, recovered))
}

fn now(clock: &SimClock) -> Time {
    Time(clock.monotonic_us())
}

struct Process {
    machine: u16,
    me: NodeId,
    clock: SimClock,
    membership: Membership,
    writer: Writer,
    transport: Transport,
    register: Register,
    /// The view installed last in the sequence that goes on.
    last: Option<u64>,
    disk_stalled: bool,
    effects: Effects,
}

impl Process {
    async fn run(
        &mut self,
        inbound: &mut mpsc::Receiver<Inbound>,
        wake: &Notify,
    ) -> Result<(), NodeError> {
        self.carry_out()?;
        loop {
            let due = self.membership.next_deadline();
            let sleep = due.map_or(SLEEP_MAX, |at| self.clock.until_us(at.0));
            tokio::select! {
                biased;
                received = inbound.recv() => {
                    if let Some(received) = received {
                        self.receive(received)?;
                    }
                }
                () = wake.notified() => {}
                () = tokio::time::sleep(sleep.clamp(SLEEP_MIN, SLEEP_MAX)) => {}
            }
            while let Ok(received) = inbound.try_recv() {
                self.receive(received)?;
            }
            for (token, outcome) in self.writer.finished() {
                self.step(match outcome {
                    Ok(()) => Event::Persisted(token),
                    Err(_) => Event::PersistFailed(token),
                });
            }
            self.look_at_time();
            self.carry_out()?;
        }
    }

    fn look_at_time(&mut self) {
        let now = now(&self.clock);
        if self.membership.is_due(now) {
            self.step(Event::Tick);
        }
        let waiting = self.writer.waiting_since_us();
        let stalled = waiting.is_some_and(|since| now.0 > since + DISK_STALLED_US);
        if stalled != self.disk_stalled {
            self.disk_stalled = stalled;
            self.step(Event::DiskStalled(stalled));
        }
    }

    fn step(&mut self, event: Event) {
        let now = now(&self.clock);
        self.membership.step(now, event, &mut self.effects);
    }

    fn receive(&mut self, inbound: Inbound) -> Result<(), NodeError> {
        match inbound {
            Inbound::Frame { peer, kind, body } => {
                if kind != Kind::Membership {
                    return Err(NodeError::Broken(format!("a frame of kind {kind:?} came")));
                }
                let message = Message::from_bytes(&body)
                    .map_err(|error| NodeError::Broken(error.to_string()))?;
                let from = peer;
                self.step(Event::Message { from, message });
            }
            Inbound::Lost {
                destination,
                class,
                cause,
                ..
            } => {
                self.transport.resume(destination, class);
                let (to, contact) = (destination, membership::contact(&cause));
                self.step(Event::ContactFailed { to, contact });
            }
            Inbound::Reached { .. } | Inbound::TurnedAway { .. } | Inbound::Closed { .. } => {}
        }
        Ok(())
    }

    fn carry_out(&mut self) -> Result<(), NodeError> {
        if self.effects.is_empty() {
            return Ok(());
        }
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Identity(identity) => self.transport.introduce(identity),
                Effect::Send { to, message } => self.send(to, &message),
                Effect::SendMany { to, message } => {
                    let others = to.iter().filter(|to| to.node != Some(self.me));
                    others.for_each(|to| self.send(*to, &message));
                }
                Effect::Persist { token, record } => {
                    let now = now(&self.clock);
                    self.writer.submit(now.0, token, record)?;
                }
                Effect::Install(change) => {
                    self.register.install(self.machine, self.last, &change);
                    self.last = Some(change.configuration.seq());
                }
                Effect::Removed(_) => self.last = None,
                Effect::Suspend(_) | Effect::Resume => {}
                Effect::Left(_) => return Err(NodeError::Broken("it left".to_owned())),
                Effect::Alarm(alarm) => {
                    return Err(NodeError::Broken(format!("an alarm: {alarm:?}")));
                }
                Effect::Halt(Halt::PersistFailed) => return Err(NodeError::Unsaved),
                Effect::Halt(halt) => return Err(NodeError::Broken(format!("{halt:?}"))),
            }
        }
        self.register.show(self.machine, &self.membership);
        Ok(())
    }

    fn send(&self, to: Destination, message: &Message) {
        let frame = membership::frame(message).expect("what a node says fits into a frame");
        // Whatever finds no room is repeated by the protocol.
        let _ = self.transport.send(to, Class::Control, frame);
    }
}
