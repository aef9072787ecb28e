//! How a run ends: the healed world serves, and goes on serving when it loses a node.
//!
//! Shards that nobody writes to go quiet: their timers stand still. That nobody misses a quiet leader
//! when its node is gone, or that quiet voters refuse every vote, shows only in a world that has been
//! at rest, and to clients that come after the loss. So some runs end with both.

use std::time::Duration;

use synod::status::Report;
use synod_client::{Client, Command, Options};

use crate::fault::Fault;
use crate::history::Step;
use crate::plan::Plan;
use crate::report::Failure;
use crate::run::{joined, sound};
use crate::workload::{PATIENCE, PLACES, Session};
use crate::world::{End, World};

/// Longer than shards take to go quiet.
const REST: Duration = Duration::from_secs(8);

/// Every shard takes a write: the healed world serves.
pub(crate) async fn probe(mut observer: Session) -> Result<Session, String> {
    for place in PLACES {
        let key = format!("{place}alive");
        let what = format!("a write of {key}");
        observer.insist(&what, Step::write(key, "alive")).await?;
    }
    Ok(observer)
}

/// Whether a plan leaves every shard with all its replicas: of three, one may then be lost.
pub(crate) fn can_lose_one(plan: &Plan) -> bool {
    let hurts = |fault: Fault| matches!(fault, Fault::Replace | Fault::LogRot | Fault::Move);
    // A cluster that manages itself has mended all by then.
    plan.placed || !plan.strikes.iter().any(|strike| hurts(strike.fault))
}

/// Waits until all are members again and at rest; then one node dies, and the others must serve.
pub(crate) async fn bereave(
    world: &mut World,
    observer: Session,
    lost: usize,
) -> Result<(), Failure> {
    let addresses = world.client_addresses();
    let whole = joined(world.spawn(move || all_are_members(addresses))).await?;
    whole.map_err(Failure::Stuck)?;
    tokio::time::sleep(REST).await;
    world.stop(lost, End::Kill);
    let alive = joined(world.spawn(move || probe(observer))).await?;
    sound(world)?;
    alive
        .map(drop)
        .map_err(|what| Failure::Stuck(format!("after a rest, and without node {lost}: {what}")))
}

/// Until every node says that all of them are members, and that it serves.
async fn all_are_members(addresses: Vec<String>) -> Result<(), String> {
    let wait = Duration::from_secs(1);
    let mut clients: Vec<Client> = addresses
        .iter()
        .map(|address| Client::new([address.as_str()], Options::default()))
        .collect();
    let mut waited = Duration::ZERO;
    // The longest that a node which was removed again and again shows clean links for.
    while waited < PATIENCE * 4 {
        let mut whole = 0;
        for client in &mut clients {
            let status = Command::read("SYNOD").arg("STATUS");
            let answer = client.call_once(&status).await.ok();
            let report: Option<Report> = answer
                .as_ref()
                .and_then(|answer| answer.as_bytes())
                .and_then(|bytes| serde_json::from_slice(bytes).ok());
            let all = |report: &Report| {
                report.view.serving && report.view.members.len() == addresses.len()
            };
            whole += usize::from(report.as_ref().is_some_and(all));
        }
        if whole == addresses.len() {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        waited += wait;
    }
    Err("not all nodes are members again in a whole world".to_owned())
}
