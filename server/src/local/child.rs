//! One node's process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::layout::NodeLayout;

/// A running node. It is killed when this is dropped.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    /// Its process id.
    pub pid: u32,
}

impl Child {
    /// Starts the node.
    pub fn start(node: &NodeLayout, start_flags: &[String]) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| {
            format!("cannot start node {}: {what}: {error}", node.number)
        };
        let program = std::env::current_exe().map_err(|error| failed("its program", error))?;
        let log = open_log(&node.log)
            .map_err(|error| failed(&format!("log {}", node.log.display()), error))?;
        let mut command = Command::new(program);
        command
            .arg("start")
            .arg("--die-with-parent")
            .arg("--data")
            .arg(&node.data)
            .args(["--client", &node.client.to_string()])
            .args(["--peer", &node.peer.to_string()])
            .args(
                node.join
                    .iter()
                    .flat_map(|peer| ["--join".to_owned(), peer.to_string()]),
            )
            .args(start_flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the supervisor, which stops the nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        let process = command
            .spawn()
            .map_err(|error| failed("its process", error))?;
        let pid = process
            .id()
            .ok_or_else(|| failed("its process", io::ErrorKind::NotFound.into()))?;
        Ok(Child { process, pid })
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        match self.process.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(describe(status)),
            Err(error) => Some(format!("was lost: {error}")),
        }
    }

    /// Asks the node to stop.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself: that shows when it is waited for.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for the end of a node that was asked to stop; how it ended, unless cleanly.
    pub async fn wait(&mut self) -> Option<String> {
        match self.process.wait().await {
            Ok(status) if status.success() => None,
            Ok(status) => Some(describe(status)),
            Err(error) => Some(format!("was lost: {error}")),
        }
    }

    /// Ends the process at once.
    pub async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.process.kill().await;
    }
}

/// Opens a log to append to it, with a line that divides this start from the earlier ones.
fn open_log(path: &Path) -> io::Result<File> {
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    if log.metadata()?.len() > 0 {
        writeln!(log, "{DIVIDER}")?;
    }
    Ok(log)
}

const DIVIDER: &str = "---- started again ----";

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(9)) => "was killed (signal 9)".to_owned(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of this start's log, to be shown below the word that the node died.
pub fn last_log_lines(path: &Path) -> String {
    const TAIL_BYTES: u64 = 4096;
    const LINES_MAX: usize = 5;
    let tail = || {
        let mut log = File::open(path)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        log.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&tail).into_owned())
    };
    let tail = match tail() {
        Ok(tail) => tail,
        Err(error) => return format!("; its log {} cannot be read: {error}", path.display()),
    };
    let of_this_start = tail.rsplit(DIVIDER).next().unwrap_or_default();
    let lines: Vec<&str> = of_this_start
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return format!("; its log {} says nothing", path.display());
    }
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    format!(
        "; the end of {}:\n    {}",
        path.display(),
        last.join("\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_of_this_start() {
        let path = std::env::temp_dir().join(format!("synod-log-{}.log", std::process::id()));
        let text = format!("old 1\nold 2\n{DIVIDER}\nnew 1\nnew 2\n");
        std::fs::write(&path, text).expect("the temporary directory is writable");
        let shown = last_log_lines(&path);
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(
            shown,
            format!("; the end of {}:\n    new 1\n    new 2", path.display())
        );
        assert!(last_log_lines(&path).contains("cannot be read"));
    }
}
