//! Lowering one tier, the ones before it frozen by the comparison.

use std::cmp::Ordering;

use super::aim::{End, Targets};
use super::bound::lower_bounds;
use super::search::Search;
use crate::graph::VarId;
use crate::graph::internal::UNSET;

/// How often to aim again at something that can move further.
const AIMS_MAX: usize = 4;
/// Holders looked at for one that may go where there is room: where many are confined to a region, the few that are
/// not are what a full node has to lose.
const HOLDERS_MAX: usize = 1_024;
/// Places tried for something that may not go where there is most room.
const PLACES: usize = 4;
/// Failures in a row that end the unloading of what is too full.
const UNLOAD_FAILURES_MAX: u32 = 48;
/// Tries between two computations of the lower bounds.
const BOUND_EVERY: u64 = 4_000;

impl Search<'_> {
    /// Works on the goal's tier until `patience` tries in a row found nothing, or the tier meets its bound.
    /// Leaves the best assignment found. True when it is better than the one at the start.
    pub(crate) fn improve(&mut self, targets: &Targets) -> bool {
        self.remember();
        let mut better = self.goal.guided && self.unload(targets);
        let mut last = self.evaluations;
        let mut changes: Vec<(VarId, u32)> = Vec::new();
        let tier = self.goal.tier;
        let mut bound_due = self.evaluations + BOUND_EVERY;
        while self.evaluations - last < self.limits.patience && !self.exhausted() {
            if self.is_settled(tier) || self.candidates.choices.is_empty() {
                break;
            }
            if self.improve_step(targets, &mut changes) {
                debug_assert!(self.improved());
                self.remember();
                better = true;
                last = self.evaluations;
            }
            if self.evaluations >= bound_due {
                // Cuts follow the order of the loads, so a better assignment gives a better bound.
                self.raise_bounds();
                bound_due = self.evaluations + BOUND_EVERY.max(self.candidates.vars.len() as u64);
            }
        }
        self.return_to_best();
        self.raise_bounds();
        better
    }

    /// From what is fullest to where there is room, one after the other, as long as that mostly helps: far from an
    /// optimum there is nothing to choose, and every other neighbourhood is slower. True when anything got better.
    fn unload(&mut self, targets: &Targets) -> bool {
        let (mut better, mut failures) = (false, 0);
        while failures < UNLOAD_FAILURES_MAX
            && !self.is_settled(self.goal.tier)
            && !self.exhausted()
        {
            self.evaluations += 1;
            let hot = self.extreme_value(targets, End::Hot);
            let cold = self.extreme_value(targets, End::Cold);
            let (Some((domain, hot)), Some((_, cold))) = (hot, cold) else {
                break;
            };
            let there = self
                .holder_that_permits(domain, hot, cold)
                .is_some_and(|var| self.step_down(var, cold));
            let moved = there || self.settle_elsewhere(domain, hot);
            if moved {
                self.remember();
                (better, failures) = (true, 0);
            } else {
                failures += 1;
            }
        }
        better
    }

    /// Something that stands at one value and may go to another.
    fn holder_that_permits(&mut self, domain: usize, from: u32, to: u32) -> Option<VarId> {
        let count = self.holders.of(domain, from).len();
        let start = if count == 0 { 0 } else { self.rng.below(count) };
        let holders = self.holders.of(domain, from);
        (0..HOLDERS_MAX.min(count))
            .map(|index| holders[(start + index) % count])
            .find(|&var| self.candidates.permits(var, to))
    }

    /// Moves something that stands at a value to any other that it may have.
    fn settle_elsewhere(&mut self, domain: usize, from: u32) -> bool {
        let count = self.holders.of(domain, from).len();
        if count == 0 {
            return false;
        }
        let var = self.holders.of(domain, from)[self.rng.below(count)];
        (0..PLACES).any(|_| {
            let to = self.random_candidate(var);
            to.is_some_and(|to| to != from && self.step_down(var, to))
        })
    }

    fn step_down(&mut self, var: VarId, to: u32) -> bool {
        self.step(&[(var, to)], |order| order == Ordering::Less)
            .is_some()
    }

    /// Computes lower bounds at the present assignment and keeps the best that were ever found.
    pub(crate) fn raise_bounds(&mut self) {
        if !self.bounds_may_rise {
            return;
        }
        let (graph, demands) = (self.graph, &mut self.demands);
        let found = lower_bounds(graph, self.state, self.candidates, self.soft, demands);
        self.bounds_may_rise = found.may_rise;
        for (best, bound) in self.bounds.iter_mut().zip(found.tiers) {
            *best = (*best).max(bound);
        }
    }

    /// One neighbourhood of one decision. True when the best assignment was beaten.
    fn improve_step(&mut self, targets: &Targets, changes: &mut Vec<(VarId, u32)>) -> bool {
        let aimed = if self.rng.below(8) == 0 {
            None
        } else {
            self.aim(targets)
        };
        let var = match aimed {
            Some(var) => var,
            None => self.candidates.choices[self.rng.below(self.candidates.choices.len())],
        };
        let var = self.unless_confined(var, targets);
        self.evaluations += 1;
        let before = self.evaluations;
        let neighbourhood = self.merit.choose(&mut self.rng);
        let taken = match neighbourhood {
            0 => self.step_move(var, targets),
            1 => self.step_follow(var, targets, changes),
            2 => self.step_swap(var, targets),
            _ => self.step_chain(var),
        };
        let tries = self.evaluations - before;
        self.merit
            .note(neighbourhood, tries, taken == Some(Ordering::Less));
        match taken {
            Some(Ordering::Less) => self.improved(),
            Some(Ordering::Equal | Ordering::Greater) | None => false,
        }
    }

    /// Of what stands on the fullest node, something that may go where there is room: where part of the decisions are
    /// confined to a region, most of what its full nodes hold cannot leave.
    fn unless_confined(&mut self, var: VarId, targets: &Targets) -> VarId {
        let mut var = var;
        if self.goal.guided {
            for _ in 0..AIMS_MAX {
                match self.cold_value(targets) {
                    Some(value) if !self.candidates.permits(var, value) => {}
                    Some(_) | None => break,
                }
                var = self.aim(targets).unwrap_or(var);
            }
        }
        var
    }

    pub(crate) fn target_value(&mut self, var: VarId, targets: &Targets) -> Option<u32> {
        if self.goal.guided
            && self.rng.below(2) == 0
            && let Some(value) = self.cold_value(targets)
            && self.candidates.permits(var, value)
        {
            return Some(value);
        }
        // Where moves are counted, home is the value to try.
        let home = self.home(var);
        let away = home != UNSET && home != self.value(var);
        if !self.goal.guided && away && self.rng.below(4) == 0 && self.candidates.permits(var, home)
        {
            return Some(home);
        }
        self.random_candidate(var)
    }

    fn step_move(&mut self, var: VarId, targets: &Targets) -> Option<Ordering> {
        let from = self.value(var);
        let mut taken = None;
        for _ in 0..4 {
            let value = self.target_value(var, targets)?;
            if value != from {
                taken = self.step(&[(var, value)], Self::not_worse);
                if taken.is_some() {
                    break;
                }
            }
        }
        taken
    }

    fn step_follow(
        &mut self,
        var: VarId,
        targets: &Targets,
        changes: &mut Vec<(VarId, u32)>,
    ) -> Option<Ordering> {
        let value = self.target_value(var, targets)?;
        if value != self.value(var) && self.follow(var, value, changes) {
            let changes = std::mem::take(changes);
            return self.step(&changes, Self::not_worse);
        }
        // Nothing to take along: two members of the block change places, as when leadership moves.
        let block = self.graph.vars.block[var.index()] as usize;
        let members = &self.graph.blocks[block];
        let other = members[self.rng.below(members.len())];
        if other != var && self.candidates.is_free(other) {
            let value = self.value(other);
            if self.candidates.permits(var, value) && value != self.value(var) {
                return self.step(&[(var, value)], Self::not_worse);
            }
        }
        None
    }

    fn step_swap(&mut self, var: VarId, targets: &Targets) -> Option<Ordering> {
        let mut taken = None;
        for _ in 0..6 {
            let value = self.target_value(var, targets)?;
            let Some(partner) = self.random_holder(var, value) else {
                continue;
            };
            if let Some(swap) = self.swap(var, partner) {
                taken = self.step(&swap, Self::not_worse);
                if taken.is_some() {
                    break;
                }
            }
        }
        taken
    }

    fn step_chain(&mut self, var: VarId) -> Option<Ordering> {
        let b = self.random_candidate(var)?;
        let second = self.random_holder(var, b)?;
        let c = self.random_candidate(second)?;
        if second == var || b == c {
            return None;
        }
        if self.rng.below(2) == 0
            && let Some(third) = self.random_holder(second, c)
            && third != var
            && third != second
            && let Some(last) = self.random_candidate(third)
        {
            return self.step(&[(var, b), (second, c), (third, last)], Self::not_worse);
        }
        self.step(&[(var, b), (second, c)], Self::not_worse)
    }
}
