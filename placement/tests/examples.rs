//! DCM's other two problems, from the example files, and the default policies of a cluster.

mod policies;

use policies::{defaults, read};
use synod_placement::solve::Config;
use synod_placement::{Answer, Problem, Status};

fn solve(state: &str, policies: &str) -> Answer {
    let mut problem = Problem::load(state, policies).unwrap_or_else(|e| panic!("{e}"));
    problem.solve(&Config::default(), &mut || false).unwrap()
}

fn at(answer: &Answer, table: &str, key: &str) -> Option<String> {
    let found = answer
        .assignments
        .iter()
        .find(|a| a.table == table && a.key.values().any(|v| v.as_str() == Some(key)));
    found.unwrap().value.as_str().map(str::to_owned)
}

#[test]
fn kubernetes() {
    let answer = solve(
        &read("examples/kubernetes/state.sql"),
        &read("examples/kubernetes/policies.sql"),
    );
    assert_eq!(answer.status, Status::Optimal);
    let pod = |name: &str| at(&answer, "pods", name);
    // The selector and the toleration bring the training pod to the tainted node, and nobody else.
    assert_eq!(pod("train-1").as_deref(), Some("gpu1"));
    // Web pods avoid each other; the second preempts a batch pod, and only one.
    assert_eq!(pod("web-1").as_deref(), Some("n3"));
    let web = pod("web-2").unwrap();
    assert!(web == "n1" || web == "n2", "{web}");
    let waiting = ["batch-1", "batch-2"]
        .iter()
        .filter(|p| pod(p).is_none())
        .count();
    assert_eq!(waiting, 1);
    // The cache stands on an SSD in a zone with a web pod.
    let cache = pod("cache-1").unwrap();
    assert!(cache == "n1" || cache == "n2", "{cache}");
}

#[test]
fn vm_balancing() {
    let answer = solve(
        &read("examples/vms/state.sql"),
        &read("examples/vms/policies.sql"),
    );
    assert!(matches!(answer.status, Status::Optimal | Status::Feasible));
    let moved = answer
        .assignments
        .iter()
        .filter(|a| a.current != a.value)
        .count();
    assert!((1..=4).contains(&moved), "{moved} migrations");
    let before: f64 = {
        let state = read("examples/vms/state.sql");
        let policies = read("examples/vms/policies.sql").replace("<= 4", "<= 0");
        solve(&state, &policies).tiers[0].value.as_f64()
    };
    // A spread cannot be below 0, and the answer says so.
    for tier in &answer.tiers {
        let bound = tier.bound.expect("a bound is known").as_f64();
        assert!((0.0..=tier.value.as_f64()).contains(&bound), "{tier:?}");
    }
    let after = answer.tiers[0].value.as_f64();
    assert!(
        after * 2.0 < before,
        "the spread of loads went from {before} to {after}"
    );
}

const ROWS: &str = "
INSERT INTO zones VALUES ('a'), ('b'), ('c');
INSERT INTO nodes (node_id, zone, region, disk, status, cap_bytes, cap_qps, cap_replicas) VALUES
 ('n1', 'a', 'eu', 'ssd', 'up', 100, 1000, 10), ('n2', 'a', 'eu', 'hdd', 'up', 100, 1000, 10),
 ('n3', 'b', 'eu', 'ssd', 'up', 100, 1000, 10), ('n4', 'b', 'us', 'hdd', 'up', 100, 1000, 10),
 ('n5', 'c', 'us', 'ssd', 'up', 100, 1000, 10), ('n6', 'c', 'us', 'ssd', 'down', 100, 1000, 10);
INSERT INTO shards (shard_id, bytes, read_qps, write_qps, rf, home_region) VALUES
 (1, 10, 5, 5, 3, 'eu'), (2, 20, 5, 5, 3, 'us'), (3, 5, 1, 1, 2, NULL);
INSERT INTO replicas (shard_id, slot, current_node, controllable__node) VALUES
 (1, 0, 'n1', 'n1'), (1, 1, 'n3', 'n3'), (1, 2, 'n6', NULL), (2, 0, NULL, NULL), (2, 1, NULL, NULL),
 (2, 2, 'n5', 'n5'), (3, 0, 'n1', NULL), (3, 1, NULL, NULL);
INSERT INTO leaders VALUES (1, 'n1', 'n1'), (2, NULL, NULL), (3, NULL, NULL);
";

#[test]
fn default_policies() {
    let state = read("policies/tables.sql") + ROWS;
    let answer = solve(&state, &defaults());
    assert!(
        matches!(answer.status, Status::Optimal | Status::Feasible),
        "{answer:?}"
    );
    assert!(
        answer.assignments.iter().all(|a| a.value != "n6"),
        "nothing stands on the node that is down"
    );
    let zone = |node: &str| match node {
        "n1" | "n2" => 'a',
        "n3" | "n4" => 'b',
        _ => 'c',
    };
    for shard in 1..=3 {
        let mut zones: Vec<char> = answer
            .assignments
            .iter()
            .filter(|a| a.table == "replicas" && a.key["shard_id"] == shard)
            .map(|a| zone(a.value.as_str().unwrap()))
            .collect();
        let replicas = zones.len();
        zones.sort_unstable();
        zones.dedup();
        assert_eq!(zones.len(), replicas, "one replica a zone");
        let leader = answer
            .assignments
            .iter()
            .find(|a| a.table == "leaders" && a.key["shard_id"] == shard);
        let leader = &leader.unwrap().value;
        assert!(answer.assignments.iter().any(|a| {
            a.table == "replicas" && a.key["shard_id"] == shard && a.value == *leader
        }));
    }
}

#[test]
fn a_settled_cluster_stays() {
    let state = read("policies/tables.sql") + ROWS;
    let answer = solve(&state, &defaults());
    let mut settled = state.clone();
    for a in &answer.assignments {
        let (table, column) = (&a.table, &a.column);
        let current = column.replace("controllable__", "current_");
        let key: Vec<String> = a.key.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        let value = a.value.as_str().unwrap();
        settled.push_str(&format!(
            "UPDATE {table} SET {column} = '{value}', {current} = '{value}' WHERE {};\n",
            key.join(" AND ")
        ));
    }
    let again = solve(&settled, &defaults());
    let moved: Vec<_> = again
        .assignments
        .iter()
        .filter(|a| a.current != a.value)
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
}
