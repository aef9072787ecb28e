//! The node: one state machine over all of the protocol.
//!
//! It is given events and the time, and yields effects; it owns no thread, no clock, no socket and no file. Its parts
//! are state machines themselves: [`Monitor`] watches the subjects, [`CutDetector`] gathers what observers report,
//! [`Consensus`] decides the successor, [`Chain`] keeps what was decided. This module and its children join them:
//!
//! * `start`: first boot, restart, forming a cluster;
//! * `join`: a joiner's side of getting in; `admission`: an observer's side of letting others in;
//! * `observe`: probes, answers, alerts;
//! * `decide`: from alerts to a proposal to a decision;
//! * `install`: putting decided views in force, catching up, being removed, leaving;
//! * `contact`: whether a majority can be heard, and what that means for serving.
//!
//! What a step changes is made durable before anybody hears of it: see [`Awaited`].

mod admission;
mod contact;
mod decide;
mod install;
mod join;
mod observe;
mod start;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::chain::Chain;
use crate::configuration::{Mode, SharedConfiguration};
use crate::consensus::Consensus;
use crate::cut_detector::CutDetector;
use crate::durable::{AcceptorState, Record, Registration};
use crate::effect::{Alarm, Effect, Effects, Halt, Suspended};
use crate::event::{Contact, Event};
use crate::id::{Boot, ConfigHash, Destination, Identity, NodeId, Token};
use crate::member::{Labels, Member};
use crate::message::{Alert, Message, Position, Snapshot};
use crate::monitor::Monitor;
use crate::rng::{Rng, Seed};
use crate::settings::Settings;
use crate::status::{Phase, Reachability, Status};
use crate::time::{Time, earliest};
use crate::view::View;

use admission::{Parked, Restarts};
use contact::Contacts;
use install::{Departing, Notice};
use join::{Joining, Rejoining};

/// What happens once a write is durable.
#[derive(Clone, Debug)]
enum Awaited {
    /// The boot may introduce itself.
    Boot,
    /// The acceptor's state of a configuration: replies that speak of it may go.
    Acceptor { config: ConfigHash, writes: u64 },
    /// The view may be installed and announced.
    View(Arc<View>),
    /// The chain may start with this configuration.
    Base(Arc<Snapshot>),
    /// Nothing.
    Nothing,
}

/// A member, or one that wants to be.
///
/// Invariants: nothing is sent before the boot is durable; `chain` holds only durable views, and `ahead` those on their
/// way to the platter after them; `consensus` and `detector`, where present, are those of `chain`'s configuration; a
/// halted or departed node does nothing.
pub struct Node {
    settings: Arc<Settings>,
    labels: Arc<Labels>,
    catalog: Catalog,
    rng: Rng,
    now: Time,
    phase: Phase,
    registration: Option<Registration>,
    /// True once the boot is durable.
    introduced: bool,
    seeds: Vec<SocketAddr>,
    next_token: u64,
    awaited: VecDeque<(Token, Awaited)>,
    acceptor: Option<Arc<AcceptorState>>,
    /// The acceptor's writes that a power cut cannot undo: what peers may be told, who take fewer for a rollback.
    durable_writes: u64,
    chain: Option<Chain>,
    /// The configuration that the views on their way to the platter lead to.
    ahead: Option<SharedConfiguration>,
    monitor: Monitor,
    detector: Option<CutDetector>,
    consensus: Option<Consensus>,
    alerts_at: Option<Time>,
    alert_number: u64,
    relay: Vec<(Alert, u8)>,
    parked: BTreeMap<NodeId, Parked>,
    restarts: Restarts,
    joining: Option<Joining>,
    rejoining: Option<Rejoining>,
    rejoin_wait: std::time::Duration,
    member_since: Time,
    contacts: Contacts,
    pulled: Option<Time>,
    /// Since when peers have been saying that their logs begin after this one ends.
    truncated_since: Option<Time>,
    notices: Vec<Notice>,
    leaving_at: Option<Time>,
    departing: Option<Departing>,
    restart_at: Option<Time>,
    wanted_mode: Option<Mode>,
    disk_stalled: bool,
    suspended: Option<Suspended>,
    quarantined: BTreeMap<NodeId, Boot>,
    alarmed: BTreeSet<NodeId>,
    deadline: Option<Time>,
}

/// So many nodes are remembered as having caused an alarm: beyond them, alarms may repeat.
const ALARMED_MAX: usize = 64;

impl Node {
    /// A node that has not started: give it [`Event::Start`] first.
    pub fn new(settings: Arc<Settings>, seed: Seed, catalog: Catalog) -> Node {
        let timing = settings.timing;
        Node {
            labels: Arc::new(settings.labels.clone()),
            monitor: Monitor::new(settings.detector, timing),
            contacts: Contacts::default(),
            rejoin_wait: timing.rejoin,
            settings,
            catalog,
            rng: Rng::new(seed),
            now: Time::ZERO,
            phase: Phase::Starting,
            registration: None,
            introduced: false,
            seeds: Vec::new(),
            next_token: 0,
            awaited: VecDeque::new(),
            acceptor: None,
            durable_writes: 0,
            chain: None,
            ahead: None,
            detector: None,
            consensus: None,
            alerts_at: None,
            alert_number: 0,
            relay: Vec::new(),
            parked: BTreeMap::new(),
            restarts: Restarts::default(),
            joining: None,
            rejoining: None,
            member_since: Time::ZERO,
            pulled: None,
            truncated_since: None,
            notices: Vec::new(),
            leaving_at: None,
            departing: None,
            restart_at: None,
            wanted_mode: None,
            disk_stalled: false,
            suspended: None,
            quarantined: BTreeMap::new(),
            alarmed: BTreeSet::new(),
            deadline: None,
        }
    }

    /// Takes one event at one time, and appends what is to be done about it. Readings of the clock never fall.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Effects) {
        if matches!(self.phase, Phase::Halted | Phase::Left) {
            return;
        }
        self.now = self.now.max(now);
        self.notice_pause();
        match event {
            Event::Start(start) => self.start(*start, out),
            Event::Message { from, message } => {
                if let Message::Probe(probe) = message {
                    // The most frequent message by far: it changes nothing here that a deadline depends on.
                    self.on_probe(&from, probe, out);
                    return;
                }
                self.on_message(from, message, out);
            }
            Event::Tick => self.tick(out),
            Event::Persisted(token) => self.on_persisted(token, out),
            Event::PersistFailed(_) => self.halt(Halt::PersistFailed, out),
            Event::ContactFailed { to, contact } => self.on_contact_failed(to, contact, out),
            Event::DiskStalled(stalled) => self.disk_stalled = stalled,
            Event::Leave => self.leave(out),
            Event::SetMode(mode) => self.wanted_mode = Some(mode),
            Event::Seeds(seeds) => self.set_seeds(seeds),
        }
        self.deadline = self.compute_deadline();
    }

    /// When the node wants a [`Event::Tick`]; `None` while only other events can move it.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// The configuration in force: who is in the view. `None` before the first.
    pub fn view(&self) -> Option<&SharedConfiguration> {
        self.chain.as_ref().map(Chain::tip)
    }

    /// True if the node is a member of the configuration in force.
    pub fn in_view(&self, node: NodeId) -> bool {
        self.view()
            .is_some_and(|view| view.index_of(node).is_some())
    }

    /// Whether the node can be reached from here. In a cluster of more than K + 1, each node knows this of its K
    /// subjects only.
    pub fn reachable(&self, node: NodeId) -> Reachability {
        self.monitor.reachable(node)
    }

    /// What the node says of itself in handshakes; `None` until that is durable.
    pub fn identity(&self) -> Option<Identity> {
        let Registration {
            cluster,
            node,
            boot,
        } = self.registration?;
        let address = self.settings.address;
        self.introduced.then_some(Identity {
            cluster,
            node,
            boot,
            address,
        })
    }

    /// The node's own account; `None` before it has an identity.
    pub fn status(&self) -> Option<Status> {
        let Registration {
            cluster,
            node,
            boot,
        } = self.registration?;
        let view = self.view();
        let missing_voters = self.missing_voters();
        let heard = view.map_or(0, |view| view.voters().len() - missing_voters.len());
        Some(Status {
            node,
            boot,
            cluster,
            phase: self.phase,
            serving: self.serves(),
            suspended: self.suspended,
            seq: view.map_or(0, |view| view.seq()),
            hash: view.map(|view| view.hash()),
            members: view.map_or_else(Vec::new, |view| {
                view.members().iter().map(|member| member.node).collect()
            }),
            voters: view.map_or_else(Vec::new, |view| view.voters().to_vec()),
            missing_voters,
            voters_needed: view.map_or(0, |view| view.majority().saturating_sub(heard)),
            rejoin_in: self.rejoin_in(),
        })
    }

    /// What the node is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// True while clients may be served here.
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Member | Phase::Leaving) && self.suspended.is_none()
    }

    /// A step that comes long after it was asked for means that this process did not run: what it was waiting for may
    /// have come and be queued behind this event.
    fn notice_pause(&mut self) {
        let late = |deadline: Time| self.now > deadline + self.settings.timing.stall_gap;
        if self.deadline.is_some_and(late) {
            self.monitor.void_pending(self.now);
            self.doubt_contacts();
            self.parked
                .values_mut()
                .for_each(|parked| parked.heard = self.now);
        }
    }

    fn on_message(&mut self, from: Identity, message: Message, out: &mut Effects) {
        if !self.admits(&from, out) {
            return;
        }
        if self.is_quarantined(&from) {
            self.on_quarantined(&from, &message, out);
            return;
        }
        match message {
            Message::Probe(probe) => self.on_probe(&from, probe, out),
            Message::ProbeAck(ack) => self.on_ack(&from, ack, out),
            Message::Alerts(batch) => self.on_alerts(&from, &batch, out),
            Message::FastVotes(_)
            | Message::CutRequest(_)
            | Message::CutReply(_)
            | Message::Prepare(_)
            | Message::Promise(_)
            | Message::Accept(_)
            | Message::Accepted(_)
            | Message::Refused(_) => self.on_agreement(&from, &message, out),
            Message::Pull(pull) => self.on_pull(&from, pull.from, out),
            Message::Views(views) => self.on_views(&from, &views, out),
            Message::Snapshot(snapshot) => self.on_snapshot(snapshot, out),
            Message::Truncated(truncated) => self.on_truncated(&from, truncated, out),
            Message::Lookup(_) => self.on_lookup(&from, out),
            Message::LookupReply(reply) => self.on_lookup_reply(&from, &reply, out),
            Message::Join(join) => self.on_join(&from, &join, out),
            Message::Admitted(at) => self.on_admitted(&from, at, out),
            Message::Restarted(restarted) => self.on_restarted(&from, &restarted, out),
            Message::Leaving(at) => self.on_leaving(&from, at, out),
            Message::Installed(installed) => self.on_installed(&from, installed, out),
            Message::Superseded(boot) => self.on_superseded(boot, out),
        }
    }

    /// Whether to listen to a sender at all.
    fn admits(&mut self, from: &Identity, out: &mut Effects) -> bool {
        let Some(me) = self.registration.filter(|_| self.introduced) else {
            return false;
        };
        if from.node == me.node {
            return false;
        }
        if let (Some(mine), Some(theirs)) = (me.cluster, from.cluster)
            && mine != theirs
        {
            self.alarm_once(
                from.node,
                Alarm::ForeignCluster {
                    cluster: theirs,
                    node: from.node,
                },
                out,
            );
            return false;
        }
        let Some(listed) = self.view().and_then(|view| view.member(from.node)) else {
            return true;
        };
        let boot = listed.boot;
        let old = boot.counter > from.boot.counter;
        let twin = boot.counter == from.boot.counter && boot != from.boot;
        if old || twin {
            // A frame of an old process, late; or a copied or rolled-back directory at work, which must learn of it.
            self.send_to(from, Message::Superseded(boot), out);
            if twin {
                self.alarm_once(from.node, Alarm::Impostor(from.node), out);
            }
            return false;
        }
        true
    }

    fn on_superseded(&mut self, boot: Boot, out: &mut Effects) {
        let Some(me) = self.registration else { return };
        let twin = boot.counter == me.boot.counter && boot != me.boot;
        if boot.counter > me.boot.counter || twin {
            self.halt(Halt::Superseded, out);
        }
    }

    fn on_contact_failed(&mut self, to: Destination, contact: Contact, out: &mut Effects) {
        let Some(node) = to.node else { return };
        match contact {
            Contact::Unreachable => {}
            Contact::Refused => self.monitor.on_refused(self.now, node),
            Contact::Stranger {
                node: found,
                cluster: theirs,
            } => {
                let listed = self.view().and_then(|view| view.member(node));
                let same_place = listed.is_some_and(|member| member.address == to.address);
                if same_place && found != Some(node) {
                    self.monitor.on_stranger(node);
                }
                let cluster = self.registration.and_then(|me| me.cluster);
                if let (Some(mine), Some(theirs)) = (cluster, theirs)
                    && mine != theirs
                {
                    let (cluster, node) = (theirs, found.unwrap_or(node));
                    self.alarm_once(node, Alarm::ForeignCluster { cluster, node }, out);
                }
            }
        }
        self.note_alerts();
    }

    fn tick(&mut self, out: &mut Effects) {
        if !self.introduced {
            return;
        }
        self.tick_monitor(out);
        self.tick_parked();
        self.tick_alerts(out);
        self.tick_detector(out);
        self.tick_consensus(out);
        self.tick_joining(out);
        self.tick_rejoining(out);
        self.tick_restart(out);
        self.tick_leaving(out);
        self.tick_notices(out);
        self.tick_contacts(out);
    }

    fn compute_deadline(&self) -> Option<Time> {
        if !self.introduced || matches!(self.phase, Phase::Halted | Phase::Left) {
            return None;
        }
        let parts = [
            self.monitor.deadline(self.now),
            self.alerts_at,
            self.detector.as_ref().and_then(CutDetector::deadline),
            self.consensus.as_ref().and_then(Consensus::deadline),
            self.joining.as_ref().map(|joining| joining.next_at),
            self.rejoining.as_ref().map(|rejoining| rejoining.next_at),
            self.restart_at,
            self.leaving_at,
            self.departing.as_ref().map(|departing| departing.next_at),
            self.notices.iter().map(|notice| notice.next_at).min(),
            self.contacts_deadline(),
        ];
        parts.into_iter().fold(None, earliest)
    }

    fn on_persisted(&mut self, token: Token, out: &mut Effects) {
        while let Some((due, _)) = self.awaited.front()
            && *due <= token
        {
            let Some((_, awaited)) = self.awaited.pop_front() else {
                return;
            };
            match awaited {
                Awaited::Boot => self.on_booted(out),
                Awaited::Acceptor { config, writes } => {
                    self.on_acceptor_durable(config, writes, out)
                }
                Awaited::View(view) => self.on_view_durable(view, out),
                Awaited::Base(snapshot) => self.on_base_durable(snapshot, out),
                Awaited::Nothing => {}
            }
            if self.phase == Phase::Halted {
                return;
            }
        }
    }

    fn persist(&mut self, record: Record, awaited: Awaited, out: &mut Effects) {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.awaited.push_back((token, awaited));
        out.push(Effect::Persist { token, record });
    }

    fn halt(&mut self, why: Halt, out: &mut Effects) {
        self.phase = Phase::Halted;
        self.deadline = None;
        out.push(Effect::Halt(why));
    }

    fn alarm_once(&mut self, about: NodeId, alarm: Alarm, out: &mut Effects) {
        if self.alarmed.len() >= ALARMED_MAX {
            self.alarmed.clear();
        }
        if self.alarmed.insert(about) {
            out.push(Effect::Alarm(alarm));
        }
    }

    /// This node, as a configuration would list it.
    fn as_member(&self) -> Option<Member> {
        let Registration { node, boot, .. } = self.registration?;
        Some(Member {
            node,
            boot,
            address: self.settings.address,
            labels: self.labels.clone(),
        })
    }

    fn me(&self) -> NodeId {
        self.registration
            .map_or(NodeId(0), |registration| registration.node)
    }

    fn position(&self) -> Position {
        self.chain.as_ref().map_or(
            Position {
                seq: 0,
                hash: ConfigHash(0),
            },
            Chain::position,
        )
    }

    fn send_to(&self, peer: &Identity, message: Message, out: &mut Effects) {
        let to = Destination {
            node: Some(peer.node),
            address: peer.address,
        };
        out.push(Effect::Send { to, message });
    }

    /// The members that observe this node.
    fn my_observers(&self) -> Vec<Destination> {
        let Some(view) = self.view() else {
            return Vec::new();
        };
        let Some(index) = view.index_of(self.me()) else {
            return Vec::new();
        };
        let observers = view.topology().observers(index as u32).iter();
        observers
            .map(|observer| view.members()[*observer as usize].destination())
            .collect()
    }
}
