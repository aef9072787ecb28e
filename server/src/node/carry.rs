//! Carrying out what the cores ask for: of each other, of the transport, of the clients.

use synod_replication::{
    Effect as ReplicationEffect, Leadership, NodeId, ProposeError, Read, ReadFailure, ReadToken,
    Role,
};
use synod_storage::{Entry, Micros, ShardId};
use synod_testpoint::{planted, reached};
use synod_txn::{
    Effect as ShardEffect, Event as ShardEvent, Leadership as ShardLeadership, Now,
    Refusal as ProposalRefusal, Response, Round, SYSTEM_SHARD,
};
use tracing::{debug, info};

use super::turn::{Effects, Node, Origin};
use super::{NodeError, Observation};
use crate::gateway;

impl Node {
    pub(super) fn carry_gateway(
        &mut self,
        now: Now,
        effect: gateway::Effect,
        effects: &mut Effects,
    ) {
        match effect {
            gateway::Effect::Request(node, request) if node == self.id() => {
                self.request(now, node, request, effects);
            }
            gateway::Effect::Request(node, request) => {
                self.outgoing
                    .requests
                    .entry(node)
                    .or_default()
                    .push(request);
            }
            gateway::Effect::Withdraw(node, requests) => match node == self.id() {
                true => self
                    .withdrawn
                    .extend(requests.into_iter().map(|id| Origin { node, id })),
                false => {
                    let withdrawals = self.outgoing.withdrawals.entry(node).or_default();
                    withdrawals.extend(requests);
                }
            },
            gateway::Effect::Replies(session, replies) => {
                self.mailbox.answered(replies.len());
                if let Some(outbox) = self.outboxes.get(&session) {
                    outbox.push(replies);
                }
            }
            gateway::Effect::Ask(asked, args) => self.asked(now, asked, &args, effects),
            gateway::Effect::Called {
                shard,
                call,
                outcome,
            } => {
                let event = ShardEvent::Called {
                    shard,
                    call,
                    outcome,
                };
                self.step_shards(now, event, effects);
            }
        }
    }

    pub(super) fn carry_shard(
        &mut self,
        now: Now,
        effect: ShardEffect,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match effect {
            ShardEffect::Propose {
                shard,
                term,
                batch,
                data,
            } => {
                if let Err(refusal) = self.propose(now, shard, term, data) {
                    reached!(ProposalRefused);
                    let event = ShardEvent::ProposalRefused {
                        shard,
                        batch,
                        refusal,
                    };
                    self.step_shards(now, event, effects);
                }
            }
            ShardEffect::Confirm { shard, term, round } => {
                self.confirm(now, shard, term, round, effects);
            }
            ShardEffect::Respond { token, outcome } => {
                let Some(Origin { node, id }) = self.tokens.remove(&token) else {
                    return Ok(());
                };
                let hlc = self.participant.hlc();
                let response = Response { id, hlc, outcome };
                if node == self.id() && self.take_written(now, node, &response) {
                    return Ok(());
                }
                if node == self.id() {
                    let event = gateway::Event::Response(node, response);
                    self.gateway.step(now, event, &mut effects.gateway);
                } else {
                    self.outgoing
                        .responses
                        .entry(node)
                        .or_default()
                        .push(response);
                }
            }
            ShardEffect::Call {
                shard,
                call,
                key,
                body,
            } => {
                self.gateway
                    .ask_for(now, (shard, call), key, body, &mut effects.gateway);
            }
            ShardEffect::Described { descriptor } => self.described(now, descriptor, effects),
            ShardEffect::SystemRows { extent, rows } => self.system_rows(extent, rows),
            ShardEffect::Split { telling, newborn } => {
                self.split_off(now, telling, newborn, effects)
            }
            ShardEffect::Merged { left, right, epoch } => {
                self.merged(now, left, (right, epoch), effects)
            }
            ShardEffect::Damaged { shard, row } => debug!(%shard, ?row, "met a damaged value"),
            ShardEffect::Fatal { shard, reason } => {
                return Err(NodeError::Broken(format!("shard {shard}: {reason}")));
            }
        }
        Ok(())
    }

    /// Proposes an entry that was evaluated in `term`, or says why nothing was proposed.
    fn propose(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        data: bytes::Bytes,
    ) -> Result<(), ProposalRefusal> {
        self.leads_in(shard, term)
            .map_err(|hint| ProposalRefusal::NotLeader { hint })?;
        match self.replication.propose(now.monotonic, shard, data) {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader(leader)) => Err(ProposalRefusal::NotLeader {
                hint: leader.map(|member| member.node),
            }),
            Err(ProposeError::NotServing | ProposeError::NoReplica) => {
                Err(ProposalRefusal::NotLeader { hint: None })
            }
            Err(ProposeError::Throttled | ProposeError::TooLarge) => {
                Err(ProposalRefusal::Throttled)
            }
        }
    }

    /// Whether this node leads a shard in exactly this term; else who does, if known.
    pub(super) fn leads_in(&self, shard: ShardId, term: u64) -> Result<(), Option<NodeId>> {
        match self.replication.leadership(shard) {
            Some(Leadership {
                role: Role::Leader,
                term: present,
                ..
            }) if present == term => Ok(()),
            Some(Leadership { leader, .. }) => Err(leader.map(|member| member.node)),
            None => Err(None),
        }
    }

    pub(super) fn confirm(
        &mut self,
        now: Now,
        shard: ShardId,
        term: u64,
        round: Round,
        effects: &mut Effects,
    ) {
        let token = ReadToken(self.next_read);
        self.next_read += 1;
        let event = match self.replication.read(now.monotonic, shard, token) {
            _ if planted!(ConfirmsAnyone) => ShardEvent::LeadershipConfirmed { shard, term, round },
            Read::Ready(grant) => self.judge_grant(shard, term, round, grant),
            Read::Pending => {
                reached!(ReadWaitedForQuorum);
                self.confirmations.insert(token, (shard, term, round));
                return;
            }
            Read::Refused(failure) => doubtful(shard, term, round, failure),
        };
        self.step_shards(now, event, effects);
    }

    /// The state has been read: whether the grant still holds, by a clock read now.
    pub(super) fn judge_grant(
        &self,
        shard: ShardId,
        term: u64,
        round: Round,
        grant: synod_replication::Grant,
    ) -> ShardEvent {
        let later = Micros(self.clock.monotonic_us());
        let holds = grant.term == term && self.replication.confirm(later, shard, &grant);
        if holds || planted!(NoSecondLook) {
            ShardEvent::LeadershipConfirmed { shard, term, round }
        } else {
            reached!(GrantJudgedTooLate);
            ShardEvent::LeadershipDoubtful {
                shard,
                term,
                round,
                hint: None,
            }
        }
    }

    pub(super) fn carry_replication(
        &mut self,
        now: Now,
        effect: ReplicationEffect,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        match effect {
            ReplicationEffect::Send { to, message } => self.send_raft(to, &message),
            ReplicationEffect::Committed { shard, entries } => {
                self.committed(now, shard, entries, effects);
            }
            ReplicationEffect::Leadership { shard, leadership } => {
                self.leadership(now, shard, leadership, effects);
            }
            ReplicationEffect::ReadReady {
                shard,
                token,
                grant,
            } => {
                if let Some((_, term, round)) = self.confirmations.remove(&token) {
                    let event = self.judge_grant(shard, term, round, grant);
                    self.step_shards(now, event, effects);
                }
            }
            ReplicationEffect::ReadFailed {
                shard,
                token,
                failure,
            } => {
                if let Some((_, term, round)) = self.confirmations.remove(&token) {
                    self.step_shards(now, doubtful(shard, term, round, failure), effects);
                }
            }
            // The participant learns it from what is applied under that index instead.
            ReplicationEffect::ProposalLost { .. } => {}
            ReplicationEffect::ConfigurationChanged { shard, id, .. } => {
                reached!(ConfigurationChanged);
                info!(%shard, %id, "the shard's members changed");
                self.unreconciled.insert(shard);
            }
            ReplicationEffect::SnapshotInstalled { shard, .. } => {
                self.snapshot_installed(now, shard, effects);
            }
            ReplicationEffect::Removed { shard, replica } => {
                self.removed(now, shard, replica, effects);
            }
            ReplicationEffect::Missing {
                shard,
                replica,
                from,
            } => self.missing(now, (shard, replica), from, effects),
            ReplicationEffect::Damaged {
                shard,
                replica,
                damage,
            } => self.damaged(now, shard, replica, damage),
            ReplicationEffect::Repaired {
                shard,
                replica,
                entries,
            } => {
                reached!(ReplicaRepaired);
                info!(%shard, %replica, entries, "repaired from peers");
            }
            ReplicationEffect::Fatal { reason } => return Err(NodeError::Broken(reason)),
        }
        Ok(())
    }

    /// Entries are committed: they are applied, in the same turn.
    fn committed(&mut self, now: Now, shard: ShardId, entries: Vec<Entry>, effects: &mut Effects) {
        let last = entries.last().map_or(0, |entry| entry.id.index);
        self.observe(&Observation::Committed(shard, &entries));
        self.step_shards(now, ShardEvent::Committed { shard, entries }, effects);
        self.replication.applied(
            now.monotonic,
            shard,
            last,
            &mut self.store,
            &mut effects.replication,
        );
    }

    pub(super) fn leadership(
        &mut self,
        now: Now,
        shard: ShardId,
        leadership: Leadership,
        effects: &mut Effects,
    ) {
        let Leadership {
            role,
            term,
            leader,
            serving,
        } = leadership;
        debug!(%shard, ?role, term, serving, "leadership");
        if role == Role::Leader {
            self.observe(&Observation::Leads { shard, term });
        }
        let leader = leader.map(|member| member.node);
        let event = if role == Role::Leader && serving {
            ShardLeadership::Leading { term }
        } else {
            ShardLeadership::Following { leader }
        };
        self.step_shards(
            now,
            ShardEvent::Leadership {
                shard,
                leadership: event,
            },
            effects,
        );
        self.unreconciled.insert(shard);
        if let Some(node) = leader
            && (node != self.id() || serving)
        {
            if shard == SYSTEM_SHARD {
                self.writer.lead(node);
            }
            let event = gateway::Event::Leader(shard, node);
            self.gateway.step(now, event, &mut effects.gateway);
        }
    }
}

fn doubtful(shard: ShardId, term: u64, round: Round, failure: ReadFailure) -> ShardEvent {
    let hint = match failure {
        ReadFailure::NotLeader(leader) => leader.map(|member| member.node),
        ReadFailure::TimedOut | ReadFailure::NoReplica => None,
    };
    ShardEvent::LeadershipDoubtful {
        shard,
        term,
        round,
        hint,
    }
}
