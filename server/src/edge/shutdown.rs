//! The word to stop: said once, heard by every task that waits for it, however late it listens.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// A flag that can be awaited. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    said: AtomicBool,
    notify: Notify,
}

impl Shutdown {
    /// Says it.
    pub fn start(&self) {
        self.0.said.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// Whether it was said.
    pub fn is_started(&self) -> bool {
        self.0.said.load(Ordering::Acquire)
    }

    /// Resolves when it was said.
    pub async fn wait(&self) {
        // Made before the flag is looked at: what is said in between reaches it.
        let notified = self.0.notify.notified();
        if !self.is_started() {
            notified.await;
        }
    }
}
