//! A disk that is really full, under real processes: writes are refused with the published error, reads and
//! deletes are served, nothing acknowledged is lost, and when there is space again, writes resume by
//! themselves.
#![cfg(not(madsim))]

#[allow(dead_code, reason = "each test program uses its own part of it")]
mod cluster;

use std::io::Write as _;
use std::time::{Duration, Instant};

use cluster::Cluster;
use serde_json::Value;
use synod_client::{Client, Command, Options};

/// A log with its spare segments, the reserve, and some room above the mark below which writes are refused.
const DISK_BYTES: u64 = 520 << 20;
/// Below the mark, and more than nothing.
const LITTLE_BYTES: u64 = 100 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: u32 = 200;

fn key(n: u32) -> String {
    let letter = b"07AGMTZbhnvz"[n as usize % 12];
    format!("{}key{n}", char::from(letter))
}

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

/// A cluster whose last node has a small disk, or `None`, said aloud, where nobody may mount one.
fn cluster(nodes: usize) -> Option<Cluster> {
    match Cluster::start_on_small_disk(nodes, DISK_BYTES) {
        Ok(cluster) => Some(cluster),
        Err(why) => {
            // Not by the macro: what that prints is kept back when a test passes.
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "SKIPPED: no disk can be mounted here: {why}");
            None
        }
    }
}

async fn status(address: String) -> Value {
    let answer = client(vec![address])
        .call(&Command::read("SYNOD").arg("STATUS"))
        .await;
    let bytes = answer.expect("it answers").into_bytes().expect("a text");
    serde_json::from_slice(&bytes.unwrap_or_default()).expect("JSON")
}

/// Sets a key until the answer is the one that is waited for: done, or refused because the disk is full.
async fn set_until(client: &mut Client, key: &str, value: &str, is_done: bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.set(key, value).await;
        match &answer {
            Ok(()) if is_done => return,
            Err(error) if !is_done && error.to_string().contains("DISKFULL") => return,
            Ok(()) | Err(_) => {}
        }
        assert!(Instant::now() < deadline, "{key}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the last node knows that its disk is nearly full, and has brought into files what was in memory.
async fn has_settled(address: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(address.to_owned()).await;
        let problems = status["problems"].to_string();
        let debt = status["storage"]["checkpoint_debt_bytes"].as_u64();
        if problems.contains("the disk is nearly full") && debt == Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The index writes behind, within a second, and nobody can see when. A disk that is filled meanwhile would
    // stop the node.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
}

/// Writes the keys that can be; which of them were acknowledged, and whether some were refused because a
/// disk is full. No other error is right.
async fn write_all(client: &mut Client, value: &str) -> (Vec<u32>, bool) {
    let (mut done, mut refused) = (Vec::new(), false);
    for n in 0..KEYS {
        match client.set(&key(n), value).await {
            Ok(()) => done.push(n),
            Err(error) => {
                assert!(error.to_string().contains("DISKFULL"), "{error}");
                refused = true;
            }
        }
    }
    (done, refused)
}

async fn all_are(client: &mut Client, keys: &[u32], value: &str) {
    for n in keys {
        let found = client.get(&key(*n)).await.expect("reads are served");
        assert_eq!(found.as_deref(), Some(value.as_bytes()), "{}", key(*n));
    }
}

#[tokio::test]
async fn a_node_alone_refuses_writes_serves_the_rest_and_resumes() {
    let Some(mut cluster) = cluster(1) else {
        return;
    };
    let mut client = client(cluster.clients());
    let (done, refused) = write_all(&mut client, "before").await;
    assert!(!refused && done.len() == KEYS as usize);

    // Little is left: a mark.
    cluster.small_disk().fill(LITTLE_BYTES);
    set_until(&mut client, "more", "v", false).await;
    all_are(&mut client, &done, "before").await;
    has_settled(&cluster.client(0)).await;

    // Nothing is left.
    cluster.small_disk().fill(0);
    all_are(&mut client, &done, "before").await;
    client.del([key(0)]).await.expect("deletes are served");
    set_until(&mut client, "more", "v", false).await;

    // Nor does a start need more than little.
    cluster.kill(0);
    cluster.small_disk().empty();
    cluster.small_disk().fill(LITTLE_BYTES);
    cluster.run(0);
    all_are(&mut client, &done[1..], "before").await;
    assert_eq!(client.get(&key(0)).await.expect("a read"), None);
    set_until(&mut client, "more", "v", false).await;

    cluster.small_disk().empty();
    set_until(&mut client, "more", "v", true).await;
    let (done, refused) = write_all(&mut client, "after").await;
    assert!(!refused && done.len() == KEYS as usize);
    cluster.kill(0);
    cluster.run(0);
    all_are(&mut client, &done, "after").await;
}

#[tokio::test]
async fn one_full_node_of_three_stops_nobody_else() {
    let Some(mut cluster) = cluster(3) else {
        return;
    };
    let full = 2;
    let mut client = client(cluster.clients());
    let (done, refused) = write_all(&mut client, "before").await;
    assert!(!refused && done.len() == KEYS as usize);

    cluster.small_disk().fill(LITTLE_BYTES);
    has_settled(&cluster.client(full)).await;
    cluster.small_disk().fill(0);
    // Shards that it leads refuse writes; those that others lead have two disks left.
    let (some, _) = write_all(&mut client, "while full").await;
    let rest: Vec<u32> = done.iter().copied().filter(|n| !some.contains(n)).collect();
    all_are(&mut client, &some, "while full").await;
    all_are(&mut client, &rest, "before").await;

    cluster.small_disk().empty();
    for n in 0..KEYS {
        set_until(&mut client, &key(n), "after", true).await;
    }
    // What it could not take in at the time it has by now: with another node gone, it is one of a majority.
    cluster.kill(0);
    let mut survivors = self::client(vec![cluster.client(1), cluster.client(full)]);
    all_are(&mut survivors, &done, "after").await;
    for n in 0..KEYS {
        set_until(&mut survivors, &key(n), "at last", true).await;
    }
}
