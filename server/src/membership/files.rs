//! The membership's files in a data directory.
//!
//! ```text
//! identity                 node and boot, replaced whole (see crate::identity)
//! membership/acceptor-a/-b the acceptor's state, in two copies
//! membership/views         the view log: a base and the certified views since
//! ```
//!
//! The formats are the core's ([`synod_membership::durable`]); what is here says in which order bytes,
//! syncs and names reach the disk. The acceptor's copies are overwritten in place, the second after the
//! first is synced: a crash spoils at most one. A view is appended and synced. A new base, after old
//! views were dropped, goes to a file beside the log, which then takes its name.
//!
//! What recovery finds is synced before anybody relies on it: after the death of a process the page
//! cache shows writes that no power cut would have left.

use std::io;
use std::sync::Arc;

use synod_membership::durable::log::{self, LogError};
use synod_membership::durable::slots::{self, SlotError};
use synod_membership::durable::{AcceptorState, Record, Recovered};
use synod_membership::id::Boot;
use synod_storage::disk::{Disk, DiskFile, OpenMode, read_exact_at};

use crate::identity::{IDENTITY, Identity, IdentityError, encode_identity};

/// The directory of the membership's files.
pub const DIR: &str = "membership";
const SLOTS: [&str; 2] = ["membership/acceptor-a", "membership/acceptor-b"];
const VIEWS: &str = "membership/views";
const VIEWS_NEW: &str = "membership/views.new";
/// Files longer than this are not ours.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why the membership's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The disk failed.
    #[error("{file}: {error}")]
    Io {
        /// Which file.
        file: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// What the node promised its peers is lost.
    #[error(
        "both copies of {DIR}/acceptor are unusable ({0}), and with them what this node has \
         promised to its peers: move the directory away and start anew to join as a new node"
    )]
    Acceptor(SlotError),
    /// The view log is damaged, or gone.
    #[error(
        "{VIEWS} is unusable ({0}): move the directory away and start anew to join as a new node"
    )]
    Views(String),
    /// The identity cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// One operation on the disk. A crash may fall between any two.
#[derive(Debug)]
pub enum Operation {
    /// Opens a file; the next writes and syncs are its.
    Open(&'static str, OpenMode),
    /// Writes bytes at an offset.
    Write(u64, Vec<u8>),
    /// Makes the contents durable.
    Sync,
    /// Gives a file another's name.
    Rename(&'static str, &'static str),
    /// Makes a directory's names durable.
    SyncDir(&'static str),
}

/// What the files hold, and where writing goes on.
///
/// Invariant: `content` is what the files hold once all operations handed out so far are carried out.
#[derive(Debug)]
pub struct Files {
    content: Recovered,
    generation: u64,
    log_bytes: u64,
    /// The boot that the identity file is known to hold.
    boot: Boot,
}

impl Files {
    /// Reads what is there, repairs what a crash left, and syncs it. The registration is not part of it:
    /// the identity file is raised before this.
    pub fn open(disk: &Arc<dyn Disk>, identity: Identity) -> Result<(Self, Recovered), FilesError> {
        let io = |error| FilesError::Io { file: DIR, error };
        disk.create_dir(DIR).map_err(io)?;
        let mut copies = Vec::new();
        for file in SLOTS {
            copies.push(read_or_create(disk, file)?);
        }
        let slots = slots::recover::<AcceptorState>(&copies[0], &copies[1])
            .map_err(FilesError::Acceptor)?;
        let bytes = read_or_create(disk, VIEWS)?;
        let found =
            log::recover(&bytes).map_err(|error: LogError| FilesError::Views(error.to_string()))?;
        disk.sync_dir(DIR).map_err(io)?;
        let content = Recovered {
            registration: None,
            acceptor: slots.value.map(Arc::new),
            base: found.base,
            views: found.views,
        };
        let mut this = Self {
            content,
            generation: slots.generation,
            log_bytes: found.valid_bytes as u64,
            boot: identity.boot,
        };
        if found.valid_bytes < bytes.len() {
            let file = open(disk, VIEWS)?;
            let io = |error| FilesError::Io { file: VIEWS, error };
            file.set_len(this.log_bytes).map_err(io)?;
            file.sync_data().map_err(io)?;
        }
        if slots.needs_repair
            && let Some(state) = this.content.acceptor.clone()
        {
            this.write_now(disk, Record::Acceptor(state))?;
        }
        let recovered = this.content.clone();
        Ok((this, recovered))
    }

    /// Writes a founder's first configuration, durable when this returns.
    pub fn found(&mut self, disk: &Arc<dyn Disk>, first: &Recovered) -> Result<(), FilesError> {
        for record in first.records() {
            match record {
                Record::Base(_) => self.write_now(disk, record)?,
                // The identity file holds the registration already, and nobody has promised anything.
                Record::Registration(_) | Record::Acceptor(_) | Record::View(_) => {}
            }
        }
        self.content.base.clone_from(&first.base);
        Ok(())
    }

    fn write_now(&mut self, disk: &Arc<dyn Disk>, record: Record) -> Result<(), FilesError> {
        let mut hand = Hand::default();
        for operation in self.operations(record)? {
            hand.carry_out(disk, operation)
                .map_err(|error| FilesError::Io { file: DIR, error })?;
        }
        Ok(())
    }

    /// What makes a record durable, in order.
    pub fn operations(&mut self, record: Record) -> Result<Vec<Operation>, IdentityError> {
        self.content.apply(&record);
        Ok(match record {
            Record::Registration(registration) if registration.boot == self.boot => Vec::new(),
            Record::Registration(registration) => {
                self.boot = registration.boot;
                let identity = Identity {
                    node: registration.node,
                    boot: registration.boot,
                };
                vec![
                    Operation::Open("identity.new", OpenMode::Create),
                    Operation::Write(0, encode_identity(identity)?),
                    Operation::Sync,
                    Operation::Rename("identity.new", IDENTITY),
                    Operation::SyncDir(""),
                ]
            }
            Record::Acceptor(state) => {
                self.generation += 1;
                let bytes = slots::encode(self.generation, state.as_ref());
                let copy = |file| {
                    let bytes = bytes.clone();
                    [
                        Operation::Open(file, OpenMode::Existing),
                        Operation::Write(0, bytes),
                        Operation::Sync,
                    ]
                };
                SLOTS.into_iter().flat_map(copy).collect()
            }
            Record::View(view) => {
                let bytes = log::encode_view(&view);
                let at = self.log_bytes;
                self.log_bytes += bytes.len() as u64;
                vec![
                    Operation::Open(VIEWS, OpenMode::Existing),
                    Operation::Write(at, bytes),
                    Operation::Sync,
                ]
            }
            Record::Base(base) => {
                let mut bytes = log::encode_base(&base);
                for view in &self.content.views {
                    bytes.extend(log::encode_view(view));
                }
                self.log_bytes = bytes.len() as u64;
                vec![
                    Operation::Open(VIEWS_NEW, OpenMode::Create),
                    Operation::Write(0, bytes),
                    Operation::Sync,
                    Operation::Rename(VIEWS_NEW, VIEWS),
                    Operation::SyncDir(DIR),
                ]
            }
        })
    }
}

/// Carries out operations, one at a time.
#[derive(Debug, Default)]
pub struct Hand {
    file: Option<Arc<dyn DiskFile>>,
}

impl Hand {
    /// One operation. After an error, what the disk holds is unknown.
    pub fn carry_out(&mut self, disk: &Arc<dyn Disk>, operation: Operation) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no file is open");
        match operation {
            Operation::Open(file, mode) => {
                self.file = Some(disk.open(file, mode)?);
                Ok(())
            }
            Operation::Write(at, bytes) => {
                self.file.as_ref().ok_or_else(none)?.write_at(&bytes, at)
            }
            Operation::Sync => self.file.as_ref().ok_or_else(none)?.sync_data(),
            Operation::Rename(from, to) => disk.rename(from, to),
            Operation::SyncDir(dir) => disk.sync_dir(dir),
        }
    }
}

fn open(disk: &Arc<dyn Disk>, file: &'static str) -> Result<Arc<dyn DiskFile>, FilesError> {
    let io = |error| FilesError::Io { file, error };
    match disk.open(file, OpenMode::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.open(file, OpenMode::Create).map_err(io)
        }
        other => other.map_err(io),
    }
}

/// A file's bytes, synced; made empty if it is not there.
fn read_or_create(disk: &Arc<dyn Disk>, file: &'static str) -> Result<Vec<u8>, FilesError> {
    let io = |error| FilesError::Io { file, error };
    let handle = open(disk, file)?;
    let length = handle.len().map_err(io)?;
    if length > FILE_BYTES_MAX {
        return Err(FilesError::Views(format!(
            "{file} has an impossible length of {length} bytes"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exact_at(handle.as_ref(), &mut bytes, 0).map_err(io)?;
    handle.sync_data().map_err(io)?;
    Ok(bytes)
}
