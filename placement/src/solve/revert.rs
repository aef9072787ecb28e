//! Fewest changes: take back every change that nothing depends on.
//!
//! The search wanders over equal assignments, so an answer holds changes that helped nothing, or no longer do. Each is
//! undone where that breaks no row and worsens no tier: singly, then with the rest of its block, then along a cycle of
//! decisions that took each other's places.

use std::cmp::Ordering;

use super::search::{FOLLOWERS_MAX, Search, compare_declared};
use super::ties::commonest;
use crate::graph::VarId;
use crate::graph::internal::{Totals, UNSET};

/// A cycle of exchanged places is looked for up to this length.
const CYCLE_MAX: usize = 4;
/// Tries that any revert may make.
const TRIES_MIN: u64 = 4_000;
/// Rounds over all changes; each round only repeats while the last one undid something.
const ROUNDS_MAX: usize = 4;

impl Search<'_> {
    /// Undoes what can be undone towards the present values. They may be unset: such decisions stay.
    pub(crate) fn revert(&mut self) {
        let mut budget = None;
        for _ in 0..ROUNDS_MAX {
            let mut changed: Vec<VarId> = self
                .candidates
                .choices
                .iter()
                .copied()
                .filter(|&var| self.value(var) != self.home(var))
                .filter(|&var| self.candidates.permits(var, self.home(var)))
                .collect();
            let before = changed.len();
            // A large rebalance has few changes that can go: it gets one look at each, and some to spare.
            let limit = *budget
                .get_or_insert(self.evaluations + TRIES_MIN.max(before as u64 + before as u64 / 4));
            changed.retain(|&var| !self.undo_one(var));
            changed.retain(|&var| {
                self.value(var) != self.home(var)
                    && !(self.evaluations < limit && self.undo_block(var))
            });
            changed.retain(|&var| {
                self.value(var) != self.home(var)
                    && !(self.evaluations < limit && self.undo_cycle(var))
            });
            let done = changed.is_empty() || changed.len() == before;
            if done || self.aborted || self.evaluations >= limit {
                break;
            }
        }
        self.remember();
    }

    /// The present value of a decision. Of a group it is the one that most members have, and where it stands now, if
    /// that is home to as many.
    pub(super) fn home(&self, var: VarId) -> u32 {
        let current = &self.graph.vars.current;
        let members = self.candidates.ties.members(var);
        if members.is_empty() {
            return current[var.index()];
        }
        let here = self.value(var);
        let at = |value: u32| {
            let there = |member: &&VarId| current[member.index()] == value;
            members.iter().filter(there).count()
        };
        let homes = members.iter().map(|member| current[member.index()]);
        match commonest(homes, self.candidates.of(var)) {
            Some(home) if at(home) > at(here) => home,
            Some(_) | None => here,
        }
    }

    /// Takes a change that worsens no tier and breaks nothing.
    fn harmless(&mut self, changes: &[(VarId, u32)]) -> bool {
        self.evaluations += 1;
        let mark = self.state.mark();
        let whole = self.whole(changes);
        for &(var, value) in whole.iter() {
            self.state.assign(self.graph, var, value);
        }
        self.state.propagate(self.graph);
        let after = &self.state.totals;
        let ok =
            no_worse(after, &self.base) || compare_declared(after, &self.base) == Ordering::Less;
        self.state.undo(mark);
        if ok {
            self.put(&whole);
        }
        ok
    }

    fn undo_one(&mut self, var: VarId) -> bool {
        let home = self.home(var);
        home != UNSET && (self.harmless(&[(var, home)]) || self.undo_with_followers(var, home))
    }

    /// `var` goes home, and what of its block stands with it comes along: a leader with the replica that it went to.
    fn undo_with_followers(&mut self, var: VarId, home: u32) -> bool {
        let graph = self.graph;
        let members = &graph.blocks[graph.vars.block[var.index()] as usize];
        let mut changes = Vec::new();
        members.len() <= FOLLOWERS_MAX
            && self.gather(var, home, members.iter().copied(), &mut changes)
            && self.harmless(&changes)
    }

    fn undo_block(&mut self, var: VarId) -> bool {
        let graph = self.graph;
        let block = graph.vars.block[var.index()] as usize;
        let mut changes = Vec::new();
        for &other in &graph.blocks[block] {
            let home = self.home(other);
            if self.candidates.is_free(other)
                && self.value(other) != home
                && self.candidates.permits(other, home)
            {
                changes.push((other, home));
            }
        }
        changes.len() > 1 && changes.len() < 64 && self.harmless(&changes)
    }

    /// `var` goes home; whoever came to stand there in exchange goes home as well, and so on.
    fn undo_cycle(&mut self, var: VarId) -> bool {
        let graph = self.graph;
        let mut changes = vec![(var, self.home(var))];
        while changes.len() < CYCLE_MAX {
            let (last, home) = changes[changes.len() - 1];
            if home == UNSET {
                return false;
            }
            let domain = graph.vars.domain[last.index()].index();
            let next = self
                .holders
                .of(domain, home)
                .iter()
                .copied()
                .find(|&other| {
                    let back = self.home(other);
                    back != home
                        && self.candidates.permits(other, back)
                        && changes.iter().all(|&(var, _)| var != other)
                });
            let Some(next) = next else { return false };
            changes.push((next, self.home(next)));
            if self.harmless(&changes) {
                return true;
            }
        }
        false
    }
}

/// No row missed by more, no tier larger.
fn no_worse(after: &Totals, before: &Totals) -> bool {
    after.hinge <= before.hinge
        && after
            .tiers
            .iter()
            .zip(&before.tiers)
            .all(|(after, before)| after <= before)
}
