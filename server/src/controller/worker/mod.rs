//! Who thinks: the node's loop asks, goes on, and looks for the answer at its next tick.
//!
//! In production that is a thread of its own. A simulated world has one thread, and everything in it must follow from
//! its seed: there the question is answered when somebody looks for the answer, which takes no time of the world's, and
//! as much work as its budget says.

#[cfg(madsim)]
mod inline;
#[cfg(not(madsim))]
mod threaded;

use synod_placement::solve::Config;

#[cfg(madsim)]
pub use self::inline::Worker;
#[cfg(not(madsim))]
pub use self::threaded::Worker;

use super::solver::{Answer, Question, Solver};

/// Answers the controller's questions.
pub type SolverWorker = Worker<Question, Answer>;

/// How much is searched. A world of a few nodes is decided on many times in a second of the machine's.
pub fn budget() -> Config {
    let simulated = Config {
        evaluations_max: 20_000,
        conflicts_max: 200,
        ..Config::default()
    };
    match cfg!(madsim) {
        true => simulated,
        false => Config::default(),
    }
}

/// Starts the solver.
pub fn solver() -> std::io::Result<SolverWorker> {
    Worker::start("synod-solver", || {
        let mut solver = Solver::new(budget());
        move |question: Question, abort: &mut dyn FnMut() -> bool| solver.answer(question, abort)
    })
}
