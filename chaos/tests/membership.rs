//! The agreed membership of simulated clusters: whatever is killed, cut off, paused or loses power, the
//! view logs on all disks are parts of one sequence, each view in them is proven, and when the faults
//! are over all nodes come to one configuration. `SEEDS=FIRST..LAST` runs other seeds.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::time::Duration;

use madsim::runtime::Runtime;
use rand::Rng;
use synod::status::Report;
use synod_chaos::world::{End, Link, Setup, World, world_us};
use synod_client::{Client, Command, Options};
use synod_membership::catalog::Catalog;
use synod_membership::configuration::SharedConfiguration;
use synod_membership::durable::log;
use synod_membership::id::ConfigHash;

const VIEWS: &str = "membership/views";

/// For so long faults strike.
const SAFETY: Duration = Duration::from_secs(40);
/// After it, those that are members are in one configuration.
const AGREEMENT: Duration = Duration::from_secs(30);
/// After it, those that were removed alive are back, too: they show clean links for a minute first, and
/// for longer each time.
const RETURN: Duration = Duration::from_secs(400);

/// What all disks together have shown of the one sequence.
#[derive(Default)]
struct Sequence {
    hashes: BTreeMap<u64, (ConfigHash, usize)>,
    verified: usize,
}

impl Sequence {
    /// Reads a node's view log, as it would after a crash now, and holds it against the others'.
    fn look(&mut self, world: &World, node: usize) -> Result<(), String> {
        let bytes = world.disk(node).content(VIEWS).unwrap_or_default();
        let log = log::recover(&bytes).map_err(|e| format!("the view log of node {node}: {e}"))?;
        let Some(base) = log.base else {
            return Ok(());
        };
        let mut last: SharedConfiguration = base.configuration.clone();
        self.note(node, &last)?;
        let catalog = Catalog::new();
        for view in &log.views {
            last = view
                .verify(&last, &catalog)
                .map_err(|e| format!("view {} of node {node} is not proven: {e}", view.seq))?;
            self.verified += 1;
            self.note(node, &last)?;
        }
        Ok(())
    }

    fn note(&mut self, node: usize, configuration: &SharedConfiguration) -> Result<(), String> {
        let (seq, hash) = (configuration.seq(), configuration.hash());
        let (first, of) = *self.hashes.entry(seq).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        Err(format!(
            "node {node} holds another view {seq} than node {of}: {hash} and {first}"
        ))
    }
}

async fn ask(address: String) -> Option<Report> {
    let options = Options {
        connect_timeout: Duration::from_millis(500),
        call_timeout: Duration::from_secs(3),
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    let mut client = Client::new(vec![address], options);
    let command = Command::read("SYNOD").arg("STATUS");
    let answer = client.call_once(&command).await.ok()?;
    let bytes = answer.into_bytes().ok()??;
    serde_json::from_slice(&bytes).ok()
}

async fn reports(world: &World) -> Vec<Option<Report>> {
    let addresses = world.client_addresses();
    let asked = world.spawn(|| async move {
        let mut reports = Vec::new();
        for address in addresses {
            reports.push(ask(address).await);
        }
        reports
    });
    asked.await.unwrap_or_default()
}

fn was_removed(report: &Report) -> bool {
    let mut problems = report.problems.iter();
    problems.any(|problem| problem.contains("was removed from the membership"))
}

/// Waits until all nodes, or all but those that were removed alive, show one view.
async fn agree(world: &World, patience: Duration, all_serve: bool) -> Result<u64, String> {
    let begun_us = world_us();
    loop {
        let reports = reports(world).await;
        let known = reports.iter().all(Option::is_some);
        let counted: Vec<&Report> = reports
            .iter()
            .flatten()
            .filter(|report| all_serve || !was_removed(report))
            .collect();
        let views: Vec<(u64, &String)> = counted
            .iter()
            .map(|report| (report.view.seq, &report.view.hash))
            .collect();
        let same = views.windows(2).all(|pair| pair[0] == pair[1]);
        let serve =
            |report: &&Report| report.view.serving && report.view.members.len() == world.nodes();
        if known && same && (!all_serve || counted.iter().all(serve)) {
            return Ok((world_us() - begun_us) / 1_000);
        }
        let waited = Duration::from_micros(world_us() - begun_us);
        if waited > patience {
            let said: Vec<_> = reports
                .iter()
                .map(|report| {
                    let view = report
                        .as_ref()
                        .map(|r| (r.view.seq, r.view.serving, &r.problems));
                    format!("{view:?}")
                })
                .collect();
            return Err(format!("no agreement within {patience:?}: {said:#?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn strike(world: &mut World, number: usize) {
    let victim = world.any_node();
    let at = world.peer_address(victim);
    let others: Vec<_> = (0..world.nodes())
        .filter(|other| *other != victim)
        .map(|other| world.peer_address(other))
        .collect();
    match world.rng().random_range(0..10) {
        0 | 1 => world.stop(victim, End::Kill),
        2 => world.stop(victim, End::PowerLoss),
        3 => (0..world.nodes()).for_each(|node| world.stop(node, End::PowerLoss)),
        4 => others
            .iter()
            .for_each(|other| world.links.set(number, *other, at, Link::CUT)),
        5 => others
            .iter()
            .for_each(|other| world.links.set(number, at, *other, Link::CUT)),
        6 => {
            let loss = world.rng().random_range(0.05..0.6);
            let lossy = Link {
                loss,
                duplicate: 0.1,
                jitter_us: 50_000,
                ..Link::CLEAN
            };
            others
                .iter()
                .for_each(|other| world.links.set(number, at, *other, lossy));
        }
        7 => {
            let rate = world.rng().random_range(-20_000..20_000);
            world.set_clock(victim, Some(rate), None);
        }
        8 => world.pause(victim),
        _ => {
            world.links.heal();
            (0..world.nodes()).for_each(|node| world.resume(node));
        }
    }
    // Most of what is down comes up again.
    for node in 0..world.nodes() {
        if node != victim && world.rng().random_bool(0.7) {
            world.start(node);
        }
    }
}

async fn storm(seed: u64, nodes: u16) -> Result<String, String> {
    let mut world = World::new(seed, Setup::manual(nodes));
    let mut sequence = Sequence::default();
    agree(&world, AGREEMENT, true).await?;
    let until_us = world_us() + SAFETY.as_micros() as u64;
    let mut number = 0;
    while world_us() < until_us {
        let pause_ms = world.rng().random_range(200..4_000);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        number += 1;
        strike(&mut world, number);
        (0..world.nodes()).try_for_each(|node| sequence.look(&world, node))?;
    }
    (0..world.nodes()).for_each(|node| world.resume(node));
    world.heal();
    let members_ms = agree(&world, AGREEMENT, false).await?;
    let all_ms = agree(&world, RETURN, true).await?;
    (0..world.nodes()).try_for_each(|node| sequence.look(&world, node))?;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    Ok(format!(
        "{nodes} nodes, {number} strikes, {} views, {} proofs checked, agreed after {members_ms} ms, all back after {all_ms} ms",
        sequence.hashes.len(),
        sequence.verified
    ))
}

fn for_seeds(default: std::ops::Range<u64>, nodes: u16) {
    let text = std::env::var("SEEDS").unwrap_or_default();
    let seeds = match text.split_once("..") {
        Some((first, last)) => first.parse().expect("a number")..last.parse().expect("a number"),
        None => default,
    };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_test_writer()
        .try_init();
    for seed in seeds {
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(Duration::from_secs(1_200));
        match runtime.block_on(storm(seed, nodes)) {
            Ok(summary) => println!("membership seed {seed}: {summary}"),
            Err(violation) => panic!("membership seed {seed}: {violation}"),
        }
    }
}

#[test]
fn five_nodes_agree_on_one_sequence_through_any_storm() {
    for_seeds(0..4, 5);
}

#[test]
fn three_nodes_agree_on_one_sequence_through_any_storm() {
    for_seeds(11..14, 3);
}
