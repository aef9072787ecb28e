//! Putting decided views in force, catching up, being removed, leaving.
//!
//! A view is checked, made durable, then installed: only then does the node announce it, act on it, or vote on its
//! successor. Whoever is behind notices it in a probe, an answer, or an announcement, and pulls the views that it
//! lacks; whoever was removed is told, again and again, until it answers.

use std::sync::Arc;
use std::time::Duration;

use super::{Awaited, Node};
use crate::chain::{Chain, Lead};
use crate::configuration::SharedConfiguration;
use crate::consensus::Consensus;
use crate::consensus::agreement::Agreement;
use crate::cut_detector::CutDetector;
use crate::durable::Record;
use crate::effect::{Alarm, Effect, Effects, Halt};
use crate::id::{ConfigHash, Destination, Identity, NodeId};
use crate::message::{Installed, Message, Position, Pull, Snapshot, Truncated};
use crate::status::Phase;
use crate::time::Time;
use crate::view::{View, ViewChange};

/// A removed node that is to be told.
#[derive(Debug)]
pub(super) struct Notice {
    node: NodeId,
    seq: u64,
    to: Destination,
    message: Message,
    pub(super) next_at: Time,
    wait: Duration,
}

/// Observers that tell a removed node: a few, so that one loss does not matter.
const NOTIFIERS: usize = 3;

/// A removed node is told until it answers or is back, at distances that grow up to this.
const NOTICE_WAIT_MAX: Duration = Duration::from_secs(60);

/// So many removed nodes are told at a time: the dead ones among them never answer, and the oldest are given up.
const NOTICES_MAX: usize = 256;

/// A node that left, and waits until a remaining voter knows.
#[derive(Debug)]
pub(super) struct Departing {
    pub(super) next_at: Time,
    until: Option<Time>,
}

/// After so long, a leaver whose slot nobody depends on goes without an answer.
const DEPARTURE_TIME: Duration = Duration::from_secs(10);

impl Node {
    /// Takes the next view, decided here or proven by its certificate, and makes it durable. False if it is not next.
    pub(super) fn accept_view(&mut self, view: Arc<View>, out: &mut Effects) -> bool {
        let Some(ahead) = &self.ahead else {
            return false;
        };
        match view.verify(ahead, &self.catalog) {
            Ok(after) => {
                self.ahead = Some(after);
                self.persist(Record::View(view.clone()), Awaited::View(view), out);
                self.update_serving(out);
                true
            }
            Err(_) => false,
        }
    }

    /// The view is durable: it takes force.
    pub(super) fn on_view_durable(&mut self, view: Arc<View>, out: &mut Effects) {
        let Some(chain) = &mut self.chain else { return };
        let before = chain.tip().clone();
        let seq = view.seq;
        if chain.push(view.clone(), &self.catalog).is_err() {
            // It was verified against this very configuration before it was written.
            self.halt(Halt::BrokenChain(seq), out);
            return;
        }
        let after = chain.tip().clone();
        if let Some(base) = chain.truncate(self.settings.log_views_max, &self.catalog) {
            self.persist(Record::Base(base), Awaited::Nothing, out);
        }
        self.install(&before, &after, &view, out);
    }

    fn install(
        &mut self,
        before: &SharedConfiguration,
        after: &SharedConfiguration,
        view: &Arc<View>,
        out: &mut Effects,
    ) {
        let was_member = matches!(
            self.phase,
            Phase::Member | Phase::Leaving | Phase::Restarting
        );
        self.take_place(out);
        if self.phase == Phase::Halted {
            return;
        }
        let is_member = after.index_of(self.me()).is_some();
        if is_member {
            out.push(Effect::Install(change(before, after, view)));
        }
        self.announce_decision(before, after, view, out);
        if was_member {
            self.queue_notices(before, after, view);
        }
        self.retarget_joiners(after, out);
        self.restarts.note(self.now, view, &self.settings.timing);
        self.update_serving(out);
    }

    /// Finds out what this node is in its configuration, and takes up the duties.
    pub(super) fn take_place(&mut self, out: &mut Effects) {
        let Some(view) = self.view().cloned() else {
            return;
        };
        let Some(me) = self.registration else { return };
        let timing = self.settings.timing;
        let agreement = Agreement::new(
            view.clone(),
            self.catalog.clone(),
            me.node,
            self.acceptor.as_deref(),
        );
        let votes = agreement.votes();
        self.consensus = view
            .is_voter(me.node)
            .then(|| Consensus::new(agreement, me.node, timing));
        self.detector = votes.then(|| CutDetector::new(view.clone(), self.catalog.clone(), timing));
        self.monitor
            .observe(self.now, &view, me.node, &mut self.rng);
        self.relay.clear();
        self.forget_strangers();
        match view.member(me.node) {
            Some(listed) if listed.boot == me.boot => {
                if !matches!(self.phase, Phase::Member | Phase::Leaving) {
                    self.member_since = self.now;
                    // While it was none it had nobody to hear.
                    self.contacts.heard_majority(self.now);
                }
                let leaves = self.leaving_at.is_some();
                self.phase = if leaves {
                    Phase::Leaving
                } else {
                    Phase::Member
                };
                (self.joining, self.rejoining, self.restart_at) = (None, None, None);
                self.announce_installed(&view, out);
            }
            Some(listed) if listed.boot.counter < me.boot.counter => {
                self.phase = Phase::Restarting;
                self.joining = None;
                self.restart_at = Some(self.now);
            }
            Some(_) => {
                self.halt(Halt::Superseded, out);
                return;
            }
            None => self.lose_place(&view, out),
        }
        self.note_alerts();
    }

    /// This node is not in its configuration.
    fn lose_place(&mut self, view: &SharedConfiguration, out: &mut Effects) {
        self.parked.clear();
        self.alerts_at = None;
        if self.leaving_at.is_some() {
            let sole = view.voters().len() == 1;
            let until = (!sole).then(|| self.now + DEPARTURE_TIME);
            self.departing = Some(Departing {
                next_at: self.now,
                until,
            });
            self.phase = Phase::Leaving;
            return;
        }
        self.suspended = None;
        match self.phase {
            Phase::Member | Phase::Leaving => {
                self.phase = Phase::Removed;
                out.push(Effect::Removed(self.position()));
                self.begin_rejoining();
            }
            // A restart shows no clean links first: there was a reason for its absence.
            Phase::Restarting => {
                out.push(Effect::Removed(self.position()));
                self.begin_joining(out);
            }
            Phase::Starting => self.begin_joining(out),
            Phase::Joining | Phase::Removed | Phase::Left | Phase::Halted => {}
        }
    }

    /// The coordinator of a classic round is the only one that knows its outcome.
    fn announce_decision(
        &self,
        before: &SharedConfiguration,
        after: &SharedConfiguration,
        view: &Arc<View>,
        out: &mut Effects,
    ) {
        let rank = view.certificate.rank;
        let slot = before.voter_index(self.me());
        if rank.is_fast() || slot != Some(rank.coordinator as usize) {
            return;
        }
        let message = Message::Views(Arc::new(vec![view.clone()]));
        for voters in [before, after] {
            let to = voters.voter_destinations();
            if to.len() > 1 {
                out.push(Effect::SendMany {
                    to,
                    message: message.clone(),
                });
            }
            if before.voters() == after.voters() {
                break;
            }
        }
    }

    /// Tells the observers that this configuration is installed here. It makes a joiner fit to vote, and whoever is
    /// behind finds out.
    fn announce_installed(&mut self, view: &SharedConfiguration, out: &mut Effects) {
        let at = Position {
            seq: view.seq(),
            hash: view.hash(),
        };
        let writes = self.durable_writes;
        let to = self.my_observers();
        if !to.is_empty() {
            let message = Message::Installed(Installed { at, writes });
            out.push(Effect::SendMany {
                to: to.into(),
                message,
            });
        }
    }

    fn queue_notices(
        &mut self,
        before: &SharedConfiguration,
        after: &SharedConfiguration,
        view: &Arc<View>,
    ) {
        let me = self.me();
        let members = before.members();
        for removal in &view.cut.remove {
            let Some(index) = before.index_of(removal.node) else {
                continue;
            };
            let observers = before.topology().observers(index as u32).iter();
            let staying = observers
                .map(|observer| members[*observer as usize].node)
                .filter(|observer| after.index_of(*observer).is_some());
            let message = Message::Views(Arc::new(vec![view.clone()]));
            if staying.take(NOTIFIERS).any(|observer| observer == me) {
                self.notices.push(Notice {
                    node: removal.node,
                    seq: view.seq,
                    to: members[index].destination(),
                    message,
                    next_at: self.now,
                    wait: self.settings.timing.alert_refresh,
                });
            }
        }
        self.notices
            .retain(|notice| after.index_of(notice.node).is_none());
        let surplus = self.notices.len().saturating_sub(NOTICES_MAX);
        self.notices.drain(..surplus);
    }

    pub(super) fn tick_notices(&mut self, out: &mut Effects) {
        let now = self.now;
        for notice in self
            .notices
            .iter_mut()
            .filter(|notice| notice.next_at <= now)
        {
            out.push(Effect::Send {
                to: notice.to,
                message: notice.message.clone(),
            });
            notice.next_at = now + notice.wait;
            notice.wait = (notice.wait * 2).min(NOTICE_WAIT_MAX);
        }
    }

    /// Asks a peer that is further for what we lack, unless somebody was asked just now.
    pub(super) fn pull_from(&mut self, peer: &Identity, out: &mut Effects) {
        let waiting = |asked: Time| self.now < asked + self.settings.timing.pull_timeout;
        if self.pulled.is_some_and(waiting) {
            return;
        }
        self.pulled = Some(self.now);
        let from = self.ahead_position();
        self.send_to(peer, Message::Pull(Pull { from }), out);
    }

    pub(super) fn on_pull(&mut self, from: &Identity, at: Position, out: &mut Effects) {
        let Some(chain) = &self.chain else { return };
        let message = if at.seq == 0 {
            Message::Snapshot(chain.snapshot())
        } else {
            match chain.lead(at) {
                Lead::Views(views) => Message::Views(Arc::new(views)),
                Lead::UpToDate => return,
                Lead::TooOld(floor) => Message::Truncated(Truncated { floor }),
                Lead::Conflict => return self.on_conflict(from, at.seq, out),
            }
        };
        self.send_to(from, message, out);
    }

    pub(super) fn on_views(&mut self, from: &Identity, views: &[Arc<View>], out: &mut Effects) {
        let mut progress = false;
        for view in views {
            let Some(ahead) = &self.ahead else { return };
            if view.seq <= ahead.seq() {
                self.check_rival(from, view, out);
            } else if view.certificate.config == ahead.hash() {
                progress |= self.accept_view(view.clone(), out);
            } else {
                self.pull_from(from, out);
                break;
            }
            if self.phase == Phase::Halted {
                return;
            }
        }
        if progress {
            (self.pulled, self.truncated_since) = (None, None);
        }
        // A removal is pushed until it is acknowledged, and so is a departure: to the one that goes, and by it.
        let Some(ahead) = &self.ahead else { return };
        let gone = ahead.index_of(self.me()).is_none() || ahead.index_of(from.node).is_none();
        if gone {
            let at = Position {
                seq: ahead.seq(),
                hash: ahead.hash(),
            };
            let writes = self.durable_writes;
            self.send_to(from, Message::Installed(Installed { at, writes }), out);
        }
    }

    /// A view for a place in the chain that is taken: if it is another one, and proven, two quorums have decided.
    fn check_rival(&mut self, from: &Identity, view: &View, out: &mut Effects) {
        let Some(chain) = &self.chain else { return };
        let ours = chain.hash_at(view.seq);
        if ours.is_none_or(|ours| ours == view.hash) {
            return;
        }
        match chain.prove_rival(view, &self.catalog) {
            Ok(()) => self.halt(Halt::ConflictingCertificate(view.seq), out),
            Err(_) => self.quarantine(from, view.seq, out),
        }
    }

    /// A peer shows another hash for a sequence number that we hold. Either of us may be wrong: ask it for its proof,
    /// and listen to nothing else that it says.
    pub(super) fn on_conflict(&mut self, from: &Identity, seq: u64, out: &mut Effects) {
        let before = seq.checked_sub(1);
        let hash = before.and_then(|before| self.chain.as_ref()?.hash_at(before));
        if let (Some(seq), Some(hash), false) = (before, hash, self.is_quarantined(from)) {
            let from_here = Position { seq, hash };
            self.send_to(from, Message::Pull(Pull { from: from_here }), out);
        }
        self.quarantine(from, seq, out);
    }

    fn quarantine(&mut self, from: &Identity, seq: u64, out: &mut Effects) {
        if self.quarantined.len() < QUARANTINED_MAX {
            self.quarantined.insert(from.node, from.boot);
        }
        self.alarm_once(
            from.node,
            Alarm::ConflictingHash {
                peer: from.node,
                seq,
            },
            out,
        );
    }

    /// True if this boot has shown another chain than ours. A later one has checked its own.
    pub(super) fn is_quarantined(&self, from: &Identity) -> bool {
        self.quarantined.get(&from.node) == Some(&from.boot)
    }

    /// What is taken from a peer in quarantine: its proof, and the question for ours, which may show it that its own
    /// chain is wrong.
    pub(super) fn on_quarantined(&mut self, from: &Identity, message: &Message, out: &mut Effects) {
        match message {
            Message::Views(views) => {
                for view in views.iter() {
                    self.check_rival(from, view, out);
                    if self.phase == Phase::Halted {
                        return;
                    }
                }
            }
            Message::Pull(pull) => self.on_pull(from, pull.from, out),
            _ => {}
        }
    }

    /// A message of a configuration that is not in force here: one of us is behind.
    pub(super) fn on_other_configuration(
        &mut self,
        from: &Identity,
        config: ConfigHash,
        out: &mut Effects,
    ) {
        let Some(chain) = &self.chain else { return };
        match chain.seq_of(config) {
            // A member that has installed a successor answers with it, never as an acceptor.
            Some(seq) => {
                if let Lead::Views(views) = chain.lead(Position { seq, hash: config }) {
                    self.send_to(from, Message::Views(Arc::new(views)), out);
                }
            }
            None => self.pull_from(from, out),
        }
    }

    pub(super) fn on_truncated(
        &mut self,
        from: &Identity,
        truncated: Truncated,
        out: &mut Effects,
    ) {
        let behind = self
            .ahead
            .as_ref()
            .is_some_and(|ahead| ahead.seq() < truncated.floor);
        if !behind {
            return;
        }
        match self.phase {
            Phase::Member | Phase::Leaving | Phase::Restarting | Phase::Removed => {
                let since = *self.truncated_since.get_or_insert(self.now);
                if self.now < since + self.settings.timing.suspend {
                    // A recent joiner's log begins with its admission. Those that were there before may know more.
                    self.pull_from_old_member(from.node, out);
                    return;
                }
                // Beyond what anybody can lead on from: start afresh, as a new boot with a new sequence.
                self.truncated_since = None;
                out.push(Effect::Removed(self.position()));
                self.drop_chain();
                self.seeds.push(from.address);
                self.reboot(out);
            }
            Phase::Joining => {
                self.drop_chain();
                self.pulled = None;
                self.pull_from(from, out);
            }
            Phase::Starting | Phase::Left | Phase::Halted => {}
        }
    }

    /// Asks a random member of the own configuration, but not this one, for what comes next.
    fn pull_from_old_member(&mut self, not: NodeId, out: &mut Effects) {
        let Some(view) = self.view().cloned() else {
            return;
        };
        let me = self.me();
        let member = &view.members()[self.rng.below(view.members().len())];
        if member.node != me && member.node != not {
            let message = Message::Pull(Pull {
                from: self.ahead_position(),
            });
            self.pulled = Some(self.now);
            out.push(Effect::Send {
                to: member.destination(),
                message,
            });
        }
    }

    /// Where the views on their way to the platter lead to.
    fn ahead_position(&self) -> Position {
        self.ahead.as_ref().map_or_else(
            || self.position(),
            |ahead| Position {
                seq: ahead.seq(),
                hash: ahead.hash(),
            },
        )
    }

    pub(super) fn drop_chain(&mut self) {
        (self.chain, self.ahead, self.consensus, self.detector) = (None, None, None, None);
        self.monitor.clear();
        self.relay.clear();
        self.parked.clear();
        self.alerts_at = None;
    }

    /// A whole configuration that lists this boot: where a joiner's sequence starts.
    pub(super) fn on_snapshot(&mut self, snapshot: Arc<Snapshot>, out: &mut Effects) {
        let Some(me) = self.registration else { return };
        let configuration = &snapshot.configuration;
        let listed = configuration
            .member(me.node)
            .is_some_and(|member| member.boot == me.boot);
        let wanted = self.phase == Phase::Joining && self.chain.is_none() && self.ahead.is_none();
        if !listed || !wanted {
            return;
        }
        if me
            .cluster
            .is_some_and(|mine| mine != configuration.cluster())
        {
            self.halt(Halt::ForeignCluster(configuration.cluster()), out);
            return;
        }
        if let Some(registration) = &mut self.registration {
            registration.cluster = Some(configuration.cluster());
        }
        self.ahead = Some(configuration.clone());
        self.persist(Record::Base(snapshot.clone()), Awaited::Nothing, out);
        self.persist_registration(Awaited::Base(snapshot), out);
    }

    /// The start of the chain is durable.
    pub(super) fn on_base_durable(&mut self, snapshot: Arc<Snapshot>, out: &mut Effects) {
        let configuration = snapshot.configuration.clone();
        let view = snapshot.view.clone();
        self.chain = Some(Chain::new(snapshot));
        // What follows it may have been taken while it was on its way, and is not to be taken twice.
        self.ahead.get_or_insert_with(|| configuration.clone());
        out.extend(self.identity().map(Effect::Identity));
        self.contacts.heard_majority(self.now);
        self.take_place(out);
        out.push(Effect::Install(ViewChange {
            joined: configuration.members().to_vec(),
            left: Vec::new(),
            restarted: Vec::new(),
            promoted: Vec::new(),
            configuration,
            view,
        }));
        self.update_serving(out);
    }

    pub(super) fn on_installed(
        &mut self,
        from: &Identity,
        installed: Installed,
        out: &mut Effects,
    ) {
        let Installed { at, writes } = installed;
        self.notices
            .retain(|notice| notice.node != from.node || at.seq < notice.seq);
        self.monitor.on_writes(from.node, from.boot.counter, writes);
        if at == self.position() {
            self.note_installed(from.node);
        }
        self.compare(from, at.seq, at.hash.tag(), out);
    }

    /// A subject has installed the configuration that is in force here: if it does not vote, it could.
    pub(super) fn note_installed(&mut self, node: NodeId) {
        let Some(view) = self.view().filter(|view| view.wants_voters()) else {
            return;
        };
        let may_vote = !view.is_voter(node);
        self.monitor.on_installed(node, may_vote);
        self.note_alerts();
    }

    /// A peer is known to be at this configuration, or further.
    pub(super) fn note_progress(&mut self, peer: NodeId, seq: u64, out: &mut Effects) {
        let known = self.departing.is_some()
            && self
                .view()
                .is_some_and(|view| view.is_voter(peer) && view.seq() <= seq);
        if known {
            self.depart(out);
        }
    }

    pub(super) fn leave(&mut self, out: &mut Effects) {
        match self.phase {
            Phase::Member | Phase::Restarting => {
                self.phase = Phase::Leaving;
                self.leaving_at = Some(self.now);
                let alone = self.view().is_some_and(|view| view.members().len() == 1);
                if alone {
                    self.depart(out);
                }
            }
            Phase::Starting | Phase::Joining | Phase::Removed => self.depart(out),
            Phase::Leaving | Phase::Left | Phase::Halted => {}
        }
    }

    fn depart(&mut self, out: &mut Effects) {
        self.phase = Phase::Left;
        out.push(Effect::Left(self.position()));
    }

    pub(super) fn on_leaving(&mut self, from: &Identity, at: Position, out: &mut Effects) {
        if at.hash != self.position().hash {
            self.on_other_configuration(from, at.hash, out);
        }
        self.monitor.on_leaving(from.node);
        self.note_alerts();
    }

    pub(super) fn tick_leaving(&mut self, out: &mut Effects) {
        let repeat = self.now + self.settings.timing.join_refresh / 2;
        if let Some(departing) = &mut self.departing {
            if departing.until.is_some_and(|until| until <= self.now) {
                self.depart(out);
            } else if departing.next_at <= self.now {
                departing.next_at = repeat;
                self.show_departure(out);
            }
        } else if self.leaving_at.is_some_and(|at| at <= self.now) {
            self.leaving_at = Some(repeat);
            let to = self.my_observers();
            if !to.is_empty() {
                let message = Message::Leaving(self.position());
                out.push(Effect::SendMany {
                    to: to.into(),
                    message,
                });
            }
        }
        if self.departing.is_some() {
            self.leaving_at = None;
        }
    }

    /// Sends the view without this node to those who vote after it.
    fn show_departure(&self, out: &mut Effects) {
        let Some(chain) = &self.chain else { return };
        let Some(view) = chain.last_view() else {
            return;
        };
        let all = chain.tip().voter_destinations();
        let to: Vec<Destination> = all.iter().take(DEPARTURE_AUDIENCE).copied().collect();
        let message = Message::Views(Arc::new(vec![view.clone()]));
        out.push(Effect::SendMany {
            to: to.into(),
            message,
        });
    }
}

/// A leaver shows its departure to so many voters.
const DEPARTURE_AUDIENCE: usize = 5;

/// So many peers can be in quarantine.
const QUARANTINED_MAX: usize = 64;

/// What changed, for subscribers.
fn change(
    before: &SharedConfiguration,
    after: &SharedConfiguration,
    view: &Arc<View>,
) -> ViewChange {
    let (restarted, joined) = view
        .cut
        .add
        .iter()
        .cloned()
        .partition(|member| before.index_of(member.node).is_some());
    let fresh = |voter: &&NodeId| !before.is_voter(**voter);
    ViewChange {
        configuration: after.clone(),
        view: Some(view.clone()),
        joined,
        left: view.cut.remove.clone(),
        restarted,
        promoted: after.voters().iter().filter(fresh).copied().collect(),
    }
}
