//! Making a failing plan smaller: fewer strikes, clients and nodes, less time, as long as it fails in
//! the same way.
//!
//! A strike that is taken out changes all that comes after it, so a bug that needs luck may not show
//! in the smaller run although it is there. Each candidate is tried once; what does not fail stays.

use crate::plan::Plan;
use crate::report::{Failure, RunReport};
use crate::run::run;

/// The smallest failing plan that was found within a number of runs, and its report.
pub fn shrink(
    plan: &Plan,
    report: RunReport,
    runs_max: usize,
    mut progress: impl FnMut(&Plan),
) -> (Plan, RunReport) {
    let Some(failure) = report.failure.clone() else {
        return (plan.clone(), report);
    };
    let mut search = Search {
        best: (plan.clone(), report),
        failure,
        runs: runs_max,
    };
    // Halves of the strikes, then quarters, and so on; then single ones.
    let mut chunk = plan.strikes.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < search.best.0.strikes.len() {
            let mut smaller = search.best.0.clone();
            let to = (at + chunk).min(smaller.strikes.len());
            smaller.strikes.drain(at..to);
            if search.try_plan(smaller) {
                progress(&search.best.0);
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    while search.best.0.clients.len() > 1 {
        let mut smaller = search.best.0.clone();
        smaller.clients.pop();
        if !search.try_plan(smaller) {
            break;
        }
        progress(&search.best.0);
    }
    if search.best.0.nodes > 3 {
        let mut smaller = search.best.0.clone();
        smaller.nodes = 3;
        search.try_plan(smaller);
    }
    while search.best.0.safety_ms > 2_000 {
        let mut smaller = search.best.0.clone();
        smaller.safety_ms = smaller.safety_ms * 2 / 3;
        let safety_ms = smaller.safety_ms;
        smaller.strikes.retain(|strike| strike.at_ms < safety_ms);
        if !search.try_plan(smaller) {
            break;
        }
        progress(&search.best.0);
    }
    search.best
}

struct Search {
    best: (Plan, RunReport),
    failure: Failure,
    runs: usize,
}

impl Search {
    /// Takes a plan if it fails in the same way.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.runs == 0 {
            return false;
        }
        self.runs -= 1;
        let report = run(&plan);
        let fails = report
            .failure
            .as_ref()
            .is_some_and(|failure| failure.is_like(&self.failure));
        if fails {
            self.best = (plan, report);
        }
        fails
    }
}
