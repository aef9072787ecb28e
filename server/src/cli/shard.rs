//! `synod shard …`: orders by hand.

use std::process::ExitCode;

use serde_json::json;
use synod_client::{Command, Options};

use super::{Failure, address::Server, answer};

/// `synod shard`.
#[derive(Debug, clap::Args)]
pub struct Shard {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Split the shard that has a key: keys from this one on become a shard of their own
    Split {
        /// The first key of the new shard
        key: String,
    },
    /// Merge a shard with the next one in key order
    Merge {
        /// The shard's number
        shard: u64,
    },
    /// Move a replica from one node to another, and wait until it is there
    Move {
        /// The shard's number
        shard: u64,
        /// The node that has it: its id, or the first digits of it
        from: String,
        /// The node that shall have it
        to: String,
    },
    /// Hand the leadership to the replica on a node
    Transfer {
        /// The shard's number
        shard: u64,
        /// The node
        node: String,
    },
    /// Begin a replica without a vote on a node
    Add {
        /// The shard's number
        shard: u64,
        /// The node
        node: String,
    },
    /// Give the replica on a node a vote
    Promote {
        /// The shard's number
        shard: u64,
        /// The node
        node: String,
    },
    /// Take the vote of the replica on a node
    Demote {
        /// The shard's number
        shard: u64,
        /// The node
        node: String,
    },
    /// Remove the replica on a node
    Remove {
        /// The shard's number
        shard: u64,
        /// The node
        node: String,
    },
}

impl Order {
    /// The words behind `SYNOD SHARD`.
    fn words(&self) -> Vec<String> {
        let words = |verb: &str, rest: &[&dyn std::fmt::Display]| {
            let rest = rest.iter().map(|word| word.to_string());
            std::iter::once(verb.to_owned()).chain(rest).collect()
        };
        match self {
            Order::Split { key } => words("SPLIT", &[key]),
            Order::Merge { shard } => words("MERGE", &[shard]),
            Order::Move { shard, from, to } => words("MOVE", &[shard, from, to]),
            Order::Transfer { shard, node } => words("TRANSFER", &[shard, node]),
            Order::Add { shard, node } => words("ADD", &[shard, node]),
            Order::Promote { shard, node } => words("PROMOTE", &[shard, node]),
            Order::Demote { shard, node } => words("DEMOTE", &[shard, node]),
            Order::Remove { shard, node } => words("REMOVE", &[shard, node]),
        }
    }
}

impl Shard {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = self.server.client_with(Options {
            // A move takes as long as its data.
            call_timeout: std::time::Duration::from_secs(1_000),
            ..Options::default()
        });
        let words = self.order.words().into_iter();
        let command = words.fold(Command::new("SYNOD").arg("SHARD"), |command, word| {
            command.arg(word)
        });
        let done = super::runtime()?.block_on(client.call_once(&command));
        let done = done.map_err(|error| Failure::client(&client, error))?;
        let text = answer::text(&done, answer::Form::Plain);
        match self.json {
            true => println!("{}", json!({ "done": text })),
            false => println!("{text}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        shard: Shard,
    }

    #[test]
    fn flags_go_before_the_order_or_behind_it() {
        let before = ["shard", "--json", "--addr", "a:1", "move", "7", "x", "y"];
        let behind = ["shard", "move", "7", "x", "y", "--addr", "a:1", "--json"];
        for line in [before, behind] {
            let Line { shard } = Line::try_parse_from(line).expect("a command line");
            assert!(shard.json);
            assert_eq!(shard.server.addr[0].to_string(), "a:1");
            assert_eq!(shard.order.words(), ["MOVE", "7", "x", "y"]);
        }
    }
}
