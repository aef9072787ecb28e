//! A node's copy of the chain: the configuration in force and the certified views that lead to it.
//!
//! Laggards are led on from here, in order. The copy reaches back as far as some current member may still need, within
//! a cap; a node that lags behind the cap starts afresh.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::codec::Encode;
use crate::configuration::SharedConfiguration;
use crate::id::{ConfigHash, NodeId};
use crate::message::{Position, Snapshot};
use crate::view::{Unproven, View};

/// One answer to a laggard carries at most so many bytes of views, and at least one view.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The configuration in force, and how it came about.
///
/// Invariant: `base` and `views` are consecutive, each view verified against the one before, and lead to `tip`.
pub(crate) struct Chain {
    base: Arc<Snapshot>,
    views: VecDeque<Arc<View>>,
    tip: SharedConfiguration,
}

/// What to send to a node that asks where the chain goes from its position.
pub(crate) enum Lead {
    /// These views follow.
    Views(Vec<Arc<View>>),
    /// Nothing follows.
    UpToDate,
    /// The position is before the start of this copy.
    TooOld(u64),
    /// The position is on another chain.
    Conflict,
}

impl Chain {
    /// A chain that starts with this snapshot.
    pub(crate) fn new(base: Arc<Snapshot>) -> Chain {
        Chain {
            tip: base.configuration.clone(),
            views: VecDeque::new(),
            base,
        }
    }

    /// The latest configuration.
    pub(crate) fn tip(&self) -> &SharedConfiguration {
        &self.tip
    }

    /// The view that led to the latest configuration, if this copy has it.
    pub(crate) fn last_view(&self) -> Option<&Arc<View>> {
        self.views.back().or(self.base.view.as_ref())
    }

    /// Where the chain stands.
    pub(crate) fn position(&self) -> Position {
        Position {
            seq: self.tip.seq(),
            hash: self.tip.hash(),
        }
    }

    /// Checks the next view and appends it.
    pub(crate) fn push(&mut self, view: Arc<View>, catalog: &Catalog) -> Result<(), Unproven> {
        self.tip = view.verify(&self.tip, catalog)?;
        self.views.push_back(view);
        Ok(())
    }

    /// The hash of the configuration with this number, if this copy reaches it.
    pub(crate) fn hash_at(&self, seq: u64) -> Option<ConfigHash> {
        let floor = self.base.configuration.seq();
        if seq == floor {
            return Some(self.base.configuration.hash());
        }
        let at = usize::try_from(seq.checked_sub(floor + 1)?).ok()?;
        self.views.get(at).map(|view| view.hash)
    }

    /// The number of the configuration with this hash, if this copy has it.
    pub(crate) fn seq_of(&self, hash: ConfigHash) -> Option<u64> {
        if self.base.configuration.hash() == hash {
            return Some(self.base.configuration.seq());
        }
        self.views
            .iter()
            .rev()
            .find(|view| view.hash == hash)
            .map(|view| view.seq)
    }

    /// Where the chain goes from a position.
    pub(crate) fn lead(&self, from: Position) -> Lead {
        let floor = self.base.configuration.seq();
        if from.seq < floor {
            return Lead::TooOld(floor);
        }
        match self.hash_at(from.seq) {
            None => Lead::UpToDate,
            Some(hash) if hash != from.hash => Lead::Conflict,
            Some(_) => {
                let skip = (from.seq - floor) as usize;
                let mut bytes = 0;
                let following = self.views.iter().skip(skip).take_while(|view| {
                    let fits = bytes == 0 || bytes < ANSWER_BYTES_MAX;
                    bytes += view.encoded_len();
                    fits
                });
                let views: Vec<Arc<View>> = following.cloned().collect();
                if views.is_empty() {
                    Lead::UpToDate
                } else {
                    Lead::Views(views)
                }
            }
        }
    }

    /// Succeeds if a view that is not in this copy is nevertheless proven for its place.
    pub(crate) fn prove_rival(&self, view: &View, catalog: &Catalog) -> Result<(), Unproven> {
        match self.configuration_at(view.seq.saturating_sub(1), catalog) {
            Some(before) => view.verify(&before, catalog).map(|_| ()),
            None => Err(Unproven::OtherConfiguration(view.certificate.config)),
        }
    }

    /// The configuration with this number, replayed.
    fn configuration_at(&self, seq: u64, catalog: &Catalog) -> Option<SharedConfiguration> {
        let mut configuration = self.base.configuration.clone();
        let steps = seq.checked_sub(configuration.seq())?;
        for view in self.views.iter().take(usize::try_from(steps).ok()?) {
            configuration = catalog.successor(&configuration, &view.cut).ok()?;
        }
        (configuration.seq() == seq).then_some(configuration)
    }

    /// The latest configuration, whole.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        if self.views.is_empty() {
            return self.base.clone();
        }
        let view = self.views.back().cloned();
        Arc::new(Snapshot {
            configuration: self.tip.clone(),
            view,
        })
    }

    /// Drops views that nobody needs, once there are more than half of `views_max`, and the oldest half in any case
    /// once there are more than `views_max`. Gives the new start, to be written.
    pub(crate) fn truncate(
        &mut self,
        views_max: usize,
        catalog: &Catalog,
    ) -> Option<Arc<Snapshot>> {
        let half = views_max / 2;
        // Looking takes a replay: once for every few views is enough.
        if self.views.len() <= half || !self.views.len().is_multiple_of(half.clamp(1, 16)) {
            return None;
        }
        let floor = self.base.configuration.seq();
        let needed = self.acknowledged(catalog).unwrap_or(floor);
        let forced = if self.views.len() > views_max {
            floor + self.views.len() as u64 / 2
        } else {
            floor
        };
        let drop = needed.max(forced).min(self.tip.seq()) - floor;
        if drop == 0 {
            return None;
        }
        let mut configuration = self.base.configuration.clone();
        for view in self.views.iter().take(drop as usize) {
            configuration = catalog.successor(&configuration, &view.cut).ok()?;
        }
        let view = self.views.drain(..drop as usize).next_back();
        self.base = Arc::new(Snapshot {
            configuration,
            view,
        });
        Some(self.base.clone())
    }

    /// The lowest configuration that all current members are known to have installed: those that voted on a successor
    /// had installed what it succeeds. `None` if some member never did.
    fn acknowledged(&self, catalog: &Catalog) -> Option<u64> {
        let mut installed: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut configuration = self.base.configuration.clone();
        for view in &self.views {
            for index in view.certificate.voters.iter() {
                installed.insert(*configuration.voters().get(index)?, configuration.seq());
            }
            configuration = catalog.successor(&configuration, &view.cut).ok()?;
        }
        let members = self.tip.members().iter();
        let all: Option<Vec<u64>> = members
            .map(|member| installed.get(&member.node).copied())
            .collect();
        all?.into_iter().min()
    }
}
