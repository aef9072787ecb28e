//! Drivers of the store's disk work: what steps the jobs that the store hands out.
//!
//! On a real disk each lane has a thread, because a step blocks ([`synod_storage::driver`]). In
//! simulation a lane is a task that sleeps between two steps, so that a crash can fall between any
//! two disk operations and everything else overtakes a slow disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use synod_storage::{Job, JobStep, Lane};
use tokio::sync::{Notify, mpsc};

/// How long a simulated disk takes for one step of a job.
pub type StepTime = Arc<dyn Fn(Lane) -> Duration + Send + Sync>;

const LANES: [Lane; 3] = [Lane::Log, Lane::Background, Lane::Read];

/// The lanes, as tasks.
pub(super) struct Tasks {
    lanes: [mpsc::UnboundedSender<Job>; 3],
    done: Arc<Mutex<Vec<Job>>>,
}

impl Tasks {
    /// Starts a task a lane; `wake` is notified when a job is over.
    pub(super) fn start(step_time: &StepTime, wake: &Arc<Notify>) -> Self {
        let done = Arc::new(Mutex::new(Vec::new()));
        let lanes = LANES.map(|lane| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(run(
                lane,
                receiver,
                step_time.clone(),
                done.clone(),
                wake.clone(),
            ));
            sender
        });
        Self { lanes, done }
    }

    pub(super) fn submit(&self, jobs: &mut Vec<Job>) {
        for job in jobs.drain(..) {
            let lane = match job.lane() {
                Lane::Log => 0,
                Lane::Background => 1,
                Lane::Read => 2,
            };
            // The receiver ends with the process only.
            let _ = self.lanes[lane].send(job);
        }
    }

    pub(super) fn finished(&self, into: &mut Vec<Job>) {
        into.append(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn run(
    lane: Lane,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    step_time: StepTime,
    done: Arc<Mutex<Vec<Job>>>,
    wake: Arc<Notify>,
) {
    while let Some(mut job) = jobs.recv().await {
        loop {
            let pause = step_time(lane);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match job.step() {
                JobStep::Again => {}
                JobStep::Done => break,
            }
        }
        done.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(job);
        wake.notify_one();
    }
}
