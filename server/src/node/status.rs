//! What the node says of itself: the answer of `SYNOD STATUS`.

use synod_membership::configuration::Configuration;
use synod_membership::status::Reachability;
use synod_replication::NodeId;
use synod_txn::Reply;

use super::members::describe;
use super::turn::Node;
use crate::formation::SYSTEM_SHARD;
use crate::membership;
use crate::status::{Member, NodeReport, Replica, Report, ShardReport, StorageReport, View};
use synod_storage::{Pressure, ShardId};

/// The answer of `SYNOD STATUS`.
pub(super) fn answer(node: &Node) -> Reply {
    match serde_json::to_vec(&report(node)) {
        Ok(json) => Reply::Bulk(json.into()),
        Err(error) => Reply::err(format!("cannot describe the node: {error}")),
    }
}

fn report(node: &Node) -> Report {
    let me = node.id();
    let stats = node.store.stats();
    let mut report = Report {
        node: NodeReport {
            id: me.to_string(),
            incarnation: node.me.boot.counter,
            client: node.record.client.to_string(),
            peer: node.record.peer.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: node.clock.monotonic_us().saturating_sub(node.started_us) / 1_000_000,
            labels: node.record.labels.clone(),
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
        traffic: node
            .traffic
            .report(node.outboxes.len(), node.transport.sent()),
        ..Report::default()
    };
    report.controller = node
        .gateway
        .leader(synod_txn::SYSTEM_SHARD)
        .map(|leader| leader.to_string());
    report.view = view(node, &mut report.problems);
    node.describe_placement(&mut report);
    let refusals = node.refusals.lately(node.now().monotonic);
    report.problems.extend(refusals.map(str::to_owned));
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

/// The configuration in force, who of it can be reached from here, and what is wrong with it.
fn view(node: &Node, problems: &mut Vec<String>) -> View {
    let membership = &node.membership;
    let mut report = View::default();
    if let Some(why) = membership.why_closed() {
        problems.push(format!("clients are not served here: {why}"));
    }
    for alarm in membership.alarms() {
        problems.push(describe(alarm));
    }
    if let Some(status) = membership.status() {
        if let Some(left) = status.rejoin_in {
            problems.push(format!(
                "it asks to come back when its links have been clean for another {} s",
                left.as_secs_f64().ceil()
            ));
        }
        report.serving = status.serving;
        report.voters = status
            .voters
            .iter()
            .map(|voter| NodeId(voter.0).to_string())
            .collect();
        let missing = status.missing_voters.iter();
        report.missing_voters = missing.map(|voter| NodeId(voter.0).to_string()).collect();
        report.voters_needed = status.voters_needed;
        if status.voters_needed > 0 && status.serving {
            problems.push(membership.no_majority(&status));
        }
    }
    let Some(configuration) = membership.view() else {
        return report;
    };
    report.cluster = configuration.cluster().to_string();
    report.seq = configuration.seq();
    report.hash = configuration.hash().to_string();
    let members = configuration.members().iter();
    report.members = members
        .map(|member| describe_member(node, configuration, member))
        .collect();
    report
}

fn describe_member(
    node: &Node,
    configuration: &Configuration,
    member: &synod_membership::member::Member,
) -> Member {
    let id = NodeId(member.node.0);
    let peer = node.peers.get(&id);
    let here = id == node.id();
    let (seq, hash) = (configuration.seq(), configuration.hash());
    // Probes carry the end of the hash: enough to see that two nodes differ.
    let installed = if here {
        Some((seq, hash.tag()))
    } else {
        peer.and_then(|peer| peer.view)
    };
    let reachable = match node.membership.reachable(member.node) {
        Reachability::Reachable => true,
        Reachability::Unreachable => false,
        Reachability::Unknown => peer.is_some_and(|peer| peer.connected),
    };
    Member {
        id: id.to_string(),
        incarnation: member.boot.counter,
        client: membership::client_address(member)
            .map(|a| a.to_string())
            .unwrap_or_default(),
        peer: member.address.to_string(),
        reachable: here || reachable,
        voter: configuration.is_voter(member.node),
        view_seq: installed.map(|(seq, _)| seq),
        view_hash: installed.map(|(at, tag)| {
            if (at, tag) == (seq, hash.tag()) {
                hash.to_string()
            } else {
                format!("…{tag:08x}")
            }
        }),
        labels: membership::user_labels(member),
    }
}

/// What a shard weighs: as measured here, where it is led, or as its leader told.
fn bytes_of(node: &Node, shard: ShardId) -> u64 {
    let here = node.survey.weight(shard).map(|weight| weight.bytes);
    let here = here.or_else(|| node.control.sizes.get(&shard).copied());
    here.unwrap_or(0)
}

fn shards(node: &Node) -> Vec<ShardReport> {
    let map = node.gateway.map();
    // Where there are nodes for them. With two, the second is a learner.
    let members = node.membership.view().map_or(1, |it| it.members().len());
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let wanted = node.founding.settings.replicas.min(members);
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
            replicas_wanted: wanted,
            bytes: bytes_of(node, descriptor.shard),
        })
        .collect()
}

fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
