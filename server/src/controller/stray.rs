//! Copies that no plan wants: they were begun by a plan that has been replaced, or by hand.
//!
//! What this controller began it removes at once. Others are left alone for a while: an operator who moves a replica by
//! hand begins with such a copy, too, and so did the controller before this one, whose plan may still have been on its
//! way.

use synod_storage::ShardId;
use synod_txn::Now;

use super::advance::{Next, Step, next};
use super::cluster::{Seat, Shard};
use super::plan::Stage;
use super::{Controller, Effect};

impl Controller {
    pub(super) fn sweep(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let undecided = self.urgent_us.is_some() || self.asked.is_some();
        if undecided || self.writing.is_some() || self.head.plan == 0 {
            return;
        }
        let is_ripe = |shard: &Shard| {
            let since_us = now.monotonic.0.saturating_sub(shard.described_us);
            since_us >= self.settings.stray_us || shard.is_only_ours()
        };
        let steps: Vec<(ShardId, Step)> = self
            .strays()
            .filter(|(id, shard, _)| is_ripe(shard) && self.may_step(*id, now))
            .filter_map(
                |(id, shard, stage)| match next(&self.cluster, shard, &stage) {
                    Next::Step(step @ Step::Replace { .. }) if !step.commits(shard) => {
                        Some((id, step))
                    }
                    _ => None,
                },
            )
            .collect();
        for (id, step) in steps {
            self.order(now, id, step, effects);
        }
    }

    /// Shards with a copy that no plan wants, and what they are without it.
    pub(super) fn strays(&self) -> impl Iterator<Item = (ShardId, &Shard, Stage)> {
        self.cluster.shards.iter().filter_map(|(&id, shard)| {
            shard.learners().next()?;
            let stage = self.standing(shard);
            let sits = |node| stage.seats.iter().any(|seat| seat.node == Some(node));
            let stray = !self.plan.targets.contains_key(&id) && !shard.learners().all(sits);
            stray.then_some((id, shard, stage))
        })
    }

    /// A shard with everybody in it who has a seat or a vote, and nobody else.
    fn standing(&self, shard: &Shard) -> Stage {
        let seats = self.cluster.seats(shard);
        let hidden = shard.order.iter().map(|node| Seat {
            node: Some(*node),
            votes: true,
        });
        Stage {
            round: 0,
            seats: seats.into_iter().chain(hidden).collect(),
            leader: None,
        }
    }
}
