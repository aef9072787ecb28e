//! What peers say: consensus messages, heartbeats, and the answers to ours.

use synod_storage::{Micros, ReplicaId, ShardId, Store};

use super::Replication;
use crate::effect::{Effect, Effects};
use crate::eraft;
use crate::group::{Group, Stepped};
use crate::identity::{Incarnation, NodeId};
use crate::lease::Round;
use crate::message::{
    Ask, Batch, GroupBody, GroupHeartbeat, GroupMessage, GroupReply, Heartbeat, HeartbeatReply,
    Rest, Sign,
};
use crate::quiet::Sleep;
use synod_testpoint::planted;

/// Replicas remembered that leaders count on and that are not here.
const MISSING_MAX: usize = 1_024;

impl Replication {
    pub(super) fn unreachable(&mut self, node: NodeId) {
        for group in self.groups.values_mut() {
            if group.installing {
                continue;
            }
            if !group.is_leader() {
                if group.node_of(group.leader()) == Some(node) {
                    group.expect_election();
                }
                continue;
            }
            let there = group.configuration.members().filter(|m| m.node == node);
            for member in there.collect::<Vec<_>>() {
                group.raft.report_unreachable(member.replica.0);
            }
        }
    }

    pub(super) fn receive_batch(
        &mut self,
        now: Micros,
        from: NodeId,
        batch: Batch,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        for message in batch.consensus {
            self.receive_group(now, from, message, store, fx);
        }
        if let Some(heartbeat) = batch.heartbeat {
            self.hear_of(now, from, heartbeat.incarnation, store);
            if let Some(theirs) = heartbeat.quiet {
                self.compare_digest(now, from, theirs, &heartbeat.groups);
            }
            for group in &heartbeat.groups {
                self.receive_heartbeat(now, from, &heartbeat, group, store, fx);
            }
        }
        for reply in batch.replies {
            self.receive_reply(now, reply);
        }
    }

    /// A node that has nothing else to say is there.
    pub(super) fn receive_sign(
        &mut self,
        now: Micros,
        from: NodeId,
        sign: Sign,
        store: &mut Store,
    ) {
        self.hear_of(now, from, sign.incarnation, store);
        self.compare_digest(now, from, sign.quiet, &[]);
    }

    /// A node named its start.
    pub(super) fn hear_of(
        &mut self,
        now: Micros,
        from: NodeId,
        incarnation: Incarnation,
        store: &mut Store,
    ) {
        if self.peers.started(from, incarnation, now) {
            self.wake_for_peer(now, from);
            self.end_transfers_to(from, store);
        }
    }

    /// The group that a message is for. Says so if a leader counts on a replica that is not here.
    pub(super) fn addressed(
        &mut self,
        now: Micros,
        (from, shard, to): (NodeId, ShardId, ReplicaId),
        of_leader: bool,
        store: &Store,
        fx: &mut Effects,
    ) -> Option<&mut Group> {
        if self
            .groups
            .get(&shard)
            .is_some_and(|group| group.replica == to)
        {
            return self.groups.get_mut(&shard);
        }
        let damaged = self
            .damaged
            .get(&shard)
            .is_some_and(|damaged| damaged.replica == to);
        if of_leader && !damaged && !store.is_dropped(to) {
            let patience_us = self.config.guard_us();
            let said = self.missing.get(&(shard, to)).copied();
            if said.is_none_or(|at| now.0 >= at.0 + patience_us) {
                if self.missing.len() >= MISSING_MAX {
                    self.missing.clear();
                }
                self.missing.insert((shard, to), now);
                fx.push(Effect::Missing {
                    shard,
                    replica: to,
                    from,
                });
            }
        }
        None
    }

    pub(super) fn receive_group(
        &mut self,
        now: Micros,
        from: NodeId,
        message: GroupMessage,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let (shard, sender) = (message.shard, message.from);
        let guard_us = self.config.guard_us();
        let (appends, votes) = match &message.body {
            GroupBody::Append { .. } => (true, false),
            GroupBody::Vote { .. } => (false, true),
            GroupBody::Accepted { .. }
            | GroupBody::Rejected { .. }
            | GroupBody::VoteReply { .. }
            | GroupBody::TimeoutNow => (false, false),
        };
        let address = (from, shard, message.to);
        let Some(group) = self.addressed(now, address, appends, store, fx) else {
            return;
        };
        group.learn(sender, from);
        let quiet = group.is_quiet();
        if quiet && votes && planted!(SleepsThroughVotes) {
            let _ = group.step(now, guard_us, message);
            self.mark(shard);
            return;
        }
        if quiet && votes && !group.is_leader() {
            // Its timer stands still: it would refuse this vote, and every other, for ever.
            group.forget_leader();
        }
        match group.step(now, guard_us, message) {
            Stepped::Done => {}
            Stepped::Dropped | Stepped::RolledBack => {}
        }
        if quiet {
            self.wake(now, shard);
        } else if appends && let Some(group) = self.groups.get_mut(&shard) {
            group.active_at = now;
            group.sleep = Sleep::Awake;
        }
        self.mark(shard);
    }

    pub(super) fn receive_heartbeat(
        &mut self,
        now: Micros,
        from: NodeId,
        heartbeat: &Heartbeat,
        part: &GroupHeartbeat,
        store: &mut Store,
        fx: &mut Effects,
    ) {
        let guard_us = self.config.guard_us();
        let shard = part.shard;
        let address = (from, shard, part.to);
        let Some(group) = self.addressed(now, address, true, store, fx) else {
            return;
        };
        group.learn(part.from, from);
        let follows = match group.heartbeat(now, guard_us, part.from, part.term, part.commit) {
            Ok(follows) => follows,
            Err(Stepped::RolledBack) => {
                let (replica, configuration) = (group.replica, group.configuration.clone());
                tracing::error!(%shard, %replica, "acknowledged entries are gone from this disk");
                self.abandon(shard, store, fx);
                self.lose(shard, replica, configuration, fx);
                return;
            }
            Err(Stepped::Dropped | Stepped::Done) => return,
        };
        let (replica, term, commit) = (group.replica, group.term(), group.committed());
        let rest = match part.ask {
            Ask::Quiesce { last }
                if follows && group.agrees_to_rest(part.from, part.term, last) =>
            {
                group.sleep = Sleep::Quiet;
                self.awake.remove(&shard);
                Rest::Quiet
            }
            Ask::Quiesce { .. } | Ask::Follow => {
                group.sleep = Sleep::Awake;
                self.awake.insert(shard);
                Rest::Awake
            }
        };
        if follows {
            let reply = GroupReply {
                shard,
                from: replica,
                to: part.from,
                term,
                commit,
                rest,
            };
            self.outbox
                .reply(from, heartbeat.incarnation, heartbeat.round, reply);
        }
        self.mark(shard);
    }

    pub(super) fn receive_reply(&mut self, now: Micros, reply: HeartbeatReply) {
        if reply.incarnation != self.config.incarnation {
            return;
        }
        let round = Round(reply.round);
        let sent_at = self.rounds.sent_at(round);
        for part in reply.groups {
            let Some(group) = self.groups.get_mut(&part.shard) else {
                continue;
            };
            if group.replica != part.to || group.installing || part.commit > group.last_index() {
                continue;
            }
            let (replica, from) = (group.replica, part.from);
            group.step_raft(eraft::heartbeat_reply(
                from,
                replica,
                part.term,
                part.commit,
            ));
            let Some(leading) = &mut group.leading else {
                continue;
            };
            if leading.term != part.term {
                continue;
            }
            if let Some(sent_at) = sent_at {
                let counted = if planted!(LeaseFromReceipt) {
                    now
                } else {
                    sent_at
                };
                leading.answered(from, round, counted);
            }
            if let Sleep::Asking { last: _, agreed } = &mut group.sleep {
                match part.rest {
                    Rest::Quiet => {
                        agreed.insert(from);
                    }
                    Rest::Awake => {
                        agreed.remove(&from);
                    }
                }
            }
            self.mark(part.shard);
        }
    }
}
