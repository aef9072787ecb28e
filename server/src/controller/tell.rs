//! What the controller says of itself, in words.

use synod_replication::NodeId;
use synod_storage::ShardId;

use super::advance::Waiting;
use super::cluster::{Progress, Shard};
use super::plan::Target;
use super::review::COPY_BYTES_PER_S;
use super::{Controller, Verdict};

/// A shard on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnItsWay {
    /// The shard.
    pub shard: ShardId,
    /// What is done, in words.
    pub what: String,
    /// How much of it is done.
    pub percent: u32,
    /// Seconds that are left, estimated from the bytes that are; none where nobody can say.
    pub left_s: Option<u64>,
}

impl Controller {
    /// The shards that are on their way.
    pub fn moves(&self) -> Vec<OnItsWay> {
        let moves = self.plan.targets.iter();
        moves
            .filter_map(|(id, target)| {
                let shard = self.cluster.shards.get(id)?;
                Some(self.on_way(*id, shard, target))
            })
            .collect()
    }

    fn on_way(&self, id: ShardId, shard: &Shard, target: &Target) -> OnItsWay {
        let wanted: Vec<NodeId> = target
            .end()
            .map(|end| end.seats.iter().filter_map(|seat| seat.node).collect())
            .unwrap_or_default();
        let coming: Vec<NodeId> = wanted
            .iter()
            .copied()
            .filter(|node| !target.from.contains(node))
            .collect();
        let leaving = target.from.iter().filter(|node| !wanted.contains(node));
        let leader = target.end().and_then(|end| end.leader);
        let mut parts = Vec::new();
        if !coming.is_empty() {
            parts.push(format!("a replica to {}", short_all(coming.iter())));
        }
        let leaving = short_all(leaving);
        if !leaving.is_empty() {
            parts.push(format!("away from {leaving}"));
        }
        if leader != target.led_by
            && let Some(leader) = leader
        {
            parts.push(format!("leadership to {}", short_all([leader].iter())));
        }
        parts.push(format!("because {}", target.why));
        if let Some(waits) = self.waits.get(&id) {
            parts.push(waits.text());
        }
        // A copy counts as far as it is; a vote and leadership are quick.
        let done = |node: &NodeId| match shard.on(*node).and_then(|it| shard.progress.get(&it)) {
            Some(Progress::CaughtUp) => 1000,
            Some(Progress::Copying(done)) => u64::from(*done),
            None => 0,
        };
        let copied: u64 = coming.iter().map(done).sum();
        let all = coming.len() as u64 * 1000;
        let stuck = matches!(
            self.waits.get(&id),
            Some(Waiting::Node(_) | Waiting::Leader | Waiting::Majority)
        );
        let left_bytes = (all - copied) * shard.load.bytes / 1000;
        OnItsWay {
            shard: id,
            what: parts.join(", "),
            percent: u32::try_from(copied * 100 / all.max(1)).unwrap_or(100),
            left_s: (!stuck).then_some(1 + left_bytes / COPY_BYTES_PER_S),
        }
    }

    /// What is moving of one shard, and what has to wait, in words.
    pub fn on_its_way(&self, id: ShardId) -> Vec<String> {
        let mut lines = Vec::new();
        if let (Some(shard), Some(target)) =
            (self.cluster.shards.get(&id), self.plan.targets.get(&id))
        {
            let moving = self.on_way(id, shard, target);
            lines.push(format!(
                "moving ({}% done): {}",
                moving.percent, moving.what
            ));
        }
        if let Some(why) = self.verdict.waiting.get(&id) {
            lines.push(format!("a better place is known and has to wait: {why}"));
        }
        lines
    }

    /// What is wrong with placement, in words.
    pub fn troubles(&self) -> Vec<String> {
        let Verdict {
            broken,
            conflict,
            error,
            ..
        } = &self.verdict;
        let mut troubles = Vec::new();
        troubles.extend(listed("hard policies cannot hold together", conflict));
        // What is broken is being mended, unless nothing could be decided.
        if self.plan.targets.is_empty() {
            troubles.extend(listed("hard policies are broken", broken));
        }
        if let Some(error) = error {
            troubles.push(format!("placement cannot be decided: {error}"));
        }
        if let Some(policies) = &self.policies {
            let what = format!("policies of version {} were forced over", policies.version);
            troubles.extend(listed(&what, &policies.forced));
        }
        for (replica, shard) in &self.damaged {
            troubles.push(format!(
                "replica {replica} of shard {shard} is damaged beyond repair and is being replaced"
            ));
        }
        troubles
    }

    /// Soft policies whose tier is not as good as it could be, or is not known to be.
    pub fn unsatisfied(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (tier, value, bound) in &self.verdict.present {
            let best = bound.unwrap_or(0.0);
            if *value <= best {
                continue;
            }
            let names = self.verdict.soft.get(tier);
            let names = names.map_or_else(String::new, |names| names.join(", "));
            let known = match bound {
                Some(bound) => format!("it cannot be below {bound}"),
                None => "no bound is known".to_owned(),
            };
            lines.push(format!("{names} (tier {tier}) is {value}; {known}"));
        }
        lines
    }
}

/// One line for all rows with the same trouble.
fn listed(what: &str, rows: &[String]) -> Option<String> {
    const SHOWN_MAX: usize = 5;
    let shown = rows.get(..SHOWN_MAX).unwrap_or(rows).join(", ");
    let more = if rows.len() > SHOWN_MAX { ", …" } else { "" };
    (!rows.is_empty()).then(|| format!("{what}: {shown}{more}"))
}

fn short_all<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    let short = |node: &NodeId| node.to_string()[..8].to_owned();
    nodes.map(short).collect::<Vec<_>>().join(", ")
}
