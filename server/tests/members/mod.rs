//! The agreed membership of real processes: who is in the view, how fast (`STRICT_TIMES=1`), and who may
//! serve.

use std::time::{Duration, Instant};

use synod::status::Report;
use synod_client::{Client, Command, Options};

use super::cluster::{Cluster, run_to_end};
use super::{client, keys};

/// A client that tries once.
fn once(address: String) -> Client {
    let options = Options {
        connect_timeout: Duration::from_millis(500),
        call_timeout: Duration::from_secs(3),
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    Client::new(vec![address], options)
}

/// What a node says of itself now; `None`: it does not answer.
async fn ask(address: String) -> Option<Report> {
    let mut client = once(address);
    let command = Command::read("SYNOD").arg("STATUS");
    let answer = client.call_once(&command).await.ok()?;
    serde_json::from_slice(&answer.into_bytes().ok()??).ok()
}

/// Waits until what all of these nodes say is as wanted; how long that took.
async fn until(
    cluster: &Cluster,
    nodes: &[usize],
    patience: Duration,
    what: &str,
    wanted: impl Fn(&Report) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        let mut reports = Vec::new();
        for node in nodes {
            reports.push(ask(cluster.client(*node)).await);
        }
        let good = |report: &Option<Report>| report.as_ref().is_some_and(&wanted);
        let same = reports.iter().flatten().all(|report| {
            let first = reports[0].as_ref().map(|first| &first.view);
            first.is_some_and(|view| (view.seq, &view.hash) == (report.view.seq, &report.view.hash))
        });
        if same && reports.iter().all(good) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < patience, "{what}: {reports:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// True if these are the members, and the node serves.
fn serves_with(members: usize) -> impl Fn(&Report) -> bool {
    move |report| report.view.serving && report.view.members.len() == members
}

const PATIENCE: Duration = Duration::from_secs(60);

/// How long something may take: `STRICT_TIMES=1` holds the node to what it promises on a machine of its
/// own; otherwise the machine may be busy with other tests.
fn at_most(seconds: u64) -> Duration {
    let strict = std::env::var_os("STRICT_TIMES").is_some();
    Duration::from_secs(if strict { seconds } else { seconds * 5 })
}

#[tokio::test]
async fn a_killed_node_goes_from_every_view_and_is_back_after_its_restart() {
    let mut cluster = Cluster::start(5);
    let all = [0, 1, 2, 3, 4];
    until(&cluster, &all, PATIENCE, "five members", serves_with(5)).await;
    cluster.kill(4);
    let gone = until(
        &cluster,
        &[0, 1, 2, 3],
        PATIENCE,
        "four members",
        serves_with(4),
    )
    .await;
    assert!(gone < at_most(3), "removed after {gone:?}");
    cluster.run(4);
    let back = until(&cluster, &all, PATIENCE, "five again", serves_with(5)).await;
    assert!(back < at_most(2), "back after {back:?}");
    println!("removed after {gone:?}, back after {back:?}");
}

#[tokio::test]
async fn a_quick_restart_is_one_cut() {
    let mut cluster = Cluster::start(3);
    until(
        &cluster,
        &[0, 1, 2],
        PATIENCE,
        "three members",
        serves_with(3),
    )
    .await;
    let before = ask(cluster.client(0)).await.expect("an answer").view.seq;
    cluster.kill(2);
    cluster.run(2);
    let restarted = |report: &Report| {
        let boots = report.view.members.iter().map(|member| member.incarnation);
        report.view.serving && boots.max() == Some(2)
    };
    let back = until(&cluster, &[0, 1, 2], PATIENCE, "the new boot", restarted).await;
    let after = ask(cluster.client(0)).await.expect("an answer").view;
    assert_eq!((after.seq, after.members.len()), (before + 1, 3));
    assert!(back < at_most(2), "back after {back:?}");
}

#[tokio::test]
async fn all_five_come_back_three_of_them_serve_and_two_never_do() {
    let mut cluster = Cluster::start(5);
    let all = [0, 1, 2, 3, 4];
    until(&cluster, &all, PATIENCE, "five members", serves_with(5)).await;
    client(cluster.clients()).set("k", "v").await.unwrap();
    all.iter().for_each(|node| cluster.kill(*node));
    all.iter().for_each(|node| cluster.run(*node));
    let back = until(&cluster, &all, PATIENCE, "all five again", serves_with(5)).await;
    assert!(back < at_most(10), "serving again after {back:?}");
    let value = client(cluster.clients()).get("k").await.unwrap();
    assert_eq!(value.as_deref(), Some(b"v".as_slice()));

    all.iter().for_each(|node| cluster.kill(*node));
    (0..2).for_each(|node| cluster.run(node));
    let says_why = |report: &Report| {
        let mut problems = report.problems.iter();
        let why = problems.any(|problem| problem.contains("1 of these must come back"));
        !report.view.serving && report.view.voters_needed == 1 && why
    };
    until(&cluster, &[0, 1], PATIENCE, "two of five say why", says_why).await;
    let options = Options {
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    let mut once = Client::new(vec![cluster.client(0)], options);
    let refused = once.call_once(&Command::read("GET").arg("k")).await;
    let refused = refused.expect_err("two of five do not serve").to_string();
    assert!(refused.contains("NOTSERVING"), "{refused}");
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(8) {
        for node in 0..2 {
            let report = ask(cluster.client(node)).await.expect("an answer");
            assert!(!report.view.serving, "{report:#?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    cluster.run(2);
    let serving = |report: &Report| report.view.serving;
    let three = until(&cluster, &[0, 1, 2], PATIENCE, "three of five", serving).await;
    println!("all five serve after {back:?}, three of five after {three:?}: {refused}");
}

#[tokio::test]
async fn the_last_of_three_stops_serving_and_says_who_is_missing() {
    let mut cluster = Cluster::start(3);
    until(
        &cluster,
        &[0, 1, 2],
        PATIENCE,
        "three members",
        serves_with(3),
    )
    .await;
    cluster.kill(1);
    cluster.kill(2);
    let alone = |report: &Report| !report.view.serving && report.view.voters_needed == 1;
    until(&cluster, &[0], PATIENCE, "no majority", alone).await;
    cluster.run(1);
    let serving = |report: &Report| report.view.serving;
    until(&cluster, &[0, 1], PATIENCE, "two of three", serving).await;
}

#[tokio::test]
async fn nodes_join_a_running_cluster_and_are_gateways_at_once() {
    let mut cluster = Cluster::start(5);
    let seeds: Vec<u16> = (0..5).map(|node| cluster.peer_port(node)).collect();
    let sixth = cluster.add(&seeds);
    cluster.wait_until_up(sixth);
    let all = [0, 1, 2, 3, 4, 5];
    let joined = until(&cluster, &all, PATIENCE, "six members", serves_with(6)).await;
    for (i, key) in keys().iter().enumerate() {
        client(vec![cluster.client(sixth)])
            .set(key, i.to_string())
            .await
            .unwrap();
        let value = client(vec![cluster.client(0)]).get(key).await.unwrap();
        assert_eq!(value.as_deref(), Some(i.to_string().as_bytes()));
    }
    // It is a member like any other: it goes on with its directory.
    cluster.kill(sixth);
    cluster.run(sixth);
    let back = until(&cluster, &all, PATIENCE, "the sixth again", serves_with(6)).await;
    client(vec![cluster.client(sixth)]).get("k").await.unwrap();
    println!("joined after {joined:?}, back after {back:?}");
    // A founder has replicas and does not leave by accident. The sixth may have been given some by now.
    let leave = Command::new("SYNOD").arg("LEAVE");
    let refused = client(vec![cluster.client(0)]).call_once(&leave).await;
    let refused = refused.expect_err("replicas live there").to_string();
    assert!(refused.contains("move them away"), "{refused}");
    let mut operator = client(vec![cluster.client(sixth)]);
    operator.call_once(&leave.arg("FORCE")).await.unwrap();
    until(
        &cluster,
        &[0, 1, 2, 3, 4],
        PATIENCE,
        "five again",
        serves_with(5),
    )
    .await;
    let ended = Instant::now();
    while ask(cluster.client(sixth)).await.is_some() {
        assert!(
            ended.elapsed() < PATIENCE,
            "the process of a node that has left goes on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn others_join_a_node_that_began_alone() {
    let mut cluster = Cluster::start(1);
    let alone = [cluster.peer_port(0)];
    for members in 2..=3 {
        let node = cluster.add(&alone);
        cluster.wait_until_up(node);
        let nodes: Vec<usize> = (0..members).collect();
        until(&cluster, &nodes, PATIENCE, "one more", serves_with(members)).await;
    }
    client(vec![cluster.client(2)]).set("k", "v").await.unwrap();
    assert!(
        client(vec![cluster.client(1)])
            .get("k")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn same_join_lists_all_empty_one_late_then_one_wiped() {
    let mut cluster = Cluster::start_but_one(3);
    let all = [0, 1, 2];
    let (late, begun) = (cluster.peer(2), Instant::now());
    // For longer than two would need to form a cluster without the third.
    while begun.elapsed() < Duration::from_secs(2) {
        for node in [0, 1] {
            let status = Command::read("SYNOD").arg("STATUS");
            let said = format!("{:?}", once(cluster.client(node)).call_once(&status).await);
            assert!(
                said.contains("NOTSERVING") && said.contains(&late),
                "{said}"
            );
        }
    }
    cluster.run(2);
    until(&cluster, &all, PATIENCE, "three members", serves_with(3)).await;
    let before = ask(cluster.client(0)).await.expect("an answer");
    cluster.kill(2);
    cluster.wipe(2);
    cluster.run(2);
    let another = |report: &Report| {
        let ids: Vec<&String> = report
            .view
            .members
            .iter()
            .map(|member| &member.id)
            .collect();
        let old = before
            .view
            .members
            .iter()
            .filter(|member| ids.contains(&&member.id))
            .count();
        report.view.serving && (ids.len(), old) == (3, 2)
    };
    until(
        &cluster,
        &all,
        PATIENCE,
        "a new node at the old address",
        another,
    )
    .await;
}

/// `synod node recover` on a node's directory; what it printed.
fn recover(cluster: &Cluster, node: usize, survivors: &[String], flags: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_synod"));
    command.args(["node", "recover", "--data"]);
    command.arg(cluster.data(node));
    for survivor in survivors {
        command.args(["--survivor", &survivor[..8]]);
    }
    let (status, said) = run_to_end({
        command.args(flags);
        command
    });
    (status.success(), said)
}

#[tokio::test]
async fn two_of_five_go_on_when_an_operator_says_that_the_others_are_lost() {
    let mut cluster = Cluster::start(5);
    let all = [0, 1, 2, 3, 4];
    until(&cluster, &all, PATIENCE, "five members", serves_with(5)).await;
    let mut ids = Vec::new();
    for node in 0..3 {
        ids.push(ask(cluster.client(node)).await.expect("an answer").node.id);
    }
    let (done, said) = recover(&cluster, 0, &ids[..2], &["--yes"]);
    assert!(
        !done && said.contains("another process uses it"),
        "it runs: {said}"
    );
    all.iter().for_each(|node| cluster.kill(*node));
    let (done, said) = recover(&cluster, 0, &ids, &["--yes"]);
    assert!(!done && said.contains("they go on by themselves"), "{said}");
    let (done, said) = recover(&cluster, 0, &ids[..2], &[]);
    assert!(done && said.contains("Nothing was changed"), "{said}");
    let mut clusters = Vec::new();
    for node in 0..2 {
        let (done, said) = recover(&cluster, node, &ids[..2], &["--yes", "--json"]);
        assert!(done, "{said}");
        let told: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(told["left_behind"].as_array().map(Vec::len), Some(3));
        clusters.push(told["new_lineage"].clone());
    }
    assert_eq!(clusters[0], clusters[1]);
    (0..2).for_each(|node| cluster.run(node));
    until(&cluster, &[0, 1], PATIENCE, "two members", serves_with(2)).await;
    // One that was left behind comes back with its directory, and is refused; with an empty one it joins.
    cluster.run(2);
    let refused = |report: &Report| {
        let mut problems = report.problems.iter();
        !report.view.serving && problems.any(|problem| problem.contains("cluster"))
    };
    until(&cluster, &[2], PATIENCE, "it is refused", refused).await;
    cluster.kill(2);
    cluster.wipe(2);
    cluster.run(2);
    until(
        &cluster,
        &[0, 1, 2],
        PATIENCE,
        "three members",
        serves_with(3),
    )
    .await;
}

/// A node stood still, is taken out of the view, and waits to be let in again; then another one dies. The shards go on:
/// who votes there is not the view's business.
#[tokio::test]
async fn replicas_on_a_removed_node_vote_on() {
    let mut cluster = Cluster::start(3);
    let all = [0, 1, 2];
    until(&cluster, &all, PATIENCE, "three members", serves_with(3)).await;
    cluster.pause(2, true);
    until(&cluster, &[0, 1], PATIENCE, "its cut", serves_with(2)).await;
    cluster.pause(2, false);
    let removed = |report: &Report| {
        let mut problems = report.problems.iter();
        !report.view.serving && problems.any(|problem| problem.contains("was removed"))
    };
    until(&cluster, &[2], PATIENCE, "it is told", removed).await;
    cluster.kill(1);
    let mut client = client(vec![cluster.client(0)]);
    for number in 0..16u32 {
        let key = format!("k{number}");
        client
            .set(&key, "v")
            .await
            .expect("two of three replicas vote");
    }
    let report = ask(cluster.client(2)).await.expect("an answer");
    assert!(
        removed(&report),
        "it serves no clients meanwhile: {report:#?}"
    );
}

/// `synod node restore` on a directory of the copy; what it printed.
fn restore(copy: &Cluster, node: usize, flags: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_synod"));
    command.args(["node", "restore", "--data"]);
    command.arg(copy.data(node)).args(flags);
    let (status, said) = run_to_end(command);
    (status.success(), said)
}

/// The flags that name these nodes' new places.
fn places(copy: &Cluster, ids: &[String]) -> Vec<String> {
    let place = |(i, id): (usize, &String)| [format!("--at={}={}", &id[..8], copy.peer(i))];
    let places = ids.iter().enumerate().flat_map(place);
    std::iter::once("--name=drill".to_owned())
        .chain(places)
        .collect()
}

/// Carries it out; what the directory becomes.
fn restored(copy: &Cluster, node: usize, flags: &[&str]) -> serde_json::Value {
    let flags = [flags, &["--yes", "--json"]].concat();
    let (done, said) = restore(copy, node, &flags);
    assert!(done, "{said}");
    let told: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    told["becomes"].clone()
}

/// A copy of all directories becomes a cluster of its own: it has what the other had, and neither sees what the other
/// does from then on, though both run.
#[tokio::test]
async fn a_copy_of_all_directories_becomes_another_cluster() {
    let mut cluster = Cluster::start(3);
    let all = [0, 1, 2];
    until(&cluster, &all, PATIENCE, "three members", serves_with(3)).await;
    let mut ids = Vec::new();
    for node in all {
        ids.push(ask(cluster.client(node)).await.expect("an answer").node.id);
    }
    client(cluster.clients())
        .set("k", "before")
        .await
        .expect("a write");
    all.iter().for_each(|node| drop(cluster.stop(*node)));
    let mut copy = cluster.copy();
    all.iter().for_each(|node| cluster.run(*node));
    let places = places(&copy, &ids);
    let flags: Vec<&str> = places.iter().map(String::as_str).collect();
    let (done, said) = restore(&copy, 0, &flags);
    assert!(done && said.contains("Nothing was changed"), "{said}");
    let becomes = all.map(|node| restored(&copy, node, &flags));
    assert!(
        becomes.iter().all(|told| *told == becomes[0]),
        "{becomes:?}"
    );
    let (done, said) = restore(&copy, 0, &flags);
    assert!(!done && said.contains("restored already"), "{said}");
    all.iter().for_each(|node| copy.run(*node));
    until(&copy, &all, PATIENCE, "the copy", serves_with(3)).await;
    until(&cluster, &all, PATIENCE, "the first", serves_with(3)).await;
    let (mut first, mut second) = (client(cluster.clients()), client(copy.clients()));
    assert_eq!(
        second.get("k").await.expect("a read").as_deref(),
        Some(&b"before"[..])
    );
    second.set("k", "copy").await.expect("a write");
    assert_eq!(
        first.get("k").await.expect("a read").as_deref(),
        Some(&b"before"[..])
    );
    for (nodes, cluster) in [(&cluster, 0), (&copy, 1)] {
        let report = ask(nodes.client(0)).await.expect("an answer");
        assert!(
            report.problems.is_empty(),
            "{cluster}: {:?}",
            report.problems
        );
    }
}

/// One node was stopped so long before the others that they have a view without it.
#[tokio::test]
async fn a_copy_of_nodes_that_were_stopped_one_after_the_other_comes_together() {
    let mut cluster = Cluster::start(3);
    let all = [0, 1, 2];
    until(&cluster, &all, PATIENCE, "three members", serves_with(3)).await;
    let mut ids = Vec::new();
    for node in [0, 1] {
        ids.push(ask(cluster.client(node)).await.expect("an answer").node.id);
    }
    client(cluster.clients())
        .set("k", "v")
        .await
        .expect("a write");
    cluster.stop(2);
    until(
        &cluster,
        &[0, 1],
        PATIENCE,
        "a view without it",
        serves_with(2),
    )
    .await;
    [0, 1].iter().for_each(|node| drop(cluster.stop(*node)));
    let mut copy = cluster.copy();
    let places = places(&copy, &ids);
    let flags: Vec<&str> = places.iter().map(String::as_str).collect();
    let first = copy.data(0).display().to_string();
    let like = ["--like", first.as_str()];
    let (done, said) = restore(&copy, 2, &like);
    assert!(!done && said.contains("not restored yet"), "{said}");
    let becomes = [0, 1].map(|node| restored(&copy, node, &flags));
    assert_eq!(restored(&copy, 2, &like), becomes[0]);
    all.iter().for_each(|node| copy.run(*node));
    until(&copy, &all, PATIENCE, "all three", serves_with(3)).await;
    let value = client(copy.clients()).get("k").await.expect("a read");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}
