//! The edge over real sockets, with a gateway that is a map in memory.

#![cfg(not(madsim))]

#[path = "support/memory.rs"]
mod memory;

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use memory::Memory;
use synod::{
    config::ClientSettings,
    edge::{Edge, Registry, Shutdown, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, timeout},
};

/// Generous: only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    memory: Memory,
    registry: Arc<Registry>,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

async fn start(clients: ClientSettings, password: Option<&str>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let registry = Arc::<Registry>::default();
    let edge = Edge {
        clients,
        password: password.map(str::to_owned),
        port: 7601,
        node: "test".to_owned(),
        started: Instant::now(),
        registry: Arc::clone(&registry),
    };
    let (memory, shutdown) = (Memory::default(), Shutdown::default());
    let serving = tokio::spawn(serve(
        listener,
        memory.clone(),
        Arc::new(edge),
        shutdown.clone(),
    ));
    Server {
        address,
        memory,
        registry,
        shutdown,
        serving,
    }
}

struct Client(TcpStream);

impl Client {
    async fn connect(server: &Server) -> Client {
        Client(
            TcpStream::connect(server.address)
                .await
                .expect("the server listens"),
        )
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0
            .write_all(bytes.as_ref())
            .await
            .expect("the server reads");
    }

    /// Reads as much as is expected, and compares.
    async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut found = vec![0; expected.len()];
        let mut read = 0;
        while read < expected.len() {
            let more = timeout(PATIENCE, self.0.read(&mut found[read..])).await;
            let more = more.unwrap_or(Ok(0)).expect("the connection lives");
            if more == 0 {
                break;
            }
            read += more;
        }
        let found = &found[..read];
        assert!(
            found == expected,
            "expected {}\n   found {}",
            cut(expected).escape_ascii(),
            cut(found).escape_ascii()
        );
    }

    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await;
        ended
            .expect("the server closes the connection")
            .expect("without an error");
        assert!(rest.is_empty(), "more came: {}", cut(&rest).escape_ascii());
    }
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(2000)]
}

fn framed(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Plays every script of `transcripts/` against a fresh server.
///
/// `> text` sends a line, `>> bytes` sends bytes with `\r \n \xHH` escapes, `< bytes` is what must
/// come back, `<end` is the end of the connection, `password word` and `client` (a second connection,
/// from here on) do what they say; `#` is a comment.
#[tokio::test]
async fn transcripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    names.sort();
    assert!(names.len() >= 8, "the transcripts are missing");
    for name in names {
        println!("{}", name.display());
        let script = fs::read_to_string(&name).expect("it can be read");
        let password = script
            .lines()
            .find_map(|line| line.strip_prefix("password "));
        let server = start(ClientSettings::default(), password).await;
        let mut client = Client::connect(&server).await;
        for line in script.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                (">", text) => client.send(format!("{text}\r\n")).await,
                (">>", text) => client.send(unescape(text)).await,
                ("<", text) => client.expect(unescape(text)).await,
                ("<end", "") => client.expect_end().await,
                ("client", "") => client = Client::connect(&server).await,
                ("password" | "#" | "", _) => {}
                _ => panic!("not a line of a transcript: {line}"),
            }
        }
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().expect("an escape has a letter") {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&digits).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            }
            other => panic!("no such escape: {}", other as char),
        }
    }
    bytes
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    let (mut commands, mut answers) = (Vec::new(), Vec::new());
    for number in 0..20_000 {
        let value = format!("value-{number}");
        commands.extend(framed(&[b"SET", b"k", value.as_bytes()]));
        commands.extend(framed(&[b"GET", b"k"]));
        commands.extend(framed(&[b"ECHO", value.as_bytes()]));
        let bulk = format!("${}\r\n{value}\r\n", value.len());
        answers.extend(format!("+OK\r\n{bulk}{bulk}").into_bytes());
    }
    client.send(&commands).await;
    client.expect(&answers).await;
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    for byte in framed(&[b"SET", b"k", b"v\r\n"]) {
        client.send([byte]).await;
    }
    client.expect("+OK\r\n").await;
    client.send(framed(&[b"GET", b"k"])).await;
    client.expect("$3\r\nv\r\n\r\n").await;
}

#[tokio::test]
async fn commands_in_flight_are_bounded() {
    let clients = ClientSettings {
        in_flight_commands_max: 100,
        ..ClientSettings::default()
    };
    let server = start(clients, None).await;
    server.memory.hold();
    let mut client = Client::connect(&server).await;
    let commands: Vec<u8> = (0..5000)
        .flat_map(|number| framed(&[b"ECHO", format!("{number:04}").as_bytes()]))
        .collect();
    client.send(&commands).await;
    server.memory.release();
    let answers: String = (0..5000)
        .map(|number| format!("$4\r\n{number:04}\r\n"))
        .collect();
    client.expect(&answers).await;
    assert!(
        server.memory.in_flight_max() <= 100,
        "{}",
        server.memory.in_flight_max()
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_is_held_then_closed_and_others_are_served() {
    let clients = ClientSettings {
        output_bytes_max: 1 << 20,
        output_stall_ms: 200,
        ..ClientSettings::default()
    };
    let server = start(clients, None).await;
    let mut other = Client::connect(&server).await;
    let value = vec![b'x'; 1 << 20];
    other.send(framed(&[b"SET", b"k", &value])).await;
    other.expect("+OK\r\n").await;
    let slow = Client::connect(&server).await;
    while server.registry.connected() < 2 {
        tokio::task::yield_now().await;
    }
    let (mut reader, mut writer) = slow.0.into_split();
    // 4,000 answers of 1 MiB. Without a bound, and a client that never reads, all are buffered.
    let sending = tokio::spawn(async move {
        let gets: Vec<u8> = framed(&[b"GET", b"k"]).repeat(4000);
        // Fails when the server gives the client up.
        let _ = writer.write_all(&gets).await;
        writer
    });
    let closed = timeout(PATIENCE, async {
        while server.registry.connected() > 1 {
            other.send("PING\r\n").await;
            other.expect("+PONG\r\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    closed
        .await
        .expect("the client that does not read is closed");
    let mut got = Vec::new();
    // What the kernel had taken; the end may be a reset.
    let _ = reader.read_to_end(&mut got).await;
    assert!(
        got.len() < 2000 << 20,
        "{} bytes were sent to a client that did not read",
        got.len()
    );
    drop(sending.await);
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answers() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    server.memory.hold();
    client.send("SET k v\r\nGET k\r\n").await;
    client.0.shutdown().await.expect("half closes");
    server.memory.release();
    client.expect("+OK\r\n$1\r\nv\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn an_oversized_command_is_an_error_and_the_connection_lives_on() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    let value = vec![b'x'; 17 << 20];
    client.send(framed(&[b"SET", b"k", &value])).await;
    client
        .send(framed(&[b"SET", b"k", &value[..(1 << 20) + 1]]))
        .await;
    client.send(framed(&[b"SET", &value[..8193], b"v"])).await;
    client.send("PING\r\n").await;
    let mut answers = String::new();
    let mut chunk = [0; 4096];
    while !answers.ends_with("+PONG\r\n") {
        let read = timeout(PATIENCE, client.0.read(&mut chunk))
            .await
            .expect("an answer");
        let read = read.expect("the connection lives");
        assert!(read > 0, "closed after {answers:?}");
        answers.push_str(std::str::from_utf8(&chunk[..read]).expect("text"));
    }
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(
        lines[0],
        "-TOOLARGE command of 17825825 bytes exceeds the limit of 16777216 bytes"
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[1..3].iter().all(|line| line.starts_with('-')),
        "{lines:?}"
    );
}

#[tokio::test]
async fn garbage_is_answered_and_closed_even_while_it_is_still_sent() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    client.send("PING\r\n*1\r\n:garbage\r\n").await;
    // More than the server has read when it answers: were the socket closed with this unread, a
    // reset could overtake the answer.
    client.send(vec![b'x'; 1 << 20]).await;
    client
        .expect("+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n")
        .await;
    client.expect_end().await;
}

#[tokio::test]
async fn one_client_too_many_is_told() {
    let clients = ClientSettings {
        connections_max: 2,
        ..ClientSettings::default()
    };
    let server = start(clients, None).await;
    let mut first = Client::connect(&server).await;
    let mut second = Client::connect(&server).await;
    for client in [&mut first, &mut second] {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    let mut third = Client::connect(&server).await;
    third.expect("-ERR max number of clients reached\r\n").await;
    third.expect_end().await;
    drop(third);
    first.send("QUIT\r\n").await;
    first.expect("+OK\r\n").await;
    first.expect_end().await;
    while server.registry.connected() > 1 {
        tokio::task::yield_now().await;
    }
    let mut fourth = Client::connect(&server).await;
    fourth.send("PING\r\n").await;
    fourth.expect("+PONG\r\n").await;
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    server.memory.hold();
    client.send("SET k v\r\n").await;
    while server.memory.in_flight_max() < 1 || server.registry.commands() < 2 {
        tokio::task::yield_now().await;
    }
    server.shutdown.start();
    assert!(!server.serving.is_finished(), "an answer is due");
    server.memory.release();
    client.expect("+OK\r\n").await;
    client.expect_end().await;
    timeout(PATIENCE, server.serving)
        .await
        .expect("it stops")
        .expect("without a panic");
    TcpStream::connect(server.address)
        .await
        .expect_err("the port is closed");
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_its_grace() {
    let clients = ClientSettings {
        shutdown_grace_ms: 100,
        ..ClientSettings::default()
    };
    let server = start(clients, None).await;
    let mut client = Client::connect(&server).await;
    server.memory.hold();
    client.send("SET k v\r\n").await;
    while server.registry.commands() < 1 {
        tokio::task::yield_now().await;
    }
    server.shutdown.start();
    timeout(PATIENCE, server.serving)
        .await
        .expect("it stops")
        .expect("without a panic");
    client.expect_end().await;
}

#[tokio::test]
async fn clients_are_listed_and_described() {
    let server = start(ClientSettings::default(), None).await;
    let mut client = Client::connect(&server).await;
    client
        .send("CLIENT SETNAME me\r\nCLIENT SETINFO LIB-NAME lib\r\nCLIENT LIST\r\n")
        .await;
    client.expect("+OK\r\n+OK\r\n$").await;
    let address = client.0.local_addr().expect("it is bound");
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.ends_with("\n\r\n") {
        let read = client.0.read(&mut chunk).await.expect("an answer");
        text.push_str(std::str::from_utf8(&chunk[..read]).expect("text"));
    }
    let expected = format!("id=1 addr={address} laddr={} name=me ", server.address);
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("resp=2 lib-name=lib lib-ver="), "{text}");
}
