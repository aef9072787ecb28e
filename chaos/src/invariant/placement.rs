//! Placement: whatever was applied to a shard, its hard policies hold as far as the nodes allow, and what was moved is
//! not moved back (rules of placement 41, 42, 51; the policies that clusters begin with).
//!
//! A description of a shard is looked at when the first replica has applied it. The replicas stand on distinct nodes,
//! two voters never remain, no vote goes to a node that is no member, and no zone gets more voters than it must have. A
//! voter that left a node does not come back to it within ten minutes, unless the members or the shards have changed
//! meanwhile.
//!
//! All but the first hold for what the controller does: where operators move replicas by hand, where wall clocks jump,
//! or where disks lose what nobody can name, they are not asked for ([`Watch`]).

use std::collections::{BTreeMap, BTreeSet};

use synod_membership::configuration::Configuration;
use synod_txn::{ReplicaRole, ShardDescriptor};

const TEN_MINUTES_US: u64 = 600_000_000;
/// The controller may not have heard yet of a view that another node has installed.
const VIEW_DELAY_US: u64 = 10_000_000;
/// Voters of a shard, where there are nodes enough.
const VOTERS: usize = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Distinct nodes only.
    #[default]
    Distinct,
    /// Also members, zones, and that nothing is moved back.
    Controlled,
}

#[derive(Debug, Default)]
struct Known {
    epoch: u64,
    voters: BTreeSet<u128>,
    /// When a voter left a node.
    left_us: BTreeMap<u128, u64>,
}

/// All shards, as they were described last.
#[derive(Debug, Default)]
pub(super) struct Placement {
    watch: Watch,
    shards: BTreeMap<u64, Known>,
    /// The zone of every node that was ever a member.
    zones: BTreeMap<u128, String>,
    /// When it was no member any more, of those that are none now.
    gone_us: BTreeMap<u128, u64>,
    view: u64,
    /// When views with so many zones were installed.
    live_zones: Vec<(u64, usize)>,
    /// When members or shards last changed.
    changed_us: u64,
    /// Changes of voters that were looked at.
    pub(super) changes: u64,
}

impl Placement {
    pub(super) fn watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Members are in force at a node.
    pub(super) fn view(&mut self, now_us: u64, view: &Configuration) {
        if view.seq() <= self.view {
            return;
        }
        self.view = view.seq();
        self.changed_us = now_us;
        let members: BTreeSet<u128> = view.members().iter().map(|it| it.node.0).collect();
        let gone = self.zones.keys().filter(|node| !members.contains(*node));
        for node in gone {
            self.gone_us.entry(*node).or_insert(now_us);
        }
        self.gone_us.retain(|node, _| !members.contains(node));
        let mut live = BTreeSet::new();
        for member in view.members() {
            let zone = member.labels.get("zone").cloned().unwrap_or_default();
            live.insert(zone.clone());
            self.zones.insert(member.node.0, zone);
        }
        self.live_zones
            .retain(|(at_us, _)| at_us + VIEW_DELAY_US > now_us);
        self.live_zones.push((now_us, live.len()));
    }

    /// A replica applied this description.
    pub(super) fn described(
        &mut self,
        now_us: u64,
        descriptor: &ShardDescriptor,
    ) -> Result<(), String> {
        let shard = descriptor.shard.0;
        if !self.shards.contains_key(&shard) {
            self.changed_us = now_us;
        }
        let known = self.shards.entry(shard).or_default();
        if known.epoch >= descriptor.epoch {
            return Ok(());
        }
        known.epoch = descriptor.epoch;
        let all = &descriptor.replicas;
        let nodes: BTreeSet<u128> = all.iter().map(|it| it.node.0).collect();
        if nodes.len() < all.len() {
            return Err(format!(
                "two replicas of shard {shard} on one node: {all:?}"
            ));
        }
        let voters = all.iter().filter(|it| it.role == ReplicaRole::Voter);
        let voters: BTreeSet<u128> = voters.map(|it| it.node.0).collect();
        let before = std::mem::replace(&mut known.voters, voters.clone());
        if before == voters || before.is_empty() {
            return Ok(());
        }
        self.changes += 1;
        if self.watch == Watch::Distinct {
            return Ok(());
        }
        for node in before.difference(&voters) {
            known.left_us.insert(*node, now_us);
        }
        for node in voters.difference(&before) {
            let gone_us = self.gone_us.get(node).copied();
            if gone_us.is_some_and(|at_us| at_us + VIEW_DELAY_US < now_us) {
                return Err(format!(
                    "shard {shard} got a voter on node {node:032x}, which is no member"
                ));
            }
            let left_us = known.left_us.get(node).copied();
            if let Some(left_us) = left_us
                && left_us > self.changed_us + VIEW_DELAY_US
                && left_us + TEN_MINUTES_US > now_us
            {
                return Err(format!(
                    "shard {shard} was moved back to node {node:032x} after {} ms, nothing having changed",
                    (now_us - left_us) / 1000
                ));
            }
        }
        self.zones_hold(shard, &before, &voters)
    }

    /// No zone has more voters than it must, or more than it had.
    fn zones_hold(
        &self,
        shard: u64,
        before: &BTreeSet<u128>,
        voters: &BTreeSet<u128>,
    ) -> Result<(), String> {
        if voters.len() == 2 {
            return Err(format!("shard {shard} has two voters: either stops it"));
        }
        // While a leader waits to be replaced, its shard has a voter more: both ends count once.
        if voters.len() > VOTERS {
            return Ok(());
        }
        let live = self.live_zones.iter().map(|(_, zones)| *zones).min();
        let most = VOTERS.div_ceil(live.unwrap_or(1).max(1));
        let zone = |node: &u128| self.zones.get(node).map_or("", String::as_str);
        let count = |set: &BTreeSet<u128>, of: &str| set.iter().filter(|it| zone(it) == of).count();
        for node in voters {
            let of = zone(node);
            let (was, is) = (count(before, of), count(voters, of));
            if is > most && is > was {
                return Err(format!(
                    "shard {shard} got {is} voters in zone {of}, {most} are the most"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use synod_replication::NodeId;
    use synod_storage::{KeyRange, ReplicaId, ShardId};
    use synod_txn::Replica;

    use super::*;

    fn described(epoch: u64, nodes: &[u128]) -> ShardDescriptor {
        let voter = |node: &u128| Replica {
            replica: ReplicaId(epoch * 100 + *node as u64),
            node: NodeId(*node),
            role: ReplicaRole::Voter,
        };
        ShardDescriptor {
            shard: ShardId(1),
            epoch,
            range: KeyRange {
                start: Vec::new(),
                end: None,
            },
            replicas: nodes.iter().map(voter).collect(),
        }
    }

    /// Five nodes in three zones, all of them seen at the beginning.
    fn watched() -> Placement {
        let zone = |node: u128| ["a", "b", "c"][node as usize % 3].to_owned();
        Placement {
            watch: Watch::Controlled,
            zones: (0..5).map(|node| (node, zone(node))).collect(),
            live_zones: vec![(0, 3)],
            ..Placement::default()
        }
    }

    fn seen(descriptions: &[(u64, &[u128])]) -> Result<(), String> {
        let mut placement = watched();
        for (epoch, (at_us, nodes)) in (1..).zip(descriptions) {
            placement.described(*at_us, &described(epoch, nodes))?;
        }
        Ok(())
    }

    #[test]
    fn what_breaks_a_policy_is_found() {
        let first: (u64, &[u128]) = (1, &[0, 1, 2]);
        assert_eq!(seen(&[first, (2, &[0, 4, 2])]), Ok(()));
        assert!(seen(&[first, (2, &[0, 1, 1])]).is_err(), "one node twice");
        assert!(seen(&[first, (2, &[0, 1, 4])]).is_err(), "one zone twice");
        assert!(seen(&[first, (2, &[0, 1])]).is_err(), "two voters");
        let mut placement = watched();
        placement.gone_us.insert(4, 1);
        let moved = [(1, first.1), (60_000_000, &[0, 4, 2])];
        let mut seen = (1..)
            .zip(moved)
            .map(|(epoch, (at_us, nodes))| placement.described(at_us, &described(epoch, nodes)));
        assert!(seen.any(|it| it.is_err()), "a node that is long gone");
    }

    #[test]
    fn a_move_that_is_undone_is_found_unless_something_changed() {
        let (there, away): (&[u128], &[u128]) = (&[0, 1, 2], &[0, 4, 2]);
        let at_us = 60_000_000;
        let soon = [(1, there), (at_us, away), (at_us + 3, there)];
        assert!(seen(&soon).is_err());
        let late = [(1, there), (at_us, away), (at_us + TEN_MINUTES_US, there)];
        assert_eq!(seen(&late), Ok(()));
        let mut placement = watched();
        for (epoch, (at_us, nodes)) in (1..).zip(&soon[..2]) {
            placement
                .described(*at_us, &described(epoch, nodes))
                .expect("sound");
        }
        placement.changed_us = at_us + 3;
        let back = placement.described(at_us + 4, &described(3, there));
        assert_eq!(back, Ok(()));
    }
}
