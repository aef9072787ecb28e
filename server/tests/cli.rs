//! The client commands of the program, against the edge over a map in memory.

#![cfg(not(madsim))]

#[path = "support/memory.rs"]
mod memory;
#[allow(dead_code, reason = "the process tests need more of it")]
#[path = "support/process.rs"]
mod process;

use std::{net::SocketAddr, process::Command, sync::Arc, thread};

use process::{run, synod, text};
use synod::{
    config::ClientSettings,
    edge::{Edge, Shutdown, serve},
};

/// A server in a thread of this process, for as long as the test runs.
fn server(password: Option<&str>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("it is a socket");
    let address = listener.local_addr().expect("it is bound");
    let password = password.map(str::to_owned);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let edge = Edge {
                clients: ClientSettings::default(),
                password,
                port: address.port(),
                node: "test".to_owned(),
                started: tokio::time::Instant::now(),
                registry: Arc::default(),
            };
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let memory = memory::Memory::default();
            serve(listener, memory, Arc::new(edge), Shutdown::default()).await;
        });
    });
    address
}

fn cli(address: SocketAddr) -> Command {
    let mut command = synod();
    command.args(["cli", "--addr", &address.to_string()]);
    command
}

#[test]
fn one_command() {
    let address = server(None);
    let set = run(cli(address).args(["SET", "k", "two words"]), "");
    assert_eq!(
        (text(&set.stdout).as_str(), set.status.code()),
        ("OK\n", Some(0))
    );
    let get = run(cli(address).args(["GET", "k"]), "");
    assert_eq!(text(&get.stdout), "two words\n");
    let json = run(cli(address).args(["--json", "MGET", "k", "absent"]), "");
    assert_eq!(text(&json.stdout), "[\"two words\",null]\n");
}

#[test]
fn an_error_is_printed_and_is_the_exit_code() {
    let address = server(None);
    let failed = run(cli(address).args(["NONSENSE", "-x"]), "");
    let stdout = text(&failed.stdout);
    assert!(
        stdout.starts_with("ERR unknown command 'NONSENSE'"),
        "{stdout}"
    );
    assert_eq!(failed.status.code(), Some(1));
    let failed = run(cli(address).args(["--json", "GET"]), "");
    assert_eq!(
        text(&failed.stdout),
        "{\"error\":{\"code\":\"ERR\",\"message\":\"wrong number of arguments for 'get' command\"}}\n"
    );
}

#[test]
fn lines_of_stdin() {
    let address = server(None);
    let input = "SET k \"a \\x41\"\n\nGET k\nGET \"k\nGET absent\n";
    let lines = run(&mut cli(address), input);
    assert_eq!(text(&lines.stdout), "OK\na A\n\n");
    assert_eq!(text(&lines.stderr), "synod: unbalanced quotes\n");
    assert_eq!(lines.status.code(), Some(1));
}

#[test]
fn any_of_several_addresses_and_a_password() {
    let address = server(Some("secret"));
    // Nothing listens at port 1.
    let mut command = synod();
    command.args([
        "cli",
        "--addr",
        &format!("127.0.0.1:1,{address}"),
        "GET",
        "k",
    ]);
    let refused = run(&mut command, "");
    let stderr = text(&refused.stderr);
    assert!(stderr.contains("NOAUTH"), "{stderr}");
    assert_eq!(refused.status.code(), Some(1));
    let answered = run(command.env("SYNOD_PASSWORD", "secret"), "");
    assert_eq!(
        (text(&answered.stdout).as_str(), answered.status.code()),
        ("\n", Some(0))
    );
}

#[test]
fn what_cannot_be_reached_is_named() {
    let mut command = synod();
    let failed = run(
        command
            .args(["cli", "GET", "k"])
            .env("SYNOD_ADDR", "127.0.0.1:1"),
        "",
    );
    let stderr = text(&failed.stderr);
    assert!(
        stderr.starts_with("synod: 127.0.0.1:1: cannot connect to 127.0.0.1:1: "),
        "{stderr}"
    );
    assert_eq!(failed.status.code(), Some(1));
    let wrong = run(synod().args(["status", "--addr", "nowhere"]), "");
    let stderr = text(&wrong.stderr);
    assert!(
        stderr.contains("\"nowhere\" is not an address HOST:PORT"),
        "{stderr}"
    );
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn wrong_settings_name_themselves_and_where_they_came_from() {
    let wrong_flag = run(synod().args(["start", "--shards", "many"]), "");
    assert_eq!(
        text(&wrong_flag.stderr),
        "synod: shards: \"many\" is not a whole number from 1 to 4096 (from flag --shards)\n"
    );
    assert_eq!(wrong_flag.status.code(), Some(2));
    let wrong_variable = run(synod().arg("start").env("SYNOD_CLEINT", "x"), "");
    assert_eq!(
        text(&wrong_variable.stderr),
        "synod: SYNOD_CLEINT: there is no such setting \
         (from environment variable SYNOD_CLEINT); did you mean SYNOD_CLIENT?\n"
    );
    let directory = process::Directory::new("settings");
    let file = directory.path().join("synod.toml");
    std::fs::write(&file, "shards = 4\nreplicas = 2\n").expect("the directory is writable");
    let wrong_line = run(synod().args(["start", "--config"]).arg(&file), "");
    assert_eq!(
        text(&wrong_line.stderr),
        format!(
            "synod: replicas: \"2\" is not 1, 3, 5 or 7 (from {}, line 2)\n",
            file.display()
        )
    );
    let unknown_flag = run(synod().args(["start", "--shard", "4"]), "");
    assert!(
        text(&unknown_flag.stderr).contains("--shards"),
        "a similar flag is offered"
    );
    let filter = run(synod().args(["start", "--log", "synod=loud"]), "");
    let stderr = text(&filter.stderr);
    assert!(stderr.starts_with("synod: log: "), "{stderr}");
}
