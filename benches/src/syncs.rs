//! Syncs counted from outside: what `strace` sees of the processes under load.
//!
//! A store says itself how often it synced; this is the proof. Tracing slows what it traces, so it
//! has a short run of its own, which no other figure is taken from.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::etcd::Failure;

const PATIENCE: Duration = Duration::from_secs(10);

/// The calls of `fsync` and `fdatasync` of these processes while `load` runs.
///
/// Needs `strace` on the PATH, and permission to trace.
pub fn count<T>(
    pids: &[u32],
    dir: &Path,
    load: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, u64), Failure> {
    let summary = dir.join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-c", "-e", "trace=fsync,fdatasync", "-o"]);
    command.arg(&summary);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let mut strace = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run strace: {error}"))?;
    let until = Instant::now() + PATIENCE;
    while !pids.iter().all(|pid| is_traced(*pid)) {
        if let Some(status) = strace.try_wait()? {
            return Err(format!("strace ended with {status}: may this user trace?").into());
        }
        if Instant::now() > until {
            strace.kill()?;
            strace.wait()?;
            return Err("strace did not attach".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = load();
    // On SIGINT it detaches and writes its summary.
    if kill_process(Pid::from_child(&strace), Signal::INT).is_err() {
        strace.kill()?;
    }
    strace.wait()?;
    Ok((outcome?, calls(&fs::read_to_string(&summary)?)))
}

fn is_traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines();
    lines.any(|line| {
        line.strip_prefix("TracerPid:")
            .is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// The calls in a summary: the fourth column of the lines that end with a call's name.
fn calls(summary: &str) -> u64 {
    let counted = summary.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let sync = matches!(columns.last(), Some(&("fsync" | "fdatasync")));
        let calls = columns.get(3).filter(|_| sync)?;
        calls.parse::<u64>().ok()
    });
    counted.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            99.10    1.203000         120     10025           fdatasync\n  \
            0.90    0.010900         908        12         1 fsync\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    1.213900         120     10037         1 total\n";
        assert_eq!(calls(summary), 10_037);
    }
}
