//! A bit turns on the disk of one node: it is detected, named, repaired or rebuilt, and never served.
//! `SEEDS=FIRST..LAST` runs other seeds.
#![cfg(madsim)]

mod support;

use std::time::Duration;

use madsim::runtime::Runtime;
use rand::Rng;
use synod::status::Report;
use synod_chaos::world::{End, Setup, World};
use synod_client::{Client, Command, Options};
use synod_storage::disk::SimDisk;

use support::{log, seeds};

const KEYS: u32 = 240;

fn key(n: u32) -> String {
    // Keys of all shards.
    let letter = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[n as usize % 62];
    format!("{}key{n}", char::from(letter))
}

/// Different in every window of some bytes, so that it can be found on a disk.
fn value(n: u32) -> String {
    (0..60).map(|part| format!("<{n}.{part}>")).collect()
}

fn client(addresses: Vec<String>) -> Client {
    let options = Options {
        connect_timeout: Duration::from_millis(500),
        call_timeout: Duration::from_secs(3),
        retry_for: Duration::from_secs(5),
        ..Options::default()
    };
    Client::new(addresses, options)
}

async fn fill(addresses: Vec<String>) {
    let mut client = client(addresses);
    for n in 0..KEYS {
        let set = Command::new("SET").arg(key(n)).arg(value(n));
        while client.call(&set).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Reads every key until it answers. An error is no lie; another value, or none, is.
async fn read_all(addresses: Vec<String>) -> Result<u32, String> {
    let mut client = client(addresses);
    let mut refused = 0;
    for n in 0..KEYS {
        let mut left = 200;
        loop {
            match client.get(&key(n)).await {
                Ok(Some(found)) if found == value(n).as_bytes() => break,
                Ok(other) => return Err(format!("{} is {other:?}", key(n))),
                Err(error) if left == 0 => return Err(format!("{}: {error}", key(n))),
                Err(_) => {
                    refused += 1;
                    left -= 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    Ok(refused)
}

async fn report(address: String) -> Result<Report, String> {
    let mut client = client(vec![address]);
    let answer = client.call(&Command::read("SYNOD").arg("STATUS")).await;
    let bytes = answer.map_err(|e| e.to_string())?.into_bytes();
    let bytes = bytes.map_err(|e| e.to_string())?.unwrap_or_default();
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// Until no replica of a node stands aside any more.
async fn replaced(address: String) -> Result<(), String> {
    let mut last = None;
    for _ in 0..60 {
        let seen = report(address.clone()).await?;
        if seen.storage.damaged_replicas == 0 {
            return Ok(());
        }
        last = Some(seen);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(format!("damaged for a minute: {last:?}"))
}

/// Where the bit turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a value that some key still has, while the node runs.
    Value,
    /// Anywhere in a value file, before a start.
    ValueFile,
    /// In an entry of the log, before a start.
    Entry,
    /// Anywhere in a segment that is in use, before a start.
    Log,
    /// Anywhere in one copy of the manifest, before a start.
    Manifest,
}

/// Files and offsets of a bit to turn.
fn choose(world: &mut World, disk: &SimDisk, place: Place) -> Vec<(String, u64)> {
    match place {
        Place::Value | Place::Entry => {
            // Only of the last one it is certain that its segment is not about to go, or gone but for its name.
            let n = match place {
                Place::Value => world.rng().random_range(KEYS - 8..KEYS),
                Place::Entry | Place::ValueFile | Place::Log | Place::Manifest => KEYS - 1,
            };
            let marks = [format!("<{n}.30>"), format!("<{n}.31>")].concat();
            // A spare segment has what it had before it was trimmed: nobody reads that.
            let prefix = match place {
                Place::Value => "values/",
                Place::Entry | Place::ValueFile | Place::Log | Place::Manifest => "log/segment",
            };
            let paths = disk.paths().into_iter().filter(|p| p.starts_with(prefix));
            paths
                .filter_map(|path| {
                    let content = disk.content(&path)?;
                    let mut windows = content.windows(marks.len());
                    let at = windows.position(|window| window == marks.as_bytes())?;
                    Some((path, at as u64 + 3))
                })
                .collect::<Vec<_>>()
        }
        Place::ValueFile | Place::Log | Place::Manifest => {
            let prefix = match place {
                Place::ValueFile => "values/",
                Place::Manifest => "manifest",
                Place::Value | Place::Entry | Place::Log => "log/segment",
            };
            let paths: Vec<String> = disk
                .paths()
                .into_iter()
                .filter(|p| p.starts_with(prefix))
                .collect();
            let path = paths[world.rng().random_range(0..paths.len())].clone();
            let content = disk.content(&path).unwrap_or_default();
            let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
            vec![(path, world.rng().random_range(0..used))]
        }
    }
}

/// Reads everything, also while another node is away: then the victim leads some of the shards and
/// is needed for all.
async fn read_at_the_victim(world: &mut World, victim: usize) -> Result<u32, String> {
    let addresses = world.client_addresses();
    let mut refused = 0;
    for away in (0..3).filter(|i| *i != victim) {
        let read = read_all(addresses.clone());
        refused += world
            .spawn(move || read)
            .await
            .map_err(|e| e.to_string())??;
        world.stop(away, End::Kill);
        let up = (0..3).filter(|i| *i != away);
        let read = read_all(up.map(|i| addresses[i].clone()).collect());
        refused += world
            .spawn(move || read)
            .await
            .map_err(|e| e.to_string())??;
        world.start(away);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(refused)
}

/// Replicas of the victim stand aside, because of what nobody can tell or no peer keeps any more: the others serve, and
/// new ones take their place.
async fn wait_for_replacement(world: &World, victim: usize) -> Result<u32, String> {
    let addresses = world.client_addresses();
    let at_victim = addresses[victim].clone();
    let refused = world.spawn(move || read_all(addresses)).await;
    let refused = refused.map_err(|e| e.to_string())??;
    let replaced = world.spawn(move || replaced(at_victim)).await;
    replaced.map_err(|e| e.to_string())??;
    Ok(refused)
}

/// Fills a cluster, turns a bit at one node, reads.
async fn run(seed: u64, place: Place) -> Result<String, String> {
    let mut world = World::new(seed, Setup::placed(3));
    let addresses = world.client_addresses();
    world
        .spawn({
            let addresses = addresses.clone();
            move || fill(addresses)
        })
        .await
        .map_err(|e| e.to_string())?;
    if matches!(place, Place::Value | Place::ValueFile | Place::Manifest) {
        // The memtables are tiny: all of it is in value files before long, and no longer in the log.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    if place == Place::Entry {
        // A bad last batch is a torn tail, of which nothing is said; an idle log ends with an empty one.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let victim = world.any_node();
    if place != Place::Value {
        let end = match world.rng().random_bool(0.5) {
            true => End::Kill,
            false => End::PowerLoss,
        };
        world.stop(victim, end);
    }
    let disk = world.disk(victim);
    let turned = choose(&mut world, &disk, place);
    for (path, at) in &turned {
        disk.flip_bit(path, *at, world.rng().random_range(0..8));
    }
    world.start(victim);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut refused = 0;
    let at_first = world
        .spawn({
            let address = addresses[victim].clone();
            move || report(address)
        })
        .await
        .map_err(|e| e.to_string())??;
    if at_first.storage.damaged_replicas > 0 {
        // What was in the record of the log nobody can tell.
        if place == Place::Log && at_first.problems.is_empty() {
            return Err("damage without a word".to_owned());
        }
        refused += wait_for_replacement(&world, victim).await?;
    }
    refused += read_at_the_victim(&mut world, victim).await?;
    // The scrubber has been everywhere by now.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let report = report(addresses[victim].clone());
    let report = world
        .spawn(move || report)
        .await
        .map_err(|e| e.to_string())??;
    judge(place, &turned, &report, world.invariants.moves())?;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    Ok(format!(
        "{turned:?} turned, {} repaired, {refused} reads refused",
        report.storage.repaired_values
    ))
}

/// What the victim says at the end, when voters were exchanged so often.
fn judge(
    place: Place,
    turned: &[(String, u64)],
    report: &Report,
    moves: u64,
) -> Result<(), String> {
    let storage = &report.storage;
    if storage.damaged_values > 0 || storage.damaged_replicas > 0 {
        return Err(format!("still damaged: {storage:?} {:?}", report.problems));
    }
    if turned.is_empty() {
        return Err("nothing was damaged: the test shows nothing".to_owned());
    }
    if place == Place::Value && storage.repaired_values == 0 {
        return Err(format!("a damaged value was not repaired: {storage:?}"));
    }
    // Of a replica that is replaced by then nothing is left to be said.
    if place == Place::Entry && report.problems.is_empty() && moves == 0 {
        return Err(format!("damage without a word: {turned:?}"));
    }
    Ok(())
}

fn for_seeds(default: std::ops::Range<u64>, place: Place) {
    log();
    for seed in seeds(default) {
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(Duration::from_secs(600));
        match runtime.block_on(run(seed, place)) {
            Ok(summary) => println!("{place:?} seed {seed}: {summary}"),
            Err(violation) => panic!("{place:?} seed {seed}: {violation}"),
        }
    }
}

#[test]
fn a_damaged_value_comes_back_from_a_peer() {
    for_seeds(0..3, Place::Value);
}

#[test]
fn a_bit_anywhere_in_a_value_file_costs_nothing() {
    for_seeds(10..14, Place::ValueFile);
}

#[test]
fn a_damaged_entry_comes_back_from_a_peer() {
    for_seeds(20..22, Place::Entry);
}

/// The last batch before a power loss: what it held nobody can tell, and the replica is replaced.
#[test]
fn a_replica_beyond_repair_is_replaced() {
    for_seeds(36..37, Place::Entry);
}

#[test]
fn a_bit_anywhere_in_the_manifest_costs_nothing() {
    for_seeds(30..34, Place::Manifest);
}

#[test]
fn a_bit_anywhere_in_the_log_is_never_served() {
    for_seeds(40..44, Place::Log);
}
