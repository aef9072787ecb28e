//! `synod node restore`: a cluster of its own from a copy of another one's directories.
//!
//! The copy must not be started as it is: its nodes would take themselves for those that they were copied from, and be
//! refused by them, or worse, take their places.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use synod_storage::disk::Disk;

use super::Failure;
use super::lineage::{Telling, within};
use crate::membership::lineage::{LineageError, Recovery, Restored};

/// `synod node restore`.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// A directory of the copy. The copy is of the directories of all members, made while none of them ran
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The same for all directories, and another for each cluster that is made of any copy
    #[arg(long, value_name = "TEXT", required_unless_present = "like")]
    name: Option<String>,
    /// Where peers reach a node of the copy from now on: its id, or the first digits of it, and its --peer. Once for
    /// each that moves; the same list for all directories
    #[arg(long = "at", value_name = "ID=HOST:PORT", value_parser = parse_place)]
    places: Vec<(String, SocketAddr)>,
    /// A directory of the same copy that is restored already, or its files identity and cluster and its directory
    /// membership: for those whose last view is an older one, since their nodes were stopped before the others. They
    /// join
    #[arg(long, value_name = "DIR", conflicts_with_all = ["name", "places"])]
    like: Option<PathBuf>,
    /// Do it. Without this it is only told what would be done
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let like = self.like.as_deref();
        let like = like.map(|data| within(data, Restored::read)).transpose()?;
        print!(
            "{}",
            within(&self.data, |disk| self.restore(disk, like.as_ref()))?
        );
        Ok(ExitCode::SUCCESS)
    }

    /// What is to be told.
    fn restore(
        &self,
        disk: &Arc<dyn Disk>,
        like: Option<&Restored>,
    ) -> Result<String, LineageError> {
        let recovery = match like {
            Some(other) => Recovery::follow(disk, other)?,
            None => {
                let name = self.name.as_deref().unwrap_or_default();
                Recovery::restore(disk, name, &self.places)?
            }
        };
        let Self { yes, json, .. } = *self;
        Telling {
            yes,
            json,
            text,
            object,
        }
        .conclude(recovery, disk)
    }
}

fn parse_place(text: &str) -> Result<(String, SocketAddr), String> {
    let (node, address) = text
        .split_once('=')
        .ok_or("it is a node's id, =, and an address")?;
    let address = address
        .parse()
        .map_err(|_| format!("{address:?} is not an IP address and a port"))?;
    Ok((node.to_owned(), address))
}

fn text(recovery: &Recovery, done: bool) -> String {
    let new = &recovery.lineage.configuration;
    let members = new.members().iter();
    let members: String = members
        .map(|member| format!("  {} ({})\n", member.node, member.address))
        .collect();
    let last = match done {
        true => {
            "Done for this directory. Start the nodes when it is done for each of them, with their new \
             --client and --peer.\n"
        }
        false => {
            "Nothing was changed. With --yes it is: on each directory of the copy, before any node is started.\n"
        }
    };
    format!(
        "node {}\n\
         a copy of: cluster {}, view {} ({})\n\
         becomes: cluster {}, begins with view {} ({})\n\
         members, and where peers reach them:\n{members}\n\
         It must say the same of what it becomes on each directory. Where it does not, the node was stopped before \
         others: restore the copy with the highest view first, and that one with --like DIR. Copies that were not made \
         while all nodes were stopped do not fit together, whatever it says.\n{last}",
        recovery.node,
        recovery.last.cluster(),
        recovery.last.seq(),
        recovery.last.hash(),
        new.cluster(),
        new.seq(),
        new.hash(),
    )
}

fn object(recovery: &Recovery, done: bool) -> Value {
    let new = &recovery.lineage.configuration;
    let members = new.members().iter();
    let members: Vec<Value> = members
        .map(
            |member| json!({ "node": member.node.to_string(), "peer": member.address.to_string() }),
        )
        .collect();
    json!({
        "node": recovery.node.to_string(),
        "copy_of": {
            "cluster": recovery.last.cluster().to_string(),
            "seq": recovery.last.seq(),
            "hash": recovery.last.hash().to_string(),
        },
        "becomes": {
            "cluster": new.cluster().to_string(),
            "seq": new.seq(),
            "hash": new.hash().to_string(),
            "members": members,
        },
        "done": done,
    })
}
