//! What an idle cluster sends.
//!
//! Five whole nodes, with a controller and the usual shards, form a cluster and are left alone. What is on the wire
//! then never ends: the membership's probes, signs of life under which Raft groups sleep, and what leaders repeat of
//! themselves. Virtual time makes the count exact on any machine.

use std::collections::BTreeMap;
use std::time::Duration;

use synod::status::Report;
use synod_chaos::world::{Setup, World};

use super::whole::{agree, reports};
use super::{AGREEMENT, for_seeds};

/// Until leaders are elected, groups sleep, and the controller finds nothing to do.
const REST: Duration = Duration::from_secs(60);
/// What is looked at: several of the longest periods, which are ten seconds.
const LOOK: Duration = Duration::from_secs(60);
/// A node sends no more than so much in a second.
const BYTES_PER_S_MAX: f64 = 2_000.0;

/// Bytes by kind of message, of one node.
fn sent(report: &Report) -> BTreeMap<String, u64> {
    let sent = report.traffic.sent.iter();
    sent.map(|(kind, sent)| (kind.clone(), sent.bytes))
        .collect()
}

async fn all_sent(world: &World) -> Result<Vec<BTreeMap<String, u64>>, String> {
    let reports = reports(world).await;
    let all: Option<Vec<_>> = reports.iter().map(|it| it.as_ref().map(sent)).collect();
    all.ok_or_else(|| "a node does not answer".to_owned())
}

async fn idle(seed: u64) -> Result<String, String> {
    let world = World::new(seed, Setup::placed(5));
    agree(&world, AGREEMENT, true).await?;
    tokio::time::sleep(REST).await;
    let before = all_sent(&world).await?;
    tokio::time::sleep(LOOK).await;
    let after = all_sent(&world).await?;
    let mut most = BTreeMap::new();
    for (before, after) in before.iter().zip(&after) {
        let mut all = 0.0;
        for (kind, bytes) in after {
            let bytes = bytes - before.get(kind).copied().unwrap_or(0);
            let per_s = bytes as f64 / LOOK.as_secs_f64();
            all += per_s;
            let most: &mut f64 = most.entry(kind.clone()).or_default();
            *most = most.max(per_s);
        }
        if all > BYTES_PER_S_MAX {
            return Err(format!("{all:.0} bytes/s, of {after:?} since {before:?}"));
        }
    }
    // Each node probes four others, and answers four: what counted nothing would pass as well.
    for (kind, least) in [("membership", 150.0), ("raft", 20.0)] {
        let seen = most.get(kind).copied().unwrap_or(0.0);
        if seen < least {
            return Err(format!("{seen:.0} bytes/s of {kind}"));
        }
    }
    Ok(format!("at most so many bytes/s of each kind: {most:.0?}"))
}

#[test]
fn an_idle_node_sends_two_kilobytes_a_second_at_most() {
    for_seeds(1..3, idle);
}
