//! The client against servers that play a script: what is sent, what is sent again, and what never.

use std::{sync::Arc, time::Duration};

use synod_client::{
    Client, Command, Error, Options, Outcome, Value,
    transaction::{self, Settings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Mutex,
};

/// A server that plays its script for each connection in turn, and remembers every command.
#[derive(Clone)]
struct Script {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

/// The answer to a command, by its first words; `None` closes the connection instead.
type Answers = fn(connection: usize, command: &str) -> Option<&'static str>;

impl Script {
    async fn start(answers: Answers) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let script = Script {
            address,
            heard: Arc::default(),
        };
        let playing = script.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else {
                    break;
                };
                let mut input = Vec::new();
                'connection: loop {
                    while let Some((command, rest)) = command(&input) {
                        input = rest;
                        playing.heard.lock().await.push(command.clone());
                        let answer = match command.starts_with("HELLO") {
                            true => Some("%0\r\n"),
                            false => answers(connection, &command),
                        };
                        let Some(answer) = answer else {
                            break 'connection;
                        };
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break 'connection;
                        }
                    }
                    match stream.read_buf(&mut input).await {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    }
                }
            }
        });
        script
    }

    /// All commands so far, but for the greetings.
    async fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().await;
        heard
            .iter()
            .filter(|command| !command.starts_with("HELLO"))
            .cloned()
            .collect()
    }
}

/// The first command of `input`, its words with spaces between them, and what follows it.
fn command(input: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = String::from_utf8(input.to_vec()).expect("the tests send text");
    let mut lines = text.split_inclusive("\r\n");
    let count: usize = lines.next()?.trim_end().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        lines.next()?;
        words.push(lines.next()?.strip_suffix("\r\n")?.to_owned());
    }
    Some((words.join(" "), lines.collect::<String>().into_bytes()))
}

fn options() -> Options {
    Options {
        call_timeout: Duration::from_millis(200),
        ..Options::default()
    }
}

fn client(script: &Script) -> Client {
    Client::new([script.address.clone()], options())
}

#[tokio::test]
async fn the_greeting() {
    let script = Script::start(|_, _| Some("+PONG\r\n")).await;
    let options = Options {
        password: Some("secret".into()),
        name: "me".into(),
        ..Options::default()
    };
    let mut client = Client::new([script.address.clone()], options);
    client.call(&Command::read("PING")).await.expect("answers");
    let heard = script.heard.lock().await.clone();
    assert_eq!(heard, ["HELLO 3 AUTH default secret SETNAME me", "PING"]);
}

#[tokio::test]
async fn a_read_is_tried_again_elsewhere_when_the_connection_is_lost() {
    let first = Script::start(|_, _| None).await;
    let second = Script::start(|_, _| Some("$1\r\nv\r\n")).await;
    let addresses = [first.address.clone(), second.address.clone()];
    let mut client = Client::new(addresses, options());
    assert_eq!(
        client
            .get("k")
            .await
            .expect("the second answers")
            .as_deref(),
        Some(&b"v"[..])
    );
    assert_eq!(first.heard().await, ["GET k"]);
    assert_eq!(second.heard().await, ["GET k"]);
    assert_eq!(client.address(), second.address);
}

#[tokio::test]
async fn a_write_is_never_sent_again_when_its_outcome_is_unknown() {
    let first = Script::start(|_, _| None).await;
    let second = Script::start(|_, _| Some("+OK\r\n")).await;
    let addresses = [first.address.clone(), second.address.clone()];
    let mut client = Client::new(addresses, options());
    let lost = client.set("k", "v").await.expect_err("it is not known");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    assert!(second.heard().await.is_empty());
    client
        .set("k", "w")
        .await
        .expect("the next call goes to the next address");
    assert_eq!(second.heard().await, ["SET k w"]);
}

#[tokio::test]
async fn a_write_that_was_certainly_not_done_is_tried_again() {
    let script = Script::start(|_, command| {
        Some(match command {
            "SET k v" => "-UNKNOWN the leader was lost\r\n",
            "INCRBY n 1" => "-ERR value is not an integer or out of range\r\n",
            _ => "-TRYAGAIN no leader\r\n",
        })
    })
    .await;
    let options = Options {
        retry_for: Duration::from_millis(100),
        ..options()
    };
    let mut client = Client::new([script.address.clone()], options);
    let not_done = client
        .del(["k"])
        .await
        .expect_err("there is no leader at all");
    assert_eq!(not_done.outcome(), Outcome::Retryable);
    assert!(script.heard().await.len() > 2, "{:?}", script.heard().await);
    for (error, outcome) in [
        (
            client.set("k", "v").await.expect_err("unknown"),
            Outcome::Unknown,
        ),
        (
            client.incr_by("n", 1).await.expect_err("refused"),
            Outcome::NotDone,
        ),
    ] {
        assert_eq!(error.outcome(), outcome);
    }
    let sets = script
        .heard()
        .await
        .iter()
        .filter(|command| command.starts_with("SET"))
        .count();
    assert_eq!(sets, 1);
}

#[tokio::test]
async fn a_connection_that_timed_out_is_not_used_again() {
    // The first connection swallows what it hears; its late answer must not become the next one's.
    let script = Script::start(|connection, _| match connection {
        0 => Some(""),
        _ => Some("$3\r\nnew\r\n"),
    })
    .await;
    let mut client = client(&script);
    let late = client
        .call_once(&Command::read("GET").arg("old"))
        .await
        .expect_err("no answer");
    assert!(
        matches!(late, Error::TimedOut { timeout_ms: 200 }),
        "{late}"
    );
    let answer = client
        .call_once(&Command::read("GET").arg("new"))
        .await
        .expect("answers");
    assert_eq!(answer.as_bytes(), Some(&b"new"[..]));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_answer_to_the_next_one() {
    let script = Script::start(|connection, command| match (connection, command) {
        (0, "GET first") => Some(""),
        (0, _) => Some("$5\r\nfirst\r\n"),
        _ => Some("$6\r\nsecond\r\n"),
    })
    .await;
    let mut client = client(&script);
    let dropped = client.get("first");
    tokio::time::timeout(Duration::from_millis(50), dropped)
        .await
        .expect_err("no answer yet");
    let answer = client.get("second").await.expect("answers");
    assert_eq!(answer.as_deref(), Some(&b"second"[..]));
}

#[tokio::test]
async fn a_pipeline_has_an_error_in_its_place() {
    let script = Script::start(|_, command| match command {
        "BAD" => Some("-ERR unknown command\r\n"),
        _ => Some(":1\r\n"),
    })
    .await;
    let batch = [
        Command::new("INCR").arg("n"),
        Command::new("BAD"),
        Command::new("INCR").arg("n"),
    ];
    let answers = client(&script)
        .pipeline(&batch)
        .await
        .expect("all are answered");
    assert!(
        matches!(
            &answers[..],
            [Value::Integer(1), Value::Error(_), Value::Integer(1)]
        ),
        "{answers:?}"
    );
}

#[tokio::test]
async fn multi_is_all_or_none() {
    let script = Script::start(|_, command| {
        Some(match command {
            "MULTI" => "+OK\r\n",
            "EXEC" => "*2\r\n+OK\r\n:1\r\n",
            _ => "+QUEUED\r\n",
        })
    })
    .await;
    let commands = [
        Command::new("SET").arg("k").arg("v"),
        Command::new("INCR").arg("n"),
    ];
    let answers = client(&script).multi(&commands).await.expect("it commits");
    assert_eq!(
        answers,
        Some(vec![Value::Status("OK".into()), Value::Integer(1)])
    );
    assert_eq!(script.heard().await, ["MULTI", "SET k v", "INCR n", "EXEC"]);
    let aborting = Script::start(|_, command| {
        Some(match command {
            "MULTI" => "+OK\r\n",
            "EXEC" => "-EXECABORT Transaction discarded because of previous errors.\r\n",
            _ => "-ERR wrong\r\n",
        })
    })
    .await;
    let aborted = client(&aborting)
        .multi(&commands)
        .await
        .expect_err("it does not");
    assert_eq!(aborted.outcome(), Outcome::NotDone);
}

async fn transfer(client: &mut Client, settings: &Settings) -> Result<i64, Error> {
    transaction::run(client, settings, async |transaction| {
        let read = Command::read("GET").arg("n");
        let value = transaction.call(&read).await?.into_integer()?;
        let write = Command::new("SET").arg("n").arg((value + 1).to_string());
        transaction.call(&write).await?;
        Ok(value)
    })
    .await
}

fn named() -> Settings {
    Settings {
        tokens: true,
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_transaction_that_lost_is_run_again() {
    static COMMITS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let script = Script::start(|_, command| {
        Some(match command {
            "GET n" => ":7\r\n",
            "COMMIT" => match COMMITS.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => "-CONFLICT an older transaction holds a lock\r\n",
                _ => "+OK\r\n",
            },
            _ => "+OK\r\n",
        })
    })
    .await;
    let value = transfer(&mut client(&script), &Settings::default())
        .await
        .expect("commits");
    assert_eq!(value, 7);
    let once = ["BEGIN", "GET n", "SET n 8", "COMMIT"];
    assert_eq!(script.heard().await, [once, once].concat());
}

#[tokio::test]
async fn a_transaction_lost_before_its_commit_is_run_again_from_its_beginning() {
    let script = Script::start(|connection, command| match (connection, command) {
        (0, "SET n 8") => None,
        (_, "GET n") => Some(":7\r\n"),
        _ => Some("+OK\r\n"),
    })
    .await;
    transfer(&mut client(&script), &Settings::default())
        .await
        .expect("commits");
    let heard = script.heard().await;
    assert_eq!(
        heard,
        [
            "BEGIN", "GET n", "SET n 8", "BEGIN", "GET n", "SET n 8", "COMMIT"
        ],
        "no command of it runs outside of a transaction"
    );
}

#[tokio::test]
async fn a_lost_commit_is_unknown_without_a_token() {
    let script = Script::start(|_, command| match command {
        "COMMIT" => None,
        "GET n" => Some(":7\r\n"),
        _ => Some("+OK\r\n"),
    })
    .await;
    let lost = transfer(&mut client(&script), &Settings::default())
        .await
        .expect_err("unknown");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    let commits = script
        .heard()
        .await
        .iter()
        .filter(|command| *command == "COMMIT")
        .count();
    assert_eq!(commits, 1);
}

#[tokio::test]
async fn a_lost_commit_is_asked_for_by_its_token() {
    let script = Script::start(|_, command| match command {
        "COMMIT" => None,
        "GET n" => Some(":7\r\n"),
        "TXN TOKEN" => Some("+t\r\n"),
        "TXN STATUS t" => Some("+COMMITTED\r\n"),
        _ => Some("+OK\r\n"),
    })
    .await;
    let value = transfer(&mut client(&script), &named())
        .await
        .expect("it did commit");
    assert_eq!(value, 7);
    let heard = script.heard().await;
    assert_eq!(
        heard,
        [
            "TXN TOKEN",
            "BEGIN TOKEN t",
            "GET n",
            "SET n 8",
            "COMMIT",
            "TXN STATUS t"
        ]
    );
}

#[tokio::test]
async fn a_commit_that_certainly_failed_is_run_again_under_another_token() {
    let script = Script::start(|connection, command| match (connection, command) {
        (0, "COMMIT") => None,
        (_, "GET n") => Some(":7\r\n"),
        (0, "TXN TOKEN") => Some("+t\r\n"),
        (_, "TXN TOKEN") => Some("+u\r\n"),
        (_, "TXN STATUS t") => Some("+ABORTED\r\n"),
        _ => Some("+OK\r\n"),
    })
    .await;
    transfer(&mut client(&script), &named())
        .await
        .expect("the second run commits");
    let heard = script.heard().await;
    assert_eq!(heard[5..8], ["TXN STATUS t", "TXN TOKEN", "BEGIN TOKEN u"]);
    assert_eq!(heard.last().map(String::as_str), Some("COMMIT"));
}

#[tokio::test]
async fn an_error_in_the_body_rolls_back() {
    let script = Script::start(|_, command| {
        Some(match command {
            "GET n" => "-ERR no\r\n",
            _ => "+OK\r\n",
        })
    })
    .await;
    let refused = transfer(&mut client(&script), &Settings::default())
        .await
        .expect_err("no");
    assert_eq!(refused.outcome(), Outcome::NotDone);
    assert_eq!(script.heard().await, ["BEGIN", "GET n", "ROLLBACK"]);
}
