//! Weighing the alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Case, CutDetector, Kind};
use crate::cut::{Cut, Departure, Removal};
use crate::hash::order_of;
use crate::id::NodeId;
use crate::member::Member;
use crate::time::Time;
use crate::topology::Watermarks;
use crate::voters;

/// The reports about one member that would have it removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// Rings with a report, or whose observer is itself in flux or gone.
    all: usize,
    /// Those of them that do not come from a discredited observer.
    credible: usize,
}

/// Members under accusation, by how the weighing went so far.
#[derive(Default)]
struct Verdicts {
    /// To be removed or replaced; their own reports are discredited.
    stable: BTreeSet<NodeId>,
    /// Credibly accused.
    in_flux: BTreeSet<NodeId>,
}

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

    /// Decides about removals: discredits the stable one at a time, and forces what has been in flux for too long.
    fn weigh(&self, now: Time) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let marks = self.config.topology().member_watermarks();
        loop {
            let counts = self.count(&mut verdicts, marks);
            let next = counts
                .iter()
                .filter(|(node, count)| {
                    count.credible >= marks.l
                        && (count.all >= marks.h || self.is_overdue(now, **node))
                })
                // The stable before the overdue, the most credibly accused first.
                .max_by_key(|(node, count)| {
                    (count.all >= marks.h, count.credible, self.tie(**node))
                });
            match next {
                Some((node, _)) => verdicts.stable.insert(*node),
                None => return verdicts,
            };
        }
    }

    /// Counts the reports about members that are not stable yet, and finds who is in flux.
    fn count(&self, verdicts: &mut Verdicts, marks: Watermarks) -> BTreeMap<NodeId, Count> {
        verdicts.in_flux.clear();
        loop {
            let counts: BTreeMap<NodeId, Count> = self
                .cases
                .iter()
                .filter(|(node, case)| !verdicts.stable.contains(node) && self.blocks(case))
                .filter_map(|(node, case)| Some((*node, self.count_one(*node, case, verdicts)?)))
                .collect();
            // Implicit reports put more in flux, whose own observees then get more of them.
            let in_flux: BTreeSet<NodeId> = counts
                .iter()
                .filter(|(_, count)| count.credible >= marks.l)
                .map(|(node, _)| *node)
                .collect();
            let settled = in_flux == verdicts.in_flux;
            verdicts.in_flux = in_flux;
            if settled {
                return counts;
            }
        }
    }

    fn count_one(&self, node: NodeId, case: &Case, verdicts: &Verdicts) -> Option<Count> {
        let topology = self.config.topology();
        let subject = self.config.index_of(node)? as u32;
        let observer = |ring: usize| self.member_at(topology.observers(subject)[ring]);
        let (mut all, mut credible) = (0, 0);
        for (ring, mark) in &case.marks {
            if is_accusation(&mark.kind) {
                all += 1;
                let discredited = verdicts.stable.contains(&observer(usize::from(*ring)));
                credible += usize::from(!discredited);
            }
        }
        // An observer that is going cannot be waited for. Its silence confirms what somebody credible has said, and
        // says nothing on its own.
        if credible > 0 {
            let implied = (0..topology.observers(subject).len())
                .filter(|ring| {
                    let silent = case
                        .marks
                        .get(&(*ring as u8))
                        .is_none_or(|m| !is_accusation(&m.kind));
                    let node = observer(*ring);
                    silent && (verdicts.stable.contains(&node) || verdicts.in_flux.contains(&node))
                })
                .count();
            all += implied;
            credible += implied;
        }
        Some(Count { all, credible })
    }

    /// True for a member that some report as down. One that is reported as restarted holds nothing up.
    fn blocks(&self, case: &Case) -> bool {
        let accused = case.marks.values().any(|mark| is_accusation(&mark.kind));
        let restarted = case
            .marks
            .values()
            .any(|mark| matches!(mark.kind, Kind::Replace(_)));
        accused && !restarted
    }

    fn is_overdue(&self, now: Time, node: NodeId) -> bool {
        let since = self.cases.get(&node).and_then(|case| case.in_flux_since);
        since.is_some_and(|since| now >= since + self.timing.reinforcement)
    }

    fn tie(&self, node: NodeId) -> (u64, NodeId) {
        (order_of(0x0054_6965, self.config.hash().0, node.0), node)
    }

    fn member_at(&self, index: u32) -> NodeId {
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
        let live = observers
            .iter()
            .filter(|observer| !verdicts.stable.contains(&self.member_at(**observer)))
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
                    observer.is_some_and(|o| !verdicts.stable.contains(&self.member_at(*o)))
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
fn is_accusation(kind: &Kind) -> bool {
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
