//! The other nodes, as far as replication has to know them: when each was last heard, which start
//! of it, and whether it agrees on which groups sleep.

use std::collections::BTreeMap;

use synod_storage::Micros;

use crate::identity::{Incarnation, NodeId};

/// Digests that have to differ one after the other before sleepers are woken: a digest may cross
/// the message that changed it.
const MISMATCHES_MAX: u8 = 3;

#[derive(Debug)]
struct Peer {
    incarnation: Option<Incarnation>,
    heard_at: Micros,
    mismatches: u8,
}

/// All nodes that were heard of.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// The heartbeat with which a node was last given a sign of life.
    signs: BTreeMap<NodeId, u64>,
}

impl Peers {
    fn peer(&mut self, node: NodeId, now: Micros) -> &mut Peer {
        self.peers.entry(node).or_insert(Peer {
            incarnation: None,
            heard_at: now,
            mismatches: 0,
        })
    }

    /// A message came from a node.
    pub(crate) fn heard(&mut self, node: NodeId, now: Micros) {
        self.peer(node, now).heard_at = now;
    }

    /// A node named its start. `true`: it is another one than before.
    pub(crate) fn started(&mut self, node: NodeId, incarnation: Incarnation, now: Micros) -> bool {
        let peer = self.peer(node, now);
        let before = peer.incarnation.replace(incarnation);
        before.is_some_and(|before| before != incarnation)
    }

    /// Whether nothing was heard from a node for so long.
    pub(crate) fn is_silent(&self, node: NodeId, now: Micros, silence_us: u64) -> bool {
        self.peers
            .get(&node)
            .is_none_or(|peer| now.0 > peer.heard_at.0 + silence_us)
    }

    /// Nobody could have been heard: count from now.
    pub(crate) fn excuse(&mut self, now: Micros) {
        for peer in self.peers.values_mut() {
            peer.heard_at = now;
        }
    }

    /// A digest was compared. `true`: it has differed for too long.
    pub(crate) fn digest(&mut self, node: NodeId, agrees: bool) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else {
            return false;
        };
        peer.mismatches = if agrees { 0 } else { peer.mismatches + 1 };
        if peer.mismatches < MISMATCHES_MAX {
            return false;
        }
        peer.mismatches = 0;
        true
    }

    /// Forgets the signs of life to all other nodes: if they are wanted again, the first is due at once.
    pub(crate) fn keep_signs(&mut self, wanted: impl Fn(NodeId) -> bool) {
        self.signs.retain(|node, _| wanted(*node));
    }

    /// Whether a node is due a sign of life with this heartbeat, one in so many; then it counts as given.
    pub(crate) fn sign_is_due(&mut self, node: NodeId, heartbeat: u64, every: u64) -> bool {
        let last = self.signs.get(&node);
        let due = last.is_none_or(|last| heartbeat >= last + every);
        if due {
            self.signs.insert(node, heartbeat);
        }
        due
    }
}
