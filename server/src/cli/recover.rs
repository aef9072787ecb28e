//! `synod node recover`: a new lineage of the cluster, when a majority of its members is lost for good.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use synod_membership::id::NodeId;
use synod_storage::disk::Disk;

use super::Failure;
use super::lineage::{Telling, within};
use crate::membership::lineage::{LineageError, Recovery};

/// `synod node recover`.
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// The data directory of a survivor, which must not be running
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A node that goes on: its id, or the first digits of it. Once for each, this one included
    #[arg(long = "survivor", value_name = "ID", required = true)]
    survivors: Vec<String>,
    /// Do it. Without this it is only told what would be done, and what may be lost
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        print!("{}", within(&self.data, |disk| self.recover(disk))?);
        Ok(ExitCode::SUCCESS)
    }

    /// What is to be told.
    fn recover(&self, disk: &Arc<dyn Disk>) -> Result<String, LineageError> {
        let recovery = Recovery::examine(disk, &self.survivors)?;
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

/// A node of the last configuration, and where it was.
fn named(recovery: &Recovery, node: NodeId) -> String {
    match recovery.last.slot(node) {
        Some(slot) => format!("{node} ({})", slot.address),
        None => node.to_string(),
    }
}

fn text(recovery: &Recovery, done: bool) -> String {
    let (loss, new) = (&recovery.lineage.loss, &recovery.lineage.configuration);
    let list = |nodes: &[NodeId]| {
        let lines = nodes
            .iter()
            .map(|node| format!("  {}\n", named(recovery, *node)));
        lines.collect::<String>()
    };
    let staying: Vec<NodeId> = new.members().iter().map(|member| member.node).collect();
    let pending = match loss.decision_pending {
        true => "This node has voted on the view that would follow, so it may have been decided.\n",
        false => "",
    };
    let last = match done {
        true => "Done for this directory. Start the survivors when it is done for each of them.\n",
        false => {
            "Nothing was changed. With --yes it is: on the directory of each survivor, with the same \
             --survivor list, before any of them is started.\n"
        }
    };
    format!(
        "node {}\n\
         the last view that it knows: {} ({}), cluster {}\n\
         survivors, {} of {} members:\n{}\
         left behind for good:\n{}\
         new lineage: cluster {}, begins with view {} ({})\n\n\
         What may be lost: {} of {} votes are missing. Views after {} that were decided without this node, and all \
         that shards have acknowledged whose majority was left behind; such shards stay without a leader.\n{pending}\
         The last view and the new lineage must be the same on each survivor. Where the last view is an older one, \
         `synod node restore --like DIR`, with the directory of one that is done, lets the node join with all it has. \
         Those left behind are refused from now on: give them empty directories.\n{last}",
        recovery.node,
        loss.seq,
        loss.hash,
        recovery.last.cluster(),
        staying.len(),
        recovery.last.members().len(),
        list(&staying),
        list(&loss.members),
        new.cluster(),
        new.seq(),
        new.hash(),
        loss.voters.len(),
        recovery.last.voters().len(),
        loss.seq,
    )
}

fn object(recovery: &Recovery, done: bool) -> Value {
    let (loss, new) = (&recovery.lineage.loss, &recovery.lineage.configuration);
    let ids = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
    let staying: Vec<NodeId> = new.members().iter().map(|member| member.node).collect();
    json!({
        "node": recovery.node.to_string(),
        "last_view": { "seq": loss.seq, "hash": loss.hash.to_string() },
        "survivors": ids(&staying),
        "left_behind": ids(&loss.members),
        "missing_voters": ids(&loss.voters),
        "decision_pending": loss.decision_pending,
        "new_lineage": {
            "cluster": new.cluster().to_string(),
            "seq": new.seq(),
            "hash": new.hash().to_string(),
        },
        "done": done,
    })
}
