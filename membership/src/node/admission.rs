//! An observer's side of letting others in: joiners, and members that restarted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::configuration::SharedConfiguration;
use crate::effect::{Alarm, Effects};
use crate::id::{Boot, Identity, NodeId};
use crate::member::Member;
use crate::message::{Join, LookupReply, Message, Position, Report, Restarted};
use crate::monitor::Alerted;
use crate::settings::Timing;
use crate::status::Phase;
use crate::time::{Time, earliest};
use crate::view::View;

/// A joiner that waits here for a configuration that lists it.
#[derive(Debug)]
pub(super) struct Parked {
    member: Arc<Member>,
    /// The ring on which this node would observe it.
    pub(super) ring: u8,
    pub(super) heard: Time,
    /// True once it has not been heard for too long.
    pub(super) silent: bool,
    pub(super) alert: Alerted,
}

impl Parked {
    /// The report to send now, if one is due.
    pub(super) fn due(&mut self, now: Time, refresh: Duration) -> Option<Report> {
        let wanted = (!self.silent).then(|| Report::Up(self.member.clone()));
        self.alert.update(now, wanted, refresh)
    }
}

/// When members restarted lately, to slow down those that crash in a loop.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    lately: BTreeMap<NodeId, (Time, u32)>,
}

/// The longest that a crash-looping member is kept waiting.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);

impl Restarts {
    /// Takes note of the restarts in a view.
    pub(super) fn note(&mut self, now: Time, view: &View, timing: &Timing) {
        let window = timing.restart_window;
        self.lately.retain(|_, (at, _)| now < *at + window);
        // A whole cluster that restarts is not a crash loop, and need not be remembered.
        for member in view
            .cut
            .add
            .iter()
            .filter(|member| member.boot.counter > 1)
            .take(64)
        {
            let (at, count) = self.lately.entry(member.node).or_insert((now, 0));
            (*at, *count) = (now, *count + 1);
        }
    }

    /// When a further restart of this member may be reported: the first at once, repeats after a growing wait.
    fn not_before(&self, now: Time, node: NodeId) -> Time {
        self.lately.get(&node).map_or(now, |(at, count)| {
            let wait = Duration::from_secs(1 << (*count - 1).min(5));
            *at + wait.min(RESTART_WAIT_MAX)
        })
    }
}

/// What a directory's new boot is, compared with the one that is listed.
enum Continuity {
    /// The listed one.
    Listed,
    /// A later one.
    Restart,
    /// One that cannot follow the listed one: the directory was copied or rolled back.
    Broken,
}

fn continuity(listed: Boot, found: Boot) -> Continuity {
    if listed == found {
        return Continuity::Listed;
    }
    let next = found.counter == listed.counter.saturating_add(1);
    let chained = !next || found.previous == listed.nonce;
    if found.counter > listed.counter && chained {
        Continuity::Restart
    } else {
        Continuity::Broken
    }
}

impl Node {
    /// Phase 1 of a join: names the members that would observe the joiner.
    pub(super) fn on_lookup(&mut self, from: &Identity, out: &mut Effects) {
        if matches!(
            self.phase,
            Phase::Member | Phase::Leaving | Phase::Restarting
        ) {
            self.direct(from, out);
        }
    }

    /// Tells a joiner where it should turn to.
    fn direct(&self, joiner: &Identity, out: &mut Effects) {
        if let Some(view) = self.view() {
            let reply = self.direction(view, joiner);
            self.send_to(joiner, Message::LookupReply(Arc::new(reply)), out);
        }
    }

    fn direction(&self, view: &SharedConfiguration, joiner: &Identity) -> LookupReply {
        let at = self.position();
        let topology = view.topology();
        let observers = match view.index_of(joiner.node) {
            None => topology.joiner_observers(joiner.node),
            Some(index) => {
                let listed = view.members()[index].boot;
                match continuity(listed, joiner.boot) {
                    Continuity::Listed => return LookupReply::Listed(at),
                    Continuity::Broken => return LookupReply::Refused(listed),
                    // It was admitted and restarted before it had installed anything.
                    Continuity::Restart => topology.observers(index as u32).to_vec(),
                }
            }
        };
        let members = view.members();
        let observers = observers
            .iter()
            .map(|o| members[*o as usize].destination())
            .collect();
        LookupReply::Observers { at, observers }
    }

    /// Phase 2 of a join.
    pub(super) fn on_join(&mut self, from: &Identity, join: &Join, out: &mut Effects) {
        let member = &join.member;
        let genuine = member.node == from.node && member.boot == from.boot;
        let Some(view) = self.view().cloned() else {
            return;
        };
        if !genuine || view.index_of(self.me()).is_none() {
            return;
        }
        if let Some(listed) = view.member(from.node) {
            match continuity(listed.boot, from.boot) {
                Continuity::Listed => {
                    self.send_to(from, Message::Admitted(self.position()), out);
                }
                Continuity::Restart => self.report_restart(member, out),
                Continuity::Broken => self.refuse(from, listed.boot, out),
            }
            return;
        }
        let observers = view.topology().joiner_observers(from.node);
        let mine = observers
            .iter()
            .position(|observer| view.members()[*observer as usize].node == self.me());
        let known = self
            .chain
            .as_ref()
            .and_then(|chain| chain.seq_of(join.config))
            .is_some();
        if join.config != view.hash() {
            if known {
                self.direct(from, out);
            }
            // Otherwise this node is behind, and will find out from its peers.
            return;
        }
        let Some(ring) = mine else { return };
        let now = self.now;
        let parked = self.parked.entry(from.node).or_insert_with(|| Parked {
            member: member.clone(),
            ring: ring as u8,
            heard: now,
            silent: false,
            alert: Alerted::default(),
        });
        (parked.heard, parked.silent) = (now, false);
        if parked.member != *member {
            // A newer boot of the same directory: what was said about the older one no longer stands.
            parked.member = member.clone();
            parked.alert.standing = None;
        }
        if parked.alert.standing.is_none() {
            let soon = now + self.settings.timing.alert_batch;
            self.alerts_at = earliest(self.alerts_at, Some(soon));
        }
    }

    pub(super) fn tick_parked(&mut self) {
        let expiry = self.settings.timing.join_expiry;
        let now = self.now;
        for parked in self
            .parked
            .values_mut()
            .filter(|parked| now >= parked.heard + expiry)
        {
            // Its alert is withdrawn, and then it is forgotten.
            parked.silent = true;
            self.alerts_at = Some(now);
        }
    }

    /// Tells the joiners that waited here what a new configuration means to them.
    pub(super) fn retarget_joiners(&mut self, view: &SharedConfiguration, out: &mut Effects) {
        let at = Position {
            seq: view.seq(),
            hash: view.hash(),
        };
        let cluster = Some(view.cluster());
        for (node, parked) in std::mem::take(&mut self.parked) {
            let Member { boot, address, .. } = *parked.member;
            let joiner = Identity {
                cluster,
                node,
                boot,
                address,
            };
            let listed = view.member(node).is_some_and(|member| member.boot == boot);
            if listed {
                self.send_to(&joiner, Message::Admitted(at), out);
            } else {
                self.direct(&joiner, out);
            }
        }
    }

    /// A member has restarted and says so.
    pub(super) fn on_restarted(&mut self, from: &Identity, said: &Restarted, out: &mut Effects) {
        let Some(view) = self.view() else { return };
        let genuine = said.member.node == from.node && said.member.boot == from.boot;
        if said.at.seq > view.seq() {
            self.pull_from(from, out);
        } else if said.at.seq < view.seq() {
            self.on_pull(from, said.at, out);
        }
        let Some(view) = self.view() else { return };
        let Some(listed) = view.member(from.node).map(|member| member.boot) else {
            return;
        };
        let rolled_back = self
            .monitor
            .edge_to(from.node)
            .is_some_and(|edge| edge.writes.have_fallen(from.boot.counter, said.writes));
        match continuity(listed, from.boot) {
            Continuity::Listed => {
                self.send_to(from, Message::Admitted(self.position()), out);
            }
            Continuity::Restart if rolled_back => self.refuse(from, from.boot.next(0), out),
            Continuity::Restart if genuine => self.report_restart(&said.member, out),
            Continuity::Restart => {}
            Continuity::Broken => self.refuse(from, listed, out),
        }
    }

    fn report_restart(&mut self, member: &Arc<Member>, _: &mut Effects) {
        let not_before = self.restarts.not_before(self.now, member.node);
        if self.monitor.on_restarted(member, not_before) {
            self.note_alerts();
        }
    }

    /// Refuses a directory that was copied or rolled back, and tells it so.
    fn refuse(&mut self, from: &Identity, boot: Boot, out: &mut Effects) {
        self.send_to(from, Message::Superseded(boot), out);
        self.alarm_once(from.node, Alarm::Impostor(from.node), out);
    }
}
