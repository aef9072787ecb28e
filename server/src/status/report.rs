//! What a node says of itself and its cluster.
//!
//! Every field has a default, so that a newer `synod status` can read an older node and the other way
//! round. Node ids are hexadecimal; keys are text with escapes for what is not printable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer of `SYNOD STATUS`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The node that answers.
    pub node: NodeReport,
    /// The configuration of members that it has installed.
    pub view: View,
    /// All shards, in the order of their keys.
    pub shards: Vec<ShardReport>,
    /// The node's own disk.
    pub storage: StorageReport,
    /// The node's own clients.
    pub traffic: TrafficReport,
    /// The node that decides placement, if one is known.
    pub controller: Option<String>,
    /// What the controller does and waits for, in words; empty where it is not known.
    pub placement: Vec<String>,
    /// Replicas and leaders that are being moved.
    pub moves: Vec<Move>,
    /// Soft policies that are not satisfied.
    pub policies_violated: Vec<String>,
    /// What the node itself knows to be wrong, in words.
    pub problems: Vec<String>,
}

/// A node, about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Its id.
    pub id: String,
    /// How often its data directory was started.
    pub incarnation: u64,
    /// Where it serves clients.
    pub client: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_s: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A configuration of members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// The cluster's id.
    pub cluster: String,
    /// Its number.
    pub seq: u64,
    /// Its chained hash.
    pub hash: String,
    /// Its members.
    pub members: Vec<Member>,
    /// Whether the answering node serves clients.
    pub serving: bool,
    /// The ids of those that vote on the next one. One that is no member is absent, and keeps its vote
    /// until three members can vote.
    pub voters: Vec<String>,
    /// The ids of voters that the answering node has not heard from lately.
    pub missing_voters: Vec<String>,
    /// How many of these must come back before anything can be decided.
    pub voters_needed: usize,
}

/// A member of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// How often its data directory was started.
    pub incarnation: u64,
    /// Where it serves clients.
    pub client: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Whether the answering node can reach it now. Being a member is a different question.
    pub reachable: bool,
    /// Whether it votes on the next configuration.
    pub voter: bool,
    /// The number of the configuration that it has installed, when it is known.
    pub view_seq: Option<u64>,
    /// The hash of that configuration.
    pub view_hash: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardReport {
    /// Its id.
    pub id: u64,
    /// Its first key.
    pub start: String,
    /// The key behind its last one; empty: there is none.
    pub end: String,
    /// Its epoch.
    pub epoch: u64,
    /// The id of the node that leads it, if one is known.
    pub leader: Option<String>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The replicas that it should have.
    pub replicas_wanted: u32,
    /// What its keys and values take.
    pub bytes: u64,
}

/// A replica of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// The id of its node.
    pub node: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Entries that it is behind its leader, when that is known.
    pub lag_entries: Option<u64>,
}

/// A node's disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageReport {
    /// What the log takes.
    pub log_bytes: u64,
    /// What the value files take.
    pub data_bytes: u64,
    /// What is in memory and in the log, but in no value file yet.
    pub checkpoint_debt_bytes: u64,
    /// What is free on the disk.
    pub disk_free_bytes: u64,
    /// Replicas that wait for repair.
    pub damaged_replicas: u32,
    /// Damaged values that are not repaired yet.
    pub damaged_values: u64,
    /// Damaged values that peers have brought back since the start.
    pub repaired_values: u64,
    /// Batches of the log that were written and synced since the start.
    pub log_syncs: u64,
}

/// A node's clients, and what it sends to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficReport {
    /// Connections.
    pub clients: u64,
    /// Commands since the start.
    pub commands: u64,
    /// Commands in the last second.
    pub commands_per_s: f64,
    /// What it has sent to other nodes since the start, by kind of message.
    pub sent: BTreeMap<String, Sent>,
}

/// Messages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// How many.
    pub frames: u64,
    /// Their bytes, without the headers of TCP and IP.
    pub bytes: u64,
}

/// A replica or a leader that is being moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Move {
    /// The shard.
    pub shard: u64,
    /// What is done, in words.
    pub what: String,
    /// How much of it is done.
    pub percent: u32,
    /// An estimate of the time left.
    pub left_s: Option<u64>,
}

impl Report {
    /// Everything that is wrong, in words: what the node says, and what its own figures show.
    pub fn all_problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        for member in self.view.members.iter().filter(|member| !member.reachable) {
            problems.push(format!(
                "node {} ({}) is a member and cannot be reached",
                short(&member.id),
                member.peer
            ));
        }
        for member in &self.view.members {
            if member.view_seq == Some(self.view.seq)
                && member
                    .view_hash
                    .as_ref()
                    .is_some_and(|hash| *hash != self.view.hash)
            {
                problems.push(format!(
                    "node {} has another view {}: the nodes' histories have parted",
                    short(&member.id),
                    self.view.seq
                ));
            }
        }
        self.add_shards(&mut problems);
        let damaged = self.storage.damaged_replicas;
        if damaged > 0 {
            problems.push(format!(
                "{damaged} replicas on this node are damaged and wait for repair"
            ));
        }
        let damaged = self.storage.damaged_values;
        if damaged > 0 {
            problems.push(format!(
                "{damaged} values on this node's disk are damaged and wait for repair"
            ));
        }
        problems
    }

    /// What is wrong with shards. Of their replicas only the worst is said.
    fn add_shards(&self, problems: &mut Vec<String>) {
        count_shards(
            problems,
            "without a leader: unavailable",
            &self.shards,
            // Of others a node knows the leader only if it has asked.
            |shard| shard.leader.is_none() && shard.is_on(&self.node.id),
        );
        let is_live = |replica: &&Replica| {
            let members = &self.view.members;
            members.is_empty() || members.iter().any(|member| member.id == replica.node)
        };
        let live = |shard: &ShardReport| shard.replicas.iter().filter(is_live).count();
        let live_voters = |shard: &ShardReport| {
            let voters = shard.replicas.iter().filter(|it| it.role == "voter");
            voters.filter(is_live).count()
        };
        let stands = |shard: &ShardReport| 2 * live_voters(shard) <= shard.voters();
        let lacks = |shard: &ShardReport| (live(shard) as u32) < shard.replicas_wanted;
        count_shards(
            problems,
            "without a majority of live replicas: unavailable",
            &self.shards,
            stands,
        );
        count_shards(
            problems,
            "with fewer live replicas than wanted",
            &self.shards,
            |shard| lacks(shard) && !stands(shard),
        );
        // No more replicas are wanted than there are nodes for: where none is left to take them, this alone tells.
        count_shards(
            problems,
            "with a replica on a node that is no member any more",
            &self.shards,
            |shard| live(shard) < shard.replicas.len() && !lacks(shard) && !stands(shard),
        );
    }
}

impl Report {
    /// Takes over what only the node with the controller knows: what it does, moves, soft policies, and what is wrong.
    pub fn add_placement(&mut self, controller: Report) {
        self.placement = controller.placement;
        self.moves = controller.moves;
        self.policies_violated = controller.policies_violated;
        for problem in controller.problems {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }
}

impl ShardReport {
    /// Whether a node has a replica of it.
    fn is_on(&self, node: &str) -> bool {
        self.replicas.iter().any(|replica| replica.node == node)
    }

    /// Replicas that vote.
    pub fn voters(&self) -> usize {
        self.replicas
            .iter()
            .filter(|replica| replica.role == "voter")
            .count()
    }
}

/// One line for all shards with the same problem: there may be thousands.
fn count_shards(
    problems: &mut Vec<String>,
    what: &str,
    shards: &[ShardReport],
    has_problem: impl Fn(&ShardReport) -> bool,
) {
    const SHOWN_MAX: usize = 5;
    let ids: Vec<String> = shards
        .iter()
        .filter(|shard| has_problem(shard))
        .map(|shard| shard.id.to_string())
        .collect();
    match ids.as_slice() {
        [] => {}
        [id] => problems.push(format!("1 shard {what}: {id}")),
        ids => {
            let more = if ids.len() > SHOWN_MAX { ", …" } else { "" };
            let shown = ids[..ids.len().min(SHOWN_MAX)].join(", ");
            problems.push(format!("{} shards {what}: {shown}{more}", ids.len()));
        }
    }
}

/// Enough of an id to tell nodes apart by eye.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
