//! Whether a majority can be heard, and what that means for serving.
//!
//! A node that cannot hear cannot learn that it was removed. So a member counts the voters with which it completed an
//! exchange, a probe of its own that was answered, and stops serving when for some seconds they were no majority.
//! Answering others' probes proves nothing: the answers may be lost.
//!
//! In a small cluster everybody probes everybody, and this costs nothing. In a large one a node probes K of many: while
//! none of these fails, it takes the sample for the whole; when one does, it asks all voters.

use std::time::Duration;

use super::Node;
use crate::bitmap::Bitmap;
use crate::effect::{Effect, Effects, Suspended};
use crate::id::{ConfigHash, NodeId};
use crate::message::{Message, Probe};
use crate::status::Phase;
use crate::time::{Time, earliest};

/// Voters that answered lately, in two overlapping periods.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    config: Option<ConfigHash>,
    current: Bitmap,
    previous: Bitmap,
    period_began: Time,
    /// When a majority was last heard.
    majority_at: Time,
    poll_at: Option<Time>,
    /// True from a start, or a pause, until a majority has been heard in fact.
    unsure: bool,
}

impl Contacts {
    /// Forgets who was heard: this process has not been running.
    pub(super) fn doubt(&mut self, now: Time) {
        self.config = None;
        self.unsure = true;
        self.poll_at = Some(now);
    }

    /// Takes it that a majority is there, as at the start, before there was time to hear it.
    pub(super) fn heard_majority(&mut self, now: Time) {
        self.majority_at = now;
    }
}

/// The nonce of probes outside of the monitoring: answers to it are no detector's business.
pub(super) const POLL_NONCE: u16 = 0;

/// From so many voters on, polls go to some of them at a time, and a start counts on the monitoring alone.
pub(super) const SAMPLE_FROM: usize = 33;

/// The distance between polls of the voters, while something is amiss.
const POLL_INTERVAL: Duration = Duration::from_millis(1_000);

impl Node {
    /// A voter answered.
    pub(super) fn note_contact(&mut self, from: NodeId) {
        self.age_contacts();
        let index = self.view().and_then(|view| view.voter_index(from));
        if let Some(index) = index {
            self.contacts.current.insert(index);
        }
    }

    /// Forgets whom it heard two periods ago, whether or not anybody was heard since.
    fn age_contacts(&mut self) {
        let Some(view) = self.view() else { return };
        let (hash, count) = (view.hash(), view.voters().len());
        let period = self.settings.timing.suspend / 2;
        let contacts = &mut self.contacts;
        if contacts.config != Some(hash) {
            contacts.config = Some(hash);
            (contacts.current, contacts.previous) = (Bitmap::empty(count), Bitmap::empty(count));
            contacts.period_began = self.now;
        } else if self.now >= contacts.period_began + period {
            let stale = self.now >= contacts.period_began + period * 2;
            let finished = std::mem::replace(&mut contacts.current, Bitmap::empty(count));
            contacts.previous = if stale {
                Bitmap::empty(count)
            } else {
                finished
            };
            contacts.period_began = self.now;
        }
    }

    /// True if the voters heard lately, and this node if it is one, are a majority.
    fn hears_majority(&self) -> bool {
        let Some(view) = self.view() else {
            return false;
        };
        let contacts = &self.contacts;
        let heard = if contacts.config == Some(view.hash()) {
            contacts.current.union_count(&contacts.previous)
        } else {
            0
        };
        heard + usize::from(view.is_voter(self.me())) >= view.majority()
    }

    /// Voters not heard lately. A sample is taken for the whole while nothing is amiss.
    pub(super) fn missing_voters(&self) -> Vec<NodeId> {
        let Some(view) = self.view() else {
            return Vec::new();
        };
        if self.is_calm() && self.listed() {
            return Vec::new();
        }
        let me = self.me();
        let known = self.contacts.config == Some(view.hash());
        let heard = |index: usize| {
            let both = [&self.contacts.current, &self.contacts.previous];
            known && both.iter().any(|heard| heard.contains(index))
        };
        let voters = view.voters().iter().enumerate();
        voters
            .filter(|(index, v)| **v != me && !heard(*index))
            .map(|(_, v)| *v)
            .collect()
    }

    /// True if nothing speaks against taking the sample for the whole. Absent voters do: they are nobody's subjects,
    /// and the last member among them would otherwise never notice that it is alone.
    fn is_calm(&self) -> bool {
        let deaf = self.suspended == Some(Suspended::NoMajority);
        let absent = self
            .view()
            .is_some_and(|view| !view.absent_voters().is_empty());
        !deaf && !absent && !self.contacts.unsure && self.monitor.is_calm()
    }

    /// True while the configuration has a slot for this node, whichever boot it lists.
    fn listed(&self) -> bool {
        self.view()
            .is_some_and(|view| view.index_of(self.me()).is_some())
    }

    pub(super) fn contacts_deadline(&self) -> Option<Time> {
        let amiss = self.contacts.poll_at.is_some() && self.suspended.is_none();
        let suspend = self.contacts.majority_at + self.settings.timing.suspend;
        earliest(self.contacts.poll_at, amiss.then_some(suspend))
    }

    pub(super) fn tick_contacts(&mut self, out: &mut Effects) {
        if self.chain.is_none() || !self.listed() {
            self.contacts.poll_at = None;
            return;
        }
        self.age_contacts();
        if self.is_calm() {
            self.contacts.majority_at = self.now;
            self.contacts.poll_at = None;
        } else {
            let at = *self
                .contacts
                .poll_at
                .get_or_insert(self.now + POLL_INTERVAL);
            if at <= self.now {
                self.poll_voters(out);
                self.contacts.poll_at = Some(self.now + POLL_INTERVAL);
            }
        }
        self.update_serving(out);
    }

    fn poll_voters(&mut self, out: &mut Effects) {
        let mut missing = self.missing_voters();
        let Some(view) = self.view().cloned() else {
            return;
        };
        if view.voters().len() >= SAMPLE_FROM {
            // A different quarter each time makes a majority in a few seconds, without a burst of thousands.
            let some = view.voters().len().div_ceil(4);
            for at in 0..missing.len().min(some) {
                let other = at + self.rng.below(missing.len() - at);
                missing.swap(at, other);
            }
            missing.truncate(some);
        }
        let slots = missing.iter().filter_map(|voter| view.slot(*voter));
        let to: Vec<_> = slots.map(|slot| slot.destination()).collect();
        if !to.is_empty() {
            let (seq, tag) = (view.seq(), view.hash().tag());
            let message = Message::Probe(Probe {
                nonce: POLL_NONCE,
                seq,
                tag,
            });
            out.push(Effect::SendMany {
                to: to.into(),
                message,
            });
        }
    }

    /// Suspends or resumes serving, as things stand.
    pub(super) fn update_serving(&mut self, out: &mut Effects) {
        if !self.is_calm() && self.hears_majority() {
            self.contacts.majority_at = self.now;
            self.contacts.unsure = false;
        }
        let deaf = self.now >= self.contacts.majority_at + self.settings.timing.suspend;
        let suspended = match self.phase {
            Phase::Restarting => Some(Suspended::BootNotListed),
            Phase::Member | Phase::Leaving if deaf => Some(Suspended::NoMajority),
            Phase::Member | Phase::Leaving => None,
            Phase::Starting | Phase::Joining | Phase::Removed | Phase::Left | Phase::Halted => {
                return;
            }
        };
        if suspended == self.suspended {
            return;
        }
        self.suspended = suspended;
        out.push(match suspended {
            Some(why) => Effect::Suspend(why),
            None => Effect::Resume,
        });
    }
}
