//! A joiner's side of getting in, and a removed node's way back.
//!
//! A joiner asks its seeds in turn for the members that would observe it (phase 1), and asks those to let it in (phase
//! 2), again and again; as the membership changes, it is told of new ones. Once a configuration lists its boot, it
//! pulls that configuration, and its sequence of views begins.
//!
//! A node that is given nobody to join is a cluster of one. How several empty nodes come to begin one together is not
//! decided here: see [`crate::durable::found`].
//!
//! A node that was removed while alive has bad links, or had. It shows clean ones for a minute before it asks to come
//! back, and for longer each time; otherwise a link that flaps every twenty seconds would be a view change every forty.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::contact::POLL_NONCE;
use super::{Awaited, Node};
use crate::effect::{Effect, Effects};
use crate::id::{Destination, Identity, NodeId};
use crate::message::{Join, Lookup, LookupReply, Message, Position, Probe, Pull, Restarted};
use crate::status::Phase;
use crate::time::Time;

/// A join under way.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) next_at: Time,
    next_seed: usize,
    wait: Duration,
    /// Who observes this joiner, and since which configuration.
    at: Option<Position>,
    observers: Vec<Destination>,
    /// Join requests sent to these observers.
    asked: u32,
}

/// A removed node's wait for clean links.
#[derive(Debug)]
pub(super) struct Rejoining {
    pub(super) next_at: Time,
    clean_since: Time,
    targets: Vec<Destination>,
    answered: BTreeSet<NodeId>,
}

/// Between phase-1 requests: at first and at most.
const LOOKUP_WAIT: Duration = Duration::from_millis(250);
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(4);

/// After so many requests to the same observers, a seed is asked for others.
const ASKED_MAX: u32 = 4;

/// Between rounds of probes of a removed node.
const REJOIN_ROUND: Duration = Duration::from_millis(1_000);

impl Node {
    pub(super) fn set_seeds(&mut self, seeds: Vec<SocketAddr>) {
        self.seeds = seeds;
    }

    pub(super) fn begin_joining(&mut self, out: &mut Effects) {
        self.phase = Phase::Joining;
        self.rejoining = None;
        self.joining = Some(Joining {
            next_at: self.now,
            next_seed: 0,
            wait: LOOKUP_WAIT,
            at: None,
            observers: Vec::new(),
            asked: 0,
        });
        self.tick_joining(out);
    }

    pub(super) fn tick_joining(&mut self, out: &mut Effects) {
        let Some(mut joining) = self.joining.take() else {
            return;
        };
        if joining.next_at <= self.now {
            if joining.observers.is_empty() || joining.asked >= ASKED_MAX {
                self.look_up(&mut joining, out);
            }
            self.ask_observers(&mut joining, out);
        }
        // Being told off ends the join.
        if self.phase == Phase::Joining {
            self.joining = Some(joining);
        }
    }

    /// Phase 1.
    fn look_up(&mut self, joining: &mut Joining, out: &mut Effects) {
        let mut others = self.join_addresses();
        others.retain(|address| *address != self.settings.address);
        if !others.is_empty() {
            let to = Destination {
                node: None,
                address: others[joining.next_seed % others.len()],
            };
            joining.next_seed = joining.next_seed.wrapping_add(1);
            let message = Message::Lookup(Lookup);
            out.push(Effect::Send { to, message });
        }
        joining.next_at = self.now + joining.wait + self.rng.span(joining.wait / 4);
        joining.wait = (joining.wait * 2).min(LOOKUP_WAIT_MAX);
        joining.asked = 0;
    }

    /// Phase 2.
    fn ask_observers(&mut self, joining: &mut Joining, out: &mut Effects) {
        let (Some(at), Some(member)) = (joining.at, self.as_member()) else {
            return;
        };
        if joining.observers.is_empty() {
            return;
        }
        joining.asked += 1;
        joining.next_at = self.now + self.settings.timing.join_refresh;
        let message = Message::Join(Arc::new(Join {
            config: at.hash,
            member: Arc::new(member),
        }));
        let to = joining.observers.clone().into();
        out.push(Effect::SendMany { to, message });
    }

    /// The addresses to join by: the members that this directory knows, and those it was told of.
    fn join_addresses(&self) -> Vec<SocketAddr> {
        let members = self.view().map_or(&[][..], |view| view.members());
        let known = members.iter().map(|member| member.address).take(KNOWN_MAX);
        let mut addresses: Vec<SocketAddr> = self.seeds.clone();
        addresses.extend(known.filter(|address| !self.seeds.contains(address)));
        addresses
    }

    pub(super) fn on_lookup_reply(
        &mut self,
        from: &Identity,
        reply: &LookupReply,
        out: &mut Effects,
    ) {
        if self.phase != Phase::Joining {
            return;
        }
        let Some(joining) = &mut self.joining else {
            return;
        };
        match reply {
            LookupReply::Observers { at, observers } => {
                let newer = joining.at.is_none_or(|known| at.seq >= known.seq);
                if newer && !observers.is_empty() {
                    let same = joining.at == Some(*at);
                    joining.at = Some(*at);
                    joining.observers = observers.clone();
                    joining.wait = LOOKUP_WAIT;
                    if !same {
                        joining.asked = 0;
                        joining.next_at = self.now;
                        self.tick_joining(out);
                    }
                }
            }
            LookupReply::Listed(at) => self.on_admitted(from, *at, out),
            LookupReply::Refused(boot) => self.on_superseded(*boot, out),
        }
    }

    /// A member says that a configuration lists this boot.
    pub(super) fn on_admitted(&mut self, from: &Identity, at: Position, out: &mut Effects) {
        match self.phase {
            Phase::Joining if self.chain.is_none() => {
                let waiting = self
                    .pulled
                    .is_some_and(|asked| self.now < asked + self.settings.timing.pull_timeout);
                if !waiting && self.ahead.is_none() {
                    self.pulled = Some(self.now);
                    let nowhere = Position {
                        seq: 0,
                        hash: at.hash,
                    };
                    self.send_to(from, Message::Pull(Pull { from: nowhere }), out);
                }
            }
            Phase::Joining | Phase::Restarting | Phase::Removed => {
                if self
                    .ahead
                    .as_ref()
                    .is_some_and(|ahead| ahead.seq() < at.seq)
                {
                    self.pull_from(from, out);
                }
            }
            Phase::Starting | Phase::Member | Phase::Leaving | Phase::Left | Phase::Halted => {}
        }
    }

    /// Tells the observers, until the configuration lists this boot, that it runs.
    pub(super) fn tick_restart(&mut self, out: &mut Effects) {
        if self.restart_at.is_none_or(|at| at > self.now) {
            return;
        }
        if self.phase != Phase::Restarting {
            self.restart_at = None;
            return;
        }
        self.restart_at = Some(self.now + self.settings.timing.join_refresh);
        let Some(member) = self.as_member() else {
            return;
        };
        let writes = self.durable_writes;
        let restarted = Restarted {
            at: self.position(),
            member: Arc::new(member),
            writes,
        };
        let to = self.my_observers();
        if !to.is_empty() {
            let message = Message::Restarted(Arc::new(restarted));
            out.push(Effect::SendMany {
                to: to.into(),
                message,
            });
        } else if self.view().is_some_and(|view| view.members().len() == 1) {
            self.restart_alone(out);
        }
    }

    pub(super) fn begin_rejoining(&mut self) {
        let calm = self.now.since(self.member_since) >= self.settings.timing.rejoin_max;
        if calm {
            self.rejoin_wait = self.settings.timing.rejoin;
        }
        self.rejoining = Some(Rejoining {
            next_at: self.now,
            clean_since: self.now,
            targets: Vec::new(),
            answered: BTreeSet::new(),
        });
    }

    /// How long the links must stay clean until this node asks to come back.
    pub(super) fn rejoin_in(&self) -> Option<Duration> {
        let rejoining = self.rejoining.as_ref()?;
        Some((rejoining.clean_since + self.rejoin_wait).since(self.now))
    }

    pub(super) fn on_rejoin_ack(&mut self, from: NodeId) {
        if let Some(rejoining) = &mut self.rejoining {
            rejoining.answered.insert(from);
        }
    }

    /// Probes those that would observe this node, and comes back as a new boot when a majority of them has answered
    /// each round for long enough.
    pub(super) fn tick_rejoining(&mut self, out: &mut Effects) {
        let Some(mut rejoining) = self.rejoining.take() else {
            return;
        };
        if rejoining.next_at > self.now {
            self.rejoining = Some(rejoining);
            return;
        }
        let (answered, asked) = (rejoining.answered.len(), rejoining.targets.len());
        if asked == 0 || answered * 2 <= asked {
            rejoining.clean_since = self.now;
        }
        if self.now >= rejoining.clean_since + self.rejoin_wait {
            self.rejoin_wait = (self.rejoin_wait * 2).min(self.settings.timing.rejoin_max);
            self.reboot(out);
            return;
        }
        if let Some(view) = self.view() {
            let (seq, tag) = (view.seq(), view.hash().tag());
            let observers = view.topology().joiner_observers(self.me());
            let members = view.members();
            rejoining.targets = observers
                .iter()
                .map(|o| members[*o as usize].destination())
                .collect();
            rejoining.answered.clear();
            let to = rejoining.targets.clone().into();
            let message = Message::Probe(Probe {
                nonce: POLL_NONCE,
                seq,
                tag,
            });
            out.push(Effect::SendMany { to, message });
        }
        rejoining.next_at = self.now + REJOIN_ROUND;
        self.rejoining = Some(rejoining);
    }

    /// Starts a new boot in this process: durable first, then introduced.
    pub(super) fn reboot(&mut self, out: &mut Effects) {
        self.phase = Phase::Starting;
        (self.rejoining, self.joining, self.suspended) = (None, None, None);
        let nonce = self.rng.next_u64();
        if let Some(registration) = &mut self.registration {
            registration.boot = registration.boot.next(nonce);
        }
        self.introduced = false;
        self.persist_registration(Awaited::Boot, out);
    }
}

/// A restarted directory asks so many of the members that it knows, besides the seeds.
const KNOWN_MAX: usize = 32;
