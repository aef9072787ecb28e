//! What happens because time passes: elections, heartbeats, sleep; and what wakes a sleeper.

use std::collections::{BTreeMap, BTreeSet};

use synod_storage::{Micros, ReplicaId, ShardId, Store};

use super::Replication;
use crate::effect::Effects;
use crate::group::Group;
use crate::identity::NodeId;
use crate::message::{Ask, GroupBody, GroupHeartbeat, GroupMessage, QuietDigest};
use crate::quiet::Sleep;
use synod_testpoint::planted;

impl Replication {
    pub(super) fn tick(&mut self, now: Micros, store: &mut Store, fx: &mut Effects) {
        self.flush_wanted = true;
        let gap_us = now.0.saturating_sub(self.ticked_at.0);
        self.ticked_at = now;
        if gap_us > self.config.guard_us() / 2 {
            // We were not running: that nobody was heard says nothing about them.
            self.peers.excuse(now);
        }
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            if let Some(group) = self.groups.get_mut(&shard) {
                group.tick(now);
                self.mark(shard);
            }
        }
        // Whichever tick is nearest: ticks are not on time to the microsecond.
        self.beats = now.0 + self.config.tick_us() / 2 >= self.next_heartbeat().0;
        if self.beats {
            self.heartbeat_tick(now);
        } else {
            self.tell_commits();
        }
        self.tick_transfers(now, store, fx);
        self.tick_repairs(now, fx);
        self.tick_rows(now, store, fx);
    }

    /// When the next heartbeat is due.
    pub fn next_heartbeat(&self) -> Micros {
        Micros(self.beat_at.0 + self.config.heartbeat_us())
    }

    /// Whether ticks before the next heartbeat would find nothing to do.
    ///
    /// All groups sleep then, and nothing is under way to disk or to a peer. What ends that is an event.
    pub fn is_at_rest(&self) -> bool {
        self.awake.is_empty()
            && !self.needs_flush()
            && self.waiting.is_empty()
            && self.deferred.is_empty()
            && self.damaged.is_empty()
            && self.transfers.is_empty()
            && self.rows.is_idle()
    }

    /// The node's heartbeat: a round of all awake leaders, and signs of life for those that sleep.
    pub(super) fn heartbeat_tick(&mut self, now: Micros) {
        self.beat_at = now;
        self.heartbeats += 1;
        let quiet_after_us = self.config.quiet_after_ms * 1_000;
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            let Some(group) = self.groups.get_mut(&shard) else {
                continue;
            };
            if !group.is_leader() {
                continue;
            }
            let idle = now.0.saturating_sub(group.active_at.0) >= quiet_after_us;
            if idle && group.may_ask() {
                let last = group.last_id();
                let others = group.configuration.nodes.len() - 1;
                match &group.sleep {
                    Sleep::Asking {
                        last: asked,
                        agreed,
                    } if *asked == last => {
                        if agreed.len() >= others {
                            group.sleep = Sleep::Quiet;
                            self.awake.remove(&shard);
                            continue;
                        }
                    }
                    Sleep::Awake | Sleep::Asking { .. } | Sleep::Quiet => {
                        group.sleep = Sleep::Asking {
                            last,
                            agreed: BTreeSet::new(),
                        };
                    }
                }
            } else {
                group.sleep = Sleep::Awake;
            }
            self.heartbeat_group(shard);
        }
        self.give_signs();
        self.watch_leaders(now);
    }

    /// Signs of life to the nodes that count on them: those where groups sleep that are led here. Who believes
    /// that of others takes the silence for what it is.
    fn give_signs(&mut self) {
        let mut digests: BTreeMap<NodeId, QuietDigest> = BTreeMap::new();
        let asleep = |group: &&Group| group.is_quiet() && group.is_leader();
        for group in self.groups.values().filter(asleep) {
            for &node in group.configuration.nodes.values() {
                digests.entry(node).or_default().add(group);
            }
        }
        digests.remove(&self.config.node);
        let heartbeat = self.heartbeats;
        let every = self.config.heartbeats_a_sign();
        self.peers.keep_signs(|node| digests.contains_key(&node));
        for (node, digest) in digests {
            if self.peers.sign_is_due(node, heartbeat, every) {
                self.outbox.sign(node, digest);
            }
        }
    }

    /// Members of groups whose commit index moved without an append to carry it.
    pub(super) fn tell_commits(&mut self) {
        let awake: Vec<ShardId> = self.awake.iter().copied().collect();
        for shard in awake {
            let behind = self
                .groups
                .get(&shard)
                .is_some_and(|group| group.is_leader() && group.told_commit < group.committed());
            if behind {
                self.heartbeat_group(shard);
            }
        }
    }

    /// Takes a group into the round that begins with this flush.
    pub(super) fn heartbeat_group(&mut self, shard: ShardId) {
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        group.told_commit = group.committed();
        let committed = group.committed();
        let ask = match &group.sleep {
            Sleep::Asking { last, agreed: _ } => Ask::Quiesce { last: *last },
            Sleep::Awake | Sleep::Quiet => Ask::Follow,
        };
        let mut members: Vec<(u64, u64)> = group
            .raft
            .raft
            .prs()
            .iter()
            .map(|(&id, progress)| (id, progress.matched))
            .collect();
        members.sort_unstable();
        for (id, matched) in members {
            let to = ReplicaId(id);
            if to == group.replica {
                continue;
            }
            let Some(node) = group.node_of(to) else {
                continue;
            };
            let part = GroupHeartbeat {
                shard,
                from: group.replica,
                to,
                term: group.term(),
                // Never beyond what this member is known to have: it would take it for committed.
                commit: matched.min(committed),
                ask,
            };
            self.outbox.heartbeat(node, part);
        }
    }

    /// Looks for quiet groups whose leader's node has fallen silent.
    pub(super) fn watch_leaders(&mut self, now: Micros) {
        let silence_us = match planted!(IgnoresSilence) {
            true => u64::MAX / 2,
            false => self.config.guard_us(),
        };
        let mut silent: Vec<ShardId> = Vec::new();
        for (&shard, group) in &self.groups {
            if group.is_quiet()
                && !group.is_leader()
                && group
                    .node_of(group.leader())
                    .is_none_or(|node| self.peers.is_silent(node, now, silence_us))
            {
                silent.push(shard);
            }
        }
        for shard in silent {
            self.wake(now, shard);
            if let Some(group) = self.groups.get_mut(&shard) {
                group.forget_leader();
            }
        }
    }

    pub(crate) fn wake(&mut self, now: Micros, shard: ShardId) {
        if let Some(group) = self.groups.get_mut(&shard) {
            if !matches!(group.sleep, Sleep::Awake) {
                group.sleep = Sleep::Awake;
                group.active_at = now;
            }
            self.awake.insert(shard);
            self.mark(shard);
        }
    }

    /// A command needs the group. A follower knocks at its leader, and counts ticks from here on.
    pub(super) fn wake_by_command(&mut self, now: Micros, shard: ShardId) {
        let quiet = self.groups.get(&shard).is_some_and(Group::is_quiet);
        self.wake(now, shard);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        group.active_at = now;
        let leader = group.leader();
        if quiet && !group.is_leader() && leader.0 != 0 {
            let (replica, term) = (group.replica, group.term());
            if let Some(node) = group.node_of(leader) {
                // An acknowledgement of what is committed says nothing new, and wakes a leader.
                let commit = group.committed();
                let body = GroupBody::Accepted {
                    index: commit,
                    commit,
                };
                let from = replica;
                let knock = GroupMessage {
                    shard,
                    from,
                    to: leader,
                    term,
                    body,
                };
                let mut none = Effects::new();
                self.outbox.consensus(node, knock, &mut none);
            }
        }
    }

    /// A peer restarted or left: quiet groups that counted on it wake.
    pub(super) fn wake_for_peer(&mut self, now: Micros, node: NodeId) {
        let mut concerned: Vec<(ShardId, bool)> = Vec::new();
        for (&shard, group) in &self.groups {
            if group.is_quiet() && group.configuration.nodes.values().any(|&n| n == node) {
                let led = !group.is_leader() && group.node_of(group.leader()) == Some(node);
                concerned.push((shard, led));
            }
        }
        for (shard, led) in concerned {
            self.wake(now, shard);
            if led && let Some(group) = self.groups.get_mut(&shard) {
                group.forget_leader();
            }
        }
    }

    /// Compares what sleeps under a node with what it says.
    pub(super) fn compare_digest(
        &mut self,
        now: Micros,
        from: NodeId,
        theirs: QuietDigest,
        groups: &[GroupHeartbeat],
    ) {
        if planted!(IgnoresDigests) {
            return;
        }
        // What a heartbeat names is awake there, so it is not in the digest.
        let named: BTreeSet<ShardId> = groups.iter().map(|group| group.shard).collect();
        let mut mine = QuietDigest::default();
        let mut under: Vec<ShardId> = Vec::new();
        for (shard, group) in &self.groups {
            if group.is_quiet()
                && !group.is_leader()
                && !named.contains(shard)
                && group.node_of(group.leader()) == Some(from)
            {
                mine.add(group);
                under.push(*shard);
            }
        }
        if self.peers.digest(from, mine == theirs) {
            for shard in under {
                self.wake(now, shard);
            }
        }
    }
}
