//! Orders to the cluster in the midst of faults: leaders are transferred, replicas move, shards split and merge.
//!
//! They are given as an operator would give them, through any node. Whether one is carried out does
//! not matter here: it may be refused, or lost half done. What it must not do is to break a promise.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use synod::status::{Report, ShardReport};
use synod_client::{Client, Command, Options};

use super::Fault;
use crate::workload::PLACES;

/// Orders that are given at once, at most.
const ORDERS_MAX: usize = 8;

/// Gives the orders of a fault, with details drawn from `draw`.
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
    let orders = report.map_or(Vec::new(), |report| orders(&report, fault, &mut rng));
    // At once: none of them waits for the one before.
    let answers = client.pipeline(&orders).await;
    tracing::info!(?orders, ?answers, "orders");
}

/// Orders that the cluster, as it is reported, can carry out.
fn orders(report: &Report, fault: Fault, rng: &mut SmallRng) -> Vec<Command> {
    let Some(shard) = report.shards.choose(rng) else {
        return Vec::new();
    };
    let verb = |verb: &str| Command::new("SYNOD").arg("SHARD").arg(verb);
    let mut orders = match fault {
        Fault::Split => {
            let place = PLACES[rng.random_range(0..PLACES.len())];
            // Inside of a shard, and among the keys of workloads.
            let at = format!("{place}{}", char::from(rng.random_range(b'a'..=b'z')));
            vec![verb("SPLIT").arg(at)]
        }
        Fault::Move => {
            let (free, from) = (free(report, shard), shard.replicas.choose(rng));
            let id = shard.id.to_string();
            let there = free.choose(rng).zip(from);
            let order = there.map(|(to, from)| verb("MOVE").arg(id).arg(&from.node).arg(to));
            order.into_iter().collect()
        }
        Fault::Merge => vec![verb("MERGE").arg(shard.id.to_string())],
        Fault::Leave => vec![Command::new("SYNOD").arg("LEAVE").arg("FORCE")],
        Fault::Learner | Fault::LeftWithLearners => {
            // Of all shards: whichever leader is lost has them.
            let shards = report.shards.iter();
            let pairs =
                shards.flat_map(|shard| free(report, shard).into_iter().map(move |to| (shard, to)));
            pairs
                .map(|(shard, to)| verb("ADD").arg(shard.id.to_string()).arg(to))
                .collect()
        }
        Fault::DeafTransfer => {
            let led = report
                .shards
                .iter()
                .filter(|shard| shard.leader.as_ref() == Some(&report.node.id));
            let mut transfer = |shard: &ShardReport| {
                let others: Vec<&str> = shard
                    .replicas
                    .iter()
                    .filter(|replica| replica.node != report.node.id && replica.role == "voter")
                    .map(|replica| replica.node.as_str())
                    .collect();
                let to = others.choose(rng)?;
                Some(verb("TRANSFER").arg(shard.id.to_string()).arg(to))
            };
            led.filter_map(&mut transfer).collect()
        }
        _ => {
            let to = shard.replicas.choose(rng);
            let id = shard.id.to_string();
            to.map(|to| verb("TRANSFER").arg(id).arg(&to.node))
                .into_iter()
                .collect()
        }
    };
    orders.truncate(ORDERS_MAX);
    orders
}

/// The members that have no replica of a shard.
fn free<'a>(report: &'a Report, shard: &ShardReport) -> Vec<&'a str> {
    let members = report.view.members.iter().map(|member| member.id.as_str());
    members
        .filter(|id| shard.replicas.iter().all(|replica| replica.node != **id))
        .collect()
}
