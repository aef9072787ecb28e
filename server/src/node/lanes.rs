//! The store's I/O lanes, whichever way they are driven.

use std::sync::Arc;

use synod_storage::Job;
use tokio::sync::Notify;

use super::DiskWork;
use super::jobs::Tasks;

/// Takes jobs, gives them back when they are over.
pub(super) enum Lanes {
    /// A thread a lane.
    #[cfg(any())]
    Threads(synod_storage::driver::Driver),
    /// A task a lane.
    Tasks(Tasks),
}

impl Lanes {
    pub(super) fn start(work: &DiskWork, wake: &Arc<Notify>) -> Self {
        match work {
            DiskWork::Threads => {
                let step_time: super::StepTime = Arc::new(|_| std::time::Duration::ZERO);
                Self::Tasks(Tasks::start(&step_time, wake))
            }
            #[cfg(any())]
            DiskWork::Threads => {
                let wake = wake.clone();
                Self::Threads(synod_storage::driver::Driver::start(move || wake.notify_one()))
            }
            DiskWork::Tasks(step_time) => Self::Tasks(Tasks::start(step_time, wake)),
        }
    }

    pub(super) fn submit(&mut self, job: Job) {
        match self {
            #[cfg(any())]
            Self::Threads(driver) => driver.submit(job),
            Self::Tasks(tasks) => tasks.submit(job),
        }
    }

    pub(super) fn take_done(&mut self, into: &mut Vec<Job>) {
        match self {
            #[cfg(any())]
            Self::Threads(driver) => driver.take_done(into),
            Self::Tasks(tasks) => tasks.take_done(into),
        }
    }
}
