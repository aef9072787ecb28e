//! The cluster's tables, as the controller has them: the answer of `SYNOD TABLES`. Queries are run by whoever asks, so
//! that none can hold up the node.

use serde_json::{Value, json};
use synod_txn::Reply;

use super::turn::Node;
use crate::controller::Controller;
use crate::controller::advance::Waiting;
use crate::controller::records::Policies;
use crate::directory::{NodeState, Table};
use crate::membership::views::Views;
use bytes::Bytes;
use synod_membership::member::Member;
use synod_replication::NodeId;
use synod_txn::Now;

/// All tables, by name.
const TABLES: [&str; 8] = [
    "nodes", "shards", "replicas", "leaders", "moves", "plans", "policies", "views",
];

impl Node {
    /// The tables of these names, or all, as JSON: name → [`table`].
    pub(super) fn tables(&self, names: &[Bytes]) -> Reply {
        let Some(active) = &self.control.active else {
            return Reply::err(
                "this node does not place replicas: ask the one that `synod status` calls controller",
            );
        };
        let controller = &active.controller;
        let mut tables = serde_json::Map::new();
        for name in TABLES {
            if !names.is_empty() && !names.iter().any(|it| it == name.as_bytes()) {
                continue;
            }
            let table = match name {
                "nodes" => nodes(controller),
                "shards" => shards(controller),
                "replicas" => replicas(controller),
                "leaders" => leaders(controller),
                "moves" => moves(controller),
                "plans" => plans(controller),
                "policies" => listed(&self.policies()),
                _ => views(self.membership.views()),
            };
            tables.insert(name.to_owned(), table);
        }
        if tables.len() < names.len() {
            return Reply::err(format!("there are the tables {}", TABLES.join(", ")));
        }
        match serde_json::to_vec(&tables) {
            Ok(json) => Reply::Bulk(json.into()),
            Err(error) => Reply::err(format!("cannot describe the cluster: {error}")),
        }
    }

    /// `SYNOD DRAIN|UNDRAIN|DECOMMISSION node`: what a node is meant to do.
    pub(super) fn set_state(&mut self, now: Now, state: NodeState, args: &[Bytes]) -> Reply {
        let [node] = args else {
            return Reply::err("SYNOD DRAIN|UNDRAIN|DECOMMISSION node");
        };
        let node = match self.node_of(node) {
            Ok(node) => node,
            Err(why) => return Reply::err(why),
        };
        // Later words win; clocks of nodes that are set by hand seconds apart agree well enough.
        let (key, generation) = (Table::State(node).key(), now.wall_ms);
        match self.write_row(now, key, generation, Some(state.encode())) {
            true => Reply::Status(format!("node {node}: {state:?}").into()),
            false => Reply::err("too much waits for the system shard: nothing was done, try again"),
        }
    }
}

/// A table as it travels: its columns, and its rows as lists of cells. An empty table has its columns too.
fn table<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [Value; N]>) -> Value {
    json!({ "columns": columns.as_slice(), "rows": rows.map(Vec::from).collect::<Vec<_>>() })
}

fn nodes(controller: &Controller) -> Value {
    let rows = controller.cluster().nodes.iter().map(|(id, node)| {
        let capacity = node.capacity();
        [
            json!(id.to_string()),
            json!(node.zone()),
            json!(node.label("region").unwrap_or("default")),
            json!(node.label("rack")),
            json!(node.label("disk")),
            json!(node.status().text()),
            json!(capacity.bytes),
            json!(capacity.qps),
            json!(capacity.replicas),
        ]
    });
    let columns = [
        "node_id",
        "zone",
        "region",
        "rack",
        "disk",
        "status",
        "cap_bytes",
        "cap_qps",
        "cap_replicas",
    ];
    table(columns, rows)
}

fn shards(controller: &Controller) -> Value {
    let cluster = controller.cluster();
    let rows = cluster.shards.iter().map(|(id, shard)| {
        let range = &shard.descriptor.range;
        let end = range.end.as_ref();
        [
            json!(id.0),
            json!(range.start.escape_ascii().to_string()),
            json!(end.map(|key| key.escape_ascii().to_string())),
            json!(shard.load.bytes),
            json!(shard.load.read_qps),
            json!(shard.load.write_qps),
            json!(cluster.replicas),
        ]
    });
    let columns = [
        "shard_id",
        "start_key",
        "end_key",
        "bytes",
        "read_qps",
        "write_qps",
        "rf",
    ];
    table(columns, rows)
}

fn replicas(controller: &Controller) -> Value {
    let cluster = controller.cluster();
    let rows = cluster.shards.iter().flat_map(|(id, shard)| {
        let seats = cluster.seats(shard).into_iter().enumerate();
        seats.map(move |(slot, seat)| {
            let node = json!(seat.node.map(|node| node.to_string()));
            let role = if seat.votes { "voter" } else { "learner" };
            [json!(id.0), json!(slot), json!(role), node.clone(), node]
        })
    });
    let columns = [
        "shard_id",
        "slot",
        "role",
        "current_node",
        "controllable__node",
    ];
    table(columns, rows)
}

fn leaders(controller: &Controller) -> Value {
    let shards = controller.cluster().shards.iter();
    let rows = shards.filter_map(|(id, shard)| {
        let leader = json!(shard.leader?.0.to_string());
        Some([json!(id.0), leader.clone(), leader])
    });
    let columns = ["shard_id", "current_leader", "controllable__leader"];
    table(columns, rows)
}

/// What the plan wants and the shards have not reached yet.
fn moves(controller: &Controller) -> Value {
    let (_, targets) = controller.plan();
    let rows = targets.iter().map(|(id, target)| {
        let end = target.end();
        let seats = end.map_or(&[][..], |stage| &stage.seats);
        let nodes = seats.iter().filter_map(|seat| seat.node);
        let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
        let leader = end.and_then(|stage| stage.leader);
        let waits = controller.waits().get(id);
        [
            json!(id.0),
            json!(target.class.text()),
            json!(target.why),
            json!(nodes.join(" ")),
            json!(leader.map(|node| node.to_string())),
            json!(waits.map(Waiting::text)),
        ]
    });
    let columns = [
        "shard_id",
        "class",
        "why",
        "to_nodes",
        "to_leader",
        "waits_for",
    ];
    table(columns, rows)
}

fn plans(controller: &Controller) -> Value {
    let (head, _) = controller.plan();
    let verdict = controller.verdict();
    let row = [
        json!(head.plan),
        json!(head.term),
        json!(head.inputs.policies),
        json!(head.inputs.view),
        json!(verdict.status),
        json!(verdict.conflict.join("; ")),
        json!(verdict.error),
    ];
    let columns = [
        "plan", "term", "policies", "view", "status", "conflict", "error",
    ];
    table(columns, std::iter::once(row))
}

fn listed(policies: &Policies) -> Value {
    let rows = policies.policies.iter().map(|policy| {
        [
            json!(policy.name),
            json!(policy.since),
            json!(policies.version),
            json!(policies.forced.join("; ")),
            json!(policy.sql),
        ]
    });
    table(["name", "since", "set_version", "forced_over", "sql"], rows)
}

/// The history of membership, as far as this process has seen it.
fn views(views: &Views) -> Value {
    let rows = views.changes().map(|change| {
        let configuration = &change.configuration;
        let ids = |ids: &mut dyn Iterator<Item = NodeId>| {
            let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
            json!(ids.join(" "))
        };
        let of = |member: &Member| NodeId(member.node.0);
        [
            json!(configuration.seq()),
            json!(configuration.hash().to_string()),
            json!(configuration.members().len()),
            ids(&mut change.joined.iter().map(of)),
            ids(&mut change.left.iter().map(|left| NodeId(left.node.0))),
            ids(&mut change.restarted.iter().map(of)),
        ]
    });
    table(
        ["seq", "hash", "members", "joined", "gone", "restarted"],
        rows,
    )
}
