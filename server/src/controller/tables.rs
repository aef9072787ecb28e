//! The cluster as rows of the placement tables (`placement/policies/tables.sql`).
//!
//! The controller remembers which rows the solver has been given, so that it sends only what changed.

use std::collections::BTreeMap;

use synod_placement::{Change, Datum};
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::cluster::{Cluster, Load, Node, Seat, Shard};

/// The statements that create the tables.
pub const TABLES: &str = include_str!("../../../placement/policies/tables.sql");

/// What the solver sees of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRows {
    /// Its keys, printable.
    pub range: (String, Option<String>),
    /// What it weighs.
    pub load: Load,
    /// Its seats.
    pub seats: Vec<Seat>,
    /// Its leader.
    pub leader: Option<NodeId>,
}

/// The rows that the solver has.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    nodes: BTreeMap<NodeId, Vec<Datum>>,
    shards: BTreeMap<ShardId, ShardRows>,
}

/// A node's name in tables.
pub fn node_text(node: NodeId) -> String {
    node.to_string()
}

/// The node of a name.
pub fn node_of(text: &str) -> Option<NodeId> {
    u128::from_str_radix(text, 16).ok().map(NodeId)
}

fn text(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

fn optional(value: Option<&str>) -> Datum {
    value.map_or(Datum::Null, text)
}

fn number(n: u64) -> Datum {
    Datum::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn node_datum(node: Option<NodeId>) -> Datum {
    node.map_or(Datum::Null, |node| text(node_text(node)))
}

fn upsert(table: &str, row: Vec<Datum>) -> Change {
    Change::Upsert {
        table: table.to_owned(),
        row,
    }
}

fn delete(table: &str, key: Vec<Datum>) -> Change {
    Change::Delete {
        table: table.to_owned(),
        key,
    }
}

/// A row of `nodes`.
pub fn node_row(id: NodeId, node: &Node) -> Vec<Datum> {
    let capacity = node.capacity();
    vec![
        text(node_text(id)),
        text(node.zone()),
        text(node.label("region").unwrap_or("default")),
        optional(node.label("rack")),
        optional(node.label("disk")),
        text(node.status().text()),
        number(capacity.bytes),
        number(capacity.qps),
        number(capacity.replicas),
    ]
}

/// A row of `replicas`.
pub fn seat_row(shard: ShardId, slot: usize, seat: Seat) -> Vec<Datum> {
    vec![
        number(shard.0),
        number(slot as u64),
        text(if seat.votes { "voter" } else { "learner" }),
        node_datum(seat.node),
        node_datum(seat.node),
    ]
}

/// The row of `leaders`, or its end: of a shard that nobody leads there is nothing to be decided.
fn leader_change(shard: ShardId, leader: Option<NodeId>) -> Change {
    match leader {
        Some(_) => {
            let node = node_datum(leader);
            upsert("leaders", vec![number(shard.0), node.clone(), node])
        }
        None => delete("leaders", vec![number(shard.0)]),
    }
}

/// A row of `shards`.
pub fn shard_row(shard: ShardId, rows: &ShardRows, replicas: u32) -> Vec<Datum> {
    vec![
        number(shard.0),
        text(rows.range.0.clone()),
        optional(rows.range.1.as_deref()),
        Datum::Null,
        Datum::Null,
        number(rows.load.bytes),
        number(rows.load.read_qps),
        number(rows.load.write_qps),
        number(u64::from(replicas)),
        Datum::Null,
        Datum::Null,
    ]
}

/// The rows of a shard as things are.
pub fn rows_of(cluster: &Cluster, shard: &Shard) -> ShardRows {
    let range = &shard.descriptor.range;
    let printable = |key: &[u8]| key.escape_ascii().to_string();
    let seats = cluster.seats(shard);
    // Where the seats do not have the leader (it is about to go), policies see none. A leader that is the only voter
    // beside a learner cannot be another one: balance shall not want it.
    let leader = shard.leader.map(|(node, _)| node);
    let leader = leader
        .filter(|node| seats.iter().any(|seat| seat.node == Some(*node)))
        .filter(|_| seats.iter().all(|seat| seat.votes));
    ShardRows {
        range: (printable(&range.start), range.end.as_deref().map(printable)),
        load: shard.load,
        seats,
        leader,
    }
}

/// All rows of the cluster, as if nothing had been shown yet.
pub fn all_rows(cluster: &Cluster) -> Vec<Change> {
    let mut shown = Shown::default();
    let mut changes = Vec::new();
    shown.nodes(cluster, &mut changes);
    for shard in cluster.shards.keys() {
        shown.shard_changes(cluster, *shard, &mut changes);
    }
    changes
}

impl Shown {
    /// Nothing has been shown yet.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.shards.clear();
    }

    /// What the solver has of a shard.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardRows> {
        self.shards.get(&shard)
    }

    /// All shards that the solver has.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardRows)> {
        self.shards.iter().map(|(shard, rows)| (*shard, rows))
    }

    /// The changes of the nodes' rows.
    pub fn nodes(&mut self, cluster: &Cluster, changes: &mut Vec<Change>) {
        for (&id, node) in &cluster.nodes {
            let row = node_row(id, node);
            if self.nodes.get(&id) != Some(&row) {
                changes.push(upsert("nodes", row.clone()));
                self.nodes.insert(id, row);
            }
        }
    }

    /// The changes of the rows of nodes that are nobody's any more: to be made after the shards'.
    pub fn forget_nodes(&mut self, cluster: &Cluster, changes: &mut Vec<Change>) {
        self.nodes.retain(|&id, _| {
            let known = cluster.nodes.contains_key(&id);
            if !known {
                changes.push(delete("nodes", vec![text(node_text(id))]));
            }
            known
        });
    }

    /// The changes of one shard's rows; a shard that is gone has none left.
    pub fn shard_changes(&mut self, cluster: &Cluster, id: ShardId, changes: &mut Vec<Change>) {
        let fresh = cluster.shards.get(&id).map(|shard| rows_of(cluster, shard));
        let before = self.shards.get(&id);
        if fresh.as_ref() == before {
            return;
        }
        let seats_before = before.map_or(&[][..], |rows| &rows.seats);
        let kept = fresh.as_ref().map_or(0, |rows| rows.seats.len());
        for slot in kept..seats_before.len() {
            changes.push(delete("replicas", vec![number(id.0), number(slot as u64)]));
        }
        match &fresh {
            Some(rows) => {
                let row = shard_row(id, rows, cluster.replicas);
                if before.map(|rows| shard_row(id, rows, cluster.replicas)) != Some(row.clone()) {
                    changes.push(upsert("shards", row));
                }
                for (slot, seat) in rows.seats.iter().enumerate() {
                    if seats_before.get(slot) != Some(seat) {
                        changes.push(upsert("replicas", seat_row(id, slot, *seat)));
                    }
                }
                let led = before.and_then(|before| before.leader);
                if led != rows.leader {
                    changes.push(leader_change(id, rows.leader));
                }
            }
            None => {
                if before.is_some_and(|before| before.leader.is_some()) {
                    changes.push(leader_change(id, None));
                }
                changes.push(delete("shards", vec![number(id.0)]));
            }
        }
        match fresh {
            Some(rows) => self.shards.insert(id, rows),
            None => self.shards.remove(&id),
        };
    }
}

/// The changes that put a shard's rows from `from` to `to`: seats and leader only.
pub fn flip(
    shard: ShardId,
    from: (&[Seat], Option<NodeId>),
    to: (&[Seat], Option<NodeId>),
    changes: &mut Vec<Change>,
) {
    for (slot, seat) in to.0.iter().enumerate() {
        if from.0.get(slot).is_some_and(|before| before != seat) {
            changes.push(upsert("replicas", seat_row(shard, slot, *seat)));
        }
    }
    if from.1 != to.1 {
        changes.push(leader_change(shard, to.1));
    }
}
