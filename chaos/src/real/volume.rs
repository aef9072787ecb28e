//! Disks that can be full: each node's data on a small file system in memory.
//!
//! A file beside the data takes the room away and gives it back. What a file system in memory does not
//! have is a disk that takes time: what waits for a sync is seen on real disks only.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What a volume holds: above what a node keeps free for itself, and its log.
const SIZE_MIB: u64 = 768;
/// The file that takes the room away.
const FILLER: &str = "filler";

/// A mounted volume. It goes with the run.
pub(super) struct Volume(PathBuf);

impl Volume {
    /// Mounts one at a folder; an error where that is not permitted.
    pub(super) fn mount(folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE_MIB}m"), "synod"])
            .arg(folder)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Self(folder.to_owned())),
            false => Err(said.trim().to_owned()),
        }
    }

    /// Leaves no more room than this.
    pub(super) fn fill(&self, spare_bytes: u64) -> io::Result<()> {
        let free = statvfs(&self.0)?;
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(spare_bytes);
        if bytes > 0 {
            let file = File::create(self.0.join(FILLER))?;
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn free(&self) -> io::Result<()> {
        match std::fs::remove_file(self.0.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
