//! Whole nodes: what their status says is what counts.

use std::time::Duration;

use rand::Rng;
use synod::status::Report;
use synod_chaos::invariant::views::Views;
use synod_chaos::world::{Setup, World, world_us};
use synod_client::{Client, Command, Options};

use super::strikes::{Means, strike};
use super::{AGREEMENT, RETURN, SAFETY, for_seeds, look};

/// The rate of a clock is off by no more than leases allow.
const MEANS: Means = Means {
    blackout: true,
    disks: false,
    rate_ppm: -20_000..=20_000,
};

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

pub(super) async fn reports(world: &World) -> Vec<Option<Report>> {
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
pub(super) async fn agree(
    world: &World,
    patience: Duration,
    all_serve: bool,
) -> Result<u64, String> {
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

async fn storm(seed: u64, nodes: u16) -> Result<String, String> {
    let mut world = World::new(seed, Setup::manual(nodes));
    let mut views = Views::default();
    agree(&world, AGREEMENT, true).await?;
    let until_us = world_us() + SAFETY.as_micros() as u64;
    let mut number = 0;
    while world_us() < until_us {
        let pause_ms = world.rng().random_range(200..4_000);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        number += 1;
        let victim = world.any_node();
        strike(&mut world, number, victim, &MEANS);
        look(&mut views, &world)?;
    }
    (0..world.nodes()).for_each(|node| world.resume(node));
    world.heal();
    let members_ms = agree(&world, AGREEMENT, false).await?;
    let all_ms = agree(&world, RETURN, true).await?;
    look(&mut views, &world)?;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let (seen, proofs) = views.counts();
    Ok(format!(
        "{nodes} nodes, {number} strikes, {seen} views, {proofs} proofs checked, agreed after {members_ms} ms, all back after {all_ms} ms",
    ))
}

#[test]
fn five_nodes_agree_on_one_sequence_through_any_storm() {
    for_seeds(0..4, |seed| storm(seed, 5));
}

#[test]
fn three_nodes_agree_on_one_sequence_through_any_storm() {
    for_seeds(11..14, |seed| storm(seed, 3));
}
