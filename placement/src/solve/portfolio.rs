//! The search on as many threads as asked for: different seeds from the same assignment, the best answer wins.
//!
//! The calling thread searches in place, so one thread is a portfolio of one and costs no copy. The winner is chosen
//! by what was declared and, among equals, by the order of the seeds, not by who was first: the same inputs give the
//! same answer on any machine.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use super::Config;
use super::candidates::Candidates;
use super::search::{Limits, Search, compare_declared};
use crate::graph::internal::{Graph, State};

/// Between the seeds of two threads.
const SEED_STRIDE: u64 = 0x9e37_79b9;
/// Tries without improvement that end a stage: a base, and some for each decision.
const PATIENCE: u64 = 1_000;
const PATIENCE_PER_CHOICE: u64 = 12;
const PATIENCE_MAX: u64 = 50_000;

/// What is searched.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub graph: &'a Graph,
    pub candidates: &'a Candidates,
    /// The soft roots that the scope can change.
    pub soft: &'a [u32],
    pub config: &'a Config,
}

/// What the searches leave besides the best assignment.
pub(super) struct Searched {
    /// Of all threads.
    pub evaluations: u64,
    /// The best bound of each tier that any of them came by.
    pub bounds: Vec<i128>,
    /// Whether looking again, at the answer, may give better ones.
    pub bounds_may_rise: bool,
}

impl Task<'_> {
    /// Searches from the assignment of `state`, and leaves the best one found there.
    pub(super) fn search(self, state: &mut State, abort: &mut dyn FnMut() -> bool) -> Searched {
        let stop = AtomicBool::new(false);
        let start: Vec<State> = (1..self.config.threads).map(|_| state.clone()).collect();
        let (mut searched, others) = std::thread::scope(|scope| {
            let stop = &stop;
            let others: Vec<_> = (1..)
                .zip(start)
                .map(|(index, mut state): (u64, State)| {
                    scope.spawn(move || {
                        let mut abort = || stop.load(Atomic::Relaxed);
                        let searched = self.run(index, &mut state, &mut abort);
                        (state, searched)
                    })
                })
                .collect();
            let mut abort = || {
                let now = abort();
                stop.fetch_or(now, Atomic::Relaxed);
                now
            };
            let searched = self.run(0, state, &mut abort);
            // A search that panicked has no answer; the others do.
            let others: Vec<_> = others
                .into_iter()
                .filter_map(|other| other.join().ok())
                .collect();
            (searched, others)
        });
        for (found, other) in others {
            searched.evaluations += other.evaluations;
            for (best, bound) in searched.bounds.iter_mut().zip(other.bounds) {
                *best = (*best).max(bound);
            }
            if compare_declared(&found.totals, &state.totals) == Ordering::Less {
                *state = found;
            }
        }
        searched
    }

    fn run(self, index: u64, state: &mut State, abort: &mut dyn FnMut() -> bool) -> Searched {
        let seed = (self.config.seed).wrapping_add(index.wrapping_mul(SEED_STRIDE));
        let choices = self.candidates.choices.len() as u64;
        let limits = Limits {
            evaluations_max: self.config.evaluations_max,
            patience: (PATIENCE + PATIENCE_PER_CHOICE * choices).min(PATIENCE_MAX),
            gap_ppm: self.config.gap_ppm,
            abort,
        };
        let mut search = Search::new(self.graph, state, self.candidates, self.soft, seed, limits);
        search.run(seed);
        Searched {
            evaluations: search.evaluations,
            bounds: search.bounds,
            bounds_may_rise: search.bounds_may_rise,
        }
    }
}
