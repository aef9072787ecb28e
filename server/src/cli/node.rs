//! `synod node`: the members of the cluster.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use synod_client::Command;

use super::{Failure, address::Server, controller, recover, report, restore, sql};
use crate::status::{Report, render_members};

/// Between two looks at a node that leaves.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// And at one that is emptied.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long nothing may change until it is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// `synod node`.
#[derive(Debug, clap::Subcommand)]
pub enum Node {
    /// List the members: whether they vote, can be reached, and which view they have
    List(List),
    /// Let the node at --addr leave the cluster for good; ends when a view without it is certified
    Leave(Leave),
    /// Move everything away from a node; ends when nothing lives there
    Drain(Emptied),
    /// Let a node that was drained carry replicas again
    Undrain(Meant),
    /// Move everything away from a node for good; ends when nothing lives there and it may leave
    Decommission(Emptied),
    /// Go on without a majority of the members that is lost for good: on the directory of a node that is stopped
    Recover(recover::Recover),
    /// Begin a cluster from a copy of all of another's directories: on each of them, before any node is started
    Restore(restore::Restore),
}

/// What a node is meant to do.
#[derive(Debug, clap::Args)]
pub struct Meant {
    #[command(flatten)]
    server: Server,
    /// Its id, or the first digits of it
    node: String,
    /// Print JSON: an object a line
    #[arg(long)]
    json: bool,
}

/// A node that is to be emptied.
#[derive(Debug, clap::Args)]
pub struct Emptied {
    #[command(flatten)]
    meant: Meant,
    /// Do not wait until it is empty
    #[arg(long)]
    no_wait: bool,
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Node {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Node::List(list) => list.run(),
            Node::Leave(leave) => leave.run(),
            Node::Drain(emptied) => emptied.run("DRAIN"),
            Node::Undrain(meant) => meant.run("UNDRAIN"),
            Node::Decommission(emptied) => emptied.run("DECOMMISSION"),
            Node::Recover(recover) => recover.run(),
            Node::Restore(restore) => restore.run(),
        }
    }
}

impl Meant {
    fn run(&self, word: &str) -> Result<ExitCode, Failure> {
        let mut client = self.server.client();
        let command = Command::new("SYNOD").arg(word).arg(self.node.as_str());
        let done = super::runtime()?.block_on(client.call_once(&command));
        let done = done.map_err(|error| Failure::client(&client, error))?;
        let text = super::answer::text(&done, super::answer::Form::Plain);
        self.tell(&json!({ "done": text }), &text);
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, json: &Value, text: &str) {
        match self.json {
            true => println!("{json}"),
            false => println!("{text}"),
        }
    }
}

impl Emptied {
    fn run(self, word: &str) -> Result<ExitCode, Failure> {
        let done = self.meant.run(word)?;
        match self.no_wait {
            true => Ok(done),
            false => super::runtime()?.block_on(self.wait()),
        }
    }

    /// Until nothing lives on the node. When that takes long, the controller is asked what it waits for.
    async fn wait(&self) -> Result<ExitCode, Failure> {
        let Meant { server, node, .. } = &self.meant;
        let (mut before, mut since, mut told) = (None, Instant::now(), Vec::new());
        loop {
            // The controller itself may be on the node, and change with that.
            if let Ok(left) = sql::replicas_on(server, node).await {
                if before != Some(left) {
                    let text = format!("{left} replicas left");
                    self.meant.tell(&json!({ "replicas_left": left }), &text);
                    (before, since) = (Some(left), Instant::now());
                }
                if left == 0 {
                    break;
                }
            }
            if since.elapsed() > PATIENCE
                && let Ok(report) = placed(server).await
                && report.placement != told
            {
                told = report.placement;
                for line in &told {
                    let text = format!("  the controller: {line}");
                    self.meant.tell(&json!({ "placement": line }), &text);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if !self.meant.json {
            println!(
                "nothing lives on it any more: it may be stopped, or leave (`synod node leave`)"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the node with the controller reports.
async fn placed(server: &Server) -> Result<Report, Failure> {
    report(&mut controller(server).await?.client()).await
}

impl List {
    fn run(self) -> Result<ExitCode, Failure> {
        let mut client = self.server.client();
        let report = super::runtime()?.block_on(report(&mut client))?;
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
            let before = report(&mut client).await?;
            let mut command = Command::new("SYNOD").arg("LEAVE");
            if self.force {
                command = command.arg("FORCE");
            }
            client
                .call_once(&command)
                .await
                .map_err(|error| Failure::client(&client, error))?;
            // It stops by itself when it has left; until then it says how it stands.
            while report(&mut client).await.is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let (node, view) = (before.node.id, before.view.seq);
            match self.json {
                true => println!("{}", json!({ "left": node, "last_view": view })),
                false => println!("node {node} has left; view {view} was its last"),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
