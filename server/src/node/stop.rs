//! A clean stop: leaderships are handed over, then the store seals its log and stamps its index.

use synod_replication::Role;
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
            let heir = configuration.voters.iter().copied().find(|replica| {
                configuration
                    .nodes
                    .get(replica)
                    .is_some_and(|node| self.peers.get(node).is_some_and(|peer| peer.connected))
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
