//! The directory: what the cluster knows about itself, as rows of the system shard.
//!
//! # Rows
//!
//! ```text
//! key                    generation                 content (rkyv)
//! shard/<id>             the shard's epoch          ShardDescriptor; none: the shard was merged away
//! node/<id>              the node's boot counter    NodeRecord, written by the node; none: forgotten
//! state/<node id>        the operator's             NodeState, one byte; none: up
//! damaged/<replica>      1                          DamagedReplica; none: dealt with
//! policy/… plan/… …      the controller's own       the controller's own
//! counter/shard          a plain integer            how many shard ids were given out since founding
//! ```
//!
//! Ids stand in keys as sixteen (of nodes thirty-two) hexadecimal digits, so that rows of a table are
//! in order. Rows are written with [`synod_txn::Advance`]: the highest generation stays, whoever
//! comes last. So a shard's leader publishes its descriptor as often as it likes, and a leader that
//! was deposed long ago cannot bring an old one back.
//!
//! # Who knows what
//!
//! A node with a replica of the system shard sees every row as it is applied: [`Directory::rows`],
//! and [`Directory::changes_since`] for those who watch. All other nodes know what they were told:
//! the descriptors and the node records, which any node gives to any other ([`Message`]). That is a
//! cache; requests carry epochs, and whoever acts on an old descriptor is refused with the new one.
//! News spread three ways: a shard's leader sends its new descriptor to all peers; a node asks a peer
//! when it starts and every few seconds, naming a digest of what it has; refusals carry descriptors.

mod message;
mod record;
mod writer;

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::{Advance, Extent, ShardDescriptor};

pub use self::message::Message;
pub(crate) use self::record::encode_descriptor;
pub use self::record::{DamagedReplica, NodeRecord, NodeState, Table};
pub use self::writer::{Drawn, Ticket, Writer};

/// The counter of shard ids.
pub const SHARD_COUNTER: &[u8] = b"counter/shard";

/// A row of the system shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Orders the writes of this row.
    pub generation: u64,
    /// The content; rows without one are not shown.
    pub value: Bytes,
}

/// The rows as they are applied here.
#[derive(Debug, Default)]
struct Resident {
    rows: BTreeMap<Bytes, Row>,
    /// When each key changed last, deleted ones too; and the keys by that.
    changed: BTreeMap<Bytes, u64>,
    by_revision: BTreeMap<u64, Bytes>,
}

/// What a change of the directory means for the rest of the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Learned {
    /// A shard is described anew.
    Shard(ShardDescriptor),
    /// A shard was merged into another one.
    Gone(ShardId),
    /// A node is registered anew.
    Node(NodeRecord),
}

/// What one node knows.
///
/// Invariants: of each shard and node only the highest generation that was ever seen counts; in
/// `by_revision` every key stands once, under its revision in `changed`.
#[derive(Debug, Default)]
pub struct Directory {
    shards: BTreeMap<ShardId, (u64, Option<ShardDescriptor>)>,
    nodes: BTreeMap<NodeId, (u64, Option<NodeRecord>)>,
    states: BTreeMap<NodeId, NodeState>,
    damaged: BTreeMap<ReplicaId, DamagedReplica>,
    resident: Option<Resident>,
    revision: u64,
}

impl Directory {
    /// A directory that knows these shards.
    pub fn new(shards: impl IntoIterator<Item = ShardDescriptor>) -> Directory {
        let mut directory = Directory::default();
        for descriptor in shards {
            directory.learn_shard(descriptor);
        }
        directory
    }

    /// All shards that are known, the system shard first.
    pub fn shards(&self) -> impl Iterator<Item = &ShardDescriptor> {
        self.shards.values().filter_map(|(_, it)| it.as_ref())
    }

    /// What is known of a shard.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardDescriptor> {
        self.shards.get(&shard)?.1.as_ref()
    }

    /// The epoch at which a shard was merged into another one, if it is known to be gone.
    pub fn gone(&self, shard: ShardId) -> Option<u64> {
        match self.shards.get(&shard)? {
            (epoch, None) => Some(*epoch),
            (_, Some(_)) => None,
        }
    }

    /// All nodes that are registered.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().filter_map(|(_, it)| it.as_ref())
    }

    /// What is known of a node.
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node)?.1.as_ref()
    }

    /// What a node is meant to do, as far as this node sees it: only residents do.
    pub fn state(&self, node: NodeId) -> NodeState {
        self.states.get(&node).copied().unwrap_or_default()
    }

    /// Replicas that only a new one can replace.
    pub fn damaged(&self) -> impl Iterator<Item = &DamagedReplica> {
        self.damaged.values()
    }

    /// Whether this node has a replica of the system shard, and sees its rows.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// A row, as it is applied here; none where the node is not resident.
    pub fn row(&self, key: &[u8]) -> Option<&Row> {
        self.resident.as_ref()?.rows.get(key)
    }

    /// The rows whose keys begin with `prefix`, in order, as they are applied here; none where the
    /// node is not resident.
    pub fn rows<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Row)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.resident
            .iter()
            .flat_map(move |resident| resident.rows.range::<[u8], _>(from))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Rises with every change of a row that is applied here.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The rows that changed after `revision`, in the order of their last changes; `None` where there
    /// is no row any more.
    pub fn changes_since(&self, revision: u64) -> impl Iterator<Item = (&Bytes, Option<&Row>)> {
        let after = (Bound::Excluded(revision), Bound::Unbounded);
        self.resident.iter().flat_map(move |resident| {
            let keys = resident.by_revision.range(after).map(|(_, key)| key);
            keys.map(|key| (key, resident.rows.get(key)))
        })
    }

    /// Takes in what a shard's leader, or anybody, says about it. Whether it was news.
    pub fn learn_shard(&mut self, descriptor: ShardDescriptor) -> bool {
        self.learn_shard_row(descriptor.shard, descriptor.epoch, Some(descriptor))
    }

    /// A shard was merged away at this epoch. Whether it was news.
    pub fn learn_gone(&mut self, shard: ShardId, epoch: u64) -> bool {
        self.learn_shard_row(shard, epoch, None)
    }

    fn learn_shard_row(&mut self, id: ShardId, epoch: u64, it: Option<ShardDescriptor>) -> bool {
        match self.shards.get(&id) {
            Some((known, _)) if *known >= epoch => false,
            Some(_) | None => {
                self.shards.insert(id, (epoch, it));
                true
            }
        }
    }

    /// Takes in a node's record. Whether it was news.
    pub fn learn_node(&mut self, record: NodeRecord) -> bool {
        let (node, generation) = (record.node, record.generation);
        match self.nodes.get(&node) {
            Some((known, _)) if *known >= generation => false,
            Some(_) | None => {
                self.nodes.insert(node, (generation, Some(record)));
                true
            }
        }
    }

    /// Takes in rows of the system shard, applied here. What they say that was not known.
    pub fn applied(&mut self, extent: Extent, rows: Vec<(Bytes, Option<Bytes>)>) -> Vec<Learned> {
        let before = match extent {
            Extent::Whole => self.resident.take(),
            Extent::Changes => None,
        };
        let mut resident = self.resident.take().unwrap_or_default();
        let mut learned = Vec::new();
        if let Some(before) = before {
            // Whoever watches sees what went, too.
            let gone = before.changed.into_keys();
            let mut known: BTreeMap<Bytes, ()> = gone.map(|key| (key, ())).collect();
            for (key, _) in &rows {
                known.remove(key);
            }
            for key in known.into_keys() {
                self.revision += 1;
                resident.note(key, self.revision);
            }
        }
        for (key, value) in rows {
            self.revision += 1;
            resident.note(key.clone(), self.revision);
            let row = value.as_ref().and_then(Advance::decode);
            match &row {
                Some((generation, Some(value))) => {
                    let (generation, value) = (*generation, value.clone());
                    resident.rows.insert(key.clone(), Row { generation, value });
                }
                Some((_, None)) | None => {
                    resident.rows.remove(&key);
                }
            }
            if let Some((generation, value)) = row {
                self.interpret(&key, generation, value, &mut learned);
            }
        }
        self.resident = Some(resident);
        learned
    }

    fn interpret(
        &mut self,
        key: &Bytes,
        generation: u64,
        value: Option<Bytes>,
        learned: &mut Vec<Learned>,
    ) {
        match (Table::of(key), value) {
            (Some(Table::Shard(shard)), None) => {
                if self.learn_gone(shard, generation) {
                    learned.push(Learned::Gone(shard));
                }
            }
            (Some(Table::Shard(_)), Some(value)) => {
                if let Some(descriptor) = record::decode_descriptor(&value)
                    && self.learn_shard(descriptor.clone())
                {
                    learned.push(Learned::Shard(descriptor));
                }
            }
            (Some(Table::Node(node)), None) => {
                self.nodes.insert(node, (generation, None));
            }
            (Some(Table::Node(_)), Some(value)) => {
                if let Some(record) = NodeRecord::decode(&value)
                    && self.learn_node(record.clone())
                {
                    learned.push(Learned::Node(record));
                }
            }
            (Some(Table::State(node)), value) => {
                let state = value.and_then(|value| NodeState::decode(&value));
                match state {
                    Some(state) => self.states.insert(node, state),
                    None => self.states.remove(&node),
                };
            }
            (Some(Table::Damaged(replica)), None) => {
                self.damaged.remove(&replica);
            }
            (Some(Table::Damaged(replica)), Some(value)) => {
                if let Some(damaged) = DamagedReplica::decode(&value) {
                    self.damaged.insert(replica, damaged);
                }
            }
            (None, Some(_) | None) => {}
        }
    }

    /// The replica of the system shard is gone from this node: what is known stays, as a cache.
    pub fn leave(&mut self) {
        self.resident = None;
    }

    /// A number that two nodes share if they know the same of shards and nodes.
    pub fn digest(&self) -> u64 {
        let shards = self
            .shards
            .iter()
            .map(|(id, it)| mix(u128::from(id.0), it.0));
        let nodes = self.nodes.iter().map(|(id, it)| mix(id.0, it.0));
        shards.chain(nodes).fold(0, u64::wrapping_add)
    }
}

impl Resident {
    fn note(&mut self, key: Bytes, revision: u64) {
        if let Some(before) = self.changed.insert(key.clone(), revision) {
            self.by_revision.remove(&before);
        }
        self.by_revision.insert(revision, key);
    }
}

/// Scatters an id with its generation over all numbers (the finaliser of splitmix64).
fn mix(id: u128, generation: u64) -> u64 {
    let mut x = (id as u64) ^ ((id >> 64) as u64).rotate_left(32);
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
