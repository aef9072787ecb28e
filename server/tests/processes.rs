//! Real processes on loopback: formation, failover, kills, restarts, and everything that a careless
//! world does to a port or a directory. `KILLS=20` makes the kill test as long as it should be
//! before a release.
#![cfg(not(madsim))]

#[path = "cluster/appends.rs"]
mod appends;
#[allow(dead_code)] // Each test program uses its own part of it.
mod cluster;
mod members;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use appends::{keys, write};
use cluster::{Cluster, Node, free_ports, run_to_end};
use synod_client::{Client, Command, Options};

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

#[tokio::test]
async fn any_node_answers_any_command_and_a_clean_stop_keeps_everything() {
    let mut cluster = Cluster::start(3);
    for (i, key) in keys().iter().enumerate() {
        client(vec![cluster.client(i % 3)])
            .set(key, "v")
            .await
            .unwrap();
    }
    for node in 0..3 {
        let found = client(vec![cluster.client(node)])
            .mget(keys())
            .await
            .unwrap();
        assert!(
            found.iter().all(|value| value.as_deref() == Some(b"v")),
            "{found:?}"
        );
    }
    for node in 0..3 {
        let output = cluster.stop(node);
        assert!(output.contains("stopped"), "no clean stop: {output}");
    }
    for node in 0..3 {
        cluster.run(node);
    }
    let found = client(cluster.clients()).mget(keys()).await.unwrap();
    assert!(
        found.iter().all(|value| value.as_deref() == Some(b"v")),
        "{found:?}"
    );
}

#[tokio::test]
async fn kill_9_loses_and_doubles_nothing_and_writes_resume_within_3_s() {
    let kills = std::env::var("KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    let mut cluster = Cluster::start(3);
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..6)
        .map(|writer| tokio::spawn(write(writer, cluster.clients(), over.clone())))
        .collect();
    let mut worst = Duration::ZERO;
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let victim = kill % 3;
        cluster.kill(victim);
        let killed = Instant::now();
        let survivors = vec![
            cluster.client((victim + 1) % 3),
            cluster.client((victim + 2) % 3),
        ];
        let mut prober = client(survivors);
        let mut resumed = Vec::new();
        for key in keys() {
            let probe = format!("{key}.probe");
            prober.set(&probe, kill.to_string()).await.unwrap();
            resumed.push((killed.elapsed(), key));
        }
        let pause = killed.elapsed();
        assert!(
            pause < Duration::from_secs(3),
            "kill {kill}, of node {victim}: writes resumed {resumed:?} after it"
        );
        worst = worst.max(pause);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.run(victim);
    }
    for node in 0..3 {
        cluster.kill(node);
    }
    over.store(true, Ordering::Relaxed);
    for node in 0..3 {
        cluster.run(node);
    }
    let mut done = Vec::new();
    for writer in writers {
        done.push(writer.await.unwrap());
    }
    let acknowledged = appends::check(&mut client(cluster.clients()), done).await;
    assert!(
        acknowledged > 100,
        "only {acknowledged} acknowledged writes: nothing is shown"
    );
    println!(
        "{kills} kills, writes resumed within {worst:.1?} of each, {acknowledged} acknowledged appends, all there once"
    );
}

#[tokio::test]
async fn garbage_on_either_port_is_refused_and_nothing_is_lost() {
    let cluster = Cluster::start(1);
    let mut good = client(cluster.clients());
    good.set("k", "v").await.unwrap();
    let mut state = 1u64;
    let mut garbage = vec![0u8; 64 << 10];
    for byte in &mut garbage {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let half_frame = [
        b"SYN0".as_slice(),
        &[200, 0, 0, 0, 1, 2, 3, 4, 1, 0, 1, 0, 9],
    ]
    .concat();
    let huge_command = b"*1\r\n$999999999999\r\n".to_vec();
    for address in [cluster.client(0), cluster.peer(0)] {
        for bytes in [&garbage, &http, &half_frame, &huge_command] {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            // The node may close before it has read everything.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.take(4096).read_to_end(&mut answer);
        }
    }
    assert_eq!(
        good.get("k").await.unwrap().as_deref(),
        Some(b"v".as_slice())
    );
}

#[tokio::test]
async fn an_oversized_key_or_value_is_an_error_and_the_connection_lives_on() {
    let cluster = Cluster::start(1);
    let mut client = client(cluster.clients());
    let key = vec![b'k'; (8 << 10) + 1];
    let error = client
        .set(&key, "v")
        .await
        .expect_err("a key of 8 KiB and a byte");
    assert!(error.to_string().contains("8192"), "{error}");
    let value = vec![b'v'; (1 << 20) + 1];
    let error = client
        .set("k", &value)
        .await
        .expect_err("a value of 1 MiB and a byte");
    assert!(error.to_string().contains("1048576"), "{error}");
    client.set("k", &value[1..]).await.unwrap();
    assert_eq!(
        client.get("k").await.unwrap().map(|v| v.len()),
        Some(1 << 20)
    );
}

#[tokio::test]
async fn a_directory_serves_one_process() {
    let cluster = Cluster::start(1);
    let [client, peer] = free_ports();
    let second = Node::command(&cluster.data(0), client, peer, &[]);
    let (status, output) = run_to_end(second);
    assert!(!status.success());
    assert!(output.contains("another process uses it"), "{output}");
}

#[tokio::test]
async fn a_port_in_use_and_a_file_for_a_directory_are_named() {
    let cluster = Cluster::start(1);
    let [client, peer] = free_ports();
    let elsewhere = tempdir("in-use");
    let (status, output) = run_to_end(Node::command(&elsewhere, cluster.client_port(0), peer, &[]));
    assert!(!status.success());
    assert!(output.contains("cannot listen for clients"), "{output}");
    let file = elsewhere.join("a-file");
    std::fs::write(&file, "not a directory").unwrap();
    let (status, output) = run_to_end(Node::command(&file, client, peer, &[]));
    assert!(!status.success());
    assert!(output.contains("a-file"), "{output}");
}

#[tokio::test]
async fn a_directory_stays_with_its_cluster_whomever_it_is_told_to_join() {
    let one = Cluster::start(1);
    let mut other = Cluster::start(1);
    client(other.clients()).set("formed", "yes").await.unwrap();
    other.kill(0);
    other.join(0, &[one.peer_port(0)]);
    other.run(0);
    client(other.clients()).set("k", "v").await.unwrap();
    client(one.clients()).set("k", "v").await.unwrap();
}

/// What a node calls a problem.
async fn problems(cluster: &Cluster, node: usize) -> String {
    let question = Command::read("SYNOD").arg("STATUS");
    let answer = client(vec![cluster.client(node)]).call(&question).await;
    let json = answer.unwrap().into_bytes().unwrap().unwrap_or_default();
    let status: serde_json::Value = serde_json::from_slice(&json).unwrap();
    status["problems"].to_string()
}

/// Waits until a node calls it a problem; the words from `from` on, up to a quotation mark.
async fn said(cluster: &Cluster, node: usize, from: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let problems = problems(cluster, node).await;
        if let Some(at) = problems.find(from) {
            return problems[at..]
                .split('"')
                .next()
                .unwrap_or_default()
                .to_owned();
        }
        assert!(Instant::now() < deadline, "{problems}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_peer_of_another_cluster_is_refused_in_the_same_words_on_both_sides() {
    let mut cluster = Cluster::start(3);
    let mut good = client(cluster.clients());
    for key in keys() {
        good.set(key, "v").await.unwrap();
    }
    let mut other = Cluster::start(1);
    client(other.clients()).set("formed", "yes").await.unwrap();
    other.kill(0);
    // It comes up where the others expect one of theirs.
    cluster.kill(2);
    other.move_to(0, cluster.peer_port(2));
    other.run(0);
    let words = said(&cluster, 0, "the calling node belongs to cluster").await;
    assert_eq!(
        said(&other, 0, "the calling node belongs to cluster").await,
        words
    );
    for log in [cluster.log(0), other.log(0)] {
        assert!(log.contains(&words), "{words} is not in\n{log}");
    }
    let refused = problems(&cluster, 0).await;
    let there = format!("the node at {} refuses", cluster.peer(2));
    assert!(refused.contains(&there), "{refused}");
    assert!(problems(&other, 0).await.contains("was turned away"));
    // Neither is the worse for it.
    client(other.clients()).set("k", "v").await.unwrap();
    let mut good = client(vec![cluster.client(0), cluster.client(1)]);
    for key in keys() {
        good.set(key, "w").await.unwrap();
    }
}

/// A frame of another release: header, and a body that nobody here can read.
fn frame_of_version(version: u16) -> Vec<u8> {
    let mut frame = b"SYN0".to_vec();
    frame.extend(4u32.to_le_bytes());
    frame.extend(0u32.to_le_bytes());
    frame.extend(version.to_le_bytes());
    frame.extend(1u16.to_le_bytes());
    frame.extend([1, 2, 3, 4]);
    frame
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_so_and_named_on_this_side() {
    let mut cluster = Cluster::start(3);
    let mut stream = TcpStream::connect(cluster.peer(0)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(&frame_of_version(99)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"SYN0") && answer[12..14] != [99, 0],
        "{answer:?}"
    );
    let words = said(&cluster, 0, "the calling node speaks version 99").await;
    assert!(cluster.log(0).contains(&words), "{words}");
    // And the other way round: it is called, and answers so.
    cluster.kill(2);
    let listener = std::net::TcpListener::bind(cluster.peer(2)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(&frame_of_version(98));
            // Until the caller goes: closed at once, the answer could be lost with a reset.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let words = said(
        &cluster,
        0,
        "the calling node speaks version 1 of the peer protocol",
    )
    .await;
    assert!(words.contains("98"), "{words}");
    assert!(cluster.log(0).contains(&words), "{words}");
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("synod-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
