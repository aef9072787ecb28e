//! Agreed membership in a running node: the core of [`synod_membership`], and what it stands on.
//!
//! The core decides who belongs to the cluster; here are its disk ([`files`], [`writer`]) and the
//! stream of views that the rest of the node consumes ([`views`]). The loop ([`crate::node`]) steps it
//! like every other core: frames of kind `Membership` go in, and what it wants sent, written or told
//! comes out. Nothing is told before it is durable: each [`Effect::Persist`] goes to a lane of its own,
//! in order, and comes back as [`Event::Persisted`] after its sync. The lane is its own so that a vote
//! waits for two small syncs, and never for a checkpoint.
//!
//! Where a cluster begins is [`crate::formation`]'s business: it agrees on the founders once, and their
//! first configuration follows from the founding record alone. Every later change is a view.
//!
//! What a view means to the data plane is little, and on purpose: it says where nodes are and whom
//! clients may ask. Raft's own configurations alone say who votes on data, so a node that is removed
//! while it lives stops serving clients, and its replicas go on voting until a configuration change
//! of their shard removes them.

pub mod files;
pub mod lineage;
pub mod views;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use synod_membership::catalog::Catalog;
use synod_membership::codec::Encode;
use synod_membership::configuration::{Mode, Overlay, SharedConfiguration};
use synod_membership::durable::{self, Recovered, Registration};
use synod_membership::effect::{Alarm, Effects, Suspended};
use synod_membership::event::{BootChoice, Contact, Event, Start};
use synod_membership::id::{Boot, ClusterId, Identity, NodeId};
use synod_membership::member::{Labels, Member};
use synod_membership::message::Message;
use synod_membership::node::Node;
use synod_membership::rng::Seed;
use synod_membership::settings::Settings;
use synod_membership::status::{Phase, Reachability, Status};
use synod_membership::time::Time;

pub use self::views::{Cursor, Next, Views};
use crate::formation::{Founder, Founding};
use crate::transport::{self, Cause, Frame, FrameError, Kind, Refusal};

/// The label under which a member's client address travels. Labels that begin with `synod/` are the
/// node's own.
pub const CLIENT_LABEL: &str = "synod/client";

/// A disk that has not finished a write for so long is called stalled: peers are told.
pub const DISK_STALLED_US: u64 = 1_000_000;

/// How long a starting node lets its first clients wait for the answer to whether it serves.
const SETTLE_US: u64 = 2_000_000;
/// Alarms that the status shows; later ones are in the log only.
const ALARMS_MAX: usize = 16;

/// The membership of one node, as its loop drives it.
pub struct Membership {
    core: Node,
    views: Views,
    started: Time,
    alarms: Vec<Alarm>,
    /// Whom it asks to join, while it is no member.
    seeds: Vec<SocketAddr>,
}

/// What a node's membership begins with.
pub struct Beginning<'a> {
    /// The cluster's founding record.
    pub founding: &'a Founding,
    /// The directory's name and this run.
    pub identity: crate::identity::Identity,
    /// Where peers reach this node.
    pub peer: SocketAddr,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The addresses it was told to join.
    pub join: &'a [SocketAddr],
    /// What its directory holds.
    pub recovered: Recovered,
    /// Seeds nonces and jitter.
    pub seed: [u64; 4],
}

impl Membership {
    /// A membership that goes on where the directory ends; carry out `out` before anything else.
    pub fn start(now: Time, beginning: Beginning<'_>, out: &mut Effects) -> Self {
        let Beginning {
            founding,
            identity,
            peer,
            client,
            labels,
            join,
            mut recovered,
            seed,
        } = beginning;
        let settings = Settings {
            labels: labels_with_client(labels, client),
            ..Settings::new(peer)
        };
        let founders = founding.members.iter().map(|founder| founder.peer);
        let known: BTreeSet<SocketAddr> = join.iter().copied().chain(founders).collect();
        let seeds: Vec<SocketAddr> = known.into_iter().filter(|seed| *seed != peer).collect();
        recovered.registration = Some(Registration {
            cluster: Some(ClusterId(founding.cluster)),
            node: identity.node,
            boot: identity.boot,
        });
        let mut core = Node::new(Arc::new(settings), Seed(seed), Catalog::new());
        let start = Start {
            recovered,
            join: seeds.clone(),
            // The identity file has been raised and synced before this.
            boot: BootChoice::Registered,
        };
        core.step(now, Event::Start(Box::new(start)), out);
        Self {
            core,
            views: Views::default(),
            started: now,
            alarms: Vec::new(),
            seeds,
        }
    }

    /// Takes one event.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Effects) {
        self.core.step(now, event, out);
    }

    /// When the core wants a tick; `None` while only other events can move it.
    pub fn next_deadline(&self) -> Option<Time> {
        self.core.next_deadline()
    }

    /// Whether the core waits for a tick that is due.
    pub fn is_due(&self, now: Time) -> bool {
        self.next_deadline().is_some_and(|at| at <= now)
    }

    /// The views that were installed here.
    pub fn views(&self) -> &Views {
        &self.views
    }

    pub(crate) fn views_mut(&mut self) -> &mut Views {
        &mut self.views
    }

    /// The configuration in force; `None` before the first.
    pub fn view(&self) -> Option<&SharedConfiguration> {
        self.core.view()
    }

    /// The core's own account.
    pub fn status(&self) -> Option<Status> {
        self.core.status()
    }

    /// Whether clients may be served here.
    pub fn serving(&self) -> bool {
        self.core.serves()
    }

    /// Whether this node was removed from the membership while it was alive.
    pub fn is_removed(&self) -> bool {
        self.core.phase() == Phase::Removed
    }

    /// Whether the membership has let this node go, as it was asked to.
    pub fn has_left(&self) -> bool {
        self.core.phase() == Phase::Left
    }

    /// Whether a node answers this one's probes: another question than whether it is a member.
    pub fn reachable(&self, node: NodeId) -> Reachability {
        self.core.reachable(node)
    }

    /// Whether it is too early to tell clients that nothing is served here.
    pub fn is_settling(&self, now: Time) -> bool {
        now < self.started + std::time::Duration::from_micros(SETTLE_US) && !self.serving()
    }

    pub(crate) fn note_alarm(&mut self, alarm: Alarm) {
        if self.alarms.len() < ALARMS_MAX {
            self.alarms.push(alarm);
        }
    }

    /// What was found that should not be.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Why clients are not served here, in words; `None` if they are.
    pub fn why_closed(&self) -> Option<String> {
        if self.core.serves() {
            return None;
        }
        let status = self.core.status()?;
        let seeds = || list(self.seeds.iter());
        Some(match status.phase {
            Phase::Starting => "this node is starting".to_owned(),
            Phase::Joining => format!("this node is not a member yet: it asks {} to join", seeds()),
            Phase::Restarting if status.voters_needed == 0 => format!(
                "this node has restarted, and view {} does not list its new boot yet",
                status.seq
            ),
            Phase::Member | Phase::Leaving if status.suspended == Some(Suspended::LeftOut) => {
                "the last view, on its way to the disk, does not list this node any more".to_owned()
            }
            Phase::Restarting | Phase::Member | Phase::Leaving => self.no_majority(&status),
            Phase::Removed => format!(
                "this node was removed from the membership at view {} while it was alive; it asks \
                 to come back by itself, when its links have been clean for a while",
                status.seq
            ),
            Phase::Left => "this node has left the cluster".to_owned(),
            Phase::Halted => "this node has halted".to_owned(),
        })
    }

    /// Who is missing for a majority, and how many of them are needed.
    pub fn no_majority(&self, status: &Status) -> String {
        let view = self.core.view();
        let address = |node: &NodeId| {
            view.and_then(|view| view.slot(*node))
                .map(|slot| slot.address)
        };
        let missing: Vec<SocketAddr> = status.missing_voters.iter().filter_map(address).collect();
        format!(
            "no majority: view {} has {} voters, {} of them cannot be heard from here ({}), and {} \
             of these must come back",
            status.seq,
            status.voters.len(),
            missing.len(),
            list(missing.iter()),
            status.voters_needed.max(1)
        )
    }
}

/// A message as a frame.
pub fn frame(message: &Message) -> Result<Frame, FrameError> {
    let mut frame = transport::begin();
    frame.extend_from_slice(&message.to_bytes());
    transport::seal(Kind::Membership, frame)
}

/// What the end of a connection, or a failure to make one, says about the node that was wanted there.
pub fn contact(cause: &Cause) -> Contact {
    match cause {
        Cause::Gone => Contact::Refused,
        Cause::Silent => Contact::Unreachable,
        Cause::RefusedThere(refusal) | Cause::RefusedHere(refusal) => match refusal {
            Refusal::OtherNode { found, .. } => Contact::Stranger {
                node: Some(*found),
                cluster: None,
            },
            Refusal::OtherCluster { called, .. } => Contact::Stranger {
                node: None,
                cluster: Some(*called),
            },
            // The node is there, and has a quarrel with this boot or with a former one; or something is
            // that speaks another language.
            Refusal::StaleBoot { .. }
            | Refusal::ClonedDirectory { .. }
            | Refusal::OtherVersion { .. } => Contact::Unreachable,
        },
    }
}

/// The first configuration of a founded cluster, as this founder's directory is to hold it. `None` if
/// the node is no founder.
pub fn founded(founding: &Founding, node: NodeId) -> Option<Recovered> {
    let members = founding.members.iter().map(founder).collect();
    let (mode, overlay) = (Mode::default(), Overlay::default());
    durable::found(ClusterId(founding.cluster), mode, overlay, members)
        .into_iter()
        .find(|(founder, _)| *founder == node)
        .map(|(_, directory)| directory)
}

/// A founder, as the first configuration lists it.
fn founder(founder: &Founder) -> Member {
    let (counter, nonce, previous) = founder.boot;
    Member {
        node: NodeId(founder.node),
        boot: Boot {
            counter,
            nonce,
            previous,
        },
        address: founder.peer,
        labels: Arc::new(labels_with_client(&founder.labels, founder.client)),
    }
}

fn labels_with_client(labels: &BTreeMap<String, String>, client: SocketAddr) -> Labels {
    let mut labels = labels.clone();
    labels.insert(CLIENT_LABEL.to_owned(), client.to_string());
    labels
}

/// Where clients reach a member, if it says so.
pub fn client_address(member: &Member) -> Option<SocketAddr> {
    member.labels.get(CLIENT_LABEL)?.parse().ok()
}

/// A member's labels without those that are the node's own.
pub fn user_labels(member: &Member) -> BTreeMap<String, String> {
    let own = |key: &String| key.starts_with("synod/");
    let labels = member.labels.iter().filter(|(key, _)| !own(key));
    labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Who this node is to its peers before its membership says so itself.
pub fn introduction(
    founding: Option<&Founding>,
    identity: crate::identity::Identity,
    address: SocketAddr,
) -> Identity {
    Identity {
        cluster: founding.map(|founding| ClusterId(founding.cluster)),
        node: identity.node,
        boot: identity.boot,
        address,
    }
}

fn list<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> String {
    let texts: Vec<String> = addresses.map(ToString::to_string).collect();
    texts.join(", ")
}
