//! A worker on the thread of who looks for its answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;

/// What takes a question, and something to ask whether its answer is still wanted.
type Thinker<Q, A> = Box<dyn FnMut(Q, &mut dyn FnMut() -> bool) -> A>;

/// What answers one question after the other, on the thread of who looks for the answers.
pub struct Worker<Q, A> {
    thinker: RefCell<Thinker<Q, A>>,
    questions: RefCell<VecDeque<(u64, Q)>>,
    unwanted: RefCell<Option<u64>>,
    name: &'static str,
}

impl<Q, A> fmt::Debug for Worker<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} wait", self.name, self.questions.borrow().len())
    }
}

impl<Q, A> Worker<Q, A> {
    /// Makes what answers.
    pub fn start<F>(
        name: &'static str,
        begin: impl FnOnce() -> F + 'static,
    ) -> std::io::Result<Worker<Q, A>>
    where
        F: FnMut(Q, &mut dyn FnMut() -> bool) -> A + 'static,
    {
        Ok(Worker {
            thinker: RefCell::new(Box::new(begin())),
            questions: RefCell::default(),
            unwanted: RefCell::new(None),
            name,
        })
    }

    /// Asks. Always heard.
    pub fn ask(&self, id: u64, question: Q) -> bool {
        self.questions.borrow_mut().push_back((id, question));
        true
    }

    /// The answer to this question is not wanted any more.
    pub fn abort(&self, id: u64) {
        self.unwanted.replace(Some(id));
    }

    /// The answer to the oldest question.
    pub fn answer(&self) -> Result<Option<A>, String> {
        let Some((id, question)) = self.questions.borrow_mut().pop_front() else {
            return Ok(None);
        };
        let mut thinker = self.thinker.borrow_mut();
        let mut aborted = || *self.unwanted.borrow() == Some(id);
        Ok(Some(thinker(question, &mut aborted)))
    }
}
