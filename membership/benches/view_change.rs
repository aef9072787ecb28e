//! What a view change costs a node of a cluster of 2,000: at most 10 ms of processor time.
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
use synod_membership::id::{Boot, ClusterId, NodeId};
use synod_membership::member::Member;
use synod_membership::rng::{Rng, Seed};
use synod_membership::view::{Certificate, Rank, View};

const NODES: usize = 2_000;
const CRASHED: usize = 10;

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

/// The decision that ten members are gone, certified by all others.
fn decision(before: &SharedConfiguration) -> View {
    let step = NODES / CRASHED;
    let gone: Vec<usize> = (0..NODES).step_by(step).collect();
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

criterion_group!(benches, view_change);
criterion_main!(benches);
