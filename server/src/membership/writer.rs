//! The lane of the membership's writes: in order, each synced before it is confirmed.
//!
//! On a real disk it is a thread, because a sync blocks. In simulation it is a task that sleeps between
//! two operations, so that a crash can fall between any two. After a failure nothing more is written:
//! what the disk holds is unknown, and the node is about to halt.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use synod_membership::durable::Record;
use synod_membership::id::Token;
use synod_storage::disk::Disk;
use tokio::sync::{Notify, mpsc};

use super::files::{Files, Hand, Operation, set_aside};
use crate::identity::IdentityError;

/// How long a simulated disk takes for one operation.
pub type Pause = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who carries out the operations.
pub enum Work {
    /// A thread.
    #[cfg(not(madsim))]
    Thread,
    /// A task, which takes this long for each operation.
    Task(Pause),
}

/// A record on its way to the disk.
struct Write {
    token: Token,
    operations: Vec<Operation>,
}

/// What became of a write.
pub type Outcome = (Token, io::Result<()>);

/// The loop's end of the lane.
pub struct Writer {
    files: Files,
    queue: mpsc::UnboundedSender<Write>,
    done: Arc<Mutex<VecDeque<Outcome>>>,
    outstanding: VecDeque<(Token, u64)>,
}

impl Writer {
    /// Starts the lane; `wake` is notified when a write is over.
    pub fn start(
        files: Files,
        disk: Arc<dyn Disk>,
        work: Work,
        wake: Arc<Notify>,
    ) -> io::Result<Self> {
        let (queue, receiver) = mpsc::unbounded_channel();
        let done = Arc::new(Mutex::new(VecDeque::new()));
        let lane = Lane {
            disk,
            done: done.clone(),
            wake,
        };
        match work {
            #[cfg(not(madsim))]
            Work::Thread => {
                std::thread::Builder::new()
                    .name("membership".to_owned())
                    .spawn(move || lane.run_blocking(receiver))?;
            }
            Work::Task(pause) => {
                tokio::spawn(lane.run(receiver, pause));
            }
        }
        Ok(Self {
            files,
            queue,
            done,
            outstanding: VecDeque::new(),
        })
    }

    /// Hands over a record.
    pub fn submit(
        &mut self,
        now_us: u64,
        token: Token,
        record: Record,
    ) -> Result<(), IdentityError> {
        let operations = self.files.operations(record)?;
        self.outstanding.push_back((token, now_us));
        // The lane ends with the process only, or after a failure, which halts the node.
        let _ = self.queue.send(Write { token, operations });
        Ok(())
    }

    /// What became of writes, in order.
    pub fn finished(&mut self) -> Vec<Outcome> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let done: Vec<Outcome> = done.drain(..).collect();
        for (token, _) in &done {
            self.outstanding.retain(|(waiting, _)| waiting > token);
        }
        done
    }

    /// When the oldest write that is not over was handed over.
    pub fn waiting_since_us(&self) -> Option<u64> {
        self.outstanding.front().map(|(_, since_us)| *since_us)
    }
}

struct Lane {
    disk: Arc<dyn Disk>,
    done: Arc<Mutex<VecDeque<Outcome>>>,
    wake: Arc<Notify>,
}

impl Lane {
    #[cfg(not(madsim))]
    fn run_blocking(self, mut queue: mpsc::UnboundedReceiver<Write>) {
        while let Some(write) = queue.blocking_recv() {
            set_aside(&self.disk);
            let mut hand = Hand::default();
            let mut operations = write.operations.into_iter();
            let outcome = operations.try_for_each(|o| hand.carry_out(&self.disk, o));
            if self.confirm(write.token, outcome) {
                return;
            }
        }
    }

    async fn run(self, mut queue: mpsc::UnboundedReceiver<Write>, pause: Pause) {
        while let Some(write) = queue.recv().await {
            set_aside(&self.disk);
            let mut hand = Hand::default();
            let mut outcome = Ok(());
            for operation in write.operations {
                let pause = pause();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                outcome = hand.carry_out(&self.disk, operation);
                if outcome.is_err() {
                    break;
                }
            }
            if self.confirm(write.token, outcome) {
                return;
            }
        }
    }

    /// Whether the lane ends here.
    fn confirm(&self, token: Token, outcome: io::Result<()>) -> bool {
        let failed = outcome.is_err();
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push_back((token, outcome));
        drop(done);
        self.wake.notify_one();
        failed
    }
}
