//! The cluster's tables, as the controller has them: the answer of `SYNOD TABLES`. Queries are run by whoever asks, so
//! that none can hold up the node.

use serde_json::{Value, json};
use synod_txn::Reply;

use super::turn::Node;
use crate::controller::Controller;
use crate::controller::records::{POLICIES, Policies, read};
use crate::directory::{NodeState, Table};
use bytes::Bytes;
use synod_txn::Now;

impl Node {
    /// All tables, as JSON: name → rows, each an object.
    pub(super) fn tables(&self) -> Reply {
        let Some(active) = &self.control.active else {
            return Reply::err(
                "this node does not place replicas: ask the one that `synod status` calls controller",
            );
        };
        let row = self.directory.row(POLICIES.as_bytes());
        let policies: Policies = row.and_then(|row| read(&row.value)).unwrap_or_default();
        match serde_json::to_vec(&tables(&active.controller, &policies)) {
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

    /// `SYNOD POLICIES version set`: replaces the set of policies, if it is the next version.
    pub(super) fn set_policies(&mut self, now: Now, args: &[Bytes]) -> Reply {
        let [json] = args else {
            return Reply::err("SYNOD POLICIES set");
        };
        let Some(policies) = read::<Policies>(json) else {
            return Reply::err("that is no set of policies in JSON: nothing was done");
        };
        let Some(row) = self.directory.row(POLICIES.as_bytes()) else {
            return Reply::err("this node has no copy of the policies: ask the controller");
        };
        if policies.version != row.generation + 1 {
            return Reply::err(format!(
                "the policies are at version {}: look at them again, nothing was done",
                row.generation
            ));
        }
        let key = Bytes::from_static(POLICIES.as_bytes());
        match self.write_row(now, key, policies.version, Some(json.clone())) {
            true => Reply::Status(format!("version {}", policies.version).into()),
            false => Reply::err("too much waits for the system shard: nothing was done, try again"),
        }
    }
}

fn tables(controller: &Controller, policies: &Policies) -> Value {
    let cluster = controller.cluster();
    let nodes = cluster.nodes.iter().map(|(id, node)| {
        let capacity = node.capacity();
        json!({
            "node_id": id.to_string(), "zone": node.zone(),
            "region": node.label("region").unwrap_or("default"),
            "rack": node.label("rack"), "disk": node.label("disk"),
            "status": node.status().text(), "cap_bytes": capacity.bytes,
            "cap_qps": capacity.qps, "cap_replicas": capacity.replicas,
        })
    });
    let shards = cluster.shards.iter().map(|(id, shard)| {
        let range = &shard.descriptor.range;
        json!({
            "shard_id": id.0, "start_key": range.start.escape_ascii().to_string(),
            "end_key": range.end.as_ref().map(|key| key.escape_ascii().to_string()),
            "tenant": null, "tag": null, "bytes": shard.load.bytes,
            "read_qps": shard.load.read_qps, "write_qps": shard.load.write_qps,
            "rf": cluster.replicas, "home_region": null, "colo_group": null,
        })
    });
    let replicas = cluster.shards.iter().flat_map(|(id, shard)| {
        let seats = cluster.seats(shard).into_iter().enumerate();
        seats.map(move |(slot, seat)| {
            let node = seat.node.map(|node| node.to_string());
            json!({
                "shard_id": id.0, "slot": slot, "role": if seat.votes { "voter" } else { "learner" },
                "current_node": node, "controllable__node": node,
            })
        })
    });
    let leaders = cluster.shards.iter().filter_map(|(id, shard)| {
        let leader = shard.leader?.0.to_string();
        let row = json!({
            "shard_id": id.0, "current_leader": leader, "controllable__leader": leader,
        });
        Some(row)
    });
    let (head, targets) = controller.plan();
    let moves = targets.iter().map(|(id, target)| {
        let end = target.end();
        let nodes = end.map(|stage| stage.seats.iter().filter_map(|seat| seat.node));
        let nodes: Vec<String> = nodes.into_iter().flatten().map(|n| n.to_string()).collect();
        json!({
            "shard_id": id.0, "class": target.class.text(), "why": target.why,
            "to_nodes": nodes.join(" "),
            "to_leader": end.and_then(|stage| stage.leader).map(|node| node.to_string()),
            "waits_for": controller.waits().get(id).map(|waits| format!("{waits:?}")),
        })
    });
    let state = |at: u64| {
        if at == policies.version {
            "in force"
        } else {
            "past"
        }
    };
    let listed = policies.policies.iter().map(|policy| {
        json!({
            "name": policy.name, "version": policy.since, "state": state(policies.version),
            "sql": policy.sql,
        })
    });
    json!({
        "nodes": nodes.collect::<Vec<_>>(), "shards": shards.collect::<Vec<_>>(),
        "replicas": replicas.collect::<Vec<_>>(), "leaders": leaders.collect::<Vec<_>>(),
        "moves": moves.collect::<Vec<_>>(), "policies": listed.collect::<Vec<_>>(),
        "plans": [{
            "plan": head.plan, "term": head.term, "policies": head.inputs.policies,
            "view": head.inputs.view, "status": controller.verdict().status,
            "conflict": controller.verdict().conflict.join("; "),
            "error": controller.verdict().error,
        }],
    })
}
