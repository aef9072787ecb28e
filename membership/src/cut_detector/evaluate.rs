//! From weighed alerts to a cut: who goes, who comes in.

use std::sync::Arc;

use super::weigh::Verdicts;
use super::{Case, CutDetector, Kind};
use crate::cut::{Cut, Departure, Removal};
use crate::hash::order_of;
use crate::id::NodeId;
use crate::member::Member;
use crate::time::Time;
use crate::voters;

impl CutDetector {
    /// The cut that is stable now, if there is one and nothing is in flux.
    pub(super) fn evaluate(&mut self, now: Time) -> Option<Cut> {
        let verdicts = self.weigh(now);
        for (node, case) in &mut self.cases {
            if verdicts.in_flux.contains(node) {
                case.in_flux_since.get_or_insert(now);
            } else {
                case.in_flux_since = None;
            }
        }
        if !verdicts.in_flux.is_empty() {
            return None;
        }
        let mut cut = Cut::default();
        for node in &verdicts.stable {
            let case = &self.cases[node];
            let left = case.marks.values().any(|mark| mark.kind == Kind::Leave);
            let departure = if left {
                Departure::Left
            } else {
                Departure::Failed
            };
            cut.remove.push(Removal {
                node: *node,
                departure,
            });
        }
        for (node, case) in &self.cases {
            if !verdicts.stable.contains(node) {
                self.admit(now, *node, case, &verdicts, &mut cut);
            }
        }
        let cut = voters::shape(&self.config, cut);
        let applies = self.catalog.successor(&self.config, &cut).is_ok();
        applies.then_some(cut)
    }

    pub(super) fn tie(&self, node: NodeId) -> (u64, NodeId) {
        (order_of(0x0054_6965, self.config.hash().0, node.0), node)
    }

    pub(super) fn member_at(&self, index: u32) -> NodeId {
        self.config.members()[index as usize].node
    }

    /// Adds a joiner, a restart or a new voter to the cut, if enough of its observers speak for it.
    fn admit(&self, now: Time, node: NodeId, case: &Case, verdicts: &Verdicts, cut: &mut Cut) {
        let topology = self.config.topology();
        let (observers, marks) = match self.config.index_of(node) {
            Some(index) => (
                topology.observers(index as u32).to_vec(),
                topology.member_watermarks(),
            ),
            None => (
                topology.joiner_observers(node),
                topology.joiner_watermarks(),
            ),
        };
        // Who leaves on purpose is still to be believed.
        let gone = |observer: u32| {
            let node = self.member_at(observer);
            let leaves = |case: &Case| case.marks.values().any(|mark| mark.kind == Kind::Leave);
            verdicts.stable.contains(&node) && !self.cases.get(&node).is_some_and(leaves)
        };
        let live = observers
            .iter()
            .filter(|observer| !gone(**observer))
            .count();
        // All whose word can be had, or H of them at once; a majority after a while.
        let patient = now >= case.since + self.timing.admission;
        let needed = if patient {
            live / 2 + 1
        } else {
            marks.h.min(live)
        };
        let enough = |count: usize| live > 0 && count >= needed.max(1);
        let count = |wanted: &dyn Fn(&Kind) -> bool| {
            let marks = case.marks.iter().filter(|(_, mark)| wanted(&mark.kind));
            marks
                .filter(|(ring, _)| {
                    let observer = observers.get(usize::from(**ring));
                    observer.is_some_and(|o| !gone(*o))
                })
                .count()
        };
        let ups = count(&|kind| matches!(kind, Kind::Up(_)));
        let restarts = count(&|kind| matches!(kind, Kind::Replace(_)));
        let accusations = count(&is_accusation);
        if ups > 0 {
            if enough(ups) {
                insert_member(cut, newest(case));
            }
        } else if restarts > 0 {
            if enough(restarts) {
                insert_member(cut, newest(case));
            } else if patient && accusations >= marks.h && restarts * 2 < accusations {
                // It came back for a moment and is gone again.
                let removal = Removal {
                    node,
                    departure: Departure::Failed,
                };
                let at = cut.remove.partition_point(|other| other.node < node);
                cut.remove.insert(at, removal);
            }
        } else if enough(count(&|kind| *kind == Kind::Ready)) && !self.config.is_voter(node) {
            cut.promote.push(node);
        }
    }
}

/// A restart counts as a failure of the boot that the configuration lists.
pub(super) fn is_accusation(kind: &Kind) -> bool {
    match kind {
        Kind::Down | Kind::Leave | Kind::Replace(_) => true,
        Kind::Up(_) | Kind::Ready | Kind::Withdrawn => false,
    }
}

/// The newest boot that is reported: a crash-looping node's latest supersedes its earlier ones.
fn newest(case: &Case) -> Option<&Arc<Member>> {
    let boots = case.marks.values().filter_map(|mark| match &mark.kind {
        Kind::Up(member) | Kind::Replace(member) => Some(member),
        Kind::Down | Kind::Leave | Kind::Ready | Kind::Withdrawn => None,
    });
    boots.max_by_key(|member| member.boot)
}

fn insert_member(cut: &mut Cut, member: Option<&Arc<Member>>) {
    let Some(member) = member else { return };
    // Two joiners at one address: the first by id comes in, the other asks again.
    if cut.add.iter().all(|other| other.address != member.address) {
        cut.add.push(Member::clone(member));
    }
}
