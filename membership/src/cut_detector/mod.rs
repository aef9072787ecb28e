//! Multi-process cut detection: from single observers' alerts to a stable multi-node cut.
//!
//! Reports are counted by (subject, ring). A subject with H of them is stable, one between L and H is in flux, one
//! below L is noise. Once nothing is in flux, all that is stable goes into one proposal, so that nodes which fail
//! together leave together, and different nodes propose the same (Rapid, §4.2).
//!
//! Where this differs from the paper, and why:
//!
//! * *Discounting.* A deaf node accuses everyone whom it observes. So subjects that are to be removed stop counting as
//!   accusers: one at a time, the most credibly accused first, until no more is stable.
//! * *Expiry.* Alerts are repeated while they hold, withdrawn when they cease to, and void when not repeated. Counters
//!   that only rise would evict everyone in the end, at any rate of loss.
//! * *Reinforcement.* A subject that stays in flux for long is decided: one, the most accused, then all is weighed
//!   again. (The paper lets all its observers echo the accusation, which turns a lossy link into an eviction.)
//! * *Joins and restarts wait for nobody.* They do not hold up removals, and a majority of the live observers admits
//!   them when the rest stays silent.
//! * *A quiet moment* without new alerts passes before a proposal, so that alerts in flight are counted everywhere.

mod evaluate;
#[cfg(test)]
mod tests;
mod weigh;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::configuration::SharedConfiguration;
use crate::cut::Cut;
use crate::id::NodeId;
use crate::member::Member;
use crate::message::{Alert, Report, Subject};
use crate::settings::Timing;
use crate::time::{Time, earliest};

/// One observer's standing report.
#[derive(Clone, Debug)]
struct Mark {
    kind: Kind,
    refresh: u64,
    at: Time,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Down,
    Leave,
    Up(Arc<Member>),
    Replace(Arc<Member>),
    Ready,
    /// Kept until it expires, so that a late copy of what was withdrawn does not come back to life.
    Withdrawn,
}

/// What is known against, or for, one subject.
#[derive(Clone, Debug)]
struct Case {
    /// By ring.
    marks: BTreeMap<u8, Mark>,
    /// The first report of those that stand.
    since: Time,
    /// When it came to be in flux, if it is.
    in_flux_since: Option<Time>,
}

/// The alerts of one configuration.
///
/// Invariant: each mark came from the observer of that ring, in this configuration.
pub(crate) struct CutDetector {
    config: SharedConfiguration,
    catalog: Catalog,
    timing: Timing,
    cases: BTreeMap<NodeId, Case>,
    first_news: Option<Time>,
    last_news: Option<Time>,
    sweep_at: Option<Time>,
}

impl CutDetector {
    pub(crate) fn new(
        config: SharedConfiguration,
        catalog: Catalog,
        timing: Timing,
    ) -> CutDetector {
        CutDetector {
            config,
            catalog,
            timing,
            cases: BTreeMap::new(),
            first_news: None,
            last_news: None,
            sweep_at: None,
        }
    }

    /// Takes an alert of this configuration. True if it tells something new, which an epidemic should pass on.
    pub(crate) fn record(&mut self, now: Time, alert: &Alert) -> bool {
        let Some(subject) = self.authentic(alert) else {
            return false;
        };
        let kind = match &alert.report {
            Report::Down => Kind::Down,
            Report::Leave => Kind::Leave,
            Report::Up(member) => Kind::Up(member.clone()),
            Report::Replace(member) => Kind::Replace(member.clone()),
            Report::Ready => Kind::Ready,
            Report::Withdrawn => Kind::Withdrawn,
        };
        let case = self.cases.entry(subject).or_insert_with(|| Case {
            marks: BTreeMap::new(),
            since: now,
            in_flux_since: None,
        });
        let fresh = Mark {
            kind,
            refresh: alert.refresh,
            at: now,
        };
        let changed = match case.marks.get(&alert.ring) {
            Some(mark) if mark.refresh >= fresh.refresh => return false,
            Some(mark) => mark.kind != fresh.kind,
            None => fresh.kind != Kind::Withdrawn,
        };
        if case.marks.values().all(|mark| mark.kind == Kind::Withdrawn) {
            (case.since, case.in_flux_since) = (now, None);
        }
        case.marks.insert(alert.ring, fresh);
        if changed {
            self.first_news.get_or_insert(now);
            self.last_news = Some(now);
        }
        self.sweep_at.get_or_insert(now + self.sweep_interval());
        true
    }

    /// The subject, if the alert is possible: its observer observes the subject on that ring, and the report fits.
    fn authentic(&self, alert: &Alert) -> Option<NodeId> {
        let topology = self.config.topology();
        let ring = usize::from(alert.ring);
        match alert.subject {
            Subject::Member(index) => {
                let member = self.config.members().get(index as usize)?;
                let observer = topology.observers(index).get(ring)?;
                let fits = match &alert.report {
                    Report::Down | Report::Leave | Report::Ready | Report::Withdrawn => true,
                    Report::Replace(new) => {
                        new.node == member.node && new.boot.counter > member.boot.counter
                    }
                    Report::Up(_) => false,
                };
                (*observer == alert.observer && fits).then_some(member.node)
            }
            Subject::Joiner(node) => {
                let stranger = self.config.member(node).is_none();
                let observers = stranger.then(|| topology.joiner_observers(node))?;
                let fits = match &alert.report {
                    Report::Up(member) => {
                        let newer = |old: &Member| member.boot.counter > old.boot.counter;
                        member.node == node && self.config.slot(node).is_none_or(newer)
                    }
                    Report::Withdrawn => true,
                    Report::Down | Report::Leave | Report::Replace(_) | Report::Ready => false,
                };
                (observers.get(ring) == Some(&alert.observer) && fits).then_some(node)
            }
        }
    }

    /// When [`CutDetector::poll`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        earliest(self.proposal_due(), self.sweep_at)
    }

    fn proposal_due(&self) -> Option<Time> {
        let (first, last) = (self.first_news?, self.last_news?);
        Some((first + self.timing.quiet_max).min(last + self.timing.quiet))
    }

    fn sweep_interval(&self) -> std::time::Duration {
        self.timing.quiet_max
    }

    /// Drops what has expired, and gives the cut to propose if one is stable.
    pub(crate) fn poll(&mut self, now: Time) -> Option<Cut> {
        let sweeps = self.sweep_at.is_some_and(|at| at <= now);
        let quiet = self.proposal_due().is_some_and(|at| at <= now);
        if !sweeps && !quiet {
            return None;
        }
        if sweeps {
            self.expire(now);
            let more = !self.cases.is_empty();
            self.sweep_at = more.then(|| now + self.sweep_interval());
        }
        if quiet {
            (self.first_news, self.last_news) = (None, None);
        } else if self.first_news.is_some() {
            // News is still coming in: the quiet moment decides.
            return None;
        }
        self.evaluate(now)
    }

    fn expire(&mut self, now: Time) {
        let expiry = self.timing.alert_expiry;
        for case in self.cases.values_mut() {
            case.marks.retain(|_, mark| now < mark.at + expiry);
        }
        self.cases.retain(|_, case| !case.marks.is_empty());
    }
}
