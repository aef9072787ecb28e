//! The real driver of jobs: a thread per lane.
//!
//! The loop hands jobs over and gets them back when a wake-up tells it to look; the threads share
//! nothing with it but two queues. The background thread is niced and makes a pause after each step,
//! unless memory waits for it, so that a checkpoint is never felt by a request. In simulation a task
//! per job takes the place of this module.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Job, JobStep, Lane};

/// How much nicer than the loop the background is.
const BACKGROUND_NICE: i32 = 5;
/// The share of its time that the background rests when nobody waits for it, as a divisor.
const REST_DIVISOR: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(5);

/// Threads that run jobs. Dropped, it lets them finish what they have, and waits for them.
#[derive(Debug)]
pub struct Driver {
    lanes: Option<[Sender<Job>; 3]>,
    finished: Receiver<Job>,
    threads: Vec<JoinHandle<()>>,
}

fn lane_at(lane: Lane) -> usize {
    match lane {
        Lane::Log => 0,
        Lane::Background => 1,
        Lane::Read => 2,
    }
}

impl Driver {
    /// Starts the threads. `wake` is called from them whenever a job is finished: it must make the loop
    /// call [`Driver::finished`] soon, and must not block.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn start(wake: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let (done, finished) = channel();
        let mut threads = Vec::new();
        let mut lane = |name: &str, lane: Lane| -> io::Result<Sender<Job>> {
            let (jobs, queue) = channel();
            let (done, wake) = (done.clone(), Arc::clone(&wake));
            let thread = std::thread::Builder::new().name(format!("storage-{name}"));
            threads.push(thread.spawn(move || run(lane, &queue, &done, &*wake))?);
            Ok(jobs)
        };
        let lanes = [
            lane("log", Lane::Log)?,
            lane("background", Lane::Background)?,
            lane("read", Lane::Read)?,
        ];
        Ok(Self {
            lanes: Some(lanes),
            finished,
            threads,
        })
    }

    /// Hands jobs to their threads.
    pub fn submit(&self, jobs: &mut Vec<Job>) {
        for job in jobs.drain(..) {
            if let Some(lanes) = &self.lanes {
                // A thread ends only when its queue is closed.
                let _ = lanes[lane_at(job.lane())].send(job);
            }
        }
    }

    /// Moves finished jobs out, to be given back to the store.
    pub fn finished(&self, jobs: &mut Vec<Job>) {
        loop {
            match self.finished.try_recv() {
                Ok(job) => jobs.push(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Waits for a job to be finished: for tools that have no loop. `None` after `timeout`.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<Job> {
        self.finished.recv_timeout(timeout).ok()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.lanes = None;
        for thread in self.threads.drain(..) {
            // A panic in there has ended the process.
            let _ = thread.join();
        }
    }
}

/// A lane that died would leave the node deaf to its disk, for ever: the process goes with it, and the
/// next start finds out what is true.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn run(lane: Lane, queue: &Receiver<Job>, done: &Sender<Job>, wake: &dyn Fn()) {
    let _alarm = Alarm;
    if lane == Lane::Background {
        // On Linux this is the calling thread's own. Not being nicer is no reason not to work.
        let _ = rustix::process::nice(BACKGROUND_NICE);
    }
    while let Ok(mut job) = queue.recv() {
        loop {
            let begun = (lane == Lane::Background).then(Instant::now);
            if job.step() == JobStep::Done {
                break;
            }
            if let Some(begun) = begun.filter(|_| !job.is_urgent()) {
                std::thread::sleep((begun.elapsed() / REST_DIVISOR).min(REST_MAX));
            }
        }
        if done.send(job).is_err() {
            return;
        }
        wake();
    }
}
