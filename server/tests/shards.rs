//! Shards that change while clients write: real processes on loopback.
#![cfg(not(madsim))]

#[path = "cluster/appends.rs"]
mod appends;
#[allow(dead_code)] // Each test program uses its own part of it.
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::Cluster;
use synod::status::{Report, ShardReport};
use synod_client::{Client, Command, Options};

/// A client that waits, and tries again for a while.
fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

/// A client for orders, which may take long.
fn operator(address: String) -> Client {
    let options = Options {
        retry_for: Duration::ZERO,
        call_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    Client::new(vec![address], options)
}

async fn order(operator: &mut Client, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("SYNOD").arg("SHARD");
    for word in words {
        command = command.arg(*word);
    }
    match operator.call_once(&command).await {
        Ok(value) => Ok(format!("{value:?}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn report(address: String) -> Report {
    let command = Command::read("SYNOD").arg("STATUS");
    let answer = client(vec![address]).call(&command).await.unwrap();
    let json = answer.into_bytes().unwrap().unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn shard_of<'a>(report: &'a Report, key: &str) -> &'a ShardReport {
    let has = |shard: &&ShardReport| {
        shard.start.as_str() <= key && (shard.end.is_empty() || key < shard.end.as_str())
    };
    report
        .shards
        .iter()
        .find(has)
        .expect("every key has a shard")
}

/// Six writers on all nodes, until the returned flag is set.
fn writers(
    cluster: &Cluster,
) -> (
    Arc<AtomicBool>,
    Vec<tokio::task::JoinHandle<appends::Appends>>,
) {
    let over = Arc::new(AtomicBool::new(false));
    let writers = (0..6)
        .map(|writer| tokio::spawn(appends::write(writer, cluster.clients(), over.clone())))
        .collect();
    (over, writers)
}

/// Stops the writers and reads everything back.
async fn conclude(
    cluster: &Cluster,
    over: &AtomicBool,
    writers: Vec<tokio::task::JoinHandle<appends::Appends>>,
) -> usize {
    over.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for writer in writers {
        done.push(writer.await.unwrap());
    }
    appends::check(&mut client(cluster.clients()), done).await
}

/// Kills all three nodes, starts them again, and concludes; what one of them then says.
async fn conclude_after_kills(
    cluster: &mut Cluster,
    over: &AtomicBool,
    writing: Vec<tokio::task::JoinHandle<appends::Appends>>,
) -> (usize, Report) {
    over.store(true, Ordering::Relaxed);
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.run(node);
    }
    for node in 0..3 {
        cluster.wait_until_up(node);
    }
    let acknowledged = conclude(cluster, over, writing).await;
    assert!(
        acknowledged > 100,
        "only {acknowledged} acknowledged writes"
    );
    let after = report(cluster.client(0)).await;
    (acknowledged, after)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_moves_between_nodes_under_load_and_no_write_is_lost() {
    let cluster = Cluster::start_with(4, &["--placement", "manual"]);
    let mut probe = client(cluster.clients());
    for key in appends::keys() {
        probe.set(&key, "v").await.unwrap();
    }
    let (over, writing) = writers(&cluster);
    let before = report(cluster.client(0)).await;
    let nodes: Vec<String> = before.view.members.iter().map(|it| it.id.clone()).collect();
    let mut moves = 0;
    for (turn, key) in ["0key", "Mkey", "zkey"].into_iter().enumerate() {
        let asked = cluster.client(turn % 4);
        let shard = shard_of(&report(asked.clone()).await, key).clone();
        let free = nodes
            .iter()
            .find(|node| shard.replicas.iter().all(|it| it.node != **node))
            .expect("four nodes, three replicas");
        // Whoever leads, then whoever does not: both ways of moving.
        let leader = shard.leader.clone();
        let from = shard
            .replicas
            .iter()
            .find(|it| (leader.as_ref() == Some(&it.node)) == (turn % 2 == 0))
            .expect("some replica leads and some do not");
        let mut operator = operator(asked.clone());
        let begun = Instant::now();
        let number = shard.id.to_string();
        order(&mut operator, &["MOVE", &number, &from.node, free])
            .await
            .unwrap();
        println!("shard {number} moved in {:?}", begun.elapsed());
        let after = shard_of(&report(asked).await, key).clone();
        assert!(after.epoch > shard.epoch);
        assert_eq!(after.replicas.len(), 3, "{after:?}");
        assert!(after.replicas.iter().any(|it| it.node == *free));
        assert!(after.replicas.iter().all(|it| it.node != from.node));
        moves += 1;
    }
    let acknowledged = conclude(&cluster, &over, writing).await;
    assert!(
        acknowledged > 100,
        "only {acknowledged} acknowledged writes"
    );
    println!("{moves} moves, {acknowledged} acknowledged appends, all there once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_split_under_load_and_survive_the_death_of_all_nodes() {
    let mut cluster = Cluster::start(3);
    let mut probe = client(cluster.clients());
    for key in appends::keys() {
        probe.set(&key, "v").await.unwrap();
    }
    let (over, writing) = writers(&cluster);
    let before = report(cluster.client(0)).await.shards.len();
    for (turn, at) in ["Mkey.3", "Mkey.1", "zkey", "0key.2"]
        .into_iter()
        .enumerate()
    {
        let mut operator = operator(cluster.client(turn % 3));
        let begun = Instant::now();
        order(&mut operator, &["SPLIT", at]).await.unwrap();
        println!("split at {at} in {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Whoever leads one of the two dies: the new shard goes on with the others.
        if turn == 2 {
            cluster.kill(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.run(1);
        }
    }
    let mut last = operator(cluster.client(0));
    let refused = order(&mut last, &["SPLIT", "zkey"]).await.unwrap_err();
    assert!(refused.contains("is not between two keys"), "{refused}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (acknowledged, after) = conclude_after_kills(&mut cluster, &over, writing).await;
    assert_eq!(after.shards.len(), before + 4, "{:?}", after.shards);
    println!(
        "{before} shards became {}, {acknowledged} appends",
        after.shards.len()
    );
}

/// Merges the shard of a key with the next one, as soon as it can be.
async fn merge(cluster: &Cluster, asked: usize, key: &str) {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = report(cluster.client(asked)).await;
        let number = shard_of(&seen, key).id.to_string();
        let mut operator = operator(cluster.client(asked));
        match order(&mut operator, &["MERGE", &number]).await {
            Ok(_) => return,
            Err(refused) => assert!(Instant::now() < patience, "{refused}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_merge_under_load_and_survive_the_death_of_all_nodes() {
    let mut cluster = Cluster::start_with(3, &["--placement", "manual"]);
    let mut probe = client(cluster.clients());
    for key in appends::keys() {
        probe.set(&key, "v").await.unwrap();
    }
    let (over, writing) = writers(&cluster);
    let before = report(cluster.client(0)).await.shards.len();
    for (turn, at) in ["Mkey.3", "zkey.2", "0key.2"].into_iter().enumerate() {
        order(&mut operator(cluster.client(turn)), &["SPLIT", at])
            .await
            .unwrap();
    }
    for (turn, key) in ["Mkey.1", "zkey.1", "0key.1"].into_iter().enumerate() {
        if turn == 1 {
            // With a node that is down nothing is merged, nor is anything lost.
            cluster.kill(1);
            let seen = report(cluster.client(0)).await;
            let number = shard_of(&seen, key).id.to_string();
            let refused = order(&mut operator(cluster.client(0)), &["MERGE", &number]).await;
            assert!(refused.is_err(), "{refused:?}");
            cluster.run(1);
            cluster.wait_until_up(1);
        }
        let begun = Instant::now();
        merge(&cluster, turn % 3, key).await;
        println!("merged behind {key} in {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What was merged is split and merged again.
    order(&mut operator(cluster.client(0)), &["SPLIT", "Mkey.2"])
        .await
        .unwrap();
    merge(&cluster, 2, "Mkey.1").await;
    let seen = report(cluster.client(0)).await;
    let last = seen.shards.last().expect("there are shards").id.to_string();
    let refused = order(&mut operator(cluster.client(0)), &["MERGE", &last]).await;
    assert!(refused.unwrap_err().contains("the last one"));
    let (acknowledged, after) = conclude_after_kills(&mut cluster, &over, writing).await;
    assert_eq!(after.shards.len(), before, "{:?}", after.shards);
    println!("4 splits, 4 merges, {acknowledged} appends");
}

/// Waits until there are so many shards, as one node sees it.
async fn wait_for_shards(cluster: &Cluster, count: usize) -> Report {
    let patience = Instant::now() + Duration::from_secs(90);
    loop {
        let seen = report(cluster.client(0)).await;
        if seen.shards.len() >= count {
            return seen;
        }
        let shards = seen.shards.len();
        assert!(Instant::now() < patience, "{shards} shards, {count} wanted");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_grows_too_large_becomes_several() {
    let flags = ["--shards", "1", "--split-size-mb", "1"];
    let cluster = Cluster::start_with(3, &flags);
    let mut writer = client(cluster.clients());
    let value = "v".repeat(10_000);
    for i in 0..400 {
        writer
            .set(&format!("key{i:03}"), value.as_str())
            .await
            .unwrap();
    }
    let seen = wait_for_shards(&cluster, 4).await;
    for i in 0..400 {
        let found = writer.get(&format!("key{i:03}")).await.unwrap();
        assert!(found.is_some(), "key{i:03} is gone");
    }
    // The cuts are in the middle of the data, not of the alphabet.
    let starts: Vec<&str> = seen.shards.iter().map(|it| it.start.as_str()).collect();
    assert!(
        starts[1..].iter().all(|it| it.starts_with("key")),
        "{starts:?}"
    );
    println!("4 MB became {starts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_asked_too_often_becomes_several() {
    let flags = ["--shards", "1", "--split-rate-per-s", "20"];
    let cluster = Cluster::start_with(3, &flags);
    let (over, writing) = writers(&cluster);
    let seen = wait_for_shards(&cluster, 2).await;
    let acknowledged = conclude(&cluster, &over, writing).await;
    println!("{} shards after {acknowledged} appends", seen.shards.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_do_not_fit_are_refused_in_words() {
    let cluster = Cluster::start(3);
    let mut probe = client(cluster.clients());
    probe.set("k", "v").await.unwrap();
    let seen = report(cluster.client(0)).await;
    let shard = shard_of(&seen, "k").clone();
    let number = shard.id.to_string();
    let leader = shard.leader.clone().expect("it has just answered");
    let mut operator = operator(cluster.client(0));
    for (words, part) in [
        (vec!["MOVE", "999", &leader, &leader], "not known"),
        (vec!["MOVE", &number, "xyz", &leader], "fits no node"),
        (vec!["MOVE", &number, &leader, &leader], "does not move"),
        (vec!["ADD", &number, &leader], "carries a replica already"),
        (
            vec!["REMOVE", &number, &leader],
            "transfer the leadership first",
        ),
        (vec!["PROMOTE", &number, &leader], "votes already"),
        (vec!["DANCE"], "SYNOD SHARD SPLIT"),
    ] {
        let refused = order(&mut operator, &words).await.unwrap_err();
        assert!(refused.contains(part), "{words:?}: {refused}");
    }
    let other = shard.replicas.iter().find(|it| it.node != leader).unwrap();
    order(&mut operator, &["TRANSFER", &number, &other.node])
        .await
        .unwrap();
    probe.set("k", "w").await.unwrap();
    let after = report(cluster.client(0)).await;
    assert_eq!(shard_of(&after, "k").leader.as_ref(), Some(&other.node));
    assert_eq!(shard_of(&after, "k").epoch, shard.epoch);
}
