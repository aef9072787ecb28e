//! Probes, answers, alerts.

use super::Node;
use super::contact::POLL_NONCE;
use crate::effect::{Effect, Effects};
use crate::id::{Destination, Identity};
use crate::message::{Alert, AlertBatch, Health, Message, Probe, ProbeAck, Subject};
use crate::settings::Dissemination;
use crate::time::earliest;
use std::sync::Arc;

/// A boot that sent more batches of alerts than this many bits can count (months of them) would run into the numbers
/// of the next, which does no harm while it lasts.
const ALERTS_PER_BOOT_BITS: u32 = 28;

impl Node {
    /// Answers on receipt, whatever else is going on.
    pub(super) fn on_probe(&mut self, from: &Identity, probe: Probe, out: &mut Effects) {
        if !self.admits(from, out) || self.is_quarantined(from) {
            return;
        }
        let at = self.position();
        let health = if self.disk_stalled {
            Health::DiskStalled
        } else {
            Health::Well
        };
        let ack = ProbeAck {
            nonce: probe.nonce,
            seq: at.seq,
            tag: at.hash.tag(),
            health,
        };
        self.send_to(from, Message::ProbeAck(ack), out);
        self.compare(from, probe.seq, probe.tag, out);
    }

    pub(super) fn on_ack(&mut self, from: &Identity, ack: ProbeAck, out: &mut Effects) {
        self.note_contact(from.node);
        if ack.nonce == POLL_NONCE {
            self.on_rejoin_ack(from.node);
        } else if self
            .monitor
            .on_ack(self.now, from.node, ack.nonce, ack.health)
        {
            self.note_alerts();
        }
        let at = self.position();
        if ack.seq == at.seq && ack.tag == at.hash.tag() {
            self.note_installed(from.node);
        }
        self.compare(from, ack.seq, ack.tag, out);
        self.update_serving(out);
    }

    /// Compares a peer's place in the chain with ours: whoever is behind pulls.
    pub(super) fn compare(&mut self, from: &Identity, seq: u64, tag: u32, out: &mut Effects) {
        if self.chain.is_none() || seq == 0 {
            return;
        }
        self.note_progress(from.node, seq, out);
        let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.seq());
        if seq > ahead {
            self.pull_from(from, out);
        } else if let Some(hash) = self.chain.as_ref().and_then(|chain| chain.hash_at(seq))
            && hash.tag() != tag
        {
            self.on_conflict(from, seq, out);
        }
    }

    pub(super) fn tick_monitor(&mut self, out: &mut Effects) {
        let Some(at) = self.chain.as_ref().map(|chain| chain.position()) else {
            return;
        };
        let (seq, tag) = (at.seq, at.hash.tag());
        self.monitor.tick(self.now, |probe| {
            let message = Message::Probe(Probe {
                nonce: probe.nonce,
                seq,
                tag,
            });
            let to = probe.to;
            out.push(Effect::Send { to, message });
        });
        self.note_alerts();
    }

    /// Sees to it that what should be reported and what is reported agree soon.
    pub(super) fn note_alerts(&mut self) {
        let parked = self
            .parked
            .values()
            .any(|parked| parked.alert.standing.is_none());
        if parked || self.monitor.has_news(self.now) {
            let soon = self.now + self.settings.timing.alert_batch;
            self.alerts_at = earliest(self.alerts_at, Some(soon));
        }
    }

    pub(super) fn tick_alerts(&mut self, out: &mut Effects) {
        if self.alerts_at.is_none_or(|at| at > self.now) {
            return;
        }
        let Some(view) = self.chain.as_ref().map(|chain| chain.tip().clone()) else {
            self.alerts_at = None;
            return;
        };
        let Some(observer) = view.index_of(self.me()).map(|index| index as u32) else {
            self.alerts_at = None;
            self.relay.clear();
            return;
        };
        let refresh = self.settings.timing.alert_refresh;
        let number = self.next_alert_number();
        let mut alerts = Vec::new();
        let mut next = self.monitor.report(self.now, refresh, |edge, report| {
            alerts.push(Alert {
                observer,
                ring: edge.ring,
                subject: Subject::Member(edge.subject),
                refresh: number,
                report,
            });
        });
        for (node, parked) in &mut self.parked {
            let due = parked.due(self.now, refresh);
            alerts.extend(due.map(|report| Alert {
                observer,
                ring: parked.ring,
                subject: Subject::Joiner(*node),
                refresh: number,
                report,
            }));
            next = earliest(next, parked.alert.repeats_at(refresh));
        }
        self.parked.retain(|_, parked| !parked.silent);
        self.alerts_at = next;
        if let Some(detector) = &mut self.detector {
            alerts.iter().for_each(|alert| {
                detector.record(self.now, alert);
            });
        }
        self.spread(alerts, out);
    }

    /// Numbers this node's alerts: rising, over all its boots, so that what it says later counts for more.
    fn next_alert_number(&mut self) -> u64 {
        let boot = self
            .registration
            .map_or(0, |registration| registration.boot.counter);
        self.alert_number = self.alert_number.max(boot << ALERTS_PER_BOOT_BITS) + 1;
        self.alert_number
    }

    fn spread(&mut self, mut alerts: Vec<Alert>, out: &mut Effects) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.tip().clone()) else {
            return;
        };
        match self.settings.dissemination {
            Dissemination::Unicast => {
                let others = view.voters().iter().any(|voter| *voter != self.me());
                if !alerts.is_empty() && others {
                    let batch = Arc::new(AlertBatch {
                        config: view.hash(),
                        alerts,
                    });
                    let to = view.voter_destinations();
                    out.push(Effect::SendMany {
                        to,
                        message: Message::Alerts(batch),
                    });
                }
            }
            Dissemination::Epidemic { fanout, rounds } => {
                let own = alerts.clone();
                for (alert, left) in &mut self.relay {
                    alerts.push(alert.clone());
                    *left = left.saturating_sub(1);
                }
                self.relay.extend(
                    own.into_iter()
                        .map(|alert| (alert, rounds.saturating_sub(1))),
                );
                self.relay.retain(|(_, left)| *left > 0);
                if alerts.is_empty() {
                    return;
                }
                let to: Vec<Destination> =
                    (0..fanout).filter_map(|_| self.random_voter()).collect();
                let message = Message::Alerts(Arc::new(AlertBatch {
                    config: view.hash(),
                    alerts,
                }));
                if !to.is_empty() {
                    out.push(Effect::SendMany {
                        to: to.into(),
                        message,
                    });
                }
                if !self.relay.is_empty() {
                    let soon = self.now + self.settings.timing.alert_batch;
                    self.alerts_at = earliest(self.alerts_at, Some(soon));
                }
            }
        }
    }

    fn random_voter(&mut self) -> Option<Destination> {
        let view = self.chain.as_ref().map(|chain| chain.tip().clone())?;
        let voters = view.voters();
        let voter = voters[self.rng.below(voters.len())];
        let slot = view.slot(voter).filter(|_| voter != self.me())?;
        Some(slot.destination())
    }

    pub(super) fn on_alerts(&mut self, from: &Identity, batch: &AlertBatch, out: &mut Effects) {
        if batch.config != self.position().hash {
            self.on_other_configuration(from, batch.config, out);
            return;
        }
        let Some(detector) = &mut self.detector else {
            return;
        };
        let relays = match self.settings.dissemination {
            Dissemination::Unicast => 0,
            Dissemination::Epidemic { rounds, .. } => rounds,
        };
        for alert in &batch.alerts {
            if detector.record(self.now, alert) && relays > 0 {
                self.relay.push((alert.clone(), relays));
                let soon = self.now + self.settings.timing.alert_batch;
                self.alerts_at = earliest(self.alerts_at, Some(soon));
            }
        }
    }
}
