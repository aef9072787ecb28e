//! A disk of its own size for one node's directory: a file system in memory, in a mount namespace that only
//! the test's own processes enter. It needs no rights where users may have namespaces; elsewhere there is
//! none, and a test that needs it says that it was skipped.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What takes the space away.
const FILLER: &str = "filler";
/// The last bytes are taken in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;

/// Mounts it, says so, and lives on as long as the test keeps its input open.
const HOLDER: &str = "mount -t tmpfs -o size=$1 tmpfs \"$0\" && echo mounted && exec cat";

/// The file system. It goes with its last process.
pub struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// One of so many bytes at a directory, which is made; or why there is none.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", HOLDER])
            .arg(at)
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut said = String::new();
        if let Some(stdout) = &mut holder.stdout {
            let _ = BufReader::new(stdout).read_line(&mut said);
        }
        let this = Self {
            holder,
            at: at.to_owned(),
        };
        match said.trim() {
            "mounted" => Ok(this),
            _ => Err(this.why_not()),
        }
    }

    fn why_not(mut self) -> String {
        let mut why = String::new();
        if let Some(stderr) = &mut self.holder.stderr {
            let _ = stderr.read_to_string(&mut why);
        }
        why.trim().to_owned()
    }

    /// The same command, run where the disk is seen.
    pub fn enter(&self, command: &Command) -> Command {
        let mut entering = Command::new("nsenter");
        entering
            .args(["--target", &self.holder.id().to_string()])
            .args(["--user", "--mount", "--preserve-credentials"])
            .arg(command.get_program())
            .args(command.get_args());
        entering
    }

    /// The directory, as seen from outside.
    pub fn root(&self) -> PathBuf {
        let inside = self.at.strip_prefix("/").unwrap_or(&self.at);
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> u64 {
        let stat = statvfs(self.root()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes space until so many bytes are left; with 0, the very last of them.
    pub fn fill(&self, left_bytes: u64) {
        let path = self.root().join(FILLER);
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.expect("a filler");
        let taken = file.metadata().expect("its size").len();
        let take = self.free_bytes().saturating_sub(left_bytes + PIECE_BYTES);
        if take > 0 {
            // It fails as a whole if others were quicker; then the pieces do it.
            let _ = fallocate(&file, FallocateFlags::empty(), taken, take);
        }
        let piece = vec![1; PIECE_BYTES as usize];
        while self.free_bytes() > left_bytes && file.write_all(&piece).is_ok() {}
    }

    /// Gives the space back.
    pub fn empty(&self) {
        File::options()
            .write(true)
            .open(self.root().join(FILLER))
            .and_then(|file| file.set_len(0))
            .expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
