//! Watching the subjects: probes, answers, and what an observer has to report.
//!
//! A node keeps an [`Edge`] to each of its subjects. An edge survives view changes with its history, so that one which
//! fails goes on failing in the next configuration. What is to be reported about a subject is a function of its edge
//! ([`Edge::standing`]): that it restarted, that it leaves, that it is down, that it is ready to vote, or nothing.
//!
//! The observer doubts itself first. If it was paused, its pending probes are void. If all of several subjects fail at
//! once, it is more likely to be deaf than they are to be dead, and holds its alerts back for another window.
//!
//! Each answer makes the node ask all its edges: which is whose, which is due next, do all of them fail, is there
//! anything to report? The answers stand beside the edges, as one [`Outline`] each. All of them fit in a few cache
//! lines, where the edges would take fifty, and only the edge that something happened to is looked at itself.

pub mod detector;

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use detector::{Chosen, FailureDetector, Outcome};

use crate::configuration::Configuration;
use crate::id::{Boot, Destination, NodeId};
use crate::member::Member;
use crate::message::{Health, Report};
use crate::rng::Rng;
use crate::settings::{Detector, Timing};
use crate::status::Reachability;
use crate::time::{Time, earliest};

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    nonce: u16,
    sent: Time,
    tries: u8,
}

/// What an observer knows of one subject.
pub(crate) struct Edge {
    pub(crate) node: NodeId,
    address: SocketAddr,
    boot: Boot,
    /// The subject's place in the configuration, and the ring on which it is observed.
    pub(crate) subject: u32,
    pub(crate) ring: u8,
    detector: Chosen,
    next_probe: Time,
    pending: Option<Pending>,
    last: Option<Outcome>,
    /// Evidence that needs no window: another node answers there, or nobody listens.
    gone: bool,
    stalled_since: Option<Time>,
    disk_stall_max: Duration,
    leaving: bool,
    ready: bool,
    restarted: Option<(Arc<Member>, Time)>,
    pub(crate) writes: Writes,
    pub(crate) alert: Alerted,
}

/// Durable writes that a subject's acceptor has spoken of. They never fall, unless its directory was rolled back; but
/// messages of one boot may overtake each other, so that only what an earlier boot has said counts against a later one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Writes {
    /// The latest boot that spoke.
    boot: u64,
    latest: u64,
    /// The most that any boot before it has spoken of.
    before: u64,
}

impl Writes {
    fn note(&mut self, boot: u64, writes: u64) {
        match boot.cmp(&self.boot) {
            Ordering::Less => self.before = self.before.max(writes),
            Ordering::Equal => self.latest = self.latest.max(writes),
            Ordering::Greater => {
                self.before = self.before.max(self.latest);
                (self.boot, self.latest) = (boot, writes);
            }
        }
    }

    /// True if a boot has fewer than earlier ones have spoken of.
    pub(crate) fn have_fallen(&self, boot: u64, writes: u64) -> bool {
        let later = boot > self.boot;
        writes < self.before || (later && writes < self.latest)
    }
}

/// What was last reported over an edge.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerted {
    /// The report that stands at the voters.
    pub(crate) standing: Option<Report>,
    /// When it was last sent.
    pub(crate) sent: Time,
}

impl Alerted {
    /// Brings what stands in line with what should; gives the report to send if one is due.
    pub(crate) fn update(
        &mut self,
        now: Time,
        wanted: Option<Report>,
        refresh: Duration,
    ) -> Option<Report> {
        let changed = self.standing != wanted;
        let repeats = wanted.is_some() && now >= self.sent + refresh;
        if !changed && !repeats {
            return None;
        }
        self.sent = now;
        self.standing = wanted.clone();
        Some(wanted.unwrap_or(Report::Withdrawn))
    }

    /// When what stands is to be sent again.
    pub(crate) fn repeats_at(&self, refresh: Duration) -> Option<Time> {
        self.standing.as_ref().map(|_| self.sent + refresh)
    }
}

impl Edge {
    fn outline(&self, timing: &Timing) -> Outline {
        let due = self.pending.map_or(self.next_probe, |pending| {
            let retry = pending.tries < self.detector.tries();
            let wait = if retry {
                timing.probe_retry.min(timing.probe_timeout)
            } else {
                timing.probe_timeout
            };
            pending.sent + wait
        });
        let failed = self.detector.failed();
        let spoken_of = self.leaving || self.ready || self.restarted.is_some();
        Outline {
            node: self.node,
            due,
            failed,
            doubtful: self.gone || self.last == Some(Outcome::Unanswered),
            eventful: failed
                || self.gone
                || self.stalled_since.is_some()
                || spoken_of
                || self.alert.standing.is_some(),
        }
    }

    /// What should stand about this subject now.
    fn standing(&self, now: Time, held: bool) -> Option<Report> {
        if let Some((member, not_before)) = &self.restarted {
            // The new boot answers, so the old one is neither down nor leaving nor ready.
            return (now >= *not_before).then(|| Report::Replace(member.clone()));
        }
        let stalled = self
            .stalled_since
            .is_some_and(|since| now >= since + self.disk_stall_max);
        if self.leaving {
            Some(Report::Leave)
        } else if self.gone || stalled || (self.detector.failed() && !held) {
            Some(Report::Down)
        } else if self.ready {
            Some(Report::Ready)
        } else {
            None
        }
    }

    /// True if what stands at the voters is not what should.
    fn differs(&self, now: Time, held: bool) -> bool {
        self.standing(now, held) != self.alert.standing
    }

    /// The report to send now, if one is due.
    fn due(&mut self, now: Time, held: bool, refresh: Duration) -> Option<Report> {
        let wanted = self.standing(now, held);
        self.alert.update(now, wanted, refresh)
    }

    fn destination(&self) -> Destination {
        Destination {
            node: Some(self.node),
            address: self.address,
        }
    }

    /// Ends the pending probe. The next one keeps its distance from this one's beginning.
    fn finish(&mut self, now: Time, outcome: Outcome, timing: &Timing) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.last = Some(outcome);
        self.detector.record(outcome);
        self.next_probe = (pending.sent + self.detector.interval(timing)).max(now);
    }
}

/// What all edges are asked for at each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outline {
    node: NodeId,
    /// When the probe's next try, its time-out, or the next probe is due.
    due: Time,
    failed: bool,
    /// The latest probe failed, or somebody else answers there.
    doubtful: bool,
    /// There may be something to report: else nothing should stand, and nothing does.
    eventful: bool,
}

/// A probe to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: Destination,
    pub(crate) nonce: u16,
}

/// A node's edges to its subjects.
///
/// Invariant: `outlines[i]` is the outline of `edges[i]`, between any two calls.
pub(crate) struct Monitor {
    edges: Vec<Edge>,
    outlines: Vec<Outline>,
    kind: Detector,
    timing: Timing,
    nonce: u16,
    /// Since when all of two or more edges have been failing.
    all_failing_since: Option<Time>,
}

impl Monitor {
    pub(crate) fn new(kind: Detector, timing: Timing) -> Monitor {
        Monitor {
            edges: Vec::new(),
            outlines: Vec::new(),
            kind,
            timing,
            nonce: 0,
            all_failing_since: None,
        }
    }

    /// Takes up the subjects that this node has in a configuration. What was reported in the one before is void there.
    pub(crate) fn observe(&mut self, now: Time, config: &Configuration, me: NodeId, rng: &mut Rng) {
        let Some(place) = config.index_of(me) else {
            self.edges.clear();
            self.outlines.clear();
            return;
        };
        let mut old = std::mem::take(&mut self.edges);
        let phase = rng.span(self.timing.probe_interval);
        for (subject, ring) in config.topology().subjects(place as u32) {
            let member = &config.members()[*subject as usize];
            let known = old.iter().position(|edge| edge.node == member.node);
            let mut edge = match known.map(|at| old.swap_remove(at)) {
                Some(edge) if edge.boot == member.boot => edge,
                other => {
                    let writes = other.map_or_else(Writes::default, |edge| edge.writes);
                    self.edge(member, now + phase, writes)
                }
            };
            (edge.subject, edge.ring) = (*subject, *ring);
            edge.alert = Alerted::default();
            edge.ready = false;
            edge.leaving = false;
            self.edges.push(edge);
        }
        self.outline_all();
    }

    fn outline_all(&mut self) {
        let outlines = self.edges.iter().map(|edge| edge.outline(&self.timing));
        self.outlines.clear();
        self.outlines.extend(outlines);
    }

    fn edge(&self, member: &Member, next_probe: Time, writes: Writes) -> Edge {
        Edge {
            node: member.node,
            address: member.address,
            boot: member.boot,
            subject: 0,
            ring: 0,
            detector: Chosen::new(self.kind),
            next_probe,
            pending: None,
            last: None,
            gone: false,
            stalled_since: None,
            disk_stall_max: self.timing.disk_stall_max,
            leaving: false,
            ready: false,
            restarted: None,
            writes,
            alert: Alerted::default(),
        }
    }

    /// Forgets all subjects.
    pub(crate) fn clear(&mut self) {
        self.edges.clear();
        self.outlines.clear();
        self.all_failing_since = None;
    }

    /// Brings what stands about each subject in line with what should: calls `report` for what is due, with the edge.
    /// Gives the time at which the first of what stands is to be repeated.
    pub(crate) fn report(
        &mut self,
        now: Time,
        refresh: Duration,
        mut report: impl FnMut(&Edge, Report),
    ) -> Option<Time> {
        let held = self.holds(now);
        let mut next = None;
        for edge in &mut self.edges {
            if let Some(due) = edge.due(now, held, refresh) {
                report(edge, due);
            }
            next = earliest(next, edge.alert.repeats_at(refresh));
        }
        self.outline_all();
        next
    }

    /// True if what stands about some subject is not what should.
    pub(crate) fn has_news(&self, now: Time) -> bool {
        let held = self.holds(now);
        self.eventful().any(|edge| edge.differs(now, held))
    }

    fn eventful(&self) -> impl Iterator<Item = &Edge> {
        let both = self.outlines.iter().zip(&self.edges);
        both.filter(|(outline, _)| outline.eventful)
            .map(|(_, edge)| edge)
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        self.outlines
            .iter()
            .position(|outline| outline.node == node)
    }

    /// The edge to this subject.
    pub(crate) fn edge_to(&self, node: NodeId) -> Option<&Edge> {
        self.place_of(node).map(|place| &self.edges[place])
    }

    /// Changes the edge to this subject, if it is one.
    fn change<T>(&mut self, node: NodeId, change: impl FnOnce(&mut Edge) -> T) -> Option<T> {
        let place = self.place_of(node)?;
        let edge = &mut self.edges[place];
        let changed = change(edge);
        self.outlines[place] = edge.outline(&self.timing);
        Some(changed)
    }

    /// True while a failure of everything is still put down to this node itself.
    pub(crate) fn holds(&self, now: Time) -> bool {
        self.all_failing_since
            .is_some_and(|since| now < since + self.second_window())
    }

    /// The time in which a window fills with failures once more.
    fn second_window(&self) -> Duration {
        self.timing.probe_interval_in_doubt * 3 + self.timing.probe_timeout
    }

    /// When [`Monitor::tick`] is due.
    pub(crate) fn deadline(&self, now: Time) -> Option<Time> {
        let probe = self.outlines.iter().map(|outline| outline.due).min();
        let released = self
            .all_failing_since
            .map(|since| since + self.second_window());
        let not_before = self
            .eventful()
            .filter_map(|edge| edge.restarted.as_ref().map(|(_, not_before)| *not_before));
        let later = not_before.chain(released).filter(|at| *at > now).min();
        earliest(probe, later)
    }

    /// Ends probes that timed out and begins those that are due.
    pub(crate) fn tick(&mut self, now: Time, mut send: impl FnMut(Outgoing)) {
        let timing = self.timing;
        let both = self.outlines.iter_mut().zip(&mut self.edges);
        for (outline, edge) in both.filter(|(outline, _)| outline.due <= now) {
            if let Some(pending) = edge.pending {
                if now >= pending.sent + timing.probe_timeout {
                    edge.finish(now, Outcome::Unanswered, &timing);
                } else if pending.tries < edge.detector.tries() {
                    edge.pending = Some(Pending {
                        tries: pending.tries + 1,
                        ..pending
                    });
                    send(Outgoing {
                        to: edge.destination(),
                        nonce: pending.nonce,
                    });
                }
            }
            if edge.pending.is_none() && now >= edge.next_probe {
                self.nonce = self.nonce.wrapping_add(1).max(1);
                let nonce = self.nonce;
                edge.pending = Some(Pending {
                    nonce,
                    sent: now,
                    tries: 1,
                });
                edge.next_probe = now + edge.detector.interval(&timing);
                send(Outgoing {
                    to: edge.destination(),
                    nonce,
                });
            }
            *outline = edge.outline(&timing);
        }
        self.note_failures(now);
    }

    /// Takes the answer to a probe. True if it was one that we waited for.
    pub(crate) fn on_ack(&mut self, now: Time, from: NodeId, nonce: u16, health: Health) -> bool {
        let timing = self.timing;
        let taken = self.change(from, |edge| {
            if edge.pending.is_none_or(|pending| pending.nonce != nonce) {
                return false;
            }
            edge.finish(now, Outcome::Answered, &timing);
            edge.gone = false;
            match health {
                Health::Well => edge.stalled_since = None,
                Health::DiskStalled => {
                    edge.stalled_since.get_or_insert(now);
                }
            }
            true
        });
        if taken != Some(true) {
            return false;
        }
        self.note_failures(now);
        true
    }

    /// Nobody listens at the subject's address: its probe fails without waiting, and where none is out, the next one
    /// comes soon.
    pub(crate) fn on_refused(&mut self, now: Time, node: NodeId) {
        let timing = self.timing;
        let soon = now + timing.probe_interval_in_doubt;
        self.change(node, |edge| {
            if edge.pending.is_some() {
                edge.finish(now, Outcome::Unanswered, &timing);
                edge.next_probe = edge.next_probe.max(soon);
            } else {
                edge.next_probe = edge.next_probe.min(soon);
            }
        });
        self.note_failures(now);
    }

    /// Somebody else answers at the subject's address.
    pub(crate) fn on_stranger(&mut self, node: NodeId) {
        self.change(node, |edge| edge.gone = true);
    }

    /// The subject answers as a new boot, not to be reported before the given time. True if that is news.
    pub(crate) fn on_restarted(&mut self, member: &Arc<Member>, not_before: Time) -> bool {
        let newer = self.change(member.node, |edge| {
            let newer = edge
                .restarted
                .as_ref()
                .is_none_or(|(known, _)| known.boot < member.boot);
            if newer {
                edge.restarted = Some((member.clone(), not_before));
            }
            newer
        });
        newer == Some(true)
    }

    /// The subject said that it leaves.
    pub(crate) fn on_leaving(&mut self, node: NodeId) {
        self.change(node, |edge| edge.leaving = true);
    }

    /// The subject said that it installed this configuration. `may_vote` tells whether that is worth reporting.
    pub(crate) fn on_installed(&mut self, node: NodeId, may_vote: bool) {
        self.change(node, |edge| edge.ready = may_vote);
    }

    /// A boot of the subject spoke of so many durable writes of its acceptor.
    pub(crate) fn on_writes(&mut self, node: NodeId, boot: u64, writes: u64) {
        self.change(node, |edge| edge.writes.note(boot, writes));
    }

    /// This node was paused, or could not run: what it was waiting for means nothing.
    pub(crate) fn void_pending(&mut self, now: Time) {
        for edge in &mut self.edges {
            edge.pending = None;
            edge.next_probe = now;
        }
        self.outline_all();
        self.all_failing_since = None;
    }

    /// Whether the subject can be reached.
    pub(crate) fn reachable(&self, node: NodeId) -> Reachability {
        match self.edge_to(node) {
            None => Reachability::Unknown,
            Some(edge) if edge.gone => Reachability::Unreachable,
            Some(edge) => match edge.last {
                None => Reachability::Unknown,
                Some(Outcome::Answered) => Reachability::Reachable,
                Some(Outcome::Unanswered) => Reachability::Unreachable,
            },
        }
    }

    /// True if no subject's latest probe failed.
    pub(crate) fn is_calm(&self) -> bool {
        self.outlines.iter().all(|outline| !outline.doubtful)
    }

    fn note_failures(&mut self, now: Time) {
        let all = self.outlines.len() >= 2 && self.outlines.iter().all(|outline| outline.failed);
        if all {
            self.all_failing_since.get_or_insert(now);
        } else {
            self.all_failing_since = None;
        }
    }
}

#[cfg(test)]
mod tests;
