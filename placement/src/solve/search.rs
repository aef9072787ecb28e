//! Local search: from a complete assignment to better ones, by moves, swaps, chains and whole-block moves.
//!
//! Everything is compared as one vector: first by how much hard rows are missed, then tier by tier. A step is taken
//! when the vector does not get worse, so equal steps drift along plateaus; that is how a later tier improves under a
//! frozen earlier one, and how a full cluster finds its swaps. Where a tier is a maximum, most steps leave it as it
//! is, so a sum of squares breaks ties while that tier is worked on, and is forgotten afterwards.
//!
//! A run is a sequence of *stages*. A stage starts from the best assignment with a fresh random stream and ends when
//! nothing better was found for `patience` tries; the run ends with the first stage that finds nothing at all. That
//! last stage is exactly what a second solve of the answer would do, so a second solve moves nothing.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::Rng;
use super::bound::Demands;
use super::candidates::Candidates;
use super::holders::Holders;
use crate::graph::VarId;
use crate::graph::internal::{Broken, Graph, State, Totals, UNSET};

/// A larger block is not a unit that moves together.
pub(super) const FOLLOWERS_MAX: usize = 64;
/// How many tries pass between two looks at the abort callback.
const ABORT_EVERY: u64 = 256;

/// Limits of a run.
pub(crate) struct Limits<'a> {
    pub evaluations_max: u64,
    /// Tries without improvement that end a stage.
    pub patience: u64,
    /// See [`Config::gap_ppm`](super::Config::gap_ppm).
    pub gap_ppm: u32,
    pub abort: &'a mut dyn FnMut() -> bool,
}

/// What is compared, and what is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The tier that is worked on.
    pub tier: usize,
    /// Whether evenness breaks ties after that tier.
    pub guided: bool,
}

pub(crate) struct Search<'a> {
    pub graph: &'a Graph,
    pub state: &'a mut State,
    pub candidates: &'a Candidates,
    /// The soft roots that the scope can change.
    pub soft: &'a [u32],
    pub holders: Holders,
    pub rng: Rng,
    pub evaluations: u64,
    pub limits: Limits<'a>,
    pub aborted: bool,
    pub goal: Goal,
    /// The best lower bound known for each tier. Bounds hold for every assignment.
    pub bounds: Vec<i128>,
    /// Whether looking again may give better ones.
    pub bounds_may_rise: bool,
    pub(super) demands: Demands,
    /// Totals of the assignment that stands.
    pub base: Totals,
    /// Steps since the best assignment: variable and the value it had.
    log: Vec<(VarId, u32)>,
    best: Totals,
    /// Steps since the stage began.
    history: Vec<(VarId, u32)>,
    /// Whether every decision in scope had a permitted value at the start.
    pub(super) was_decided: bool,
    /// How well each neighbourhood has done lately.
    pub(super) merit: Merit,
    /// Until which try a variable may not return to a value it was moved away from.
    pub(super) tabu: Vec<u64>,
}

/// Successes and tries of the neighbourhoods, old ones fading: moves win far from an optimum, swaps close to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merit {
    pub taken: [u64; 4],
    pub tried: [u64; 4],
}

impl Default for Merit {
    fn default() -> Merit {
        Merit {
            taken: [8, 1, 8, 1],
            tried: [16, 16, 16, 16],
        }
    }
}

impl Merit {
    pub(super) fn choose(&self, rng: &mut Rng) -> usize {
        let rate = |index: usize| 16 + self.taken[index] * 1_024 / self.tried[index];
        let rates: [u64; 4] = std::array::from_fn(rate);
        let mut at = rng.below(rates.iter().sum::<u64>() as usize) as u64;
        for (index, rate) in rates.into_iter().enumerate() {
            if at < rate {
                return index;
            }
            at -= rate;
        }
        0
    }

    pub(super) fn note(&mut self, index: usize, tries: u64, taken: bool) {
        self.tried[index] += tries.max(1);
        self.taken[index] += u64::from(taken);
        if self.tried[index] > 512 {
            self.tried[index] /= 2;
            self.taken[index] /= 2;
        }
    }
}

/// Which of two assignments is better, hard rows first.
pub(crate) fn compare(a: &Totals, b: &Totals, goal: Goal) -> Ordering {
    let split = (goal.tier + 1).min(a.tiers.len());
    a.hinge
        .cmp(&b.hinge)
        .then_with(|| a.tiers[..split].cmp(&b.tiers[..split]))
        .then_with(|| {
            if goal.guided {
                a.guide.cmp(&b.guide)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| a.tiers[split..].cmp(&b.tiers[split..]))
}

/// The same by what was declared alone.
pub(crate) fn compare_declared(a: &Totals, b: &Totals) -> Ordering {
    a.hinge.cmp(&b.hinge).then_with(|| a.tiers.cmp(&b.tiers))
}

/// How much of a tier's value is not worth anything.
fn tolerance(value: i128, gap_ppm: u32) -> i128 {
    let parts = value.unsigned_abs() / 1_000 * u128::from(gap_ppm) / 1_000;
    i128::try_from(parts).unwrap_or(i128::MAX)
}

/// Whether `a` is better than `b` by something worth moving for: by more than the tolerance in the first tier that
/// differs by more than that.
pub(crate) fn worthwhile(a: &Totals, b: &Totals, gap_ppm: u32) -> bool {
    if a.hinge != b.hinge {
        return a.hinge < b.hinge;
    }
    for (a, b) in a.tiers.iter().zip(&b.tiers) {
        if (a - b).abs() > tolerance(*b, gap_ppm) {
            return a < b;
        }
    }
    false
}

impl<'a> Search<'a> {
    /// Whether a tier is as good as its bound, or close enough.
    pub(crate) fn is_settled(&self, tier: usize) -> bool {
        let (value, bound) = (self.base.tiers[tier], self.bounds[tier]);
        bound != i128::MIN && value - bound <= tolerance(bound, self.limits.gap_ppm)
    }

    pub(crate) fn new(
        graph: &'a Graph,
        state: &'a mut State,
        candidates: &'a Candidates,
        soft: &'a [u32],
        seed: u64,
        limits: Limits<'a>,
    ) -> Search<'a> {
        let holders = Holders::new(graph, candidates, &state.assignment);
        let base = state.totals.clone();
        Search {
            graph,
            candidates,
            soft,
            holders,
            rng: Rng::new(seed),
            evaluations: 0,
            limits,
            aborted: false,
            goal: Goal {
                tier: 0,
                guided: false,
            },
            bounds: vec![i128::MIN; base.tiers.len()],
            bounds_may_rise: true,
            demands: Demands::default(),
            best: base.clone(),
            base,
            state,
            log: Vec::new(),
            history: Vec::new(),
            was_decided: false,
            merit: Merit::default(),
            tabu: vec![0; candidates.vars.len()],
        }
    }

    /// Whether the budget is used up or the caller wants an answer now.
    pub(crate) fn exhausted(&mut self) -> bool {
        if self.aborted || self.evaluations >= self.limits.evaluations_max {
            return true;
        }
        if self.evaluations.is_multiple_of(ABORT_EVERY) && (self.limits.abort)() {
            self.aborted = true;
        }
        self.aborted
    }

    #[inline]
    pub(crate) fn value(&self, var: VarId) -> u32 {
        self.state.assignment[var.index()]
    }

    /// A change with all that it takes along: the group of each decision, and who stands on what moves.
    pub(super) fn whole<'c>(&self, changes: &'c [(VarId, u32)]) -> Cow<'c, [(VarId, u32)]> {
        let ties = &self.candidates.ties;
        if ties.is_empty() {
            return Cow::Borrowed(changes);
        }
        let mut all = Vec::with_capacity(changes.len() + 2);
        for (index, &(var, value)) in changes.iter().enumerate() {
            let head = ties.head(var);
            let later = &changes[index + 1..];
            // Of two changes of a group the later counts.
            if later.iter().any(|&(other, _)| ties.head(other) == head) {
                continue;
            }
            match ties.members(var) {
                [] => all.push((var, value)),
                members => all.extend(members.iter().map(|&member| (member, value))),
            }
        }
        self.take_along(&mut all);
        Cow::Owned(all)
    }

    /// Whoever stood on a slot that moves away stays with it, or takes another one where it may not follow.
    fn take_along(&self, changes: &mut Vec<(VarId, u32)>) {
        let ties = &self.candidates.ties;
        let changed = |changes: &[(VarId, u32)], var: VarId| {
            let found = changes.iter().find(|&&(other, _)| other == var);
            found.map(|&(_, value)| value)
        };
        for index in 0..changes.len() {
            let (slot, value) = changes[index];
            let from = self.value(slot);
            for &var in ties.seated(slot) {
                let stays = self.value(var) != from || value == from || from == UNSET;
                if stays || !self.candidates.is_free(var) || changed(changes, var).is_some() {
                    continue;
                }
                let slots = ties.slots(var).iter();
                let after = |&slot: &VarId| changed(changes, slot).unwrap_or(self.value(slot));
                let mut places: Vec<u32> = std::iter::once(value).chain(slots.map(after)).collect();
                if places.contains(&from) {
                    continue;
                }
                places.retain(|&place| self.candidates.permits(var, place));
                if let Some(&place) = places.first() {
                    changes.push((var, place));
                }
            }
        }
    }

    /// The values of the slots that a decision chooses among; none where it has no slots, or none is placed.
    pub(super) fn slot_values(&self, var: VarId) -> Vec<u32> {
        let slots = self.candidates.ties.slots(var).iter();
        let mut values: Vec<u32> = slots
            .map(|&slot| self.value(slot))
            .filter(|&value| value != UNSET && self.candidates.permits(var, value))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// The places of a decision's slots, where it has any; all of its values, where it has not.
    pub(super) fn values_to_try(&self, var: VarId) -> Cow<'a, [u32]> {
        let slots = self.slot_values(var);
        match slots.is_empty() {
            true => Cow::Borrowed(self.candidates.of(var)),
            false => Cow::Owned(slots),
        }
    }

    /// Tries a change; returns how it compares with what stands. The caller takes it or drops it.
    #[inline]
    fn attempt(&mut self, changes: &[(VarId, u32)]) -> (crate::graph::internal::Mark, Ordering) {
        self.evaluations += 1;
        let mark = self.state.mark();
        for &(var, value) in changes {
            self.state.assign(self.graph, var, value);
        }
        self.state.propagate(self.graph);
        (mark, compare(&self.state.totals, &self.base, self.goal))
    }

    /// Tries a change and takes it if it compares as `accept` says.
    pub(crate) fn step(
        &mut self,
        changes: &[(VarId, u32)],
        accept: impl Fn(Ordering) -> bool,
    ) -> Option<Ordering> {
        let whole = self.whole(changes);
        let changes: &[(VarId, u32)] = &whole;
        let before: [u32; 4] = std::array::from_fn(|index| {
            changes
                .get(index)
                .map_or(UNSET, |&(var, _)| self.value(var))
        });
        let long: Vec<u32> = if changes.len() > 4 {
            changes.iter().map(|&(var, _)| self.value(var)).collect()
        } else {
            Vec::new()
        };
        let (mark, order) = self.attempt(changes);
        if !accept(order) {
            self.state.undo(mark);
            return None;
        }
        self.state.keep(mark);
        for (index, &(var, value)) in changes.iter().enumerate() {
            let from = if changes.len() > 4 {
                long[index]
            } else {
                before[index]
            };
            self.settle(var, from, value);
        }
        self.base.clone_from(&self.state.totals);
        Some(order)
    }

    /// Tries a change, leaves everything as it is, and says what the totals would be compared with `other`.
    pub(crate) fn measure(&mut self, changes: &[(VarId, u32)], best: &mut Option<Totals>) -> bool {
        let (mark, _) = self.attempt(&self.whole(changes));
        let better = match best {
            None => true,
            Some(best) => compare(&self.state.totals, best, self.goal) == Ordering::Less,
        };
        if better {
            match best {
                Some(best) => best.clone_from(&self.state.totals),
                None => *best = Some(self.state.totals.clone()),
            }
        }
        self.state.undo(mark);
        better
    }

    /// Makes a change, and what it takes along, whatever it does to the totals.
    pub(crate) fn force(&mut self, changes: &[(VarId, u32)]) {
        self.put(&self.whole(changes));
    }

    /// Gives decisions their values, and nothing else.
    pub(super) fn put(&mut self, changes: &[(VarId, u32)]) {
        for &(var, value) in changes {
            let from = self.value(var);
            self.state.assign(self.graph, var, value);
            self.settle(var, from, value);
        }
        self.state.propagate(self.graph);
        self.base.clone_from(&self.state.totals);
    }

    fn settle(&mut self, var: VarId, from: u32, to: u32) {
        self.holders
            .moved(self.graph, self.candidates, var, from, to);
        self.log.push((var, from));
        self.history.push((var, from));
    }

    /// Remembers the present assignment as the best.
    pub(crate) fn remember(&mut self) {
        self.log.clear();
        self.best.clone_from(&self.base);
    }

    /// Whether the present assignment beats the remembered one.
    pub(crate) fn improved(&self) -> bool {
        compare(&self.base, &self.best, self.goal) == Ordering::Less
    }

    /// Totals of the remembered assignment.
    pub(crate) fn best_totals(&self) -> &Totals {
        &self.best
    }

    /// Returns to the remembered assignment.
    pub(crate) fn return_to_best(&mut self) {
        let mut log = std::mem::take(&mut self.log);
        while let Some((var, from)) = log.pop() {
            let value = self.value(var);
            self.state.assign(self.graph, var, from);
            self.holders
                .moved(self.graph, self.candidates, var, value, from);
            self.history.push((var, value));
        }
        self.log = log;
        self.state.propagate(self.graph);
        self.base.clone_from(&self.state.totals);
        debug_assert_eq!(compare(&self.base, &self.best, self.goal), Ordering::Equal);
    }

    /// Whether anything has changed since the stage began.
    pub(crate) fn has_history(&self) -> bool {
        !self.history.is_empty()
    }

    /// Begins a stage: the present assignment is the one to beat.
    pub(crate) fn begin_stage(&mut self) {
        self.history.clear();
        self.merit = Merit::default();
        self.remember();
    }

    /// Returns to the assignment at which the stage began.
    pub(crate) fn abandon_stage(&mut self) {
        let mut history = std::mem::take(&mut self.history);
        while let Some((var, from)) = history.pop() {
            let value = self.value(var);
            if value != from {
                self.state.assign(self.graph, var, from);
                self.holders
                    .moved(self.graph, self.candidates, var, value, from);
            }
        }
        self.history = history;
        self.state.propagate(self.graph);
        self.base.clone_from(&self.state.totals);
        self.remember();
    }

    pub(crate) fn random_candidate(&mut self, var: VarId) -> Option<u32> {
        if !self.candidates.ties.slots(var).is_empty() {
            return self.random_slot(var);
        }
        let values = self.candidates.of(var);
        if values.is_empty() {
            return None;
        }
        Some(values[self.rng.below(values.len())])
    }

    /// The place of a slot where a decision does not stand yet.
    fn random_slot(&mut self, var: VarId) -> Option<u32> {
        let mut values = self.slot_values(var);
        values.retain(|&value| value != self.value(var));
        let count = values.len();
        (count > 0).then(|| values[self.rng.below(count)])
    }

    /// A variable in scope that another has to do with when it takes `value`: a random one that is there already.
    pub(crate) fn random_holder(&mut self, var: VarId, value: u32) -> Option<VarId> {
        if value == UNSET {
            return None;
        }
        let domain = self.graph.vars.domain[var.index()].index();
        let list = self.holders.of(domain, value);
        if list.is_empty() {
            return None;
        }
        Some(list[self.rng.below(list.len())])
    }

    /// The swap of two variables, where both may take the other's value.
    pub(crate) fn swap(&self, x: VarId, y: VarId) -> Option<[(VarId, u32); 2]> {
        let (a, b) = (self.value(x), self.value(y));
        let fits = x != y
            && a != b
            && self.graph.vars.domain[x.index()] == self.graph.vars.domain[y.index()]
            && self.candidates.permits(x, b)
            && self.candidates.permits(y, a);
        fits.then_some([(x, b), (y, a)])
    }

    /// A move of everything that belongs to `var` and stands where it stands: a replica takes its shard's leader
    /// along, a shard its whole co-location group. Which of the two is chosen at random.
    pub(crate) fn follow(&mut self, var: VarId, to: u32, changes: &mut Vec<(VarId, u32)>) -> bool {
        changes.clear();
        let graph = self.graph;
        let block = graph.vars.block[var.index()] as usize;
        if self.rng.below(2) == 0 {
            let members = &graph.blocks[block];
            if members.len() > FOLLOWERS_MAX {
                return false;
            }
            return self.gather(var, to, members.iter().copied(), changes);
        }
        // A group is a part of some bag with rows of several decisions, which place them or which they compare.
        let rows = graph.bags.rows_of(var).count();
        if rows == 0 {
            return false;
        }
        let chosen = self.rng.below(rows);
        let Some(row) = graph.bags.rows_of(var).nth(chosen) else {
            return false;
        };
        let data = &graph.bags.rows[row as usize];
        let members = &graph.bags.bag[data.bag as usize].parts[data.part as usize];
        if members.len() > FOLLOWERS_MAX {
            return false;
        }
        let members = members.iter().flat_map(|&row| graph.bags.vars_of(row));
        self.gather(var, to, members, changes)
    }

    /// The members that stand where `var` stands, all to `to`. False where that is `var` alone, or not permitted.
    pub(super) fn gather(
        &self,
        var: VarId,
        to: u32,
        members: impl Iterator<Item = VarId>,
        changes: &mut Vec<(VarId, u32)>,
    ) -> bool {
        let from = self.value(var);
        let domain = self.graph.vars.domain[var.index()];
        for other in members {
            let same = self.value(other) == from && self.graph.vars.domain[other.index()] == domain;
            if !same || !self.candidates.is_free(other) {
                continue;
            }
            if !self.candidates.permits(other, to) {
                return false;
            }
            if !changes.contains(&(other, to)) {
                changes.push((other, to));
            }
        }
        changes.len() > 1 && changes.iter().any(|&(member, _)| member == var)
    }

    /// Broken things, for repair.
    pub(crate) fn random_broken(&mut self) -> Option<Broken> {
        let count = self.state.broken.len();
        (count > 0).then(|| self.state.broken.get(self.rng.below(count)))
    }
}
