//! What the supervisor asks the nodes, as any client would.

use std::{net::SocketAddr, time::Duration};

use synod_client::{Client, Command, Options};

use crate::status::Report;

/// A node's state in a few words.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Members of the view that it has installed.
    pub members: usize,
    /// That view's number.
    pub view_seq: u64,
    /// Shards that it leads.
    pub leads: usize,
    /// All shards that it knows.
    pub shards: usize,
    /// Its clients, but for the one that asks.
    pub clients: u64,
    /// Commands in the last second.
    pub commands_per_s: f64,
    /// The first thing that is wrong, and how many there are.
    pub problem: Option<(String, usize)>,
}

/// A node that does not answer in this time is shown as not serving.
const PATIENCE: Duration = Duration::from_millis(300);

/// Asks a node for its state; `None`: it does not answer.
pub async fn ask(client: &SocketAddr) -> Option<Summary> {
    let options = Options {
        connect_timeout: PATIENCE,
        call_timeout: PATIENCE,
        retry_for: Duration::ZERO,
        name: "synod-local".to_owned(),
        ..Options::default()
    };
    let mut client = Client::new([client.to_string()], options);
    let answer = client
        .call_once(&Command::read("SYNOD").arg("STATUS"))
        .await
        .ok()?;
    let report: Report = serde_json::from_slice(&answer.into_bytes().ok()??).ok()?;
    Some(summarize(&report))
}

fn summarize(report: &Report) -> Summary {
    let problems = report.all_problems();
    let leader = Some(&report.node.id);
    Summary {
        members: report.view.members.len(),
        view_seq: report.view.seq,
        leads: report
            .shards
            .iter()
            .filter(|shard| shard.leader.as_ref() == leader)
            .count(),
        shards: report.shards.len(),
        clients: report.traffic.clients.saturating_sub(1),
        commands_per_s: report.traffic.commands_per_s,
        problem: problems
            .first()
            .map(|first| (first.clone(), problems.len())),
    }
}
