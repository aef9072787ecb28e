//! Orders to the cluster in the midst of faults: leaders are transferred, replicas move, shards split.
//!
//! They are given as an operator would give them, through any node. Whether one is carried out does
//! not matter here: it may be refused, or lost half done. What it must not do is to break a promise.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use synod::status::Report;
use synod_client::{Client, Command, Options};

use super::Fault;
use crate::workload::PLACES;

/// Gives one order, with details drawn from `draw`.
pub(super) async fn give(mut addresses: Vec<String>, fault: Fault, draw: u64) {
    let mut rng = SmallRng::seed_from_u64(draw);
    let first = rng.random_range(0..addresses.len());
    addresses.rotate_left(first);
    let options = Options {
        connect_timeout: Duration::from_millis(500),
        call_timeout: Duration::from_secs(5),
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    let mut client = Client::new(addresses, options);
    let status = Command::read("SYNOD").arg("STATUS");
    let Ok(answer) = client.call_once(&status).await else {
        return;
    };
    let report: Option<Report> = answer
        .as_bytes()
        .and_then(|bytes| serde_json::from_slice(bytes).ok());
    let Some(command) = report.and_then(|report| order(&report, fault, &mut rng)) else {
        return;
    };
    let answer = client.call_once(&command).await;
    tracing::info!(?command, ?answer, "an order");
}

/// An order that the cluster, as it is reported, can carry out.
fn order(report: &Report, fault: Fault, rng: &mut SmallRng) -> Option<Command> {
    let shard = report.shards.choose(rng)?;
    let id = shard.id.to_string();
    let order = |verb: &str| Command::new("SYNOD").arg("SHARD").arg(verb);
    let from = shard.replicas.choose(rng)?;
    match fault {
        Fault::Split => {
            let place = PLACES.choose(rng)?;
            // Inside of a shard, and among the keys of workloads.
            let at = format!("{place}{}", char::from(rng.random_range(b'a'..=b'z')));
            Some(order("SPLIT").arg(at))
        }
        Fault::Move => {
            let away = |id: &str| shard.replicas.iter().all(|replica| replica.node != id);
            let members = report.view.members.iter();
            let free: Vec<&str> = members
                .map(|member| member.id.as_str())
                .filter(|id| away(id))
                .collect();
            let to = free.choose(rng)?;
            Some(order("MOVE").arg(id).arg(&from.node).arg(to))
        }
        _ => Some(order("TRANSFER").arg(id).arg(&from.node)),
    }
}
