//! Whether a majority can be heard, and what that means for serving.
//!
//! A node that cannot hear cannot learn that it was removed. So a member notes when each voter last completed an
//! exchange with it, a probe of its own that was answered, and stops serving when those that did so within some seconds
//! are no majority. Answering others' probes proves nothing: the answers may be lost.
//!
//! In a small cluster everybody probes everybody, and this costs nothing. In a large one a node probes K of many: while
//! none of these fails, it takes the sample for the whole; when one does, it asks all voters.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::effect::{Effect, Effects, Suspended};
use crate::id::NodeId;
use crate::message::{Message, Probe};
use crate::status::Phase;
use crate::time::{Time, earliest};

/// Who answered when.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    /// When each member, and each absent voter, last answered a probe of this node's.
    heard: BTreeMap<NodeId, Time>,
    /// When a majority was last known to be there. In a large cluster, while nothing is amiss, a majority of those that
    /// this node probes shows it.
    majority_at: Time,
    poll_at: Option<Time>,
    /// The voter that was asked last, where they are asked in turn.
    polled: Option<NodeId>,
    /// True from a start, or a pause, until a majority has been heard in fact.
    unsure: bool,
}

impl Contacts {
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
    /// This process has not been running: a sample shows nothing more until a majority has been heard.
    pub(super) fn doubt_contacts(&mut self) {
        self.note_sample();
        self.contacts.unsure = true;
        self.contacts.poll_at = Some(self.now);
    }

    /// Keeps what the sample shows, before it is not taken for the whole any more.
    fn note_sample(&mut self) {
        let heard = self.sample_heard_at().unwrap_or_default();
        self.contacts.majority_at = self.contacts.majority_at.max(heard);
    }

    /// A probe of this node's was answered.
    pub(super) fn note_contact(&mut self, from: NodeId) {
        let Some(view) = self.view() else { return };
        if view.slot(from).is_some() {
            self.contacts.heard.insert(from, self.now);
        }
    }

    /// Forgets what those said who have no place in a new configuration.
    pub(super) fn forget_strangers(&mut self) {
        let Some(view) = self.view().cloned() else {
            return;
        };
        let has_place = |node: &NodeId| view.slot(*node).is_some();
        self.contacts.heard.retain(|node, _| has_place(node));
    }

    /// The time since which a majority of the voters has answered, this node among them if it is one; `None` if none
    /// ever did.
    fn majority_heard_at(&self) -> Option<Time> {
        let view = self.view()?;
        let own = view.is_voter(self.me()).then_some(self.now);
        let others = view.voters().iter().filter(|voter| **voter != self.me());
        let heard = others.filter_map(|voter| self.contacts.heard.get(voter).copied());
        majority_since(heard.chain(own).collect(), view.majority())
    }

    /// The same for this node and those that it probes, in a cluster in which these are not all.
    fn sample_heard_at(&self) -> Option<Time> {
        let view = self.view()?;
        let index = view.index_of(self.me())?;
        let subjects = view.topology().subjects(index as u32);
        let group = subjects.len() + 1;
        if group >= view.members().len() {
            return None;
        }
        let majority = group / 2 + 1;
        let nodes = subjects
            .iter()
            .map(|(index, _)| view.members()[*index as usize].node);
        let heard = nodes.filter_map(|node| self.contacts.heard.get(&node).copied());
        majority_since(heard.chain([self.now]).collect(), majority)
    }

    /// Voters not heard lately. A sample is taken for the whole while nothing is amiss.
    pub(super) fn missing_voters(&self) -> Vec<NodeId> {
        if self.is_calm() && self.listed() {
            return Vec::new();
        }
        self.silent_voters(self.settings.timing.suspend)
    }

    /// Voters that have not answered for so long.
    fn silent_voters(&self, span: Duration) -> Vec<NodeId> {
        let Some(view) = self.view() else {
            return Vec::new();
        };
        let me = self.me();
        let lately = |voter: &NodeId| {
            let at = self.contacts.heard.get(voter);
            at.is_some_and(|at| self.now < *at + span)
        };
        let voters = view.voters().iter();
        let silent = voters.filter(|voter| **voter != me && !lately(voter));
        silent.copied().collect()
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
        if self.is_calm() {
            self.contacts.poll_at = None;
        } else {
            if self.contacts.poll_at.is_none() {
                self.note_sample();
            }
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
        // In time: who is asked only when its answer is too old leaves a gap.
        let mut missing = self.silent_voters(self.settings.timing.suspend / 2);
        let Some(view) = self.view().cloned() else {
            return;
        };
        if view.voters().len() >= SAMPLE_FROM {
            // The next quarter each time, beginning behind this node, makes a majority in a few seconds, whoever of
            // them is silent, and without a burst of thousands.
            let some = view.voters().len().div_ceil(4);
            let last = self.contacts.polled.unwrap_or(self.me());
            let after = missing.partition_point(|voter| *voter <= last);
            missing.rotate_left(after);
            missing.truncate(some);
            self.contacts.polled = missing.last().copied().or(self.contacts.polled);
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

    /// True if the last view that is proven does not list this node. It need not be durable, as nothing is said of it.
    fn is_left_out(&self) -> bool {
        let me = self.me();
        let ahead = self.ahead.as_ref();
        ahead.is_some_and(|ahead| ahead.index_of(me).is_none())
    }

    /// Suspends or resumes serving, as things stand.
    pub(super) fn update_serving(&mut self, out: &mut Effects) {
        let suspend = self.settings.timing.suspend;
        let due = self.now >= self.contacts.majority_at + suspend;
        if due && self.is_calm() {
            self.note_sample();
        }
        if (due || self.contacts.unsure)
            && let Some(at) = self.majority_heard_at()
            && self.now < at + suspend
        {
            self.contacts.majority_at = self.contacts.majority_at.max(at);
            self.contacts.unsure = false;
        }
        let deaf = self.now >= self.contacts.majority_at + suspend;
        let suspended = match self.phase {
            Phase::Restarting => Some(Suspended::BootNotListed),
            Phase::Member | Phase::Leaving if self.is_left_out() => Some(Suspended::LeftOut),
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

/// The time since which so many have answered, if so many have.
fn majority_since(mut heard: Vec<Time>, majority: usize) -> Option<Time> {
    let last = heard.len().checked_sub(majority)?;
    Some(*heard.select_nth_unstable(last).1)
}
