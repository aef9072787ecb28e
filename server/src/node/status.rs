//! What the node says of itself: the answer of `SYNOD STATUS`.

use synod_replication::NodeId;
use synod_txn::{Command, Reply};

use super::turn::Node;
use crate::formation::SYSTEM_SHARD;
use crate::status::{Member, NodeReport, Replica, Report, ShardReport, StorageReport};
use synod_storage::Pressure;

/// Answers what concerns no shard.
pub(super) fn answer(node: &Node, command: &Command) -> Reply {
    match command {
        Command::Synod { args } => match args.first().map(|word| word.to_ascii_uppercase()) {
            Some(word) if word == b"STATUS" && args.len() == 1 => status(node),
            _ => Reply::err("SYNOD knows: STATUS, SHARD"),
        },
        _ => Reply::err("transactions are not served by this release"),
    }
}

fn status(node: &Node) -> Reply {
    match serde_json::to_vec(&report(node)) {
        Ok(json) => Reply::Bulk(json.into()),
        Err(error) => Reply::err(format!("cannot describe the node: {error}")),
    }
}

fn report(node: &Node) -> Report {
    let me = node.id();
    let founder = |id: NodeId| node.founding.member(id.0);
    let members: Vec<Member> = node
        .founding
        .members
        .iter()
        .map(|member| {
            let id = NodeId(member.node);
            let peer = node.peers.get(&id);
            Member {
                id: id.to_string(),
                incarnation: if id == me {
                    node.me.boot.counter
                } else {
                    peer.and_then(|peer| peer.boot).unwrap_or(member.boot.0)
                },
                client: member.client.to_string(),
                peer: member.peer.to_string(),
                reachable: id == me || peer.is_some_and(|peer| peer.connected),
                labels: member.labels.clone(),
                ..Member::default()
            }
        })
        .collect();
    let stats = node.store.stats();
    let mut report = Report {
        node: NodeReport {
            id: me.to_string(),
            incarnation: node.me.boot.counter,
            client: founder(me)
                .map(|m| m.client.to_string())
                .unwrap_or_default(),
            peer: founder(me).map(|m| m.peer.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: node.clock.monotonic_us().saturating_sub(node.started_us) / 1_000_000,
            labels: founder(me).map(|m| m.labels.clone()).unwrap_or_default(),
        },
        shards: shards(node),
        storage: StorageReport {
            log_bytes: stats.log_bytes,
            data_bytes: stats.value_bytes,
            checkpoint_debt_bytes: stats.memtable_bytes,
            disk_free_bytes: stats.available_bytes,
            damaged_replicas: u32::try_from(node.replication.damaged().count()).unwrap_or(u32::MAX),
            damaged_values: stats.damaged_rows,
            repaired_values: stats.repaired_rows,
            log_syncs: stats.syncs,
        },
        traffic: node.traffic.report(node.outboxes.len()),
        ..Report::default()
    };
    report.view.members = members;
    if let Pressure::DiskFull { available_bytes } = node.store.pressure() {
        report.problems.push(format!(
            "the disk is nearly full ({} MiB left): writes are refused, reads and deletes served",
            available_bytes >> 20
        ));
    }
    for damage in &node.report.damage {
        report
            .problems
            .push(format!("damage found at the last start: {damage}"));
    }
    report
}

fn shards(node: &Node) -> Vec<ShardReport> {
    let map = node.gateway.map();
    map.descriptors()
        .filter(|descriptor| descriptor.shard.0 != SYSTEM_SHARD)
        .map(|descriptor| ShardReport {
            id: descriptor.shard.0,
            start: printable(&descriptor.range.start),
            end: descriptor
                .range
                .end
                .as_deref()
                .map(printable)
                .unwrap_or_default(),
            epoch: descriptor.epoch,
            leader: node
                .gateway
                .leader(descriptor.shard)
                .map(|leader| leader.to_string()),
            replicas: descriptor
                .replicas
                .iter()
                .map(|replica| Replica {
                    node: replica.node.to_string(),
                    role: match replica.role {
                        synod_txn::ReplicaRole::Voter => "voter".to_owned(),
                        synod_txn::ReplicaRole::Learner => "learner".to_owned(),
                    },
                    lag_entries: None,
                })
                .collect(),
            replicas_wanted: u32::try_from(descriptor.replicas.len()).unwrap_or(u32::MAX),
            bytes: 0,
        })
        .collect()
}

fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
