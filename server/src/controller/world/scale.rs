//! From the loss of a node in a large cluster to the complete plan: time in the solver.

use std::time::Instant;

use synod_placement::Change;

use super::*;
use crate::controller::cluster::{Cluster, Node, Shard};
use crate::controller::filter::{Filter, Grace, Standing};
use crate::controller::solver::{Question, Scope};
use crate::controller::tables::Shown;

/// Nodes, and ten shards for each.
fn large(nodes: u32) -> Cluster {
    let mut cluster = Cluster {
        replicas: 3,
        ..Cluster::default()
    };
    for n in 0..nodes {
        let zone = format!("z{}", n % 5);
        let member = Node {
            labels: BTreeMap::from([("zone".to_owned(), zone)]),
            member: true,
            ..Node::default()
        };
        cluster.nodes.insert(node(n), member);
    }
    for shard in 0..u64::from(nodes) * 10 {
        let first = u32::try_from(shard).unwrap() * 3;
        let replicas: Vec<Replica> = (0..3)
            .map(|i| Replica {
                replica: ReplicaId(shard * 3 + u64::from(i) + 1),
                node: node((first + i) % nodes),
                role: ReplicaRole::Voter,
            })
            .collect();
        let leader = replicas[(shard % 3) as usize].node;
        let descriptor = ShardDescriptor {
            shard: ShardId(shard),
            epoch: 1,
            range: KeyRange {
                start: shard.to_be_bytes().to_vec(),
                end: Some((shard + 1).to_be_bytes().to_vec()),
            },
            replicas,
        };
        let mut state = Shard::new(descriptor, 0);
        state.leader = Some((leader, 1));
        state.load = Load {
            bytes: (32 << 20) + (shard % 32) * (1 << 20),
            read_qps: 10,
            write_qps: 10,
        };
        cluster.shards.insert(ShardId(shard), state);
    }
    cluster
}

/// Measured where it is asked for: `SYNOD_SCALE=1000 cargo test --release -p synod --lib node_loss -- --nocapture`.
#[test]
fn node_loss_to_plan() {
    let given = std::env::var("SYNOD_SCALE").ok();
    let nodes = given.and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut cluster = large(nodes);
    let mut shown = Shown::default();
    let mut changes = Vec::new();
    shown.nodes(&cluster, &mut changes);
    for shard in cluster.shards.keys() {
        shown.shard_changes(&cluster, *shard, &mut changes);
    }
    let mut solver = Solver::new(Config::default());
    let started = Instant::now();
    let first = question(
        0,
        Some(defaults::policies().sql()),
        changes,
        Filter::default(),
    );
    let settled = solver
        .answer(first, &mut || false)
        .outcome
        .expect("sound policies");
    println!(
        "{nodes} nodes: loaded and decided in {:?}",
        started.elapsed()
    );
    assert!(settled.broken.is_empty(), "{:?}", settled.broken.first());
    for n in [nodes / 2, nodes / 3, nodes / 5] {
        lose(&mut cluster, &mut shown, &mut solver, node(n));
    }
}

fn question(id: u64, policies: Option<String>, changes: Vec<Change>, filter: Filter) -> Question {
    Question {
        id,
        policies,
        changes,
        decided: Vec::new(),
        present: Vec::new(),
        scope: Scope::Urgent,
        needy: filter
            .shards
            .iter()
            .filter(|(_, standing)| standing.critical)
            .map(|(id, _)| (*id, 3))
            .collect(),
        filter,
        seed: 0,
    }
}

/// A node goes, all that it held is decided, and it comes back.
fn lose(cluster: &mut Cluster, shown: &mut Shown, solver: &mut Solver, lost: NodeId) {
    let state = cluster.nodes.get_mut(&lost).unwrap();
    state.member = false;
    let started = Instant::now();
    let mut changes = Vec::new();
    shown.nodes(cluster, &mut changes);
    let standing = |(id, rows): (ShardId, &crate::controller::tables::ShardRows)| {
        let seats: Vec<Option<NodeId>> = rows.seats.iter().map(|seat| seat.node).collect();
        let critical = seats.contains(&Some(lost));
        (
            id,
            Standing {
                seats,
                leader: rows.leader,
                critical,
                ..Standing::default()
            },
        )
    };
    let filter = Filter {
        shards: shown.shards().map(standing).collect(),
        lost: BTreeMap::from([(lost, Grace::Over)]),
        ..Filter::default()
    };
    let asked = question(1, None, changes, filter);
    let decision = solver
        .answer(asked, &mut || false)
        .outcome
        .expect("sound rows");
    println!(
        "loss of one of {} nodes: a plan of {} moves in {} rounds after {:?} ({} evaluations)",
        cluster.nodes.len(),
        decision.rounds.iter().map(Vec::len).sum::<usize>(),
        decision.rounds.len(),
        started.elapsed(),
        decision.evaluations,
    );
    let moved: BTreeSet<ShardId> = decision
        .rounds
        .iter()
        .flatten()
        .map(|m| m.shard())
        .collect();
    assert!(moved.len() == 30, "what it held is moved: {}", moved.len());
    let state = cluster.nodes.get_mut(&lost).unwrap();
    state.member = true;
    let mut changes = Vec::new();
    shown.nodes(cluster, &mut changes);
    let back = question(2, None, changes, Filter::default());
    solver
        .answer(back, &mut || false)
        .outcome
        .expect("sound rows");
}
