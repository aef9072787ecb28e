//! The store's I/O lanes, whichever way they are driven.

use std::io;
use std::sync::Arc;

use synod_storage::Job;
#[cfg(not(madsim))]
use synod_storage::driver::Driver;
use tokio::sync::Notify;

use super::DiskWork;
use super::jobs::Tasks;

/// Takes jobs, gives them back when they are over.
pub(super) enum Lanes {
    /// A thread a lane.
    #[cfg(not(madsim))]
    Threads(Driver),
    /// A task a lane.
    Tasks(Tasks),
}

impl Lanes {
    pub(super) fn start(work: &DiskWork, wake: &Arc<Notify>) -> io::Result<Self> {
        match work {
            #[cfg(not(madsim))]
            DiskWork::Threads => {
                let wake = wake.clone();
                let driver = Driver::start(move || wake.notify_one())?;
                Ok(Self::Threads(driver))
            }
            DiskWork::Tasks(step_time) => Ok(Self::Tasks(Tasks::start(step_time, wake))),
        }
    }

    pub(super) fn submit(&self, jobs: &mut Vec<Job>) {
        match self {
            #[cfg(not(madsim))]
            Self::Threads(driver) => driver.submit(jobs),
            Self::Tasks(tasks) => tasks.submit(jobs),
        }
    }

    pub(super) fn finished(&self, into: &mut Vec<Job>) {
        match self {
            #[cfg(not(madsim))]
            Self::Threads(driver) => driver.finished(into),
            Self::Tasks(tasks) => tasks.finished(into),
        }
    }
}
