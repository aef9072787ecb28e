//! Transactions on a cluster of real processes: what clients see through any node, and what is left
//! of it when nodes are killed. `BANK_SECONDS=300` makes the bank as long as it should be before a
//! release.
#![cfg(not(madsim))]

#[allow(dead_code)] // what other tests use of it
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::Cluster;
use synod_client::{
    Client, Command, Error, Options, Outcome, Value,
    transaction::{self, Transaction},
};

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

/// A client of node `node` alone, which serves by now: what a client says with `call_once`, as one says the
/// words of a transaction, is not said again to a node that has not founded the cluster yet.
async fn client_of(cluster: &Cluster, node: usize) -> Client {
    let mut client = client(vec![cluster.client(node)]);
    client.get("~").await.expect("the node comes to serve");
    client
}

/// The `i`th key of the shard that has the first byte `32 * shard` and more.
fn key(shard: u8, i: usize) -> Vec<u8> {
    let mut key = vec![shard * 32 + 5];
    key.extend(format!("key{i:03}").bytes());
    key
}

fn set(key: &[u8], value: &str) -> Command {
    Command::new("SET").arg(key).arg(value)
}

fn get(key: &[u8]) -> Command {
    Command::read("GET").arg(key)
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned()
}

#[tokio::test]
async fn multi_over_shards_is_seen_whole_through_every_node() {
    let cluster = Cluster::start(3);
    let (a, b) = (key(0, 0), key(5, 0));
    let mut one = client_of(&cluster, 0).await;
    one.set(&a, "text").await.unwrap();
    let commands = [
        set(&b, "1"),
        Command::new("INCR").arg(&a),
        Command::new("INCRBY").arg(&b).arg("4"),
        get(&a),
    ];
    let answers = one.multi(&commands).await.unwrap().expect("not watched");
    assert_eq!(answers[0], Value::Status("OK".into()));
    assert!(matches!(answers[1], Value::Error(_)), "{answers:?}");
    assert_eq!(answers[2], Value::Integer(5));
    assert_eq!(text(&answers[3]), "text");
    for node in 0..3 {
        let mut other = client_of(&cluster, node).await;
        let found = other.mget([&a, &b]).await.unwrap();
        assert_eq!(found[0].as_deref(), Some(b"text".as_slice()));
        assert_eq!(found[1].as_deref(), Some(b"5".as_slice()));
    }
    // An error while queueing: nothing is done.
    let broken = [
        Command::new("MULTI"),
        set(&a, "lost"),
        Command::new("NOSUCHCOMMAND"),
        Command::new("EXEC"),
    ];
    let answers = one.pipeline(&broken).await.unwrap();
    let Value::Error(error) = &answers[3] else {
        panic!("{answers:?}");
    };
    assert_eq!(error.code, "EXECABORT");
    assert_eq!(
        one.get(&a).await.unwrap().as_deref(),
        Some(b"text".as_slice())
    );
}

#[tokio::test]
async fn a_watched_key_that_another_node_changes_makes_exec_null() {
    let cluster = Cluster::start(3);
    let (watched, written) = (key(1, 0), key(6, 0));
    let mut one = client_of(&cluster, 0).await;
    let mut other = client_of(&cluster, 1).await;
    one.set(&watched, "first").await.unwrap();
    let watch = Command::new("WATCH").arg(&watched).arg(&written);
    one.call_once(&watch).await.unwrap();
    let done = one.multi(&[set(&written, "1")]).await.unwrap();
    assert!(done.is_some(), "nothing has changed");
    one.call_once(&watch).await.unwrap();
    other.set(&watched, "changed").await.unwrap();
    let done = one.multi(&[set(&written, "2")]).await.unwrap();
    assert_eq!(done, None);
    let found = other.get(&written).await.unwrap();
    assert_eq!(found.as_deref(), Some(b"1".as_slice()));
}

#[tokio::test]
async fn commands_over_shards_are_whole() {
    let cluster = Cluster::start(3);
    let mut one = client_of(&cluster, 0).await;
    let mut other = client_of(&cluster, 2).await;
    let keys: Vec<Vec<u8>> = (0..8).map(|shard| key(shard, 1)).collect();
    let mset = keys
        .iter()
        .fold(Command::new("MSETNX"), |it, key| it.arg(key).arg("v"));
    assert_eq!(one.call(&mset).await.unwrap(), Value::Integer(1));
    assert_eq!(other.call(&mset).await.unwrap(), Value::Integer(0));
    let range = Command::read("RANGE").arg("\0").arg([255u8]);
    let rows = other
        .call(&range)
        .await
        .unwrap()
        .into_array()
        .unwrap()
        .unwrap();
    assert_eq!(rows.len(), 16);
    let first_three = range.clone().arg("LIMIT").arg("3");
    let rows = one
        .call(&first_three)
        .await
        .unwrap()
        .into_array()
        .unwrap()
        .unwrap();
    let expected: Vec<&[u8]> = keys[..3].iter().map(Vec::as_slice).collect();
    let found: Vec<&[u8]> = rows.iter().step_by(2).filter_map(Value::as_bytes).collect();
    assert_eq!(found, expected);
    let size = Command::read("DBSIZE");
    assert_eq!(one.call(&size).await.unwrap(), Value::Integer(8));
    assert_eq!(other.del(&keys[..2]).await.unwrap(), 2);
    assert_eq!(one.call(&size).await.unwrap(), Value::Integer(6));
    one.call(&Command::new("FLUSHALL")).await.unwrap();
    assert_eq!(other.call(&size).await.unwrap(), Value::Integer(0));
}

#[tokio::test]
async fn an_interactive_transaction_is_isolated_and_sees_no_phantom() {
    let cluster = Cluster::start(3);
    let mut one = client_of(&cluster, 0).await;
    let mut other = client_of(&cluster, 1).await;
    let settings = transaction::Settings::default();
    let (a, b) = (key(2, 0), key(7, 0));
    one.set(&a, "1").await.unwrap();
    let mut runs = 0;
    let range = Command::read("RANGE").arg([0u8]).arg([255u8]);
    let found = transaction::run(&mut one, &settings, async |txn: &mut Transaction| {
        runs += 1;
        let before = txn.call(&range).await?.into_array()?.unwrap_or_default();
        if runs == 1 {
            // Somebody else adds a key to the range: a phantom, if this were let through.
            other.set(key(4, runs), "new").await?;
        }
        txn.call(&set(&b, "2")).await?;
        let after = txn.call(&range).await?.into_array()?.unwrap_or_default();
        assert_eq!(after.len(), before.len() + 2, "it sees what it wrote");
        Ok(before.len() / 2)
    })
    .await
    .unwrap();
    assert_eq!((runs, found), (2, 2), "the first run had to be repeated");
    let found = other.mget([&a, &b]).await.unwrap();
    assert_eq!(found[1].as_deref(), Some(b"2".as_slice()));
    // Read-only, and over: what follows is not carried out.
    for (line, code) in [("BEGIN READONLY", None), ("SET x 1", Some("ERR"))] {
        let words: Vec<_> = line.split(' ').map(|word| word.to_owned().into()).collect();
        let result = one.call_once(&Command::of_words(&words).unwrap()).await;
        match (result, code) {
            (Ok(_), None) => {}
            (Err(Error::Server(error)), Some(code)) => assert_eq!(error.code, code),
            (result, _) => panic!("{line}: {result:?}"),
        }
    }
    one.call_once(&Command::new("ROLLBACK")).await.unwrap();
}

/// The words of a line, as one command on one connection.
async fn say(client: &mut Client, line: &str) -> Result<Value, Error> {
    let words: Vec<_> = line.split(' ').map(|word| word.to_owned().into()).collect();
    client.call_once(&Command::of_words(&words).unwrap()).await
}

#[tokio::test]
async fn a_snapshot_is_one_state_of_all_shards_on_any_node_until_it_is_too_old() {
    let cluster = Cluster::start_with(3, &["--retention-ms", "4000"]);
    // Versions follow what a gateway has seen, not the clock on the wall: the writer is at the node that
    // chooses the snapshot's version, so that what it wrote before is in it, and what it writes later is not.
    let mut writer = client_of(&cluster, 0).await;
    let keys = ["0a", "Ma", "za"];
    for key in keys {
        writer.set(key, "old").await.unwrap();
    }
    let mut one = client_of(&cluster, 0).await;
    let at = say(&mut one, "BEGIN READONLY SNAPSHOT").await.unwrap();
    let at = at.into_integer().unwrap();
    for key in keys {
        writer.set(key, "new").await.unwrap();
    }
    let olds = |values: Vec<Option<_>>| values.iter().all(|it| it.as_deref() == Some(&b"old"[..]));
    let found = one.mget(keys).await.unwrap();
    assert!(olds(found.clone()), "as it was at {at}: {found:?}");
    let range = say(&mut one, "RANGE 0 zz").await.unwrap();
    assert!(!format!("{range:?}").contains("new"), "{range:?}");
    let refused = say(&mut one, "SET 0a mine").await;
    assert!(refused.unwrap_err().to_string().contains("read-only"));
    say(&mut one, "COMMIT").await.unwrap();
    // The same version again, through every node.
    for node in 0..3 {
        let mut other = client_of(&cluster, node).await;
        say(&mut other, &format!("BEGIN SNAPSHOT AT {at}"))
            .await
            .unwrap();
        assert!(olds(other.mget(keys).await.unwrap()), "node {node}");
        say(&mut other, "COMMIT").await.unwrap();
        assert_eq!(other.get("0a").await.unwrap().as_deref(), Some(&b"new"[..]));
    }
    let future = say(&mut one, &format!("BEGIN SNAPSHOT AT {}", i64::MAX)).await;
    assert!(future.unwrap_err().to_string().contains("in the future"));
    say(&mut one, "ROLLBACK").await.unwrap();
    // Until it is too old: then it says so, and the version is never served in part.
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        writer.set("0a", "newer").await.unwrap();
        say(&mut one, &format!("BEGIN SNAPSHOT AT {at}"))
            .await
            .unwrap();
        match say(&mut one, "GET 0a").await {
            Ok(found) => assert_eq!(found.as_bytes(), Some(&b"old"[..])),
            Err(Error::Server(error)) => {
                assert_eq!(error.code, "EXPIRED", "{error:?}");
                break;
            }
            Err(error) => panic!("{error:?}"),
        }
        say(&mut one, "COMMIT").await.unwrap();
        assert!(Instant::now() < patience, "it is kept for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_token_is_issued_used_once_and_answered_for_by_any_node() {
    let cluster = Cluster::start(3);
    let mut one = client_of(&cluster, 0).await;
    let mut other = client_of(&cluster, 1).await;
    let issue = Command::read("TXN").arg("TOKEN");
    let ask = |token: &[u8]| Command::read("TXN").arg("STATUS").arg(token);
    for _ in 0..4 {
        let token = one
            .call(&issue)
            .await
            .unwrap()
            .into_bytes()
            .unwrap()
            .unwrap();
        for again in [false, true] {
            let who = if again { &mut other } else { &mut one };
            let begin = Command::new("BEGIN").arg("TOKEN").arg(&token);
            who.call_once(&begin).await.unwrap();
            who.call_once(&Command::new("INCR").arg(key(3, 0)))
                .await
                .unwrap();
            who.call_once(&Command::new("INCR").arg(key(4, 0)))
                .await
                .unwrap();
            who.call_once(&Command::new("COMMIT")).await.unwrap();
        }
        assert_eq!(text(&other.call(&ask(&token)).await.unwrap()), "COMMITTED");
    }
    let found = other.mget([key(3, 0), key(4, 0)]).await.unwrap();
    assert!(
        found.iter().all(|value| value.as_deref() == Some(b"4")),
        "{found:?}"
    );
    // A token that nobody used: asking for it gives it up.
    let token = one
        .call(&issue)
        .await
        .unwrap()
        .into_bytes()
        .unwrap()
        .unwrap();
    assert_eq!(text(&other.call(&ask(&token)).await.unwrap()), "ABORTED");
    let begin = Command::new("BEGIN").arg("TOKEN").arg(&token);
    one.call_once(&begin).await.unwrap();
    one.call_once(&set(&key(3, 0), "lost")).await.unwrap();
    let refused = one
        .call_once(&Command::new("COMMIT"))
        .await
        .expect_err("given up");
    assert!(refused.to_string().contains("ABORTED"), "{refused}");
    let refused = one
        .call_once(&ask(b"order-17"))
        .await
        .expect_err("no token");
    assert_eq!(refused.outcome(), Outcome::NotDone);
}

const ACCOUNTS: usize = 100;
const FIRST: i64 = 1000;

fn account(i: usize) -> Vec<u8> {
    key((i % 8) as u8, i)
}

/// What one client of the bank was told.
#[derive(Default, Debug)]
struct Told {
    acknowledged: i64,
    unknown: i64,
    conflicts: u64,
    audits: u64,
}

#[tokio::test]
async fn a_bank_over_shards_keeps_its_total_while_nodes_are_killed() {
    let seconds = std::env::var("BANK_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    let clients = if seconds.is_some() { 32 } else { 12 };
    let mut cluster = Cluster::start(3);
    let mut first = client(cluster.clients());
    let mset = (0..ACCOUNTS).fold(Command::new("MSET"), |it, i| {
        it.arg(account(i)).arg(FIRST.to_string())
    });
    first.call(&mset).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let local = tokio::task::LocalSet::new();
    let clerks: Vec<_> = (0..clients)
        .map(|clerk| local.spawn_local(clerk_works(clerk, cluster.clients(), over.clone())))
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(15));
    let mut kills = 0;
    let killing = async {
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.kill(kills % 3);
            tokio::time::sleep(Duration::from_millis(1200)).await;
            cluster.run(kills % 3);
            kills += 1;
        }
        over.store(true, Ordering::Relaxed);
    };
    local.run_until(killing).await;
    let mut reader = client(cluster.clients());
    let mut sum = Told::default();
    let mut wrong = Vec::new();
    for (clerk, work) in clerks.into_iter().enumerate() {
        let told = local.run_until(work).await.unwrap();
        let done = reader.get(ledger(clerk)).await.unwrap().unwrap_or_default();
        let done: i64 = String::from_utf8_lossy(&done).parse().unwrap_or(0);
        if !(told.acknowledged..=told.acknowledged + told.unknown).contains(&done) {
            wrong.push(format!(
                "clerk {clerk} was told {told:?}, and {done} were done"
            ));
        }
        sum.acknowledged += told.acknowledged;
        sum.unknown += told.unknown;
        sum.conflicts += told.conflicts;
        sum.audits += told.audits;
    }
    let total = audit(&mut reader).await.unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}; the total is {total}");
    assert_eq!(total, ACCOUNTS as i64 * FIRST);
    assert!(sum.acknowledged > 50 && sum.audits > 5, "{sum:?}");
    println!("{kills} kills: {sum:?}, and the total is right");
}

fn ledger(clerk: usize) -> Vec<u8> {
    // Not in the range of the accounts.
    format!("~ledger{clerk}").into_bytes()
}

/// The total of all accounts, in one of two ways.
async fn audit(client: &mut Client) -> Result<i64, Error> {
    let found = client.mget((0..ACCOUNTS).map(account)).await?;
    Ok(found.iter().flatten().map(|value| number(value)).sum())
}

fn number(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// Transfers and audits, until told to stop.
async fn clerk_works(clerk: usize, mut addresses: Vec<String>, over: Arc<AtomicBool>) -> Told {
    addresses.rotate_left(clerk % 3);
    let options = Options {
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    let mut client = Client::new(addresses, options);
    let mut told = Told::default();
    let mut state = clerk as u64 + 1;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    while !over.load(Ordering::Relaxed) {
        let (from, to) = (random(ACCOUNTS), random(ACCOUNTS));
        let amount = (random(9) + 1) as i64;
        if from == to {
            continue;
        }
        let outcome = match random(8) {
            0 => match audit(&mut client).await {
                Ok(total) => {
                    assert_eq!(total, ACCOUNTS as i64 * FIRST, "an audit through MGET");
                    told.audits += 1;
                    continue;
                }
                Err(_) => continue,
            },
            1 => match audit_by_range(&mut client).await {
                Ok(total) => {
                    assert_eq!(total, ACCOUNTS as i64 * FIRST, "an audit through RANGE");
                    told.audits += 1;
                    continue;
                }
                Err(_) => continue,
            },
            by => transfer(&mut client, clerk, (from, to, amount), by < 5).await,
        };
        match outcome {
            Ok(()) => told.acknowledged += 1,
            Err(error) => match error.outcome() {
                Outcome::Unknown => told.unknown += 1,
                Outcome::Retryable => told.conflicts += 1,
                Outcome::NotDone => panic!("clerk {clerk}: {error}"),
            },
        }
    }
    told
}

/// Moves an amount, by commands that the shards carry out or by reading and writing.
async fn transfer(
    client: &mut Client,
    clerk: usize,
    (from, to, amount): (usize, usize, i64),
    by_multi: bool,
) -> Result<(), Error> {
    if by_multi {
        let amount = amount.to_string();
        let commands = [
            Command::new("DECRBY").arg(account(from)).arg(&amount),
            Command::new("INCRBY").arg(account(to)).arg(&amount),
            Command::new("INCR").arg(ledger(clerk)),
        ];
        let done = client.multi(&commands).await?;
        let each = done.as_deref().unwrap_or_default();
        let is_number = |value: &Value| matches!(value, Value::Integer(_));
        assert!(each.len() == 3 && each.iter().all(is_number), "{done:?}");
        return Ok(());
    }
    let settings = transaction::Settings {
        retry_for: Duration::ZERO,
        tokens: amount % 2 == 0,
    };
    let body = async |txn: &mut Transaction| {
        let read = number(txn.call(&get(&account(from))).await?.as_bytes().unwrap());
        let left = (read - amount).to_string();
        let read = number(txn.call(&get(&account(to))).await?.as_bytes().unwrap());
        let right = (read + amount).to_string();
        txn.call(&set(&account(from), &left)).await?;
        txn.call(&set(&account(to), &right)).await?;
        let count = Command::new("INCR").arg(ledger(clerk));
        txn.call(&count).await.map(drop)
    };
    transaction::run(client, &settings, body).await
}

async fn audit_by_range(client: &mut Client) -> Result<i64, Error> {
    let range = Command::read("RANGE").arg([0u8]).arg([255u8]);
    let rows = client.call(&range).await?.into_array()?.unwrap_or_default();
    let is_account = |pair: &&[Value]| text(&pair[0]).contains("key");
    let amounts = rows.chunks(2).filter(is_account);
    Ok(amounts
        .map(|pair| number(pair[1].as_bytes().unwrap()))
        .sum())
}
