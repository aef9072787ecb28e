//! A clean stop: leaderships are handed over, then the store seals its log and stamps its index.

use synod_replication::{NodeId, Role};
use synod_storage::ShardId;
use synod_txn::Now;

use super::turn::{Node, Stop};

/// How long a stopping node tries to hand its leaderships over.
const HAND_OVER_US: u64 = 1_000_000;

impl Node {
    /// Clients are gone: hand over, then seal.
    pub(super) fn begin_stop(&mut self) {
        let now_us = self.clock.monotonic_us();
        self.stop = Stop::HandingOver {
            until_us: now_us + HAND_OVER_US,
        };
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop == Stop::Done
    }

    pub(super) fn advance_stop(&mut self, now: Now) {
        let Stop::HandingOver { until_us } = self.stop else {
            return;
        };
        let handing = self.hand_over(now);
        if !handing || now.monotonic.0 >= until_us {
            self.stop = Stop::Sealing;
            self.store.stop();
        }
    }

    /// Asks for another leader for each shard that this node leads, and that has one to offer. Whether
    /// there was any.
    ///
    /// Members of the membership are asked. A node that is none would hand leadership on in its turn,
    /// perhaps to this node; only one that is about to stop has no choice.
    pub(super) fn hand_over(&mut self, now: Now) -> bool {
        let led: Vec<ShardId> = self
            .replication
            .shards()
            .filter(|shard| {
                self.replication
                    .leadership(*shard)
                    .is_some_and(|leadership| leadership.role == Role::Leader)
            })
            .collect();
        let mut handing = false;
        for shard in led {
            let Some(configuration) = self.replication.configuration(shard) else {
                continue;
            };
            let reached = |is_wanted: &dyn Fn(NodeId) -> bool| {
                configuration.voters.iter().copied().find(|replica| {
                    configuration.nodes.get(replica).is_some_and(|node| {
                        self.peers.get(node).is_some_and(|peer| peer.connected) && is_wanted(*node)
                    })
                })
            };
            let view = self.membership.view();
            let is_member = |node: NodeId| {
                view.is_some_and(|view| view.member(synod_membership::id::NodeId(node.0)).is_some())
            };
            let heir = reached(&is_member).or_else(|| match self.stop {
                Stop::No => None,
                Stop::HandingOver { .. } | Stop::Sealing | Stop::Done => reached(&|_| true),
            });
            if let Some(heir) = heir {
                handing = true;
                // Refused while one is under way: asked again at the next tick.
                let _ = self.replication.transfer(now.monotonic, shard, heir);
            }
        }
        handing
    }
}
