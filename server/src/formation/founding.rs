//! The founding record: what a cluster consists of at the moment it begins to exist.
//!
//! One node writes it, syncs it, and gives it to the others; whoever holds it can start the same
//! cluster. It fixes the cluster's identity, its first members and the first shards with their
//! replicas, so that every member creates the same groups with the same configurations and no
//! shard needs another one in order to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::config::ClusterSettings;

/// The first state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's identity.
    pub cluster: u128,
    /// What all its nodes agree on.
    pub settings: ClusterSettings,
    /// The first members, in the order of their peer addresses.
    pub members: Vec<Founder>,
    /// The first shards: the system shard, then the user key space in key order.
    pub shards: Vec<FoundingShard>,
}

/// A first member.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Founder {
    /// Its directory's identity.
    pub node: u128,
    /// Its boot: counter, nonce, previous nonce.
    pub boot: (u64, u64, u64),
    /// Where peers reach it.
    pub peer: SocketAddr,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// What placement knows it by.
    pub labels: BTreeMap<String, String>,
}

/// A first shard.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FoundingShard {
    /// Its id; 0 is the system shard.
    pub shard: u64,
    /// The first user key of its range; the range ends where the next shard's starts. The system
    /// shard holds no user keys.
    pub start: Vec<u8>,
    /// Replica ids and the nodes that carry them; the first one campaigns first.
    pub replicas: Vec<(u64, u128)>,
}

/// The system shard's id.
pub const SYSTEM_SHARD: u64 = 0;

/// Letters that keys usually begin with, in byte order: the first split points are among them.
const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Founding {
    /// Plans a cluster of `members` by `settings`: so many ranges, and so many copies of each where
    /// there are nodes enough.
    ///
    /// Voters are one, or three and more, never two: two would double the chance of a stop and
    /// halve nothing.
    pub fn plan(cluster: u128, mut members: Vec<Founder>, settings: ClusterSettings) -> Self {
        let (user_shards, replicas) = (settings.shards, settings.replicas);
        members.sort_by_key(|member| member.peer);
        let possible = members.len().min(replicas.max(1) as usize);
        let copies = if possible == 2 { 1 } else { possible };
        let mut next_replica = 1;
        let shards = (0..=u64::from(user_shards.max(1)))
            .map(|shard| {
                let replicas = (0..copies)
                    .map(|i| {
                        let member = &members[(shard as usize + i) % members.len()];
                        let replica = next_replica;
                        next_replica += 1;
                        (replica, member.node)
                    })
                    .collect();
                FoundingShard {
                    shard,
                    start: split_point(shard, user_shards),
                    replicas,
                }
            })
            .collect();
        Self {
            cluster,
            settings,
            members,
            shards,
        }
    }

    /// The member that carries `node`, if it is one.
    pub fn member(&self, node: u128) -> Option<&Founder> {
        self.members.iter().find(|member| member.node == node)
    }
}

/// Where user shard `shard` of `of` starts: the first one at the empty key, the others spread over
/// the alphabet, with a second letter where one is not enough.
fn split_point(shard: u64, of: u32) -> Vec<u8> {
    if shard <= 1 {
        return Vec::new();
    }
    let letters = ALPHABET.len() as u64;
    let place = (shard - 1) * letters * letters / u64::from(of);
    let (first, second) = ((place / letters) as usize, (place % letters) as usize);
    if second == 0 {
        vec![ALPHABET[first]]
    } else {
        vec![ALPHABET[first], ALPHABET[second]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(shards: u32) -> ClusterSettings {
        ClusterSettings {
            shards,
            ..ClusterSettings::default()
        }
    }

    fn founders(count: u16) -> Vec<Founder> {
        (0..count)
            .rev()
            .map(|i| Founder {
                node: 100 + u128::from(i),
                boot: (1, 1, 0),
                peer: ([127, 0, 0, 1], 7701 + i).into(),
                client: ([127, 0, 0, 1], 7601 + i).into(),
                labels: BTreeMap::new(),
            })
            .collect()
    }

    #[test]
    fn replicas_are_on_distinct_nodes_and_ids_are_unique() {
        for nodes in 1..8 {
            let founding = Founding::plan(1, founders(nodes), settings(8));
            let mut ids = Vec::new();
            for shard in &founding.shards {
                let mut nodes: Vec<_> = shard.replicas.iter().map(|r| r.1).collect();
                ids.extend(shard.replicas.iter().map(|r| r.0));
                nodes.sort_unstable();
                nodes.dedup();
                assert_eq!(nodes.len(), shard.replicas.len());
            }
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count);
        }
    }

    #[test]
    fn two_nodes_make_one_voter_not_two() {
        let founding = Founding::plan(1, founders(2), settings(4));
        assert!(
            founding
                .shards
                .iter()
                .all(|shard| shard.replicas.len() == 1)
        );
    }

    #[test]
    fn ranges_are_in_order_and_start_at_the_empty_key() {
        for shards in [1, 2, 8, 61, 62, 63, 1000] {
            let founding = Founding::plan(1, founders(3), settings(shards));
            let starts: Vec<_> = founding.shards[1..]
                .iter()
                .map(|s| s.start.clone())
                .collect();
            assert_eq!(starts.len(), shards as usize);
            assert!(starts[0].is_empty());
            assert!(
                starts.windows(2).all(|pair| pair[0] < pair[1]),
                "{shards}: {starts:?}"
            );
        }
    }

    #[test]
    fn the_first_replicas_spread_over_the_nodes() {
        let founding = Founding::plan(1, founders(3), settings(8));
        let mut first = BTreeMap::new();
        for shard in &founding.shards {
            *first.entry(shard.replicas[0].1).or_insert(0) += 1;
        }
        assert_eq!(first.into_values().collect::<Vec<_>>(), vec![3, 3, 3]);
    }
}
