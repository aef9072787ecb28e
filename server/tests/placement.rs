//! The cluster manages itself: real processes on loopback that join, die, come back and are drained, and policies that
//! change while clients read and write.
//!
//! In full size: `GROWTH_MB=200 cargo test -p synod --test placement growth -- --nocapture`.
#![cfg(not(madsim))]

#[path = "cluster/appends.rs"]
mod appends;
#[allow(dead_code)] // Each test program uses its own part of it.
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, run_to_end};
use serde_json::Value as Json;
use synod::status::{Report, ShardReport};
use synod_client::{Client, Command, Options};

/// Generous: only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(240);
/// Five processes at a time are enough for a small machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How long nothing may move until a cluster counts as settled.
const CALM: Duration = Duration::from_secs(6);

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    };
    Client::new(addresses, options)
}

fn zone(zone: &str) -> Vec<String> {
    let flags = ["--label", zone, "--replace-after-ms", "9000"];
    flags.map(str::to_owned).to_vec()
}

async fn asked(address: &str, word: &str) -> Option<Vec<u8>> {
    let options = Options {
        retry_for: Duration::ZERO,
        call_timeout: Duration::from_secs(5),
        ..Options::default()
    };
    let mut client = Client::new(vec![address.to_owned()], options);
    let answer = client.call_once(&Command::read("SYNOD").arg(word)).await;
    let bytes = answer.ok()?.into_bytes().ok()??;
    Some(bytes.to_vec())
}

/// The first report that a node gives.
async fn report(cluster: &Cluster) -> Report {
    let since = Instant::now();
    loop {
        for address in cluster.clients() {
            if let Some(json) = asked(&address, "STATUS").await {
                return serde_json::from_slice(&json).expect("a report");
            }
        }
        assert!(since.elapsed() < PATIENCE, "no node answers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The rows of one of the controller's tables; none if nobody has it now.
async fn table(cluster: &Cluster, name: &str) -> Option<Vec<Vec<Json>>> {
    for address in cluster.clients() {
        if let Some(json) = asked(&address, "TABLES").await {
            let tables: Json = serde_json::from_slice(&json).expect("tables");
            let rows = tables[name]["rows"].as_array().expect("rows").iter();
            return Some(
                rows.map(|row| row.as_array().expect("a row").clone())
                    .collect(),
            );
        }
    }
    None
}

/// The nodes of a shard's replicas.
fn nodes(shard: &ShardReport) -> BTreeSet<String> {
    shard.replicas.iter().map(|it| it.node.clone()).collect()
}

/// Orders that controllers gave, by all logs: shard and step.
fn orders(cluster: &Cluster) -> Vec<(u64, String)> {
    let mut orders = Vec::new();
    for i in 0..cluster.clients().len() {
        let log = cluster.log(i);
        for line in log.lines().filter(|line| line.contains(" placement ")) {
            let after = |word: &str| line.split_once(word).map(|(_, rest)| rest);
            let shard = after("shard=").and_then(|it| it.split_whitespace().next());
            let step = after("step=");
            if let (Some(shard), Some(step)) = (shard, step) {
                orders.push((shard.parse().expect("a number"), step.to_owned()));
            }
        }
    }
    orders
}

/// Orders that were not there before.
fn orders_since(cluster: &Cluster, before: &[(u64, String)]) -> Vec<(u64, String)> {
    let mut later = orders(cluster);
    for order in before {
        let at = later.iter().position(|it| it == order);
        later.remove(at.expect("a log only grows"));
    }
    later
}

/// Waits until every shard has `replicas` voters on members, and nothing has moved for a while.
async fn settle(cluster: &Cluster, replicas: usize, good: impl Fn(&Report) -> bool) -> Report {
    let since = Instant::now();
    let mut calm_since = None;
    loop {
        let report = report(cluster).await;
        let moves = table(cluster, "moves").await;
        let members: BTreeSet<&String> = report.view.members.iter().map(|it| &it.id).collect();
        let whole = |shard: &ShardReport| {
            shard.replicas.len() == replicas
                && shard.voters() == replicas
                && shard.replicas.iter().all(|it| members.contains(&it.node))
        };
        let all = report.shards.iter().all(whole);
        let calm = all && moves.as_ref().is_some_and(Vec::is_empty) && good(&report);
        let began = calm_since.filter(|_| calm).unwrap_or_else(Instant::now);
        calm_since = calm.then_some(began);
        if calm && began.elapsed() > CALM {
            return report;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "not settled: moves {moves:?}\n{}",
            synod::status::render(&report)
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Reads and writes of one client, one at a time, until told to stop: how long each took. Every one must succeed.
async fn probe(addresses: Vec<String>, keys: u64, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut client = client(addresses);
    let mut took = Vec::new();
    for i in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let key = key(i * 7_919 % keys.max(1));
        let begun = Instant::now();
        match i % 2 {
            0 => client
                .set(&key, vec![b'p'; 100])
                .await
                .expect("writes are served"),
            _ => assert!(client.get(&key).await.expect("reads are served").is_some()),
        };
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took
}

/// Beginnings of keys on all shards.
const FIRST: &[u8] = b"0369CFILORUXadgjmpsvy";

/// Keys on all shards.
fn key(n: u64) -> String {
    let first = FIRST[(n % FIRST.len() as u64) as usize] as char;
    format!("{first}{n}")
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// Writes as many keys, with values of 1 KiB that nothing compresses. One connection's commands overlap on one shard.
async fn fill(cluster: &Cluster, keys: u64) {
    let letters = FIRST.len() as u64;
    let writers: Vec<_> = (0..letters)
        .map(|letter| {
            let mut writer = client(cluster.clients());
            tokio::spawn(async move {
                let mut random = 88_172_645_463_325_252_u64 + letter;
                let mut value = || -> Vec<u8> {
                    let byte = |_| {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        (random >> 32) as u8
                    };
                    (0..1024).map(byte).collect()
                };
                let mine: Vec<u64> = (0..keys).filter(|n| n % letters == letter).collect();
                for chunk in mine.chunks(64) {
                    let set = |n: &u64| Command::new("SET").arg(key(*n)).arg(value());
                    let sets: Vec<Command> = chunk.iter().map(set).collect();
                    writer.pipeline(&sets).await.expect("one node serves");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("it writes all");
    }
}

async fn probed(
    cluster: &Cluster,
    keys: u64,
    during: impl Future<Output = Report>,
) -> (Report, Duration) {
    let over = Arc::new(AtomicBool::new(false));
    let probes: Vec<_> = (0..4)
        .map(|_| tokio::spawn(probe(vec![cluster.client(0)], keys, over.clone())))
        .collect();
    let report = during.await;
    over.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for probe in probes {
        took.extend(probe.await.expect("every command is served"));
    }
    (report, p99(took))
}

/// How many replicas and leaders each node has. By the default policies: two replicas of a shard in a zone at most, and
/// for each node its share.
async fn spread(
    cluster: &Cluster,
    report: &Report,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let members = report.view.members.iter();
    let zones: BTreeMap<&String, &String> =
        members.map(|it| (&it.id, &it.labels["zone"])).collect();
    let mut replicas: BTreeMap<String, usize> = BTreeMap::new();
    let mut leaders: BTreeMap<String, usize> = BTreeMap::new();
    let led = table(cluster, "leaders").await.expect("a controller");
    for row in led.iter().filter(|row| row[0] != 0) {
        let leader = row[1].as_str().expect("a node").to_owned();
        *leaders.entry(leader).or_default() += 1;
    }
    for shard in &report.shards {
        for zone in ["a", "b"] {
            let there = nodes(shard)
                .iter()
                .filter(|node| zones[node] == zone)
                .count();
            assert!(
                there <= 2,
                "shard {} has {there} replicas in zone {zone}",
                shard.id
            );
        }
        for node in nodes(shard) {
            *replicas.entry(node).or_default() += 1;
        }
    }
    assert_eq!(replicas.len(), 5, "each node has replicas: {replicas:?}");
    assert!(
        leaders.values().all(|n| *n <= 3),
        "leaders are spread: {leaders:?}"
    );
    (replicas, leaders)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_from_one_node_to_five_in_two_zones_spreads_replicas_and_leaders() {
    let _alone = ALONE.lock().await;
    let full_size: Option<u64> = std::env::var("GROWTH_MB")
        .ok()
        .map(|it| it.parse().expect("GROWTH_MB is a number of megabytes"));
    let megabytes = full_size.unwrap_or(6);
    let keys = megabytes * 1024;
    let mut cluster = Cluster::start_each(1, |_| zone("zone=a"));
    fill(&cluster, keys).await;
    let quiet = async {
        // Only in full size is it what the busy time is judged by.
        let seconds = if full_size.is_some() { 15 } else { 3 };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        report(&cluster).await
    };
    let (before, quiet) = probed(&cluster, keys, quiet).await;
    let peers = [cluster.peer_port(0)];
    for name in ["zone=b", "zone=a", "zone=b", "zone=b"] {
        cluster.add_with(&peers, zone(name));
    }
    let begun = Instant::now();
    let five = |report: &Report| report.view.members.len() == 5;
    let (after, busy) = probed(&cluster, keys, settle(&cluster, 3, five)).await;
    let took = begun.elapsed();
    let (replicas, leaders) = spread(&cluster, &after).await;
    // What was copied, by what the target needs: the replicas that were not there before.
    let first = &before.view.members[0].id;
    let bytes: BTreeMap<u64, u64> = after.shards.iter().map(|it| (it.id, it.bytes)).collect();
    let weight = |shard: &u64| bytes.get(shard).copied().unwrap_or(0);
    let least: u64 = after
        .shards
        .iter()
        .map(|shard| nodes(shard).iter().filter(|node| *node != first).count() as u64 * shard.bytes)
        .sum();
    let adds = orders(&cluster);
    let adds = adds.iter().filter(|(_, step)| step.starts_with("Add"));
    let moved: u64 = adds.map(|(shard, _)| weight(shard)).sum();
    println!(
        "{megabytes} MB, {took:?} until settled: {} MiB copied, {} MiB needed ({:.2}); p99 {quiet:?} quiet, {busy:?} \
         meanwhile; replicas {:?}, leaders {:?}",
        moved >> 20,
        least >> 20,
        moved as f64 / least.max(1) as f64,
        replicas.values(),
        leaders.values(),
    );
    assert!(moved > 0, "the logs tell of no copy");
    assert!(
        moved * 10 <= least * 12,
        "{moved} bytes were moved, {least} are needed"
    );
    if full_size.is_some() {
        assert!(
            busy < 5 * quiet,
            "p99 {busy:?} while moving, {quiet:?} before"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_replaced_under_load_and_comes_back_without_thrash() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start_each(5, |_| zone("zone=a"));
    settle(&cluster, 3, |_| true).await;
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(appends::write(writer, cluster.clients(), over.clone())))
        .collect();
    let victim = 2;
    let id = asked(&cluster.client(victim), "STATUS")
        .await
        .expect("it is up");
    let id = serde_json::from_slice::<Report>(&id)
        .expect("a report")
        .node
        .id;
    let held = report(&cluster).await;
    let held = held
        .shards
        .iter()
        .filter(|it| nodes(it).contains(&id))
        .count();
    assert!(held > 0, "the victim holds something");
    cluster.kill(victim);
    let killed = Instant::now();
    let gone = |report: &Report| report.view.members.len() == 4;
    settle(&cluster, 3, gone).await;
    println!(
        "{held} replicas lost, all restored and calm {:?} after the kill",
        killed.elapsed()
    );
    cluster.run(victim);
    cluster.wait_until_up(victim);
    let back = Instant::now();
    let at_return = orders(&cluster).len();
    let shares = |report: &Report| {
        let is_held = |shard| nodes(shard).contains(&id);
        report.view.members.len() == 5 && report.shards.iter().any(is_held)
    };
    settle(&cluster, 3, shares).await;
    println!(
        "settled, with its share, {:?} after its return",
        back.elapsed()
    );
    over.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for writer in writers {
        done.push(writer.await.expect("a writer"));
    }
    let acknowledged = appends::check(&mut client(cluster.clients()), done).await;
    assert!(
        acknowledged > 50,
        "only {acknowledged} acknowledged writes show nothing"
    );
    // No copy was made twice, and nothing moves any more.
    let moved = orders(&cluster);
    let mut copies: BTreeMap<&(u64, String), usize> = BTreeMap::new();
    for order in moved[at_return.min(moved.len())..]
        .iter()
        .filter(|(_, it)| it.starts_with("Add"))
    {
        *copies.entry(order).or_default() += 1;
    }
    assert!(copies.values().all(|times| *times == 1), "{copies:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let later = orders_since(&cluster, &moved);
    assert!(later.is_empty(), "settled, and still moving: {later:?}");
}

/// Runs `synod` with these words against a cluster: exit code and output.
fn synod(cluster: &Cluster, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Process::new(env!("CARGO_BIN_EXE_synod"));
    command
        .args(words)
        .args(["--addr", &cluster.clients().join(",")]);
    let (status, text) = run_to_end(command);
    println!("$ synod {}\n{text}", words.join(" "));
    (status.code(), text)
}

/// What cannot be compiled, and what cannot hold.
fn wrong_ones_are_refused(
    cluster: &Cluster,
    path: &str,
    write: &dyn Fn(&str),
    statement: &dyn Fn(&str) -> String,
) {
    // What is wrong is said with line and column.
    write(&statement("CHECK n.colour = 1"));
    let (code, text) = synod(cluster, &["policy", "check", path]);
    assert!(code == Some(1) && text.contains("home:5:"), "{text}");
    // What cannot hold is refused, with the rows.
    write(&statement("CHECK n.zone = 'nowhere'"));
    let (code, text) = synod(cluster, &["policy", "apply", path]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("in conflict: home[") && text.contains("nothing was changed"),
        "{text}"
    );
}

/// After the policy `home` was applied: it explains where the shard is, goes, and comes back.
fn history_is_kept(cluster: &Cluster, shard: u64) {
    let (_, text) = synod(cluster, &["explain", &shard.to_string()]);
    assert!(
        text.contains("held there by") && text.contains("home"),
        "{text}"
    );
    let (_, text) = synod(cluster, &["policy", "drop", "home"]);
    assert!(text.contains("version 3 is in force"), "{text}");
    let (_, text) = synod(cluster, &["policy", "rollback", "2"]);
    assert!(text.contains("version 4 is in force"), "{text}");
    let (_, text) = synod(cluster, &["policy", "list"]);
    assert!(text.contains("home") && text.contains("since 2"), "{text}");
    let (_, text) = synod(cluster, &["policy", "history"]);
    assert!(text.contains("version 3: home dropped"), "{text}");
    assert!(counted(cluster, "views") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_applied_live_refused_with_rows_and_a_drain_ends_empty() {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::start_each(5, |i| zone(["zone=a", "zone=b"][i % 2]));
    let before = settle(&cluster, 3, |_| true).await;
    let zones: BTreeMap<&String, &String> = before
        .view
        .members
        .iter()
        .map(|it| (&it.id, &it.labels["zone"]))
        .collect();
    // One shard shall have as few replicas as can be in the zone where it has two.
    let shard = &before.shards[0];
    let in_a = nodes(shard).iter().filter(|it| *zones[it] == "a").count();
    let (crowded, number) = (if in_a == 2 { "a" } else { "b" }, shard.id);
    let file = cluster.data(0).with_file_name("10-home.sql");
    let statement = |goal: &str| {
        format!(
            "CREATE CONSTRAINT home AS\nSELECT * FROM replicas r\n\
             JOIN nodes n ON n.node_id = r.controllable__node\nWHERE r.shard_id = {number}\n{goal};\n"
        )
    };
    let write = |sql: &str| std::fs::write(&file, sql).expect("a file");
    let path = file.display().to_string();

    wrong_ones_are_refused(&cluster, &path, &write, &statement);

    // What can hold is previewed, which moves nothing, and applied.
    write(&statement(&format!("MINIMIZE n.zone = '{crowded}' TIER 0")));
    let (code, text) = synod(&cluster, &["policy", "preview", &path]);
    let told = previewed(&text).filter(|_| code == Some(0)).expect(&text);
    let unmoved = settle(&cluster, 3, |_| true).await;
    let places = |report: &Report| -> BTreeMap<u64, BTreeSet<String>> {
        report.shards.iter().map(|it| (it.id, nodes(it))).collect()
    };
    assert_eq!(places(&unmoved), places(&before));
    let (code, text) = synod(&cluster, &["policy", "apply", &path]);
    assert!(
        code == Some(0) && text.contains("version 2 is in force"),
        "{text}"
    );
    let fewer = |report: &Report| {
        let shard = report
            .shards
            .iter()
            .find(|it| it.id == number)
            .expect("it is there");
        nodes(shard)
            .iter()
            .filter(|it| *zones[it] == crowded)
            .count()
            == 1
    };
    let after = settle(&cluster, 3, fewer).await;
    let old = places(&before);
    let came = |id: &u64| places(&after)[id].difference(&old[id]).count();
    let all: usize = old.keys().map(came).sum();
    assert_eq!(
        (came(&number), all),
        (1, told),
        "{old:?} -> {:?}",
        places(&after)
    );
    history_is_kept(&cluster, number);

    let drained = nodes(&before.shards[1]).into_iter().next();
    drain_ends_empty(&cluster, &drained.expect("a replica"));
}

/// How many replicas a preview moves: the one that must, and perhaps one more, which makes room where that
/// took a node beyond its share of them.
fn previewed(text: &str) -> Option<usize> {
    let mut counts = [1, 2].into_iter();
    counts.find(|n| text.contains(&format!(" {n} replicas and ")))
}

fn drain_ends_empty(cluster: &Cluster, drained: &str) {
    let (code, text) = synod(cluster, &["node", "drain", drained]);
    assert!(
        code == Some(0) && text.contains("nothing lives on it"),
        "{text}"
    );
    let there = format!("replicas where current_node = '{drained}'");
    assert_eq!(counted(cluster, &there), 0);
}

/// Rows of a table, as `synod sql` counts them.
fn counted(cluster: &Cluster, of: &str) -> u64 {
    let query = format!("select count(*) as n from {of}");
    let (_, text) = synod(cluster, &["sql", "--json", &query]);
    let row: Json = serde_json::from_str(&text).expect("a row");
    row["n"].as_u64().expect("a number")
}
