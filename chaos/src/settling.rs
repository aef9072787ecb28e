//! How a cluster that manages itself comes to rest: every shard has all its replicas, on members, and nothing is moved
//! any more.

use std::time::Duration;

use synod::status::{Report, View};
use synod_client::{Client, Options};

use crate::agreement::status;
use crate::report::Failure;
use crate::run::{ended, sound};
use crate::world::World;

/// Within it the world comes to rest: a node that was removed alive is away for minutes, and after a mass of losses
/// another one is waited.
const SETTLED: Duration = Duration::from_secs(900);
/// For so long nothing is wrong nor moved.
const CALM: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until the running nodes say that every shard has all its replicas, on members, and that none is moved.
pub(crate) async fn settle(world: &mut World) -> Result<(), Failure> {
    world.renew();
    let all = world.client_addresses();
    let running: Vec<String> = world.running().iter().map(|i| all[*i].clone()).collect();
    let mut settling = world.spawn(move || is_settled(running));
    let settled = loop {
        tokio::select! {
            biased;
            settled = &mut settling => break ended(settled)?,
            () = tokio::time::sleep(LOOK) => world.renew(),
        }
    };
    sound(world)?;
    settled.map_err(Failure::Stuck)
}

async fn is_settled(addresses: Vec<String>) -> Result<(), String> {
    let client = |address: &String| Client::new([address.as_str()], Options::default());
    let mut clients: Vec<Client> = addresses.iter().map(client).collect();
    let (mut waited, mut calm) = (Duration::ZERO, Duration::ZERO);
    let mut wrong = String::new();
    while waited < SETTLED {
        let mut reports = Vec::new();
        for client in &mut clients {
            reports.extend(status(client).await);
        }
        match unsettled(&reports, addresses.len()) {
            None => calm += LOOK,
            Some(what) => (calm, wrong) = (Duration::ZERO, what),
        }
        if calm >= CALM {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    }
    Err(format!("placement does not come to rest: {wrong}"))
}

/// What is not as it should be in a cluster of so many running nodes.
fn unsettled(reports: &[Report], running: usize) -> Option<String> {
    if reports.len() < running {
        return Some(format!("{} of {running} nodes answer", reports.len()));
    }
    let placement: Vec<&String> = reports.iter().flat_map(|it| &it.placement).collect();
    for report in reports {
        let View {
            serving, members, ..
        } = &report.view;
        if !serving || members.len() != running {
            let (id, members) = (&report.node.id, members.len());
            return Some(format!(
                "{id} serves: {serving}, among {members} of {running}"
            ));
        }
        if let Some(moving) = report.moves.first() {
            return Some(format!("shard {} is moved: {}", moving.shard, moving.what));
        }
        let is_member = |node: &str| members.iter().any(|member| member.id == node);
        for shard in &report.shards {
            let replicas = shard.replicas.iter();
            let sound = replicas.filter(|it| it.role == "voter" && is_member(&it.node));
            let wanted = usize::try_from(shard.replicas_wanted).unwrap_or(usize::MAX);
            if sound.count() != wanted || shard.replicas.len() != wanted {
                let members: Vec<&String> = members.iter().map(|it| &it.id).collect();
                return Some(format!(
                    "shard {} has {:?}, of {wanted}; members {members:?}; {placement:?}; {:?}",
                    shard.id, shard.replicas, report.problems
                ));
            }
        }
        if report.storage.damaged_replicas > 0 {
            return Some(format!(
                "{} has damaged replicas; {placement:?}",
                report.node.id
            ));
        }
    }
    placement
        .is_empty()
        .then(|| "nobody places replicas".to_owned())
}
