//! A worker on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

/// No question has this number.
const NONE: u64 = u64::MAX;

/// A thread that answers one question after the other. It ends when this is dropped.
#[derive(Debug)]
pub struct Worker<Q, A> {
    questions: Sender<(u64, Q)>,
    answers: Receiver<A>,
    unwanted: Arc<AtomicU64>,
    name: &'static str,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// Starts the thread. `begin` makes what answers, on the thread itself; that is given each question, and something
    /// to ask now and then whether its answer is still wanted.
    pub fn start<F>(
        name: &'static str,
        begin: impl FnOnce() -> F + Send + 'static,
    ) -> std::io::Result<Worker<Q, A>>
    where
        F: FnMut(Q, &mut dyn FnMut() -> bool) -> A,
    {
        let (questions, asked) = channel::<(u64, Q)>();
        let (given, answers) = channel();
        let unwanted = Arc::new(AtomicU64::new(NONE));
        let abort = unwanted.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut answer = begin();
                for (id, question) in asked {
                    let answer = answer(question, &mut || abort.load(Ordering::Relaxed) == id);
                    if given.send(answer).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Worker {
            questions,
            answers,
            unwanted,
            name,
        })
    }

    /// Asks. Whether the thread is there to hear it.
    pub fn ask(&self, id: u64, question: Q) -> bool {
        self.questions.send((id, question)).is_ok()
    }

    /// The answer to this question is not wanted any more.
    pub fn abort(&self, id: u64) {
        self.unwanted.store(id, Ordering::Relaxed);
    }

    /// An answer, if one has come; an error, if none will ever come.
    pub fn answer(&self) -> Result<Option<A>, String> {
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(format!("the thread {} has ended", self.name)),
        }
    }
}
