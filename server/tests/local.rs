//! `synod start` alone, and `synod local`: what a user sees of processes, directories and ports.

#![cfg(not(madsim))]

#[path = "support/ports.rs"]
mod ports;
#[path = "support/process.rs"]
mod process;

use std::{fs, net::TcpListener, process::Command};

use ports::free_ports;
use process::{Directory, Running, ask, ask_until, run, send_signal, synod, text};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

fn node(directory: &Directory, port: u16) -> Command {
    let mut command = synod();
    command
        .args(["start", "--data"])
        .arg(directory.path().join("data"))
        .args(["--client", &format!("127.0.0.1:{port}")])
        .args(["--peer", &format!("127.0.0.1:{}", port + 1)]);
    command
}

fn local(directory: &Directory, nodes: u16, port: u16) -> Command {
    let mut command = synod();
    command
        .args(["local", "--nodes", &nodes.to_string(), "--dir"])
        .arg(directory.path())
        .args(["--client-port", &port.to_string()])
        .args(["--peer-port", &(port + nodes).to_string()]);
    command
}

#[test]
fn one_node_works_at_once_and_goes_on_with_its_data() {
    let directory = Directory::new("one-node");
    let port = free_ports(2);
    let mut running = Running::start(&mut node(&directory, port));
    ask_until(port, "SET k v", "+OK");
    running.signal(SIGTERM);
    assert_eq!(running.wait(), Some(0));
    let mut running = Running::start(&mut node(&directory, port));
    ask_until(port, "GET k", "v");
    running.signal(SIGKILL);
    assert_eq!(running.wait(), None);
    let _running = Running::start(&mut node(&directory, port));
    ask_until(port, "GET k", "v");
}

#[test]
fn three_nodes_replicate_and_go_on_with_their_data() {
    let directory = Directory::new("three-nodes");
    let port = free_ports(6);
    let mut cluster = Running::start(&mut local(&directory, 3, port));
    cluster.wait_for("serving");
    ask_until(port, "SET k v", "+OK");
    for port in port..port + 3 {
        ask_until(port, "GET k", "v");
    }
    cluster.signal(SIGTERM);
    cluster.wait_for("stopping all nodes");
    assert_eq!(cluster.wait(), Some(0));
    ask(port, "PING").expect_err("the nodes are gone");
    let _cluster = Running::start(&mut local(&directory, 3, port));
    for port in port..port + 3 {
        ask_until(port, "GET k", "v");
    }
}

#[test]
fn a_node_that_dies_is_named_and_the_others_serve_on() {
    let directory = Directory::new("death");
    let port = free_ports(6);
    let mut cluster = Running::start(&mut local(&directory, 3, port));
    for port in port..port + 3 {
        ask_until(port, "SET k v", "+OK");
    }
    let line = cluster.wait_for("node 3 ");
    let pid = line
        .split("pid ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    send_signal(
        pid.and_then(|pid| pid.parse().ok())
            .expect("the line has a pid"),
        SIGKILL,
    );
    let line = cluster.wait_for("DIED");
    assert!(
        line.starts_with("node 3 ") && line.contains("was killed (signal 9)"),
        "{line}"
    );
    for port in port..port + 2 {
        ask_until(port, "SET k w", "+OK");
    }
}

#[test]
fn nodes_do_not_outlive_a_killed_supervisor() {
    let directory = Directory::new("orphans");
    let port = free_ports(2);
    let mut cluster = Running::start(&mut local(&directory, 1, port));
    ask_until(port, "PING", "+PONG");
    cluster.signal(SIGKILL);
    assert_eq!(cluster.wait(), None);
    let deadline = std::time::Instant::now() + process::PATIENCE;
    while ask(port, "PING").is_ok() {
        assert!(std::time::Instant::now() < deadline, "the node lives on");
    }
}

#[test]
fn local_names_a_port_in_use_and_a_directory_that_cannot_be() {
    let directory = Directory::new("local-refusals");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let refused = run(&mut local(&directory, 1, port), "");
    let stderr = text(&refused.stderr);
    assert!(
        stderr.contains(&format!("port {port} (client port of node 1) is in use")),
        "{stderr}"
    );
    assert_eq!(refused.status.code(), Some(1));
    let file = directory.path().join("file");
    fs::write(&file, "").expect("the directory is writable");
    let refused = run(synod().args(["local", "--dir"]).arg(&file), "");
    let stderr = text(&refused.stderr);
    assert!(stderr.starts_with("synod: cannot write in "), "{stderr}");
}
