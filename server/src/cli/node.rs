//! `synod node`: the members of the cluster.

use std::process::ExitCode;
use std::time::Duration;

use synod_client::{Client, Command, Error};

use super::{Failure, address::Server};
use crate::status::{Report, render_members};

/// Between two looks at a node that leaves.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `synod node`.
#[derive(Debug, clap::Subcommand)]
pub enum Node {
    /// List the members: whether they vote, can be reached, and which view they have
    List(List),
    /// Let the node at --addr leave the cluster for good; ends when a view without it is certified
    Leave(Leave),
}

/// `synod node list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    server: Server,
    /// Print the view as JSON
    #[arg(long)]
    json: bool,
}

/// `synod node leave`.
#[derive(Debug, clap::Args)]
pub struct Leave {
    #[command(flatten)]
    server: Server,
    /// Leave although replicas live on the node: their shards are left with fewer copies
    #[arg(long)]
    force: bool,
}

impl Node {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Node::List(list) => list.run(),
            Node::Leave(leave) => leave.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<ExitCode, Failure> {
        let mut client = self.server.client();
        let report = super::runtime()?
            .block_on(report(&mut client))
            .map_err(|error| failed(&client, error))?;
        if self.json {
            let json = serde_json::to_string(&report.view)
                .map_err(|error| Failure::Failed(format!("cannot describe the view: {error}")))?;
            println!("{json}");
        } else {
            print!("{}", render_members(&report));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Leave {
    fn run(self) -> Result<ExitCode, Failure> {
        if self.server.addr.len() != 1 {
            let text = "--addr must name one node: the one that leaves".to_owned();
            return Err(Failure::Usage(text));
        }
        let mut client = self.server.client();
        super::runtime()?.block_on(async {
            let before = report(&mut client)
                .await
                .map_err(|error| failed(&client, error))?;
            let mut command = Command::new("SYNOD").arg("LEAVE");
            if self.force {
                command = command.arg("FORCE");
            }
            client
                .call_once(&command)
                .await
                .map_err(|error| failed(&client, error))?;
            // It stops by itself when it has left; until then it says how it stands.
            while report(&mut client).await.is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            println!(
                "node {} has left; view {} was its last",
                before.node.id, before.view.seq
            );
            Ok(ExitCode::SUCCESS)
        })
    }
}

async fn report(client: &mut Client) -> Result<Report, Error> {
    let command = Command::read("SYNOD").arg("STATUS");
    let answer = client.call_once(&command).await?;
    let json = answer.into_bytes()?.unwrap_or_default();
    serde_json::from_slice(&json).map_err(|_| Error::Malformed("the node's report is no JSON"))
}

fn failed(client: &Client, error: Error) -> Failure {
    Failure::Client {
        address: client.address().to_owned(),
        error,
    }
}
