//! First boot, restart, forming a cluster.
//!
//! The boot counter is raised and durable before the first frame leaves. What then happens is the directory's choice:
//! if it holds a chain, the node takes up its slot in it, with all its duties, as a member whose boot is not listed
//! yet; if it is empty, the node joins, or forms a cluster if nobody is named to join.

use std::sync::Arc;

use super::contact::SAMPLE_FROM;
use super::{Awaited, Node};
use crate::chain::Chain;
use crate::configuration::Configuration;
use crate::durable::{Record, Recovered, Registration};
use crate::effect::{Effect, Effects, Halt};
use crate::event::{BootChoice, Start};
use crate::id::{Boot, ClusterId, NodeId};
use crate::message::Snapshot;
use crate::status::Phase;
use crate::view::ViewChange;

impl Node {
    pub(super) fn start(&mut self, start: Start, out: &mut Effects) {
        if self.registration.is_some() {
            return;
        }
        let Recovered {
            registration,
            acceptor,
            base,
            views,
        } = start.recovered;
        self.seeds = start.join;
        self.durable_writes = acceptor.as_ref().map_or(0, |state| state.writes);
        self.acceptor = acceptor;
        let nonce = self.rng.next_u64();
        self.registration = Some(match registration {
            Some(founder) if start.boot == BootChoice::Registered => founder,
            Some(old) => Registration {
                boot: old.boot.next(nonce),
                ..old
            },
            None => Registration {
                cluster: None,
                node: NodeId(self.rng.next_u128()),
                boot: Boot::first(nonce),
            },
        });
        if let Some(base) = base {
            // The base is written before the registration that names its cluster.
            let cluster = base.configuration.cluster();
            if let Some(registration) = &mut self.registration {
                let named = *registration.cluster.get_or_insert(cluster);
                if named != cluster {
                    self.halt(Halt::ForeignCluster(cluster), out);
                    return;
                }
            }
            let mut chain = Chain::new(base);
            for view in views {
                let seq = view.seq;
                if chain.push(view, &self.catalog).is_err() {
                    self.halt(Halt::BrokenChain(seq), out);
                    return;
                }
            }
            self.ahead = Some(chain.tip().clone());
            self.chain = Some(chain);
        }
        self.persist_registration(Awaited::Boot, out);
    }

    pub(super) fn persist_registration(&mut self, awaited: Awaited, out: &mut Effects) {
        if let Some(registration) = self.registration {
            self.persist(Record::Registration(registration), awaited, out);
        }
    }

    /// The boot is durable: this process may speak.
    pub(super) fn on_booted(&mut self, out: &mut Effects) {
        self.introduced = true;
        out.extend(self.identity().map(Effect::Identity));
        self.contacts.heard_majority(self.now);
        if self
            .view()
            .is_some_and(|view| view.voters().len() < SAMPLE_FROM)
        {
            self.doubt_contacts();
        }
        if let Some(view) = self.view().cloned() {
            self.take_place(out);
            let (joined, left) = (Vec::new(), Vec::new());
            let change = ViewChange {
                configuration: view,
                view: self
                    .chain
                    .as_ref()
                    .and_then(|chain| chain.last_view().cloned()),
                joined,
                left,
                restarted: Vec::new(),
                promoted: Vec::new(),
            };
            if matches!(self.phase, Phase::Restarting | Phase::Member) {
                out.push(Effect::Install(change));
            }
            self.update_serving(out);
        } else if self.seeds.is_empty() {
            self.form_cluster(out);
        } else {
            self.begin_joining(out);
        }
    }

    /// Forms a cluster of one.
    pub(super) fn form_cluster(&mut self, out: &mut Effects) {
        let cluster = ClusterId(self.rng.next_u128());
        let Some(member) = self.as_member() else {
            return;
        };
        if let Some(registration) = &mut self.registration {
            registration.cluster = Some(cluster);
        }
        let (mode, overlay) = (self.settings.mode, self.settings.overlay);
        let configuration = Arc::new(Configuration::genesis(cluster, mode, overlay, member));
        let snapshot = Arc::new(Snapshot {
            configuration,
            view: None,
        });
        self.persist(Record::Base(snapshot.clone()), Awaited::Nothing, out);
        self.persist_registration(Awaited::Base(snapshot), out);
    }
}
