//! Making hard rows hold: from an assignment that misses some to one that misses none.

use std::cmp::Ordering;

use super::search::Search;
use crate::graph::VarId;
use crate::graph::internal::Totals;

/// Candidate values looked at for one decision.
const VALUES: usize = 20;
/// Partners looked at for a swap.
const PARTNERS: usize = 8;

impl Search<'_> {
    /// Lowers the hinge to 0, if the budget allows. Leaves the best assignment found.
    pub(crate) fn repair(&mut self) {
        self.remember();
        let mut idle = 0;
        let mut changes: Vec<(VarId, u32)> = Vec::new();
        while self.base.hinge > 0 && idle < self.limits.patience && !self.exhausted() {
            let before = self.evaluations;
            let least = self.best_hinge();
            self.repair_step(&mut changes);
            if self.base.hinge < least {
                self.remember();
                idle = 0;
            } else {
                idle += (self.evaluations - before).max(1);
            }
        }
        if self.base.hinge > 0 {
            self.return_to_best();
        } else {
            self.remember();
        }
    }

    fn repair_step(&mut self, changes: &mut Vec<(VarId, u32)>) {
        let Some(broken) = self.random_broken() else {
            return;
        };
        let Some(var) = self.aim_at_broken(broken) else {
            self.evaluations += 1;
            return;
        };
        let mut best: Option<Totals> = None;
        let mut chosen: Vec<(VarId, u32)> = Vec::new();
        let values = self.values_to_try(var);
        if values.is_empty() {
            self.evaluations += 1;
            return;
        }
        let from = self.value(var);
        // Who belongs together often has to stand together: a leader among its replicas.
        for value in self.block_values(var) {
            if value != from
                && !self.is_tabu(var, value)
                && self.measure(&[(var, value)], &mut best)
            {
                chosen.clear();
                chosen.push((var, value));
            }
        }
        let (all, tries) = (values.len() <= VALUES, values.len().min(VALUES));
        for index in 0..tries {
            if best.as_ref().is_some_and(|best| best.hinge == 0) {
                break;
            }
            let value = if all {
                values[index]
            } else {
                values[self.rng.below(values.len())]
            };
            if value == from || self.is_tabu(var, value) {
                continue;
            }
            if self.measure(&[(var, value)], &mut best) {
                chosen.clear();
                chosen.push((var, value));
            }
            if self.follow(var, value, changes) && self.measure(changes, &mut best) {
                chosen.clone_from(changes);
            }
        }
        if best
            .as_ref()
            .is_none_or(|best| best.hinge >= self.base.hinge)
        {
            self.try_swaps(var, &mut best, &mut chosen);
        }
        if best
            .as_ref()
            .is_none_or(|best| best.hinge >= self.base.hinge)
        {
            self.try_chains(var, &mut best, &mut chosen);
        }
        let Some(best) = best else { return };
        let worse = best.hinge > self.base.hinge;
        // Now and then a step uphill: a plateau's exit may lie behind a ridge.
        if worse && self.rng.below(24) != 0 {
            return;
        }
        for &(moved, _) in &chosen {
            self.forbid_return(moved);
        }
        self.force(&chosen);
    }

    fn try_swaps(&mut self, var: VarId, best: &mut Option<Totals>, chosen: &mut Vec<(VarId, u32)>) {
        for _ in 0..PARTNERS {
            let Some(value) = self.random_candidate(var) else {
                return;
            };
            let Some(partner) = self.random_holder(var, value) else {
                continue;
            };
            if let Some(swap) = self.swap(var, partner)
                && self.measure(&swap, best)
            {
                chosen.clear();
                chosen.extend(swap);
            }
        }
    }

    /// Ejection chains: `var` takes the place of a second, which takes the place of a third, which goes anywhere.
    fn try_chains(
        &mut self,
        var: VarId,
        best: &mut Option<Totals>,
        chosen: &mut Vec<(VarId, u32)>,
    ) {
        for _ in 0..PARTNERS {
            let Some(b) = self.random_candidate(var) else {
                return;
            };
            let Some(second) = self.random_holder(var, b) else {
                continue;
            };
            let Some(c) = self.random_candidate(second) else {
                continue;
            };
            if second == var || c == b {
                continue;
            }
            let mut chain = [(var, b), (second, c), (var, b)];
            let mut length = 2;
            if self.rng.below(2) == 0
                && let Some(third) = self.random_holder(second, c)
                && third != var
                && third != second
            {
                let home = self.value(var);
                let last = if self.candidates.permits(third, home) {
                    home
                } else {
                    self.candidates.of(third)[0]
                };
                chain[2] = (third, last);
                length = 3;
            }
            if self.measure(&chain[..length], best) {
                chosen.clear();
                chosen.extend(&chain[..length]);
            }
        }
    }

    fn is_tabu(&self, var: VarId, value: u32) -> bool {
        let until = self.tabu[self.candidates.position(var)];
        // One stamp per variable, good for the value that it has just left.
        until >> 32 > self.evaluations && until as u32 == value
    }

    fn forbid_return(&mut self, var: VarId) {
        let tenure = 40 + self.rng.below(80) as u64;
        let position = self.candidates.position(var);
        self.tabu[position] = (self.evaluations + tenure) << 32 | u64::from(self.value(var));
    }

    fn best_hinge(&self) -> i64 {
        self.best_totals().hinge
    }

    /// Whether an order means "not worse".
    pub(crate) fn not_worse(order: Ordering) -> bool {
        order != Ordering::Greater
    }
}
