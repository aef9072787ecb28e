//! The history of a world, filled by its clients.

use std::sync::{Mutex, PoisonError};

use crate::history::Operation;
use crate::trace::Trace;

/// Takes down operations, with the world's time.
pub struct Recorder {
    operations: Mutex<Vec<Operation>>,
    now_us: Box<dyn Fn() -> u64 + Send + Sync>,
    trace: Trace,
}

impl Recorder {
    /// An empty history in a world with this clock; operations go into the world's trace, too.
    pub fn new(now_us: impl Fn() -> u64 + Send + Sync + 'static, trace: Trace) -> Self {
        Self {
            operations: Mutex::new(Vec::new()),
            now_us: Box::new(now_us),
            trace,
        }
    }

    /// The world's time, in microseconds since its beginning.
    pub fn now_us(&self) -> u64 {
        (self.now_us)()
    }

    /// Takes an operation down.
    pub fn record(&self, operation: Operation) {
        self.trace.add(&operation);
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(operation);
    }

    /// All that was taken down so far.
    pub fn history(&self) -> Vec<Operation> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
