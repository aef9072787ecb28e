//! Weighing the alerts: who is stable, and who is in flux.
//!
//! Who goes is found by trying, again and again: each member that is found stable discredits its own reports, and each
//! that comes to be in flux speaks for others by its silence. Both touch only members that are under accusation
//! themselves, which of a thousand are few, if there are many of them at all. So what can change during the weighing
//! is laid out once ([`Accused`]), and the trials look at nothing else: with ten bad nodes among a thousand every node
//! weighs a hundred cases twice a second.

use std::collections::BTreeSet;

use super::evaluate::is_accusation;
use super::{Case, CutDetector, Kind};
use crate::id::NodeId;
use crate::time::Time;
use crate::topology::Watermarks;

/// Members under accusation, by how the weighing went.
#[derive(Default)]
pub(super) struct Verdicts {
    /// To be removed or replaced; their own reports are discredited.
    pub(super) stable: BTreeSet<NodeId>,
    /// Credibly accused.
    pub(super) in_flux: BTreeSet<NodeId>,
}

/// The reports about one member that would have it removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// Rings with a report, or whose observer is itself in flux or gone.
    all: usize,
    /// Those of them that do not come from a discredited observer.
    credible: usize,
    /// Those of these that somebody did report.
    reported: usize,
}

/// A member that somebody accuses, as the weighing sees it. Places are those in the list of all of them.
struct Accused {
    node: NodeId,
    /// True for one that some report as down, and that may be removed for it. One that is reported as restarted holds
    /// nothing up.
    blocks: bool,
    /// True for one that has been in flux for too long.
    overdue: bool,
    /// Rings with an accusation.
    reports: usize,
    /// Accusers that are on the list.
    accusers: Vec<usize>,
    /// Observers on the list that do not accuse it.
    silent: Vec<usize>,
    word: VotersWord,
    stable: bool,
    in_flux: bool,
    count: Count,
}

/// What voters say of a member that does not vote.
enum VotersWord {
    /// It votes, or no voter accuses it.
    None,
    /// A voter accuses it that is not on the list.
    Credible,
    /// These do, which are.
    While(Vec<usize>),
}

impl CutDetector {
    /// Decides about removals: discredits the stable one at a time, and forces what has been in flux for too long.
    pub(super) fn weigh(&self, now: Time) -> Verdicts {
        let marks = self.config.topology().member_watermarks();
        let mut accused = self.accused(now);
        loop {
            count(&mut accused, marks);
            let candidates = accused.iter_mut().filter(|it| {
                let Count { all, credible, .. } = it.count;
                it.blocks && !it.stable && credible >= marks.l && (all >= marks.h || it.overdue)
            });
            // The stable before the overdue, the most credibly accused first. Silence speaks last: a few deaf observers
            // put so many in flux that each of these seems to be accused by all others.
            let next = candidates.max_by_key(|it| {
                let Count {
                    all,
                    credible,
                    reported,
                } = it.count;
                (all >= marks.h, reported, credible, self.tie(it.node))
            });
            match next {
                Some(next) => next.stable = true,
                None => break,
            }
        }
        let those = |wanted: fn(&Accused) -> bool| {
            let wanted = accused.iter().filter(|it| wanted(it));
            wanted.map(|it| it.node).collect()
        };
        Verdicts {
            stable: those(|it| it.stable),
            in_flux: those(|it| it.in_flux),
        }
    }

    /// All members that some alert accuses, in the order of their ids.
    fn accused(&self, now: Time) -> Vec<Accused> {
        const NOWHERE: usize = usize::MAX;
        let topology = self.config.topology();
        let mut listed: Vec<(usize, NodeId, &Case)> = Vec::new();
        for (node, case) in &self.cases {
            let accused = case.marks.values().any(|mark| is_accusation(&mark.kind));
            if let Some(index) = self.config.index_of(*node).filter(|_| accused) {
                listed.push((index, *node, case));
            }
        }
        if listed.is_empty() {
            return Vec::new();
        }
        let mut places = vec![NOWHERE; self.config.members().len()];
        for (place, (index, _, _)) in listed.iter().enumerate() {
            places[*index] = place;
        }
        let on_list = |observer: u32| Some(places[observer as usize]).filter(|it| *it != NOWHERE);
        let lay_out = |&(index, node, case): &(usize, NodeId, &Case)| {
            let observers = topology.observers(index as u32);
            let accuses = |ring: usize| {
                let mark = case.marks.get(&(ring as u8));
                mark.is_some_and(|mark| is_accusation(&mark.kind))
            };
            let accusing: Vec<u32> = (0..observers.len())
                .filter(|ring| accuses(*ring))
                .map(|ring| observers[ring])
                .collect();
            let silent = (0..observers.len()).filter(|ring| !accuses(*ring));
            let restarts = |kind: &Kind| matches!(kind, Kind::Replace(_));
            let restarted = case.marks.values().any(|mark| restarts(&mark.kind));
            let since = case.in_flux_since;
            Accused {
                node,
                blocks: !accusing.is_empty() && !restarted,
                overdue: since.is_some_and(|since| now >= since + self.timing.reinforcement),
                reports: accusing.len(),
                accusers: accusing.iter().filter_map(|it| on_list(*it)).collect(),
                silent: silent.filter_map(|ring| on_list(observers[ring])).collect(),
                word: self.voters_word(node, &accusing, on_list),
                stable: false,
                in_flux: false,
                count: Count::default(),
            }
        };
        listed.iter().map(lay_out).collect()
    }

    fn voters_word(
        &self,
        node: NodeId,
        accusing: &[u32],
        on_list: impl Fn(u32) -> Option<usize>,
    ) -> VotersWord {
        if self.config.is_voter(node) {
            return VotersWord::None;
        }
        let votes = |observer: &&u32| self.config.is_voter(self.member_at(**observer));
        let mut listed = Vec::new();
        for voter in accusing.iter().filter(votes) {
            match on_list(*voter) {
                Some(place) => listed.push(place),
                None => return VotersWord::Credible,
            }
        }
        VotersWord::While(listed)
    }
}

/// Counts the reports about members that are not stable yet, and finds who is in flux.
fn count(accused: &mut [Accused], marks: Watermarks) {
    accused.iter_mut().for_each(|it| it.in_flux = false);
    loop {
        let counts: Vec<Count> = accused.iter().map(|it| count_one(it, accused)).collect();
        // Implicit reports put more in flux, whose own observees then get more of them.
        let mut settled = true;
        for (it, count) in accused.iter_mut().zip(counts) {
            it.count = count;
            let in_flux = it.blocks && !it.stable && count.credible >= marks.l;
            settled &= in_flux == it.in_flux;
            it.in_flux = in_flux;
        }
        if settled {
            return;
        }
    }
}

fn count_one(it: &Accused, accused: &[Accused]) -> Count {
    let discredited = it.accusers.iter().filter(|place| accused[**place].stable);
    let reported = it.reports - discredited.count();
    let (mut all, mut credible) = (it.reports, reported);
    // An observer that is going cannot be waited for. Its silence confirms what somebody credible has said, and
    // says nothing on its own.
    if credible > 0 {
        let going = |place: &&usize| cannot_speak(&accused[**place], accused);
        let implied = it.silent.iter().filter(going).count();
        all += implied;
        credible += implied;
    }
    Count {
        all,
        credible,
        reported,
    }
}

/// True for an observer that is itself credibly accused. Of one that does not vote, which may never have come to
/// life, a voter's word is enough: else the death of many joiners could not be reported by the few that are left.
fn cannot_speak(it: &Accused, accused: &[Accused]) -> bool {
    let doubted = match &it.word {
        VotersWord::None => false,
        VotersWord::Credible => true,
        VotersWord::While(voters) => voters.iter().any(|place| !accused[*place].stable),
    };
    it.stable || it.in_flux || doubted
}
