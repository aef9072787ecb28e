//! What the controller keeps in the system shard, and under which keys.
//!
//! | key | value |
//! |---|---|
//! | `plan/head` | [`Stored`](super::adopt::Stored): the plan, with where each shard is going, stage by stage |
//! | `control/moved/<shard>` | [`Moved`]: where its replicas were lately moved away from |
//! | `policy/head` | [`Policies`]: the policies in force, with their history |
//!
//! Values are JSON: they are few, `synod sql` shows them, and a newer release reads an older one's. Only the leader of
//! the system shard writes them, so a successor finds either all of a step's record or none of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_replication::NodeId;
use synod_storage::ShardId;

/// A row to be written; `None` deletes it.
pub type Row = (Bytes, Option<Bytes>);

/// The key of the plan.
pub const HEAD: &str = "plan/head";
/// Before a shard's id: the key of its [`Moved`].
pub const MOVED: &str = "control/moved/";
/// The key of [`Policies`].
pub const POLICIES: &str = "policy/head";

/// What a plan was made from. Two plans with equal inputs and loads are the same plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The version of the policies.
    pub policies: u64,
    /// The sequence number of the configuration of members.
    pub view: u64,
    /// Raised by every other change that is no load: duties of nodes, shards that come and go, settings.
    pub registry: u64,
}

/// The plan in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Raised by every plan.
    pub plan: u64,
    /// The system shard's term in which it was made.
    pub term: u64,
    /// What it was made from.
    pub inputs: Inputs,
}

/// Where a shard's replicas were lately moved away from: no move goes back there for a while, unless something
/// other than a load has changed or a hard row demands it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Node left → when, in milliseconds of the wall clock, and under which inputs.
    #[serde(with = "by_node")]
    pub from: BTreeMap<NodeId, (u64, Inputs)>,
    /// The same for the leadership.
    #[serde(default, with = "by_node")]
    pub leader_from: BTreeMap<NodeId, (u64, Inputs)>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The version of the set that brought it.
    pub since: u64,
    /// Its statements.
    pub sql: String,
}

/// A set of policies. Statements of one may refer to views of another: they are compiled together, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Raised by every change.
    pub version: u64,
    /// In the order in which they are compiled.
    pub policies: Vec<Policy>,
    /// What the set was changed by, in words.
    #[serde(default)]
    pub change: String,
    /// The rows that spoke against the set when it was forced; empty: it was admitted.
    #[serde(default)]
    pub forced: Vec<String>,
    /// Earlier sets, the latest first; bounded.
    #[serde(default)]
    pub history: Vec<Policies>,
}

impl Policies {
    /// All statements, as the compiler takes them.
    pub fn sql(&self) -> String {
        // The last statement of a script need not have a semicolon.
        self.scripts().join("\n;\n")
    }
}

/// The key of a shard's row behind a prefix.
pub fn shard_key(prefix: &str, shard: ShardId) -> Bytes {
    Bytes::from(format!("{prefix}{}", shard.0))
}

/// The shard of such a key.
pub fn shard_of(prefix: &str, key: &[u8]) -> Option<ShardId> {
    let rest = key.strip_prefix(prefix.as_bytes())?;
    let text = std::str::from_utf8(rest).ok()?;
    text.parse().ok().map(ShardId)
}

/// A record as it is stored.
pub fn stored<T: Serialize>(record: &T) -> Option<Bytes> {
    serde_json::to_vec(record).ok().map(Bytes::from)
}

/// A stored record; one that cannot be read counts as absent: what it said is decided anew.
pub fn read<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// Nodes as 32 hexadecimal digits.
pub mod optional_node {
    use serde::{Deserialize, Deserializer, Serializer};
    use synod_replication::NodeId;

    use super::super::tables::node_of;

    /// Writes one.
    pub fn serialize<S: Serializer>(node: &Option<NodeId>, s: S) -> Result<S::Ok, S::Error> {
        match node {
            Some(node) => s.serialize_some(&node.to_string()),
            None => s.serialize_none(),
        }
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NodeId>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| {
            node_of(&text).ok_or_else(|| serde::de::Error::custom(format!("no node id: {text}")))
        })
        .transpose()
    }
}

/// Lists of nodes.
pub(super) mod nodes {
    use serde::{Deserialize, Deserializer, Serializer};
    use synod_replication::NodeId;

    use super::super::tables::node_of;

    pub(in super::super) fn serialize<S: Serializer>(
        nodes: &[NodeId],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(nodes.iter().map(NodeId::to_string))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .into_iter()
            .map(|text| {
                node_of(&text)
                    .ok_or_else(|| serde::de::Error::custom(format!("no node id: {text}")))
            })
            .collect()
    }
}

/// Maps by node.
mod by_node {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use synod_replication::NodeId;

    use super::super::tables::node_of;

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<NodeId, V>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(map.iter().map(|(node, value)| (node.to_string(), value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        d: D,
    ) -> Result<BTreeMap<NodeId, V>, D::Error> {
        let map = BTreeMap::<String, V>::deserialize(d)?;
        map.into_iter()
            .map(|(text, value)| {
                let node = node_of(&text)
                    .ok_or_else(|| serde::de::Error::custom(format!("no node id: {text}")))?;
                Ok((node, value))
            })
            .collect()
    }
}
