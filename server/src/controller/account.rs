//! What the controller is doing, and what it waits for: an account for an operator who wonders why nothing moves, or
//! why something does.
//!
//! Each line is a fact with its reason and, where there is one, the time at which it ends. What many shards wait for is
//! one line.

use std::collections::BTreeMap;

use synod_replication::NodeId;
use synod_txn::Now;

use super::ask::SETTLE_US;
use super::cluster::{Cluster, NodeStatus};
use super::filter::Grace;
use super::solver::Scope;
use super::{Controller, Settings};

const SECOND_US: u64 = 1_000_000;

impl Controller {
    /// What it does and waits for now, in words; never empty.
    pub fn account(&self, now: Now) -> Vec<String> {
        let now_us = now.monotonic.0;
        let mut lines = Vec::new();
        lines.extend(self.unknowns(now_us));
        if let Some(until_us) = self.mass_until_us {
            lines.push(format!(
                "many nodes were lost at once: for another {} only shards that one more failure would stop are repaired",
                seconds(until_us.saturating_sub(now_us))
            ));
        }
        lines.extend(self.absences(now_us));
        lines.extend(self.drains());
        lines.extend(self.replacements());
        match self.asked.as_ref().map(|asked| asked.scope) {
            Some(Scope::Urgent) => lines.push("decides on the shards in need".to_owned()),
            Some(Scope::Whole) => lines.push("decides on all shards".to_owned()),
            None => {}
        }
        let moving = self.plan.targets.len();
        if moving > 0 {
            let round = self.plan.round();
            let targets = self.plan.targets.values();
            let now = targets.filter(|target| target.next().map(|stage| stage.round) == round);
            lines.push(format!(
                "carries out plan {}: {} on the way, {} of them in this round",
                self.head.plan,
                shards(moving),
                now.count()
            ));
        }
        lines.extend(counted(self.waits.values().map(|why| why.reason()), ""));
        lines.extend(counted(
            self.verdict.waiting.values().copied(),
            "a better place is known for ",
        ));
        let strays = self.strays().count();
        if strays > 0 {
            lines.push(format!(
                "copies of {} are in no plan: they are removed when nobody has made use of them for {}",
                shards(strays),
                seconds(self.settings.stray_us)
            ));
        }
        if lines.is_empty() {
            lines.push(match self.is_settled() {
                true => "settled: nothing is to be moved".to_owned(),
                false => "looks for a better balance now and then".to_owned(),
            });
        }
        lines
    }

    /// What has to be known before anything can be decided.
    fn unknowns(&self, now_us: u64) -> Option<String> {
        if self.view == 0 {
            return Some("waits to be told the members".to_owned());
        }
        if self.policies.is_none() {
            return Some("waits for the policies".to_owned());
        }
        let waited_us = now_us.saturating_sub(self.since_us);
        let silent = self.cluster.shards.values();
        let silent =
            silent.filter(|shard| shard.leader.is_none() && self.cluster.has_majority(shard));
        match silent.count() {
            0 => None,
            silent if waited_us < SETTLE_US => Some(format!(
                "waits up to {} for word from the leaders of {}",
                seconds(SETTLE_US - waited_us),
                shards(silent)
            )),
            _ => None,
        }
    }

    /// Nodes that are away, and until when they are awaited.
    fn absences(&self, now_us: u64) -> Vec<String> {
        let Settings {
            grace_us,
            critical_grace_us,
            ..
        } = self.settings;
        let line = |(node, grace): (&NodeId, &Grace)| {
            let carried = carried(&self.cluster, *node);
            let lost_us = self.cluster.nodes.get(node)?.lost_us?;
            let away_us = now_us.saturating_sub(lost_us);
            let what = format!(
                "node {} has been away for {} and has {}",
                short(*node),
                seconds(away_us),
                replicas(carried)
            );
            let left = |patience_us: u64| seconds(patience_us.saturating_sub(away_us));
            (carried > 0).then(|| match grace {
                Grace::Fresh => format!(
                    "{what}: it is awaited for another {} ({} for shards that one more failure would stop)",
                    left(grace_us),
                    left(critical_grace_us)
                ),
                Grace::Critical => format!(
                    "{what}: it is awaited for another {}, except for shards that one more failure would stop",
                    left(grace_us)
                ),
                Grace::Over => match self.cluster.up() > carriers(&self.cluster, *node) {
                    true => format!("{what}: they are replaced"),
                    false => format!("{what}: no other node is free to take them"),
                },
            })
        };
        self.lost.iter().filter_map(line).collect()
    }

    fn drains(&self) -> Vec<String> {
        let nodes = self.cluster.nodes.iter();
        let drains = nodes.filter(|(_, node)| node.status() == NodeStatus::Draining);
        drains
            .map(|(node, _)| match carried(&self.cluster, *node) {
                0 => format!("node {} is drained: nothing lives there", short(*node)),
                left => format!(
                    "node {} drains: it still has {}",
                    short(*node),
                    replicas(left)
                ),
            })
            .collect()
    }

    /// Damaged replicas, and what their replacement waits for.
    fn replacements(&self) -> Vec<String> {
        let damaged = self.damaged.iter().filter_map(|(replica, id)| {
            let shard = self.cluster.shards.get(id)?;
            shard.on_node_of(*replica)?;
            Some(match self.may_remove(shard, *replica) {
                true => format!("removes damaged replica {replica} of shard {id}, a new one follows"),
                false => format!(
                    "damaged replica {replica} of shard {id} stays until the others are a live majority that has \
                     caught up"
                ),
            })
        });
        damaged.collect()
    }
}

/// One line for all that wait for the same.
fn counted<'a>(reasons: impl Iterator<Item = &'a str>, what: &str) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let line = |(reason, count)| match what.is_empty() {
        true => format!("{} on the way: {reason}", shards(count)),
        false => format!("{what}{}: {reason}", shards(count)),
    };
    counts.into_iter().map(line).collect()
}

/// Replicas on a node.
fn carried(cluster: &Cluster, node: NodeId) -> usize {
    let shards = cluster.shards.values();
    shards.filter(|shard| shard.on(node).is_some()).count()
}

/// The most nodes that carry a shard of this node, it not counted.
fn carriers(cluster: &Cluster, node: NodeId) -> usize {
    let shards = cluster.shards.values();
    let here = shards.filter(|shard| shard.on(node).is_some());
    let others = here.map(|shard| shard.descriptor.replicas.len() - 1);
    others.max().unwrap_or(0)
}

fn shards(count: usize) -> String {
    match count {
        1 => "1 shard".to_owned(),
        count => format!("{count} shards"),
    }
}

fn replicas(count: usize) -> String {
    match count {
        1 => "1 replica".to_owned(),
        count => format!("{count} replicas"),
    }
}

fn seconds(us: u64) -> String {
    format!("{} s", us.div_ceil(SECOND_US))
}

fn short(node: NodeId) -> String {
    node.to_string()[..8].to_owned()
}
