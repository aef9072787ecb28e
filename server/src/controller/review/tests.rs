use synod_storage::{KeyRange, ReplicaId};
use synod_txn::{Replica, ReplicaRole, ShardDescriptor};

use super::super::cluster::{Cluster, Load, Node, Shard};
use super::super::defaults;
use super::super::policies::Edit;
use super::super::tables::all_rows;
use super::*;

const MB: u64 = 1 << 20;

fn node(n: u32) -> NodeId {
    NodeId((0x1000_0000 + u128::from(n)) << 96)
}

/// Nine nodes in zones a, b and c, and six shards of 10 MB with a replica in each zone, on the first six.
fn cluster() -> Cluster {
    let mut cluster = Cluster {
        replicas: 3,
        ..Cluster::default()
    };
    for n in 0..9 {
        let zone = ["a", "b", "c"][n as usize % 3].to_owned();
        let member = Node {
            labels: BTreeMap::from([("zone".to_owned(), zone)]),
            member: true,
            ..Node::default()
        };
        cluster.nodes.insert(node(n), member);
    }
    for id in 1..=6_u64 {
        let first = u32::try_from(id % 2).unwrap() * 3;
        let replicas = (0..3).map(|i| Replica {
            replica: ReplicaId(id * 3 + u64::from(i)),
            node: node(first + i),
            role: ReplicaRole::Voter,
        });
        let descriptor = ShardDescriptor {
            shard: ShardId(id),
            epoch: 1,
            range: KeyRange {
                start: id.to_be_bytes().to_vec(),
                end: Some((id + 1).to_be_bytes().to_vec()),
            },
            replicas: replicas.collect(),
        };
        let mut shard = Shard::new(descriptor, 0);
        let leads = u32::try_from(id % 3).unwrap();
        shard.leader = Some((node(first + leads), 1));
        shard.load = Load {
            bytes: 10 * MB,
            ..Load::default()
        };
        cluster.shards.insert(ShardId(id), shard);
    }
    cluster
}

fn ask(what: What) -> Result<Finding, String> {
    let cluster = cluster();
    let review = Review {
        id: 7,
        rows: all_rows(&cluster),
        weights: cluster.shards.keys().map(|id| (*id, 10 * MB)).collect(),
        present: defaults::policies(),
        what,
        seed: 0,
    };
    answer(review, &Config::default(), &mut || false).outcome
}

fn with(sql: &str) -> Policies {
    let edit = Edit::Apply {
        name: "mine".to_owned(),
        sql: sql.to_owned(),
    };
    defaults::policies().edited(&edit).expect("it parses")
}

/// The replica of shard 1 in zone b leaves its node.
const MOVES_ONE: &str = "CREATE CONSTRAINT mine AS SELECT * FROM replicas r WHERE r.shard_id = 1 \
     CHECK controllable__node <> '10000004000000000000000000000000';";

#[test]
fn a_policy_that_can_hold_is_accepted() {
    let Ok(Finding::Admission(admission)) = ask(What::Admit(with(MOVES_ONE))) else {
        panic!("an admission");
    };
    // The present state, nine nodes, three zones.
    assert_eq!(
        (admission.verdict.as_str(), admission.scenarios),
        ("accepted", 13)
    );
    assert_eq!(admission.findings, []);
}

#[test]
fn a_policy_that_cannot_hold_is_refused_with_its_rows() {
    // All in one zone, and yet one a zone.
    let sql = "CREATE CONSTRAINT mine AS SELECT * FROM replicas r \
         JOIN nodes n ON n.node_id = r.controllable__node WHERE r.shard_id = 2 CHECK n.zone = 'a';";
    let Ok(Finding::Admission(admission)) = ask(What::Admit(with(sql))) else {
        panic!("an admission");
    };
    assert_eq!(admission.verdict, "refused");
    let now = admission.findings.first().expect("it speaks against it");
    assert_eq!(now.scenario, "now");
    let rows = now.conflict.join("\n");
    assert!(
        rows.contains("mine[") && rows.contains("shard_id=2"),
        "{rows}"
    );
}

#[test]
fn what_is_wrong_is_named_with_line_and_column() {
    let sql = "CREATE CONSTRAINT mine AS\n  SELECT * FROM replicas CHECK colour = 1;";
    let error = ask(What::Admit(with(sql))).expect_err("there is no such column");
    assert!(error.starts_with("mine:2:32: name error"), "{error}");
    // Who needs what is dropped is named, and not who drops it.
    let edit = Edit::Apply {
        name: "balance".to_owned(),
        sql: "CREATE CONSTRAINT live_zones AS SELECT * FROM nowhere CHECK 1 = 1;".to_owned(),
    };
    let set = defaults::policies().edited(&edit).expect("it parses");
    let error = ask(What::Preview(set)).expect_err("there is no such table");
    assert!(error.starts_with("balance:1:"), "{error}");
}

#[test]
fn a_preview_says_what_would_move_and_how_much() {
    let Ok(Finding::Preview(preview)) = ask(What::Preview(with(MOVES_ONE))) else {
        panic!("a preview");
    };
    let replicas: Vec<&Moved> = preview
        .moves
        .iter()
        .filter(|it| it.slot.is_some())
        .collect();
    assert_eq!(replicas.len(), 1, "{preview:?}");
    assert_eq!(replicas[0].shard, 1);
    assert_eq!(replicas[0].from, Some(node_text(node(4))));
    assert_eq!(preview.bytes, 10 * MB);
    assert!(preview.seconds >= 1 && preview.conflict.is_empty());
    let Ok(Finding::Preview(nothing)) = ask(What::Preview(defaults::policies())) else {
        panic!("a preview");
    };
    assert_eq!(
        (nothing.moves.len(), nothing.seconds),
        (0, 0),
        "{nothing:?}"
    );
}

#[test]
fn an_explanation_says_why_there_and_why_not_elsewhere() {
    let Ok(Finding::Explained(explained)) = ask(What::Explain(ShardId(1))) else {
        panic!("an explanation");
    };
    assert_eq!(explained.places.len(), 4, "three replicas and a leader");
    let first = &explained.places[0];
    assert_eq!(
        (first.slot, first.node.clone()),
        (Some(0), Some(node_text(node(3))))
    );
    let to = |n: u32| {
        let wanted = node_text(node(n));
        let found = first.elsewhere.iter().find(|it| it.node == wanted);
        found.expect("every node is an alternative")
    };
    // The other node of its zone only costs; one of another zone breaks the spread; its twin's breaks more.
    assert_eq!(to(0).breaks, [] as [&str; 0]);
    assert!(
        to(0)
            .costs
            .iter()
            .any(|it| it.policies.contains(&"stickiness".to_owned()))
    );
    assert!(
        to(1)
            .breaks
            .iter()
            .any(|row| row.starts_with("zone_spread["))
    );
    assert!(
        to(4)
            .breaks
            .iter()
            .any(|row| row.starts_with("distinct_nodes["))
    );
    assert!(
        first.held_by.contains(&"zone_spread".to_owned()),
        "{:?}",
        first.held_by
    );
    let leader = explained.places.last().expect("a leader");
    assert_eq!(leader.slot, None);
    assert!(leader.held_by.contains(&"leader_on_replica".to_owned()));
    assert!(ask(What::Explain(ShardId(99))).is_err());
}
