//! Processes that a run starts, and that end with it: also when it is ended by a signal.
//!
//! A signal to the whole process group, as Ctrl-C sends it, would end them all; one to the run alone
//! would leave its databases behind, busy and with their ports taken. So the run takes such signals
//! itself: it kills what it started, removes its directory, and goes.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// What runs now.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    pid: Pid,
}

impl Started {
    /// Starts a process.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Held until it is listed, so that a signal in between finds it.
        let mut running = running();
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        running.push(pid);
        Ok(Self { child, pid })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, and waits for its end.
    pub fn end(mut self, signal: Signal) -> io::Result<ExitStatus> {
        kill_process(self.pid, signal)?;
        self.child.wait()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Off the list before it is waited for: afterwards the number may be somebody else's.
        running().retain(|pid| *pid != self.pid);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From now on, a signal that asks this process to end also ends what it started, and removes `dir`.
pub fn end_with_signals(dir: PathBuf) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let code = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                    _ = hangup.recv() => 129,
                }
            });
            // Held to the end: nothing more is started.
            let running = running();
            for pid in running.iter() {
                let _ = kill_process(*pid, Signal::KILL);
            }
            eprintln!("ended by a signal: {} processes were killed", running.len());
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(code);
        })?;
    Ok(())
}
