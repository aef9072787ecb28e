//! Bits that turn in the files of one node of a cluster of real processes: found, named, repaired or
//! rebuilt, never served.
#![cfg(not(madsim))]

#[allow(dead_code, reason = "each test program uses its own part of it")]
mod cluster;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::Cluster;
use serde_json::Value;
use synod_client::{Client, Command, Options};

const KEYS: u32 = 120;

fn key(n: u32) -> String {
    let letter = b"07AGMTZbhnvz"[n as usize % 12];
    format!("{}key{n}", char::from(letter))
}

/// Different in every window of some bytes, so that it can be found in a file.
fn value(n: u32) -> String {
    (0..100).map(|part| format!("<{n}.{part}>")).collect()
}

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

async fn filled() -> Cluster {
    filled_on(3).await
}

async fn filled_on(nodes: usize) -> Cluster {
    let cluster = Cluster::start(nodes);
    let mut client = client(cluster.clients());
    for n in 0..KEYS {
        client
            .set(&key(n), value(n))
            .await
            .expect("a healthy cluster");
    }
    cluster
}

/// Every key through every node that is up: an error for a while is no lie, another value is.
async fn all_is_there(cluster: &Cluster, nodes: &[usize]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    for node in nodes {
        let mut client = client(vec![cluster.client(*node)]);
        for n in 0..KEYS {
            loop {
                match client.get(&key(n)).await {
                    Ok(found) => {
                        assert_eq!(found.as_deref(), Some(value(n).as_bytes()), "{}", key(n));
                        break;
                    }
                    Err(error) => assert!(Instant::now() < deadline, "{}: {error}", key(n)),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn status(cluster: &Cluster, node: usize) -> Value {
    let mut client = client(vec![cluster.client(node)]);
    let answer = client.call(&Command::read("SYNOD").arg("STATUS")).await;
    let bytes = answer.expect("it serves").into_bytes().expect("a text");
    serde_json::from_slice(&bytes.unwrap_or_default()).expect("JSON")
}

/// Files below a directory whose names begin so.
fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            path.is_file() && name.is_some_and(|name| name.starts_with(prefix))
        })
        .collect();
    paths.sort();
    paths
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 4], at).expect("writable");
}

/// Every copy of a value below a directory: the file, and where in it.
fn copies(dir: &Path, prefix: &str, n: u32) -> Vec<(PathBuf, u64)> {
    let mark = format!("<{n}.50><{n}.51>");
    let mut copies = Vec::new();
    for path in files(dir, prefix) {
        let content = fs::read(&path).expect("readable");
        let mut windows = content.windows(mark.len());
        if let Some(at) = windows.position(|window| window == mark.as_bytes()) {
            copies.push((path, at as u64));
        }
    }
    copies
}

/// Turns a bit in the header of a batch in the middle of a node's log: what was there, nobody can tell.
fn flip_a_batch_header(data: &Path) -> String {
    const BLOCK: usize = 4096;
    const MAGIC: &[u8] = b"SYNODBAT";
    let mut found = Vec::new();
    for path in files(&data.join("log"), "segment-") {
        let content = fs::read(&path).expect("readable");
        let blocks = content.chunks(BLOCK).enumerate();
        let headers = blocks.filter(|(_, block)| block.starts_with(MAGIC));
        found.extend(headers.map(|(block, _)| (path.clone(), (block * BLOCK) as u64)));
    }
    let (path, at) = &found[found.len() / 2];
    flip(path, at + 50);
    let name = path.file_name().expect("it has a name");
    name.to_string_lossy().into_owned()
}

/// Turns a bit in every copy of a value below a directory.
fn flip_value(dir: &Path, prefix: &str, n: u32) -> usize {
    let copies = copies(dir, prefix, n);
    for (path, at) in &copies {
        flip(path, at + 2);
    }
    copies.len()
}

#[tokio::test]
async fn damaged_values_come_back_from_the_other_nodes() {
    let mut cluster = filled().await;
    // A clean stop brings everything that the node has applied into value files. The last writes it may not have: a
    // majority was enough for them.
    let values = cluster.data(1).join("values");
    let deadline = Instant::now() + Duration::from_secs(30);
    cluster.stop(1);
    while !(0..KEYS).all(|n| !copies(&values, "0", n).is_empty()) {
        assert!(Instant::now() < deadline, "node 1 does not catch up");
        cluster.run(1);
        all_is_there(&cluster, &[1]).await;
        cluster.stop(1);
    }
    let flipped: usize = (0..KEYS).map(|n| flip_value(&values, "0", n)).sum();
    assert!(flipped >= KEYS as usize, "{flipped} values were damaged");
    cluster.run(1);
    all_is_there(&cluster, &[0, 1, 2]).await;
    // With another node gone, this one leads some of the shards.
    cluster.kill(0);
    all_is_there(&cluster, &[1, 2]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = status(&cluster, 1).await;
        let storage = &status["storage"];
        let repaired = storage["repaired_values"].as_u64().unwrap_or(0);
        if repaired >= u64::from(KEYS) && storage["damaged_values"] == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{storage}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It holds them by itself now.
    cluster.stop(1);
    cluster.run(1);
    all_is_there(&cluster, &[1, 2]).await;
    let status = status(&cluster, 1).await;
    assert_eq!(status["storage"]["damaged_values"], 0, "{status}");
}

#[tokio::test]
async fn a_damaged_entry_and_a_damaged_manifest_are_named_and_mended() {
    let mut cluster = filled().await;
    cluster.kill(2);
    let flipped = flip_value(&cluster.data(2).join("log"), "segment-", KEYS / 2);
    assert!(flipped > 0, "the entry is in the log");
    let copies = files(&cluster.data(2), "manifest-");
    flip(&copies[0], 60);
    cluster.run(2);
    all_is_there(&cluster, &[2, 0, 1]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while status(&cluster, 2).await["storage"]["damaged_replicas"] != 0 {
        assert!(Instant::now() < deadline, "a replica still stands aside");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let problems = status(&cluster, 2).await["problems"].to_string();
    assert!(problems.contains("segment-"), "{problems}");
    cluster.kill(0);
    all_is_there(&cluster, &[1, 2]).await;
}

/// One node of several has lost what no peer can name: it says so, its replicas are replaced by new ones, and
/// when another node is gone nothing is missing.
async fn a_bad_log_header(nodes: usize) {
    let mut cluster = filled_on(nodes).await;
    let bad = nodes - 1;
    cluster.kill(bad);
    let segment = flip_a_batch_header(&cluster.data(bad));
    cluster.run(bad);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let there = status(&cluster, bad).await;
        let problems = there["problems"].to_string();
        assert!(problems.contains(&segment), "not named: {problems}");
        let others = status(&cluster, 0).await;
        let is_whole = |shard: &Value| {
            let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
            let voters = replicas.iter().filter(|it| it["role"] == "voter").count();
            replicas.len() == 3 && voters == 3 && !shard["leader"].is_null()
        };
        let shards = others["shards"].as_array().cloned().unwrap_or_default();
        let replaced = there["storage"]["damaged_replicas"] == 0;
        if replaced && !shards.is_empty() && shards.iter().all(is_whole) {
            break;
        }
        assert!(Instant::now() < deadline, "not replaced: {there}\n{others}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let log = cluster.log(bad);
    assert!(log.contains("the replica's disk lost something"), "{log}");
    let all: Vec<usize> = (0..nodes).collect();
    all_is_there(&cluster, &all).await;
    cluster.kill(0);
    all_is_there(&cluster, &all[1..]).await;
}

#[tokio::test]
async fn a_bad_log_header_of_one_node_of_three_costs_new_replicas_and_no_data() {
    a_bad_log_header(3).await;
}

#[tokio::test]
async fn a_bad_log_header_of_one_node_of_five_costs_new_replicas_and_no_data() {
    a_bad_log_header(5).await;
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("ours");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("readable")),
        }
    }
}

/// As a power cut may leave it that took the index back to an earlier moment, and nothing else.
#[tokio::test]
async fn an_index_that_was_left_behind_is_rebuilt() {
    let mut cluster = filled().await;
    cluster.stop(0);
    let index = cluster.data(0).join("index");
    let before = cluster.data(0).join("index.before");
    copy_dir(&index, &before);
    cluster.run(0);
    let mut client = client(vec![cluster.client(0)]);
    for n in 0..KEYS {
        client.set(&key(n), "newer").await.expect("it serves");
        client.set(&key(n), value(n)).await.expect("it serves");
    }
    cluster.stop(0);
    fs::remove_dir_all(&index).expect("ours");
    fs::rename(&before, &index).expect("ours");
    cluster.run(0);
    all_is_there(&cluster, &[0]).await;
    let output = cluster.stop(0);
    assert!(output.contains("index was rebuilt"), "{output}");
}

#[tokio::test]
async fn a_damaged_or_emptied_index_is_rebuilt() {
    let mut cluster = filled().await;
    let output = cluster.stop(0);
    assert!(output.contains("stopped"), "{output}");
    let index = cluster.data(0).join("index");
    let database = index.join("db");
    let bytes = fs::metadata(&database).expect("sled's file").len();
    for at in (0..bytes).step_by(997) {
        flip(&database, at);
    }
    cluster.run(0);
    all_is_there(&cluster, &[0]).await;
    let output = cluster.stop(0);
    assert!(output.contains("index was rebuilt"), "{output}");
    fs::remove_dir_all(&index).expect("ours");
    fs::create_dir(&index).expect("ours");
    cluster.run(0);
    all_is_there(&cluster, &[0]).await;
    let output = cluster.stop(0);
    assert_eq!(output.matches("index was rebuilt").count(), 2, "{output}");
}
