//! What nodes tell each other of the directory.

// The archived twins that the derives make have no documentation of their own.
#![allow(missing_docs)]

use rkyv::{Archive, Deserialize, Serialize};
use synod_txn::ShardDescriptor;

use super::{Directory, NodeRecord};

/// Rows of one message, at most: a message stays well below its frame's bound.
const ROWS_MAX: usize = 2_000;

/// A question or news.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum Message {
    /// "This is the digest of what I know; what do you?" Answered with rows if the digests differ.
    Ask {
        /// [`Directory::digest`] of the sender.
        digest: u64,
    },
    /// What the sender knows, or has just learned.
    Rows {
        /// Shards; the receiver keeps those with higher epochs.
        shards: Vec<ShardDescriptor>,
        /// Shards that were merged into others, and the epochs at which they were.
        gone: Vec<(u64, u64)>,
        /// Nodes; the receiver keeps those with higher generations.
        nodes: Vec<NodeRecord>,
    },
}

impl Directory {
    /// All that is known here, in as many messages as it takes.
    pub fn tell(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        let shards: Vec<ShardDescriptor> = self.shards().cloned().collect();
        for shards in shards.chunks(ROWS_MAX) {
            messages.push(Message::Rows {
                shards: shards.to_vec(),
                gone: Vec::new(),
                nodes: Vec::new(),
            });
        }
        let gone: Vec<(u64, u64)> = self
            .shards
            .iter()
            .filter(|(_, (_, it))| it.is_none())
            .map(|(shard, (epoch, _))| (shard.0, *epoch))
            .collect();
        for gone in gone.chunks(ROWS_MAX) {
            messages.push(Message::Rows {
                shards: Vec::new(),
                gone: gone.to_vec(),
                nodes: Vec::new(),
            });
        }
        let nodes: Vec<NodeRecord> = self.nodes().cloned().collect();
        for nodes in nodes.chunks(ROWS_MAX) {
            messages.push(Message::Rows {
                shards: Vec::new(),
                gone: Vec::new(),
                nodes: nodes.to_vec(),
            });
        }
        messages
    }
}
