//! The solver's thread: the node's loop asks, goes on, and looks for the answer at its next tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use synod_placement::solve::Config;

use super::solver::{Answer, Question, Solver};

/// No question has this number.
const NONE: u64 = u64::MAX;

/// A thread that answers one question after the other. It ends when this is dropped.
#[derive(Debug)]
pub struct SolverThread {
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    unwanted: Arc<AtomicU64>,
}

impl SolverThread {
    /// Starts the thread.
    pub fn start() -> std::io::Result<SolverThread> {
        let (questions, asked) = channel::<Question>();
        let (given, answers) = channel();
        let unwanted = Arc::new(AtomicU64::new(NONE));
        let abort = unwanted.clone();
        thread::Builder::new()
            .name("synod-solver".to_owned())
            .spawn(move || {
                let mut solver = Solver::new(Config::default());
                for question in asked {
                    let id = question.id;
                    let answer =
                        solver.answer(question, &mut || abort.load(Ordering::Relaxed) == id);
                    if given.send(answer).is_err() {
                        return;
                    }
                }
            })?;
        Ok(SolverThread {
            questions,
            answers,
            unwanted,
        })
    }

    /// Asks. Whether the thread is there to hear it.
    pub fn ask(&self, question: Question) -> bool {
        self.questions.send(question).is_ok()
    }

    /// The answer to this question is not wanted any more.
    pub fn abort(&self, question: u64) {
        self.unwanted.store(question, Ordering::Relaxed);
    }

    /// An answer, if one has come; an error, if none will ever come.
    pub fn answer(&self) -> Result<Option<Answer>, String> {
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err("the solver's thread has ended".to_owned()),
        }
    }
}
