//! One run of the search: construct, repair, improve tier by tier, revert; in stages, until a stage finds nothing.

use std::cmp::Ordering;

use super::Rng;
use super::aim::Targets;
use super::construct::Choice;
use super::search::{Goal, Search, compare_declared, worthwhile};

impl Search<'_> {
    /// Runs to the end of the budget, or until a whole stage finds nothing better.
    pub(crate) fn run(&mut self, seed: u64) {
        let targets = self.targets(self.base.tiers.len());
        let first_guided = self.aim_at_first_maximum();
        self.was_decided = self.candidates.vars.iter().all(|&var| {
            self.candidates.permits(var, self.value(var))
                && self.value(var) == self.graph.vars.current[var.index()]
        });
        self.construct(Choice::Sampled, first_guided.map(|tier| &targets[tier]));
        self.raise_bounds();
        let origin = self.was_decided.then(|| self.base.clone());
        let mut stage = 0;
        loop {
            let start = self.base.clone();
            self.begin_stage();
            self.rng = Rng::new(seed);
            self.set_goal(0, false);
            if self.base.hinge > 0 {
                self.repair();
                // What drifted along plateaus goes home before others take its place.
                self.revert();
            }
            if self.base.hinge == 0 {
                self.improve_tiers(&targets);
            }
            if stage == 0 || self.has_history() {
                self.revert();
            }
            stage += 1;
            let better = compare_declared(&self.base, &start) == Ordering::Less;
            if !better {
                self.abandon_stage();
            }
            if !better || self.exhausted() || stage >= STAGES_MAX {
                break;
            }
        }
        // What stands now stays, unless something is gained that is worth moving for.
        if let Some(origin) = origin
            && !worthwhile(&self.base, &origin, self.limits.gap_ppm)
        {
            let vars = self.candidates.vars.iter();
            let home: Vec<_> = vars
                .map(|&var| (var, self.graph.vars.current[var.index()]))
                .collect();
            self.put(&home);
        }
    }

    /// Evenness breaks ties after the first tier that is a maximum, if there is one.
    pub(crate) fn aim_at_first_maximum(&mut self) -> Option<usize> {
        let targets = self.targets(self.base.tiers.len());
        let first_guided = targets.iter().position(|targets| targets.guided);
        self.set_goal(first_guided.unwrap_or(0), first_guided.is_some());
        first_guided
    }

    fn improve_tiers(&mut self, targets: &[Targets]) {
        for (tier, targets) in targets.iter().enumerate() {
            if self.is_settled(tier) {
                continue;
            }
            self.set_goal(tier, targets.guided);
            self.improve(targets);
            if self.aborted {
                break;
            }
        }
        self.goal = Goal {
            tier: targets.len().saturating_sub(1),
            guided: false,
        };
    }

    fn set_goal(&mut self, tier: usize, guided: bool) {
        self.goal = Goal { tier, guided };
        self.remember();
    }
}

/// A run that still improves after this many stages has a budget problem, not a fixpoint problem.
const STAGES_MAX: u32 = 16;
