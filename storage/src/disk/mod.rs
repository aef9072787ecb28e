//! The disk, as little of it as will do.
//!
//! Everything that must survive goes through these two traits: positional reads and writes, explicit
//! syncs of files and of directories, nothing that a disk does behind one's back. [`RealDisk`] is a
//! directory of a file system. [`SimDisk`] keeps what was written apart from what was made durable,
//! sector by sector, so that a test can cut the power between any two operations.
//!
//! Paths are relative, with `/` between their parts. There is one level of directories.

mod real;
mod sim;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::{Fault, SimDisk, Survival};

/// Whether a file has to be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// It is made, or emptied if it exists.
    Create,
}

/// A directory that is this node's own.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` where an existing file is missing.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Takes the name away; the file lives on for those who have it open.
    ///
    /// # Errors
    /// Those of the operating system.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Gives a file another name at once; a file of that name goes. Durable after `sync_dir`.
    ///
    /// # Errors
    /// Those of the operating system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` if there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a directory, unless it is there; durable when this returns.
    ///
    /// # Errors
    /// Those of the operating system.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory durable. `""` is the root.
    ///
    /// # Errors
    /// Those of the operating system. Fatal: what is durable is unknown.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Free space, in bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes. Durable after `sync_data`.
    ///
    /// # Errors
    /// Those of the operating system; what of it was written is then unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents and the length durable (not the name: see [`Disk::sync_dir`]).
    ///
    /// # Errors
    /// Those of the operating system. Never to be tried again: after a failed sync the kernel takes
    /// the lost pages for clean, and a second one succeeds without having written them.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or lengthens it by zeros.
    ///
    /// # Errors
    /// Those of the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
/// Those of the disk; `UnexpectedEof` if the file is shorter.
pub fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let read = file.read_at(buffer, offset)?;
    if read == buffer.len() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{read} of {} bytes at {offset}", buffer.len()),
    ))
}
