//! The command line.
//!
//! `start` and `local` run nodes; the other commands are clients of a running one, found by `--addr`.
//! A command that fails says why in one line on stderr and exits with 1; a command line that is
//! wrong exits with 2.

mod address;
mod answer;
mod explain;
mod lineage;
mod node;
mod placement;
mod policy;
mod recover;
mod repl;
mod restore;
mod settings;
mod shard;
mod sql;
mod start;
mod status;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use synod_client::Client;

use self::address::Server;
use crate::config::Address;
use crate::status::Report;

pub use settings::SettingFlags;

/// Synod: a sharded, replicated, strictly serializable key-value store.
#[derive(Debug, Parser)]
#[command(name = "synod", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node. On an empty directory it is a working one-node store
    Start(start::Start),
    /// Run a cluster of several nodes on this machine; Ctrl-C stops it
    Local(crate::local::Local),
    /// Send commands to a node: one given here, those on stdin, or interactively
    Cli(repl::Repl),
    /// Show the state of the cluster on one screen
    Status(status::Status),
    /// The members of the cluster: list them, let one leave for good, go on without a lost majority
    #[command(subcommand)]
    Node(node::Node),
    /// Split, merge and move shards by hand
    Shard(shard::Shard),
    /// Read-only SQL over the cluster's tables
    Sql(sql::Sql),
    /// The policies that place replicas and leaders: list, check, preview, apply them
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Why the replicas and the leader of a shard are where they are, and not elsewhere
    Explain(explain::Explain),
    /// Decide, plan and explain placements from SQL files: no cluster needed
    Placement(placement::Placement),
}

/// Runs the program with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout with 0, an error to stderr with 2. A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Start(start) => start.run(),
        Command::Local(local) => local.run(),
        Command::Cli(repl) => repl.run(),
        Command::Status(status) => status.run(),
        Command::Node(node) => node.run(),
        Command::Shard(shard) => shard.run(),
        Command::Sql(sql) => sql.run(),
        Command::Policy(policy) => policy.run(),
        Command::Explain(explain) => explain.run(),
        Command::Placement(placement) => Ok(placement.run()),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("synod: {failure}");
            failure.code()
        }
    }
}

/// Why a command failed, as the user is told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings are wrong.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    /// The command line or the environment asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// A server did not do what was asked.
    #[error("{address}: {error}")]
    Client {
        /// The server.
        address: String,
        /// What it was.
        error: synod_client::Error,
    },
}

/// What a node answers to a question, which is JSON or another text: to be printed or read.
async fn asked(client: &mut Client, command: &synod_client::Command) -> Result<Vec<u8>, Failure> {
    let answer = client.call_once(command).await;
    let json = answer.and_then(synod_client::Value::into_bytes);
    Ok(json
        .map_err(|error| Failure::client(client, error))?
        .unwrap_or_default()
        .into())
}

/// `SYNOD word`, which changes nothing.
fn question(word: &str) -> synod_client::Command {
    synod_client::Command::read("SYNOD").arg(word)
}

/// Reads what [`asked`] gave.
fn read<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::Failed(format!("{what} is not what was expected: {error}")))
}

/// A node's report.
async fn report(client: &mut Client) -> Result<Report, Failure> {
    let json = asked(client, &question("STATUS")).await?;
    read(&json, "the node's report")
}

/// Where the node that places replicas serves clients, as a report says.
fn controller_of(report: &Report) -> Result<Address, Failure> {
    let controls = |member: &&crate::status::Member| Some(&member.id) == report.controller.as_ref();
    let member = report.view.members.iter().find(controls);
    let member = member.ok_or_else(|| {
        let why = "nobody is known to place replicas now: try again in a few seconds";
        Failure::Failed(why.to_owned())
    })?;
    let address = member.client.parse();
    address.map_err(|_| Failure::Failed(format!("no address: {}", member.client)))
}

/// The node that places replicas.
async fn controller(server: &Server) -> Result<Server, Failure> {
    let report = report(&mut server.client()).await?;
    Ok(server.at(controller_of(&report)?))
}

impl Failure {
    /// What a client met.
    fn client(client: &Client, error: synod_client::Error) -> Failure {
        Failure::Client {
            address: client.address().to_owned(),
            error,
        }
    }

    fn code(&self) -> ExitCode {
        match self {
            Failure::Config(_) | Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) | Failure::Client { .. } => ExitCode::FAILURE,
        }
    }
}

/// A runtime for a command that is a client, or one node.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))
}
