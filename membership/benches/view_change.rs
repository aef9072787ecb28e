//! What a view change costs a node of a cluster of 2,000: at most 10 ms of processor time.
//!
//! The whole of it: ten members crash, and a node takes what their hundred observers report, proposes and votes, merges
//! the votes that others pass on, decides, proves the view, applies it and takes up its new subjects. And the part
//! of it that grows with the cluster: proving and applying the view, and building the overlay over it.
//!
//! Nothing is shared between runs: each iteration starts from an empty catalog, as a server does.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use synod_membership::bitmap::Bitmap;
use synod_membership::catalog::Catalog;
use synod_membership::configuration::{Configuration, Mode, Overlay, SharedConfiguration};
use synod_membership::cut::{Cut, Departure, Removal};
use synod_membership::durable::{self, Recovered};
use synod_membership::effect::{Effect, Effects};
use synod_membership::event::{BootChoice, Event, Start};
use synod_membership::id::{Boot, ClusterId, CutHash, Identity, NodeId};
use synod_membership::member::Member;
use synod_membership::message::{Alert, AlertBatch, FastVotes, Message, Report, Subject, Tally};
use synod_membership::node::Node;
use synod_membership::rng::{Rng, Seed};
use synod_membership::settings::Settings;
use synod_membership::time::Time;
use synod_membership::view::{Certificate, Rank, View};

const NODES: usize = 2_000;
const CRASHED: usize = 10;
/// Messages with merged votes that a node takes before it can decide: a few at each of some rounds of gossip.
const VOTE_MESSAGES: usize = 64;
/// The place of the node that is measured; no place of a crashed member.
const ME: usize = 1;

fn members(rng: &mut Rng) -> Vec<Member> {
    let mut members: Vec<Member> = (0..NODES as u32)
        .map(|number| Member {
            node: NodeId(rng.next_u128()),
            boot: Boot::first(rng.next_u64()),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)), 7_000),
            labels: Arc::default(),
        })
        .collect();
    members.sort_unstable_by_key(|member| member.node);
    members
}

/// A configuration of 2,000 voters.
fn configuration() -> SharedConfiguration {
    let mut members = members(&mut Rng::new(Seed::from(1)));
    let others = members.split_off(1);
    let promote = others.iter().map(|member| member.node).collect();
    let genesis = Configuration::genesis(
        ClusterId(1),
        Mode::default(),
        Overlay::default(),
        members.remove(0),
    );
    let joined = genesis
        .successor(&Cut {
            add: others,
            ..Cut::default()
        })
        .expect("a valid cut");
    let voting = joined
        .successor(&Cut {
            promote,
            ..Cut::default()
        })
        .expect("a valid cut");
    Arc::new(voting)
}

/// The places of those that crash.
fn crashed() -> Vec<usize> {
    (0..NODES).step_by(NODES / CRASHED).collect()
}

/// The decision that ten members are gone, certified by all others.
fn decision(before: &SharedConfiguration) -> View {
    let gone = crashed();
    let removal = |place: &usize| Removal {
        node: before.members()[*place].node,
        departure: Departure::Failed,
    };
    let cut = Cut {
        remove: gone.iter().map(removal).collect(),
        ..Cut::default()
    };
    let mut voters = Bitmap::empty(NODES);
    for place in (0..NODES).filter(|place| !gone.contains(place)) {
        voters.insert(place);
    }
    let after = before.successor(&cut).expect("a valid cut");
    let certificate = Certificate {
        config: before.hash(),
        rank: Rank::FAST,
        voters,
    };
    View {
        seq: after.seq(),
        hash: after.hash(),
        cut: Arc::new(cut),
        certificate,
    }
}

fn view_change(criterion: &mut Criterion) {
    let before = configuration();
    let view = decision(&before);
    let mut group = criterion.benchmark_group("view change, 2000 nodes");
    group.sample_size(20);
    group.bench_function("verify, apply, build the overlay", |bencher| {
        bencher.iter_batched(
            Catalog::new,
            |catalog| {
                let after = view.verify(&before, &catalog).expect("a valid view");
                black_box(after.topology().subjects(0).len());
                after
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A cluster that stands, and what one of its nodes is told when ten others crash.
struct Standing {
    configuration: SharedConfiguration,
    directory: Recovered,
    alerts: Vec<(Identity, Message)>,
}

impl Standing {
    fn new() -> Standing {
        let members = members(&mut Rng::new(Seed::from(1)));
        let (mode, overlay) = (Mode::default(), Overlay::default());
        let directories = durable::found(ClusterId(1), mode, overlay, members);
        let directory = directories[ME].1.clone();
        let base = directory.base.as_ref().expect("a founder has a base");
        let configuration = base.configuration.clone();
        let gone = crashed();
        let observers = (0..NODES).filter(|place| !gone.contains(place));
        let alerts = observers
            .filter_map(|place| alert(&configuration, place, &gone))
            .collect();
        Standing {
            configuration,
            directory,
            alerts,
        }
    }

    /// The node, a member.
    fn node(&self) -> (Node, Effects) {
        let address = self.configuration.members()[ME].address;
        let settings = Arc::new(Settings::new(address));
        let mut node = Node::new(settings, Seed::from(7), Catalog::new());
        let start = Start {
            recovered: self.directory.clone(),
            join: Vec::new(),
            boot: BootChoice::Registered,
        };
        let mut out = Vec::new();
        step(
            &mut node,
            Time::from_ms(1),
            Event::Start(Box::new(start)),
            &mut out,
        );
        assert!(node.serves(), "a founder is a member");
        (node, out)
    }

    /// From the first alert to the view's installation.
    fn change(&self, node: &mut Node, out: &mut Effects) {
        let mut now = Time::from_ms(2);
        out.clear();
        for (from, message) in &self.alerts {
            let (from, message) = (*from, message.clone());
            step(node, now, Event::Message { from, message }, out);
        }
        let cut = loop {
            if let Some(cut) = out.iter().find_map(vote) {
                break cut;
            }
            now = node.next_deadline().expect("a proposal is due");
            step(node, now, Event::Tick, out);
        };
        for message in 1..=VOTE_MESSAGES {
            let mut voters = Bitmap::empty(NODES);
            let known = NODES * message / VOTE_MESSAGES;
            let gone = crashed();
            for place in (0..known).filter(|place| !gone.contains(place)) {
                voters.insert(place);
            }
            let votes = FastVotes {
                config: self.configuration.hash(),
                tallies: vec![Tally { cut, voters }],
            };
            let from = identity(&self.configuration.members()[ME + message]);
            let message = Message::FastVotes(Arc::new(votes));
            step(node, now, Event::Message { from, message }, out);
        }
        let members = node.view().map(|view| view.members().len());
        assert_eq!(members, Some(NODES - CRASHED), "the view is installed");
    }
}

/// One event, and the confirmation of all writes that it leads to.
fn step(node: &mut Node, now: Time, event: Event, out: &mut Effects) {
    let mut seen = out.len();
    node.step(now, event, out);
    while seen < out.len() {
        if let Effect::Persist { token, .. } = out[seen] {
            node.step(now, Event::Persisted(token), out);
        }
        seen += 1;
    }
}

fn vote(effect: &Effect) -> Option<CutHash> {
    let (Effect::Send { message, .. } | Effect::SendMany { message, .. }) = effect else {
        return None;
    };
    let Message::FastVotes(votes) = message else {
        return None;
    };
    votes.tallies.first().map(|tally| tally.cut)
}

fn identity(member: &Member) -> Identity {
    Identity {
        cluster: Some(ClusterId(1)),
        node: member.node,
        boot: member.boot,
        address: member.address,
    }
}

/// What an observer reports of those that crashed; `None` if it observes none of them.
fn alert(
    configuration: &SharedConfiguration,
    place: usize,
    gone: &[usize],
) -> Option<(Identity, Message)> {
    let subjects = configuration.topology().subjects(place as u32).iter();
    let alerts: Vec<Alert> = subjects
        .filter(|(subject, _)| gone.contains(&(*subject as usize)))
        .map(|(subject, ring)| Alert {
            observer: place as u32,
            ring: *ring,
            subject: Subject::Member(*subject),
            refresh: 1,
            report: Report::Down,
        })
        .collect();
    let batch = AlertBatch {
        config: configuration.hash(),
        alerts,
    };
    (!batch.alerts.is_empty()).then(|| {
        let from = identity(&configuration.members()[place]);
        (from, Message::Alerts(Arc::new(batch)))
    })
}

fn node(criterion: &mut Criterion) {
    let standing = Standing::new();
    let mut group = criterion.benchmark_group("view change, 2000 nodes");
    group.sample_size(20);
    group.bench_function("a node, from the alerts to the installed view", |bencher| {
        bencher.iter_batched(
            || standing.node(),
            |(mut node, mut out)| {
                standing.change(&mut node, &mut out);
                (node, out)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, view_change, node);
criterion_main!(benches);
